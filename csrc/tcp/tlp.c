/* Tail loss probes (RFC 8985 7): when nothing is heard for two RTTs, one segment is sent, new if there is one, so that
 * a loss at the end of a flight is found by its ACK and not by the timeout. */
#include "tcp/tcb.h"

/* 7.2. `from_now`: the retransmission timer would start anew now. False: no probe is to be sent. */
bool tlp_schedule(struct pb_tcp *e, struct tcb *c, bool from_now, uint64_t now_ns)
{
	if (!e->cfg.tlp || !(c->flags & TCB_SACK) || c->ca_state == PB_TCP_CA_DISORDER ||
	    c->ca_state >= PB_TCP_CA_RECOVERY || !in_flight(c))
		return false;
	uint64_t wait_ns = 1000ull * NS_PER_MS;
	if (c->srtt8_us) {
		wait_ns = (uint64_t)(c->srtt8_us / 4) * NS_PER_US;
		/* One segment alone: its ACK may be delayed. */
		bool one = c->sq_head == NONE || (e->segs[c->sq_head].next == c->sq_next && !(c->flags & TCB_FIN_SENT));
		wait_ns += one ? c->rto_min_ns : e->cfg.timer_slack_ns;
	}
	uint64_t due = now_ns + wait_ns, rto = from_now ? now_ns + rto_ns(c) : rto_due(e, c, now_ns);
	c->rtx_kind = RTX_TLP;
	c->t_rtx = due < rto ? due : rto;
	timer_update(e, c);
	return true;
}

void tlp_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!(c->bits & BIT_TLP)) { /* one at a time */
		c->flags |= TCB_TLP_DUE;
		tcb_ready(e, c);
	}
	rtx_rearm(e, c, now_ns);
}

void tlp_cancel(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->flags &= ~(uint32_t)TCB_TLP_DUE;
	if (c->rtx_kind == RTX_TLP)
		rtx_rearm(e, c, now_ns);
}

/* 7.4.2: what the ACK says of a loss that the probe repaired. */
void tlp_on_ack(struct pb_tcp *e, struct tcb *c, const struct ack_news *n)
{
	if (!(c->bits & BIT_TLP) || seq_lt(c->snd_una, c->tlp_seq))
		return;
	if (!(c->bits & BIT_TLP_REXMIT) || n->dsack_tlp) {
		c->bits &= ~(uint32_t)BIT_TLP; /* new data, or the original arrived too: nothing was lost */
	} else if (seq_lt(c->tlp_seq, c->snd_una)) {
		/* Beyond the probe without a report of a duplicate: there was a loss. */
		reduce_cwnd(e, c, n->now_ns);
		c->ca_state = PB_TCP_CA_CWR;
		end_reduction(c);
		keep_open(e, c);
		COUNT(e, TcpExtTCPLossProbeRecovery);
	} else if (!n->acked && !n->not_dup && !n->sacked) {
		c->bits &= ~(uint32_t)BIT_TLP; /* a pure duplicate: both arrived */
	}
}
