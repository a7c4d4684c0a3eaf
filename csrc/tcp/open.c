/* The handshake: LISTEN, SYN-SENT, and the step to ESTABLISHED (RFC 9293 3.10.7.2, 3.10.7.3; options RFC 7323, 2018).
 */
#include "tcp/tcb.h"

#include <errno.h>

/* RFC 9293 3.7.1: without the option 536, or 1220 for IPv6. */
static uint16_t default_mss(const struct tcb *c)
{
	return c->ip_hdr_len == PB_IP4_HLEN ? 536 : 1220;
}

/* RFC 3168 6.1.1, Linux's tcp_ecn: a SYN that asks is answered unless ECN is off; a SYN-ACK that agrees counts when we
 * asked. A reflected CWR is no agreement. Who opened without asking agrees to nothing: not to a SYN that crosses
 * either.
 */
static void negotiate_ecn(const struct pb_tcp *e, struct tcb *c, const struct pkt *p)
{
	uint8_t both = p->flags & (PB_TCP_ECE | PB_TCP_CWR);
	bool ok = p->flags & PB_TCP_ACK
			  ? both == PB_TCP_ECE
			  : e->cfg.ecn != PB_TCP_ECN_OFF && both == (PB_TCP_ECE | PB_TCP_CWR) && p->ecn == PB_ECN_NOT;
	ok = ok && (c->flags & TCB_PASSIVE || c->bits & BIT_SYN_ECN);
	if (ok)
		c->bits |= BIT_ECN;
	else
		c->bits &= ~(uint32_t)BIT_ECN;
}

/* What the peer's SYN says of the connection; ours is what the configuration offers. */
static void negotiate(struct pb_tcp *e, struct tcb *c, const struct pkt *p, uint64_t now_ns)
{
	const struct pb_tcp_opts *o = &p->opts;
	uint32_t offered = c->rcv_adv - c->rcv_nxt;
	c->peer_mss = (uint16_t)(o->has_mss ? max_u32(o->mss, 64) : default_mss(c));
	uint32_t mss = min_u32(c->peer_mss, c->own_mss);
	if (e->cfg.timestamps && o->has_ts) {
		c->flags |= TCB_TS;
		c->ts_recent = o->ts_val;
		c->ts_recent_ns = now_ns;
		mss -= 12; /* RFC 6691: the option is taken from the payload of each segment */
	}
	if (e->cfg.sack && o->sack_ok)
		c->flags |= TCB_SACK;
	if (e->cfg.wscale && o->has_wscale) {
		c->flags |= TCB_WSCALE;
		c->snd_wscale = o->wscale;
	} else {
		c->rcv_wscale = 0;
	}
	negotiate_ecn(e, c, p);
	c->mss = (uint16_t)mss;
	c->rcv_mss = (uint16_t)min_u32(536, min_u32(c->advmss, mss));
	c->irs = p->tcp.seq;
	c->rcv_nxt = c->irs + 1;
	c->last_ack_sent = c->rcv_nxt;
	/* What our SYN offered stands, whatever the peer's MSS makes of the buffer. */
	c->rcv_adv = c->rcv_nxt + max_u32(offered, min_u32(rcv_window(e, c), 65535));
	/* A window in a SYN is never scaled (RFC 7323 2.2). */
	c->snd_wnd = p->tcp.wnd;
	c->max_snd_wnd = c->snd_wnd;
	c->snd_wl1 = p->tcp.seq;
	cwnd_init(e, c, now_ns);
}

static uint8_t pick_wscale(const struct pb_tcp *e, const struct tcb *c)
{
	uint8_t s = e->cfg.rcv_wscale;
	/* A unit that the buffer has only a few of would round its window to nothing. */
	while (s && c->rcvbuf >> s < 16)
		s--;
	while (s < PB_TCP_WSCALE_MAX && c->rcvbuf >> s > 65535)
		s++;
	return e->cfg.wscale ? s : 0;
}

