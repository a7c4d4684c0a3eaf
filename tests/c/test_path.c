/* Classification: what is malformed or hostile is dropped under its own reason, what is the slow path's goes up, and
 * packets wait for a neighbour. */
#include "dev/mem.h"
#include "harness.h"
#include "path/path.h"
#include "wire/arp.h"
#include "wire/eth.h"
#include "wire/icmp.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#include <errno.h>

static const uint8_t other_mac[6] = {2, 9, 9, 9, 9, 9}, bcast[6] = {255, 255, 255, 255, 255, 255};

/* A path on one end of a mem pair; the test is the other end. */
static struct {
	struct pb_pool *pool[2];
	struct pb_path *path;
	struct pb_dev *far;
	struct pb_chan chan;
	struct pb_ip us, peer, us6, peer6;
	uint64_t now_ns;
} w;

static bool world_open_mtu(uint32_t mtu)
{
	int err;
	uint8_t a[4] = {10, 7, 0, 1}, b[4] = {10, 7, 0, 2}, c[16] = {0xfd, 7, [15] = 1}, d[16] = {0xfd, 7, [15] = 2};
	struct pb_dev_mem_config cfg = {.mtu = mtu};
	struct pb_tcp_config tcp;
	memset(&w, 0, sizeof(w));
	pb_tcp_config_default(&tcp);
	tcp.max_conns = 8;
	tcp.max_listeners = 2;
	tcp.reserve_frames = 16;
	w.now_ns = 1000000000;
	w.us = pb_ip_from4(a);
	w.peer = pb_ip_from4(b);
	w.us6 = pb_ip_from6(c);
	w.peer6 = pb_ip_from6(d);
	for (int i = 0; i < 2; i++)
		w.pool[i] = pb_pool_create(1024, 2048, PB_WANT_4K, &err);
	struct pb_dev *near = pb_dev_mem_open("path", w.pool[0], &cfg, &err);
	w.far = pb_dev_mem_open("path", w.pool[1], &cfg, &err);
	if (!near || !w.far || pb_chan_init(&w.chan, 64))
		return false;
	w.path = pb_path_create(near, &tcp, &w.chan, &err);
	return w.path && !pb_net_add_local(&w.path->net, &w.us, 24) && !pb_net_add_local(&w.path->net, &w.us6, 64);
}

static bool world_open(void)
{
	return world_open_mtu(1500);
}

static void world_close(void)
{
	pb_path_destroy(w.path);
	w.far->ops->close(w.far);
	pb_chan_fini(&w.chan);
	CHECK_POOL(w.pool[0]);
	CHECK_POOL(w.pool[1]);
}

static void step(void)
{
	uint64_t addrs[PB_BURST_MAX];
	CHECK(pb_path_step(w.path, w.now_ns) >= 0);
	CHECK_EQ(pb_tcp_check(w.path->tcp), 0);
	int n = pb_dev_reap(w.far, addrs, PB_BURST_MAX, w.now_ns);
	for (int i = 0; i < n; i++)
		pb_pool_put(w.far->cache, addrs[i], PB_OWN_TX);
}

/* A frame from the far end. */
static void feed(const uint8_t *p, uint32_t len)
{
	uint64_t addr;
	if (!pb_pool_get(w.far->cache, &addr, 1, 0, PB_OWN_APP)) {
		check_failed(__FILE__, __LINE__, "no frame");
		return;
	}
	struct pb_desc d = {.addr = addr, .len = (uint16_t)len};
	memcpy(pb_pool_data(w.pool[1], &d), p, len);
	CHECK_EQ(pb_dev_tx(w.far, &d, 1, PB_OWN_APP, w.now_ns), 1);
	step();
	step();
}

/* Packets that the path sent; their first bytes in p. Returns how many. */
static int sent(uint8_t *p, uint32_t room)
{
	struct pb_desc d[PB_BURST_MAX];
	int n = pb_dev_rx(w.far, d, PB_BURST_MAX, w.now_ns);
	for (int i = 0; i < n; i++) {
		memcpy(p, pb_pool_data(w.pool[1], &d[i]), d[i].len < room ? d[i].len : room);
		pb_pool_put(w.far->cache, d[i].addr, PB_OWN_RX);
	}
	return n;
}

