/* The chain of IPv6 extension headers (RFC 8200 4). */
#ifndef PB_WIRE_IP_EXT_H
#define PB_WIRE_IP_EXT_H
#include "base/drops.h"
#include "base/types.h"

/* A chain longer than this is refused (RFC 8504 5.3 allows a limit). */
#define PB_IP6_EXT_MAX 8

struct pb_ip6_ext {
	uint32_t hdr_len; /* the IPv6 header and all extension headers */
	uint32_t frag_id;
	uint16_t frag_off; /* bytes */
	bool more_frags;
	uint8_t proto; /* of what follows */
};

/* p: an IPv6 header, whole; total <= what is there. Walks hop-by-hop (first only), destination, routing, fragment and
 * authentication headers. PB_DROP_IP_OPTION: a header that is cut off or not in its place, too many, a type 0 routing
 * header (RFC 5095) or one with segments left, an option whose type asks for the packet to be discarded. After a
 * fragment header with an offset the chain ends: what follows is not a header. */
PB_API enum pb_drop pb_ip6_ext_walk(const uint8_t *p, uint32_t total, struct pb_ip6_ext *x);
#endif
