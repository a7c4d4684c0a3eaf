/* Several cores on one port, with a NIC that spreads as badly as can be: every packet comes to another queue than the one
 * before. Nothing may be reset, and what strays is counted at both ends. */
#include "dev/mem.h"
#include "harness.h"
#include "path/group.h"
#include "path/sock.h"
#include "wire/eth.h"
#include "wire/icmp.h"
#include "wire/ip.h"

#include <errno.h>
#include <pthread.h>

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

static bool open_path(int i, bool own_pool)
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

static bool world_open(bool own_pools)
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

static void close_member(int i)
{
	pb_path_destroy(w.path[i]);
	pb_app_destroy(w.app[i]);
	pb_chan_fini(&w.chan[i]);
	w.path[i] = NULL;
}

static void world_close(void)
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
static int carry(int i, uint64_t now_ns)
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

static void step(void)
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

static void steps(int n)
{
	while (n-- > 0)
		step();
}

static uint64_t drops(int i, unsigned why)
{
	struct pb_path_report r;
	pb_path_report(w.path[i], &r);
	return r.path.drops.n[why] + r.tcp.drops.n[why];
}

static uint64_t resets(void)
{
	uint64_t n = 0;
	for (int i = 0; i <= MEMBERS; i++)
		n += w.path[i] ? pb_tcp_get_stats(w.path[i]->tcp)->resets_out : 0;
	return n;
}

static void check_strays(bool any)
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

static void listen_all(int *listener)
{
	struct pb_tcp_endpoint l = {w.us, 80};
	for (int i = 0; i < MEMBERS; i++)
		listener[i] = pb_sock_listen(w.app[i], &l, 16);
	steps(2);
	for (int i = 0; i < MEMBERS; i++)
		CHECK(pb_app_progress(w.app[i]) >= 0 && (pb_sock_poll(w.app[i], listener[i]) & PB_SOCK_CONNECTED));
}

static pb_tcp_handle client_connect(uint16_t port)
{
	struct pb_tcp_endpoint l = {w.peer, port}, d = {w.us, 80};
	pb_tcp_handle h = 0;
	CHECK_EQ(pb_tcp_connect(w.path[CLIENT]->tcp, &l, &d, w.now_ns, &h), 0);
	return h;
}

/* The next connection of any member; which one in *who. -1: none. */
static int accepted(const int *listener, int *who)
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

