/* Drives one engine by a script of bytes: six for the configuration, then steps: segments of a peer relative to where
 * the connection is, time, calls of the application, completions in any order. After each step pb_tcp_check() must
 * hold. The streams of both directions must arrive once and in order, the right edge of the advertised window must
 * not move left, nothing may be sent beyond the peer's, no frame may change while the device has it; and when the
 * script is at its end, a peer that acknowledges everything must get all that was sent. Then every frame must be FREE.
 *
 * A libFuzzer target: link it with csrc/{base,mem,wire,net,cc,tcp} under -DPB_DEBUG
 * -fsanitize=fuzzer,address,undefined, and run it on a scratch directory followed by tests/fuzz/corpus/tcp, which
 * tools/make_tcp_corpus.py writes. */
#include "tcp_app.h"

#include "cc/cc.h"

#include <sys/socket.h>

/* A cwnd of one segment of 64 bytes needs that many. */
#define LAST_ROUNDS 20000

static void syn_opts(struct fuzz *f, struct pb_tcp_opts *o, uint8_t how)
{
	o->has_mss = !(how & 1);
	o->mss = (uint16_t)(how & 2 ? 100 : 1460);
	o->sack_ok = !(how & 4);
	o->has_wscale = f->scales; /* always or never, so that what was offered is what is used */
	o->wscale = (how >> 4) & 3 ? (uint8_t)((how >> 4) & 3) * 3 : 14;
	if (!(how & 64))
		put_ts(f, o);
}

/* A block is named by segments that the peer did not acknowledge: the first, and how many. */
static void sack_opts(struct fuzz *f, struct pb_tcp_opts *o, uint8_t how)
{
	o->n_sack = how & 3;
	for (unsigned i = 0; i < o->n_sack; i++) {
		uint8_t at = take(f);
		uint32_t first = at & 15, last = first + (at >> 4 & 7);
		if (at & 128 || first >= f->nsegs) { /* anywhere */
			o->sack[i].left = f->una + (uint32_t)(int8_t)(at << 1) * 50u;
			o->sack[i].right = o->sack[i].left + 100;
			continue;
		}
		last = last < f->nsegs ? last : f->nsegs - 1;
		o->sack[i].left = f->segs[first].left;
		o->sack[i].right = f->segs[last].right;
	}
	if (how & 4) { /* the first says that something came twice (RFC 2883) */
		o->n_sack += o->n_sack < 3;
		uint8_t at = take(f);
		o->sack[0].left = f->una - (at & 15) * 100u - 1;
		o->sack[0].right = o->sack[0].left + (at >> 4) * 100u + 1;
	}
}

/* A segment: numbers are where the connection is, near it, or anywhere. */
static void inject(struct fuzz *f)
{
	static const uint8_t flags[16] = {0x10, 0x10, 0x10, 0x18, 0x11, 0x02, 0x12, 0x04,
					  0x14, 0x19, 0x10, 0x11, 0x30, 0x00, 0x13, 0x10};
	uint8_t kind = take(f), where = take(f);
	struct segment g = {.flags = flags[kind & 15]};
	int8_t off = (int8_t)take(f);
	uint8_t lenc = take(f), wnd = take(f), how = take(f);
	bool syn = g.flags & PB_TCP_SYN;
	if (syn)
		syn_opts(f, &g.o, how);
	else
		sack_opts(f, &g.o, how);
	if (!syn && f->ts && !(how & 8))
		put_ts(f, &g.o);
	if (!syn && how & 16)
		g.o.ts_val -= 1000;
	g.flags |=
		(uint8_t)((how & 32 && !syn ? PB_TCP_ECE : 0) | (where & 64 ? PB_TCP_CWR | (syn ? PB_TCP_ECE : 0) : 0));
	g.ecn = where & 128 ? PB_ECN_CE : where & 32 ? PB_ECN_ECT0 : 0;
	uint32_t next = f->synced ? f->rcv : f->irs;
	g.seq = next + (kind & 16 ? (uint32_t)off * 300u : kind & 32 ? (uint32_t)off : 0);
	if (syn && (!f->synced || !(kind & 48)))
		g.seq = f->irs;
	switch (kind >> 6) {
	case 0:
		g.ack = f->snd;
		break;
	case 1:
		g.ack = f->una;
		break;
	case 2:
		g.ack = f->nsegs ? f->segs[(where & 31) % f->nsegs].right : f->una;
		break;
	default:
		g.ack = f->una + (uint32_t)(int8_t)(where << 3) * 50u;
		break;
	}
	g.len = syn ? 0 : lenc & 128 ? (lenc & 127u) * 11 : lenc & 15u;
	g.wnd = (uint16_t)(wnd * 257);
	/* The ISN's clock ticks: nobody knows the next ISN (RFC 6528). */
	if (syn)
		f->now_ns += 20000;
	put_segment(f, &g);
}

