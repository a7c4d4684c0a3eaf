#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define PB_RING_MIN 64
#define PB_RING_MAX 32768
#define PB_L2_BYTES 18 /* Ethernet and one VLAN tag */
#define PB_TX_BUDGET 256

/* An explicit flag in bind() turns off the kernel's own fallback, so the ladder is ours. */
static const struct {
	enum pb_xsk_mode mode;
	enum pb_xsk_copy copy;
} ladder[PB_XSK_RUNGS] = {
	{PB_XSK_NATIVE, PB_XSK_ZEROCOPY},
	{PB_XSK_NATIVE, PB_XSK_COPY},
	{PB_XSK_GENERIC, PB_XSK_COPY},
};

void pb_xsk_config_init(struct pb_xsk_config *cfg)
{
	*cfg = (struct pb_xsk_config){
		.rx_ring = 2048,
		.tx_ring = 2048,
		.fill_ring = 2048,
		.comp_ring = 2048,
		.deadline_ms = 2000,
		.sockets = 1,
	};
}

static uint64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool ring_ok(uint32_t *entries)
{
	if (!*entries)
		*entries = 2048;
	return *entries >= PB_RING_MIN && *entries <= PB_RING_MAX && !(*entries & (*entries - 1));
}

static int check_frames(struct pb_xsk_config *c, const struct pb_pool *pool, struct pb_xsk_fail *f)
{
	if (!c->sockets)
		c->sockets = 1;
	if (c->sockets > PB_XSK_SOCKETS)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL, "%u sockets on a queue: at most %d", c->sockets,
				       PB_XSK_SOCKETS);
	if (pool->lead)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL,
				       "the memory is laid out for DPDK: open the port with memory of its own");
	if (!pool->frame_shift && !c->unaligned)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL,
				       "frames of %u bytes need unaligned mode: aligned ones are 2048 or 4096",
				       pool->frame_bytes);
	/* What is left for a packet is at least a minimal Ethernet frame with its metadata. */
	if (c->headroom + PB_XDP_PACKET_HEADROOM + 128 > pool->frame_bytes)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL,
				       "a headroom of %u leaves too little of %u bytes", c->headroom,
				       pool->frame_bytes);
	return 0;
}

static int check_config(struct pb_xsk_config *c, const struct pb_pool *pool, struct pb_xsk_fail *f)
{
	if (!c->ifindex && !c->ifname[0])
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL, "no interface named");
	if (!c->obj_dir)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL, "no directory of XDP objects");
	if (c->mode > PB_XSK_GENERIC || c->copy > PB_XSK_COPY)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL, "mode %u, copy %u", c->mode, c->copy);
	if (c->mode == PB_XSK_GENERIC && c->copy == PB_XSK_ZEROCOPY)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL, "generic mode always copies");
	if (!ring_ok(&c->rx_ring) || !ring_ok(&c->tx_ring) || !ring_ok(&c->fill_ring) || !ring_ok(&c->comp_ring))
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL, "ring sizes are powers of two from %d to %d",
				       PB_RING_MIN, PB_RING_MAX);
	if (c->comp_ring < c->tx_ring)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL,
				       "completion ring (%u) smaller than the TX ring (%u)", c->comp_ring, c->tx_ring);
	if (c->queue >= PB_XSK_QUEUES)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_CONFIG, -EINVAL, "queue %u: at most %d queues", c->queue,
				       PB_XSK_QUEUES);
	return check_frames(c, pool, f);
}

