/* The socket, straight on the kernel's interface (Documentation/networking/af_xdp.rst). libxdp's ring accessors are
 * used everywhere; its xsk_socket__create() is not: 1.3 unmaps the fill ring when bind() fails, so that each try on a
 * busy queue would pin the memory and build the rings again, and it does not tell which step failed. */
#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static int set(int fd, int what, const void *v, socklen_t len)
{
	return setsockopt(fd, SOL_XDP, what, v, len) ? -errno : 0;
}

static int set_sizes(int fd, const struct pb_xsk_config *cfg, struct pb_xsk_fail *f)
{
	const struct {
		int what;
		const uint32_t *entries;
		const char *name;
	} rings[] = {
		{XDP_UMEM_FILL_RING, &cfg->fill_ring, "fill"},
		{XDP_UMEM_COMPLETION_RING, &cfg->comp_ring, "completion"},
		{XDP_RX_RING, &cfg->rx_ring, "RX"},
		{XDP_TX_RING, &cfg->tx_ring, "TX"},
	};
	for (size_t i = 0; i < PB_ARRAY_LEN(rings); i++) {
		int err = set(fd, rings[i].what, rings[i].entries, sizeof(*rings[i].entries));
		if (err)
			return pb_xsk_fail_set(f, PB_XSK_STAGE_RINGS, err, "%s ring of %u entries", rings[i].name,
					       *rings[i].entries);
	}
	return 0;
}

/* Returns the mapping or NULL with errno set, and remembers it in slot i. */
static uint8_t *map_ring(struct pb_xsk *x, int i, uint64_t desc_off, uint32_t entries, size_t entry_bytes, off_t pgoff)
{
	size_t bytes = (size_t)desc_off + entries * entry_bytes;
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, x->fd, pgoff);
	if (at == MAP_FAILED)
		return NULL;
	x->maps[i].at = at;
	x->maps[i].bytes = bytes;
	return at;
}

/* The two kinds differ in name only: producer rings start with room for `size`, consumer rings with nothing. */
#define INIT_RING(r, base, o, entries, start_cons)                                                                     \
	do {                                                                                                           \
		memset(&(r), 0, sizeof(r));                                                                            \
		(r).mask = (entries)-1;                                                                                \
		(r).size = (entries);                                                                                  \
		(r).producer = (uint32_t *)(void *)((base) + (o).producer);                                            \
		(r).consumer = (uint32_t *)(void *)((base) + (o).consumer);                                            \
		(r).flags = (uint32_t *)(void *)((base) + (o).flags);                                                  \
		(r).ring = (base) + (o).desc;                                                                          \
		(r).cached_prod = *(r).producer;                                                                       \
		(r).cached_cons = *(r).consumer + (start_cons);                                                        \
	} while (0)

static int map_rings(struct pb_xsk *x, const struct pb_xsk_config *cfg)
{
	struct xdp_mmap_offsets o = {0};
	socklen_t len = sizeof(o);
	if (getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &o, &len))
		return -errno;
	if (len != sizeof(o)) /* kernels before 5.4 have no flags, hence no need_wakeup */
		return -EOPNOTSUPP;
	uint8_t *fill = map_ring(x, 0, o.fr.desc, cfg->fill_ring, 8, (off_t)XDP_UMEM_PGOFF_FILL_RING);
	uint8_t *comp =
		fill ? map_ring(x, 1, o.cr.desc, cfg->comp_ring, 8, (off_t)XDP_UMEM_PGOFF_COMPLETION_RING) : NULL;
	uint8_t *rx = comp ? map_ring(x, 2, o.rx.desc, cfg->rx_ring, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING) : NULL;
	uint8_t *tx = rx ? map_ring(x, 3, o.tx.desc, cfg->tx_ring, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING) : NULL;
	if (!tx)
		return -errno;
	INIT_RING(x->fill, fill, o.fr, cfg->fill_ring, cfg->fill_ring);
	INIT_RING(x->comp, comp, o.cr, cfg->comp_ring, 0);
	INIT_RING(x->rx, rx, o.rx, cfg->rx_ring, 0);
	INIT_RING(x->tx, tx, o.tx, cfg->tx_ring, cfg->tx_ring);
	return 0;
}

