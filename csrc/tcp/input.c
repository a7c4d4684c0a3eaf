/* Segment arrives (RFC 9293 3.10.7): parsing in one pass over the burst, then each segment through its state. */
#include "tcp/tcb.h"

#include <errno.h>

#define PAWS_IDLE_NS (24ull * 86400 * 1000 * NS_PER_MS) /* RFC 7323 5.5 */

static enum pb_drop parse(const struct pb_tcp *e, const struct pb_desc *d, struct pkt *p)
{
	const uint8_t *ip = pb_pool_data(e->pool, d);
	struct pb_ip_view v;
	enum pb_drop why = pb_ip_parse(ip, d->len, &v);
	if (why)
		return why;
	if (v.proto != PB_IPPROTO_TCP)
		return PB_DROP_IP_PROTO;
	if (!pb_ip_is_host(&v.dst)) /* RFC 1122 4.2.3.10: nor is it answered */
		return PB_DROP_IP_DST;
	uint32_t tcp_len = v.total_len - v.hdr_len;
	const uint8_t *tcp = ip + v.hdr_len;
	why = pb_tcp_parse(tcp, tcp_len, &p->tcp);
	if (why)
		return why;
	if (!(d->flags & PB_DESC_CSUM_GOOD) && !pb_tcp_csum_ok(tcp, tcp_len, &v.src, &v.dst))
		return PB_DROP_TCP_CSUM;
	why = pb_tcp_opts_parse(p->tcp.opts, p->tcp.opts_len, &p->opts);
	if (why)
		return why;
	p->d = d;
	p->src = v.src;
	p->dst = v.dst;
	p->seq = p->tcp.seq;
	p->flags = p->tcp.flags;
	p->ecn = v.tos & PB_ECN_MASK;
	p->data_off = (uint16_t)(d->off + v.hdr_len + p->tcp.hdr_len);
	p->data_len = (uint16_t)(tcp_len - p->tcp.hdr_len);
	p->old = NONE;
	p->taken = p->ask = p->stray = false;
	p->hash = flow_hash(e, &v.dst, p->tcp.dport, &v.src, p->tcp.sport);
	return PB_DROP_NONE;
}

/* CLOSED: anything but a RST is answered with one (3.10.7.1). */
void reply_rst(struct pb_tcp *e, const struct tcb *c, const struct pkt *p)
{
	if ((p->tcp.flags & PB_TCP_RST) || e->reply_n == REPLY_MAX)
		return;
	struct reply *r = &e->replies[e->reply_n++];
	*r = (struct reply){.src = p->dst,
			    .dst = p->src,
			    .sport = p->tcp.dport,
			    .dport = p->tcp.sport,
			    .ttl = c ? c->ttl : e->cfg.ttl};
	if (p->tcp.flags & PB_TCP_ACK) {
		r->seq = p->tcp.ack;
		r->flags = PB_TCP_RST;
	} else {
		r->ack = p->tcp.seq + p->data_len + !!(p->tcp.flags & PB_TCP_SYN) + !!(p->tcp.flags & PB_TCP_FIN);
		r->flags = PB_TCP_RST | PB_TCP_ACK;
	}
}

/* RFC 5961 7: challenge ACKs are limited, per connection and for the engine as a whole, with a limit that is not the
 * same each second, so that nobody can count them from aside (RFC 5961 as Linux has it since 4.7). */
static bool challenge_allowed(struct pb_tcp *e, uint64_t now_ns)
{
	if (!e->challenge_ns || now_ns - e->challenge_ns >= 1000ull * NS_PER_MS) {
		uint64_t key[2] = {now_ns, e->stats.n[PB_C_TcpInSegs]};
		uint32_t half = (e->cfg.challenge_per_sec + 1) / 2;
		e->challenge_ns = now_ns;
		e->challenges = half + (uint32_t)(siphash24(e->cfg.secret, key, sizeof(key)) %
						  max_u32(e->cfg.challenge_per_sec, 1));
	}
	return e->challenges && e->challenges--;
}

