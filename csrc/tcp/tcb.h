/* The engine's own structures. Private to csrc/tcp. */
#ifndef PB_TCP_TCB_H
#define PB_TCP_TCB_H
#include "cc/cc.h"
#include "net/pmtu.h"
#include "tcp/seq.h"
#include "tcp/tcp.h"
#include "wire/csum.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#define NONE UINT32_MAX
#define NEVER UINT64_MAX
#define NS_PER_MS 1000000u
#define NS_PER_US 1000u

/* One entry per frame of the pool: what the engine knows of the frame while it uses it. */
enum seg_flag {
	SEG_INDEV = 1u << 0,  /* handed to the device, not yet back */
	SEG_ORPHAN = 1u << 1, /* to be freed when the device gives it back */
	SEG_SENT = 1u << 2,
	SEG_SACKED = 1u << 3,
	SEG_LOST = 1u << 4,    /* its first transmission is believed lost; stays when it was sent again */
	SEG_RETRANS = 1u << 5, /* was sent again, and that is believed to be in the network */
	SEG_REXMIT = 1u << 6,  /* was sent more than once: no RTT sample (Karn) */
	SEG_PUSH = 1u << 7,    /* last of what one send call gave */
	SEG_MORE = 1u << 8,    /* the call said that more follows */
	SEG_EOR = 1u << 10,    /* the end of a record: what follows is never joined to it */
	SEG_PROBE = 1u << 9,   /* larger than the MSS, to find out what the path carries (RFC 4821) */
};

struct seg {
	uint32_t next; /* frame index */
	uint32_t seq;
	uint16_t len;
	uint16_t off;  /* payload, from the frame's start */
	uint32_t csum; /* partial sum of the payload (send side) */
	uint16_t flags;
	uint8_t again; /* references that the device has beyond the first: 0 without SEG_INDEV */
	uint8_t pad;
	uint32_t delivered; /* the connection's count of delivered segments when this one was sent */
	uint64_t sent_ns;
};
_Static_assert(sizeof(struct seg) == 32, "two to a cache line");

enum tcb_flag {
	TCB_TS = 1u << 0, /* timestamps in use */
	TCB_SACK = 1u << 1,
	TCB_WSCALE = 1u << 2,
	TCB_ACK_NOW = 1u << 3,
	TCB_SYN_OUT = 1u << 4,    /* SYN or SYN-ACK is to be sent (again) */
	TCB_FIN_QUEUED = 1u << 5, /* the application sends no more: FIN follows the data */
	TCB_FIN_SENT = 1u << 6,
	TCB_FIN_OUT = 1u << 7,   /* FIN is to be sent again */
	TCB_RFIN = 1u << 8,      /* FIN seen at rfin_seq, perhaps not in order yet */
	TCB_RFIN_DONE = 1u << 9, /* and processed */
	TCB_DETACHED = 1u << 10, /* closed by the application: the handle is void */
	TCB_RCV_SHUT = 1u << 11, /* SHUT_RD: data is acknowledged and thrown away */
	TCB_PASSIVE = 1u << 12,
	TCB_NAGLE = 1u << 13,
	TCB_CORK = 1u << 14,         /* only full segments for now */
	TCB_PROBE = 1u << 15,        /* a window or keepalive probe is to be sent */
	TCB_READY = 1u << 16,        /* on the output list */
	TCB_EVENT = 1u << 17,        /* on the event list */
	TCB_QUEUED = 1u << 18,       /* on its listener's accept queue */
	TCB_FRTO = 1u << 19,         /* a timeout that may be spurious (RFC 5682) */
	TCB_RENEGED = 1u << 20,      /* the receiver took SACKs back in this recovery */
	TCB_CWND_LIMITED = 1u << 21, /* cwnd, not the application, bounds the flight (RFC 7661) */
	TCB_HASHED = 1u << 22,       /* in the flow table */
	TCB_FORCE = 1u << 23,        /* sender SWS override: send what fits */
	TCB_DEAD = 1u << 25,         /* freed, and on the output list still */
	TCB_EMBRYO = 1u << 24,       /* counted in its listener's backlog */
	TCB_ASK = 1u << 27,          /* listener: each SYN is for the accept policy first */
	TCB_SPARE = 1u << 26,        /* on the list of those that a new connection may replace */
	TCB_PUSH_ALL = 1u << 28,     /* what was held by Nagle or a cork goes out now */
	TCB_KA_PROBE = 1u << 29,     /* TCB_PROBE is a keepalive's */
	TCB_NO_PMTUD = 1u << 30,     /* DF clear, ICMP about it ignored */
	TCB_TLP_DUE = 1u << 31,      /* a tail loss probe goes with the next output */
};

