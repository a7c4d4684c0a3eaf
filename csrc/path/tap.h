/* A capture buffer: packets of both directions with their times, written by the loop, read when it is off again. */
#ifndef PB_PATH_TAP_H
#define PB_PATH_TAP_H
#include "base/types.h"
#include "mem/pool.h"

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

/* A packet of n descriptors. */
static inline void pb_tap_packet(struct pb_tap *t, const struct pb_pool *pool, const struct pb_desc *d, uint32_t n,
				 bool out, uint64_t ts_ns)
{
	struct pb_tap_rec rec = {ts_ns, 0, out};
	for (uint32_t i = 0; i < n; i++)
		rec.len += d[i].len;
	if (t->used + sizeof(rec) + rec.len > t->size) {
		t->dropped++;
		return;
	}
	memcpy(t->buf + t->used, &rec, sizeof(rec));
	t->used += sizeof(rec);
	for (uint32_t i = 0; i < n; i++) {
		memcpy(t->buf + t->used, pb_pool_data(pool, &d[i]), d[i].len);
		t->used += d[i].len;
	}
	t->pkts++;
}
#endif
