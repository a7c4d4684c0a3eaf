#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include <errno.h>

#define PB_ETH_MIN_BYTES 14

/* Wakeups in one call. In copy mode each sends up to a budget (32 frames, more where the kernel allows) and ends with
 * EAGAIN; what is left is for the next call. */
#define PB_XSK_KICKS_MAX 16

static uint32_t unsent(const struct pb_xsk *x)
{
	return x->tx.cached_prod - __atomic_load_n(x->tx.consumer, __ATOMIC_ACQUIRE);
}

/* One wakeup. 0: the driver has it all; -EAGAIN: call again; other -errno: down or gone. */
static int wake(struct pb_xsk *x)
{
	struct pb_dev *dev = &x->dev;
	dev->stats.tx_wakeups++;
	if (sendto(x->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0) {
		if (!dev->link_up)
			dev->link_up = pb_xsk_if_running(x->ctl_fd, x->ifindex);
		return 0;
	}
	int err = errno;
	switch (err) {
	case EBUSY:
		/* Copy mode: the driver dropped one frame (no carrier, or veth's peer is full) and it counts as sent.
		 */
		x->own_drops.n[PB_DROP_TX_FULL] += x->copy;
		return -EAGAIN;
	case EAGAIN:
	case ENOBUFS:
	case EINTR:
		x->tx_eagain++;
		return -EAGAIN;
	default:
		dev->link_up = false;
		if (err == ENXIO) /* no longer bound: the interface was removed */
			x->gone = -err;
		return -err;
	}
}

int pb_xsk_kick(struct pb_xsk *x)
{
	struct pb_dev *dev = &x->dev;
	uint32_t left = unsent(x);
	for (int i = 0; left && i < PB_XSK_KICKS_MAX; i++) {
		int err = x->copy || xsk_ring_prod__needs_wakeup(&x->tx) ? wake(x) : 0;
		if (err && err != -EAGAIN) {
			dev->tx_pending = true;
			return err;
		}
		/* A zero-copy driver goes on by itself; in copy mode all was sent. */
		uint32_t now = err ? unsent(x) : 0;
		if (now == left)
			break; /* no progress: the caller must reap, or the driver finish, first */
		left = now;
	}
	dev->tx_pending = left != 0;
	return 0;
}

static bool in_pool(const struct pb_pool *pool, const struct pb_desc *d)
{
	return pb_pool_index(pool, d->addr) < pool->nframes;
}

/* Why the device cannot send this descriptor, or PB_DROP_NONE. The kernel would drop an invalid one without ever
 * completing it. A packet of several descriptors needs XDP_USE_SG, which is not asked for. */
static enum pb_drop refuse(const struct pb_xsk *x, const struct pb_desc *d)
{
	const struct pb_pool *pool = x->dev.pool;
	uint64_t start = d->addr - pb_pool_frame(pool, d->addr) + d->off;
	if (d->len < PB_ETH_MIN_BYTES || (d->flags & PB_DESC_MORE) || start + d->len > pool->frame_bytes)
		return PB_DROP_TX_BAD;
	return d->len > x->tx_max_bytes ? PB_DROP_TOO_LONG : PB_DROP_NONE;
}

/* Puts up to n descriptors on the ring; *good of the ones taken went there, the others are kept for reap. */
static int enqueue(struct pb_xsk *x, const struct pb_desc *d, int n, enum pb_owner from, uint32_t *good)
{
	struct pb_dev *dev = &x->dev;
	uint32_t room = xsk_prod_nb_free(&x->tx, (uint32_t)n);
	int taken = 0;
	for (; taken < n && *good < room; taken++) {
		const struct pb_desc *s = &d[taken];
		if (!in_pool(dev->pool, s))
			break; /* not a frame of anybody's: stays with the caller */
		enum pb_drop why = refuse(x, s);
		if (why != PB_DROP_NONE && x->nrefused == PB_XSK_REFUSED)
			break;
		uint64_t frame = pb_pool_frame(dev->pool, s->addr);
#ifdef PB_DEBUG
		pb_pool_check(dev->pool, frame, from, PB_OWN_TX);
#endif
		if (why != PB_DROP_NONE) {
			x->own_drops.n[why]++;
			x->refused[x->nrefused++] = frame;
			continue;
		}
		struct xdp_desc *k = xsk_ring_prod__tx_desc(&x->tx, x->tx.cached_prod + (*good)++);
		k->addr = s->addr + s->off;
		k->len = s->len;
		k->options = 0;
		x->lent[pb_pool_index(dev->pool, frame)] = PB_LENT_TX;
		dev->stats.tx_bytes += s->len;
	}
	pb_pool_count(dev->cache, from, PB_OWN_TX, taken);
	dev->stats.tx_pkts += *good;
	return taken;
}

int pb_xsk_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns)
{
	(void)now_ns;
	struct pb_xsk *x = pb_xsk_of(dev);
	int err = x->gone;
	if (!err && dev->tx_pending)
		err = pb_xsk_kick(x);
	if (err || n <= 0)
		return err;
	uint32_t good = 0;
	int taken = enqueue(x, d, n, from, &good);
	if (!taken && !in_pool(dev->pool, d))
		return -EINVAL;
	if (!good)
		return taken;
	/* Reserved is exactly what is submitted: enqueue() stayed within the room there is. */
	x->tx.cached_prod += good;
	xsk_ring_prod__submit(&x->tx, good);
	x->tx_outstanding += good;
	/* They are the device's now, so an error waits for the next call. */
	(void)pb_xsk_kick(x);
	return taken;
}

int pb_xsk_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns)
{
	(void)now_ns;
	struct pb_xsk *x = pb_xsk_of(dev);
	int out = 0;
	while (out < n && x->nrefused)
		addrs[out++] = x->refused[--x->nrefused];
	uint32_t at = 0;
	uint32_t got = out < n ? xsk_ring_cons__peek(&x->comp, (uint32_t)(n - out), &at) : 0;
	uint32_t done = 0;
	for (uint32_t i = 0; i < got; i++) {
		uint64_t addr = xsk_umem__add_offset_to_addr(*xsk_ring_cons__comp_addr(&x->comp, at + i));
		uint32_t f = pb_pool_index(dev->pool, addr);
		if (f >= dev->pool->nframes || x->lent[f] != PB_LENT_TX)
			continue;
		x->lent[f] = PB_LENT_NO;
		addrs[out++] = pb_pool_frame(dev->pool, addr);
		done++;
	}
	if (got)
		xsk_ring_cons__release(&x->comp, got);
	x->tx_outstanding -= done;
	/* After the release: a full completion ring is one reason why the kernel stopped. */
	if (dev->tx_pending)
		(void)pb_xsk_kick(x);
	return out;
}
