/* The send queue: segments from snd_una to snd_end, each one frame, in order. */
#include "tcp/tcb.h"

#include <errno.h>

/* Sequence numbers must stay comparable: what is queued is below half of their space. */
#define SENDQ_MAX (1u << 30)
#define NO_FRAME_NS (1u * NS_PER_MS)

void sq_append(struct pb_tcp *e, struct tcb *c, uint32_t frame)
{
	struct seg *s = &e->segs[frame];
	s->next = NONE;
	s->seq = c->snd_end;
	c->snd_end += s->len;
	if (c->sq_tail == NONE)
		c->sq_head = frame;
	else
		e->segs[c->sq_tail].next = frame;
	c->sq_tail = frame;
	if (c->sq_next == NONE)
		c->sq_next = frame;
}

/* The first n bytes of a segment are acknowledged: what is left is a shorter segment. */
static void trim_front(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t n)
{
	struct seg *s = &e->segs[frame];
	uint32_t marks = s->flags & (SEG_SACKED | SEG_LOST | SEG_RETRANS);
	seg_unmark(c, s, marks);
	s->seq += n;
	s->off = (uint16_t)(s->off + n);
	s->len = (uint16_t)(s->len - n);
	s->csum = pb_csum_partial(frame_ptr(e, frame) + s->off, s->len, 0);
	seg_mark(c, s, marks);
}

/* A segment that is acknowledged whole: what its arrival says. */
static void arrived(struct pb_tcp *e, struct tcb *c, const struct seg *s, struct ack_news *n)
{
	if (s->flags & SEG_REXMIT) {
		n->rexmit_acked = true;
		n->rexmit_ns = s->sent_ns > n->rexmit_ns ? s->sent_ns : n->rexmit_ns;
	} else if (!(s->flags & SEG_SACKED)) {
		if (!n->first_ns)
			n->first_ns = s->sent_ns;
		n->last_ns = s->sent_ns;
		if (seq_lt(s->seq, n->reord))
			n->reord = s->seq;
		n->orig_acked |= seq_leq(s->seq + s->len, c->recover_seq);
	}
	if (!(c->flags & TCB_SACK) || (s->flags & SEG_SACKED))
		return;
	count_delivered(e, c, n, s->len, 1);
	/* The echo of a time before it was sent again: the original arrived, whose send time is not known. */
	if (!((s->flags & SEG_REXMIT) && n->has_ecr && seq_lt(n->ts_ecr, now_ts_ms(c, s->sent_ns))))
		rack_arrived(c, s, n);
}

void sq_ack(struct pb_tcp *e, struct tcb *c, uint32_t ack, struct ack_news *n)
{
	while (c->sq_head != NONE) {
		uint32_t frame = c->sq_head;
		struct seg *s = &e->segs[frame];
		if (!seq_lt(s->seq, ack))
			break;
		if (seq_lt(ack, s->seq + s->len)) {
			if ((c->flags & TCB_SACK) && !(s->flags & SEG_SACKED))
				count_delivered(e, c, n, ack - s->seq, 0);
			trim_front(e, c, frame, ack - s->seq);
			break;
		}
		arrived(e, c, s, n);
		n->segs++;
		if (s->flags & SEG_SACKED && c->flags & TCB_SACK)
			c->sacked_segs--;
		if (s->flags & (SEG_SACKED | SEG_LOST | SEG_RETRANS))
			seg_unmark(c, s, SEG_SACKED | SEG_LOST | SEG_RETRANS);
		c->sq_head = s->next;
		if (c->sq_head == NONE)
			c->sq_tail = NONE;
		if (c->rtx_hint == frame)
			c->rtx_hint = c->sq_head;
		frame_free(e, frame);
	}
}

void sq_free_all(struct pb_tcp *e, struct tcb *c)
{
	while (c->sq_head != NONE) {
		uint32_t frame = c->sq_head;
		c->sq_head = e->segs[frame].next;
		frame_free(e, frame);
	}
	c->sq_tail = c->sq_next = c->rtx_hint = NONE;
	c->sacked_bytes = c->lost_bytes = c->retrans_bytes = c->todo_bytes = c->sacked_segs = 0;
}

