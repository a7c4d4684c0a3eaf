/* What is known of a connection, and the record of its ACKs. Names are those of Linux's tcp_info without the prefix. */
#ifndef PB_TCP_INFO_H
#define PB_TCP_INFO_H
#include "base/types.h"
#include "tcp/counters.h"

/* As in Linux's tcpi_ca_state. */
enum pb_tcp_ca_state { PB_TCP_CA_OPEN, PB_TCP_CA_DISORDER, PB_TCP_CA_CWR, PB_TCP_CA_RECOVERY, PB_TCP_CA_LOSS };

enum pb_tcp_info_flag {
	PB_TCP_I_TIMESTAMPS = 1,
	PB_TCP_I_SACK = 2,
	PB_TCP_I_WSCALE = 4,
	PB_TCP_I_ECN = 8,       /* negotiated */
	PB_TCP_I_ECN_SEEN = 16, /* a packet came with ECT */
	PB_TCP_I_DSACK_SEEN = 32,
	PB_TCP_I_APP_LIMITED = 64,
};

struct pb_tcp_endpoint {
	struct pb_ip addr; /* all zero in listen: any address */
	uint16_t port;
};

struct pb_tcp_info {
	uint32_t state;
	uint32_t ca_state; /* enum pb_tcp_ca_state */
	uint32_t mss;      /* payload of a full segment: snd_mss */
	uint32_t rcv_mss, advmss;
	uint32_t pmtu; /* largest IP packet that the path is known to take: the interface's MTU, or what ICMP said */
	uint32_t cwnd_bytes, ssthresh_bytes; /* ssthresh UINT32_MAX: none yet */
	uint32_t srtt_us, rttvar_us, rto_us, min_rtt_us, ato_us;
	uint32_t snd_wnd, rcv_wnd;
	uint32_t snd_wscale, rcv_wscale;
	uint32_t inflight_bytes, unsent_bytes, unread_bytes, ooo_segs;
	uint32_t unacked_segs, sacked_segs, lost_segs, retrans_segs; /* now; FIN counts in unacked */
	uint32_t reordering_segs, reord_seen;
	uint32_t backoff, timeouts_now, probes;           /* of the timer; in a row; not answered yet */
	uint64_t bytes_sent, bytes_acked, bytes_received; /* payload; sent counts retransmissions too */
	uint64_t bytes_retransmitted;
	uint64_t segs_out, segs_in, data_segs_out, data_segs_in;
	uint64_t retransmits, fast_retransmits, timeouts; /* segments; recovery episodes; RTO firings */
	uint64_t dup_acks_in, zero_window_probes, dsack_dups;
	uint64_t delivered_segs, delivered_ce_segs, lost_total_segs; /* delivered: SYN and FIN count too */
	uint64_t ooo_total_segs; /* segments that came out of order, those that came twice too */
	uint64_t last_data_sent_ns, last_data_recv_ns, last_ack_recv_ns; /* the caller's clock; 0: never */
	uint64_t busy_ns, rwnd_limited_ns, sndbuf_limited_ns;
	uint64_t pacing_rate, delivery_rate; /* bytes/s; pacing 0: off */
	uint32_t flags;                      /* enum pb_tcp_info_flag */
	int32_t error, soft_error;           /* soft: of an ICMP message, which ended nothing */
	char cc_name[16];
	struct pb_tcp_endpoint local, remote;
};

/* What happened with the ACK of a record. */
enum pb_tcp_trace_event {
	PB_TCP_T_ACK,
	PB_TCP_T_RTO,
	PB_TCP_T_TLP,
	PB_TCP_T_REO, /* the reordering timer found losses */
	PB_TCP_T_UNDO,
	PB_TCP_T_ENTER_RECOVERY,
	PB_TCP_T_ENTER_CWR,
	PB_TCP_T_ENTER_LOSS,
	PB_TCP_T_OPEN, /* recovery is over */
	PB_TCP_T_IDLE, /* cwnd restarted after an idle time */
	PB_TCP_T_COUNT
};

/* One record per ACK that was processed, and per event of the list above. */
struct pb_tcp_trace {
	uint64_t time_ns;
	uint64_t conn;                        /* handle */
	uint64_t delivered_bytes, lost_bytes; /* since the start */
	uint32_t cwnd_bytes, ssthresh_bytes;
	uint32_t srtt_us, rtt_us; /* rtt: of this ACK, 0: none */
	uint32_t inflight_bytes;  /* believed to be in the network */
	uint32_t acked_bytes;     /* by this ACK */
	uint8_t ca_state, event, tcp_state, pad;
	uint32_t snd_wnd;
};
_Static_assert(sizeof(struct pb_tcp_trace) == 64, "one cache line per record");
#endif
