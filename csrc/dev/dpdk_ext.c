#include "dev/dpdk_impl.h"

#include <errno.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_memory.h>
#include <stdlib.h>

/* Memory of the application in packets that are sent (DPDK Programmer's Guide, "Mbuf Library", external buffers). Each
 * packet has a frame of ours as its mbuf, and one more reference to the region, which DPDK drops when it was sent. */

#define PAGE 4096u
#define OURS 2

struct pb_dpdk_ext {
	struct pb_dpdk_port *port;
	uint8_t *base;
	size_t bytes;
	bool mapped;
	struct rte_mbuf_ext_shared_info info; /* its references: ours, and one for each packet in flight */
	/* Ours are two: DPDK counts without an atomic operation while it sees one. */
};

/* Our reference is the last to go: then there is nothing to do. */
static void let_go(void *addr, void *opaque)
{
	(void)addr;
	(void)opaque;
}

static int make_known(struct pb_dpdk_ext *x, struct pb_dpdk_fail *fail)
{
	const char *device = rte_dev_name(x->port->device);
	unsigned n = (unsigned)(x->bytes / PAGE);
	rte_iova_t *iovas = calloc(n, sizeof(*iovas));
	if (!iovas)
		return pb_dpdk_fail_set(fail, PB_DPDK_STAGE_MEMORY, -ENOMEM, "a table of its pages");
	bool va = rte_eal_iova_mode() == RTE_IOVA_VA;
	for (unsigned i = 0; i < n; i++)
		iovas[i] = va ? (uintptr_t)x->base + (size_t)i * PAGE : rte_mem_virt2iova(x->base + (size_t)i * PAGE);
	int rc = rte_extmem_register(x->base, x->bytes, iovas, n, PAGE) ? -rte_errno : 0;
	free(iovas);
	if (rc)
		return pb_dpdk_fail_set(fail, PB_DPDK_STAGE_MEMORY, rc, "rte_extmem_register");
	pb_dpdk_dma_begin();
	rc = pb_dpdk_dma_done(rte_dev_dma_map(x->port->device, x->base, (uintptr_t)x->base, x->bytes));
	if (rc == -ENOTSUP) /* no IOMMU to tell */
		return 0;
	x->mapped = !rc;
	if (!rc)
		return 0;
	(void)rte_extmem_unregister(x->base, x->bytes);
	return pb_dpdk_fail_set(fail, PB_DPDK_STAGE_DMA, rc, "%zu bytes for %s", x->bytes, device);
}

struct pb_dpdk_ext *pb_dpdk_ext_register(struct pb_dpdk_port *port, void *base, size_t bytes, struct pb_dpdk_fail *fail)
{
	int err = 0;
	memset(fail, 0, sizeof(*fail));
	if (!bytes || bytes % PAGE || (uintptr_t)base % PAGE)
		err = -EINVAL;
	else if (atomic_load(&port->gone))
		err = -ENODEV;
	/* With physical addresses the pages of a piece do not follow each other. net_af_xdp takes each mbuf of its
	 * mempool for one whose data lies behind it. */
	else if (!strcmp(port->info.driver_name, "net_af_xdp") || rte_eal_iova_mode() != RTE_IOVA_VA)
		err = -EOPNOTSUPP;
	struct pb_dpdk_ext *x = err ? NULL : calloc(1, sizeof(*x));
	if (!x) {
		pb_dpdk_fail_set(fail, err ? PB_DPDK_STAGE_CONFIG : PB_DPDK_STAGE_MEMORY, err ? err : -ENOMEM,
				 "%zu bytes", bytes);
		return NULL;
	}
	x->port = port;
	x->base = base;
	x->bytes = bytes;
	x->info.free_cb = let_go;
	rte_mbuf_ext_refcnt_set(&x->info, OURS);
	if (make_known(x, fail)) {
		free(x);
		return NULL;
	}
	pb_dpdk_port_ref(port);
	return x;
}

uint64_t pb_dpdk_ext_in_flight(const struct pb_dpdk_ext *ext)
{
	return (uint64_t)rte_mbuf_ext_refcnt_read(&ext->info) - OURS;
}

int pb_dpdk_ext_unregister(struct pb_dpdk_ext *x)
{
	if (pb_dpdk_ext_in_flight(x))
		return -EBUSY;
	if (x->mapped && !atomic_load(&x->port->gone))
		(void)rte_dev_dma_unmap(x->port->device, x->base, (uintptr_t)x->base, x->bytes);
	(void)rte_extmem_unregister(x->base, x->bytes);
	(void)pb_dpdk_port_unref(x->port);
	free(x);
	return 0;
}

static bool fits(const struct pb_dpdk_queue *q, const struct pb_dpdk_ext *x, const struct pb_desc *head, uint64_t off,
		 uint32_t len)
{
	const struct pb_pool *pool = q->dev.pool;
	uint32_t before = head ? head->len : 0;
	if (!len || len > UINT16_MAX || off > x->bytes || len > x->bytes - off || before + len > q->tx_max_bytes ||
	    before + len < 14)
		return false;
	return !head || (pb_pool_has(pool, head->addr) && head->len && !(head->flags & PB_DESC_MORE) &&
			 head->addr - pb_pool_frame(pool, head->addr) + head->off + head->len <= pool->frame_bytes);
}

