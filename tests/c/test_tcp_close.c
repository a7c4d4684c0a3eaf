/* Closing: FINs in every order, half close, TIME-WAIT and its reuse, aborts, keepalive, what becomes of handles. */
#include "tcp_script.h"

static struct script script, *const s = &script;

static bool established(const struct pb_tcp_config *c)
{
	if (!script_open(s, c))
		return false;
	ACTIVE();
	return true;
}

static void gone(int line)
{
	script_pull(s);
	check_eq(__FILE__, line, "GONE", s->events & PB_TCP_EV_GONE, PB_TCP_EV_GONE);
	check_eq(__FILE__, line, "conns", pb_tcp_get_stats(s->e)->conns, 0);
	check_eq(__FILE__, line, "stale handle", (uint64_t)pb_tcp_close(s->e, s->h, s->now_ns), (uint64_t)-EBADF);
	check_eq(__FILE__, line, "deadline", pb_tcp_next_deadline(s->e), UINT64_MAX);
}
#define GONE() gone(__LINE__)

TEST(we_first)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(established(&c));
	CLOSE_H();
	OUT(.f = F | A, .seq = 1, .ack = 1);
	IN_OK(.f = A, .seq = 1, .ack = 2);
	IN_OK(.f = F | A, .seq = 1, .ack = 2);
	OUT(.f = A, .seq = 2, .ack = 2);
	CHECK_EQ(pb_tcp_get_stats(s->e)->conns, 1);
	WAIT(c.time_wait_ns - MS);
	CHECK(!(s->events & PB_TCP_EV_GONE));
	WAIT(MS);
	GONE();
	CHECK_EQ(s->error, 0);
	CLOSE(s);
}

TEST(peer_first)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(established(&c));
	IN_OK(.f = F | A, .seq = 1, .ack = 1);
	OUT(.f = A, .seq = 1, .ack = 2);
	READ_RC(0);
	SEND(1, 10); /* half closed */
	OUT(.f = A, .seq = 1, .ack = 2, .len = 10);
	CLOSE_H();
	OUT(.f = F | A, .seq = 11, .ack = 2);
	IN_OK(.f = A, .seq = 2, .ack = 11);
	IN_OK(.f = A, .seq = 2, .ack = 12);
	GONE(); /* LAST-ACK: no TIME-WAIT on this side */
	CLOSE(s);
}

TEST(both_at_once)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(established(&c));
	SHUT(SHUT_WR);
	OUT(.f = F | A, .seq = 1, .ack = 1);
	IN_OK(.f = F | A, .seq = 1, .ack = 1);
	OUT(.f = A, .seq = 2, .ack = 2);
	STATE(CLOSING);
	IN_OK(.f = A, .seq = 2, .ack = 2);
	STATE(TIME_WAIT);
	NONE_OUT();
	CHECK(s->events & PB_TCP_EV_CLOSED && !(s->events & PB_TCP_EV_GONE));
	WAIT(c.time_wait_ns);
	STATE(CLOSED);
	CLOSE_H();
	GONE();
	CLOSE(s);
}

TEST(fin_and_ack_in_one)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(established(&c));
	SEND(1, 10);
	SHUT(SHUT_WR);
	OUT(.f = F | A, .seq = 1, .ack = 1, .len = 10);
	IN_OK(.f = F | A, .seq = 1, .ack = 12, .len = 5);
	OUT(.f = A, .seq = 12, .ack = 7);
	STATE(TIME_WAIT);
	READ(1, 5);
	READ_RC(0);
	CLOSE(s);
}

TEST(half_close_receives_on)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(established(&c));
	SHUT(SHUT_WR);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 2);
	for (uint32_t i = 0; i < 50; i++) {
		WAIT(60 * SEC); /* no timer runs in FIN-WAIT-2 while there is an application */
		IN_OK(.f = A, .seq = 1 + 10 * i, .ack = 2, .len = 10);
		READ(1 + 10 * i, 10);
		FORGET();
	}
	STATE(FIN_WAIT_2);
	CLOSE(s);
}

