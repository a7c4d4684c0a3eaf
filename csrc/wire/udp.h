/* UDP (RFC 768; over IPv6 RFC 8200 8.1). */
#ifndef PB_WIRE_UDP_H
#define PB_WIRE_UDP_H
#include "base/drops.h"
#include "base/types.h"

#define PB_UDP_HLEN 8

struct pb_udp_hdr {
	be16 sport, dport, len, csum;
};
_Static_assert(sizeof(struct pb_udp_hdr) == PB_UDP_HLEN, "UDP header");

struct pb_udp_view {
	uint16_t sport, dport;
	uint32_t payload_len;
	const uint8_t *payload;
};

/* p: the IP payload. csum_good: the device verified it. PB_DROP_UDP_BAD: cut off, length field wrong, destination port
 * 0, or the checksum wrong or absent where it may not be (absent is allowed in IPv4 only). The datagram may be shorter
 * than the IP payload. */
PB_API enum pb_drop pb_udp_parse(const uint8_t *p, uint32_t len, const struct pb_ip *src, const struct pb_ip *dst,
				 bool csum_good, struct pb_udp_view *v);
/* Writes the header in front of payload_len bytes that lie at p + 8 already, with its checksum. Returns 8. */
PB_API uint32_t pb_udp_write(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint16_t sport,
			     uint16_t dport, uint32_t payload_len);
#endif