/* A handshake as a whole, so that scripts get to the states behind it. */
static void handshake(struct fuzz *f, bool active, uint8_t how)
{
	struct segment g = {.flags = active ? PB_TCP_SYN | PB_TCP_ACK : PB_TCP_SYN, .wnd = 65535};
	if (active)
		app_connect(f);
	output(f, PB_BURST_MAX);
	syn_opts(f, &g.o, how);
	g.flags |= how & 128 ? PB_TCP_ECE | (active ? 0 : PB_TCP_CWR) : 0;
	f->now_ns += 20000;
	g.seq = f->irs;
	g.ack = active ? f->snd : 0;
	put_segment(f, &g);
	flush(f);
	output(f, PB_BURST_MAX);
	if (active)
		return;
	struct segment a = {.flags = PB_TCP_ACK, .seq = f->irs + 1, .ack = f->snd, .wnd = 65535};
	if (f->ts)
		put_ts(f, &a.o);
	put_segment(f, &a);
	flush(f);
	app_accept(f);
}

static void icmp(struct fuzz *f, uint8_t how)
{
	static const uint32_t mtus[8] = {0, 0, 68, 296, 576, 1006, 1280, 1492};
	static const int errors[4] = {0, 111, 113, 101};
	struct pb_tcp_endpoint us = {f->us, 1000}, peer = {f->peer, 2000};
	pb_tcp_icmp(f->e, &us, &peer, f->una + (how & 32 ? 0xfffffff0u : (how & 64) * 20u), errors[how >> 3 & 3],
		    mtus[how & 7], f->now_ns);
}

static void option(struct fuzz *f, uint8_t which, uint8_t how)
{
	static const int64_t values[16] = {0,           1,         2,         64,      100,      536,
					   2048,        4096,      40000,     1000000, 40000000, 1000000000,
					   60000000000, 1ll << 30, INT64_MAX, -1};
	if (which % (PB_TCP_O_COUNT + 2) > PB_TCP_O_COUNT) {
		pb_tcp_set_cc(f->e, f->h, how & 1 ? &pb_cc_newreno : how & 2 ? NULL : &pb_cc_cubic);
		return;
	}
	unsigned o = which % (PB_TCP_O_COUNT + 2);
	int64_t want = values[how & 15], got;
	int rc = pb_tcp_set_option(f->e, f->h, o, want, f->now_ns);
	HOLDS(o < PB_TCP_O_COUNT || rc);
	if (!rc && o != PB_TCP_O_MAXSEG && o != PB_TCP_O_TOS)
		HOLDS(!pb_tcp_get_option(f->e, f->h, o, &got) && (got == want || (o == PB_TCP_O_RCVBUF && got > want)));
}

static void pass_time(struct fuzz *f, uint64_t until_ns)
{
	if (until_ns > f->now_ns)
		f->now_ns = until_ns;
	f->ts_val = (uint32_t)(f->now_ns / 1000000);
	pb_tcp_expire(f->e, f->now_ns);
	HOLDS(pb_tcp_next_deadline(f->e) > f->now_ns);
}

static void step_call(struct fuzz *f, uint8_t op)
{
	switch (op & 15) {
	case 8:
		pb_tcp_shutdown(f->e, f->h, op & 16 ? SHUT_WR : op & 32 ? SHUT_RD : SHUT_RDWR, f->now_ns);
		break;
	case 9:
		if (op & 16)
			pb_tcp_close(f->e, f->h, f->now_ns);
		else if (op & 32)
			pb_tcp_abort(f->e, f->h, f->now_ns);
		else if (op & 64)
			app_listen_again(f, op & 128);
		break;
	case 10:
		complete(f, take(f));
		break;
	case 11:
		if (op & 128)
			handshake(f, op & 16, take(f));
		else if (op & 16)
			app_accept(f);
		else
			app_connect(f);
		break;
	case 12:
		icmp(f, take(f));
		break;
	case 13:
		events(f);
		break;
	case 14:
		option(f, op >> 4 | (uint8_t)(take(f) << 4), take(f));
		break;
	default:
		output(f, op & 16 ? 2 - (op >> 5 & 1) : PB_BURST_MAX);
		break;
	}
}

