#define _GNU_SOURCE
#include "mem/region.h"

#include "base/handles.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HUGE_SHIFT 21
#define GIANT_SHIFT 30
#define HUGE_BYTES ((size_t)1 << HUGE_SHIFT)
#ifndef MAP_HUGE_SHIFT /* linux/mman.h */
#define MAP_HUGE_SHIFT 26
#endif

struct pb_region {
	void *base;
	size_t bytes;
	void *map; /* what to unmap; starts before base when the base was aligned up */
	size_t map_bytes;
	enum pb_page_kind pages;
	_Atomic int refs;
};

/* All pages, here and now: by the policy of this thread (csrc/mem/numa.h), and not by whoever comes first. */
static bool touch(void *base, size_t bytes)
{
#ifdef MADV_POPULATE_WRITE
	if (!madvise(base, bytes, MADV_POPULATE_WRITE))
		return true;
	if (errno != EINVAL) /* kernels before 5.14 do not know it */
		return false;
#endif
	for (size_t i = 0; i < bytes; i += 4096)
		((volatile char *)base)[i] = 0;
	return true;
}

/* Whether smaps shows transparent huge pages in the mapping that holds addr. */
static bool has_thp(const void *addr)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	if (!f)
		return false;
	char line[512];
	bool inside = false, found = false;
	while (fgets(line, sizeof(line), f)) {
		unsigned long lo, hi, kb;
		if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2)
			inside = (unsigned long)addr >= lo && (unsigned long)addr < hi;
		else if (inside && sscanf(line, "AnonHugePages: %lu kB", &kb) == 1) {
			found = kb > 0;
			break;
		}
	}
	fclose(f);
	return found;
}

/* Reserved pages of 1 << shift bytes: which size is said, for the kernel's own choice is default_hugepagesz=. */
static bool map_hugetlb(struct pb_region *r, unsigned shift)
{
	const size_t unit = (size_t)1 << shift;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (int)(shift << MAP_HUGE_SHIFT);
	r->map_bytes = (r->bytes + unit - 1) / unit * unit;
	r->map = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (r->map == MAP_FAILED)
		return false;
	r->base = r->map;
	r->pages = PB_PAGES_HUGETLB;
	if (touch(r->base, r->bytes))
		return true;
	munmap(r->map, r->map_bytes);
	return false;
}

static bool map_plain(struct pb_region *r, bool thp)
{
	r->map_bytes = r->bytes + HUGE_BYTES;
	r->map = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->map == MAP_FAILED)
		return false;
	r->base = (void *)(((uintptr_t)r->map + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	madvise(r->base, r->bytes, thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (!touch(r->base, r->bytes)) {
		munmap(r->map, r->map_bytes);
		return false;
	}
	r->pages = thp && has_thp(r->base) ? PB_PAGES_THP : PB_PAGES_4K;
	return true;
}

struct pb_region *pb_region_create(size_t bytes, enum pb_page_want want, int *err)
{
	*err = -EINVAL;
	if (!bytes || bytes > (size_t)1 << 40)
		return NULL;
	*err = -ENOMEM;
	struct pb_region *r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	size_t unit = want == PB_WANT_4K ? 4096 : HUGE_BYTES;
	r->bytes = (bytes + unit - 1) / unit * unit;
	bool ok = false;
	if (want == PB_WANT_BEST || want == PB_WANT_HUGETLB)
		ok = map_hugetlb(r, HUGE_SHIFT);
	/* A page of 1 GB for some MB only when nothing else will do. */
	if (!ok && want == PB_WANT_HUGETLB)
		ok = map_hugetlb(r, GIANT_SHIFT);
	if (!ok && want != PB_WANT_HUGETLB)
		ok = map_plain(r, want != PB_WANT_4K);
	if (!ok) {
		free(r);
		return NULL;
	}
	/* A fork()ed child must not share pages that a device writes: it sees zeros (hugetlb: nothing at all). */
	size_t whole = r->pages == PB_PAGES_HUGETLB ? r->map_bytes : r->bytes; /* a page of 1 GB is not parted */
	if (madvise(r->base, whole, MADV_WIPEONFORK))
		madvise(r->base, whole, MADV_DONTFORK);
	atomic_init(&r->refs, 1);
	pb_handle_opened(PB_HANDLE_REGION);
	*err = 0;
	return r;
}

void pb_region_ref(struct pb_region *r)
{
	atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
}

void pb_region_unref(struct pb_region *r)
{
	if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
		return;
	munmap(r->map, r->map_bytes);
	free(r);
	pb_handle_closed(PB_HANDLE_REGION);
}

void *pb_region_base(const struct pb_region *r)
{
	return r->base;
}

size_t pb_region_bytes(const struct pb_region *r)
{
	return r->bytes;
}

enum pb_page_kind pb_region_pages(const struct pb_region *r)
{
	return r->pages;
}
