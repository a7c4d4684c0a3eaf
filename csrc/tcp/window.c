/* The window that we offer: what a receive buffer of frames is worth in bytes, and when news of it are worth a segment.
 */
#include "tcp/tcb.h"

/* How long the peer may send again what is held back until it is acknowledged: far from where anybody gives up (100 s
 * or more, RFC 9293 3.8.3), and so seldom that the edge goes nowhere. */
#define HOLD_NS 10000000000ull

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

/* Whether the last part of a unit of the window is worth its memory: see rcv_offer. What is there and what may still
 * come, at full segments' rate, is at most half as much again as the buffer: small ones cost more, and find room. */
static bool may_round_up(const struct pb_tcp *e, const struct tcb *c)
{
	uint64_t wnd = (uint64_t)c->rcv_frames * c->advmss + (c->rcv_adv - c->rcv_nxt);
	bool half_empty = 2ull * c->rcv_frames * e->pool->frame_bytes < c->rcvbuf;
	return half_empty || 2 * wnd < 3ull * c->rcv_full;
}

/* Whether the ACK may say that much less than what came. It was never said before, and there is more to come. */
static bool may_hold(const struct tcb *c, uint32_t held)
{
	return !(c->flags & TCB_RFIN_DONE) && !(c->bits & BIT_ACK_ALL) && seq_leq(c->last_ack_sent, c->rcv_nxt - held);
}

/* A dialogue whose questions are all read, each with its answer: the whole window is offered with each. The field then
 * stays the same from message to message, which is what other stacks predict of a header; a large window that nobody
 * runs into cannot become silly. */
static bool in_step(const struct tcb *c)
{
	return !c->rcv_frames && (c->bits & BIT_PINGPONG) && c->rcv_wscale;
}

/* The right edge never moves left (RFC 9293 3.8.6), and it moves right only by what is worth it (3.8.6.2.2). What is
 * left of a window may not be whole units of the scale. It is rounded up then, which moves the edge by a little for
 * each segment shorter than a unit. When that has cost too much, the edge stays where it is: the ACK says less than a
 * unit less than what came, so that whole units remain. What is held back so is acknowledged with what comes next, when
 * the application reads, or when the peer insists: rcv_twice(). */
struct offer rcv_offer(struct pb_tcp *e, struct tcb *c, bool syn)
{
	struct offer o = {.ack = c->rcv_nxt};
	uint32_t wnd = rcv_window(e, c), old = c->rcv_adv - c->rcv_nxt;
	if (syn) {
		/* A SYN-ACK takes nothing of a SYN back. */
		o.field = (uint16_t)max_u32(min_u32(wnd, 65535), min_u32(old, 65535));
		c->rcv_adv = c->rcv_nxt + o.field;
		return o;
	}
	uint32_t step = min_u32(c->advmss, rcv_most(c) / 2);
	if (wnd < old || (wnd < old + step && !in_step(c)))
		wnd = old;
	o.field = (uint16_t)min_u32(wnd >> c->rcv_wscale, 65535);
	uint32_t edge = o.ack + ((uint32_t)o.field << c->rcv_wscale);
	if (seq_lt(edge, c->rcv_adv)) {
		uint32_t held = (1u << c->rcv_wscale) - (c->rcv_adv - edge);
		o.field++;
		if (!may_round_up(e, c) && may_hold(c, held))
			o.ack -= held;
		edge = o.ack + ((uint32_t)o.field << c->rcv_wscale);
	}
	c->rcv_adv = seq_max(c->rcv_adv, edge);
	c->bits &= ~(uint32_t)BIT_ACK_ALL;
	if (!o.field != !!(c->bits & BIT_ZERO_WND)) {
		if (o.field)
			COUNT(e, TcpExtTCPFromZeroWindowAdv);
		else
			COUNT(e, TcpExtTCPToZeroWindowAdv);
		c->bits ^= BIT_ZERO_WND;
	}
	return o;
}

bool rcv_twice(const struct pb_tcp *e, struct tcb *c, uint32_t end, uint64_t now_ns)
{
	if (!seq_lt(c->last_ack_sent, end))
		return true;
	if (!may_round_up(e, c) && now_ns - c->last_data_ns < HOLD_NS)
		return false;
	c->bits |= BIT_ACK_ALL;
	return true;
}

void rcv_review(struct pb_tcp *e, struct tcb *c)
{
	if (!c->rcv_frames)
		c->bits |= BIT_READS;
	if (c->state != PB_TCP_ESTABLISHED && c->state != PB_TCP_FIN_WAIT_1 && c->state != PB_TCP_FIN_WAIT_2)
		return;
	uint32_t max = rcv_most(c);
	uint32_t old = c->rcv_adv - c->rcv_nxt, wnd = rcv_window(e, c);
	bool held = c->last_ack_sent != c->rcv_nxt && c->t_delack == NEVER && may_round_up(e, c);
	if (held || (old < max / 2 && wnd >= old + min_u32(2u * c->advmss, max / 2))) {
		c->flags |= TCB_ACK_NOW;
		tcb_ready(e, c);
	}
}
