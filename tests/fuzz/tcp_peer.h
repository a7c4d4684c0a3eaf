/* What tests/fuzz/fuzz_tcp.c needs beside its script: a peer that reads all that the engine sends and holds it against
 * what it promised, and that makes segments with the numbers of the connection as it is; a device that keeps what it
 * was given for as long as the script says, and looks whether it changed. */
#ifndef PB_FUZZ_TCP_PEER_H
#define PB_FUZZ_TCP_PEER_H
#include "tcp/tcp.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#include <stdio.h>
#include <stdlib.h>

#define HOLDS(cond) ((cond) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond), __builtin_trap()))
#define FRAMES 192
#define FILL 8 /* frames that the device has for what comes in, whatever the pool says */
#define IN_DEV 256
#define APP_MAX 8
#define SEGS 64
#define BATCH 8

struct sent {
	uint64_t addr;
	uint32_t sum;
	uint16_t off, len;
};

#define RECORDS 8u

struct held {
	struct pb_desc d;
	uint64_t at; /* in the stream */
};

struct fuzz {
	struct pb_pool *pool;
	struct pb_pool_cache *cache;
	struct pb_tcp *e;
	struct pb_tcp_config cfg;
	struct pb_ip us, peer;
	uint64_t now_ns;
	pb_tcp_handle h, l;
	bool open;
	uint32_t iss, snd, una; /* the engine's: its ISN, next it sends, oldest not acknowledged by the peer */
	uint32_t allowed;       /* rightmost edge of the windows that it was told */
	uint32_t irs;           /* the peer's */
	uint32_t rcv, edge;     /* what the engine acknowledged, and its window's right edge */
	uint32_t top;           /* highest sequence number of an ACK within it: where the engine takes a window from */
	bool synced;            /* the engine told where it is */
	uint16_t syn_wnd;       /* what its SYN without ACK offered; 0: there was none */
	bool scales;            /* the peer: its SYNs */
	uint8_t wscale, shift;  /* of its window, and of the peer's at most */
	bool ts;
	uint32_t ts_val, ts_ecr;
	uint64_t read, wrote;                /* bytes of the application */
	uint32_t records[RECORDS], nrecords; /* where the last records end in what it wrote; how many there were */
	struct sent dev[IN_DEV];
	uint32_t ndev;
	uint64_t fill[FILL];
	uint32_t nfill;
	struct held held[APP_MAX];
	uint32_t nheld;
	struct {
		uint32_t left, right;
	} segs[SEGS]; /* of data that the peer has not acknowledged */
	uint32_t nsegs;
	struct pb_desc batch[BATCH];
	int nbatch;
	uint64_t seen, given; /* segments out of the engine, and into it */
	uint64_t trace_ns, trace_conn, trace_delivered;
	const uint8_t *p, *end;
};

static inline uint8_t take(struct fuzz *f)
{
	return f->p < f->end ? *f->p++ : 0;
}

static inline uint8_t rx_byte(uint32_t i)
{
	return (uint8_t)(i * 11 + (i >> 8) * 3 + (i >> 16));
}

static inline uint8_t tx_byte(uint32_t i)
{
	return (uint8_t)(i * 7 + (i >> 8) * 13 + (i >> 16) + 1);
}

static inline bool before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

/* ---- the device ---- */

static uint32_t sum_of(const uint8_t *p, uint32_t n)
{
	uint32_t sum = 2166136261u;
	for (uint32_t i = 0; i < n; i++)
		sum = (sum ^ p[i]) * 16777619u;
	return sum;
}

/* Frames for what comes in, as many as can be had. */
static inline void refill(struct fuzz *f)
{
	while (f->nfill < FILL && pb_pool_get(f->cache, &f->fill[f->nfill], 1, 0, PB_OWN_FILL))
		f->nfill++;
}

/* No frame is given to the device twice unless that was granted and is said, and none changes while the device has it.
 */
static void device_take(struct fuzz *f, const struct pb_desc *d)
{
	uint32_t refs = 0;
	for (uint32_t i = 0; i < f->ndev; i++)
		refs += f->dev[i].addr == pb_pool_frame(f->pool, d->addr);
	HOLDS(!(d->flags & PB_DESC_AGAIN) == !refs && refs < PB_DESC_REFS_MAX && (!refs || f->cfg.tx_chains));
	pb_pool_send(f->cache, d, PB_OWN_ENGINE);
	f->dev[f->ndev++] = (struct sent){pb_pool_frame(f->pool, d->addr), sum_of(pb_pool_data(f->pool, d), d->len),
					  d->off, d->len};
}

