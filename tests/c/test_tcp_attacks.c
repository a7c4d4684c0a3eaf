/* Somebody who does not see the connection, and knows its addresses and ports: sweeps of the whole sequence space with
 * each kind of segment (RFC 5961), and messages about packets that were never sent (RFC 5927). The connection stays,
 * what it carries stays whole, and the answers are few. */
#include "tcp_script.h"

#define SWEEP 4096u
#define STEP (UINT32_MAX / SWEEP)

static struct script script, *const s = &script;

/* Established, with a byte of each direction unread and unacknowledged. */
static bool victim(void)
{
	struct pb_tcp_config c = script_config();
	c.sack = c.timestamps = false;
	if (!script_open(s, &c))
		return false;
	ACTIVE();
	IN_OK(.f = A | P, .seq = 1, .ack = 1, .len = 10);
	FORGET();
	SEND(1, 10);
	FORGET();
	return true;
}

/* The same as before the attack: bytes still pass both ways. */
static void unharmed(int line)
{
	FORGET();
	script_state(s, __FILE__, line, PB_TCP_ESTABLISHED);
	IN(.f = A | P, .seq = 11, .ack = 11, .len = 10);
	READ(1, 20);
	SEND(11, 10);
	script_pull(s);
	check_eq(__FILE__, line, "error", (uint64_t)s->error, 0);
	check_eq(__FILE__, line, "in flight", script_info(s).inflight_bytes, 10);
	s->n = 0;
}
#define UNHARMED() unharmed(__LINE__)

/* Answers that one sweep may draw: one each 500 ms for what lies in the window, and one for what does not. */
static void few(int line, uint32_t before)
{
	uint32_t answers = (uint32_t)script_info(s).segs_out - before;
	if (answers > 3)
		check_failed(__FILE__, line, "more answers than a rate limit allows");
}

TEST(resets_at_random)
{
	REQUIRE(victim());
	uint32_t before = (uint32_t)script_info(s).segs_out;
	for (uint32_t i = 0; i < SWEEP; i++) {
		uint32_t seq = i * STEP;
		if (seq != 11) /* the one number that counts */
			IN(.f = R, .seq = seq), FORGET();
	}
	for (uint32_t seq = 12; seq < 12 + WND; seq += 997)
		IN(.f = R | A, .seq = seq, .ack = 1), FORGET();
	few(__LINE__, before);
	UNHARMED();
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpEstabResets], 0);
	CLOSE(s);
}

TEST(syns_at_random)
{
	REQUIRE(victim());
	uint32_t before = (uint32_t)script_info(s).segs_out;
	for (uint32_t i = 0; i < SWEEP; i++)
		IN(.f = S, .seq = i * STEP, .o = syn_opts(1460, true, 7)), FORGET();
	for (uint32_t i = 0; i < SWEEP; i++)
		IN(.f = S | A, .seq = i * STEP, .ack = i), FORGET();
	few(__LINE__, before);
	UNHARMED();
	CHECK_EQ(pb_tcp_get_stats(s->e)->conns, 1);
	CLOSE(s);
}

/* RFC 5961 5.2: data counts only with an ACK from the last window; of those that hit, nothing is delivered unless the
 * sequence number is exact too. */
TEST(data_at_random)
{
	REQUIRE(victim());
	for (uint32_t i = 0; i < SWEEP; i++) {
		/* In the receive window, with acknowledgment numbers from all over the space. */
		uint32_t ack = 0x10000000u + i * (0xe0000000u / SWEEP);
		unsigned why = IN(.f = A, .seq = 11, .ack = ack, .len = 5, .evil = 0xff);
		CHECK_EQ(why, PB_DROP_TCP_ACK);
		FORGET();
	}
	CHECK_EQ(script_info(s).unread_bytes, 10);
	CHECK_EQ(script_info(s).ooo_segs, 0);
	UNHARMED();
	CLOSE(s);
}

/* Out of the window nothing is kept, whatever the ACK. */
TEST(data_outside)
{
	REQUIRE(victim());
	for (uint32_t i = 1; i < SWEEP; i++) {
		uint32_t seq = 11 + i * STEP;
		if (seq - 11 >= 1u << 20)
			IN(.f = A, .seq = seq, .ack = 1, .len = 5, .evil = 0xff), FORGET();
	}
	CHECK_EQ(script_info(s).unread_bytes, 10);
	CHECK_EQ(script_info(s).ooo_segs, 0);
	UNHARMED();
	CLOSE(s);
}

