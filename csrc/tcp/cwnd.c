/* How much may be in flight: proportional rate reduction in recovery (RFC 6937 with the safe bound of its successor),
 * growth only while the window is what limits sending (RFC 7661), and less after idle times (RFC 5681 4.1). */
#include "tcp/tcb.h"

void prr_update(struct tcb *c, uint32_t delivered, bool new_loss, bool advanced)
{
	if (!delivered || !c->prior_cwnd)
		return;
	uint32_t pipe = pipe_bytes(c), send, mss = c->mss;
	c->prr_delivered += delivered;
	if (pipe > c->cc.ssthresh) {
		uint64_t due = ((uint64_t)c->cc.ssthresh * c->prr_delivered + c->prior_cwnd - 1) / c->prior_cwnd;
		/* In whole segments, rounded up. */
		due = (due + mss - 1) / mss * mss;
		send = due > c->prr_out ? (uint32_t)(due - c->prr_out) : 0;
	} else {
		uint32_t behind = c->prr_delivered > c->prr_out ? c->prr_delivered - c->prr_out : 0;
		send = max_u32(behind, delivered);
		if (advanced && !new_loss)
			send += mss;
		send = min_u32(send, c->cc.ssthresh - pipe);
	}
	/* The fast retransmission itself goes in any case. */
	if (!c->prr_out)
		send = max_u32(send, mss);
	c->cc.cwnd = pipe + send;
}

uint32_t current_ssthresh(const struct tcb *c)
{
	if (c->ca_state == PB_TCP_CA_CWR || c->ca_state == PB_TCP_CA_RECOVERY)
		return c->cc.ssthresh;
	return max_u32(c->cc.ssthresh, c->cc.cwnd / 2 + c->cc.cwnd / 4);
}

void reduce_cwnd(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	(void)e;
	c->recover_seq = c->snd_nxt;
	c->bits &= ~(uint32_t)BIT_TLP;
	c->cc.grown = 0;
	c->prior_cwnd = c->cc.cwnd;
	c->prr_delivered = c->prr_out = 0;
	c->cc.ssthresh = c->cc_ops->ssthresh(&c->cc, pipe_bytes(c), now_ns);
	if (c->bits & BIT_ECN)
		c->bits |= BIT_CWR;
}

void end_reduction(struct tcb *c)
{
	if (c->cc.ssthresh < PB_CC_SSTHRESH_MAX && (c->ca_state == PB_TCP_CA_CWR || c->undo_on))
		c->cc.cwnd = c->cc.ssthresh;
}

/* An echo of congestion, or what else reduces the window without a loss (RFC 3168 6.1.2). */
void enter_cwr(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->prior_ssthresh = 0;
	if (c->ca_state >= PB_TCP_CA_CWR)
		return;
	c->undo_on = false;
	reduce_cwnd(e, c, now_ns);
	c->ca_state = PB_TCP_CA_CWR;
	trace_add(e, c, NULL, PB_TCP_T_ENTER_CWR, now_ns);
}

bool cwnd_limited(const struct tcb *c)
{
	if (c->flags & TCB_CWND_LIMITED)
		return true;
	/* In slow start the window may reach twice what was in flight. */
	return c->cc.cwnd < c->cc.ssthresh && c->cc.cwnd < 2 * c->max_out;
}

/* Nobody used the window for an RTO: RFC 2861, as Linux has it. */
static void application_limited(struct tcb *c)
{
	if (c->ca_state == PB_TCP_CA_OPEN && !(c->bits & BIT_NOSPACE)) {
		uint32_t used = max_u32(c->cwnd_used, pb_cc_initial_window(c->mss));
		if (used < c->cc.cwnd) {
			c->cc.ssthresh = current_ssthresh(c);
			c->cc.cwnd = (c->cc.cwnd + used) / 2;
		}
		c->cwnd_used = 0;
	}
}

