/* Drives one engine by a script of bytes: segments of a peer relative to where the connection is, time, calls of the
 * application, completions in any order. After each step pb_tcp_check() must hold; the stream must arrive once and in
 * order, the right edge of the advertised window must never move left, and at the end every frame must be FREE.
 *
 * A libFuzzer target: link it with csrc/{base,mem,wire,cc,tcp} under -DPB_DEBUG -fsanitize=fuzzer,address,undefined,
 * and run it on a scratch directory followed by tests/fuzz/corpus/tcp. */
#include "tcp/tcp.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define HOLDS(cond) ((cond) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond), __builtin_trap()))
#define FRAMES 128
#define IN_DEV 256
#define APP_MAX 8

struct fuzz {
	struct pb_pool *pool;
	struct pb_pool_cache *cache;
	struct pb_tcp *e;
	struct pb_ip us, peer;
	uint64_t now_ns;
	pb_tcp_handle h, l;
	bool open;
	uint32_t snd, una;  /* the engine's: next it sends and oldest not acknowledged by the peer */
	uint32_t irs;       /* the peer's */
	uint32_t rcv, edge; /* what the engine acknowledged, and its window's right edge */
	bool synced;        /* the engine told where it is */
	uint8_t wscale;
	bool ts;
	uint32_t ts_val, ts_ecr;
	uint64_t read; /* bytes the application got */
	uint64_t dev[IN_DEV];
	uint32_t ndev;
	uint64_t held[APP_MAX];
	uint32_t nheld;
	const uint8_t *p, *end;
};

static uint8_t take(struct fuzz *f)
{
	return f->p < f->end ? *f->p++ : 0;
}

static uint8_t rx_byte(uint32_t i)
{
	return (uint8_t)(i * 11 + (i >> 8) * 3 + (i >> 16));
}

/* A new connection of the engine: everything that the peer knows starts anew. */
static void renew(struct fuzz *f)
{
	f->synced = false;
	f->irs = (uint32_t)(f->now_ns * 2654435761u);
	f->rcv = f->edge = 0;
	f->wscale = 0;
	f->read = 0;
}

static void see(struct fuzz *f, const struct pb_desc *d)
{
	const uint8_t *ip = pb_pool_data(f->pool, d);
	struct pb_ip_view v;
	struct pb_tcp_view t;
	struct pb_tcp_opts o;
	HOLDS(!pb_ip_parse(ip, d->len, &v) && v.total_len == d->len);
	uint32_t n = v.total_len - v.hdr_len;
	HOLDS(!pb_tcp_parse(ip + v.hdr_len, n, &t));
	HOLDS(pb_tcp_csum_ok(ip + v.hdr_len, n, &v.src, &v.dst));
	HOLDS(!pb_tcp_opts_parse(t.opts, t.opts_len, &o));
	if (t.flags & PB_TCP_RST)
		return;
	if (t.flags & PB_TCP_SYN) {
		/* A connection begins, or says so again: the peer's stream starts behind the SYN that it acknowledges.
		 */
		f->una = t.seq;
		f->snd = t.seq + 1;
		f->synced = false;
		if (t.flags & PB_TCP_ACK)
			f->irs = t.ack - 1;
		f->wscale = o.has_wscale ? o.wscale : 0;
		f->ts = o.has_ts;
	}
	if (o.has_ts)
		f->ts_ecr = o.ts_val;
	uint32_t end = t.seq + n - t.hdr_len + !!(t.flags & PB_TCP_FIN);
	if ((int32_t)(end - f->snd) > 0)
		f->snd = end;
	if (!(t.flags & PB_TCP_ACK))
		return;
	uint32_t edge = t.ack + ((uint32_t)t.wnd << (t.flags & PB_TCP_SYN ? 0 : f->wscale));
	HOLDS(!f->synced || (int32_t)(t.ack - f->rcv) >= 0);
	/* A FIN is taken at the edge of a closed window too. */
	HOLDS(!f->synced || (int32_t)(edge - f->edge) >= 0);
	f->rcv = t.ack;
	f->edge = edge;
	f->synced = true;
}

