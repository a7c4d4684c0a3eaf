/* CUBIC (RFC 9438) with HyStart, counting as Linux does: beta 717/1024, C 410/1024, fast convergence, the Reno-friendly
 * region, time in ms, windows in segments. */
#include "cc/cc.h"

#include <string.h>

#define BETA 717u /* of 1024 */
#define C_SCALE 410u
#define HYSTART_LOW 16u /* segments: below it slow start is left alone */
#define HYSTART_MIN_SAMPLES 8u
#define HYSTART_DELAY_MIN_US 4000u
#define HYSTART_DELAY_MAX_US 16000u
#define HYSTART_ACK_DELTA_US 2000u
/* K = cbrt(CUBE_FACTOR * (W_max - W)), in 1/1024 s. */
#define CUBE_FACTOR ((1ull << 40) / C_SCALE)
#define ACK_DELAY_MAX_US 1000u /* what a receiver that collects segments may add to an ACK train */
#define ACK_DELAY_BYTES 262144ull
#define BETA_SCALE (8u * (1024u + BETA) / 3u / (1024u - BETA))
#define NS_PER_MS 1000000u
#define NS_PER_US 1000u

struct cubic {
	uint32_t cnt;       /* segments acknowledged per segment of growth */
	uint32_t last_max;  /* cwnd before the last reduction */
	uint32_t last_cwnd; /* when cnt was computed, ... */
	uint32_t last_ms;   /* ... and when that was */
	uint32_t origin, k; /* of the curve: segments, 1/1024 s */
	uint32_t epoch_ms;  /* 0: no epoch */
	uint32_t ack_cnt;   /* segments acknowledged in the epoch */
	uint32_t reno_cwnd; /* what Reno's window would be */
	uint32_t delay_min_us;
	uint32_t rest_bytes; /* acknowledged, less than a segment */
	uint32_t round_end;  /* HyStart: sequence number */
	uint32_t round_us, last_ack_us, curr_rtt_us;
	uint8_t samples, found;
	uint16_t pad;
	uint32_t found_cwnd;
	uint32_t pad2[5];
};
_Static_assert(sizeof(struct cubic) == sizeof(((struct pb_cc *)0)->priv), "fits");

static struct cubic *of(struct pb_cc *cc)
{
	return (struct cubic *)(void *)cc->priv;
}

static void hystart_reset(struct cubic *ca, uint32_t nxt, uint64_t now_ns)
{
	ca->round_us = ca->last_ack_us = (uint32_t)(now_ns / NS_PER_US);
	ca->round_end = nxt;
	ca->curr_rtt_us = UINT32_MAX;
	ca->samples = 0;
}

static void cubic_init(struct pb_cc *cc, uint32_t nxt, uint64_t now_ns)
{
	cc->grown = 0;
	memset(cc->priv, 0, sizeof(cc->priv));
	hystart_reset(of(cc), nxt, now_ns);
}

/* Integer cube root: the largest x with x^3 <= a, bit by bit. */
static uint32_t cube_root(uint64_t a)
{
	uint64_t x = 0;
	for (int s = 63; s >= 0; s -= 3) {
		x <<= 1;
		uint64_t b = 3 * x * (x + 1) + 1;
		if (a >> s >= b) {
			a -= b << s;
			x++;
		}
	}
	return (uint32_t)x;
}

static void begin_epoch(struct cubic *ca, uint32_t cwnd, uint32_t acked, uint32_t now_ms)
{
	ca->epoch_ms = now_ms;
	ca->ack_cnt = acked;
	ca->reno_cwnd = cwnd;
	if (ca->last_max <= cwnd) {
		ca->k = 0;
		ca->origin = cwnd;
	} else {
		ca->k = cube_root(CUBE_FACTOR * (ca->last_max - cwnd));
		ca->origin = ca->last_max;
	}
}

