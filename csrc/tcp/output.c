/* What goes out: replies, then each connection that has something to say, in turn, until the room is used up. Headers
 * are written into the frame before its payload, so a segment is sent without a copy; one that the device still holds
 * is copied: a header must not change under a transfer. */
#include "tcp/tcb.h"

struct out {
	struct pb_desc *d;
	int n, room;
	bool stuck; /* no frame for a control segment: try again at the next call */
	uint64_t now_ns;
};

static uint32_t ip_write(const struct pb_tcp *e, uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst,
			 uint16_t id, uint32_t len)
{
	if (pb_ip_is4(dst))
		return pb_ip4_write(p, src, dst, PB_IPPROTO_TCP, e->cfg.ttl, 0, id, true, len);
	return pb_ip6_write(p, src, dst, PB_IPPROTO_TCP, e->cfg.ttl, 0, 0, len);
}

/* Everything that a segment acknowledges is acknowledged now. */
static void acked_now(struct tcb *c)
{
	c->flags &= ~(uint32_t)TCB_ACK_NOW;
	c->t_delack = NEVER;
	c->unacked_segs = 0;
	c->last_ack_sent = c->rcv_nxt;
}

struct segment {
	uint32_t frame, seq, sum;
	uint16_t off, len; /* payload */
	uint8_t flags;
};

static void emit(struct pb_tcp *e, struct tcb *c, struct out *o, const struct segment *g, struct pb_tcp_opts *opts)
{
	uint8_t buf[PB_TCP_OPTS_MAX];
	if (c->flags & TCB_TS) {
		opts->has_ts = true;
		opts->ts_val = now_ts_ms(c, o->now_ns);
		opts->ts_ecr = c->ts_recent;
	}
	uint32_t opts_len = pb_tcp_opts_write(buf, opts), hdr = PB_TCP_HLEN + opts_len;
	bool syn = g->flags & PB_TCP_SYN;
	uint16_t wnd = (uint16_t)rcv_window_scaled(e, c, syn);
	uint32_t ack = g->flags & PB_TCP_ACK ? c->rcv_nxt : 0;
	uint8_t *tcp = frame_ptr(e, g->frame) + g->off - hdr, *ip = tcp - c->ip_hdr_len;
	pb_tcp_write(tcp, c->lport, c->rport, g->seq, ack, g->flags, wnd, opts_len);
	memcpy(tcp + PB_TCP_HLEN, buf, opts_len);
	pb_tcp_set_csum_with(tcp, hdr, g->len, g->sum, &c->laddr, &c->raddr);
	ip_write(e, ip, &c->laddr, &c->raddr, c->ip_id++, hdr + g->len);
	o->d[o->n++] = (struct pb_desc){.addr = frame_addr(e, g->frame),
					.off = (uint16_t)(g->off - hdr - c->ip_hdr_len),
					.len = (uint16_t)(c->ip_hdr_len + hdr + g->len)};
	if (g->flags & PB_TCP_ACK)
		acked_now(c);
	c->segs_out++;
	e->stats.segs_out++;
}

/* A segment without payload. False: no frame. */
static bool emit_control(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t seq, uint8_t flags,
			 struct pb_tcp_opts *opts)
{
	uint32_t frame = frame_alloc(e, false);
	if (frame == NONE) {
		o->stuck = true;
		return false;
	}
	e->segs[frame].flags = SEG_INDEV | SEG_ORPHAN;
	struct segment g = {.frame = frame, .seq = seq, .off = PB_TCP_HEADROOM, .flags = flags};
	emit(e, c, o, &g, opts);
	return true;
}

static void send_syn(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	bool first = c->state == PB_TCP_SYN_SENT;
	struct pb_tcp_opts opts = {
		.has_mss = true,
		.mss = (uint16_t)(e->cfg.mtu - c->ip_hdr_len - PB_TCP_HLEN),
		.sack_ok = first ? e->cfg.sack : !!(c->flags & TCB_SACK),
		.has_wscale = first ? e->cfg.wscale : !!(c->flags & TCB_WSCALE),
		.wscale = c->rcv_wscale,
	};
	if (first && e->cfg.timestamps) {
		opts.has_ts = true;
		opts.ts_val = now_ts_ms(c, o->now_ns);
	}
	if (!emit_control(e, c, o, c->iss, first ? PB_TCP_SYN : PB_TCP_SYN | PB_TCP_ACK, &opts))
		return;
	c->flags &= ~(uint32_t)TCB_SYN_OUT;
	c->syn_ns = c->syns_sent++ ? 0 : o->now_ns;
}

static bool send_ack(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t seq)
{
	struct pb_tcp_opts opts = {0};
	if ((c->flags & TCB_SACK) && c->oq_count)
		opts.n_sack = (uint8_t)rcv_sack_blocks(e, c, &opts, c->flags & TCB_TS ? 3 : 4);
	return emit_control(e, c, o, seq, PB_TCP_ACK, &opts);
}

