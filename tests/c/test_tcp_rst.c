/* Blind attacks (RFC 5961): RST, SYN and data of somebody who does not see the connection. */
#include "tcp_script.h"

static struct script script, *const s = &script;

static bool open_both(bool active)
{
	struct pb_tcp_config c = script_config();
	if (!script_open(s, &c))
		return false;
	if (active)
		ACTIVE();
	else
		PASSIVE();
	return true;
}

TEST(rst_exact)
{
	for (int k = 0; k < 2; k++) {
		REQUIRE(open_both(k));
		IN_OK(.f = R, .seq = 1);
		script_pull(s);
		STATE(CLOSED);
		CHECK_EQ(s->error, ECONNRESET);
		READ_RC(-ECONNRESET);
		NONE_OUT();
		CLOSE(s);
	}
}

TEST(rst_keeps_what_was_received)
{
	REQUIRE(open_both(true));
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 20);
	IN_OK(.f = A, .seq = 100, .ack = 1, .len = 20);
	IN_OK(.f = R | A, .seq = 21, .ack = 1);
	READ(1, 20);
	READ_RC(-ECONNRESET);
	CLOSE_H();
	CLOSE(s);
}

TEST(rst_in_window_is_challenged)
{
	REQUIRE(open_both(true));
	IN_DROP(TCP_RST, .f = R, .seq = 2);
	OUT(.f = A, .seq = 1, .ack = 1);
	/* Not more than one in 500 ms. */
	for (unsigned i = 0; i < 20; i++)
		IN_DROP(TCP_RST, .f = R, .seq = 100 + i);
	NONE_OUT();
	WAIT(499 * MS);
	IN_DROP(TCP_RST, .f = R, .seq = 2);
	NONE_OUT();
	WAIT(MS);
	IN_DROP(TCP_RST, .f = R, .seq = 2);
	OUT(.f = A, .seq = 1, .ack = 1);
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpExtTCPChallengeACK], 2);
	STATE(ESTABLISHED);
	/* An honest peer answers the challenge with the exact number. */
	IN_OK(.f = R, .seq = 1);
	STATE(CLOSED);
	CLOSE(s);
}

TEST(rst_with_text_at_a_closed_window)
{
	struct pb_tcp_config c = script_config();
	c.rcvbuf_bytes = 4096;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	while (script_info(s).rcv_wnd) {
		struct pb_tcp_info i = script_info(s);
		uint32_t at = 1 + (uint32_t)i.bytes_received, n = i.rcv_wnd < 1000 ? i.rcv_wnd : 1000;
		IN_OK(.f = A, .seq = at, .ack = 1, .len = n);
		FORGET();
	}
	uint32_t at = 1 + (uint32_t)script_info(s).bytes_received;
	IN_OK(.f = R, .seq = at, .len = 10);
	STATE(CLOSED);
	CLOSE(s);
}

TEST(syn_is_challenged_wherever_it_lies)
{
	static const uint32_t at[] = {0, 1, 2, 60000, 0x80000000u};
	for (unsigned i = 0; i < PB_ARRAY_LEN(at); i++) {
		REQUIRE(open_both(i & 1));
		IN(.f = S, .seq = at[i]);
		OUT(.f = A, .seq = 1, .ack = 1);
		IN(.f = S, .seq = at[i]);
		IN(.f = S | A, .seq = at[i], .ack = 1);
		NONE_OUT();
		STATE(ESTABLISHED);
		CLOSE(s);
	}
}

TEST(ack_of_unsent_and_ancient)
{
	REQUIRE(open_both(true));
	IN_DROP(TCP_ACK, .f = A, .seq = 1, .ack = 2, .len = 10);
	OUT(.f = A, .seq = 1, .ack = 1); /* its data does not count */
	WAIT(SEC);
	IN_DROP(TCP_ACK, .f = A, .seq = 1, .ack = 1u - WND - 1, .len = 10);
	OUT(.f = A, .seq = 1, .ack = 1);
	/* As old as the largest window may be: a late duplicate, with data that are good. */
	IN_OK(.f = A, .seq = 1, .ack = 1u - WND, .len = 10);
	OUT(.f = A, .seq = 1, .ack = 11);
	CLOSE(s);
}

/* Two ends that disagree must not answer each other for ever. */
TEST(no_ack_storm)
{
	REQUIRE(open_both(true));
	unsigned out = 0;
	for (unsigned i = 0; i < 100; i++) {
		IN_DROP(TCP_WINDOW, .f = A, .seq = 500000, .ack = 1);
		script_pull(s);
		out += s->n;
		s->n = 0;
		WAIT(10 * MS);
	}
	CHECK(out <= 2);
	/* Payload is always answered: its sender waits for it. */
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 10);
	FORGET();
	for (unsigned i = 0; i < 5; i++) {
		IN_DROP(TCP_DUP, .f = A, .seq = 1, .ack = 1, .len = 10);
		OUT(.f = A, .seq = 1, .ack = 11);
	}
	CLOSE(s);
}

