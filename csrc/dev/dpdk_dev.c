#include "dev/dpdk_impl.h"

#include "base/handles.h"

#include <errno.h>
#include <rte_errno.h>
#include <stdlib.h>

/* Packets that are looked for at close, so that what came in or was sent to itself (net_ring) is given back. */
#define DRAIN_PKTS 8192

static void drain(struct pb_dpdk_queue *x)
{
	struct rte_mbuf *m[PB_BURST_MAX];
	uint32_t seen = 0, got = 1;
	while (got && seen < DRAIN_PKTS && pb_dpdk_enter(x)) {
		got = rte_eth_rx_burst(x->port->id, x->dev.queue, m, PB_BURST_MAX);
		for (uint32_t i = 0; i < got; i++)
			rte_pktmbuf_free(m[i]);
		pb_dpdk_leave(x);
		seen += got;
	}
	if (x->has_cleanup && pb_dpdk_enter(x)) {
		(void)rte_eth_tx_done_cleanup(x->port->id, x->dev.queue, 0);
		pb_dpdk_leave(x);
	}
}

static void dev_close(struct pb_dev *dev)
{
	struct pb_dpdk_queue *x = pb_dpdk_of(dev);
	struct pb_dpdk_port *port = x->port;
	struct pb_dpdk_pool *dp = x->dp;
	struct pb_pool *pool = dev->pool;
	drain(x);
	pb_dpdk_stamp_end(port, x);
	pb_dpdk_pool_ref(dp); /* the port may be the last to have it */
	port->queues[dev->queue] = NULL;
	(void)pb_dpdk_port_unref(port);
	pb_dpdk_abandon(x);
	pb_dpdk_pool_flush(dp);
	pb_pool_cache_destroy(dev->cache);
	free(x->done);
	free(x->sent);
	free(x);
	pb_dpdk_pool_put(dp);
	pb_pool_unref(pool);
	pb_handle_closed(PB_HANDLE_DEV);
}

static void dev_stats(struct pb_dev *dev)
{
	struct pb_dpdk_queue *x = pb_dpdk_of(dev);
	struct rte_eth_stats st;
	struct rte_eth_link link = {0};
	if (atomic_load(&x->port->gone)) {
		dev->link_up = false;
		return;
	}
	if (!rte_eth_link_get_nowait(x->port->id, &link))
		dev->link_up = link.link_status == RTE_ETH_LINK_UP;
	/* The port's, not the queue's: shown by its first queue, so that they add up. */
	if (dev->queue || rte_eth_stats_get(x->port->id, &st))
		return;
	dev->stats.drops.n[PB_DROP_RX_RING] = st.imissed;
	dev->stats.rx_fill_empty = st.rx_nombuf;
}

static const struct pb_dev_ops ops = {
	.abi = PB_DEV_ABI,
	.name = "dpdk",
	.rx = pb_dpdk_rx,
	.tx = pb_dpdk_tx,
	.reap = pb_dpdk_reap,
	.stats = dev_stats,
	.close = dev_close,
	.stamps = pb_dpdk_stamps,
	.pass = pb_dpdk_pass,
};

/* Whether the driver takes a packet that asks for its time. Timesync alone does not say: Intel's read the register that
 * holds the time, but refuse the packets where they were built without RTE_LIBRTE_IEEE1588, as Debian's are. Nothing is
 * sent here. */
static bool takes_stamps(const struct pb_dpdk_queue *x)
{
	uint8_t data[64] = {0};
	struct rte_mbuf m, *at = &m;
	memset(&m, 0, sizeof(m));
	m.buf_addr = data;
	m.buf_len = m.data_len = sizeof(data);
	m.pkt_len = sizeof(data);
	m.nb_segs = 1;
	m.ol_flags = RTE_MBUF_F_TX_IEEE1588_TMST;
	return x->port->timesync && rte_eth_tx_prepare(x->port->id, x->dev.queue, &at, 1) == 1;
}

static void describe(struct pb_dpdk_queue *x)
{
	struct pb_dpdk_port *p = x->port;
	struct pb_dev *dev = &x->dev;
	struct rte_ether_addr mac;
	const uint64_t csum = RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	dev->mtu = p->cfg.mtu;
	if (!rte_eth_macaddr_get(p->id, &mac))
		memcpy(dev->mac, mac.addr_bytes, 6);
	dev->link_up = true;
	dev->chain_max = (uint16_t)p->chain_max;
	x->chain = p->chain_max;
	x->tx_max_bytes = p->cfg.mtu + (uint32_t)PB_DPDK_L2;
	bool chains = (p->tx_offloads & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) != 0;
	uint32_t most = p->info.tx_desc_lim.nb_mtu_seg_max ? p->info.tx_desc_lim.nb_mtu_seg_max : PB_BURST_MAX;
	x->tx_chain = !chains ? 1 : most < PB_BURST_MAX ? most : PB_BURST_MAX;
	if (chains)
		dev->tx_flags |= PB_DESC_MORE;
	if (chains && x->tx_chain > 1 && x->dp->again)
		dev->tx_flags |= PB_DESC_AGAIN;
	if ((p->tx_offloads & csum) == csum)
		dev->tx_flags |= PB_DESC_CSUM_PARTIAL;
	if (takes_stamps(x))
		dev->tx_flags |= PB_DESC_TX_STAMP;
	if (p->launch_flag)
		dev->tx_flags |= PB_DESC_LAUNCH;
	x->has_cleanup = rte_eth_tx_done_cleanup(p->id, dev->queue, 0) >= 0;
}

struct pb_dev *pb_dpdk_queue_open(struct pb_dpdk_port *port, uint16_t q, int *err)
{
	*err = q >= port->cfg.queues ? -EINVAL : port->queues[q] ? -EBUSY : 0;
	if (*err)
		return NULL;
	*err = -ENOMEM;
	struct pb_dpdk_queue *x =
		aligned_alloc(PB_CACHE_LINE, (sizeof(*x) + PB_CACHE_LINE - 1) / PB_CACHE_LINE * PB_CACHE_LINE);
	if (!x)
		return NULL;
	memset(x, 0, sizeof(*x));
	x->port = port;
	x->dp = port->dp;
	struct pb_pool *pool = x->dp->pool;
	x->dev.ops = &ops;
	x->dev.pool = pool;
	x->dev.queue = q;
	x->sent_max = 2 * pool->nframes; /* pb_dpdk_again_room() */
	x->done = calloc(x->sent_max, sizeof(*x->done));
	x->sent = calloc(x->sent_max, sizeof(*x->sent));
	if (x->done && x->sent)
		x->dev.cache = pb_pool_cache_create(pool, err);
	if (!x->dev.cache)
		goto fail;
	describe(x);
	pb_pool_ref(pool);
	pb_dpdk_port_ref(port);
	port->queues[q] = x;
	pb_handle_opened(PB_HANDLE_DEV);
	return &x->dev;
fail:
	pb_pool_cache_destroy(x->dev.cache);
	free(x->done);
	free(x->sent);
	free(x);
	return NULL;
}

void pb_dpdk_queue_info(struct pb_dev *dev, struct pb_dpdk_info *info)
{
	struct pb_dpdk_queue *x = pb_dpdk_of(dev);
	*info = x->stats;
	info->tx_outstanding = x->sent_n;
}