static void step(struct fuzz *f)
{
	uint8_t op = take(f);
	if ((op & 15) > 3 || f->nbatch == BATCH)
		flush(f);
	switch (op & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
		inject(f);
		if (!(op & 16)) /* else it waits for company */
			flush(f);
		break;
	case 4: {
		uint64_t due = pb_tcp_next_deadline(f->e);
		pass_time(f, op & 16 && due != UINT64_MAX ? due
			     : op & 32                    ? f->now_ns + take(f) * 10000ull
							  : f->now_ns + take(f) * 1000000ull);
		break;
	}
	case 5:
		app_send(f, op, take(f));
		break;
	case 6:
		app_recv(f, take(f));
		break;
	case 7:
		app_release(f);
		break;
	default:
		step_call(f, op);
		break;
	}
}

static void configure(struct fuzz *f, uint8_t *how)
{
	static const uint32_t rcvbufs[4] = {4096, 30000, 1 << 20, 1 << 30}, sndbufs[4] = {4096, 16384, 65536, 1 << 20};
	static const uint16_t clamps[4] = {0, 64, 536, 1400}, mtus[4] = {1500, 576, 1280, 1900};
	static const uint64_t rtos[4] = {200000000, 1000000, 10000000, 3000000000};
	struct pb_tcp_config *c = &f->cfg;
	pb_tcp_config_default(c);
	c->max_conns = 2;
	c->max_listeners = 1;
	c->reserve_frames = 32;
	c->timestamps = how[0] & 1;
	c->sack = how[0] & 2;
	c->wscale = how[0] & 4;
	c->nagle = how[0] & 8;
	c->ecn = (how[0] >> 4 & 3) % 3;
	c->rack = how[1] & 1;
	c->tlp = how[1] & 2;
	c->frto = how[1] & 4;
	c->dsack = how[1] & 8;
	c->rack_static = how[1] & 16;
	c->rack_no_dupthresh = how[1] & 32;
	c->slow_start_after_idle = how[1] & 64;
	c->pmtu_discovery = how[1] & 128;
	c->rcvbuf_bytes = rcvbufs[how[2] & 3];
	c->sndbuf_bytes = sndbufs[how[2] >> 2 & 3];
	c->mss_clamp = clamps[how[2] >> 4 & 3];
	c->mtu = mtus[how[2] >> 6];
	c->probing = (how[3] & 3) % 3;
	c->initial_cwnd_segs = (how[3] >> 2 & 3) * 5u;
	c->rto_min_ns = rtos[how[3] >> 4 & 3];
	c->acks = how[3] >> 6 & 1;
	c->cc = how[3] & 128 ? &pb_cc_newreno : &pb_cc_cubic;
	c->ooo_segs = how[4] & 3 ? 4u << (how[4] & 3) : 1;
	c->trace_records = how[4] & 4 ? 8 : 0;
	c->keepalive_idle_ns = how[4] & 8 ? 1000000000 : 0;
	c->user_timeout_ns = how[4] & 16 ? 5000000000 : 0;
	c->rcv_wscale = how[4] & 32 ? 7 : 0;
	c->reordering_segs = how[4] & 64 ? 1 : 3;
	c->challenge_ns = how[4] & 128 ? 0 : c->challenge_ns;
	c->tx_chains = how[5] & 8;
}

static bool start(struct fuzz *f)
{
	int err;
	uint8_t how[6], a4[4] = {10, 0, 0, 1}, b4[4] = {10, 0, 0, 2}, a6[16] = {0xfd, [15] = 1},
			b6[16] = {0xfd, [15] = 2};
	for (unsigned i = 0; i < sizeof(how); i++)
		how[i] = take(f);
	configure(f, how);
	f->us = how[5] & 2 ? pb_ip_from6(a6) : pb_ip_from4(a4);
	f->peer = how[5] & 2 ? pb_ip_from6(b6) : pb_ip_from4(b4);
	/* Half of the runs begin where the sequence numbers wrap within the script. */
	f->now_ns = how[5] & 1 ? 1000000000ull : 17179869184000ull - 2000000;
	f->ts_val = (uint32_t)(f->now_ns / 1000000);
	f->scales = !(how[5] & 16);
	f->pool = pb_pool_create(FRAMES, 2048, PB_WANT_4K, &err);
	f->cache = f->pool ? pb_pool_cache_create(f->pool, &err) : NULL;
	f->e = f->cache ? pb_tcp_create(&f->cfg, f->cache, &err) : NULL;
	renew(f);
	refill(f);
	struct pb_tcp_endpoint us = {f->us, 1000};
	return f->e && (how[5] & 4 || !pb_tcp_listen(f->e, &us, 2, &f->l));
}

