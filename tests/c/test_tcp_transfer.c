/* Bytes both ways over links that lose, reorder, duplicate and corrupt, 100 seeds; then an orderly close. */
#include "rig.h"

#include <errno.h>
#include <sys/socket.h>

struct flow {
	pb_tcp_handle h;
	uint64_t sent, got, total;
	bool fin_sent, eof;
	uint8_t tx_key, rx_key;
};

static uint8_t pattern(uint64_t i, uint8_t key)
{
	return (uint8_t)(i * 7 + (i >> 8) * 13 + (i >> 16) * 31 + key);
}

static void pump(struct rig *r, int side, struct flow *f, struct pb_rng *rng)
{
	uint8_t buf[8192];
	struct pb_tcp *e = rig_tcp(r, side);
	while (f->sent < f->total) {
		uint32_t n = 1 + pb_rng_below(rng, sizeof(buf));
		if (n > f->total - f->sent)
			n = (uint32_t)(f->total - f->sent);
		for (uint32_t i = 0; i < n; i++)
			buf[i] = pattern(f->sent + i, f->tx_key);
		int64_t k = pb_tcp_send(e, f->h, buf, n, 0);
		if (k < 0) {
			CHECK(k == -EAGAIN);
			break;
		}
		f->sent += (uint64_t)k;
	}
	if (f->sent == f->total && !f->fin_sent) {
		CHECK_EQ(pb_tcp_shutdown(e, f->h, SHUT_WR, r->now_ns), 0);
		f->fin_sent = true;
	}
	for (;;) {
		int64_t k = pb_tcp_recv(e, f->h, buf, 1 + pb_rng_below(rng, sizeof(buf)), r->now_ns);
		if (k == 0)
			f->eof = true;
		if (k <= 0) {
			CHECK(k == 0 || k == -EAGAIN);
			break;
		}
		for (int64_t i = 0; i < k; i++)
			if (buf[i] != pattern(f->got + (uint64_t)i, f->rx_key)) {
				check_failed(__FILE__, __LINE__, "wrong byte");
				return;
			}
		f->got += (uint64_t)k;
	}
}

static void drain_events(struct rig *r, int side, uint32_t *mask)
{
	struct pb_tcp_event ev[16];
	int n;
	while ((n = pb_tcp_events(rig_tcp(r, side), ev, 16)) > 0)
		for (int i = 0; i < n; i++)
			*mask |= ev[i].mask;
}

static void dump(struct rig *r, int side, pb_tcp_handle h)
{
	struct pb_tcp_info i;
	if (pb_tcp_get_info(rig_tcp(r, side), h, &i))
		return;
	fprintf(stderr,
		"  side %d: %s cwnd %u ssthresh %u rto %u us srtt %u us inflight %u unsent %u ooo %u snd_wnd %u "
		"rcv_wnd %u "
		"rexmits %lu fast %lu timeouts %lu dupacks %lu probes %lu segs %lu/%lu\n",
		side, pb_tcp_state_name(i.state), i.cwnd_bytes, i.ssthresh_bytes, i.rto_us, i.srtt_us, i.inflight_bytes,
		i.unsent_bytes, i.ooo_segs, i.snd_wnd, i.rcv_wnd, (unsigned long)i.retransmits,
		(unsigned long)i.fast_retransmits, (unsigned long)i.timeouts, (unsigned long)i.dup_acks_in,
		(unsigned long)i.zero_window_probes, (unsigned long)i.segs_in, (unsigned long)i.segs_out);
	const struct pb_tcp_stats *s = pb_tcp_get_stats(rig_tcp(r, side));
	for (unsigned d = 1; d < PB_DROP_COUNT; d++)
		if (s->drops.n[d])
			fprintf(stderr, "    %s %lu\n", pb_drop_name(d), (unsigned long)s->drops.n[d]);
}

