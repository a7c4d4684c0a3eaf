/* Segments are written: the header in front of the payload, so that data is sent without a copy. */
#include "tcp/out.h"

static uint32_t ip_write(const struct ip_about *ip, uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst,
			 uint32_t len)
{
	if (pb_ip_is4(dst))
		return pb_ip4_write(p, src, dst, PB_IPPROTO_TCP, ip->ttl, ip->tos, ip->id, ip->df, len);
	return pb_ip6_write(p, src, dst, PB_IPPROTO_TCP, ip->ttl, ip->tos, 0, len);
}

/* Everything that a segment acknowledges is acknowledged now. What it left out waits for the timer. blocks: it carries
 * SACK blocks; a duplicate that it had no room to report goes in an ACK of its own, behind it. */
static void acked_now(struct pb_tcp *e, struct tcb *c, uint32_t ack, bool blocks)
{
	bool report = (c->bits & BIT_DSACK) && !blocks;
	if (c->bits & BIT_DELACK_TIMED)
		COUNT(e, TcpExtDelayedACKs);
	c->flags &= ~(uint32_t)TCB_ACK_NOW;
	c->bits &= ~(uint32_t)(BIT_DELACK_TIMED | BIT_DSACK | BIT_PUSHED | BIT_PUSHED_TWICE | BIT_ACK_UNITS |
			       BIT_ACK_LESS);
	if (ack == c->rcv_nxt)
		c->t_delack = NEVER;
	else
		c->bits |= BIT_ACK_LESS;
	if (report) {
		c->bits |= BIT_DSACK;
		c->flags |= TCB_ACK_NOW;
	}
	if (c->quickacks && c->last_ack_sent != ack)
		c->quickacks--;
	c->last_ack_sent = ack;
}

/* Options in front of off: those of every segment (timestamps, or none) at once, what few carry by the writer of all.
 * Returns their length, and adds their sum. */
static uint32_t opts_put(const struct tcb *c, uint8_t *end, const struct segment *g, uint64_t now_ns, uint32_t *sum)
{
	uint32_t ts = c->flags & TCB_TS ? now_ts_ms(c, now_ns) : 0;
	if (!g->opts) {
		if (!(c->flags & TCB_TS))
			return 0;
		*sum = pb_csum_add(*sum, pb_tcp_opts_write_ts(end - 12, ts, c->ts_recent));
		return 12;
	}
	uint8_t buf[PB_TCP_OPTS_MAX];
	struct pb_tcp_opts o = *g->opts;
	if (c->flags & TCB_TS) {
		o.has_ts = true;
		o.ts_val = ts;
		o.ts_ecr = c->ts_recent;
	}
	uint32_t n = pb_tcp_opts_write(buf, &o);
	memcpy(end - n, buf, n);
	*sum = pb_csum_partial(buf, n, *sum);
	return n;
}

void emit(struct pb_tcp *e, struct tcb *c, struct out *o, const struct segment *g)
{
	uint8_t flags = g->flags, *payload = frame_ptr(e, g->frame) + g->off;
	uint32_t sum = g->sum, opts_len = opts_put(c, payload, g, o->now_ns, &sum), hdr = PB_TCP_HLEN + opts_len;
	struct ip_about about = {
		.ttl = c->ttl, .tos = (uint8_t)(c->tos | g->ecn), .id = c->ip_id++, .df = !(c->flags & TCB_NO_PMTUD)};
	bool syn = flags & PB_TCP_SYN;
	if ((c->bits & BIT_ECE) && !syn)
		flags |= PB_TCP_ECE;
	struct offer offer = rcv_offer(e, c, syn, flags == PB_TCP_ACK && !g->len);
	uint32_t ack = flags & PB_TCP_ACK ? offer.ack : 0;
	uint8_t *tcp = payload - hdr, *ip = tcp - c->ip_hdr_len;
	sum = pb_csum_add(sum, pb_csum_pseudo(&c->laddr, &c->raddr, PB_IPPROTO_TCP, hdr + g->len));
	pb_tcp_write_sum(tcp, c->lport, c->rport, g->seq, ack, flags, offer.field, opts_len, sum);
	ip_write(&about, ip, &c->laddr, &c->raddr, hdr + g->len);
	o->d[o->n++] = (struct pb_desc){.addr = frame_addr(e, g->frame),
					.off = (uint16_t)(g->off - hdr - c->ip_hdr_len),
					.len = (uint16_t)(c->ip_hdr_len + hdr + g->len)};
	if (flags & PB_TCP_ACK)
		acked_now(e, c, ack, g->opts && g->opts->n_sack);
	c->segs_out++;
	COUNT(e, TcpOutSegs);
}

void emitted_again(struct pb_tcp *e)
{
	COUNT(e, TcpRetransSegs);
	e->stats.n[PB_C_TcpOutSegs]--;
}