TEST(fin_wait_2_of_an_orphan)
{
	struct pb_tcp_config c = script_config();
	for (int late = 0; late < 2; late++) {
		REQUIRE(established(&c));
		if (late) {
			SHUT(SHUT_WR);
			FORGET();
			IN_OK(.f = A, .seq = 1, .ack = 2);
			CLOSE_H();
		} else {
			CLOSE_H();
			FORGET();
			IN_OK(.f = A, .seq = 1, .ack = 2);
		}
		WAIT(c.fin_wait2_ns - MS);
		CHECK(!(s->events & PB_TCP_EV_GONE));
		WAIT(MS);
		GONE();
		CLOSE(s);
	}
}

TEST(time_wait_restarts_for_fin_only)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	script_to(s, PB_TCP_TIME_WAIT);
	WAIT(c.time_wait_ns / 2);
	IN_DROP(TCP_DUP, .f = F | A, .seq = 1, .ack = 2);
	OUT(.f = A, .seq = 2, .ack = 2);
	WAIT(c.time_wait_ns / 2 + MS);
	STATE(TIME_WAIT);
	IN(.f = A, .seq = 0, .ack = 2, .len = 1); /* old data: acknowledged, no more */
	OUT(.f = A, .seq = 2, .ack = 2);
	WAIT(c.time_wait_ns / 2);
	STATE(CLOSED);
	CLOSE(s);
}

TEST(time_wait_reuse)
{
	for (unsigned ts = 0; ts < 2; ts++) {
		struct pb_tcp_config c = script_config();
		c.timestamps = ts;
		REQUIRE(script_open(s, &c));
		s->ts = ts;
		CHECK_EQ(script_listen(s, 4), 0);
		script_to(s, PB_TCP_TIME_WAIT);
		uint32_t old = s->iss;
		pb_tcp_handle h = s->h;
		/* Not newer than what it had. */
		IN(.f = S, .seq = ts ? 100000 : 0, .o = {.has_ts = ts, .ts_val = s->ts_val - 1});
		FORGET();
		STATE(TIME_WAIT);
		WAIT(SEC);
		s->ts_val++;
		IN_OK(.f = S, .seq = 100);
		struct seen *o = NEXT();
		REQUIRE(o);
		CHECK_EQ(o->v.flags, S | A);
		CHECK_EQ(o->v.ack - s->irs, 101);
		/* RFC 1122 4.2.2.13: above all that was used. */
		CHECK((int32_t)(o->v.seq - (old + 2)) > 0);
		s->iss = o->v.seq;
		IN_OK(.f = A, .seq = 101, .ack = 1);
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
		STATE(ESTABLISHED);
		CHECK(s->h != h);
		CLOSE(s);
	}
}

TEST(close_with_unread_data)
{
	struct pb_tcp_config c = script_config();
	for (int k = 0; k < 3; k++) {
		REQUIRE(established(&c));
		IN_OK(.f = A, .seq = k == 1 ? 50 : 1, .ack = 1, .len = 10);
		FORGET();
		if (k == 2) {
			IN_OK(.f = F | A, .seq = 11, .ack = 1);
			SEND(1, 30000);
			SHUT(SHUT_WR); /* LAST-ACK, with data that never went */
			FORGET();
		}
		CLOSE_H();
		struct seen *o = NEXT();
		REQUIRE(o);
		CHECK_EQ(o->v.flags, R | A); /* RFC 2525 2.17 */
		GONE();
		CLOSE(s);
	}
}

TEST(data_after_close)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(established(&c));
	CLOSE_H();
	OUT(.f = F | A, .seq = 1, .ack = 1);
	IN_DROP(TCP_CLOSED, .f = A, .seq = 1, .ack = 2, .len = 10);
	OUT(.f = R, .seq = 2); /* RFC 1122 4.2.2.13 */
	GONE();
	CHECK_EQ(s->error, ECONNABORTED);
	CLOSE(s);
}

TEST(close_before_established)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	script_to(s, PB_TCP_SYN_SENT);
	CLOSE_H();
	NONE_OUT();
	GONE();
	s->rport++;
	s->events = 0;
	script_to(s, PB_TCP_SYN_RCVD);
	CLOSE_H(); /* 3.10.4: the FIN waits for ESTABLISHED */
	NONE_OUT();
	IN_OK(.f = A, .seq = 1, .ack = 1);
	OUT(.f = F | A, .seq = 1, .ack = 1);
	IN_OK(.f = F | A, .seq = 1, .ack = 2);
	OUT(.f = A, .seq = 2, .ack = 2);
	WAIT(c.time_wait_ns);
	GONE();
	CLOSE(s);
}