/* Exceptions that went up; the reason of the last. */
static int exceptions(uint32_t *reason)
{
	struct pb_exc x;
	int n = 0;
	while (pb_ring_get(&w.chan.exc, &x, 1)) {
		*reason = x.reason;
		if (x.reason != PB_EXC_NEIGH)
			pb_pool_put(w.path->dev->cache, x.d.addr, PB_OWN_APP);
		n++;
	}
	return n;
}

static uint64_t drops(unsigned why)
{
	struct pb_path_report r;
	pb_path_report(w.path, &r);
	return r.path.drops.n[why] + r.tcp.drops.n[why];
}

/* A SYN to port 80 in IPv4 or IPv6. Returns the frame's length. */
static uint32_t syn(uint8_t *p, bool six)
{
	const struct pb_ip *src = six ? &w.peer6 : &w.peer, *dst = six ? &w.us6 : &w.us;
	uint32_t hlen = six ? PB_IP6_HLEN : PB_IP4_HLEN;
	uint8_t *ip = p + PB_ETH_HLEN, *tcp = ip + hlen;
	pb_eth_write(p, w.path->dev->mac, other_mac, six ? PB_ETH_IP6 : PB_ETH_IP4);
	if (six)
		pb_ip6_write(ip, src, dst, PB_IPPROTO_TCP, 64, 0, 0, PB_TCP_HLEN);
	else
		pb_ip4_write(ip, src, dst, PB_IPPROTO_TCP, 64, 0, 1, true, PB_TCP_HLEN);
	pb_tcp_write(tcp, 4000, 80, 1, 0, PB_TCP_SYN, 1000, 0);
	pb_tcp_set_csum(tcp, PB_TCP_HLEN, src, dst);
	return PB_ETH_HLEN + hlen + PB_TCP_HLEN;
}

static void fix_ip4(uint8_t *p)
{
	struct pb_ip4_hdr *h = (void *)(p + PB_ETH_HLEN);
	h->csum = (be16){{0, 0}};
	h->csum = pb_csum_finish(pb_csum_partial(h, (h->ver_ihl & 15u) * 4, 0));
}

enum how { SET, XOR };
struct hostile {
	unsigned why;
	uint32_t at; /* from the Ethernet header */
	uint8_t value;
	enum how how;
	bool fix; /* the IPv4 header checksum is made right again */
	int cut;
};

/* One byte changed, one reason. Offsets: Ethernet 0, IPv4 14, TCP 34. */
static const struct hostile hostile4[] = {
	{PB_DROP_L2_DST, 5, 1, XOR, false, 0},         {PB_DROP_L2_SHORT, 0, 0, XOR, false, 13},
	{PB_DROP_IP_SHORT, 0, 0, XOR, false, 33},      {PB_DROP_IP_SHORT, 0, 0, XOR, false, 50},
	{PB_DROP_IP_VERSION, 14, 0x55, SET, true, 0},  {PB_DROP_IP_VERSION, 14, 0x44, SET, false, 0},
	{PB_DROP_IP_CSUM, 24, 1, XOR, false, 0},       {PB_DROP_IP_SHORT, 16, 9, SET, true, 0},
	{PB_DROP_IP_FRAGMENT, 20, 0x20, SET, true, 0}, {PB_DROP_IP_FRAGMENT, 21, 1, SET, true, 0},
	{PB_DROP_IP_SRC, 26, 224, SET, true, 0},       {PB_DROP_IP_SRC, 26, 127, SET, true, 0},
	{PB_DROP_IP_LAND, 29, 1, SET, true, 0},        {PB_DROP_IP_DST, 33, 9, SET, true, 0},
	{PB_DROP_TCP_CSUM, 40, 1, XOR, false, 0},      {PB_DROP_TCP_OFFSET, 46, 0x40, SET, false, 0},
	{PB_DROP_TCP_OFFSET, 46, 0xf0, SET, false, 0}, {PB_DROP_TCP_FLAGS, 47, 3, SET, false, 0},
	{PB_DROP_TCP_FLAGS, 47, 0, SET, false, 0},
};

