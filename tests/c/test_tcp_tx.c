/* Sending: windows, Nagle, probes, how data become segments. */
#include "tcp_script.h"

static struct script script, *const s = &script;

TEST(segments_and_push)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 4000);
	script_pull(s);
	REQUIRE(s->n == 3);
	for (uint32_t i = 0; i < 3; i++) /* on the last one, and only there */
		CHECK_EQ(s->outs[(s->head + i) % OUTS].v.flags & P, i < 2 ? 0 : P);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 1460);
	OUT(.f = A | P, .seq = 2921, .ack = 1, .len = 1080);
	NONE_OUT();
	IN_OK(.f = A, .seq = 1, .ack = 1461);
	CHECK_EQ(script_info(s).inflight_bytes, 2540);
	IN_OK(.f = A, .seq = 1, .ack = 2000); /* in the middle of a segment */
	IN_OK(.f = A, .seq = 1, .ack = 4001);
	script_pull(s);
	CHECK_EQ(s->acked, 4000);
	CHECK(s->events & PB_TCP_EV_WRITABLE);
	CHECK_EQ(pb_tcp_next_deadline(s->e) <= s->now_ns + SEC, 1);
	CLOSE(s);
}

/* What is left of a segment after a partial ACK is sent with the right bytes and sum. */
TEST(rest_of_a_segment)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 1000);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
	IN_OK(.f = A, .seq = 1, .ack = 334);
	WAIT(3 * SEC);
	OUT(.f = A, .seq = 334, .ack = 1, .len = 667);
	FORGET();
	CLOSE(s);
}

TEST(peer_window_is_kept)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = 3000);
	SEND(1, 10000);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 1460);
	NONE_OUT(); /* 80 bytes would fit: silly */
	IN_OK(.f = A, .seq = 1, .ack = 2921, .wnd = 1000);
	/* Nothing in flight, less than half of the largest window: the override timer sends it (3.8.6.2.1). */
	NONE_OUT();
	WAIT(250 * MS);
	OUT(.f = A, .seq = 2921, .ack = 1, .len = 1000);
	IN_OK(.f = A, .seq = 1, .ack = 3921, .wnd = 60000);
	OUT(.f = A, .seq = 3921, .ack = 1, .len = 460); /* the rest of what was split */
	OUT(.f = A, .seq = 4381, .ack = 1, .len = 1460);
	FORGET();
	CLOSE(s);
}

/* A window that came with data beyond a gap, then ACKs of something new in older segments: each brings its own window.
 * Found by fuzzing: the window stayed, and its edge moved with SND.UNA past what was offered. */
TEST(window_of_an_older_segment)
{
	struct pb_tcp_config c = script_config();
	c.initial_cwnd_segs = 20;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 40 * 1460);
	for (uint32_t i = 0; i < 20; i++)
		OUT(.f = A, .seq = 1 + i * 1460, .ack = 1, .len = 1460);
	NONE_OUT();
	IN_OK(.f = A, .seq = 1000, .ack = 1, .len = 10, .wnd = 50000);
	OUT(.f = A, .seq = 1 + 20 * 1460, .ack = 1);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 1 + 20 * 1460, .wnd = 2 * 1460);
	OUT(.f = A, .seq = 1 + 20 * 1460, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1 + 21 * 1460, .ack = 1, .len = 1460);
	NONE_OUT();
	CHECK_EQ(script_info(s).snd_wnd, 2 * 1460);
	CLOSE(s);
}

/* Segments from behind the peer's own FIN, before and after it came, close the window: what the peer says at its end
 * counts. Found by fuzzing: the window stayed closed for good. */
TEST(window_from_behind_a_fin)
{
	for (int before = 0; before < 2; before++) {
		struct pb_tcp_config c = script_config();
		REQUIRE(script_open(s, &c));
		ACTIVE();
		if (before)
			IN(.f = A, .seq = 4500, .ack = 1, .wnd = ZERO);
		IN_OK(.f = F | A, .seq = 1, .ack = 1);
		if (!before)
			IN(.f = A, .seq = 4500, .ack = 1, .wnd = ZERO);
		FORGET();
		IN_OK(.f = A, .seq = 2, .ack = 1, .wnd = 5000);
		SEND(1, 1000);
		OUT(.f = A, .seq = 1, .ack = 2, .len = 1000);
		CLOSE(s);
	}
}

TEST(half_of_the_largest_window_is_worth_it)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	IN_OK(.f = S | A, .ack = 1, .wnd = 800, .o = syn_opts(1460, false, -1));
	OUT(.f = A, .seq = 1, .ack = 1);
	SEND(1, 2000);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 800);
	IN_OK(.f = A, .seq = 1, .ack = 801, .wnd = 399);
	NONE_OUT();
	IN_OK(.f = A, .seq = 1, .ack = 801, .wnd = 400);
	OUT(.f = A, .seq = 801, .ack = 1, .len = 400);
	CLOSE(s);
}

