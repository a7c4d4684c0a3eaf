#include "dev/mem.h"

#include "base/handles.h"
#include "dev/mem_pair.h"

#include <errno.h>
#include <stdlib.h>

#define HEADROOM 256 /* as XDP_PACKET_HEADROOM */
#define L2_MAX 18    /* Ethernet header and one VLAN tag */

static struct pb_mem_dev *of(struct pb_dev *dev)
{
	return (struct pb_mem_dev *)dev;
}

static bool in_pool(const struct pb_pool *p, uint64_t addr)
{
	return pb_pool_has(p, addr);
}

static enum pb_drop check_tx(const struct pb_mem_dev *m, const struct pb_desc *d, uint32_t n, uint32_t bytes)
{
	const struct pb_pool *p = m->dev.pool;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t into = d[i].addr - pb_pool_frame(p, d[i].addr);
		if (!in_pool(p, d[i].addr) || into + d[i].off + d[i].len > p->frame_bytes)
			return PB_DROP_TX_BAD;
	}
	return bytes > (uint32_t)m->dev.mtu + L2_MAX ? PB_DROP_TOO_LONG : PB_DROP_NONE;
}

/* The packet is not sent: reap() gives its frames at once. */
static void refuse(struct pb_mem_dev *m, const struct pb_desc *d, uint32_t n, enum pb_drop why)
{
	m->dev.stats.drops.n[why]++;
	for (uint32_t i = 0; i < n; i++) {
		if (!in_pool(m->dev.pool, d[i].addr))
			continue;
		m->held[m->n_held++] = (struct pb_mem_done){.addr = d[i].addr, .ready_ns = 0};
		m->in_flight++;
	}
}

static int mem_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns)
{
	struct pb_mem_dev *m = of(dev);
	uint32_t at = 0, len, bytes;
	(void)now_ns;
	bool peer = pb_mem_enter(m);
	while (n > 0 && (len = pb_desc_packet(d + at, (uint32_t)n - at, &bytes))) {
		if (len > m->cfg.ring_size - m->in_flight)
			break;
		enum pb_drop why = check_tx(m, d + at, len, bytes);
		if (!why && !peer)
			why = PB_DROP_NO_PEER;
		for (uint32_t i = at; i < at + len; i++)
			if (in_pool(dev->pool, d[i].addr))
				pb_pool_send(dev->cache, &d[i], from);
		if (why) {
			refuse(m, d + at, len, why);
		} else {
			pb_ring_put(&m->me->wire, d + at, len);
			m->in_flight += len;
			dev->stats.tx_pkts++;
			dev->stats.tx_bytes += bytes;
		}
		at += len;
	}
	pb_mem_leave(m);
	return (int)at;
}

/* In how many of our frames a packet comes: one if that holds it, since NICs fill theirs, else one for each of the
 * sender's. 0: it cannot be received. */
static uint32_t frames_for(const struct pb_mem_dev *m, const struct pb_desc *in, uint32_t n, uint32_t bytes)
{
	uint32_t room = m->dev.pool->frame_bytes - HEADROOM;
	if (n > PB_BURST_MAX || bytes > (uint32_t)m->dev.mtu + L2_MAX)
		return 0;
	if (bytes <= room)
		return 1;
	for (uint32_t i = 0; i < n; i++)
		if (in[i].len > room)
			return 0;
	return n;
}

/* Copies one packet of n descriptors out of the peer's frames into `frames` of ours. False: there are none for it now.
 */
static bool receive(struct pb_mem_dev *m, const struct pb_desc *in, uint32_t n, uint32_t frames, struct pb_desc *out,
		    uint64_t now_ns)
{
	struct pb_dev *dev = &m->dev;
	uint64_t addrs[PB_BURST_MAX];
	uint32_t got = pb_pool_get(dev->cache, addrs, frames, 0, PB_OWN_RX);
	if (got < frames) {
		while (got)
			pb_pool_put(dev->cache, addrs[--got], PB_OWN_RX);
		dev->stats.rx_fill_empty++;
		return false;
	}
	for (uint32_t i = 0; i < frames; i++)
		out[i] = (struct pb_desc){
			.addr = addrs[i],
			.ts_ns = now_ns,
			.off = HEADROOM,
			.flags = i + 1 < frames ? PB_DESC_MORE : 0,
			.ts_source = PB_TS_USER,
			.queue = dev->queue,
		};
	for (uint32_t i = 0; i < n; i++) {
		struct pb_desc *to = &out[frames > 1 ? i : 0];
		memcpy(pb_pool_data(dev->pool, to) + to->len, pb_pool_data(m->peer->pool, &in[i]), in[i].len);
		to->len = (uint16_t)(to->len + in[i].len);
		dev->stats.rx_bytes += in[i].len;
	}
	dev->stats.rx_pkts++;
	return true;
}

