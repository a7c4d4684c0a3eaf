/* Addresses, routes, neighbours and the L2 header. */
#include "harness.h"
#include "net/net.h"
#include "wire/eth.h"
#include "wire/ip.h"

#include <errno.h>

static const uint8_t our_mac[6] = {2, 0, 0, 0, 0, 1}, mac_a[6] = {2, 0, 0, 0, 0, 2}, mac_b[6] = {2, 0, 0, 0, 0, 3};

static struct pb_ip v4(unsigned a, unsigned b, unsigned c, unsigned d)
{
	uint8_t x[4] = {(uint8_t)a, (uint8_t)b, (uint8_t)c, (uint8_t)d};
	return pb_ip_from4(x);
}

static struct pb_ip v6(unsigned last)
{
	uint8_t x[16] = {0xfd, 9, [14] = (uint8_t)(last >> 8), [15] = (uint8_t)last};
	return pb_ip_from6(x);
}

TEST(locals)
{
	struct pb_net n;
	struct pb_ip a = v4(10, 0, 0, 1), zero = v4(0, 0, 0, 0), group = v4(224, 0, 0, 1), hop;
	CHECK_EQ(pb_net_init(&n, our_mac), 0);
	CHECK_EQ(pb_net_add_local(&n, &a, 33), (uint64_t)-EINVAL);
	CHECK_EQ(pb_net_add_local(&n, &zero, 24), (uint64_t)-EINVAL);
	CHECK_EQ(pb_net_add_local(&n, &group, 24), (uint64_t)-EINVAL);
	CHECK_EQ(pb_net_route(&n, &a, &hop), (uint64_t)-ENETUNREACH);
	for (unsigned i = 0; i < PB_NET_LOCALS; i++) {
		a = v4(10, 0, i, 1);
		CHECK_EQ(pb_net_add_local(&n, &a, 24), 0);
	}
	CHECK_EQ(pb_net_add_local(&n, &a, 24), (uint64_t)-ENOSPC);
	CHECK(pb_net_is_local(&n, &a));
	a = v4(10, 0, 0, 2);
	CHECK(!pb_net_is_local(&n, &a));
	pb_net_fini(&n);
}

TEST(routes_of_the_kernel)
{
	struct pb_net n;
	struct pb_net_routes r = {0};
	struct pb_ip us = v4(10, 0, 0, 1), any = v4(0, 0, 0, 0), big = v4(10, 9, 0, 0), small = v4(10, 9, 8, 0), hop;
	struct pb_ip g1 = v4(10, 0, 0, 251), g2 = v4(10, 0, 0, 252), g3 = v4(10, 0, 0, 253), gs = v4(10, 0, 0, 254);
	struct pb_ip part = v4(10, 0, 0, 128), any6 = pb_ip_from6((const uint8_t[16]){0}), far = v6(9);
	CHECK_EQ(pb_net_init(&n, our_mac), 0);
	CHECK_EQ(pb_net_add_local(&n, &us, 24), 0);
	CHECK_EQ(pb_net_routes_add(&r, &any, 33, NULL), (uint64_t)-EINVAL);
	CHECK_EQ(pb_net_routes_add(&r, &any, 0, &g1), 0); /* shortest first: the table sorts */
	CHECK_EQ(pb_net_routes_add(&r, &big, 16, &g2), 0);
	CHECK_EQ(pb_net_routes_add(&r, &small, 24, NULL), 0);
	CHECK_EQ(pb_net_routes_add(&r, &part, 25, &g3), 0);
	CHECK_EQ(pb_net_routes_add(&r, &us, 24, &g1), 0); /* no longer than our own prefix */
	CHECK_EQ(pb_net_route(&n, &big, &hop), (uint64_t)-ENETUNREACH);
	pb_net_set_routes(&n, &r);
	static const struct {
		unsigned b, c, d, gw; /* 10.b.c.d; gw 0: on the link */
	} cases[] = {{1, 1, 1, 251}, {9, 1, 1, 252}, {9, 8, 1, 0}, {0, 0, 127, 0}, {0, 0, 200, 253}};
	for (unsigned i = 0; i < PB_ARRAY_LEN(cases); i++) {
		struct pb_ip dst = v4(10, cases[i].b, cases[i].c, cases[i].d), gw = v4(10, 0, 0, cases[i].gw);
		CHECK_EQ(pb_net_route(&n, &dst, &hop), 0);
		CHECK(pb_ip_eq(&hop, cases[i].gw ? &gw : &dst));
	}
	n.gw4 = gs; /* before the kernel's default route, and no other */
	struct pb_ip dst = v4(8, 8, 8, 8);
	CHECK_EQ(pb_net_route(&n, &dst, &hop), 0);
	CHECK(pb_ip_eq(&hop, &gs));
	dst = v4(10, 9, 1, 1);
	CHECK_EQ(pb_net_route(&n, &dst, &hop), 0);
	CHECK(pb_ip_eq(&hop, &g2));
	CHECK_EQ(pb_net_route(&n, &far, &hop), (uint64_t)-ENETUNREACH); /* IPv6 is another table */
	CHECK_EQ(pb_net_routes_add(&r, &any6, 0, &far), 0);
	pb_net_set_routes(&n, &r);
	struct pb_ip other = v6(10);
	CHECK_EQ(pb_net_route(&n, &other, &hop), 0);
	CHECK(pb_ip_eq(&hop, &far));
	while (r.n < PB_NET_ROUTES)
		CHECK_EQ(pb_net_routes_add(&r, &any, 0, &g1), 0);
	CHECK_EQ(pb_net_routes_add(&r, &any, 0, &g1), (uint64_t)-ENOSPC);
	pb_net_fini(&n);
}

