/* When to acknowledge (RFC 9293 3.8.6.3, RFC 5681 4.2): at least every second full-sized segment, at once what is out
 * of order, fills a gap or came twice. What else may wait depends on the profile: Linux acknowledges at once at the
 * start of a connection and after a silence, lets ACKs travel with answers once it has seen a dialogue, and adapts how
 * long they wait to how data arrives; BSD waits for every second segment, or for the delay. */
#include "tcp/tcb.h"

#define QUICKACKS_MAX 16u
#define DELACK_MAX_NS (200ull * NS_PER_MS)
#define LEAST_MSS 88u

static uint32_t ato_min_us(const struct tcb *c)
{
	return (uint32_t)(c->delack_ns / NS_PER_US);
}

static void more_quickacks(struct tcb *c, uint32_t max)
{
	uint32_t n = (c->rcv_adv - c->rcv_nxt) / (2u * max_u32(c->rcv_mss, 1));
	n = min_u32(n ? n : 2, max);
	if (n > c->quickacks)
		c->quickacks = (uint8_t)n;
}

void quickack_mode(struct tcb *c, uint32_t max)
{
	more_quickacks(c, max);
	c->bits &= ~(uint32_t)BIT_PINGPONG;
	c->ato_us = ato_min_us(c);
}

/* What the peer's full segments hold: the largest seen, or two small ones alike in a row. */
static void measure_mss(struct tcb *c, uint32_t len)
{
	if (len >= c->rcv_mss) {
		c->rcv_mss = (uint16_t)min_u32(len, c->advmss);
		return;
	}
	if (len >= LEAST_MSS && len == c->last_small) {
		c->rcv_mss = (uint16_t)len;
		return;
	}
	c->last_small = (uint16_t)len;
	c->bits |= c->bits & BIT_PUSHED ? BIT_PUSHED_TWICE : BIT_PUSHED;
}

static void adapt(struct tcb *c, uint64_t now_ns)
{
	uint32_t min_us = ato_min_us(c);
	if (!c->ato_us) {
		more_quickacks(c, QUICKACKS_MAX);
		c->ato_us = min_us;
		return;
	}
	uint64_t gap = (now_ns - c->last_data_ns) / NS_PER_US;
	if (gap <= min_us / 2)
		c->ato_us = c->ato_us / 2 + min_us / 2;
	else if (gap < c->ato_us)
		c->ato_us = min_u32(c->ato_us / 2 + (uint32_t)gap, c->rto_us);
	else if (gap > c->rto_us)
		more_quickacks(c, QUICKACKS_MAX); /* a silence: the peer starts slowly again */
}

static void arm(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint64_t wait_us = c->ato_us, min_us = ato_min_us(c);
	if (wait_us > min_us) {
		uint64_t max_us = c->bits & (BIT_PINGPONG | BIT_PUSHED) ? DELACK_MAX_NS / NS_PER_US : 500000;
		uint64_t srtt_us = c->srtt8_us / 8 > min_us ? c->srtt8_us / 8 : min_us;
		if (c->srtt8_us && srtt_us < max_us)
			max_us = srtt_us;
		wait_us = wait_us < max_us ? wait_us : max_us;
	}
	uint64_t wait_ns = wait_us * NS_PER_US < DELACK_MAX_NS ? wait_us * NS_PER_US : DELACK_MAX_NS;
	if (c->t_delack != NEVER && c->t_delack <= now_ns + wait_ns / 4) {
		ack_now(e, c); /* it would fire in a moment */
		return;
	}
	if (now_ns + wait_ns < c->t_delack) {
		c->t_delack = now_ns + wait_ns;
		timer_update(e, c);
	}
}

void ack_now(struct pb_tcp *e, struct tcb *c)
{
	c->flags |= TCB_ACK_NOW;
	c->bits &= ~(uint32_t)BIT_ACK_UNITS;
	tcb_ready(e, c);
}

static void wait_for_more(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!(c->bits & BIT_ACKS_BSD)) {
		arm(e, c, now_ns);
	} else if (c->t_delack == NEVER) {
		c->t_delack = now_ns + c->delack_ns;
		timer_update(e, c);
	}
}

