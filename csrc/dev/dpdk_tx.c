#include "dev/dpdk_impl.h"

#include <errno.h>

#define PB_ETH_MIN_BYTES 14
/* How often an idle reap asks the driver to look for completions. */
#define REAPS_PER_CLEANUP 16

/* A reference to a frame that the driver has, or had: it is TX already. */
static inline bool is_again(const struct pb_desc *d, bool engine)
{
	return engine && (d->flags & PB_DESC_AGAIN);
}

/* An engine sends a frame as its own that is on its way: making its mbuf anew would set the count of references that
 * others rely on. It lost count of them; what is on its way is given back as it comes. */
static inline bool is_out(const struct pb_dpdk_queue *x, const struct pb_desc *d, bool engine)
{
	return engine && !(d->flags & PB_DESC_AGAIN) && x->dp->lent[pb_pool_index(x->dev.pool, d->addr)] >= PB_DPDK_TX;
}

/* Why the device cannot send a packet of `count` descriptors, or PB_DROP_NONE. */
static enum pb_drop refuse(const struct pb_dpdk_queue *x, const struct pb_desc *d, uint32_t count, uint32_t bytes,
			   bool engine)
{
	const struct pb_pool *pool = x->dev.pool;
	if (bytes < PB_ETH_MIN_BYTES || count > x->tx_chain)
		return PB_DROP_TX_BAD;
	for (uint32_t i = 0; i < count; i++)
		if (!d[i].len || is_out(x, &d[i], engine) ||
		    d[i].addr - pb_pool_frame(pool, d[i].addr) + d[i].off + d[i].len > pool->frame_bytes)
			return PB_DROP_TX_BAD;
	if (d->flags & PB_DESC_CSUM_PARTIAL & x->dev.tx_flags) {
		uint32_t start = d->hash & 0xffff, into = d->hash >> 16;
		if (start < 34 || start + into + 2 > d->len || start > 127 + 511 || (into != 16 && into != 6))
			return PB_DROP_TX_BAD;
	}
	return bytes > x->tx_max_bytes ? PB_DROP_TOO_LONG : PB_DROP_NONE;
}

/* What an mbuf says of the offloads asked for (rte_mbuf_core.h, "TX offload"): where the sum begins and goes is, for
 * DPDK, which protocol it is and how long the headers before it are. */
static void ask(struct pb_dpdk_queue *x, struct rte_mbuf *m, const struct pb_desc *d)
{
	uint16_t flags = d->flags & x->dev.tx_flags;
	if (flags & PB_DESC_CSUM_PARTIAL) {
		const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);
		uint32_t start = d->hash & 0xffff, l2 = p[12] == 0x81 && p[13] == 0 ? 18 : 14;
		m->l2_len = l2 & 0x7f;
		m->l3_len = (start - l2) & 0x1ff;
		m->l4_len = 0;
		m->ol_flags |= d->hash >> 16 == 16 ? RTE_MBUF_F_TX_TCP_CKSUM : RTE_MBUF_F_TX_UDP_CKSUM;
		m->ol_flags |= p[l2] >> 4 == 4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6;
	}
	if (flags & PB_DESC_LAUNCH) {
		*RTE_MBUF_DYNFIELD(m, (size_t)x->port->launch_field, uint64_t *) = d->ts_ns;
		m->ol_flags |= x->port->launch_flag;
	}
	if (flags & PB_DESC_TX_STAMP)
		pb_dpdk_stamp_ask(x, m, d);
}

static uint32_t count_again(const struct pb_desc *d, uint32_t n, bool engine)
{
	uint32_t again = 0;
	for (uint32_t i = 0; i < n; i++)
		again += is_again(&d[i], engine);
	return again;
}

