/* An engine and a hand-made peer: segments go straight into pb_tcp_input(), and each segment that comes out of
 * pb_tcp_output() must be the expected one. Sequence numbers are relative: `seq` of IN and `ack` of OUT to the peer's
 * ISN, `ack` of IN and `seq` of OUT to the engine's. So a SYN has seq 0 and the first byte of data seq 1. Each byte of
 * payload follows from its place in the stream. pb_tcp_check() runs after every step. */
#ifndef PB_TEST_TCP_SCRIPT_H
#define PB_TEST_TCP_SCRIPT_H
#include "harness.h"
#include "tcp/tcp.h"
#include "wire/tcp.h"

#include <errno.h>
#include <sys/socket.h>

enum { F = PB_TCP_FIN, S = PB_TCP_SYN, R = PB_TCP_RST, P = PB_TCP_PSH, A = PB_TCP_ACK };
#define ZERO (-1) /* as wnd: a closed window; 0 is the default one */
#define ANY (-2)  /* as wnd of OUT: not compared */
#define WND 60000
#define MS 1000000ull
#define SEC 1000000000ull
#define OUTS 256

struct sg {
	uint8_t f;
	uint32_t seq, ack;
	uint32_t len;
	int wnd;
	struct pb_tcp_opts o;
	bool no_ts;   /* IN: without the timestamp that the connection would carry */
	uint8_t evil; /* IN: xor of the payload */
};

struct seen {
	struct pb_tcp_view v;
	struct pb_tcp_opts o;
	uint8_t opts[PB_TCP_OPTS_MAX], data[4096];
	uint32_t len;
	uint16_t ip_len;
};

struct script {
	struct pb_pool *pool;
	struct pb_pool_cache *cache;
	struct pb_tcp *e;
	struct pb_ip us, peer;
	uint16_t lport, rport;
	uint64_t now_ns;
	pb_tcp_handle h, l;
	uint32_t iss, irs;
	bool ts; /* the peer sends timestamps */
	uint32_t ts_val;
	uint32_t ts_ecr; /* last value seen */
	uint32_t events, acked;
	int32_t error;
	bool hold; /* completions wait in `held` */
	uint64_t held[OUTS];
	uint32_t nheld;
	int room; /* of one pb_tcp_output(); 0: PB_BURST_MAX */
	/* Of what the device has: what `held` names, as it was when it was sent. */
	struct {
		uint16_t off, len;
		uint32_t sum;
	} span[OUTS];
	struct seen outs[OUTS]; /* what came out and was not looked at */
	uint32_t head, n;
};

static UNUSED uint8_t tx_byte(uint32_t seq)
{
	return (uint8_t)(seq * 7 + (seq >> 8) * 13 + 1);
}

static UNUSED uint8_t rx_byte(uint32_t seq)
{
	return (uint8_t)(seq * 11 + (seq >> 8) * 3 + 5);
}

static UNUSED struct pb_tcp_config script_config(void)
{
	struct pb_tcp_config c;
	pb_tcp_config_default(&c);
	c.max_conns = 8;
	c.max_listeners = 2;
	c.reserve_frames = 32;
	c.timestamps = c.sack = c.wscale = false;
	memcpy(c.secret, "0123456789abcdef", 16);
	return c;
}

static void script_ok(struct script *s, const char *file, int line)
{
	check_eq(file, line, "pb_tcp_check", (uint64_t)pb_tcp_check(s->e), 0);
}

static UNUSED bool script_open_v(struct script *s, const struct pb_tcp_config *c, bool v6, uint32_t frames)
{
	int err;
	uint8_t a4[4] = {10, 0, 0, 1}, b4[4] = {10, 0, 0, 2}, a6[16] = {0xfd, [15] = 1}, b6[16] = {0xfd, [15] = 2};
	memset(s, 0, sizeof(*s));
	s->pool = pb_pool_create(frames, 2048, PB_WANT_4K, &err);
	s->cache = s->pool ? pb_pool_cache_create(s->pool, &err) : NULL;
	s->e = s->cache ? pb_tcp_create(c, s->cache, &err) : NULL;
	s->us = v6 ? pb_ip_from6(a6) : pb_ip_from4(a4);
	s->peer = v6 ? pb_ip_from6(b6) : pb_ip_from4(b4);
	s->lport = 1000;
	s->rport = 2000;
	s->now_ns = 5 * SEC;
	s->irs = 5000;
	s->ts_val = 777;
	return s->e != NULL;
}

