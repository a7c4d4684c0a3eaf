#include "wire/csum.h"

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

/* The last 0 to 7 bytes, as a little-endian word padded with zeros. */
static uint64_t load_tail(const uint8_t *p, size_t n)
{
	uint64_t v = 0;
	memcpy(&v, p, n);
	return v;
}

uint32_t pb_csum_partial(const void *data, size_t n, uint32_t sum)
{
	const uint8_t *p = data;
	uint64_t a = sum, b = 0;
	/* Two chains of adds, so that one does not wait for the other's carry. */
	for (; n >= 64; n -= 64, p += 64) {
		a = add64(a, load64(p));
		b = add64(b, load64(p + 8));
		a = add64(a, load64(p + 16));
		b = add64(b, load64(p + 24));
		a = add64(a, load64(p + 32));
		b = add64(b, load64(p + 40));
		a = add64(a, load64(p + 48));
		b = add64(b, load64(p + 56));
	}
	for (; n >= 8; n -= 8, p += 8)
		a = add64(a, load64(p));
	if (n)
		b = add64(b, load_tail(p, n));
	return pb_csum_fold64(add64(a, b));
}

uint32_t pb_csum_copy(void *dst, const void *src, size_t n, uint32_t sum)
{
	uint8_t *d = dst;
	const uint8_t *p = src;
	uint64_t a = sum, b = 0;
	for (; n >= 32; n -= 32, p += 32, d += 32) {
		uint64_t w[4];
		memcpy(w, p, 32);
		memcpy(d, w, 32);
		a = add64(a, w[0]);
		b = add64(b, w[1]);
		a = add64(a, w[2]);
		b = add64(b, w[3]);
	}
	for (; n >= 8; n -= 8, p += 8, d += 8) {
		uint64_t w = load64(p);
		memcpy(d, &w, 8);
		a = add64(a, w);
	}
	if (n) {
		b = add64(b, load_tail(p, n));
		memcpy(d, p, n);
	}
	return pb_csum_fold64(add64(a, b));
}
