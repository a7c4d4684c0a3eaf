/* Every state against every kind of segment: the state afterwards, and exactly what is answered. */
#include "tcp_script.h"

enum event {
	SYN,
	SYN_OLD,
	SYN_ACK,
	RST_EXACT,
	RST_INSIDE,
	RST_EDGE,
	RST_OUTSIDE,
	FIN,
	DATA,
	OLD_ACK,
	FUTURE_ACK,
	EVENTS
};
static const char *const event_names[EVENTS] = {"SYN",        "SYN_OLD",  "SYN_ACK",     "RST_EXACT",
						"RST_INSIDE", "RST_EDGE", "RST_OUTSIDE", "FIN",
						"DATA",       "OLD_ACK",  "FUTURE_ACK"};

enum answer { NO, ACK, RST, SYNACK };

struct cell {
	uint8_t state; /* afterwards */
	uint8_t answer;
};

#define C(state, answer)                                                                                               \
	{                                                                                                              \
		PB_TCP_##state, answer                                                                                 \
	}
/* Columns as in enum event. CLOSED means that no such connection exists (or its error is told). */
static const struct cell grid[PB_TCP_STATE_COUNT][EVENTS] = {
	[PB_TCP_CLOSED] = {C(CLOSED, RST), C(CLOSED, RST), C(CLOSED, RST), C(CLOSED, NO), C(CLOSED, NO), C(CLOSED, NO),
			   C(CLOSED, NO), C(CLOSED, RST), C(CLOSED, RST), C(CLOSED, RST), C(CLOSED, RST)},
	[PB_TCP_LISTEN] = {C(LISTEN, SYNACK), C(LISTEN, SYNACK), C(LISTEN, RST), C(LISTEN, NO), C(LISTEN, NO),
			   C(LISTEN, NO), C(LISTEN, NO), C(LISTEN, RST), C(LISTEN, RST), C(LISTEN, RST),
			   C(LISTEN, RST)},
	/* RST carries no ACK here: never believed. The ACK of FIN, DATA and OLD_ACK is not of our SYN. */
	[PB_TCP_SYN_SENT] = {C(SYN_RCVD, SYNACK), C(SYN_RCVD, SYNACK), C(ESTABLISHED, ACK), C(SYN_SENT, NO),
			     C(SYN_SENT, NO), C(SYN_SENT, NO), C(SYN_SENT, NO), C(SYN_SENT, NO), C(SYN_SENT, NO),
			     C(SYN_SENT, RST), C(SYN_SENT, RST)},
	[PB_TCP_SYN_RCVD] = {C(SYN_RCVD, ACK), C(SYN_RCVD, SYNACK), C(ESTABLISHED, NO), C(CLOSED, NO), C(SYN_RCVD, ACK),
			     C(SYN_RCVD, ACK), C(SYN_RCVD, NO), C(CLOSE_WAIT, ACK), C(ESTABLISHED, ACK),
			     C(SYN_RCVD, RST), C(SYN_RCVD, RST)},
	[PB_TCP_ESTABLISHED] = {C(ESTABLISHED, ACK), C(ESTABLISHED, ACK), C(ESTABLISHED, ACK), C(CLOSED, NO),
				C(ESTABLISHED, ACK), C(ESTABLISHED, ACK), C(ESTABLISHED, NO), C(CLOSE_WAIT, ACK),
				C(ESTABLISHED, ACK), C(ESTABLISHED, NO), C(ESTABLISHED, ACK)},
	[PB_TCP_FIN_WAIT_1] = {C(FIN_WAIT_1, ACK), C(FIN_WAIT_1, ACK), C(FIN_WAIT_1, ACK), C(CLOSED, NO),
			       C(FIN_WAIT_1, ACK), C(FIN_WAIT_1, ACK), C(FIN_WAIT_1, NO), C(CLOSING, ACK),
			       C(FIN_WAIT_1, ACK), C(FIN_WAIT_1, NO), C(FIN_WAIT_1, ACK)},
	[PB_TCP_FIN_WAIT_2] = {C(FIN_WAIT_2, ACK), C(FIN_WAIT_2, ACK), C(FIN_WAIT_2, ACK), C(CLOSED, NO),
			       C(FIN_WAIT_2, ACK), C(FIN_WAIT_2, ACK), C(FIN_WAIT_2, NO), C(TIME_WAIT, ACK),
			       C(FIN_WAIT_2, ACK), C(FIN_WAIT_2, NO), C(FIN_WAIT_2, ACK)},
	[PB_TCP_CLOSE_WAIT] = {C(CLOSE_WAIT, ACK), C(CLOSE_WAIT, ACK), C(CLOSE_WAIT, ACK), C(CLOSED, NO),
			       C(CLOSE_WAIT, ACK), C(CLOSE_WAIT, ACK), C(CLOSE_WAIT, NO), C(CLOSE_WAIT, NO),
			       C(CLOSE_WAIT, NO), C(CLOSE_WAIT, NO), C(CLOSE_WAIT, ACK)},
	[PB_TCP_CLOSING] = {C(CLOSING, ACK), C(CLOSING, ACK), C(CLOSING, ACK), C(CLOSED, NO), C(CLOSING, ACK),
			    C(CLOSING, ACK), C(CLOSING, NO), C(CLOSING, NO), C(CLOSING, NO), C(CLOSING, NO),
			    C(CLOSING, ACK)},
	[PB_TCP_LAST_ACK] = {C(LAST_ACK, ACK), C(LAST_ACK, ACK), C(LAST_ACK, ACK), C(CLOSED, NO), C(LAST_ACK, ACK),
			     C(LAST_ACK, ACK), C(LAST_ACK, NO), C(LAST_ACK, NO), C(LAST_ACK, NO), C(LAST_ACK, NO),
			     C(LAST_ACK, ACK)},
	/* RFC 1337: no RST ends it. No listener here, so a new SYN is not a reuse. */
	[PB_TCP_TIME_WAIT] = {C(TIME_WAIT, ACK), C(TIME_WAIT, ACK), C(TIME_WAIT, ACK), C(TIME_WAIT, NO),
			      C(TIME_WAIT, NO), C(TIME_WAIT, NO), C(TIME_WAIT, NO), C(TIME_WAIT, NO), C(TIME_WAIT, NO),
			      C(TIME_WAIT, NO), C(TIME_WAIT, ACK)},
};

