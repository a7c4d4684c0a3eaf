#include "app/seqtrack.h"
#include "app/template.h"
#include "harness.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/udp.h"

#include <errno.h>

static const uint8_t mac_a[6] = {2, 0, 0, 0, 0, 1}, mac_b[6] = {2, 0, 0, 0, 0, 2};
static struct pb_template t;

/* Ethernet (tagged or not), IP and UDP around n bytes of payload; checksums left out. */
static uint32_t packet(uint8_t *p, bool v6, bool vlan, uint32_t n)
{
	uint16_t type = v6 ? PB_ETH_IP6 : PB_ETH_IP4;
	uint32_t at = vlan ? pb_eth_write_vlan(p, mac_b, mac_a, 100, type) : pb_eth_write(p, mac_b, mac_a, type);
	struct pb_ip src = pb_ip_from4((const uint8_t[]){10, 0, 0, 1}),
		     dst = pb_ip_from4((const uint8_t[]){10, 0, 0, 2});
	if (v6) {
		src = pb_ip_from6((const uint8_t[16]){0xfd, [15] = 1});
		dst = pb_ip_from6((const uint8_t[16]){0xfd, [15] = 2});
		at += pb_ip6_write(p + at, &src, &dst, PB_IPPROTO_UDP, 64, 0, 0, 8 + n);
	} else {
		at += pb_ip4_write(p + at, &src, &dst, PB_IPPROTO_UDP, 64, 0, 7, true, 8 + n);
	}
	memset(p + at, 0, 8 + n);
	struct pb_udp_hdr *u = (void *)(p + at);
	u->sport = pb_be16_of(1000);
	u->dport = pb_be16_of(2000);
	u->len = pb_be16_of((uint16_t)(8 + n));
	for (uint32_t i = 0; i < n; i++)
		p[at + 8 + i] = (uint8_t)(i * 31 + 5);
	return at + 8 + n;
}

static void check_sums(const uint8_t *p, uint32_t len, struct pb_ip_view *ip, struct pb_udp_view *u)
{
	struct pb_eth_view e;
	CHECK_EQ(pb_eth_parse(p, len, &e), PB_DROP_NONE);
	CHECK_EQ(pb_ip_parse(p + e.hdr_len, len - e.hdr_len, ip), PB_DROP_NONE);
	CHECK_EQ(pb_udp_parse(p + e.hdr_len + ip->hdr_len, ip->total_len - ip->hdr_len, &ip->src, &ip->dst, false, u),
		 PB_DROP_NONE);
	CHECK(((const struct pb_udp_hdr *)(p + e.hdr_len + ip->hdr_len))->csum.b[0] |
	      ((const struct pb_udp_hdr *)(p + e.hdr_len + ip->hdr_len))->csum.b[1]);
}

/* Every packet has right checksums, whatever varies, at odd and even places, in both families and with a tag. */
TEST(checksums_stay_right)
{
	struct pb_rng r = test_rng();
	uint8_t frame[256], out[256];
	for (int round = 0; round < 400; round++) {
		bool v6 = round & 1, vlan = round & 2;
		uint32_t n = PB_STAMP_LEN + 7 + pb_rng_below(&r, 64), len = packet(frame, v6, vlan, n);
		uint32_t l3 = vlan ? 18 : 14, l4 = l3 + (v6 ? 40 : 20), pay = l4 + 8;
		uint32_t stamp = pay + pb_rng_below(&r, 4);
		struct pb_field f[4] = {
			{.off = (uint16_t)l4, .bytes = 2, .how = PB_VARY_RANDOM, .lo = 1024, .hi = 65535},
			{.off = (uint16_t)(l4 + 2), .bytes = 2, .lo = 2000, .hi = 2003, .step = 1},
			{.off = (uint16_t)(l3 + (v6 ? 20 : 13)), .bytes = 1, .lo = 1, .hi = 9, .step = 3},
			{.off = (uint16_t)(stamp + PB_STAMP_LEN + pb_rng_below(&r, 3)),
			 .bytes = 1,
			 .how = PB_VARY_RANDOM,
			 .lo = 0,
			 .hi = 255},
		};
		REQUIRE(f[3].off < len);
		CHECK_EQ(pb_template_init(&t, frame, len, f, 4, stamp, 77, pb_rng_u64(&r)), 0);
		for (uint64_t i = 0; i < 20; i++) {
			struct pb_ip_view ip;
			struct pb_udp_view u = {0};
			struct pb_stamp s;
			uint64_t ns = pb_rng_u64(&r);
			pb_template_write(&t, out, i, ns);
			check_sums(out, len, &ip, &u);
			CHECK(u.sport >= 1024);
			CHECK_EQ(u.dport, 2000 + i % 4);
			CHECK_EQ(out[f[2].off], 1 + 3 * (i % 3));
			pb_stamp_read(out + stamp, &s);
			CHECK_EQ(s.seq, i);
			CHECK_EQ(s.run, 77);
			CHECK_EQ(s.ns, ns);
		}
	}
}