/* ACKs of what was not sent would open cwnd (RFC 5961 5), if they counted. */
TEST(acks_of_the_future)
{
	REQUIRE(victim());
	struct pb_tcp_info i = script_info(s);
	for (uint32_t k = 0; k < SWEEP; k++)
		IN(.f = A, .seq = 11, .ack = 12 + k * (0x7ffffff0u / SWEEP)), FORGET();
	CHECK_EQ(script_info(s).cwnd_bytes, i.cwnd_bytes);
	CHECK_EQ(script_info(s).bytes_acked, i.bytes_acked);
	UNHARMED();
	CLOSE(s);
}

/* SACK blocks that lie: of what was not sent, backwards, over everything (RFC 2018 8; savage receivers). */
TEST(sacks_that_lie)
{
	struct pb_tcp_config c = script_config();
	c.sack = true;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 10000);
	FORGET();
	uint64_t seed = 1;
	for (unsigned k = 0; k < 5000; k++) {
		struct pb_tcp_opts o = {.n_sack = (uint8_t)(1 + k % 4)};
		for (unsigned b = 0; b < o.n_sack; b++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			o.sack[b].left = s->iss + (uint32_t)(seed >> 33) % 40000 - 10000;
			o.sack[b].right = o.sack[b].left + (uint32_t)(seed >> 13) % 9000 - 1000;
		}
		IN(.f = A, .seq = 1, .ack = 1 + k / 1000 * 1460, .o = o);
		FORGET();
		s->now_ns += 100000;
	}
	IN(.f = A, .seq = 1, .ack = 10001);
	FORGET();
	CHECK_EQ(script_info(s).inflight_bytes, 0);
	CHECK_EQ(script_info(s).bytes_acked, 10000);
	STATE(ESTABLISHED);
	CLOSE(s);
}

/* RFC 5927: the quoted sequence number must be in flight. */
TEST(icmp_at_random)
{
	REQUIRE(victim());
	struct pb_tcp_endpoint l = {s->us, s->lport}, r = {s->peer, s->rport};
	unsigned taken = 0;
	for (uint32_t i = 0; i < SWEEP; i++) {
		uint32_t seq = s->iss + 12 + i * STEP;
		taken += !pb_tcp_icmp(s->e, &l, &r, seq, ECONNREFUSED, 0, s->now_ns);
		taken += !pb_tcp_icmp(s->e, &l, &r, seq, EMSGSIZE, 68, s->now_ns);
	}
	CHECK_EQ(taken, 0);
	CHECK_EQ(script_info(s).mss, 1460);
	/* One that hits cannot end it either, nor make every byte a packet. */
	CHECK_EQ(pb_tcp_icmp(s->e, &l, &r, s->iss + 1, ECONNREFUSED, 0, s->now_ns), 0);
	CHECK_EQ(pb_tcp_icmp(s->e, &l, &r, s->iss + 1, EMSGSIZE, 1, s->now_ns), 0);
	CHECK(script_info(s).mss >= 48);
	UNHARMED();
	CLOSE(s);
}

/* The limit of the engine as a whole, which nobody can count on from outside: between half of it and all and a half. */
TEST(challenges_of_all_together)
{
	struct pb_tcp_config c = script_config();
	c.max_conns = 200;
	c.challenge_per_sec = 20;
	c.challenge_ns = 0;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	for (unsigned i = 0; i < 500; i++)
		IN(.f = S, .seq = 1000 + i), FORGET();
	uint64_t n = pb_tcp_get_stats(s->e)->n[PB_C_TcpExtTCPChallengeACK];
	CHECK(n >= 10 && n <= 30);
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_ChallengeLimited], 500 - n);
	s->now_ns += SEC;
	IN(.f = S, .seq = 1000), FORGET();
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpExtTCPChallengeACK], n + 1);
	CLOSE(s);
}

MAIN(T(resets_at_random), T(syns_at_random), T(data_at_random), T(data_outside), T(acks_of_the_future),
     T(sacks_that_lie), T(icmp_at_random), T(challenges_of_all_together))