void challenge_ack(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (c->last_challenge_ns && now_ns - c->last_challenge_ns < e->cfg.challenge_ns) {
		COUNT(e, TcpExtTCPACKSkippedChallenge);
		return;
	}
	if (!challenge_allowed(e, now_ns)) {
		COUNT(e, ChallengeLimited);
		return;
	}
	c->last_challenge_ns = now_ns;
	COUNT(e, TcpExtTCPChallengeACK);
	ack_now(e, c);
}

static void count_skipped(struct pb_tcp *e, const struct tcb *c, bool paws)
{
	if (c->state == PB_TCP_TIME_WAIT)
		COUNT(e, TcpExtTCPACKSkippedTimeWait);
	else if (c->state == PB_TCP_SYN_RCVD)
		COUNT(e, TcpExtTCPACKSkippedSynRecv);
	else if (paws)
		COUNT(e, TcpExtTCPACKSkippedPAWS);
	else
		COUNT(e, TcpExtTCPACKSkippedSeq);
}

/* The ACK for a segment that is not acceptable. Without payload it is limited too: two ends that disagree would answer
 * each other's ACKs for ever. */
static void oow_ack(struct pb_tcp *e, struct tcb *c, const struct pkt *p, bool paws, uint64_t now_ns)
{
	if ((p->flags & PB_TCP_SYN) && c->state != PB_TCP_TIME_WAIT) {
		COUNT(e, TcpExtTCPSYNChallenge);
		challenge_ack(e, c, now_ns); /* RFC 5961 4.2: wherever it lies */
		return;
	}
	if (!p->data_len && !(p->flags & PB_TCP_FIN)) {
		if (c->last_oow_ns && now_ns - c->last_oow_ns < e->cfg.challenge_ns) {
			count_skipped(e, c, paws);
			return;
		}
		c->last_oow_ns = now_ns;
	}
	/* It came twice: its ACK was lost, or the peer's timer is too quick. */
	uint32_t end = p->seq + p->data_len;
	if (p->data_len && seq_lt(p->seq, c->rcv_nxt)) {
		quickack_mode(c, 16);
		dsack_report(e, c, p->seq, seq_min(end, c->rcv_nxt), true);
	}
	ack_now(e, c);
}

/* RFC 7323 5.3. The clause about connections idle for 24 days is R3 there. */
static bool paws_reject(const struct tcb *c, const struct pkt *p, uint64_t now_ns)
{
	if (!(c->flags & TCB_TS) || (p->flags & PB_TCP_RST))
		return false;
	if (!p->opts.has_ts)
		return true; /* 3.2: SHOULD silently drop */
	return seq_lt(p->opts.ts_val, c->ts_recent) && now_ns - c->ts_recent_ns < PAWS_IDLE_NS;
}

/* The four cases of 3.10.7.4, first check. */
static bool acceptable(const struct tcb *c, const struct pkt *p, uint32_t len)
{
	uint32_t wnd = c->rcv_adv - c->rcv_nxt, last = p->seq + len - 1;
	if (!len)
		return wnd ? p->seq - c->rcv_nxt < wnd || p->seq == c->rcv_nxt : p->seq == c->rcv_nxt;
	if (!wnd)
		return false;
	return p->seq - c->rcv_nxt < wnd || last - c->rcv_nxt < wnd;
}

static void count_beyond(struct pb_tcp *e, const struct tcb *c, const struct pkt *p)
{
	/* As Linux, to which data in order at a closed window is a case of its own only while nothing waits for the
	 * reader. */
	if (p->seq == c->rcv_nxt && p->data_len && !c->rq_bytes)
		COUNT(e, TcpExtTCPZeroWindowDrop);
	else
		COUNT(e, TcpExtBeyondWindow);
}

