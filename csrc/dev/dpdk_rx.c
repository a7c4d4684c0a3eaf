#include "dev/dpdk_impl.h"

#include <errno.h>

/* Which fields went into the hash: the driver says by the packet type, where it parses at all. */
static uint8_t hash_type(uint32_t ptype)
{
	uint32_t l4 = ptype & RTE_PTYPE_L4_MASK;
	bool ports = l4 == RTE_PTYPE_L4_TCP || l4 == RTE_PTYPE_L4_UDP || l4 == RTE_PTYPE_L4_SCTP;
	if (RTE_ETH_IS_IPV4_HDR(ptype))
		return ports ? PB_HASH_L4_V4 : PB_HASH_L3_V4;
	if (RTE_ETH_IS_IPV6_HDR(ptype))
		return ports ? PB_HASH_L4_V6 : PB_HASH_L3_V6;
	return PB_HASH_OTHER;
}

/* What the NIC found out, in the first descriptor of a packet. */
static void describe(const struct pb_dpdk_queue *x, const struct rte_mbuf *m, struct pb_desc *d)
{
	uint64_t f = m->ol_flags;
	if ((f & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_GOOD &&
	    (f & RTE_MBUF_F_RX_IP_CKSUM_MASK) != RTE_MBUF_F_RX_IP_CKSUM_BAD)
		d->flags |= PB_DESC_CSUM_GOOD;
	else if ((f & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_NONE)
		d->flags |= PB_DESC_CSUM_GOOD; /* not set in the packet, but its data is intact (rte_mbuf_core.h) */
	if (f & RTE_MBUF_F_RX_RSS_HASH) {
		d->hash = m->hash.rss;
		d->hash_type = hash_type(m->packet_type);
	}
	if (f & RTE_MBUF_F_RX_VLAN_STRIPPED) {
		d->vlan = m->vlan_tci;
		d->flags |= PB_DESC_VLAN;
	}
	if (f & RTE_MBUF_F_RX_FDIR_ID) {
		d->hash = m->hash.fdir.hi;
		d->hash_type = PB_HASH_NONE;
		d->flags |= PB_DESC_MARK;
	}
	if (x->port->ts_flag & f) {
		d->ts_ns = *RTE_MBUF_DYNFIELD(m, (size_t)x->port->ts_field, const uint64_t *) * x->port->ts_scale;
		d->ts_source = PB_TS_HW;
	}
}

/* A packet of another pool, as net_ring passes them: its bytes into frames of ours. Returns how many, 0 when the pool
 * has none or the packet is too long. */
static int copy_in(struct pb_dpdk_queue *x, struct rte_mbuf *m, struct pb_desc *d, int room)
{
	struct pb_dev *dev = &x->dev;
	const uint32_t off = RTE_PKTMBUF_HEADROOM, per = dev->pool->frame_bytes - off, len = rte_pktmbuf_pkt_len(m);
	uint64_t addrs[PB_BURST_MAX];
	uint32_t n = (len + per - 1) / per, done = 0;
	if (!n || n > (uint32_t)room || n > x->chain) {
		dev->stats.drops.n[n ? PB_DROP_TOO_LONG : PB_DROP_RX_BAD]++;
		return 0;
	}
	uint32_t got = pb_pool_get(dev->cache, addrs, n, 0, PB_OWN_RX);
	if (got < n) {
		while (got)
			pb_pool_put(dev->cache, addrs[--got], PB_OWN_RX);
		dev->stats.drops.n[PB_DROP_NO_FRAME]++;
		return 0;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t bytes = len - done < per ? len - done : per;
		d[i] = (struct pb_desc){.addr = addrs[i], .len = (uint16_t)bytes, .off = off, .queue = dev->queue};
		uint8_t *to = pb_pool_data(dev->pool, &d[i]);
		const void *from = rte_pktmbuf_read(m, done, bytes, to);
		if (from != to)
			memcpy(to, from, bytes);
		d[i].flags = i + 1 < n ? PB_DESC_MORE : 0;
		done += bytes;
	}
	describe(x, m, d);
	x->stats.rx_copied++;
	return (int)n;
}

/* The segments of one packet as descriptors. Returns how many. */
static int take(struct pb_dpdk_queue *x, struct rte_mbuf *m, struct pb_desc *d)
{
	const struct pb_pool *p = x->dev.pool;
	uint8_t *lent = x->dp->lent;
	uint64_t frame = pb_dpdk_frame(p, m);
	lent[pb_pool_index(p, frame)] = PB_DPDK_NO;
	*d = (struct pb_desc){
		.addr = frame,
		.len = m->data_len,
		.off = m->data_off,
		.queue = x->dev.queue,
	};
	if (m->ol_flags)
		describe(x, m, d);
	if (m->nb_segs == 1)
		return 1;
	int n = 1;
	/* A frame goes back without its chain. */
	struct rte_mbuf *next = m->next;
	m->next = NULL;
	m->nb_segs = 1;
	while (next) {
		d[n - 1].flags |= PB_DESC_MORE;
		m = next;
		next = m->next;
		m->next = NULL;
		frame = pb_dpdk_frame(p, m);
		lent[pb_pool_index(p, frame)] = PB_DPDK_NO;
		d[n] = (struct pb_desc){.addr = frame, .len = m->data_len, .off = m->data_off, .queue = x->dev.queue};
		n++;
	}
	return n;
}

/* Whether all of a packet lies in frames of ours, and nobody else refers to them: net_ring brings round what engines
 * wait for, and memory of the application. */
static bool is_ours(const struct pb_dpdk_queue *x, const struct rte_mbuf *m)
{
	const struct pb_pool *p = x->dev.pool;
	if (m->pool != x->dp->mp || pb_dpdk_frame(p, m) >= (uint64_t)p->nframes * p->stride || m->nb_segs > x->chain ||
	    !RTE_MBUF_DIRECT(m) || rte_mbuf_refcnt_read(m) != 1)
		return false;
	for (const struct rte_mbuf *s = m->nb_segs > 1 ? m->next : NULL; s; s = s->next)
		if (s->pool != x->dp->mp || !RTE_MBUF_DIRECT(s) || rte_mbuf_refcnt_read(s) != 1)
			return false;
	return true;
}

/* What a driver says of lengths is inside of its buffers. */
static bool is_sane(const struct rte_mbuf *m)
{
	for (const struct rte_mbuf *s = m; s; s = s->next)
		if ((uint32_t)s->data_off + s->data_len > s->buf_len)
			return false;
	return true;
}

static void checked(struct pb_dpdk_queue *x, const struct pb_desc *d, int n)
{
#ifdef PB_DEBUG
	for (int i = 0; i < n; i++)
		pb_pool_check(x->dev.pool, d[i].addr, PB_OWN_FILL, PB_OWN_RX);
#else
	(void)x;
	(void)d;
	(void)n;
#endif
}

int pb_dpdk_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns)
{
	struct pb_dpdk_queue *x = pb_dpdk_of(dev);
	struct rte_mbuf *m[PB_BURST_MAX];
	if (n < (int)x->chain)
		return n > 0 ? -EMSGSIZE : 0;
	uint32_t want = (uint32_t)(n < PB_BURST_MAX ? n : PB_BURST_MAX) / x->chain;
	if (!pb_dpdk_enter(x))
		return atomic_load_explicit(&x->port->gone, memory_order_relaxed) ? -ENODEV : 0;
	int got = rte_eth_rx_burst(x->port->id, dev->queue, m, (uint16_t)want), out = 0, pkts = 0, frames = 0;
	uint64_t bytes = 0;
	for (int i = 0; i < got; i++) {
		int first = out;
		uint32_t len = m[i]->pkt_len;
		if (!is_sane(m[i])) {
			dev->stats.drops.n[PB_DROP_RX_BAD]++;
			rte_pktmbuf_free(m[i]);
			continue;
		}
		if (is_ours(x, m[i])) {
			out += take(x, m[i], &d[out]);
			frames += out - first;
			checked(x, &d[first], out - first);
		} else {
			out += copy_in(x, m[i], &d[out], n - out);
			rte_pktmbuf_free(m[i]);
		}
		if (out == first)
			continue;
		if (!d[first].ts_source) {
			d[first].ts_ns = now_ns;
			d[first].ts_source = PB_TS_USER;
		}
		bytes += len;
		pkts++;
	}
	pb_dpdk_leave(x);
	if (frames)
		pb_pool_count(dev->cache, PB_OWN_FILL, PB_OWN_RX, frames);
	dev->stats.rx_pkts += (uint64_t)pkts;
	dev->stats.rx_bytes += bytes;
	return out;
}
