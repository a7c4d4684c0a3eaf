/* The Internet checksum (RFC 1071). A sum is a uint32_t that is congruent, modulo 0xffff, to the one's-complement sum
 * of the 16-bit words in memory order; it need not be folded, and sums may be added to one another in any order. 0 is
 * the empty sum: data that are not all zero never sum to 0. Byte order does not matter (RFC 1071 2 B): only
 * pb_csum_finish() makes bytes of it. */
#ifndef PB_WIRE_CSUM_H
#define PB_WIRE_CSUM_H
#include "base/types.h"

/* Adds n bytes to sum. An odd last byte counts as if a zero followed it. */
PB_API uint32_t pb_csum_partial(const void *p, size_t n, uint32_t sum);
/* The same, and copies the bytes to dst, which must not overlap them. */
PB_API uint32_t pb_csum_copy(void *dst, const void *src, size_t n, uint32_t sum);

static inline uint32_t pb_csum_add(uint32_t a, uint32_t b)
{
	uint32_t s = a + b;
	return s + (s < b); /* end-around carry: 2^32 is 1 modulo 0xffff */
}

/* Adds the sum b of a block that starts `offset` bytes into the data that a is a sum of. At an odd offset the bytes of
 * b changed places; multiplying by 2^8 (a rotation) puts them back. */
static inline uint32_t pb_csum_block_add(uint32_t a, uint32_t b, size_t offset)
{
	return pb_csum_add(a, offset & 1 ? b << 8 | b >> 24 : b);
}

static inline uint16_t pb_csum_fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)(sum + (sum >> 16));
}

/* The checksum field: folded, complemented, in memory order. Over data that hold a correct field it gives zero. */
static inline be16 pb_csum_finish(uint32_t sum)
{
	uint16_t v = (uint16_t)~pb_csum_fold(sum);
	be16 r;
	memcpy(r.b, &v, 2);
	return r;
}

/* True if a sum over data with their checksum field in place is right. */
static inline bool pb_csum_ok(uint32_t sum)
{
	return pb_csum_fold(sum) == 0xffff;
}

static inline uint32_t pb_csum_fold64(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (uint32_t)(sum + (sum >> 32));
}

/* The pseudo header: of IPv4 (RFC 9293 3.1) when both addresses are IPv4, else of IPv6 (RFC 8200 8.1). */
static inline uint32_t pb_csum_pseudo(const struct pb_ip *src, const struct pb_ip *dst, uint8_t proto, uint32_t l4_len)
{
	uint64_t sum = (uint64_t)__builtin_bswap32(l4_len) + ((uint32_t)proto << 8);
	if (pb_ip_is4(src) && pb_ip_is4(dst))
		return pb_csum_fold64(sum + src->w[3] + dst->w[3]);
	for (unsigned i = 0; i < 4; i++)
		sum += (uint64_t)src->w[i] + dst->w[i];
	return pb_csum_fold64(sum);
}

/* The field after a 16-bit word under it changed: RFC 1624 eqn. 3, HC' = ~(~HC + ~m + m'). Unlike eqn. 4 of RFC 1141
 * it never makes 0xffff out of data that sum to 0. */
static inline be16 pb_csum_update16(be16 csum, be16 from, be16 to)
{
	uint16_t hc, m, n;
	memcpy(&hc, csum.b, 2);
	memcpy(&m, from.b, 2);
	memcpy(&n, to.b, 2);
	return pb_csum_finish((uint32_t)(uint16_t)~hc + (uint16_t)~m + n);
}

static inline be16 pb_csum_update32(be16 csum, be32 from, be32 to)
{
	csum = pb_csum_update16(csum, (be16){{from.b[0], from.b[1]}}, (be16){{to.b[0], to.b[1]}});
	return pb_csum_update16(csum, (be16){{from.b[2], from.b[3]}}, (be16){{to.b[2], to.b[3]}});
}
#endif
