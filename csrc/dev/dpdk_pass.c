#include "dev/dpdk_impl.h"

#include <errno.h>

/* Forwarding from one queue to another without descriptors: an mbuf is what it was, and DPDK's before and after, so no
 * owner changes. */

/* Packets that `out` does not send are freed; how many of the n are left, moved together, and their bytes. */
static uint16_t choose(struct pb_dpdk_queue *out, struct rte_mbuf **m, uint16_t n, uint64_t *bytes)
{
	uint16_t keep = 0;
	uint64_t sum = 0;
	for (uint16_t i = 0; i < n; i++) {
		uint32_t len = m[i]->pkt_len;
		if (len > out->tx_max_bytes || m[i]->nb_segs > out->tx_chain) {
			out->dev.stats.drops.n[PB_DROP_TOO_LONG]++;
			rte_pktmbuf_free(m[i]);
			continue;
		}
		/* What was found out on the way in asks for nothing on the way out. */
		m[i]->ol_flags &= RTE_MBUF_F_EXTERNAL | RTE_MBUF_F_INDIRECT;
		m[keep++] = m[i];
		sum += len;
	}
	*bytes = sum;
	return keep;
}

int pb_dpdk_pass(struct pb_dev *dev, struct pb_dev *to, int n, struct pb_passed *p)
{
	struct pb_dpdk_queue *in = pb_dpdk_of(dev), *out = pb_dpdk_of(to);
	struct rte_mbuf *m[PB_BURST_MAX];
	uint64_t bytes, unsent = 0;
	*p = (struct pb_passed){0};
	if (!pb_dpdk_enter(in))
		return atomic_load_explicit(&in->port->gone, memory_order_relaxed) ? -ENODEV : 0;
	if (out != in && !pb_dpdk_enter(out)) {
		pb_dpdk_leave(in);
		return atomic_load_explicit(&out->port->gone, memory_order_relaxed) ? -ENODEV : 0;
	}
	uint16_t got = rte_eth_rx_burst(in->port->id, dev->queue, m, (uint16_t)(n < PB_BURST_MAX ? n : PB_BURST_MAX));
	uint16_t keep = choose(out, m, got, &bytes);
	uint16_t sent = keep ? rte_eth_tx_burst(out->port->id, to->queue, m, keep) : 0;
	for (uint16_t i = sent; i < keep; i++) {
		unsent += m[i]->pkt_len;
		rte_pktmbuf_free(m[i]);
	}
	if (out != in)
		pb_dpdk_leave(out);
	pb_dpdk_leave(in);
	dev->stats.rx_pkts += got;
	dev->stats.rx_bytes += bytes;
	to->stats.tx_pkts += sent;
	to->stats.tx_bytes += bytes - unsent;
	to->stats.drops.n[PB_DROP_TX_FULL] += (uint64_t)(keep - sent);
	out->tx_seq += sent;
	p->received = got;
	p->sent = sent;
	return got;
}
