#include "base/hist.h"
#include "harness.h"

static struct pb_hist h, other;

static uint64_t value(struct pb_rng *r)
{
	return pb_rng_u64(r) >> (22 + pb_rng_below(r, 42)); /* of every magnitude below 2^42 */
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

TEST(buckets_cover_every_value_once)
{
	struct pb_rng r = test_rng();
	CHECK_EQ(pb_hist_low(0), 0);
	for (uint32_t i = 0; i + 1 < PB_HIST_COUNTS; i++) {
		CHECK_EQ(pb_hist_index(pb_hist_low(i)), i);
		CHECK_EQ(pb_hist_index(pb_hist_low(i + 1) - 1), i);
	}
	CHECK_EQ(pb_hist_index((1ull << PB_HIST_MAX_BITS) - 1), PB_HIST_COUNTS - 1);
	for (int i = 0; i < 100000; i++) {
		uint64_t v = value(&r);
		uint32_t at = pb_hist_index(v);
		CHECK(pb_hist_low(at) <= v && (at + 1 == PB_HIST_COUNTS || v < pb_hist_low(at + 1)));
		/* Three significant digits. */
		CHECK(v - pb_hist_low(at) <= v / 1024);
	}
}

TEST(ranks_are_those_of_the_sorted_values)
{
	enum { N = 20000 };
	static uint64_t v[N];
	struct pb_rng r = test_rng();
	pb_hist_reset(&h);
	CHECK_EQ(pb_hist_at_rank(&h, 1), 0);
	for (int i = 0; i < N; i++)
		pb_hist_record(&h, v[i] = value(&r));
	qsort(v, N, sizeof(*v), by_size);
	CHECK_EQ(h.n, N);
	CHECK_EQ(h.min, v[0]);
	CHECK_EQ(h.max, v[N - 1]);
	uint64_t sum = 0;
	for (int i = 0; i < N; i++)
		sum += v[i];
	CHECK_EQ(h.sum, sum);
	for (uint32_t k = 1; k <= N; k += 97) {
		uint64_t got = pb_hist_at_rank(&h, k);
		CHECK(got >= v[k - 1] && got - v[k - 1] <= v[k - 1] / 1024);
	}
	CHECK_EQ(pb_hist_at_rank(&h, N), v[N - 1]);
}

TEST(merging_is_recording_all)
{
	struct pb_rng r = test_rng();
	static struct pb_hist all;
	pb_hist_reset(&h);
	pb_hist_reset(&other);
	pb_hist_reset(&all);
	for (int i = 0; i < 5000; i++) {
		uint64_t v = value(&r);
		pb_hist_record(i % 3 ? &h : &other, v);
		pb_hist_record(&all, v);
	}
	pb_hist_merge(&h, &other);
	CHECK_MEM(&h, &all, sizeof(h));
}

TEST(what_is_too_large_is_counted)
{
	pb_hist_reset(&h);
	pb_hist_record(&h, 1ull << PB_HIST_MAX_BITS);
	pb_hist_record(&h, UINT64_MAX);
	pb_hist_record(&h, 5);
	CHECK_EQ(h.over, 2);
	CHECK_EQ(h.n, 3);
	CHECK_EQ(h.counts[PB_HIST_COUNTS - 1], 2);
	CHECK_EQ(pb_hist_at_rank(&h, 1), 5);
	CHECK_EQ(pb_hist_at_rank(&h, 3), UINT64_MAX);
}

MAIN(T(buckets_cover_every_value_once), T(ranks_are_those_of_the_sorted_values), T(merging_is_recording_all),
     T(what_is_too_large_is_counted))
