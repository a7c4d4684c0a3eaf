/* What became of numbered packets: lost, twice, out of order. Numbers start at 0 and need 48 bits.
 *
 * A packet is reordered when one with a higher number came before it (RFC 4737 3.3), a duplicate when its number came
 * before (RFC 5560). The last 65,536 numbers are remembered; what is older than that is `old`: it may be either. */
#ifndef PB_APP_SEQTRACK_H
#define PB_APP_SEQTRACK_H
#include "base/types.h"

#define PB_SEQ_WINDOW 65536u

struct pb_seqtrack {
	uint64_t next; /* one more than the highest seen */
	uint64_t unique, duplicates, reordered, old;
	uint64_t seen[PB_SEQ_WINDOW / 64];
};

static inline void pb_seqtrack_reset(struct pb_seqtrack *t)
{
	memset(t, 0, sizeof(*t));
}

/* Forgets what leaves the window when `next` moves on to seq + 1. */
PB_API void pb_seqtrack_skip(struct pb_seqtrack *t, uint64_t seq);

static inline bool pb_seqtrack_test_set(struct pb_seqtrack *t, uint64_t seq)
{
	uint64_t *w = &t->seen[seq / 64 % PB_ARRAY_LEN(t->seen)], bit = 1ull << seq % 64;
	bool was = *w & bit;
	*w |= bit;
	return was;
}

static inline void pb_seqtrack_see(struct pb_seqtrack *t, uint64_t seq)
{
	if (seq >= t->next) {
		pb_seqtrack_skip(t, seq);
		pb_seqtrack_test_set(t, seq);
		t->next = seq + 1;
		t->unique++;
	} else if (t->next - seq > PB_SEQ_WINDOW) {
		t->old++;
	} else if (pb_seqtrack_test_set(t, seq)) {
		t->duplicates++;
	} else {
		t->unique++;
		t->reordered++;
	}
}

/* Of `sent` packets with the numbers 0 to sent - 1, how many never came (as far as the window tells). */
static inline uint64_t pb_seqtrack_lost(const struct pb_seqtrack *t, uint64_t sent)
{
	uint64_t came = t->unique + t->old;
	return sent > came ? sent - came : 0;
}
#endif