TEST(routes)
{
	static const struct {
		unsigned prefix, last;
		bool inside;
	} cases[] = {{24, 255, true}, {25, 127, true}, {25, 128, false}, {30, 3, true},  {30, 4, false},
		     {31, 0, true},   {31, 2, false},  {32, 1, true},    {32, 2, false}, {0, 77, true}};
	for (unsigned i = 0; i < PB_ARRAY_LEN(cases); i++) {
		struct pb_net n;
		struct pb_ip a = v4(10, 0, 0, 1), dst = v4(10, 0, 0, cases[i].last), hop, gw = v4(10, 0, 0, 254);
		CHECK_EQ(pb_net_init(&n, our_mac), 0);
		CHECK_EQ(pb_net_add_local(&n, &a, cases[i].prefix), 0);
		CHECK_EQ(pb_net_route(&n, &dst, &hop), cases[i].inside ? 0 : (uint64_t)-ENETUNREACH);
		n.gw4 = gw;
		CHECK_EQ(pb_net_route(&n, &dst, &hop), 0);
		CHECK(pb_ip_eq(&hop, cases[i].inside ? &dst : &gw));
		pb_net_fini(&n);
	}
}

/* ::/0 on a link says nothing of IPv4, although the mapped form lies in it. */
TEST(families_are_apart)
{
	struct pb_net n;
	struct pb_ip a = v6(1), b = v4(10, 0, 0, 1), dst = v4(192, 0, 2, 1), dst6 = v6(9), hop;
	CHECK_EQ(pb_net_init(&n, our_mac), 0);
	CHECK_EQ(pb_net_add_local(&n, &a, 0), 0);
	CHECK_EQ(pb_net_route(&n, &dst, &hop), (uint64_t)-ENETUNREACH);
	CHECK(!pb_net_source(&n, &dst));
	CHECK_EQ(pb_net_add_local(&n, &b, 24), 0);
	const struct pb_ip *src = pb_net_source(&n, &dst);
	CHECK(src && pb_ip_eq(src, &b));
	src = pb_net_source(&n, &dst6);
	CHECK(src && pb_ip_eq(src, &a));
	pb_net_fini(&n);
}