TEST(nagle)
{
	struct pb_tcp_config c = script_config();
	c.nagle = true;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 10);
	OUT(.f = A | P, .seq = 1, .ack = 1, .len = 10);
	SEND(11, 10);
	SEND(21, 10);
	NONE_OUT();
	IN_OK(.f = A, .seq = 1, .ack = 11);
	OUT(.f = A | P, .seq = 11, .ack = 1, .len = 20);
	SEND(31, 10);
	SEND(41, 1450); /* a full segment does not wait */
	OUT(.f = A | P, .seq = 31, .ack = 1, .len = 1460);
	SEND(1491, 10);
	NONE_OUT();
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_NODELAY, !(false), s->now_ns), 0);
	OUT(.f = A | P, .seq = 1491, .ack = 1, .len = 10);
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_NODELAY, !(true), s->now_ns), 0);
	SEND(1501, 10);
	NONE_OUT();
	SHUT(SHUT_WR); /* nothing will be added: no reason to wait */
	OUT(.f = F | A | P, .seq = 1501, .ack = 1, .len = 10);
	CLOSE(s);
}

TEST(zero_window)
{
	struct pb_tcp_config c = script_config();
	c.data_retries = 5;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = ZERO);
	SEND(1, 3000);
	NONE_OUT();
	/* Probes back off and go on as long as the peer answers, many times data_retries. */
	uint64_t gap = script_info(s).rto_us * 1000ull;
	for (unsigned i = 0; i < 30; i++) {
		WAIT(gap - MS);
		NONE_OUT();
		WAIT(MS);
		OUT(.f = A, .seq = 0, .ack = 1);
		IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = ZERO);
		gap = gap * 2 < c.rto_max_ns ? gap * 2 : c.rto_max_ns;
	}
	CHECK_EQ(script_info(s).zero_window_probes, 30);
	IN_OK(.f = A, .seq = 1, .ack = 1);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 2921, .ack = 1, .len = 80);
	CHECK_EQ(script_info(s).rto_us, 200001); /* SRTT and the floor: the backoff of the probes is over */
	CLOSE(s);
}

TEST(zero_window_of_a_dead_peer)
{
	struct pb_tcp_config c = script_config();
	c.data_retries = 3;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = ZERO);
	SEND(1, 10);
	WAIT(60 * SEC);
	STATE(CLOSED);
	CHECK_EQ(s->error, ETIMEDOUT);
	FORGET();
	CLOSE(s);
}

/* The application is gone: a peer that keeps its window closed cannot hold the memory for ever. */
TEST(zero_window_of_an_orphan)
{
	struct pb_tcp_config c = script_config();
	c.data_retries = 5;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = ZERO);
	SEND(1, 10);
	CLOSE_H();
	unsigned k = 0;
	while (pb_tcp_get_stats(s->e)->conns && k++ < 100) {
		WAIT(SEC);
		FORGET();
		IN(.f = A, .seq = 1, .ack = 1, .wnd = ZERO);
		FORGET();
	}
	CHECK(k < 100);
	CHECK(s->events & PB_TCP_EV_GONE);
	CLOSE(s);
}

/* FIN at a closed window: as long as the peer answers, the connection stays. */
TEST(fin_at_a_closed_window)
{
	struct pb_tcp_config c = script_config();
	c.data_retries = 3;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = ZERO);
	SHUT(SHUT_WR);
	OUT(.f = F | A, .seq = 1, .ack = 1);
	for (unsigned i = 0; i < 100; i++) {
		WAIT(20 * SEC);
		FORGET();
		IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = ZERO);
	}
	STATE(FIN_WAIT_1);
	IN_OK(.f = A, .seq = 1, .ack = 2);
	STATE(FIN_WAIT_2);
	FORGET();
	CLOSE(s);
}

/* The window shrinks below what is in flight (a peer SHOULD NOT): the oldest segment goes on, and nothing hangs. */
TEST(shrunken_window)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 5840);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 1461, .wnd = ZERO);
	WAIT(SEC);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 1460);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 2921, .wnd = 60000);
	OUT(.f = A, .seq = 2921, .ack = 1, .len = 1460);
	OUT(.f = A | P, .seq = 4381, .ack = 1, .len = 1460);
	IN_OK(.f = A, .seq = 1, .ack = 5841);
	CHECK_EQ(script_info(s).inflight_bytes, 0);
	CLOSE(s);
}

