/* The socket, straight on the kernel's interface (Documentation/networking/af_xdp.rst). libxdp's ring accessors are
 * used everywhere; its xsk_socket__create() is not: 1.3 unmaps the fill ring when bind() fails, so that each try on a
 * busy queue would pin the memory and build the rings again, and it does not tell which step failed. */
#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static int set(int fd, int what, const void *v, socklen_t len)
{
	return setsockopt(fd, SOL_XDP, what, v, len) ? -errno : 0;
}

/* One ring's size. */
struct sizing {
	int what;
	uint32_t entries;
	const char *name;
};

static int set_sizes(int fd, const struct sizing *rings, size_t n, struct pb_xsk_fail *f)
{
	for (size_t i = 0; i < n; i++) {
		int err = set(fd, rings[i].what, &rings[i].entries, sizeof(rings[i].entries));
		if (err)
			return pb_xsk_fail_set(f, PB_XSK_STAGE_RINGS, err, "%s ring of %u entries", rings[i].name,
					       rings[i].entries);
	}
	return 0;
}

/* Returns the mapping, to be unmapped by m, or NULL with errno set. */
static uint8_t *map_ring(struct pb_xsk_map *m, int fd, uint64_t desc_off, uint32_t entries, size_t entry_bytes,
			 off_t pgoff)
{
	size_t bytes = (size_t)desc_off + entries * entry_bytes;
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, pgoff);
	if (at == MAP_FAILED)
		return NULL;
	m->at = at;
	m->bytes = bytes;
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

/* Those of the queue: by its first socket. */
static int map_group(struct pb_xsk *x, const struct xdp_mmap_offsets *o)
{
	struct pb_xsk_group *g = x->group;
	uint32_t fr = x->cfg.fill_ring, cr = x->cfg.comp_ring;
	uint8_t *fill = map_ring(&g->maps[0], x->fd, o->fr.desc, fr, 8, (off_t)XDP_UMEM_PGOFF_FILL_RING);
	uint8_t *comp =
		fill ? map_ring(&g->maps[1], x->fd, o->cr.desc, cr, 8, (off_t)XDP_UMEM_PGOFF_COMPLETION_RING) : NULL;
	if (!comp)
		return -errno;
	INIT_RING(g->fill, fill, o->fr, fr, fr);
	INIT_RING(g->comp, comp, o->cr, cr, 0);
	return 0;
}

static int map_rings(struct pb_xsk *x)
{
	struct xdp_mmap_offsets o = {0};
	socklen_t len = sizeof(o);
	if (getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &o, &len))
		return -errno;
	if (len != sizeof(o)) /* kernels before 5.4 have no flags, hence no need_wakeup */
		return -EOPNOTSUPP;
	if (!x->member) {
		int err = map_group(x, &o);
		if (err)
			return err;
	}
	uint32_t rn = x->cfg.rx_ring, tn = x->cfg.tx_ring;
	size_t entry = sizeof(struct xdp_desc);
	uint8_t *rx = map_ring(&x->maps[0], x->fd, o.rx.desc, rn, entry, XDP_PGOFF_RX_RING);
	uint8_t *tx = rx ? map_ring(&x->maps[1], x->fd, o.tx.desc, tn, entry, XDP_PGOFF_TX_RING) : NULL;
	if (!tx)
		return -errno;
	INIT_RING(x->rx, rx, o.rx, rn, 0);
	INIT_RING(x->tx, tx, o.tx, tn, tn);
	return 0;
}

void pb_xsk_sock_kind(const struct pb_xsk *x, struct pb_xsk_umem_kind *kind)
{
	*kind = (struct pb_xsk_umem_kind){
		.pool = x->dev.pool,
		.headroom = x->cfg.headroom,
		.flags = (x->cfg.unaligned ? XDP_UMEM_UNALIGNED_CHUNK_FLAG : 0) |
			 (x->cfg.tx_meta ? XDP_UMEM_TX_METADATA_LEN | XDP_UMEM_TX_SW_CSUM : 0),
		.meta_bytes = x->cfg.tx_meta ? sizeof(struct pb_xsk_tx_meta) : 0,
		.sg = x->bound_sg,
	};
}

static int register_umem(struct pb_xsk *x, struct pb_xsk_fail *f)
{
	struct pb_pool *pool = x->dev.pool;
	struct pb_xsk_umem_kind kind;
	pb_xsk_sock_kind(x, &kind);
	struct pb_xdp_umem_reg reg = {
		.addr = (uintptr_t)pool->base,
		.len = (uint64_t)pool->nframes * pool->frame_bytes,
		.chunk_size = pool->frame_bytes,
		.headroom = kind.headroom,
		.flags = kind.flags,
		.tx_metadata_len = kind.meta_bytes,
	};
	int err = set(x->fd, XDP_UMEM_REG, &reg, sizeof(reg));
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_UMEM, err, "registering %llu bytes of frames of %u%s%s",
				       (unsigned long long)reg.len, reg.chunk_size,
				       x->cfg.unaligned ? ", unaligned" : "",
				       x->cfg.tx_meta ? ", with TX metadata (Linux 6.8)" : "");
	return 0;
}

