/* NewReno: RFC 5681 with the byte counting of RFC 3465 (L = 2) and the initial window of RFC 6928. */
#include "cc/cc.h"

/* priv[0]: bytes acknowledged towards the next increment of cwnd in congestion avoidance. */

static void newreno_init(struct pb_cc *cc)
{
	cc->cwnd = pb_cc_initial_window(cc->mss);
	cc->ssthresh = PB_CC_SSTHRESH_MAX;
	cc->priv[0] = 0;
}

static void newreno_on_ack(struct pb_cc *cc, const struct pb_cc_ack *ack)
{
	if (ack->in_recovery || !ack->cwnd_limited)
		return;
	if (cc->cwnd < cc->ssthresh) {
		uint32_t limit = 2 * cc->mss;
		cc->cwnd += ack->acked_bytes < limit ? ack->acked_bytes : limit;
		return;
	}
	cc->priv[0] += ack->acked_bytes;
	if (cc->priv[0] >= cc->cwnd) {
		cc->priv[0] -= cc->cwnd;
		cc->cwnd += cc->mss;
	}
}

/* RFC 5681 equation 4. */
static uint32_t half(const struct pb_cc *cc, uint32_t inflight)
{
	return inflight / 2 > 2 * cc->mss ? inflight / 2 : 2 * cc->mss;
}

static void newreno_on_loss(struct pb_cc *cc, uint32_t inflight, uint64_t now_ns)
{
	(void)now_ns;
	cc->ssthresh = half(cc, inflight);
	cc->cwnd = cc->ssthresh;
	cc->priv[0] = 0;
}

static void newreno_on_recovered(struct pb_cc *cc, uint32_t inflight, uint64_t now_ns)
{
	(void)now_ns;
	(void)inflight;
	cc->cwnd = cc->ssthresh;
}

static void newreno_on_rto(struct pb_cc *cc, uint32_t inflight, bool first, uint64_t now_ns)
{
	(void)now_ns;
	if (first)
		cc->ssthresh = half(cc, inflight);
	cc->cwnd = cc->mss; /* the loss window */
	cc->priv[0] = 0;
}

const struct pb_cc_ops pb_cc_newreno = {
	.abi = PB_CC_ABI,
	.name = "newreno",
	.init = newreno_init,
	.on_ack = newreno_on_ack,
	.on_loss = newreno_on_loss,
	.on_recovered = newreno_on_recovered,
	.on_rto = newreno_on_rto,
};