/* The second word of flags: acknowledging, ECN, recovery. */
enum tcb_bit {
	BIT_PINGPONG = 1u << 0, /* a dialogue: ACKs travel with the answers */
	BIT_ACKS_BSD = 1u << 1,
	BIT_DSACK = 1u << 2, /* dsack_left to dsack_right arrived twice and is to be reported */
	BIT_ECN = 1u << 3,   /* negotiated */
	BIT_ECN_SEEN = 1u << 4,
	BIT_ECE = 1u << 5, /* ACKs carry ECE until CWR comes */
	BIT_CWR = 1u << 6, /* the next segment of new data carries CWR */
	BIT_RACK_ADVANCED = 1u << 7,
	BIT_RACK_DSACK = 1u << 8, /* a duplicate was reported in this round */
	BIT_TLP_REXMIT = 1u << 9, /* the probe in flight was a retransmission */
	BIT_DSACK_SEEN = 1u << 10,
	BIT_DELACK_TIMED = 1u << 11, /* TCB_ACK_NOW was set by the timer */
	BIT_IDLE_RESTART = 1u << 12, /* slow start after idle (RFC 5681 4.1) */
	BIT_SYN_ECN = 1u << 13,      /* our SYN asked for ECN */
	BIT_NOSPACE = 1u << 14,      /* a send call found the buffer full */
	BIT_ECN_NO_SYN = 1u << 15,   /* SYN sent again: without ECN */
	BIT_SYN_TWICE = 1u << 16,    /* SYN or SYN-ACK went out more than once */
	BIT_ZERO_WND = 1u << 17,     /* the last window we advertised was 0 */
	BIT_NEW_FIRST = 1u << 18,    /* F-RTO: new data before what is lost */
	BIT_TLP = 1u << 20,          /* a tail loss probe is out, up to tlp_seq */
	BIT_PUSHED = 1u << 21,       /* a segment below rcv_mss waits for its ACK */
	BIT_PUSHED_TWICE = 1u << 22, /* more than one */
	BIT_NO_FRAME = 1u << 24,     /* a send call found no frame: WRITABLE is told in a while */
	BIT_FIN_ALONE = 1u << 23,    /* the FIN went in a segment of its own, the last time */
	BIT_RATE_LIMITED = 1u << 19, /* pacing holds the next segment back */
	BIT_READS = 1u << 25,        /* the application had read all there was, at least once */
	BIT_ACK_UNITS = 1u << 26,    /* TCB_ACK_NOW is for whole units of the window's scale: ack_soon() */
	BIT_ACK_LESS = 1u << 27,     /* the last ACK said less than had come, and no more has come since */
};

/* What t_rtx is for. */
enum rtx_kind { RTX_NONE, RTX_RTO, RTX_PERSIST, RTX_TLP, RTX_REO };

/* What the time since chrono_ns counts as. */
enum chrono { CHRONO_IDLE, CHRONO_BUSY, CHRONO_RWND, CHRONO_SNDBUF, CHRONO_COUNT };

/* What wants to send, and what has something to tell. */
enum tcb_list { LIST_READY, LIST_EVENT, LIST_COUNT };

/* The listener's and the spare ones are doubly linked by q_next and q_prev, those of enum tcb_list by next[]. */
struct queue {
	uint32_t head, tail;
};

/* Laid out by cache line. What data without losses touches at its receiver comes first (TCB_RECEIVE_BYTES), then what
 * it touches at its sender too (TCB_HOT_BYTES). */
