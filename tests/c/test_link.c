#include "harness.h"
#include "link/link.h"

#include <errno.h>

static struct pb_link *make(const struct pb_link_config *cfg)
{
	int err;
	struct pb_link *l = pb_link_create(cfg, &err);
	CHECK_EQ(err, 0);
	CHECK(l != NULL);
	return l;
}

static struct pb_desc packet(uint64_t id, uint16_t len)
{
	return (struct pb_desc){.addr = id, .len = len};
}

static int push(struct pb_link *l, uint64_t id, uint16_t len, uint64_t now)
{
	struct pb_desc d = packet(id, len);
	return pb_link_push(l, &d, 1, now);
}

TEST(refuses_bad_config)
{
	const struct pb_link_config good = {.capacity = 16};
	struct pb_link_config bad[12];
	for (size_t i = 0; i < PB_ARRAY_LEN(bad); i++)
		bad[i] = good;
	bad[0].capacity = 0;
	bad[1].capacity = 17;
	bad[2].capacity = 1u << 21;
	bad[3].rate_bps = 999;
	bad[4].rate_bps = 1000000000001u;
	bad[5].loss_ppm = 1000001;
	bad[6].dup_ppm = 1000001;
	bad[7].corrupt_ppm = 1000001;
	bad[8].reorder_ppm = 1000001;
	bad[9].delay_ns = 3600000000001u;
	bad[10].jitter_ns = UINT32_MAX;
	bad[11].queue_bytes = (1u << 30) + 1;
	for (size_t i = 0; i < PB_ARRAY_LEN(bad); i++) {
		int err = 0;
		CHECK(!pb_link_create(&bad[i], &err));
		CHECK_EQ(err, -EINVAL);
	}
	pb_link_destroy(NULL);
}

TEST(perfect_link)
{
	struct pb_link *l = make(&(struct pb_link_config){.capacity = 16});
	struct pb_desc out[16];
	CHECK_EQ(pb_link_next_ns(l), UINT64_MAX);
	for (uint64_t i = 0; i < 5; i++) {
		struct pb_link_fate fate;
		pb_link_fate(l, 100, 10, &fate);
		CHECK(!fate.drop && !fate.dup && !fate.corrupt);
		CHECK_EQ(push(l, i, 100, 10), 0);
	}
	CHECK_EQ(pb_link_next_ns(l), 10);
	CHECK_EQ(pb_link_pop(l, out, 3, 10), 3);
	CHECK_EQ(pb_link_count(l), 2);
	CHECK_EQ(pb_link_pop(l, out + 3, 13, 10), 2);
	for (uint64_t i = 0; i < 5; i++)
		CHECK_EQ(out[i].addr, i);
	CHECK_EQ(pb_link_pop(l, out, 16, UINT64_MAX), 0);
	pb_link_destroy(l);
}

TEST(rate_and_delay_are_exact)
{
	/* 1500 bytes at 1 Gbit/s take 12 us. */
	struct pb_link *l = make(&(struct pb_link_config){.capacity = 16, .rate_bps = 1000000000, .delay_ns = 5000});
	struct pb_desc d;
	for (uint64_t i = 0; i < 3; i++)
		push(l, i, 1500, 1000);
	for (uint64_t i = 0; i < 3; i++) {
		uint64_t due = 1000 + 12000 * (i + 1) + 5000;
		CHECK_EQ(pb_link_next_ns(l), due);
		CHECK_EQ(pb_link_pop(l, &d, 1, due - 1), 0);
		CHECK_EQ(pb_link_pop(l, &d, 1, due), 1);
		CHECK_EQ(d.addr, i);
	}
	pb_link_destroy(l);
	/* One byte at 3 Gbit/s takes 2 2/3 ns: after 3,000 bytes the clock stands at 8,000, not at 6,000 or 9,000. */
	l = make(&(struct pb_link_config){.capacity = 4096, .rate_bps = 3000000000});
	for (uint64_t i = 0; i < 3000; i++)
		CHECK_EQ(push(l, i, 1, 0), 0);
	for (uint64_t i = 0; i < 3000; i++) {
		CHECK_EQ(pb_link_next_ns(l), (i + 1) * 8 / 3);
		pb_link_pop(l, &d, 1, UINT64_MAX);
	}
	pb_link_destroy(l);
}