/* The packet at the head of the peer's wire, made contiguous. */
static uint32_t head_packet(struct pb_mem_dev *m, struct pb_desc *in, uint32_t *bytes)
{
	uint32_t avail = pb_ring_avail(&m->peer->wire, 1), n = 0;
	bool more = avail > 0;
	*bytes = 0;
	while (more) {
		const struct pb_desc *d = pb_ring_cons_slot(&m->peer->wire, n);
		if (n < PB_BURST_MAX)
			in[n] = *d;
		*bytes += d->len;
		more = d->flags & PB_DESC_MORE;
		n++;
	}
	return n;
}

static void finish(struct pb_mem_dev *m, uint32_t n, uint64_t now_ns)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct pb_desc *d = pb_ring_cons_slot(&m->peer->wire, i);
		struct pb_mem_done *done = pb_ring_prod_slot(&m->peer->done, i);
		*done = (struct pb_mem_done){.addr = d->addr, .ready_ns = now_ns};
	}
	/* In this order: who sees the completion also sees the room on the wire that in_flight promises. */
	pb_ring_release(&m->peer->wire, n);
	pb_ring_submit(&m->peer->done, n);
}

static int mem_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns)
{
	struct pb_mem_dev *m = of(dev);
	struct pb_desc in[PB_BURST_MAX];
	uint32_t got = 0, len, bytes;
	bool peer = pb_mem_enter(m);
	while (peer && (len = head_packet(m, in, &bytes))) {
		uint32_t frames = frames_for(m, in, len, bytes);
		if (!frames)
			dev->stats.drops.n[PB_DROP_TOO_LONG]++;
		else if ((int)(got + frames) > n || !receive(m, in, len, frames, d + got, now_ns))
			break;
		got += frames;
		finish(m, len, now_ns);
	}
	pb_mem_leave(m);
	return (int)got;
}

/* Moves what the peer gave back to `held`. */
static void collect(struct pb_mem_dev *m)
{
	struct pb_mem_done *done = m->held + m->n_held;
	uint32_t n = pb_ring_get(&m->me->done, done, m->cfg.ring_size - m->n_held);
	for (uint32_t i = 0; i < n; i++)
		done[i].ready_ns += m->cfg.completion_delay_ns;
	m->n_held += n;
}

static void swap(struct pb_mem_done *a, struct pb_mem_done *b)
{
	struct pb_mem_done t = *a;
	*a = *b;
	*b = t;
}

/* Without delay, disorder and refused packets: straight from the ring. */
static uint32_t reap_plain(struct pb_mem_dev *m, uint64_t *addrs, uint32_t want)
{
	uint32_t n = pb_ring_avail(&m->me->done, want);
	n = n < want ? n : want;
	for (uint32_t i = 0; i < n; i++) {
		const struct pb_mem_done *done = pb_ring_cons_slot(&m->me->done, i);
		addrs[i] = pb_pool_frame(m->dev.pool, done->addr);
	}
	if (n)
		pb_ring_release(&m->me->done, n);
	return n;
}

static uint32_t reap_held(struct pb_mem_dev *m, uint64_t *addrs, uint32_t want, uint64_t now_ns)
{
	struct pb_mem_done *h = m->held;
	uint32_t got = 0, ready = 0;
	collect(m);
	/* Those that are ready go to the front, in the order in which they came. */
	for (uint32_t i = 0; i < m->n_held; i++)
		if (h[i].ready_ns <= now_ns)
			swap(&h[i], &h[ready++]);
	for (; got < want && got < ready; got++) {
		if (m->cfg.completion_reorder)
			swap(&h[got], &h[got + pb_rng_below(&m->rng, ready - got)]);
		addrs[got] = pb_pool_frame(m->dev.pool, h[got].addr);
	}
	m->n_held -= got;
	memmove(h, h + got, m->n_held * sizeof(*h));
	return got;
}

