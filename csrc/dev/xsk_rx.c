#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include <errno.h>

/* How often to ask, while nothing comes, whether the socket still has an interface. By time: a loop that sleeps between
 * its steps receives nothing only a few times a second. */
#define PB_XSK_CHECK_NS 10000000u

/* Frames received after which the fill ring is refilled even though packets keep coming: below the smallest ring. */
#define PB_XSK_REFILL_AT 32u

/* enum xdp_rss_hash_type: which layers went in. "Layer 4" of no known family is as good as unsaid. */
static uint8_t hash_type(unsigned t)
{
	if (t & PB_RSS_L3_IPV4)
		return t & PB_RSS_L4 ? PB_HASH_L4_V4 : PB_HASH_L3_V4;
	if (t & PB_RSS_L3_IPV6)
		return t & PB_RSS_L4 ? PB_HASH_L4_V6 : PB_HASH_L3_V6;
	return PB_HASH_OTHER;
}

static void take_meta(struct pb_xsk *x, struct pb_desc *d, uint8_t *packet)
{
	struct pb_xsk_meta m = {0};
	uint8_t *at = packet - sizeof(m);
	if (d->off >= sizeof(m))
		memcpy(&m, at, sizeof(m));
	if (m.magic != x->magic) {
		x->meta_missing++;
		return;
	}
	/* The next packet in this frame may come without metadata, and must not find this one's. */
	memset(at, 0, sizeof(m.magic));
	if (m.valid & PB_META_HASH) {
		d->hash = m.hash;
		d->hash_type = hash_type(m.hash_type);
	}
	if (m.valid & PB_META_MARK) {
		d->hash = m.hash;
		d->flags |= PB_DESC_MARK;
	}
	if (m.valid & PB_META_TS_HW) {
		d->ts_ns = m.rx_ts;
		d->ts_source = PB_TS_HW;
	} else if (m.valid & PB_META_TS_TAI) {
		d->ts_ns = m.tai_ns;
		d->ts_source = PB_TS_XDP;
	}
	if (m.valid & PB_META_VLAN) {
		d->vlan = m.vlan_tci;
		d->flags |= PB_DESC_VLAN;
	}
}

/* Takes descriptor k off the ring. False when it names no frame that the kernel had for this. */
static bool take(struct pb_xsk *x, struct pb_desc *d, const struct xdp_desc *k)
{
	const struct pb_pool *pool = x->dev.pool;
	uint64_t addr = xsk_umem__add_offset_to_addr(k->addr);
	uint64_t frame = pb_pool_frame(pool, addr);
	if (!pb_pool_has(pool, addr))
		return false;
	struct pb_xsk_loan *lent = &x->group->lent[pb_pool_index(pool, addr)];
	PB_XSK_GETS_BACK(lent);
	if (lent->what != PB_LENT_FILL)
		return false;
	lent->what = PB_LENT_NO;
#ifdef PB_DEBUG
	pb_pool_check(x->dev.pool, frame, PB_OWN_FILL, PB_OWN_RX);
#endif
	*d = (struct pb_desc){
		.addr = frame,
		.len = (uint16_t)k->len,
		.off = (uint16_t)(addr - frame),
		.flags = k->options & XDP_PKT_CONTD ? PB_DESC_MORE : 0,
		.queue = x->dev.queue,
	};
	return true;
}

/* Wakes the driver; with busy polling that runs its poll function, here and now. Only the errors that say that the
 * device is down or gone matter. */
