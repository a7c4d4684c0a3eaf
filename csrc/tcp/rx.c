/* Data in: the in-order queue and the out-of-order store (bounded, sorted, disjoint). */
#include "tcp/tcb.h"

#include <errno.h>

/* A payload of at most this part of a frame is copied to its neighbour when it fits behind it: one-byte segments must
 * not eat the pool, since each segment that is kept holds a whole frame. */
#define SMALL_DIVISOR 4u
#define ONE_MORE_NS 30000000000ull

/* When more memory is charged than the buffer has, any piece that fits is worth a copy. */
static bool is_small(const struct pb_tcp *e, const struct tcb *c, uint32_t len)
{
	return len <= e->pool->frame_bytes / SMALL_DIVISOR ||
	       (uint64_t)c->rcv_frames * e->pool->frame_bytes >= c->rcvbuf;
}

/* Copies a small payload behind that of frame `to`. */
static bool append_copy(struct pb_tcp *e, const struct tcb *c, uint32_t to, const struct pkt *p)
{
	struct seg *s = &e->segs[to];
	if (!is_small(e, c, p->data_len) || (uint32_t)s->off + s->len + p->data_len > e->pool->frame_bytes)
		return false;
	memcpy(frame_ptr(e, to) + s->off + s->len, e->pool->base + p->d->addr + p->data_off, p->data_len);
	s->len = (uint16_t)(s->len + p->data_len);
	e->stats.n[PB_C_TcpExtTCPRcvCoalesce]++;
	return true;
}

/* Keeps the packet's own frame. */
static uint32_t take_frame(struct pb_tcp *e, struct tcb *c, struct pkt *p)
{
	uint64_t addr = pb_pool_frame(e->pool, p->d->addr);
	uint32_t frame = pb_pool_index(e->pool, addr);
	e->segs[frame] = (struct seg){
		.next = NONE, .seq = p->seq, .off = (uint16_t)(p->d->addr - addr + p->data_off), .len = p->data_len};
	pb_pool_move(e->cache, addr, PB_OWN_RX, PB_OWN_ENGINE);
	p->taken = true;
	c->rcv_frames++;
	return frame;
}

static void rq_link(struct pb_tcp *e, struct tcb *c, uint32_t frame)
{
	if (c->rq_tail == NONE)
		c->rq_head = frame;
	else
		e->segs[c->rq_tail].next = frame;
	c->rq_tail = frame;
}

static void advance(struct pb_tcp *e, struct tcb *c, uint32_t len)
{
	(void)e;
	c->bits &= ~(uint32_t)BIT_ACK_LESS;
	c->rcv_nxt += len;
	c->rq_bytes += len;
	c->bytes_received += len;
	if (seq_lt(c->rcv_adv, c->rcv_nxt))
		c->rcv_adv = c->rcv_nxt;
}

void rx_free(struct pb_tcp *e, struct tcb *c, uint32_t frame)
{
	pb_pool_put(e->cache, frame_addr(e, frame), PB_OWN_ENGINE);
	c->rcv_frames--;
}

/* Moves what became in order from the out-of-order store. */
static bool drain_ooo(struct pb_tcp *e, struct tcb *c)
{
	bool any = false;
	while (c->oq_head != NONE) {
		uint32_t frame = c->oq_head;
		struct seg *s = &e->segs[frame];
		if (seq_lt(c->rcv_nxt, s->seq))
			break;
		any = true;
		c->oq_head = s->next;
		c->oq_count--;
		s->next = NONE;
		uint32_t cut = c->rcv_nxt - s->seq;
		if (cut >= s->len || (c->flags & TCB_RCV_SHUT)) {
			if (cut < s->len) {
				c->bits &= ~(uint32_t)BIT_ACK_LESS;
				c->rcv_nxt += s->len - cut;
				c->bytes_received += s->len - cut;
			}
			rx_free(e, c, frame);
			continue;
		}
		s->off = (uint16_t)(s->off + cut);
		s->len = (uint16_t)(s->len - cut);
		s->seq += cut;
		rq_link(e, c, frame);
		advance(e, c, s->len);
	}
	return any;
}

/* What waits beyond gaps, for as long as its peers please, leaves frames above the reserve to senders, and half of the
 * reserve to data in order. */
static bool room_for_ooo(const struct pb_tcp *e)
{
	return pb_pool_free_hint(e->cache) >= 2ull * e->cfg.reserve_frames;
}

