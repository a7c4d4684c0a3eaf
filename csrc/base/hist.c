#include "base/hist.h"

void pb_hist_reset(struct pb_hist *h)
{
	memset(h, 0, sizeof(*h));
	h->min = UINT64_MAX;
}

void pb_hist_merge(struct pb_hist *h, const struct pb_hist *from)
{
	h->n += from->n;
	h->sum += from->sum;
	h->over += from->over;
	h->min = from->min < h->min ? from->min : h->min;
	h->max = from->max > h->max ? from->max : h->max;
	for (uint32_t i = 0; i < PB_HIST_COUNTS; i++)
		h->counts[i] += from->counts[i];
}

uint64_t pb_hist_at_rank(const struct pb_hist *h, uint64_t rank)
{
	uint64_t seen = 0;
	if (!h->n || rank > h->n)
		return h->n ? h->max : 0;
	for (uint32_t i = 0; i < PB_HIST_COUNTS; i++) {
		seen += h->counts[i];
		if (seen >= rank) {
			uint64_t high = i + 1 < PB_HIST_COUNTS ? pb_hist_low(i + 1) - 1 : h->max;
			return high < h->max ? high : h->max;
		}
	}
	return h->max;
}
