/* TCP headers and options (RFC 9293, RFC 7323, RFC 2018): checked once into a view, and written. */
#ifndef PB_WIRE_TCP_H
#define PB_WIRE_TCP_H
#include "base/drops.h"
#include "base/types.h"
#include "wire/csum.h"
#include "wire/ip.h"

#define PB_TCP_HLEN 20
#define PB_TCP_OPTS_MAX 40
#define PB_TCP_SACKS_MAX 4
#define PB_TCP_WSCALE_MAX 14

enum pb_tcp_flag {
	PB_TCP_FIN = 0x01,
	PB_TCP_SYN = 0x02,
	PB_TCP_RST = 0x04,
	PB_TCP_PSH = 0x08,
	PB_TCP_ACK = 0x10,
	PB_TCP_URG = 0x20,
	PB_TCP_ECE = 0x40,
	PB_TCP_CWR = 0x80,
};

enum pb_tcp_opt {
	PB_TCPOPT_EOL = 0,
	PB_TCPOPT_NOP = 1,
	PB_TCPOPT_MSS = 2,
	PB_TCPOPT_WSCALE = 3,
	PB_TCPOPT_SACK_OK = 4,
	PB_TCPOPT_SACK = 5,
	PB_TCPOPT_TS = 8,
};

struct pb_tcp_hdr {
	be16 sport, dport;
	be32 seq, ack;
	uint8_t doff; /* high four bits: header length in words */
	uint8_t flags;
	be16 wnd, csum, urg;
};
_Static_assert(sizeof(struct pb_tcp_hdr) == PB_TCP_HLEN, "TCP header");

struct pb_tcp_view {
	uint16_t sport, dport;
	uint32_t seq, ack;
	uint16_t wnd; /* as sent: not scaled */
	uint16_t urg;
	uint8_t flags;
	uint8_t hdr_len; /* with options: where the data start */
	uint8_t opts_len;
	const uint8_t *opts;
};

/* p: the IP payload, len its length. PB_DROP_TCP_SHORT, _OFFSET, _PORT (either is 0); _FLAGS: none of SYN, ACK, RST and
 * FIN, or SYN+FIN, SYN+RST, or FIN without ACK (FIN+RST without ACK too). The checksum is not looked at. */
static inline enum pb_drop pb_tcp_parse(const uint8_t *p, uint32_t len, struct pb_tcp_view *v)
{
	if (len < PB_TCP_HLEN)
		return PB_DROP_TCP_SHORT;
	const struct pb_tcp_hdr *h = (const void *)p;
	uint32_t hdr_len = (uint32_t)(h->doff >> 4) * 4;
	if (hdr_len < PB_TCP_HLEN || hdr_len > len)
		return PB_DROP_TCP_OFFSET;
	v->sport = pb_be16_get(h->sport);
	v->dport = pb_be16_get(h->dport);
	if (!v->sport || !v->dport)
		return PB_DROP_TCP_PORT;
	uint8_t f = h->flags;
	v->flags = f;
	if (!(f & (PB_TCP_SYN | PB_TCP_ACK | PB_TCP_RST)) || ((f & PB_TCP_SYN) && (f & (PB_TCP_FIN | PB_TCP_RST))) ||
	    (f & (PB_TCP_FIN | PB_TCP_ACK)) == PB_TCP_FIN)
		return PB_DROP_TCP_FLAGS;
	v->seq = pb_be32_get(h->seq);
	v->ack = pb_be32_get(h->ack);
	v->wnd = pb_be16_get(h->wnd);
	v->urg = pb_be16_get(h->urg);
	v->hdr_len = (uint8_t)hdr_len;
	v->opts = p + PB_TCP_HLEN;
	v->opts_len = (uint8_t)(hdr_len - PB_TCP_HLEN);
	return PB_DROP_NONE;
}

struct pb_tcp_opts {
	uint16_t mss;
	uint8_t wscale; /* at most 14 after parsing (RFC 7323 2.3) */
	uint8_t n_sack;
	bool has_mss, has_wscale, sack_ok, has_ts;
	uint32_t ts_val, ts_ecr;
	struct {
		uint32_t left, right;
	} sack[PB_TCP_SACKS_MAX];
};

/* Everything pb_tcp_opts_parse() does, without its shortcut. */
PB_API enum pb_drop pb_tcp_opts_parse_any(const uint8_t *opts, uint32_t n, struct pb_tcp_opts *o);

/* Reads n bytes of options. Fields of options that are absent are 0 (the blocks past n_sack are not set).
 * PB_DROP_TCP_OPTION: a length below 2 or past the end, or a known option with a length not its own. Unknown options
 * are skipped; of an option given twice the last counts. */