static void complete(struct fuzz *f, uint32_t which)
{
	if (!f->ndev)
		return;
	struct sent *s = &f->dev[which % f->ndev];
	struct pb_desc d = {.addr = s->addr, .off = s->off, .len = s->len};
	HOLDS(sum_of(pb_pool_data(f->pool, &d), d.len) == s->sum);
	pb_tcp_tx_done(f->e, &s->addr, 1);
	*s = f->dev[--f->ndev];
	refill(f);
}

/* ---- what the engine sends ---- */

/* A new connection of the engine: everything that the peer knows starts anew. */
static inline void renew(struct fuzz *f)
{
	f->synced = false;
	f->syn_wnd = 0;
	f->irs = (uint32_t)(f->now_ns * 2654435761u);
	f->rcv = f->edge = 0;
	f->wscale = 0;
	f->read = f->wrote = 0;
	f->nrecords = 0;
}

static void forget_acked(struct fuzz *f)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < f->nsegs; i++)
		if (before(f->una, f->segs[i].right))
			f->segs[n++] = f->segs[i];
	f->nsegs = n;
}

static void see_syn(struct fuzz *f, const struct pb_tcp_view *t, const struct pb_tcp_opts *o)
{
	/* A connection begins, or says so again: the peer's stream starts behind the SYN that it acknowledges. What a
	 * SYN offers stands from there. */
	bool again = f->iss == t->seq && (t->flags & PB_TCP_ACK);
	f->syn_wnd = t->flags & PB_TCP_ACK ? again ? f->syn_wnd : 0 : t->wnd;
	f->synced = f->synced && again && f->irs == t->ack - 1;
	f->iss = f->una = t->seq;
	f->snd = f->allowed = t->seq + 1;
	f->nsegs = 0;
	if (t->flags & PB_TCP_ACK)
		f->irs = t->ack - 1;
	f->wscale = o->has_wscale && f->scales ? o->wscale : 0; /* RFC 7323 2.2: both, or neither */
	f->ts = o->has_ts;
}

/* The stream of the application, within the window, and in the same bytes each time. */
static void see_data(struct fuzz *f, const struct pb_tcp_view *t, const uint8_t *p, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		HOLDS(p[i] == tx_byte(t->seq + i - f->iss - 1));
	HOLDS(n <= f->cfg.mtu && !before(f->allowed, t->seq + n));
	/* No segment goes over the end of a record. */
	uint32_t at = t->seq - f->iss - 1;
	for (uint32_t i = 0; i < f->nrecords && i < RECORDS; i++)
		HOLDS(!before(at, f->records[i]) || !before(f->records[i], at + n));
	bool next = !f->nsegs || !before(t->seq, f->segs[f->nsegs - 1].right);
	if (f->nsegs < SEGS && next) {
		f->segs[f->nsegs].left = t->seq;
		f->segs[f->nsegs++].right = t->seq + n;
	}
}

static void see_ack(struct fuzz *f, const struct pb_tcp_view *t)
{
	uint32_t edge = t->ack + ((uint32_t)t->wnd << (t->flags & PB_TCP_SYN ? 0 : f->wscale));
	HOLDS(!f->synced || !before(t->ack, f->rcv));
	/* Not by a byte. But a SYN-ACK that is sent again cannot say more than what is not scaled (RFC 7323 2.2). */
	bool most = (t->flags & PB_TCP_SYN) && t->wnd == 65535;
	HOLDS(most || !before(edge, f->synced ? f->edge : f->irs + 1 + f->syn_wnd));
	f->rcv = t->ack;
	if (!f->synced || before(f->edge, edge))
		f->edge = edge;
	if (before(f->top, f->rcv) || before(f->edge, f->top))
		f->top = f->rcv;
	f->synced = true;
}