int pb_xsk_sock_open(struct pb_xsk *x, struct pb_xsk_umem *umem, struct pb_xsk_fail *f)
{
	const struct sizing rings[] = {
		{XDP_RX_RING, x->cfg.rx_ring, "RX"},
		{XDP_TX_RING, x->cfg.tx_ring, "TX"},
		{XDP_UMEM_FILL_RING, x->cfg.fill_ring, "fill"},
		{XDP_UMEM_COMPLETION_RING, x->cfg.comp_ring, "completion"},
	};
	x->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (x->fd < 0)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_SOCKET, -errno, "socket(AF_XDP)");
	int err = umem ? 0 : register_umem(x, f);
	/* A second socket of a queue must not have the rings that belong to the queue. */
	if (!err)
		err = set_sizes(x->fd, rings, x->member ? 2 : PB_ARRAY_LEN(rings), f);
	if (!err) {
		err = map_rings(x);
		if (err)
			pb_xsk_fail_set(f, PB_XSK_STAGE_RINGS, err, "mapping the rings");
	}
	/* In copy mode each frame sent is an skb charged to the socket; the default holds about 270 of them. The kernel
	 * doubles the value. Failing is not an error. */
	int sndbuf = (int)(x->cfg.tx_ring * x->dev.pool->frame_bytes);
	if (!err)
		(void)setsockopt(x->fd, SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf, sizeof(sndbuf));
	if (err)
		pb_xsk_sock_close(x);
	return err;
}

static int set_int(int fd, int what, int value)
{
	return setsockopt(fd, SOL_SOCKET, what, &value, sizeof(value)) ? -errno : 0;
}

static uint32_t get_int(int fd, int what)
{
	int value = 0;
	socklen_t len = sizeof(value);
	return getsockopt(fd, SOL_SOCKET, what, &value, &len) || value < 0 ? 0 : (uint32_t)value;
}

void pb_xsk_sock_busy_poll(struct pb_xsk *x, struct pb_xsk_report *rep)
{
	if (!x->cfg.busy_poll_us)
		return;
	const struct {
		int what, value;
		const char *name;
	} options[] = {
		{SO_PREFER_BUSY_POLL, 1, "SO_PREFER_BUSY_POLL (Linux 5.11, CAP_NET_ADMIN)"},
		{SO_BUSY_POLL, (int)x->cfg.busy_poll_us, "SO_BUSY_POLL (CAP_NET_ADMIN, CONFIG_NET_RX_BUSY_POLL)"},
		{SO_BUSY_POLL_BUDGET, (int)x->cfg.busy_budget, "SO_BUSY_POLL_BUDGET (above 64: CAP_NET_ADMIN)"},
	};
	for (size_t i = 0; i < PB_ARRAY_LEN(options); i++) {
		/* With the preference the kernel (xsk_no_wakeup()) wakes no driver for a sender in zero copy, and polls
		 * the NAPI of receiving alone: where sending has one of its own, nothing would leave. */
		bool skip = options[i].what == SO_PREFER_BUSY_POLL && !x->copy;
		if (!options[i].value || skip)
			continue;
		int err = set_int(x->fd, options[i].what, options[i].value);
		if (err) {
			snprintf(rep->no_busy_poll, sizeof(rep->no_busy_poll), "%s: %s", options[i].name,
				 strerrordesc_np(-err));
			(void)set_int(x->fd, SO_BUSY_POLL, 0);
			return;
		}
	}
	rep->busy_poll_us = get_int(x->fd, SO_BUSY_POLL);
	/* A kernel that cannot read the budget back has the one that was set. */
	uint32_t budget = get_int(x->fd, SO_BUSY_POLL_BUDGET);
	rep->busy_budget = budget ? budget : x->cfg.busy_budget ? x->cfg.busy_budget : 8;
	x->busy_poll = rep->busy_poll_us != 0;
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

/* The rings stay mapped: what is in them is looked through afterwards. */
void pb_xsk_sock_close(struct pb_xsk *x)
{
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
	int *probe_fd = &x->group->probe_fd;
	if (*probe_fd < 0)
		return;
	int fd = x->fd;
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page != MAP_FAILED) {
		if (!probe_prepare(*probe_fd, page)) {
			x->fd = *probe_fd;
			for (int ms = 0; ms < 1000 && pb_xsk_sock_bind(x, XDP_COPY) == -EBUSY; ms++)
				usleep(1000);
			x->fd = fd;
		}
		munmap(page, 4096);
	}
	close(*probe_fd);
	*probe_fd = -1;
}
