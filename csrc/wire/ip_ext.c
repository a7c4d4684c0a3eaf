#include "wire/ip_ext.h"

#include "wire/ip.h"

/* Hop-by-hop and destination options. The two high bits of a type that is not known say what to do: 00 is skip, all
 * else is discard (RFC 8200 4.2). The types known here need nothing done: padding, and router alert is 00. */
static bool options_ok(const uint8_t *p, uint32_t n)
{
	while (n) {
		if (p[0] == 0) {
			p++;
			n--;
			continue;
		}
		if (n < 2 || (uint32_t)p[1] + 2 > n || p[0] >> 6)
			return false;
		n -= p[1] + 2u;
		p += p[1] + 2;
	}
	return true;
}

static bool header_ok(uint8_t proto, const uint8_t *p, uint32_t n)
{
	if (proto == PB_IPPROTO_HOPOPTS || proto == PB_IPPROTO_DSTOPTS)
		return options_ok(p + 2, n - 2);
	if (proto == PB_IPPROTO_ROUTING)
		return p[2] != 0 && p[3] == 0;
	return proto != PB_IPPROTO_AH || n >= 12;
}

static uint32_t header_len(uint8_t proto, const uint8_t *p)
{
	if (proto == PB_IPPROTO_FRAGMENT)
		return 8;
	/* AH counts in words of four (RFC 4302 2.2), the others in words of eight. */
	return proto == PB_IPPROTO_AH ? (p[1] + 2u) * 4 : (p[1] + 1u) * 8;
}

static bool is_ext(uint8_t proto)
{
	return proto == PB_IPPROTO_HOPOPTS || proto == PB_IPPROTO_DSTOPTS || proto == PB_IPPROTO_ROUTING ||
	       proto == PB_IPPROTO_FRAGMENT || proto == PB_IPPROTO_AH;
}

static void read_fragment(struct pb_ip6_ext *x, const uint8_t *p)
{
	be16 off;
	be32 id;
	memcpy(off.b, p + 2, 2);
	memcpy(id.b, p + 4, 4);
	x->frag_off = pb_be16_get(off) & 0xfff8;
	x->more_frags = pb_be16_get(off) & 1;
	x->frag_id = pb_be32_get(id);
}

enum pb_drop pb_ip6_ext_walk(const uint8_t *p, uint32_t total, struct pb_ip6_ext *x)
{
	*x = (struct pb_ip6_ext){.hdr_len = PB_IP6_HLEN, .proto = p[6]};
	bool fragmented = false;
	for (unsigned i = 0; is_ext(x->proto); i++) {
		const uint8_t *h = p + x->hdr_len;
		uint32_t left = total - x->hdr_len;
		if (i == PB_IP6_EXT_MAX || left < 8 || (x->proto == PB_IPPROTO_HOPOPTS && i))
			return PB_DROP_IP_OPTION;
		uint32_t n = header_len(x->proto, h);
		/* An AH may be cut to words of four, but must keep the chain aligned to 8 (RFC 4302 2.2). */
		if (n > left || (n & 7) || !header_ok(x->proto, h, n))
			return PB_DROP_IP_OPTION;
		if (x->proto == PB_IPPROTO_FRAGMENT) {
			if (fragmented)
				return PB_DROP_IP_OPTION;
			fragmented = true;
			read_fragment(x, h);
		}
		x->proto = h[0];
		x->hdr_len += n;
		if (x->frag_off)
			break;
	}
	return PB_DROP_NONE;
}
