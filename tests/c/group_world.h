/* Several cores on one port, with a NIC that spreads as badly as can be: every packet comes to another queue than the
 * one before. */
#ifndef PB_TEST_GROUP_WORLD_H
#define PB_TEST_GROUP_WORLD_H
#include "dev/mem.h"
#include "harness.h"
#include "path/group.h"
#include "path/sock.h"
#include "wire/eth.h"
#include "wire/icmp.h"
#include "wire/ip.h"

#include <errno.h>

#define MEMBERS 2
#define CLIENT MEMBERS
#define STEP_NS 100000
#define BYTES 200000

static const uint8_t nic_mac[6] = {2, 7, 7, 7, 7, 7};

/* Member i is a path on queue i; the client is a path too, and the test is the wire and the NIC between them. */
static struct {
	struct pb_pool *pool[MEMBERS + 1], *wire;
	struct pb_path *path[MEMBERS + 1];
	struct pb_dev *far[MEMBERS + 1];
	struct pb_chan chan[MEMBERS];
	struct pb_app *app[MEMBERS];
	struct pb_group *group;
	struct pb_ip us, peer;
	uint64_t now_ns;
	uint32_t turn;
	int fixed; /* the queue that everything comes to; -1: in turn */
} w;

static UNUSED bool open_path(int i, bool own_pool)
{
	char name[8] = {'q', (char)('0' + i)};
	int err;
	struct pb_tcp_config tcp;
	pb_tcp_config_default(&tcp);
	tcp.max_conns = 64;
	tcp.max_listeners = 2;
	tcp.reserve_frames = 64;
	tcp.secret[0] = (uint8_t)i;
	w.pool[i] = own_pool ? pb_pool_create(4096, 2048, PB_WANT_4K, &err) : w.pool[0];
	if (!own_pool)
		pb_pool_ref(w.pool[0]);
	struct pb_dev *near = pb_dev_mem_open(name, w.pool[i], NULL, &err);
	w.far[i] = pb_dev_mem_open(name, w.wire, NULL, &err);
	if (!near || !w.far[i])
		return false;
	if (i != CLIENT) {
		memcpy(near->mac, nic_mac, 6);
		if (pb_chan_init(&w.chan[i], 256))
			return false;
	}
	w.path[i] = pb_path_create(near, &tcp, i == CLIENT ? NULL : &w.chan[i], &err);
	if (!w.path[i])
		return false;
	pb_net_add_local(&w.path[i]->net, i == CLIENT ? &w.peer : &w.us, 24);
	pb_net_neigh_set(&w.path[i]->net, i == CLIENT ? &w.us : &w.peer, i == CLIENT ? nic_mac : near->mac);
	return true;
}

static UNUSED bool world_open(bool own_pools)
{
	int err;
	uint8_t a[4] = {10, 7, 0, 1}, b[4] = {10, 7, 0, 2}, secret[16] = {1};
	memset(&w, 0, sizeof(w));
	w.now_ns = 1000000000;
	w.fixed = -1;
	w.us = pb_ip_from4(a);
	w.peer = pb_ip_from4(b);
	w.wire = pb_pool_create(8192, 2048, PB_WANT_4K, &err);
	w.group = pb_group_create(MEMBERS, 128, secret, &err);
	for (int i = 0; i <= MEMBERS; i++)
		if (!open_path(i, i == CLIENT || own_pools || !i))
			return false;
	for (int i = 0; i < MEMBERS; i++) {
		struct pb_app_config cfg = {.max_socks = 64, .sndbuf_bytes = 1u << 20, .reserve_frames = 64};
		pb_net_neigh_set(&w.path[i]->net, &w.peer, w.path[CLIENT]->dev->mac);
		w.app[i] = pb_app_create(w.path[i], &cfg, &err);
		if (!w.app[i] || pb_group_join(w.group, w.path[i], (uint32_t)i))
			return false;
		pb_app_set_inline(w.app[i], false);
	}
	return true;
}

static UNUSED void close_member(int i)
{
	pb_path_destroy(w.path[i]);
	pb_app_destroy(w.app[i]);
	pb_chan_fini(&w.chan[i]);
	w.path[i] = NULL;
}

static UNUSED void world_close(void)
{
	for (int i = 0; i < MEMBERS; i++)
		if (w.path[i])
			close_member(i);
	CHECK_EQ(pb_group_flows(w.group), 0);
	pb_group_unref(w.group);
	pb_path_destroy(w.path[CLIENT]);
	for (int i = 0; i <= MEMBERS; i++)
		w.far[i]->ops->close(w.far[i]);
	if (w.pool[1] == w.pool[0])
		pb_pool_unref(w.pool[1]);
	else
		CHECK_POOL(w.pool[1]);
	CHECK_POOL(w.pool[0]);
	CHECK_POOL(w.pool[CLIENT]);
	CHECK_POOL(w.wire);
}