TEST(hostile_frames)
{
	REQUIRE(world_open());
	uint32_t reason;
	for (unsigned i = 0; i < PB_ARRAY_LEN(hostile4); i++) {
		const struct hostile *h = &hostile4[i];
		uint8_t p[256];
		uint32_t n = syn(p, false);
		p[h->at] = h->how == SET ? h->value : p[h->at] ^ h->value;
		if (h->fix)
			fix_ip4(p);
		uint64_t before = drops(h->why);
		feed(p, h->cut ? (uint32_t)h->cut : n);
		if (drops(h->why) != before + 1) {
			char text[80];
			snprintf(text, sizeof(text), "hostile frame %u: not counted as %s", i, pb_drop_name(h->why));
			check_failed(__FILE__, __LINE__, text);
		}
		CHECK_EQ(sent(p, sizeof(p)), 0);
		CHECK_EQ(exceptions(&reason), 0);
	}
	world_close();
}

TEST(hostile_options)
{
	static const struct {
		uint8_t o[4];
		unsigned why;
	} cases[] = {{{2, 0, 5, 180}, PB_DROP_TCP_OPTION}, {{2, 1, 5, 180}, PB_DROP_TCP_OPTION},
		     {{2, 5, 5, 180}, PB_DROP_TCP_OPTION}, {{99, 0, 0, 0}, PB_DROP_TCP_OPTION},
		     {{8, 4, 0, 0}, PB_DROP_TCP_OPTION},   {{1, 1, 1, 99}, PB_DROP_TCP_OPTION},
		     {{99, 4, 0, 0}, PB_DROP_TCP_NO_FLOW}, {{0, 2, 0, 0}, PB_DROP_TCP_NO_FLOW}};
	REQUIRE(world_open());
	CHECK_EQ(pb_net_neigh_set(&w.path->net, &w.peer, other_mac), 0);
	for (unsigned i = 0; i < PB_ARRAY_LEN(cases); i++) {
		uint8_t p[256];
		uint32_t n = syn(p, false);
		uint8_t *ip = p + PB_ETH_HLEN, *tcp = ip + PB_IP4_HLEN;
		pb_ip4_write(ip, &w.peer, &w.us, PB_IPPROTO_TCP, 64, 0, 1, true, PB_TCP_HLEN + 4);
		tcp[12] = 0x60;
		memcpy(tcp + PB_TCP_HLEN, cases[i].o, 4);
		pb_tcp_set_csum(tcp, PB_TCP_HLEN + 4, &w.peer, &w.us);
		uint64_t before = drops(cases[i].why);
		feed(p, n + 4);
		CHECK_EQ(drops(cases[i].why), before + 1);
		/* Only the unknown flow is answered. */
		CHECK_EQ(sent(p, sizeof(p)), cases[i].why == PB_DROP_TCP_NO_FLOW);
	}
	world_close();
}

/* A SYN to a broadcast MAC or address is not answered (RFC 1122 4.2.3.10, 3.3.6). */
TEST(broadcast_syn)
{
	uint8_t p[256];
	REQUIRE(world_open());
	uint32_t n = syn(p, false);
	memcpy(p, bcast, 6);
	feed(p, n);
	CHECK_EQ(drops(PB_DROP_L2_DST), 1);
	n = syn(p, false);
	memcpy(p, bcast, 6);
	p[33] = 255;
	fix_ip4(p);
	feed(p, n);
	CHECK_EQ(drops(PB_DROP_IP_DST), 1);
	CHECK_EQ(sent(p, sizeof(p)), 0);
	world_close();
}

