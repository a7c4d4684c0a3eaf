/* TCP_INFO as Linux lays it out, from the engine's account of a connection. */
#include "script/impl.h"

#include <errno.h>

static const uint8_t states[PB_TCP_STATE_COUNT] = {
	[PB_TCP_CLOSED] = LX_CLOSE,         [PB_TCP_LISTEN] = LX_LISTEN,           [PB_TCP_SYN_SENT] = LX_SYN_SENT,
	[PB_TCP_SYN_RCVD] = LX_SYN_RECV,    [PB_TCP_ESTABLISHED] = LX_ESTABLISHED, [PB_TCP_FIN_WAIT_1] = LX_FIN_WAIT1,
	[PB_TCP_FIN_WAIT_2] = LX_FIN_WAIT2, [PB_TCP_CLOSE_WAIT] = LX_CLOSE_WAIT,   [PB_TCP_CLOSING] = LX_CLOSING,
	[PB_TCP_LAST_ACK] = LX_LAST_ACK,    [PB_TCP_TIME_WAIT] = LX_TIME_WAIT,
};

static uint32_t ms_since(uint64_t now_ns, uint64_t then_ns)
{
	return then_ns ? (uint32_t)((now_ns - then_ns) / NS_PER_MS) : 0;
}

static void fill_path(const struct pb_host *h, const struct pb_tcp_info *i, struct pb_lx_tcp_info *o)
{
	o->rto = i->rto_us;
	o->ato = i->ato_us;
	o->snd_mss = i->mss;
	o->rcv_mss = i->rcv_mss;
	o->pmtu = i->pmtu;
	o->advmss = i->advmss;
	o->rtt = i->srtt_us;
	o->rttvar = i->rttvar_us;
	o->min_rtt = i->min_rtt_us;
	o->snd_cwnd = i->mss ? i->cwnd_bytes / i->mss : 0;
	bool none = !i->mss || i->ssthresh_bytes >= LX_TCP_INFINITE_SSTHRESH;
	o->snd_ssthresh = none ? LX_TCP_INFINITE_SSTHRESH : i->ssthresh_bytes / i->mss;
	o->reordering = i->reordering_segs;
	o->reord_seen = i->reord_seen;
	o->snd_wnd = i->snd_wnd;
	o->rcv_wnd = i->rcv_wnd;
	o->pacing_rate = i->pacing_rate;
	o->max_pacing_rate = UINT64_MAX;
	o->delivery_rate = i->delivery_rate;
	o->last_data_sent = ms_since(h->now_ns, i->last_data_sent_ns);
	o->last_data_recv = ms_since(h->now_ns, i->last_data_recv_ns);
	o->last_ack_recv = ms_since(h->now_ns, i->last_ack_recv_ns);
}

static void fill_counts(const struct pb_tcp_info *i, struct pb_lx_tcp_info *o)
{
	o->retransmits = (uint8_t)i->timeouts_now;
	o->probes = (uint8_t)i->probes;
	o->backoff = (uint8_t)i->backoff;
	o->unacked = i->unacked_segs;
	o->sacked = i->sacked_segs;
	o->lost = i->lost_segs;
	o->retrans = i->retrans_segs;
	o->total_retrans = (uint32_t)i->retransmits;
	o->total_rto = (uint16_t)i->timeouts;
	o->bytes_acked = i->bytes_acked;
	o->bytes_received = i->bytes_received;
	o->bytes_sent = i->bytes_sent;
	o->bytes_retrans = i->bytes_retransmitted;
	o->segs_out = (uint32_t)i->segs_out;
	o->segs_in = (uint32_t)i->segs_in;
	o->data_segs_out = (uint32_t)i->data_segs_out;
	o->data_segs_in = (uint32_t)i->data_segs_in;
	o->notsent_bytes = i->unsent_bytes;
	o->delivered = (uint32_t)i->delivered_segs;
	o->delivered_ce = (uint32_t)i->delivered_ce_segs;
	o->rcv_ooopack = (uint32_t)i->ooo_total_segs;
	o->dsack_dups = (uint32_t)i->dsack_dups;
	o->busy_time = i->busy_ns / NS_PER_US;
	o->rwnd_limited = i->rwnd_limited_ns / NS_PER_US;
	o->sndbuf_limited = i->sndbuf_limited_ns / NS_PER_US;
}

static uint8_t options_of(uint32_t flags)
{
	return (uint8_t)((flags & PB_TCP_I_TIMESTAMPS ? LX_TCPI_OPT_TIMESTAMPS : 0) |
			 (flags & PB_TCP_I_SACK ? LX_TCPI_OPT_SACK : 0) |
			 (flags & PB_TCP_I_WSCALE ? LX_TCPI_OPT_WSCALE : 0) |
			 (flags & PB_TCP_I_ECN ? LX_TCPI_OPT_ECN : 0) |
			 (flags & PB_TCP_I_ECN_SEEN ? LX_TCPI_OPT_ECN_SEEN : 0));
}

uint32_t info_linux(struct pb_host *h, struct sock *s, void *v, uint32_t n)
{
	struct pb_lx_tcp_info o = {.state = LX_CLOSE};
	struct pb_tcp_info i;
	if (s->phase == SOCK_LISTENING) {
		o.state = LX_LISTEN;
	} else if (s->conn && !pb_tcp_get_info(h->tcp, s->conn, &i)) {
		o.state = states[i.state];
		o.ca_state = (uint8_t)i.ca_state; /* the same numbers */
		o.options = options_of(i.flags);
		o.wscale = (uint8_t)((i.snd_wscale & 15) | i.rcv_wscale << 4);
		o.app_limited = (i.flags & PB_TCP_I_APP_LIMITED) != 0;
		fill_path(h, &i, &o);
		fill_counts(&i, &o);
	}
	if (n > sizeof(o))
		n = sizeof(o);
	memcpy(v, &o, n);
	return n;
}
