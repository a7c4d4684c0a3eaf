/* Congestion control behind one table of functions. Integers only; no clock, no allocation. The engine keeps the
 * scoreboard, decides what is lost, and in recovery lets out what proportional rate reduction allows (RFC 6937); an
 * algorithm decides how the window grows, and how much of it is left after a loss. */
#ifndef PB_CC_CC_H
#define PB_CC_CC_H
#include "base/types.h"

#define PB_CC_ABI 3
#define PB_CC_SSTHRESH_MAX UINT32_MAX

struct pb_cc {
	uint32_t cwnd; /* bytes */
	uint32_t ssthresh;
	uint32_t mss;
	uint32_t srtt_us;
	uint32_t min_rtt_us; /* UINT32_MAX: no sample yet */
	uint32_t grown;      /* bytes acknowledged towards the next increment in congestion avoidance */
	uint64_t priv[11];   /* the algorithm's own */
};
_Static_assert(sizeof(struct pb_cc) == 112, "two cache lines per flow, with the pointer to the algorithm");

/* What an algorithm counts of all flows together, for those who ask what ended slow start (Linux's TCPHystart*). */
enum pb_cc_count {
	PB_CC_TRAIN_DETECT, /* an ACK train ended slow start, ... */
	PB_CC_TRAIN_CWND,   /* ... cwnd then, in segments, summed */
	PB_CC_DELAY_DETECT, /* a delay that grew did */
	PB_CC_DELAY_CWND,
	PB_CC_COUNT
};

struct pb_cc_ack {
	uint64_t now_ns;
	uint64_t *counts;        /* [PB_CC_COUNT]; NULL: nobody counts */
	uint32_t acked_bytes;    /* newly delivered: acknowledged or SACKed */
	uint32_t inflight_bytes; /* in the network before this ACK */
	uint32_t rtt_us;         /* sample of this ACK, 0: none */
	uint32_t una, nxt;       /* sequence numbers after this ACK */
	bool may_grow;           /* false in recovery, and while the window is not what limits sending (RFC 7661) */
	bool paced;              /* segments leave at a rate, not in bursts */
};

enum pb_cc_event {
	PB_CC_RTO,      /* a timeout: cwnd is one segment now; arg: the next sequence number */
	PB_CC_RESTART,  /* idle for longer than the RTO: cwnd was reduced */
	PB_CC_TX_START, /* sends again with nothing in flight; arg: ns since data was sent last */
	PB_CC_OPEN,     /* recovery is over */
};

struct pb_cc_ops {
	uint32_t abi; /* PB_CC_ABI */
	const char *name;
	/* cwnd and ssthresh are set; in the middle of a connection too. nxt: the next sequence number. */
	void (*init)(struct pb_cc *cc, uint32_t nxt, uint64_t now_ns);
	/* Every ACK that acknowledges something new. Grows cwnd when it may. */
	void (*on_ack)(struct pb_cc *cc, const struct pb_cc_ack *ack);
	/* A reduction begins: what ssthresh is to be (RFC 5681 equation 4 or the algorithm's own). */
	uint32_t (*ssthresh)(struct pb_cc *cc, uint32_t inflight_bytes, uint64_t now_ns);
	/* NULL: none is of interest. */
	void (*event)(struct pb_cc *cc, enum pb_cc_event what, uint64_t arg, uint64_t now_ns);
};

PB_API extern const struct pb_cc_ops pb_cc_newreno, pb_cc_cubic;

/* By name; NULL: there is none. "reno" is newreno, as in Linux. */
PB_API const struct pb_cc_ops *pb_cc_find(const char *name);
/* The i-th, NULL past the end. */
PB_API const struct pb_cc_ops *pb_cc_at(unsigned i);

/* RFC 6928: min(10 * MSS, max(2 * MSS, 14600)). */
static inline uint32_t pb_cc_initial_window(uint32_t mss)
{
	uint32_t floor = 2 * mss > 14600 ? 2 * mss : 14600;
	return 10 * mss < floor ? 10 * mss : floor;
}

/* Slow start by what was acknowledged, stretch ACKs in full, up to ssthresh (RFC 5681 3.1 with byte counting). Returns
 * the bytes that are left for congestion avoidance. */
static inline uint32_t pb_cc_slow_start(struct pb_cc *cc, uint32_t acked_bytes)
{
	uint32_t room = cc->ssthresh - cc->cwnd, n = acked_bytes < room ? acked_bytes : room;
	cc->cwnd += n < UINT32_MAX / 2 - cc->cwnd ? n : 0;
	return acked_bytes - n;
}

/* One segment more for each `window` bytes acknowledged. */
static inline void pb_cc_grow(struct pb_cc *cc, uint64_t window, uint32_t acked_bytes)
{
	/* Credit that was saved for a larger window is worth one segment at most. */
	if (cc->grown >= window) {
		cc->grown = 0;
		cc->cwnd += cc->mss;
	}
	uint64_t grown = (uint64_t)cc->grown + acked_bytes;
	if (grown >= window) {
		uint64_t n = grown / window;
		grown -= n * window;
		uint64_t more = n * cc->mss;
		cc->cwnd += more < UINT32_MAX / 2 - cc->cwnd ? (uint32_t)more : 0;
	}
	cc->grown = (uint32_t)grown;
}
#endif
