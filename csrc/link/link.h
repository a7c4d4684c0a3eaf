/* An impaired link in one direction: a queue before a line of some rate, then a delay; it loses, duplicates, corrupts
 * and reorders. Pure: time is an argument, chance comes from a seed, all is integers. Two links with the same
 * configuration and the same calls do the same to the bit. It moves descriptors and never looks at their bytes.
 *
 * For each packet: pb_link_fate() says what befalls it. Unless it is dropped, the caller flips the bit if it is
 * corrupted, and pushes it; if it is duplicated, it pushes a copy too. */
#ifndef PB_LINK_LINK_H
#define PB_LINK_LINK_H
#include "base/drops.h"
#include "base/types.h"
#include "mem/desc.h"

struct pb_link_config {
	uint64_t rate_bps;   /* 0: infinite; else 1,000 to 10^12 */
	uint64_t delay_ns;   /* this and the next two: at most one hour, jitter below 2^32 - 1 */
	uint64_t jitter_ns;  /* uniform in [0, jitter_ns] on top; never reorders by itself */
	uint64_t reorder_ns; /* extra delay of a reordered packet */
	uint64_t seed;
	uint32_t queue_bytes; /* what may wait for the line, with the packet being sent; 0: bounded by capacity only;
				 at most 2^30. A packet always fits when the line is idle. */
	uint32_t loss_ppm;    /* parts per million, at most 1,000,000 each */
	uint32_t dup_ppm;
	uint32_t corrupt_ppm;
	uint32_t reorder_ppm;
	uint32_t capacity; /* descriptors held at most; a power of two up to 2^20 */
};

struct pb_link_fate {
	enum pb_drop drop; /* PB_DROP_NONE, PB_DROP_LINK_LOSS or PB_DROP_LINK_QUEUE */
	bool dup;
	bool corrupt;
	uint32_t corrupt_bit; /* below len_bytes * 8; bit i is bit i % 8 (value 1 << i % 8) of byte i / 8 */
};

struct pb_link;

/* NULL and -EINVAL or -ENOMEM in *err. */
PB_API struct pb_link *pb_link_create(const struct pb_link_config *cfg, int *err);
/* What is still held is forgotten: pb_link_drain() it first. NULL is allowed. */
PB_API void pb_link_destroy(struct pb_link *l);

/* Time never runs backwards: an earlier now_ns than one given before counts as that one. */
PB_API void pb_link_fate(struct pb_link *l, uint32_t len_bytes, uint64_t now_ns, struct pb_link_fate *fate);
/* Takes a packet of n descriptors (n > 1: a chain by PB_DESC_MORE, which stays together) and sets when it is delivered:
 * after the line is free, its serialisation, delay and jitter. Delivery is in order of pushing, but for those packets
 * that chance reorders: these come reorder_ns later and do not hold up the rest. 0, or -ENOSPC at capacity. */
PB_API int pb_link_push(struct pb_link *l, const struct pb_desc *d, uint32_t n, uint64_t now_ns);
/* Gives up to n descriptors of packets that are due, in order of delivery time, then of pushing. Packets come whole:
 * one with more than n descriptors waits. */
PB_API int pb_link_pop(struct pb_link *l, struct pb_desc *d, int n, uint64_t now_ns);
/* The same regardless of time and of chains, for closing. */
PB_API int pb_link_drain(struct pb_link *l, struct pb_desc *d, int n);
/* When the next packet is due; UINT64_MAX if none is held. */
PB_API uint64_t pb_link_next_ns(const struct pb_link *l);
/* Descriptors held. */
PB_API uint32_t pb_link_count(const struct pb_link *l);
#endif
