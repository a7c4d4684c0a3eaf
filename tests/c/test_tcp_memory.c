/* What gaps and those who do not read may cost: what is idle leaves room. */
#include "tcp_script.h"

static struct script script, *const s = &script;

/* Connections that hold data beyond gaps, and get no more: another's data in order finds frames, and it can send. */
TEST(gaps_of_the_idle_leave_room)
{
	struct pb_tcp_config c = script_config();
	c.max_conns = 64;
	c.sack = true;
	c.reserve_frames = 128;
	REQUIRE(script_open_v(s, &c, false, 1024));
	CHECK_EQ(script_listen(s, 16), 0);
	for (unsigned k = 0; k < 4; k++) {
		s->rport = (uint16_t)(2000 + k);
		IN_OK(.f = S, .o = syn_opts(1460, true, -1));
		OUT(.f = S | A, .ack = 1);
		IN_OK(.f = A, .seq = 1, .ack = 1);
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
		FORGET();
		for (uint32_t i = 0; k < 3 && i < 1100; i += 2) {
			IN(.f = A, .seq = 2 + i, .ack = 1, .len = 1);
			FORGET();
		}
	}
	CHECK(pb_pool_free_hint(s->cache) < 512); /* they do hold frames */
	for (uint32_t at = 1; at < 40000; at += 1000) {
		IN_OK(.f = A, .seq = at, .ack = at, .len = 1000);
		SEND(at, 1000);
		FORGET();
		READ(at, 1000);
	}
	CLOSE(s);
}

/* Applications that do not read take the pool as far as it goes, however many they are. Another, that does, receives
 * all the same. */
TEST(who_reads_goes_on)
{
	struct pb_tcp_config c = script_config();
	c.max_conns = 64;
	c.wscale = true;
	c.rcvbuf_bytes = 1 << 20;
	c.rcv_wscale = 5;
	c.reserve_frames = 128;
	REQUIRE(script_open_v(s, &c, false, 1024));
	CHECK_EQ(script_listen(s, 48), 0);
	uint32_t at[41];
	for (unsigned k = 0; k < 41; k++) {
		s->rport = (uint16_t)(2000 + k);
		IN_OK(.f = S, .o = syn_opts(1460, false, 7));
		OUT(.f = S | A, .ack = 1);
		IN_OK(.f = A, .seq = 1, .ack = 1);
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
		FORGET();
		for (at[k] = 1; k < 40 && at[k] < 60000; at[k] += 1400) {
			if (IN(.f = A, .seq = at[k], .ack = 1, .len = 1400) != PB_DROP_NONE)
				break;
			FORGET();
		}
		FORGET();
	}
	CHECK(at[0] > 1400 * 20 && at[39] <= 1401);
	CHECK(pb_pool_free_hint(s->cache) <= 128 / 2);
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 1400);
	READ(1, 1400);
	for (uint32_t i = 1401; i < 100000; i += 2800) {
		IN_OK(.f = A, .seq = i, .ack = 1, .len = 1400);
		IN_OK(.f = A, .seq = i + 1400, .ack = 1, .len = 1400);
		READ(i, 2800);
		FORGET();
	}
	CLOSE(s);
}

/* The pool is the application's for a while: what was offered cannot be taken. The peer hears at once where the stream
 * stands, and what it sends again is taken when there are frames. */
TEST(a_refusal_is_told)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open_v(s, &c, false, 128));
	ACTIVE();
	struct script_taken taken;
	script_take_frames(s, &taken, 108);
	CHECK_EQ(taken.n, 108);
	uint32_t at = 1;
	while (IN(.f = A, .seq = at, .ack = 1, .len = 1400) == PB_DROP_NONE) {
		at += 1400;
		FORGET();
		REQUIRE(at < 64 * 1400);
	}
	OUT(.f = A, .seq = 1, .ack = at);
	script_give_frames(s, &taken);
	IN_OK(.f = A, .seq = at, .ack = 1, .len = 1400);
	READ(1, at + 1400 - 1);
	CLOSE(s);
}

MAIN(T(gaps_of_the_idle_leave_room), T(who_reads_goes_on), T(a_refusal_is_told))
