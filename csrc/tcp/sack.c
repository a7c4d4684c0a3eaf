/* The scoreboard of the sender: what SACK blocks say (RFC 2018), duplicates that they report (RFC 2883), and how far
 * the path reorders. */
#include "tcp/tcb.h"

#define REORDERING_MAX 300u

void seg_mark_lost(struct pb_tcp *e, struct tcb *c, struct seg *s)
{
	if (s->flags & SEG_SACKED)
		return;
	if (!(s->flags & SEG_LOST)) {
		s->flags |= SEG_LOST;
		c->lost_bytes += s->len;
	} else if (!(s->flags & SEG_RETRANS)) {
		return;
	} else {
		COUNT(e, TcpExtTCPLostRetransmit);
	}
	if (s->flags & SEG_RETRANS) {
		s->flags &= (uint16_t)~SEG_RETRANS;
		c->retrans_bytes -= s->len;
	}
	c->todo_bytes += s->len;
	c->lost_total_segs++;
	c->lost_total_bytes += s->len;
	c->rtx_hint = c->sq_head;
}

void seg_unmark(struct tcb *c, struct seg *s, uint32_t flags)
{
	uint32_t gone = s->flags & flags;
	if (gone & SEG_SACKED)
		c->sacked_bytes -= s->len;
	if ((s->flags & (SEG_LOST | SEG_RETRANS)) == SEG_LOST && (gone & SEG_LOST))
		c->todo_bytes -= s->len;
	if (gone & SEG_LOST)
		c->lost_bytes -= s->len;
	if (gone & SEG_RETRANS) {
		c->retrans_bytes -= s->len;
		if ((s->flags & SEG_LOST) && !(gone & SEG_LOST))
			c->todo_bytes += s->len;
	}
	s->flags &= (uint16_t)~flags;
}

void seg_mark(struct tcb *c, struct seg *s, uint32_t flags)
{
	s->flags |= (uint16_t)flags;
	c->sacked_bytes += flags & SEG_SACKED ? s->len : 0;
	c->lost_bytes += flags & SEG_LOST ? s->len : 0;
	c->retrans_bytes += flags & SEG_RETRANS ? s->len : 0;
	c->todo_bytes += (flags & (SEG_LOST | SEG_RETRANS)) == SEG_LOST ? s->len : 0;
}

void count_delivered(struct pb_tcp *e, struct tcb *c, struct ack_news *n, uint32_t bytes, uint32_t segs)
{
	n->delivered += bytes;
	c->delivered_bytes += bytes;
	c->delivered_segs += segs;
	e->stats.n[PB_C_TcpExtTCPDelivered] += segs;
	if (n->ece) {
		c->delivered_ce_segs += segs;
		e->stats.n[PB_C_TcpExtTCPDeliveredCE] += segs;
	}
}

/* A segment below what was SACKed before arrived late: the path reorders by that much (RFC 8985 6.2.2, Linux). */
void sack_reordered(struct pb_tcp *e, struct tcb *c, uint32_t seq, bool by_time)
{
	uint32_t fack = c->sacked_segs ? c->fack : c->snd_una;
	if (!seq_lt(seq, fack))
		return;
	uint32_t segs = (fack - seq + c->mss - 1) / c->mss;
	if (fack - seq > c->reordering * c->mss)
		c->reordering = min_u32(segs, REORDERING_MAX);
	if (c->reord_seen < UINT16_MAX)
		c->reord_seen++;
	if (by_time)
		COUNT(e, TcpExtTCPTSReorder);
	else
		COUNT(e, TcpExtTCPSACKReorder);
}

void reno_reordered(struct pb_tcp *e, struct tcb *c, uint32_t segs)
{
	c->reordering = min_u32(segs, REORDERING_MAX);
	if (c->reord_seen < UINT16_MAX)
		c->reord_seen++;
	COUNT(e, TcpExtTCPRenoReorder);
}

struct block {
	uint32_t left, right;
};

/* RFC 2883 4: the first block lies below the cumulative ACK, or inside the second. Counts how many segments the
 * receiver got twice; false: no such report, or not one about what we sent twice, which is a block like others. */