/* What waits at the far end of i goes on: from the client to a queue, from a queue to the client. Returns how many. */
static UNUSED int carry(int i, uint64_t now_ns)
{
	struct pb_desc d[PB_BURST_MAX];
	uint64_t addrs[PB_BURST_MAX];
	int n = pb_dev_rx(w.far[i], d, PB_BURST_MAX, now_ns);
	for (int k = 0; k < n; k++) {
		int to = i != CLIENT ? CLIENT : w.fixed >= 0 ? w.fixed : (int)(w.turn++ % MEMBERS);
		if (pb_dev_tx(w.far[to], &d[k], 1, PB_OWN_RX, now_ns) != 1)
			pb_pool_put(w.far[i]->cache, d[k].addr, PB_OWN_RX);
	}
	for (int k = 0, done; k <= MEMBERS; k++) {
		done = pb_dev_reap(w.far[k], addrs, PB_BURST_MAX, now_ns);
		for (int j = 0; j < done; j++)
			pb_pool_put(w.far[k]->cache, addrs[j], PB_OWN_TX);
	}
	return n;
}

static UNUSED void step(void)
{
	for (int i = 0; i <= MEMBERS; i++) {
		carry(i, w.now_ns);
		if (!w.path[i])
			continue;
		CHECK(pb_path_step(w.path[i], w.now_ns) >= 0);
		CHECK_EQ(pb_tcp_check(w.path[i]->tcp), 0);
	}
	w.now_ns += STEP_NS;
}

static UNUSED void steps(int n)
{
	while (n-- > 0)
		step();
}

static UNUSED uint64_t drops(int i, unsigned why)
{
	struct pb_path_report r;
	pb_path_report(w.path[i], &r);
	return r.path.drops.n[why] + r.tcp.drops.n[why];
}

static UNUSED uint64_t resets(void)
{
	uint64_t n = 0;
	for (int i = 0; i <= MEMBERS; i++)
		n += w.path[i] ? pb_tcp_get_stats(w.path[i]->tcp)->n[PB_C_TcpOutRsts] : 0;
	return n;
}

static UNUSED void check_strays(bool any)
{
	uint64_t out = 0, in = 0;
	for (int i = 0; i < MEMBERS; i++) {
		out += w.path[i]->stats.stray_out;
		in += w.path[i]->stats.stray_in;
		CHECK_EQ(drops(i, PB_DROP_TCP_NO_FLOW), 0);
	}
	CHECK_EQ(in, out);
	CHECK(!any || out > 50);
	CHECK_EQ(resets(), 0);
}

static UNUSED void listen_all(int *listener)
{
	struct pb_tcp_endpoint l = {w.us, 80};
	for (int i = 0; i < MEMBERS; i++)
		listener[i] = pb_sock_listen(w.app[i], &l, 16);
	steps(2);
	for (int i = 0; i < MEMBERS; i++)
		CHECK(pb_app_progress(w.app[i]) >= 0 && (pb_sock_poll(w.app[i], listener[i]) & PB_SOCK_CONNECTED));
}

static UNUSED pb_tcp_handle client_connect(uint16_t port)
{
	struct pb_tcp_endpoint l = {w.peer, port}, d = {w.us, 80};
	pb_tcp_handle h = 0;
	CHECK_EQ(pb_tcp_connect(w.path[CLIENT]->tcp, &l, &d, w.now_ns, &h), 0);
	return h;
}

/* The next connection of any member; which one in *who. -1: none. */
static UNUSED int accepted(const int *listener, int *who)
{
	for (int i = 0; i < MEMBERS; i++) {
		if (!(pb_sock_poll(w.app[i], listener[i]) & PB_SOCK_ACCEPT))
			continue;
		int s = pb_sock_accept(w.app[i], listener[i]);
		steps(2);
		*who = i;
		if (pb_sock_poll(w.app[i], s) & PB_SOCK_CONNECTED)
			return s;
	}
	return -1;
}

/* BYTES of a pattern both ways at the same time. Returns how many came through on each side, or 0 when one was wrong.
 */
static UNUSED uint32_t exchange(int who, int s, pb_tcp_handle h)
{
	static uint8_t out[4096], in[65536];
	uint32_t sent[2] = {0, 0}, got[2] = {0, 0};
	for (int k = 0; k < 20000 && (got[0] < BYTES || got[1] < BYTES); k++) {
		for (int side = 0; side < 2; side++) {
			uint32_t n = BYTES - sent[side] < sizeof(out) ? BYTES - sent[side] : sizeof(out);
			for (uint32_t j = 0; j < n; j++)
				out[j] = (uint8_t)((sent[side] + j) * 7 + (uint32_t)side);
			int64_t put = n ? side ? pb_tcp_send(w.path[CLIENT]->tcp, h, out, n, 0)
					       : pb_sock_send(w.app[who], s, out, n, 0)
					: 0;
			sent[side] += put > 0 ? (uint32_t)put : 0;
		}
		step();
		for (int side = 0; side < 2; side++) {
			int64_t n = side ? pb_sock_recv(w.app[who], s, in, sizeof(in))
					 : pb_tcp_recv(w.path[CLIENT]->tcp, h, in, sizeof(in), w.now_ns);
			for (int64_t j = 0; j < n; j++)
				if (in[j] != (uint8_t)((got[side] + (uint32_t)j) * 7 + (uint32_t)side))
					return 0;
			got[side] += n > 0 ? (uint32_t)n : 0;
		}
	}
	return got[0] < got[1] ? got[0] : got[1];
}

#endif
