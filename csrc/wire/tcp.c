#include "wire/tcp.h"

static uint32_t get32(const uint8_t *p)
{
	be32 v;
	memcpy(v.b, p, 4);
	return pb_be32_get(v);
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	be32 b = pb_be32_of(v);
	memcpy(p, b.b, 4);
	return p + 4;
}

/* 1 to 4 blocks (RFC 2018 3); more do not fit into 40 bytes. */
static bool read_sack(const uint8_t *p, uint32_t n, struct pb_tcp_opts *o)
{
	if (n < 8 || n % 8 || n > 8 * PB_TCP_SACKS_MAX)
		return false;
	o->n_sack = (uint8_t)(n / 8);
	for (uint32_t i = 0; i < o->n_sack; i++) {
		o->sack[i].left = get32(p + 8 * i);
		o->sack[i].right = get32(p + 8 * i + 4);
	}
	return true;
}

/* One option: p at its value, n bytes of it. False: not its length. */
static bool read_option(uint8_t kind, const uint8_t *p, uint32_t n, struct pb_tcp_opts *o)
{
	switch (kind) {
	case PB_TCPOPT_MSS:
		o->has_mss = n == 2;
		if (o->has_mss)
			o->mss = (uint16_t)((unsigned)p[0] << 8 | p[1]);
		return o->has_mss;
	case PB_TCPOPT_WSCALE:
		o->has_wscale = n == 1;
		if (o->has_wscale)
			o->wscale = p[0] < PB_TCP_WSCALE_MAX ? p[0] : PB_TCP_WSCALE_MAX;
		return o->has_wscale;
	case PB_TCPOPT_SACK_OK:
		o->sack_ok = n == 0;
		return o->sack_ok;
	case PB_TCPOPT_SACK:
		return read_sack(p, n, o);
	case PB_TCPOPT_TS:
		o->has_ts = n == 8;
		if (o->has_ts) {
			o->ts_val = get32(p);
			o->ts_ecr = get32(p + 4);
		}
		return o->has_ts;
	default:
		return true;
	}
}

enum pb_drop pb_tcp_opts_parse_any(const uint8_t *opts, uint32_t n, struct pb_tcp_opts *o)
{
	memset(o, 0, offsetof(struct pb_tcp_opts, sack));
	while (n) {
		if (opts[0] == PB_TCPOPT_EOL)
			break;
		if (opts[0] == PB_TCPOPT_NOP) {
			opts++;
			n--;
			continue;
		}
		if (n < 2 || opts[1] < 2 || opts[1] > n || !read_option(opts[0], opts + 2, opts[1] - 2u, o))
			return PB_DROP_TCP_OPTION;
		n -= opts[1];
		opts += opts[1];
	}
	return PB_DROP_NONE;
}

static uint8_t *put_ts(uint8_t *p, const struct pb_tcp_opts *o)
{
	/* SACK-permitted takes the place of the two NOPs. */
	*p++ = o->sack_ok ? PB_TCPOPT_SACK_OK : PB_TCPOPT_NOP;
	*p++ = o->sack_ok ? 2 : PB_TCPOPT_NOP;
	*p++ = PB_TCPOPT_TS;
	*p++ = 10;
	return put32(put32(p, o->ts_val), o->ts_ecr);
}

static uint8_t *put_sack(uint8_t *p, const struct pb_tcp_opts *o, uint32_t room)
{
	uint32_t n = o->n_sack;
	if (room < 12)
		return p;
	if (n > (room - 4) / 8)
		n = (room - 4) / 8;
	*p++ = PB_TCPOPT_NOP;
	*p++ = PB_TCPOPT_NOP;
	*p++ = PB_TCPOPT_SACK;
	*p++ = (uint8_t)(2 + 8 * n);
	for (uint32_t i = 0; i < n; i++)
		p = put32(put32(p, o->sack[i].left), o->sack[i].right);
	return p;
}

uint32_t pb_tcp_opts_write(uint8_t *p, const struct pb_tcp_opts *o)
{
	uint8_t *q = p;
	if (o->has_mss)
		q = put32(q, (uint32_t)PB_TCPOPT_MSS << 24 | 4u << 16 | o->mss);
	if (o->has_ts)
		q = put_ts(q, o);
	else if (o->sack_ok)
		q = put32(q, (uint32_t)PB_TCPOPT_NOP << 24 | PB_TCPOPT_NOP << 16 | PB_TCPOPT_SACK_OK << 8 | 2);
	if (o->has_wscale)
		q = put32(q, (uint32_t)PB_TCPOPT_NOP << 24 | PB_TCPOPT_WSCALE << 16 | 3 << 8 | o->wscale);
	if (o->n_sack)
		q = put_sack(q, o, PB_TCP_OPTS_MAX - (uint32_t)(q - p));
	return (uint32_t)(q - p);
}

bool pb_tcp_csum_ok(const uint8_t *tcp, uint32_t tcp_len, const struct pb_ip *src, const struct pb_ip *dst)
{
	return pb_csum_ok(pb_csum_partial(tcp, tcp_len, pb_csum_pseudo(src, dst, PB_IPPROTO_TCP, tcp_len)));
}

void pb_tcp_set_csum(uint8_t *tcp, uint32_t tcp_len, const struct pb_ip *src, const struct pb_ip *dst)
{
	struct pb_tcp_hdr *h = (void *)tcp;
	h->csum = (be16){{0, 0}};
	uint32_t sum = pb_csum_pseudo(src, dst, PB_IPPROTO_TCP, tcp_len);
	h->csum = pb_csum_finish(pb_csum_partial(tcp, tcp_len, sum));
}

void pb_tcp_set_csum_partial(uint8_t *tcp, uint32_t tcp_len, const struct pb_ip *src, const struct pb_ip *dst)
{
	struct pb_tcp_hdr *h = (void *)tcp;
	be16 v = pb_csum_finish(pb_csum_pseudo(src, dst, PB_IPPROTO_TCP, tcp_len));
	h->csum = (be16){{(uint8_t)~v.b[0], (uint8_t)~v.b[1]}};
}
