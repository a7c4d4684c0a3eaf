#include "mem/pool.h"

#include "base/flag.h"
#include "base/handles.h"

#include <errno.h>
#include <stdlib.h>

/* The table of pool.h as data: may[from] has a bit for each `to`. */
#define TO(x) (1u << PB_OWN_##x)
static const uint8_t may[PB_OWN_COUNT] = {
	[PB_OWN_FREE] = TO(FILL) | TO(RX) | TO(APP) | TO(ENGINE),
	[PB_OWN_FILL] = TO(FREE) | TO(RX),
	[PB_OWN_RX] = TO(FREE) | TO(APP) | TO(ENGINE) | TO(TX),
	[PB_OWN_APP] = TO(FREE) | TO(ENGINE) | TO(TX),
	[PB_OWN_ENGINE] = TO(FREE) | TO(APP) | TO(TX),
	[PB_OWN_TX] = TO(FREE) | TO(ENGINE) | TO(TX),
};

static const char *const names[PB_OWN_COUNT] = {"free", "fill", "rx", "app", "engine", "tx"};

const char *pb_owner_name(unsigned owner)
{
	return owner < PB_OWN_COUNT ? names[owner] : "?";
}

static void lock(struct pb_pool *p)
{
	while (atomic_exchange_explicit(&p->lock, 1, memory_order_acquire))
		pb_cpu_relax();
}

static void unlock(struct pb_pool *p)
{
	atomic_store_explicit(&p->lock, 0, memory_order_release);
}

struct pb_pool *pb_pool_create(uint32_t nframes, uint32_t frame_bytes, enum pb_page_want want, int *err)
{
	return pb_pool_create_lead(nframes, frame_bytes, 0, want, err);
}

struct pb_pool *pb_pool_create_lead(uint32_t nframes, uint32_t frame_bytes, uint32_t lead, enum pb_page_want want,
				    int *err)
{
	*err = -EINVAL;
	if (nframes < 64 || nframes > (1u << 22) || frame_bytes < 2048 || frame_bytes > 4096 || frame_bytes % 64 ||
	    lead > 512 || lead % 64)
		return NULL;
	*err = -ENOMEM;
	struct pb_pool *p = aligned_alloc(PB_CACHE_LINE, sizeof(*p));
	if (!p)
		return NULL;
	memset(p, 0, sizeof(*p));
	p->nframes = nframes;
	p->stride = frame_bytes;
	p->lead = lead;
	p->frame_bytes = frame_bytes - lead;
	p->frame_shift = frame_bytes & (frame_bytes - 1) ? 0 : (uint32_t)__builtin_ctz(frame_bytes);
	p->stack = malloc(nframes * sizeof(*p->stack));
#ifdef PB_DEBUG
	p->owner = calloc(nframes, sizeof(*p->owner));
	if (!p->owner)
		goto fail;
#endif
	if (!p->stack)
		goto fail;
	p->region = pb_region_create((size_t)nframes * frame_bytes, want, err);
	if (!p->region)
		goto fail;
	p->base = (uint8_t *)pb_region_base(p->region) + lead;
	/* Low addresses on top: the frames in use stay few and warm. */
	for (uint32_t i = 0; i < nframes; i++)
		p->stack[i] = (uint64_t)(nframes - 1 - i) * frame_bytes;
	atomic_init(&p->top, nframes);
	atomic_init(&p->refs, 1);
	p->retired[PB_OWN_FREE] = nframes;
	pb_handle_opened(PB_HANDLE_POOL);
	*err = 0;
	return p;
fail:
	free(p->stack);
	free((void *)p->owner);
	free(p);
	return NULL;
}

void pb_pool_ref(struct pb_pool *p)
{
	atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
}

void pb_pool_unref(struct pb_pool *p)
{
	if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
		return;
	pb_region_unref(p->region);
	free(p->stack);
	free((void *)p->owner);
	free(p);
	pb_handle_closed(PB_HANDLE_POOL);
}

