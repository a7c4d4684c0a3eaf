#include "harness.h"
#include "mem/ring.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>

TEST(refuses_bad_sizes)
{
	struct pb_ring r;
	static const uint32_t bad[] = {0, 1, 3, 100, (1u << 24) + 1, 1u << 25};
	for (size_t i = 0; i < PB_ARRAY_LEN(bad); i++)
		CHECK_EQ((uint64_t)pb_ring_init(&r, bad[i], 8), (uint64_t)-EINVAL);
	CHECK_EQ((uint64_t)pb_ring_init(&r, 8, 0), (uint64_t)-EINVAL);
	CHECK_EQ((uint64_t)pb_ring_init(&r, 8, 4097), (uint64_t)-EINVAL);
}

TEST(fills_and_empties)
{
	struct pb_ring r;
	uint64_t in[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8}, out[9];
	CHECK_EQ(pb_ring_init(&r, 8, 8), 0);
	CHECK_EQ(pb_ring_get(&r, out, 9), 0);
	CHECK_EQ(pb_ring_put(&r, in, 9), 8);
	CHECK_EQ(pb_ring_put(&r, in, 1), 0);
	CHECK_EQ(pb_ring_count(&r), 8);
	CHECK_EQ(pb_ring_get(&r, out, 3), 3);
	CHECK_EQ(pb_ring_put(&r, in + 8, 1), 1);
	CHECK_EQ(pb_ring_get(&r, out + 3, 9), 6);
	CHECK_MEM(out, in, sizeof(in));
	CHECK_EQ(pb_ring_put(&r, in, 0), 0);
	pb_ring_fini(&r);
	pb_ring_fini(&r);
}

/* Against a plain array, with sizes that do not divide, until the indices wrap. */
TEST(against_a_queue)
{
	struct pb_rng rng = test_rng();
	for (uint32_t bytes = 1; bytes < 40; bytes += 7) {
		struct pb_ring r;
		uint8_t in[40 * 20], out[40 * 20];
		CHECK_EQ(pb_ring_init(&r, 16, bytes), 0);
		atomic_store(&r.head, UINT32_MAX - 100);
		atomic_store(&r.tail, UINT32_MAX - 100);
		r.cached_head = r.cached_tail = UINT32_MAX - 100;
		uint32_t put = 0, got = 0;
		for (int k = 0; k < 1000; k++) {
			uint32_t n = pb_rng_below(&rng, 20);
			for (uint32_t i = 0; i < n * bytes; i++)
				in[i] = (uint8_t)(put + i / bytes + i % bytes);
			uint32_t room = 16 - (put - got), did = pb_ring_put(&r, in, n);
			CHECK_EQ(did, n < room ? n : room);
			put += did;
			n = pb_rng_below(&rng, 20);
			did = pb_ring_get(&r, out, n);
			CHECK_EQ(did, n < put - got ? n : put - got);
			for (uint32_t i = 0; i < did * bytes; i++)
				CHECK_EQ(out[i], (uint8_t)(got + i / bytes + i % bytes));
			got += did;
			CHECK_EQ(pb_ring_count(&r), put - got);
		}
		pb_ring_fini(&r);
	}
}

#define COUNT 1000000u
static struct pb_ring shared;

static void *produce(void *arg)
{
	struct pb_rng rng = test_rng();
	uint64_t in[64][2];
	(void)arg;
	for (uint64_t at = 0; at < COUNT;) {
		uint32_t n = 1 + pb_rng_below(&rng, 64);
		for (uint32_t i = 0; i < n; i++) {
			in[i][0] = at + i;
			in[i][1] = ~(at + i);
		}
		if (n > COUNT - at)
			n = (uint32_t)(COUNT - at);
		uint32_t did = pb_ring_put(&shared, in, n);
		at += did;
		if (!did)
			sched_yield();
	}
	return NULL;
}

TEST(two_threads)
{
	pthread_t t;
	struct pb_rng rng = {.state = harness.seed + 1};
	uint64_t out[64][2], bad = 0;
	CHECK_EQ(pb_ring_init(&shared, 128, 16), 0);
	REQUIRE(!pthread_create(&t, NULL, produce, NULL));
	for (uint64_t at = 0; at < COUNT;) {
		uint32_t n = pb_ring_get(&shared, out, 1 + pb_rng_below(&rng, 64));
		for (uint32_t i = 0; i < n; i++, at++)
			bad += out[i][0] != at || out[i][1] != ~at;
		if (!n)
			sched_yield();
	}
	pthread_join(t, NULL);
	CHECK_EQ(bad, 0);
	CHECK_EQ(pb_ring_count(&shared), 0);
	pb_ring_fini(&shared);
}

MAIN(T(refuses_bad_sizes), T(fills_and_empties), T(against_a_queue), T(two_threads))
