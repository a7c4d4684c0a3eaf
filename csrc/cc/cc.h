/* Congestion control behind one table of functions. Integers only; no clock, no allocation. The engine keeps the
 * scoreboard and decides what is lost; an algorithm decides how much may be in flight. */
#ifndef PB_CC_CC_H
#define PB_CC_CC_H
#include "base/types.h"

#define PB_CC_ABI 1
#define PB_CC_SSTHRESH_MAX UINT32_MAX

struct pb_cc {
	uint32_t cwnd; /* bytes */
	uint32_t ssthresh;
	uint32_t mss;
	uint32_t srtt_us;
	uint32_t min_rtt_us;
	uint32_t pad;
	uint64_t priv[5]; /* the algorithm's own */
};
_Static_assert(sizeof(struct pb_cc) == 64, "one cache line per flow");

struct pb_cc_ack {
	uint64_t now_ns;
	uint32_t acked_bytes;    /* newly acknowledged, cumulatively */
	uint32_t inflight_bytes; /* before this ACK */
	uint32_t rtt_us;         /* sample of this ACK, 0: none */
	bool cwnd_limited;       /* the window, not the application, limited sending (RFC 7661) */
	bool in_recovery;
};

struct pb_cc_ops {
	uint32_t abi; /* PB_CC_ABI */
	const char *name;
	void (*init)(struct pb_cc *cc);
	void (*on_ack)(struct pb_cc *cc, const struct pb_cc_ack *ack);
	/* A loss episode begins: set ssthresh and cwnd. inflight: bytes outstanding. */
	void (*on_loss)(struct pb_cc *cc, uint32_t inflight, uint64_t now_ns);
	/* The episode that on_loss began is over. */
	void (*on_recovered)(struct pb_cc *cc, uint32_t inflight, uint64_t now_ns);
	/* Retransmission timeout; first: not a repetition for the same data. */
	void (*on_rto)(struct pb_cc *cc, uint32_t inflight, bool first, uint64_t now_ns);
};

PB_API extern const struct pb_cc_ops pb_cc_newreno;

/* RFC 6928: min(10 * MSS, max(2 * MSS, 14600)). */
static inline uint32_t pb_cc_initial_window(uint32_t mss)
{
	uint32_t floor = 2 * mss > 14600 ? 2 * mss : 14600;
	return 10 * mss < floor ? 10 * mss : floor;
}
#endif
