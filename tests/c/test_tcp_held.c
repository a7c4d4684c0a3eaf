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

MAIN(T(cork_ends_while_the_peer_talks), T(rate_and_closed_window), T(rate_probe_and_closed_window))
