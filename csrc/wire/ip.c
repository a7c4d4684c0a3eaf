#include "wire/ip.h"

#include "wire/ip_ext.h"

/* IPv4 options (RFC 791 3.1). Source routes are refused: nobody honest sends them any more (RFC 7126 4.3, 4.4). */
static enum pb_drop check_options4(const uint8_t *p, uint32_t n)
{
	enum { EOL = 0, NOP = 1, LSRR = 131, SSRR = 137 };
	while (n) {
		if (p[0] == EOL)
			break;
		if (p[0] == NOP) {
			p++;
			n--;
			continue;
		}
		if (n < 2 || p[1] < 2 || p[1] > n || p[0] == LSRR || p[0] == SSRR)
			return PB_DROP_IP_OPTION;
		n -= p[1];
		p += p[1];
	}
	return PB_DROP_NONE;
}

static enum pb_drop parse4(const uint8_t *p, uint32_t len, struct pb_ip_view *v)
{
	if (len < PB_IP4_HLEN)
		return PB_DROP_IP_SHORT;
	const struct pb_ip4_hdr *h = (const void *)p;
	uint32_t hdr_len = (h->ver_ihl & 15u) * 4;
	uint32_t total = pb_be16_get(h->total_len);
	if (hdr_len < PB_IP4_HLEN)
		return PB_DROP_IP_VERSION;
	if (hdr_len > len)
		return PB_DROP_IP_SHORT;
	if (!pb_csum_ok(pb_csum_partial(p, hdr_len, 0)))
		return PB_DROP_IP_CSUM;
	if (total < hdr_len || total > len)
		return PB_DROP_IP_SHORT;
	if (check_options4(p + PB_IP4_HLEN, hdr_len - PB_IP4_HLEN))
		return PB_DROP_IP_OPTION;
	uint16_t frag = pb_be16_get(h->frag);
	v->src = pb_ip_from4(h->src);
	v->dst = pb_ip_from4(h->dst);
	v->hdr_len = hdr_len;
	v->total_len = total;
	v->frag_id = pb_be16_get(h->id);
	v->frag_off = (uint16_t)((frag & 0x1fff) * 8);
	v->more_frags = frag & 0x2000;
	v->fragment = v->frag_off || v->more_frags;
	v->df = frag & 0x4000;
	v->version = 4;
	v->proto = h->proto;
	v->ttl = h->ttl;
	v->tos = h->tos;
	enum pb_drop why = pb_ip4_check_addrs(__builtin_bswap32(v->src.w[3]), __builtin_bswap32(v->dst.w[3]));
	return why ? why : v->fragment ? PB_DROP_IP_FRAGMENT : PB_DROP_NONE;
}

static bool is_loopback6(const struct pb_ip *a)
{
	return a->q[0] == 0 && a->w[2] == 0 && a->w[3] == __builtin_bswap32(1);
}

static enum pb_drop check_addrs6(const struct pb_ip *src, const struct pb_ip *dst)
{
	if (src->b[0] == 0xff || pb_ip_is_unspecified(src) || is_loopback6(src) || is_loopback6(dst) ||
	    pb_ip_is4(src) || pb_ip_is4(dst))
		return PB_DROP_IP_SRC;
	return pb_ip_eq(src, dst) ? PB_DROP_IP_LAND : PB_DROP_NONE;
}

static enum pb_drop parse6(const uint8_t *p, uint32_t len, struct pb_ip_view *v)
{
	if (len < PB_IP6_HLEN)
		return PB_DROP_IP_SHORT;
	const struct pb_ip6_hdr *h = (const void *)p;
	uint32_t total = PB_IP6_HLEN + (uint32_t)pb_be16_get(h->payload_len);
	uint32_t first = pb_be32_get(h->ver_tc_flow);
	if (total > len)
		return PB_DROP_IP_SHORT;
	struct pb_ip6_ext x;
	if (pb_ip6_ext_walk(p, total, &x))
		return PB_DROP_IP_OPTION;
	v->src = pb_ip_from6(h->src);
	v->dst = pb_ip_from6(h->dst);
	v->hdr_len = x.hdr_len;
	v->total_len = total;
	v->frag_id = x.frag_id;
	v->flow_label = first & 0xfffff;
	v->frag_off = x.frag_off;
	v->more_frags = x.more_frags;
	v->fragment = x.frag_off || x.more_frags;
	v->df = true;
	v->version = 6;
	v->proto = x.proto;
	v->ttl = h->hop_limit;
	v->tos = (uint8_t)(first >> 20);
	enum pb_drop why = check_addrs6(&v->src, &v->dst);
	return why ? why : v->fragment ? PB_DROP_IP_FRAGMENT : PB_DROP_NONE;
}

enum pb_drop pb_ip_parse_any(const uint8_t *p, uint32_t len, struct pb_ip_view *v)
{
	if (!len)
		return PB_DROP_IP_SHORT;
	memset(v, 0, sizeof(*v));
	if (p[0] >> 4 == 4)
		return parse4(p, len, v);
	return p[0] >> 4 == 6 ? parse6(p, len, v) : PB_DROP_IP_VERSION;
}