static void transfer(const struct rig_config *c, uint64_t bytes, uint64_t seed)
{
	struct rig r;
	struct pb_rng rng = {seed};
	pb_tcp_handle l = 0;
	struct flow a = {.total = bytes, .tx_key = 1, .rx_key = 2}, b = {.total = bytes, .tx_key = 2, .rx_key = 1};
	REQUIRE(rig_open(&r, c));
	bool ok = rig_connect(&r, 5000, &a.h, &l, &b.h);
	CHECK(ok);
	uint64_t limit = r.now_ns + 600000000000ull;
	uint32_t mask[2] = {0};
	while (ok && !harness.bad && r.now_ns < limit) {
		pump(&r, 0, &a, &rng);
		pump(&r, 1, &b, &rng);
		rig_settle(&r);
		drain_events(&r, 0, &mask[0]);
		drain_events(&r, 1, &mask[1]);
		if (a.eof && b.eof && (mask[0] & PB_TCP_EV_CLOSED) && (mask[1] & PB_TCP_EV_CLOSED))
			break;
		if (!rig_advance(&r))
			break;
	}
	CHECK_EQ(a.got, bytes);
	CHECK_EQ(b.got, bytes);
	CHECK(a.eof && b.eof);
	CHECK((mask[0] & PB_TCP_EV_CLOSED) && (mask[1] & PB_TCP_EV_CLOSED));
	if (harness.bad)
		fprintf(stderr, "  seed %lu at %.3f s: a sent %lu got %lu, b sent %lu got %lu\n", (unsigned long)seed,
			(double)r.now_ns / 1e9, (unsigned long)a.sent, (unsigned long)a.got, (unsigned long)b.sent,
			(unsigned long)b.got);
	if (harness.bad) {
		dump(&r, 0, a.h);
		dump(&r, 1, b.h);
	}
	if (ok) {
		CHECK_EQ(pb_tcp_close(rig_tcp(&r, 0), a.h, r.now_ns), 0);
		CHECK_EQ(pb_tcp_close(rig_tcp(&r, 1), b.h, r.now_ns), 0);
		CHECK_EQ(pb_tcp_close(rig_tcp(&r, 1), l, r.now_ns), 0);
		rig_run(&r, 130000000000ull);
		mask[0] = mask[1] = 0;
		drain_events(&r, 0, &mask[0]);
		drain_events(&r, 1, &mask[1]);
		CHECK_EQ(pb_tcp_get_stats(rig_tcp(&r, 0))->conns, 0);
		CHECK_EQ(pb_tcp_get_stats(rig_tcp(&r, 1))->conns, 0);
	}
	rig_close(&r);
}

TEST(clean_link)
{
	struct rig_config c = rig_defaults();
	transfer(&c, 4 << 20, 1);
	c.v6 = true;
	transfer(&c, 1 << 20, 2);
}

TEST(impaired_100_seeds)
{
	struct rig_config c = rig_defaults();
	c.link.loss_ppm = c.link.dup_ppm = c.link.corrupt_ppm = c.link.reorder_ppm = 10000;
	c.link.reorder_ns = 200000;
	c.mem.completion_delay_ns = 30000;
	c.mem.completion_reorder = true;
	for (uint64_t seed = 0; seed < 100 && !harness.bad; seed++) {
		c.link.seed = c.mem.seed = seed;
		c.v6 = seed & 1;
		c.tcp[0].sack = !(seed & 2);
		c.tcp[0].timestamps = !(seed & 4);
		c.tcp[1].nagle = seed & 8;
		c.tcp[1].rcvbuf_bytes = seed & 16 ? 16384 : 1 << 20;
		transfer(&c, 150000, seed);
	}
}

TEST(heavy_loss)
{
	struct rig_config c = rig_defaults();
	c.link.loss_ppm = 150000;
	c.link.reorder_ppm = 50000;
	c.link.reorder_ns = 500000;
	for (uint64_t seed = 0; seed < 10 && !harness.bad; seed++) {
		c.link.seed = seed;
		transfer(&c, 60000, seed);
	}
}

TEST(few_frames)
{
	struct rig_config c = rig_defaults();
	c.frames = 256;
	c.tcp[0].reserve_frames = c.tcp[1].reserve_frames = 64;
	c.tcp[0].rcvbuf_bytes = c.tcp[1].rcvbuf_bytes = 65536;
	c.link.loss_ppm = 10000;
	transfer(&c, 500000, 3);
}

MAIN(T(clean_link), T(impaired_100_seeds), T(heavy_loss), T(few_frames))