/* Needs no pb_mem_enter(): this side of `done` is ours whether the peer is open or not. */
static int mem_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns)
{
	struct pb_mem_dev *m = of(dev);
	uint32_t want = n > 0 ? (uint32_t)n : 0;
	bool plain = !m->n_held && !m->cfg.completion_delay_ns && !m->cfg.completion_reorder;
	uint32_t got = plain ? reap_plain(m, addrs, want) : reap_held(m, addrs, want, now_ns);
	m->in_flight -= got;
	return (int)got;
}

static uint64_t mem_next_ns(struct pb_dev *dev)
{
	struct pb_mem_dev *m = of(dev);
	uint64_t next = UINT64_MAX;
	if (!m->cfg.completion_delay_ns)
		return next;
	collect(m);
	for (uint32_t i = 0; i < m->n_held; i++)
		if (m->held[i].ready_ns < next)
			next = m->held[i].ready_ns;
	return next;
}

static int mem_fd(struct pb_dev *dev)
{
	(void)dev;
	return -1;
}

static void mem_stats(struct pb_dev *dev)
{
	(void)dev; /* counted as it happens */
}

static void destroy(struct pb_mem_dev *m)
{
	pb_pool_cache_destroy(m->dev.cache);
	free(m->held);
	free(m->seen);
	free(m);
}

static void mem_close(struct pb_dev *dev)
{
	struct pb_mem_dev *m = of(dev);
	pb_mem_pair_leave(m);
	destroy(m);
	pb_handle_closed(PB_HANDLE_DEV);
}

static const struct pb_dev_ops mem_ops = {
	.abi = PB_DEV_ABI,
	.name = "mem",
	.rx = mem_rx,
	.tx = mem_tx,
	.reap = mem_reap,
	.next_ns = mem_next_ns,
	.fd = mem_fd,
	.stats = mem_stats,
	.close = mem_close,
};

static bool set_config(struct pb_mem_dev *m, const struct pb_dev_mem_config *cfg)
{
	if (cfg)
		m->cfg = *cfg;
	if (!m->cfg.ring_size)
		m->cfg.ring_size = 1024;
	if (!m->cfg.mtu)
		m->cfg.mtu = 1500;
	uint32_t size = m->cfg.ring_size;
	return size >= 8 && size <= 65536 && !(size & (size - 1)) && m->cfg.mtu >= 68 &&
	       m->cfg.mtu <= UINT16_MAX - L2_MAX;
}

/* 02:70:62 is locally administered; then 16 bits of the name (FNV-1a, folded) and the end. */
static void set_mac(struct pb_mem_dev *m, const char *name)
{
	uint32_t h = 2166136261u;
	for (const char *c = name; *c; c++)
		h = (h ^ (uint8_t)*c) * 16777619u;
	h ^= h >> 16;
	const uint8_t mac[6] = {0x02, 0x70, 0x62, (uint8_t)(h >> 8), (uint8_t)h, (uint8_t)pb_dev_mem_end(&m->dev)};
	memcpy(m->dev.mac, mac, 6);
}

struct pb_dev *pb_dev_mem_open(const char *name, struct pb_pool *pool, const struct pb_dev_mem_config *cfg, int *err)
{
	struct pb_mem_dev *m = calloc(1, sizeof(*m));
	*err = -ENOMEM;
	if (!m)
		return NULL;
	*err = -EINVAL;
	if (!*name || strlen(name) > PB_DEV_MEM_NAME_MAX || !set_config(m, cfg))
		goto fail;
	m->dev.ops = &mem_ops;
	m->dev.pool = pool;
	m->dev.mtu = (uint16_t)m->cfg.mtu;
	m->dev.tx_flags = PB_DESC_MORE | PB_DESC_AGAIN;
	m->rng.state = m->cfg.seed;
	*err = -ENOMEM;
	m->held = calloc(m->cfg.ring_size, sizeof(*m->held));
	m->seen = calloc((pool->nframes + 7) / 8, 1);
	if (!m->held || !m->seen)
		goto fail;
	m->dev.cache = pb_pool_cache_create(pool, err);
	if (!m->dev.cache)
		goto fail;
	*err = pb_mem_pair_join(m, name);
	if (*err)
		goto fail;
	set_mac(m, name);
	pb_mem_pair_open(m);
	pb_handle_opened(PB_HANDLE_DEV);
	return &m->dev;
fail:
	destroy(m);
	return NULL;
}

int pb_dev_mem_end(const struct pb_dev *dev)
{
	const struct pb_mem_dev *m = (const struct pb_mem_dev *)dev;
	return m->me == &m->pair->end[1];
}
