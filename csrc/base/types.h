/* Types that every layer shares. Big-endian fields are structs, so that a missing conversion does not compile. */
#ifndef PB_BASE_TYPES_H
#define PB_BASE_TYPES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PB_API __attribute__((visibility("default")))
#define PB_CACHE_LINE 64
#define PB_ALIGNED(n) __attribute__((aligned(n)))
#define PB_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

typedef struct {
	uint8_t b[2];
} be16;
typedef struct {
	uint8_t b[4];
} be32;
_Static_assert(sizeof(be16) == 2 && _Alignof(be16) == 1, "be16 is two bytes, unaligned");
_Static_assert(sizeof(be32) == 4 && _Alignof(be32) == 1, "be32 is four bytes, unaligned");

/* An IPv4 or IPv6 address. IPv4 is held as ::ffff:a.b.c.d, so one comparison serves both families. */
struct pb_ip {
	union {
		uint8_t b[16];
		uint32_t w[4];
		uint64_t q[2];
	};
};

static inline uint16_t pb_be16_get(be16 v)
{
	return (uint16_t)((unsigned)v.b[0] << 8 | v.b[1]);
}

static inline be16 pb_be16_of(uint16_t v)
{
	return (be16){{(uint8_t)(v >> 8), (uint8_t)v}};
}

static inline uint32_t pb_be32_get(be32 v)
{
	uint32_t w;
	memcpy(&w, v.b, 4);
	return __builtin_bswap32(w);
}

static inline be32 pb_be32_of(uint32_t v)
{
	be32 r;
	v = __builtin_bswap32(v);
	memcpy(r.b, &v, 4);
	return r;
}

/* Four bytes of the wire as one word of memory. Headers are made of such words in registers: a word that is read where
 * its bytes were just written waits for the store. */
static inline uint32_t pb_wire32(uint32_t v)
{
	return __builtin_bswap32(v);
}

static inline void pb_store32(uint8_t *p, uint32_t word)
{
	memcpy(p, &word, 4);
}

static inline bool pb_ip_eq(const struct pb_ip *a, const struct pb_ip *b)
{
	return ((a->q[0] ^ b->q[0]) | (a->q[1] ^ b->q[1])) == 0;
}

static inline bool pb_ip_is4(const struct pb_ip *a)
{
	return a->q[0] == 0 && a->b[8] == 0 && a->b[9] == 0 && a->b[10] == 0xff && a->b[11] == 0xff;
}

static inline struct pb_ip pb_ip_from4(const uint8_t v4[4])
{
	struct pb_ip a = {.b = {[10] = 0xff, [11] = 0xff}};
	memcpy(a.b + 12, v4, 4);
	return a;
}

static inline struct pb_ip pb_ip_from6(const uint8_t v6[16])
{
	struct pb_ip a;
	memcpy(a.b, v6, 16);
	return a;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pb_be32_* assume a little-endian host");
#endif
