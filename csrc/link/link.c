#include "link/link.h"

#include "base/handles.h"
#include "base/rng.h"

#include <errno.h>
#include <stdlib.h>

#define HOUR_NS 3600000000000u
#define BIT_NS 8000000000u /* bits per byte times nanoseconds per second */

struct entry {
	uint64_t due_ns;
	uint64_t seq;
	uint32_t left; /* descriptors of this packet from here on */
	struct pb_desc d;
};

/* Packets in order lie in a ring, for their delivery times never fall. Reordered ones lie in a heap beside it. */
struct pb_link {
	struct pb_link_config cfg;
	struct pb_rng rng;
	uint64_t now_ns;
	uint64_t busy_ns;  /* when the line has sent all that was pushed */
	uint64_t busy_rem; /* of busy_ns, in 1 / rate_bps nanoseconds: no rounding error builds up */
	uint64_t last_due_ns;
	uint64_t seq;
	uint32_t head, tail; /* of the ring; free-running */
	uint32_t late;       /* in the heap */
	struct entry *ring;
	struct entry *heap; /* NULL if nothing can be reordered */
};

static bool config_ok(const struct pb_link_config *c)
{
	bool rate = !c->rate_bps || (c->rate_bps >= 1000 && c->rate_bps <= 1000000000000u);
	bool times = c->delay_ns <= HOUR_NS && c->reorder_ns <= HOUR_NS && c->jitter_ns < UINT32_MAX;
	bool chances = c->loss_ppm <= 1000000 && c->dup_ppm <= 1000000 && c->corrupt_ppm <= 1000000 &&
		       c->reorder_ppm <= 1000000;
	bool sizes = c->queue_bytes <= 1u << 30 && c->capacity && c->capacity <= 1u << 20 &&
		     !(c->capacity & (c->capacity - 1));
	return rate && times && chances && sizes;
}

struct pb_link *pb_link_create(const struct pb_link_config *cfg, int *err)
{
	*err = -EINVAL;
	if (!config_ok(cfg))
		return NULL;
	*err = -ENOMEM;
	struct pb_link *l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->cfg = *cfg;
	l->rng.state = cfg->seed;
	l->ring = calloc(cfg->capacity, sizeof(*l->ring));
	if (!l->ring)
		goto fail;
	if (cfg->reorder_ppm) {
		l->heap = calloc(cfg->capacity, sizeof(*l->heap));
		if (!l->heap)
			goto fail_ring;
	}
	pb_handle_opened(PB_HANDLE_LINK);
	*err = 0;
	return l;
fail_ring:
	free(l->ring);
fail:
	free(l);
	return NULL;
}

void pb_link_destroy(struct pb_link *l)
{
	if (!l)
		return;
	free(l->heap);
	free(l->ring);
	free(l);
	pb_handle_closed(PB_HANDLE_LINK);
}

static void advance(struct pb_link *l, uint64_t now_ns)
{
	if (now_ns > l->now_ns)
		l->now_ns = now_ns;
}

/* Bytes that the line has not sent yet, rounded up. */
static uint64_t backlog(const struct pb_link *l)
{
	if (!l->cfg.rate_bps || l->busy_ns <= l->now_ns)
		return 0;
	return ((l->busy_ns - l->now_ns) * l->cfg.rate_bps + BIT_NS - 1) / BIT_NS;
}

static bool queue_full(const struct pb_link *l, uint32_t len_bytes)
{
	if (!l->cfg.queue_bytes)
		return false;
	uint64_t waiting = backlog(l);
	return waiting && waiting + len_bytes > l->cfg.queue_bytes;
}

void pb_link_fate(struct pb_link *l, uint32_t len_bytes, uint64_t now_ns, struct pb_link_fate *fate)
{
	advance(l, now_ns);
	*fate = (struct pb_link_fate){.drop = PB_DROP_NONE};
	if (pb_rng_chance(&l->rng, l->cfg.loss_ppm)) {
		fate->drop = PB_DROP_LINK_LOSS;
		return;
	}
	if (pb_link_count(l) >= l->cfg.capacity || queue_full(l, len_bytes)) {
		fate->drop = PB_DROP_LINK_QUEUE;
		return;
	}
	fate->dup = pb_rng_chance(&l->rng, l->cfg.dup_ppm);
	fate->corrupt = len_bytes && pb_rng_chance(&l->rng, l->cfg.corrupt_ppm);
	if (fate->corrupt)
		fate->corrupt_bit = pb_rng_below(&l->rng, len_bytes * 8);
}

