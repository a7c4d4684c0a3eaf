/* Two paths joined by a mem pair, each behind an impaired link, in virtual time. */
#ifndef PB_TEST_RIG_H
#define PB_TEST_RIG_H
#include "dev/fault.h"
#include "dev/mem.h"
#include "harness.h"
#include "path/path.h"

struct rig {
	struct pb_pool *pool[2];
	struct pb_path *path[2];
	struct pb_ip ip[2];
	uint64_t now_ns;
	int broken; /* line of pb_tcp_check that failed */
};

struct rig_config {
	struct pb_link_config link; /* both ways, different seeds */
	bool late;                  /* packets meet the link when the device has sent them, not before */
	struct pb_tcp_config tcp[2];
	struct pb_dev_mem_config mem;
	bool v6;
	uint32_t frames;
};

static struct rig_config rig_defaults(void)
{
	struct rig_config c = {.frames = 8192, .link = {.delay_ns = 50000, .capacity = 4096}};
	pb_tcp_config_default(&c.tcp[0]);
	c.tcp[0].max_conns = 64;
	c.tcp[0].max_listeners = 4;
	c.tcp[1] = c.tcp[0];
	c.tcp[1].secret[0] = 1;
	return c;
}

static bool rig_open(struct rig *r, const struct rig_config *c)
{
	int err;
	memset(r, 0, sizeof(*r));
	r->now_ns = 1000000000;
	for (int i = 0; i < 2; i++) {
		uint8_t v4[4] = {10, 9, 0, (uint8_t)(1 + i)}, v6[16] = {0xfd, 9, [15] = (uint8_t)(1 + i)};
		struct pb_link_config link = c->link;
		link.seed = c->link.seed * 2 + (uint64_t)i;
		r->ip[i] = c->v6 ? pb_ip_from6(v6) : pb_ip_from4(v4);
		r->pool[i] = pb_pool_create(c->frames, 2048, PB_WANT_4K, &err);
		struct pb_dev *mem = pb_dev_mem_open("rig", r->pool[i], &c->mem, &err);
		if (!mem)
			return false;
		struct pb_dev *dev = pb_dev_fault_open(mem, c->late ? &link : NULL, c->late ? NULL : &link, &err);
		if (!dev)
			return false;
		r->path[i] = pb_path_create(dev, &c->tcp[i], NULL, &err);
		if (!r->path[i])
			return false;
		pb_net_add_local(&r->path[i]->net, &r->ip[i], c->v6 ? 64 : 24);
	}
	for (int i = 0; i < 2; i++)
		pb_net_neigh_set(&r->path[i]->net, &r->ip[!i], r->path[!i]->dev->mac);
	return true;
}

static void rig_close(struct rig *r)
{
	for (int i = 0; i < 2; i++)
		pb_path_destroy(r->path[i]);
	for (int i = 0; i < 2; i++)
		CHECK_POOL(r->pool[i]);
	CHECK_EQ(r->broken, 0);
}

/* Everything that can happen now happens. */
static void rig_settle(struct rig *r)
{
	/* A link hands a packet over without work of its own side: at rest is who was idle twice. */
	for (int k = 0, idle = 0; k < 10000; k++) {
		int work = pb_path_step(r->path[0], r->now_ns) + pb_path_step(r->path[1], r->now_ns);
		for (int i = 0; i < 2 && !r->broken; i++)
			r->broken = pb_tcp_check(r->path[i]->tcp);
		idle = work ? 0 : idle + 1;
		if (idle == 2)
			return;
	}
	check_failed(__FILE__, __LINE__, "the rig does not come to rest");
}

/* To the next thing that happens by itself. False: nothing ever will. */
static bool rig_advance(struct rig *r)
{
	uint64_t a = pb_path_next_ns(r->path[0]), b = pb_path_next_ns(r->path[1]);
	uint64_t t = a < b ? a : b;
	if (t == UINT64_MAX)
		return false;
	r->now_ns = t > r->now_ns ? t : r->now_ns + 1000;
	return true;
}

static UNUSED void rig_run(struct rig *r, uint64_t for_ns)
{
	uint64_t until = r->now_ns + for_ns;
	rig_settle(r);
	while (r->now_ns < until && rig_advance(r))
		rig_settle(r);
	if (r->now_ns < until)
		r->now_ns = until;
	rig_settle(r);
}

static struct pb_tcp *rig_tcp(struct rig *r, int i)
{
	return r->path[i]->tcp;
}

/* Side 0 connects to a listener of side 1. */
static UNUSED bool rig_connect(struct rig *r, uint16_t sport, pb_tcp_handle *client, pb_tcp_handle *listener,
			       pb_tcp_handle *server)
{
	struct pb_tcp_endpoint l = {r->ip[0], sport}, d = {r->ip[1], 80};
	if (!*listener && pb_tcp_listen(rig_tcp(r, 1), &d, 16, listener))
		return false;
	if (pb_tcp_connect(rig_tcp(r, 0), &l, &d, r->now_ns, client))
		return false;
	for (int k = 0; k < 1000; k++) {
		rig_settle(r);
		if (!pb_tcp_accept(rig_tcp(r, 1), *listener, server))
			return true;
		if (!rig_advance(r))
			return false;
	}
	return false;
}
#endif
