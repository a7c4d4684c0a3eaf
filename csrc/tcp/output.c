/* What goes out: replies, then each connection that has something to say, in turn, until the room is used up. Headers
 * are written into the frame before its payload, so a segment is sent without a copy; one that the device still holds
 * gets a header in another frame, with a copy behind it where the device takes no chains: what was handed over must not
 * change under a transfer. */
#include "tcp/out.h"

static bool cwnd_allows(const struct tcb *c, uint32_t len)
{
	uint32_t pipe = pipe_bytes(c);
	return !pipe || pipe + len <= c->cc.cwnd;
}

/* The flow's rate, if it has one. False: not yet; the timer says when (RFC 9293 knows no rate; as Linux's fq). */
static bool rate_allows(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!c->pacing_rate || c->pace_next_ns <= now_ns) {
		c->bits &= ~(uint32_t)BIT_RATE_LIMITED;
		return true;
	}
	if (!(c->bits & BIT_RATE_LIMITED))
		COUNT(e, PacingWaits);
	c->bits |= BIT_RATE_LIMITED;
	c->t_pace = c->pace_next_ns;
	timer_update(e, c);
	return false;
}

/* A segment was sent more than once: by a probe too, which says nothing of a loss. */
static void count_again(struct pb_tcp *e, struct tcb *c, struct seg *s)
{
	s->flags |= SEG_REXMIT;
	plpmtud_forget(e, c); /* what a path MTU probe would say now is said of this too (as Linux) */
	c->rexmits++;
	c->bytes_rexmit += s->len;
	emitted_again(e);
}

/* In the place of one that is lost: one more in the network. */
static void sent_again(struct pb_tcp *e, struct tcb *c, struct seg *s, uint64_t now_ns)
{
	if ((s->flags & (SEG_LOST | SEG_RETRANS)) == SEG_LOST)
		c->todo_bytes -= s->len;
	if (!(s->flags & SEG_RETRANS))
		c->retrans_bytes += s->len;
	s->flags |= SEG_RETRANS;
	count_again(e, c, s);
	if (!c->retrans_ns)
		c->retrans_ns = now_ns;
	c->undo_retrans = c->undo_retrans < 0 ? 1 : c->undo_retrans + 1;
	if (c->ca_state == PB_TCP_CA_RECOVERY)
		COUNT(e, TcpExtTCPFastRetrans);
	else if (c->ca_state == PB_TCP_CA_LOSS && c->tries == 0)
		COUNT(e, TcpExtTCPSlowStartRetrans);
}

/* A segment made for a path that carries less now. False: no frame. */
static bool fit(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t f)
{
	if (e->segs[f].len <= c->mss || sq_split(e, c, f, c->mss))
		return true;
	o->stuck = true;
	return false;
}

/* Lost segments. The oldest goes whatever the window says, the others only inside it. */
static void resend_lost(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	uint32_t f = c->rtx_hint == NONE ? c->sq_head : c->rtx_hint;
	while (c->todo_bytes && f != NONE && o->n < o->room) {
		struct seg *s = &e->segs[f];
		if (!(s->flags & SEG_SENT))
			break;
		if ((s->flags & (SEG_LOST | SEG_RETRANS)) != SEG_LOST) {
			f = s->next;
			continue;
		}
		c->rtx_hint = f;
		if (!fit(e, c, o, f))
			return;
		if (!cwnd_allows(c, s->len)) {
			c->flags |= TCB_CWND_LIMITED;
			return;
		}
		if (f != c->sq_head && seq_lt(c->snd_una + c->snd_wnd, s->seq + s->len))
			return;
		if (!rate_allows(e, c, o->now_ns) || !send_seg(e, c, o, f))
			return;
		sent_again(e, c, s, o->now_ns);
		/* What was sent just now gets its full time (RFC 6298 5.1), and there are no probes in a recovery
		 * (RFC 8985 7.2). */
		if (f == c->sq_head && c->rtx_kind != RTX_REO && c->ca_state == PB_TCP_CA_RECOVERY)
			rtx_arm(e, c, o->now_ns);
		f = s->next;
	}
}

/* Nagle's algorithm as amended by Minshall: a small segment waits while another small one is unacknowledged (RFC 896;
 * RFC 1122 4.2.3.4). A cork or a promise of more holds it whatever is in flight. */
static bool held(const struct tcb *c, const struct seg *s, uint32_t len)
{
	if (len >= c->mss || s->next != NONE || (c->flags & (TCB_FIN_QUEUED | TCB_FORCE | TCB_PUSH_ALL)))
		return false;
	if ((c->flags & TCB_CORK) || (s->flags & SEG_MORE))
		return true;
	return (c->flags & TCB_NAGLE) && in_flight(c) && seq_lt(c->snd_una, c->small_end) &&
	       seq_leq(c->small_end, c->snd_nxt);
}

