/* The ACK of a segment: what left the network, the window, the RTT, and what follows for the connection's state. */
#include "tcp/tcb.h"

/* RFC 9293 3.10.7.4, fifth; and each ACK of something new, as Linux has it: kept from a segment that came before, its
 * window would move right with SND.UNA, past all that the peer ever offered. */
static void update_window(struct pb_tcp *e, struct tcb *c, const struct pkt *p, struct ack_news *n)
{
	/* Nothing true lies behind the peer's FIN: a window from there would outlast all that it says of it later. */
	if ((c->flags & TCB_RFIN_DONE) && seq_lt(c->rcv_nxt, p->seq))
		return;
	if (!n->acked && !(seq_lt(c->snd_wl1, p->seq) || (c->snd_wl1 == p->seq && seq_leq(c->snd_wl2, p->tcp.ack))))
		return;
	uint32_t wnd = snd_window(c, p);
	n->not_dup |= wnd != c->snd_wnd;
	if (wnd > c->snd_wnd && c->sq_next != NONE)
		tcb_ready(e, c);
	/* Open again. What a cork or SWS avoidance holds at an open window goes by the timer as it was set: the peer's
	 * own traffic must not put it off. */
	if (wnd && !c->snd_wnd && c->rtx_kind == RTX_PERSIST) {
		c->rtx_kind = RTX_NONE;
		c->backoff = c->tries = 0;
		c->probe_began_ns = 0;
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
		if (c->flags & TCB_DETACHED)
			COUNT(e, TcpExtTW); /* as Linux, which keeps of it what it keeps of TIME-WAIT */
		/* An application that is gone will not read: do not wait for ever (Linux tcp_fin_timeout). */
		c->t_misc = c->flags & TCB_DETACHED ? now_ns + c->fin_wait2_ns
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

/* The RTT that this ACK shows: of a segment that was sent once (Karn), or of one that was SACKed just now, or of a
 * retransmission whose timestamp it echoes (RFC 7323 4.1), as good as that clock. An older echo says nothing: the ACK
 * may be the answer to the first transmission, or to any, with its own predecessors lost. */
static void sample(const struct pb_tcp *e, struct tcb *c, struct ack_news *n)
{
	bool clean = n->first_ns && !n->rexmit_acked;
	uint64_t first = clean ? n->first_ns : n->sack_first_ns, last = clean ? n->last_ns : n->sack_last_ns;
	if (first) {
		n->rtt_us = max_u32((uint32_t)((n->now_ns - first) / NS_PER_US), 1);
		n->cc_rtt_us = max_u32((uint32_t)((n->now_ns - last) / NS_PER_US), 1);
	} else if (n->rexmit_ns && n->has_ecr && !seq_lt(n->ts_ecr, now_ts_ms(c, n->rexmit_ns))) {
		n->rtt_us = n->cc_rtt_us = max_u32((uint32_t)((n->now_ns - n->rexmit_ns) / NS_PER_US), 1000);
	}
	if (n->rtt_us) {
		rtt_sample(c, n->rtt_us, n->now_ns);
		c->backoff = 0;
		/* The RTT of what was sent before the head was sent again: the head has that long too, and the timer
		 * starts anew as for an ACK of new data (RFC 6298 5.3). Not for what was sent later, or SACKs could put
		 * a timeout off for ever. */
		if (n->sack_first_ns && c->sq_head != NONE && n->sack_first_ns < e->segs[c->sq_head].sent_ns)
			n->set_timer = true;
	}
}

/* snd_una moves to ack. */
static void advance(struct pb_tcp *e, struct tcb *c, uint32_t ack, struct ack_news *n)
{
	n->fin = (c->flags & TCB_FIN_SENT) && ack == c->snd_end + 1;
	uint32_t payload = n->acked - n->fin;
	sq_ack(e, c, ack, n);
	c->snd_una = ack;
	c->tries = 0;
	n->set_timer = n->not_dup = true;
	if (!(c->flags & TCB_SACK))
		reno_remove(e, c, n, payload);
	else if (seq_lt(n->reord, n->prior_fack))
		sack_reordered(e, c, n->reord, false);
	if (n->rexmit_acked && !(c->flags & TCB_SACK))
		n->orig_acked = false;
	if (n->fin) {
		c->flags &= ~(uint32_t)TCB_FIN_OUT;
		/* Behind data it is counted with that. */
		c->delivered_segs += !!(c->bits & BIT_FIN_ALONE);
		e->stats.n[PB_C_TcpExtTCPDelivered] += !!(c->bits & BIT_FIN_ALONE);
	}
	if (payload) {
		c->bytes_acked += payload;
		c->acked_event += payload;
		c->bits &= ~(uint32_t)BIT_NOSPACE;
		if (!c->notsent_lowat || c->snd_end - c->snd_nxt < c->notsent_lowat)
			tcb_event(e, c, PB_TCP_EV_WRITABLE);
	}
	plpmtud_acked(e, c, n->now_ns);
}

/* What was delivered between the sending of the newest segment that arrived and its ACK. */
static void delivery_rate(struct tcb *c, const struct ack_news *n)
{
	if (!n->newest_ns || n->now_ns <= n->newest_ns)
		return;
	uint64_t bytes = (uint64_t)(c->delivered_segs - n->prior_delivered) * c->mss;
	c->rate_bytes_s = bytes * 1000000000ull / (n->now_ns - n->newest_ns);
}

/* Not an ACK that just moves on: a duplicate, SACKs, congestion, or anything while losses are being repaired. */
static bool is_dubious(const struct tcb *c, const struct ack_news *n)
{
	return !n->not_dup || n->sacked || n->dsack || n->ece || c->ca_state != PB_TCP_CA_OPEN;
}

static void process_ack(struct pb_tcp *e, struct tcb *c, struct pkt *p, struct ack_news *n)
{
	uint32_t pipe = pipe_bytes(c), lost = c->lost_total_segs;
	bool flight = in_flight(c);
	n->prior_una = c->snd_una;
	n->prior_fack = c->sacked_segs ? c->fack : c->snd_una;
	n->reord = c->snd_nxt;
	n->has_ecr = (c->flags & TCB_TS) && p->opts.has_ts && p->opts.ts_ecr;
	n->ts_ecr = p->opts.ts_ecr;
	n->not_dup = p->data_len || (p->flags & (PB_TCP_FIN | PB_TCP_SYN));
	n->ece = (c->bits & BIT_ECN) && (p->flags & PB_TCP_ECE) && !(p->flags & PB_TCP_SYN);
	if (n->ece)
		COUNT(e, EcnEchoIn);
	bool old = seq_lt(p->tcp.ack, c->snd_una);
	if (!old)
		update_window(e, c, p, n);
	if ((c->flags & TCB_SACK) && p->opts.n_sack)
		sack_process(e, c, p, n);
	if (!old && n->acked)
		advance(e, c, p->tcp.ack, n);
	if (!flight) {
		if (n->dsack) /* of what was acknowledged before: a reduction may be undone still */
			recovery_on_ack(e, c, n);
		return;
	}
	if (n->acked || n->sacked)
		sample(e, c, n);
	if (c->bits & BIT_RACK_DSACK || c->rack_steps != 1)
		rack_adapt(e, c, n);
	if (c->bits & BIT_TLP)
		tlp_on_ack(e, c, n);
	c->dupacks_in += !n->acked && !n->not_dup;
	if (is_dubious(c, n))
		recovery_on_ack(e, c, n);
	cwnd_on_ack(e, c, n, pipe, lost);
	if (!in_flight(c)) /* PRR, or a reduction from when segments were smaller, left less than one */
		c->cc.cwnd = max_u32(c->cc.cwnd, c->mss);
	delivery_rate(c, n);
	if (n->set_timer)
		rtx_restart(e, c, n->now_ns);
	if (e->trace)
		trace_add(e, c, n, PB_TCP_T_ACK, n->now_ns);
}

enum pb_drop in_ack(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns)
{
	uint32_t ack = p->tcp.ack;
	/* RFC 5961 5.2 narrows what is taken for an old ACK. */
	if (seq_lt(c->snd_nxt, ack) || seq_lt(ack, c->snd_una - c->max_snd_wnd)) {
		challenge_ack(e, c, now_ns);
		return PB_DROP_TCP_ACK;
	}
	bool old = seq_lt(ack, c->snd_una);
	/* An old ACK says no more, unless it brings SACK blocks. */
	if (old && !((c->flags & TCB_SACK) && p->opts.n_sack))
		return PB_DROP_NONE;
	if (ack != c->snd_una)
		tcb_fetch_send(e, c);
	struct ack_news n;
	n.now_ns = now_ns;
	n.acked = old ? 0 : ack - c->snd_una;
	/* In two pieces: of one, compilers make a string instruction that takes longer to start than this whole
	 * function. */
	memset(&n.first_ns, 0, offsetof(struct ack_news, prior_delivered) - offsetof(struct ack_news, first_ns));
	memset(&n.prior_delivered, 0, sizeof(n) - offsetof(struct ack_news, prior_delivered));
	if (!p->data_len)
		COUNT(e, TcpExtTCPPureAcks);
	process_ack(e, c, p, &n);
	chrono_update(c, now_ns);
	/* A promise of more holds until the next ACK, as in Linux; then Nagle's rule alone. */
	if (n.acked && c->sq_next != NONE)
		e->segs[c->sq_tail].flags &= (uint16_t)~SEG_MORE;
	if (c->sq_next != NONE || c->todo_bytes || (c->flags & TCB_FIN_QUEUED))
		tcb_ready(e, c);
	if (n.fin)
		fin_acked(e, c, now_ns);
	return PB_DROP_NONE;
}

void enter_time_wait(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (c->state != PB_TCP_FIN_WAIT_2 || !(c->flags & TCB_DETACHED)) /* else it is counted */
		COUNT(e, TcpExtTW);
	tcb_set_state(e, c, PB_TCP_TIME_WAIT);
	c->t_rtx = c->t_pace = NEVER;
	c->rtx_kind = RTX_NONE;
	c->t_misc = now_ns + e->cfg.time_wait_ns;
	timer_update(e, c);
	spare_push(e, c);
	tcb_event(e, c, PB_TCP_EV_CLOSED);
}

/* The peer's FIN is in order (3.10.7.4, eighth). */
void in_fin(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->flags |= TCB_RFIN_DONE;
	ack_now(e, c);
	c->rcv_nxt++;
	if (seq_lt(c->rcv_nxt, c->snd_wl1)) /* see update_window */
		c->snd_wl1 = c->rcv_nxt;
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