struct tcb {
	/* 0: identity and state */
	struct pb_ip laddr PB_ALIGNED(PB_CACHE_LINE);
	struct pb_ip raddr;
	uint16_t lport, rport;
	uint32_t hash;
	uint32_t idx, gen;
	uint32_t flags, bits;
	uint8_t state;
	uint8_t snd_wscale, rcv_wscale;
	uint8_t ip_hdr_len;
	uint16_t mss; /* payload of a full segment, options subtracted */
	uint16_t ip_id;
	/* 1: receive */
	uint32_t rcv_nxt;
	uint32_t rcv_adv; /* right edge of the window we advertised */
	uint32_t last_ack_sent;
	uint32_t rq_head, rq_tail; /* in order, unread */
	uint32_t rq_bytes;
	uint32_t oq_head; /* out of order, sorted, disjoint */
	uint32_t oq_count;
	uint32_t rcv_frames; /* frames charged: rq, oq and what the application holds */
	uint32_t rcvbuf;     /* bytes of frames */
	uint32_t rcv_full;   /* what full segments of advmss bytes in that many frames hold: rcv_sized() */
	uint32_t wnd_clamp;
	uint16_t advmss;
	uint16_t rcv_mss;  /* what the peer's full segments seem to hold */
	uint8_t quickacks; /* ACKs that go at once */
	uint8_t tos, ttl;
	uint8_t chrono;     /* enum chrono */
	uint32_t ts_offset; /* of our timestamp clock */
	uint32_t ts_recent;
	/* 2: timers, lists, events */
	uint64_t t_rtx, t_delack, t_misc, t_pace;
	uint32_t next[LIST_COUNT];
	uint32_t events;
	int32_t error;
	uint32_t cookie;
	uint32_t listener;    /* a child's */
	uint32_t ato_us;      /* how long an ACK may wait (Linux profile) */
	uint32_t held_frames; /* of rcv_frames, the application's */
	/* 3: send */
	uint32_t snd_una;
	uint32_t snd_nxt;
	uint32_t snd_end; /* end of queued data (FIN excluded) */
	uint32_t snd_wnd, snd_wl1, snd_wl2, max_snd_wnd;
	uint32_t sq_head, sq_tail, sq_next; /* oldest unacknowledged, newest, first never sent */
	uint32_t rtx_hint;                  /* where the search for lost segments starts */
	uint32_t sacked_bytes, lost_bytes;  /* of segments in flight */
	uint32_t retrans_bytes;             /* of those, sent again and believed under way */
	uint32_t sacked_segs;               /* without SACK: duplicates counted */
	uint32_t todo_bytes;                /* lost and not sent again yet */
	/* 4: of every segment */
	uint64_t last_rx_ns, last_data_ns, last_send_ns; /* when anything came in, data came in, data went out */
	uint64_t delack_ns;
	uint32_t delivered_segs, lost_total_segs;
	uint8_t ca_state; /* enum pb_tcp_ca_state */
	uint8_t rtx_kind; /* enum rtx_kind */
	uint8_t rack_steps, rack_persist;
	uint32_t sndbuf;
	uint32_t recover_seq; /* snd_nxt when the state began (high_seq) */
	uint32_t tries;       /* timeouts in a row without progress */
	uint32_t ka_sent;
	uint32_t acked_event; /* bytes acknowledged and not yet told */
	/* 5: counters */
	uint64_t bytes_sent, bytes_acked, bytes_received, delivered_bytes;
	uint64_t segs_out, segs_in, data_segs_out, data_segs_in;
	/* 6: times of what was acknowledged */
	uint64_t rack_sent_ns; /* send time of the newest segment known to have arrived, ... */
	uint32_t rack_end;     /* ... and its end */
	uint32_t rack_rtt_us;
	uint32_t reordering; /* segments */
	uint32_t srtt8_us, mdev4_us, mdev_max_us, rttvar_us, rtt_seq, rto_us, min_rtt_us;
	uint64_t min_rtt_ns; /* when it was seen */
	uint32_t backoff;    /* of the RTO: kept until there is a sample (Karn) */
	uint32_t pushed_seq; /* end of the last segment that was queued with PSH */
	/* 7, 8: congestion control */
	struct pb_cc cc;
	const struct pb_cc_ops *cc_ops;
	uint64_t cwnd_ns; /* when cwnd was last found in full use */
	/* 9: what limits sending */
	uint32_t cwnd_seq; /* end of the window that cwnd-limited speaks of */
	uint32_t max_out;  /* most bytes in flight in it */
	uint32_t cwnd_used;
	uint32_t small_end; /* end of the last segment below the MSS (Minshall) */
	uint64_t chrono_ns, chrono_sum[CHRONO_COUNT];
	uint64_t dupacks_in;
	/* 10: read only, or nearly so */
	uint64_t rto_min_ns, rto_max_ns, pacing_rate;
	uint64_t probe_began_ns; /* when a closed window was probed first; 0: it is not */
	uint64_t rate_bytes_s;
	uint64_t ts_recent_ns;
	uint32_t notsent_lowat;
	uint32_t rfin_seq;
	uint16_t max_mss;    /* the application's limit, 0: none */
	uint16_t last_small; /* the last segment below rcv_mss */
	uint16_t reord_seen;
	uint16_t pad;
	/* receive, rarely */
	uint32_t oq_last_seq; /* most recent arrival: its block is reported first (RFC 2018 4) */
	uint32_t dsack_left, dsack_right;
	uint32_t ooo_total_segs;
	/* losses */
	uint32_t fack; /* end of the highest segment that was SACKed */
	uint32_t dupacks;
	uint32_t rack_last_delivered;
	uint32_t tlp_seq;                /* snd_nxt when the probe went */
	uint32_t prr_delivered, prr_out; /* bytes since the reduction began (RFC 6937) */
	uint32_t prior_cwnd, prior_ssthresh;
	uint32_t undo_una;    /* snd_una when cwnd was reduced; undo_on: valid */
	int32_t undo_retrans; /* retransmissions that nobody has reported as duplicates; -1: none were sent */
	uint64_t retrans_ns;  /* when the first retransmission of this episode went out; 0: none */
	uint64_t lost_total_bytes;
	uint32_t delivered_ce_segs;
	bool undo_on;
	/* opening */
	uint32_t iss, irs;
	uint64_t syn_ns; /* when the SYN went out; 0 if more than once */
	uint32_t syns_sent, syn_retries;
	int32_t soft_error; /* reported by ICMP; says why when the connection is given up (RFC 1122 4.2.3.9) */
	/* listener: accept queue; child: its place in the listener's queue (in TIME-WAIT: among the spare) */
	struct queue aq;
	uint32_t q_next, q_prev;
	uint32_t backlog, waiting; /* waiting: embryos and queued children */
	/* cold */
	uint64_t pace_next_ns, last_challenge_ns, last_oow_ns;
	uint64_t ka_idle_ns, ka_interval_ns, user_timeout_ns, fin_wait2_ns;
	int64_t linger_ns;
	uint32_t ka_probes;
	uint16_t own_mss, peer_mss; /* what each end allows, options not subtracted */
	struct {
		uint16_t low, high; /* what is known to fit, and what is known or thought not to: packet sizes */
		uint16_t size;      /* of the probe in flight, 0: none */
		uint16_t failed;
		uint32_t left, right; /* its sequence numbers */
		uint64_t due_ns;      /* when the search ended */
		bool on;
	} probing;
	uint64_t bytes_rexmit, rexmits, fast_rexmits, timeouts, probes_out;
	uint32_t dsack_dups;
};
#define TCB_RECEIVE_BYTES (6u * PB_CACHE_LINE)
#define TCB_HOT_BYTES (11u * PB_CACHE_LINE)
#define LINE_STARTS(n, field) _Static_assert(offsetof(struct tcb, field) == (n)*PB_CACHE_LINE, "its cache line")
LINE_STARTS(1, rcv_nxt);
LINE_STARTS(2, t_rtx);
LINE_STARTS(3, snd_una);
LINE_STARTS(4, last_rx_ns);
LINE_STARTS(5, bytes_sent);
LINE_STARTS(6, rack_sent_ns);
LINE_STARTS(7, cc);
LINE_STARTS(9, cwnd_seq);
LINE_STARTS(10, rto_min_ns);
LINE_STARTS(11, oq_last_seq);
#undef LINE_STARTS