TEST(small_sends_become_full_segments)
{
	struct pb_tcp_config c = script_config();
	c.nagle = true;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 1);
	FORGET();
	for (uint32_t i = 0; i < 300; i++)
		SEND(2 + 11 * i, 11);
	OUT(.f = A, .seq = 2, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1462, .ack = 1, .len = 1460);
	NONE_OUT();
	IN_OK(.f = A, .seq = 1, .ack = 2922);
	OUT(.f = A, .seq = 2922, .ack = 1, .len = 380);
	CLOSE(s);
}

#define RECORD(at, n) CHECK_EQ(script_send_as(s, at, n, PB_TCP_EOR), n)

TEST(records_are_not_joined_to_what_follows)
{
	struct pb_tcp_config c = script_config();
	c.sndbuf_bytes = 8000;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 100);
	RECORD(101, 50); /* what was there before is the beginning of it */
	SEND(151, 30);
	SEND(181, 70);
	RECORD(251, 3000);
	RECORD(3251, 10);
	SEND(3261, 20);
	OUT(.f = A | P, .seq = 1, .ack = 1, .len = 150);
	OUT(.f = A, .seq = 151, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1611, .ack = 1, .len = 1460);
	OUT(.f = A | P, .seq = 3071, .ack = 1, .len = 180);
	OUT(.f = A | P, .seq = 3251, .ack = 1, .len = 10);
	OUT(.f = A | P, .seq = 3261, .ack = 1, .len = 20);
	NONE_OUT();
	/* A record of which only a part was taken did not end. */
	IN_OK(.f = A, .seq = 1, .ack = 3281);
	CHECK_EQ(script_send_as(s, 3281, 9000, PB_TCP_EOR), 8000);
	for (uint32_t i = 0; i < 5; i++)
		OUT(.f = A, .seq = 3281 + i * 1460, .ack = 1, .len = 1460);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 11281);
	RECORD(11281, 1000);
	OUT(.f = A | P, .seq = 11281, .ack = 1, .len = 1000);
	CLOSE(s);
}

TEST(send_buffer_is_bounded)
{
	struct pb_tcp_config c = script_config();
	c.sndbuf_bytes = 8000;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(script_send(s, 1, 20000), 8000);
	CHECK_EQ(script_send(s, 8001, 1), (uint64_t)-EAGAIN);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 1461);
	CHECK_EQ(script_send(s, 8001, 5000), 1460);
	CHECK_EQ(script_send(s, 1, 0), 0);
	FORGET();
	CLOSE(s);
}

/* With the pool empty nothing is lost: it goes when frames come back. */
TEST(pool_exhausted)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open_v(s, &c, false, 64));
	ACTIVE();
	int64_t n = script_send(s, 1, 100000);
	CHECK_EQ(n, 32 * 1460); /* the reserve stays */
	s->hold = true;
	FORGET();
	uint64_t rest[64];
	uint32_t k = pb_pool_get(s->cache, rest, 64, 0, PB_OWN_APP);
	WAIT(SEC);
	NONE_OUT(); /* a retransmission would need a frame: the device has the original */
	CHECK(pb_tcp_has_output(s->e));
	for (uint32_t i = 0; i < k; i++)
		pb_pool_put(s->cache, rest[i], PB_OWN_APP);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	FORGET();
	CLOSE(s);
}

TEST(errors)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(pb_tcp_shutdown(s->e, s->h, 9, s->now_ns), (uint64_t)-EINVAL);
	SHUT(SHUT_WR);
	CHECK_EQ(script_send(s, 1, 1), (uint64_t)-EPIPE);
	SHUT(SHUT_WR); /* again: nothing */
	OUT(.f = F | A, .seq = 1, .ack = 1);
	NONE_OUT();
	CHECK_EQ(pb_tcp_consumed(s->e, s->h, 1), (uint64_t)-EINVAL);
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_KEEPALIVE_INTERVAL_NS, 0, 0), (uint64_t)-EINVAL);
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_COUNT, 0, 0), (uint64_t)-ENOPROTOOPT);
	CLOSE(s);
}

MAIN(T(segments_and_push), T(rest_of_a_segment), T(peer_window_is_kept), T(window_of_an_older_segment),
     T(window_from_behind_a_fin), T(half_of_the_largest_window_is_worth_it), T(nagle), T(zero_window),
     T(zero_window_of_a_dead_peer), T(zero_window_of_an_orphan), T(fin_at_a_closed_window), T(shrunken_window),
     T(small_sends_become_full_segments), T(records_are_not_joined_to_what_follows), T(send_buffer_is_bounded),
     T(pool_exhausted), T(errors))
