/* RACK (RFC 8985): a segment is lost when one that was sent clearly later has arrived. "Clearly" is the reordering
 * window; it adapts to what the receiver reports as duplicates. */
#include "tcp/tcb.h"

#define PERSIST_ROUNDS 16u /* recoveries that a larger window outlives */
#define STEPS_MAX 255u

static bool sent_after(uint64_t t1, uint64_t t2, uint32_t end1, uint32_t end2)
{
	return t1 > t2 || (t1 == t2 && seq_lt(end2, end1));
}

void rack_arrived(struct tcb *c, const struct seg *s, struct ack_news *n)
{
	if (s->sent_ns >= n->newest_ns) {
		n->newest_ns = s->sent_ns;
		n->prior_delivered = s->delivered;
	}
	uint32_t rtt_us = (uint32_t)((n->now_ns - s->sent_ns) / NS_PER_US);
	/* 6.2: back sooner than ever before, so it is the first transmission that arrived. */
	if ((s->flags & SEG_REXMIT) && rtt_us < c->min_rtt_us)
		return;
	c->bits |= BIT_RACK_ADVANCED;
	c->rack_rtt_us = rtt_us;
	uint32_t end = s->seq + s->len;
	if (sent_after(s->sent_ns, c->rack_sent_ns, end, c->rack_end)) {
		c->rack_sent_ns = s->sent_ns;
		c->rack_end = end;
	}
}

/* 6.2.4: reported duplicates widen the window, by a quarter of the least RTT once a round; 16 recoveries without one
 * set it back. */
void rack_adapt(const struct pb_tcp *e, struct tcb *c, const struct ack_news *n)
{
	if (e->cfg.rack_static || !n->newest_ns)
		return;
	if (seq_lt(n->prior_delivered, c->rack_last_delivered))
		c->bits &= ~(uint32_t)BIT_RACK_DSACK;
	if (c->bits & BIT_RACK_DSACK) {
		c->bits &= ~(uint32_t)BIT_RACK_DSACK;
		c->rack_steps = (uint8_t)min_u32(c->rack_steps + 1u, STEPS_MAX);
		c->rack_last_delivered = c->delivered_segs;
		c->rack_persist = PERSIST_ROUNDS;
	} else if (!c->rack_persist) {
		c->rack_steps = 1;
	}
}

static uint32_t reo_wnd_us(const struct pb_tcp *e, const struct tcb *c)
{
	if (!c->reord_seen) {
		/* No reordering seen yet: quick in recovery, and when duplicates alone would start one. */
		if (c->ca_state >= PB_TCP_CA_RECOVERY)
			return 0;
		if (c->sacked_segs >= c->reordering && !e->cfg.rack_no_dupthresh)
			return 0;
	}
	uint64_t wnd = (uint64_t)(c->min_rtt_us / 4) * c->rack_steps;
	uint32_t srtt_us = c->srtt8_us / 8;
	return wnd < srtt_us ? (uint32_t)wnd : srtt_us;
}

bool rack_is_old(const struct tcb *c, const struct seg *s, uint32_t reo_us, uint64_t now_ns, uint64_t *wait_ns)
{
	uint64_t limit = s->sent_ns + ((uint64_t)c->rack_rtt_us + reo_us) * NS_PER_US;
	*wait_ns = limit > now_ns ? limit - now_ns : 0;
	return !*wait_ns;
}

/* Marks what is lost; returns for how long the youngest of the doubtful ones is doubtful. */
static uint64_t detect(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint32_t reo_us = reo_wnd_us(e, c);
	uint64_t wait_ns, longest = 0;
	for (uint32_t f = c->sq_head; f != NONE && (e->segs[f].flags & SEG_SENT); f = e->segs[f].next) {
		struct seg *s = &e->segs[f];
		if ((s->flags & SEG_SACKED) || (s->flags & (SEG_LOST | SEG_RETRANS)) == SEG_LOST)
			continue;
		if (!sent_after(c->rack_sent_ns, s->sent_ns, c->rack_end, s->seq + s->len)) {
			if (!(s->flags & SEG_REXMIT))
				break; /* those behind it were sent later still, or they are retransmissions of the same
					  episode */
			continue;
		}
		if (rack_is_old(c, s, reo_us, now_ns, &wait_ns))
			seg_mark_lost(e, c, s);
		else if (wait_ns > longest)
			longest = wait_ns;
	}
	return longest;
}

bool rack_mark_lost(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!(c->bits & BIT_RACK_ADVANCED))
		return false;
	c->bits &= ~(uint32_t)BIT_RACK_ADVANCED;
	uint64_t wait_ns = detect(e, c, now_ns);
	if (!wait_ns)
		return false;
	c->rtx_kind = RTX_REO;
	c->t_rtx = now_ns + wait_ns + e->cfg.timer_slack_ns;
	timer_update(e, c);
	return true;
}

void rack_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint32_t before = c->todo_bytes, lost = c->lost_total_segs;
	uint64_t wait_ns = detect(e, c, now_ns);
	trace_add(e, c, NULL, PB_TCP_T_REO, now_ns);
	if (c->todo_bytes != before) {
		if (c->ca_state != PB_TCP_CA_RECOVERY) {
			enter_recovery(e, c, false, now_ns);
			prr_update(c, c->mss, c->lost_total_segs != lost, false);
		}
		tcb_ready(e, c);
	}
	if (wait_ns) {
		c->rtx_kind = RTX_REO;
		c->t_rtx = now_ns + wait_ns + e->cfg.timer_slack_ns;
		timer_update(e, c);
	} else {
		rtx_rearm(e, c, now_ns);
	}
}
