/* Congestion control by itself: an imagined path acknowledges a window each round trip. */
#include "cc/cc.h"
#include "harness.h"

#include <string.h>

#define MSS 1000u
#define MS 1000000ull

struct flow {
	struct pb_cc cc;
	const struct pb_cc_ops *ops;
	uint64_t now_ns;
	uint32_t una, nxt, rtt_us;
};

static struct flow flow(const struct pb_cc_ops *ops, uint32_t cwnd_segs, uint32_t rtt_ms)
{
	struct flow f = {.ops = ops, .now_ns = 10000 * MS, .rtt_us = rtt_ms * 1000, .una = 1, .nxt = 1};
	f.cc = (struct pb_cc){.cwnd = cwnd_segs * MSS,
			      .ssthresh = PB_CC_SSTHRESH_MAX,
			      .mss = MSS,
			      .srtt_us = rtt_ms * 1000,
			      .min_rtt_us = rtt_ms * 1000};
	ops->init(&f.cc, f.nxt, f.now_ns);
	return f;
}

static void acked(struct flow *f, uint32_t segs, bool may_grow)
{
	f->una += segs * MSS;
	f->nxt = f->una + f->cc.cwnd;
	f->ops->on_ack(&f->cc, &(struct pb_cc_ack){.now_ns = f->now_ns,
						   .acked_bytes = segs * MSS,
						   .inflight_bytes = f->cc.cwnd,
						   .rtt_us = f->rtt_us,
						   .una = f->una,
						   .nxt = f->nxt,
						   .may_grow = may_grow});
}

/* A window, its ACKs spread over the round trip. */
static void round_trip(struct flow *f)
{
	uint32_t n = f->cc.cwnd / MSS;
	for (uint32_t i = 0; i < n; i++) {
		f->now_ns += f->rtt_us * 1000ull / n;
		acked(f, 1, true);
	}
}

static void loss(struct flow *f)
{
	f->cc.ssthresh = f->ops->ssthresh(&f->cc, f->cc.cwnd, f->now_ns);
	f->cc.cwnd = f->cc.ssthresh;
	f->cc.grown = 0;
}

TEST(names)
{
	CHECK(pb_cc_find("cubic") == &pb_cc_cubic && pb_cc_find("reno") == &pb_cc_newreno);
	CHECK(pb_cc_find("newreno") == &pb_cc_newreno);
	CHECK(!pb_cc_find("") && !pb_cc_find("bbr") && !pb_cc_find("cubi"));
	unsigned n = 0;
	for (; pb_cc_at(n); n++)
		CHECK(pb_cc_at(n)->abi == PB_CC_ABI && pb_cc_find(pb_cc_at(n)->name) == pb_cc_at(n));
	CHECK_EQ(n, 2);
	CHECK_EQ(pb_cc_initial_window(1460), 14600);
	CHECK_EQ(pb_cc_initial_window(536), 5360);
	CHECK_EQ(pb_cc_initial_window(4000), 14600);
	CHECK_EQ(pb_cc_initial_window(9000), 18000);
}

TEST(reno_doubles_then_adds_one)
{
	struct flow f = flow(&pb_cc_newreno, 10, 100);
	round_trip(&f);
	CHECK_EQ(f.cc.cwnd, 20 * MSS);
	acked(&f, 5, false); /* the application limits */
	CHECK_EQ(f.cc.cwnd, 20 * MSS);
	loss(&f);
	CHECK_EQ(f.cc.cwnd, 10 * MSS);
	for (uint32_t k = 1; k <= 5; k++) {
		round_trip(&f);
		CHECK_EQ(f.cc.cwnd, (10 + k) * MSS);
	}
	/* What slow start does not take of a stretch ACK is congestion avoidance's. */
	f.cc.cwnd = 8 * MSS;
	f.cc.ssthresh = 10 * MSS;
	f.cc.grown = 0;
	acked(&f, 12, true);
	CHECK_EQ(f.cc.cwnd, 11 * MSS);
	f.cc.cwnd = 3 * MSS;
	loss(&f);
	CHECK_EQ(f.cc.cwnd, 2 * MSS); /* never below two (RFC 5681 equation 4) */
}

