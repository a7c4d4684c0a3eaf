/* Timers that are due: retransmission, persist, delayed ACK, keepalive, TIME-WAIT, FIN-WAIT-2. */
#include "tcp/tcb.h"

#include <errno.h>

/* RFC 9293 3.8.3 (R1, R2), RFC 1122 4.2.3.5. */
static void give_up(struct pb_tcp *e, struct tcb *c)
{
	if (c->state < PB_TCP_ESTABLISHED)
		e->stats.attempt_fails++;
	tcb_closed(e, c, ETIMEDOUT);
}

static void syn_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint32_t limit = c->state == PB_TCP_SYN_SENT ? e->cfg.syn_retries : e->cfg.synack_retries;
	if (c->tries >= limit) {
		give_up(e, c);
		return;
	}
	c->tries++;
	c->backoff++;
	c->flags |= TCB_SYN_OUT;
	e->stats.retransmits++;
	c->rexmits++;
	rtx_arm(e, c, now_ns);
	tcb_ready(e, c);
}

/* A window that stays closed is probed for ever while the peer answers (RFC 9293 3.8.6.1). */
static void persist_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	/* For ever, but not for an application that is gone: the peer could hold the memory as long as it likes. */
	bool orphan = (c->flags & TCB_DETACHED) && c->tries >= e->cfg.data_retries;
	if (orphan || c->ka_sent++ >= e->cfg.data_retries) {
		give_up(e, c);
		return;
	}
	c->tries++;
	if (c->backoff < 32)
		c->backoff++;
	c->flags |= c->snd_wnd ? TCB_FORCE : TCB_PROBE;
	rtx_arm(e, c, now_ns);
	tcb_ready(e, c);
}

/* The peer answers and its window is closed: what is in flight (a FIN, or data that the window shrank over) is a probe
 * now, and the connection must stay (RFC 9293 3.8.6.1). */
static bool held_by_window(const struct pb_tcp *e, const struct tcb *c, uint64_t now_ns)
{
	return !c->snd_wnd && !(c->flags & TCB_DETACHED) && now_ns - c->last_rx_ns < 2 * e->cfg.rto_max_ns;
}

static void rtx_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->t_rtx = NEVER;
	if (c->state < PB_TCP_ESTABLISHED) {
		syn_timeout(e, c, now_ns);
	} else if (c->flags & TCB_PERSIST) {
		persist_timeout(e, c, now_ns);
	} else if (in_flight(c)) {
		if (c->tries >= e->cfg.data_retries && !held_by_window(e, c, now_ns)) {
			give_up(e, c);
			return;
		}
		recovery_on_rto(e, c, now_ns);
		rtx_arm(e, c, now_ns);
	}
}

static void keepalive(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint64_t idle_until = c->last_rx_ns + c->ka_idle_ns;
	if (now_ns < idle_until) {
		c->t_misc = idle_until;
	} else if (in_flight(c)) {
		c->t_misc = now_ns + c->ka_interval_ns; /* retransmission says whether the peer lives */
	} else if (c->ka_sent >= c->ka_probes) {
		give_up(e, c);
		return;
	} else {
		c->ka_sent++;
		c->flags |= TCB_PROBE;
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
	while (e->heap_n) {
		struct tcb *c = &e->tcbs[e->heap[0]];
		if (c->heap_key > now_ns)
			return;
		timer_remove(e, c);
		if (c->t_delack <= now_ns) {
			c->t_delack = NEVER;
			c->flags |= TCB_ACK_NOW;
			tcb_ready(e, c);
		}
		if (c->t_rtx <= now_ns)
			rtx_timeout(e, c, now_ns);
		if (c->t_misc <= now_ns)
			misc_timeout(e, c, now_ns);
		timer_update(e, c);
	}
}
