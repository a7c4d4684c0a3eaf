/* IPv4 (RFC 791, RFC 1122) and IPv6 (RFC 8200) headers: checked once into a view, and written. */
#ifndef PB_WIRE_IP_H
#define PB_WIRE_IP_H
#include "base/drops.h"
#include "base/types.h"
#include "wire/csum.h"

#define PB_IP4_HLEN 20
#define PB_IP6_HLEN 40

enum pb_ipproto {
	PB_IPPROTO_HOPOPTS = 0,
	PB_IPPROTO_ICMP = 1,
	PB_IPPROTO_TCP = 6,
	PB_IPPROTO_UDP = 17,
	PB_IPPROTO_ROUTING = 43,
	PB_IPPROTO_FRAGMENT = 44,
	PB_IPPROTO_AH = 51,
	PB_IPPROTO_ICMP6 = 58,
	PB_IPPROTO_NONE = 59,
	PB_IPPROTO_DSTOPTS = 60,
};

enum pb_ecn { PB_ECN_NOT = 0, PB_ECN_ECT1 = 1, PB_ECN_ECT0 = 2, PB_ECN_CE = 3, PB_ECN_MASK = 3 };

struct pb_ip4_hdr {
	uint8_t ver_ihl, tos;
	be16 total_len, id, frag; /* frag: reserved, DF, MF, 13 bits of offset / 8 */
	uint8_t ttl, proto;
	be16 csum;
	uint8_t src[4], dst[4];
};
_Static_assert(sizeof(struct pb_ip4_hdr) == PB_IP4_HLEN, "IPv4 header");

struct pb_ip6_hdr {
	be32 ver_tc_flow;
	be16 payload_len;
	uint8_t next, hop_limit;
	uint8_t src[16], dst[16];
};
_Static_assert(sizeof(struct pb_ip6_hdr) == PB_IP6_HLEN, "IPv6 header");

struct pb_ip_view {
	struct pb_ip src, dst;
	uint32_t hdr_len;   /* with options and extension headers: where the payload starts */
	uint32_t total_len; /* header and payload, <= len: Ethernet padding is not in it */
	uint32_t frag_id;   /* IPv4 identification, or the one in an IPv6 fragment header */
	uint32_t flow_label;
	uint16_t frag_off; /* bytes */
	uint8_t version;   /* 4 or 6 */
	uint8_t proto;     /* of the payload, after extension headers */
	uint8_t ttl;       /* or hop limit */
	uint8_t tos;       /* or traffic class; ECN in its two low bits */
	bool fragment;     /* not whole: IPv6 "atomic" fragments (RFC 6946) do not count */
	bool more_frags;
	bool df; /* true for IPv6 */
};

/* Everything pb_ip_parse() does, without its shortcut. */
PB_API enum pb_drop pb_ip_parse_any(const uint8_t *p, uint32_t len, struct pb_ip_view *v);

/* What is wrong with a pair of IPv4 addresses (host byte order) on the wire; RFC 1122 3.2.1.3. */
static inline enum pb_drop pb_ip4_check_addrs(uint32_t src, uint32_t dst)
{
	uint32_t s = src >> 24;
	if (s == 0 || s == 127 || (s & 0xf0) == 224 || src == UINT32_MAX || dst >> 24 == 127)
		return PB_DROP_IP_SRC;
	return src == dst ? PB_DROP_IP_LAND : PB_DROP_NONE;
}

/* Parses and checks an IP packet of either version. PB_DROP_IP_SHORT, _VERSION, _CSUM, _OPTION: v is not to be used.
 * PB_DROP_IP_SRC (source multicast, broadcast or unspecified; a loopback address on either side; IPv4-mapped addresses
 * in IPv6, which must not be taken for IPv4), PB_DROP_IP_LAND and PB_DROP_IP_FRAGMENT: v is whole, so a slow path may
 * judge anew (duplicate address detection comes from ::). In a fragment other than the first, proto's header is not
 * there. */