TEST(time_does_not_run_backwards)
{
	struct pb_link *l = make(&(struct pb_link_config){.capacity = 4, .delay_ns = 10});
	struct pb_desc d;
	push(l, 1, 10, 100);
	push(l, 2, 10, 50);
	CHECK_EQ(pb_link_pop(l, &d, 1, 110), 1);
	CHECK_EQ(pb_link_next_ns(l), 110);
	CHECK_EQ(pb_link_pop(l, &d, 1, 0), 1);
	pb_link_destroy(l);
}

TEST(queue_drops_at_its_limit)
{
	/* 8 Mbit/s: one byte per microsecond. */
	struct pb_link *l = make(&(struct pb_link_config){.capacity = 64, .rate_bps = 8000000, .queue_bytes = 3000});
	struct pb_link_fate f;
	for (uint64_t i = 0; i < 3; i++) {
		pb_link_fate(l, 1000, 0, &f);
		CHECK_EQ(f.drop, PB_DROP_NONE);
		push(l, i, 1000, 0);
	}
	pb_link_fate(l, 1, 0, &f);
	CHECK_EQ(f.drop, PB_DROP_LINK_QUEUE);
	pb_link_fate(l, 1000, 999999, &f); /* one byte short */
	CHECK_EQ(f.drop, PB_DROP_LINK_QUEUE);
	pb_link_fate(l, 1000, 1000000, &f);
	CHECK_EQ(f.drop, PB_DROP_NONE);
	/* When idle a packet passes that is larger than the queue. */
	pb_link_fate(l, 9000, 3000000, &f);
	CHECK_EQ(f.drop, PB_DROP_NONE);
	pb_link_destroy(l);
}

TEST(capacity)
{
	struct pb_link *l = make(&(struct pb_link_config){.capacity = 4, .delay_ns = 10});
	struct pb_desc d[5] = {{.flags = PB_DESC_MORE}};
	struct pb_link_fate f;
	for (uint64_t i = 0; i < 3; i++)
		CHECK_EQ(push(l, i, 10, 0), 0);
	CHECK_EQ(pb_link_push(l, d, 2, 0), -ENOSPC);
	CHECK_EQ(push(l, 3, 10, 0), 0);
	CHECK_EQ(push(l, 4, 10, 0), -ENOSPC);
	pb_link_fate(l, 10, 0, &f);
	CHECK_EQ(f.drop, PB_DROP_LINK_QUEUE);
	CHECK_EQ(pb_link_drain(l, d, 3), 3);
	CHECK_EQ(pb_link_drain(l, d + 3, 3), 1);
	for (uint64_t i = 0; i < 4; i++)
		CHECK_EQ(d[i].addr, i);
	pb_link_fate(l, 10, 0, &f);
	CHECK_EQ(f.drop, PB_DROP_NONE);
	pb_link_destroy(l);
}

TEST(chains_stay_whole)
{
	struct pb_link *l = make(&(struct pb_link_config){
		.capacity = 1024, .reorder_ppm = 500000, .reorder_ns = 50, .jitter_ns = 30, .seed = harness.seed});
	struct pb_rng r = test_rng();
	struct pb_desc d[64];
	uint64_t id = 0;
	for (int k = 0; k < 300; k++) {
		uint32_t n = 1 + pb_rng_below(&r, 3);
		for (uint32_t i = 0; i < n; i++) {
			d[i] = packet(id++, 100);
			d[i].flags = i + 1 < n ? PB_DESC_MORE : 0;
		}
		CHECK_EQ(pb_link_push(l, d, n, (uint64_t)k), 0);
	}
	int left = (int)id, got;
	while (left > 0 && (got = pb_link_pop(l, d, 3 + (int)pb_rng_below(&r, 4), UINT64_MAX)) > 0) {
		left -= got;
		CHECK(!(d[got - 1].flags & PB_DESC_MORE));
		for (int i = 0; i + 1 < got; i++)
			CHECK(!(d[i].flags & PB_DESC_MORE) || d[i + 1].addr == d[i].addr + 1);
	}
	CHECK_EQ(left, 0);
	d[0].flags = d[1].flags = PB_DESC_MORE;
	d[2].flags = 0;
	pb_link_push(l, d, 3, 0);
	CHECK_EQ(pb_link_pop(l, d, 2, UINT64_MAX), 0);
	CHECK_EQ(pb_link_pop(l, d, 3, UINT64_MAX), 3);
	pb_link_destroy(l);
}