/* Identity, ISN, first timer; shared by both ways of opening. above: the ISN that is the least, or NULL. */
static void start(struct pb_tcp *e, struct tcb *c, const uint32_t *above, uint64_t now_ns)
{
	c->hash = flow_hash(e, &c->laddr, c->lport, &c->raddr, c->rport);
	c->ip_hdr_len = pb_ip_is4(&c->raddr) ? PB_IP4_HLEN : PB_IP6_HLEN;
	c->rcv_wscale = pick_wscale(e, c);
	/* RFC 6691: options are not subtracted here. */
	uint32_t own = (uint32_t)e->cfg.mtu - c->ip_hdr_len - PB_TCP_HLEN;
	own = e->cfg.mss_clamp ? min_u32(own, e->cfg.mss_clamp) : own;
	c->own_mss = c->advmss = (uint16_t)(c->max_mss ? min_u32(own, c->max_mss) : own);
	rcv_sized(e, c);
	c->iss = isn_make(e, c, now_ns);
	/* RFC 1122 4.2.2.13: above all that the last connection of this pair used. */
	if (above && seq_lt(c->iss, *above))
		c->iss = *above;
	c->ts_offset = ts_offset_make(e, c);
	c->snd_una = c->iss;
	c->snd_nxt = c->iss; /* until the SYN goes: nobody has seen it who acknowledges it before */
	c->snd_end = c->iss + 1;
	c->recover_seq = c->iss;
	c->last_rx_ns = now_ns;
	c->mss = 536;
	cwnd_init(e, c, now_ns);
	c->chrono_ns = now_ns;
	c->flags |= TCB_SYN_OUT;
	c->rtx_kind = RTX_RTO;
	c->t_rtx = now_ns + e->cfg.rto_initial_ns;
	flow_insert(e, c);
	timer_update(e, c);
	tcb_ready(e, c);
}

/* What the listener was told holds for its connections. */
static void inherit(struct tcb *c, const struct tcb *l)
{
	uint32_t flags = TCB_NAGLE | TCB_CORK | TCB_NO_PMTUD, bits = BIT_ACKS_BSD | BIT_IDLE_RESTART | BIT_PINGPONG;
	c->flags = (c->flags & ~flags) | (l->flags & flags);
	c->bits = (c->bits & ~bits) | (l->bits & bits);
	c->cc_ops = l->cc_ops;
	c->rcvbuf = l->rcvbuf;
	c->sndbuf = l->sndbuf;
	c->wnd_clamp = l->wnd_clamp;
	c->max_mss = l->max_mss;
	c->tos = l->tos;
	c->ttl = l->ttl;
	c->pacing_rate = l->pacing_rate;
	c->ka_idle_ns = l->ka_idle_ns;
	c->ka_interval_ns = l->ka_interval_ns;
	c->ka_probes = l->ka_probes;
	c->user_timeout_ns = l->user_timeout_ns;
	c->delack_ns = l->delack_ns;
	c->rto_min_ns = l->rto_min_ns;
	c->rto_max_ns = l->rto_max_ns;
	c->fin_wait2_ns = l->fin_wait2_ns;
	c->linger_ns = l->linger_ns;
	c->syn_retries = l->syn_retries;
	c->notsent_lowat = l->notsent_lowat;
}

/* The old connection of the pair leaves TIME-WAIT for a new one. */
static void succeed(struct pb_tcp *e, struct tcb *old)
{
	COUNT(e, TimeWaitReused);
	tcb_closed(e, old, 0);
}

enum pb_drop in_listen(struct pb_tcp *e, struct tcb *l, struct pkt *p, uint64_t now_ns)
{
	if (p->flags & PB_TCP_RST)
		return PB_DROP_TCP_RST;
	if ((p->flags & PB_TCP_ACK) || !(p->flags & PB_TCP_SYN)) {
		reply_rst(e, l, p);
		return PB_DROP_TCP_NO_FLOW;
	}
	if (l->waiting >= l->backlog) {
		COUNT(e, TcpExtListenOverflows);
		COUNT(e, TcpExtListenDrops);
		return PB_DROP_TCP_BACKLOG;
	}
	if (l->flags & TCB_ASK) {
		if (p->d->flags & PB_DESC_REFUSED) {
			reply_rst(e, l, p);
			return PB_DROP_TCP_REFUSED;
		}
		if (!(p->d->flags & PB_DESC_ADMITTED)) {
			p->ask = true;
			return PB_DROP_NONE;
		}
	}
	/* The old one ends when nothing can stop the new one any more; if nobody has a handle of it, it makes room. */
	struct tcb *old = p->old != NONE ? &e->tcbs[p->old] : NULL;
	uint32_t above = old ? old->snd_nxt + 65537 : 0; /* as Linux */
	if (old && (old->flags & TCB_DETACHED) && e->free_head != NONE)
		succeed(e, old);
	struct tcb *c = conn_alloc(e);
	if (!c) {
		COUNT(e, TcpExtListenDrops);
		return PB_DROP_TCP_NO_CONN;
	}
	if (old && old->state == PB_TCP_TIME_WAIT)
		succeed(e, old);
	inherit(c, l);
	c->laddr = p->dst;
	c->lport = p->tcp.dport;
	c->raddr = p->src;
	c->rport = p->tcp.sport;
	c->listener = l->idx;
	c->flags |= TCB_PASSIVE | TCB_EMBRYO;
	tcb_set_state(e, c, PB_TCP_SYN_RCVD);
	l->waiting++;
	start(e, c, old ? &above : NULL, now_ns);
	negotiate(e, c, p, now_ns);
	return PB_DROP_NONE;
}

