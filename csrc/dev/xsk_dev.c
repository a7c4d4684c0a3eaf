#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include "base/handles.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct pb_xsk *pb_xsk_create(struct pb_pool *pool, struct pb_xsk_group *group, uint32_t nsockets, int *err)
{
	*err = -ENOMEM;
	struct pb_xsk *x = aligned_alloc(PB_CACHE_LINE, sizeof(*x));
	if (!x)
		return NULL;
	memset(x, 0, sizeof(*x));
	x->fd = x->ctl_fd = -1;
	x->member = PB_XSK_SOCKETS;
	x->copy = true;
	x->dev.cache = pb_pool_cache_create(pool, err);
	if (!x->dev.cache)
		goto no_cache;
	x->group = group ? group : pb_xsk_group_create(pool, nsockets, err);
	if (!x->group)
		goto no_group;
	atomic_fetch_add(&x->group->refs, 1);
	atomic_fetch_add(&x->group->open, 1);
	x->dev.ops = &pb_xsk_ops;
	x->dev.pool = pool;
	pb_pool_ref(pool);
	pb_handle_opened(PB_HANDLE_DEV);
	*err = 0;
	return x;
no_group:
	pb_pool_cache_destroy(x->dev.cache);
no_cache:
	free(x);
	return NULL;
}

static void unmap_rings(struct pb_xsk *x)
{
	for (size_t i = 0; i < PB_ARRAY_LEN(x->maps); i++)
		if (x->maps[i].at)
			munmap(x->maps[i].at, x->maps[i].bytes);
}

void pb_xsk_destroy(struct pb_xsk *x)
{
	struct pb_pool *pool = x->dev.pool;
	struct pb_xsk_group *g = x->group;
	if (atomic_fetch_sub(&g->open, 1) == 1 && x->in_map)
		pb_xsk_rss_off(x->prog, x->dev.queue);
	if (x->in_map)
		pb_xsk_prog_map_del(x->prog, x->dev.queue, x->member);
	if (x->wants_meta)
		(void)pb_xsk_prog_meta(x->prog, -1);
	/* The program goes before the socket: it must not redirect to a socket that is on its way out. */
	pb_xsk_prog_unref(x->prog);
	if (x->umem)
		pb_xsk_umem_leave(x->umem, x->fd);
	pb_xsk_sock_close(x);
	pb_xsk_umem_unref(x->umem);
	pb_xsk_group_leave(g, x);
	unmap_rings(x);
	/* Sockets of one queue may be closed by several threads at once: all are by now when this is the last. */
	bool last = atomic_fetch_sub(&g->refs, 1) == 1;
	if (last) {
		pb_xsk_sock_wait_idle(x);
		pb_xsk_group_take_back(g, x->dev.cache);
	}
	if (x->ctl_fd >= 0)
		close(x->ctl_fd);
	pb_xsk_txmeta_destroy(x);
	if (last)
		pb_xsk_group_free(g);
	pb_pool_cache_destroy(x->dev.cache);
	pb_pool_unref(pool);
	free(x);
	pb_handle_closed(PB_HANDLE_DEV);
}

static void dev_close(struct pb_dev *dev)
{
	pb_xsk_destroy(pb_xsk_of(dev));
}

static int dev_fd(struct pb_dev *dev)
{
	return pb_xsk_of(dev)->fd;
}

static void dev_stats(struct pb_dev *dev)
{
	struct pb_xsk *x = pb_xsk_of(dev);
	dev->link_up = !x->gone && pb_xsk_if_running(x->ctl_fd, x->ifindex);
	struct xdp_statistics st = {0};
	socklen_t len = sizeof(st);
	if (getsockopt(x->fd, SOL_XDP, XDP_STATISTICS, &st, &len))
		return;
	uint64_t *drops = dev->stats.drops.n;
	/* What found the fill ring empty is among rx_dropped. */
	drops[PB_DROP_RX_RING] = st.rx_dropped + st.rx_ring_full;
	drops[PB_DROP_RX_BAD] = x->own_drops.n[PB_DROP_RX_BAD] + st.rx_invalid_descs;
	drops[PB_DROP_TX_BAD] = x->own_drops.n[PB_DROP_TX_BAD] + st.tx_invalid_descs;
	drops[PB_DROP_TX_FULL] = x->own_drops.n[PB_DROP_TX_FULL];
	drops[PB_DROP_TOO_LONG] = x->own_drops.n[PB_DROP_TOO_LONG];
	dev->stats.rx_fill_empty = st.rx_fill_ring_empty_descs;
}

const struct pb_dev_ops pb_xsk_ops = {
	.abi = PB_DEV_ABI,
	.name = "xdp",
	.rx = pb_xsk_rx,
	.tx = pb_xsk_tx,
	.reap = pb_xsk_reap,
	.fd = dev_fd,
	.stats = dev_stats,
	.close = dev_close,
	.stamps = pb_xsk_txmeta_stamps,
};

struct pb_xsk_prog *pb_dev_xsk_prog(struct pb_dev *dev)
{
	struct pb_xsk *x = pb_xsk_of(dev);
	pb_xsk_prog_ref(x->prog);
	return x->prog;
}

void pb_dev_xsk_info(struct pb_dev *dev, struct pb_xsk_info *info)
{
	const struct pb_xsk *x = pb_xsk_of(dev);
	struct pb_xsk_group *g = x->group;
	*info = (struct pb_xsk_info){
		.fill_target = g->fill_target,
		.fill_posted = atomic_load_explicit(&g->posted, memory_order_relaxed),
		.fill_low = atomic_load_explicit(&g->fill_low, memory_order_relaxed),
		.pool_empty = atomic_load_explicit(&g->pool_empty, memory_order_relaxed),
		.tx_eagain = x->tx_eagain,
		.meta_missing = x->meta_missing,
		.stamps_lost = x->dev.stats.tx_stamps_lost,
		.tx_outstanding = x->tx_outstanding,
		.member = x->member,
	};
}