TEST(jitter_keeps_order_and_bounds)
{
	struct pb_link *l = make(
		&(struct pb_link_config){.capacity = 1024, .delay_ns = 1000, .jitter_ns = 500, .seed = harness.seed});
	uint64_t last = 0, sum = 0;
	struct pb_desc d;
	for (uint64_t i = 0; i < 1000; i++)
		push(l, i, 100, i * 10000);
	for (uint64_t i = 0; i < 1000; i++) {
		uint64_t due = pb_link_next_ns(l);
		CHECK(due >= last && due >= i * 10000 + 1000 && due <= i * 10000 + 1500);
		sum += due - i * 10000 - 1000;
		last = due;
		CHECK_EQ(pb_link_pop(l, &d, 1, due), 1);
		CHECK_EQ(d.addr, i);
	}
	CHECK(sum > 200000 && sum < 300000); /* 250 on average; six sigma is about 27,000 */
	/* Packets closer than the jitter still come in order. */
	for (uint64_t i = 0; i < 1000; i++)
		push(l, i, 100, 20000000 + i);
	for (uint64_t i = 0; i < 1000; i++) {
		CHECK_EQ(pb_link_pop(l, &d, 1, UINT64_MAX), 1);
		CHECK_EQ(d.addr, i);
	}
	pb_link_destroy(l);
}

TEST(reordering)
{
	struct pb_link *l = make(&(struct pb_link_config){
		.capacity = 4096, .delay_ns = 100, .reorder_ppm = 100000, .reorder_ns = 55, .seed = harness.seed});
	struct pb_desc d;
	uint32_t late = 0;
	uint64_t expect = 0;
	for (uint64_t i = 0; i < 4000; i++)
		push(l, i, 100, i * 10);
	bool seen[4000] = {false};
	for (uint64_t i = 0, last = 0; i < 4000; i++) {
		uint64_t due = pb_link_next_ns(l);
		CHECK(due >= last);
		last = due;
		CHECK_EQ(pb_link_pop(l, &d, 1, due), 1);
		CHECK(!seen[d.addr]);
		seen[d.addr] = true;
		if (due == d.addr * 10 + 155) {
			late++;
		} else {
			CHECK_EQ(due, d.addr * 10 + 100);
			CHECK(d.addr >= expect);
			expect = d.addr;
		}
	}
	CHECK(late > 280 && late < 520); /* 400, six sigma is 114 */
	pb_link_destroy(l);
}

TEST(chances)
{
	const uint32_t n = 200000;
	struct pb_link *l = make(&(struct pb_link_config){
		.capacity = 2, .loss_ppm = 100000, .dup_ppm = 50000, .corrupt_ppm = 20000, .seed = harness.seed});
	uint32_t loss = 0, dup = 0, corrupt = 0, high = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct pb_link_fate f;
		pb_link_fate(l, 100, i, &f);
		loss += f.drop == PB_DROP_LINK_LOSS;
		dup += f.dup;
		corrupt += f.corrupt;
		high += f.corrupt && f.corrupt_bit >= 400;
		CHECK(f.corrupt_bit < 800);
		CHECK(!f.drop || (!f.dup && !f.corrupt));
	}
	/* Six sigma: 805 of 20,000; 567 of 9,000; 360 of 3,600. */
	CHECK(loss > 19195 && loss < 20805);
	CHECK(dup > 8433 && dup < 9567);
	CHECK(corrupt > 3240 && corrupt < 3960);
	CHECK(high > 1500 && high < 2100);
	pb_link_destroy(l);
	l = make(&(struct pb_link_config){.capacity = 2, .loss_ppm = 1000000});
	for (uint32_t i = 0; i < 1000; i++) {
		struct pb_link_fate f;
		pb_link_fate(l, 100, i, &f);
		CHECK_EQ(f.drop, PB_DROP_LINK_LOSS);
	}
	pb_link_destroy(l);
}

