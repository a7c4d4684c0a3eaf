/* An engine, and the device behind it that a test is: it catches each segment that comes out of pb_tcp_output(), of one
 * descriptor or of two, and may hold frames and give them back in any order, when it looks that nobody wrote to them.
 * pb_tcp_check() runs after every step. */
#ifndef PB_TEST_TCP_DEVICE_H
#define PB_TEST_TCP_DEVICE_H
#include "harness.h"
#include "tcp/tcp.h"
#include "wire/tcp.h"

#include <errno.h>
#include <sys/socket.h>

#define MS 1000000ull
#define SEC 1000000000ull
#define OUTS 256

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
	uint16_t d_flags; /* of what comes in */
	uint8_t verdict;  /* on what came last */
	bool ts;          /* the peer sends timestamps */
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
#endif
