/* What the application asks for: shutdown, close, abort, options, ICMP that concerns it, and what it may know. */
#include "tcp/tcb.h"

#include <errno.h>

int pb_tcp_remote(const struct pb_tcp *e, pb_tcp_handle h, struct pb_tcp_endpoint *remote)
{
	uint32_t idx = (uint32_t)h;
	const struct tcb *c = idx < e->ntcbs ? &e->tcbs[idx] : NULL;
	if (!c || c->gen != (uint32_t)(h >> 32) || !c->rcvbuf)
		return -EBADF;
	*remote = (struct pb_tcp_endpoint){c->raddr, c->rport};
	return 0;
}

void pb_tcp_prefetch(const struct pb_tcp *e, pb_tcp_handle h)
{
	uint32_t idx = (uint32_t)h;
	if (idx < e->ntcbs) {
		tcb_fetch_receive(e, &e->tcbs[idx]);
		tcb_fetch_send(e, &e->tcbs[idx]);
	}
}

static const char *const state_names[PB_TCP_STATE_COUNT] = {
	"CLOSED",     "LISTEN",     "SYN_SENT", "SYN_RCVD", "ESTABLISHED", "FIN_WAIT_1",
	"FIN_WAIT_2", "CLOSE_WAIT", "CLOSING",  "LAST_ACK", "TIME_WAIT",
};

const char *pb_tcp_state_name(unsigned state)
{
	return state < PB_TCP_STATE_COUNT ? state_names[state] : "?";
}

int pb_tcp_set_cookie(struct pb_tcp *e, pb_tcp_handle h, uint32_t cookie)
{
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	c->cookie = cookie;
	return 0;
}

/* No more data from us: FIN behind what is queued. The state changes at once (3.10.4). */
static void queue_fin(struct pb_tcp *e, struct tcb *c)
{
	if (c->flags & TCB_FIN_QUEUED)
		return;
	c->flags |= TCB_FIN_QUEUED;
	if (c->state == PB_TCP_ESTABLISHED)
		tcb_set_state(e, c, PB_TCP_FIN_WAIT_1);
	else if (c->state == PB_TCP_CLOSE_WAIT)
		tcb_set_state(e, c, PB_TCP_LAST_ACK);
	tcb_ready(e, c);
}

int pb_tcp_shutdown(struct pb_tcp *e, pb_tcp_handle h, int how, uint64_t now_ns)
{
	(void)now_ns;
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	if (how != PB_TCP_SHUT_RD && how != PB_TCP_SHUT_WR && how != PB_TCP_SHUT_RDWR)
		return -EINVAL;
	if (c->state < PB_TCP_ESTABLISHED)
		return -ENOTCONN;
	if (how != PB_TCP_SHUT_WR) {
		c->flags |= TCB_RCV_SHUT;
		rcv_free_all(e, c);
		rcv_review(e, c);
	}
	if (how != PB_TCP_SHUT_RD)
		queue_fin(e, c);
	return 0;
}

void send_rst(struct pb_tcp *e, const struct tcb *c, uint64_t now_ns)
{
	if (e->reply_n == REPLY_MAX)
		return;
	e->replies[e->reply_n++] = (struct reply){
		.src = c->laddr,
		.dst = c->raddr,
		.sport = c->lport,
		.dport = c->rport,
		.seq = c->snd_nxt,
		.ack = c->rcv_nxt,
		.flags = PB_TCP_RST | PB_TCP_ACK,
		.tos = c->tos,
		.ttl = c->ttl,
		.has_ts = c->flags & TCB_TS, /* RFC 7323 3.2: SHOULD */
		.ts_val = now_ts_ms(c, now_ns),
		.ts_ecr = c->ts_recent,
	};
}

