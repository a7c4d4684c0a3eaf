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
		if (err == ENXIO) { /* no longer bound: the interface was removed */
			x->gone = -ENODEV;
			return x->gone;
		}
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

/* Why the device cannot send a packet of `count` descriptors, or PB_DROP_NONE. The kernel would drop an invalid one
 * without ever completing it. */
static enum pb_drop refuse(const struct pb_xsk *x, const struct pb_desc *d, uint32_t count, uint32_t bytes)
{
	const struct pb_pool *pool = x->dev.pool;
	if (bytes < PB_ETH_MIN_BYTES || count > (x->bound_sg ? PB_XSK_CHAIN_MAX : 1))
		return PB_DROP_TX_BAD;
	for (uint32_t i = 0; i < count; i++)
		if (!d[i].len || d[i].addr - pb_pool_frame(pool, d[i].addr) + d[i].off + d[i].len > pool->frame_bytes)
			return PB_DROP_TX_BAD;
	if ((d->flags & x->dev.tx_flags & PB_XSK_TX_META_FLAGS) && !pb_xsk_txmeta_ok(d, bytes))
		return PB_DROP_TX_BAD;
	/* In copy mode the kernel (6.18) sums when it has the first descriptor, before the others are there. */
	if (count > 1 && x->copy && (d->flags & x->dev.tx_flags & PB_DESC_CSUM_PARTIAL))
		return PB_DROP_TX_BAD;
	return bytes > x->tx_max_bytes ? PB_DROP_TOO_LONG : PB_DROP_NONE;
}

/* The frames of a refused packet come back by reap. */
static void keep_refused(struct pb_xsk *x, const struct pb_desc *d, uint32_t count, enum pb_drop why)
{
	x->own_drops.n[why]++;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t frame = pb_pool_frame(x->dev.pool, d[i].addr);
		pb_xsk_lend(x, frame);
		x->refused[x->nrefused++] = frame;
	}
}

static void put_descs(struct pb_xsk *x, const struct pb_desc *d, uint32_t count, uint32_t at)
{
	struct pb_dev *dev = &x->dev;
	struct pb_xsk_group *g = x->group;
	bool meta = d->flags & dev->tx_flags & PB_XSK_TX_META_FLAGS;
	if (meta)
		pb_xsk_txmeta_put(x, d, d->addr + d->off);
	for (uint32_t i = 0; i < count; i++) {
		struct xdp_desc *k = xsk_ring_prod__tx_desc(&x->tx, at + i);
		uint64_t frame = pb_pool_frame(dev->pool, d[i].addr), data = d[i].addr + d[i].off;
		k->addr = g->unaligned ? frame | (data - frame) << XSK_UNALIGNED_BUF_OFFSET_SHIFT : data;
		k->len = d[i].len;
		k->options = i + 1 < count ? XDP_PKT_CONTD : 0;
		pb_xsk_lend(x, frame);
	}
	if (meta)
		xsk_ring_prod__tx_desc(&x->tx, at)->options |= XDP_TX_METADATA;
	x->tx_seq++;
}

static uint32_t tx_room(struct pb_xsk *x, uint32_t n)
{
	uint32_t room = xsk_prod_nb_free(&x->tx, n), limit = x->tx_limit - x->tx_outstanding;
	return room < limit ? room : limit;
}

/* Puts up to n descriptors on the ring, by whole packets; *good of the ones taken went there, the others are kept for
 * reap. */
static int enqueue(struct pb_xsk *x, const struct pb_desc *d, int n, enum pb_owner from, uint32_t *good)
{
	struct pb_dev *dev = &x->dev;
	uint32_t room = tx_room(x, (uint32_t)n), taken = 0, bytes, pkts = 0, again = 0;
	while (taken < (uint32_t)n) {
		const struct pb_desc *s = &d[taken];
		uint32_t count = pb_pool_packet(dev->pool, s, (uint32_t)n - taken, &bytes);
		if (!count)
			break; /* not a frame of anybody's: stays with the caller */
		enum pb_drop why = refuse(x, s, count, bytes);
		if (why != PB_DROP_NONE ? x->nrefused + count > PB_XSK_REFUSED : *good + count > room)
			break;
		for (uint32_t i = 0; i < count && from == PB_OWN_ENGINE; i++)
			again += !!(s[i].flags & PB_DESC_AGAIN);
#ifdef PB_DEBUG
		for (uint32_t i = 0; i < count; i++) {
			bool ref = from == PB_OWN_ENGINE && s[i].flags & PB_DESC_AGAIN;
			pb_pool_check(dev->pool, s[i].addr, ref ? PB_OWN_TX : from, PB_OWN_TX);
		}
#endif
		taken += count;
		if (why != PB_DROP_NONE) {
			keep_refused(x, s, count, why);
			continue;
		}
		put_descs(x, s, count, x->tx.cached_prod + *good);
		*good += count;
		dev->stats.tx_bytes += bytes;
		pkts++;
	}
	pb_pool_count(dev->cache, from, PB_OWN_TX, taken - again);
	dev->stats.tx_pkts += pkts;
	return (int)taken;
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
	if (!taken && !pb_pool_has(dev->pool, d->addr))
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
	if (!x->tx_outstanding && !x->nrefused)
		return 0;
	while (out < n && x->nrefused) {
		addrs[out] = x->refused[--x->nrefused];
		pb_xsk_unlend(&x->group->lent[pb_pool_index(dev->pool, addrs[out++])]);
	}
	int done = out < n ? pb_xsk_group_completed(x, addrs + out, n - out) : 0;
	for (int i = out; i < out + done; i++) {
		uint64_t frame = pb_pool_frame(dev->pool, addrs[i]);
		if (x->stamp_seq)
			pb_xsk_txmeta_done(x, addrs[i], pb_pool_index(dev->pool, frame));
		addrs[i] = frame;
	}
	out += done;
	x->tx_outstanding -= (uint32_t)done;
	/* After the release: a full completion ring is one reason why the kernel stopped. */
	if (dev->tx_pending)
		(void)pb_xsk_kick(x);
	return out;
}
