/* The host: its engine, time, and packets in both directions. */
#include "script/impl.h"

#include "base/handles.h"
#include "cc/cc.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#include <errno.h>
#include <stdlib.h>

#define RX_OFF 64u /* where a packet begins in its frame */
#define NEVER UINT64_MAX

void pb_host_config_default(struct pb_host_config *cfg)
{
	static const uint8_t v4[4] = {192, 168, 0, 1}, v6[16] = {0xfd, 0x3d, 0xfa, 0x7b, 0xd1, 0x7d, [15] = 1};
	*cfg = (struct pb_host_config){
		.mtu = {1500, 1500},
		.frames = 4096,
		.start_ns = 1000 * NS_PER_S,
		.secret = "script host key",
		.addr = {pb_ip_from4(v4), pb_ip_from6(v6)},
	};
}

struct pb_host *pb_host_create(const struct pb_host_config *cfg, int *err)
{
	*err = -EINVAL;
	if (cfg->layout > PB_HOST_FREEBSD || cfg->acks > PB_HOST_ACKS_BSD || cfg->mtu[0] < 576 || cfg->mtu[1] < 1280 ||
	    cfg->mtu[0] > PKT_BYTES - RX_OFF || cfg->mtu[1] > PKT_BYTES - RX_OFF ||
	    (cfg->cc && strlen(cfg->cc) >= CC_NAME_MAX))
		return NULL;
	struct pb_host *h = calloc(1, sizeof(*h));
	*err = -ENOMEM;
	if (!h)
		return NULL;
	h->cfg = *cfg;
	h->cfg.cc = NULL; /* the caller's */
	h->now_ns = cfg->start_ns;
	h->next_port = 32768;
	knobs_default(h);
	if (pb_host_set_congestion(h, cfg->cc ? cfg->cc : "cubic")) {
		free(h);
		*err = -EPROTONOSUPPORT;
		return NULL;
	}
	h->pool = pb_pool_create(cfg->frames, PKT_BYTES, PB_WANT_4K, err);
	h->cache = h->pool ? pb_pool_cache_create(h->pool, err) : NULL;
	if (!h->cache || !outbox_init(&h->out)) {
		pb_host_destroy(h);
		return NULL;
	}
	*err = 0;
	return h;
}

void pb_host_destroy(struct pb_host *h)
{
	if (!h)
		return;
	if (h->tcp)
		pb_tcp_destroy(h->tcp);
	if (h->cache)
		pb_pool_cache_destroy(h->cache);
	if (h->pool)
		pb_pool_unref(h->pool);
	outbox_free(&h->out);
	free(h);
}

int host_engine(struct pb_host *h)
{
	struct pb_tcp_config c;
	int err = 0;
	if (h->tcp)
		return 0;
	pb_tcp_config_default(&c);
	c.max_conns = 4 * PB_HOST_SOCKETS;
	c.max_listeners = PB_HOST_SOCKETS;
	c.reserve_frames = 64;
	c.mtu = h->cfg.mtu[0] > h->cfg.mtu[1] ? h->cfg.mtu[0] : h->cfg.mtu[1];
	memcpy(c.secret, h->cfg.secret, sizeof(c.secret));
	knobs_config(h, &c);
	h->tcp = pb_tcp_create(&c, h->cache, &err);
	return err;
}

/* ---- time ---- */

uint64_t pb_host_now(const struct pb_host *h)
{
	return h->now_ns;
}

struct pb_tcp *pb_host_engine(struct pb_host *h)
{
	return h->tcp;
}

struct pb_pool *pb_host_pool(struct pb_host *h)
{
	return h->pool;
}

static void take_events(struct pb_host *h)
{
	struct pb_tcp_event ev[16];
	int n;
	while ((n = pb_tcp_events(h->tcp, ev, 16)) > 0)
		for (int i = 0; i < n; i++)
			for (int k = 0; k < PB_HOST_SOCKETS; k++)
				if (h->socks[k].used && h->socks[k].conn == ev[i].conn && ev[i].error)
					h->socks[k].error = ev[i].error;
}

/* All that the engine wants to send, to the outbox; the device is done at once. */
static void transmit(struct pb_host *h)
{
	struct pb_desc d[PB_BURST_MAX];
	int n;
	while (!h->stuck && (n = pb_tcp_output(h->tcp, d, PB_BURST_MAX, h->now_ns)) > 0)
		for (int i = 0; i < n; i++) {
			uint64_t addr = d[i].addr;
			pb_pool_move(h->cache, addr, PB_OWN_ENGINE, PB_OWN_TX);
			outbox_add(&h->out, pb_pool_data(h->pool, &d[i]), d[i].len, h->now_ns);
			pb_tcp_tx_done(h->tcp, &addr, 1);
		}
}

void host_settle(struct pb_host *h)
{
	if (!h->tcp)
		return;
	transmit(h);
	take_events(h);
	outbox_end_step(h);
}

uint64_t pb_host_next_ns(const struct pb_host *h)
{
	uint64_t t = h->tcp ? pb_tcp_next_deadline(h->tcp) : NEVER;
	for (const struct sock *s = h->socks; s < h->socks + PB_HOST_SOCKETS; s++)
		if (s->used && s->linger_ns > h->now_ns)
			t = min_u64(t, s->linger_ns);
	return t < h->now_ns ? h->now_ns : t;
}

