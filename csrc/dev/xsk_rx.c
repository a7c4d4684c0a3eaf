#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include <errno.h>

/* How often to ask, while nothing comes, whether the socket still has an interface. By time: a loop that sleeps between
 * its steps receives nothing only a few times a second. */
#define PB_XSK_CHECK_NS 10000000u

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

void pb_xsk_refill(struct pb_xsk *x)
{
	struct pb_pool_cache *cache = x->dev.cache;
	uint64_t addrs[PB_BURST_MAX];
	while (x->fill_posted < x->fill_target) {
		uint32_t want = x->fill_target - x->fill_posted;
		want = want < PB_BURST_MAX ? want : PB_BURST_MAX;
		/* The kernel shows a packet before it shows that it took the frame: there may be less room than was
		 * received. The next call makes up for it. */
		uint32_t room = xsk_prod_nb_free(&x->fill, want);
		if (!room)
			break;
		want = want < room ? want : room;
		uint32_t got = pb_pool_get(cache, addrs, want, 0, PB_OWN_FILL);
		for (uint32_t i = 0; i < got; i++) {
			x->lent[pb_pool_index(x->dev.pool, addrs[i])] = PB_LENT_FILL;
			*xsk_ring_prod__fill_addr(&x->fill, x->fill.cached_prod + i) = addrs[i];
		}
		x->fill.cached_prod += got;
		xsk_ring_prod__submit(&x->fill, got);
		x->fill_posted += got;
		if (got < want) {
			x->pool_empty++;
			break;
		}
	}
	if (x->fill_posted < x->fill_low)
		x->fill_low = x->fill_posted;
}

/* Takes descriptor k off the ring. False when it names no frame that the kernel had for this. */
static bool take(struct pb_xsk *x, struct pb_desc *d, const struct xdp_desc *k)
{
	const struct pb_pool *pool = x->dev.pool;
	uint64_t addr = xsk_umem__add_offset_to_addr(k->addr);
	uint64_t frame = pb_pool_frame(pool, addr);
	uint32_t i = pb_pool_index(pool, addr);
	if (i >= pool->nframes || x->lent[i] != PB_LENT_FILL)
		return false;
	x->lent[i] = PB_LENT_NO;
#ifdef PB_DEBUG
	pb_pool_check(x->dev.pool, frame, PB_OWN_FILL, PB_OWN_RX);
#endif
	*d = (struct pb_desc){
		.addr = frame,
		.len = (uint16_t)k->len,
		.off = (uint16_t)(addr - frame),
		.queue = x->dev.queue,
	};
	return true;
}

/* Nothing came: is there still somebody to come from? Also the place where a driver that sleeps is woken. */
static int idle(struct pb_xsk *x, uint64_t now_ns)
{
	struct pb_dev *dev = &x->dev;
	if (x->gone)
		return x->gone;
	if (xsk_ring_prod__needs_wakeup(&x->fill)) {
		dev->stats.rx_wakeups++;
		/* Only the errors that say that the device is down or gone matter. */
		if (recvfrom(x->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 && (errno == ENETDOWN || errno == ENXIO)) {
			dev->link_up = false;
			return -errno;
		}
	}
	if (now_ns < x->check_ns)
		return 0;
	x->check_ns = now_ns + PB_XSK_CHECK_NS;
	/* The kernel leaves ENETDOWN here when the interface is removed, and poll() reports it until it is read. */
	int err = 0;
	socklen_t len = sizeof(err);
	if (!getsockopt(x->fd, SOL_SOCKET, SO_ERROR, &err, &len) && err) {
		dev->link_up = false;
		x->gone = -err;
	}
	return x->gone;
}

int pb_xsk_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns)
{
	struct pb_xsk *x = pb_xsk_of(dev);
	if (dev->tx_pending)
		(void)pb_xsk_kick(x); /* an error is kept in link_up and returned by tx */
	uint32_t at = 0;
	uint32_t got = n > 0 ? xsk_ring_cons__peek(&x->rx, (uint32_t)n, &at) : 0;
	if (!got) {
		if (x->fill_posted < x->fill_target)
			pb_xsk_refill(x);
		return idle(x, now_ns);
	}
	int out = 0;
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < got; i++) {
		struct pb_desc *to = &d[out];
		if (!take(x, to, xsk_ring_cons__rx_desc(&x->rx, at + i))) {
			x->own_drops.n[PB_DROP_RX_BAD]++;
			continue;
		}
		__builtin_prefetch(pb_pool_data(dev->pool, to) - sizeof(struct pb_xsk_meta), 1);
		bytes += to->len;
		out++;
	}
	xsk_ring_cons__release(&x->rx, got);
	pb_pool_count(dev->cache, PB_OWN_FILL, PB_OWN_RX, out);
	x->fill_posted -= (uint32_t)out;
	pb_xsk_refill(x);
	for (int i = 0; i < out; i++)
		take_meta(x, &d[i], pb_pool_data(dev->pool, &d[i]));
	dev->stats.rx_pkts += (uint64_t)out;
	dev->stats.rx_bytes += bytes;
	return out;
}
