/* Where the time of a sender goes (Linux's tcp_chrono), and the rate at which it may send. */
#include "tcp/tcb.h"

/* A caller that comes late may make up for so much. */
#define PACE_SLACK_NS (50u * NS_PER_US)

void chrono_update(struct tcb *c, uint64_t now_ns)
{
	uint8_t what = CHRONO_IDLE;
	if (c->sq_head != NONE) {
		what = CHRONO_BUSY;
		if (c->sq_next != NONE && !in_flight(c) && !(c->bits & BIT_RATE_LIMITED) &&
		    c->snd_wnd < min_u32(c->mss, c->snd_end - c->snd_nxt))
			what = CHRONO_RWND;
		else if (c->sq_next != NONE && seq_leq(c->snd_una + c->snd_wnd, c->snd_nxt))
			what = CHRONO_RWND;
		else if (c->sq_next == NONE && (c->bits & BIT_NOSPACE))
			what = CHRONO_SNDBUF;
	}
	if (what == c->chrono)
		return;
	c->chrono_sum[c->chrono] += now_ns - c->chrono_ns;
	c->chrono = what;
	c->chrono_ns = now_ns;
}

void pace(struct tcb *c, uint32_t bytes, uint64_t now_ns)
{
	uint64_t from = now_ns > PACE_SLACK_NS ? now_ns - PACE_SLACK_NS : 0;
	if (c->pace_next_ns < from)
		c->pace_next_ns = from;
	c->pace_next_ns += bytes * 1000000000ull / c->pacing_rate;
}