void pb_host_advance(struct pb_host *h, uint64_t now_ns)
{
	uint64_t due, last = NEVER;
	/* A deadline may be early, never late: one that stays where it was has nothing to do now. */
	while ((due = pb_host_next_ns(h)) <= now_ns && due != last) {
		h->now_ns = last = due;
		pb_tcp_expire(h->tcp, due);
		host_settle(h);
	}
	if (now_ns > h->now_ns)
		h->now_ns = now_ns;
	if (h->tcp) {
		pb_tcp_expire(h->tcp, h->now_ns);
		host_settle(h);
	}
}

void pb_host_set_stuck(struct pb_host *h, bool stuck)
{
	h->stuck = stuck;
	host_settle(h);
}

/* ---- packets in ---- */

/* Whole packets of at most a frame, in one burst. */
struct burst {
	struct pb_desc d[PB_BURST_MAX];
	int n;
};

static bool add_frame(struct pb_host *h, struct burst *b, const uint8_t *ip, uint32_t hdr, const uint8_t *data,
		      uint32_t n)
{
	uint64_t addr;
	if (b->n == PB_BURST_MAX || !pb_pool_get(h->cache, &addr, 1, 0, PB_OWN_RX))
		return false;
	struct pb_desc *d = &b->d[b->n++];
	*d = (struct pb_desc){.addr = addr, .off = RX_OFF, .len = (uint16_t)(hdr + n)};
	uint8_t *p = pb_pool_data(h->pool, d);
	memcpy(p, ip, hdr);
	memcpy(p + hdr, data, n);
	return true;
}

/* A super-segment in pieces of one MTU: FIN and PSH on the last, checksums anew. */
static bool cut(struct pb_host *h, struct burst *b, const uint8_t *ip, const struct pb_ip_view *v)
{
	const struct pb_tcp_hdr *t = (const void *)(ip + v->hdr_len);
	uint32_t thl = (uint32_t)(t->doff >> 4) * 4, hdr = v->hdr_len + thl;
	uint32_t mtu = h->cfg.mtu[v->version == 6];
	if (thl < PB_TCP_HLEN || hdr >= mtu || hdr > v->total_len)
		return false;
	uint32_t piece = mtu - hdr, seq = pb_be32_get(t->seq);
	for (uint32_t done = 0, total = v->total_len - hdr; done < total; done += piece) {
		uint32_t n = total - done < piece ? total - done : piece;
		if (!add_frame(h, b, ip, hdr, ip + hdr + done, n))
			return false;
		uint8_t *p = pb_pool_data(h->pool, &b->d[b->n - 1]);
		struct pb_tcp_hdr *o = (void *)(p + v->hdr_len);
		o->seq = pb_be32_of(seq + done);
		if (done + n < total)
			o->flags &= (uint8_t) ~(PB_TCP_FIN | PB_TCP_PSH);
		packet_finish(p, hdr + n);
	}
	return true;
}

static unsigned feed(struct pb_host *h, struct burst *b)
{
	struct pb_tcp_verdict v[PB_BURST_MAX];
	unsigned why = PB_DROP_NONE;
	pb_tcp_input(h->tcp, b->d, b->n, h->now_ns, v);
	for (int i = 0; i < b->n; i++) {
		if (v[i].what != PB_VERDICT_TAKEN)
			pb_pool_put(h->cache, b->d[i].addr, PB_OWN_RX);
		if (v[i].reason && !why)
			why = v[i].reason;
	}
	host_settle(h);
	return why;
}

unsigned pb_host_input(struct pb_host *h, const void *packet, uint32_t len)
{
	const uint8_t *ip = packet;
	struct pb_ip_view v;
	struct burst b;
	b.n = 0;
	/* Also a host without a socket answers. */
	if (host_engine(h))
		return PB_DROP_TCP_NO_CONN;
	enum pb_drop why = pb_ip_parse(ip, len, &v);
	if (!why && (v.proto == PB_IPPROTO_ICMP || v.proto == PB_IPPROTO_ICMP6)) {
		unsigned r = icmp_input(h, ip, len);
		host_settle(h);
		return r;
	}
	if (why || v.proto != PB_IPPROTO_TCP || len <= PKT_BYTES - RX_OFF) {
		/* What is wrong with it the engine finds out, and counts. */
		if (len > PKT_BYTES - RX_OFF)
			return PB_DROP_TOO_LONG;
		if (!add_frame(h, &b, ip, len, ip, 0))
			return PB_DROP_NO_FRAME;
	} else if (!pb_tcp_csum_ok(ip + v.hdr_len, v.total_len - v.hdr_len, &v.src, &v.dst)) {
		return PB_DROP_TCP_CSUM;
	} else if (!cut(h, &b, ip, &v)) {
		pb_pool_put_descs(h->cache, b.d, (uint32_t)b.n, PB_OWN_RX);
		return PB_DROP_TOO_LONG;
	}
	return feed(h, &b);
}