TEST(close_listener)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 4), 0);
	for (unsigned i = 0; i < 3; i++) {
		s->rport = (uint16_t)(3000 + i);
		IN_OK(.f = S);
		OUT(.f = S | A, .ack = 1);
		if (i)
			IN_OK(.f = A, .seq = 1, .ack = 1, .len = 10);
		FORGET();
	}
	s->h = s->l;
	CLOSE_H();
	script_pull(s);
	CHECK_EQ(s->n, 3);
	for (; s->n; s->n--)
		CHECK(s->outs[s->head++ % OUTS].v.flags & R);
	GONE();
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), (uint64_t)-EBADF);
	IN_DROP(TCP_NO_FLOW, .f = S);
	FORGET();
	CHECK_EQ(script_listen(s, 4), 0);
	CLOSE(s);
}

TEST(keepalive)
{
	struct pb_tcp_config c = script_config();
	c.keepalive_idle_ns = 60 * SEC;
	c.keepalive_interval_ns = 10 * SEC;
	c.keepalive_probes = 3;
	for (int state = 0; state < 3; state++) {
		static const uint8_t states[] = {PB_TCP_ESTABLISHED, PB_TCP_CLOSE_WAIT, PB_TCP_FIN_WAIT_2};
		REQUIRE(script_open(s, &c));
		script_to(s, states[state]);
		uint32_t snd = state == 2 ? 2 : 1, rcv = state == 1 ? 2 : 1;
		WAIT(60 * SEC - MS);
		NONE_OUT();
		WAIT(MS);
		OUT(.f = A, .seq = snd - 1, .ack = rcv); /* a number that was acknowledged already */
		IN_OK(.f = A, .seq = rcv, .ack = snd);   /* it lives: from the start */
		WAIT(60 * SEC - MS);
		NONE_OUT();
		WAIT(MS);
		for (unsigned i = 0; i < 3; i++) {
			OUT(.f = A, .seq = snd - 1, .ack = rcv);
			NONE_OUT();
			WAIT(10 * SEC);
		}
		STATE(CLOSED);
		CHECK_EQ(s->error, ETIMEDOUT);
		CLOSE(s);
	}
}

TEST(keepalive_of_the_peer)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(established(&c));
	for (unsigned i = 0; i < 5; i++) {
		WAIT(SEC);
		IN(.f = A, .seq = 0, .ack = 1);
		OUT(.f = A, .seq = 1, .ack = 1);
		WAIT(SEC);
		IN(.f = A, .seq = 0, .ack = 1, .len = 1); /* with a byte, as old stacks do (RFC 1122 4.2.3.6) */
		OUT(.f = A, .seq = 1, .ack = 1);
	}
	CLOSE(s);
}

/* Opens from either side, we close first: TIME-WAIT. */
static void to_time_wait(bool active)
{
	s->rport++;
	if (active) {
		CHECK_EQ(script_connect(s), 0);
		OUT(.f = S);
		IN_OK(.f = S | A, .ack = 1);
		OUT(.f = A, .seq = 1, .ack = 1);
	} else {
		IN_OK(.f = S);
		OUT(.f = S | A, .ack = 1);
		IN_OK(.f = A, .seq = 1, .ack = 1);
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	}
	CLOSE_H();
	OUT(.f = F | A, .seq = 1, .ack = 1);
	IN_OK(.f = F | A, .seq = 1, .ack = 2);
	OUT(.f = A, .seq = 2, .ack = 2);
}