static int register_umem(struct pb_xsk *x, struct pb_xsk_fail *f)
{
	struct pb_pool *pool = x->dev.pool;
	struct xdp_umem_reg reg = {
		.addr = (uintptr_t)pool->base,
		.len = (uint64_t)pool->nframes * pool->frame_bytes,
		.chunk_size = pool->frame_bytes,
	};
	int err = set(x->fd, XDP_UMEM_REG, &reg, sizeof(reg));
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_UMEM, err, "registering %llu bytes of frames",
				       (unsigned long long)reg.len);
	return 0;
}

int pb_xsk_sock_open(struct pb_xsk *x, const struct pb_xsk_config *cfg, struct pb_xsk_fail *f)
{
	x->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (x->fd < 0)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_SOCKET, -errno, "socket(AF_XDP)");
	int err = register_umem(x, f);
	if (!err)
		err = set_sizes(x->fd, cfg, f);
	if (!err) {
		err = map_rings(x, cfg);
		if (err)
			pb_xsk_fail_set(f, PB_XSK_STAGE_RINGS, err, "mapping the rings");
	}
	/* In copy mode each frame sent is an skb charged to the socket; the default holds about 270 of them. The kernel
	 * doubles the value. Failing is not an error. */
	int sndbuf = (int)(cfg->tx_ring * x->dev.pool->frame_bytes);
	if (!err)
		(void)setsockopt(x->fd, SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf, sizeof(sndbuf));
	if (err)
		pb_xsk_sock_close(x);
	return err;
}

uint32_t pb_xsk_sock_tx_budget(struct pb_xsk *x, uint32_t want)
{
	return set(x->fd, XDP_MAX_TX_SKB_BUDGET, &want, sizeof(want)) ? 32 : want;
}

int pb_xsk_sock_bind(struct pb_xsk *x, uint16_t bind_flags)
{
	struct sockaddr_xdp a = {
		.sxdp_family = AF_XDP,
		.sxdp_flags = bind_flags,
		.sxdp_ifindex = x->ifindex,
		.sxdp_queue_id = x->dev.queue,
	};
	return bind(x->fd, (const struct sockaddr *)(const void *)&a, sizeof(a)) ? -errno : 0;
}

int pb_xsk_sock_is_zerocopy(struct pb_xsk *x, bool *yes)
{
	struct xdp_options o = {0};
	socklen_t len = sizeof(o);
	if (getsockopt(x->fd, SOL_XDP, XDP_OPTIONS, &o, &len))
		return -errno;
	*yes = o.flags & XDP_OPTIONS_ZEROCOPY;
	return 0;
}

void pb_xsk_sock_close(struct pb_xsk *x)
{
	for (size_t i = 0; i < PB_ARRAY_LEN(x->maps); i++) {
		if (x->maps[i].at)
			munmap(x->maps[i].at, x->maps[i].bytes);
		x->maps[i].at = NULL;
	}
	if (x->fd >= 0)
		close(x->fd);
	x->fd = -1;
}

/* A socket of its own with one page of memory; the caller closes fd, which lets go of all. */
static int probe_prepare(int fd, void *page)
{
	const uint32_t entries = 2;
	struct xdp_umem_reg reg = {.addr = (uintptr_t)page, .len = 4096, .chunk_size = 2048};
	int err = set(fd, XDP_UMEM_REG, &reg, sizeof(reg));
	if (!err)
		err = set(fd, XDP_UMEM_FILL_RING, &entries, sizeof(entries));
	if (!err)
		err = set(fd, XDP_UMEM_COMPLETION_RING, &entries, sizeof(entries));
	return err ? err : set(fd, XDP_RX_RING, &entries, sizeof(entries));
}

/* The kernel unbinds a queue in a work item after close(); until then a zero-copy NIC may write to frames that were on
 * the fill ring, and binding the queue gives EBUSY. So bind another socket to find out. It was created at open, because
 * its namespace is that of its creator. */
void pb_xsk_sock_wait_idle(struct pb_xsk *x)
{
	if (x->probe_fd < 0)
		return;
	int fd = x->fd;
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page != MAP_FAILED) {
		if (!probe_prepare(x->probe_fd, page)) {
			x->fd = x->probe_fd;
			for (int ms = 0; ms < 1000 && pb_xsk_sock_bind(x, XDP_COPY) == -EBUSY; ms++)
				usleep(1000);
			x->fd = fd;
		}
		munmap(page, 4096);
	}
	close(x->probe_fd);
	x->probe_fd = -1;
}
