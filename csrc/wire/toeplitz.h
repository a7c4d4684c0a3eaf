/* The Toeplitz hash that NICs spread flows by (Microsoft, "RSS hashing types"). Addresses and ports go in as they lie
 * on the wire: source address, destination address, source port, destination port. */
#ifndef PB_WIRE_TOEPLITZ_H
#define PB_WIRE_TOEPLITZ_H
#include "base/types.h"

#define PB_TOEPLITZ_KEY_LEN 40
#define PB_TOEPLITZ_IN_MAX 36 /* two IPv6 addresses and two ports */

/* Microsoft's verification key, the default of most NICs. */
PB_API extern const uint8_t pb_toeplitz_key_default[PB_TOEPLITZ_KEY_LEN];
/* 0x6d5a repeated: both directions of a flow hash alike (Woo and Park, 2012). */
PB_API extern const uint8_t pb_toeplitz_key_symmetric[PB_TOEPLITZ_KEY_LEN];

/* Bit by bit, for any length. Key bits past key_len count as 0; a key for n bytes has n + 4. */
PB_API uint32_t pb_toeplitz(const uint8_t *key, uint32_t key_len, const uint8_t *in, uint32_t n);

/* What each nibble of the input contributes: 4.5 KiB, so it stays in L1. */
struct pb_toeplitz_table {
	uint32_t t[2 * PB_TOEPLITZ_IN_MAX][16];
};

PB_API void pb_toeplitz_table_init(struct pb_toeplitz_table *t, const uint8_t *key, uint32_t key_len);
/* n <= 36. */
PB_API uint32_t pb_toeplitz_hash(const struct pb_toeplitz_table *t, const uint8_t *in, uint32_t n);
/* Of n rows of row_bytes each (1 to 36), one after the other; a hash for each. */
PB_API void pb_toeplitz_rows(const struct pb_toeplitz_table *t, const uint8_t *rows, uint32_t row_bytes, size_t n,
			     uint32_t *hashes);
/* Of a flow; as IPv4 if both addresses are. Ports in host byte order. */
PB_API uint32_t pb_toeplitz_ports(const struct pb_toeplitz_table *t, const struct pb_ip *src, const struct pb_ip *dst,
				  uint16_t sport, uint16_t dport);
/* Addresses only: what a NIC hashes for fragments and for protocols without ports. */
PB_API uint32_t pb_toeplitz_addrs(const struct pb_toeplitz_table *t, const struct pb_ip *src, const struct pb_ip *dst);
#endif
