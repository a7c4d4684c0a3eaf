/* The pair behind the two ends of a mem device: shared state, and the protocol for opening and closing (internal).
 *
 * Each end brings two rings: `wire` carries its descriptors to the peer, `done` brings their addresses back. The peer
 * touches them only between pb_mem_enter() and pb_mem_leave(), and only if pb_mem_enter() found the end open.
 *
 * The sender's side of `wire` and the receiver's side of `done` are the owner's at any time.
 *
 * enter: busy := 1, then read the peer's `open`; close: open := 0, then wait for the peer's `busy` to be 0. Both pairs
 * are sequentially consistent, so either the operation sees the end closed, or the closing side waits for it (Dekker).
 * After the wait, the closing side is the only user of all four rings but for the peer's own side of them: it completes
 * the peer's frames that were on their way to it, and takes its own back from both of its rings.
 * Opening and closing hold the registry's lock, so two ends that close at once do so one after the other. */
#ifndef PB_DEV_MEM_PAIR_H
#define PB_DEV_MEM_PAIR_H
#include "base/rng.h"
#include "dev/mem.h"
#include "mem/ring.h"

/* A frame that the peer is through with. */
struct pb_mem_done {
	uint64_t addr;
	uint64_t ready_ns; /* when reap() may give it */
};

struct pb_mem_end {
	struct pb_ring wire; /* struct pb_desc, to the peer */
	struct pb_ring done; /* struct pb_mem_done, from the peer */
	struct pb_pool *pool;
	_Atomic uint32_t open PB_ALIGNED(PB_CACHE_LINE);
	_Atomic uint32_t busy PB_ALIGNED(PB_CACHE_LINE);
};

struct pb_mem_pair {
	struct pb_mem_end end[2];
	struct pb_mem_pair *next;
	int refs; /* ends in use; under the registry's lock, as name and next */
	char name[PB_DEV_MEM_NAME_MAX + 1];
};

struct pb_mem_dev {
	struct pb_dev dev;
	struct pb_mem_pair *pair;
	struct pb_mem_end *me, *peer;
	struct pb_dev_mem_config cfg;
	struct pb_rng rng;
	uint32_t in_flight; /* sent and not yet reaped, at most ring_size: so neither `done` nor `held` overflows */
	uint32_t n_held;
	struct pb_mem_done *held; /* completions that wait for their time or their turn */
	uint8_t *seen;            /* bit per frame, for close: taken back, by whichever of its references */
};

/* Begins an operation; true if the peer is open (until pb_mem_leave()). */
static inline bool pb_mem_enter(struct pb_mem_dev *m)
{
	atomic_store_explicit(&m->me->busy, 1, memory_order_seq_cst);
	m->dev.link_up = atomic_load_explicit(&m->peer->open, memory_order_seq_cst);
	return m->dev.link_up;
}

static inline void pb_mem_leave(struct pb_mem_dev *m)
{
	atomic_store_explicit(&m->me->busy, 0, memory_order_release);
}

/* Finds or makes the pair and takes a free end of it, not open yet. 0 or -errno. */
int pb_mem_pair_join(struct pb_mem_dev *m, const char *name);
/* Opens the end that was joined. */
void pb_mem_pair_open(struct pb_mem_dev *m);
/* Closes the end if it is open: every frame of this side is FREE afterwards. Then gives the end up. */
void pb_mem_pair_leave(struct pb_mem_dev *m);
#endif
