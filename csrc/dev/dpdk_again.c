/* Frames that are sent again while the driver has them (PB_DESC_AGAIN): behind another header by an mbuf of its own,
 * attached to the frame's, which counts the references. The frame's own mbuf is part of a chain, or of none, as it was
 * sent first, and must not be written to before it is back. */
#include "dev/dpdk_impl.h"

#define AGAIN_MOST 4095

/* In DPDK's memory, since the frames have no room for a second mbuf. NULL: then segments are copied. */
struct rte_mempool *pb_dpdk_again_pool(const struct pb_pool *pool, unsigned number)
{
	char name[RTE_MEMPOOL_NAMESIZE];
	unsigned n = pool->nframes / 4 < AGAIN_MOST ? pool->nframes / 4 : AGAIN_MOST;
	snprintf(name, sizeof(name), "pb_again_%u", number);
	return rte_pktmbuf_pool_create(name, n < 64 ? 64 : n, 0, 0, 0, SOCKET_ID_ANY);
}

bool pb_dpdk_again_room(const struct pb_dpdk_queue *x)
{
	/* `sent` and `done` have room for each frame once more than this. */
	return x->sent_n + x->ndone + PB_BURST_MAX <= x->dev.pool->nframes || !(x->sent_n + x->ndone);
}

struct rte_mbuf *pb_dpdk_again_mbuf(struct pb_dpdk_queue *x, const struct pb_desc *d)
{
	const struct pb_pool *pool = x->dev.pool;
	uint64_t frame = pb_pool_frame(pool, d->addr);
	struct rte_mbuf *m = rte_pktmbuf_alloc(x->dp->again);
	if (!m)
		return NULL;
	uint8_t *lent = &x->dp->lent[pb_pool_index(pool, frame)];
	*lent = (uint8_t)(*lent >= PB_DPDK_TX ? *lent + 1 : PB_DPDK_TX);
	rte_pktmbuf_attach(m, pb_dpdk_mbuf(pool, frame));
	/* Of the first transmission it copied what that asked for and where it began. */
	m->ol_flags = RTE_MBUF_F_INDIRECT;
	m->data_off = (uint16_t)(d->addr - frame + d->off);
	m->data_len = d->len;
	return m;
}

void pb_dpdk_again_undo(struct pb_dpdk_queue *x, struct rte_mbuf *m)
{
	const struct pb_pool *pool = x->dev.pool;
	pb_dpdk_again_back(&x->dp->lent[pb_pool_index(pool, pb_dpdk_frame(pool, rte_mbuf_from_indirect(m)))]);
	rte_pktmbuf_free_seg(m);
}
