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

/* What the MSS may be by what is known of the path: at most what both ends allow. */
static void use_size(struct pb_tcp *e, struct tcb *c, uint32_t size)
{
	uint32_t most = min_u32(c->peer_mss, c->own_mss) - (c->flags & TCB_TS ? 12u : 0);
	uint32_t mss = min_u32(size - overhead(c), most);
	if (mss < c->mss) {
		reduce_mss(e, c, size);
		return;
	}
	c->mss = (uint16_t)mss;
	c->cc.mss = mss;
	/* Bytes stay what they were, but for one segment there is room, and a reduction goes no lower than to two. */
	c->cc.cwnd = max_u32(c->cc.cwnd, mss);
	c->cc.ssthresh = max_u32(c->cc.ssthresh, 2 * mss);
}

void plpmtud_start(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	uint32_t base = max_u32(e->cfg.probing_base_mss, e->cfg.probing_floor_mss);
	c->probing.high = (uint16_t)(min_u32(c->peer_mss, c->own_mss) + c->ip_hdr_len + PB_TCP_HLEN);
	c->probing.low = (uint16_t)min_u32(base + c->ip_hdr_len + PB_TCP_HLEN, c->probing.high);
	c->probing.size = 0;
	c->probing.on = e->cfg.probing == PB_TCP_PROBING_ALWAYS;
	c->probing.due_ns = now_ns;
	if (c->probing.on) {
		use_size(e, c, c->probing.low);
		c->cc.cwnd = initial_cwnd(e, c);
	}
}

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
		c->probing.low = (uint16_t)(mss + hdr);
	}
	c->probing.size = 0;
	use_size(e, c, c->probing.low);
}

bool plpmtud_try(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	if (!c->probing.on || c->probing.size || c->ca_state != PB_TCP_CA_OPEN || c->sacked_segs ||
	    c->cc.cwnd < CWND_SEGS * c->mss || (c->flags & TCB_NO_PMTUD))
		return false;
	if ((uint32_t)c->probing.high - c->probing.low < PROBE_THRESHOLD) {
		if (now_ns - c->probing.due_ns < SEARCH_AGAIN_NS)
			return false;
		c->probing.high = (uint16_t)(min_u32(c->peer_mss, c->own_mss) + c->ip_hdr_len + PB_TCP_HLEN);
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
	c->probing.high = (uint16_t)(c->probing.size - 1);
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
	use_size(e, c, c->probing.low);
}