bool emit_control(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t seq, uint8_t flags,
		  const struct pb_tcp_opts *opts)
{
	uint32_t frame = frame_alloc(e, false);
	if (frame == NONE) {
		o->stuck = true;
		return false;
	}
	e->segs[frame].flags = SEG_INDEV | SEG_ORPHAN;
	struct segment g = {.frame = frame, .seq = seq, .off = PB_TCP_HEADROOM, .flags = flags, .opts = opts};
	emit(e, c, o, &g);
	return true;
}

void send_syn(struct pb_tcp *e, struct tcb *c, struct out *o)
{
	bool first = c->state == PB_TCP_SYN_SENT;
	struct pb_tcp_opts opts = {
		.has_mss = true,
		.mss = c->advmss,
		.sack_ok = first ? e->cfg.sack : !!(c->flags & TCB_SACK),
		.has_wscale = first ? e->cfg.wscale : !!(c->flags & TCB_WSCALE),
		.wscale = c->rcv_wscale,
	};
	uint8_t flags = first ? PB_TCP_SYN : PB_TCP_SYN | PB_TCP_ACK;
	if (first && e->cfg.timestamps) {
		opts.has_ts = true;
		opts.ts_val = now_ts_ms(c, o->now_ns);
	}
	/* RFC 3168 6.1.1; 6.1.1.1: whoever drops such a SYN gets one without. A SYN-ACK is not put into doubt (as
	 * Linux): after one that does not agree no data may be ECT. */
	if (first && e->cfg.ecn == PB_TCP_ECN_ON && !c->syns_sent)
		flags |= PB_TCP_ECE | PB_TCP_CWR;
	else if (!first && (c->bits & BIT_ECN))
		flags |= PB_TCP_ECE;
	if (!emit_control(e, c, o, c->iss, flags, &opts))
		return;
	if (first && (flags & PB_TCP_ECE))
		c->bits |= BIT_SYN_ECN;
	else if (first)
		c->bits &= ~(uint32_t)BIT_SYN_ECN;
	c->flags &= ~(uint32_t)TCB_SYN_OUT;
	c->snd_nxt = c->iss + 1;
	c->syn_ns = c->syns_sent ? 0 : o->now_ns;
	if (c->syns_sent++) {
		c->rexmits++;
		if (first)
			emitted_again(e);
		else
			COUNT(e, TcpRetransSegs); /* Linux counts a SYN-ACK among those that go out too */
		COUNT(e, TcpExtTCPSynRetrans);
	}
}

/* Blocks go with data too, as many as there is room for (RFC 2018 4: in all ACKs that do not acknowledge the highest
 * byte that is held). A full segment has none. */
static bool blocks_with(const struct pb_tcp *e, const struct tcb *c, uint32_t len, struct pb_tcp_opts *opts)
{
	uint32_t most = c->flags & TCB_TS ? 3 : 4;
	if (!(c->flags & TCB_SACK) || !(c->oq_count || (c->bits & BIT_DSACK)) || len + 12 > c->mss)
		return false;
	*opts = (struct pb_tcp_opts){0};
	opts->n_sack = (uint8_t)rcv_sack_blocks(e, c, opts, (int)min_u32((c->mss - len - 4) / 8, most));
	return true;
}

bool send_bare(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t seq, uint8_t flags)
{
	struct pb_tcp_opts opts;
	return emit_control(e, c, o, seq, flags, blocks_with(e, c, 0, &opts) ? &opts : NULL);
}

/* Whether a segment that the device holds goes as a chain. A caller that has never room for two gets a copy. */
static bool may_chain(const struct pb_tcp *e, const struct out *o, const struct seg *s)
{
	return e->cfg.tx_chains && s->again < PB_DESC_REFS_MAX - 1 && o->room > 1;
}

/* The device holds the segment, and what it holds must not change: a frame for another header, with a copy of the
 * payload behind it unless that can be sent from where it lies. NONE: not now. */
static uint32_t second_frame(struct pb_tcp *e, struct out *o, uint32_t frame, bool chain)
{
	const struct seg *s = &e->segs[frame];
	uint32_t from = chain && o->room - o->n < 2 ? NONE : frame_alloc(e, false);
	if (from == NONE) {
		o->stuck = true;
		return NONE;
	}
	e->segs[from].flags = SEG_INDEV | SEG_ORPHAN;
	if (!chain)
		memcpy(frame_ptr(e, from) + PB_TCP_HEADROOM, frame_ptr(e, frame) + s->off, s->len);
	e->stats.n[chain ? PB_C_RetransChained : PB_C_RetransCopied]++;
	return from;
}

