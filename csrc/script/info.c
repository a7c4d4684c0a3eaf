/* TCP_INFO as Linux lays it out, from the engine's account of a connection. */
#include "script/impl.h"

#include <errno.h>

static const uint8_t states[PB_TCP_STATE_COUNT] = {
	[PB_TCP_CLOSED] = LX_CLOSE,         [PB_TCP_LISTEN] = LX_LISTEN,           [PB_TCP_SYN_SENT] = LX_SYN_SENT,
	[PB_TCP_SYN_RCVD] = LX_SYN_RECV,    [PB_TCP_ESTABLISHED] = LX_ESTABLISHED, [PB_TCP_FIN_WAIT_1] = LX_FIN_WAIT1,
	[PB_TCP_FIN_WAIT_2] = LX_FIN_WAIT2, [PB_TCP_CLOSE_WAIT] = LX_CLOSE_WAIT,   [PB_TCP_CLOSING] = LX_CLOSING,
	[PB_TCP_LAST_ACK] = LX_LAST_ACK,    [PB_TCP_TIME_WAIT] = LX_TIME_WAIT,
};

static uint32_t in_segments(uint64_t bytes, uint32_t mss)
{
	return mss ? (uint32_t)((bytes + mss - 1) / mss) : 0;
}

static void fill(const struct pb_host *h, const struct sock *s, const struct pb_tcp_info *i, struct pb_lx_tcp_info *o)
{
	o->state = states[i->state];
	o->options = (uint8_t)((i->flags & 1 ? LX_TCPI_OPT_TIMESTAMPS : 0) | (i->flags & 2 ? LX_TCPI_OPT_SACK : 0) |
			       (i->flags & 4 ? LX_TCPI_OPT_WSCALE : 0));
	o->wscale = (uint8_t)((i->snd_wscale & 15) | i->rcv_wscale << 4);
	o->rto = i->rto_us;
	o->snd_mss = i->mss;
	o->rcv_mss = i->mss;
	o->unacked = in_segments(i->inflight_bytes, i->mss);
	o->rtt = i->srtt_us;
	o->rttvar = i->rttvar_us;
	o->min_rtt = i->min_rtt_us;
	o->snd_cwnd = i->mss ? i->cwnd_bytes / i->mss : 0;
	o->snd_ssthresh = !i->mss || i->ssthresh_bytes >= LX_TCP_INFINITE_SSTHRESH ? LX_TCP_INFINITE_SSTHRESH
										   : i->ssthresh_bytes / i->mss;
	o->advmss = h->cfg.mtu[s->family == 6] - (s->family == 6 ? 60u : 40u);
	o->pmtu = h->cfg.mtu[s->family == 6];
	o->total_retrans = (uint32_t)i->retransmits;
	o->bytes_acked = i->bytes_acked;
	o->bytes_received = i->bytes_received;
	o->bytes_sent = i->bytes_sent;
	o->bytes_retrans = i->bytes_retransmitted;
	o->segs_out = (uint32_t)i->segs_out;
	o->segs_in = (uint32_t)i->segs_in;
	o->notsent_bytes = i->unsent_bytes;
	o->snd_wnd = i->snd_wnd;
	o->rcv_wnd = i->rcv_wnd;
	o->last_data_sent = (uint32_t)((h->now_ns - s->last_write_ns) / NS_PER_MS);
}

uint32_t info_linux(struct pb_host *h, struct sock *s, void *v, uint32_t n)
{
	struct pb_lx_tcp_info o = {.state = LX_CLOSE};
	struct pb_tcp_info i;
	if (s->phase == SOCK_LISTENING)
		o.state = LX_LISTEN;
	else if (s->conn && !pb_tcp_get_info(h->tcp, s->conn, &i))
		fill(h, s, &i, &o);
	if (n > sizeof(o))
		n = sizeof(o);
	memcpy(v, &o, n);
	return n;
}