static void check(struct fuzz *f)
{
	int line = pb_tcp_check(f->e);
	if (line) {
		fprintf(stderr, "pb_tcp_check: line %d\n", line);
		__builtin_trap();
	}
	check_counters(f);
}

/* What came is acknowledged, half a second after it came at the latest (RFC 9293 3.8.6.3). */
static void all_acknowledged(struct fuzz *f)
{
	struct pb_tcp_info info;
	uint64_t until = f->now_ns + 500000000, due;
	output(f, PB_BURST_MAX);
	while ((due = pb_tcp_next_deadline(f->e)) <= until) {
		pass_time(f, due);
		output(f, PB_BURST_MAX);
		while (f->ndev)
			complete(f, 0);
	}
	if (pb_tcp_get_info(f->e, f->h, &info) || info.state == PB_TCP_CLOSED)
		return;
	bool fin = info.state >= PB_TCP_CLOSE_WAIT && info.state <= PB_TCP_TIME_WAIT;
	uint32_t got = f->rcv - f->irs - 1 - (uint32_t)info.bytes_received;
	HOLDS(got == 0 || (fin && got == 1));
}

/* From here on nothing is lost: what was queued must arrive, or the connection must have ended. */
static void drain(struct fuzz *f)
{
	struct pb_tcp_info info;
	uint64_t idle = 0, last = 0;
	/* A byte a second, or a probe each millisecond, would take too many rounds. */
	pb_tcp_set_option(f->e, f->h, PB_TCP_O_PACING_RATE, 0, f->now_ns);
	pb_tcp_set_option(f->e, f->h, PB_TCP_O_KEEPALIVE_IDLE_NS, 0, f->now_ns);
	for (int round = 0;; round++) {
		uint64_t due = pb_tcp_next_deadline(f->e);
		while (f->ndev)
			complete(f, 0);
		while (f->nheld)
			app_release(f);
		app_recv(f, 255);
		events(f);
		bool live = f->synced && f->open && !pb_tcp_get_info(f->e, f->h, &info) &&
			    info.state >= PB_TCP_ESTABLISHED && info.state != PB_TCP_TIME_WAIT;
		if (!live)
			return;
		if (!info.inflight_bytes && !info.unsent_bytes) {
			all_acknowledged(f);
			return;
		}
		HOLDS(round < LAST_ROUNDS);
		idle = info.bytes_acked == last ? idle + 1 : 0;
		last = info.bytes_acked;
		/* PAWS remembers the highest time that the script made up. */
		f->ts_val += idle % 8 == 7 ? 0x40000000u : 0;
		/* The script may have sent a window from anywhere in the engine's: none is older than one from its
		 * edge. */
		uint32_t seq[] = {f->rcv, f->top, f->rcv, f->edge - (f->edge != f->rcv)};
		struct segment g = {.flags = PB_TCP_ACK, .seq = seq[idle % 4], .ack = f->snd, .wnd = 65535};
		if (f->ts)
			put_ts(f, &g.o);
		put_segment(f, &g);
		flush(f);
		output(f, PB_BURST_MAX);
		if (idle > 2 && due != UINT64_MAX) {
			uint32_t ts = f->ts_val;
			pass_time(f, due);
			f->ts_val = before(f->ts_val, ts) ? ts : f->ts_val;
		}
		output(f, PB_BURST_MAX);
		check(f);
	}
}

static void finish(struct fuzz *f)
{
	struct pb_pool_info info;
	while (f->ndev)
		complete(f, 0);
	while (f->nheld)
		app_release(f);
	pb_tcp_destroy(f->e);
	while (f->nfill)
		pb_pool_put(f->cache, f->fill[--f->nfill], PB_OWN_FILL);
	pb_pool_cache_destroy(f->cache);
	pb_pool_info(f->pool, &info);
	HOLDS(!info.violations);
	HOLDS(info.own[PB_OWN_FREE] == FRAMES);
	pb_pool_unref(f->pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fuzz f;
	f = (struct fuzz){.p = data, .end = data + size};
	if (size > 4096 || !start(&f))
		return 0;
	/* Beyond, 64 bits of time would wrap. */
	while (f.p < f.end && f.now_ns < 1ull << 62) {
		step(&f);
		check(&f);
	}
	flush(&f);
	drain(&f);
	finish(&f);
	return 0;
}
