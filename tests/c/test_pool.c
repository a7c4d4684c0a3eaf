#include "harness.h"

#include <errno.h>
#include <pthread.h>

static struct pb_pool *make(uint32_t frames)
{
	int err;
	struct pb_pool *p = pb_pool_create(frames, 2048, PB_WANT_4K, &err);
	CHECK(p != NULL);
	return p;
}

static struct pb_pool_cache *cache_of(struct pb_pool *p)
{
	int err;
	struct pb_pool_cache *c = pb_pool_cache_create(p, &err);
	CHECK(c != NULL);
	return c;
}

TEST(refuses_bad_sizes)
{
	int err = 0;
	static const uint32_t bad[][2] = {{63, 2048}, {(1u << 22) + 1, 2048}, {64, 1024}, {64, 3000}, {64, 8192}};
	for (size_t i = 0; i < PB_ARRAY_LEN(bad); i++) {
		err = 0;
		CHECK(!pb_pool_create(bad[i][0], bad[i][1], PB_WANT_4K, &err));
		CHECK_EQ((uint64_t)err, (uint64_t)-EINVAL);
	}
	pb_pool_unref(NULL);
	pb_pool_cache_destroy(NULL);
}

TEST(every_frame_once)
{
	struct pb_pool *p = make(1000);
	struct pb_pool_cache *c = cache_of(p);
	uint64_t addrs[1001];
	bool seen[1000] = {false};
	uint32_t n = 0, k;
	while ((k = pb_pool_get(c, addrs + n, 64, 0, PB_OWN_APP)))
		n += k;
	CHECK_EQ(n, 1000);
	for (uint32_t i = 0; i < n; i++) {
		CHECK_EQ(addrs[i] % 2048, 0);
		REQUIRE(addrs[i] / 2048 < 1000);
		CHECK(!seen[addrs[i] / 2048]);
		seen[addrs[i] / 2048] = true;
	}
	struct pb_pool_info info;
	pb_pool_info(p, &info);
	CHECK_EQ((uint64_t)info.own[PB_OWN_APP], 1000);
	CHECK_EQ((uint64_t)info.own[PB_OWN_FREE], 0);
	CHECK_EQ(info.frames, 1000);
	for (uint32_t i = 0; i < n; i++)
		pb_pool_put(c, addrs[i] + i, PB_OWN_APP); /* anywhere in the frame */
	CHECK_EQ(pb_pool_free_hint(c), 1000);
	pb_pool_cache_destroy(c);
	CHECK_POOL(p);
}

TEST(reserve_is_left)
{
	struct pb_pool *p = make(100);
	struct pb_pool_cache *c = cache_of(p);
	uint64_t addrs[100];
	CHECK_EQ(pb_pool_get(c, addrs, 64, 50, PB_OWN_APP), 50);
	CHECK_EQ(pb_pool_get(c, addrs + 50, 1, 50, PB_OWN_APP), 0);
	CHECK_EQ(pb_pool_get(c, addrs + 50, 64, 0, PB_OWN_APP), 50);
	CHECK_EQ(pb_pool_get(c, addrs, 1, 0, PB_OWN_APP), 0);
	for (int i = 0; i < 100; i++)
		pb_pool_put(c, addrs[i], PB_OWN_APP);
	pb_pool_cache_destroy(c);
	CHECK_POOL(p);
}

/* The table in pool.h, copied from its text: every pair of owners. */
TEST(transitions_that_the_table_allows)
{
	static const char *const table[PB_OWN_COUNT] = {
		"-yyyy-", /* FREE: FREE FILL RX APP ENGINE TX */
		"y-y---", /* FILL */
		"y--yyy", /* RX */
		"y---yy", /* APP */
		"y--y-y", /* ENGINE */
		"y---yy", /* TX */
	};
	for (unsigned from = 0; from < PB_OWN_COUNT; from++)
		for (unsigned to = 0; to < PB_OWN_COUNT; to++) {
			struct pb_pool *p = make(64);
			atomic_store(&p->owner[5], (uint8_t)from);
			pb_pool_check(p, 5 * 2048, (enum pb_owner)from, (enum pb_owner)to);
			CHECK_EQ(atomic_load(&p->violations), table[from][to] == 'y' ? 0 : 1);
			pb_pool_unref(p);
		}
}

TEST(violations_are_noticed)
{
	struct pb_pool *p = make(64);
	struct pb_pool_cache *c = cache_of(p);
	uint64_t a = 0;
	CHECK_EQ(pb_pool_get(c, &a, 1, 0, PB_OWN_APP), 1);
	pb_pool_check(p, a, PB_OWN_RX, PB_OWN_FREE); /* not its owner */
	CHECK_EQ(atomic_load(&p->violations), 1);
	CHECK_EQ(atomic_load(&p->first_violation), a << 8 | PB_OWN_RX << 4 | PB_OWN_FREE);
	pb_pool_check(p, (uint64_t)64 * 2048, PB_OWN_APP, PB_OWN_FREE); /* no such frame */
	CHECK_EQ(atomic_load(&p->violations), 2);
	pb_pool_cache_destroy(c);
	pb_pool_unref(p);
}

