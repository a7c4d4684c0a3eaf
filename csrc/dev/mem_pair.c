#include "dev/mem_pair.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

/* The one thing that two independent openers share is the process, so the registry of names is a global. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pb_mem_pair *registry;

static struct pb_mem_pair *find_or_make(const char *name)
{
	for (struct pb_mem_pair *p = registry; p; p = p->next)
		if (!strcmp(p->name, name))
			return p;
	struct pb_mem_pair *p = aligned_alloc(PB_CACHE_LINE, sizeof(*p));
	if (!p)
		return NULL;
	memset(p, 0, sizeof(*p));
	memcpy(p->name, name, strlen(name) + 1);
	p->next = registry;
	registry = p;
	return p;
}

static void forget(struct pb_mem_pair *pair)
{
	struct pb_mem_pair **at = &registry;
	while (*at != pair)
		at = &(*at)->next;
	*at = pair->next;
	free(pair);
}

static int init_rings(struct pb_mem_end *e, uint32_t slots)
{
	int rc = pb_ring_init(&e->wire, slots, sizeof(struct pb_desc));
	if (rc)
		return rc;
	rc = pb_ring_init(&e->done, slots, sizeof(struct pb_mem_done));
	if (rc)
		pb_ring_fini(&e->wire);
	return rc;
}

int pb_mem_pair_join(struct pb_mem_dev *m, const char *name)
{
	int rc = -ENOMEM;
	pthread_mutex_lock(&registry_lock);
	struct pb_mem_pair *p = find_or_make(name);
	if (!p)
		goto out;
	rc = -EBUSY;
	int e = p->end[0].pool ? 1 : 0;
	if (p->end[e].pool)
		goto out;
	rc = init_rings(&p->end[e], m->cfg.ring_size);
	if (rc)
		goto out;
	p->end[e].pool = m->dev.pool;
	p->refs++;
	m->pair = p;
	m->me = &p->end[e];
	m->peer = &p->end[!e];
out:
	if (rc && p && !p->refs)
		forget(p);
	pthread_mutex_unlock(&registry_lock);
	return rc;
}

void pb_mem_pair_open(struct pb_mem_dev *m)
{
	pthread_mutex_lock(&registry_lock);
	m->dev.link_up = atomic_load_explicit(&m->peer->open, memory_order_seq_cst);
	atomic_store_explicit(&m->me->open, 1, memory_order_seq_cst);
	pthread_mutex_unlock(&registry_lock);
}

/* As the peer's receiver: what it sent and was not received is completed to it. */
static void complete_peer(struct pb_mem_dev *m)
{
	struct pb_desc d;
	while (pb_ring_get(&m->peer->wire, &d, 1)) {
		struct pb_mem_done done = {.addr = d.addr, .ready_ns = 0};
		pb_ring_put(&m->peer->done, &done, 1);
	}
}

/* Once for each frame, though several descriptors may name it (PB_DESC_AGAIN). */
static void put_once(struct pb_mem_dev *m, uint64_t addr)
{
	uint32_t index = pb_pool_index(m->dev.pool, addr);
	uint8_t bit = (uint8_t)(1u << index % 8);
	if (!(m->seen[index / 8] & bit))
		pb_pool_put(m->dev.cache, addr, PB_OWN_TX);
	m->seen[index / 8] |= bit;
}

/* All frames of this side come back: from the wire, from `done`, and those held. */
static void take_back(struct pb_mem_dev *m)
{
	struct pb_desc d;
	struct pb_mem_done done;
	while (pb_ring_get(&m->me->wire, &d, 1))
		put_once(m, d.addr);
	while (pb_ring_get(&m->me->done, &done, 1))
		put_once(m, done.addr);
	for (uint32_t i = 0; i < m->n_held; i++)
		put_once(m, m->held[i].addr);
	m->n_held = 0;
	m->in_flight = 0;
}

void pb_mem_pair_leave(struct pb_mem_dev *m)
{
	pthread_mutex_lock(&registry_lock);
	if (atomic_load_explicit(&m->me->open, memory_order_relaxed)) {
		atomic_store_explicit(&m->me->open, 0, memory_order_seq_cst);
		while (atomic_load_explicit(&m->peer->busy, memory_order_seq_cst))
			sched_yield();
		if (atomic_load_explicit(&m->peer->open, memory_order_relaxed))
			complete_peer(m);
		take_back(m);
	}
	pb_ring_fini(&m->me->wire);
	pb_ring_fini(&m->me->done);
	m->me->pool = NULL;
	if (!--m->pair->refs)
		forget(m->pair);
	pthread_mutex_unlock(&registry_lock);
}
