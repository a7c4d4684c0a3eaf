#include "harness.h"
#include "mem/region.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

TEST(sizes_and_alignment)
{
	static const struct {
		size_t bytes;
		enum pb_page_want want;
		size_t unit;
	} cases[] = {{1, PB_WANT_4K, 4096},
		     {4096, PB_WANT_4K, 4096},
		     {4097, PB_WANT_4K, 4096},
		     {1, PB_WANT_THP, 2u << 20},
		     {2u << 20, PB_WANT_THP, 2u << 20},
		     {1, PB_WANT_BEST, 2u << 20},
		     {(2u << 20) + 1, PB_WANT_BEST, 2u << 20}};
	for (size_t i = 0; i < PB_ARRAY_LEN(cases); i++) {
		int err = 1;
		struct pb_region *r = pb_region_create(cases[i].bytes, cases[i].want, &err);
		REQUIRE(r);
		CHECK_EQ(err, 0);
		CHECK_EQ(pb_region_bytes(r) % cases[i].unit, 0);
		CHECK(pb_region_bytes(r) >= cases[i].bytes && pb_region_bytes(r) < cases[i].bytes + cases[i].unit);
		CHECK_EQ((uintptr_t)pb_region_base(r) % cases[i].unit, 0);
		if (cases[i].want == PB_WANT_4K)
			CHECK_EQ(pb_region_pages(r), PB_PAGES_4K);
		/* All of it is zero and can be written. */
		uint8_t *p = pb_region_base(r);
		size_t n = pb_region_bytes(r);
		CHECK(!p[0] && !p[n / 2] && !p[n - 1]);
		memset(p, 0xa5, n);
		pb_region_unref(r);
	}
}

TEST(refuses)
{
	int err = 0;
	CHECK(!pb_region_create(0, PB_WANT_4K, &err));
	CHECK_EQ(err, -EINVAL);
	CHECK(!pb_region_create(((size_t)1 << 40) + 1, PB_WANT_4K, &err));
	CHECK_EQ(err, -EINVAL);
	/* No machine has so many huge pages. */
	CHECK(!pb_region_create((size_t)1 << 40, PB_WANT_HUGETLB, &err));
	CHECK_EQ(err, -ENOMEM);
	pb_region_unref(NULL);
}

TEST(lives_until_the_last_reference)
{
	int err;
	struct pb_region *r = pb_region_create(4096, PB_WANT_4K, &err);
	REQUIRE(r);
	uint8_t *p = pb_region_base(r);
	pb_region_ref(r);
	pb_region_unref(r);
	CHECK_EQ(pb_handles_live(PB_HANDLE_REGION), 1);
	p[0] = 1;
	pb_region_unref(r);
	CHECK_EQ(pb_handles_live(PB_HANDLE_REGION), 0);
	/* Unmapped, or mapped by somebody else: the kernel refuses to read from it. */
	int fds[2];
	REQUIRE(!pipe(fds));
	CHECK(write(fds[1], p, 1) == -1 && errno == EFAULT);
	close(fds[0]);
	close(fds[1]);
}

TEST(a_child_does_not_share_it)
{
	int err, status;
	struct pb_region *r = pb_region_create(4096, PB_WANT_4K, &err);
	REQUIRE(r);
	uint8_t *p = pb_region_base(r);
	memset(p, 0xa5, 4096);
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		bool zero = !p[0] && !p[4095];
		p[0] = 0x11;
		_exit(!zero);
	}
	REQUIRE(pid > 0);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(p[0] == 0xa5 && p[4095] == 0xa5);
	pb_region_unref(r);
}

MAIN(T(sizes_and_alignment), T(refuses), T(lives_until_the_last_reference), T(a_child_does_not_share_it))