static void output(struct fuzz *f, int room)
{
	struct pb_desc d[PB_BURST_MAX];
	if (room > (int)(IN_DEV - f->ndev))
		room = (int)(IN_DEV - f->ndev);
	int n = pb_tcp_output(f->e, d, room, f->now_ns);
	HOLDS(n >= 0 && n <= room);
	for (int i = 0; i < n; i++) {
		pb_pool_move(f->cache, d[i].addr, PB_OWN_ENGINE, PB_OWN_TX);
		see(f, &d[i]);
		f->dev[f->ndev++] = d[i].addr;
	}
}

static void complete(struct fuzz *f, uint32_t which)
{
	if (!f->ndev)
		return;
	uint32_t i = which % f->ndev;
	pb_tcp_tx_done(f->e, &f->dev[i], 1);
	f->dev[i] = f->dev[--f->ndev];
}

static void events(struct fuzz *f)
{
	struct pb_tcp_event ev[4];
	int n = pb_tcp_events(f->e, ev, 4);
	for (int i = 0; i < n; i++)
		if ((ev[i].mask & PB_TCP_EV_GONE) && ev[i].conn == f->h)
			f->open = false;
}

static void fill_opts(struct fuzz *f, struct pb_tcp_opts *o, uint8_t how, uint8_t flags)
{
	if (flags & PB_TCP_SYN) {
		o->has_mss = !(how & 1);
		o->mss = (uint16_t)(how & 2 ? 100 : 1460);
		o->sack_ok = !(how & 4);
		o->has_wscale = true; /* so that what was offered is what is used */
		o->wscale = how >> 4;
	}
	if ((flags & PB_TCP_SYN) ? !(how & 64) : f->ts && (how & 7) != 7) {
		o->has_ts = true;
		o->ts_val = f->ts_val + ((how & 56) == 56 ? 0x80000000u : 0);
		o->ts_ecr = f->ts_ecr;
	}
	if (!(flags & PB_TCP_SYN) && (how & 128)) {
		o->n_sack = 1 + (how & 1);
		uint32_t at = take(f) * 100u, len = take(f) * 50u;
		for (unsigned i = 0; i < o->n_sack; i++) {
			o->sack[i].left = f->una + at + i * 3000;
			o->sack[i].right = o->sack[i].left + len;
		}
	}
}

/* A segment: offsets are small around the state, or anywhere. */
static void inject(struct fuzz *f)
{
	static const uint8_t flags[16] = {0x10, 0x10, 0x10, 0x18, 0x11, 0x02, 0x12, 0x04,
					  0x14, 0x19, 0x10, 0x11, 0x30, 0x00, 0x13, 0x10};
	uint64_t addr;
	uint8_t kind = take(f), fl = flags[kind & 15], opts[PB_TCP_OPTS_MAX];
	int8_t soff = (int8_t)take(f), aoff = (int8_t)take(f);
	uint8_t lenc = take(f), wnd = take(f);
	struct pb_tcp_opts o = {0};
	fill_opts(f, &o, take(f), fl);
	if (!pb_pool_get(f->cache, &addr, 1, 0, PB_OWN_RX))
		return;
	/* Data lie in the peer's stream where their sequence numbers say. */
	uint32_t next = f->synced ? f->rcv : f->irs;
	uint32_t seq = next + (kind & 16 ? (uint32_t)soff * 300u : kind & 32 ? (uint32_t)soff : 0);
	uint32_t ack = (kind & 64 ? f->una : f->snd) + (kind & 128 ? (uint32_t)aoff * 100u : 0);
	if ((fl & PB_TCP_SYN) && (!f->synced || !(kind & 48)))
		seq = f->irs;
	uint32_t len = fl & PB_TCP_SYN ? 0 : (lenc & 128 ? (lenc & 127u) * 11 : lenc & 15u);
	/* The ISN's clock ticks: nobody knows the next ISN (RFC 6528). */
	if (fl & PB_TCP_SYN)
		f->now_ns += 20000;
	uint32_t nopts = pb_tcp_opts_write(opts, &o);
	struct pb_desc d = {.addr = addr, .off = 100};
	uint8_t *ip = pb_pool_data(f->pool, &d), *tcp = ip + PB_IP4_HLEN;
	uint32_t total = PB_TCP_HLEN + nopts + len;
	pb_ip4_write(ip, &f->peer, &f->us, PB_IPPROTO_TCP, 64, 0, 0, true, total);
	pb_tcp_write(tcp, 2000, 1000, seq, ack, fl, (uint16_t)(wnd * 257), nopts);
	memcpy(tcp + PB_TCP_HLEN, opts, nopts);
	for (uint32_t i = 0; i < len; i++)
		tcp[PB_TCP_HLEN + nopts + i] = rx_byte(seq + i - f->irs - 1);
	pb_tcp_set_csum(tcp, total, &f->peer, &f->us);
	d.len = (uint16_t)(PB_IP4_HLEN + total);
	struct pb_tcp_verdict v;
	pb_tcp_input(f->e, &d, 1, f->now_ns, &v);
	if (v.what != PB_VERDICT_TAKEN)
		pb_pool_put(f->cache, addr, PB_OWN_RX);
	if ((fl & PB_TCP_ACK) && (int32_t)(ack - f->una) > 0 && (int32_t)(f->snd - ack) >= 0)
		f->una = ack;
}

