#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include "base/handles.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct pb_xsk *pb_xsk_create(struct pb_pool *pool, int *err)
{
	*err = -ENOMEM;
	struct pb_xsk *x = aligned_alloc(PB_CACHE_LINE, sizeof(*x));
	if (!x)
		return NULL;
	memset(x, 0, sizeof(*x));
	x->fd = x->ctl_fd = x->probe_fd = -1;
	x->copy = true;
	x->fill_low = UINT32_MAX;
	x->lent = calloc(pool->nframes, sizeof(*x->lent));
	if (!x->lent)
		goto no_lent;
	x->dev.cache = pb_pool_cache_create(pool, err);
	if (!x->dev.cache)
		goto no_cache;
	x->dev.ops = &pb_xsk_ops;
	x->dev.pool = pool;
	pb_pool_ref(pool);
	pb_handle_opened(PB_HANDLE_DEV);
	*err = 0;
	return x;
no_cache:
	free(x->lent);
no_lent:
	free(x);
	return NULL;
}

/* Everything that the kernel had, wherever in its rings it was. */
static void take_back(struct pb_xsk *x)
{
	struct pb_pool *pool = x->dev.pool;
	while (x->nrefused)
		pb_pool_put(x->dev.cache, x->refused[--x->nrefused], PB_OWN_TX);
	for (uint32_t i = 0; i < pool->nframes; i++)
		if (x->lent[i] != PB_LENT_NO)
			pb_pool_put(x->dev.cache, (uint64_t)i * pool->frame_bytes,
				    x->lent[i] == PB_LENT_FILL ? PB_OWN_FILL : PB_OWN_TX);
}

void pb_xsk_destroy(struct pb_xsk *x)
{
	struct pb_pool *pool = x->dev.pool;
	if (x->in_map)
		pb_xsk_prog_map_del(x->prog, x->dev.queue);
	/* The program goes before the socket: it must not redirect to a socket that is on its way out. */
	pb_xsk_prog_unref(x->prog);
	pb_xsk_sock_close(x);
	pb_xsk_sock_wait_idle(x);
	if (x->ctl_fd >= 0)
		close(x->ctl_fd);
	take_back(x);
	pb_pool_cache_destroy(x->dev.cache);
	pb_pool_unref(pool);
	free(x->lent);
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
	*info = (struct pb_xsk_info){
		.fill_target = x->fill_target,
		.fill_posted = x->fill_posted,
		.fill_low = x->fill_low,
		.pool_empty = x->pool_empty,
		.tx_eagain = x->tx_eagain,
		.meta_missing = x->meta_missing,
		.tx_outstanding = x->tx_outstanding,
	};
}