enum pb_drop in_syn_sent(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns)
{
	bool acked = p->flags & PB_TCP_ACK;
	if (acked && !acks_syn(c, p->tcp.ack)) {
		reply_rst(e, c, p);
		return PB_DROP_TCP_ACK;
	}
	if (p->flags & PB_TCP_RST) {
		if (!acked)
			return PB_DROP_TCP_RST;
		e->stats.resets_in++;
		e->stats.n[PB_C_TcpAttemptFails]++;
		tcb_closed(e, c, ECONNREFUSED);
		return PB_DROP_NONE;
	}
	if (!(p->flags & PB_TCP_SYN))
		return PB_DROP_TCP_FLAGS;
	negotiate(e, c, p, now_ns);
	if (!acked) {
		/* Simultaneous open: answer with SYN-ACK, the same ISS. */
		tcb_set_state(e, c, PB_TCP_SYN_RCVD);
		c->flags |= TCB_SYN_OUT;
		c->syn_retries = e->cfg.synack_retries;
		c->syns_sent = 0;
		c->backoff = c->tries = 0;
		c->t_rtx = now_ns + e->cfg.rto_initial_ns;
		timer_update(e, c);
		tcb_ready(e, c);
		return PB_DROP_NONE;
	}
	c->flags |= TCB_ACK_NOW;
	establish(e, c, now_ns);
	/* Data or FIN in a SYN-ACK (legal, rare) is left to the retransmission: nothing of it was acknowledged. */
	return PB_DROP_NONE;
}

void establish(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->events &= ~(uint32_t)PB_TCP_EV_DOUBT; /* of a SYN-ACK: the path has just been shown */
	/* A close in SYN-RECEIVED waited for this (3.10.4). */
	tcb_set_state(e, c, c->flags & TCB_FIN_QUEUED ? PB_TCP_FIN_WAIT_1 : PB_TCP_ESTABLISHED);
	plpmtud_start(e, c, pb_pmtu_get(&e->pmtu, &c->raddr, now_ns), now_ns);
	/* The SYN arrived. That a SYN-ACK did is no ACK's news to Linux, whose counter of all leaves it out. */
	c->delivered_segs++;
	if (c->flags & TCB_PASSIVE)
		COUNT(e, TcpPassiveOpens);
	else
		COUNT(e, TcpExtTCPDelivered);
	c->snd_una = c->iss + 1;
	c->fack = c->rack_end = c->cwnd_seq = c->recover_seq = c->small_end = c->pushed_seq = c->snd_una;
	c->flags &= ~(uint32_t)TCB_SYN_OUT;
	c->retrans_ns = 0;
	c->rtx_kind = RTX_NONE;
	if (c->syn_ns) /* sent once only (Karn) */
		rtt_sample(c, (uint32_t)((now_ns - c->syn_ns) / NS_PER_US), now_ns);
	/* RFC 6298 5.7: the SYN was lost, so start again with 3 s until there is a sample. */
	if (c->tries && !c->srtt8_us)
		c->rto_us = max_u32(3000000, (uint32_t)(c->rto_min_ns / NS_PER_US));
	/* RFC 6928 2: after more than one retransmission of the SYN the initial window is one segment. */
	if (c->syns_sent > 2)
		c->cc.cwnd = min_u32(c->cc.cwnd, c->mss);
	c->backoff = c->tries = 0;
	c->t_rtx = NEVER;
	c->last_rx_ns = c->last_send_ns = c->last_data_ns = c->cwnd_ns = now_ns;
	if (c->ka_idle_ns)
		c->t_misc = now_ns + c->ka_idle_ns;
	timer_update(e, c);
	tcb_ready(e, c);
	if (c->listener != NONE) {
		struct tcb *l = &e->tcbs[c->listener];
		c->flags = (c->flags & ~(uint32_t)TCB_EMBRYO) | TCB_QUEUED;
		queue_push(e, &l->aq, c);
		tcb_event(e, l, PB_TCP_EV_ACCEPT);
		c->events |= PB_TCP_EV_CONNECTED;
	} else {
		tcb_event(e, c, PB_TCP_EV_CONNECTED);
	}
}

