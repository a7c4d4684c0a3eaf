/* What is known of a connection. Segments are counted here, by walking the queue, and not kept on the way. */
#include "tcp/tcb.h"

#include <errno.h>

static uint32_t flags_of(const struct tcb *c)
{
	return (c->flags & TCB_TS ? PB_TCP_I_TIMESTAMPS : 0u) | (c->flags & TCB_SACK ? PB_TCP_I_SACK : 0u) |
	       (c->flags & TCB_WSCALE ? PB_TCP_I_WSCALE : 0u) | (c->bits & BIT_ECN ? PB_TCP_I_ECN : 0u) |
	       (c->bits & BIT_ECN_SEEN ? PB_TCP_I_ECN_SEEN : 0u) |
	       (c->bits & BIT_DSACK_SEEN ? PB_TCP_I_DSACK_SEEN : 0u) |
	       (!(c->flags & TCB_CWND_LIMITED) && c->sq_next == NONE ? PB_TCP_I_APP_LIMITED : 0u);
}

static void count_segs(const struct pb_tcp *e, const struct tcb *c, struct pb_tcp_info *i)
{
	for (uint32_t f = c->sq_head; f != NONE && (e->segs[f].flags & SEG_SENT); f = e->segs[f].next) {
		uint32_t flags = e->segs[f].flags;
		i->unacked_segs++;
		i->sacked_segs += !!(flags & SEG_SACKED);
		i->lost_segs += !!(flags & SEG_LOST);
		i->retrans_segs += !!(flags & SEG_RETRANS);
	}
	if (!(c->flags & TCB_SACK))
		i->sacked_segs = c->sacked_segs;
	i->unacked_segs += (c->flags & TCB_FIN_SENT) && c->snd_una != c->snd_nxt;
	if (c->state == PB_TCP_SYN_SENT || c->state == PB_TCP_SYN_RCVD)
		i->unacked_segs++;
}

static void times(const struct pb_tcp *e, const struct tcb *c, struct pb_tcp_info *i)
{
	uint64_t sum[CHRONO_COUNT];
	memcpy(sum, c->chrono_sum, sizeof(sum));
	sum[c->chrono] += e->now_ns - c->chrono_ns;
	i->srtt_us = c->srtt8_us / 8;
	i->rttvar_us = c->mdev4_us / 4;
	i->rto_us = (uint32_t)(rto_ns(c) / NS_PER_US);
	i->min_rtt_us = c->min_rtt_us == UINT32_MAX ? 0 : c->min_rtt_us;
	i->ato_us = c->ato_us;
	i->last_data_sent_ns = c->last_send_ns;
	i->last_data_recv_ns = c->last_data_ns;
	i->last_ack_recv_ns = c->last_rx_ns;
	i->rwnd_limited_ns = sum[CHRONO_RWND];
	i->sndbuf_limited_ns = sum[CHRONO_SNDBUF];
	i->busy_ns = sum[CHRONO_BUSY] + i->rwnd_limited_ns + i->sndbuf_limited_ns;
	i->delivery_rate = c->rate_bytes_s;
	i->pacing_rate = c->pacing_rate;
}

int pb_tcp_get_info(struct pb_tcp *e, pb_tcp_handle h, struct pb_tcp_info *info)
{
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	/* Not what probing holds for safe: icsk_pmtu_cookie of Linux does not follow that either. */
	uint32_t pmtu = pb_pmtu_get(&e->pmtu, &c->raddr, e->now_ns);
	*info = (struct pb_tcp_info){
		.state = c->state,
		.ca_state = c->ca_state,
		.mss = c->mss,
		.rcv_mss = c->rcv_mss,
		.advmss = c->advmss,
		.pmtu = pmtu ? pmtu : e->cfg.mtu,
		.cwnd_bytes = c->cc.cwnd,
		.ssthresh_bytes = c->cc.ssthresh,
		.snd_wnd = c->snd_wnd,
		.rcv_wnd = c->rcv_adv - c->rcv_nxt,
		.snd_wscale = c->snd_wscale,
		.rcv_wscale = c->rcv_wscale,
		.inflight_bytes = in_flight(c),
		.unsent_bytes = c->sq_next == NONE ? 0 : c->snd_end - c->snd_nxt,
		.unread_bytes = c->rq_bytes,
		.ooo_segs = c->oq_count,
		.reordering_segs = c->reordering,
		.reord_seen = c->reord_seen,
		.backoff = c->backoff,
		.timeouts_now = c->tries,
		.probes = c->ka_sent,
		.bytes_sent = c->bytes_sent,
		.bytes_acked = c->bytes_acked,
		.bytes_received = c->bytes_received,
		.bytes_retransmitted = c->bytes_rexmit,
		.segs_out = c->segs_out,
		.segs_in = c->segs_in,
		.data_segs_out = c->data_segs_out,
		.data_segs_in = c->data_segs_in,
		.retransmits = c->rexmits,
		.fast_retransmits = c->fast_rexmits,
		.timeouts = c->timeouts,
		.dup_acks_in = c->dupacks_in,
		.zero_window_probes = c->probes_out,
		.dsack_dups = c->dsack_dups,
		.delivered_segs = c->delivered_segs,
		.delivered_ce_segs = c->delivered_ce_segs,
		.lost_total_segs = c->lost_total_segs,
		.ooo_total_segs = c->ooo_total_segs,
		.flags = flags_of(c),
		.error = c->error,
		.soft_error = c->soft_error,
		.local = {c->laddr, c->lport},
		.remote = {c->raddr, c->rport},
	};
	count_segs(e, c, info);
	times(e, c, info);
	const char *name = c->cc_ops->name;
	for (uint32_t i = 0; i + 1 < sizeof(info->cc_name) && name[i]; i++)
		info->cc_name[i] = name[i];
	return 0;
}