/* The driver did not take it: its frames are the caller's again. */
static void unfill(struct pb_dpdk_queue *x, struct rte_mbuf *m)
{
	const struct pb_pool *pool = x->dev.pool;
	if (m->ol_flags & RTE_MBUF_F_TX_IEEE1588_TMST)
		pb_dpdk_stamp_unask(x);
	while (m) {
		struct rte_mbuf *next = m->next;
		if (!RTE_MBUF_DIRECT(m)) {
			pb_dpdk_again_undo(x, m);
			m = next;
			continue;
		}
		x->dp->lent[pb_pool_index(pool, pb_dpdk_frame(pool, m))] = PB_DPDK_NO;
		m->next = NULL;
		m->nb_segs = 1;
		rte_mbuf_refcnt_set(m, 1);
		m = next;
	}
}

/* NULL: a frame is sent again, and there is no mbuf for that now. */
static struct rte_mbuf *fill(struct pb_dpdk_queue *x, const struct pb_desc *d, uint32_t count, uint32_t bytes,
			     bool engine)
{
	uint8_t lent = engine ? PB_DPDK_TX : PB_DPDK_FILL;
	const struct pb_pool *pool = x->dev.pool;
	struct rte_mbuf *first = NULL, *last = NULL;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t frame = pb_pool_frame(pool, d[i].addr);
		struct rte_mbuf *m = pb_dpdk_mbuf(pool, frame);
		if (is_again(&d[i], engine)) {
			m = pb_dpdk_again_mbuf(x, &d[i]);
			if (!m && first)
				unfill(x, first);
			if (!m)
				return NULL;
		} else {
			x->dp->lent[pb_pool_index(pool, frame)] = lent;
			m->data_off = (uint16_t)(d[i].addr - frame + d[i].off);
			m->data_len = d[i].len;
			m->ol_flags = 0;
			m->nb_segs = 1;
			if (engine)
				rte_mbuf_refcnt_set(m, 2);
		}
		if (last)
			last->next = m;
		else
			first = m;
		last = m;
	}
	first->pkt_len = bytes;
	first->nb_segs = (uint16_t)count;
	if (d->flags & x->dev.tx_flags & (PB_DESC_CSUM_PARTIAL | PB_DESC_TX_STAMP | PB_DESC_LAUNCH))
		ask(x, first, d);
	return first;
}

/* Frames of a packet that is not sent: an engine waits for its own. */
static void drop(struct pb_dpdk_queue *x, const struct pb_desc *d, uint32_t count, enum pb_owner from, enum pb_drop why)
{
	struct pb_dev *dev = &x->dev;
	dev->stats.drops.n[why]++;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t frame = pb_pool_frame(dev->pool, d[i].addr);
		bool out = is_out(x, &d[i], from == PB_OWN_ENGINE);
#ifdef PB_DEBUG
		if (!is_again(&d[i], from == PB_OWN_ENGINE) && !out) /* which is a violation */
			pb_pool_revert(dev->pool, frame, from);      /* it was checked as one that goes */
#endif
		pb_pool_send(dev->cache, &d[i], from);
		if (out)
			continue;
		if (from == PB_OWN_ENGINE)
			x->done[x->ndone++] = pb_pool_index(dev->pool, frame);
		else
			pb_pool_put(dev->cache, frame, PB_OWN_TX);
	}
}

/* What the driver took: an engine's frames are waited for, others are DPDK's as those on a receive ring are. */
static void took(struct pb_dpdk_queue *x, const struct pb_desc *d, uint32_t n, enum pb_owner from)
{
	struct pb_dev *dev = &x->dev;
	pb_pool_count(dev->cache, from, PB_OWN_TX, n - count_again(d, n, from == PB_OWN_ENGINE));
	if (from != PB_OWN_ENGINE) {
		pb_pool_count(dev->cache, PB_OWN_TX, PB_OWN_FILL, n);
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = x->sent_head + x->sent_n++;
		x->sent[at < x->sent_max ? at : at - x->sent_max] = pb_pool_index(dev->pool, d[i].addr);
	}
}

struct batch {
	struct rte_mbuf *m[PB_BURST_MAX];
	uint16_t frames[PB_BURST_MAX];
	uint32_t bytes[PB_BURST_MAX];
	uint16_t n;
	uint16_t refused; /* frames of the packet behind the last that went, which the driver will never take; or 0 */
};