TEST(ipv6)
{
	uint8_t p[256];
	REQUIRE(world_open());
	CHECK_EQ(pb_net_neigh_set(&w.path->net, &w.peer6, other_mac), 0);
	uint32_t n = syn(p, true);
	feed(p, n);
	CHECK_EQ(drops(PB_DROP_TCP_NO_FLOW), 1);
	CHECK_EQ(sent(p, sizeof(p)), 1); /* RST */
	CHECK(p[PB_ETH_HLEN + PB_IP6_HLEN + 13] & PB_TCP_RST);
	n = syn(p, true);
	feed(p, 40);
	CHECK_EQ(drops(PB_DROP_IP_SHORT), 1);
	n = syn(p, true);
	p[PB_ETH_HLEN + 6] = PB_IPPROTO_FRAGMENT; /* what follows is no fragment header that makes sense */
	feed(p, n);
	CHECK_EQ(sent(p, sizeof(p)), 0);
	world_close();
}

TEST(for_the_slow_path)
{
	uint8_t p[512];
	uint32_t reason = 0;
	REQUIRE(world_open());
	memset(p, 0, sizeof(p));
	pb_eth_write(p, bcast, other_mac, PB_ETH_ARP);
	feed(p, 60);
	CHECK_EQ(exceptions(&reason), 1);
	CHECK_EQ(reason, PB_EXC_ARP);
	pb_eth_write(p, bcast, other_mac, 0x88cc);
	feed(p, 60);
	CHECK_EQ(exceptions(&reason), 1);
	CHECK_EQ(reason, PB_EXC_L2_OTHER);
	pb_eth_write(p, w.path->dev->mac, other_mac, PB_ETH_IP4);
	pb_ip4_write(p + PB_ETH_HLEN, &w.peer, &w.us, PB_IPPROTO_UDP, 64, 0, 0, false, 20);
	feed(p, 60);
	CHECK_EQ(exceptions(&reason), 1);
	CHECK_EQ(reason, PB_EXC_UDP);
	uint32_t n = pb_icmp_write_echo(p + 34, &w.peer, &w.us, false, 1, 1, p + 42, 10);
	pb_ip4_write(p + PB_ETH_HLEN, &w.peer, &w.us, PB_IPPROTO_ICMP, 64, 0, 0, false, n);
	feed(p, 34 + n);
	CHECK_EQ(exceptions(&reason), 1);
	CHECK_EQ(reason, PB_EXC_ICMP);
	/* For somebody else: not the slow path's business. */
	pb_ip4_write(p + PB_ETH_HLEN, &w.us, &w.peer, PB_IPPROTO_ICMP, 64, 0, 0, false, n);
	feed(p, 34 + n);
	CHECK_EQ(exceptions(&reason), 0);
	CHECK_EQ(drops(PB_DROP_IP_DST), 1);
	/* A damaged one. */
	pb_ip4_write(p + PB_ETH_HLEN, &w.peer, &w.us, PB_IPPROTO_ICMP, 64, 0, 0, false, n);
	p[36] ^= 1;
	feed(p, 34 + n);
	CHECK_EQ(drops(PB_DROP_ICMP_BAD), 1);
	/* The ring has an end. */
	pb_eth_write(p, bcast, other_mac, PB_ETH_ARP);
	for (unsigned i = 0; i < 600; i++)
		feed(p, 60);
	uint64_t lost = drops(PB_DROP_EXC_FULL);
	CHECK(lost > 0);
	CHECK_EQ(exceptions(&reason), 600 - lost);
	world_close();
}