/* The window that the curve wants one RTT from now (RFC 9438 4.2). */
static uint32_t target_of(const struct cubic *ca, uint32_t now_ms)
{
	int64_t ms = (int32_t)(now_ms - ca->epoch_ms) + (int64_t)(ca->delay_min_us / 1000);
	uint64_t t = ms > 0 ? ((uint64_t)ms << 10) / 1000 : 0;
	uint64_t offs = t < ca->k ? ca->k - t : t - ca->k;
	uint64_t cube = offs > 1u << 20 ? UINT32_MAX : (C_SCALE * offs * offs * offs) >> 40;
	uint32_t delta = cube > UINT32_MAX / 4 ? UINT32_MAX / 4 : (uint32_t)cube;
	return t < ca->k ? (ca->origin > delta ? ca->origin - delta : 0) : ca->origin + delta;
}

/* Sets cnt. cwnd and acked in segments. */
static void cubic_update(struct cubic *ca, uint32_t cwnd, uint32_t acked, uint32_t now_ms)
{
	ca->ack_cnt += acked;
	if (ca->last_cwnd == cwnd && now_ms - ca->last_ms <= 1000 / 32)
		return;
	/* Once a ms is enough; the friendly region below counts ACKs, not time. */
	if (!(ca->epoch_ms && now_ms == ca->last_ms)) {
		ca->last_cwnd = cwnd;
		ca->last_ms = now_ms;
		if (!ca->epoch_ms)
			begin_epoch(ca, cwnd, acked, now_ms ? now_ms : 1);
		uint32_t target = target_of(ca, now_ms);
		ca->cnt = target > cwnd ? cwnd / (target - cwnd) : 100 * cwnd;
		/* Nothing is known of the path yet: grow quickly. */
		if (!ca->last_max && ca->cnt > 20)
			ca->cnt = 20;
	}
	/* RFC 9438 4.3. */
	uint32_t delta = cwnd * BETA_SCALE >> 3;
	while (ca->ack_cnt > delta && delta) {
		ca->ack_cnt -= delta;
		ca->reno_cwnd++;
	}
	if (ca->reno_cwnd > cwnd) {
		uint32_t most = cwnd / (ca->reno_cwnd - cwnd);
		ca->cnt = ca->cnt < most ? ca->cnt : most;
	}
	if (ca->cnt < 2)
		ca->cnt = 2;
}

/* detect: PB_CC_TRAIN_DETECT or PB_CC_DELAY_DETECT. */
static void hystart_found(struct pb_cc *cc, struct cubic *ca, const struct pb_cc_ack *a, enum pb_cc_count detect)
{
	ca->found = 1;
	ca->found_cwnd = cc->cwnd / cc->mss;
	cc->ssthresh = cc->cwnd;
	if (a->counts) {
		a->counts[detect]++;
		a->counts[detect + 1] += ca->found_cwnd;
	}
}

/* What a burst of 256 KB takes at twice the rate of now, at most 1 ms. */
static uint32_t ack_delay_us(const struct pb_cc *cc)
{
	uint64_t us = ACK_DELAY_BYTES * cc->srtt_us / (2ull * cc->cwnd);
	return us < ACK_DELAY_MAX_US ? (uint32_t)us : ACK_DELAY_MAX_US;
}

/* The first sign that the path is full ends slow start: ACKs in close succession for longer than half an RTT, or a
 * delay that grew (RFC 9406 has a relative of the second). */
static void hystart(struct pb_cc *cc, struct cubic *ca, const struct pb_cc_ack *a)
{
	uint32_t now_us = (uint32_t)(a->now_ns / NS_PER_US);
	if ((int32_t)(a->una - ca->round_end) > 0)
		hystart_reset(ca, a->nxt, a->now_ns);
	if (cc->cwnd < HYSTART_LOW * cc->mss)
		return;
	if (now_us - ca->last_ack_us <= HYSTART_ACK_DELTA_US) {
		ca->last_ack_us = now_us;
		uint32_t limit = ca->delay_min_us + ack_delay_us(cc);
		/* Pacing spaces segments out over up to half an RTT by itself. */
		if (now_us - ca->round_us > (a->paced ? limit : limit / 2))
			hystart_found(cc, ca, a, PB_CC_TRAIN_DETECT); /* one ACK may show the delay too */
	}
	if (ca->curr_rtt_us > a->rtt_us)
		ca->curr_rtt_us = a->rtt_us;
	if (ca->samples < HYSTART_MIN_SAMPLES) {
		ca->samples++;
		return;
	}
	uint32_t slack = ca->delay_min_us / 8;
	slack = slack < HYSTART_DELAY_MIN_US ? HYSTART_DELAY_MIN_US : slack;
	slack = slack > HYSTART_DELAY_MAX_US ? HYSTART_DELAY_MAX_US : slack;
	if (ca->curr_rtt_us > ca->delay_min_us + slack)
		hystart_found(cc, ca, a, PB_CC_DELAY_DETECT);
}