static bool before(const struct entry *a, const struct entry *b)
{
	return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->seq < b->seq);
}

static void heap_add(struct pb_link *l, const struct entry *e)
{
	uint32_t i = l->late++;
	while (i && before(e, &l->heap[(i - 1) / 2])) {
		l->heap[i] = l->heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	l->heap[i] = *e;
}

static void heap_remove_first(struct pb_link *l)
{
	struct entry e = l->heap[--l->late];
	uint32_t i = 0;
	for (uint32_t kid = 1; kid < l->late; kid = 2 * i + 1) {
		if (kid + 1 < l->late && before(&l->heap[kid + 1], &l->heap[kid]))
			kid++;
		if (!before(&l->heap[kid], &e))
			break;
		l->heap[i] = l->heap[kid];
		i = kid;
	}
	l->heap[i] = e;
}

/* Sends len_bytes down the line; returns when the last bit has left. */
static uint64_t serialise(struct pb_link *l, uint64_t len_bytes)
{
	if (l->busy_ns <= l->now_ns) {
		l->busy_ns = l->now_ns;
		l->busy_rem = 0;
	}
	if (l->cfg.rate_bps) {
		uint64_t work = len_bytes * BIT_NS + l->busy_rem;
		l->busy_ns += work / l->cfg.rate_bps;
		l->busy_rem = work % l->cfg.rate_bps;
	}
	return l->busy_ns;
}

int pb_link_push(struct pb_link *l, const struct pb_desc *d, uint32_t n, uint64_t now_ns)
{
	advance(l, now_ns);
	if (n > l->cfg.capacity - pb_link_count(l))
		return -ENOSPC;
	uint64_t len_bytes = 0;
	for (uint32_t i = 0; i < n; i++)
		len_bytes += d[i].len;
	uint64_t due = serialise(l, len_bytes) + l->cfg.delay_ns;
	if (l->cfg.jitter_ns)
		due += pb_rng_below(&l->rng, (uint32_t)l->cfg.jitter_ns + 1);
	bool late = pb_rng_chance(&l->rng, l->cfg.reorder_ppm);
	if (late)
		due += l->cfg.reorder_ns;
	else if (due < l->last_due_ns)
		due = l->last_due_ns;
	else
		l->last_due_ns = due;
	for (uint32_t i = 0; i < n; i++) {
		struct entry e = {.due_ns = due, .seq = l->seq++, .left = n - i, .d = d[i]};
		if (late)
			heap_add(l, &e);
		else
			l->ring[l->head++ & (l->cfg.capacity - 1)] = e;
	}
	return 0;
}

/* The next entry in order of delivery, or NULL. */
static const struct entry *first(const struct pb_link *l)
{
	const struct entry *a = l->head != l->tail ? &l->ring[l->tail & (l->cfg.capacity - 1)] : NULL;
	if (!l->late)
		return a;
	return a && before(a, &l->heap[0]) ? a : &l->heap[0];
}

static void remove_first(struct pb_link *l, const struct entry *e)
{
	if (l->late && e == &l->heap[0])
		heap_remove_first(l);
	else
		l->tail++;
}

int pb_link_pop(struct pb_link *l, struct pb_desc *d, int n, uint64_t now_ns)
{
	int got = 0;
	advance(l, now_ns);
	for (const struct entry *e; (e = first(l)) && e->due_ns <= l->now_ns; remove_first(l, e)) {
		/* `left` falls by one with each descriptor, so a packet that was begun fits to its end. */
		if ((int)e->left > n - got)
			break;
		d[got++] = e->d;
	}
	return got;
}

int pb_link_drain(struct pb_link *l, struct pb_desc *d, int n)
{
	int got = 0;
	for (const struct entry *e; got < n && (e = first(l)); remove_first(l, e))
		d[got++] = e->d;
	return got;
}

uint64_t pb_link_next_ns(const struct pb_link *l)
{
	const struct entry *e = first(l);
	return e ? e->due_ns : UINT64_MAX;
}

uint32_t pb_link_count(const struct pb_link *l)
{
	return l->head - l->tail + l->late;
}