/* A segment that belongs to no connection: RST to the unknown. */
struct reply {
	struct pb_ip src, dst;
	uint16_t sport, dport;
	uint32_t seq, ack;
	uint8_t flags, tos, ttl;
	bool has_ts;
	uint32_t ts_val, ts_ecr;
};
#define REPLY_MAX 64u

/* An entry of the timers' heap. The key is here, and not in the connection: who sifts must not fetch them all. */
struct due {
	uint64_t key;
	uint32_t idx;
};

struct pb_region;

struct pb_tcp {
	struct pb_pool *pool;
	struct pb_pool_cache *cache;
	struct seg *segs;    /* by frame index */
	uint32_t frame_log2; /* of what a frame holds, rounded up */
	struct tcb *tcbs;
	uint32_t *table; /* flow table: tcb index + 1; 0 is empty */
	uint32_t table_mask;
	struct due *heap;
	uint32_t
		*heap_at; /* by connection: its place, NONE: not in it. Apart, so that sifting touches no connections */
	struct pb_region *regions[5]; /* of the large ones of these arrays; NULL: from malloc() */
	uint32_t heap_n;
	uint32_t free_head; /* free tcbs, linked by next[LIST_READY] */
	struct queue lists[LIST_COUNT];
	struct queue spare; /* in TIME-WAIT and closed by the application, the oldest first */
	uint32_t leaving;   /* slots that are free as soon as their GONE is told */
	uint32_t nlisten;
	uint32_t *listeners;
	uint32_t ntcbs;
	struct reply replies[REPLY_MAX];
	uint32_t reply_n;
	struct pb_tcp_config cfg;
	struct pb_pmtu pmtu;
	struct pb_tcp_owners *owners; /* shared with other engines; NULL: alone */
	uint32_t who;
	uint32_t sweep_at, sweep_left; /* slots that are still to be looked at: a path's MTU became smaller */
	struct pb_tcp_stats stats;
	uint64_t now_ns;       /* the latest that was heard of */
	uint64_t challenge_ns; /* start of the second that challenges counts */
	uint32_t challenges;
	struct pb_tcp_trace *trace; /* ring */
	uint64_t trace_head, trace_tail;
};

