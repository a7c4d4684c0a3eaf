#include "app/template.h"

#include "wire/csum.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/udp.h"

#include <errno.h>

#define TCP_HLEN 20
#define TCP_CSUM 16
#define UDP_CSUM 6
#define IP4_CSUM 10

static bool overlap(uint32_t a, uint32_t alen, uint32_t b, uint32_t blen)
{
	return a < b + blen && b < a + alen;
}

/* Where the headers are. The parsers check lengths; a checksum that is not there yet is made first. */
static int find_headers(struct pb_template *t)
{
	struct pb_eth_view e;
	if (pb_eth_parse(t->frame, t->len, &e) || (e.type != PB_ETH_IP4 && e.type != PB_ETH_IP6))
		return 0;
	uint8_t *l3 = t->frame + e.hdr_len, proto;
	uint32_t left = t->len - e.hdr_len, hdr;
	if (e.type == PB_ETH_IP4) {
		if (left < PB_IP4_HLEN || l3[0] != 0x45 || pb_be16_get(((struct pb_ip4_hdr *)l3)->total_len) != left)
			return -EINVAL;
		t->ip4 = true;
		proto = l3[9];
		hdr = PB_IP4_HLEN;
	} else {
		if (left < PB_IP6_HLEN || l3[0] >> 4 != 6 ||
		    pb_be16_get(((struct pb_ip6_hdr *)l3)->payload_len) != left - PB_IP6_HLEN)
			return -EINVAL;
		proto = l3[6];
		hdr = PB_IP6_HLEN;
	}
	t->l3_off = e.hdr_len;
	uint16_t l4 = (uint16_t)(e.hdr_len + hdr);
	if (proto == PB_IPPROTO_UDP) {
		if (left - hdr < PB_UDP_HLEN || pb_be16_get(((struct pb_udp_hdr *)(t->frame + l4))->len) != left - hdr)
			return -EINVAL;
		t->l4_csum = (uint16_t)(l4 + UDP_CSUM);
		t->l4_off = l4;
	} else if (proto == PB_IPPROTO_TCP) {
		if (left - hdr < TCP_HLEN)
			return -EINVAL;
		t->l4_csum = (uint16_t)(l4 + TCP_CSUM);
		t->l4_off = l4;
	}
	return 0;
}

/* What may vary: not a length, a version or a checksum of ours, and nothing twice. */
static bool may_vary(const struct pb_template *t, uint32_t off, uint32_t bytes)
{
	if (off + bytes > t->len)
		return false;
	if (!t->l3_off)
		return true;
	uint32_t l3 = t->l3_off;
	bool bad = overlap(off, bytes, 12, l3 - 12); /* EtherType, tags */
	if (t->ip4)
		bad |= overlap(off, bytes, l3, 1) || overlap(off, bytes, l3 + 2, 2) || overlap(off, bytes, l3 + 9, 3);
	else
		bad |= overlap(off, bytes, l3, 1) || overlap(off, bytes, l3 + 4, 3);
	if (t->l4_off)
		bad |= overlap(off, bytes, t->l4_csum, 2);
	if (t->l4_off && t->l4_csum == t->l4_off + UDP_CSUM)
		bad |= overlap(off, bytes, t->l4_off + 4u, 2);
	return !bad;
}

static int add_field(struct pb_template *t, const struct pb_field *f)
{
	if ((f->bytes != 1 && f->bytes != 2 && f->bytes != 4) || f->how > PB_VARY_RANDOM || f->lo > f->hi ||
	    (f->bytes < 4 && f->hi >> (8 * f->bytes)) || !may_vary(t, f->off, f->bytes))
		return -EINVAL;
	if (t->stamp_off && overlap(f->off, f->bytes, t->stamp_off, PB_STAMP_LEN))
		return -EINVAL;
	for (uint32_t i = 0; i < t->nfields; i++)
		if (overlap(f->off, f->bytes, t->fields[i].off, t->fields[i].bytes))
			return -EINVAL;
	struct pb_field *own = &t->fields[t->nfields++];
	*own = *f;
	own->next = f->lo;
	memset(t->frame + f->off, 0, f->bytes);
	return 0;
}

static void put_sums(const struct pb_template *t, uint8_t *out, uint32_t l3, uint32_t l4)
{
	if (t->ip4) {
		be16 c = pb_csum_finish(l3);
		memcpy(out + t->l3_off + IP4_CSUM, c.b, 2);
	}
	if (t->l4_off) {
		be16 c = pb_csum_finish(l4);
		/* UDP: zero would mean that there is none (RFC 768). */
		if (!(c.b[0] | c.b[1]) && t->l4_csum == t->l4_off + UDP_CSUM)
			c = (be16){{0xff, 0xff}};
		memcpy(out + t->l4_csum, c.b, 2);
	}
}

