/* What an ACK says of losses, and the state that follows: open, disorder, reduced by ECN, fast recovery, loss (the
 * states of Linux). With SACK segments are found lost by RACK (rack.c), or by counting when that is off; without it
 * three duplicates name the first (RFC 5681 3.2, RFC 6582). What may be sent then is cwnd.c's. */
#include "tcp/tcb.h"

/* Segments in flight, as far as a count without SACK needs to know. */
static uint32_t segs_out(const struct tcb *c)
{
	return (in_flight(c) + c->mss - 1) / c->mss;
}

void ca_open(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (c->ca_state == PB_TCP_CA_OPEN)
		return;
	bool recovering = c->ca_state >= PB_TCP_CA_CWR;
	c->ca_state = PB_TCP_CA_OPEN;
	if (recovering && c->cc_ops->event)
		c->cc_ops->event(&c->cc, PB_CC_OPEN, 0, now_ns);
	if (recovering)
		trace_add(e, c, NULL, PB_TCP_T_OPEN, now_ns);
}

void keep_open(const struct pb_tcp *e, struct tcb *c)
{
	uint8_t state = c->sacked_segs || c->lost_bytes || any_retrans(e, c) ? PB_TCP_CA_DISORDER : PB_TCP_CA_OPEN;
	if (c->ca_state != state) {
		c->ca_state = state;
		c->recover_seq = c->snd_nxt;
	}
}

static void try_to_open(struct pb_tcp *e, struct tcb *c, const struct ack_news *n)
{
	if (!any_retrans(e, c))
		c->retrans_ns = 0;
	if (n->ece)
		enter_cwr(e, c, n->now_ns);
	if (c->ca_state != PB_TCP_CA_CWR)
		keep_open(e, c);
}

void enter_recovery(struct pb_tcp *e, struct tcb *c, bool ece, uint64_t now_ns)
{
	if (c->flags & TCB_SACK)
		COUNT(e, TcpExtTCPSackRecovery);
	else
		COUNT(e, TcpExtTCPRenoRecovery);
	c->fast_rexmits++;
	if (!any_retrans(e, c))
		c->retrans_ns = 0;
	c->prior_ssthresh = 0;
	undo_arm(c);
	if (c->ca_state != PB_TCP_CA_CWR && c->ca_state != PB_TCP_CA_RECOVERY) {
		if (!ece)
			c->prior_ssthresh = current_ssthresh(c);
		reduce_cwnd(e, c, now_ns);
	}
	c->ca_state = PB_TCP_CA_RECOVERY;
	tlp_cancel(e, c, now_ns);
	trace_add(e, c, NULL, PB_TCP_T_ENTER_RECOVERY, now_ns);
}

void reno_reset(struct tcb *c)
{
	c->sacked_segs = c->sacked_bytes = 0;
}

/* At least the holes are not there: what is counted cannot be all that is in flight. */
bool reno_limit(struct tcb *c)
{
	uint32_t out = segs_out(c), holes = max_u32((c->lost_bytes + c->mss - 1) / c->mss, 1);
	holes = min_u32(holes, out);
	bool over = c->sacked_segs + holes > out;
	if (over)
		c->sacked_segs = out - holes;
	uint32_t rest = in_flight(c) - min_u32(in_flight(c), c->lost_bytes);
	c->sacked_bytes = min_u32(c->sacked_segs * c->mss, rest);
	return over;
}

/* Each duplicate says that one segment has left the network. */
void reno_add(struct pb_tcp *e, struct tcb *c, struct ack_news *n)
{
	uint32_t before = c->sacked_segs++;
	if (reno_limit(c))
		reno_reordered(e, c, segs_out(c));
	if (c->sacked_segs > before)
		count_delivered(e, c, n, c->mss, c->sacked_segs - before);
}

/* One of the segments that are acknowledged filled a hole, the others were counted as duplicates. */
void reno_remove(struct pb_tcp *e, struct tcb *c, struct ack_news *n, uint32_t bytes)
{
	uint32_t segs = n->segs;
	if (segs) {
		uint32_t counted = min_u32(c->sacked_segs, segs - 1);
		uint32_t known = min_u32(c->sacked_segs * c->mss, bytes - min_u32(bytes, c->mss));
		count_delivered(e, c, n, bytes - known, max_u32(segs - counted, 1));
		c->sacked_segs -= counted;
	}
	if (c->sacked_segs && reno_limit(c))
		reno_reordered(e, c, segs_out(c) + segs);
	c->sacked_bytes = min_u32(c->sacked_segs * c->mss, in_flight(c) - min_u32(in_flight(c), c->lost_bytes));
}

