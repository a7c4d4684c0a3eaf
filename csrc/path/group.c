#include "path/group.h"

#include "base/flag.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* Frames of a pool that strays leave to its devices: fewer than its senders leave, or none would come through. */
#define RESERVE(pool) ((pool)->nframes < 2048 ? (pool)->nframes / 32 : 64)

struct member {
	/* Set by join before `alive`, and read by others only while they are inside and see it alive. */
	struct pb_path *path;
	_Atomic uint32_t alive;
	/* The member's thread is in pb_group_send(). Leaving waits for that: then nobody touches who leaves any more.
	 */
	_Atomic uint32_t inside PB_ALIGNED(PB_CACHE_LINE);
	/* Something may lie in a ring for it. */
	_Atomic uint32_t bell PB_ALIGNED(PB_CACHE_LINE);
};

struct pb_group {
	uint32_t n;
	struct pb_tcp_owners *owners;
	struct member *members;
	struct pb_ring *rings; /* [from * n + to], of struct pb_desc */
	struct pb_pool_cache *
		*caches; /* [from * n + to]: of the other's pool, for from's thread; NULL: it is the same pool */
	struct pb_waitq any, slow;
	pthread_mutex_t lock; /* joining and leaving */
	_Atomic int refs;
};

static void group_free(struct pb_group *g)
{
	for (uint32_t i = 0; g->rings && i < g->n * g->n; i++)
		pb_ring_fini(&g->rings[i]);
	pb_tcp_owners_destroy(g->owners);
	pthread_mutex_destroy(&g->lock);
	free(g->rings);
	free(g->members);
	free(g->caches);
	free(g);
}

static void *lines(size_t bytes)
{
	void *p = aligned_alloc(PB_CACHE_LINE, (bytes + PB_CACHE_LINE - 1) & ~(size_t)(PB_CACHE_LINE - 1));
	if (p)
		memset(p, 0, bytes);
	return p;
}

struct pb_group *pb_group_create(uint32_t members, uint32_t flows, const uint8_t secret[16], int *err)
{
	*err = -EINVAL;
	if (!members || members > PB_GROUP_MAX)
		return NULL;
	*err = -ENOMEM;
	struct pb_group *g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	g->n = members;
	pthread_mutex_init(&g->lock, NULL);
	atomic_init(&g->refs, 1);
	g->members = lines(members * sizeof(*g->members));
	g->rings = lines(members * members * sizeof(*g->rings));
	g->caches = calloc((size_t)members * members, sizeof(*g->caches));
	if (!g->members || !g->rings || !g->caches)
		goto fail;
	g->owners = pb_tcp_owners_create(flows, secret, err);
	if (!g->owners)
		goto fail;
	for (uint32_t i = 0; i < members * members; i++) {
		*err = i % (members + 1) ? pb_ring_init(&g->rings[i], PB_GROUP_RING, sizeof(struct pb_desc)) : 0;
		if (*err)
			goto fail;
	}
	*err = 0;
	return g;
fail:
	group_free(g);
	return NULL;
}

void pb_group_unref(struct pb_group *g)
{
	if (g && atomic_fetch_sub(&g->refs, 1) == 1)
		group_free(g);
}

struct pb_waitq *pb_group_waitq(struct pb_group *g, bool slow)
{
	return slow ? &g->slow : &g->any;
}

uint32_t pb_group_flows(const struct pb_group *g)
{
	return pb_tcp_owners_count(g->owners);
}

static struct pb_ring *ring_of(struct pb_group *g, uint32_t from, uint32_t to)
{
	return &g->rings[from * g->n + to];
}

static void drop_caches(struct pb_group *g, uint32_t who)
{
	for (uint32_t i = 0; i < g->n; i++) {
		struct pb_pool_cache **to = &g->caches[who * g->n + i], **from = &g->caches[i * g->n + who];
		if (*to)
			pb_pool_cache_destroy(*to);
		if (*from)
			pb_pool_cache_destroy(*from);
		*to = *from = NULL;
	}
}

/* Caches in both directions, made here: there is no allocation on the way of a packet. */
static int make_caches(struct pb_group *g, const struct pb_path *p, uint32_t who)
{
	int err = 0;
	for (uint32_t i = 0; i < g->n && !err; i++) {
		const struct pb_path *other = atomic_load(&g->members[i].alive) ? g->members[i].path : NULL;
		if (!other || other->dev->pool == p->dev->pool)
			continue;
		g->caches[who * g->n + i] = pb_pool_cache_create(other->dev->pool, &err);
		if (g->caches[who * g->n + i])
			g->caches[i * g->n + who] = pb_pool_cache_create(p->dev->pool, &err);
		if (g->caches[i * g->n + who])
			err = 0;
	}
	if (err)
		drop_caches(g, who);
	return err;
}

