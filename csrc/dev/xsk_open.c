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

static int check_config(struct pb_xsk_config *c, struct pb_xsk_fail *f)
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
	return 0;
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
	uint32_t room = x->dev.pool->frame_bytes - PB_XDP_PACKET_HEADROOM;
	if (i.mtu + PB_L2_BYTES > room)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_MTU, -EMSGSIZE,
				       "MTU %u of %s: a frame of %u bytes holds an MTU of up to %u", i.mtu, i.name,
				       x->dev.pool->frame_bytes, room - PB_L2_BYTES);
	x->ifindex = i.ifindex;
	x->tx_max_bytes = i.mtu + PB_L2_BYTES;
	x->dev.queue = c->queue;
	x->dev.mtu = (uint16_t)i.mtu;
	memcpy(x->dev.mac, i.mac, sizeof(i.mac));
	x->dev.link_up = i.running;
	return 0;
}

/* Before bind: a driver looks at the fill ring when it is bound. Half of the pool stays for sending. */
static int first_fill(struct pb_xsk *x, const struct pb_xsk_config *c, struct pb_xsk_report *rep)
{
	uint32_t half = x->dev.pool->nframes / 2;
	x->fill_target = c->fill_ring < half ? c->fill_ring : half;
	pb_xsk_refill(x);
	rep->filled = x->fill_posted;
	if (x->fill_posted)
		return 0;
	return pb_xsk_fail_set(&rep->fail, PB_XSK_STAGE_FILL, -ENOBUFS, "no free frame in the pool of %u",
			       x->dev.pool->nframes);
}

static int bind_until(struct pb_xsk *x, enum pb_xsk_copy copy, uint64_t deadline_ms, struct pb_xsk_report *rep)
{
	uint16_t flags = (uint16_t)(XDP_USE_NEED_WAKEUP | (copy == PB_XSK_ZEROCOPY ? XDP_ZEROCOPY : XDP_COPY));
	useconds_t pause_us = 500;
	for (;;) {
		int err = pb_xsk_sock_bind(x, flags);
		/* A queue that was just closed stays busy until the kernel has come round to it. */
		if (err != -EBUSY || now_ms() >= deadline_ms)
			return err;
		rep->bind_retries++;
		usleep(pause_us);
		if (pause_us < 16000)
			pause_us *= 2;
	}
}

static int try_rung(struct pb_xsk *x, const struct pb_xsk_config *c, uint64_t deadline_ms, struct pb_xsk_rung *r,
		    struct pb_xsk_report *rep)
{
	struct pb_xsk_fail *f = &r->fail;
	int err = 0;
	if (x->prog && x->prog->mode != r->mode) {
		pb_xsk_prog_unref(x->prog);
		x->prog = NULL;
	}
	if (!x->prog) {
		struct pb_xsk_prog_config pc = {.ifindex = x->ifindex, .mode = r->mode, .obj_dir = c->obj_dir};
		x->prog = pb_xsk_prog_open(&pc, f, &err);
	}
	if (err)
		return err;
	err = bind_until(x, r->copy, deadline_ms, rep);
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_BIND, err, "binding queue %u with %s", x->dev.queue,
				       r->copy == PB_XSK_ZEROCOPY ? "zero copy" : "copy");
	err = pb_xsk_sock_is_zerocopy(x, &rep->zerocopy);
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_OPTIONS, err, "XDP_OPTIONS");
	x->copy = !rep->zerocopy;
	x->magic = x->prog->conf.magic;
	if (x->copy)
		rep->tx_budget = pb_xsk_sock_tx_budget(x, c->tx_ring < PB_TX_BUDGET ? c->tx_ring : PB_TX_BUDGET);
	else
		x->probe_fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	err = pb_xsk_prog_map_set(x->prog, x->dev.queue, x->fd);
	if (err)
		return pb_xsk_fail_set(f, PB_XSK_STAGE_MAP, err, "entering queue %u in the XSKMAP", x->dev.queue);
	x->in_map = true;
	return 0;
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
		return true;
	case PB_XSK_STAGE_BIND:
		return f->err != -EBUSY;
	default:
		return false;
	}
}

static int climb_down(struct pb_xsk *x, const struct pb_xsk_config *c, struct pb_xsk_report *rep)
{
	uint64_t deadline_ms = now_ms() + c->deadline_ms;
	int err = -EINVAL;
	for (size_t i = 0; i < PB_ARRAY_LEN(ladder); i++) {
		if ((c->mode && c->mode != ladder[i].mode) || (c->copy && c->copy != ladder[i].copy))
			continue;
		struct pb_xsk_rung *r = &rep->rungs[rep->nrungs++];
		r->mode = ladder[i].mode;
		r->copy = ladder[i].copy;
		err = try_rung(x, c, deadline_ms, r, rep);
		rep->fail = r->fail;
		if (!err || !may_descend(&r->fail))
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
}

struct pb_dev *pb_dev_xsk_open(const struct pb_xsk_config *cfg, struct pb_pool *pool, struct pb_xsk_report *report,
			       int *err)
{
	struct pb_xsk_config c = *cfg;
	memset(report, 0, sizeof(*report));
	*err = check_config(&c, &report->fail);
	if (*err)
		return NULL;
	struct pb_xsk *x = pb_xsk_create(pool, err);
	if (!x) {
		pb_xsk_fail_set(&report->fail, PB_XSK_STAGE_MEMORY, *err, "device or its pool cache");
		return NULL;
	}
	*err = check_iface(x, &c, report);
	if (!*err)
		*err = pb_xsk_sock_open(x, &c, &report->fail);
	if (!*err)
		*err = first_fill(x, &c, report);
	if (!*err)
		*err = climb_down(x, &c, report);
	if (*err) {
		pb_xsk_destroy(x);
		return NULL;
	}
	report_granted(x, report);
	return &x->dev;
}
