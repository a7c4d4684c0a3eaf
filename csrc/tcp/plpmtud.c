/* Packetization layer path MTU discovery (RFC 4821): a black hole, where packets that are too large vanish without a
 * word, is met by a smaller size, and larger ones are tried with data that would be sent anyway. Sizes are those of IP
 * packets. */
#include "tcp/tcb.h"

#define PROBE_THRESHOLD 8u                          /* a search whose bounds are this near is over (Linux) */
#define SEARCH_AGAIN_NS (600ull * 1000 * NS_PER_MS) /* RFC 4821 7.3 */
#define CWND_SEGS 11u                               /* 7.4: room for the losses of a probe */
#define BLACK_HOLE_TRIES 3u                         /* R1 of RFC 1122 4.2.3.5 */

static uint32_t overhead(const struct tcb *c)
{
	return c->ip_hdr_len + PB_TCP_HLEN + (c->flags & TCB_TS ? 12u : 0);
}

/* The least that any path carries of IPv6 (RFC 8201 4): no silence says that it is less. */
static uint32_t bounded(const struct tcb *c, uint32_t size)
{
	return c->ip_hdr_len == PB_IP4_HLEN ? size : max_u32(size, PB_PMTU_MIN6);
}

/* The largest packet that both ends allow, and routers: mtu, 0 when none spoke. */
static uint16_t largest(const struct tcb *c, uint32_t mtu)
{
	uint32_t most = min_u32(c->peer_mss, c->own_mss) + c->ip_hdr_len + PB_TCP_HLEN;
	return (uint16_t)(mtu ? min_u32(most, mtu) : most);
}

void plpmtud_start(struct pb_tcp *e, struct tcb *c, uint32_t mtu, uint64_t now_ns)
{
	uint32_t base = max_u32(e->cfg.probing_base_mss, e->cfg.probing_floor_mss);
	c->probing.high = largest(c, mtu);
	c->probing.low = (uint16_t)min_u32(bounded(c, base + c->ip_hdr_len + PB_TCP_HLEN), c->probing.high);
	c->probing.size = 0;
	c->probing.on = e->cfg.probing == PB_TCP_PROBING_ALWAYS;
	c->probing.due_ns = now_ns;
	uint32_t before = c->mss;
	if (mtu)
		reduce_mss(e, c, mtu);
	if (c->probing.on)
		reduce_mss(e, c, c->probing.low);
	if (c->mss < before)
		c->cc.cwnd = initial_cwnd(e, c); /* of segments that small */
}

void plpmtud_forget(struct pb_tcp *e, struct tcb *c)
{
	if (!c->probing.size)
		return;
	c->probing.size = 0;
	if (c->sq_next != NONE)
		e->segs[c->sq_next].flags &= (uint16_t)~SEG_PROBE; /* held back by the rate or the window */
}

void plpmtud_told(struct pb_tcp *e, struct tcb *c, uint32_t mtu)
{
	if (c->probing.high > mtu)
		c->probing.high = (uint16_t)mtu;
	/* One that is out stays a probe: that it is lost is no congestion. */
	if (c->probing.size > mtu && c->sq_next != NONE && e->segs[c->sq_next].seq == c->probing.left)
		plpmtud_forget(e, c);
}

/* Nothing here makes segments larger: a router may have said less than where the search goes back to. */
void plpmtud_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!e->cfg.probing || c->tries + 1 < BLACK_HOLE_TRIES || c->state < PB_TCP_ESTABLISHED)
		return;
	if (!c->probing.on) {
		c->probing.on = true;
		c->probing.due_ns = now_ns;
	} else {
		/* Not that either: half of it, down to the floor. */
		uint32_t hdr = c->ip_hdr_len + PB_TCP_HLEN, mss = (c->probing.low - hdr) / 2;
		mss = max_u32(min_u32(mss, e->cfg.probing_base_mss), e->cfg.probing_floor_mss);
		c->probing.low = (uint16_t)bounded(c, mss + hdr);
	}
	plpmtud_forget(e, c);
	reduce_mss(e, c, c->probing.low);
}

bool plpmtud_try(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!c->probing.on || c->probing.size || c->ca_state != PB_TCP_CA_OPEN || c->sacked_segs ||
	    c->cc.cwnd < CWND_SEGS * c->mss || (c->flags & TCB_NO_PMTUD))
		return false;
	/* A router may have said less than what the search began with. */
	if (c->probing.high < c->probing.low + PROBE_THRESHOLD) {
		if (now_ns - c->probing.due_ns < SEARCH_AGAIN_NS)
			return false;
		c->probing.high = largest(c, pb_pmtu_get(&e->pmtu, &c->raddr, now_ns));
		c->probing.low = (uint16_t)min_u32(c->probing.low, c->mss + overhead(c));
		c->probing.due_ns = now_ns;
		return false;
	}
	uint32_t size = ((uint32_t)c->probing.low + c->probing.high) / 2, len = size - overhead(c);
	struct seg *s = &e->segs[c->sq_next];
	/* 7.4: enough behind it that its loss is found quickly, and room for it in both windows. */
	uint32_t need = len + (c->reordering + 1) * c->mss, room = c->snd_una + c->snd_wnd - c->snd_nxt;
	if (len <= c->mss || c->snd_end - c->snd_nxt < need || c->snd_wnd < in_flight(c) || room < need ||
	    pipe_bytes(c) + len > c->cc.cwnd || (uint32_t)s->off + len > e->pool->frame_bytes)
		return false;
	if (!sq_one_record(e, c->sq_next, len))
		return false;
	sq_coalesce(e, c, c->sq_next, len);
	if (s->len < len && !sq_borrow(e, c, c->sq_next, len - s->len))
		return false;
	if (s->len > len && !sq_split(e, c, c->sq_next, len))
		return false;
	s->flags |= SEG_PROBE;
	c->probing.size = (uint16_t)size;
	c->probing.left = s->seq;
	c->probing.right = s->seq + len;
	return true;
}

void plpmtud_failed(struct pb_tcp *e, struct tcb *c)
{
	COUNT(e, TcpExtTCPMTUPFail);
	c->probing.high = (uint16_t)min_u32(c->probing.high, c->probing.size - 1u);
	c->probing.size = 0;
	for (uint32_t f = c->sq_head; f != NONE && (e->segs[f].flags & SEG_SENT); f = e->segs[f].next)
		e->segs[f].flags &= (uint16_t)~SEG_PROBE;
	tcb_ready(e, c);
}

void plpmtud_acked(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!c->probing.size || seq_lt(c->snd_una, c->probing.right))
		return;
	COUNT(e, TcpExtTCPMTUPSuccess);
	c->probing.low = c->probing.size;
	c->probing.size = 0;
	c->probing.due_ns = now_ns;
	/* It may have been under way when a router said less: what was said holds. */
	uint32_t size = min_u32(c->probing.low, largest(c, pb_pmtu_get(&e->pmtu, &c->raddr, now_ns)));
	uint32_t mss = size - overhead(c);
	if (mss <= c->mss)
		return;
	c->mss = (uint16_t)mss;
	c->cc.mss = mss;
	/* Bytes stay what they were, but for one segment there is room, and a reduction goes no lower than to two. */
	c->cc.cwnd = max_u32(c->cc.cwnd, mss);
	c->cc.ssthresh = max_u32(c->cc.ssthresh, 2 * mss);
}