TEST(without_stamp_and_fields)
{
	uint8_t frame[128], out[128];
	for (int v6 = 0; v6 < 2; v6++) {
		struct pb_ip_view ip;
		struct pb_udp_view u;
		uint32_t len = packet(frame, v6, false, 19);
		CHECK_EQ(pb_template_init(&t, frame, len, NULL, 0, 0, 0, 1), 0);
		for (uint64_t i = 0; i < 3; i++) {
			pb_template_write(&t, out, i, i);
			check_sums(out, len, &ip, &u);
			CHECK_MEM(u.payload, frame + len - 19, 19);
		}
	}
}

TEST(random_fields_reach_both_ends)
{
	uint8_t frame[128], out[128];
	uint32_t len = packet(frame, false, false, 40);
	struct pb_field f = {.off = 50, .bytes = 4, .how = PB_VARY_RANDOM, .lo = 7, .hi = 10};
	CHECK_EQ(pb_template_init(&t, frame, len, &f, 1, 0, 0, 1), 0);
	unsigned seen = 0;
	for (int i = 0; i < 200; i++) {
		be32 v;
		pb_template_write(&t, out, 0, 0);
		memcpy(v.b, out + 50, 4);
		CHECK(pb_be32_get(v) >= 7 && pb_be32_get(v) <= 10);
		seen |= 1u << (pb_be32_get(v) - 7);
	}
	CHECK_EQ(seen, 15);
}

TEST(what_may_not_vary_is_refused)
{
	uint8_t frame[128];
	uint32_t len = packet(frame, false, false, 40);
	const struct pb_field bad[] = {
		{.off = 14, .bytes = 1},                   /* version */
		{.off = 16, .bytes = 2},                   /* total length */
		{.off = 23, .bytes = 1},                   /* protocol */
		{.off = 24, .bytes = 2},                   /* header checksum */
		{.off = 12, .bytes = 2},                   /* EtherType */
		{.off = 38, .bytes = 2},                   /* UDP length */
		{.off = 39, .bytes = 2},                   /* into the UDP checksum */
		{.off = (uint16_t)(len - 1), .bytes = 2},  /* over the end */
		{.off = 60, .bytes = 3},                   /* no such width */
		{.off = 60, .bytes = 1, .hi = 256},        /* too wide */
		{.off = 60, .bytes = 2, .lo = 2, .hi = 1}, /* upside down */
		{.off = 45, .bytes = 1},                   /* in the stamp */
		{.off = 60, .bytes = 1, .how = 2},         /* unknown */
	};
	for (size_t i = 0; i < PB_ARRAY_LEN(bad); i++)
		CHECK_EQ(pb_template_init(&t, frame, len, &bad[i], 1, 42, 0, 1), -EINVAL);
	const struct pb_field twice[2] = {{.off = 60, .bytes = 2}, {.off = 61, .bytes = 1}};
	CHECK_EQ(pb_template_init(&t, frame, len, twice, 2, 42, 0, 1), -EINVAL);
	CHECK_EQ(pb_template_init(&t, frame, len, NULL, 0, len - 15, 0, 1), -EINVAL);
	CHECK_EQ(pb_template_init(&t, frame, 13, NULL, 0, 0, 0, 1), -EINVAL);
	CHECK_EQ(pb_template_init(&t, frame, PB_TEMPLATE_MAX + 1, NULL, 0, 0, 0, 1), -EMSGSIZE);
	frame[17]++; /* total length */
	CHECK_EQ(pb_template_init(&t, frame, len, NULL, 0, 0, 0, 1), -EINVAL);
	frame[17]--;
	frame[39]++; /* UDP length */
	CHECK_EQ(pb_template_init(&t, frame, len, NULL, 0, 0, 0, 1), -EINVAL);
}

/* Against a plain count of a random order with losses and copies. */
TEST(sequence_numbers)
{
	enum { N = 5000 };
	static uint8_t times[N];
	static struct pb_seqtrack s;
	struct pb_rng r = test_rng();
	pb_seqtrack_reset(&s);
	uint64_t unique = 0, dup = 0, late = 0, top = 0;
	for (int i = 0; i < 3 * N; i++) {
		uint64_t base = (uint64_t)i / 3, seq = base + pb_rng_below(&r, 40);
		seq = seq < N ? seq : N - 1;
		if (times[seq]++)
			dup++;
		else
			unique++, late += seq < top;
		top = seq + 1 > top ? seq + 1 : top;
		pb_seqtrack_see(&s, seq);
	}
	CHECK_EQ(s.unique, unique);
	CHECK_EQ(s.duplicates, dup);
	CHECK_EQ(s.reordered, late);
	CHECK_EQ(pb_seqtrack_lost(&s, N + 10), N + 10 - unique);
	pb_seqtrack_see(&s, 10 * PB_SEQ_WINDOW); /* a leap over the whole window */
	pb_seqtrack_see(&s, 10 * PB_SEQ_WINDOW - 1);
	pb_seqtrack_see(&s, 3);
	CHECK_EQ(s.unique, unique + 2);
	CHECK_EQ(s.reordered, late + 1);
	CHECK_EQ(s.old, 1);
}

MAIN(T(checksums_stay_right), T(without_stamp_and_fields), T(random_fields_reach_both_ends),
     T(what_may_not_vary_is_refused), T(sequence_numbers))
