/* Round-trip time and the retransmission timer: RFC 6298 with the variance as Linux takes it, whose floor is the
 * least RTO: so RTO = SRTT + max(floor, 4 * deviation), the deviation being the greatest of the last round trips. */
#include "tcp/tcb.h"

#define MIN_RTT_WINDOW_NS (300ull * 1000 * NS_PER_MS)

static void set_rto(struct tcb *c)
{
	uint64_t rto = c->srtt8_us / 8 + (uint64_t)c->rttvar_us, max = c->rto_max_ns / NS_PER_US;
	c->rto_us = (uint32_t)(rto < max ? rto : max);
}

void rtt_sample(struct tcb *c, uint32_t rtt_us, uint64_t now_ns)
{
	uint32_t floor_us = (uint32_t)(c->rto_min_ns / NS_PER_US);
	rtt_us = min_u32(max_u32(rtt_us, 1), 60000000);
	if (rtt_us <= c->min_rtt_us || now_ns - c->min_rtt_ns > MIN_RTT_WINDOW_NS) {
		c->min_rtt_us = rtt_us;
		c->min_rtt_ns = now_ns;
	}
	if (!c->srtt8_us) {
		c->srtt8_us = rtt_us * 8;
		c->mdev4_us = rtt_us * 2; /* R/2, scaled by 4 */
		c->rttvar_us = c->mdev_max_us = max_u32(c->mdev4_us, floor_us);
		c->rtt_seq = c->snd_nxt;
	} else {
		int32_t err = (int32_t)(rtt_us - c->srtt8_us / 8);
		c->srtt8_us = (uint32_t)max_u32(1, (uint32_t)((int32_t)c->srtt8_us + err));
		if (err < 0) {
			/* An RTT that falls says little of a variance that would lengthen the timer. */
			err = -err - (int32_t)(c->mdev4_us / 4);
			if (err > 0)
				err /= 8;
		} else {
			err -= (int32_t)(c->mdev4_us / 4);
		}
		c->mdev4_us = (uint32_t)((int32_t)c->mdev4_us + err);
		if (c->mdev4_us > c->mdev_max_us) {
			c->mdev_max_us = c->mdev4_us;
			c->rttvar_us = max_u32(c->rttvar_us, c->mdev_max_us);
		}
		if (seq_lt(c->rtt_seq, c->snd_una)) {
			if (c->mdev_max_us < c->rttvar_us)
				c->rttvar_us -= (c->rttvar_us - c->mdev_max_us) / 4;
			c->rtt_seq = c->snd_nxt;
			c->mdev_max_us = floor_us;
		}
	}
	set_rto(c);
	c->cc.srtt_us = c->srtt8_us / 8;
	c->cc.min_rtt_us = c->min_rtt_us;
}

uint64_t rto_ns(const struct tcb *c)
{
	uint64_t t = (uint64_t)c->rto_us * NS_PER_US << min_u32(c->backoff, 20);
	return t < c->rto_max_ns ? t : c->rto_max_ns;
}

/* When the first segment in flight would time out. */
uint64_t rto_due(const struct pb_tcp *e, const struct tcb *c, uint64_t now_ns)
{
	uint64_t sent = c->sq_head != NONE && (e->segs[c->sq_head].flags & SEG_SENT) ? e->segs[c->sq_head].sent_ns
										     : c->last_send_ns;
	uint64_t due = sent + rto_ns(c);
	return due > now_ns ? due : now_ns + NS_PER_US;
}

void rtx_arm(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->rtx_kind = RTX_RTO;
	c->t_rtx = now_ns + rto_ns(c);
	timer_update(e, c);
}

void rtx_rearm(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!in_flight(c)) {
		c->rtx_kind = RTX_NONE;
		c->t_rtx = NEVER;
		return;
	}
	bool offset = c->rtx_kind == RTX_TLP || c->rtx_kind == RTX_REO;
	c->rtx_kind = RTX_RTO;
	c->t_rtx = offset ? rto_due(e, c, now_ns) : now_ns + rto_ns(c);
	timer_update(e, c);
}

/* An ACK moved on: the timer starts anew, as a probe's first if one may be sent (RFC 6298 5.3, RFC 8985 7.2). */
void rtx_restart(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!in_flight(c)) {
		if (c->rtx_kind != RTX_PERSIST) {
			c->rtx_kind = RTX_NONE;
			c->t_rtx = NEVER;
		}
	} else if (!tlp_schedule(e, c, true, now_ns)) {
		rtx_rearm(e, c, now_ns);
	}
}

void rtx_review(struct pb_tcp *e, struct tcb *c, bool sent_new, uint64_t now_ns)
{
	if (c->state < PB_TCP_ESTABLISHED)
		return;
	if (in_flight(c)) {
		c->probe_began_ns = 0;
		if (c->rtx_kind == RTX_NONE || c->rtx_kind == RTX_PERSIST || (sent_new && c->rtx_kind == RTX_TLP))
			rtx_rearm(e, c, now_ns);
		if (sent_new && c->rtx_kind != RTX_REO)
			tlp_schedule(e, c, false, now_ns);
		return;
	}
	if (c->sq_next != NONE && !(c->bits & BIT_RATE_LIMITED)) {
		/* Nothing in flight and something unsent: the window is what holds it, or a cork (3.8.6.1). */
		if (c->rtx_kind != RTX_PERSIST) {
			c->rtx_kind = RTX_PERSIST;
			bool corked = c->snd_wnd && (e->segs[c->sq_next].flags & SEG_MORE || c->flags & TCB_CORK);
			uint64_t wait_ns = rto_ns(c) > c->rto_min_ns ? rto_ns(c) : c->rto_min_ns;
			c->t_rtx = now_ns + (corked ? e->cfg.cork_ns : wait_ns);
			timer_update(e, c);
		}
		return;
	}
	c->rtx_kind = RTX_NONE;
	c->t_rtx = NEVER;
}