/* The packet of k descriptors and len bytes. */
static void see(struct fuzz *f, const struct pb_desc *d, uint32_t k, uint32_t len)
{
	static uint8_t whole[65536];
	for (uint32_t i = 0, at = 0; i < k; at += d[i++].len)
		memcpy(whole + at, pb_pool_data(f->pool, &d[i]), d[i].len);
	const uint8_t *ip = whole;
	struct pb_ip_view v;
	struct pb_tcp_view t;
	struct pb_tcp_opts o;
	HOLDS(!pb_ip_parse(ip, len, &v) && v.total_len == len && len <= f->cfg.mtu);
	uint32_t n = v.total_len - v.hdr_len;
	HOLDS(!pb_tcp_parse(ip + v.hdr_len, n, &t));
	HOLDS(pb_tcp_csum_ok(ip + v.hdr_len, n, &v.src, &v.dst));
	HOLDS(!pb_tcp_opts_parse(t.opts, t.opts_len, &o));
	f->seen++;
	if (t.flags & PB_TCP_RST)
		return;
	if (t.flags & PB_TCP_SYN)
		see_syn(f, &t, &o);
	if (o.has_ts)
		f->ts_ecr = o.ts_val;
	n -= t.hdr_len;
	HOLDS(!n || (t.flags & PB_TCP_ACK));
	if (n)
		see_data(f, &t, ip + v.hdr_len + t.hdr_len, n);
	uint32_t end = t.seq + n + !!(t.flags & PB_TCP_FIN);
	if (before(f->snd, end))
		f->snd = end;
	for (unsigned i = 0; i < o.n_sack; i++) {
		HOLDS(before(o.sack[i].left, o.sack[i].right));
		/* Only the first block may lie below the ACK, or say again what a later one says (RFC 2883). */
		HOLDS(!i || before(t.ack, o.sack[i].left));
	}
	if (t.flags & PB_TCP_ACK)
		see_ack(f, &t);
}

static void output(struct fuzz *f, int room)
{
	struct pb_desc d[PB_BURST_MAX];
	if (room > (int)(IN_DEV - f->ndev))
		room = (int)(IN_DEV - f->ndev);
	int n = pb_tcp_output(f->e, d, room, f->now_ns);
	HOLDS(n >= 0 && n <= room);
	uint32_t k, len;
	for (int i = 0; i < n; i += (int)k) {
		k = pb_desc_packet(&d[i], (uint32_t)(n - i), &len);
		HOLDS(k && k <= 2 && !(d[i].flags & PB_DESC_AGAIN));
		for (uint32_t j = 0; j < k; j++)
			device_take(f, &d[i + (int)j]);
		see(f, &d[i], k, len);
	}
}

/* ---- what the peer sends ---- */

/* All that waits goes in as one burst. */
static void flush(struct fuzz *f)
{
	struct pb_tcp_verdict v[BATCH];
	if (!f->nbatch)
		return;
	pb_tcp_input(f->e, f->batch, f->nbatch, f->now_ns, v);
	f->given += (uint64_t)f->nbatch;
	for (int i = 0; i < f->nbatch; i++)
		if (v[i].what != PB_VERDICT_TAKEN)
			pb_pool_put(f->cache, f->batch[i].addr, PB_OWN_RX);
	f->nbatch = 0;
	refill(f);
}

struct segment {
	uint32_t seq, ack, len;
	uint16_t wnd;
	uint8_t flags, ecn;
	struct pb_tcp_opts o;
};