static void abort_conn(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	/* 3.10.5: nothing is sent from SYN-SENT, CLOSING, LAST-ACK and TIME-WAIT. The RFC's connection is in CLOSING or
	 * LAST-ACK only when all its data went out, ours as soon as the FIN is queued. */
	bool pending = c->sq_head != NONE || (c->flags & (TCB_FIN_QUEUED | TCB_FIN_SENT)) == TCB_FIN_QUEUED;
	bool last = c->state == PB_TCP_CLOSING || c->state == PB_TCP_LAST_ACK;
	if (c->state == PB_TCP_SYN_RCVD || (last && pending) ||
	    (c->state >= PB_TCP_ESTABLISHED && c->state <= PB_TCP_CLOSE_WAIT))
		send_rst(e, c, now_ns);
	tcb_closed(e, c, ECONNABORTED);
}

/* Children still in the handshake or waiting for accept. */
static void close_listener(struct pb_tcp *e, struct tcb *l, uint64_t now_ns)
{
	for (uint32_t i = 0; l->waiting && i < e->ntcbs; i++) {
		struct tcb *c = &e->tcbs[i];
		if (c->state != PB_TCP_CLOSED && c->listener == l->idx)
			abort_conn(e, c, now_ns);
	}
	for (uint32_t i = 0; i < e->nlisten; i++)
		if (e->listeners[i] == l->idx)
			e->listeners[i] = e->listeners[--e->nlisten];
	tcb_set_state(e, l, PB_TCP_CLOSED);
	tcb_event(e, l, PB_TCP_EV_CLOSED | PB_TCP_EV_GONE);
}

int pb_tcp_close(struct pb_tcp *e, pb_tcp_handle h, uint64_t now_ns)
{
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	c->flags |= TCB_DETACHED;
	switch (c->state) {
	case PB_TCP_LISTEN:
		close_listener(e, c, now_ns);
		return 0;
	case PB_TCP_CLOSED:
		rcv_free_all(e, c);
		tcb_event(e, c, PB_TCP_EV_GONE);
		return 0;
	case PB_TCP_SYN_SENT:
		tcb_closed(e, c, 0);
		return 0;
	default:
		break;
	}
	bool unread = c->rq_bytes || c->oq_head != NONE;
	rcv_free_all(e, c);
	if ((unread || !c->linger_ns) && c->state != PB_TCP_TIME_WAIT) {
		/* RFC 2525 2.17: the peer must learn that data was thrown away. */
		if (unread)
			COUNT(e, TcpExtTCPAbortOnClose);
		else
			COUNT(e, TcpExtTCPAbortOnData); /* as Linux: its AbortOnLinger is of TCP_LINGER2 */
		abort_conn(e, c, now_ns);
		return 0;
	}
	queue_fin(e, c);
	spare_push(e, c);
	if (c->state == PB_TCP_FIN_WAIT_2) {
		COUNT(e, TcpExtTW);
		c->t_misc = now_ns + c->fin_wait2_ns;
		timer_update(e, c);
	}
	return 0;
}

int pb_tcp_abort(struct pb_tcp *e, pb_tcp_handle h, uint64_t now_ns)
{
	uint32_t idx = (uint32_t)h;
	struct tcb *c = idx < e->ntcbs && e->tcbs[idx].gen == (uint32_t)(h >> 32) ? &e->tcbs[idx] : NULL;
	if (!c)
		return -EBADF;
	if ((c->flags & TCB_DETACHED) && (c->state == PB_TCP_LISTEN || c->state == PB_TCP_CLOSED))
		return 0;
	if (c->state == PB_TCP_LISTEN || c->state == PB_TCP_CLOSED)
		return pb_tcp_close(e, h, now_ns);
	if (!(c->flags & TCB_DETACHED) && c->state != PB_TCP_TIME_WAIT)
		COUNT(e, TcpExtTCPAbortOnData); /* as a linger time of 0 */
	c->flags |= TCB_DETACHED;
	abort_conn(e, c, now_ns);
	return 0;
}

const struct pb_tcp_stats *pb_tcp_get_stats(struct pb_tcp *e)
{
	return &e->stats;
}