/* An ACK that need not wait. In a buffer that nobody reads it says whole units of the window's scale, and the timer
 * what is beyond: then a stream of small segments fills the window that was offered, and not more with each of them. */
static void ack_soon(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint32_t odd = rcv_odd(e, c);
	if (!odd || ((c->flags & TCB_ACK_NOW) && !(c->bits & BIT_ACK_UNITS))) {
		ack_now(e, c);
		return;
	}
	if (seq_lt(c->last_ack_sent, c->rcv_nxt - odd)) {
		ack_now(e, c);
		c->bits |= BIT_ACK_UNITS;
	}
	wait_for_more(e, c, now_ns);
}

void ack_schedule(struct pb_tcp *e, struct tcb *c, uint32_t len, bool now, uint64_t now_ns)
{
	measure_mss(c, len);
	uint32_t unacked = c->rcv_nxt - c->last_ack_sent;
	bool soon;
	if (c->bits & BIT_ACKS_BSD) {
		soon = c->t_delack != NEVER || unacked >= 2u * c->rcv_mss || c->quickacks;
	} else {
		adapt(c, now_ns);
		soon = (c->quickacks && !(c->bits & BIT_PINGPONG)) || unacked > c->rcv_mss;
	}
	c->last_data_ns = now_ns;
	if (now)
		ack_now(e, c);
	else if (soon)
		ack_soon(e, c, now_ns);
	else
		wait_for_more(e, c, now_ns);
}

/* The application took what there was: nobody waits for more of it, so the ACK need not either. */
void ack_read(struct pb_tcp *e, struct tcb *c)
{
	if (c->t_delack == NEVER || c->rq_bytes || c->held_frames || (c->bits & BIT_ACKS_BSD))
		return;
	if ((c->bits & BIT_PUSHED_TWICE) || ((c->bits & BIT_PUSHED) && !(c->bits & BIT_PINGPONG)))
		ack_now(e, c);
}

void delack_timeout(struct pb_tcp *e, struct tcb *c)
{
	c->t_delack = NEVER;
	if (!(c->bits & BIT_ACKS_BSD)) {
		/* It was not needed, or it came too late to be of use: see more of how data comes. */
		if (c->bits & BIT_PINGPONG) {
			c->bits &= ~(uint32_t)BIT_PINGPONG;
			c->ato_us = ato_min_us(c);
		} else {
			c->ato_us = min_u32(c->ato_us * 2, c->rto_us);
		}
	}
	c->bits |= BIT_DELACK_TIMED;
	ack_now(e, c);
}

void dsack_report(struct pb_tcp *e, struct tcb *c, uint32_t left, uint32_t right, bool in_order)
{
	if (!(c->flags & TCB_SACK) || !e->cfg.dsack || !seq_lt(left, right))
		return;
	if (in_order)
		COUNT(e, TcpExtTCPDSACKOldSent);
	else
		COUNT(e, TcpExtTCPDSACKOfoSent);
	c->bits |= BIT_DSACK;
	c->dsack_left = left;
	c->dsack_right = right;
}

/* Explicit congestion notification, the receiver's side (RFC 3168 6.1.3). */
void ecn_data(struct pb_tcp *e, struct tcb *c, const struct pkt *p)
{
	if (p->flags & PB_TCP_CWR) {
		COUNT(e, CwrIn);
		c->bits &= ~(uint32_t)BIT_ECE;
		if (p->data_len)
			ack_now(e, c); /* the sender's window is small now */
	}
	if (p->ecn == PB_ECN_CE) {
		COUNT(e, CeIn);
		if (!(c->bits & BIT_ECE))
			quickack_mode(c, 2);
		c->bits |= BIT_ECE | BIT_ECN_SEEN;
	} else if (p->ecn != PB_ECN_NOT) {
		c->bits |= BIT_ECN_SEEN;
	} else if (c->bits & BIT_ECN_SEEN && p->data_len) {
		quickack_mode(c, 2); /* without ECT where there was ECT: probably sent again */
	}
}