static int check_iface(struct pb_xsk *x, const struct pb_xsk_config *c, struct pb_xsk_report *rep)
{
	struct pb_xsk_fail *f = &rep->fail;
	struct pb_xsk_if i;
	x->ctl_fd = pb_xsk_if_open();
	if (x->ctl_fd < 0)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_IFACE, x->ctl_fd, "control socket");
	int err = pb_xsk_if_read(x->ctl_fd, c->ifname, c->ifindex, &i);
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_IFACE, err, "interface %.15s (index %u)", c->ifname, c->ifindex);
	rep->ifindex = i.ifindex;
	rep->mtu = i.mtu;
	rep->rx_queues = i.rx_queues;
	if (!i.up)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_IFACE, -ENETDOWN, "interface %s is down", i.name);
	/* One socket receives and sends, so the queue must exist both ways. */
	uint32_t queues = i.rx_queues < i.tx_queues ? i.rx_queues : i.tx_queues;
	if (queues && c->queue >= queues)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_QUEUE, -EINVAL, "no queue %u: %s has %u RX and %u TX queues",
				       c->queue, i.name, i.rx_queues, i.tx_queues);
	uint32_t room = x->dev.pool->frame_bytes - PB_XDP_PACKET_HEADROOM - c->headroom;
	uint32_t frames = (i.mtu + PB_L2_BYTES + room - 1) / room;
	uint32_t most = c->sg == PB_XSK_SG_OFF ? 1 : PB_XSK_CHAIN_MAX;
	if (frames > most)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_MTU, -EMSGSIZE,
				       "MTU %u of %s: %u frame(s) of %u bytes hold an MTU of up to %u", i.mtu, i.name,
				       most, x->dev.pool->frame_bytes, room * most - PB_L2_BYTES);
	x->sg = c->sg == PB_XSK_SG_ON || frames > 1;
	x->dev.chain_max = x->sg ? PB_XSK_CHAIN_MAX : 1;
	rep->sg = x->sg;
	rep->frame_room = room;
	x->ifindex = i.ifindex;
	x->zc_room = room - room % i.zc_unit_bytes;
	x->tx_max_bytes = i.mtu + PB_L2_BYTES;
	x->dev.queue = c->queue;
	x->dev.mtu = (uint16_t)(i.mtu < UINT16_MAX ? i.mtu : UINT16_MAX);
	memcpy(x->dev.mac, i.mac, sizeof(i.mac));
	x->dev.link_up = i.running;
	return 0;
}

/* Before bind: a driver looks at the fill ring when it is bound. Half of the pool stays for sending. With several
 * sockets as many frames more may lie on their RX rings: one that is not read must not use up what the others get. */
static int first_fill(struct pb_xsk *x, struct pb_xsk_report *rep)
{
	const struct pb_xsk_config *c = &x->cfg;
	struct pb_xsk_group *g = x->group;
	uint32_t most = c->fill_max ? c->fill_max : x->dev.pool->nframes / 2;
	uint32_t want = c->fill_ring + (c->sockets - 1) * c->rx_ring;
	g->fill_target = want < most ? want : most;
	pb_xsk_group_refill(x);
	rep->filled = atomic_load(&g->posted);
	if (rep->filled)
		return 0;
	return pb_xsk_fail_set(&rep->fail, PB_XSK_STAGE_FILL, -ENOBUFS, "no free frame in the pool of %u",
			       x->dev.pool->nframes);
}

/* For sending chains the kernel has no flag of its own, so a port that needs none to receive is bound with XDP_USE_SG
 * too, where that costs nothing: not where a driver would lose zero copy by it. */
static int bind_once(struct pb_xsk *x, enum pb_xsk_copy copy, struct pb_xsk_umem *shared)
{
	if (shared)
		return pb_xsk_umem_bind(shared, x->fd, x->ifindex, x->dev.queue);
	bool able = x->cfg.sg == PB_XSK_SG_AUTO && (copy == PB_XSK_COPY || x->cfg.tx_zc_segs > 1);
	uint16_t flags = XDP_USE_NEED_WAKEUP | (copy == PB_XSK_ZEROCOPY ? XDP_ZEROCOPY : XDP_COPY);
	x->bound_sg = x->sg || able;
	int err = pb_xsk_sock_bind(x, (uint16_t)(flags | (x->bound_sg ? XDP_USE_SG : 0)));
	if (x->sg || !able || (err != -EINVAL && err != -EOPNOTSUPP))
		return err;
	x->bound_sg = false; /* kernels before 6.6 do not know the flag */
	return pb_xsk_sock_bind(x, flags);
}

static int bind_until(struct pb_xsk *x, enum pb_xsk_copy copy, struct pb_xsk_umem *shared, uint64_t deadline_ms,
		      struct pb_xsk_report *rep)
{
	useconds_t pause_us = 500;
	for (;;) {
		int err = bind_once(x, copy, shared);
		/* A queue that was just closed stays busy until the kernel has come round to it. */
		if (err != -EBUSY || now_ms() >= deadline_ms)
			return err;
		rep->bind_retries++;
		usleep(pause_us);
		if (pause_us < 16000)
			pause_us *= 2;
	}
}