/* RFC 9438 4.2: after a loss at W the window is back there after K = cbrt(W * 0.3 / 0.4) seconds, flat around it. */
TEST(cubic_curve)
{
	struct flow f = flow(&pb_cc_cubic, 1000, 100);
	f.cc.ssthresh = f.cc.cwnd;
	loss(&f);
	CHECK_EQ(f.cc.cwnd, 700 * MSS);
	uint64_t began = f.now_ns;
	uint32_t at_half = 0;
	while (f.cc.cwnd < 990 * MSS && f.now_ns - began < 60000 * MS) {
		round_trip(&f);
		if (!at_half && f.now_ns - began >= 4500 * MS)
			at_half = f.cc.cwnd / MSS;
	}
	/* K is 9.09 s; 990 is reached when 10 = 0.4 * d^3, 2.9 s before. At half of K 37 of the 300 are missing. */
	uint64_t ms = (f.now_ns - began) / MS;
	CHECK(ms > 5600 && ms < 6900);
	CHECK(at_half > 950 && at_half < 975);
	for (began = f.now_ns; f.now_ns - began < 5000 * MS;)
		round_trip(&f);
	CHECK(f.cc.cwnd > 1000 * MSS && f.cc.cwnd < 1040 * MSS); /* and beyond, slowly at first */
}

/* 4.3: on a short path Reno would be faster, so it is as fast as Reno. */
TEST(cubic_is_friendly)
{
	struct flow f = flow(&pb_cc_cubic, 20, 5);
	f.cc.ssthresh = f.cc.cwnd;
	loss(&f);
	CHECK_EQ(f.cc.cwnd, 14 * MSS);
	for (unsigned k = 0; k < 60; k++)
		round_trip(&f);
	/* Reno with beta 0.7 adds 3 * 0.3 / 1.7 = 0.53 a round trip; the curve would add 0.01 in 0.3 s. */
	CHECK(f.cc.cwnd >= 14 * MSS + 25 * MSS && f.cc.cwnd <= 14 * MSS + 36 * MSS);
}

/* 4.7: whoever loses below the old maximum leaves room. */
TEST(cubic_fast_convergence)
{
	struct flow a = flow(&pb_cc_cubic, 100, 100), b = a;
	a.cc.ssthresh = b.cc.ssthresh = 100 * MSS;
	loss(&a);
	loss(&a); /* at 70: its plateau is 70 * 0.85 */
	b.cc.cwnd = 70 * MSS;
	loss(&b); /* the first loss: its plateau is 70 */
	CHECK_EQ(a.cc.cwnd, 49 * MSS);
	CHECK_EQ(b.cc.cwnd, 49 * MSS);
	for (unsigned k = 0; k < 30; k++) {
		round_trip(&a);
		round_trip(&b);
	}
	CHECK(a.cc.cwnd < b.cc.cwnd);
}

TEST(cubic_timeout_forgets)
{
	struct flow f = flow(&pb_cc_cubic, 100, 100);
	f.cc.ssthresh = 100 * MSS;
	loss(&f);
	f.cc.ssthresh = f.ops->ssthresh(&f.cc, f.cc.cwnd, f.now_ns);
	f.cc.cwnd = MSS;
	f.ops->event(&f.cc, PB_CC_RTO, f.nxt, f.now_ns);
	for (unsigned k = 0; k < 6; k++)
		round_trip(&f);
	CHECK_EQ(f.cc.ssthresh, 49 * MSS);
	CHECK(f.cc.cwnd >= 49 * MSS && f.cc.cwnd < 60 * MSS);
}