static void check_bytes(struct fuzz *f, const uint8_t *p, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		HOLDS(p[i] == rx_byte((uint32_t)(f->read + i)));
	f->read += n;
}

static void app_recv(struct fuzz *f, uint8_t how)
{
	uint8_t buf[2048];
	struct pb_desc d;
	if (how & 1) {
		int64_t n = pb_tcp_recv(f->e, f->h, buf, 1 + how * 8u, f->now_ns);
		if (n > 0)
			check_bytes(f, buf, (uint32_t)n);
	} else if (f->nheld < APP_MAX && pb_tcp_recv_frames(f->e, f->h, &d, 1) == 1) {
		check_bytes(f, pb_pool_data(f->pool, &d), d.len);
		f->held[f->nheld++] = d.addr;
	}
}

static void app_release(struct fuzz *f)
{
	if (!f->nheld)
		return;
	pb_pool_put(f->cache, f->held[--f->nheld], PB_OWN_APP);
	pb_tcp_consumed(f->e, f->h, 1);
}

static void app_send(struct fuzz *f, uint8_t how)
{
	static const uint8_t zeros[8192];
	uint64_t addr;
	if (how & 1) {
		pb_tcp_send(f->e, f->h, zeros, how * 32u, 0);
		return;
	}
	if (!pb_pool_get(f->cache, &addr, 1, 40, PB_OWN_APP))
		return;
	struct pb_desc d = {.addr = addr, .off = PB_TCP_HEADROOM + (how & 6), .len = (uint16_t)(how * 7u)};
	memset(pb_pool_data(f->pool, &d), 0, d.len);
	uint32_t sum = 0;
	if (pb_tcp_send_frames(f->e, f->h, &d, &sum, 1) != 1)
		pb_pool_put(f->cache, addr, PB_OWN_APP);
}

static void app_open(struct fuzz *f, uint8_t how)
{
	struct pb_tcp_endpoint us = {f->us, 1000}, peer = {f->peer, 2000};
	if (how & 1) {
		if (!f->open && !pb_tcp_accept(f->e, f->l, &f->h)) {
			f->open = true;
			f->read = 0;
		}
		return;
	}
	pb_tcp_handle h;
	if (!f->open && !pb_tcp_connect(f->e, &us, &peer, f->now_ns, &h)) {
		renew(f);
		f->h = h;
		f->open = true;
	}
}

static void icmp(struct fuzz *f, uint8_t how)
{
	struct pb_tcp_endpoint us = {f->us, 1000}, peer = {f->peer, 2000};
	pb_tcp_icmp(f->e, &us, &peer, f->una + (how & 3), how & 4 ? 111 : 0, how & 4 ? 0 : how * 6u, f->now_ns);
}

