/* Packets that wait for a MAC address beside those that the device takes slowly: a flow's packets keep their order, and
 * a frame's references too, whatever is given up meanwhile. */
#include "rig.h"

#include "base/rng.h"

static uint64_t counter(struct rig *r, int side, enum pb_tcp_counter which)
{
	return pb_tcp_get_stats(rig_tcp(r, side))->n[which];
}

/* Two addresses of side 1, one of which side 0 forgets; many flows to the one that it knows keep a small ring full. */
struct crowd {
	struct rig r;
	struct pb_ip other;
	pb_tcp_handle slow, slow2, busy[9], server;
};

#define MSS 1448 /* with timestamps */
#define MOST 40  /* segments within the peer's first window */

static uint8_t zeros[64 * MSS];

static bool crowd_open(struct crowd *w)
{
	struct rig_config c = rig_defaults();
	uint8_t v4[4] = {10, 9, 0, 3};
	pb_tcp_handle l = 0, l2 = 0;
	c.late = true;
	c.mem = (struct pb_dev_mem_config){.ring_size = 64, .completion_delay_ns = 300000000, .seed = 1};
	for (int i = 0; i < 2; i++) {
		c.tcp[i].initial_cwnd_segs = 600;
		c.tcp[i].sndbuf_bytes = 4 << 20;
		c.tcp[i].rcvbuf_bytes = 8 << 20;
	}
	struct rig *r = &w->r;
	w->other = pb_ip_from4(v4);
	if (!rig_open(r, &c) || pb_net_add_local(&r->path[1]->net, &w->other, 24) ||
	    pb_net_neigh_set(&r->path[0]->net, &w->other, r->path[1]->dev->mac))
		return false;
	if (!rig_connect(r, 4000, &w->slow, &l, &w->server) || !rig_connect(r, 4900, &w->slow2, &l, &w->server))
		return false;
	struct pb_ip ip = r->ip[1];
	r->ip[1] = w->other;
	for (int k = 0; k < 9; k++) {
		if (!rig_connect(r, (uint16_t)(4001 + k), &w->busy[k], &l2, &w->server))
			return false;
		rig_run(r, 1500000000);
	}
	r->ip[1] = ip;
	rig_run(r, 1500000000);
	return true;
}

/* By the millisecond: a device that is full would have each microsecond looked at. */
static void pass(struct crowd *w, uint32_t ms)
{
	for (uint32_t i = 0; i < ms; i++) {
		rig_settle(&w->r);
		w->r.now_ns += 1000000;
	}
	rig_settle(&w->r);
}

static void send_zeros(struct crowd *w, pb_tcp_handle h, uint32_t segs)
{
	CHECK_EQ(pb_tcp_send(rig_tcp(&w->r, 0), h, zeros, segs * MSS, 0), segs * MSS);
	for (int i = 0; i < 5; i++)
		pb_path_step(w->r.path[0], w->r.now_ns);
}

static void forget(struct crowd *w)
{
	pb_net_neigh_set(&w->r.path[0]->net, &w->r.ip[1], NULL);
}

static void learn(struct crowd *w)
{
	pb_net_neigh_set(&w->r.path[0]->net, &w->r.ip[1], w->r.path[1]->dev->mac);
}

static uint64_t violations(struct crowd *w)
{
	struct pb_pool_info info;
	pb_pool_info(w->r.pool[0], &info);
	return info.violations;
}

static uint64_t unreached(struct crowd *w)
{
	return w->r.path[0]->stats.drops.n[PB_DROP_NO_NEIGH];
}

/* A neighbour becomes known while the backlog has little room: what waited goes step by step, before what the engine
 * sends again of it, and is not given up. */