/* To the burst that waits. Data lie in the peer's stream where their sequence numbers say. */
static void put_segment(struct fuzz *f, const struct segment *g)
{
	uint8_t opts[PB_TCP_OPTS_MAX];
	if (!f->nfill)
		return;
	uint64_t addr = f->fill[--f->nfill];
	pb_pool_move(f->cache, addr, PB_OWN_FILL, PB_OWN_RX);
	uint32_t nopts = pb_tcp_opts_write(opts, &g->o), total = PB_TCP_HLEN + nopts + g->len;
	struct pb_desc d = {.addr = addr, .off = 100};
	uint8_t *ip = pb_pool_data(f->pool, &d);
	uint8_t *tcp =
		ip + (pb_ip_is4(&f->us) ? pb_ip4_write(ip, &f->peer, &f->us, PB_IPPROTO_TCP, 64, g->ecn, 0, true, total)
					: pb_ip6_write(ip, &f->peer, &f->us, PB_IPPROTO_TCP, 64, g->ecn, 0, total));
	pb_tcp_write(tcp, 2000, 1000, g->seq, g->ack, g->flags, g->wnd, nopts);
	memcpy(tcp + PB_TCP_HLEN, opts, nopts);
	for (uint32_t i = 0; i < g->len; i++)
		tcp[PB_TCP_HLEN + nopts + i] = rx_byte(g->seq + i - f->irs - 1);
	pb_tcp_set_csum(tcp, total, &f->peer, &f->us);
	d.len = (uint16_t)((uint32_t)(tcp - ip) + total);
	f->batch[f->nbatch++] = d;
	if (g->o.has_wscale && f->cfg.wscale && g->o.wscale > f->shift)
		f->shift = g->o.wscale;
	if (!(g->flags & PB_TCP_ACK) || before(f->snd, g->ack))
		return;
	/* Before the engine told, its window is that of a SYN. */
	uint32_t limit = f->synced ? f->edge : f->irs + 65536;
	if (!before(limit, g->seq) && (before(f->top, g->seq) || before(limit, f->top)))
		f->top = g->seq;
	uint32_t edge = g->ack + ((uint32_t)g->wnd << (g->flags & PB_TCP_SYN ? 0 : f->shift));
	if (before(f->allowed, edge))
		f->allowed = edge;
	if (before(f->una, g->ack))
		f->una = g->ack;
	forget_acked(f);
}

static void put_ts(struct fuzz *f, struct pb_tcp_opts *o)
{
	o->has_ts = true;
	o->ts_val = f->ts_val;
	o->ts_ecr = f->ts_ecr;
}

/* ---- both ends of a stream, and the trace ---- */

static void check_bytes(struct fuzz *f, const uint8_t *p, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		HOLDS(p[i] == rx_byte((uint32_t)(f->read + i)));
	f->read += n;
}

static void check_trace(struct fuzz *f)
{
	struct pb_tcp_trace t[16];
	uint64_t lost;
	int n = pb_tcp_trace_read(f->e, t, 16, &lost);
	HOLDS(f->cfg.trace_records ? n <= 16 : !n && !lost);
	for (int i = 0; i < n; i++) {
		HOLDS(t[i].time_ns >= f->trace_ns && t[i].time_ns <= f->now_ns);
		HOLDS(t[i].conn && t[i].event < PB_TCP_T_COUNT && t[i].ca_state <= PB_TCP_CA_LOSS);
		HOLDS(t[i].tcp_state > PB_TCP_LISTEN && t[i].tcp_state < PB_TCP_STATE_COUNT && t[i].cwnd_bytes);
		HOLDS(t[i].conn != f->trace_conn || t[i].delivered_bytes >= f->trace_delivered);
		f->trace_ns = t[i].time_ns;
		f->trace_conn = t[i].conn;
		f->trace_delivered = t[i].delivered_bytes;
	}
}

static void check_counters(struct fuzz *f)
{
	const struct pb_tcp_stats *s = pb_tcp_get_stats(f->e);
	const uint64_t *n = s->n;
	/* A SYN-ACK that is sent again is in both, as in Linux. */
	uint64_t both = n[PB_C_TcpOutSegs] + n[PB_C_TcpRetransSegs] - f->seen;
	HOLDS(n[PB_C_TcpInSegs] == f->given && both <= n[PB_C_TcpExtTCPSynRetrans]);
	HOLDS(n[PB_C_TcpOutRsts] <= f->seen && n[PB_C_TcpExtTCPDeliveredCE] <= n[PB_C_TcpExtTCPDelivered]);
	HOLDS(n[PB_C_TcpExtTCPFastRetrans] + n[PB_C_TcpExtTCPSlowStartRetrans] <= n[PB_C_TcpRetransSegs]);
	HOLDS(n[PB_C_RetransChained] + n[PB_C_RetransCopied] <= n[PB_C_TcpRetransSegs]);
	HOLDS(f->cfg.tx_chains || !n[PB_C_RetransChained]);
	HOLDS(n[PB_C_TcpExtTCPSYNChallenge] + n[PB_C_TcpExtTCPPureAcks] <= 2 * f->given);
}
#endif