/* Hands the packets over. Returns the frames that the driver took; what it did not is the caller's again. */
static uint32_t flush(struct pb_dpdk_queue *x, struct batch *b)
{
	struct pb_dev *dev = &x->dev;
	uint16_t n = b->n, sent, i;
	uint32_t frames = 0;
	b->n = b->refused = 0;
	if (!n)
		return 0;
	if (dev->tx_flags & PB_DESC_CSUM_PARTIAL) {
		uint16_t good = rte_eth_tx_prepare(x->port->id, dev->queue, b->m, n);
		sent = good ? rte_eth_tx_burst(x->port->id, dev->queue, b->m, good) : 0;
		if (good < n && sent == good)
			b->refused = b->frames[good];
	} else {
		sent = rte_eth_tx_burst(x->port->id, dev->queue, b->m, n);
	}
	for (i = 0; i < sent; i++) {
		frames += b->frames[i];
		dev->stats.tx_bytes += b->bytes[i];
	}
	dev->stats.tx_pkts += sent;
	x->tx_seq += sent;
	/* The newest first: one may be attached to a frame of an older one. */
	while (n > i)
		unfill(x, b->m[--n]);
	return frames;
}

/* The common case: one frame for each packet, and nothing asked for. How many of the first n are so, made into mbufs.
 */
static uint32_t fill_plain(struct pb_dpdk_queue *x, struct rte_mbuf **m, const struct pb_desc *d, uint32_t n,
			   bool engine)
{
	const struct pb_pool *pool = x->dev.pool;
	const uint64_t end = (uint64_t)pool->nframes * pool->stride;
	const uint32_t special = PB_DESC_MORE | (engine ? PB_DESC_AGAIN : 0) |
				 (x->dev.tx_flags & (PB_DESC_CSUM_PARTIAL | PB_DESC_TX_STAMP | PB_DESC_LAUNCH));
	uint8_t *lent = x->dp->lent;
	uint32_t i = 0;
	for (; i < n; i++) {
		uint64_t frame = pb_pool_frame(pool, d[i].addr);
		uint32_t off = (uint32_t)(d[i].addr - frame) + d[i].off, len = d[i].len;
		if (d[i].addr >= end || (d[i].flags & special) || len < PB_ETH_MIN_BYTES || len > x->tx_max_bytes ||
		    off + len > pool->frame_bytes)
			break;
		uint8_t *why = &lent[pb_pool_index(pool, frame)];
		if (engine && *why >= PB_DPDK_TX)
			break; /* is_out() */
		struct rte_mbuf *b = pb_dpdk_mbuf(pool, frame);
		b->data_off = (uint16_t)off;
		b->data_len = (uint16_t)len;
		b->pkt_len = len;
		b->ol_flags = 0;
		if (engine)
			rte_mbuf_refcnt_set(b, 2);
		*why = engine ? PB_DPDK_TX : PB_DPDK_FILL;
		m[i] = b;
	}
	return i;
}

static uint32_t send_plain(struct pb_dpdk_queue *x, const struct pb_desc *d, uint32_t n, enum pb_owner from)
{
	struct rte_mbuf *m[PB_BURST_MAX];
	struct pb_dev *dev = &x->dev;
	n = fill_plain(x, m, d, n < PB_BURST_MAX ? n : PB_BURST_MAX, from == PB_OWN_ENGINE);
	uint32_t sent = n ? rte_eth_tx_burst(x->port->id, dev->queue, m, (uint16_t)n) : 0;
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < sent; i++)
		bytes += d[i].len;
	dev->stats.tx_bytes += bytes;
	dev->stats.tx_pkts += sent;
	x->tx_seq += sent;
	took(x, d, sent, from);
	for (uint32_t i = sent; i < n; i++)
		unfill(x, m[i]);
	return sent;
}