int pb_group_join(struct pb_group *g, struct pb_path *p, uint32_t who)
{
	if (who >= g->n || !p->chan || p->group)
		return -EINVAL;
	struct member *m = &g->members[who];
	pthread_mutex_lock(&g->lock);
	int rc = m->path ? -EBUSY : make_caches(g, p, who);
	if (!rc)
		rc = pb_tcp_share(p->tcp, g->owners, who);
	if (!rc) {
		p->group = g;
		p->member = who;
		m->path = p;
		atomic_fetch_add(&g->refs, 1);
		atomic_store(&m->alive, 1);
	} else if (!m->path)
		drop_caches(g, who);
	pthread_mutex_unlock(&g->lock);
	return rc;
}

static void drain(struct pb_group *g, struct pb_path *p)
{
	struct pb_desc d;
	for (uint32_t i = 0; i < g->n; i++)
		while (i != p->member && pb_ring_get(ring_of(g, i, p->member), &d, 1))
			pb_pool_put(p->dev->cache, d.addr, PB_OWN_RX);
}

void pb_group_leave(struct pb_path *p)
{
	struct pb_group *g = p->group;
	if (!g)
		return;
	struct member *m = &g->members[p->member];
	pthread_mutex_lock(&g->lock);
	atomic_store(&m->alive, 0);
	for (uint32_t i = 0; i < g->n; i++)
		while (i != p->member && atomic_load(&g->members[i].inside))
			pb_cpu_relax();
	drain(g, p);
	drop_caches(g, p->member);
	m->path = NULL;
	pthread_mutex_unlock(&g->lock);
	p->group = NULL;
	pb_group_unref(g);
}

/* The packet in a frame of the other's pool: *d is that, or as it was when there is none. */
static bool copy_to(struct pb_path *p, struct pb_pool_cache *cache, struct pb_desc *d)
{
	struct pb_pool *pool = cache->pool;
	struct pb_desc copy = *d;
	if ((uint32_t)d->off + d->len > pool->frame_bytes)
		copy.off = 0;
	if ((uint32_t)copy.off + d->len > pool->frame_bytes ||
	    !pb_pool_get(cache, &copy.addr, 1, RESERVE(pool), PB_OWN_RX))
		return false;
	memcpy(pb_pool_data(pool, &copy), pb_pool_data(p->dev->pool, d), d->len);
	pb_pool_put(p->dev->cache, d->addr, PB_OWN_RX);
	*d = copy;
	return true;
}

static bool send_one(struct pb_path *p, struct pb_desc *d, uint32_t who)
{
	struct pb_group *g = p->group;
	struct pb_ring *ring = ring_of(g, p->member, who);
	struct pb_pool_cache *cache = g->caches[p->member * g->n + who];
	if (!pb_ring_room(ring, 1) || (cache && !copy_to(p, cache, d)))
		return false;
	struct pb_desc *slot = pb_ring_prod_slot(ring, 0);
	*slot = *d;
	slot->flags |= PB_DESC_STRAY;
	pb_ring_submit(ring, 1);
	return true;
}

void pb_group_send(struct pb_path *p, struct pb_desc *d, const uint8_t *who, int n)
{
	struct pb_group *g = p->group;
	struct member *me = &g->members[p->member];
	uint64_t told = 0;
	atomic_store(&me->inside, 1);
	for (int i = 0; i < n; i++) {
		if (atomic_load(&g->members[who[i]].alive) && send_one(p, &d[i], who[i])) {
			told |= UINT64_C(1) << who[i];
			p->stats.stray_out++;
			continue;
		}
		p->stats.drops.n[PB_DROP_STRAY]++;
		pb_pool_put(p->dev->cache, d[i].addr, PB_OWN_RX);
	}
	for (uint32_t i = 0; told; i++, told >>= 1) {
		if (!(told & 1) || !atomic_load(&g->members[i].alive))
			continue;
		atomic_store_explicit(&g->members[i].bell, 1, memory_order_release);
		pb_chan_wake_loop(g->members[i].path->chan);
	}
	atomic_store(&me->inside, 0);
}

bool pb_group_waiting(const struct pb_path *p)
{
	return atomic_load_explicit(&p->group->members[p->member].bell, memory_order_acquire);
}

int pb_group_receive(struct pb_path *p, uint64_t now_ns)
{
	struct pb_group *g = p->group;
	struct member *me = &g->members[p->member];
	struct pb_desc d[PB_BURST_MAX];
	int done = 0;
	if (!pb_group_waiting(p))
		return 0;
	/* Reads the last ring of the bell, and with it what was submitted before; what comes later rings again. */
	atomic_exchange_explicit(&me->bell, 0, memory_order_acq_rel);
	for (uint32_t i = 0; i < g->n; i++) {
		if (i == p->member)
			continue;
		uint32_t n = pb_ring_get(ring_of(g, i, p->member), d, PB_BURST_MAX);
		if (n == PB_BURST_MAX)
			atomic_store_explicit(&me->bell, 1, memory_order_relaxed); /* perhaps more */
		p->stats.stray_in += n;
		pb_path_input(p, d, (int)n, now_ns);
		done += (int)n;
	}
	return done;
}
