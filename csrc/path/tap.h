/* A capture buffer: packets of both directions with their times, written by the loop, read when it is off again. */
#ifndef PB_PATH_TAP_H
#define PB_PATH_TAP_H
#include "base/types.h"

struct pb_tap {
	uint8_t *buf;
	size_t size, used;
	uint64_t pkts, dropped; /* dropped: the buffer was full */
};

/* Before each packet in buf, unaligned. */
struct pb_tap_rec {
	uint64_t ts_ns; /* CLOCK_MONOTONIC of the step */
	uint32_t len;
	uint32_t out; /* 1: sent, 0: received */
};
_Static_assert(sizeof(struct pb_tap_rec) == 16, "ABI with Python");

static inline void pb_tap_add(struct pb_tap *t, const void *pkt, uint32_t len, bool out, uint64_t ts_ns)
{
	if (t->used + sizeof(struct pb_tap_rec) + len > t->size) {
		t->dropped++;
		return;
	}
	struct pb_tap_rec rec = {ts_ns, len, out};
	memcpy(t->buf + t->used, &rec, sizeof(rec));
	memcpy(t->buf + t->used + sizeof(rec), pkt, len);
	t->used += sizeof(rec) + len;
	t->pkts++;
}
#endif
