/* ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443): echo, and errors with the packet that they quote. */
#ifndef PB_WIRE_ICMP_H
#define PB_WIRE_ICMP_H
#include "base/drops.h"
#include "base/types.h"
#include "wire/ip.h"

#define PB_ICMP_HLEN 8

/* What a message means, the same for both versions. Types and codes differ between them. */
enum pb_icmp_kind {
	PB_ICMP_OTHER = 0, /* neighbour discovery, redirect, ...: look at type and code */
	PB_ICMP_ECHO_REQUEST,
	PB_ICMP_ECHO_REPLY,
	PB_ICMP_UNREACH,       /* code: as in the message */
	PB_ICMP_TOO_BIG,       /* fragmentation needed, or packet too big; mtu */
	PB_ICMP_TIME_EXCEEDED, /* code 0: in transit; 1: reassembly */
	PB_ICMP_PARAM,         /* parameter problem */
};

/* The packet that an error is about: src is its sender, so ours. */
struct pb_icmp_quote {
	struct pb_ip src, dst;
	uint8_t proto;
	bool has_ports; /* TCP or UDP, first fragment, and quoted far enough */
	bool has_seq;   /* TCP, and eight bytes of it quoted */
	uint16_t sport, dport;
	uint32_t seq;
};

struct pb_icmp_view {
	enum pb_icmp_kind kind;
	uint8_t type, code;
	uint16_t id, seq;    /* echo */
	uint32_t mtu;        /* PB_ICMP_TOO_BIG; 0 if an old router did not say (RFC 1191 5) */
	const uint8_t *body; /* after the eight bytes of header */
	uint32_t body_len;
	struct pb_icmp_quote quote; /* UNREACH, TOO_BIG, TIME_EXCEEDED, PARAM */
};

/* p: the IP payload, len = ip->total_len - ip->hdr_len. ip->proto says which ICMP; of the two the wrong one for the
 * version, a wrong checksum, a cut-off message, or an error whose quoted IP header cannot be read is PB_DROP_ICMP_BAD.
 */
PB_API enum pb_drop pb_icmp_parse(const struct pb_ip_view *ip, const uint8_t *p, uint32_t len, struct pb_icmp_view *v);

/* True for messages that must not be answered by an error (RFC 1122 3.2.2, RFC 4443 2.4 e). */
static inline bool pb_icmp_is_error(uint8_t version, uint8_t type)
{
	if (version == 6)
		return type < 128;
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

/* Writers. The version follows the addresses: IPv4 if both are. src and dst are those of the packet to be sent. Each
 * fills in the checksum and returns the length of the ICMP message. */

/* n bytes of data may lie at p + 8 already (data == p + 8). Returns 8 + n. */
PB_API uint32_t pb_icmp_write_echo(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, bool reply,
				   uint16_t id, uint16_t seq, const uint8_t *data, uint32_t n);
/* Quotes as much of the IP packet (n bytes) as fits: 576 bytes in all for IPv4 (RFC 1812 4.3.2.3), 1280 for IPv6. p
 * has room for 8 + min(n, 1232) bytes. `rest` is the second header word. */
PB_API uint32_t pb_icmp_write_error(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint8_t type,
				    uint8_t code, uint32_t rest, const uint8_t *packet, uint32_t n);
/* Port unreachable, host unreachable, ...: code as in the version's own numbering. */
PB_API uint32_t pb_icmp_write_unreach(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint8_t code,
				      const uint8_t *packet, uint32_t n);
PB_API uint32_t pb_icmp_write_too_big(uint8_t *p, const struct pb_ip *src, const struct pb_ip *dst, uint32_t mtu,
				      const uint8_t *packet, uint32_t n);
#endif
