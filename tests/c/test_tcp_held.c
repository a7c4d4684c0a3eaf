/* What holds a segment back must let it go again: a cork, a closed window, a rate, and two of them at once. */
#include "tcp_script.h"

static struct script script, *const s = &script;

#define SET(o, v) CHECK_EQ(pb_tcp_set_option(s->e, s->h, o, v, s->now_ns), 0)

/* The peer's own traffic does not put off the end of a cork. */
TEST(cork_ends_while_the_peer_talks)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SET(PB_TCP_O_CORK, 1);
	SEND(1, 100);
	NONE_OUT();
	uint32_t i = 0;
	for (; i < 3; i++) {
		WAIT(60 * MS);
		IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = WND + (int)i);
		NONE_OUT();
	}
	WAIT(30 * MS);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 100);
	CLOSE(s);
}

/* The rate held a segment back; then the window closed. The persist timer must run (RFC 9293 3.8.6.1). */
TEST(rate_and_closed_window)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SET(PB_TCP_O_PACING_RATE, 100000); /* 15 ms a segment */
	SEND(1, 4 * 1460);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	NONE_OUT();
	IN_OK(.f = A, .seq = 1, .ack = 1461, .wnd = ZERO);
	NONE_OUT();
	WAIT(20 * MS);
	NONE_OUT();
	CHECK(pb_tcp_next_deadline(s->e) < s->now_ns + 2 * SEC);
	WAIT(2 * SEC);
	OUT(.f = A, .seq = 1460, .ack = 1);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 1461);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 1460);
	FORGET();
	CLOSE(s);
}

/* What is sent whatever the rate (a tail loss probe) moves the rate's next time past its timer. */
TEST(rate_probe_and_closed_window)
{
	struct pb_tcp_config c = script_config();
	c.sack = true;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SET(PB_TCP_O_PACING_RATE, 300); /* 5 s a segment */
	SEND(1, 6 * 1460);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	NONE_OUT();
	WAIT(SEC);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 1460); /* the probe */
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 2921, .wnd = ZERO);
	NONE_OUT();
	WAIT(60 * SEC);
	CHECK(s->n > 0); /* of the window */
	FORGET();
	CHECK(pb_tcp_next_deadline(s->e) != UINT64_MAX);
	CLOSE(s);
}

/* The flush of a cork is no timeout: what it sends has the RTO of what is sent at once. */
TEST(cork_does_not_back_off)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_CORK, 1, s->now_ns), 0);
	SEND(1, 100);
	NONE_OUT();
	WAIT(200 * MS);
	OUT(.f = A | P, .seq = 1, .ack = 1, .len = 100);
	CHECK_EQ(script_info(s).backoff, 0);
	CHECK_EQ(script_info(s).timeouts_now, 0);
	WAIT(201 * MS);
	OUT(.f = A | P, .seq = 1, .ack = 1, .len = 100); /* 200 ms and the RTT later, not 400 */
	CLOSE(s);
}

/* A send call that found no frame is told when to try again, though nothing of the connection will happen. */
TEST(no_frame_is_told)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open_v(s, &c, false, 128));
	ACTIVE();
	struct script_taken taken;
	script_take_frames(s, &taken, 128);
	CHECK(taken.n > 64);
	CHECK_EQ(script_send(s, 1, 100), (uint64_t)-EAGAIN);
	script_give_frames(s, &taken);
	s->events = 0;
	WAIT(10 * MS);
	script_pull(s);
	CHECK(s->events & PB_TCP_EV_WRITABLE);
	SEND(1, 100);
	OUT(.f = A | P, .seq = 1, .ack = 1, .len = 100);
	CLOSE(s);
}

MAIN(T(cork_does_not_back_off), T(no_frame_is_told), T(cork_ends_while_the_peer_talks), T(rate_and_closed_window),
     T(rate_probe_and_closed_window))