/* After bind. */
static int set_up(struct pb_xsk *x, struct pb_xsk_fail *f, struct pb_xsk_report *rep)
{
	int err = pb_xsk_sock_is_zerocopy(x, &rep->zerocopy);
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_OPTIONS, err, "XDP_OPTIONS");
	x->copy = !rep->zerocopy;
	x->magic = x->prog->conf.magic;
	uint32_t budget = x->cfg.tx_ring < PB_TX_BUDGET ? x->cfg.tx_ring : PB_TX_BUDGET;
	if (x->copy)
		rep->tx_budget = pb_xsk_sock_tx_budget(x, budget);
	else if (!x->member)
		x->group->probe_fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	pb_xsk_sock_busy_poll(x, rep);
	x->dev.tx_flags = x->bound_sg ? PB_DESC_MORE | PB_DESC_AGAIN : 0;
	if (x->cfg.tx_meta) {
		if (pb_xsk_txmeta_create(x))
			return pb_xsk_fail_set(f, PB_XSK_STAGE_MEMORY, -ENOMEM, "TX time stamps");
		x->dev.tx_flags |=
			x->copy ? PB_DESC_CSUM_PARTIAL | PB_DESC_TX_STAMP : x->cfg.tx_zc_flags & PB_XSK_TX_META_FLAGS;
		if (!(x->dev.tx_flags & PB_XSK_TX_META_FLAGS))
			snprintf(rep->no_tx_meta, sizeof(rep->no_tx_meta),
				 "zero copy: the driver has none (xsk-features of the netdev family)");
	}
	x->no_meta = x->cfg.no_meta;
	if (!x->no_meta) {
		err = pb_xsk_prog_meta(x->prog, 1);
		if (err)
			return pb_xsk_fail_set(f, PB_XSK_STAGE_MAP, err, "asking the program for metadata");
		x->wants_meta = true;
	}
	err = pb_xsk_prog_map_set(x->prog, x->dev.queue, x->member, x->fd);
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_MAP, err, "entering queue %u in the XSKMAP", x->dev.queue);
	x->in_map = true;
	return 0;
}

/* So that later sockets share the registration. */
static int enter_umem(struct pb_xsk *x, struct pb_xsk_umem *shared, struct pb_xsk_fail *f)
{
	struct pb_xsk_umem_kind kind;
	pb_xsk_sock_kind(x, &kind);
	struct pb_xsk_umem *u = shared ? shared : pb_xsk_umem_new(&kind, !x->copy);
	if (!u || pb_xsk_umem_enter(u, x->fd)) {
		if (!shared)
			pb_xsk_umem_unref(u);
		return pb_xsk_fail_set(f, PB_XSK_STAGE_MEMORY, -ENOMEM, "list of registrations");
	}
	x->umem = u;
	return 0;
}

/* Another process has the interface. If it has our queue too, that is the better answer. */
static int whose_queue(struct pb_xsk *x, int err, struct pb_xsk_fail *f)
{
	if (f->stage != PB_XSK_STAGE_PROG_BUSY || x->tried_bind || pb_xsk_prog_is_here(x->ifindex))
		return err;
	x->tried_bind = true; /* if it succeeds the socket is bound, and a second try would say EBUSY too */
	if (pb_xsk_sock_bind(x, XDP_COPY) != -EBUSY)
		return err;
	return pb_xsk_fail_set(f, PB_XSK_STAGE_BIND, -EBUSY, "queue %u, by another process", x->dev.queue);
}

static int try_rung(struct pb_xsk *x, struct pb_xsk_umem *shared, uint64_t deadline_ms, struct pb_xsk_rung *r,
		    struct pb_xsk_report *rep)
{
	struct pb_xsk_fail *f = &r->fail;
	int err = 0;
	if (x->prog && x->prog->mode != r->mode) {
		pb_xsk_prog_unref(x->prog);
		x->prog = NULL;
	}
	if (!x->prog) {
		struct pb_xsk_prog_config pc = {.ifindex = x->ifindex, .mode = r->mode, .obj_dir = x->cfg.obj_dir};
		x->prog = pb_xsk_prog_open(&pc, f, &err);
	}
	if (err)
		return shared ? err : whose_queue(x, err, f);
	/* The kernel itself refuses packets of several frames where the driver has none in zero copy. */
	if (r->copy == PB_XSK_ZEROCOPY && !x->sg && x->tx_max_bytes > x->zc_room)
		return pb_xsk_fail_set(
			f, PB_XSK_STAGE_MTU, -EMSGSIZE,
			"zero copy: this driver receives %u bytes into a frame of %u: take frames of 4096", x->zc_room,
			x->dev.pool->frame_bytes);
	err = bind_until(x, r->copy, shared, deadline_ms, rep);
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_BIND, err, "binding queue %u with %s%s%s", x->dev.queue,
				       r->copy == PB_XSK_ZEROCOPY ? "zero copy" : "copy",
				       x->sg ? " and packets of several frames (XDP_USE_SG)" : "",
				       shared ? " and shared memory" : "");
	err = set_up(x, f, rep);
	return err ? err : enter_umem(x, shared, f);
}

