/* ICMP errors about segments of ours, and the errno that Linux makes of them. */
#include "wire/icmp.h"
#include "script/impl.h"
#include "wire/ip.h"

#include <errno.h>

/* By the code of a destination unreachable message (RFC 792, RFC 1122 3.2.2.1, RFC 1812 5.2.7.1). */
static int errno4(uint8_t code)
{
	static const uint8_t by_code[] = {
		ENETUNREACH,  EHOSTUNREACH, ENOPROTOOPT,  ECONNREFUSED, EMSGSIZE,     EOPNOTSUPP,
		ENETUNREACH,  EHOSTDOWN,    ENONET,       ENETUNREACH,  EHOSTUNREACH, ENETUNREACH,
		EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH,
	};
	return code < sizeof(by_code) ? by_code[code] : EHOSTUNREACH;
}

/* RFC 4443 3.1. */
static int errno6(uint8_t code)
{
	static const uint8_t by_code[] = {
		ENETUNREACH, EACCES, EHOSTUNREACH, EHOSTUNREACH, ECONNREFUSED, EACCES, EACCES,
	};
	return code < sizeof(by_code) ? by_code[code] : EPROTO;
}

static int error_of(uint8_t version, const struct pb_icmp_view *m)
{
	switch (m->kind) {
	case PB_ICMP_UNREACH:
		return version == 4 ? errno4(m->code) : errno6(m->code);
	case PB_ICMP_PARAM:
		return EPROTO;
	default:
		return EHOSTUNREACH;
	}
}

unsigned icmp_input(struct pb_host *h, const uint8_t *ip, uint32_t len)
{
	struct pb_ip_view v;
	struct pb_icmp_view m;
	enum pb_drop why = pb_ip_parse(ip, len, &v);
	if (!why)
		why = pb_icmp_parse(&v, ip + v.hdr_len, v.total_len - v.hdr_len, &m);
	if (why)
		return why;
	bool error = m.kind == PB_ICMP_UNREACH || m.kind == PB_ICMP_TOO_BIG || m.kind == PB_ICMP_TIME_EXCEEDED ||
		     m.kind == PB_ICMP_PARAM;
	if (!error || m.quote.proto != PB_IPPROTO_TCP || !m.quote.has_seq)
		return PB_DROP_IP_PROTO;
	struct pb_tcp_endpoint local = {m.quote.src, m.quote.sport}, remote = {m.quote.dst, m.quote.dport};
	/* RFC 1191 5: a router that does not say gets the next lower plateau. */
	uint32_t mtu = m.kind != PB_ICMP_TOO_BIG ? 0 : m.mtu ? m.mtu : 576;
	int rc = pb_tcp_icmp(h->tcp, &local, &remote, m.quote.seq, error_of(v.version, &m), mtu, h->now_ns);
	return rc ? PB_DROP_ICMP_BAD : PB_DROP_NONE;
}