/* Not acceptable: the ACK and window of a segment at a closed window still count (3.10.7.4 "special allowance"). */
static enum pb_drop unacceptable(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint32_t len, uint64_t now_ns)
{
	if (p->flags & PB_TCP_RST)
		return PB_DROP_TCP_RST;
	bool dup = len && seq_leq(p->seq + len, c->rcv_nxt);
	if (c->state == PB_TCP_SYN_RCVD && (p->flags & PB_TCP_SYN)) {
		/* The peer did not get our SYN-ACK. */
		c->flags |= TCB_SYN_OUT;
		tcb_ready(e, c);
		return PB_DROP_TCP_DUP;
	}
	if (seq_lt(c->rcv_adv, p->seq + len) && !(p->flags & PB_TCP_SYN))
		count_beyond(e, c, p);
	oow_ack(e, c, p, false, now_ns);
	if (c->state == PB_TCP_TIME_WAIT && dup && (p->flags & PB_TCP_FIN)) {
		c->t_misc = now_ns + e->cfg.time_wait_ns;
		spare_push(e, c);
	}
	if (p->seq == c->rcv_nxt && c->rcv_adv == c->rcv_nxt && (p->flags & PB_TCP_ACK) && !(p->flags & PB_TCP_SYN) &&
	    c->state != PB_TCP_SYN_RCVD)
		in_ack(e, c, p, now_ns);
	return dup ? PB_DROP_TCP_DUP : PB_DROP_TCP_WINDOW;
}

static enum pb_drop in_rst(struct pb_tcp *e, struct tcb *c, const struct pkt *p, uint64_t now_ns)
{
	/* RFC 5961 3.2: only an exact hit resets. RFC 1337: nothing does in TIME-WAIT. */
	if (c->state == PB_TCP_TIME_WAIT)
		return PB_DROP_TCP_RST;
	if (p->seq != c->rcv_nxt) {
		challenge_ack(e, c, now_ns);
		return PB_DROP_TCP_RST;
	}
	e->stats.resets_in++;
	if (c->state == PB_TCP_SYN_RCVD)
		e->stats.n[PB_C_TcpAttemptFails]++;
	bool orderly = c->state == PB_TCP_CLOSING || c->state == PB_TCP_LAST_ACK;
	tcb_closed(e, c,
		   orderly                                                    ? 0
		   : c->state == PB_TCP_SYN_RCVD && !(c->flags & TCB_PASSIVE) ? ECONNREFUSED
									      : ECONNRESET);
	return PB_DROP_NONE;
}

/* RFC 7323 4.3, with the last ACK sent of (2). When that said less than had come, what comes next is echoed all the
 * same: in a stream no segment would begin at such an ACK. */
static void update_ts_recent(struct tcb *c, const struct pkt *p, uint64_t now_ns)
{
	uint32_t acked = c->bits & BIT_ACK_LESS ? c->rcv_nxt : c->last_ack_sent;
	if ((c->flags & TCB_TS) && p->opts.has_ts && seq_leq(p->seq, acked) &&
	    (!seq_lt(p->opts.ts_val, c->ts_recent) || now_ns - c->ts_recent_ns >= PAWS_IDLE_NS)) {
		c->ts_recent = p->opts.ts_val;
		c->ts_recent_ns = now_ns;
	}
}

/* Cuts off what is left and right of the window. */
static void trim(struct tcb *c, struct pkt *p)
{
	if (seq_lt(p->seq, c->rcv_nxt)) {
		uint32_t cut = min_u32(c->rcv_nxt - p->seq, p->data_len);
		p->data_off = (uint16_t)(p->data_off + cut);
		p->data_len = (uint16_t)(p->data_len - cut);
		p->seq += cut;
	}
	uint32_t room = c->rcv_adv - p->seq;
	if (c->flags & TCB_RFIN) /* nothing comes after a FIN */
		room = min_u32(room, seq_lt(p->seq, c->rfin_seq) ? c->rfin_seq - p->seq : 0);
	if (p->data_len > room) {
		p->data_len = (uint16_t)room;
		p->flags &= (uint8_t)~PB_TCP_FIN;
	}
}

