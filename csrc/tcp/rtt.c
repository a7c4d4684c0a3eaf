/* Round-trip time and the retransmission timer (RFC 6298; fixed point as in Jacobson 1988). */
#include "tcp/tcb.h"

void rtt_sample(struct pb_tcp *e, struct tcb *c, uint32_t rtt_us)
{
	rtt_us = min_u32(max_u32(rtt_us, 1), 60000000);
	c->min_rtt_us = min_u32(c->min_rtt_us, rtt_us);
	if (!c->srtt8_us) {
		c->srtt8_us = rtt_us * 8;
		c->rttvar4_us = rtt_us * 2; /* R/2, scaled by 4 */
	} else {
		int32_t err = (int32_t)(rtt_us - c->srtt8_us / 8);
		uint32_t abs_err = (uint32_t)(err < 0 ? -err : err);
		c->rttvar4_us = c->rttvar4_us - c->rttvar4_us / 4 + abs_err;
		c->srtt8_us = max_u32(1, c->srtt8_us - c->srtt8_us / 8 + rtt_us);
	}
	/* RTO = SRTT + max(G, 4 * RTTVAR), G is below 1 us here. */
	uint64_t rto = c->srtt8_us / 8 + (uint64_t)max_u32(1, c->rttvar4_us);
	uint64_t lo = e->cfg.rto_min_ns / NS_PER_US, hi = e->cfg.rto_max_ns / NS_PER_US;
	c->rto_us = (uint32_t)(rto < lo ? lo : rto > hi ? hi : rto);
	c->cc.srtt_us = c->srtt8_us / 8;
	c->cc.min_rtt_us = c->min_rtt_us;
}

uint64_t rto_ns(const struct pb_tcp *e, const struct tcb *c)
{
	uint64_t t = (uint64_t)c->rto_us * NS_PER_US << min_u32(c->backoff, 20);
	return t < e->cfg.rto_max_ns ? t : e->cfg.rto_max_ns;
}

void rtx_arm(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->t_rtx = now_ns + rto_ns(e, c);
	timer_update(e, c);
}

void rtx_review(struct pb_tcp *e, struct tcb *c, uint64_t now_ns, bool restart)
{
	if (c->state < PB_TCP_ESTABLISHED)
		return;
	if (in_flight(c)) {
		if (restart || c->t_rtx == NEVER || (c->flags & TCB_PERSIST)) {
			c->flags &= ~(uint32_t)TCB_PERSIST;
			rtx_arm(e, c, now_ns);
		}
		return;
	}
	if (c->sq_next != NONE) {
		/* Nothing in flight and something unsent: the window is what holds it (3.8.6.1). */
		if (!(c->flags & TCB_PERSIST)) {
			c->flags |= TCB_PERSIST;
			rtx_arm(e, c, now_ns);
		}
		return;
	}
	c->flags &= ~(uint32_t)TCB_PERSIST;
	c->t_rtx = NEVER;
}
