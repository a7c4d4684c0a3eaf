#include "dev/dpdk_impl.h"
#include "mem/numa.h"

#include <errno.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <stdlib.h>

/* The frames are laid out as a mempool's objects:
 *
 *   object header (64) | mbuf (128) | data: RTE_PKTMBUF_HEADROOM, packet ...
 *                                   ^ pool->base + frame
 *
 * so drivers that take a mempool's memory for what it is (net_af_xdp's UMEM, mlx5's memory regions) find it so. DPDK
 * has a part of the frames, as a kernel has those on a fill ring: in the mempool's caches, one for each thread, on
 * receive rings, and those that were sent and that nobody waits for. They are owner FILL. A cache that runs empty takes
 * more out of the pool, one that overflows gives some back, many at a time: that is what the two calls below are for.
 *
 * A frame that an engine sent has a reference of ours as well, so no driver puts it back: when that is the last one, it
 * was sent. */

static pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pb_dpdk_pool *pools;
static uint32_t pools_made;

static int ops_alloc(struct rte_mempool *mp)
{
	mp->pool_data = mp->pool_config;
	return 0;
}

static void ops_free(struct rte_mempool *mp)
{
	(void)mp;
}

/* All or nothing, as a mempool promises. */
static int ops_dequeue(struct rte_mempool *mp, void **objs, unsigned n)
{
	struct pb_dpdk_pool *dp = mp->pool_data;
	uint64_t *addrs = (uint64_t *)(void *)objs;
	unsigned got = 0, want = 0, k = 0;
	if (dp->ending)
		return 0; /* rte_mempool_free() empties it so, and looks at nothing that it gets */
	pb_dpdk_lock(dp);
	for (; got < n && k == want; got += k) {
		want = n - got < PB_POOL_CACHE_MAX / 2 ? n - got : PB_POOL_CACHE_MAX / 2;
		k = pb_pool_get(dp->cache, addrs + got, want, 0, PB_OWN_FILL);
	}
	bool all = got == n;
	for (unsigned i = 0; i < n && all; i++) {
		uint64_t frame = addrs[i];
		dp->lent[pb_pool_index(dp->pool, frame)] = PB_DPDK_FILL;
		objs[i] = pb_dpdk_mbuf(dp->pool, frame);
	}
	while (got && !all)
		pb_pool_put(dp->cache, addrs[--got], PB_OWN_FILL);
	pb_dpdk_unlock(dp);
	return all ? 0 : -ENOBUFS;
}

static int ops_enqueue(struct rte_mempool *mp, void *const *objs, unsigned n)
{
	struct pb_dpdk_pool *dp = mp->pool_data;
	pb_dpdk_lock(dp);
	for (unsigned i = 0; i < n; i++) {
		uint64_t frame = pb_dpdk_frame(dp->pool, objs[i]);
		dp->lent[pb_pool_index(dp->pool, frame)] = PB_DPDK_NO;
		pb_pool_put(dp->cache, frame, PB_OWN_FILL);
	}
	pb_dpdk_unlock(dp);
	return 0;
}

static unsigned ops_count(const struct rte_mempool *mp)
{
	const struct pb_dpdk_pool *dp = mp->pool_data;
	return atomic_load_explicit(&dp->pool->top, memory_order_relaxed);
}

/* The objects lie where the frames are. Nothing is put: the pool has them. */
static int ops_populate(struct rte_mempool *mp, unsigned max, void *vaddr, rte_iova_t iova, size_t len,
			rte_mempool_populate_obj_cb_t *cb, void *arg)
{
	const struct pb_pool *p = ((struct pb_dpdk_pool *)mp->pool_config)->pool;
	size_t at = mp->header_size;
	unsigned n = 0;
	while (n < max && at - mp->header_size + p->stride <= len) {
		cb(mp, arg, (uint8_t *)vaddr + at, iova == RTE_BAD_IOVA ? RTE_BAD_IOVA : iova + at);
		at += p->stride;
		n++;
	}
	return (int)n;
}

