#define _GNU_SOURCE
#include "mem/numa.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

int pb_numa_prefer(int node, struct pb_numa_policy *before)
{
	unsigned long mask[PB_NUMA_NODES / 64] = {0};
	if (node < 0 || node >= PB_NUMA_NODES)
		return -EINVAL;
	memset(before, 0, sizeof(*before));
	if (syscall(SYS_get_mempolicy, &before->mode, before->nodes, PB_NUMA_NODES, NULL, 0))
		return -errno;
	/* A node that is not there would be no preference at all. */
	if (syscall(SYS_get_mempolicy, NULL, mask, PB_NUMA_NODES, NULL, MPOL_F_MEMS_ALLOWED))
		return -errno;
	if (!(mask[node / 64] & 1ul << node % 64))
		return -EINVAL;
	memset(mask, 0, sizeof(mask));
	mask[node / 64] = 1ul << node % 64;
	return syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask, PB_NUMA_NODES) ? -errno : 0;
}

void pb_numa_restore(const struct pb_numa_policy *before)
{
	bool none = before->mode == MPOL_DEFAULT;
	(void)syscall(SYS_set_mempolicy, before->mode, none ? NULL : before->nodes, none ? 0 : PB_NUMA_NODES);
}

int pb_numa_node_of(const void *at)
{
	int node = -1;
	if (syscall(SYS_get_mempolicy, &node, NULL, 0, at, MPOL_F_NODE | MPOL_F_ADDR))
		return -errno;
	return node;
}
