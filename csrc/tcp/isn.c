/* Keyed hashing: initial sequence numbers (RFC 6528), timestamp offsets (RFC 7323 5.4) and the flow table's key. */
#include "tcp/tcb.h"

static inline uint64_t rotl(uint64_t x, int b)
{
	return x << b | x >> (64 - b);
}

static inline void sipround(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[0] = rotl(v[0], 32);
	v[2] += v[3];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[2] = rotl(v[2], 32);
}

/* SipHash-2-4 (Aumasson and Bernstein, 2012). */
uint64_t siphash24(const uint8_t key[16], const void *data, size_t n)
{
	uint64_t k[2], m = 0;
	memcpy(k, key, 16);
	uint64_t v[4] = {k[0] ^ 0x736f6d6570736575u, k[1] ^ 0x646f72616e646f6du, k[0] ^ 0x6c7967656e657261u,
			 k[1] ^ 0x7465646279746573u};
	const uint8_t *p = data;
	size_t left = n;
	for (; left >= 8; p += 8, left -= 8) {
		memcpy(&m, p, 8);
		v[3] ^= m;
		sipround(v);
		sipround(v);
		v[0] ^= m;
	}
	m = (uint64_t)(n & 0xff) << 56;
	for (size_t i = 0; i < left; i++)
		m |= (uint64_t)p[i] << (8 * i);
	v[3] ^= m;
	sipround(v);
	sipround(v);
	v[0] ^= m;
	v[2] ^= 0xff;
	for (int i = 0; i < 4; i++)
		sipround(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t tuple_hash(const struct pb_tcp *e, const struct tcb *c, uint8_t purpose)
{
	struct {
		struct pb_ip l, r;
		uint16_t lport, rport;
		uint32_t purpose;
	} in = {c->laddr, c->raddr, c->lport, c->rport, purpose};
	_Static_assert(sizeof(in) == 40, "no padding goes into the hash");
	return siphash24(e->cfg.secret, &in, sizeof(in));
}

/* ISN = M + F(tuple, secret), M a clock of 4 us. */
uint32_t isn_make(const struct pb_tcp *e, const struct tcb *c, uint64_t now_ns)
{
	return (uint32_t)(now_ns / 4000) + (uint32_t)tuple_hash(e, c, 1);
}

uint32_t ts_offset_make(const struct pb_tcp *e, const struct tcb *c)
{
	return (uint32_t)tuple_hash(e, c, 2);
}

/* The table is on the packet path: one multiply per word under secret keys. An attacker without the secret cannot aim
 * at one bucket; the table never trusts the device's hash. */
static inline uint64_t mum(uint64_t a, uint64_t b)
{
	unsigned __int128 p = (unsigned __int128)a * b;
	return (uint64_t)p ^ (uint64_t)(p >> 64);
}

uint32_t flow_hash(const struct pb_tcp *e, const struct pb_ip *l, uint16_t lport, const struct pb_ip *r, uint16_t rport)
{
	uint64_t k[2];
	memcpy(k, e->cfg.secret, 16);
	uint64_t ports = (uint64_t)lport << 16 | rport;
	uint64_t h = mum(l->q[0] ^ k[0] ^ ports << 32, l->q[1] ^ k[1] ^ ports);
	h = mum(h ^ r->q[0] ^ k[1], r->q[1] ^ k[0] ^ 0x9e3779b97f4a7c15u);
	return (uint32_t)(h ^ h >> 32);
}