/* A hash of all that a link does in a long random run. */
static uint64_t history(uint64_t seed, uint64_t calls)
{
	struct pb_link *l = make(&(struct pb_link_config){.rate_bps = 900000000,
							  .delay_ns = 20000,
							  .jitter_ns = 7000,
							  .queue_bytes = 30000,
							  .loss_ppm = 20000,
							  .dup_ppm = 10000,
							  .corrupt_ppm = 10000,
							  .reorder_ppm = 30000,
							  .reorder_ns = 40000,
							  .capacity = 64,
							  .seed = seed});
	struct pb_rng r = {.state = calls};
	uint64_t h = 0, now = 0;
	for (uint64_t i = 0; i < 20000; i++) {
		struct pb_link_fate f;
		struct pb_desc d[8];
		uint16_t len = (uint16_t)(64 + pb_rng_below(&r, 1400));
		now += pb_rng_below(&r, 20000);
		pb_link_fate(l, len, now, &f);
		h = (h ^ f.drop ^ (uint64_t)f.dup << 8 ^ (uint64_t)f.corrupt_bit << 16) * 0x100000001b3u;
		for (int k = 0; !f.drop && k <= f.dup; k++)
			push(l, i, len, now);
		int n = pb_link_pop(l, d, 8, now);
		for (int k = 0; k < n; k++)
			h = (h ^ d[k].addr) * 0x100000001b3u;
		h ^= pb_link_next_ns(l);
	}
	pb_link_destroy(l);
	return h;
}

TEST(same_seed_same_history)
{
	CHECK_EQ(history(1, harness.seed), history(1, harness.seed));
	CHECK(history(1, harness.seed) != history(2, harness.seed));
	/* Pinned: a change here changes every recorded simulation. */
	CHECK_EQ(history(1, 1), 0x3752be9bfa2da8e1u);
}

/* A slow model of everything but chance: delivery times by long division from the start of each busy period. */
TEST(against_a_slow_model)
{
	struct pb_rng r = test_rng();
	for (int round = 0; round < 50; round++) {
		uint64_t rate = 1000 + pb_rng_u64(&r) % 100000000000u, delay = pb_rng_below(&r, 100000);
		struct pb_link *l =
			make(&(struct pb_link_config){.rate_bps = rate, .delay_ns = delay, .capacity = 256});
		uint64_t now = 0, start = 0, due[200];
		unsigned __int128 bits = 0;
		for (uint64_t i = 0; i < 200; i++) {
			uint16_t len = (uint16_t)(1 + pb_rng_below(&r, 9000));
			now += pb_rng_below(&r, 4) ? 0 : pb_rng_u64(&r) % (1 + 100000000000000u / rate);
			/* The line is idle from the nanosecond in which its last bit leaves. */
			if (start + (uint64_t)(bits * 1000000000u / rate) <= now) {
				start = now;
				bits = 0;
			}
			bits += (unsigned __int128)len * 8;
			due[i] = start + (uint64_t)(bits * 1000000000u / rate) + delay;
			push(l, i, len, now);
		}
		for (uint64_t i = 0; i < 200; i++) {
			struct pb_desc d;
			CHECK_EQ(pb_link_next_ns(l), due[i]);
			CHECK_EQ(pb_link_pop(l, &d, 1, UINT64_MAX), 1);
			CHECK_EQ(d.addr, i);
		}
		pb_link_destroy(l);
	}
}

MAIN(T(refuses_bad_config), T(perfect_link), T(rate_and_delay_are_exact), T(time_does_not_run_backwards),
     T(queue_drops_at_its_limit), T(capacity), T(chains_stay_whole), T(jitter_keeps_order_and_bounds), T(reordering),
     T(chances), T(same_seed_same_history), T(against_a_slow_model))
