/* Paths that carry less than was thought, and other ICMP errors about our segments. What one connection is told holds
 * for all to that destination (RFC 1191 6.3, RFC 8201 5.2). There may be a million of them, and whoever is at the other
 * end can make a router's message: they are gone through in portions, the first at once, the others with each output.
 */
#include "tcp/tcb.h"

#include <errno.h>

#define LEAST_MSS 48u     /* as Linux: an ICMP error cannot make every byte a packet (tcp_min_snd_mss) */
#define SWEEP_SLOTS 2048u /* a portion: the default engine as a whole */

/* RFC 1191 6.3, RFC 8201: segments above the new size are lost for certain. */
void reduce_mss(struct pb_tcp *e, struct tcb *c, uint32_t mtu)
{
	uint32_t overhead = c->ip_hdr_len + PB_TCP_HLEN + (c->flags & TCB_TS ? 12u : 0);
	uint32_t mss = mtu > overhead + LEAST_MSS ? mtu - overhead : LEAST_MSS;
	if (mss >= c->mss)
		return;
	for (uint32_t f = c->sq_head; f != NONE && (e->segs[f].flags & SEG_SENT); f = e->segs[f].next) {
		struct seg *s = &e->segs[f];
		if (s->len <= mss || (s->flags & SEG_SACKED))
			continue;
		seg_mark_lost(e, c, s);
	}
	if (!(c->flags & TCB_SACK))
		reno_limit(c);
	c->mss = (uint16_t)mss;
	c->cc.mss = mss;
	c->rtx_hint = c->sq_head;
	tcb_ready(e, c);
}

static void path_told(struct pb_tcp *e, struct tcb *c, uint32_t mtu)
{
	plpmtud_told(e, c, mtu);
	reduce_mss(e, c, mtu);
}

void pmtu_sweep(struct pb_tcp *e, uint64_t now_ns)
{
	for (uint32_t n = min_u32(e->sweep_left, SWEEP_SLOTS); n; n--, e->sweep_left--) {
		struct tcb *c = &e->tcbs[e->sweep_at];
		e->sweep_at = e->sweep_at + 1 < e->ntcbs ? e->sweep_at + 1 : 0;
		/* One that is being opened looks it up when it is: establish(). */
		if (c->state < PB_TCP_ESTABLISHED || c->state == PB_TCP_TIME_WAIT)
			continue;
		uint32_t mtu = pb_pmtu_get(&e->pmtu, &c->raddr, now_ns);
		if (mtu)
			path_told(e, c, mtu);
	}
}

int pb_tcp_icmp(struct pb_tcp *e, const struct pb_tcp_endpoint *local, const struct pb_tcp_endpoint *remote,
		uint32_t seq, int err, uint32_t mtu, uint64_t now_ns)
{
	uint32_t hash = flow_hash(e, &local->addr, local->port, &remote->addr, remote->port);
	struct tcb *c = flow_find(e, hash, &local->addr, local->port, &remote->addr, remote->port);
	if (!c)
		return -ENOENT;
	if (seq_lt(seq, c->snd_una) || !seq_lt(seq, c->snd_nxt))
		return -EINVAL; /* RFC 5927 4.1: what is not in flight cannot have met with an error */
	if (mtu && (c->flags & TCB_NO_PMTUD))
		return 0;
	if (mtu && mtu < e->cfg.mtu) {
		uint32_t before = pb_pmtu_get(&e->pmtu, &c->raddr, now_ns);
		mtu = pb_pmtu_set(&e->pmtu, &c->raddr, mtu, now_ns);
		e->stats.n[PB_C_PmtuUpdates]++;
		if (c->state >= PB_TCP_ESTABLISHED)
			path_told(e, c, mtu);
		if (!before ||
		    mtu < before) { /* each packet under way has its message, and all but the first are no news */
			e->sweep_left = e->ntcbs;
			pmtu_sweep(e, now_ns);
		}
	} else if (mtu) {
		return 0; /* as much as we ever send */
	} else if (c->state == PB_TCP_SYN_SENT && err) {
		e->stats.n[PB_C_TcpAttemptFails]++;
		tcb_closed(e, c, err);
	} else if (err) {
		c->soft_error = err; /* RFC 1122 4.2.3.9: not a reason to give up, but perhaps why */
	}
	return 0;
}
