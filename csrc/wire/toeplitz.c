#include "wire/toeplitz.h"

const uint8_t pb_toeplitz_key_default[PB_TOEPLITZ_KEY_LEN] = {
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
	0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
	0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
};

const uint8_t pb_toeplitz_key_symmetric[PB_TOEPLITZ_KEY_LEN] = {
	0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a,
	0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a,
	0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a,
};

static uint8_t key_byte(const uint8_t *key, uint32_t key_len, uint32_t i)
{
	return i < key_len ? key[i] : 0;
}

/* The 32 key bits that start at bit `bit`. */
static uint32_t key_window(const uint8_t *key, uint32_t key_len, uint32_t bit)
{
	uint64_t w = 0;
	for (uint32_t i = 0; i < 5; i++)
		w = w << 8 | key_byte(key, key_len, bit / 8 + i);
	return (uint32_t)(w >> (8 - bit % 8));
}

uint32_t pb_toeplitz(const uint8_t *key, uint32_t key_len, const uint8_t *in, uint32_t n)
{
	uint32_t hash = 0;
	for (uint32_t bit = 0; bit < n * 8; bit++)
		if (in[bit / 8] & (0x80 >> bit % 8))
			hash ^= key_window(key, key_len, bit);
	return hash;
}

void pb_toeplitz_table_init(struct pb_toeplitz_table *t, const uint8_t *key, uint32_t key_len)
{
	for (uint32_t i = 0; i < PB_ARRAY_LEN(t->t); i++)
		for (uint32_t v = 0; v < 16; v++) {
			uint32_t hash = 0;
			for (uint32_t b = 0; b < 4; b++)
				if (v & (8u >> b))
					hash ^= key_window(key, key_len, i * 4 + b);
			t->t[i][v] = hash;
		}
}

uint32_t pb_toeplitz_hash(const struct pb_toeplitz_table *t, const uint8_t *in, uint32_t n)
{
	uint32_t hash = 0;
	for (uint32_t i = 0; i < n; i++)
		hash ^= t->t[2 * i][in[i] >> 4] ^ t->t[2 * i + 1][in[i] & 15];
	return hash;
}

void pb_toeplitz_rows(const struct pb_toeplitz_table *t, const uint8_t *rows, uint32_t row_bytes, size_t n,
		      uint32_t *hashes)
{
	for (size_t i = 0; i < n; i++)
		hashes[i] = pb_toeplitz_hash(t, rows + i * row_bytes, row_bytes);
}

/* The addresses as they lie in the header; returns how many bytes. */
static uint32_t put_addrs(uint8_t *in, const struct pb_ip *src, const struct pb_ip *dst)
{
	bool v4 = pb_ip_is4(src) && pb_ip_is4(dst);
	uint32_t n = v4 ? 4 : 16;
	memcpy(in, src->b + 16 - n, n);
	memcpy(in + n, dst->b + 16 - n, n);
	return 2 * n;
}

uint32_t pb_toeplitz_ports(const struct pb_toeplitz_table *t, const struct pb_ip *src, const struct pb_ip *dst,
			   uint16_t sport, uint16_t dport)
{
	uint8_t in[PB_TOEPLITZ_IN_MAX];
	uint32_t n = put_addrs(in, src, dst);
	be16 ports[2] = {pb_be16_of(sport), pb_be16_of(dport)};
	memcpy(in + n, ports, 4);
	return pb_toeplitz_hash(t, in, n + 4);
}

uint32_t pb_toeplitz_addrs(const struct pb_toeplitz_table *t, const struct pb_ip *src, const struct pb_ip *dst)
{
	uint8_t in[PB_TOEPLITZ_IN_MAX];
	return pb_toeplitz_hash(t, in, put_addrs(in, src, dst));
}