/* Puts a segment into the store; what it shares with those there is cut from it. */
static enum pb_drop store_ooo(struct pb_tcp *e, struct tcb *c, struct pkt *p)
{
	uint32_t prev = NONE, f = c->oq_head;
	while (f != NONE && seq_leq(e->segs[f].seq, p->seq)) {
		prev = f;
		f = e->segs[f].next;
	}
	c->oq_last_seq = p->seq;
	if (prev != NONE) {
		uint32_t end = e->segs[prev].seq + e->segs[prev].len;
		if (seq_leq(p->seq + p->data_len, end)) {
			COUNT(e, TcpExtTCPOFOMerge);
			dsack_report(e, c, p->seq, p->seq + p->data_len, false);
			return PB_DROP_TCP_DUP;
		}
		if (seq_lt(p->seq, end)) {
			uint32_t cut = end - p->seq;
			dsack_report(e, c, p->seq, end, false);
			p->data_off = (uint16_t)(p->data_off + cut);
			p->data_len = (uint16_t)(p->data_len - cut);
			p->seq = end;
		}
	}
	/* Those that it covers whole go; the first that it covers in part bounds it. */
	bool full = c->oq_count >= e->cfg.ooo_segs || !rcv_memory_left(e, c) || !room_for_ooo(e);
	while (f != NONE && seq_leq(e->segs[f].seq + e->segs[f].len, p->seq + p->data_len)) {
		uint32_t next = e->segs[f].next;
		COUNT(e, TcpExtTCPOFOMerge);
		dsack_report(e, c, e->segs[f].seq, e->segs[f].seq + e->segs[f].len, false);
		rx_free(e, c, f);
		c->oq_count--;
		f = next;
		full = false; /* it takes the place of one that is gone: what was SACKed stays */
	}
	if (prev == NONE)
		c->oq_head = f;
	else
		e->segs[prev].next = f;
	if (f != NONE && seq_lt(e->segs[f].seq, p->seq + p->data_len)) {
		dsack_report(e, c, e->segs[f].seq, p->seq + p->data_len, false);
		p->data_len = (uint16_t)(e->segs[f].seq - p->seq);
	}
	if (!p->data_len)
		return PB_DROP_TCP_DUP;
	if (prev != NONE && e->segs[prev].seq + e->segs[prev].len == p->seq && append_copy(e, c, prev, p))
		return PB_DROP_NONE;
	if (full)
		return PB_DROP_TCP_OOO_LIMIT;
	uint32_t frame = take_frame(e, c, p);
	e->segs[frame].next = f;
	if (prev == NONE)
		c->oq_head = frame;
	else
		e->segs[prev].next = frame;
	c->oq_count++;
	return PB_DROP_NONE;
}

/* Data in order goes before what lies beyond a gap, also when the peer was told of that: it keeps what was not
 * acknowledged (RFC 2018 8). The farther half goes. */
static void prune_ooo(struct pb_tcp *e, struct tcb *c)
{
	uint32_t keep = c->oq_count / 2, f = c->oq_head, prev = NONE;
	for (uint32_t i = 0; i < keep; i++) {
		prev = f;
		f = e->segs[f].next;
	}
	COUNT(e, TcpExtOfoPruned);
	if (prev == NONE)
		c->oq_head = NONE;
	else
		e->segs[prev].next = NONE;
	for (uint32_t next; f != NONE; f = next, c->oq_count--) {
		next = e->segs[f].next;
		rx_free(e, c, f);
	}
}

/* A peer of whom nothing is taken for long gives up (RFC 9293 3.8.3: after 100 s or more). Small segments that nobody
 * reads may have moved the window so far that it does not close: now and then one of them is taken beyond what they may
 * cost. */
static bool one_more(const struct pb_tcp *e, const struct tcb *c, uint64_t now_ns)
{
	return now_ns - c->last_data_ns >= ONE_MORE_NS && pb_pool_free_hint(e->cache) >= e->cfg.reserve_frames &&
	       (uint64_t)c->rcv_frames * e->pool->frame_bytes < 4ull * c->rcvbuf;
}