/* How much of an unsent segment may go now: 0 holds it. Sender SWS avoidance (RFC 9293 3.8.6.2.1). */
static uint32_t may_send(const struct tcb *c, const struct seg *s)
{
	uint32_t edge = c->snd_una + c->snd_wnd;
	uint32_t usable = seq_lt(s->seq, edge) ? edge - s->seq : 0, len = min_u32(s->len, c->mss);
	if (s->flags & SEG_PROBE)
		len = s->len;
	if (len > usable) {
		bool worth = usable && (usable >= c->max_snd_wnd / 2 || (c->flags & TCB_FORCE));
		return worth ? usable : 0;
	}
	return held(c, s, len) ? 0 : len;
}

/* What follows joins a segment that is not full; after a probe took from it, piece by piece. */
static void fill(struct pb_tcp *e, struct tcb *c, uint32_t f)
{
	struct seg *s = &e->segs[f];
	sq_coalesce(e, c, f, c->mss);
	if (c->probing.on && s->len < c->mss && (uint32_t)s->off + c->mss <= e->pool->frame_bytes)
		sq_borrow(e, c, f, c->mss - s->len);
}

static bool send_next(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t len)
{
	uint32_t f = c->sq_next;
	struct seg *s = &e->segs[f];
	if (len < s->len && !sq_split(e, c, f, len)) {
		o->stuck = true;
		return false;
	}
	uint32_t next = s->next;
	if (c->flags & TCB_FORCE)
		s->flags |= SEG_PUSH; /* nobody knows what comes next, or when */
	if (!send_seg(e, c, o, f))
		return false;
	c->sq_next = next;
	if (!(c->flags & TCB_FIN_SENT))
		c->snd_nxt = s->seq + s->len;
	if (s->len < c->mss)
		c->small_end = s->seq + s->len;
	c->flags &= ~(uint32_t)TCB_FORCE;
	/* An answer within the ATO of the question: a dialogue, whose ACKs can travel with the answers. */
	if (o->now_ns - c->last_data_ns < (uint64_t)c->ato_us * NS_PER_US)
		c->bits |= BIT_PINGPONG;
	COUNT(e, TcpExtTCPOrigDataSent);
	return true;
}

/* Returns whether something went. */
static bool send_new(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	bool any = false, limited = false;
	if (c->sq_next != NONE && !in_flight(c))
		cwnd_after_idle(e, c, o->now_ns);
	while (c->sq_next != NONE && o->n < o->room) {
		uint32_t f = c->sq_next;
		struct seg *s = &e->segs[f];
		if (e->cfg.probing && plpmtud_try(e, c, o->now_ns))
			s = &e->segs[f]; /* it is larger now */
		else if (s->len < c->mss && s->next != NONE)
			fill(e, c, f);
		uint32_t len = may_send(c, s);
		if (!len)
			break;
		limited = !cwnd_allows(c, len);
		if (limited || !rate_allows(e, c, o->now_ns) || !send_next(e, c, o, len))
			break;
		any = true;
	}
	if (c->sq_next == NONE)
		c->flags &= ~(uint32_t)TCB_PUSH_ALL;
	if (any || limited)
		cwnd_validate(c, limited || pipe_bytes(c) + c->mss > c->cc.cwnd, o->now_ns);
	return any;
}

static bool send_fin(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	bool due = (c->flags & TCB_FIN_OUT) ||
		   ((c->flags & (TCB_FIN_QUEUED | TCB_FIN_SENT)) == TCB_FIN_QUEUED && c->sq_next == NONE);
	if (!due || o->n == o->room || c->sq_next != NONE)
		return false;
	if (!send_bare(e, c, o, c->snd_end, PB_TCP_FIN | PB_TCP_ACK))
		return false;
	if (c->flags & TCB_FIN_SENT) {
		c->rexmits++;
		emitted_again(e);
		if (!c->retrans_ns)
			c->retrans_ns = o->now_ns;
	}
	if (!(c->flags & TCB_FIN_SENT))
		COUNT(e, TcpExtTCPOrigDataSent); /* with data it is counted with that */
	c->last_send_ns = o->now_ns;
	c->bits |= BIT_FIN_ALONE;
	c->flags = (c->flags | TCB_FIN_SENT) & ~(uint32_t)TCB_FIN_OUT;
	c->snd_nxt = c->snd_end + 1;
	return true;
}

