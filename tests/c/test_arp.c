#include "harness.h"
#include "wire/arp.h"

/* Who has 192.168.1.1? Tell 192.168.1.100. */
static const uint8_t request[28] = {0,   1,   8, 0,   6, 4, 0, 1, 0x52, 0x54, 0,   0x12, 0x34, 0x56,
				    192, 168, 1, 100, 0, 0, 0, 0, 0,    0,    192, 168,  1,    1};

TEST(parses_a_request)
{
	struct pb_arp_view v;
	CHECK_EQ(pb_arp_parse(request, 28, &v), PB_DROP_NONE);
	CHECK_EQ(v.op, PB_ARP_REQUEST);
	CHECK_MEM(v.sha, ((const uint8_t[]){0x52, 0x54, 0, 0x12, 0x34, 0x56}), 6);
	CHECK_MEM(v.spa, ((const uint8_t[]){192, 168, 1, 100}), 4);
	CHECK_MEM(v.tpa, ((const uint8_t[]){192, 168, 1, 1}), 4);
	CHECK_MEM(v.tha, ((const uint8_t[6]){0}), 6);
}

TEST(writes_what_it_parses)
{
	struct pb_arp_view v;
	uint8_t p[28];
	pb_arp_parse(request, 28, &v);
	CHECK_EQ(pb_arp_write(p, v.op, v.sha, v.spa, v.tha, v.tpa), 28);
	CHECK_MEM(p, request, 28);
	pb_arp_write(p, PB_ARP_REPLY, v.sha, v.tpa, v.sha, v.spa);
	CHECK_EQ(pb_arp_parse(p, 28, &v), PB_DROP_NONE);
	CHECK_EQ(v.op, PB_ARP_REPLY);
}

TEST(refuses_all_else)
{
	struct pb_arp_view v;
	/* Hardware type, protocol type, the two lengths, operation: each byte matters. */
	for (int i = 0; i < 8; i++) {
		uint8_t p[28];
		memcpy(p, request, 28);
		p[i] ^= 0x40;
		CHECK_EQ(pb_arp_parse(p, 28, &v), PB_DROP_ARP_BAD);
	}
	for (uint32_t n = 0; n < 28; n++)
		CHECK_EQ(pb_arp_parse(request, n, &v), PB_DROP_ARP_BAD);
	static const uint8_t bad_ops[] = {0, 3, 4, 8, 9, 255};
	for (size_t i = 0; i < sizeof(bad_ops); i++) {
		uint8_t p[28];
		memcpy(p, request, 28);
		p[7] = bad_ops[i];
		CHECK_EQ(pb_arp_parse(p, 28, &v), PB_DROP_ARP_BAD);
	}
}

TEST(refuses_poison)
{
	struct pb_arp_view v;
	uint8_t p[28];
	memcpy(p, request, 28);
	memset(p + 8, 0xff, 6);
	CHECK_EQ(pb_arp_parse(p, 28, &v), PB_DROP_ARP_BAD);
	static const uint8_t first[] = {127, 224, 239, 255};
	for (size_t i = 0; i < sizeof(first); i++) {
		memcpy(p, request, 28);
		p[14] = first[i];
		CHECK_EQ(pb_arp_parse(p, 28, &v), PB_DROP_ARP_BAD);
	}
	/* RFC 5227 2.1.1: a probe comes from 0.0.0.0. */
	memcpy(p, request, 28);
	memset(p + 14, 0, 4);
	CHECK_EQ(pb_arp_parse(p, 28, &v), PB_DROP_NONE);
}

TEST(mutated)
{
	struct pb_rng r = test_rng();
	uint32_t good = 0;
	for (int k = 0; k < 200000; k++) {
		uint8_t s[46];
		memcpy(s, request, 28);
		uint32_t n = mutate(&r, s, 28, sizeof(s));
		uint8_t *p = malloc(n ? n : 1);
		struct pb_arp_view v;
		memcpy(p, s, n);
		if (!pb_arp_parse(p, n, &v)) {
			good++;
			CHECK(n >= 28 && !memcmp(p, request, 6) && (v.op == 1 || v.op == 2) && !(v.sha[0] & 1));
		}
		free(p);
	}
	CHECK(good > 1000);
}

MAIN(T(parses_a_request), T(writes_what_it_parses), T(refuses_all_else), T(refuses_poison), T(mutated))