static void step(struct fuzz *f)
{
	uint8_t op = take(f);
	switch (op & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
		inject(f);
		break;
	case 4: {
		uint64_t t = pb_tcp_next_deadline(f->e);
		f->now_ns += op & 16 && t != UINT64_MAX && t > f->now_ns ? t - f->now_ns : take(f) * 1000000ull;
		f->ts_val = (uint32_t)(f->now_ns / 1000000);
		pb_tcp_expire(f->e, f->now_ns);
		break;
	}
	case 5:
		app_send(f, take(f));
		break;
	case 6:
		app_recv(f, take(f));
		break;
	case 7:
		app_release(f);
		break;
	case 8:
		pb_tcp_shutdown(f->e, f->h, op & 16 ? SHUT_WR : op & 32 ? SHUT_RD : SHUT_RDWR, f->now_ns);
		break;
	case 9:
		if (op & 16)
			pb_tcp_close(f->e, f->h, f->now_ns);
		else if (op & 32)
			pb_tcp_abort(f->e, f->h, f->now_ns);
		break;
	case 10:
		complete(f, take(f));
		break;
	case 11:
		app_open(f, op >> 4);
		break;
	case 12:
		icmp(f, take(f));
		break;
	case 13:
		events(f);
		break;
	case 14:
		pb_tcp_set_option(f->e, f->h, PB_TCP_O_KEEPALIVE_IDLE_NS, op & 16 ? 1000000000 : 0, f->now_ns);
		pb_tcp_set_nagle(f->e, f->h, op & 32);
		break;
	default:
		output(f, op & 16 ? 2 : PB_BURST_MAX);
		break;
	}
}

static bool start(struct fuzz *f, uint8_t how)
{
	int err;
	struct pb_tcp_config c;
	uint8_t a[4] = {10, 0, 0, 1}, b[4] = {10, 0, 0, 2};
	pb_tcp_config_default(&c);
	c.max_conns = 2;
	c.max_listeners = 1;
	c.ooo_segs = 8;
	c.reserve_frames = 16;
	c.rcvbuf_bytes = how & 1 ? 4096 : how & 2 ? 1 << 20 : 30000;
	c.sndbuf_bytes = 65536;
	c.timestamps = how & 4;
	c.sack = how & 8;
	c.wscale = how & 16;
	c.nagle = how & 32;
	f->us = pb_ip_from4(a);
	f->peer = pb_ip_from4(b);
	/* Half of the runs begin where the sequence numbers wrap within the script. */
	f->now_ns = how & 64 ? 1000000000ull : 17179869184000ull - 2000000;
	f->pool = pb_pool_create(FRAMES, 2048, PB_WANT_4K, &err);
	f->cache = f->pool ? pb_pool_cache_create(f->pool, &err) : NULL;
	f->e = f->cache ? pb_tcp_create(&c, f->cache, &err) : NULL;
	renew(f);
	struct pb_tcp_endpoint us = {f->us, 1000};
	return f->e && (how & 128 || !pb_tcp_listen(f->e, &us, 2, &f->l));
}

static void finish(struct fuzz *f)
{
	struct pb_pool_info info;
	while (f->ndev)
		complete(f, 0);
	while (f->nheld)
		pb_pool_put(f->cache, f->held[--f->nheld], PB_OWN_APP);
	pb_tcp_destroy(f->e);
	pb_pool_cache_destroy(f->cache);
	pb_pool_info(f->pool, &info);
	HOLDS(!info.violations);
	HOLDS(info.own[PB_OWN_FREE] == FRAMES);
	pb_pool_unref(f->pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz f = {.p = data, .end = data + size};
	if (size > 4096 || !start(&f, take(&f)))
		return 0;
	while (f.p < f.end) {
		step(&f);
		int line = pb_tcp_check(f.e);
		if (line) {
			fprintf(stderr, "pb_tcp_check: line %d\n", line);
			__builtin_trap();
		}
	}
	finish(&f);
	return 0;
}
