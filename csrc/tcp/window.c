/* The window that we offer: what a receive buffer of frames is worth in bytes, and when news of it are worth a segment.
 */
#include "tcp/tcb.h"

void rcv_sized(const struct pb_tcp *e, struct tcb *c)
{
	uint64_t full = (uint64_t)c->rcvbuf * c->advmss / e->pool->frame_bytes;
	c->rcv_full = (uint32_t)(full < UINT32_MAX ? full : UINT32_MAX);
}

/* What we could offer now. Memory is charged by frames, so bytes are scaled by how full a full segment makes one. */
uint32_t rcv_window(const struct pb_tcp *e, const struct tcb *c)
{
	if ((uint64_t)c->rcv_frames * e->pool->frame_bytes >= c->rcvbuf)
		return 0;
	uint64_t wnd = c->rcv_full - c->rcv_frames * c->advmss, max = (uint64_t)65535 << c->rcv_wscale;
	if (c->wnd_clamp && wnd > c->wnd_clamp)
		wnd = c->wnd_clamp;
	return (uint32_t)(wnd < max ? wnd : max);
}

/* The largest window there can be: of the whole buffer, or the application's limit. */
static uint32_t rcv_most(const struct tcb *c)
{
	return c->wnd_clamp ? min_u32(c->rcv_full, c->wnd_clamp) : c->rcv_full;
}

/* Bytes in order beyond the last whole unit of the scale, counted from the right edge, when an ACK for them would cost
 * memory: it moves the edge by the rest of the unit. Not while half of the buffer is empty, nor while what is there and
 * what may still come, at full segments' rate, is less than half as much again as the buffer. */
uint32_t rcv_odd(const struct pb_tcp *e, const struct tcb *c)
{
	if (2ull * c->rcv_frames * e->pool->frame_bytes < c->rcvbuf)
		return 0;
	uint64_t wnd = (uint64_t)c->rcv_frames * c->advmss + (c->rcv_adv - c->rcv_nxt);
	return 2 * wnd < 3ull * c->rcv_full ? 0 : (c->rcv_nxt - c->rcv_adv) & ((1u << c->rcv_wscale) - 1);
}

/* A dialogue whose questions are all read, each with its answer: the whole window is offered with each. The field then
 * stays the same from message to message, which is what other stacks predict of a header; a large window that nobody
 * runs into cannot become silly. */
static bool in_step(const struct tcb *c)
{
	return !c->rcv_frames && (c->bits & BIT_PINGPONG) && c->rcv_wscale;
}

/* The right edge never moves left (RFC 9293 3.8.6), and it moves right only by what is worth it (3.8.6.2.2). What is
 * left of a window may not be whole units of the scale (RFC 7323 2.4): it is rounded up then, which moves the edge by a
 * little for each segment shorter than a unit. An ACK of whole units (BIT_ACK_UNITS, see ack_soon) leaves it where it
 * is. */
struct offer rcv_offer(struct pb_tcp *e, struct tcb *c, bool syn, bool bare)
{
	struct offer o = {.ack = c->rcv_nxt};
	uint32_t wnd = rcv_window(e, c), old = c->rcv_adv - c->rcv_nxt;
	if (syn) {
		/* A SYN-ACK takes nothing of a SYN back, nor one that is sent again of what an ACK in between said:
		 * that it cannot say, since it is not scaled (RFC 7323 2.2), but it stands. */
		o.field = (uint16_t)max_u32(min_u32(wnd, 65535), min_u32(old, 65535));
		c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt + o.field);
		return o;
	}
	uint32_t step = min_u32(c->advmss, rcv_most(c) / 2);
	if (wnd < old || (wnd < old + step && !in_step(c)))
		wnd = old;
	o.field = (uint16_t)min_u32(wnd >> c->rcv_wscale, 65535);
	uint32_t edge = o.ack + ((uint32_t)o.field << c->rcv_wscale);
	if (seq_lt(edge, c->rcv_adv)) {
		if (bare && (c->bits & BIT_ACK_UNITS))
			o.ack -= rcv_odd(e, c);
		o.field++;
		edge = o.ack + ((uint32_t)o.field << c->rcv_wscale);
	}
	c->rcv_adv = seq_max(c->rcv_adv, edge);
	if (!o.field != !!(c->bits & BIT_ZERO_WND)) {
		if (o.field)
			COUNT(e, TcpExtTCPFromZeroWindowAdv);
		else
			COUNT(e, TcpExtTCPToZeroWindowAdv);
		c->bits ^= BIT_ZERO_WND;
	}
	return o;
}

void rcv_review(struct pb_tcp *e, struct tcb *c)
{
	if (!c->rcv_frames)
		c->bits |= BIT_READS;
	if (c->state != PB_TCP_ESTABLISHED && c->state != PB_TCP_FIN_WAIT_1 && c->state != PB_TCP_FIN_WAIT_2)
		return;
	uint32_t max = rcv_most(c);
	uint32_t old = c->rcv_adv - c->rcv_nxt, wnd = rcv_window(e, c);
	if (old < max / 2 && wnd >= old + min_u32(2u * c->advmss, max / 2))
		ack_now(e, c);
}