static UNUSED bool script_open(struct script *s, const struct pb_tcp_config *c)
{
	return script_open_v(s, c, false, 1024);
}

static void script_done(struct script *s, uint64_t addr)
{
	pb_tcp_tx_done(s->e, &addr, 1);
}

static uint32_t script_sum(struct script *s, const struct pb_desc *d)
{
	const uint8_t *p = pb_pool_data(s->pool, d);
	uint32_t sum = 2166136261u;
	for (uint32_t i = 0; i < d->len; i++)
		sum = (sum ^ p[i]) * 16777619u;
	return sum;
}

/* The device gives back held[i], which nobody wrote to meanwhile. */
static UNUSED void script_complete_one(struct script *s, uint32_t i)
{
	struct pb_desc d = {.addr = s->held[i], .off = s->span[i].off, .len = s->span[i].len};
	CHECK_EQ(script_sum(s, &d), s->span[i].sum);
	s->nheld--;
	memmove(&s->held[i], &s->held[i + 1], (s->nheld - i) * sizeof(s->held[0]));
	memmove(&s->span[i], &s->span[i + 1], (s->nheld - i) * sizeof(s->span[0]));
	script_done(s, d.addr);
}

static UNUSED void script_hold(struct script *s, const struct pb_desc *d)
{
	CHECK(s->nheld < OUTS);
	s->held[s->nheld] = d->addr;
	s->span[s->nheld].off = d->off;
	s->span[s->nheld].len = d->len;
	s->span[s->nheld++].sum = script_sum(s, d);
}

/* Gives back what was held: the newest first, or the oldest. */
static UNUSED void script_complete(struct script *s, bool reverse)
{
	while (s->nheld)
		script_complete_one(s, reverse ? s->nheld - 1 : 0);
	script_ok(s, __FILE__, __LINE__);
}

static UNUSED void script_close(struct script *s, const char *file, int line)
{
	script_complete(s, true);
	pb_tcp_destroy(s->e);
	pb_pool_cache_destroy(s->cache);
	check_pool(file, line, s->pool);
}
#define CLOSE(s) script_close(s, __FILE__, __LINE__)

/* A packet of one descriptor, or of a header and a payload. */
static void script_catch(struct script *s, const struct pb_desc *d, uint32_t k, uint32_t len)
{
	uint8_t whole[4096], *to = whole;
	const uint8_t *ip = k > 1 ? whole : pb_pool_data(s->pool, d);
	for (uint32_t i = 0; k > 1 && i < k; to += d[i++].len)
		memcpy(to, pb_pool_data(s->pool, &d[i]), d[i].len);
	struct seen *g = &s->outs[(s->head + s->n++) % OUTS];
	struct pb_ip_view v;
	CHECK(s->n < OUTS);
	CHECK_EQ(pb_ip_parse(ip, len, &v), 0);
	CHECK_EQ(v.total_len, len);
	CHECK(pb_ip_eq(&v.src, &s->us));
	const uint8_t *tcp = ip + v.hdr_len;
	uint32_t n = v.total_len - v.hdr_len;
	CHECK_EQ(pb_tcp_parse(tcp, n, &g->v), 0);
	CHECK(pb_tcp_csum_ok(tcp, n, &v.src, &v.dst));
	CHECK_EQ(pb_tcp_opts_parse(g->v.opts, g->v.opts_len, &g->o), 0);
	CHECK_EQ(g->o.has_mss, !!(g->v.flags & PB_TCP_SYN)); /* RFC 9293 3.7.1: MUST-65, SHLD-5 */
	g->len = n - g->v.hdr_len;
	g->ip_len = (uint16_t)len;
	memcpy(g->data, tcp + g->v.hdr_len, g->len);
	if (g->o.has_ts)
		s->ts_ecr = g->o.ts_val;
}

static UNUSED void script_pull(struct script *s)
{
	struct pb_desc d[PB_BURST_MAX];
	int n;
	uint32_t k, len;
	while ((n = pb_tcp_output(s->e, d, s->room ? s->room : PB_BURST_MAX, s->now_ns)) > 0) {
		CHECK(n <= (s->room ? s->room : PB_BURST_MAX));
		for (int i = 0; i < n; i += (int)k) {
			k = pb_desc_packet(&d[i], (uint32_t)(n - i), &len);
			CHECK(k && !(d[i].flags & PB_DESC_AGAIN));
			for (uint32_t j = 0; j < k; j++)
				pb_pool_send(s->cache, &d[i + (int)j], PB_OWN_ENGINE);
			script_catch(s, &d[i], k, len);
			for (uint32_t j = 0; j < k; j++)
				if (s->hold)
					script_hold(s, &d[i + (int)j]);
				else
					script_done(s, d[i + (int)j].addr);
		}
	}
	struct pb_tcp_event ev[16];
	while ((n = pb_tcp_events(s->e, ev, 16)) > 0)
		for (int i = 0; i < n; i++) {
			s->events |= ev[i].mask;
			s->acked += ev[i].acked;
			if (ev[i].error)
				s->error = ev[i].error;
		}
}

