#include "harness.h"
#include "wire/toeplitz.h"

/* "Verifying the RSS hash calculation", Microsoft: destination and source with ports, both hashes. */
static const struct {
	uint8_t dst[4], src[4];
	uint16_t dport, sport;
	uint32_t addrs, ports;
} v4[] = {
	{{161, 142, 100, 80}, {66, 9, 149, 187}, 1766, 2794, 0x323e8fc2, 0x51ccc178},
	{{65, 69, 140, 83}, {199, 92, 111, 2}, 4739, 14230, 0xd718262a, 0xc626b0ea},
	{{12, 22, 207, 184}, {24, 19, 198, 95}, 38024, 12898, 0xd2d0a5de, 0x5c2b394a},
	{{209, 142, 163, 6}, {38, 27, 205, 30}, 2217, 48228, 0x82989176, 0xafc7327f},
	{{202, 188, 127, 2}, {153, 39, 163, 191}, 1303, 44251, 0x5d1809c5, 0x10e828a2},
};

static const struct {
	uint16_t dst[8], src[8];
	uint16_t dport, sport;
	uint32_t addrs, ports;
} v6[] = {
	{{0x3ffe, 0x2501, 0x200, 3, 0, 0, 0, 1},
	 {0x3ffe, 0x2501, 0x200, 0x1fff, 0, 0, 0, 7},
	 1766,
	 2794,
	 0x2cc18cd5,
	 0x40207d3d},
	{{0xff02, 0, 0, 0, 0, 0, 0, 1},
	 {0x3ffe, 0x501, 8, 0, 0x260, 0x97ff, 0xfe40, 0xefab},
	 4739,
	 14230,
	 0x0f0c461c,
	 0xdde51bbf},
	{{0xfe80, 0, 0, 0, 0x200, 0xf8ff, 0xfe21, 0x67cf},
	 {0x3ffe, 0x1900, 0x4545, 3, 0x200, 0xf8ff, 0xfe21, 0x67cf},
	 38024,
	 44251,
	 0x4b61e985,
	 0x02d1feef},
};

static struct pb_ip ip6(const uint16_t w[8])
{
	struct pb_ip a;
	for (int i = 0; i < 8; i++) {
		a.b[2 * i] = (uint8_t)(w[i] >> 8);
		a.b[2 * i + 1] = (uint8_t)w[i];
	}
	return a;
}

TEST(microsoft_suite)
{
	struct pb_toeplitz_table t;
	pb_toeplitz_table_init(&t, pb_toeplitz_key_default, PB_TOEPLITZ_KEY_LEN);
	for (size_t i = 0; i < PB_ARRAY_LEN(v4); i++) {
		struct pb_ip src = pb_ip_from4(v4[i].src), dst = pb_ip_from4(v4[i].dst);
		CHECK_EQ(pb_toeplitz_addrs(&t, &src, &dst), v4[i].addrs);
		CHECK_EQ(pb_toeplitz_ports(&t, &src, &dst, v4[i].sport, v4[i].dport), v4[i].ports);
	}
	for (size_t i = 0; i < PB_ARRAY_LEN(v6); i++) {
		struct pb_ip src = ip6(v6[i].src), dst = ip6(v6[i].dst);
		CHECK_EQ(pb_toeplitz_addrs(&t, &src, &dst), v6[i].addrs);
		CHECK_EQ(pb_toeplitz_ports(&t, &src, &dst, v6[i].sport, v6[i].dport), v6[i].ports);
	}
}

/* The definition: a window of 32 bits slides over the key, one bit per bit of input. */
static uint32_t slow(const uint8_t *key, const uint8_t *in, uint32_t n)
{
	uint32_t window = (uint32_t)key[0] << 24 | (uint32_t)key[1] << 16 | (uint32_t)key[2] << 8 | key[3], hash = 0;
	for (uint32_t i = 0; i < n * 8; i++) {
		if (in[i / 8] >> (7 - i % 8) & 1)
			hash ^= window;
		uint32_t next = i + 32;
		window = window << 1 | (key[next / 8] >> (7 - next % 8) & 1);
	}
	return hash;
}

TEST(table_and_bits_agree)
{
	struct pb_rng r = test_rng();
	for (int k = 0; k < 300; k++) {
		uint8_t key[64] = {0}, in[36];
		struct pb_toeplitz_table t;
		random_bytes(&r, key, 52);
		pb_toeplitz_table_init(&t, key, 52);
		for (uint32_t n = 0; n <= 36; n++) {
			random_bytes(&r, in, n);
			CHECK_EQ(pb_toeplitz(key, 52, in, n), slow(key, in, n));
			CHECK_EQ(pb_toeplitz_hash(&t, in, n), slow(key, in, n));
		}
	}
}

TEST(short_key_reads_as_zeros)
{
	uint8_t *key = malloc(5), full[64] = {0}, in[12];
	struct pb_rng r = test_rng();
	random_bytes(&r, key, 5);
	memcpy(full, key, 5);
	random_bytes(&r, in, sizeof(in));
	CHECK_EQ(pb_toeplitz(key, 5, in, 12), slow(full, in, 12));
	free(key);
}

TEST(symmetric_key)
{
	struct pb_toeplitz_table t;
	struct pb_rng r = test_rng();
	pb_toeplitz_table_init(&t, pb_toeplitz_key_symmetric, PB_TOEPLITZ_KEY_LEN);
	for (size_t i = 0; i < PB_TOEPLITZ_KEY_LEN; i++)
		CHECK_EQ(pb_toeplitz_key_symmetric[i], i & 1 ? 0x5a : 0x6d);
	for (int k = 0; k < 2000; k++) {
		uint8_t w[36];
		random_bytes(&r, w, sizeof(w));
		struct pb_ip a = pb_ip_from6(w), b = pb_ip_from6(w + 16), c = pb_ip_from4(w), d = pb_ip_from4(w + 4);
		uint16_t x = (uint16_t)pb_rng_u64(&r), y = (uint16_t)pb_rng_u64(&r);
		CHECK_EQ(pb_toeplitz_ports(&t, &a, &b, x, y), pb_toeplitz_ports(&t, &b, &a, y, x));
		CHECK_EQ(pb_toeplitz_ports(&t, &c, &d, x, y), pb_toeplitz_ports(&t, &d, &c, y, x));
		CHECK_EQ(pb_toeplitz_addrs(&t, &c, &d), pb_toeplitz_addrs(&t, &d, &c));
	}
}

TEST(rows_one_after_the_other)
{
	static uint8_t rows[50 * 36];
	uint32_t hashes[51];
	struct pb_toeplitz_table t;
	struct pb_rng r = test_rng();
	random_bytes(&r, rows, sizeof(rows));
	pb_toeplitz_table_init(&t, pb_toeplitz_key_default, PB_TOEPLITZ_KEY_LEN);
	for (uint32_t width = 1; width <= 36; width++) {
		hashes[50] = 0xabad1dea;
		pb_toeplitz_rows(&t, rows, width, 50, hashes);
		for (uint32_t i = 0; i < 50; i++)
			CHECK_EQ(hashes[i], slow(pb_toeplitz_key_default, rows + i * width, width));
		CHECK_EQ(hashes[50], 0xabad1dea);
	}
	pb_toeplitz_rows(&t, rows, 12, 0, hashes + 50);
	CHECK_EQ(hashes[50], 0xabad1dea);
}

MAIN(T(microsoft_suite), T(table_and_bits_agree), T(rows_one_after_the_other), T(short_key_reads_as_zeros),
     T(symmetric_key))
