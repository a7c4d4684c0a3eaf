/* The frame pool and the ownership table. Frames of one size for all of receiving, holding and sending, so that data
 * moves by a change of owner. Every frame has one owner at a time; the transitions that may happen are these, and no
 * others:
 *
 *   from \ to   FREE  FILL  RX    APP   ENGINE  TX
 *   FREE         -    yes   yes   yes   yes     -       posted, copied by a device in software, allocated to send
 *   FILL        yes    -    yes    -     -      -       taken back at close; received
 *   RX          yes    -     -    yes   yes    yes      dropped; held; taken by the engine; forwarded
 *   APP         yes    -     -     -    yes    yes      released; sent through the engine; sent as it is
 *   ENGINE      yes    -     -    yes    -     yes      acknowledged; handed up; handed to the device
 *   TX          yes    -     -     -    yes    yes      completed; completed and still unacknowledged; one reference
 *                                                       of several (PB_DESC_AGAIN) given to the device, or back
 *
 * A frame that is sent by several descriptors is TX, and counted once, from the first of them that a device takes to
 * the last that comes back.
 *
 * A cache belongs to one thread. Counters are kept per cache as differences and summed at read, so the sum over all
 * owners is the number of frames at any quiet moment. With PB_DEBUG each frame's owner is checked at each transition.
 */
#ifndef PB_MEM_POOL_H
#define PB_MEM_POOL_H
#include "base/types.h"
#include "mem/desc.h"
#include "mem/region.h"

#include <stdatomic.h>

enum pb_owner { PB_OWN_FREE = 0, PB_OWN_FILL, PB_OWN_RX, PB_OWN_APP, PB_OWN_ENGINE, PB_OWN_TX, PB_OWN_COUNT };

#define PB_POOL_CACHE_MAX 256
#define PB_POOL_CACHES 256 /* as many sockets, threads and engines may share a pool */

struct pb_pool_cache {
	struct pb_pool *pool;
	uint32_t n;
	uint32_t slot;
	uint32_t cap; /* it keeps fewer than so many: a small pool must not lie in caches that nobody takes from */
	_Atomic int64_t own[PB_OWN_COUNT];
	uint64_t addrs[PB_POOL_CACHE_MAX];
};

struct pb_pool {
	/* read-mostly */
	uint8_t *base;        /* of the first frame's data */
	uint32_t frame_bytes; /* that a frame has for data: stride - lead */
	uint32_t frame_shift; /* 0: stride is no power of two (unaligned mode of AF_XDP) */
	uint32_t nframes;
	uint32_t stride; /* from one frame to the next */
	uint32_t lead;   /* bytes before each frame's data that are the device's: an mbuf and its header, or none */
	struct pb_region *region;
	_Atomic uint8_t *owner; /* per frame; NULL unless PB_DEBUG */
	/* shared */
	_Atomic uint32_t lock PB_ALIGNED(PB_CACHE_LINE);
	_Atomic uint32_t top;
	uint64_t *stack;
	_Atomic int refs;
	struct pb_pool_cache *caches[PB_POOL_CACHES];
	int64_t retired[PB_OWN_COUNT];    /* differences of caches that were closed */
	_Atomic uint64_t violations;      /* transitions that the table forbids (PB_DEBUG) */
	_Atomic uint64_t first_violation; /* addr << 8 | from << 4 | to of the first */
};

struct pb_pool_info {
	uint64_t frames;
	uint64_t frame_bytes; /* from one frame to the next */
	uint64_t lead;        /* of these before the data */
	uint64_t region_bytes;
	uint32_t pages; /* enum pb_page_kind */
	uint32_t debug; /* 1: built with PB_DEBUG */
	int64_t own[PB_OWN_COUNT];
	uint64_t violations;
};

/* nframes 64 to 2^22; frame_bytes 2048 to 4096, a multiple of 64. Sizes between the two are for devices that need no
 * alignment. lead: bytes at the front of each frame that nobody above the device sees, 0 to 512, a multiple of 64; data
 * has frame_bytes - lead. Returns NULL and -errno in *err. */
PB_API struct pb_pool *pb_pool_create_lead(uint32_t nframes, uint32_t frame_bytes, uint32_t lead,
					   enum pb_page_want want, int *err);
/* Without a lead. */
PB_API struct pb_pool *pb_pool_create(uint32_t nframes, uint32_t frame_bytes, enum pb_page_want want, int *err);
PB_API void pb_pool_ref(struct pb_pool *p);
PB_API void pb_pool_unref(struct pb_pool *p);
PB_API void pb_pool_info(struct pb_pool *p, struct pb_pool_info *info);
PB_API const char *pb_owner_name(unsigned owner);

/* A cache holds a reference to its pool. NULL and -errno (-ENOMEM, -ENOSPC when PB_POOL_CACHES exist). */
PB_API struct pb_pool_cache *pb_pool_cache_create(struct pb_pool *p, int *err);
PB_API void pb_pool_cache_destroy(struct pb_pool_cache *c);

/* Slow halves of the inline functions below. */
PB_API uint32_t pb_pool_refill(struct pb_pool_cache *c, uint32_t want);
PB_API void pb_pool_spill(struct pb_pool_cache *c);
PB_API void pb_pool_check(struct pb_pool *p, uint64_t addr, enum pb_owner from, enum pb_owner to);
/* A transition that was checked and did not happen (PB_DEBUG): the frame is `owner`'s as before. */
PB_API void pb_pool_revert(struct pb_pool *p, uint64_t addr, enum pb_owner owner);