/* Of all networks; that of one is known to who routes (csrc/net). */
static bool is_broadcast(const struct pb_ip *ip)
{
	return pb_ip_is4(ip) && ip->b[12] == 255 && ip->b[13] == 255 && ip->b[14] == 255 && ip->b[15] == 255;
}

int pb_tcp_connect(struct pb_tcp *e, const struct pb_tcp_endpoint *local, const struct pb_tcp_endpoint *remote,
		   uint64_t now_ns, pb_tcp_handle *h)
{
	if (!local->port || !remote->port || pb_ip_is_unspecified(&local->addr) ||
	    pb_ip_is_unspecified(&remote->addr) || pb_ip_is_multicast(&remote->addr) || is_broadcast(&remote->addr) ||
	    pb_ip_is4(&local->addr) != pb_ip_is4(&remote->addr))
		return -EINVAL;
	uint32_t hash = flow_hash(e, &local->addr, local->port, &remote->addr, remote->port);
	if (flow_find(e, hash, &local->addr, local->port, &remote->addr, remote->port))
		return -EADDRINUSE;
	struct tcb *c = conn_alloc(e);
	if (!c)
		return -ENOBUFS;
	c->laddr = local->addr;
	c->lport = local->port;
	c->raddr = remote->addr;
	c->rport = remote->port;
	tcb_set_state(e, c, PB_TCP_SYN_SENT);
	e->stats.n[PB_C_TcpActiveOpens]++;
	start(e, c, NULL, now_ns);
	*h = tcb_handle(c);
	return 0;
}

int pb_tcp_listen(struct pb_tcp *e, const struct pb_tcp_endpoint *local, uint32_t backlog, pb_tcp_handle *h)
{
	bool ask = backlog & PB_TCP_ASK;
	backlog &= ~PB_TCP_ASK;
	if (!local->port || !backlog)
		return -EINVAL;
	for (uint32_t i = 0; i < e->nlisten; i++) {
		struct tcb *l = &e->tcbs[e->listeners[i]];
		if (l->lport == local->port && pb_ip_eq(&l->laddr, &local->addr))
			return -EADDRINUSE;
	}
	if (e->nlisten == e->cfg.max_listeners)
		return -ENOBUFS;
	struct tcb *l = tcb_alloc(e);
	if (!l)
		return -ENOBUFS;
	l->laddr = local->addr;
	l->lport = local->port;
	l->syn_retries = e->cfg.synack_retries; /* of its SYN-ACKs */
	tcb_set_state(e, l, PB_TCP_LISTEN);
	l->backlog = backlog;
	l->flags |= ask ? TCB_ASK : 0u;
	e->listeners[e->nlisten++] = l->idx;
	*h = tcb_handle(l);
	return 0;
}

int pb_tcp_accept(struct pb_tcp *e, pb_tcp_handle listener, pb_tcp_handle *h)
{
	struct tcb *l = tcb_get(e, listener);
	if (!l)
		return -EBADF;
	if (l->state != PB_TCP_LISTEN)
		return -EINVAL;
	if (l->aq.head == NONE)
		return -EAGAIN;
	struct tcb *c = &e->tcbs[l->aq.head];
	queue_remove(e, &l->aq, c);
	l->waiting--;
	c->flags &= ~(uint32_t)TCB_QUEUED;
	c->listener = NONE;
	*h = tcb_handle(c);
	/* What happened before there was a handle is told now. */
	if (c->events)
		tcb_event(e, c, c->events);
	return 0;
}
