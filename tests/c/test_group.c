/* Members of a group, stepped by hand: nothing may be reset, and what strays is counted at both ends. */
#include "group_world.h"
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
	uint64_t aborted = pb_tcp_get_stats(w.path[0]->tcp)->n[PB_C_TcpOutRsts] +
			   pb_tcp_get_stats(w.path[1]->tcp)->n[PB_C_TcpOutRsts];
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
	CHECK_EQ(pb_tcp_get_stats(w.path[0]->tcp)->n[PB_C_TcpPassiveOpens], 0);
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
	CHECK_EQ(pb_tcp_send(w.path[CLIENT]->tcp, h, "x", 1, 0), 1);
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
	CHECK_EQ(pb_tcp_send(w.path[CLIENT]->tcp, h, "x", 1, 0), 1);
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
	CHECK_EQ(pb_tcp_send(w.path[CLIENT]->tcp, h, "x", 1, 0), 1);
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
	CHECK_EQ(pb_group_join(g, w.path[0], 0), -EINVAL);      /* is in one */
	CHECK_EQ(pb_group_join(g, w.path[CLIENT], 0), -EINVAL); /* no channel */
	pb_group_unref(g);
	world_close();
}

MAIN(T(flows_of_a_wrong_spread), T(flows_of_a_wrong_spread_copied), T(active_open_answered_elsewhere),
     T(syn_again_to_another_queue), T(ring_full), T(no_frame_to_copy_into), T(icmp_error_to_another_queue), T(leaving),
     T(joining_errors))
