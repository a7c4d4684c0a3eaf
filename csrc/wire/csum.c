#include "wire/csum.h"

/* The same source for every CPU: the loader takes the copy with the widest vectors that it has. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) &&                           \
	!defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDEST __attribute__((target_clones("avx2", "default")))
#else
#define WIDEST
#endif

#define BLOCK 64 /* bytes a turn */
typedef uint64_t vec __attribute__((vector_size(32)));
#define LOW32 ((vec){UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX})

static uint64_t load64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, 8);
	return v;
}

/* One's-complement add of 64-bit words: 2^64 is 1 modulo 0xffff, so the carry comes back in at the bottom. */
static uint64_t add64(uint64_t a, uint64_t b)
{
	uint64_t s = a + b;
	return s + (s < b);
}

/* The last 0 to 7 bytes, as a little-endian word padded with zeros. Fixed sizes: a memcpy() of n is a call. */
static uint64_t load_tail(const uint8_t *p, size_t n)
{
	uint64_t v = 0;
	unsigned shift = 0;
	if (n & 4) {
		uint32_t w;
		memcpy(&w, p, 4);
		v = w;
		p += 4;
		shift = 32;
	}
	if (n & 2) {
		uint16_t w;
		memcpy(&w, p, 2);
		v |= (uint64_t)w << shift;
		p += 2;
		shift += 16;
	}
	return n & 1 ? v | (uint64_t)*p << shift : v;
}

/* The last 0 to 63 bytes. */
static uint32_t sum_rest(const uint8_t *p, size_t n, uint64_t a)
{
	uint64_t b = 0;
	for (; n >= 16; n -= 16, p += 16) {
		a = add64(a, load64(p));
		b = add64(b, load64(p + 8));
	}
	if (n >= 8) {
		a = add64(a, load64(p));
		n -= 8;
		p += 8;
	}
	if (n)
		b = add64(b, load_tail(p, n));
	return pb_csum_fold64(add64(a, b));
}

/* Lanes of 64 bits take 32-bit words without a carry: 2^32 of them, so n < 2^34. */
WIDEST static uint64_t sum_blocks(const uint8_t *p, size_t n)
{
	vec low = {0}, high = {0}, x, y;
	for (size_t i = 0; i < n; i += BLOCK) {
		memcpy(&x, p + i, sizeof(x));
		memcpy(&y, p + i + sizeof(x), sizeof(y));
		low += (x & LOW32) + (y & LOW32);
		high += (x >> 32) + (y >> 32);
	}
	low += high;
	return add64(add64(low[0], low[1]), add64(low[2], low[3]));
}

WIDEST static uint64_t copy_blocks(uint8_t *to, const uint8_t *p, size_t n)
{
	vec low = {0}, high = {0}, x, y;
	for (size_t i = 0; i < n; i += BLOCK) {
		memcpy(&x, p + i, sizeof(x));
		memcpy(&y, p + i + sizeof(x), sizeof(y));
		memcpy(to + i, &x, sizeof(x));
		memcpy(to + i + sizeof(x), &y, sizeof(y));
		low += (x & LOW32) + (y & LOW32);
		high += (x >> 32) + (y >> 32);
	}
	low += high;
	return add64(add64(low[0], low[1]), add64(low[2], low[3]));
}

uint32_t pb_csum_partial(const void *data, size_t n, uint32_t sum)
{
	const uint8_t *p = data;
	size_t whole = n & ~(size_t)(BLOCK - 1);
	uint64_t a = whole ? sum_blocks(p, whole) : 0;
	return sum_rest(p + whole, n - whole, add64(a, sum));
}

uint32_t pb_csum_copy(void *dst, const void *src, size_t n, uint32_t sum)
{
	const uint8_t *p = src;
	uint8_t *to = dst;
	size_t whole = n & ~(size_t)(BLOCK - 1);
	uint64_t a = whole ? copy_blocks(to, p, whole) : 0;
	memcpy(to + whole, p + whole, n - whole);
	return sum_rest(p + whole, n - whole, add64(a, sum));
}