/* What an ACK showed, gathered on its way through in_ack(). */
struct ack_news {
	uint64_t now_ns;
	uint32_t acked; /* sequence numbers, a FIN included */
	uint32_t prior_una, prior_fack;
	uint32_t reord; /* lowest sequence number, never sent again, that filled a hole */
	uint32_t ts_ecr;
	bool has_ecr, ece;
	/* What is above is always set, and what follows is zero at first. */
	uint64_t first_ns,
		last_ns;    /* send times of the oldest and newest segment that was sent once and is acknowledged */
	uint64_t rexmit_ns; /* of the newest retransmission that is acknowledged, 0: none */
	uint64_t sack_first_ns, sack_last_ns; /* as the first two, of what was SACKed just now */
	uint64_t newest_ns;                   /* send time of the newest segment that arrived, ... */
	uint32_t prior_delivered;             /* ... and delivered_segs at that time */
	uint32_t delivered;                   /* bytes newly known to have arrived: acknowledged or SACKed */
	uint32_t segs;                        /* segments that were acknowledged cumulatively */
	uint32_t sacked;                      /* bytes SACKed just now */
	uint32_t rtt_us, cc_rtt_us;           /* 0: none */
	bool fin, dsack, dsack_tlp;
	bool not_dup;      /* data, a new window or progress: no duplicate ACK */
	bool orig_acked;   /* something that was sent before the episode and not again (F-RTO) */
	bool rexmit_acked; /* something that was sent again is acknowledged cumulatively */
	bool lost_retrans; /* a retransmission was found lost */
	bool set_timer, reneged;
};