/* TIME-WAIT holds no place that a new connection needs: the oldest makes room, the others stay. */
TEST(time_wait_makes_room)
{
	for (unsigned active = 0; active < 2; active++) {
		struct pb_tcp_config c = script_config();
		const struct pb_tcp_stats *t;
		uint16_t port = 0;
		uint32_t iss = 0;
		c.max_conns = 4;
		REQUIRE(script_open(s, &c));
		CHECK_EQ(script_listen(s, 8), 0);
		t = pb_tcp_get_stats(s->e);
		for (unsigned i = 1; i <= 3 * c.max_conns; i++) {
			to_time_wait(active);
			CHECK_EQ(t->states[PB_TCP_TIME_WAIT], i < 4 ? i : 4);
			CHECK_EQ(t->n[PB_C_TimeWaitCutShort], i < 4 ? 0 : i - 4);
			if (i == 9) {
				port = s->rport;
				iss = s->iss;
			}
		}
		s->rport = port;
		s->iss = iss;
		IN(.f = F | A, .seq = 1, .ack = 2); /* the oldest that is left: it starts anew, and is the last to go */
		OUT(.f = A, .seq = 2, .ack = 2);
		s->rport = (uint16_t)(port + 3);
		for (unsigned i = 0; i < 3; i++)
			to_time_wait(active);
		s->rport = port;
		s->iss = iss;
		WAIT(SEC);
		IN(.f = F | A, .seq = 1, .ack = 2);
		OUT(.f = A, .seq = 2, .ack = 2);
		CLOSE(s);
	}
}

/* Also when nobody has taken the events of those that went; and not beyond the limit. */
TEST(time_wait_makes_room_for_a_burst)
{
	struct pb_tcp_config c = script_config();
	c.max_conns = 4;
	REQUIRE(script_open(s, &c));
	for (unsigned i = 0; i < 4; i++)
		to_time_wait(true);
	for (unsigned i = 0; i < 5; i++) {
		s->rport++;
		CHECK_EQ(script_connect(s), i < 4 ? 0 : (uint64_t)-ENOBUFS);
		CHECK_EQ(pb_tcp_check(s->e), 0);
	}
	struct pb_tcp_event ev[16];
	REQUIRE(pb_tcp_events(s->e, ev, 16) == 4);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(ev[i].mask, PB_TCP_EV_CLOSED | PB_TCP_EV_GONE);
	CHECK_EQ(pb_tcp_check(s->e), 0);
	FORGET();
	CLOSE(s);
}

/* A handle that the application still has keeps its place. */
TEST(time_wait_with_a_handle_stays)
{
	struct pb_tcp_config c = script_config();
	c.max_conns = 1;
	REQUIRE(established(&c));
	SHUT(SHUT_WR);
	OUT(.f = F | A, .seq = 1, .ack = 1);
	IN_OK(.f = F | A, .seq = 1, .ack = 2);
	OUT(.f = A, .seq = 2, .ack = 2);
	pb_tcp_handle h = s->h;
	s->rport++;
	CHECK_EQ(script_connect(s), (uint64_t)-ENOBUFS);
	s->h = h;
	STATE(TIME_WAIT);
	CLOSE_H();
	CHECK_EQ(script_connect(s), 0);
	FORGET();
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TimeWaitCutShort], 1);
	CLOSE(s);
}

TEST(handles_are_reused_with_another_generation)
{
	struct pb_tcp_config c = script_config();
	c.max_conns = 1;
	REQUIRE(script_open(s, &c));
	pb_tcp_handle old = 0;
	for (unsigned i = 0; i < 50; i++) {
		CHECK_EQ(script_connect(s), 0);
		CHECK(s->h != old);
		CHECK_EQ(pb_tcp_abort(s->e, old, s->now_ns), (uint64_t)-EBADF);
		old = s->h;
		CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns),
			 0); /* still on the output list: nothing may be confused */
		struct pb_tcp_event ev[4];
		CHECK_EQ(pb_tcp_events(s->e, ev, 4), 1);
		CHECK_EQ(ev[0].conn, old);
		CHECK_EQ(pb_tcp_check(s->e), 0);
		if (i & 1)
			FORGET();
		FORGET();
	}
	CLOSE(s);
}

MAIN(T(we_first), T(peer_first), T(both_at_once), T(fin_and_ack_in_one), T(half_close_receives_on),
     T(fin_wait_2_of_an_orphan), T(time_wait_restarts_for_fin_only), T(time_wait_reuse), T(time_wait_makes_room),
     T(time_wait_makes_room_for_a_burst), T(time_wait_with_a_handle_stays), T(close_with_unread_data),
     T(data_after_close), T(close_before_established), T(close_listener), T(keepalive), T(keepalive_of_the_peer),
     T(handles_are_reused_with_another_generation))
