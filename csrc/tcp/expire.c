/* Timers that are due: retransmission, persist, delayed ACK, keepalive, TIME-WAIT, FIN-WAIT-2. */
#include "tcp/tcb.h"

#include <errno.h>

#define R1 3u /* retransmissions in a row: RFC 1122 4.2.3.5 */

/* RFC 9293 3.8.3 (b): negative advice about the next hop, each time that so many retransmissions, or probes, went
 * unanswered. */
static void doubt_at_r1(struct pb_tcp *e, struct tcb *c, uint32_t unanswered)
{
	if (unanswered == R1)
		tcb_event(e, c, PB_TCP_EV_DOUBT);
}

/* RFC 9293 3.8.3 (R2), RFC 1122 4.2.3.5. */
static void give_up(struct pb_tcp *e, struct tcb *c)
{
	/* What a listener has not established yet is no connection to Linux. */
	if (c->state == PB_TCP_SYN_RCVD && (c->flags & TCB_PASSIVE)) {
		COUNT(e, EmbryosGivenUp);
	} else {
		if (c->state < PB_TCP_ESTABLISHED)
			COUNT(e, TcpAttemptFails);
		COUNT(e, TcpExtTCPAbortOnTimeout);
	}
	tcb_closed(e, c, c->soft_error ? c->soft_error : ETIMEDOUT);
}

/* RFC 5482: nothing was acknowledged for so long. */
static bool user_timed_out(const struct tcb *c, uint64_t since_ns, uint64_t now_ns)
{
	return c->user_timeout_ns && since_ns && now_ns - since_ns >= c->user_timeout_ns;
}

/* The timer must not sleep past the user timeout. */
static void clamp_to_user_timeout(struct tcb *c, uint64_t since_ns, uint64_t now_ns)
{
	uint64_t end = since_ns + c->user_timeout_ns;
	if (c->user_timeout_ns && since_ns && end > now_ns && c->t_rtx > end)
		c->t_rtx = end;
}

static void syn_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	COUNT(e, TcpExtTCPTimeouts);
	if (c->tries >= c->syn_retries || user_timed_out(c, c->last_rx_ns, now_ns)) {
		give_up(e, c);
		return;
	}
	if (c->tries && c->state == PB_TCP_SYN_SENT)
		COUNT(e, TcpExtTCPLostRetransmit);
	c->tries++;
	c->backoff++;
	doubt_at_r1(e, c, c->tries);
	c->flags |= TCB_SYN_OUT;
	rtx_arm(e, c, now_ns);
	clamp_to_user_timeout(c, c->last_rx_ns, now_ns);
	tcb_ready(e, c);
}

static uint32_t orphan_retries(const struct pb_tcp *e)
{
	return min_u32(e->cfg.orphan_retries ? e->cfg.orphan_retries : 8, e->cfg.data_retries);
}

/* A window that stays closed is probed for ever while the peer answers (RFC 9293 3.8.6.1). */
static void persist_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	/* For ever, but not for an application that is gone: the peer could hold the memory as long as it likes. */
	if (c->snd_wnd) {
		/* Not the window: a cork's time is up, or that of SWS avoidance. No probe, and nothing to back off
		 * from. */
		c->flags |= TCB_FORCE;
		c->t_rtx = now_ns + rto_ns(c);
		timer_update(e, c);
		tcb_ready(e, c);
		return;
	}
	bool orphan = (c->flags & TCB_DETACHED) && c->tries >= orphan_retries(e);
	if (!c->probe_began_ns)
		c->probe_began_ns = now_ns;
	if (orphan || c->ka_sent >= e->cfg.data_retries || user_timed_out(c, c->probe_began_ns, now_ns)) {
		give_up(e, c);
		return;
	}
	c->ka_sent++;
	c->tries++;
	doubt_at_r1(e, c, c->ka_sent);
	if (c->backoff < 32)
		c->backoff++;
	c->flags |= TCB_PROBE;
	c->t_rtx = now_ns + rto_ns(c);
	clamp_to_user_timeout(c, c->probe_began_ns, now_ns);
	timer_update(e, c);
	tcb_ready(e, c);
}