static struct rte_mbuf *attach(struct pb_dpdk_queue *q, struct pb_dpdk_ext *x, uint64_t frame, uint64_t off,
			       uint32_t len)
{
	struct rte_mbuf *m = pb_dpdk_mbuf(q->dev.pool, frame);
	uint8_t *at = x->base + off;
	rte_iova_t iova = rte_eal_iova_mode() == RTE_IOVA_VA ? (uintptr_t)at : rte_mem_virt2iova(at);
	m->ol_flags = 0;
	rte_mbuf_ext_refcnt_update(&x->info, 1);
	rte_pktmbuf_attach_extbuf(m, at, iova, (uint16_t)len, &x->info);
	m->data_off = 0;
	m->data_len = (uint16_t)len;
	m->pkt_len = len;
	m->nb_segs = 1;
	return m;
}

static struct rte_mbuf *prepend(struct pb_dpdk_queue *q, const struct pb_desc *head, struct rte_mbuf *m)
{
	uint64_t frame = pb_pool_frame(q->dev.pool, head->addr);
	struct rte_mbuf *h = pb_dpdk_mbuf(q->dev.pool, frame);
	h->data_off = (uint16_t)(head->addr - frame + head->off);
	h->data_len = head->len;
	h->pkt_len = head->len + m->pkt_len;
	h->ol_flags = 0;
	h->nb_segs = 2;
	h->next = m;
	return h;
}

/* The frames that the driver took, or did not. */
static void settle(struct pb_dpdk_queue *q, const struct pb_desc *head, const uint64_t *handles, uint32_t n,
		   uint32_t sent)
{
	struct pb_dev *dev = &q->dev;
	uint32_t each = head ? 2 : 1;
	pb_pool_count(dev->cache, PB_OWN_APP, PB_OWN_TX, (int64_t)sent * each);
	pb_pool_count(dev->cache, PB_OWN_TX, PB_OWN_FILL, (int64_t)sent * each);
	for (uint32_t i = sent; i < n; i++) {
		struct rte_mbuf *m = pb_dpdk_mbuf(dev->pool, handles[i]);
		if (head) {
			uint64_t frame = pb_pool_frame(dev->pool, head[i].addr);
			struct rte_mbuf *h = pb_dpdk_mbuf(dev->pool, frame);
			h->next = NULL;
			h->nb_segs = 1;
			q->dp->lent[pb_pool_index(dev->pool, frame)] = PB_DPDK_NO;
		}
		rte_pktmbuf_detach(m);
		q->dp->lent[pb_pool_index(dev->pool, handles[i])] = PB_DPDK_NO;
		pb_pool_put(dev->cache, handles[i], PB_OWN_APP);
	}
}

static int send_pieces(struct pb_dpdk_queue *q, struct pb_dpdk_ext *x, const struct pb_desc *head,
		       const uint64_t *offsets, const uint32_t *lens, uint32_t n)
{
	struct pb_dev *dev = &q->dev;
	struct rte_mbuf *m[PB_BURST_MAX];
	uint64_t handles[PB_BURST_MAX], bytes = 0;
	n = pb_pool_get(dev->cache, handles, n, 0, PB_OWN_APP);
	if (!n)
		return -ENOBUFS;
	for (uint32_t i = 0; i < n; i++) {
		q->dp->lent[pb_pool_index(dev->pool, handles[i])] = PB_DPDK_FILL;
		m[i] = attach(q, x, handles[i], offsets[i], lens[i]);
		if (head) {
			q->dp->lent[pb_pool_index(dev->pool, head[i].addr)] = PB_DPDK_FILL;
			m[i] = prepend(q, &head[i], m[i]);
		}
#ifdef PB_DEBUG
		pb_pool_revert(dev->pool, handles[i], PB_OWN_FILL);
		if (head)
			pb_pool_revert(dev->pool, head[i].addr, PB_OWN_FILL);
#endif
	}
	uint32_t sent = rte_eth_tx_burst(q->port->id, dev->queue, m, (uint16_t)n);
	for (uint32_t i = 0; i < sent; i++)
		bytes += lens[i] + (head ? head[i].len : 0u);
#ifdef PB_DEBUG
	for (uint32_t i = sent; i < n; i++) {
		pb_pool_revert(dev->pool, handles[i], PB_OWN_APP);
		if (head)
			pb_pool_revert(dev->pool, head[i].addr, PB_OWN_APP);
	}
#endif
	settle(q, head, handles, n, sent);
	dev->stats.tx_pkts += sent;
	dev->stats.tx_bytes += bytes;
	q->tx_seq += sent;
	return (int)sent;
}

int pb_dpdk_ext_tx(struct pb_dev *dev, struct pb_dpdk_ext *x, const struct pb_desc *head, const uint64_t *offsets,
		   const uint32_t *lens, int n)
{
	struct pb_dpdk_queue *q = pb_dpdk_of(dev);
	if (dev->ops->rx != pb_dpdk_rx || n <= 0 || n > PB_BURST_MAX || q->port != x->port)
		return -EINVAL;
	if (head && q->tx_chain < 2)
		return -ENOTSUP;
	for (int i = 0; i < n; i++)
		if (!fits(q, x, head ? &head[i] : NULL, offsets[i], lens[i]))
			return -ERANGE;
	/* 16 bits of references, of which one is ours. */
	if (pb_dpdk_ext_in_flight(x) > UINT16_MAX - OURS - PB_DPDK_QUEUES * PB_BURST_MAX)
		return 0;
	if (!pb_dpdk_enter(q))
		return atomic_load_explicit(&q->port->gone, memory_order_relaxed) ? -ENODEV : 0;
	int sent = send_pieces(q, x, head, offsets, lens, (uint32_t)n);
	pb_dpdk_leave(q);
	return sent;
}