/* What one cache took and gave back is there for the others, but for a few. */
TEST(a_small_pool_does_not_lie_in_caches)
{
	struct pb_pool *p = make(256);
	struct pb_pool_cache *one = cache_of(p), *two = cache_of(p);
	uint64_t addrs[256];
	CHECK_EQ(pb_pool_get(one, addrs, 200, 0, PB_OWN_APP), 200);
	for (int i = 0; i < 200; i++)
		pb_pool_put(one, addrs[i], PB_OWN_APP);
	CHECK(pb_pool_free_hint(two) >= 256 - 8);
	uint32_t n = pb_pool_get(two, addrs, 240, 0, PB_OWN_APP);
	CHECK_EQ(n, 240);
	for (uint32_t i = 0; i < n; i++)
		pb_pool_put(two, addrs[i], PB_OWN_APP);
	pb_pool_cache_destroy(one);
	pb_pool_cache_destroy(two);
	CHECK_POOL(p);
}

TEST(caches_are_bounded_and_hold_the_pool)
{
	struct pb_pool *p = make(64);
	struct pb_pool_cache *c[PB_POOL_CACHES];
	int err = 0;
	for (int i = 0; i < PB_POOL_CACHES; i++)
		c[i] = cache_of(p);
	CHECK(!pb_pool_cache_create(p, &err));
	CHECK_EQ((uint64_t)err, (uint64_t)-ENOSPC);
	pb_pool_cache_destroy(c[7]);
	c[7] = cache_of(p);
	pb_pool_unref(p);
	for (int i = 0; i < PB_POOL_CACHES; i++) {
		CHECK_EQ(pb_handles_live(PB_HANDLE_POOL), 1);
		pb_pool_cache_destroy(c[i]);
	}
	CHECK_EQ(pb_handles_live(PB_HANDLE_POOL), 0);
}

TEST(frames_of_any_size_between)
{
	int err = 0;
	for (uint32_t bytes = 2048; bytes <= 4096; bytes += 64) {
		struct pb_pool *p = pb_pool_create(100, bytes, PB_WANT_4K, &err);
		REQUIRE(p);
		CHECK(pb_region_bytes(p->region) >= (size_t)100 * bytes);
		for (uint32_t i = 0; i < 100; i++) {
			uint64_t base = pb_pool_addr(p, i);
			const uint64_t inside[] = {base, base + 1, base + 2047, base + bytes - 1};
			for (size_t k = 0; k < PB_ARRAY_LEN(inside); k++) {
				CHECK_EQ(pb_pool_frame(p, inside[k]), base);
				CHECK_EQ(pb_pool_index(p, inside[k]), i);
				CHECK(pb_pool_has(p, inside[k]));
			}
		}
		CHECK(!pb_pool_has(p, (uint64_t)100 * bytes));
		/* Its index would be that of frame 0 in 32 bits. */
		CHECK(!pb_pool_has(p, ((uint64_t)1 << 32) * bytes));
		struct pb_pool_cache *c = cache_of(p);
		uint64_t addrs[64];
		uint32_t n = pb_pool_get(c, addrs, 64, 0, PB_OWN_APP);
		CHECK_EQ(n, 64);
		for (uint32_t i = 0; i < n; i++) {
			CHECK_EQ(addrs[i] % bytes, 0);
			pb_pool_put(c, addrs[i] + bytes - 1, PB_OWN_APP);
		}
		pb_pool_cache_destroy(c);
		pb_pool_unref(p);
	}
}

TEST(owner_names)
{
	CHECK(!strcmp(pb_owner_name(PB_OWN_FREE), "free") && !strcmp(pb_owner_name(PB_OWN_TX), "tx"));
	CHECK(!strcmp(pb_owner_name(PB_OWN_COUNT), "?"));
}

struct mover {
	struct pb_pool *pool;
	uint64_t seed;
};

static void *move(void *arg)
{
	struct mover *m = arg;
	struct pb_rng r = {.state = m->seed};
	struct pb_pool_cache *c = cache_of(m->pool);
	uint64_t mine[400];
	uint32_t n = 0;
	for (int k = 0; k < 20000; k++) {
		if (n <= 336)
			n += pb_pool_get(c, mine + n, pb_rng_below(&r, 65), 0, PB_OWN_APP);
		for (uint32_t i = pb_rng_below(&r, 65); i > 0 && n; i--)
			pb_pool_put(c, mine[--n], PB_OWN_APP);
	}
	while (n)
		pb_pool_put(c, mine[--n], PB_OWN_APP);
	pb_pool_cache_destroy(c);
	return NULL;
}

TEST(two_threads_on_a_small_pool)
{
	struct pb_pool *p = make(500);
	struct mover m[2] = {{p, harness.seed}, {p, harness.seed + 1}};
	pthread_t t[2];
	for (int i = 0; i < 2; i++)
		REQUIRE(!pthread_create(&t[i], NULL, move, &m[i]));
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(atomic_load(&p->top), 500);
	CHECK_POOL(p);
}

MAIN(T(a_small_pool_does_not_lie_in_caches), T(refuses_bad_sizes), T(every_frame_once), T(reserve_is_left),
     T(transitions_that_the_table_allows), T(violations_are_noticed), T(caches_are_bounded_and_hold_the_pool),
     T(frames_of_any_size_between), T(owner_names), T(two_threads_on_a_small_pool))