/* An ICMP error about a connection being opened ends it; one with a guessed number does not. */
TEST(icmp_about_us)
{
	uint8_t p[512], out[256];
	REQUIRE(world_open());
	struct pb_tcp_endpoint l = {w.us, 5000}, r = {w.peer, 80};
	pb_tcp_handle h;
	CHECK_EQ(pb_net_neigh_set(&w.path->net, &w.peer, other_mac), 0);
	CHECK_EQ(pb_tcp_connect(w.path->tcp, &l, &r, w.now_ns, &h), 0);
	step();
	CHECK_EQ(sent(out, sizeof(out)), 1);
	for (int k = 0; k < 2; k++) {
		struct pb_tcp_info i;
		out[PB_ETH_HLEN + PB_IP4_HLEN + 7] ^= 1; /* the quoted sequence number: wrong first, then right */
		uint32_t n = pb_icmp_write_unreach(p + 34, &w.peer, &w.us, 3, out + PB_ETH_HLEN, 40);
		pb_eth_write(p, w.path->dev->mac, other_mac, PB_ETH_IP4);
		pb_ip4_write(p + PB_ETH_HLEN, &w.peer, &w.us, PB_IPPROTO_ICMP, 64, 0, 0, false, n);
		feed(p, 34 + n);
		CHECK_EQ(pb_tcp_get_info(w.path->tcp, h, &i), 0);
		CHECK_EQ(i.state, k ? PB_TCP_CLOSED : PB_TCP_SYN_SENT);
		CHECK_EQ(drops(PB_DROP_ICMP_BAD), 1);
	}
	world_close();
}

/* Without a neighbour the packet waits and the slow path is asked; it goes when the answer comes, or is dropped. */
TEST(neighbour_parking)
{
	uint8_t p[256];
	uint32_t reason = 0;
	REQUIRE(world_open());
	struct pb_tcp_endpoint l = {w.us, 5000}, r = {w.peer, 80};
	pb_tcp_handle h;
	CHECK_EQ(pb_tcp_connect(w.path->tcp, &l, &r, w.now_ns, &h), 0);
	step();
	CHECK_EQ(sent(p, sizeof(p)), 0);
	CHECK_EQ(exceptions(&reason), 1);
	CHECK_EQ(reason, PB_EXC_NEIGH);
	CHECK_EQ(w.path->nparked, 1);
	CHECK(pb_path_next_ns(w.path) <= w.now_ns + 3000000000ull);
	struct pb_cmd c = {.op = PB_CMD_NEIGH, .neigh = {.addr = w.peer, .valid = true}};
	memcpy(c.neigh.mac, other_mac, 6);
	CHECK_EQ(pb_ring_put(&w.chan.cmd, &c, 1), 1);
	step();
	CHECK_EQ(sent(p, sizeof(p)), 1);
	CHECK_MEM(p, other_mac, 6);
	CHECK_EQ(w.path->nparked, 0);
	/* Forgotten again: nobody answers, and after 3 s it is given up. */
	c.neigh.valid = false;
	CHECK_EQ(pb_ring_put(&w.chan.cmd, &c, 1), 1);
	w.now_ns += 1000000000;
	step();
	CHECK_EQ(w.path->nparked, 1);
	for (int i = 0; i < 4; i++) {
		w.now_ns += 1000000000;
		step();
	}
	CHECK(drops(PB_DROP_NO_NEIGH) >= 1);
	exceptions(&reason);
	/* More than fit: the oldest make room. */
	for (unsigned i = 0; i < 100; i++) {
		uint32_t n = syn(p, false);
		feed(p, n); /* each is answered by a RST */
	}
	CHECK_EQ(w.path->nparked, PB_PATH_PARKED);
	CHECK(drops(PB_DROP_NO_NEIGH) >= 100 - PB_PATH_PARKED);
	exceptions(&reason);
	world_close();
}

static const struct pb_dev_ops *real_ops;
static int down_errno, down_calls;

static int down_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns)
{
	down_calls++;
	return down_errno ? down_errno : n ? real_ops->tx(dev, d, n, from, now_ns) : 0;
}

/* A device that is down drops what is sent, is asked now and then, and goes on when it is up; one that is gone is the
 * end. */