static enum pb_drop in_order(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns)
{
	bool gap = c->oq_head != NONE;
	uint32_t len = p->data_len;
	if (c->flags & TCB_RCV_SHUT) {
		c->bits &= ~(uint32_t)BIT_ACK_LESS;
		c->rcv_nxt += len;
		c->bytes_received += len;
		c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt);
	} else {
		/* The store may hold the tail of it already. */
		if (c->rq_tail == NONE || !append_copy(e, c, c->rq_tail, p)) {
			while (!rcv_memory_left(e, c) && c->oq_head != NONE)
				prune_ooo(e, c);
			if (!rcv_memory_left(e, c) && !one_more(e, c, now_ns)) {
				/* It was offered, and what was offered is not taken back (RFC 9293 3.8.6): the peer
				 * hears at once where the stream stands, and sends this again by its timer. */
				COUNT(e, TcpExtTCPRcvQDrop);
				ack_now(e, c);
				return PB_DROP_TCP_RCVBUF;
			}
			rq_link(e, c, take_frame(e, c, p));
		}
		advance(e, c, len);
		tcb_event(e, c, PB_TCP_EV_READABLE);
	}
	if (gap)
		drain_ooo(e, c);
	ack_schedule(e, c, len, gap, now_ns);
	return PB_DROP_NONE;
}

enum pb_drop in_data(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns)
{
	if (c->state != PB_TCP_ESTABLISHED && c->state != PB_TCP_FIN_WAIT_1 && c->state != PB_TCP_FIN_WAIT_2)
		return PB_DROP_TCP_CLOSED;
	if (c->flags & TCB_DETACHED) {
		/* Data for an application that has closed (RFC 1122 4.2.2.13). */
		if (c->state != PB_TCP_FIN_WAIT_2) /* which is a kind of TIME-WAIT then, to Linux */
			COUNT(e, TcpExtTCPAbortOnData);
		reply_rst(e, c, p);
		tcb_closed(e, c, ECONNABORTED);
		return PB_DROP_TCP_CLOSED;
	}
	if (p->seq == c->rcv_nxt)
		return in_order(e, c, p, now_ns);
	enum pb_drop why = store_ooo(e, c, p);
	if (why == PB_DROP_TCP_OOO_LIMIT) {
		COUNT(e, TcpExtTCPOFODrop);
	} else {
		COUNT(e, TcpExtTCPOFOQueue);
		c->ooo_total_segs++;
	}
	ack_now(e, c);
	return why;
}

/* What came twice (RFC 2883 4), then the blocks of the store, the one with the most recent arrival first (RFC 2018 4).
 * Returns how many. */
int rcv_sack_blocks(const struct pb_tcp *e, const struct tcb *c, struct pb_tcp_opts *o, int max)
{
	int first = !!(c->bits & BIT_DSACK), n = first;
	if (first) {
		o->sack[0].left = c->dsack_left;
		o->sack[0].right = c->dsack_right;
	}
	for (uint32_t f = c->oq_head; f != NONE;) {
		uint32_t left = e->segs[f].seq, right = left;
		for (; f != NONE && e->segs[f].seq == right; f = e->segs[f].next)
			right += e->segs[f].len;
		bool newest = c->oq_last_seq - left < right - left;
		if (newest && n > first) {
			int last = n < max ? n : max - 1;
			for (int i = last; i > first; i--)
				o->sack[i] = o->sack[i - 1];
			o->sack[first].left = left;
			o->sack[first].right = right;
			n = n < max ? n + 1 : max;
		} else if (n < max) {
			o->sack[n].left = left;
			o->sack[n].right = right;
			n++;
		}
	}
	return n;
}

static void free_chain(struct pb_tcp *e, struct tcb *c, uint32_t f)
{
	for (uint32_t next; f != NONE; f = next) {
		next = e->segs[f].next;
		rx_free(e, c, f);
	}
}

void rcv_free_ooo(struct pb_tcp *e, struct tcb *c)
{
	free_chain(e, c, c->oq_head);
	c->oq_head = NONE;
	c->oq_count = 0;
}

void rcv_free_all(struct pb_tcp *e, struct tcb *c)
{
	rcv_free_ooo(e, c);
	free_chain(e, c, c->rq_head);
	c->rq_head = c->rq_tail = NONE;
	c->rq_bytes = 0;
}

bool rcv_ends_by(const struct pb_tcp *e, const struct tcb *c, uint32_t seq)
{
	uint32_t end = c->rcv_nxt;
	for (uint32_t f = c->oq_head; f != NONE; f = e->segs[f].next)
		end = e->segs[f].seq + e->segs[f].len;
	return seq_leq(end, seq);
}