static int rx_wake(struct pb_xsk *x)
{
	x->dev.stats.rx_wakeups++;
	if (recvfrom(x->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 && (errno == ENETDOWN || errno == ENXIO)) {
		x->dev.link_up = false;
		if (errno == ENETDOWN)
			return -ENETDOWN;
		x->gone = -ENODEV; /* no longer bound: the interface was removed */
		return x->gone;
	}
	return 0;
}

/* Nothing came: is there still somebody to come from? Also the place where a driver that sleeps is woken. */
static int idle(struct pb_xsk *x, uint64_t now_ns)
{
	struct pb_dev *dev = &x->dev;
	if (x->gone)
		return x->gone;
	int rc = xsk_ring_prod__needs_wakeup(&x->group->fill) && !x->busy_poll ? rx_wake(x) : 0;
	if (rc)
		return rc;
	if (now_ns < x->check_ns)
		return 0;
	x->check_ns = now_ns + PB_XSK_CHECK_NS;
	/* The kernel leaves ENETDOWN here when the interface is removed, and poll() reports it until it is read. */
	int err = 0;
	socklen_t len = sizeof(err);
	if (!getsockopt(x->fd, SOL_SOCKET, SO_ERROR, &err, &len) && err) {
		dev->link_up = false;
		x->gone = err == ENETDOWN ? -ENODEV : -err; /* down is another thing: it may come up again */
	}
	return x->gone;
}

/* Up to n entries of the RX ring. libxdp's peek looks at the producer only when it knows of none, and would never see
 * the end of a packet whose beginning it has seen. */
static uint32_t peek(struct pb_xsk *x, uint32_t n, uint32_t *at)
{
	struct xsk_ring_cons *r = &x->rx;
	uint32_t entries = r->cached_prod - r->cached_cons;
	if (!entries || (x->sg && entries < n)) {
		r->cached_prod = __atomic_load_n(r->producer, __ATOMIC_ACQUIRE);
		entries = r->cached_prod - r->cached_cons;
	}
	entries = entries < n ? entries : n;
	*at = r->cached_cons;
	r->cached_cons += entries;
	return entries;
}

/* How many of the entries are whole packets; the others go back on the ring. -EMSGSIZE: n is too small for the next
 * one. A packet without an end within PB_XSK_CHAIN_MAX is none: it counts as whole, and take_all() throws it away. */
static int whole(struct pb_xsk *x, uint32_t at, uint32_t got, uint32_t n)
{
	uint32_t k = got;
	while (k && (xsk_ring_cons__rx_desc(&x->rx, at + k - 1)->options & XDP_PKT_CONTD))
		k--;
	if (!k && got >= PB_XSK_CHAIN_MAX)
		return (int)got;
	x->rx.cached_cons -= got - k;
	return !k && got == n ? -EMSGSIZE : (int)k;
}

/* Of a packet that cannot be delivered. */
static void put_back(struct pb_xsk *x, const struct pb_desc *d, int n)
{
	x->own_drops.n[PB_DROP_RX_BAD]++;
	for (int i = 0; i < n; i++)
		pb_pool_put(x->dev.cache, d[i].addr, PB_OWN_RX);
}

/* A socket that is bound for sending chains gets them too: one that was not asked for them throws them away. */
static bool unwanted(struct pb_xsk *x, struct pb_desc *d, const struct xdp_desc *k, int *taken)
{
	bool more = k->options & XDP_PKT_CONTD;
	if (x->sg || (!more && !x->rx_inside))
		return false;
	x->own_drops.n[PB_DROP_TOO_LONG] += !x->rx_inside;
	x->rx_inside = more;
	if (take(x, d, k)) {
		pb_pool_put(x->dev.cache, d->addr, PB_OWN_RX);
		*taken += 1;
	}
	return true;
}

/* Makes descriptors of the entries; returns how many. A packet with a bad entry is dropped as a whole. */
static int take_all(struct pb_xsk *x, struct pb_desc *d, uint32_t at, uint32_t got)
{
	struct pb_dev *dev = &x->dev;
	int out = 0, start = 0, taken = 0, pkts = 0;
	bool bad = false;
	for (uint32_t i = 0; i < got; i++) {
		const struct xdp_desc *k = xsk_ring_cons__rx_desc(&x->rx, at + i);
		struct pb_desc *to = &d[out];
		if (unwanted(x, to, k, &taken)) {
			start = out;
			continue;
		}
		if (take(x, to, k)) {
			__builtin_prefetch(pb_pool_data(dev->pool, to) - (x->no_meta ? 0 : sizeof(struct pb_xsk_meta)));
			out++;
			taken++;
		} else {
			bad = true;
		}
		if ((k->options & XDP_PKT_CONTD) && i + 1 < got)
			continue;
		if (bad || (k->options & XDP_PKT_CONTD)) {
			put_back(x, d + start, out - start);
			out = start;
			bad = false;
			continue;
		}
		start = out;
		pkts++;
	}
	pb_pool_count(dev->cache, PB_OWN_FILL, PB_OWN_RX, taken);
	atomic_store_explicit(&x->rx_taken, atomic_load_explicit(&x->rx_taken, memory_order_relaxed) + (uint32_t)taken,
			      memory_order_relaxed);
	dev->stats.rx_pkts += (uint64_t)pkts;
	return out;
}

int pb_xsk_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns)
{
	struct pb_xsk *x = pb_xsk_of(dev);
	if (dev->tx_pending)
		(void)pb_xsk_kick(x); /* an error is kept in link_up and returned by tx */
	uint32_t at = 0;
	uint32_t got = n > 0 ? peek(x, (uint32_t)n, &at) : 0;
	if (!got && x->busy_poll && !x->gone) {
		int rc = rx_wake(x);
		if (rc)
			return rc;
		got = n > 0 ? peek(x, (uint32_t)n, &at) : 0;
	}
	if (got && x->sg) {
		int rc = whole(x, at, got, (uint32_t)n);
		if (rc < 0)
			return rc;
		got = (uint32_t)rc;
	}
	if (!got) {
		/* `posted` is as of the last look, when a pool or a ring may have had no more. */
		if (x->unfilled ||
		    atomic_load_explicit(&x->group->posted, memory_order_relaxed) < x->group->fill_target) {
			x->unfilled = 0;
			pb_xsk_group_refill(x);
		}
		return idle(x, now_ns);
	}
	int out = take_all(x, d, at, got);
	xsk_ring_cons__release(&x->rx, got);
	/* New frames are for a moment when nothing came, so that what did come is not kept waiting; but not for long.
	 */
	x->unfilled += got;
	if (x->unfilled >= PB_XSK_REFILL_AT || x->busy_poll) {
		x->unfilled = 0;
		pb_xsk_group_refill(x);
	}
	uint64_t bytes = 0;
	bool first = true; /* the metadata lies before the first frame of a packet */
	for (int i = 0; i < out; i++) {
		if (first && !x->no_meta)
			take_meta(x, &d[i], pb_pool_data(dev->pool, &d[i]));
		first = !(d[i].flags & PB_DESC_MORE);
		bytes += d[i].len;
	}
	dev->stats.rx_bytes += bytes;
	return out;
}
