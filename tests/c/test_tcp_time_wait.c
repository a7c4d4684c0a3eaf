/* A SYN for the pair of a connection in TIME-WAIT: when it takes the place of the old one, and when it does not. */
#include "tcp_script.h"

static struct script script, *const s = &script;

#define SENT 300000u

/* A quick stream: more numbers are used than the ISN's clock counts meanwhile. */
static void until_time_wait(void)
{
	ACTIVE();
	for (uint32_t at = 1; at <= SENT; at += 10000) {
		SEND(at, 10000);
		FORGET();
		IN_OK(.f = A, .seq = 1, .ack = at + 10000);
	}
	SHUT(SHUT_WR);
	FORGET();
	IN_OK(.f = F | A, .seq = 1, .ack = SENT + 2);
	OUT(.f = A, .seq = SENT + 2, .ack = 2);
	STATE(TIME_WAIT);
}

/* RFC 9293 3.6.1: a new SYN may open out of TIME-WAIT, with an ISN above all that was used. With an accept policy that
 * is known when the policy has spoken; who is refused ends nothing. */
TEST(time_wait_reuse_by_policy)
{
	for (unsigned ask = 0; ask < 2; ask++) {
		struct pb_tcp_config c = script_config();
		REQUIRE(script_open(s, &c));
		CHECK_EQ(script_listen(s, 4 | (ask ? PB_TCP_ASK : 0)), 0);
		until_time_wait();
		if (ask) {
			IN_OK(.f = S, .seq = 100);
			CHECK_EQ(s->verdict, PB_VERDICT_EXC);
			NONE_OUT();
			STATE(TIME_WAIT);
			s->d_flags = PB_DESC_REFUSED;
			IN_DROP(TCP_REFUSED, .f = S, .seq = 100);
			struct seen *o = NEXT();
			REQUIRE(o);
			CHECK_EQ(o->v.flags, R | A);
			CHECK_EQ(o->v.ack - s->irs, 101);
			STATE(TIME_WAIT);
			CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TimeWaitReused], 0);
			s->d_flags = PB_DESC_ADMITTED;
		}
		IN_OK(.f = S, .seq = 100);
		s->d_flags = 0;
		STATE(CLOSED);
		struct seen *o = NEXT();
		REQUIRE(o);
		CHECK_EQ(o->v.flags, S | A);
		CHECK_EQ(o->v.seq - s->iss, SENT + 2 + 65537);
		CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TimeWaitReused], 1);
		s->iss = o->v.seq;
		IN_OK(.f = A, .seq = 101, .ack = 1);
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
		STATE(ESTABLISHED);
		CLOSE(s);
	}
}

/* Nor does a SYN that there is no room for, in the backlog or in the engine. */
TEST(time_wait_outlives_what_does_not_open)
{
	for (unsigned backlog = 0; backlog < 2; backlog++) {
		struct pb_tcp_config c = script_config();
		c.max_conns = backlog ? 4 : 1;
		REQUIRE(script_open(s, &c));
		CHECK_EQ(script_listen(s, 1), 0);
		until_time_wait();
		uint16_t port = s->rport;
		uint32_t iss = s->iss;
		if (backlog) {
			s->rport++;
			IN_OK(.f = S);
			FORGET();
			s->rport = port;
			s->iss = iss;
			IN_DROP(TCP_BACKLOG, .f = S, .seq = 100);
		} else {
			IN_DROP(TCP_NO_CONN, .f = S, .seq = 100); /* the old one's handle is held */
		}
		NONE_OUT();
		STATE(TIME_WAIT);
		if (!backlog) {
			CLOSE_H();
			IN_OK(.f = S, .seq = 100); /* in its place */
			struct seen *o = NEXT();
			REQUIRE(o);
			CHECK_EQ(o->v.seq - iss, SENT + 2 + 65537);
			CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TimeWaitCutShort], 0);
		}
		CLOSE(s);
	}
}

MAIN(T(time_wait_reuse_by_policy), T(time_wait_outlives_what_does_not_open))