static enum pb_drop established_checks(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns)
{
	uint32_t len = (uint32_t)p->data_len + !!(p->flags & PB_TCP_SYN) + !!(p->flags & PB_TCP_FIN);
	if (paws_reject(c, p, now_ns)) {
		COUNT(e, TcpExtPAWSEstab);
		if (p->opts.has_ts)
			oow_ack(e, c, p, true, now_ns);
		return PB_DROP_TCP_PAWS;
	}
	/* Simultaneous open: the SYN-ACK repeats a SYN that we have (3.5, figure 8). */
	if (c->state == PB_TCP_SYN_RCVD && (p->flags & (PB_TCP_SYN | PB_TCP_ACK)) == (PB_TCP_SYN | PB_TCP_ACK) &&
	    p->seq + 1 == c->rcv_nxt && p->tcp.ack == c->snd_nxt) {
		p->flags &= (uint8_t)~PB_TCP_SYN;
		p->seq++;
		len--;
	}
	if (p->flags & PB_TCP_RST)
		len = 0; /* what it carries is text about the error (RFC 1122 4.2.2.12) */
	if (!acceptable(c, p, len))
		return unacceptable(e, c, p, len, now_ns);
	if (p->flags & PB_TCP_RST)
		return in_rst(e, c, p, now_ns);
	if (p->flags & PB_TCP_SYN) {
		COUNT(e, TcpExtTCPSYNChallenge);
		challenge_ack(e, c, now_ns); /* RFC 5961 4.2 */
		return PB_DROP_TCP_SYN;
	}
	return p->flags & PB_TCP_ACK ? PB_DROP_NONE : PB_DROP_TCP_FLAGS;
}

/* SYN-RECEIVED and later. */
static enum pb_drop in_synchronised(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns)
{
	enum pb_drop why = established_checks(e, c, p, now_ns);
	if (why || c->state == PB_TCP_CLOSED)
		return why;
	if (c->state == PB_TCP_SYN_RCVD) {
		if (!acks_syn(c, p->tcp.ack)) {
			reply_rst(e, c, p);
			return PB_DROP_TCP_ACK;
		}
		establish(e, c, now_ns);
		c->snd_wnd = snd_window(c, p);
		c->max_snd_wnd = max_u32(c->max_snd_wnd, c->snd_wnd);
		c->snd_wl1 = p->seq;
		c->snd_wl2 = p->tcp.ack;
	}
	c->last_rx_ns = now_ns;
	c->ka_sent = 0;
	why = in_ack(e, c, p, now_ns);
	if (why || c->state == PB_TCP_CLOSED)
		return why;
	update_ts_recent(c, p, now_ns); /* after the ACK was found possible: RFC 7323 5.3 R3, and nobody else's */
	if (c->bits & BIT_ECN)
		ecn_data(e, c, p);
	if (p->data_len && seq_lt(p->seq, c->rcv_nxt))
		dsack_report(e, c, p->seq, seq_min(p->seq + p->data_len, c->rcv_nxt), true);
	trim(c, p);
	uint32_t fin_seq = p->seq + p->data_len;
	if (p->data_len) {
		c->data_segs_in++;
		why = in_data(e, c, p, now_ns);
		if (c->state == PB_TCP_CLOSED)
			return why;
		if (why && why != PB_DROP_TCP_DUP)
			return why; /* the data was not kept: a FIN behind it must not count */
	}
	if ((p->flags & PB_TCP_FIN) && !(c->flags & TCB_RFIN) && rcv_ends_by(e, c, fin_seq)) {
		c->flags |= TCB_RFIN;
		c->rfin_seq = fin_seq;
	}
	if ((c->flags & (TCB_RFIN | TCB_RFIN_DONE)) == TCB_RFIN && c->rcv_nxt == c->rfin_seq)
		in_fin(e, c, now_ns);
	return why;
}

/* A new connection of the same pair while the old one waits (RFC 9293 3.6.1, RFC 6191). As Linux: when the old one had
 * no timestamps, those of the SYN say nothing, and its sequence number decides. */
static bool time_wait_reuse(const struct tcb *c, const struct pkt *p)
{
	if (c->state != PB_TCP_TIME_WAIT || (p->flags & (PB_TCP_SYN | PB_TCP_ACK | PB_TCP_RST)) != PB_TCP_SYN)
		return false;
	if ((c->flags & TCB_TS) && p->opts.has_ts)
		return seq_lt(c->ts_recent, p->opts.ts_val) ||
		       (c->ts_recent == p->opts.ts_val && seq_lt(c->rcv_nxt, p->seq));
	return seq_lt(c->rcv_nxt, p->seq);
}

