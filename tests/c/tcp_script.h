/* An engine and a hand-made peer: segments go straight into pb_tcp_input(), and each segment that comes out of
 * pb_tcp_output() must be the expected one. Sequence numbers are relative: `seq` of IN and `ack` of OUT to the peer's
 * ISN, `ack` of IN and `seq` of OUT to the engine's. So a SYN has seq 0 and the first byte of data seq 1. Each byte of
 * payload follows from its place in the stream. The engine is in tcp_device.h. */
#ifndef PB_TEST_TCP_SCRIPT_H
#define PB_TEST_TCP_SCRIPT_H
#include "tcp_device.h"

enum { F = PB_TCP_FIN, S = PB_TCP_SYN, R = PB_TCP_RST, P = PB_TCP_PSH, A = PB_TCP_ACK };
#define ZERO (-1) /* as wnd: a closed window; 0 is the default one */
#define ANY (-2)  /* as wnd of OUT: not compared */
#define WND 60000

struct sg {
	uint8_t f;
	uint32_t seq, ack;
	uint32_t len;
	int wnd;
	struct pb_tcp_opts o;
	bool no_ts;   /* IN: without the timestamp that the connection would carry */
	uint8_t evil; /* IN: xor of the payload */
};

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
	struct pb_desc d = {.addr = addr, .off = 64, .len = (uint16_t)len, .flags = s->d_flags};
	memcpy(pb_pool_data(s->pool, &d), p, len);
	pb_tcp_input(s->e, &d, 1, s->now_ns, &v);
	if (v.what != PB_VERDICT_TAKEN)
		pb_pool_put(s->cache, addr, PB_OWN_RX);
	s->verdict = v.what;
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
