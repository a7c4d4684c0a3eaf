/* What is lost, and what to do about it: SACK (RFC 2018, 6675), NewReno without it (RFC 6582), and the timeout (RFC
 * 5681, 6298). A retransmission is lost again when something sent clearly later has arrived (the rule of RFC 8985). */
#include "tcp/tcb.h"

#define DUP_THRESH 3u

static bool mark_lost(struct tcb *c, struct seg *s)
{
	if (s->flags & (SEG_LOST | SEG_SACKED))
		return false;
	s->flags |= SEG_LOST;
	c->lost_bytes += s->len;
	c->rtx_hint = c->sq_head;
	return true;
}

void recovery_arrived(struct tcb *c, const struct seg *s, uint64_t now_ns)
{
	/* RFC 8985 6.2: back sooner than ever before, so it is the first transmission that arrived. */
	if ((s->flags & SEG_REXMIT) && now_ns - s->sent_ns < (uint64_t)c->cc.min_rtt_us * NS_PER_US)
		return;
	if (s->sent_ns > c->newest_acked_ns)
		c->newest_acked_ns = s->sent_ns;
}

uint32_t sack_process(struct pb_tcp *e, struct tcb *c, const struct pb_tcp_opts *o, uint64_t now_ns)
{
	uint32_t newly = 0;
	for (unsigned i = 0; i < o->n_sack; i++) {
		uint32_t left = o->sack[i].left, right = o->sack[i].right;
		/* Blocks below snd_una report duplicates (RFC 2883); above snd_nxt they are nonsense. */
		if (!seq_lt(left, right) || seq_lt(left, c->snd_una) || seq_lt(c->snd_nxt, right))
			continue;
		for (uint32_t f = c->sq_head; f != NONE; f = e->segs[f].next) {
			struct seg *s = &e->segs[f];
			if (!(s->flags & SEG_SENT) || !seq_lt(s->seq, right))
				break;
			if ((s->flags & SEG_SACKED) || seq_lt(s->seq, left) || seq_lt(right, s->seq + s->len))
				continue;
			if (s->flags & SEG_LOST)
				c->lost_bytes -= s->len;
			s->flags = (uint8_t)((s->flags | SEG_SACKED) & ~SEG_LOST);
			c->sacked_bytes += s->len;
			newly += s->len;
			recovery_arrived(c, s, now_ns);
		}
	}
	return newly;
}

/* RFC 6675 IsLost(): more than (DupThresh - 1) * SMSS bytes above it were SACKed. True: a loss that was not known. */
static bool mark_by_sack(struct pb_tcp *e, struct tcb *c)
{
	bool any = false;
	uint32_t above = c->sacked_bytes, limit = (DUP_THRESH - 1) * c->mss;
	uint64_t reorder_ns = (uint64_t)c->cc.min_rtt_us * NS_PER_US / 4;
	for (uint32_t f = c->sq_head; f != NONE && above > limit; f = e->segs[f].next) {
		struct seg *s = &e->segs[f];
		if (s->flags & SEG_SACKED)
			above -= s->len;
		else if (!(s->flags & SEG_REXMIT) || s->sent_ns + reorder_ns < c->newest_acked_ns)
			any |= mark_lost(c, s);
	}
	return any;
}

static bool sacked_segs_reach(const struct pb_tcp *e, const struct tcb *c, uint32_t n)
{
	if (!c->sacked_bytes)
		return false;
	for (uint32_t f = c->sq_head; f != NONE && n; f = e->segs[f].next)
		n -= !!(e->segs[f].flags & SEG_SACKED);
	return !n;
}

static void mark_head(struct pb_tcp *e, struct tcb *c)
{
	if (c->sq_head != NONE && (e->segs[c->sq_head].flags & SEG_SENT))
		mark_lost(c, &e->segs[c->sq_head]);
}

static void enter_recovery(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->flags |= TCB_RECOVERY;
	c->recover_seq = c->snd_nxt;
	c->fast_rexmits++;
	e->stats.fast_retransmits++;
	mark_head(e, c);
	/* RFC 5681 3.2: FlightSize without what limited transmit added. */
	uint32_t flight = (c->dupacks ? seq_min(c->limited_seq, c->snd_nxt) : c->snd_nxt) - c->snd_una;
	e->cfg.cc->on_loss(&c->cc, flight, now_ns);
	tcb_ready(e, c);
}

