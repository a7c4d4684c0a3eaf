#include "wire/csum.h"

static uint64_t load64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, 8);
	return v;
}

static uint64_t copy64(uint8_t *to, const uint8_t *p)
{
	uint64_t v = load64(p);
	memcpy(to, &v, 8);
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

/* Four sums side by side, so that one add does not wait for the carry of the one before. */
uint32_t pb_csum_partial(const void *data, size_t n, uint32_t sum)
{
	const uint8_t *p = data;
	uint64_t a = sum, b = 0, c = 0, d = 0;
	for (; n >= 32; n -= 32, p += 32) {
		a = add64(a, load64(p));
		b = add64(b, load64(p + 8));
		c = add64(c, load64(p + 16));
		d = add64(d, load64(p + 24));
	}
	a = add64(add64(a, b), add64(c, d));
	for (; n >= 8; n -= 8, p += 8)
		a = add64(a, load64(p));
	if (n)
		a = add64(a, load_tail(p, n));
	return pb_csum_fold64(a);
}

uint32_t pb_csum_copy(void *dst, const void *src, size_t n, uint32_t sum)
{
	uint8_t *to = dst;
	const uint8_t *p = src;
	uint64_t a = sum, b = 0, c = 0, d = 0;
	for (; n >= 32; n -= 32, p += 32, to += 32) {
		a = add64(a, copy64(to, p));
		b = add64(b, copy64(to + 8, p + 8));
		c = add64(c, copy64(to + 16, p + 16));
		d = add64(d, copy64(to + 24, p + 24));
	}
	a = add64(add64(a, b), add64(c, d));
	for (; n >= 8; n -= 8, p += 8, to += 8)
		a = add64(a, copy64(to, p));
	if (n) {
		a = add64(a, load_tail(p, n));
		memcpy(to, p, n);
	}
	return pb_csum_fold64(a);
}