TEST(unknown_tuple)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	IN_DROP(TCP_NO_FLOW, .f = S, .len = 10);
	struct seen *o = NEXT();
	REQUIRE(o);
	CHECK_EQ(o->v.flags, R | A);
	CHECK_EQ(o->v.seq, 0);
	CHECK_EQ(o->v.ack, s->irs + 11);
	IN_DROP(TCP_NO_FLOW, .f = A, .ack = 7777);
	o = NEXT();
	REQUIRE(o);
	CHECK_EQ(o->v.flags, R);
	CHECK_EQ(o->v.seq, 7777);
	IN_DROP(TCP_NO_FLOW, .f = R);
	NONE_OUT();
	/* The replies are bounded, whatever comes. */
	for (unsigned i = 0; i < 500; i++)
		IN_DROP(TCP_NO_FLOW, .f = A, .ack = i);
	script_pull(s);
	CHECK_EQ(s->n, 64);
	s->n = 0;
	CLOSE(s);
}

static bool sums_right(const uint8_t *p, uint32_t len)
{
	struct pb_ip_view v;
	return !pb_ip_parse(p, len, &v) && pb_tcp_csum_ok(p + v.hdr_len, v.total_len - v.hdr_len, &v.src, &v.dst);
}

/* Valid segments with random damage: whatever is left of them, everything holds and the stream is unharmed. */
TEST(mutated_segments)
{
	struct pb_rng rng = test_rng();
	uint32_t got = 0, at = 1;
	struct pb_tcp_config c = script_config();
	c.sack = c.timestamps = true;
	REQUIRE(script_open(s, &c));
	s->ts = true;
	ACTIVE();
	for (unsigned k = 0; k < 20000 && !harness.bad; k++) {
		uint8_t p[2048], whole[2048];
		struct sg g = {
			.f = A, .seq = at + pb_rng_below(&rng, 3000) - 1000, .ack = 1, .len = pb_rng_below(&rng, 200)};
		uint32_t n = script_build(s, &g, p);
		memcpy(whole, p, n);
		uint32_t cut = mutate(&rng, p, n, 600);
		/* Damage that the checksums cannot see (two bits that cancel out) is not the engine's to find. */
		if (cut >= n && memcmp(whole, p, n) && sums_right(p, cut))
			continue;
		script_raw(s, p, cut);
		CHECK_EQ(pb_tcp_check(s->e), 0);
		script_pull(s);
		s->n = 0;
		if (k % 8 == 0) {
			g = (struct sg){.f = A, .seq = at, .ack = 1, .len = 10};
			uint32_t before = (uint32_t)script_info(s).bytes_received;
			n = script_build(s, &g, p);
			script_raw(s, p, n);
			got += (uint32_t)script_info(s).bytes_received - before;
			READ(at, (uint32_t)script_info(s).unread_bytes);
			at = 1 + (uint32_t)script_info(s).bytes_received;
			s->now_ns += MS;
		}
	}
	STATE(ESTABLISHED);
	CHECK(got >= 20000);
	CLOSE(s);
}

/* SYN-RECEIVED knows how it came about (RFC 9293 3.10.7.4): a connection that was asked for is refused, one that came
 * to a listener is as if it had not come. */
TEST(rst_in_syn_received)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	IN_OK(.f = S);
	OUT(.f = S | A, .ack = 1);
	STATE(SYN_RCVD);
	IN_OK(.f = R, .seq = 1);
	script_pull(s);
	CHECK_EQ(s->error, ECONNREFUSED);
	STATE(CLOSED);
	CLOSE(s);

	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 1), 0);
	for (int i = 0; i < 3; i++) {
		IN_OK(.f = S, .o = syn_opts(1460, true, -1));
		OUT(.f = S | A, .ack = 1);
		IN_OK(.f = R, .seq = 1);
		NONE_OUT();
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), (uint64_t)-EAGAIN);
		CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpAttemptFails], (uint64_t)i + 1);
		s->rport++;
	}
	IN_OK(.f = S, .o = syn_opts(1460, true, -1));
	OUT(.f = S | A, .ack = 1);
	IN_OK(.f = A, .seq = 1, .ack = 1);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	STATE(ESTABLISHED);
	CLOSE(s);
}

MAIN(T(rst_in_syn_received), T(rst_exact), T(rst_keeps_what_was_received), T(rst_in_window_is_challenged),
     T(rst_with_text_at_a_closed_window), T(syn_is_challenged_wherever_it_lies), T(ack_of_unsent_and_ancient),
     T(no_ack_storm), T(unknown_tuple), T(mutated_segments))
