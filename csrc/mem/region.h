/* A region: page-aligned memory that frames are cut from. Counted; unmapped after the last reference. */
#ifndef PB_MEM_REGION_H
#define PB_MEM_REGION_H
#include "base/types.h"

enum pb_page_kind {
	PB_PAGES_4K = 0,
	PB_PAGES_THP = 1,     /* transparent huge pages, seen in smaps */
	PB_PAGES_HUGETLB = 2, /* reserved pages of 2 MiB or 1 GiB */
};

enum pb_page_want {
	PB_WANT_BEST = 0,    /* reserved pages of 2 MiB, else THP, else 4 KiB */
	PB_WANT_HUGETLB = 1, /* reserved pages of 2 MiB, else of 1 GiB, of which each is taken whole */
	PB_WANT_THP = 2,
	PB_WANT_4K = 3,
};

struct pb_region;

/* bytes is rounded up to 2 MiB (4 KiB for PB_WANT_4K). All pages are touched. Returns NULL and sets *err to -errno:
 * -EINVAL, -ENOMEM (also when PB_WANT_HUGETLB finds no reserved pages). */
PB_API struct pb_region *pb_region_create(size_t bytes, enum pb_page_want want, int *err);
PB_API void pb_region_ref(struct pb_region *r);
PB_API void pb_region_unref(struct pb_region *r);
PB_API void *pb_region_base(const struct pb_region *r);
PB_API size_t pb_region_bytes(const struct pb_region *r);
PB_API enum pb_page_kind pb_region_pages(const struct pb_region *r);
#endif