/* Whether a lower rung may do better. A bound socket cannot be bound again, and a busy queue is busy in every mode. */
static bool may_descend(const struct pb_xsk_fail *f)
{
	if (f->err == -EPERM || f->err == -ENETDOWN || f->err == -ENODEV || f->err == -ENXIO)
		return false;
	switch (f->stage) {
	case PB_XSK_STAGE_PROG_BUSY: /* perhaps by our own program in the other mode */
	case PB_XSK_STAGE_PROG_LOAD:
	case PB_XSK_STAGE_PROG_ATTACH:
	case PB_XSK_STAGE_MTU: /* copy mode has its own buffers */
		return true;
	case PB_XSK_STAGE_BIND:
		return f->err != -EBUSY;
	default:
		return false;
	}
}

static int climb_down(struct pb_xsk *x, struct pb_xsk_umem *shared, enum pb_xsk_copy copy, struct pb_xsk_report *rep)
{
	uint64_t deadline_ms = now_ms() + x->cfg.deadline_ms;
	int err = -EINVAL;
	for (size_t i = 0; i < PB_ARRAY_LEN(ladder); i++) {
		if ((x->cfg.mode && x->cfg.mode != ladder[i].mode) || (copy && copy != ladder[i].copy))
			continue;
		struct pb_xsk_rung *r = &rep->rungs[rep->nrungs++];
		r->mode = ladder[i].mode;
		r->copy = ladder[i].copy;
		err = try_rung(x, shared, deadline_ms, r, rep);
		rep->fail = r->fail;
		if (!err || shared || !may_descend(&r->fail))
			break;
	}
	return err;
}

static void report_granted(struct pb_xsk *x, struct pb_xsk_report *rep)
{
	struct pb_xsk_prog_info info;
	pb_xsk_prog_info(x->prog, &info);
	rep->mode = info.mode;
	rep->metadata = info.metadata;
	rep->frags = info.frags;
	rep->prog_id = info.prog_id;
	memcpy(rep->no_metadata, info.no_metadata, sizeof(rep->no_metadata));
	rep->tx_sg = x->bound_sg;
	rep->tx_csum = x->dev.tx_flags & PB_DESC_CSUM_PARTIAL;
	rep->tx_stamp = x->dev.tx_flags & PB_DESC_TX_STAMP;
	rep->tx_launch = x->dev.tx_flags & PB_DESC_LAUNCH;
}

/* share: with the memory as another socket of this process registered it; -ENOENT when none did. */
static struct pb_xsk *open_once(const struct pb_xsk_config *c, struct pb_pool *pool, bool share,
				struct pb_xsk_report *rep, int *err)
{
	memset(rep, 0, sizeof(*rep));
	struct pb_xsk *x = pb_xsk_create(pool, NULL, c->sockets, err);
	if (!x) {
		pb_xsk_fail_set(&rep->fail, PB_XSK_STAGE_MEMORY, *err, "device or its pool cache");
		return NULL;
	}
	x->cfg = *c;
	x->group->unaligned = c->unaligned;
	struct pb_xsk_umem *shared = NULL;
	struct pb_xsk_umem_kind kind;
	bool zerocopy = false;
	*err = check_iface(x, c, rep);
	if (!*err && share) {
		/* A port that would have chains for sending only is served by a registration with and without them. */
		x->bound_sg = x->sg || c->sg == PB_XSK_SG_AUTO;
		pb_xsk_sock_kind(x, &kind);
		shared = pb_xsk_umem_find(&kind, &zerocopy);
		if (!shared && !x->sg && x->bound_sg) {
			kind.sg = x->bound_sg = false;
			shared = pb_xsk_umem_find(&kind, &zerocopy);
		}
		*err = shared ? 0 : -ENOENT;
	}
	enum pb_xsk_copy copy = !shared ? c->copy : zerocopy ? PB_XSK_ZEROCOPY : PB_XSK_COPY;
	if (!*err)
		*err = pb_xsk_group_enter(x->group, x);
	if (!*err)
		*err = pb_xsk_sock_open(x, shared, &rep->fail);
	if (!*err)
		*err = first_fill(x, rep);
	if (!*err)
		*err = climb_down(x, shared, copy, rep);
	if (*err) {
		pb_xsk_destroy(x);
		pb_xsk_umem_unref(shared);
		return NULL;
	}
	rep->umem_shared = shared;
	report_granted(x, rep);
	return x;
}