TEST(neighbours)
{
	struct pb_net n;
	struct pb_ip zero = {0};
	CHECK_EQ(pb_net_init(&n, our_mac), 0);
	CHECK_EQ(pb_net_neigh_set(&n, &zero, mac_a), (uint64_t)-EINVAL);
	CHECK(!pb_net_neigh_get(&n, &zero));
	unsigned i = 0, room = PB_NET_NEIGHS / 4 * 3;
	for (; i < room; i++) {
		struct pb_ip a = v6(i + 1);
		CHECK_EQ(pb_net_neigh_set(&n, &a, i & 1 ? mac_a : mac_b), 0);
	}
	struct pb_ip more = v4(10, 0, 0, 9);
	CHECK_EQ(pb_net_neigh_set(&n, &more, mac_a), (uint64_t)-ENOSPC);
	CHECK(!pb_net_neigh_get(&n, &more));
	for (i = 0; i < room; i++) {
		struct pb_ip a = v6(i + 1);
		const uint8_t *mac = pb_net_neigh_get(&n, &a);
		CHECK(mac && !memcmp(mac, i & 1 ? mac_a : mac_b, 6));
		CHECK_EQ(pb_net_neigh_set(&n, &a, NULL), 0);
		CHECK(!pb_net_neigh_get(&n, &a));
	}
	/* What was forgotten makes room for others, and the chains stay whole. */
	unsigned again = 0;
	for (i = 0; i < room; i++) {
		struct pb_ip a = v6(i + 10001);
		again += !pb_net_neigh_set(&n, &a, mac_a);
	}
	CHECK(again > room / 2);
	for (i = 0; i < again; i++) {
		struct pb_ip a = v6(i + 1);
		pb_net_neigh_set(&n, &a, mac_b);
		CHECK(!pb_net_neigh_get(&n, &a) || !memcmp(pb_net_neigh_get(&n, &a), mac_b, 6));
	}
	pb_net_fini(&n);
}

TEST(l2_header)
{
	int err;
	struct pb_pool *pool = pb_pool_create(64, 2048, PB_WANT_4K, &err);
	REQUIRE(pool);
	for (unsigned k = 0; k < 4; k++) {
		struct pb_net n;
		bool six = k & 1, tag = k & 2;
		struct pb_ip a = six ? v6(1) : v4(10, 0, 0, 1), b = six ? v6(2) : v4(10, 0, 0, 2), missing;
		CHECK_EQ(pb_net_init(&n, our_mac), 0);
		n.vlan = tag ? 7 : 0;
		struct pb_desc d = {.addr = 2048, .off = 100, .len = 60}, was = d;
		uint8_t *ip = pb_pool_data(pool, &d);
		six ? pb_ip6_write(ip, &a, &b, 6, 64, 0, 0, 20) : pb_ip4_write(ip, &a, &b, 6, 64, 0, 0, true, 40);
		CHECK_EQ(pb_net_l2(&n, pool, &d, &missing), PB_DROP_NO_ROUTE);
		CHECK_EQ(pb_net_add_local(&n, &a, six ? 64 : 24), 0);
		CHECK_EQ(pb_net_l2(&n, pool, &d, &missing), PB_DROP_NO_NEIGH);
		CHECK(pb_ip_eq(&missing, &b));
		CHECK(d.off == was.off && d.len == was.len);
		for (unsigned i = 0; i < 3; i++) { /* the second time from the cache, the third time anew */
			CHECK_EQ(pb_net_neigh_set(&n, &b, i == 2 ? mac_b : mac_a), 0);
			d = was;
			CHECK_EQ(pb_net_l2(&n, pool, &d, &missing), 0);
			d = was;
			CHECK_EQ(pb_net_l2(&n, pool, &d, &missing), 0);
			struct pb_eth_view eth;
			CHECK_EQ(pb_eth_parse(pb_pool_data(pool, &d), d.len, &eth), 0);
			CHECK_EQ(eth.type, six ? PB_ETH_IP6 : PB_ETH_IP4);
			CHECK_EQ(eth.vlans, tag);
			CHECK_MEM(eth.dst, i == 2 ? mac_b : mac_a, 6);
			CHECK_EQ(d.len, was.len + (tag ? 18 : 14));
		}
		CHECK_EQ(pb_net_neigh_set(&n, &b, NULL), 0);
		d = was;
		CHECK_EQ(pb_net_l2(&n, pool, &d, &missing), PB_DROP_NO_NEIGH);
		pb_net_fini(&n);
	}
	CHECK_POOL(pool);
}

MAIN(T(locals), T(routes_of_the_kernel), T(routes), T(families_are_apart), T(neighbours), T(l2_header))