/* Frames that can still be had, roughly: the shared stack plus this cache. */
static inline uint32_t pb_pool_free_hint(const struct pb_pool_cache *c)
{
	return atomic_load_explicit(&c->pool->top, memory_order_relaxed) + c->n;
}

static inline void pb_pool_count(struct pb_pool_cache *c, enum pb_owner from, enum pb_owner to, int64_t n)
{
	/* One writer: a plain add, stored so that a reader on another thread sees whole values. */
	atomic_store_explicit(&c->own[from], atomic_load_explicit(&c->own[from], memory_order_relaxed) - n,
			      memory_order_relaxed);
	atomic_store_explicit(&c->own[to], atomic_load_explicit(&c->own[to], memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* Base address of the frame that addr lies in. */
static inline uint64_t pb_pool_frame(const struct pb_pool *p, uint64_t addr)
{
	return p->frame_shift ? addr & ~(uint64_t)(p->stride - 1) : addr - addr % p->stride;
}

static inline uint32_t pb_pool_index(const struct pb_pool *p, uint64_t addr)
{
	return (uint32_t)(p->frame_shift ? addr >> p->frame_shift : addr / p->stride);
}

/* Base address of frame i. */
static inline uint64_t pb_pool_addr(const struct pb_pool *p, uint32_t i)
{
	return (uint64_t)i * p->stride;
}

/* Whether addr lies in a frame at all. */
static inline bool pb_pool_has(const struct pb_pool *p, uint64_t addr)
{
	return addr < (uint64_t)p->nframes * p->stride;
}

/* Changes the owner of one frame. */
static inline void pb_pool_move(struct pb_pool_cache *c, uint64_t addr, enum pb_owner from, enum pb_owner to)
{
	pb_pool_count(c, from, to, 1);
#ifdef PB_DEBUG
	pb_pool_check(c->pool, addr, from, to);
#else
	(void)addr;
#endif
}

/* Takes up to n frames out of the pool for `to`, leaving at least `reserve` behind. Returns how many. */
static inline uint32_t pb_pool_get(struct pb_pool_cache *c, uint64_t *addrs, uint32_t n, uint32_t reserve,
				   enum pb_owner to)
{
	uint32_t free_frames = pb_pool_free_hint(c);
	if (free_frames < n + reserve)
		n = free_frames > reserve ? free_frames - reserve : 0;
	if (c->n < n && n <= PB_POOL_CACHE_MAX)
		pb_pool_refill(c, n);
	if (n > c->n)
		n = c->n;
	for (uint32_t i = 0; i < n; i++) {
		addrs[i] = c->addrs[--c->n];
#ifdef PB_DEBUG
		pb_pool_check(c->pool, addrs[i], PB_OWN_FREE, to);
#endif
	}
	pb_pool_count(c, PB_OWN_FREE, to, n);
	return n;
}

/* Gives one frame back. addr may lie anywhere in the frame. */
static inline void pb_pool_put(struct pb_pool_cache *c, uint64_t addr, enum pb_owner from)
{
	addr = pb_pool_frame(c->pool, addr);
	if (c->n >= c->cap)
		pb_pool_spill(c);
	pb_pool_move(c, addr, from, PB_OWN_FREE);
	c->addrs[c->n++] = addr;
}

/* The frame of a descriptor goes to a device: it is TX now, or was before (PB_DESC_AGAIN). */
static inline void pb_pool_send(struct pb_pool_cache *c, const struct pb_desc *d, enum pb_owner from)
{
	if (from != PB_OWN_ENGINE || !(d->flags & PB_DESC_AGAIN))
		pb_pool_move(c, pb_pool_frame(c->pool, d->addr), from, PB_OWN_TX);
#ifdef PB_DEBUG
	else
		pb_pool_check(c->pool, d->addr, PB_OWN_TX, PB_OWN_TX);
#endif
}

/* Changes the owner of the frames of n descriptors. */
static inline void pb_pool_move_descs(struct pb_pool_cache *c, const struct pb_desc *d, uint32_t n, enum pb_owner from,
				      enum pb_owner to)
{
	pb_pool_count(c, from, to, n);
#ifdef PB_DEBUG
	for (uint32_t i = 0; i < n; i++)
		pb_pool_check(c->pool, d[i].addr, from, to);
#else
	(void)d;
#endif
}

/* Gives the frames of n descriptors back. */
static inline void pb_pool_put_descs(struct pb_pool_cache *c, const struct pb_desc *d, uint32_t n, enum pb_owner from)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t frame = pb_pool_frame(c->pool, d[i].addr);
		if (c->n >= c->cap)
			pb_pool_spill(c);
#ifdef PB_DEBUG
		pb_pool_check(c->pool, frame, from, PB_OWN_FREE);
#endif
		c->addrs[c->n++] = frame;
	}
	pb_pool_count(c, from, PB_OWN_FREE, n);
}

/* Descriptors of the packet at d[0], all of them in the pool; 0: one is not, and it stays with the caller. *bytes is 0
 * when its end is not among the n. */
static inline uint32_t pb_pool_packet(const struct pb_pool *p, const struct pb_desc *d, uint32_t n, uint32_t *bytes)
{
	uint32_t count = 1;
	*bytes = d->len;
	if (d->flags & PB_DESC_MORE) {
		count = pb_desc_packet(d, n, bytes);
		if (!count) {
			count = n;
			*bytes = 0;
		}
	}
	for (uint32_t i = 0; i < count; i++)
		if (!pb_pool_has(p, d[i].addr))
			return 0;
	return count;
}

static inline uint8_t *pb_pool_data(const struct pb_pool *p, const struct pb_desc *d)
{
	return p->base + d->addr + d->off;
}
#endif
