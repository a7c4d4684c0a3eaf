/* Recoveries that need not have been: when the receiver reports all retransmissions as duplicates (RFC 3708 with
 * DSACK), or acknowledges first transmissions by their timestamps (Eifel, RFC 3522), or never-retransmitted data after
 * a timeout (F-RTO, RFC 5682), the window is what it was. */
#include "tcp/tcb.h"

void undo_arm(struct tcb *c)
{
	c->undo_on = true;
	c->undo_una = c->snd_una;
	/* Retransmissions that are under way may be reported later. */
	uint32_t n = (c->retrans_bytes + c->mss - 1) / c->mss;
	if ((c->bits & (BIT_TLP | BIT_TLP_REXMIT)) == (BIT_TLP | BIT_TLP_REXMIT))
		n++;
	c->undo_retrans = n ? (int32_t)n : -1;
}

bool any_retrans(const struct pb_tcp *e, const struct tcb *c)
{
	return c->retrans_bytes || (c->sq_head != NONE && (e->segs[c->sq_head].flags & SEG_REXMIT));
}

/* The ACK echoes a timestamp from before the first retransmission: it is the answer to an original. */
static bool packet_delayed(const struct tcb *c, const struct ack_news *n)
{
	return c->retrans_ns && n->has_ecr && seq_lt(n->ts_ecr, now_ts_ms(c, c->retrans_ns));
}

static bool may_undo(const struct tcb *c, const struct ack_news *n)
{
	return c->undo_on && (!c->undo_retrans || packet_delayed(c, n));
}

static void undo_cwnd(struct pb_tcp *e, struct tcb *c, bool unmark, uint64_t now_ns)
{
	if (unmark)
		for (uint32_t f = c->sq_head; f != NONE && (e->segs[f].flags & SEG_SENT); f = e->segs[f].next)
			seg_unmark(c, &e->segs[f], SEG_LOST);
	if (c->prior_ssthresh) {
		c->cc.cwnd = max_u32(c->cc.cwnd, c->prior_cwnd);
		if (c->prior_ssthresh > c->cc.ssthresh) {
			c->cc.ssthresh = c->prior_ssthresh;
			c->bits &= ~(uint32_t)BIT_CWR;
		}
	}
	c->cwnd_ns = now_ns;
	c->undo_on = false;
	c->bits |= BIT_RACK_ADVANCED; /* what is lost is to be seen anew */
	trace_add(e, c, NULL, PB_TCP_T_UNDO, now_ns);
}

/* Without SACK the state is kept until something above recover_seq is acknowledged: duplicates of what was sent twice
 * must not start another recovery (RFC 6582 4.1). */
static bool hold_reno(struct pb_tcp *e, struct tcb *c)
{
	if (c->snd_una != c->recover_seq || (c->flags & TCB_SACK))
		return false;
	if (!any_retrans(e, c))
		c->retrans_ns = 0;
	return true;
}

bool try_undo_recovery(struct pb_tcp *e, struct tcb *c, const struct ack_news *n)
{
	if (may_undo(c, n)) {
		if (c->ca_state == PB_TCP_CA_LOSS)
			COUNT(e, TcpExtTCPLossUndo);
		else
			COUNT(e, TcpExtTCPFullUndo);
		undo_cwnd(e, c, false, n->now_ns);
	} else if (c->rack_persist) {
		c->rack_persist--;
	}
	if (hold_reno(e, c))
		return true;
	ca_open(e, c, n->now_ns);
	return false;
}

bool try_undo_dsack(struct pb_tcp *e, struct tcb *c, const struct ack_news *n)
{
	if (!c->undo_on || c->undo_retrans)
		return false;
	c->rack_persist = (uint8_t)min_u32(c->rack_persist + 1u, 16);
	undo_cwnd(e, c, false, n->now_ns);
	COUNT(e, TcpExtTCPDSACKUndo);
	return true;
}

/* True: the hole was filled by a delayed original, and retransmissions are under way: send nothing on this ACK. */
bool try_undo_partial(struct pb_tcp *e, struct tcb *c, const struct ack_news *n)
{
	if (!c->undo_on || !packet_delayed(c, n))
		return false;
	sack_reordered(e, c, n->prior_una, true);
	if (c->retrans_bytes)
		return true;
	if (!any_retrans(e, c))
		c->retrans_ns = 0;
	undo_cwnd(e, c, true, n->now_ns);
	COUNT(e, TcpExtTCPPartialUndo);
	keep_open(e, c);
	return false;
}

static bool try_undo_loss(struct pb_tcp *e, struct tcb *c, const struct ack_news *n, bool frto)
{
	if (!frto && !may_undo(c, n))
		return false;
	undo_cwnd(e, c, true, n->now_ns);
	COUNT(e, TcpExtTCPLossUndo);
	if (frto)
		COUNT(e, TcpExtTCPSpuriousRTOs);
	c->tries = 0;
	if (hold_reno(e, c))
		return true;
	if (frto || (c->flags & TCB_SACK)) {
		ca_open(e, c, n->now_ns);
		c->flags &= ~(uint32_t)TCB_RENEGED;
	}
	return true;
}

/* An ACK in the Loss state. RFC 5682 3.1, the variant for SACK, which works without it too. */
void loss_on_ack(struct pb_tcp *e, struct tcb *c, struct ack_news *n, uint32_t dups)
{
	bool recovered = seq_leq(c->recover_seq, c->snd_una);
	if (n->acked && try_undo_loss(e, c, n, false))
		return;
	if (c->flags & TCB_FRTO) {
		/* Step 3.b: data that was sent once only arrived. */
		if (n->orig_acked && try_undo_loss(e, c, n, true))
			return;
		if (seq_lt(c->recover_seq, c->snd_nxt)) {
			if (n->sacked || dups)
				c->flags &= ~(uint32_t)TCB_FRTO; /* step 3.a: the loss is real */
		} else if (n->acked && !recovered) {
			c->recover_seq = c->snd_nxt;
			/* Step 2.b: new data, if there is any and the window takes it. */
			if (c->sq_next != NONE && seq_lt(c->snd_nxt, c->snd_una + c->snd_wnd)) {
				c->bits |= BIT_NEW_FIRST;
				return;
			}
			c->flags &= ~(uint32_t)TCB_FRTO;
		}
	}
	if (recovered) {
		try_undo_recovery(e, c, n);
		return;
	}
	if (!(c->flags & TCB_SACK)) {
		/* A duplicate for new data of step 2.b: that left the network. */
		if (seq_lt(c->recover_seq, c->snd_nxt) && dups)
			reno_add(e, c, n);
		else if (n->acked)
			reno_reset(c);
	}
}