static void leave_recovery(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	bool fast = c->flags & TCB_RECOVERY;
	c->flags &= ~(uint32_t)(TCB_RECOVERY | TCB_LOSS);
	c->dupacks = 0;
	if (!(c->flags & TCB_SACK))
		c->sacked_bytes = 0;
	if (fast)
		e->cfg.cc->on_recovered(&c->cc, in_flight(c), now_ns);
}

/* Without SACK each duplicate ACK says that one segment has left the network. */
static void count_reno_dup(struct tcb *c)
{
	uint32_t cap = in_flight(c) > c->lost_bytes + c->mss ? in_flight(c) - c->lost_bytes - c->mss : 0;
	c->sacked_bytes = min_u32(c->sacked_bytes + c->mss, cap);
}

/* Without SACK: what the ACK says of the segments that the duplicates stood for. */
static void reno_acked(struct pb_tcp *e, struct tcb *c, uint32_t acked)
{
	if (!(c->flags & TCB_RECOVERY)) {
		c->sacked_bytes = 0;
		return;
	}
	/* RFC 6582: a partial ACK names the next hole; the first of what it covers was the last one, and not counted.
	 */
	uint32_t counted = acked > c->mss ? acked - c->mss : 0;
	c->sacked_bytes = c->sacked_bytes > counted ? c->sacked_bytes - counted : 0;
	mark_head(e, c);
}

void recovery_on_ack(struct pb_tcp *e, struct tcb *c, uint32_t acked, bool dup, uint64_t now_ns)
{
	bool sack = c->flags & TCB_SACK;
	if ((c->flags & (TCB_RECOVERY | TCB_LOSS)) && acked && seq_leq(c->recover_seq, c->snd_una))
		leave_recovery(e, c, now_ns);
	if (!in_flight(c)) {
		c->sacked_bytes = c->lost_bytes = c->dupacks = 0;
		return;
	}
	if (dup && !c->dupacks++)
		c->limited_seq = c->snd_nxt;
	bool found = false;
	if (sack) {
		found = mark_by_sack(e, c);
		/* A hole whose neighbours are too small for IsLost(): a partial ACK names it as well. */
		if (acked && (c->flags & TCB_RECOVERY) && !(e->segs[c->sq_head].flags & SEG_REXMIT) &&
		    sacked_segs_reach(e, c, DUP_THRESH))
			mark_head(e, c);
	} else if (dup) {
		count_reno_dup(c);
	} else if (acked) {
		reno_acked(e, c, acked);
	}
	if (acked)
		c->dupacks = 0;
	if (!(c->flags & (TCB_RECOVERY | TCB_LOSS))) {
		/* RFC 6582 4.1: duplicates of what an earlier episode sent twice do not start another. */
		bool enough = sack ? found || (c->dupacks >= DUP_THRESH && c->sacked_bytes)
				   : c->dupacks >= DUP_THRESH && seq_lt(c->recover_seq, c->snd_una);
		if (enough)
			enter_recovery(e, c, now_ns);
	}
	if (c->lost_bytes)
		tcb_ready(e, c);
}

void recovery_on_rto(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	bool first = !c->tries++;
	uint32_t inflight = in_flight(c);
	c->timeouts++;
	e->stats.timeouts++;
	/* A SACKed head that is still unacknowledged: the receiver reneged (RFC 2018 8). */
	bool reneged = c->sq_head != NONE && (e->segs[c->sq_head].flags & SEG_SACKED);
	if (reneged || !(c->flags & TCB_SACK))
		c->sacked_bytes = 0;
	for (uint32_t f = c->sq_head; f != NONE && (e->segs[f].flags & SEG_SENT); f = e->segs[f].next) {
		if (reneged)
			e->segs[f].flags &= (uint8_t)~SEG_SACKED;
		mark_lost(c, &e->segs[f]);
	}
	c->flags = (c->flags & ~(uint32_t)TCB_RECOVERY) | TCB_LOSS;
	c->recover_seq = c->snd_nxt;
	c->dupacks = 0;
	if (c->flags & TCB_FIN_SENT)
		c->flags |= TCB_FIN_OUT;
	e->cfg.cc->on_rto(&c->cc, inflight, first, now_ns);
	if (c->backoff < 32)
		c->backoff++;
	tcb_ready(e, c);
}