/* The packet at p; returns its length. */
static uint32_t script_build(struct script *s, const struct sg *g, uint8_t *p)
{
	struct pb_tcp_opts o = g->o;
	uint8_t opts[PB_TCP_OPTS_MAX];
	if (s->ts && !g->no_ts && !o.has_ts) {
		o.has_ts = true;
		o.ts_val = s->ts_val;
		o.ts_ecr = s->ts_ecr;
	}
	uint32_t n = pb_tcp_opts_write(opts, &o), len = PB_TCP_HLEN + n + g->len;
	uint16_t wnd = (uint16_t)(g->wnd == ZERO ? 0 : g->wnd ? g->wnd : WND);
	uint8_t *tcp = p + (pb_ip_is4(&s->us) ? pb_ip4_write(p, &s->peer, &s->us, PB_IPPROTO_TCP, 64, 0, 1, true, len)
					      : pb_ip6_write(p, &s->peer, &s->us, PB_IPPROTO_TCP, 64, 0, 0, len));
	pb_tcp_write(tcp, s->rport, s->lport, s->irs + g->seq, g->f & A ? s->iss + g->ack : g->ack, g->f, wnd, n);
	memcpy(tcp + PB_TCP_HLEN, opts, n);
	for (uint32_t i = 0; i < g->len; i++)
		tcp[PB_TCP_HLEN + n + i] = rx_byte(g->seq + i) ^ g->evil;
	pb_tcp_set_csum(tcp, len, &s->peer, &s->us);
	return (uint32_t)(tcp - p) + len;
}

/* Any bytes as an IP packet. Returns the reason, 0 for none. */
static UNUSED unsigned script_raw(struct script *s, const uint8_t *p, uint32_t len)
{
	uint64_t addr;
	struct pb_tcp_verdict v;
	if (!pb_pool_get(s->cache, &addr, 1, 0, PB_OWN_RX)) {
		check_failed(__FILE__, __LINE__, "no frame");
		return PB_DROP_NO_FRAME;
	}
	struct pb_desc d = {.addr = addr, .off = 64, .len = (uint16_t)len};
	memcpy(pb_pool_data(s->pool, &d), p, len);
	pb_tcp_input(s->e, &d, 1, s->now_ns, &v);
	if (v.what != PB_VERDICT_TAKEN)
		pb_pool_put(s->cache, addr, PB_OWN_RX);
	return v.reason;
}

static UNUSED unsigned script_in(struct script *s, const char *file, int line, struct sg g)
{
	uint8_t p[2048];
	unsigned why = script_raw(s, p, script_build(s, &g, p));
	script_ok(s, file, line);
	return why;
}
#define IN(...) script_in(s, __FILE__, __LINE__, (struct sg){__VA_ARGS__})
/* Must be taken for what it is: no reason against it. */
#define IN_OK(...) CHECK_EQ(IN(__VA_ARGS__), PB_DROP_NONE)
#define IN_DROP(why, ...) CHECK_EQ(IN(__VA_ARGS__), PB_DROP_##why)

static UNUSED struct seen *script_next(struct script *s, const char *file, int line)
{
	script_pull(s);
	script_ok(s, file, line);
	if (!s->n) {
		check_failed(file, line, "no segment came out");
		return NULL;
	}
	s->n--;
	return &s->outs[s->head++ % OUTS];
}
#define NEXT() script_next(s, __FILE__, __LINE__)

