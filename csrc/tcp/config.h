/* What an engine is created with, and what a connection may be told later. Times in ns, sizes in bytes. */
#ifndef PB_TCP_CONFIG_H
#define PB_TCP_CONFIG_H
#include "base/types.h"

struct pb_cc_ops;

/* When data is acknowledged at once, and when the ACK waits for company (RFC 1122 4.2.3.2, RFC 5681 4.2). */
enum pb_tcp_acks {
	PB_TCP_ACKS_LINUX, /* at once at the start of a connection and after idle times, then within 40 ms (adaptive) */
	PB_TCP_ACKS_BSD,   /* every second full-sized segment, else delack_ns */
};

/* RFC 3168, with the meaning of Linux's tcp_ecn. */
enum pb_tcp_ecn { PB_TCP_ECN_OFF = 0, PB_TCP_ECN_ON = 1, PB_TCP_ECN_PASSIVE = 2 };

/* Packetization layer path MTU discovery (RFC 4821), with the meaning of Linux's tcp_mtu_probing. */
enum pb_tcp_probing { PB_TCP_PROBING_OFF = 0, PB_TCP_PROBING_BLACK_HOLE = 1, PB_TCP_PROBING_ALWAYS = 2 };

struct pb_tcp_config {
	/* Connections, half-open and TIME_WAIT included. When all are taken, a new one replaces the oldest in TIME_WAIT
	 * that the application has closed. */
	uint32_t max_conns;
	uint32_t max_listeners;
	uint32_t rcvbuf_bytes;   /* memory that received data may hold, charged by whole frames */
	uint32_t sndbuf_bytes;   /* payload queued and not yet acknowledged */
	uint32_t ooo_segs;       /* out-of-order segments kept per connection */
	uint32_t reserve_frames; /* frames that data may not take: kept for the fill ring and for control segments */
	uint16_t mtu;            /* largest IP packet */
	uint16_t mss_clamp;      /* the largest MSS that is announced or used; 0: what the MTU gives */
	uint8_t ttl;
	uint8_t tos;                   /* DSCP; the ECN bits are the engine's */
	uint8_t acks;                  /* enum pb_tcp_acks */
	uint8_t ecn;                   /* enum pb_tcp_ecn */
	bool timestamps, sack, wscale; /* offered; used when both sides offer them */
	bool dsack;                    /* duplicates are reported (RFC 2883) */
	bool rack;                     /* RFC 8985 finds losses; off: counted duplicates (RFC 6675 3) */
	bool rack_static;              /* the reordering window stays a quarter of the least RTT */
	bool rack_no_dupthresh;        /* three duplicates alone prove nothing, also where no reordering was seen */
	bool tlp;                      /* tail loss probes (RFC 8985 7) */
	bool frto;                     /* RFC 5682 */
	bool slow_start_after_idle;    /* RFC 5681 4.1 */
	bool nagle;
	bool tx_chains;             /* the device takes PB_DESC_MORE and PB_DESC_AGAIN; a path asks its device */
	bool pmtu_discovery;        /* DF on IPv4 packets, and ICMP errors about it are listened to */
	uint32_t initial_cwnd_segs; /* 0: RFC 6928 */
	uint32_t reordering_segs;   /* duplicates that mean a loss, to begin with */
	uint64_t rto_initial_ns, rto_min_ns, rto_max_ns;
	uint64_t timer_slack_ns; /* what probe and reordering timers allow beyond the RTT (RFC 8985 7.2) */
	uint64_t delack_ns;
	uint64_t cork_ns; /* a corked segment goes out after this time however small it is */
	uint64_t time_wait_ns;
	uint64_t fin_wait2_ns;    /* for connections that the application has closed */
	uint64_t user_timeout_ns; /* RFC 5482; 0: the retries decide */
	uint32_t syn_retries, synack_retries, data_retries;
	uint32_t orphan_retries;    /* of data, when the application has closed; 0: 8 */
	uint64_t keepalive_idle_ns; /* 0: off */
	uint64_t keepalive_interval_ns;
	uint32_t keepalive_probes;
	uint64_t challenge_ns; /* between two ACKs that answer what is not acceptable, per connection (RFC 5961 7) */
	uint32_t challenge_per_sec; /* such ACKs of the whole engine */
	uint8_t probing;            /* enum pb_tcp_probing */
	uint8_t rcv_wscale;         /* window scale to offer at least; more if the buffer needs it (RFC 7323 2) */
	uint16_t probing_base_mss;  /* where the search begins, or goes back to in a black hole */
	uint16_t probing_floor_mss;
	uint32_t trace_records; /* ring of per-ACK records, 0: none; a power of two */
	uint8_t secret[16];     /* keys the ISN (RFC 6528), the timestamp offset and the flow table */
	const struct pb_cc_ops *cc;
};

PB_API void pb_tcp_config_default(struct pb_tcp_config *cfg);

/* Options of one connection; of a listener: what its connections begin with. Booleans are 0 and 1. */
enum pb_tcp_option {
	PB_TCP_O_NODELAY,           /* 1: Nagle's algorithm off, what it held goes out (RFC 896) */
	PB_TCP_O_CORK,              /* 1: only full segments, or after cork_ns; 0 sends what was held */
	PB_TCP_O_QUICKACK,          /* 1: acknowledge at once for now, 0: delay from now on */
	PB_TCP_O_ACKS,              /* enum pb_tcp_acks */
	PB_TCP_O_DELACK_NS,         /* the longest delay of an ACK, at most 500 ms (RFC 1122 4.2.3.2) */
	PB_TCP_O_KEEPALIVE_IDLE_NS, /* 0: off */
	PB_TCP_O_KEEPALIVE_INTERVAL_NS,
	PB_TCP_O_KEEPALIVE_PROBES,
	PB_TCP_O_USER_TIMEOUT_NS, /* RFC 5482; 0: off */
	PB_TCP_O_LINGER_NS,       /* -1: close() sends what is queued; 0: close() resets; else: the caller may wait */
	PB_TCP_O_MAXSEG,          /* before the handshake; read: the MSS in use */
	PB_TCP_O_SYN_RETRIES,
	PB_TCP_O_FIN_WAIT2_NS,
	PB_TCP_O_RCVBUF, /* no smaller than what the application holds: read it back */
	PB_TCP_O_SNDBUF,
	PB_TCP_O_WINDOW_CLAMP, /* never advertise more; 0: off */
	PB_TCP_O_TOS,
	PB_TCP_O_TTL,
	PB_TCP_O_PMTU_DISCOVERY,
	PB_TCP_O_PACING_RATE, /* bytes of IP packets per second, 0: as fast as the windows allow */
	PB_TCP_O_RTO_MIN_NS,  /* at least 1 ms */
	PB_TCP_O_RTO_MAX_NS,
	PB_TCP_O_NOTSENT_LOWAT, /* WRITABLE is told only below so many unsent bytes; 0: off */
	PB_TCP_O_SLOW_START_AFTER_IDLE,
	PB_TCP_O_COUNT
};

/* Flags of pb_tcp_send(). */
enum pb_tcp_send_flag {
	PB_TCP_MORE = 1u << 0, /* more follows: hold what does not fill a segment, as when corked */
	PB_TCP_EOR = 1u << 1,  /* the last byte ends a record: no segment carries it and what is sent later (MSG_EOR) */
};
#endif