static uint32_t send_any(struct pb_dpdk_queue *x, const struct pb_desc *d, uint32_t n, enum pb_owner from)
{
	struct batch b;
	uint32_t taken = 0, built = 0, bytes;
	b.n = 0;
	while (taken + built < n && b.n < PB_BURST_MAX) {
		const struct pb_desc *s = &d[taken + built];
		uint32_t count = pb_pool_packet(x->dev.pool, s, n - taken - built, &bytes);
		if (!count)
			break; /* not a frame of anybody's: stays with the caller */
		if (count_again(s, count, from == PB_OWN_ENGINE) && !pb_dpdk_again_room(x))
			break; /* when some of those on their way are back */
		enum pb_drop why = refuse(x, s, count, bytes, from == PB_OWN_ENGINE);
		if (why == PB_DROP_NONE) {
			b.frames[b.n] = (uint16_t)count;
			b.bytes[b.n] = bytes;
			x->tx_built = b.n;
			struct rte_mbuf *m = fill(x, s, count, bytes, from == PB_OWN_ENGINE);
			if (!m)
				break;
			b.m[b.n++] = m;
			built += count;
			continue;
		}
		/* Those before it go first. */
		uint32_t went = flush(x, &b);
		took(x, &d[taken], went, from);
		taken += went;
		if (went < built)
			return taken; /* a refused one among them is met again */
		built = 0;
		drop(x, s, count, from, why);
		taken += count;
	}
	uint32_t went = flush(x, &b);
	took(x, &d[taken], went, from);
	taken += went;
	if (b.refused) {
		drop(x, &d[taken], b.refused, from, PB_DROP_TX_BAD);
		x->stats.tx_prepare_bad++;
		taken += b.refused;
	}
	return taken;
}

#ifdef PB_DEBUG
/* The driver may be done with a frame, and another thread have it, before the call returns: so this comes before. */
static void check_all(struct pb_pool *p, const struct pb_desc *d, uint32_t n, enum pb_owner from)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t frame = pb_pool_frame(p, d[i].addr);
		if (!pb_pool_has(p, d[i].addr))
			continue;
		if (is_again(&d[i], from == PB_OWN_ENGINE)) {
			pb_pool_check(p, frame, PB_OWN_TX, PB_OWN_TX);
			continue;
		}
		pb_pool_check(p, frame, from, PB_OWN_TX);
		if (from != PB_OWN_ENGINE) {
			pb_pool_check(p, frame, PB_OWN_TX, PB_OWN_FREE);
			pb_pool_check(p, frame, PB_OWN_FREE, PB_OWN_FILL);
		}
	}
}

static void uncheck(struct pb_pool *p, const struct pb_desc *d, uint32_t n, enum pb_owner from)
{
	for (uint32_t i = 0; i < n; i++)
		if (pb_pool_has(p, d[i].addr) && !is_again(&d[i], from == PB_OWN_ENGINE))
			pb_pool_revert(p, pb_pool_frame(p, d[i].addr), from);
}
#else
#define check_all(p, d, n, from) ((void)0)
#define uncheck(p, d, n, from) ((void)0)
#endif

int pb_dpdk_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns)
{
	struct pb_dpdk_queue *x = pb_dpdk_of(dev);
	x->now_ns = now_ns;
	if (n <= 0)
		return 0;
	if (!pb_dpdk_enter(x))
		return atomic_load_explicit(&x->port->gone, memory_order_relaxed) ? -ENODEV : 0;
	if (!pb_pool_has(dev->pool, d->addr)) {
		pb_dpdk_leave(x);
		return -EINVAL;
	}
	uint32_t want = (uint32_t)(n < PB_BURST_MAX ? n : PB_BURST_MAX);
	while (n > PB_BURST_MAX && want > 1 && (d[want - 1].flags & PB_DESC_MORE))
		want--; /* its end is for the next call */
	check_all(dev->pool, d, want, from);
	uint32_t taken = send_plain(x, d, want, from);
	/* It stopped at something special, or the driver is full: then this finds that out once more. */
	if (taken < want)
		taken += send_any(x, d + taken, want - taken, from);
	uncheck(dev->pool, d + taken, want - taken, from);
	pb_dpdk_leave(x);
	return (int)taken;
}