static UNUSED void script_out(struct script *s, const char *file, int line, struct sg g)
{
	struct seen *o = script_next(s, file, line);
	if (!o)
		return;
	if (g.f & S)
		s->iss = o->v.seq - g.seq;
	check_eq(file, line, "flags", o->v.flags & (uint8_t)~P, g.f & (uint8_t)~P);
	if (g.f & P)
		check_eq(file, line, "PSH", o->v.flags & P, P);
	check_eq(file, line, "seq", o->v.seq - s->iss, g.seq);
	if (g.f & A)
		check_eq(file, line, "ack", o->v.ack - s->irs, g.ack);
	check_eq(file, line, "len", o->len, g.len);
	check_eq(file, line, "port", o->v.dport, s->rport);
	if (g.wnd && g.wnd != ANY)
		check_eq(file, line, "wnd", o->v.wnd, g.wnd == ZERO ? 0 : (uint64_t)g.wnd);
	for (uint32_t i = 0; i < o->len; i++)
		if (o->data[i] != tx_byte(g.seq + i)) {
			check_failed(file, line, "wrong payload");
			break;
		}
}
#define OUT(...) script_out(s, __FILE__, __LINE__, (struct sg){__VA_ARGS__})

static UNUSED void script_none(struct script *s, const char *file, int line)
{
	script_pull(s);
	script_ok(s, file, line);
	check_eq(file, line, "segments that nobody expected", s->n, 0);
	s->n = 0;
}
#define NONE_OUT() script_none(s, __FILE__, __LINE__)
#define FORGET() (script_pull(s), s->n = 0)

/* Time passes, timers fire at their own times. */
static UNUSED void script_wait(struct script *s, const char *file, int line, uint64_t ns)
{
	uint64_t until = s->now_ns + ns;
	for (uint64_t t; (t = pb_tcp_next_deadline(s->e)) <= until;) {
		s->now_ns = t > s->now_ns ? t : s->now_ns;
		pb_tcp_expire(s->e, s->now_ns);
		script_pull(s);
		script_ok(s, file, line);
		if (s->n > OUTS / 2) {
			check_failed(file, line, "too many segments");
			return;
		}
	}
	s->now_ns = until;
}
#define WAIT(ns) script_wait(s, __FILE__, __LINE__, ns)

/* Frames that the application has for a while, at most 128. */
struct script_taken {
	uint64_t frames[128];
	uint32_t n;
};

static UNUSED void script_take_frames(struct script *s, struct script_taken *t, uint32_t n)
{
	t->n = pb_pool_get(s->cache, t->frames, n, 0, PB_OWN_APP);
}

static UNUSED void script_give_frames(struct script *s, struct script_taken *t)
{
	while (t->n)
		pb_pool_put(s->cache, t->frames[--t->n], PB_OWN_APP);
}

static UNUSED struct pb_tcp_info script_info(struct script *s)
{
	struct pb_tcp_info i = {0};
	CHECK_EQ(pb_tcp_get_info(s->e, s->h, &i), 0);
	return i;
}

static UNUSED void script_state(struct script *s, const char *file, int line, unsigned want)
{
	struct pb_tcp_info i = {0};
	pb_tcp_get_info(s->e, s->h, &i);
	if (i.state != want) {
		char text[80];
		snprintf(text, sizeof(text), "state %s, want %s", pb_tcp_state_name(i.state), pb_tcp_state_name(want));
		check_failed(file, line, text);
	}
}
#define STATE(x) script_state(s, __FILE__, __LINE__, PB_TCP_##x)

/* The engine's application sends n bytes; `at` is their place in the stream (the first is 1). */
static UNUSED int64_t script_send_as(struct script *s, uint32_t at, uint32_t n, unsigned flags)
{
	static uint8_t buf[1 << 20];
	for (uint32_t i = 0; i < n; i++)
		buf[i] = tx_byte(at + i);
	int64_t k = pb_tcp_send(s->e, s->h, buf, n, flags);
	script_ok(s, __FILE__, __LINE__);
	return k;
}

static UNUSED int64_t script_send(struct script *s, uint32_t at, uint32_t n)
{
	return script_send_as(s, at, n, 0);
}
#define SEND(at, n) CHECK_EQ(script_send(s, at, n), n)

static UNUSED void script_read(struct script *s, const char *file, int line, uint32_t at, uint32_t n)
{
	static uint8_t buf[1 << 20];
	int64_t k = pb_tcp_recv(s->e, s->h, buf, n, s->now_ns);
	check_eq(file, line, "bytes read", (uint64_t)k, n);
	for (uint32_t i = 0; k > 0 && i < k; i++)
		if (buf[i] != rx_byte(at + i)) {
			check_failed(file, line, "wrong byte received");
			break;
		}
	script_ok(s, file, line);
}
#define READ(at, n) script_read(s, __FILE__, __LINE__, at, n)
#define READ_RC(rc) CHECK_EQ(pb_tcp_recv(s->e, s->h, (uint8_t[8]){0}, 8, s->now_ns), (uint64_t)(int64_t)(rc))
#define SHUT(how) CHECK_EQ(pb_tcp_shutdown(s->e, s->h, how, s->now_ns), 0)
#define CLOSE_H() CHECK_EQ(pb_tcp_close(s->e, s->h, s->now_ns), 0)

