/* Ethernet II with up to two VLAN tags (IEEE 802.1Q, 802.1ad). */
#ifndef PB_WIRE_ETH_H
#define PB_WIRE_ETH_H
#include "base/drops.h"
#include "base/types.h"

#define PB_ETH_HLEN 14
#define PB_VLAN_HLEN 4

enum pb_ethertype {
	PB_ETH_IP4 = 0x0800,
	PB_ETH_ARP = 0x0806,
	PB_ETH_VLAN = 0x8100, /* 802.1Q */
	PB_ETH_IP6 = 0x86dd,
	PB_ETH_QINQ = 0x88a8, /* 802.1ad */
};

struct pb_eth_hdr {
	uint8_t dst[6];
	uint8_t src[6];
	be16 type;
};
_Static_assert(sizeof(struct pb_eth_hdr) == PB_ETH_HLEN, "Ethernet header");

struct pb_vlan_tag {
	be16 tci;  /* priority 3 bits, DEI 1, VLAN id 12 */
	be16 type; /* of what follows */
};
_Static_assert(sizeof(struct pb_vlan_tag) == PB_VLAN_HLEN, "VLAN tag");

struct pb_eth_view {
	const uint8_t *dst, *src;
	uint16_t type;       /* after the tags; below 0x600 it is an 802.3 length */
	uint16_t hdr_len;    /* where the payload starts */
	uint16_t vlan;       /* TCI of the outer tag, 0 without one */
	uint16_t vlan_inner; /* TCI of the second tag */
	uint8_t vlans;       /* tags found: 0, 1 or 2 */
};

/* PB_DROP_L2_SHORT if the header or a tag is cut off, PB_DROP_L2_TYPE at a third tag. */
static inline enum pb_drop pb_eth_parse(const uint8_t *p, uint32_t len, struct pb_eth_view *v)
{
	if (len < PB_ETH_HLEN)
		return PB_DROP_L2_SHORT;
	const struct pb_eth_hdr *h = (const void *)p;
	v->dst = h->dst;
	v->src = h->src;
	v->type = pb_be16_get(h->type);
	v->hdr_len = PB_ETH_HLEN;
	v->vlan = 0;
	v->vlan_inner = 0;
	v->vlans = 0;
	while (v->type == PB_ETH_VLAN || v->type == PB_ETH_QINQ) {
		if (v->vlans == 2)
			return PB_DROP_L2_TYPE;
		if (len < (uint32_t)v->hdr_len + PB_VLAN_HLEN)
			return PB_DROP_L2_SHORT;
		const struct pb_vlan_tag *t = (const void *)(p + v->hdr_len);
		if (v->vlans++)
			v->vlan_inner = pb_be16_get(t->tci);
		else
			v->vlan = pb_be16_get(t->tci);
		v->type = pb_be16_get(t->type);
		v->hdr_len = (uint16_t)(v->hdr_len + PB_VLAN_HLEN);
	}
	return PB_DROP_NONE;
}

/* Group bit (IEEE 802): multicast or broadcast. */
static inline bool pb_eth_is_group(const uint8_t mac[6])
{
	return mac[0] & 1;
}

static inline uint32_t pb_eth_write(uint8_t *p, const uint8_t dst[6], const uint8_t src[6], uint16_t type)
{
	struct pb_eth_hdr *h = (void *)p;
	memcpy(h->dst, dst, 6);
	memcpy(h->src, src, 6);
	h->type = pb_be16_of(type);
	return PB_ETH_HLEN;
}

/* The same with one 802.1Q tag; returns 18. */
static inline uint32_t pb_eth_write_vlan(uint8_t *p, const uint8_t dst[6], const uint8_t src[6], uint16_t tci,
					 uint16_t type)
{
	struct pb_vlan_tag *t = (void *)(p + pb_eth_write(p, dst, src, PB_ETH_VLAN));
	t->tci = pb_be16_of(tci);
	t->type = pb_be16_of(type);
	return PB_ETH_HLEN + PB_VLAN_HLEN;
}
#endif