TEST(what_waited_goes_first)
{
	struct crowd w;
	REQUIRE(crowd_open(&w));
	struct pb_path *p = w.r.path[0];
	forget(&w);
	send_zeros(&w, w.slow, PB_PATH_PARKED / 2);
	send_zeros(&w, w.slow2, PB_PATH_PARKED / 2);
	CHECK_EQ(p->nparked, PB_PATH_PARKED);
	for (int k = 0; k < 9; k++)
		send_zeros(&w, w.busy[k], MOST);
	CHECK(p->nbacklog > PB_PATH_BACKLOG - PB_PATH_PARKED);
	uint64_t drops = unreached(&w);
	learn(&w);
	pb_path_unpark(p, w.r.now_ns);
	CHECK(p->nparked > 0);
	CHECK_EQ(p->nbacklog, PB_PATH_BACKLOG);
	for (int i = 0; i < 40 && p->nparked; i++)
		pass(&w, 100);
	CHECK_EQ(p->nparked, 0);
	pass(&w, 4000);
	CHECK_EQ(unreached(&w), drops);
	CHECK(counter(&w.r, 0, PB_C_RetransChained) > 0);
	CHECK_EQ(violations(&w), 0);
	rig_close(&w.r);
}

/* Nothing is told of it but to the tables: the next step looks, and it asks nobody again. */
TEST(what_waited_is_looked_at)
{
	struct crowd w;
	struct pb_net_routes none = {0};
	REQUIRE(crowd_open(&w));
	struct pb_path *p = w.r.path[0];
	forget(&w);
	send_zeros(&w, w.slow, 8);
	CHECK_EQ(p->nparked, 8);
	uint64_t sent = p->stats.tx_pkts;
	/* Something else changes: the same wait on. */
	pb_net_set_routes(&p->net, &none);
	pb_path_step(p, w.r.now_ns);
	CHECK_EQ(p->nparked, 8);
	CHECK_EQ(p->net_seen, p->net.changes);
	CHECK_EQ(p->stats.parked, 8);
	learn(&w);
	pb_path_step(p, w.r.now_ns);
	CHECK_EQ(p->nparked, 0);
	CHECK_EQ(p->stats.tx_pkts, sent + 8);
	/* They wait for a gateway, and then there is no way at all. */
	forget(&w);
	send_zeros(&w, w.slow, 8);
	CHECK_EQ(p->nparked, 8);
	p->net.nlocals = 0;
	pb_net_set_routes(&p->net, &none);
	pb_path_step(p, w.r.now_ns);
	CHECK_EQ(p->nparked, 0);
	CHECK_EQ(p->stats.drops.n[PB_DROP_NO_ROUTE], 8);
	CHECK_EQ(violations(&w), 0);
	rig_close(&w.r);
}

/* Time passes for the sender alone, who hears nothing, until it has sent something again, which waits for a MAC. */
static bool chain_waits(struct crowd *w)
{
	struct pb_path *p = w->r.path[0];
	for (int i = 0; i < 250; i++) {
		w->r.now_ns += 1000000;
		pb_path_step(p, w->r.now_ns);
		if (p->nparked && p->parked[p->nparked - 1].n == 2)
			return true;
	}
	return false;
}

/* All that waited goes, and nothing was wrong on the way. */
static void ends_well(struct crowd *w)
{
	pass(w, 4000);
	CHECK_EQ(w->r.path[0]->nparked, 0);
	CHECK_EQ(violations(w), 0);
	rig_close(&w->r);
}

/* A packet of two descriptors has no room, a later one of one would: it waits behind it. */
TEST(nothing_overtakes_what_has_no_room)
{
	struct crowd w;
	REQUIRE(crowd_open(&w));
	struct pb_path *p = w.r.path[0];
	send_zeros(&w, w.slow, 8); /* the device has them for long */
	forget(&w);
	REQUIRE(chain_waits(&w));
	send_zeros(&w, w.slow, 3);
	uint32_t n = p->nparked;
	REQUIRE(n == 4 && p->parked[0].n == 2 && p->parked[1].n == 1);
	for (int k = 0; k < 4; k++)
		send_zeros(&w, w.busy[k], MOST);
	/* The device is full, and the backlog has one place. */
	uint64_t addrs[PB_PATH_BACKLOG];
	uint32_t fill = PB_PATH_BACKLOG - 1 - p->nbacklog;
	REQUIRE(pb_pool_get(p->dev->cache, addrs, fill, 0, PB_OWN_ENGINE) == fill);
	for (uint32_t i = 0; i < fill; i++)
		p->backlog[p->nbacklog++] = (struct pb_desc){.addr = addrs[i], .off = 256, .len = 60};
	learn(&w);
	pb_path_unpark(p, w.r.now_ns);
	CHECK_EQ(p->nbacklog, PB_PATH_BACKLOG - 1);
	CHECK_EQ(p->nparked, n);
	ends_well(&w);
}

