#include "wire/icmp.h"

#include "wire/ip_ext.h"
#include "wire/tcp.h"

enum {
	ICMP4_ECHO_REPLY = 0,
	ICMP4_UNREACH = 3,
	ICMP4_FRAG_NEEDED = 4, /* a code of the above */
	ICMP4_ECHO = 8,
	ICMP4_TIME = 11,
	ICMP4_PARAM = 12,
	ICMP6_UNREACH = 1,
	ICMP6_TOO_BIG = 2,
	ICMP6_TIME = 3,
	ICMP6_PARAM = 4,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
};

struct icmp_hdr {
	uint8_t type, code;
	be16 csum;
	be32 rest;
};
_Static_assert(sizeof(struct icmp_hdr) == PB_ICMP_HLEN, "ICMP header");

static enum pb_icmp_kind kind4(uint8_t type, uint8_t code)
{
	switch (type) {
	case ICMP4_ECHO_REPLY:
		return PB_ICMP_ECHO_REPLY;
	case ICMP4_ECHO:
		return PB_ICMP_ECHO_REQUEST;
	case ICMP4_UNREACH:
		return code == ICMP4_FRAG_NEEDED ? PB_ICMP_TOO_BIG : PB_ICMP_UNREACH;
	case ICMP4_TIME:
		return PB_ICMP_TIME_EXCEEDED;
	case ICMP4_PARAM:
		return PB_ICMP_PARAM;
	default:
		return PB_ICMP_OTHER;
	}
}

static enum pb_icmp_kind kind6(uint8_t type)
{
	switch (type) {
	case ICMP6_UNREACH:
		return PB_ICMP_UNREACH;
	case ICMP6_TOO_BIG:
		return PB_ICMP_TOO_BIG;
	case ICMP6_TIME:
		return PB_ICMP_TIME_EXCEEDED;
	case ICMP6_PARAM:
		return PB_ICMP_PARAM;
	case ICMP6_ECHO:
		return PB_ICMP_ECHO_REQUEST;
	case ICMP6_ECHO_REPLY:
		return PB_ICMP_ECHO_REPLY;
	default:
		return PB_ICMP_OTHER;
	}
}

static void read_ports(const uint8_t *p, uint32_t n, struct pb_icmp_quote *q)
{
	const struct pb_tcp_hdr *h = (const void *)p;
	if ((q->proto != PB_IPPROTO_TCP && q->proto != PB_IPPROTO_UDP) || n < 4)
		return;
	q->has_ports = true;
	q->sport = pb_be16_get(h->sport);
	q->dport = pb_be16_get(h->dport);
	if (q->proto == PB_IPPROTO_TCP && n >= 8) {
		q->has_seq = true;
		q->seq = pb_be32_get(h->seq);
	}
}

/* The quoted packet was changed on its way (TTL, checksum) and is cut off: only what must hold is checked. */
static bool read_quote4(const uint8_t *p, uint32_t n, struct pb_icmp_quote *q)
{
	const struct pb_ip4_hdr *h = (const void *)p;
	if (n < PB_IP4_HLEN)
		return false;
	uint32_t hdr_len = (h->ver_ihl & 15u) * 4;
	if (h->ver_ihl >> 4 != 4 || hdr_len < PB_IP4_HLEN || hdr_len > n)
		return false;
	q->src = pb_ip_from4(h->src);
	q->dst = pb_ip_from4(h->dst);
	q->proto = h->proto;
	if (!((h->frag.b[0] & 0x1f) | h->frag.b[1]))
		read_ports(p + hdr_len, n - hdr_len, q);
	return true;
}

static bool read_quote6(const uint8_t *p, uint32_t n, struct pb_icmp_quote *q)
{
	const struct pb_ip6_hdr *h = (const void *)p;
	struct pb_ip6_ext x;
	if (n < PB_IP6_HLEN || p[0] >> 4 != 6 || pb_ip6_ext_walk(p, n, &x))
		return false;
	q->src = pb_ip_from6(h->src);
	q->dst = pb_ip_from6(h->dst);
	q->proto = x.proto;
	if (!x.frag_off)
		read_ports(p + x.hdr_len, n - x.hdr_len, q);
	return true;
}

