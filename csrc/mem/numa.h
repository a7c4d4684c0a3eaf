/* On which NUMA node the pages of a region come to lie: the policy of the calling thread while it touches them. */
#ifndef PB_MEM_NUMA_H
#define PB_MEM_NUMA_H
#include "base/types.h"

#define PB_NUMA_NODES 1024

struct pb_numa_policy {
	int mode;
	unsigned long nodes[PB_NUMA_NODES / 64];
};

/* Pages that this thread touches from now on come from `node` while it has some; *before is for pb_numa_restore().
 * 0, -EINVAL (no such node), -ENOSYS (a kernel without NUMA). */
PB_API int pb_numa_prefer(int node, struct pb_numa_policy *before);
PB_API void pb_numa_restore(const struct pb_numa_policy *before);
/* The node on which the page at `at` lies, or -errno. */
PB_API int pb_numa_node_of(const void *at);
#endif
