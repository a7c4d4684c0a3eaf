/* A bounded ring with one producer and one consumer thread. Indices run free, the size is a power of two, each side
 * caches the other's index, and a burst costs one acquire and one release (after liburing and libxdp). */
#ifndef PB_MEM_RING_H
#define PB_MEM_RING_H
#include "base/types.h"

#include <stdatomic.h>

struct pb_ring {
	/* read-mostly */
	uint8_t *slots PB_ALIGNED(PB_CACHE_LINE);
	uint32_t mask;
	uint32_t elem_bytes;
	/* producer */
	_Atomic uint32_t head PB_ALIGNED(PB_CACHE_LINE);
	uint32_t cached_tail;
	/* consumer */
	_Atomic uint32_t tail PB_ALIGNED(PB_CACHE_LINE);
	uint32_t cached_head;
};
_Static_assert(offsetof(struct pb_ring, tail) - offsetof(struct pb_ring, head) == PB_CACHE_LINE, "no false sharing");

/* slots: a power of two, 2 to 2^24. Returns 0, -EINVAL or -ENOMEM. */
PB_API int pb_ring_init(struct pb_ring *r, uint32_t slots, uint32_t elem_bytes);
PB_API void pb_ring_fini(struct pb_ring *r);

/* Free slots seen by the producer (at least; the consumer may free more meanwhile). */
static inline uint32_t pb_ring_room(struct pb_ring *r, uint32_t want)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	uint32_t room = r->mask + 1 - (head - r->cached_tail);
	if (room < want) {
		r->cached_tail = atomic_load_explicit(&r->tail, memory_order_acquire);
		room = r->mask + 1 - (head - r->cached_tail);
	}
	return room;
}

/* Filled slots seen by the consumer. */
static inline uint32_t pb_ring_avail(struct pb_ring *r, uint32_t want)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	uint32_t n = r->cached_head - tail;
	if (n < want) {
		r->cached_head = atomic_load_explicit(&r->head, memory_order_acquire);
		n = r->cached_head - tail;
	}
	return n;
}

/* The slot i places after the producer's (consumer's) index; valid for i < room (avail). */
static inline void *pb_ring_prod_slot(struct pb_ring *r, uint32_t i)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	return r->slots + (size_t)((head + i) & r->mask) * r->elem_bytes;
}

static inline void *pb_ring_cons_slot(struct pb_ring *r, uint32_t i)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	return r->slots + (size_t)((tail + i) & r->mask) * r->elem_bytes;
}

static inline void pb_ring_submit(struct pb_ring *r, uint32_t n)
{
	uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	atomic_store_explicit(&r->head, head + n, memory_order_release);
}

static inline void pb_ring_release(struct pb_ring *r, uint32_t n)
{
	uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	atomic_store_explicit(&r->tail, tail + n, memory_order_release);
}

/* Copies up to n elements in (out); returns how many. */
PB_API uint32_t pb_ring_put(struct pb_ring *r, const void *elems, uint32_t n);
PB_API uint32_t pb_ring_get(struct pb_ring *r, void *elems, uint32_t n);
/* Number of filled slots; exact only when both sides are quiet. */
PB_API uint32_t pb_ring_count(const struct pb_ring *r);
#endif
