#include "harness.h"
#include "wire/eth.h"

static const uint8_t A[6] = {2, 0, 0, 0, 0, 1}, B[6] = {2, 0, 0, 0, 0, 2};

TEST(plain)
{
	uint8_t p[14];
	struct pb_eth_view v;
	CHECK_EQ(pb_eth_write(p, A, B, PB_ETH_IP4), 14);
	CHECK_MEM(p, ((const uint8_t[]){2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}), 14);
	CHECK_EQ(pb_eth_parse(p, 14, &v), PB_DROP_NONE);
	CHECK(v.dst == p && v.src == p + 6);
	CHECK_EQ(v.type, PB_ETH_IP4);
	CHECK_EQ(v.hdr_len, 14);
	CHECK_EQ(v.vlans, 0);
	CHECK_EQ(v.vlan, 0);
	CHECK_EQ(pb_eth_parse(p, 13, &v), PB_DROP_L2_SHORT);
	CHECK_EQ(pb_eth_parse(p, 0, &v), PB_DROP_L2_SHORT);
}

TEST(one_tag)
{
	uint8_t p[18];
	struct pb_eth_view v;
	CHECK_EQ(pb_eth_write_vlan(p, A, B, 0xe123, PB_ETH_IP6), 18);
	CHECK_MEM(p + 12, ((const uint8_t[]){0x81, 0, 0xe1, 0x23, 0x86, 0xdd}), 6);
	CHECK_EQ(pb_eth_parse(p, 18, &v), PB_DROP_NONE);
	CHECK_EQ(v.type, PB_ETH_IP6);
	CHECK_EQ(v.hdr_len, 18);
	CHECK_EQ(v.vlans, 1);
	CHECK_EQ(v.vlan, 0xe123);
	CHECK_EQ(pb_eth_parse(p, 17, &v), PB_DROP_L2_SHORT);
}

TEST(two_tags_and_a_third)
{
	uint8_t p[26] = {[12] = 0x88, 0xa8, 0, 100, 0x81, 0, 0, 7, 8, 6};
	struct pb_eth_view v;
	CHECK_EQ(pb_eth_parse(p, 22, &v), PB_DROP_NONE);
	CHECK_EQ(v.type, PB_ETH_ARP);
	CHECK_EQ(v.hdr_len, 22);
	CHECK_EQ(v.vlans, 2);
	CHECK_EQ(v.vlan, 100);
	CHECK_EQ(v.vlan_inner, 7);
	CHECK_EQ(pb_eth_parse(p, 21, &v), PB_DROP_L2_SHORT);
	p[20] = 0x81;
	p[21] = 0;
	CHECK_EQ(pb_eth_parse(p, 26, &v), PB_DROP_L2_TYPE);
}

TEST(group_bit)
{
	CHECK(!pb_eth_is_group(A));
	CHECK(pb_eth_is_group((const uint8_t[6]){0xff, 0xff, 0xff, 0xff, 0xff, 0xff}));
	CHECK(pb_eth_is_group((const uint8_t[6]){0x33, 0x33, 0, 0, 0, 1}));
}

TEST(mutated)
{
	struct pb_rng r = test_rng();
	uint32_t good = 0;
	for (int k = 0; k < 200000; k++) {
		uint8_t s[40] = {[12] = 0x88, 0xa8, 0, 100, 0x81, 0, 0, 7, 8, 6};
		uint32_t n = mutate(&r, s, 22, sizeof(s));
		uint8_t *p = malloc(n ? n : 1);
		struct pb_eth_view v;
		memcpy(p, s, n);
		if (!pb_eth_parse(p, n, &v)) {
			good++;
			CHECK(v.hdr_len <= n && v.hdr_len == 14 + 4 * v.vlans && v.vlans <= 2);
			CHECK(v.type != PB_ETH_VLAN && v.type != PB_ETH_QINQ);
		}
		free(p);
	}
	CHECK(good > 1000);
}

MAIN(T(plain), T(one_tag), T(two_tags_and_a_third), T(group_bit), T(mutated))