static const struct rte_mempool_ops frame_ops = {
	.name = "pb_frames",
	.alloc = ops_alloc,
	.free = ops_free,
	.enqueue = ops_enqueue,
	.dequeue = ops_dequeue,
	.get_count = ops_count,
	.populate = ops_populate,
};

/* Memory that DPDK did not allocate is known to it, and so to drivers that ask where an address is. */
static int make_known(struct pb_dpdk_pool *dp)
{
	void *base = pb_region_base(dp->pool->region);
	size_t bytes = pb_region_bytes(dp->pool->region);
	size_t page = pb_region_pages(dp->pool->region) == PB_PAGES_HUGETLB ? RTE_PGSIZE_2M : RTE_PGSIZE_4K;
	unsigned n = (unsigned)(bytes / page);
	rte_iova_t *iovas = calloc(n, sizeof(*iovas));
	if (!iovas)
		return -ENOMEM;
	bool va = rte_eal_iova_mode() == RTE_IOVA_VA;
	for (unsigned i = 0; i < n; i++)
		iovas[i] = va ? (uintptr_t)base + i * page : rte_mem_virt2iova((uint8_t *)base + i * page);
	int rc = rte_extmem_register(base, bytes, iovas, n, page);
	if (!rc) {
		dp->mapped = true;
		size_t chunk = va ? bytes : page;
		for (size_t at = 0; at < bytes && rc >= 0; at += chunk)
			rc = rte_mempool_populate_iova(dp->mp, (char *)base + at, iovas[at / page], chunk, NULL, NULL);
		rc = rc < 0 ? rc : dp->mp->populated_size == dp->pool->nframes ? 0 : -ENOMEM;
	} else {
		rc = -rte_errno;
	}
	free(iovas);
	return rc;
}

/* The node of the frames, where DPDK has memory there too. */
static int node_of(const struct pb_pool *pool)
{
	int node = pb_numa_node_of(pool->base);
	for (unsigned i = 0; i < rte_socket_count(); i++)
		if (rte_socket_id_by_idx(i) == node)
			return node;
	return SOCKET_ID_ANY;
}

static int make_mempool(struct pb_dpdk_pool *dp)
{
	static bool registered;
	if (!registered && rte_mempool_register_ops(&frame_ops) < 0)
		return -ENOSPC;
	registered = true;
	char name[RTE_MEMPOOL_NAMESIZE];
	snprintf(name, sizeof(name), "pb_frames_%u", pools_made++);
	dp->mp = rte_mempool_create_empty(name, dp->pool->nframes, dp->pool->stride - PB_DPDK_OBJ,
					  pb_dpdk_cache_size(dp->pool), sizeof(struct rte_pktmbuf_pool_private),
					  node_of(dp->pool), RTE_MEMPOOL_F_NO_SPREAD);
	if (!dp->mp)
		return -rte_errno;
	if (dp->mp->header_size != PB_DPDK_OBJ)
		return -EPROTO;
	int rc = rte_mempool_set_ops_byname(dp->mp, frame_ops.name, dp);
	if (rc)
		return rc;
	rte_pktmbuf_pool_init(dp->mp, NULL);
	rc = make_known(dp);
	if (rc)
		return rc;
	rte_mempool_obj_iter(dp->mp, rte_pktmbuf_init, NULL);
	dp->again = pb_dpdk_again_pool(dp->pool, pools_made);
	return 0;
}

/* Threads have left frames in their caches, and nobody is in a call any more. */
static void empty_caches(struct pb_dpdk_pool *dp)
{
	for (unsigned i = 0; dp->mp && dp->mp->cache_size && i < RTE_MAX_LCORE; i++)
		rte_mempool_cache_flush(rte_mempool_default_cache(dp->mp, i), dp->mp);
}

/* What a driver never gave back: it is closed by now, so nobody writes there any more. */
static void take_back(struct pb_dpdk_pool *dp)
{
	for (uint32_t i = 0; dp->lent && i < dp->pool->nframes; i++) {
		if (dp->lent[i] == PB_DPDK_NO)
			continue;
		enum pb_owner from = dp->lent[i] == PB_DPDK_FILL ? PB_OWN_FILL : PB_OWN_TX; /* however often */
		dp->lent[i] = PB_DPDK_NO;
		dp->recovered++;
		pb_pool_put(dp->cache, pb_pool_addr(dp->pool, i), from);
	}
}