bool sq_split(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t len)
{
	uint32_t rest = frame_alloc(e, false);
	if (rest == NONE)
		return false;
	struct seg *s = &e->segs[frame], *r = &e->segs[rest];
	uint8_t *src = frame_ptr(e, frame) + s->off;
	uint32_t n = s->len - len;
	r->csum = pb_csum_copy(frame_ptr(e, rest) + r->off, src + len, n, 0);
	r->len = (uint16_t)n;
	r->seq = s->seq + len;
	r->flags = s->flags &
		   (SEG_SENT | SEG_SACKED | SEG_LOST | SEG_RETRANS | SEG_REXMIT | SEG_PUSH | SEG_MORE | SEG_EOR);
	r->sent_ns = s->sent_ns;
	r->delivered = s->delivered;
	c->sacked_segs += s->flags & SEG_SACKED && c->flags & TCB_SACK;
	r->next = s->next;
	s->next = rest;
	s->flags &= (uint16_t) ~(SEG_PUSH | SEG_MORE | SEG_EOR);
	s->len = (uint16_t)len;
	s->csum = pb_csum_partial(src, len, 0);
	if (c->sq_tail == frame)
		c->sq_tail = rest;
	return true;
}

void sq_coalesce(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t max)
{
	struct seg *s = &e->segs[frame];
	/* The device may read the frame, and a frame has an end. */
	if (s->flags & (SEG_INDEV | SEG_SENT))
		return;
	max = min_u32(max, e->pool->frame_bytes - s->off);
	while (s->next != NONE && s->len < max && !(s->flags & SEG_EOR)) {
		uint32_t next = s->next;
		struct seg *n = &e->segs[next];
		if (n->len > max - s->len)
			break;
		uint32_t sum =
			pb_csum_copy(frame_ptr(e, frame) + s->off + s->len, frame_ptr(e, next) + n->off, n->len, 0);
		s->csum = pb_csum_block_add(s->csum, sum, s->len);
		s->len = (uint16_t)(s->len + n->len);
		s->flags = (uint16_t)((s->flags & ~SEG_MORE) | (n->flags & (SEG_PUSH | SEG_MORE | SEG_EOR)));
		s->next = n->next;
		if (c->sq_tail == next)
			c->sq_tail = frame;
		frame_free(e, next);
		e->stats.n[PB_C_SendJoined]++;
	}
}

bool sq_one_record(const struct pb_tcp *e, uint32_t frame, uint32_t bytes)
{
	uint32_t n = 0;
	for (const struct seg *s; frame != NONE && n < bytes; frame = s->next) {
		s = &e->segs[frame];
		n += s->len;
		if ((s->flags & SEG_EOR) && n < bytes)
			return false;
	}
	return true;
}

bool sq_borrow(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t bytes)
{
	struct seg *s = &e->segs[frame];
	while (bytes && s->next != NONE && !(s->flags & SEG_EOR)) {
		uint32_t next = s->next;
		struct seg *n = &e->segs[next];
		uint32_t k = min_u32(bytes, n->len);
		uint32_t sum = pb_csum_copy(frame_ptr(e, frame) + s->off + s->len, frame_ptr(e, next) + n->off, k, 0);
		s->csum = pb_csum_block_add(s->csum, sum, s->len);
		s->len = (uint16_t)(s->len + k);
		bytes -= k;
		if (k < n->len) {
			trim_front(e, c, next, k);
			continue;
		}
		s->flags |= n->flags & (SEG_PUSH | SEG_MORE | SEG_EOR);
		s->next = n->next;
		if (c->sq_tail == next)
			c->sq_tail = frame;
		frame_free(e, next);
	}
	return !bytes;
}

/* The connection of a handle, if it may send: 0 or -errno. */
static int sendable(struct pb_tcp *e, pb_tcp_handle h, struct tcb **out)
{
	const struct tcb *c = *out = tcb_get(e, h);
	if (!c)
		return -EBADF;
	tcb_fetch_send(e, c);
	if (c->flags & TCB_FIN_QUEUED)
		return -EPIPE;
	if (c->state == PB_TCP_ESTABLISHED || c->state == PB_TCP_CLOSE_WAIT)
		return 0;
	if (c->state == PB_TCP_CLOSED)
		return -(c->error ? c->error : EPIPE);
	return c->state == PB_TCP_SYN_SENT || c->state == PB_TCP_SYN_RCVD ? -EAGAIN : -ENOTCONN;
}