void cwnd_validate(struct tcb *c, bool limited, uint64_t now_ns)
{
	uint32_t out = in_flight(c);
	bool was = c->flags & TCB_CWND_LIMITED;
	if (!seq_lt(c->snd_una, c->cwnd_seq) || limited || (!was && out > c->max_out)) {
		c->flags = limited ? c->flags | TCB_CWND_LIMITED : c->flags & ~(uint32_t)TCB_CWND_LIMITED;
		c->max_out = out;
		c->cwnd_seq = c->snd_nxt;
	}
	if (cwnd_limited(c)) {
		c->cwnd_used = 0;
		c->cwnd_ns = now_ns;
		return;
	}
	c->cwnd_used = max_u32(c->cwnd_used, out);
	if ((c->bits & BIT_IDLE_RESTART) && now_ns - c->cwnd_ns >= rto_ns(c)) {
		application_limited(c);
		c->cwnd_ns = now_ns;
	}
}

void cwnd_after_idle(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint64_t idle_ns = now_ns - c->last_send_ns, rto = rto_ns(c);
	if (!c->last_send_ns)
		return;
	if (c->cc_ops->event)
		c->cc_ops->event(&c->cc, PB_CC_TX_START, idle_ns, now_ns);
	if (!(c->bits & BIT_IDLE_RESTART) || idle_ns <= rto)
		return;
	uint32_t cwnd = c->cc.cwnd, restart = min_u32(initial_cwnd(e, c), cwnd);
	c->cc.ssthresh = current_ssthresh(c);
	for (uint64_t left = idle_ns - rto; left && cwnd > restart; left = left > rto ? left - rto : 0)
		cwnd /= 2;
	c->cc.cwnd = max_u32(cwnd, restart);
	c->cwnd_ns = now_ns;
	c->cwnd_used = 0;
	if (c->cc_ops->event)
		c->cc_ops->event(&c->cc, PB_CC_RESTART, idle_ns, now_ns);
	trace_add(e, c, NULL, PB_TCP_T_IDLE, now_ns);
}

void cwnd_init(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->cc.mss = c->mss;
	c->cc.cwnd = initial_cwnd(e, c);
	c->cc.ssthresh = PB_CC_SSTHRESH_MAX;
	c->cc.min_rtt_us = c->min_rtt_us;
	c->cc_ops->init(&c->cc, c->iss + 1, now_ns);
}

uint32_t initial_cwnd(const struct pb_tcp *e, const struct tcb *c)
{
	return e->cfg.initial_cwnd_segs ? e->cfg.initial_cwnd_segs * c->mss : pb_cc_initial_window(c->mss);
}

#define SAME_ORDER(counter, count)                                                                                     \
	_Static_assert(PB_C_TcpExtTCPHystart##counter - PB_C_TcpExtTCPHystartTrainDetect == (int)PB_CC_##count, "a "   \
														"row")
SAME_ORDER(TrainCwnd, TRAIN_CWND);
SAME_ORDER(DelayDetect, DELAY_DETECT);
SAME_ORDER(DelayCwnd, DELAY_CWND);
#undef SAME_ORDER

void cwnd_on_ack(struct pb_tcp *e, struct tcb *c, const struct ack_news *n, uint32_t pipe_before, uint32_t lost_before)
{
	bool reducing = c->ca_state == PB_TCP_CA_CWR || c->ca_state == PB_TCP_CA_RECOVERY;
	bool progress =
		n->acked > (uint32_t)n->fin || (n->sacked && c->reordering > e->cfg.reordering_segs); /* not a DSACK */
	if (reducing)
		prr_update(c, n->delivered, c->lost_total_segs != lost_before, n->acked != 0);
	if (!n->delivered && !n->acked)
		return;
	struct pb_cc_ack a = {
		.now_ns = n->now_ns,
		.counts = &e->stats.n[PB_C_TcpExtTCPHystartTrainDetect],
		.acked_bytes = n->delivered,
		.inflight_bytes = pipe_before,
		.rtt_us = n->cc_rtt_us,
		.una = c->snd_una,
		.nxt = c->snd_nxt,
		.may_grow = !reducing && progress && cwnd_limited(c),
		.paced = c->pacing_rate != 0,
	};
	c->cc_ops->on_ack(&c->cc, &a);
}