/* The peer answers and its window is closed: what is in flight (a FIN, or data that the window shrank over) is a probe
 * now, and the connection must stay (RFC 9293 3.8.6.1). */
static bool held_by_window(const struct tcb *c, uint64_t now_ns)
{
	return !c->snd_wnd && !(c->flags & TCB_DETACHED) && now_ns - c->last_rx_ns < 2 * c->rto_max_ns;
}

static void rto_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint32_t limit = c->flags & TCB_DETACHED ? orphan_retries(e) : e->cfg.data_retries;
	uint64_t since = c->retrans_ns;
	if (c->snd_wnd || (c->flags & TCB_DETACHED)) /* else it probes the window */
		COUNT(e, TcpExtTCPTimeouts);
	if ((c->tries >= limit && !held_by_window(c, now_ns)) || (c->tries && user_timed_out(c, since, now_ns))) {
		give_up(e, c);
		return;
	}
	plpmtud_timeout(e, c, now_ns);
	recovery_on_rto(e, c, now_ns);
	doubt_at_r1(e, c, c->tries);
	rtx_arm(e, c, now_ns);
	clamp_to_user_timeout(c, since ? since : now_ns, now_ns);
}

static void rtx_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint8_t kind = c->rtx_kind;
	c->t_rtx = NEVER;
	if (c->state < PB_TCP_ESTABLISHED)
		syn_timeout(e, c, now_ns);
	else if (kind == RTX_PERSIST)
		persist_timeout(e, c, now_ns);
	else if (!in_flight(c))
		c->rtx_kind = RTX_NONE;
	else if (kind == RTX_TLP)
		tlp_timeout(e, c, now_ns);
	else if (kind == RTX_REO)
		rack_timeout(e, c, now_ns);
	else
		rto_timeout(e, c, now_ns);
}

static void keepalive(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint64_t idle_until = c->last_rx_ns + c->ka_idle_ns;
	if (now_ns < idle_until) {
		c->t_misc = idle_until;
	} else if (in_flight(c) || c->sq_head != NONE) {
		c->t_misc = now_ns + c->ka_idle_ns; /* retransmission or window probes say whether the peer lives */
	} else if (c->user_timeout_ns ? c->ka_sent && now_ns - c->last_rx_ns >= c->user_timeout_ns
				      : c->ka_sent >= c->ka_probes) {
		send_rst(e, c, now_ns);
		give_up(e, c);
		return;
	} else {
		c->ka_sent++;
		doubt_at_r1(e, c, c->ka_sent);
		c->flags |= TCB_PROBE | TCB_KA_PROBE;
		c->t_misc = now_ns + c->ka_interval_ns;
		tcb_ready(e, c);
	}
	timer_update(e, c);
}

static void misc_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->t_misc = NEVER;
	bool detached = c->flags & TCB_DETACHED;
	if (c->state == PB_TCP_TIME_WAIT || (c->state == PB_TCP_FIN_WAIT_2 && detached))
		tcb_closed(e, c, 0);
	else if (c->ka_idle_ns && keepalive_state(c))
		keepalive(e, c, now_ns);
}

void pb_tcp_expire(struct pb_tcp *e, uint64_t now_ns)
{
	e->now_ns = now_ns;
	while (e->heap_n) {
		if (e->heap[0].key > now_ns)
			return;
		uint32_t idx = e->heap[0].idx;
		struct tcb *c = &e->tcbs[idx];
		__builtin_prefetch(&c->t_rtx, 1);
		timer_remove(e, idx); /* which takes as long as that */
		if (c->t_delack <= now_ns)
			delack_timeout(e, c);
		if (c->t_rtx <= now_ns)
			rtx_timeout(e, c, now_ns);
		if (c->t_pace <= now_ns) {
			c->t_pace = NEVER;
			tcb_ready(e, c);
			if (c->bits & BIT_NO_FRAME)
				tcb_event(e, c, PB_TCP_EV_WRITABLE);
			c->bits &= ~(uint32_t)BIT_NO_FRAME;
		}
		if (c->t_misc <= now_ns)
			misc_timeout(e, c, now_ns);
		timer_update(e, c);
	}
}
