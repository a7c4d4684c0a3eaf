#include "app/seqtrack.h"

void pb_seqtrack_skip(struct pb_seqtrack *t, uint64_t seq)
{
	if (seq - t->next >= PB_SEQ_WINDOW) {
		memset(t->seen, 0, sizeof(t->seen));
		return;
	}
	for (uint64_t i = t->next; i <= seq; i++)
		t->seen[i / 64 % PB_ARRAY_LEN(t->seen)] &= ~(1ull << i % 64);
}