static void cubic_sample(struct pb_cc *cc, struct cubic *ca, const struct pb_cc_ack *a)
{
	if (!a->rtt_us)
		return;
	/* The first second after a loss says little of the path. */
	if (ca->epoch_ms && (int32_t)((uint32_t)(a->now_ns / NS_PER_MS) - ca->epoch_ms) < 1000)
		return;
	if (!ca->delay_min_us || ca->delay_min_us > a->rtt_us)
		ca->delay_min_us = a->rtt_us;
	if (!ca->found && cc->cwnd < cc->ssthresh)
		hystart(cc, ca, a);
}

static void cubic_on_ack(struct pb_cc *cc, const struct pb_cc_ack *a)
{
	struct cubic *ca = of(cc);
	uint32_t acked_bytes = a->acked_bytes;
	cubic_sample(cc, ca, a);
	if (!a->may_grow)
		return;
	if (cc->cwnd < cc->ssthresh) {
		acked_bytes = pb_cc_slow_start(cc, acked_bytes);
		if (!acked_bytes)
			return;
	}
	uint32_t total = ca->rest_bytes + acked_bytes;
	ca->rest_bytes = total % cc->mss;
	cubic_update(ca, cc->cwnd / cc->mss, total / cc->mss, (uint32_t)(a->now_ns / NS_PER_MS));
	pb_cc_grow(cc, (uint64_t)ca->cnt * cc->mss, acked_bytes);
}

static uint32_t cubic_ssthresh(struct pb_cc *cc, uint32_t inflight_bytes, uint64_t now_ns)
{
	(void)inflight_bytes;
	(void)now_ns;
	struct cubic *ca = of(cc);
	uint32_t cwnd = cc->cwnd / cc->mss, left = cwnd * BETA / 1024;
	ca->epoch_ms = 0;
	/* Fast convergence: a flow that lost before it reached its old window leaves room to others (RFC 9438 4.7). */
	ca->last_max = cwnd < ca->last_max ? cwnd * (1024 + BETA) / 2048 : cwnd;
	return (left > 2 ? left : 2) * cc->mss;
}

static void cubic_event(struct pb_cc *cc, enum pb_cc_event what, uint64_t arg, uint64_t now_ns)
{
	struct cubic *ca = of(cc);
	if (what == PB_CC_RTO) {
		memset(cc->priv, 0, sizeof(cc->priv));
		hystart_reset(ca, (uint32_t)arg, now_ns);
	} else if (what == PB_CC_TX_START && ca->epoch_ms) {
		/* The curve does not climb while nothing was sent. Data went last before the ACK that began the epoch,
		 * so that the idle time may be more than the epoch's age: it begins now then, not in the future (as
		 * Linux). */
		uint32_t now_ms = (uint32_t)(now_ns / NS_PER_MS);
		ca->epoch_ms += (uint32_t)(arg / NS_PER_MS);
		if ((int32_t)(ca->epoch_ms - now_ms) > 0)
			ca->epoch_ms = now_ms;
	}
}

const struct pb_cc_ops pb_cc_cubic = {
	.abi = PB_CC_ABI,
	.name = "cubic",
	.init = cubic_init,
	.on_ack = cubic_on_ack,
	.ssthresh = cubic_ssthresh,
	.event = cubic_event,
};