/* Engines' frames that have only our reference left: they were sent. Of one that was sent several times the driver has
 * as many references as there are beyond ours; which of them came back does not matter. */
static void collect(struct pb_dpdk_queue *x)
{
	const struct pb_pool *pool = x->dev.pool;
	while (x->sent_n) {
		uint32_t index = x->sent[x->sent_head];
		struct rte_mbuf *m = pb_dpdk_mbuf(pool, pb_pool_addr(pool, index));
		uint8_t *lent = &x->dp->lent[index];
		if (rte_mbuf_refcnt_read(m) > *lent - PB_DPDK_TX + 1)
			return;
		if (pb_dpdk_again_back(lent)) {
			m->next = NULL; /* a driver resets them with the last reference, which is ours */
			m->nb_segs = 1;
		}
		x->done[x->ndone++] = index;
		x->sent_head = x->sent_head + 1 < x->sent_max ? x->sent_head + 1 : 0;
		x->sent_n--;
	}
}

int pb_dpdk_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns)
{
	struct pb_dpdk_queue *x = pb_dpdk_of(dev);
	x->now_ns = now_ns;
	if (x->sent_n)
		collect(x);
	/* Drivers look for completions when they need room; an engine wants to know. */
	if (!x->ndone && x->sent_n && x->has_cleanup && ++x->idle_reaps >= REAPS_PER_CLEANUP && pb_dpdk_enter(x)) {
		x->idle_reaps = 0;
		(void)rte_eth_tx_done_cleanup(x->port->id, dev->queue, 0);
		pb_dpdk_leave(x);
		collect(x);
	}
	int out = 0;
	while (out < n && x->ndone)
		addrs[out++] = pb_pool_addr(dev->pool, x->done[--x->ndone]);
	return out;
}

/* What is done goes to the pool, once each, but for frames that are on their way by another reference. The pool may
 * hand one out the moment it has it, so all is sorted before the first goes. */
static void put_done(struct pb_dpdk_queue *x)
{
	const uint8_t seen = UINT8_MAX;
	uint32_t keep = 0;
	for (uint32_t i = 0; i < x->ndone; i++) {
		uint8_t *lent = &x->dp->lent[x->done[i]];
		if (*lent != PB_DPDK_NO)
			continue;
		*lent = seen;
		x->done[keep++] = x->done[i];
	}
	for (uint32_t i = 0; i < keep; i++)
		x->dp->lent[x->done[i]] = PB_DPDK_NO;
	for (x->ndone = keep; x->ndone;)
		pb_pool_put(x->dev.cache, pb_pool_addr(x->dev.pool, x->done[--x->ndone]), PB_OWN_TX);
}

void pb_dpdk_abandon(struct pb_dpdk_queue *x)
{
	struct pb_pool *pool = x->dev.pool;
	collect(x);
	put_done(x);
	/* What the driver still has: our reference goes, and the frame is one of the mempool's from now on. */
	for (; x->sent_n; x->sent_n--) {
		uint32_t index = x->sent[x->sent_head];
		struct rte_mbuf *m = pb_dpdk_mbuf(pool, pb_pool_addr(pool, index));
		x->sent_head = x->sent_head + 1 < x->sent_max ? x->sent_head + 1 : 0;
		if (!pb_dpdk_again_back(&x->dp->lent[index]))
			continue; /* it is in there once more */
		m->next = NULL;
		m->nb_segs = 1;
		x->dp->lent[index] = PB_DPDK_FILL;
		pb_pool_move(x->dev.cache, pb_pool_addr(pool, index), PB_OWN_TX, PB_OWN_FREE);
		pb_pool_move(x->dev.cache, pb_pool_addr(pool, index), PB_OWN_FREE, PB_OWN_FILL);
		rte_pktmbuf_free_seg(m);
	}
}