/* BYTES of a pattern both ways at the same time. Returns how many came through on each side, or 0 when one was wrong. */
static uint32_t exchange(int who, int s, pb_tcp_handle h)
{
	static uint8_t out[4096], in[65536];
	uint32_t sent[2] = {0, 0}, got[2] = {0, 0};
	for (int k = 0; k < 20000 && (got[0] < BYTES || got[1] < BYTES); k++) {
		for (int side = 0; side < 2; side++) {
			uint32_t n = BYTES - sent[side] < sizeof(out) ? BYTES - sent[side] : sizeof(out);
			for (uint32_t j = 0; j < n; j++)
				out[j] = (uint8_t)((sent[side] + j) * 7 + (uint32_t)side);
			int64_t put = n ? side ? pb_tcp_send(w.path[CLIENT]->tcp, h, out, n)
					       : pb_sock_send(w.app[who], s, out, n)
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

static void spread_in_turn(bool own_pools)
{
	int listener[MEMBERS], flows[MEMBERS] = {0};
	REQUIRE(world_open(own_pools));
	listen_all(listener);
	for (uint16_t i = 0; i < 6; i++) {
		int who = 0;
		w.turn = i; /* which queue the SYN comes to */
		pb_tcp_handle h = client_connect((uint16_t)(4000 + i));
		steps(10);
		int s = accepted(listener, &who);
		REQUIRE(s >= 0);
		flows[who]++;
		CHECK_EQ(exchange(who, s, h), BYTES);
		pb_tcp_close(w.path[CLIENT]->tcp, h, w.now_ns);
		pb_sock_close(w.app[who], s, false);
		steps(20);
	}
	CHECK(flows[0] > 0 && flows[1] > 0);
	check_strays(true);
	world_close();
}

TEST(flows_of_a_wrong_spread)
{
	spread_in_turn(false);
}

TEST(flows_of_a_wrong_spread_copied)
{
	spread_in_turn(true);
}

/* All that comes, comes to the queue of the other. */
TEST(active_open_answered_elsewhere)
{
	REQUIRE(world_open(true));
	pb_tcp_handle listener, h;
	struct pb_tcp_endpoint d = {w.peer, 80};
	CHECK_EQ(pb_tcp_listen(w.path[CLIENT]->tcp, &d, 8, &listener), 0);
	for (int who = 0; who < MEMBERS; who++) {
		struct pb_tcp_endpoint l = {w.us, (uint16_t)(5000 + who)};
		w.fixed = !who;
		int s = pb_sock_connect(w.app[who], &l, &d);
		steps(10);
		CHECK(pb_sock_poll(w.app[who], s) & PB_SOCK_CONNECTED);
		REQUIRE(!pb_tcp_accept(w.path[CLIENT]->tcp, listener, &h));
		CHECK_EQ(exchange(who, s, h), BYTES);
		CHECK(w.path[!who]->stats.stray_out > 50);
		CHECK_EQ(w.path[who]->stats.stray_out, who ? w.path[1]->stats.stray_out : 0);
		pb_sock_close(w.app[who], s, true);
		steps(5);
	}
	uint64_t aborted = pb_tcp_get_stats(w.path[0]->tcp)->resets_out + pb_tcp_get_stats(w.path[1]->tcp)->resets_out;
	CHECK_EQ(resets(), aborted); /* none but those of the two closes */
	CHECK_EQ(aborted, MEMBERS);
	world_close();
}

/* The answer to a SYN is lost and the SYN comes again, to another queue: it must not open a second connection. */
TEST(syn_again_to_another_queue)
{
	int listener[MEMBERS], who = 0;
	REQUIRE(world_open(false));
	listen_all(listener);
	w.fixed = 1;
	pb_tcp_handle h = client_connect(4000);
	pb_path_step(w.path[CLIENT], w.now_ns);
	carry(CLIENT, w.now_ns);
	pb_path_step(w.path[1], w.now_ns);
	struct pb_desc d[4];
	int n = pb_dev_rx(w.far[1], d, 4, w.now_ns); /* lost */
	CHECK_EQ(n, 1);
	pb_pool_put(w.far[1]->cache, d[0].addr, PB_OWN_RX);
	w.fixed = 0;
	w.now_ns += 1100000000;
	steps(10);
	int s = accepted(listener, &who);
	REQUIRE(s >= 0);
	CHECK_EQ(who, 1);
	CHECK_EQ(pb_tcp_get_stats(w.path[0]->tcp)->passive_opens, 0);
	CHECK_EQ(exchange(1, s, h), BYTES);
	check_strays(true);
	world_close();
}

/* A frame of the client's on its way, `n` times to queue q, which alone runs. The frame is gone afterwards. */
static void flood(int q, int n)
{
	struct pb_desc d[4];
	REQUIRE(pb_path_step(w.path[CLIENT], w.now_ns) >= 0);
	REQUIRE(pb_dev_rx(w.far[CLIENT], d, 4, w.now_ns) == 1);
	for (int i = 0; i < n; i++) {
		struct pb_desc copy = d[0];
		REQUIRE(pb_pool_get(w.far[q]->cache, &copy.addr, 1, 0, PB_OWN_APP) == 1);
		memcpy(pb_pool_data(w.wire, &copy), pb_pool_data(w.wire, &d[0]), d[0].len);
		CHECK_EQ(pb_dev_tx(w.far[q], &copy, 1, PB_OWN_APP, w.now_ns), 1);
		CHECK(pb_path_step(w.path[q], w.now_ns) >= 0);
		carry(q, w.now_ns);
	}
	pb_pool_put(w.far[CLIENT]->cache, d[0].addr, PB_OWN_RX);
}

/* The owner does not run: its ring fills up, the rest is dropped under its own reason, and comes again later. */
TEST(ring_full)
{
	int listener[MEMBERS], who = 0;
	REQUIRE(world_open(false));
	listen_all(listener);
	w.fixed = 1;
	pb_tcp_handle h = client_connect(4000);
	steps(10);
	int s = accepted(listener, &who);
	REQUIRE(s >= 0 && who == 1);
	CHECK_EQ(pb_tcp_send(w.path[CLIENT]->tcp, h, "x", 1), 1);
	flood(0, PB_GROUP_RING + 44);
	CHECK_EQ(w.path[0]->stats.stray_out, PB_GROUP_RING);
	CHECK_EQ(drops(0, PB_DROP_STRAY), 44);
	CHECK_EQ(w.path[1]->stats.stray_in, 0);
	CHECK(pb_group_waiting(w.path[1]));
	steps(10);
	CHECK(!pb_group_waiting(w.path[1]));
	CHECK_EQ(w.path[1]->stats.stray_in, PB_GROUP_RING);
	CHECK_EQ(drops(1, PB_DROP_TCP_DUP), PB_GROUP_RING - 1);
	uint8_t in[4];
	CHECK_EQ(pb_sock_recv(w.app[1], s, in, sizeof(in)), 1);
	CHECK_EQ(exchange(1, s, h), BYTES);
	check_strays(false);
	world_close();
}

/* The pool of the owner is empty: what strays is dropped, and its device keeps what it needs. */
TEST(no_frame_to_copy_into)
{
	int listener[MEMBERS], who = 0;
	static uint64_t addrs[4096];
	uint32_t n = 0, k;
	REQUIRE(world_open(true));
	listen_all(listener);
	w.fixed = 1;
	pb_tcp_handle h = client_connect(4000);
	steps(10);
	int s = accepted(listener, &who);
	REQUIRE(s >= 0 && who == 1);
	while ((k = pb_pool_get(w.path[1]->dev->cache, addrs + n, 64, 0, PB_OWN_APP)))
		n += k;
	CHECK_EQ(pb_tcp_send(w.path[CLIENT]->tcp, h, "x", 1), 1);
	flood(0, 3);
	CHECK_EQ(drops(0, PB_DROP_STRAY), 3);
	CHECK_EQ(w.path[0]->stats.stray_out, 0);
	while (n)
		pb_pool_put(w.path[1]->dev->cache, addrs[--n], PB_OWN_APP);
	w.now_ns += 1000000000;
	w.fixed = 0;
	steps(10);
	uint8_t in[4];
	CHECK_EQ(pb_sock_recv(w.app[1], s, in, sizeof(in)), 1);
	CHECK_EQ(resets(), 0);
	world_close();
}

/* A NIC spreads ICMP by the addresses of the packet itself: "port unreachable" comes to the wrong engine. */
TEST(icmp_error_to_another_queue)
{
	REQUIRE(world_open(true));
	struct pb_tcp_endpoint l = {w.us, 5000}, d = {w.peer, 81};
	int s = pb_sock_connect(w.app[1], &l, &d);
	CHECK(pb_path_step(w.path[1], w.now_ns) >= 0);
	struct pb_desc syn;
	REQUIRE(pb_dev_rx(w.far[1], &syn, 1, w.now_ns) == 1);
	uint8_t p[200] = {0}, *ip = p + PB_ETH_HLEN, *icmp = ip + PB_IP4_HLEN;
	pb_eth_write(p, nic_mac, w.path[CLIENT]->dev->mac, PB_ETH_IP4);
	uint32_t quoted = PB_IP4_HLEN + 8, len = 8 + quoted;
	icmp[0] = 3;
	icmp[1] = 3;
	memcpy(icmp + 8, pb_pool_data(w.wire, &syn) + PB_ETH_HLEN, quoted);
	uint16_t sum = 0;
	memcpy(icmp + 2, &sum, 2);
	be16 c = pb_csum_finish(pb_csum_partial(icmp, len, 0));
	memcpy(icmp + 2, &c, 2);
	pb_ip4_write(ip, &w.peer, &w.us, PB_IPPROTO_ICMP, 64, 0, 1, true, len);
	struct pb_desc e = {.len = (uint16_t)(PB_ETH_HLEN + PB_IP4_HLEN + len)};
	pb_pool_put(w.far[1]->cache, syn.addr, PB_OWN_RX);
	REQUIRE(pb_pool_get(w.far[0]->cache, &e.addr, 1, 0, PB_OWN_APP) == 1);
	memcpy(pb_pool_data(w.wire, &e), p, e.len);
	CHECK_EQ(pb_dev_tx(w.far[0], &e, 1, PB_OWN_APP, w.now_ns), 1);
	steps(4);
	CHECK_EQ(w.path[0]->stats.stray_out, 1);
	CHECK_EQ(w.path[1]->stats.stray_in, 1);
	CHECK(pb_app_progress(w.app[1]) >= 0 && (pb_sock_poll(w.app[1], s) & PB_SOCK_ERROR));
	CHECK_EQ(pb_sock_error(w.app[1], s), ECONNREFUSED);
	CHECK_EQ(drops(0, PB_DROP_ICMP_BAD) + drops(1, PB_DROP_ICMP_BAD), 0);
	world_close();
}

/* What lies in the ring of one that leaves is free again, and nobody sends to it; its flows are nobody's. */
TEST(leaving)
{
	int listener[MEMBERS], who = 0;
	REQUIRE(world_open(true));
	listen_all(listener);
	w.fixed = 1;
	pb_tcp_handle h = client_connect(4000);
	steps(10);
	REQUIRE(accepted(listener, &who) >= 0 && who == 1);
	CHECK_EQ(pb_group_flows(w.group), 1);
	CHECK_EQ(pb_tcp_send(w.path[CLIENT]->tcp, h, "x", 1), 1);
	flood(0, 5);
	CHECK_EQ(w.path[0]->stats.stray_out, 5);
	close_member(1);
	CHECK_EQ(pb_group_flows(w.group), 0);
	w.fixed = 0;
	w.now_ns += 1000000000;
	steps(10);
	CHECK_EQ(w.path[0]->stats.stray_out, 5);
	CHECK(drops(0, PB_DROP_TCP_NO_FLOW) + resets() > 0); /* the listener of the first answers with RST */
	struct pb_tcp_info info;
	CHECK(pb_tcp_get_info(w.path[CLIENT]->tcp, h, &info) || info.error == ECONNRESET);
	world_close();
}

TEST(joining_errors)
{
	int err;
	uint8_t secret[16] = {0};
	CHECK(!pb_group_create(0, 16, secret, &err) && err == -EINVAL);
	CHECK(!pb_group_create(PB_GROUP_MAX + 1, 16, secret, &err) && err == -EINVAL);
	CHECK(!pb_group_create(2, 0, secret, &err) && err == -EINVAL);
	REQUIRE(world_open(true));
	struct pb_group *g = pb_group_create(2, 16, secret, &err);
	CHECK_EQ(pb_group_join(g, w.path[0], 0), -EINVAL); /* is in one */
	CHECK_EQ(pb_group_join(g, w.path[CLIENT], 0), -EINVAL); /* no channel */
	pb_group_unref(g);
	world_close();
}

/* ---- the table ---- */

static struct pb_tcp_endpoint end_of(uint32_t i)
{
	uint8_t a[4] = {10, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
	return (struct pb_tcp_endpoint){pb_ip_from4(a), (uint16_t)(i * 7 + 1)};
}

#define FLOWS 20000

TEST(table_of_owners)
{
	int err;
	uint8_t secret[16] = {3};
	struct pb_tcp_endpoint l = end_of(1);
	struct pb_tcp_owners *o = pb_tcp_owners_create(FLOWS, secret, &err);
	REQUIRE(o);
	for (uint32_t i = 0; i < FLOWS; i++) {
		struct pb_tcp_endpoint r = end_of(i);
		CHECK(pb_tcp_owners_add(o, &l, &r, i % PB_TCP_OWNERS_MAX));
	}
	CHECK_EQ(pb_tcp_owners_count(o), FLOWS);
	for (uint32_t i = 0; i < 2 * FLOWS; i++) {
		struct pb_tcp_endpoint r = end_of(i);
		uint32_t who = i % PB_TCP_OWNERS_MAX;
		CHECK_EQ(pb_tcp_owners_find(o, &l, &r, who ^ 1), i < FLOWS ? (int)who : -1);
		CHECK_EQ(pb_tcp_owners_find(o, &l, &r, who), -1);
		CHECK_EQ(pb_tcp_owners_find(o, &r, &l, who ^ 1), i == 1 ? 1 : -1);
	}
	for (uint32_t i = 0; i < FLOWS; i++) {
		struct pb_tcp_endpoint r = end_of(i);
		CHECK(!pb_tcp_owners_del(o, &l, &r, i % PB_TCP_OWNERS_MAX ^ 1));
		CHECK(pb_tcp_owners_del(o, &l, &r, i % PB_TCP_OWNERS_MAX));
	}
	CHECK_EQ(pb_tcp_owners_count(o), 0);
	pb_tcp_owners_destroy(o);
}

static struct pb_tcp_owners *shared;

static void *enter_and_leave(void *arg)
{
	uint32_t who = (uint32_t)(uintptr_t)arg, wrong = 0;
	struct pb_tcp_endpoint l = end_of(who);
	for (uint32_t round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < 2000; i++) {
			struct pb_tcp_endpoint r = end_of(i);
			wrong += !pb_tcp_owners_add(shared, &l, &r, who);
			wrong += pb_tcp_owners_find(shared, &l, &r, who + 1) != (int)who;
		}
		for (uint32_t i = 0; i < 2000; i++) {
			struct pb_tcp_endpoint r = end_of(i);
			wrong += !pb_tcp_owners_del(shared, &l, &r, who);
		}
	}
	return (void *)(uintptr_t)wrong;
}

TEST(table_of_owners_threads)
{
	int err;
	uint8_t secret[16] = {4};
	pthread_t t[4];
	void *wrong;
	shared = pb_tcp_owners_create(8000, secret, &err);
	REQUIRE(shared);
	for (uintptr_t i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, enter_and_leave, (void *)i), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &wrong);
		CHECK_EQ((uintptr_t)wrong, 0);
	}
	CHECK_EQ(pb_tcp_owners_count(shared), 0);
	pb_tcp_owners_destroy(shared);
}

/* ---- threads ---- */

/* The client and the wire run here, each member in a loop of its own that sleeps when it has nothing to do. */
static bool spin_until(int s, int who, unsigned mask)
{
	for (uint64_t until = pb_now_ns() + 20000000000u; pb_now_ns() < until;) {
		uint64_t now = pb_now_ns();
		for (int i = 0; i <= MEMBERS; i++)
			carry(i, now);
		pb_path_step(w.path[CLIENT], now);
		pb_app_progress(w.app[who]);
		if (pb_sock_poll(w.app[who], s) & mask)
			return true;
	}
	return false;
}

static uint32_t echo_all(int who, int s, pb_tcp_handle h)
{
	static uint8_t out[4096], in[65536];
	uint32_t sent = 0, got = 0;
	for (uint64_t until = pb_now_ns() + 20000000000u; got < BYTES && pb_now_ns() < until;) {
		uint64_t now = pb_now_ns();
		uint32_t n = BYTES - sent < sizeof(out) ? BYTES - sent : sizeof(out);
		for (uint32_t j = 0; j < n; j++)
			out[j] = (uint8_t)((sent + j) * 11);
		int64_t put = n ? pb_tcp_send(w.path[CLIENT]->tcp, h, out, n) : 0;
		sent += put > 0 ? (uint32_t)put : 0;
		for (int i = 0; i <= MEMBERS; i++)
			carry(i, now);
		pb_path_step(w.path[CLIENT], now);
		int64_t k = pb_sock_recv(w.app[who], s, in, sizeof(in));
		for (int64_t done = 0; done < k;) {
			int64_t m = pb_sock_send(w.app[who], s, in + done, (size_t)(k - done));
			done += m > 0 ? m : 0;
		}
		pb_chan_wake_loop(&w.chan[who]);
		k = pb_tcp_recv(w.path[CLIENT]->tcp, h, in, sizeof(in), now);
		for (int64_t j = 0; j < k; j++)
			if (in[j] != (uint8_t)((got + (uint32_t)j) * 11))
				return 0;
		got += k > 0 ? (uint32_t)k : 0;
	}
	return got;
}

/* ACCEPT may be of the connection before. */
static int accept_soon(int who, int listener)
{
	for (int tries = 0; tries < 1000; tries++) {
		if (!spin_until(listener, who, PB_SOCK_ACCEPT))
			return -1;
		int s = pb_sock_accept(w.app[who], listener);
		pb_chan_wake_loop(&w.chan[who]);
		if (!spin_until(s, who, PB_SOCK_CONNECTED | PB_SOCK_ERROR))
			return -1;
		if (pb_sock_poll(w.app[who], s) & PB_SOCK_CONNECTED)
			return s;
		pb_sock_close(w.app[who], s, true);
	}
	return -1;
}

static void loops(bool own_pools)
{
	struct pb_loop_config cfg = {.cpu = -1, .spin_ns = 20000};
	struct pb_loop *loop[MEMBERS];
	struct pb_tcp_endpoint l = {w.us, 80};
	int listener[MEMBERS], err;
	REQUIRE(world_open(own_pools));
	for (int i = 0; i < MEMBERS; i++) {
		listener[i] = pb_sock_listen(w.app[i], &l, 16);
		loop[i] = pb_loop_start(w.path[i], &cfg, &err);
		REQUIRE(loop[i]);
	}
	for (int i = 0; i < MEMBERS; i++)
		CHECK(spin_until(listener[i], i, PB_SOCK_CONNECTED));
	for (uint32_t i = 0; i < 4; i++) {
		int who = (int)(i % MEMBERS);
		w.fixed = who; /* the SYN; from then on in turn */
		w.now_ns = pb_now_ns();
		pb_tcp_handle h = client_connect((uint16_t)(4000 + i));
		int s = accept_soon(who, listener[who]);
		REQUIRE(s >= 0);
		w.fixed = -1;
		CHECK_EQ(echo_all(who, s, h), BYTES);
	}
	/* One after the other: what the second hands to the first, which is gone, is counted. */
	for (int i = 0; i < MEMBERS; i++) {
		pb_loop_stop(loop[i]);
		if (!i) {
			CHECK(w.path[0]->stats.stray_out > 50 && w.path[0]->stats.stray_in > 50);
			CHECK_EQ(pb_tcp_get_stats(w.path[0]->tcp)->resets_out, 0);
			close_member(0);
		} else {
			CHECK_EQ(pb_tcp_get_stats(w.path[1]->tcp)->resets_out, 0);
		}
	}
	world_close();
}

TEST(loops_of_one_pool)
{
	loops(false);
}

TEST(loops_of_own_pools)
{
	loops(true);
}

MAIN(T(flows_of_a_wrong_spread), T(flows_of_a_wrong_spread_copied), T(active_open_answered_elsewhere), T(syn_again_to_another_queue), T(ring_full), T(no_frame_to_copy_into), T(icmp_error_to_another_queue), T(leaving), T(joining_errors), T(table_of_owners), T(table_of_owners_threads), T(loops_of_one_pool), T(loops_of_own_pools))