/* RFC 6582: the head, when enough duplicates came, and at each partial ACK. */
static void reno_mark_lost(struct pb_tcp *e, struct tcb *c, const struct ack_news *n)
{
	bool enough = c->ca_state < PB_TCP_CA_RECOVERY && c->sacked_segs >= c->reordering;
	if (!enough && !(c->ca_state == PB_TCP_CA_RECOVERY && n->acked))
		return;
	struct seg *s = &e->segs[c->sq_head];
	if (c->sq_head == NONE || !(s->flags & SEG_SENT) || (s->flags & SEG_LOST))
		return;
	seg_mark_lost(e, c, s);
	reno_limit(c);
}

/* RFC 6675 IsLost(), for those who turn RACK off: more than (DupThresh - 1) segments above it were SACKed. */
static void count_mark_lost(struct pb_tcp *e, struct tcb *c)
{
	uint32_t above = c->sacked_segs;
	for (uint32_t f = c->sq_head; f != NONE && above >= c->reordering; f = e->segs[f].next) {
		struct seg *s = &e->segs[f];
		if (s->flags & SEG_SACKED)
			above--;
		else if (!(s->flags & SEG_RETRANS))
			seg_mark_lost(e, c, s);
		else if (seq_lt(c->recover_seq, c->rack_end) && s->sent_ns < c->rack_sent_ns)
			seg_mark_lost(e, c, s); /* something that was sent after the retransmission arrived */
	}
}

static void find_lost(struct pb_tcp *e, struct tcb *c, struct ack_news *n)
{
	if (c->sq_head == NONE)
		return;
	uint32_t retrans = c->retrans_bytes;
	if (!(c->flags & TCB_SACK))
		reno_mark_lost(e, c, n);
	else if (!e->cfg.rack)
		count_mark_lost(e, c);
	else if (rack_mark_lost(e, c, n->now_ns))
		n->set_timer = false;
	n->lost_retrans |= retrans > c->retrans_bytes;
}

/* RFC 2018 8: the first segment is SACKed and yet not acknowledged. Wait a little, then forget the SACKs. */
static bool reneging(struct pb_tcp *e, struct tcb *c, struct ack_news *n)
{
	if (!n->acked || c->sq_head == NONE || !(e->segs[c->sq_head].flags & SEG_SACKED))
		return false;
	uint64_t wait_ns = (uint64_t)(c->srtt8_us / 16) * NS_PER_US;
	c->rtx_kind = RTX_RTO;
	c->t_rtx = n->now_ns + (wait_ns > 10 * NS_PER_MS ? wait_ns : 10 * NS_PER_MS);
	timer_update(e, c);
	n->set_timer = false;
	return true;
}

/* Something above recover_seq is acknowledged: the episode is over. True: say no more. */
static bool episode_over(struct pb_tcp *e, struct tcb *c, const struct ack_news *n)
{
	switch (c->ca_state) {
	case PB_TCP_CA_OPEN:
		c->retrans_ns = 0;
		return false;
	case PB_TCP_CA_CWR:
		if (c->snd_una != c->recover_seq && seq_leq(c->recover_seq, c->snd_una)) {
			end_reduction(c);
			ca_open(e, c, n->now_ns);
		}
		return false;
	case PB_TCP_CA_RECOVERY:
		if (seq_lt(c->snd_una, c->recover_seq))
			return false;
		if (!(c->flags & TCB_SACK))
			reno_reset(c);
		if (try_undo_recovery(e, c, n))
			return true;
		/* Undone or not: the state is open now, and the window what the reduction ends with. */
		if (c->cc.ssthresh < PB_CC_SSTHRESH_MAX && c->undo_on)
			c->cc.cwnd = c->cc.ssthresh;
		return false;
	default:
		return false;
	}
}

/* The ACK of an MTU probe's neighbours without its own: it was too large, which is not congestion (RFC 4821 7.7). */
static bool probe_lost(struct pb_tcp *e, struct tcb *c)
{
	if (c->ca_state >= PB_TCP_CA_CWR || !c->probing.size || c->snd_una != c->probing.left)
		return false;
	plpmtud_failed(e, c);
	return true;
}

static void below_recovery(struct pb_tcp *e, struct tcb *c, struct ack_news *n, uint32_t dups)
{
	if (!(c->flags & TCB_SACK)) {
		if (n->acked)
			reno_reset(c);
		if (dups)
			reno_add(e, c, n);
	}
	if (c->ca_state <= PB_TCP_CA_DISORDER)
		try_undo_dsack(e, c, n);
	find_lost(e, c, n);
	if (!c->lost_bytes) {
		try_to_open(e, c, n);
		return;
	}
	if (!probe_lost(e, c))
		enter_recovery(e, c, n->ece, n->now_ns);
}

