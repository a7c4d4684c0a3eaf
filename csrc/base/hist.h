/* A histogram of unsigned 64-bit values in HdrHistogram's buckets (Tene): exact below 2048, then 1024 buckets for each
 * power of two, so that a value is known to within 1 part in 1024 (three significant digits). Recording is a few
 * instructions and never allocates. Values of 2^42 and more (73 minutes in ns) count in the last bucket, and in `over`.
 *
 * One writer. To merge, the writer must be quiet. */
#ifndef PB_BASE_HIST_H
#define PB_BASE_HIST_H
#include "base/types.h"

#define PB_HIST_HALF_BITS 10 /* half of the sub-buckets: 1024 */
#define PB_HIST_MAX_BITS 42
#define PB_HIST_COUNTS ((PB_HIST_MAX_BITS - PB_HIST_HALF_BITS + 1) << PB_HIST_HALF_BITS)

struct pb_hist {
	uint64_t n;
	uint64_t sum;      /* of the values; wraps after 584 years of ns */
	uint64_t min, max; /* exact; min is UINT64_MAX when n is 0 */
	uint64_t over;
	uint64_t counts[PB_HIST_COUNTS];
};

PB_API void pb_hist_reset(struct pb_hist *h);
/* Adds all of `from` to h. */
PB_API void pb_hist_merge(struct pb_hist *h, const struct pb_hist *from);
/* The value of the rank-th smallest, rank 1 to n: the highest that its bucket stands for, at most max. 0 when empty. */
PB_API uint64_t pb_hist_at_rank(const struct pb_hist *h, uint64_t rank);

/* The bucket of a value. */
static inline uint32_t pb_hist_index(uint64_t v)
{
	const uint32_t mask = (2u << PB_HIST_HALF_BITS) - 1;
	uint32_t shift = 63 - PB_HIST_HALF_BITS - (uint32_t)__builtin_clzll(v | mask);
	return (shift << PB_HIST_HALF_BITS) + (uint32_t)(v >> shift);
}

/* The smallest value of a bucket. */
static inline uint64_t pb_hist_low(uint32_t index)
{
	uint32_t shift = index >> PB_HIST_HALF_BITS;
	if (shift < 2)
		return index;
	shift--;
	return (uint64_t)(index - (shift << PB_HIST_HALF_BITS)) << shift;
}

static inline void pb_hist_record(struct pb_hist *h, uint64_t v)
{
	h->n++;
	h->sum += v;
	h->min = v < h->min ? v : h->min;
	h->max = v > h->max ? v : h->max;
	if (v >> PB_HIST_MAX_BITS) {
		h->over++;
		h->counts[PB_HIST_COUNTS - 1]++;
	} else {
		h->counts[pb_hist_index(v)]++;
	}
}
#endif