/* Of a flow that another engine has. A SYN too: an answer to it that was lost came from there. */
static bool is_stray(const struct pb_tcp *e, struct pkt *p)
{
	if (p->d->flags & PB_DESC_STRAY)
		return false;
	struct pb_tcp_endpoint l = {p->dst, p->tcp.dport}, r = {p->src, p->tcp.sport};
	int who = pb_tcp_owner(e, &l, &r);
	p->stray = who >= 0;
	p->owner = (uint8_t)who;
	return p->stray;
}

static enum pb_drop arrives(struct pb_tcp *e, struct pkt *p, uint64_t now_ns)
{
	struct tcb *c = flow_find(e, p->hash, &p->dst, p->tcp.dport, &p->src, p->tcp.sport);
	if (!c && e->owners && is_stray(e, p))
		return PB_DROP_NONE;
	if (c && time_wait_reuse(c, p) && listener_find(e, &p->dst, p->tcp.dport)) {
		p->old = c->idx; /* it goes on until its successor is certain: in_listen() */
		c = NULL;
	}
	if (c) {
		c->segs_in++;
		return c->state == PB_TCP_SYN_SENT ? in_syn_sent(e, c, p, now_ns) : in_synchronised(e, c, p, now_ns);
	}
	struct tcb *l = listener_find(e, &p->dst, p->tcp.dport);
	if (l)
		return in_listen(e, l, p, now_ns);
	reply_rst(e, NULL, p);
	return PB_DROP_TCP_NO_FLOW;
}

#define AHEAD 4 /* segments: as many lines as a core fetches at a time */

/* The connection of a hash, if it lies where that says: with many connections it is in no cache. */
static inline const struct tcb *guess_flow(const struct pb_tcp *e, uint32_t hash)
{
	uint32_t slot = e->table[hash & e->table_mask];
	return &e->tcbs[slot ? slot - 1 : 0];
}

/* The line that tells a flow, of all segments of a burst at once: each waits for its slot of the table. */
static void fetch_flows(const struct pb_tcp *e, const struct pkt *p, int n)
{
	if (e->stats.conns <= CACHED_CONNS)
		return;
	for (int i = 0; i < n; i++)
		if (!p[i].reason)
			__builtin_prefetch(guess_flow(e, p[i].hash), 1);
}

void pb_tcp_input(struct pb_tcp *e, const struct pb_desc *d, int n, uint64_t now_ns, struct pb_tcp_verdict *v)
{
	struct pkt pkts[PB_BURST_MAX];
	e->now_ns = now_ns;
	for (int i = 0; i < n; i++) {
		pkts[i].reason = (uint8_t)parse(e, &d[i], &pkts[i]);
		if (!pkts[i].reason)
			__builtin_prefetch(&e->table[pkts[i].hash & e->table_mask]);
	}
	e->stats.n[PB_C_TcpInSegs] += (uint64_t)n;
	fetch_flows(e, pkts, n);
	for (int i = 0; i < n && i < AHEAD; i++)
		if (!pkts[i].reason)
			tcb_fetch_receive(e, guess_flow(e, pkts[i].hash));
	for (int i = 0; i < n; i++) {
		if (i + AHEAD < n && !pkts[i + AHEAD].reason)
			tcb_fetch_receive(e, guess_flow(e, pkts[i + AHEAD].hash));
		enum pb_drop why = pkts[i].reason;
		enum pb_verdict what = PB_VERDICT_DONE;
		if (!why) {
			why = arrives(e, &pkts[i], now_ns);
			if (pkts[i].stray) {
				v[i] = (struct pb_tcp_verdict){PB_VERDICT_STRAY, pkts[i].owner};
				continue;
			}
			what = pkts[i].taken ? PB_VERDICT_TAKEN : pkts[i].ask ? PB_VERDICT_EXC : PB_VERDICT_DONE;
		}
		if (why)
			drop(e, why);
		v[i] = (struct pb_tcp_verdict){(uint8_t)what, (uint8_t)why};
	}
}