static bool dsack(struct pb_tcp *e, struct tcb *c, const struct pkt *p, struct ack_news *n)
{
	struct block b = {p->opts.sack[0].left, p->opts.sack[0].right};
	if (!seq_lt(b.left, b.right))
		return false;
	bool low = seq_lt(b.left, p->tcp.ack);
	if (!low &&
	    !(p->opts.n_sack > 1 && seq_leq(b.right, p->opts.sack[1].right) && seq_leq(p->opts.sack[1].left, b.left)))
		return false;
	if (low)
		COUNT(e, TcpExtTCPDSACKRecv);
	else
		COUNT(e, TcpExtTCPDSACKOfoRecv);
	uint32_t len = b.right - b.left;
	if (len > c->max_snd_wnd || seq_lt(c->snd_nxt, b.right)) {
		COUNT(e, TcpExtTCPDSACKIgnoredDubious);
		return false;
	}
	uint32_t segs = max_u32((len + c->mss - 1) / c->mss, 1);
	if ((c->bits & BIT_TLP) && b.right == c->tlp_seq)
		n->dsack_tlp = true;
	c->dsack_dups += segs;
	if (c->dsack_dups > c->rexmits) {
		/* More than was ever sent twice: the network duplicates, or somebody lies. */
		COUNT(e, TcpExtTCPDSACKIgnoredDubious);
		return false;
	}
	c->bits |= BIT_DSACK_SEEN;
	if (c->reord_seen && !n->dsack_tlp)
		c->bits |= BIT_RACK_DSACK;
	n->dsack = true;
	count_delivered(e, c, n, len, segs); /* one more left the network: as Linux, PRR counts it too */
	/* Of what is forgotten already; what is still queued is counted where its block is found. */
	if (c->undo_on && c->undo_retrans > 0 && seq_leq(b.right, n->prior_una) && seq_lt(c->undo_una, b.right))
		c->undo_retrans = c->undo_retrans > (int32_t)segs ? c->undo_retrans - (int32_t)segs : 0;
	return true;
}

static void sack_one(struct pb_tcp *e, struct tcb *c, struct seg *s, struct ack_news *n)
{
	uint32_t end = s->seq + s->len, fack = c->sacked_segs ? c->fack : c->snd_una;
	rack_arrived(c, s, n);
	if (!(s->flags & SEG_REXMIT)) {
		/* Never sent again and in a hole: reordering. */
		if (seq_lt(s->seq, fack) && seq_lt(s->seq, n->reord))
			n->reord = s->seq;
		n->orig_acked |= seq_leq(end, c->recover_seq);
		if (!n->sack_first_ns)
			n->sack_first_ns = s->sent_ns;
		n->sack_last_ns = s->sent_ns;
	}
	/* A retransmission of what is not believed lost any more stays in the network. */
	seg_unmark(c, s, s->flags & SEG_LOST ? SEG_LOST | SEG_RETRANS : 0);
	s->flags |= SEG_SACKED;
	c->sacked_bytes += s->len;
	c->fack = c->sacked_segs++ ? seq_max(c->fack, end) : end;
	n->sacked += s->len;
	count_delivered(e, c, n, s->len, 1);
}

/* A duplicate of a segment that is queued still. */
static void dup_one(struct tcb *c, const struct seg *s, struct ack_news *n)
{
	if (s->flags & SEG_REXMIT && c->undo_on && c->undo_retrans > 0 && seq_lt(c->undo_una, s->seq + s->len))
		c->undo_retrans--;
	if ((s->flags & SEG_SACKED) && seq_lt(s->seq, n->reord))
		n->reord = s->seq;
}

/* The blocks that can be true, by their left edge. Returns how many. */
static int sort_blocks(struct pb_tcp *e, const struct tcb *c, const struct pkt *p, int from, struct block *b)
{
	int k = 0;
	for (int i = from; i < p->opts.n_sack; i++) {
		struct block x = {p->opts.sack[i].left, p->opts.sack[i].right};
		bool below = seq_leq(x.right, seq_max(c->snd_una, p->tcp.ack));
		bool wrong = !seq_lt(x.left, x.right) || seq_lt(c->snd_nxt, x.right);
		if (wrong || below) {
			/* Old ones of delayed ACKs are nothing worse. */
			if (wrong || seq_leq(c->snd_una, p->tcp.ack))
				COUNT(e, TcpExtTCPSACKDiscard);
			continue;
		}
		int j = k++;
		for (; j > 0 && seq_lt(x.left, b[j - 1].left); j--)
			b[j] = b[j - 1];
		b[j] = x;
	}
	return k;
}

void sack_process(struct pb_tcp *e, struct tcb *c, const struct pkt *p, struct ack_news *n)
{
	struct block b[PB_TCP_SACKS_MAX], d = {0, 0};
	bool dup = p->opts.n_sack && dsack(e, c, p, n);
	if (dup && n->dsack)
		d = (struct block){p->opts.sack[0].left, p->opts.sack[0].right};
	int k = sort_blocks(e, c, p, dup, b), i = 0;
	n->reord = c->snd_nxt;
	for (uint32_t f = c->sq_head; f != NONE && (i < k || d.right != d.left); f = e->segs[f].next) {
		struct seg *s = &e->segs[f];
		uint32_t end = s->seq + s->len;
		if (!(s->flags & SEG_SENT))
			break;
		if (d.right != d.left) {
			if (seq_leq(d.left, s->seq) && seq_leq(end, d.right))
				dup_one(c, s, n);
			if (seq_leq(d.right, end))
				d.right = d.left;
		}
		while (i < k && seq_leq(b[i].right, s->seq))
			i++;
		if (i < k && !(s->flags & SEG_SACKED) && seq_leq(b[i].left, s->seq) && seq_leq(end, b[i].right))
			sack_one(e, c, s, n);
	}
	if (c->ca_state != PB_TCP_CA_LOSS || c->undo_on)
		sack_reordered(e, c, n->reord, false);
}