/* Appends to the last unsent segment when there is room: the bytes taken. */
static uint32_t fill_tail(struct pb_tcp *e, struct tcb *c, const uint8_t *buf, uint32_t len)
{
	if (c->sq_tail == NONE || c->sq_next == NONE)
		return 0;
	struct seg *s = &e->segs[c->sq_tail];
	if (s->len >= c->mss || (s->flags & SEG_EOR))
		return 0;
	uint32_t n = min_u32(len, min_u32(c->mss - s->len, e->pool->frame_bytes - s->off - s->len));
	uint32_t sum = pb_csum_copy(frame_ptr(e, c->sq_tail) + s->off + s->len, buf, n, 0);
	s->csum = pb_csum_block_add(s->csum, sum, s->len);
	s->len = (uint16_t)(s->len + n);
	c->snd_end += n;
	return n;
}

/* A receiver that waits for PSH gets one for each half of the largest window that it ever offered. */
static void push_often(struct tcb *c, struct seg *s)
{
	if (!seq_lt(c->pushed_seq + c->max_snd_wnd / 2, c->snd_end))
		return;
	s->flags |= SEG_PUSH;
	c->pushed_seq = c->snd_end;
}

int64_t pb_tcp_send(struct pb_tcp *e, pb_tcp_handle h, const void *buf, size_t len, unsigned flags)
{
	struct tcb *c;
	int rc = sendable(e, h, &c);
	if (rc)
		return rc;
	uint32_t queued = c->snd_end - c->snd_una;
	if (!len)
		return 0;
	if (queued >= c->sndbuf) {
		c->bits |= BIT_NOSPACE;
		return -EAGAIN;
	}
	uint32_t want = len < c->sndbuf - queued ? (uint32_t)len : c->sndbuf - queued;
	if (want < len)
		c->bits |= BIT_NOSPACE;
	uint32_t done = fill_tail(e, c, buf, want);
	while (done < want) {
		uint32_t frame = frame_alloc(e, true);
		if (frame == NONE)
			break;
		struct seg *s = &e->segs[frame];
		s->len = (uint16_t)min_u32(want - done, c->mss);
		s->csum = pb_csum_copy(frame_ptr(e, frame) + s->off, (const uint8_t *)buf + done, s->len, 0);
		sq_append(e, c, frame);
		done += s->len;
		push_often(c, s);
	}
	if (done < want) {
		/* The pool is short, which nothing of this connection may ever change: asked again in a while. */
		c->bits |= BIT_NO_FRAME;
		c->t_pace = e->now_ns + NO_FRAME_NS < c->t_pace ? e->now_ns + NO_FRAME_NS : c->t_pace;
		timer_update(e, c);
	}
	if (!done)
		return -EAGAIN;
	struct seg *last = &e->segs[c->sq_tail];
	if (flags & PB_TCP_MORE)
		last->flags = (uint16_t)((last->flags | SEG_MORE) & ~SEG_PUSH);
	else
		last->flags = (uint16_t)((last->flags | SEG_PUSH) & ~SEG_MORE);
	if (last->flags & SEG_PUSH)
		c->pushed_seq = c->snd_end;
	if ((flags & PB_TCP_EOR) && done == len)
		last->flags |= SEG_EOR;
	tcb_ready(e, c);
	return done;
}

int pb_tcp_send_frames(struct pb_tcp *e, pb_tcp_handle h, const struct pb_desc *d, const uint32_t *sums, int n)
{
	struct tcb *c;
	int rc = sendable(e, h, &c);
	if (rc)
		return rc;
	int i = 0;
	for (; i < n; i++) {
		if (c->snd_end - c->snd_una > SENDQ_MAX)
			return i ? i : -EAGAIN;
		uint64_t addr = pb_pool_frame(e->pool, d[i].addr);
		uint32_t off = (uint32_t)(d[i].addr - addr) + d[i].off;
		if (off < PB_TCP_HEADROOM || off + d[i].len > e->pool->frame_bytes || !d[i].len)
			break;
		uint32_t frame = pb_pool_index(e->pool, addr);
		e->segs[frame] = (struct seg){.off = (uint16_t)off,
					      .len = d[i].len,
					      .csum = sums[i],
					      .flags = d[i].flags & PB_DESC_MORE ? SEG_MORE : SEG_PUSH};
		if (d[i].flags & PB_DESC_EOR)
			e->segs[frame].flags |= SEG_EOR;
		pb_pool_move(e->cache, addr, PB_OWN_APP, PB_OWN_ENGINE);
		sq_append(e, c, frame);
	}
	if (i)
		tcb_ready(e, c);
	return i || !n ? i : -EINVAL;
}