TEST(device_down_and_up)
{
	REQUIRE(world_open());
	struct pb_tcp_endpoint l = {w.us, 4000}, r = {w.peer, 80};
	pb_tcp_handle h;
	uint8_t p[64];
	struct pb_dev_ops ops = *w.path->dev->ops;
	real_ops = w.path->dev->ops;
	ops.tx = down_tx;
	w.path->dev->ops = &ops;
	CHECK_EQ(pb_net_neigh_set(&w.path->net, &w.peer, other_mac), 0);
	down_errno = -ENETDOWN;
	CHECK_EQ(pb_tcp_connect(w.path->tcp, &l, &r, w.now_ns, &h), 0);
	step();
	CHECK_EQ(drops(PB_DROP_LINK_DOWN), 1);
	CHECK_EQ(pb_path_next_ns(w.path), w.now_ns + PB_PATH_DOWN_NS); /* it may sleep until then */
	int calls = down_calls;
	for (int i = 0; i < 10; i++)
		step();
	CHECK_EQ(down_calls, calls);
	w.now_ns += PB_PATH_DOWN_NS;
	step();
	CHECK_EQ(down_calls, calls + 1);
	CHECK_EQ(sent(p, sizeof(p)), 0);
	down_errno = 0;
	w.now_ns += 2000000000; /* the SYN is sent again */
	step();
	CHECK_EQ(sent(p, sizeof(p)), 1);
	CHECK_EQ(drops(PB_DROP_LINK_DOWN), 1);
	CHECK(pb_path_next_ns(w.path) > w.now_ns + PB_PATH_DOWN_NS);
	down_errno = -ENXIO;
	w.now_ns += 10000000000;
	CHECK_EQ(pb_path_step(w.path, w.now_ns), (uint64_t)-ENXIO);
	w.path->dev->ops = real_ops;
	world_close();
}

/* A jumbo frame arrives in pieces: the second, however it looks, is not taken for a packet. */
TEST(packet_of_two_frames)
{
	uint64_t addr[2];
	uint8_t p[256];
	REQUIRE(world_open_mtu(3000)); /* longer than a frame, or it would come in one */
	CHECK_EQ(pb_net_neigh_set(&w.path->net, &w.peer, other_mac), 0);
	REQUIRE(pb_pool_get(w.far->cache, addr, 2, 0, PB_OWN_APP) == 2);
	struct pb_desc d[2] = {{.addr = addr[0], .len = 1000, .flags = PB_DESC_MORE}, {.addr = addr[1], .len = 1000}};
	for (int i = 0; i < 2; i++) {
		memset(pb_pool_data(w.pool[1], &d[i]), 0, 1000);
		for (uint32_t at = 0; at + 60 <= 1000; at += i ? 60 : 1000)
			syn(pb_pool_data(w.pool[1], &d[i]) + at, false);
	}
	CHECK_EQ(pb_dev_tx(w.far, d, 2, PB_OWN_APP, w.now_ns), 2);
	step();
	step();
	CHECK_EQ(drops(PB_DROP_TOO_LONG), 1);
	CHECK_EQ(sent(p, sizeof(p)), 0);
	world_close();
}

/* Any frame with any damage: counted, kept or passed on, and never lost. */
TEST(mutations)
{
	struct pb_rng rng = test_rng();
	uint32_t reason;
	REQUIRE(world_open());
	CHECK_EQ(pb_net_neigh_set(&w.path->net, &w.peer, other_mac), 0);
	struct pb_tcp_endpoint l = {w.us, 80};
	pb_tcp_handle h;
	CHECK_EQ(pb_tcp_listen(w.path->tcp, &l, 4, &h), 0);
	for (unsigned k = 0; k < 5000 && !harness.bad; k++) {
		uint8_t p[512] = {0};
		uint32_t n = syn(p, k & 1);
		n = mutate(&rng, p, n, sizeof(p));
		if (n < 14)
			n = 14;
		feed(p, n);
		sent(p, sizeof(p));
		exceptions(&reason);
		w.now_ns += 10000000;
	}
	world_close();
}

MAIN(T(hostile_frames), T(hostile_options), T(broadcast_syn), T(ipv6), T(for_the_slow_path), T(icmp_about_us),
     T(neighbour_parking), T(device_down_and_up), T(packet_of_two_frames), T(mutations))