/* Sends the segment in `frame`, from its own frame if the device does not hold it. */
static bool send_seg(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t frame)
{
	struct seg *s = &e->segs[frame];
	uint32_t from = frame;
	if (s->flags & SEG_INDEV) {
		from = frame_alloc(e, false);
		if (from == NONE) {
			o->stuck = true;
			return false;
		}
		memcpy(frame_ptr(e, from) + PB_TCP_HEADROOM, frame_ptr(e, frame) + s->off, s->len);
		e->segs[from].flags = SEG_INDEV | SEG_ORPHAN;
	} else {
		s->flags |= SEG_INDEV;
	}
	bool last = s->next == NONE;
	struct segment g = {.frame = from,
			    .seq = s->seq,
			    .off = from == frame ? s->off : PB_TCP_HEADROOM,
			    .len = s->len,
			    .sum = s->csum,
			    .flags = PB_TCP_ACK};
	if (s->flags & SEG_PUSH)
		g.flags |= PB_TCP_PSH;
	if (last && (c->flags & TCB_FIN_QUEUED)) {
		g.flags |= PB_TCP_FIN;
		if (!(c->flags & TCB_FIN_SENT) && s->seq + s->len == c->snd_end) {
			c->flags |= TCB_FIN_SENT;
			c->snd_nxt = c->snd_end + 1;
		}
		c->flags &= ~(uint32_t)TCB_FIN_OUT;
	}
	struct pb_tcp_opts opts = {0};
	emit(e, c, o, &g, &opts);
	s->flags |= SEG_SENT;
	s->sent_ns = o->now_ns;
	c->bytes_sent += s->len;
	return true;
}

static bool cwnd_allows(const struct tcb *c, uint32_t len)
{
	uint32_t pipe = pipe_bytes(c);
	return !pipe || pipe + len <= c->cc.cwnd;
}

/* Lost segments first. The oldest goes whatever the window says, the others only inside it. */
static void resend_lost(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	uint32_t f = c->rtx_hint == NONE ? c->sq_head : c->rtx_hint;
	while (c->lost_bytes && f != NONE && o->n < o->room) {
		struct seg *s = &e->segs[f];
		if (!(s->flags & SEG_SENT))
			break;
		if (!(s->flags & SEG_LOST)) {
			f = s->next;
			continue;
		}
		c->rtx_hint = f;
		if (s->len > c->mss && !sq_split(e, c, f, c->mss)) {
			o->stuck = true;
			return;
		}
		/* RFC 6675 5 (4.3), RFC 6582 3.2: the first hole is filled at once, whatever is still in flight. */
		bool first = f == c->sq_head && (c->flags & TCB_RECOVERY) && !(s->flags & SEG_REXMIT);
		if (!first && !cwnd_allows(c, s->len)) {
			c->flags |= TCB_CWND_LIMITED;
			return;
		}
		if (f != c->sq_head && seq_lt(c->snd_una + c->snd_wnd, s->seq + s->len))
			return;
		if (!send_seg(e, c, o, f))
			return;
		s->flags = (uint8_t)((s->flags | SEG_REXMIT) & ~SEG_LOST);
		c->lost_bytes -= s->len;
		c->rexmits++;
		c->bytes_rexmit += s->len;
		e->stats.retransmits++;
		f = s->next;
	}
}

/* How much of an unsent segment may go now: 0 holds it. Nagle (RFC 896), sender SWS avoidance (RFC 9293 3.8.6.2.1). */
static uint32_t may_send(const struct tcb *c, const struct seg *s)
{
	uint32_t edge = c->snd_una + c->snd_wnd;
	uint32_t usable = seq_lt(s->seq, edge) ? edge - s->seq : 0, len = min_u32(s->len, c->mss);
	if (len > usable) {
		bool worth = usable && (usable >= c->max_snd_wnd / 2 || (c->flags & TCB_FORCE));
		return worth ? usable : 0;
	}
	bool tail = s->next == NONE && !(c->flags & TCB_FIN_QUEUED);
	if (len < c->mss && tail && (c->flags & TCB_NAGLE) && in_flight(c) && !(c->flags & TCB_FORCE))
		return 0;
	return len;
}

