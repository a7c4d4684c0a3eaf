#include "wire/udp.h"

#include "wire/ip.h"

enum pb_drop pb_udp_parse(const uint8_t *p, uint32_t len, const struct pb_ip *src, const struct pb_ip *dst,
			  bool csum_good, struct pb_udp_view *v)
{
	const struct pb_udp_hdr *h = (const void *)p;
	if (len < PB_UDP_HLEN)
		return PB_DROP_UDP_BAD;
	uint32_t udp_len = pb_be16_get(h->len);
	v->sport = pb_be16_get(h->sport); /* 0 is allowed: no answer wanted (RFC 768) */
	v->dport = pb_be16_get(h->dport);
	if (udp_len < PB_UDP_HLEN || udp_len > len || !v->dport)
		return PB_DROP_UDP_BAD;
	v->payload = p + PB_UDP_HLEN;
	v->payload_len = udp_len - PB_UDP_HLEN;
	bool absent = !(h->csum.b[0] | h->csum.b[1]);
	if (absent)
		return pb_ip_is4(src) && pb_ip_is4(dst) ? PB_DROP_NONE : PB_DROP_UDP_BAD;
	if (csum_good)
		return PB_DROP_NONE;
	uint32_t sum = pb_csum_partial(p, udp_len, pb_csum_pseudo(src, dst, PB_IPPROTO_UDP, udp_len));
	return pb_csum_ok(sum) ? PB_DROP_NONE : PB_DROP_UDP_BAD;
}

uint32_t pb_udp_write(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint16_t sport, uint16_t dport,
		      uint32_t payload_len)
{
	struct pb_udp_hdr *h = (void *)p;
	uint32_t len = PB_UDP_HLEN + payload_len;
	*h = (struct pb_udp_hdr){
		.sport = pb_be16_of(sport), .dport = pb_be16_of(dport), .len = pb_be16_of((uint16_t)len)};
	h->csum = pb_csum_finish(pb_csum_partial(p, len, pb_csum_pseudo(src, dst, PB_IPPROTO_UDP, len)));
	/* A sum of 0 is sent as its other form, for 0 says "none" (RFC 768). */
	if (!(h->csum.b[0] | h->csum.b[1]))
		h->csum = pb_be16_of(0xffff);
	return PB_UDP_HLEN;
}