static UNUSED int script_listen(struct script *s, uint32_t backlog)
{
	struct pb_tcp_endpoint l = {s->us, s->lport};
	return pb_tcp_listen(s->e, &l, backlog, &s->l);
}

static UNUSED int script_connect(struct script *s)
{
	struct pb_tcp_endpoint l = {s->us, s->lport}, r = {s->peer, s->rport};
	return pb_tcp_connect(s->e, &l, &r, s->now_ns, &s->h);
}

/* The options that a peer's SYN carries. */
static UNUSED struct pb_tcp_opts syn_opts(uint16_t mss, bool sack, int wscale)
{
	return (struct pb_tcp_opts){.has_mss = mss != 0,
				    .mss = mss,
				    .sack_ok = sack,
				    .has_wscale = wscale >= 0,
				    .wscale = (uint8_t)(wscale < 0 ? 0 : wscale)};
}

/* Active open, ESTABLISHED. The peer's window is WND << wscale afterwards. */
static UNUSED void script_active(struct script *s, struct pb_tcp_opts o)
{
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	IN_OK(.f = S | A, .ack = 1, .o = o);
	OUT(.f = A, .seq = 1, .ack = 1);
	NONE_OUT();
	STATE(ESTABLISHED);
}
#define ACTIVE() script_active(s, syn_opts(1460, true, -1))

static UNUSED void script_passive(struct script *s, struct pb_tcp_opts o)
{
	CHECK_EQ(script_listen(s, 4), 0);
	IN_OK(.f = S, .o = o);
	OUT(.f = S | A, .ack = 1);
	IN_OK(.f = A, .seq = 1, .ack = 1);
	NONE_OUT();
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	STATE(ESTABLISHED);
}
#define PASSIVE() script_passive(s, syn_opts(1460, true, -1))

/* A connection in any of the states; nothing is in flight but what the state says. In all of them the peer's next
 * byte is 1 (2 after its FIN) and ours 1 (2 after our FIN). LISTEN: h is the listener. */
static UNUSED void script_to(struct script *s, unsigned state)
{
	if (state == PB_TCP_CLOSED)
		return;
	if (state == PB_TCP_LISTEN) {
		CHECK_EQ(script_listen(s, 4), 0);
		s->h = s->l;
		return;
	}
	if (state == PB_TCP_SYN_SENT || state == PB_TCP_SYN_RCVD) {
		CHECK_EQ(script_connect(s), 0);
		OUT(.f = S);
		if (state == PB_TCP_SYN_RCVD) {
			IN_OK(.f = S, .o = syn_opts(1460, true, -1));
			OUT(.f = S | A, .ack = 1);
		}
		return;
	}
	ACTIVE();
	bool peer_first = state == PB_TCP_CLOSE_WAIT || state == PB_TCP_LAST_ACK;
	if (peer_first) {
		IN_OK(.f = F | A, .seq = 1, .ack = 1);
		OUT(.f = A, .seq = 1, .ack = 2);
	}
	if (state == PB_TCP_ESTABLISHED || state == PB_TCP_CLOSE_WAIT)
		return;
	SHUT(SHUT_WR);
	OUT(.f = F | A, .seq = 1, .ack = peer_first ? 2 : 1);
	if (state == PB_TCP_CLOSING || state == PB_TCP_TIME_WAIT) {
		IN_OK(.f = F | A, .seq = 1, .ack = state == PB_TCP_CLOSING ? 1 : 2);
		OUT(.f = A, .seq = 2, .ack = 2);
	} else if (state == PB_TCP_FIN_WAIT_2) {
		IN_OK(.f = A, .seq = 1, .ack = 2);
		NONE_OUT();
	}
}

/* Time is set so that the next connection of this tuple gets this ISN. */
static UNUSED void script_set_iss(struct script *s, uint32_t iss)
{
	CHECK_EQ(script_connect(s), 0);
	struct seen *o = NEXT();
	CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns), 0);
	FORGET();
	if (o)
		s->now_ns += (uint64_t)(iss - o->v.seq) * 4000;
}
#endif