static inline enum pb_drop pb_ip_parse(const uint8_t *p, uint32_t len, struct pb_ip_view *v)
{
	const struct pb_ip4_hdr *h = (const void *)p;
	/* The shortcut: IPv4, no options, no fragment. */
	if (len < PB_IP4_HLEN || h->ver_ihl != 0x45 || ((h->frag.b[0] & 0x3f) | h->frag.b[1]))
		return pb_ip_parse_any(p, len, v);
	uint32_t w[5];
	memcpy(w, p, sizeof(w));
	if (!pb_csum_ok(pb_csum_fold64((uint64_t)w[0] + w[1] + w[2] + w[3] + w[4])))
		return PB_DROP_IP_CSUM;
	uint32_t total = pb_be16_get(h->total_len);
	if (total < PB_IP4_HLEN || total > len)
		return PB_DROP_IP_SHORT;
	v->src = pb_ip_from4(h->src);
	v->dst = pb_ip_from4(h->dst);
	v->hdr_len = PB_IP4_HLEN;
	v->total_len = total;
	v->frag_id = pb_be16_get(h->id);
	v->flow_label = 0;
	v->frag_off = 0;
	v->version = 4;
	v->proto = h->proto;
	v->ttl = h->ttl;
	v->tos = h->tos;
	v->fragment = false;
	v->more_frags = false;
	v->df = h->frag.b[0] & 0x40;
	return pb_ip4_check_addrs(__builtin_bswap32(w[3]), __builtin_bswap32(w[4]));
}

static inline bool pb_ip_is_multicast(const struct pb_ip *a)
{
	return pb_ip_is4(a) ? (a->b[12] & 0xf0) == 224 : a->b[0] == 0xff;
}

/* All-zero address of either family. */
static inline bool pb_ip_is_unspecified(const struct pb_ip *a)
{
	return a->w[3] == 0 && (pb_ip_is4(a) || (a->q[0] | a->w[2]) == 0);
}

/* Whether one host can have it (RFC 1122 3.2.1.3): no group, no broadcast, none of the networks 0 and 127. */
static inline bool pb_ip_is_host(const struct pb_ip *a)
{
	if (!pb_ip_is4(a))
		return a->b[0] != 0xff && !pb_ip_is_unspecified(a);
	uint8_t net = a->b[12];
	return net != 0 && net != 127 && (net & 0xf0) != 224 && a->w[3] != UINT32_MAX;
}

/* Writes an IPv4 header with its checksum; returns 20. payload_len <= 65515. */
static inline uint32_t pb_ip4_write(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint8_t proto,
				    uint8_t ttl, uint8_t tos, uint16_t id, bool df, uint32_t payload_len)
{
	uint32_t w0 = pb_wire32(0x45u << 24 | (uint32_t)tos << 16 | (PB_IP4_HLEN + payload_len)),
		 w1 = pb_wire32((uint32_t)id << 16 | (df ? 0x4000 : 0)),
		 w2 = pb_wire32((uint32_t)ttl << 24 | (uint32_t)proto << 16);
	uint64_t sum = (uint64_t)w0 + w1 + w2 + src->w[3] + dst->w[3];
	pb_store32(p, w0);
	pb_store32(p + 4, w1);
	pb_store32(p + 8, w2 | (uint32_t)(uint16_t)~pb_csum_fold(pb_csum_fold64(sum)) << 16);
	pb_store32(p + 12, src->w[3]);
	pb_store32(p + 16, dst->w[3]);
	return PB_IP4_HLEN;
}

/* Writes an IPv6 header; returns 40. payload_len <= 65535 and counts extension headers. */
static inline uint32_t pb_ip6_write(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint8_t proto,
				    uint8_t hop_limit, uint8_t tclass, uint32_t flow_label, uint32_t payload_len)
{
	struct pb_ip6_hdr *h = (void *)p;
	h->ver_tc_flow = pb_be32_of(6u << 28 | (uint32_t)tclass << 20 | (flow_label & 0xfffff));
	h->payload_len = pb_be16_of((uint16_t)payload_len);
	h->next = proto;
	h->hop_limit = hop_limit;
	memcpy(h->src, src->b, 16);
	memcpy(h->dst, dst->b, 16);
	return PB_IP6_HLEN;
}
#endif