static inline enum pb_drop pb_tcp_opts_parse(const uint8_t *opts, uint32_t n, struct pb_tcp_opts *o)
{
	static const uint8_t nop_nop_ts[4] = {PB_TCPOPT_NOP, PB_TCPOPT_NOP, PB_TCPOPT_TS, 10};
	/* The shortcut (RFC 7323 appendix A): timestamps alone, on every segment of most connections. */
	if (n != 12 || memcmp(opts, nop_nop_ts, 4))
		return pb_tcp_opts_parse_any(opts, n, o);
	be32 val, ecr;
	memcpy(val.b, opts + 4, 4);
	memcpy(ecr.b, opts + 8, 4);
	memset(o, 0, offsetof(struct pb_tcp_opts, sack));
	o->has_ts = true;
	o->ts_val = pb_be32_get(val);
	o->ts_ecr = pb_be32_get(ecr);
	return PB_DROP_NONE;
}

/* Writes options in the layout that Linux uses: MSS; SACK-permitted with timestamps, or NOP NOP and timestamps; NOP NOP
 * SACK-permitted when without timestamps; NOP window scale; NOP NOP SACK blocks, as many as still fit. Returns the
 * length, a multiple of 4, at most 40: p has room for 40. */
PB_API uint32_t pb_tcp_opts_write(uint8_t *p, const struct pb_tcp_opts *o);

/* NOP NOP and timestamps, 12 bytes; returns their checksum. */
static inline uint32_t pb_tcp_opts_write_ts(uint8_t *p, uint32_t val, uint32_t ecr)
{
	uint32_t w0 = pb_wire32(PB_TCPOPT_NOP << 24 | PB_TCPOPT_NOP << 16 | PB_TCPOPT_TS << 8 | 10),
		 w1 = pb_wire32(val), w2 = pb_wire32(ecr);
	pb_store32(p, w0);
	pb_store32(p + 4, w1);
	pb_store32(p + 8, w2);
	return pb_csum_fold64((uint64_t)w0 + w1 + w2);
}

/* Writes a header for opts_len bytes of options (a multiple of 4; the caller writes them at p + 20), urgent pointer 0,
 * checksum field 0: pb_tcp_set_csum() follows. Returns 20 + opts_len. */
static inline uint32_t pb_tcp_write(uint8_t *p, uint16_t sport, uint16_t dport, uint32_t seq, uint32_t ack,
				    uint8_t flags, uint16_t wnd, uint32_t opts_len)
{
	pb_store32(p, pb_wire32((uint32_t)sport << 16 | dport));
	pb_store32(p + 4, pb_wire32(seq));
	pb_store32(p + 8, pb_wire32(ack));
	pb_store32(p + 12, pb_wire32((PB_TCP_HLEN + opts_len) / 4 << 28 | (uint32_t)flags << 16 | wnd));
	pb_store32(p + 16, 0);
	return PB_TCP_HLEN + opts_len;
}

/* The same, with its checksum: sum is that of the pseudo header, the options and the data. */
static inline uint32_t pb_tcp_write_sum(uint8_t *p, uint16_t sport, uint16_t dport, uint32_t seq, uint32_t ack,
					uint8_t flags, uint16_t wnd, uint32_t opts_len, uint32_t sum)
{
	uint32_t w0 = pb_wire32((uint32_t)sport << 16 | dport), w1 = pb_wire32(seq), w2 = pb_wire32(ack),
		 w3 = pb_wire32((PB_TCP_HLEN + opts_len) / 4 << 28 | (uint32_t)flags << 16 | wnd);
	uint64_t all = (uint64_t)sum + w0 + w1 + w2 + w3;
	pb_store32(p, w0);
	pb_store32(p + 4, w1);
	pb_store32(p + 8, w2);
	pb_store32(p + 12, w3);
	pb_store32(p + 16, (uint16_t)~pb_csum_fold(pb_csum_fold64(all)));
	return PB_TCP_HLEN + opts_len;
}

/* The checksum of a segment of tcp_len bytes, header and data in one piece: fills it in, or verifies it. */
PB_API void pb_tcp_set_csum(uint8_t *tcp, uint32_t tcp_len, const struct pb_ip *src, const struct pb_ip *dst);
PB_API bool pb_tcp_csum_ok(const uint8_t *tcp, uint32_t tcp_len, const struct pb_ip *src, const struct pb_ip *dst);
/* What a NIC is given to complete: the field holds the pseudo header's sum, not complemented (PB_DESC_CSUM_PARTIAL). */
PB_API void pb_tcp_set_csum_partial(uint8_t *tcp, uint32_t tcp_len, const struct pb_ip *src, const struct pb_ip *dst);
#endif