static void pool_free(struct pb_dpdk_pool *dp)
{
	struct pb_region *r = dp->pool->region;
	if (dp->cache) {
		empty_caches(dp);
		take_back(dp);
	}
	dp->ending = true;
	rte_mempool_free(dp->mp);
	rte_mempool_free(dp->again);
	if (dp->mapped)
		(void)rte_extmem_unregister(pb_region_base(r), pb_region_bytes(r));
	pb_pool_cache_destroy(dp->cache);
	free(dp->lent);
	pb_pool_unref(dp->pool);
	free(dp);
}

static struct pb_dpdk_pool *pool_make(struct pb_pool *pool, int *err)
{
	*err = -EINVAL;
	if (pool->lead != PB_DPDK_LEAD)
		return NULL;
	*err = -ENOMEM;
	struct pb_dpdk_pool *dp = aligned_alloc(PB_CACHE_LINE, sizeof(*dp));
	if (!dp)
		return NULL;
	memset(dp, 0, sizeof(*dp));
	dp->pool = pool;
	dp->refs = 1;
	pb_pool_ref(pool);
	dp->lent = calloc(pool->nframes, 1);
	dp->cache = dp->lent ? pb_pool_cache_create(pool, err) : NULL;
	if (dp->cache)
		*err = make_mempool(dp);
	if (*err) {
		pool_free(dp);
		return NULL;
	}
	return dp;
}

struct pb_dpdk_pool *pb_dpdk_pool_get(struct pb_pool *pool, int *err)
{
	pthread_mutex_lock(&pools_lock);
	struct pb_dpdk_pool *dp = pools;
	while (dp && dp->pool != pool)
		dp = dp->next;
	*err = 0;
	if (dp) {
		dp->refs++;
	} else {
		dp = pool_make(pool, err);
		if (dp) {
			dp->next = pools;
			pools = dp;
		}
	}
	pthread_mutex_unlock(&pools_lock);
	return dp;
}

void pb_dpdk_pool_ref(struct pb_dpdk_pool *dp)
{
	pthread_mutex_lock(&pools_lock);
	dp->refs++;
	pthread_mutex_unlock(&pools_lock);
}

void pb_dpdk_pool_put(struct pb_dpdk_pool *dp)
{
	pthread_mutex_lock(&pools_lock);
	bool last = !--dp->refs;
	struct pb_dpdk_pool **at = &pools;
	while (last && *at != dp)
		at = &(*at)->next;
	if (last) {
		*at = dp->next;
		pool_free(dp);
	}
	pthread_mutex_unlock(&pools_lock);
}

void pb_dpdk_pool_flush(struct pb_dpdk_pool *dp)
{
	struct rte_mempool_cache *c = rte_mempool_default_cache(dp->mp, rte_lcore_id());
	if (c)
		rte_mempool_cache_flush(c, dp->mp);
}

void pb_dpdk_pools_flush(void)
{
	pthread_mutex_lock(&pools_lock);
	for (struct pb_dpdk_pool *dp = pools; dp; dp = dp->next)
		pb_dpdk_pool_flush(dp);
	pthread_mutex_unlock(&pools_lock);
}

uint32_t pb_dpdk_pool_in_use(struct pb_dpdk_pool *dp, uint32_t *cached)
{
	uint32_t n = 0;
	*cached = 0;
	for (uint32_t i = 0; i < dp->pool->nframes; i++)
		n += dp->lent[i] != PB_DPDK_NO;
	/* Those in caches are free; a thread may change its own meanwhile. */
	for (unsigned i = 0; dp->mp->cache_size && i < RTE_MAX_LCORE; i++)
		*cached += *(volatile uint32_t *)&rte_mempool_default_cache(dp->mp, i)->len;
	return n - (*cached < n ? *cached : n);
}