/* RFC 8985 7.3: a new segment if there is one and the window takes it, else the last one again, or the FIN. */
static void send_tlp(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	c->flags &= ~(uint32_t)TCB_TLP_DUE;
	if (!in_flight(c) || o->n == o->room || c->ca_state >= PB_TCP_CA_RECOVERY)
		return;
	bool again = false;
	uint32_t f = c->sq_next;
	if (f != NONE && seq_leq(e->segs[f].seq + min_u32(e->segs[f].len, c->mss), c->snd_una + c->snd_wnd)) {
		if (!send_next(e, c, o, min_u32(e->segs[f].len, c->mss)))
			return;
	} else if ((c->flags & TCB_FIN_SENT) && (c->sq_head == NONE || (c->bits & BIT_FIN_ALONE))) {
		c->flags |= TCB_FIN_OUT;
		again = send_fin(e, c, o);
	} else {
		for (f = c->sq_head; f != NONE && e->segs[f].next != c->sq_next;)
			f = e->segs[f].next;
		if (f == NONE || (e->segs[f].flags & SEG_SACKED) || !fit(e, c, o, f))
			return;
		if (!send_seg(e, c, o, f)) {
			if (o->room - o->n < 2) /* with the next call there is room for a chain */
				c->flags |= TCB_TLP_DUE;
			return;
		}
		count_again(e, c, &e->segs[f]);
		again = true;
	}
	c->bits = (c->bits & ~(uint32_t)BIT_TLP_REXMIT) | BIT_TLP | (again ? BIT_TLP_REXMIT : 0u);
	c->tlp_seq = c->snd_nxt;
	COUNT(e, TcpExtTCPLossProbes);
	trace_add(e, c, NULL, PB_TCP_T_TLP, o->now_ns);
	rtx_arm(e, c, o->now_ns);
}

/* An old sequence number: whatever the peer's window, it must answer (RFC 9293 3.8.6.1, 3.8.4). */
static void send_probe(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	if (o->n == o->room || !send_ack(e, c, o, c->snd_una - 1))
		return;
	if (c->flags & TCB_KA_PROBE)
		COUNT(e, TcpExtTCPKeepAlive);
	else
		COUNT(e, TcpExtTCPWinProbe);
	c->flags &= ~(uint32_t)(TCB_PROBE | TCB_KA_PROBE);
	c->probes_out++;
}

static void conn_output(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	if (c->flags & TCB_SYN_OUT) {
		send_syn(e, c, o);
		return;
	}
	if (c->state < PB_TCP_ESTABLISHED) {
		if (c->state == PB_TCP_SYN_RCVD && (c->flags & TCB_ACK_NOW))
			send_ack(e, c, o, c->snd_nxt);
		return;
	}
	/* What the rate held back may be held by the window now: then it is the persist timer's. */
	if ((c->bits & BIT_RATE_LIMITED) && (c->pace_next_ns <= o->now_ns || c->t_pace == NEVER))
		c->bits &= ~(uint32_t)BIT_RATE_LIMITED;
	/* Blocks of the out-of-order store, and duplicates, fit only where there is no payload. */
	if ((c->flags & TCB_ACK_NOW) && (c->oq_count || (c->bits & BIT_DSACK)) && !send_ack(e, c, o, c->snd_nxt))
		return;
	bool any = false;
	if (c->flags & TCB_TLP_DUE)
		send_tlp(e, c, o);
	if (c->bits & BIT_NEW_FIRST) {
		c->bits &= ~(uint32_t)BIT_NEW_FIRST;
		any = send_new(e, c, o);
		if (!any)
			c->flags &= ~(uint32_t)TCB_FRTO;
	}
	if (!any && c->todo_bytes)
		resend_lost(e, c, o);
	if (!c->todo_bytes) /* NextSeg() of RFC 6675: new data after all that is lost */
		any |= send_new(e, c, o);
	any |= send_fin(e, c, o);
	if (c->flags & TCB_PROBE)
		send_probe(e, c, o);
	if ((c->flags & TCB_ACK_NOW) && o->n < o->room)
		send_ack(e, c, o, c->snd_nxt);
	rtx_review(e, c, any, o->now_ns);
	chrono_update(c, o->now_ns);
}

static bool more_to_do(const struct tcb *c)
{
	if (c->state == PB_TCP_CLOSED)
		return false;
	return c->flags & (TCB_ACK_NOW | TCB_SYN_OUT | TCB_PROBE | TCB_FIN_OUT | TCB_TLP_DUE) || c->sq_next != NONE ||
	       c->todo_bytes || (c->flags & (TCB_FIN_QUEUED | TCB_FIN_SENT)) == TCB_FIN_QUEUED;
}

int pb_tcp_output(struct pb_tcp *e, struct pb_desc *d, int room, uint64_t now_ns)
{
	struct out o = {.d = d, .room = room, .now_ns = now_ns};
	e->now_ns = now_ns;
	if (e->sweep_left)
		pmtu_sweep(e, now_ns);
	send_replies(e, &o);
	const struct queue *ready = &e->lists[LIST_READY];
	uint32_t last = ready->tail;
	while (ready->head != NONE && o.n < room && !o.stuck) {
		struct tcb *c = list_pop(e, LIST_READY);
		if (ready->head != NONE) {
			tcb_fetch_receive(e, &e->tcbs[ready->head]);
			tcb_fetch_send(e, &e->tcbs[ready->head]);
		}
		bool was_last = c->idx == last;
		if (c->flags & TCB_DEAD) {
			tcb_recycle(e, c);
		} else {
			conn_output(e, c, &o);
			/* Cut short by the room or for want of a frame: at the end of the line again. */
			if ((o.n == room || o.stuck) && more_to_do(c))
				tcb_ready(e, c);
		}
		if (was_last)
			break;
	}
	return o.n;
}
