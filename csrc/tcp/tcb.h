/* The engine's own structures. Private to csrc/tcp. */
#ifndef PB_TCP_TCB_H
#define PB_TCP_TCB_H
#include "cc/cc.h"
#include "net/pmtu.h"
#include "tcp/tcp.h"
#include "wire/csum.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#define NONE UINT32_MAX
#define NEVER UINT64_MAX
#define NS_PER_MS 1000000u
#define NS_PER_US 1000u

/* Serial number arithmetic (RFC 9293 3.4). */
static inline bool seq_lt(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline bool seq_leq(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) <= 0;
}

static inline uint32_t seq_max(uint32_t a, uint32_t b)
{
	return seq_lt(a, b) ? b : a;
}

static inline uint32_t seq_min(uint32_t a, uint32_t b)
{
	return seq_lt(a, b) ? a : b;
}

static inline uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static inline uint32_t max_u32(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* One entry per frame of the pool: what the engine knows of the frame while it uses it. */
enum seg_flag {
	SEG_INDEV = 1u << 0,  /* handed to the device, not yet back */
	SEG_ORPHAN = 1u << 1, /* to be freed when the device gives it back */
	SEG_SENT = 1u << 2,
	SEG_SACKED = 1u << 3,
	SEG_LOST = 1u << 4,   /* to be sent again */
	SEG_REXMIT = 1u << 5, /* was sent more than once: no RTT sample (Karn) */
	SEG_PUSH = 1u << 6,   /* last of what one send call gave */
};

struct seg {
	uint32_t next; /* frame index */
	uint32_t seq;
	uint16_t len;
	uint16_t off;  /* payload, from the frame's start */
	uint32_t csum; /* partial sum of the payload (send side) */
	uint8_t flags;
	uint8_t pad[7];
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
	TCB_PERSIST = 1u << 14,  /* t_rtx is the persist timer */
	TCB_PROBE = 1u << 15,    /* a window or keepalive probe is to be sent */
	TCB_READY = 1u << 16,    /* on the output list */
	TCB_EVENT = 1u << 17,    /* on the event list */
	TCB_QUEUED = 1u << 18,   /* on its listener's accept queue */
	TCB_RECOVERY = 1u << 19, /* fast recovery until recover_seq */
	TCB_LOSS = 1u << 20,     /* recovering from an RTO until recover_seq */
	TCB_CWND_LIMITED = 1u << 21,
	TCB_HASHED = 1u << 22, /* in the flow table */
	TCB_FORCE = 1u << 23,  /* sender SWS override: send what fits */
	TCB_DEAD = 1u << 25,   /* freed, and on the output list still */
	TCB_EMBRYO = 1u << 24, /* counted in its listener's backlog */
	TCB_ASK = 1u << 27,    /* listener: each SYN is for the accept policy first */
	TCB_SPARE = 1u << 26,  /* on the list of those that a new connection may replace */
};

/* What wants to send, and what has something to tell. */
enum tcb_list { LIST_READY, LIST_EVENT, LIST_COUNT };

/* The listener's and the spare ones are doubly linked by q_next and q_prev, those of enum tcb_list by next[]. */
struct queue {
	uint32_t head, tail;
};

struct tcb {
	/* identity; written once */
	struct pb_ip laddr, raddr PB_ALIGNED(PB_CACHE_LINE);
	uint16_t lport, rport;
	uint32_t hash;
	uint32_t idx, gen;
	uint32_t flags;
	uint8_t state;
	uint8_t snd_wscale, rcv_wscale;
	uint8_t ip_hdr_len;
	uint16_t mss; /* payload of a full segment, options subtracted */
	uint16_t ip_id;
	uint32_t ts_offset; /* of our timestamp clock */
	/* receive */
	uint32_t rcv_nxt PB_ALIGNED(PB_CACHE_LINE);
	uint32_t rcv_adv; /* right edge of the window we advertised */
	uint32_t last_ack_sent;
	uint32_t ts_recent;
	uint64_t ts_recent_ns;
	uint32_t rq_head, rq_tail; /* in order, unread */
	uint32_t rq_bytes;
	uint32_t oq_head; /* out of order, sorted, disjoint */
	uint32_t oq_count;
	uint32_t oq_last_seq; /* most recent arrival: its block is reported first (RFC 2018 4) */
	uint32_t rcv_frames;  /* frames charged: rq, oq and what the application holds */
	uint32_t held_frames; /* of these, the application's */
	uint32_t rcvbuf;      /* bytes of frames */
	uint32_t rfin_seq;
	uint16_t unacked_segs; /* full-sized segments not acknowledged yet */
	uint16_t quickacks;
	/* send */
	uint32_t snd_una PB_ALIGNED(PB_CACHE_LINE);
	uint32_t snd_nxt;
	uint32_t snd_end; /* end of queued data (FIN excluded) */
	uint32_t snd_wnd, snd_wl1, snd_wl2, max_snd_wnd;
	uint32_t sq_head, sq_tail, sq_next; /* oldest unacknowledged, newest, first never sent */
	uint32_t rtx_hint;                  /* where the search for lost segments starts */
	uint32_t sacked_bytes, lost_bytes;  /* of segments in flight */
	uint32_t recover_seq;
	uint32_t limited_seq;     /* snd_nxt at the first duplicate ACK: what follows is limited transmit (RFC 3042) */
	uint64_t newest_acked_ns; /* send time of the newest segment known to have arrived */
	uint32_t iss, irs;
	uint64_t syn_ns; /* when the SYN went out; 0 if more than once */
	uint32_t syns_sent;
	uint32_t dupacks;
	uint32_t acked_event; /* bytes acknowledged and not yet told */
	/* congestion control */
	struct pb_cc cc PB_ALIGNED(PB_CACHE_LINE);
	/* times, timers, lists */
	uint64_t t_rtx, t_delack, t_misc;
	uint64_t heap_key;
	uint32_t heap_pos;
	uint32_t srtt8_us, rttvar4_us, rto_us, min_rtt_us;
	uint32_t backoff; /* of the RTO: kept until there is a sample (Karn) */
	uint32_t tries;   /* timeouts in a row without progress */
	uint32_t next[LIST_COUNT];
	uint32_t events;
	int32_t error;
	uint32_t cookie;
	/* listener: accept queue; child: its listener and its place in the queue (in TIME-WAIT: among the spare) */
	struct queue aq;
	uint32_t q_next, q_prev, listener;
	uint32_t backlog, waiting; /* waiting: embryos and queued children */
	/* cold */
	uint64_t last_rx_ns, last_challenge_ns, last_oow_ns;
	uint64_t ka_idle_ns, ka_interval_ns;
	uint32_t ka_probes, ka_sent;
	uint64_t bytes_sent, bytes_acked, bytes_received, bytes_rexmit;
	uint64_t segs_out, segs_in, rexmits, fast_rexmits, timeouts, dupacks_in, probes_out;
};

/* A segment that belongs to no connection: RST to the unknown. */
struct reply {
	struct pb_ip src, dst;
	uint16_t sport, dport;
	uint32_t seq, ack;
	uint8_t flags;
};
#define REPLY_MAX 64u

struct pb_tcp {
	struct pb_pool *pool;
	struct pb_pool_cache *cache;
	struct seg *segs; /* by frame index */
	struct tcb *tcbs;
	uint32_t *table; /* flow table: tcb index + 1; 0 is empty */
	uint32_t table_mask;
	uint32_t *heap;
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
};

/* A parsed segment on its way through input. */
struct pkt {
	const struct pb_desc *d;
	struct pb_ip src, dst;
	struct pb_tcp_view tcp;
	struct pb_tcp_opts opts;
	uint32_t seq;     /* of the first byte of data (SYN skipped once it is processed) */
	uint32_t min_iss; /* reused: our ISN must lie above what the old connection used */
	uint32_t hash;
	uint16_t data_off; /* from the frame's start */
	uint16_t data_len;
	uint8_t flags;
	uint8_t reason; /* enum pb_drop of parsing */
	bool taken, reused;
	bool ask; /* the accept policy decides */
	bool stray;
	uint8_t owner; /* stray: the engine that has the flow */
};

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

static inline void tcb_set_state(struct pb_tcp *e, struct tcb *c, enum pb_tcp_state state)
{
	e->stats.states[c->state]--;
	e->stats.states[state]++;
	c->state = (uint8_t)state;
}

static inline void drop(struct pb_tcp *e, enum pb_drop why)
{
	e->stats.drops.n[why]++;
}

/* engine.c: slots, lists, the end of a connection */
struct tcb *tcb_alloc(struct pb_tcp *e);
/* A slot for a connection, within max_conns: when all are taken, that of the oldest in TIME-WAIT that the application
 * has closed. NULL when there is none. */
struct tcb *conn_alloc(struct pb_tcp *e);
void queue_push(struct pb_tcp *e, struct queue *q, struct tcb *c);
void queue_remove(struct pb_tcp *e, struct queue *q, struct tcb *c);
/* To the end of the spare ones, when it is one. */
void spare_push(struct pb_tcp *e, struct tcb *c);
void tcb_recycle(struct pb_tcp *e, struct tcb *c);
/* Takes the first off a list that is not empty. */
struct tcb *list_pop(struct pb_tcp *e, enum tcb_list which);
void tcb_ready(struct pb_tcp *e, struct tcb *c);
void tcb_event(struct pb_tcp *e, struct tcb *c, uint32_t mask);
/* CLOSED: timers off, out of the flow table, data to be sent thrown away; the slot stays until the application has
 * closed its handle and was told. err: positive errno, 0 in order. */
void tcb_closed(struct pb_tcp *e, struct tcb *c, int err);
void frame_free(struct pb_tcp *e, uint32_t frame);
/* A frame for a control segment or for data (data leaves the reserve alone). NONE when the pool is empty. */
uint32_t frame_alloc(struct pb_tcp *e, bool data);

/* table.c */
uint32_t flow_hash(const struct pb_tcp *e, const struct pb_ip *l, uint16_t lport, const struct pb_ip *r,
		   uint16_t rport);
void flow_insert(struct pb_tcp *e, struct tcb *c);
void flow_remove(struct pb_tcp *e, struct tcb *c);
struct tcb *flow_find(const struct pb_tcp *e, uint32_t hash, const struct pb_ip *l, uint16_t lport,
		      const struct pb_ip *r, uint16_t rport);
struct tcb *listener_find(const struct pb_tcp *e, const struct pb_ip *l, uint16_t lport);

/* timer.c: a 4-ary heap of connections by their earliest deadline */
void timer_update(struct pb_tcp *e, struct tcb *c);
void timer_remove(struct pb_tcp *e, struct tcb *c);

/* isn.c */
uint64_t siphash24(const uint8_t key[16], const void *data, size_t n);
uint32_t isn_make(const struct pb_tcp *e, const struct tcb *c, uint64_t now_ns);
uint32_t ts_offset_make(const struct pb_tcp *e, const struct tcb *c);

/* input.c, open.c, ack.c, rx.c */
void reply_rst(struct pb_tcp *e, const struct pkt *p);
void challenge_ack(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
enum pb_drop in_listen(struct pb_tcp *e, struct tcb *l, struct pkt *p, uint64_t now_ns);
enum pb_drop in_syn_sent(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns);
void establish(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
enum pb_drop in_ack(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns);
enum pb_drop in_data(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns);
void in_fin(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void enter_time_wait(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);

/* rx.c: the receive window */
uint32_t rcv_window(const struct pb_tcp *e, const struct tcb *c);
uint32_t rcv_window_scaled(struct pb_tcp *e, struct tcb *c, bool syn);
int rcv_sack_blocks(const struct pb_tcp *e, const struct tcb *c, struct pb_tcp_opts *o, int max);
/* Nothing in the store lies beyond: a FIN there can be true. */
bool rcv_ends_by(const struct pb_tcp *e, const struct tcb *c, uint32_t seq);
void rcv_free_all(struct pb_tcp *e, struct tcb *c);
void rcv_free_ooo(struct pb_tcp *e, struct tcb *c);
/* Room was made: tells the peer if it was waiting for it. */
void rcv_review(struct pb_tcp *e, struct tcb *c);

/* sendq.c: the queue of segments from snd_una to snd_end */
void sq_append(struct pb_tcp *e, struct tcb *c, uint32_t frame);
/* Removes what is below ack. Returns the send time of the oldest segment that gives an RTT sample, 0 for none;
 * *rexmit_ns: of the newest retransmission among them, 0 for none. */
uint64_t sq_ack(struct pb_tcp *e, struct tcb *c, uint32_t ack, uint64_t *rexmit_ns, uint64_t now_ns);
void sq_free_all(struct pb_tcp *e, struct tcb *c);
/* Cuts a segment at `len` bytes; the rest becomes a segment of its own. False: no frame. */
bool sq_split(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t len);
/* Copies following unsent segments into this unsent one while they fit in max bytes and in the frame. */
void sq_coalesce(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t max);

/* recovery.c */
static inline uint32_t in_flight(const struct tcb *c)
{
	return c->snd_nxt - c->snd_una;
}

/* Bytes believed to be in the network (RFC 6675 "pipe"). A FIN is not one: it must not keep a segment from going. */
static inline uint32_t pipe_bytes(const struct tcb *c)
{
	uint32_t gone = c->sacked_bytes + c->lost_bytes + !!(c->flags & TCB_FIN_SENT), out = in_flight(c);
	return out > gone ? out - gone : 0;
}

/* A segment arrived: its send time says which retransmissions should have arrived too. */
void recovery_arrived(struct tcb *c, const struct seg *s, uint64_t now_ns);
/* Marks what the blocks cover; returns bytes newly covered. */
uint32_t sack_process(struct pb_tcp *e, struct tcb *c, const struct pb_tcp_opts *o, uint64_t now_ns);
void recovery_on_ack(struct pb_tcp *e, struct tcb *c, uint32_t acked, bool dup, uint64_t now_ns);
void recovery_on_rto(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);

/* rtt.c */
void rtt_sample(struct pb_tcp *e, struct tcb *c, uint32_t rtt_us);
uint64_t rto_ns(const struct pb_tcp *e, const struct tcb *c);
void rtx_arm(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
/* Arms, keeps or stops the retransmission and persist timers after anything that changed the send side. */
void rtx_review(struct pb_tcp *e, struct tcb *c, uint64_t now_ns, bool restart);
/* path_mtu.c */
/* mtu: of the path, headers included; at least the least of its family. */
void reduce_mss(struct pb_tcp *e, struct tcb *c, uint32_t mtu);
/* A portion of the connections learns what their paths carry now. */
void pmtu_sweep(struct pb_tcp *e, uint64_t now_ns);
#endif