void pb_pool_info(struct pb_pool *p, struct pb_pool_info *info)
{
	memset(info, 0, sizeof(*info));
	info->frames = p->nframes;
	info->frame_bytes = p->stride;
	info->lead = p->lead;
	info->region_bytes = pb_region_bytes(p->region);
	info->pages = pb_region_pages(p->region);
	info->debug = p->owner != NULL;
	info->violations = atomic_load(&p->violations);
	lock(p);
	memcpy(info->own, p->retired, sizeof(info->own));
	for (uint32_t i = 0; i < PB_POOL_CACHES; i++)
		for (uint32_t o = 0; p->caches[i] && o < PB_OWN_COUNT; o++)
			info->own[o] += atomic_load_explicit(&p->caches[i]->own[o], memory_order_relaxed);
	unlock(p);
}

struct pb_pool_cache *pb_pool_cache_create(struct pb_pool *p, int *err)
{
	*err = -ENOMEM;
	struct pb_pool_cache *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->pool = p;
	c->cap = p->nframes / 32;
	c->cap = c->cap < 8 ? 8 : c->cap < PB_POOL_CACHE_MAX ? c->cap : PB_POOL_CACHE_MAX;
	lock(p);
	uint32_t slot = 0;
	while (slot < PB_POOL_CACHES && p->caches[slot])
		slot++;
	if (slot < PB_POOL_CACHES)
		p->caches[slot] = c;
	unlock(p);
	if (slot == PB_POOL_CACHES) {
		*err = -ENOSPC;
		free(c);
		return NULL;
	}
	c->slot = slot;
	pb_pool_ref(p);
	*err = 0;
	return c;
}

void pb_pool_cache_destroy(struct pb_pool_cache *c)
{
	if (!c)
		return;
	struct pb_pool *p = c->pool;
	lock(p);
	uint32_t top = atomic_load_explicit(&p->top, memory_order_relaxed);
	memcpy(p->stack + top, c->addrs, c->n * sizeof(c->addrs[0]));
	atomic_store_explicit(&p->top, top + c->n, memory_order_relaxed);
	p->caches[c->slot] = NULL;
	for (uint32_t o = 0; o < PB_OWN_COUNT; o++)
		p->retired[o] += atomic_load_explicit(&c->own[o], memory_order_relaxed);
	unlock(p);
	free(c);
	pb_pool_unref(p);
}

/* Moves frames from the shared stack until the cache is half full or holds `want`. */
uint32_t pb_pool_refill(struct pb_pool_cache *c, uint32_t want)
{
	struct pb_pool *p = c->pool;
	uint32_t target = want > c->cap / 2 ? want : c->cap / 2;
	lock(p);
	uint32_t top = atomic_load_explicit(&p->top, memory_order_relaxed);
	uint32_t n = target - c->n < top ? target - c->n : top;
	memcpy(c->addrs + c->n, p->stack + top - n, n * sizeof(c->addrs[0]));
	atomic_store_explicit(&p->top, top - n, memory_order_relaxed);
	unlock(p);
	c->n += n;
	return c->n;
}

/* Moves half of the cache back to the shared stack. */
void pb_pool_spill(struct pb_pool_cache *c)
{
	struct pb_pool *p = c->pool;
	uint32_t n = c->n / 2;
	lock(p);
	uint32_t top = atomic_load_explicit(&p->top, memory_order_relaxed);
	memcpy(p->stack + top, c->addrs, n * sizeof(c->addrs[0]));
	atomic_store_explicit(&p->top, top + n, memory_order_relaxed);
	unlock(p);
	c->n -= n;
	memmove(c->addrs, c->addrs + n, c->n * sizeof(c->addrs[0]));
}

void pb_pool_check(struct pb_pool *p, uint64_t addr, enum pb_owner from, enum pb_owner to)
{
	uint32_t i = pb_pool_index(p, addr);
	bool ok = i < p->nframes && (may[from] & (1u << to));
	if (ok && p->owner)
		ok = atomic_exchange_explicit(&p->owner[i], (uint8_t)to, memory_order_relaxed) == from;
	if (ok)
		return;
	if (!atomic_fetch_add(&p->violations, 1))
		atomic_store(&p->first_violation, addr << 8 | (uint64_t)from << 4 | (uint64_t)to);
}

void pb_pool_revert(struct pb_pool *p, uint64_t addr, enum pb_owner owner)
{
	uint32_t i = pb_pool_index(p, addr);
	if (p->owner && i < p->nframes)
		atomic_store_explicit(&p->owner[i], (uint8_t)owner, memory_order_relaxed);
}