static void send_new(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	while (c->sq_next != NONE && o->n < o->room) {
		uint32_t f = c->sq_next;
		struct seg *s = &e->segs[f];
		if (s->len < c->mss && s->next != NONE)
			sq_coalesce(e, c, f, c->mss);
		uint32_t len = may_send(c, s);
		if (!len)
			return;
		if (!cwnd_allows(c, len)) {
			c->flags |= TCB_CWND_LIMITED;
			return;
		}
		if (len < s->len && !sq_split(e, c, f, len)) {
			o->stuck = true;
			return;
		}
		if (c->quickacks && c->rcv_nxt != c->last_ack_sent)
			c->quickacks = 0; /* a dialogue: the answer carries the ACK */
		uint32_t next = s->next;
		if (!send_seg(e, c, o, f))
			return;
		c->sq_next = next;
		if (!(c->flags & TCB_FIN_SENT))
			c->snd_nxt = s->seq + s->len;
		c->flags &= ~(uint32_t)TCB_FORCE;
	}
	if (pipe_bytes(c) < c->cc.cwnd / 2)
		c->flags &= ~(uint32_t)TCB_CWND_LIMITED;
}

static void send_fin(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	bool due = (c->flags & TCB_FIN_OUT) ||
		   ((c->flags & (TCB_FIN_QUEUED | TCB_FIN_SENT)) == TCB_FIN_QUEUED && c->sq_next == NONE);
	if (!due || o->n == o->room || c->sq_next != NONE)
		return;
	struct pb_tcp_opts opts = {0};
	if (!emit_control(e, c, o, c->snd_end, PB_TCP_FIN | PB_TCP_ACK, &opts))
		return;
	if (c->flags & TCB_FIN_SENT) {
		c->rexmits++;
		e->stats.retransmits++;
	}
	c->flags = (c->flags | TCB_FIN_SENT) & ~(uint32_t)TCB_FIN_OUT;
	c->snd_nxt = c->snd_end + 1;
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
	/* Blocks of the out-of-order store fit only where there is no payload. */
	if ((c->flags & TCB_ACK_NOW) && c->oq_count && !send_ack(e, c, o, c->snd_nxt))
		return;
	resend_lost(e, c, o);
	if (!c->lost_bytes) /* NextSeg() of RFC 6675: new data after all that is lost */
		send_new(e, c, o);
	send_fin(e, c, o);
	if ((c->flags & TCB_PROBE) && o->n < o->room && send_ack(e, c, o, c->snd_una - 1)) {
		/* An old sequence number: whatever the peer's window, it must answer (RFC 9293 3.8.6.1, 3.8.4). */
		c->flags &= ~(uint32_t)TCB_PROBE;
		c->probes_out++;
	}
	if ((c->flags & TCB_ACK_NOW) && o->n < o->room)
		send_ack(e, c, o, c->snd_nxt);
	rtx_review(e, c, o->now_ns, false);
}

static bool more_to_do(const struct tcb *c)
{
	if (c->state == PB_TCP_CLOSED)
		return false;
	return c->flags & (TCB_ACK_NOW | TCB_SYN_OUT | TCB_PROBE | TCB_FIN_OUT) || c->sq_next != NONE ||
	       c->lost_bytes || (c->flags & (TCB_FIN_QUEUED | TCB_FIN_SENT)) == TCB_FIN_QUEUED;
}

static void send_replies(struct pb_tcp *e, struct out *o)
{
	while (e->reply_n && o->n < o->room) {
		uint32_t frame = frame_alloc(e, false);
		if (frame == NONE)
			return;
		e->segs[frame].flags = SEG_INDEV | SEG_ORPHAN;
		const struct reply *r = &e->replies[--e->reply_n];
		uint8_t *tcp = frame_ptr(e, frame) + PB_TCP_HEADROOM - PB_TCP_HLEN;
		uint32_t ip_len = pb_ip_is4(&r->dst) ? PB_IP4_HLEN : PB_IP6_HLEN;
		pb_tcp_write(tcp, r->sport, r->dport, r->seq, r->ack, r->flags, 0, 0);
		pb_tcp_set_csum(tcp, PB_TCP_HLEN, &r->src, &r->dst);
		ip_write(e, tcp - ip_len, &r->src, &r->dst, 0, PB_TCP_HLEN);
		o->d[o->n++] = (struct pb_desc){.addr = frame_addr(e, frame),
						.off = (uint16_t)(PB_TCP_HEADROOM - PB_TCP_HLEN - ip_len),
						.len = (uint16_t)(PB_TCP_HLEN + ip_len)};
		e->stats.segs_out++;
		e->stats.resets_out++;
	}
}

int pb_tcp_output(struct pb_tcp *e, struct pb_desc *d, int room, uint64_t now_ns)
{
	struct out o = {.d = d, .room = room, .now_ns = now_ns};
	if (e->sweep_left)
		pmtu_sweep(e, now_ns);
	send_replies(e, &o);
	const struct queue *ready = &e->lists[LIST_READY];
	uint32_t last = ready->tail;
	while (ready->head != NONE && o.n < room && !o.stuck) {
		struct tcb *c = list_pop(e, LIST_READY);
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