static struct pb_xsk *open_sharing(const struct pb_xsk_config *c, struct pb_pool *pool, struct pb_xsk_report *rep,
				   int *err)
{
	struct pb_xsk *x = c->own_umem ? NULL : open_once(c, pool, true, rep, err);
	/* Kernels and drivers that cannot share, and settings that do not go together, are as if there was no other. */
	if (!x && (c->own_umem || *err == -ENOENT || rep->fail.stage == PB_XSK_STAGE_BIND ||
		   rep->fail.stage == PB_XSK_STAGE_PROG_BUSY))
		x = open_once(c, pool, false, rep, err);
	return x;
}

struct pb_dev *pb_dev_xsk_open(const struct pb_xsk_config *cfg, struct pb_pool *pool, struct pb_xsk_report *report,
			       int *err)
{
	struct pb_xsk_config c = *cfg;
	memset(report, 0, sizeof(*report));
	*err = check_config(&c, pool, &report->fail);
	if (*err)
		return NULL;
	struct pb_xsk *x = open_sharing(&c, pool, report, err);
	if (!x && c.tx_meta && report->fail.stage == PB_XSK_STAGE_BIND && *err == -EOPNOTSUPP) {
		/* In every mode that was allowed: virtio-net (Linux 7.2) does not even copy such packets. */
		c.tx_meta = false;
		x = open_sharing(&c, pool, report, err);
		if (x)
			snprintf(report->no_tx_meta, sizeof(report->no_tx_meta),
				 "binding a socket that may ask for it: %s", strerrordesc_np(EOPNOTSUPP));
	}
	return x ? &x->dev : NULL;
}

struct pb_dev *pb_dev_xsk_join(struct pb_dev *first, struct pb_xsk_report *report, int *err)
{
	struct pb_xsk *f = pb_xsk_of(first);
	memset(report, 0, sizeof(*report));
	struct pb_xsk *x = pb_xsk_create(first->pool, f->group, 0, err);
	if (!x) {
		pb_xsk_fail_set(&report->fail, PB_XSK_STAGE_MEMORY, *err, "device or its pool cache");
		return NULL;
	}
	x->cfg = f->cfg;
	*err = check_iface(x, &x->cfg, report);
	if (!*err && (*err = pb_xsk_group_enter(x->group, x)))
		pb_xsk_fail_set(&report->fail, PB_XSK_STAGE_CONFIG, *err, "all %u sockets of the queue are open",
				x->cfg.sockets);
	if (!*err)
		*err = pb_xsk_sock_open(x, f->umem, &report->fail);
	if (!*err) {
		/* By the first's descriptor and no other: that makes it a socket of the same queue. */
		struct sockaddr_xdp a = {.sxdp_family = AF_XDP,
					 .sxdp_flags = XDP_SHARED_UMEM,
					 .sxdp_ifindex = x->ifindex,
					 .sxdp_queue_id = x->dev.queue,
					 .sxdp_shared_umem_fd = (uint32_t)f->fd};
		if (bind(x->fd, (const struct sockaddr *)(const void *)&a, sizeof(a)))
			*err = pb_xsk_fail_set(&report->fail, PB_XSK_STAGE_BIND, -errno, "socket %u of queue %u",
					       x->member, x->dev.queue);
	}
	if (!*err) {
		x->prog = f->prog;
		x->bound_sg = f->bound_sg;
		pb_xsk_prog_ref(x->prog);
		*err = set_up(x, &report->fail, report);
	}
	if (*err) {
		pb_xsk_destroy(x);
		return NULL;
	}
	report->umem_shared = true;
	report->filled = atomic_load(&x->group->posted);
	report_granted(x, report);
	return &x->dev;
}
