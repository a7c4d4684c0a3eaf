/* A flow's rate: segments leave when their time has come, on the caller's clock. */
#include "tcp_script.h"

#define RATE 1000000u /* bytes of IP packets a second */

static struct script script, *const s = &script;

static uint64_t packets_out(uint64_t for_ns)
{
	uint64_t bytes = 0, until = s->now_ns + for_ns;
	for (;;) {
		script_pull(s);
		for (; s->n; s->n--)
			bytes += s->outs[s->head++ % OUTS].ip_len;
		uint64_t t = pb_tcp_next_deadline(s->e);
		if (t > until)
			break;
		s->now_ns = t > s->now_ns ? t : s->now_ns;
		pb_tcp_expire(s->e, s->now_ns);
		CHECK_EQ(pb_tcp_check(s->e), 0);
	}
	s->now_ns = until;
	return bytes;
}

TEST(rate_is_kept)
{
	struct pb_tcp_config c = script_config();
	c.initial_cwnd_segs = 100;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_PACING_RATE, RATE, s->now_ns), 0);
	IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = 65535);
	SEND(1, 60000);
	/* 20 ms are 20,000 bytes, and one segment that goes at once. */
	uint64_t bytes = packets_out(20 * MS);
	CHECK(bytes >= 20000 - 1500 && bytes <= 20000 + 2 * 1500);
	bytes += packets_out(20 * MS);
	CHECK(bytes >= 40000 - 1500 && bytes <= 40000 + 2 * 1500);
	CHECK(pb_tcp_get_stats(s->e)->n[PB_C_PacingWaits] > 20);
	/* A caller that was away does not send a burst for it: 50 us worth at most, and one more. */
	s->now_ns += 5 * MS;
	script_pull(s);
	CHECK(s->n <= 2);
	s->n = 0;
	/* Without a rate the rest goes at once. */
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_PACING_RATE, 0, s->now_ns), 0);
	CHECK(packets_out(0) > 10000);
	CLOSE(s);
}

/* What counts is the packet, with its options: 88 bytes of data are one of 140. */
TEST(options_count)
{
	struct pb_tcp_config c = script_config();
	c.initial_cwnd_segs = 100;
	c.timestamps = true;
	REQUIRE(script_open(s, &c));
	s->ts = true;
	script_active(s, syn_opts(100, true, -1));
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_PACING_RATE, RATE, s->now_ns), 0);
	IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = 65535);
	SEND(1, 60000);
	uint64_t bytes = packets_out(8 * MS);
	CHECK_EQ(bytes % 140, 0);
	CHECK(bytes >= 8000 - 140 && bytes <= 8000 + 2 * 140);
	CLOSE(s);
}

/* ACKs and retransmission timers do not wait for it. */
TEST(only_data_waits)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_PACING_RATE, 1000, s->now_ns), 0);
	SEND(1, 4380);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	NONE_OUT(); /* the next in a second and a half */
	IN_OK(.f = A | P, .seq = 1, .ack = 1, .len = 100);
	OUT(.f = A, .seq = 1461, .ack = 101);
	IN_OK(.f = A, .seq = 101, .ack = 1461);
	NONE_OUT();
	WAIT(1400 * MS);
	NONE_OUT();
	WAIT(200 * MS);
	OUT(.f = A, .seq = 1461, .ack = 101, .len = 1460);
	CLOSE(s);
}

MAIN(T(rate_is_kept), T(options_count), T(only_data_waits))
