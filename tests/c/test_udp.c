#include "addresses.h"
#include "harness.h"
#include "wire/ip.h"
#include "wire/udp.h"

static uint16_t slow_csum(const uint8_t *p, uint32_t n, uint32_t sum)
{
	for (uint32_t i = 0; i < n; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

TEST(writes_and_parses)
{
	uint8_t p[13] = {[8] = 'h', 'e', 'l', 'l', 'o'};
	struct pb_udp_view v;
	addresses();
	CHECK_EQ(pb_udp_write(p, &a4, &b4, 53, 4000, 5), 8);
	CHECK_MEM(p, ((const uint8_t[]){0, 53, 0x0f, 0xa0, 0, 13}), 6);
	/* By hand: addresses, protocol and length in front. */
	CHECK_EQ(slow_csum(p, 13, 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + 13), 0);
	CHECK_EQ(pb_udp_parse(p, 13, &a4, &b4, false, &v), PB_DROP_NONE);
	CHECK_EQ(v.sport, 53);
	CHECK_EQ(v.dport, 4000);
	CHECK_EQ(v.payload_len, 5);
	CHECK(v.payload == p + 8);
	/* Another family's pseudo header, or other addresses. */
	CHECK_EQ(pb_udp_parse(p, 13, &a6, &b6, false, &v), PB_DROP_UDP_BAD);
	CHECK_EQ(pb_udp_parse(p, 13, &a6, &b6, true, &v), PB_DROP_NONE);
	pb_udp_write(p, &a6, &b6, 53, 4000, 5);
	CHECK_EQ(pb_udp_parse(p, 13, &a6, &b6, false, &v), PB_DROP_NONE);
}

TEST(lengths)
{
	uint8_t p[40] = {0};
	struct pb_udp_view v;
	addresses();
	pb_udp_write(p, &a4, &b4, 1, 2, 12);
	/* The datagram may be shorter than what carries it. */
	CHECK_EQ(pb_udp_parse(p, 40, &a4, &b4, false, &v), PB_DROP_NONE);
	CHECK_EQ(v.payload_len, 12);
	CHECK_EQ(pb_udp_parse(p, 19, &a4, &b4, false, &v), PB_DROP_UDP_BAD);
	for (uint32_t n = 0; n < 8; n++)
		CHECK_EQ(pb_udp_parse(p, n, &a4, &b4, true, &v), PB_DROP_UDP_BAD);
	p[5] = 7;
	CHECK_EQ(pb_udp_parse(p, 40, &a4, &b4, true, &v), PB_DROP_UDP_BAD);
	p[5] = 0; /* a jumbogram says 0 */
	CHECK_EQ(pb_udp_parse(p, 40, &a4, &b4, true, &v), PB_DROP_UDP_BAD);
	pb_udp_write(p, &a4, &b4, 0, 2, 0);
	CHECK_EQ(pb_udp_parse(p, 8, &a4, &b4, false, &v), PB_DROP_NONE);
	CHECK_EQ(v.payload_len, 0);
	pb_udp_write(p, &a4, &b4, 1, 0, 0);
	CHECK_EQ(pb_udp_parse(p, 8, &a4, &b4, false, &v), PB_DROP_UDP_BAD);
}

TEST(absent_checksum)
{
	uint8_t p[10] = {0, 1, 0, 2, 0, 10, 0, 0, 1, 2};
	struct pb_udp_view v;
	addresses();
	CHECK_EQ(pb_udp_parse(p, 10, &a4, &b4, false, &v), PB_DROP_NONE);
	CHECK_EQ(pb_udp_parse(p, 10, &a6, &b6, false, &v), PB_DROP_UDP_BAD);
	CHECK_EQ(pb_udp_parse(p, 10, &a6, &b6, true, &v), PB_DROP_UDP_BAD);
}

TEST(a_sum_of_zero_is_sent_as_ffff)
{
	addresses();
	uint32_t seen = 0;
	for (uint32_t x = 0; x < 65536; x++) {
		uint8_t p[10] = {[8] = (uint8_t)(x >> 8), (uint8_t)x};
		struct pb_udp_view v;
		pb_udp_write(p, &a4, &b4, 1, 2, 2);
		CHECK(p[6] | p[7]);
		seen += p[6] == 0xff && p[7] == 0xff;
		CHECK_EQ(pb_udp_parse(p, 10, &a4, &b4, false, &v), PB_DROP_NONE);
	}
	CHECK_EQ(seen, 1);
}

TEST(mutated)
{
	struct pb_rng r = test_rng();
	uint32_t good = 0;
	addresses();
	for (int k = 0; k < 200000; k++) {
		uint8_t s[60] = {0};
		bool v6 = k & 1;
		random_bytes(&r, s + 8, 20);
		pb_udp_write(s, v6 ? &a6 : &a4, v6 ? &b6 : &b4, 7, 9, 20);
		uint32_t n = mutate(&r, s, 28, sizeof(s));
		uint8_t *p = malloc(n ? n : 1);
		struct pb_udp_view v;
		memcpy(p, s, n);
		if (!pb_udp_parse(p, n, v6 ? &a6 : &a4, v6 ? &b6 : &b4, k & 2, &v)) {
			good++;
			CHECK(v.payload == p + 8 && v.payload_len + 8 <= n);
		}
		free(p);
	}
	CHECK(good > 1000);
}

MAIN(T(writes_and_parses), T(lengths), T(absent_checksum), T(a_sum_of_zero_is_sent_as_ffff), T(mutated))