/* What each event is in a state: sequence numbers as the peer of such a connection would choose them. */
static struct sg segment_of(unsigned state, enum event ev)
{
	bool rfin = state == PB_TCP_CLOSE_WAIT || state >= PB_TCP_CLOSING;
	bool fin = state == PB_TCP_FIN_WAIT_2 || state == PB_TCP_TIME_WAIT;
	uint32_t seq = rfin ? 2 : 1, ack = fin ? 2 : 1, wnd = 65535;
	switch (ev) {
	case SYN:
		return (struct sg){.f = S, .seq = state == PB_TCP_SYN_SENT || state <= PB_TCP_LISTEN ? 0 : seq + 100};
	case SYN_OLD:
		return (struct sg){.f = S, .seq = 0};
	case SYN_ACK:
		return (struct sg){.f = S | A, .seq = 0, .ack = 1};
	case RST_EXACT:
		return (struct sg){.f = R, .seq = seq};
	case RST_INSIDE:
		return (struct sg){.f = R, .seq = seq + 1};
	case RST_EDGE:
		return (struct sg){.f = R, .seq = 1 + wnd - 1};
	case RST_OUTSIDE:
		return (struct sg){.f = R, .seq = 1 + wnd + 1};
	case FIN:
		return (struct sg){.f = F | A, .seq = seq, .ack = ack};
	case DATA:
		return (struct sg){.f = A, .seq = seq, .ack = ack, .len = 10};
	case OLD_ACK:
		return (struct sg){.f = A, .seq = seq, .ack = 0};
	default:
		return (struct sg){.f = A, .seq = seq, .ack = 100000};
	}
}

static void check_answer(struct script *s, enum answer want, const char *what)
{
	script_pull(s);
	uint8_t f = s->n ? s->outs[s->head % OUTS].v.flags & (uint8_t)~P : 0;
	enum answer got = !s->n ? NO : f & R ? RST : f == (S | A) ? SYNACK : f == A || f == (F | A) ? ACK : NO;
	if (got != want || s->n > 1) {
		char text[160];
		snprintf(text, sizeof(text), "%s: answer %d (%u segments), want %d", what, got, s->n, want);
		check_failed(__FILE__, __LINE__, text);
	}
	s->n = 0;
}

TEST(every_state_every_event)
{
	for (unsigned st = 0; st < PB_TCP_STATE_COUNT; st++)
		for (unsigned ev = 0; ev < EVENTS; ev++) {
			struct script script, *s = &script;
			struct pb_tcp_config c = script_config();
			struct pb_tcp_info i = {0};
			char what[100];
			REQUIRE(script_open(s, &c));
			script_to(s, st);
			snprintf(what, sizeof(what), "%s + %s", pb_tcp_state_name(st), event_names[ev]);
			struct sg g = segment_of(st, ev);
			script_in(s, __FILE__, __LINE__, g);
			check_answer(s, grid[st][ev].answer, what);
			if (st)
				pb_tcp_get_info(s->e, s->h, &i);
			if (i.state != grid[st][ev].state) {
				fprintf(stderr, "%s: became %s\n", what, pb_tcp_state_name(i.state));
				check_failed(__FILE__, __LINE__, what);
			}
			if (st) {
				CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns), 0);
				FORGET();
			}
			CLOSE(s);
		}
}

/* A handle of each state is void once it is closed, and every slot comes back. */
TEST(abort_in_every_state)
{
	for (unsigned st = 1; st < PB_TCP_STATE_COUNT; st++) {
		struct script script, *s = &script;
		struct pb_tcp_config c = script_config();
		REQUIRE(script_open(s, &c));
		script_to(s, st);
		CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns), 0);
		/* 3.10.5: from these states a RST goes out, from the others nothing. */
		bool rst = st == PB_TCP_SYN_RCVD || (st >= PB_TCP_ESTABLISHED && st <= PB_TCP_CLOSE_WAIT);
		check_answer(s, rst ? RST : NO, pb_tcp_state_name(st));
		CHECK(s->events & PB_TCP_EV_GONE);
		CHECK_EQ(pb_tcp_get_stats(s->e)->conns, 0);
		CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns), (uint64_t)-EBADF);
		CHECK_EQ(pb_tcp_next_deadline(s->e), UINT64_MAX);
		CLOSE(s);
	}
}

/* Slots that were never used have no valid handle either. */
TEST(guessed_handles)
{
	struct script script, *s = &script;
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	for (uint64_t gen = 0; gen < 3; gen++)
		for (uint64_t idx = 0; idx < 12; idx++) {
			pb_tcp_handle h = gen << 32 | idx;
			CHECK_EQ(pb_tcp_close(s->e, h, s->now_ns), (uint64_t)-EBADF);
			CHECK_EQ(pb_tcp_send(s->e, h, "x", 1, 0), (uint64_t)-EBADF);
		}
	NONE_OUT();
	CLOSE(s);
}

MAIN(T(every_state_every_event), T(abort_in_every_state), T(guessed_handles))
