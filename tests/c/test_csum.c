#include "harness.h"
#include "wire/csum.h"

/* The plain reference: RFC 1071 4.1, 16-bit words in network order, an odd byte padded. Host order result. */
static uint16_t ref_csum(const uint8_t *p, size_t n, uint32_t start)
{
	uint32_t sum = start;
	for (size_t i = 0; i < n; i += 2) {
		sum += (uint32_t)p[i] << 8 | (i + 1 < n ? p[i + 1] : 0u);
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return (uint16_t) ~((sum & 0xffff) + (sum >> 16));
}

TEST(rfc1071_example)
{
	/* RFC 1071 3: the sum is ddf2. */
	const uint8_t p[8] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
	CHECK_EQ(pb_be16_get(pb_csum_finish(pb_csum_partial(p, 8, 0))), 0xffff ^ 0xddf2);
	/* The same summed from an odd place: 00 | 01 f2 03 f4 f5 f6 f7. */
	uint32_t sum = pb_csum_block_add(pb_csum_partial(p, 1, 0), pb_csum_partial(p + 1, 7, 0), 1);
	CHECK_EQ(pb_be16_get(pb_csum_finish(sum)), 0xffff ^ 0xddf2);
}

TEST(every_length_and_alignment)
{
	struct pb_rng r = test_rng();
	uint8_t *p = malloc(400), *q = malloc(400);
	for (size_t n = 0; n <= 300; n++)
		for (size_t at = 0; at < 8; at++) {
			random_bytes(&r, p, 400);
			memset(q, 0xee, 400);
			uint16_t want = ref_csum(p + at, n, 0);
			CHECK_EQ(pb_be16_get(pb_csum_finish(pb_csum_partial(p + at, n, 0))), want);
			CHECK_EQ(pb_be16_get(pb_csum_finish(pb_csum_copy(q + 3, p + at, n, 0))), want);
			CHECK_MEM(q + 3, p + at, n);
			CHECK(q[2] == 0xee && q[3 + n] == 0xee);
		}
	free(p);
	free(q);
}

TEST(reads_no_byte_too_many)
{
	for (size_t n = 1; n < 80; n++) {
		uint8_t *p = malloc(n), *q = malloc(n); /* exact: AddressSanitizer watches the end */
		memset(p, 1, n);
		CHECK_EQ(pb_csum_partial(p, n, 0) % 0xffff, pb_csum_copy(q, p, n, 0) % 0xffff);
		free(p);
		free(q);
	}
}

TEST(extremes)
{
	uint8_t *p = calloc(1, 65536);
	CHECK_EQ(pb_csum_partial(p, 65536, 0), 0);
	CHECK(!pb_csum_ok(0));
	memset(p, 0xff, 65536);
	CHECK_EQ(pb_be16_get(pb_csum_finish(pb_csum_partial(p, 65536, 0))), 0);
	CHECK_EQ(pb_be16_get(pb_csum_finish(pb_csum_partial(p, 65536, UINT32_MAX))), 0);
	CHECK_EQ(pb_csum_add(UINT32_MAX, 1), 1);
	CHECK_EQ(pb_csum_add(UINT32_MAX, UINT32_MAX), UINT32_MAX);
	CHECK_EQ(pb_csum_fold64(UINT64_MAX), UINT32_MAX);
	free(p);
}

TEST(blocks_add_up)
{
	struct pb_rng r = test_rng();
	uint8_t p[257];
	for (int k = 0; k < 20000; k++) {
		size_t n = 1 + pb_rng_below(&r, sizeof(p)), cut = pb_rng_below(&r, (uint32_t)n + 1);
		random_bytes(&r, p, n);
		uint32_t sum = pb_csum_block_add(pb_csum_partial(p, cut, 0), pb_csum_partial(p + cut, n - cut, 0), cut);
		CHECK_EQ(pb_be16_get(pb_csum_finish(sum)), ref_csum(p, n, 0));
	}
}

TEST(rfc1624_examples)
{
	/* RFC 1624 4: HC = dd2f, m = 5555, m' = 3285; eqn. 3 gives 0000, where RFC 1141 gave ffff. */
	be16 hc = pb_csum_update16(pb_be16_of(0xdd2f), pb_be16_of(0x5555), pb_be16_of(0x3285));
	CHECK_EQ(pb_be16_get(hc), 0x0000);
	/* And back. */
	CHECK_EQ(pb_be16_get(pb_csum_update16(hc, pb_be16_of(0x3285), pb_be16_of(0x5555))), 0xdd2f);
}

TEST(updates_equal_a_new_sum)
{
	struct pb_rng r = test_rng();
	for (int k = 0; k < 50000; k++) {
		uint8_t p[40];
		random_bytes(&r, p, sizeof(p));
		be16 csum = pb_csum_finish(pb_csum_partial(p, sizeof(p), 0)), from16, to16;
		be32 from32, to32 = pb_be32_of((uint32_t)pb_rng_u64(&r));
		uint32_t at = pb_rng_below(&r, 20) * 2;
		memcpy(from16.b, p + at, 2);
		to16 = pb_be16_of((uint16_t)pb_rng_u64(&r));
		memcpy(p + at, to16.b, 2);
		csum = pb_csum_update16(csum, from16, to16);
		CHECK_EQ(pb_be16_get(csum), ref_csum(p, sizeof(p), 0));
		at = pb_rng_below(&r, 19) * 2;
		memcpy(from32.b, p + at, 4);
		memcpy(p + at, to32.b, 4);
		csum = pb_csum_update32(csum, from32, to32);
		CHECK_EQ(pb_be16_get(csum), ref_csum(p, sizeof(p), 0));
	}
}

TEST(pseudo_headers)
{
	struct pb_rng r = test_rng();
	for (int k = 0; k < 5000; k++) {
		uint8_t a[16], b[16], h[40] = {0};
		random_bytes(&r, a, 16);
		random_bytes(&r, b, 16);
		uint32_t len = pb_rng_below(&r, 65536);
		uint8_t proto = (uint8_t)pb_rng_u64(&r);
		/* RFC 9293 3.1: addresses, zero, protocol, 16-bit length. */
		struct pb_ip src = pb_ip_from4(a), dst = pb_ip_from4(b);
		memcpy(h, a, 4);
		memcpy(h + 4, b, 4);
		h[9] = proto;
		h[10] = (uint8_t)(len >> 8);
		h[11] = (uint8_t)len;
		CHECK_EQ(pb_be16_get(pb_csum_finish(pb_csum_pseudo(&src, &dst, proto, len))), ref_csum(h, 12, 0));
		/* RFC 8200 8.1: addresses, 32-bit length, three zeros, next header. */
		src = pb_ip_from6(a);
		dst = pb_ip_from6(b);
		len = (uint32_t)pb_rng_u64(&r);
		be32 l = pb_be32_of(len);
		memset(h, 0, sizeof(h));
		memcpy(h, a, 16);
		memcpy(h + 16, b, 16);
		memcpy(h + 32, l.b, 4);
		h[39] = proto;
		CHECK_EQ(pb_be16_get(pb_csum_finish(pb_csum_pseudo(&src, &dst, proto, len))), ref_csum(h, 40, 0));
	}
}

MAIN(T(rfc1071_example), T(every_length_and_alignment), T(reads_no_byte_too_many), T(extremes), T(blocks_add_up),
     T(rfc1624_examples), T(updates_equal_a_new_sum), T(pseudo_headers))
