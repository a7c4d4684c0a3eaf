/* What the application takes of the data in order: copies, or the frames themselves. */
#include "tcp/tcb.h"

#include <errno.h>

/* 0: end of the stream; -EAGAIN; else bytes may be read. */
static int readable(const struct tcb *c)
{
	if (c->rq_bytes)
		return 1;
	if (c->state == PB_TCP_LISTEN)
		return -EINVAL;
	if (c->error)
		return -c->error;
	if ((c->flags & (TCB_RFIN_DONE | TCB_RCV_SHUT)) || c->state == PB_TCP_CLOSED)
		return 0;
	return c->state < PB_TCP_ESTABLISHED ? -ENOTCONN : -EAGAIN;
}

int64_t pb_tcp_recv(struct pb_tcp *e, pb_tcp_handle h, void *buf, size_t len, uint64_t now_ns)
{
	(void)now_ns;
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	int rc = readable(c);
	if (rc <= 0)
		return rc;
	size_t done = 0;
	while (done < len && c->rq_head != NONE) {
		uint32_t frame = c->rq_head;
		struct seg *s = &e->segs[frame];
		size_t n = len - done < s->len ? len - done : s->len;
		memcpy((uint8_t *)buf + done, frame_ptr(e, frame) + s->off, n);
		done += n;
		s->off = (uint16_t)(s->off + n);
		s->len = (uint16_t)(s->len - n);
		s->seq += (uint32_t)n;
		if (s->len)
			break;
		c->rq_head = s->next;
		if (c->rq_head == NONE)
			c->rq_tail = NONE;
		rx_free(e, c, frame);
	}
	c->rq_bytes -= (uint32_t)done;
	ack_read(e, c);
	rcv_review(e, c);
	return (int64_t)done;
}

static uint32_t keep_frames(const struct pb_tcp *e, const struct tcb *c)
{
	return c->rcvbuf >> (e->frame_log2 + 1);
}

/* How many frames the application may have before the last one, in which small segments find room, is kept here for
 * them: three quarters of the buffer, and more than it may keep for long. */
static uint32_t frames_most(const struct pb_tcp *e, const struct tcb *c)
{
	return max_u32((c->rcvbuf - c->rcvbuf / 4) >> e->frame_log2, keep_frames(e, c) + 1);
}

/* More may come into that frame: it is the last, there is room, and the stream goes on. */
static bool may_grow(const struct pb_tcp *e, const struct tcb *c, uint32_t frame)
{
	const struct seg *s = &e->segs[frame];
	return frame == c->rq_tail && (uint32_t)s->off + s->len + e->pool->frame_bytes / 4 <= e->pool->frame_bytes &&
	       !(c->flags & TCB_RFIN_DONE) && c->state != PB_TCP_CLOSED;
}

int pb_tcp_recv_frames(struct pb_tcp *e, pb_tcp_handle h, struct pb_desc *d, int n)
{
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	int k = 0;
	for (; k < n && c->rq_head != NONE; k++) {
		uint32_t frame = c->rq_head;
		struct seg *s = &e->segs[frame];
		if (c->held_frames + (uint32_t)k >= frames_most(e, c) && may_grow(e, c, frame))
			break;
		d[k] = (struct pb_desc){.addr = frame_addr(e, frame), .off = s->off, .len = s->len};
		c->rq_head = s->next;
		if (c->rq_head == NONE)
			c->rq_tail = NONE;
		c->rq_bytes -= s->len;
		pb_pool_move(e->cache, d[k].addr, PB_OWN_ENGINE, PB_OWN_APP);
	}
	c->held_frames += (uint32_t)k;
	if (k)
		return k;
	int rc = readable(c);
	return rc == -EAGAIN || rc > 0 ? 0 : rc;
}

uint32_t pb_tcp_keep_frames(struct pb_tcp *e, pb_tcp_handle h)
{
	const struct tcb *c = tcb_get(e, h);
	return c ? keep_frames(e, c) : 0;
}

int pb_tcp_consumed(struct pb_tcp *e, pb_tcp_handle h, uint32_t frames)
{
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	if (frames > c->held_frames)
		return -EINVAL;
	c->held_frames -= frames;
	c->rcv_frames -= frames;
	if (c->rq_head != NONE && c->held_frames < frames_most(e, c))
		tcb_event(e, c, PB_TCP_EV_READABLE); /* it may have been kept back */
	ack_read(e, c);
	rcv_review(e, c);
	return 0;
}

/* Not so small that what the application holds already keeps the next data back from it. */
void rcv_resize(struct pb_tcp *e, struct tcb *c, uint32_t bytes)
{
	uint64_t least = ((uint64_t)c->held_frames + 1) * 4 / 3 + 1;
	least <<= e->frame_log2;
	c->rcvbuf = c->held_frames && bytes < least && least <= UINT32_MAX ? (uint32_t)least : bytes;
	rcv_sized(e, c);
	if (c->rq_head != NONE)
		tcb_event(e, c, PB_TCP_EV_READABLE);
	rcv_review(e, c);
}
