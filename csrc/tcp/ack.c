/* The ACK of a segment: what left the network, the window, the RTT, and what follows for the connection's state. */
#include "tcp/tcb.h"

static void update_window(struct pb_tcp *e, struct tcb *c, const struct pkt *p)
{
	if (!(seq_lt(c->snd_wl1, p->seq) || (c->snd_wl1 == p->seq && seq_leq(c->snd_wl2, p->tcp.ack))))
		return;
	uint32_t wnd = snd_window(c, p);
	if (wnd > c->snd_wnd && c->sq_next != NONE)
		tcb_ready(e, c);
	if (wnd && (c->flags & TCB_PERSIST)) {
		c->flags &= ~(uint32_t)TCB_PERSIST;
		c->backoff = c->tries = 0;
		c->t_rtx = NEVER;
	}
	c->snd_wnd = wnd;
	c->max_snd_wnd = max_u32(c->max_snd_wnd, wnd);
	c->snd_wl1 = p->seq;
	c->snd_wl2 = p->tcp.ack;
}

/* Our FIN was acknowledged. */
static void fin_acked(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	switch (c->state) {
	case PB_TCP_FIN_WAIT_1:
		tcb_set_state(e, c, PB_TCP_FIN_WAIT_2);
		/* An application that is gone will not read: do not wait for ever (Linux tcp_fin_timeout). */
		c->t_misc = c->flags & TCB_DETACHED ? now_ns + e->cfg.fin_wait2_ns
			    : c->ka_idle_ns         ? now_ns + c->ka_idle_ns
						    : NEVER;
		timer_update(e, c);
		break;
	case PB_TCP_CLOSING:
		enter_time_wait(e, c, now_ns);
		break;
	case PB_TCP_LAST_ACK:
		tcb_closed(e, c, 0);
		break;
	default:
		break;
	}
}

/* The RTT in us that this ACK shows, 0 for none: of a segment that was sent once (Karn), or of a retransmission whose
 * timestamp it echoes (RFC 7323 4.1), as good as that clock. An older echo says nothing: the ACK may be the answer to
 * the first transmission, or to any, with its own predecessors lost. */
static uint32_t sample_of(const struct tcb *c, const struct pkt *p, uint64_t sent_ns, uint64_t rexmit_ns,
			  uint64_t now_ns)
{
	if (sent_ns)
		return max_u32((uint32_t)((now_ns - sent_ns) / NS_PER_US), 1);
	if (!rexmit_ns || !(c->flags & TCB_TS) || !p->opts.has_ts || seq_lt(p->opts.ts_ecr, now_ts_ms(c, rexmit_ns)))
		return 0;
	return max_u32((uint32_t)((now_ns - rexmit_ns) / NS_PER_US), 1000);
}

/* snd_una moves to ack. Returns whether our FIN is among it. */
static bool advance(struct pb_tcp *e, struct tcb *c, const struct pkt *p, uint32_t *rtt_us, uint64_t now_ns)
{
	uint32_t ack = p->tcp.ack;
	uint32_t acked = ack - c->snd_una;
	bool fin = (c->flags & TCB_FIN_SENT) && ack == c->snd_end + 1;
	uint32_t payload = acked - fin;
	uint64_t rexmit_ns, sent_ns = sq_ack(e, c, ack, &rexmit_ns, now_ns);
	*rtt_us = sample_of(c, p, sent_ns, rexmit_ns, now_ns);
	c->snd_una = ack;
	c->tries = 0;
	if (*rtt_us) {
		rtt_sample(e, c, *rtt_us);
		c->backoff = 0;
	}
	if (fin)
		c->flags &= ~(uint32_t)TCB_FIN_OUT;
	if (payload) {
		c->bytes_acked += payload;
		c->acked_event += payload;
		tcb_event(e, c, PB_TCP_EV_WRITABLE);
	}
	return fin;
}

enum pb_drop in_ack(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns)
{
	uint32_t ack = p->tcp.ack;
	/* RFC 5961 5.2 narrows what is taken for an old ACK. */
	if (seq_lt(c->snd_nxt, ack) || seq_lt(ack, c->snd_una - c->max_snd_wnd)) {
		challenge_ack(e, c, now_ns);
		return PB_DROP_TCP_ACK;
	}
	if (seq_lt(ack, c->snd_una))
		return PB_DROP_NONE;
	uint32_t acked = ack - c->snd_una, inflight = in_flight(c), old_wnd = c->snd_wnd;
	uint32_t rtt_us = 0;
	bool fin = false, recovering = c->flags & TCB_RECOVERY;
	if (c->flags & TCB_SACK && p->opts.n_sack)
		sack_process(e, c, &p->opts, now_ns);
	update_window(e, c, p);
	/* RFC 5681 2. With SACK the scoreboard decides, and this only counts. */
	bool dup = !acked && !p->data_len && inflight && c->snd_wnd == old_wnd && !(p->flags & PB_TCP_FIN);
	c->dupacks_in += dup;
	if (acked)
		fin = advance(e, c, p, &rtt_us, now_ns);
	recovery_on_ack(e, c, acked, dup, now_ns);
	if (acked) {
		struct pb_cc_ack a = {
			.now_ns = now_ns,
			.acked_bytes = acked - fin,
			.inflight_bytes = inflight,
			.rtt_us = rtt_us,
			.cwnd_limited = c->flags & TCB_CWND_LIMITED,
			.in_recovery = recovering || (c->flags & TCB_RECOVERY),
		};
		e->cfg.cc->on_ack(&c->cc, &a);
	}
	rtx_review(e, c, now_ns, acked != 0);
	if (c->sq_next != NONE || c->lost_bytes || (c->flags & TCB_FIN_QUEUED))
		tcb_ready(e, c);
	if (fin)
		fin_acked(e, c, now_ns);
	return PB_DROP_NONE;
}

void enter_time_wait(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	tcb_set_state(e, c, PB_TCP_TIME_WAIT);
	c->t_rtx = NEVER;
	c->t_misc = now_ns + e->cfg.time_wait_ns;
	timer_update(e, c);
	spare_push(e, c);
	tcb_event(e, c, PB_TCP_EV_CLOSED);
}

/* The peer's FIN is in order (3.10.7.4, eighth). */
void in_fin(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->flags |= TCB_RFIN_DONE | TCB_ACK_NOW;
	c->rcv_nxt++;
	if (seq_lt(c->rcv_adv, c->rcv_nxt))
		c->rcv_adv = c->rcv_nxt;
	tcb_ready(e, c);
	tcb_event(e, c, PB_TCP_EV_FIN | PB_TCP_EV_READABLE);
	switch (c->state) {
	case PB_TCP_ESTABLISHED:
		tcb_set_state(e, c, PB_TCP_CLOSE_WAIT);
		break;
	case PB_TCP_FIN_WAIT_1: /* our FIN is still unacknowledged, or in_ack would have moved on */
		tcb_set_state(e, c, PB_TCP_CLOSING);
		break;
	case PB_TCP_FIN_WAIT_2:
		enter_time_wait(e, c, now_ns);
		break;
	default:
		break;
	}
}