/* HyStart: a delay that grows by more than an eighth ends slow start; below 16 segments nothing does. */
TEST(hystart_delay)
{
	struct flow f = flow(&pb_cc_cubic, 10, 100);
	round_trip(&f);
	CHECK_EQ(f.cc.cwnd, 20 * MSS);
	CHECK_EQ(f.cc.ssthresh, PB_CC_SSTHRESH_MAX);
	f.rtt_us = 120000;
	round_trip(&f);
	CHECK(f.cc.ssthresh >= 20 * MSS && f.cc.ssthresh < 40 * MSS);
	struct flow same = flow(&pb_cc_cubic, 10, 100);
	for (unsigned k = 0; k < 3; k++)
		round_trip(&same);
	CHECK_EQ(same.cc.ssthresh, PB_CC_SSTHRESH_MAX); /* 100 ms all the way, and ACKs too far apart for a train */
	struct flow small = flow(&pb_cc_cubic, 4, 100);
	small.cc.min_rtt_us = 100000;
	round_trip(&small);
	small.rtt_us = 300000;
	acked(&small, 1, true);
	CHECK_EQ(small.cc.ssthresh, PB_CC_SSTHRESH_MAX);
}

/* A train of ACKs close to each other that lasts longer than half a round trip: the bottleneck is busy all the time. */
TEST(hystart_train)
{
	struct flow f = flow(&pb_cc_cubic, 100, 100);
	f.now_ns += 100 * MS;
	unsigned k = 0;
	for (; k < 100 && f.cc.ssthresh == PB_CC_SSTHRESH_MAX; k++) {
		acked(&f, 1, true);
		f.now_ns += MS;
	}
	CHECK(k >= 50 && k <= 54);
	CHECK_EQ(f.cc.ssthresh, f.cc.cwnd);
}

/* The curve does not climb while nothing is sent (RFC 9438 4.2, Linux). */
TEST(cubic_idle)
{
	struct flow a = flow(&pb_cc_cubic, 1000, 100), b;
	a.cc.ssthresh = a.cc.cwnd;
	loss(&a);
	round_trip(&a);
	b = a;
	b.now_ns += 30000 * MS;
	b.ops->event(&b.cc, PB_CC_TX_START, 30000 * MS, b.now_ns);
	for (unsigned k = 0; k < 10; k++) {
		round_trip(&a);
		round_trip(&b);
	}
	CHECK(b.cc.cwnd <= a.cc.cwnd + 2 * MSS);
}

/* What was sent last went before the ACK that began the epoch: the idle time is longer than the epoch is old. A curve
 * that began in the future would be far above the window at once. */
TEST(cubic_idle_since_before_the_epoch)
{
	struct flow f = flow(&pb_cc_cubic, 10, 100);
	loss(&f);
	for (unsigned k = 0; k < 8; k++)
		acked(&f, 1, true);
	CHECK_EQ(f.cc.cwnd, 8 * MSS); /* Reno's region; with it the epoch began */
	f.now_ns += 5000 * MS;
	f.ops->event(&f.cc, PB_CC_TX_START, 5100 * MS, f.now_ns);
	f.now_ns += 50 * MS;
	for (unsigned k = 0; k < 8; k++)
		acked(&f, 1, true);
	CHECK_EQ(f.cc.cwnd, 8 * MSS);
}

/* Sizes at the limits: no overflow, no division by nothing (under UBSan). */
TEST(extremes)
{
	static const uint32_t windows[] = {1, 2, 15, 16, 17, 65535, 1000000, 2000000};
	for (unsigned i = 0; pb_cc_at(i); i++)
		for (unsigned w = 0; w < sizeof(windows) / sizeof(windows[0]); w++)
			for (unsigned rtt = 0; rtt < 3; rtt++) {
				struct flow f = flow(pb_cc_at(i), windows[w], rtt == 0 ? 0 : rtt == 1 ? 1 : 60000);
				for (unsigned k = 0; k < 200; k++) {
					f.now_ns += k % 7 * 1000 * MS;
					acked(&f, 1 + k * k, true);
					if (k % 50 == 49)
						loss(&f);
					CHECK(f.cc.cwnd >= MSS && f.cc.cwnd <= UINT32_MAX / 2 + 2 * MSS);
				}
			}
}

MAIN(T(names), T(reno_doubles_then_adds_one), T(cubic_curve), T(cubic_is_friendly), T(cubic_fast_convergence),
     T(cubic_timeout_forgets), T(hystart_delay), T(hystart_train), T(cubic_idle), T(cubic_idle_since_before_the_epoch),
     T(extremes))
