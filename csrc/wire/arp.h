/* ARP for IPv4 over Ethernet (RFC 826). */
#ifndef PB_WIRE_ARP_H
#define PB_WIRE_ARP_H
#include "base/drops.h"
#include "base/types.h"

#define PB_ARP_LEN 28

enum pb_arp_op { PB_ARP_REQUEST = 1, PB_ARP_REPLY = 2 };

struct pb_arp_hdr {
	be16 hw_type;    /* 1: Ethernet */
	be16 proto_type; /* 0x0800 */
	uint8_t hw_len, proto_len;
	be16 op;
	uint8_t sha[6], spa[4]; /* sender */
	uint8_t tha[6], tpa[4]; /* target */
};
_Static_assert(sizeof(struct pb_arp_hdr) == PB_ARP_LEN, "ARP packet");

struct pb_arp_view {
	uint16_t op;
	uint8_t sha[6], spa[4];
	uint8_t tha[6], tpa[4];
};

/* p: after the Ethernet header. PB_DROP_ARP_BAD unless it is a request or reply of the one kind above; also when the
 * sender claims a group MAC, or a multicast, broadcast or loopback IP address, which would poison a neighbour table.
 * A sender IP of 0.0.0.0 is a probe (RFC 5227 2.1.1) and passes. */
static inline enum pb_drop pb_arp_parse(const uint8_t *p, uint32_t len, struct pb_arp_view *v)
{
	static const uint8_t fixed[6] = {0, 1, 8, 0, 6, 4};
	const struct pb_arp_hdr *h = (const void *)p;
	if (len < PB_ARP_LEN || memcmp(p, fixed, sizeof(fixed)))
		return PB_DROP_ARP_BAD;
	v->op = pb_be16_get(h->op);
	memcpy(v->sha, h->sha, 6);
	memcpy(v->spa, h->spa, 4);
	memcpy(v->tha, h->tha, 6);
	memcpy(v->tpa, h->tpa, 4);
	bool bad = (v->op != PB_ARP_REQUEST && v->op != PB_ARP_REPLY) || (v->sha[0] & 1) || v->spa[0] >= 224 ||
		   v->spa[0] == 127;
	return bad ? PB_DROP_ARP_BAD : PB_DROP_NONE;
}

/* Returns 28. */
static inline uint32_t pb_arp_write(uint8_t *p, uint16_t op, const uint8_t sha[6], const uint8_t spa[4],
				    const uint8_t tha[6], const uint8_t tpa[4])
{
	struct pb_arp_hdr *h = (void *)p;
	h->hw_type = pb_be16_of(1);
	h->proto_type = pb_be16_of(0x0800);
	h->hw_len = 6;
	h->proto_len = 4;
	h->op = pb_be16_of(op);
	memcpy(h->sha, sha, 6);
	memcpy(h->spa, spa, 4);
	memcpy(h->tha, tha, 6);
	memcpy(h->tpa, tpa, 4);
	return PB_ARP_LEN;
}
#endif