/* The sums of what does not vary: fields, stamp and checksums are zero here. */
static void fixed_sums(struct pb_template *t)
{
	if (!t->l3_off)
		return;
	const uint8_t *l3 = t->frame + t->l3_off;
	if (t->ip4)
		t->l3_sum = pb_csum_partial(l3, PB_IP4_HLEN, 0);
	if (!t->l4_off)
		return;
	uint32_t l4_len = (uint32_t)t->len - t->l4_off;
	uint8_t proto = t->ip4 ? l3[9] : l3[6];
	uint32_t addrs = t->ip4 ? pb_csum_partial(l3 + 12, 8, 0) : pb_csum_partial(l3 + 8, 32, 0);
	const uint8_t rest[4] = {0, proto, (uint8_t)(l4_len >> 8), (uint8_t)l4_len};
	t->l4_sum = pb_csum_partial(rest, 4, pb_csum_partial(t->frame + t->l4_off, l4_len, addrs));
}

int pb_template_init(struct pb_template *t, const uint8_t *frame, uint32_t len, const struct pb_field *fields,
		     uint32_t nfields, uint32_t stamp_off, uint16_t run, uint64_t seed)
{
	if (len > PB_TEMPLATE_MAX)
		return -EMSGSIZE;
	if (len < PB_ETH_HLEN || nfields > PB_TEMPLATE_FIELDS)
		return -EINVAL;
	memset(t, 0, sizeof(*t));
	memcpy(t->frame, frame, len);
	t->len = (uint16_t)len;
	t->run = run;
	t->rng.state = seed;
	int err = find_headers(t);
	if (err)
		return err;
	if (t->ip4)
		memset(t->frame + t->l3_off + IP4_CSUM, 0, 2);
	if (t->l4_off)
		memset(t->frame + t->l4_csum, 0, 2);
	if (stamp_off) {
		if (!may_vary(t, stamp_off, PB_STAMP_LEN))
			return -EINVAL;
		t->stamp_off = (uint16_t)stamp_off;
		memset(t->frame + stamp_off, 0, PB_STAMP_LEN);
	}
	for (uint32_t i = 0; i < nfields; i++) {
		err = add_field(t, &fields[i]);
		if (err)
			return err;
	}
	fixed_sums(t);
	if (!t->nfields && !t->stamp_off)
		put_sums(t, t->frame, t->l3_sum, t->l4_sum);
	return 0;
}

static uint32_t next_value(struct pb_template *t, struct pb_field *f)
{
	uint32_t v = f->next;
	if (f->how == PB_VARY_RANDOM)
		return (uint32_t)(f->lo + (pb_rng_u64(&t->rng) >> 32) * ((uint64_t)f->hi - f->lo + 1) / (1ull << 32));
	f->next = f->hi - v < f->step ? f->lo : v + f->step;
	return v;
}

/* Into the header or the transport part, whichever the bytes are summed by. The pseudo header takes the addresses. */
static void add_sum(const struct pb_template *t, uint32_t off, const uint8_t *p, uint32_t n, uint32_t *l3, uint32_t *l4)
{
	if (!t->l3_off || off < t->l3_off)
		return;
	uint32_t sum = pb_csum_partial(p, n, 0);
	uint32_t at = off - t->l3_off; /* the transport header starts at an even distance from it */
	bool in_l3 = at < (t->ip4 ? PB_IP4_HLEN : PB_IP6_HLEN);
	if (in_l3 && t->ip4)
		*l3 = pb_csum_block_add(*l3, sum, at);
	if (!in_l3 || at >= (t->ip4 ? 12 : 8))
		*l4 = pb_csum_block_add(*l4, sum, at);
}

void pb_template_write(struct pb_template *t, uint8_t *out, uint64_t seq, uint64_t stamp_ns)
{
	uint32_t l3 = t->l3_sum, l4 = t->l4_sum;
	memcpy(out, t->frame, t->len);
	if (!t->nfields && !t->stamp_off)
		return; /* pb_template_init() has filled the checksums in */
	for (uint32_t i = 0; i < t->nfields; i++) {
		struct pb_field *f = &t->fields[i];
		be32 v = pb_be32_of(next_value(t, f) << (32 - 8 * f->bytes));
		memcpy(out + f->off, v.b, f->bytes);
		add_sum(t, f->off, v.b, f->bytes, &l3, &l4);
	}
	if (t->stamp_off) {
		struct pb_stamp s = {.seq = seq, .run = t->run, .ns = stamp_ns};
		pb_stamp_write(out + t->stamp_off, &s);
		add_sum(t, t->stamp_off, out + t->stamp_off, PB_STAMP_LEN, &l3, &l4);
	}
	put_sums(t, out, l3, l4);
}