/* The ACK was not one that just moves on. */
void recovery_on_ack(struct pb_tcp *e, struct tcb *c, struct ack_news *n)
{
	uint32_t dups = !n->acked && !n->not_dup && !n->dsack;
	c->dupacks = n->acked ? 0 : c->dupacks + dups;
	if (!in_flight(c))
		reno_reset(c);
	if (n->ece)
		c->prior_ssthresh = 0;
	if (reneging(e, c, n) || episode_over(e, c, n))
		return;
	if (c->ca_state == PB_TCP_CA_RECOVERY) {
		if (!n->acked) {
			if (!(c->flags & TCB_SACK) && dups)
				reno_add(e, c, n);
		} else if (try_undo_partial(e, c, n)) {
			return;
		}
		if (try_undo_dsack(e, c, n))
			try_to_open(e, c, n);
		find_lost(e, c, n);
		if (c->ca_state != PB_TCP_CA_RECOVERY && c->lost_bytes)
			enter_recovery(e, c, n->ece, n->now_ns);
	} else if (c->ca_state == PB_TCP_CA_LOSS) {
		loss_on_ack(e, c, n, dups);
		find_lost(e, c, n);
		if (c->ca_state == PB_TCP_CA_OPEN || n->lost_retrans)
			below_recovery(e, c, n, 0);
	} else {
		below_recovery(e, c, n, dups);
	}
	if (c->todo_bytes)
		tcb_ready(e, c);
}

/* Everything that was sent is taken for lost; what RACK knows to be young waits for its turn. */
static void mark_all_lost(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	bool reneged = c->sq_head != NONE && (e->segs[c->sq_head].flags & SEG_SACKED);
	uint64_t wait_ns;
	if (reneged) {
		COUNT(e, TcpExtTCPSACKReneging);
		c->flags |= TCB_RENEGED;
		c->sacked_segs = 0;
	} else if (!(c->flags & TCB_SACK)) {
		reno_reset(c);
	}
	for (uint32_t f = c->sq_head; f != NONE && (e->segs[f].flags & SEG_SENT); f = e->segs[f].next) {
		struct seg *s = &e->segs[f];
		if (reneged)
			seg_unmark(c, s, SEG_SACKED);
		else if (e->cfg.rack && (c->flags & TCB_SACK) && f != c->sq_head &&
			 !rack_is_old(c, s, 0, now_ns, &wait_ns))
			continue;
		seg_mark_lost(e, c, s);
	}
}

void recovery_on_rto(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	bool first = c->ca_state < PB_TCP_CA_RECOVERY, again = c->tries != 0;
	c->timeouts++;
	uint32_t sacked = c->sacked_segs;
	mark_all_lost(e, c, now_ns);
	if (c->ca_state <= PB_TCP_CA_DISORDER || !seq_lt(c->snd_una, c->recover_seq) ||
	    (c->ca_state == PB_TCP_CA_LOSS && !again)) {
		c->prior_ssthresh = current_ssthresh(c);
		c->prior_cwnd = c->cc.cwnd;
		c->cc.ssthresh = c->cc_ops->ssthresh(&c->cc, in_flight(c), now_ns);
		undo_arm(c);
	}
	/* RFC 9438 4.8: whatever the timeout came in. */
	if (c->cc_ops->event)
		c->cc_ops->event(&c->cc, PB_CC_RTO, c->snd_nxt, now_ns);
	c->cc.cwnd = pipe_bytes(c) + c->mss;
	c->cc.grown = 0;
	c->cwnd_ns = now_ns;
	/* Many duplicates before: reordering was overestimated. */
	if (c->ca_state <= PB_TCP_CA_DISORDER && sacked >= e->cfg.reordering_segs)
		c->reordering = min_u32(c->reordering, e->cfg.reordering_segs);
	bool entered = c->ca_state != PB_TCP_CA_LOSS;
	c->ca_state = PB_TCP_CA_LOSS;
	c->recover_seq = c->snd_nxt;
	c->bits &= ~(uint32_t)(BIT_TLP | BIT_NEW_FIRST);
	if (c->bits & BIT_ECN)
		c->bits |= BIT_CWR;
	bool frto = e->cfg.frto && (first || again) && !c->probing.size;
	c->flags = frto ? c->flags | TCB_FRTO : c->flags & ~(uint32_t)TCB_FRTO;
	if ((c->flags & TCB_FIN_SENT) && c->sq_head == NONE)
		c->flags |= TCB_FIN_OUT;
	if ((c->flags & TCB_FIN_OUT) && again)
		COUNT(e, TcpExtTCPLostRetransmit);
	c->tries++;
	if (c->backoff < 32)
		c->backoff++;
	trace_add(e, c, NULL, PB_TCP_T_RTO, now_ns);
	if (entered)
		trace_add(e, c, NULL, PB_TCP_T_ENTER_LOSS, now_ns);
	tcb_ready(e, c);
}