/* A parsed segment on its way through input. */
struct pkt {
	const struct pb_desc *d;
	struct pb_ip src, dst;
	struct pb_tcp_view tcp;
	struct pb_tcp_opts opts;
	uint32_t seq; /* of the first byte of data (SYN skipped once it is processed) */
	uint32_t old; /* the connection in TIME-WAIT whose pair this SYN may take over; NONE */
	uint32_t hash;
	uint16_t data_off; /* from the frame's start */
	uint16_t data_len;
	uint8_t flags;
	uint8_t reason; /* enum pb_drop of parsing */
	bool taken;
	bool ask; /* the accept policy decides */
	bool stray;
	uint8_t owner; /* stray: the engine that has the flow */
	uint8_t ecn;   /* of the IP header */
};

/* With more connections than this their lines are in no cache: they are fetched together, not one after another as the
 * work comes to them. */
#define CACHED_CONNS 512u

static inline void tcb_fetch_part(const struct pb_tcp *e, const struct tcb *c, uint32_t from, uint32_t to)
{
	if (e->stats.conns <= CACHED_CONNS)
		return;
	for (uint32_t at = from; at < to; at += PB_CACHE_LINE)
		__builtin_prefetch((const char *)c + at, 1);
}

/* For a segment that came, or for the reader. */
static inline void tcb_fetch_receive(const struct pb_tcp *e, const struct tcb *c)
{
	tcb_fetch_part(e, c, 0, TCB_RECEIVE_BYTES);
}

/* What an ACK of new data, and sending, needs too. */
static inline void tcb_fetch_send(const struct pb_tcp *e, const struct tcb *c)
{
	tcb_fetch_part(e, c, TCB_RECEIVE_BYTES, TCB_HOT_BYTES);
}

static inline pb_tcp_handle tcb_handle(const struct tcb *c)
{
	return (uint64_t)c->gen << 32 | c->idx;
}

static inline struct tcb *tcb_get(struct pb_tcp *e, pb_tcp_handle h)
{
	uint32_t idx = (uint32_t)h;
	if (idx >= e->ntcbs)
		return NULL;
	struct tcb *c = &e->tcbs[idx];
	tcb_fetch_receive(e, c);
	return c->gen == (uint32_t)(h >> 32) && c->rcvbuf && !(c->flags & TCB_DETACHED) ? c : NULL;
}

static inline uint32_t now_ts_ms(const struct tcb *c, uint64_t now_ns)
{
	return (uint32_t)(now_ns / NS_PER_MS) + c->ts_offset;
}

static inline uint8_t *frame_ptr(const struct pb_tcp *e, uint32_t frame)
{
	return e->pool->base + pb_pool_addr(e->pool, frame);
}

static inline uint64_t frame_addr(const struct pb_tcp *e, uint32_t frame)
{
	return pb_pool_addr(e->pool, frame);
}

/* Where the peer may be silent for ever, unless it is asked. */
static inline bool keepalive_state(const struct tcb *c)
{
	return c->state == PB_TCP_ESTABLISHED || c->state == PB_TCP_CLOSE_WAIT || c->state == PB_TCP_FIN_WAIT_2;
}

/* The window in a SYN is never scaled (RFC 7323 2.2). */
static inline uint32_t snd_window(const struct tcb *c, const struct pkt *p)
{
	return (uint32_t)p->tcp.wnd << (p->tcp.flags & PB_TCP_SYN ? 0 : c->snd_wscale);
}

/* SND.UNA < ack =< SND.NXT, which is ISS until the SYN went: who acknowledges it before that has guessed. */
static inline bool acks_syn(const struct tcb *c, uint32_t ack)
{
	return ack == c->iss + 1 && ack == c->snd_nxt;
}

static inline void tcb_set_state(struct pb_tcp *e, struct tcb *c, enum pb_tcp_state state)
{
	e->stats.states[c->state]--;
	e->stats.states[state]++;
	c->state = (uint8_t)state;
}

#define COUNT(e, name) ((e)->stats.n[PB_C_##name]++)

static inline void drop(struct pb_tcp *e, enum pb_drop why)
{
	e->stats.drops.n[why]++;
}

#include "tcp/parts.h"
#endif
