/* NewReno: RFC 5681 counting bytes, with the initial window of RFC 6928. */
#include "cc/cc.h"

static void newreno_init(struct pb_cc *cc, uint32_t nxt, uint64_t now_ns)
{
	(void)nxt;
	(void)now_ns;
	cc->grown = 0;
}

static void newreno_on_ack(struct pb_cc *cc, const struct pb_cc_ack *ack)
{
	uint32_t acked = ack->acked_bytes;
	if (!ack->may_grow)
		return;
	if (cc->cwnd < cc->ssthresh) {
		acked = pb_cc_slow_start(cc, acked);
		if (!acked)
			return;
	}
	pb_cc_grow(cc, cc->cwnd, acked);
}

/* RFC 5681 equation 4, of the window as Linux takes it: what limited transmit added to the flight does not count. */
static uint32_t newreno_ssthresh(struct pb_cc *cc, uint32_t inflight_bytes, uint64_t now_ns)
{
	(void)inflight_bytes;
	(void)now_ns;
	/* In whole segments. */
	uint32_t half = cc->cwnd / 2 / cc->mss * cc->mss;
	return half > 2 * cc->mss ? half : 2 * cc->mss;
}

const struct pb_cc_ops pb_cc_newreno = {
	.abi = PB_CC_ABI,
	.name = "reno",
	.init = newreno_init,
	.on_ack = newreno_on_ack,
	.ssthresh = newreno_ssthresh,
};