/* The second reference to a frame waits, and is given up, while the first is on the backlog still. */
TEST(a_second_reference_is_given_up_first)
{
	struct crowd w;
	REQUIRE(crowd_open(&w));
	struct pb_path *p = w.r.path[0];
	for (int k = 0; k < 2; k++)
		send_zeros(&w, w.busy[k], MOST);
	send_zeros(&w, w.slow, 8);
	CHECK(p->nbacklog >= 8);
	forget(&w);
	REQUIRE(chain_waits(&w));
	uint64_t drops = unreached(&w), frame = p->parked[p->nparked - 1].d[1].addr, there = 0;
	for (uint32_t i = 0; i < p->nbacklog; i++)
		there += pb_pool_frame(p->dev->pool, p->backlog[i].addr) == frame;
	CHECK_EQ(there, 1);
	send_zeros(&w, w.slow, PB_PATH_PARKED - MOST);
	send_zeros(&w, w.slow2, MOST);
	CHECK(unreached(&w) > drops);
	for (uint32_t i = 0; i < p->nparked; i++)
		CHECK_EQ(p->parked[i].n, 1);
	CHECK_EQ(violations(&w), 0);
	learn(&w);
	ends_well(&w);
}

/* The first is given up, and the second goes as the only one. */
TEST(a_first_reference_is_given_up)
{
	struct crowd w;
	REQUIRE(crowd_open(&w));
	struct pb_path *p = w.r.path[0];
	forget(&w);
	send_zeros(&w, w.slow, 1);
	CHECK_EQ(p->nparked, 1);
	REQUIRE(chain_waits(&w));
	CHECK_EQ(p->nparked, 2);
	CHECK_EQ(p->parked[1].d[1].addr, pb_pool_frame(p->dev->pool, p->parked[0].d[0].addr));
	uint64_t drops = unreached(&w), sent = p->stats.tx_pkts;
	send_zeros(&w, w.slow, PB_PATH_PARKED - MOST);
	send_zeros(&w, w.slow2, MOST - 1);
	CHECK_EQ(unreached(&w), drops + 1);
	CHECK_EQ(p->parked[0].n, 2);
	learn(&w);
	pb_path_step(p, w.r.now_ns);
	CHECK(p->stats.tx_pkts > sent);
	ends_well(&w);
}

/* All of it together: neighbours come and go while two flows share what there is, and what waited too long is dropped.
 */
TEST(neighbours_come_and_go)
{
	for (unsigned k = 0; k < 12; k++) {
		struct crowd w;
		struct pb_rng rng = {harness.seed + k};
		REQUIRE(crowd_open(&w));
		struct pb_path *p = w.r.path[0];
		for (int i = 0; i < 400; i++) {
			uint32_t what = pb_rng_below(&rng, 16), segs = 1 + pb_rng_below(&rng, 60);
			pb_tcp_handle h = what & 1 ? w.slow : w.busy[pb_rng_below(&rng, 9)];
			if (what < 8)
				pb_tcp_send(rig_tcp(&w.r, 0), h, zeros, segs * MSS, 0);
			else if (what < 11)
				pb_net_neigh_set(&p->net, what & 1 ? &w.r.ip[1] : &w.other, NULL);
			else
				pb_net_neigh_set(&p->net, what & 1 ? &w.r.ip[1] : &w.other, w.r.path[1]->dev->mac);
			if (what == 15)
				pb_path_unpark(p, w.r.now_ns);
			for (uint32_t n = pb_rng_below(&rng, 20); n && rig_advance(&w.r); n--)
				pb_path_step(p, w.r.now_ns);
			if (pb_rng_below(&rng, 2))
				pb_path_step(w.r.path[1], w.r.now_ns);
		}
		CHECK_EQ(violations(&w), 0);
		rig_close(&w.r);
	}
}

MAIN(T(what_waited_goes_first), T(what_waited_is_looked_at), T(nothing_overtakes_what_has_no_room),
     T(a_second_reference_is_given_up_first), T(a_first_reference_is_given_up), T(neighbours_come_and_go))
