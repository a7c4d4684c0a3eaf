#include "dev/dpdk_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <pthread.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_vfio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Memory that DPDK did not allocate is mapped for a device's DMA by hand (rte_extmem_register() does not): without that
 * an IOMMU stops the device at the first frame.
 *
 * All devices of vfio-pci share DPDK's default container, so their mappings are one: made for the first port that
 * receives into a pool, undone before the last of them lets its device go. (Undone later, DPDK would map the memory
 * again for the next device, whatever lies there by then.) Drivers that map by themselves (mlx5) do it for each device.
 * All others need none: rte_dev_dma_map() answers ENOTSUP. */

static pthread_mutex_t dma_lock = PTHREAD_MUTEX_INITIALIZER;

struct dma_walk {
	struct rte_device *device; /* NULL: the container */
	bool map;
	int err;
};

bool pb_dpdk_bound_to(const char *device, const char *prefix)
{
	char path[128], target[256];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", device);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return false;
	target[n] = '\0';
	const char *slash = strrchr(target, '/');
	return slash && strncmp(slash + 1, prefix, strlen(prefix)) == 0;
}

void pb_dpdk_dma_begin(void)
{
	errno = 0;
	rte_errno = 0;
}

int pb_dpdk_dma_done(int rc)
{
	int err = rte_errno ? rte_errno : errno;
	return !rc ? 0 : err ? -err : -EIO;
}

/* From now on the device reads and writes no memory, whatever its driver's stop left it doing (virtio's goes on
 * receiving until it is reset, which is at close): bus mastering off, PCI Local Bus 3.0, 6.2.2. vfio-pci puts it on
 * again when the device is opened. */
static void silence(const char *device)
{
	char path[128];
	uint16_t command;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", device);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	if (pread(fd, &command, sizeof(command), PCI_COMMAND) == sizeof(command)) {
		command &= (uint16_t)~PCI_COMMAND_MASTER;
		(void)!pwrite(fd, &command, sizeof(command), PCI_COMMAND);
	}
	close(fd);
}

/* One piece of the pool's memory, contiguous for the device. */
static void each_piece(struct rte_mempool *mp, void *arg, struct rte_mempool_memhdr *m, unsigned i)
{
	struct dma_walk *w = arg;
	(void)mp;
	(void)i;
	if (w->map && w->err)
		return;
	int rc;
	pb_dpdk_dma_begin();
	if (w->device)
		rc = w->map ? rte_dev_dma_map(w->device, m->addr, m->iova, m->len)
			    : rte_dev_dma_unmap(w->device, m->addr, m->iova, m->len);
	else
		rc = w->map ? rte_vfio_container_dma_map(RTE_VFIO_DEFAULT_CONTAINER_FD, (uintptr_t)m->addr, m->iova,
							 m->len)
			    : rte_vfio_container_dma_unmap(RTE_VFIO_DEFAULT_CONTAINER_FD, (uintptr_t)m->addr, m->iova,
							   m->len);
	if (rc && !w->err)
		w->err = pb_dpdk_dma_done(rc);
}

static int walk(struct pb_dpdk_pool *dp, struct rte_device *device, bool map)
{
	struct dma_walk w = {.device = device, .map = map};
	rte_mempool_mem_iter(dp->mp, each_piece, &w);
	return w.err;
}

int pb_dpdk_dma_map(struct pb_dpdk_port *p)
{
	int rc = 0;
	const char *name = rte_dev_name(p->device);
	if (!pb_dpdk_bound_to(name, "vfio")) {
		rc = walk(p->dp, p->device, true);
		if (rc == -ENOTSUP)
			return 0;
		p->dma = rc ? PB_DPDK_DMA_NONE : PB_DPDK_DMA_DEVICE;
		return rc;
	}
	pthread_mutex_lock(&dma_lock);
	if (!p->dp->dma_ports)
		rc = walk(p->dp, NULL, true);
	if (!rc) {
		p->dp->dma_ports++;
		p->dma = PB_DPDK_DMA_CONTAINER;
	} else {
		(void)walk(p->dp, NULL, false); /* the pieces before the one that failed */
	}
	pthread_mutex_unlock(&dma_lock);
	return rc;
}

void pb_dpdk_dma_unmap(struct pb_dpdk_port *p)
{
	enum pb_dpdk_dma dma = p->dma;
	p->dma = PB_DPDK_DMA_NONE;
	if (dma == PB_DPDK_DMA_DEVICE)
		(void)walk(p->dp, p->device, false);
	if (dma != PB_DPDK_DMA_CONTAINER)
		return;
	silence(rte_dev_name(p->device));
	pthread_mutex_lock(&dma_lock);
	if (!--p->dp->dma_ports)
		(void)walk(p->dp, NULL, false);
	pthread_mutex_unlock(&dma_lock);
}
