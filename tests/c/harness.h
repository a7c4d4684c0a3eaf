/* A test harness of one header: TEST functions in an explicit list, CHECK macros that go on after a failure, and at the
 * end a demand for zero live handles. PB_SEED=<n> replays random tests. */
#ifndef PB_TEST_HARNESS_H
#define PB_TEST_HARNESS_H
#include "base/handles.h"
#include "base/rng.h"
#include "base/types.h"
#include "mem/pool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define UNUSED __attribute__((unused))
#define TEST(name) static void name(void)

struct test {
	const char *name;
	void (*run)(void);
};
#define T(name)                                                                                                        \
	{                                                                                                              \
#name, name                                                                                            \
	}

static struct {
	uint64_t seed;
	int bad; /* failed checks of the running test */
	int shown;
} harness;

static inline void check_failed(const char *file, int line, const char *what)
{
	harness.bad++;
	if (harness.shown++ < 40)
		fprintf(stderr, "%s:%d: %s\n", file, line, what);
}

static UNUSED bool check_eq(const char *file, int line, const char *what, uint64_t got, uint64_t want)
{
	if (got == want)
		return true;
	char text[400];
	snprintf(text, sizeof(text), "%s: got %" PRIu64 " (0x%" PRIx64 "), want %" PRIu64 " (0x%" PRIx64 ")", what, got,
		 got, want, want);
	check_failed(file, line, text);
	return false;
}

static UNUSED void check_mem(const char *file, int line, const char *what, const void *got, const void *want, size_t n)
{
	const uint8_t *g = got, *w = want;
	for (size_t i = 0; i < n; i++)
		if (g[i] != w[i]) {
			char text[300];
			snprintf(text, sizeof(text), "%s: byte %zu: got 0x%02x, want 0x%02x", what, i, g[i], w[i]);
			check_failed(file, line, text);
			return;
		}
}

#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))
#define CHECK_EQ(got, want) check_eq(__FILE__, __LINE__, #got " == " #want, (uint64_t)(got), (uint64_t)(want))
#define CHECK_MEM(got, want, n) check_mem(__FILE__, __LINE__, #got " == " #want, got, want, n)
/* For set-up: a test that cannot go on returns. */
#define REQUIRE(cond)                                                                                                  \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			check_failed(__FILE__, __LINE__, "required: " #cond);                                          \
			return;                                                                                        \
		}                                                                                                      \
	} while (0)

/* The same seed for every random test of a run, so that each can be replayed alone. */
static UNUSED struct pb_rng test_rng(void)
{
	return (struct pb_rng){.state = harness.seed};
}

static UNUSED void random_bytes(struct pb_rng *r, void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)pb_rng_u64(r);
}

/* Every frame is FREE and no transition was forbidden; then drops the reference. */
static UNUSED void check_pool(const char *file, int line, struct pb_pool *p)
{
	struct pb_pool_info info;
	pb_pool_info(p, &info);
	check_eq(file, line, "pool built with PB_DEBUG", info.debug, 1);
	check_eq(file, line, "pool violations", info.violations, 0);
	check_eq(file, line, "frames FREE", (uint64_t)info.own[PB_OWN_FREE], info.frames);
	for (unsigned o = PB_OWN_FREE + 1; o < PB_OWN_COUNT; o++)
		check_eq(file, line, pb_owner_name(o), (uint64_t)info.own[o], 0);
	pb_pool_unref(p);
}
#define CHECK_POOL(p) check_pool(__FILE__, __LINE__, p)

/* Random changes, a cut or a growth, as parsers must survive them. Returns the new
 * length, at most room. */
static UNUSED uint32_t mutate(struct pb_rng *r, uint8_t *p, uint32_t len, uint32_t room)
{
	for (uint32_t k = pb_rng_below(r, 4); k > 0 && len; k--)
		p[pb_rng_below(r, len)] = (uint8_t)pb_rng_u64(r);
	for (uint32_t k = pb_rng_below(r, 3); k > 0 && len; k--)
		p[pb_rng_below(r, len)] ^= (uint8_t)(1u << pb_rng_below(r, 8));
	if (pb_rng_below(r, 3) == 0)
		return pb_rng_below(r, len + 1);
	if (pb_rng_below(r, 8) == 0) {
		uint32_t more = pb_rng_below(r, room - len + 1);
		random_bytes(r, p + len, more);
		return len + more;
	}
	return len;
}

static void no_live_handles(void)
{
	for (unsigned k = 0; k < PB_HANDLE_COUNT; k++)
		check_eq(__FILE__, __LINE__, pb_handle_name(k), (uint64_t)pb_handles_live((enum pb_handle)k), 0);
}

static int run_tests(const char *file, const struct test *tests, size_t n)
{
	const char *text = getenv("PB_SEED");
	int passed = 0, failed = 0;
	harness.seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 1000003u ^ (uintptr_t)&harness;
	printf("%s: PB_SEED=%" PRIu64 "\n", file, harness.seed);
	fflush(stdout);
	for (size_t i = 0; i <= n; i++) {
		struct test t = i < n ? tests[i] : (struct test){"no_live_handles", no_live_handles};
		harness.bad = 0;
		t.run();
		if (harness.bad) {
			printf("FAILED %s\n", t.name);
			failed++;
		} else {
			passed++;
		}
	}
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}

#define MAIN(...)                                                                                                      \
	int main(void)                                                                                                 \
	{                                                                                                              \
		static const struct test tests[] = {__VA_ARGS__};                                                      \
		const char *slash = strrchr(__FILE__, '/');                                                            \
		return run_tests(slash ? slash + 1 : __FILE__, tests, PB_ARRAY_LEN(tests));                            \
	}
#endif