enum pb_drop pb_icmp_parse(const struct pb_ip_view *ip, const uint8_t *p, uint32_t len, struct pb_icmp_view *v)
{
	const struct icmp_hdr *h = (const void *)p;
	bool v6 = ip->version == 6;
	if (len < PB_ICMP_HLEN || ip->proto != (v6 ? PB_IPPROTO_ICMP6 : PB_IPPROTO_ICMP))
		return PB_DROP_ICMP_BAD;
	/* ICMPv6 covers a pseudo header (RFC 4443 2.3), ICMP does not. */
	uint32_t sum = v6 ? pb_csum_pseudo(&ip->src, &ip->dst, PB_IPPROTO_ICMP6, len) : 0;
	if (!pb_csum_ok(pb_csum_partial(p, len, sum)))
		return PB_DROP_ICMP_BAD;
	memset(v, 0, sizeof(*v));
	v->type = h->type;
	v->code = h->code;
	v->kind = v6 ? kind6(h->type) : kind4(h->type, h->code);
	v->body = p + PB_ICMP_HLEN;
	v->body_len = len - PB_ICMP_HLEN;
	uint32_t rest = pb_be32_get(h->rest);
	switch (v->kind) {
	case PB_ICMP_ECHO_REQUEST:
	case PB_ICMP_ECHO_REPLY:
		v->id = (uint16_t)(rest >> 16);
		v->seq = (uint16_t)rest;
		return PB_DROP_NONE;
	case PB_ICMP_OTHER:
		return PB_DROP_NONE;
	case PB_ICMP_TOO_BIG:
		v->mtu = v6 ? rest : rest & 0xffff;
		break;
	default:
		break;
	}
	bool ok = v6 ? read_quote6(v->body, v->body_len, &v->quote) : read_quote4(v->body, v->body_len, &v->quote);
	return ok ? PB_DROP_NONE : PB_DROP_ICMP_BAD;
}

static bool is6(const struct pb_ip *src, const struct pb_ip *dst)
{
	return !pb_ip_is4(src) || !pb_ip_is4(dst);
}

/* Header in front of n bytes of body that are in place. */
static uint32_t write_header(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint8_t type, uint8_t code,
			     uint32_t rest, uint32_t n)
{
	struct icmp_hdr *h = (void *)p;
	uint32_t len = PB_ICMP_HLEN + n;
	*h = (struct icmp_hdr){.type = type, .code = code, .rest = pb_be32_of(rest)};
	uint32_t sum = is6(src, dst) ? pb_csum_pseudo(src, dst, PB_IPPROTO_ICMP6, len) : 0;
	h->csum = pb_csum_finish(pb_csum_partial(p, len, sum));
	return len;
}

uint32_t pb_icmp_write_echo(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, bool reply, uint16_t id,
			    uint16_t seq, const uint8_t *data, uint32_t n)
{
	uint8_t type = reply ? ICMP4_ECHO_REPLY : ICMP4_ECHO;
	if (is6(src, dst))
		type = reply ? ICMP6_ECHO_REPLY : ICMP6_ECHO;
	if (n)
		memmove(p + PB_ICMP_HLEN, data, n);
	return write_header(p, src, dst, type, 0, (uint32_t)id << 16 | seq, n);
}

uint32_t pb_icmp_write_error(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint8_t type, uint8_t code,
			     uint32_t rest, const uint8_t *packet, uint32_t n)
{
	uint32_t most = is6(src, dst) ? 1280 - PB_IP6_HLEN - PB_ICMP_HLEN : 576 - PB_IP4_HLEN - PB_ICMP_HLEN;
	if (n > most)
		n = most;
	memmove(p + PB_ICMP_HLEN, packet, n);
	return write_header(p, src, dst, type, code, rest, n);
}

uint32_t pb_icmp_write_unreach(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint8_t code,
			       const uint8_t *packet, uint32_t n)
{
	return pb_icmp_write_error(p, src, dst, is6(src, dst) ? ICMP6_UNREACH : ICMP4_UNREACH, code, 0, packet, n);
}

uint32_t pb_icmp_write_too_big(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint32_t mtu,
			       const uint8_t *packet, uint32_t n)
{
	if (is6(src, dst))
		return pb_icmp_write_error(p, src, dst, ICMP6_TOO_BIG, 0, mtu, packet, n);
	return pb_icmp_write_error(p, src, dst, ICMP4_UNREACH, ICMP4_FRAG_NEEDED, mtu & 0xffff, packet, n);
}