/* What was emitted last is the header of a segment whose payload is in a frame that the device has already. */
static void chain_payload(struct pb_tcp *e, struct out *o, uint32_t frame)
{
	struct seg *s = &e->segs[frame];
	struct pb_desc *head = &o->d[o->n - 1];
	head->len = (uint16_t)(head->len - s->len);
	head->flags = PB_DESC_MORE;
	o->d[o->n++] =
		(struct pb_desc){.addr = frame_addr(e, frame), .off = s->off, .len = s->len, .flags = PB_DESC_AGAIN};
	s->again++;
}

bool send_seg(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t frame)
{
	struct seg *s = &e->segs[frame];
	uint32_t from = frame;
	bool chain = false;
	if (s->flags & SEG_INDEV) {
		chain = may_chain(e, o, s);
		from = second_frame(e, o, frame, chain);
		if (from == NONE)
			return false;
	} else {
		s->flags |= SEG_INDEV;
	}
	bool last = s->next == NONE, fresh = !(s->flags & SEG_SENT);
	struct segment g = {.frame = from,
			    .seq = s->seq,
			    .off = from == frame ? s->off : PB_TCP_HEADROOM,
			    .len = s->len,
			    .sum = s->csum,
			    .flags = PB_TCP_ACK};
	if (s->flags & SEG_PUSH)
		g.flags |= PB_TCP_PSH;
	if (last && (c->flags & TCB_FIN_QUEUED)) {
		g.flags |= PB_TCP_FIN;
		if (!(c->flags & TCB_FIN_SENT) && s->seq + s->len == c->snd_end) {
			c->flags |= TCB_FIN_SENT;
			c->snd_nxt = c->snd_end + 1;
		}
		c->flags &= ~(uint32_t)TCB_FIN_OUT;
		c->bits &= ~(uint32_t)BIT_FIN_ALONE;
	}
	/* RFC 3168 6.1.5: what is sent again carries no ECT; the answer to ECE goes with new data (6.1.2). */
	if ((c->bits & BIT_ECN) && fresh) {
		g.ecn = PB_ECN_ECT0;
		if (c->bits & BIT_CWR)
			g.flags |= PB_TCP_CWR;
		c->bits &= ~(uint32_t)BIT_CWR;
	}
	struct pb_tcp_opts opts;
	if (blocks_with(e, c, s->len, &opts))
		g.opts = &opts;
	emit(e, c, o, &g);
	uint32_t ip_bytes = o->d[o->n - 1].len; /* with the payload that becomes a link of its own */
	if (chain)
		chain_payload(e, o, frame);
	s->flags |= SEG_SENT;
	s->sent_ns = c->last_send_ns = o->now_ns;
	s->delivered = c->delivered_segs;
	c->bytes_sent += s->len;
	c->data_segs_out++;
	if (c->ca_state == PB_TCP_CA_CWR || c->ca_state == PB_TCP_CA_RECOVERY)
		c->prr_out += s->len;
	if (c->pacing_rate)
		pace(c, ip_bytes, o->now_ns);
	return true;
}

void send_replies(struct pb_tcp *e, struct out *o)
{
	while (e->reply_n && o->n < o->room) {
		uint32_t frame = frame_alloc(e, false);
		if (frame == NONE)
			return;
		e->segs[frame].flags = SEG_INDEV | SEG_ORPHAN;
		const struct reply *r = &e->replies[--e->reply_n];
		struct pb_tcp_opts opts = {.has_ts = r->has_ts, .ts_val = r->ts_val, .ts_ecr = r->ts_ecr};
		uint8_t buf[PB_TCP_OPTS_MAX];
		uint32_t opts_len = pb_tcp_opts_write(buf, &opts), hdr = PB_TCP_HLEN + opts_len;
		uint8_t *tcp = frame_ptr(e, frame) + PB_TCP_HEADROOM - hdr;
		uint32_t ip_len = pb_ip_is4(&r->dst) ? PB_IP4_HLEN : PB_IP6_HLEN;
		struct ip_about about = {.ttl = r->ttl, .tos = r->tos, .df = true};
		pb_tcp_write(tcp, r->sport, r->dport, r->seq, r->ack, r->flags, 0, opts_len);
		memcpy(tcp + PB_TCP_HLEN, buf, opts_len);
		pb_tcp_set_csum(tcp, hdr, &r->src, &r->dst);
		ip_write(&about, tcp - ip_len, &r->src, &r->dst, hdr);
		o->d[o->n++] = (struct pb_desc){.addr = frame_addr(e, frame),
						.off = (uint16_t)(PB_TCP_HEADROOM - hdr - ip_len),
						.len = (uint16_t)(hdr + ip_len)};
		COUNT(e, TcpOutSegs);
		if (r->flags & PB_TCP_RST)
			COUNT(e, TcpOutRsts);
	}
}
