#include "harness.h"
#include "wire/ip.h"

static const uint8_t V4A[4] = {10, 0, 0, 1}, V4B[4] = {10, 0, 0, 2};
static const uint8_t V6A[16] = {0xfe, 0x80, [15] = 1}, V6B[16] = {0xfe, 0x80, [15] = 2};

static void fix_csum(uint8_t *p, uint32_t len)
{
	uint32_t n = (p[0] & 15u) * 4;
	if (len < 20 || n > len || n < 20)
		return;
	p[10] = p[11] = 0;
	be16 c = pb_csum_finish(pb_csum_partial(p, n, 0));
	memcpy(p + 10, c.b, 2);
}

static uint32_t make4(uint8_t *p, uint32_t payload)
{
	struct pb_ip a = pb_ip_from4(V4A), b = pb_ip_from4(V4B);
	return pb_ip4_write(p, &a, &b, PB_IPPROTO_TCP, 64, 0x02, 0x1234, true, payload) + payload;
}

static uint32_t make6(uint8_t *p, uint8_t proto, uint32_t payload)
{
	struct pb_ip a = pb_ip_from6(V6A), b = pb_ip_from6(V6B);
	return pb_ip6_write(p, &a, &b, proto, 64, 0xb8, 0xabcde, payload) + payload;
}

/* Both ways to parse must agree. */
static enum pb_drop parse(const uint8_t *p, uint32_t len, struct pb_ip_view *v)
{
	struct pb_ip_view w;
	enum pb_drop a = pb_ip_parse(p, len, v), b = pb_ip_parse_any(p, len, &w);
	CHECK_EQ(a, b);
	if (a == b && (a == PB_DROP_NONE || a == PB_DROP_IP_SRC || a == PB_DROP_IP_LAND)) {
		CHECK(pb_ip_eq(&v->src, &w.src) && pb_ip_eq(&v->dst, &w.dst));
		CHECK(v->hdr_len == w.hdr_len && v->total_len == w.total_len && v->frag_id == w.frag_id);
		CHECK(v->proto == w.proto && v->ttl == w.ttl && v->tos == w.tos && v->df == w.df);
		CHECK(v->version == w.version && v->fragment == w.fragment && v->more_frags == w.more_frags);
	}
	return a;
}

TEST(published_header)
{
	/* The worked example of many texts on RFC 791: checksum b861. */
	const uint8_t p[] = {0x45, 0,    0,    0x73, 0, 0, 0x40, 0,    0x40, 0x11,
			     0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,    0xc7};
	uint8_t q[0x73] = {0}, w[20];
	struct pb_ip_view v;
	memcpy(q, p, 20);
	CHECK_EQ(parse(q, sizeof(q), &v), PB_DROP_NONE);
	CHECK_EQ(v.proto, PB_IPPROTO_UDP);
	CHECK_EQ(v.total_len, 0x73);
	CHECK_EQ(v.ttl, 64);
	CHECK(v.df);
	CHECK_EQ(pb_ip4_write(w, &v.src, &v.dst, 17, 64, 0, 0, true, 0x73 - 20), 20);
	CHECK_MEM(w, p, 20);
}

TEST(v4_fields)
{
	uint8_t p[100] = {0};
	struct pb_ip_view v;
	uint32_t n = make4(p, 30);
	/* Ethernet padding is not part of the packet. */
	CHECK_EQ(parse(p, 60, &v), PB_DROP_NONE);
	CHECK_EQ(v.total_len, n);
	CHECK_EQ(v.hdr_len, 20);
	CHECK_EQ(v.tos, 2);
	CHECK_EQ(v.frag_id, 0x1234);
	CHECK_EQ(v.version, 4);
	CHECK(pb_ip_is4(&v.src));
	CHECK_MEM(v.dst.b + 12, V4B, 4);
}

TEST(v4_malformed)
{
	uint8_t p[100] = {0};
	struct pb_ip_view v;
	uint32_t n = make4(p, 30);
	CHECK_EQ(parse(p, 0, &v), PB_DROP_IP_SHORT);
	CHECK_EQ(parse(p, 19, &v), PB_DROP_IP_SHORT);
	CHECK_EQ(parse(p, n - 1, &v), PB_DROP_IP_SHORT);
	p[8]--;
	CHECK_EQ(parse(p, n, &v), PB_DROP_IP_CSUM);
	p[8]++;
	p[0] = 0x44;
	CHECK_EQ(parse(p, n, &v), PB_DROP_IP_VERSION);
	p[0] = 0x55;
	CHECK_EQ(parse(p, n, &v), PB_DROP_IP_VERSION);
	p[0] = 0x4f;
	CHECK_EQ(parse(p, 50, &v), PB_DROP_IP_SHORT);
	p[0] = 0x45;
	p[3] = 19; /* total length below the header's */
	fix_csum(p, n);
	CHECK_EQ(parse(p, n, &v), PB_DROP_IP_SHORT);
}

static enum pb_drop with_options(const uint8_t *opts, uint32_t n_opts)
{
	uint8_t p[80] = {0};
	struct pb_ip_view v;
	make4(p, n_opts + 8);
	p[0] = (uint8_t)(0x45 + n_opts / 4);
	memcpy(p + 20, opts, n_opts);
	fix_csum(p, 80);
	enum pb_drop rc = parse(p, 28 + n_opts, &v);
	if (!rc)
		CHECK_EQ(v.hdr_len, 20 + n_opts);
	return rc;
}

TEST(v4_options)
{
	CHECK_EQ(with_options((const uint8_t[]){1, 1, 1, 0}, 4), PB_DROP_NONE);
	CHECK_EQ(with_options((const uint8_t[]){148, 4, 0, 0}, 4), PB_DROP_NONE);           /* router alert */
	CHECK_EQ(with_options((const uint8_t[]){7, 7, 4, 0, 0, 0, 0, 0}, 8), PB_DROP_NONE); /* record route */
	CHECK_EQ(with_options((const uint8_t[]){0, 131, 0, 255}, 4), PB_DROP_NONE);         /* after the end */
	CHECK_EQ(with_options((const uint8_t[]){131, 7, 4, 0, 0, 0, 0, 0}, 8), PB_DROP_IP_OPTION);
	CHECK_EQ(with_options((const uint8_t[]){1, 137, 3, 4}, 4), PB_DROP_IP_OPTION);
	CHECK_EQ(with_options((const uint8_t[]){148, 0, 0, 0}, 4), PB_DROP_IP_OPTION);
	CHECK_EQ(with_options((const uint8_t[]){148, 1, 0, 0}, 4), PB_DROP_IP_OPTION);
	CHECK_EQ(with_options((const uint8_t[]){148, 5, 0, 0}, 4), PB_DROP_IP_OPTION);
	CHECK_EQ(with_options((const uint8_t[]){1, 1, 1, 148}, 4), PB_DROP_IP_OPTION);
}

TEST(v4_fragments)
{
	uint8_t p[100] = {0};
	struct pb_ip_view v;
	uint32_t n = make4(p, 30);
	p[6] = 0x20;
	fix_csum(p, n);
	CHECK_EQ(parse(p, n, &v), PB_DROP_IP_FRAGMENT);
	CHECK(v.fragment && v.more_frags && !v.df);
	CHECK_EQ(v.frag_off, 0);
	p[6] = 0x1f;
	p[7] = 0xff;
	fix_csum(p, n);
	CHECK_EQ(parse(p, n, &v), PB_DROP_IP_FRAGMENT);
	CHECK_EQ(v.frag_off, 65528);
	CHECK(!v.more_frags);
	/* The reserved bit alone is nothing (RFC 3514 is a joke). */
	p[6] = 0x80;
	p[7] = 0;
	fix_csum(p, n);
	CHECK_EQ(parse(p, n, &v), PB_DROP_NONE);
}

static enum pb_drop pair4(uint32_t src, uint32_t dst)
{
	uint8_t p[40] = {0};
	struct pb_ip_view v;
	be32 s = pb_be32_of(src), d = pb_be32_of(dst);
	struct pb_ip a = pb_ip_from4(s.b), b = pb_ip_from4(d.b);
	pb_ip4_write(p, &a, &b, 6, 64, 0, 0, false, 20);
	return parse(p, 40, &v);
}

TEST(v4_addresses)
{
	uint32_t ok = 0x0a000001;
	CHECK_EQ(pair4(ok, 0x0a000002), PB_DROP_NONE);
	CHECK_EQ(pair4(ok, 0xe0000001), PB_DROP_NONE);
	CHECK_EQ(pair4(ok, UINT32_MAX), PB_DROP_NONE);
	CHECK_EQ(pair4(ok, ok), PB_DROP_IP_LAND);
	CHECK_EQ(pair4(0, ok), PB_DROP_IP_SRC);
	CHECK_EQ(pair4(0x00000005, ok), PB_DROP_IP_SRC);
	CHECK_EQ(pair4(0x7f000001, ok), PB_DROP_IP_SRC);
	CHECK_EQ(pair4(ok, 0x7f000001), PB_DROP_IP_SRC);
	CHECK_EQ(pair4(0xe0000001, ok), PB_DROP_IP_SRC);
	CHECK_EQ(pair4(0xefffffff, ok), PB_DROP_IP_SRC);
	CHECK_EQ(pair4(UINT32_MAX, ok), PB_DROP_IP_SRC);
	CHECK_EQ(pair4(0xf0000001, ok), PB_DROP_NONE); /* 240/4 is used inside some networks */
	CHECK_EQ(pair4(0xdfffffff, ok), PB_DROP_NONE);
}

TEST(v6_fields)
{
	uint8_t p[100] = {0};
	struct pb_ip_view v;
	uint32_t n = make6(p, 6, 20);
	CHECK_MEM(p, ((const uint8_t[]){0x6b, 0x8a, 0xbc, 0xde, 0, 20, 6, 64}), 8);
	CHECK_EQ(parse(p, 100, &v), PB_DROP_NONE);
	CHECK_EQ(v.total_len, n);
	CHECK_EQ(v.hdr_len, 40);
	CHECK_EQ(v.tos, 0xb8);
	CHECK_EQ(v.flow_label, 0xabcde);
	CHECK_EQ(v.version, 6);
	CHECK_MEM(v.src.b, V6A, 16);
	CHECK_MEM(v.dst.b, V6B, 16);
	CHECK_EQ(parse(p, 39, &v), PB_DROP_IP_SHORT);
	CHECK_EQ(parse(p, n - 1, &v), PB_DROP_IP_SHORT);
}

/* A packet whose payload is `ext`, the first of it of type `first`. */
static enum pb_drop with_ext(uint8_t first, const uint8_t *ext, uint32_t n, struct pb_ip_view *v)
{
	uint8_t s[200] = {0}, *p;
	uint32_t len = make6(s, first, n);
	memcpy(s + 40, ext, n);
	p = malloc(len);
	memcpy(p, s, len);
	enum pb_drop rc = parse(p, len, v);
	free(p);
	return rc;
}

TEST(v6_extensions)
{
	struct pb_ip_view v;
	/* Hop-by-hop with router alert, destination options of two words, AH with 96 bits, then TCP. */
	const uint8_t chain[] = {60, 0, 5, 2, 0, 0, 1, 0, 51, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 4, 0, 0,
				 0,  0, 0, 1, 0, 0, 0, 1, 0,  0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};
	CHECK_EQ(with_ext(0, chain, sizeof(chain), &v), PB_DROP_NONE);
	CHECK_EQ(v.proto, 6);
	CHECK_EQ(v.hdr_len, 40 + 48);
	for (uint32_t n = 0; n < 48; n++)
		CHECK_EQ(with_ext(0, chain, n, &v), PB_DROP_IP_OPTION);
	/* Hop-by-hop only as the first. */
	CHECK_EQ(with_ext(60, (const uint8_t[16]){0, 0, 1, 4, [8] = 6, 0, 1, 4}, 16, &v), PB_DROP_IP_OPTION);
	/* Routing: type 0 never, others only with no segments left. */
	CHECK_EQ(with_ext(43, (const uint8_t[8]){6, 0, 0, 0}, 8, &v), PB_DROP_IP_OPTION);
	CHECK_EQ(with_ext(43, (const uint8_t[8]){6, 0, 4, 1}, 8, &v), PB_DROP_IP_OPTION);
	CHECK_EQ(with_ext(43, (const uint8_t[8]){6, 0, 4, 0}, 8, &v), PB_DROP_NONE);
	/* AH shorter than its fixed part, or out of step. */
	CHECK_EQ(with_ext(51, (const uint8_t[16]){6, 0}, 16, &v), PB_DROP_IP_OPTION);
	CHECK_EQ(with_ext(51, (const uint8_t[16]){6, 1}, 16, &v), PB_DROP_IP_OPTION);
	CHECK_EQ(with_ext(51, (const uint8_t[16]){6, 2}, 16, &v), PB_DROP_NONE);
	CHECK_EQ(with_ext(59, (const uint8_t[1]){0}, 0, &v), PB_DROP_NONE);
	CHECK_EQ(v.proto, 59);
}

TEST(v6_options_and_bounds)
{
	struct pb_ip_view v;
	/* An unknown option: skip (00), or discard (01, 10, 11). */
	CHECK_EQ(with_ext(60, (const uint8_t[8]){6, 0, 0x1e, 4}, 8, &v), PB_DROP_NONE);
	CHECK_EQ(with_ext(60, (const uint8_t[8]){6, 0, 0x5e, 4}, 8, &v), PB_DROP_IP_OPTION);
	CHECK_EQ(with_ext(60, (const uint8_t[8]){6, 0, 0x9e, 4}, 8, &v), PB_DROP_IP_OPTION);
	CHECK_EQ(with_ext(0, (const uint8_t[8]){6, 0, 0xc2, 4}, 8, &v), PB_DROP_IP_OPTION); /* jumbo payload */
	/* An option longer than its header. */
	CHECK_EQ(with_ext(60, (const uint8_t[8]){6, 0, 1, 5}, 8, &v), PB_DROP_IP_OPTION);
	CHECK_EQ(with_ext(60, (const uint8_t[8]){6, 0, 1, 2, 0, 0, 0, 1}, 8, &v), PB_DROP_IP_OPTION);
	/* Eight headers pass, nine do not. */
	uint8_t many[72] = {0};
	for (int i = 0; i < 9; i++) {
		many[8 * i] = 60;
		many[8 * i + 2] = 1;
		many[8 * i + 3] = 4;
	}
	CHECK_EQ(with_ext(60, many, 72, &v), PB_DROP_IP_OPTION);
	many[56] = 6;
	CHECK_EQ(with_ext(60, many, 72, &v), PB_DROP_NONE);
	CHECK_EQ(v.hdr_len, 40 + 64);
}

TEST(v6_fragments)
{
	struct pb_ip_view v;
	CHECK_EQ(with_ext(44, (const uint8_t[16]){6, 0, 0, 1, 0, 0, 1, 2}, 16, &v), PB_DROP_IP_FRAGMENT);
	CHECK(v.fragment && v.more_frags);
	CHECK_EQ(v.frag_id, 0x102);
	CHECK_EQ(v.hdr_len, 48);
	CHECK_EQ(v.proto, 6);
	CHECK_EQ(with_ext(44, (const uint8_t[16]){6, 0, 0x05, 0xa8, 0, 0, 1, 2}, 16, &v), PB_DROP_IP_FRAGMENT);
	CHECK_EQ(v.frag_off, 0x5a8);
	/* A later fragment: what looks like a bad header is data. */
	CHECK_EQ(with_ext(44, (const uint8_t[16]){60, 0, 0x05, 0xa8, 0, 0, 1, 2, 6, 9}, 16, &v), PB_DROP_IP_FRAGMENT);
	/* RFC 6946: an atomic fragment is a whole packet. */
	CHECK_EQ(with_ext(44, (const uint8_t[16]){6, 0, 0, 0, 0, 0, 1, 2}, 16, &v), PB_DROP_NONE);
	CHECK(!v.fragment);
	/* Two fragment headers make no sense. */
	CHECK_EQ(with_ext(44, (const uint8_t[16]){44, 0, 0, 0, 0, 0, 0, 0, 6}, 16, &v), PB_DROP_IP_OPTION);
}

static enum pb_drop pair6(const uint8_t *src, const uint8_t *dst)
{
	uint8_t p[60] = {0};
	struct pb_ip_view v;
	struct pb_ip a = pb_ip_from6(src), b = pb_ip_from6(dst);
	pb_ip6_write(p, &a, &b, 6, 64, 0, 0, 20);
	return parse(p, 60, &v);
}

TEST(v6_addresses)
{
	static const uint8_t any[16] = {0}, lo[16] = {[15] = 1}, mc[16] = {0xff, 2, [15] = 1};
	static const uint8_t mapped[16] = {[10] = 0xff, 0xff, 10, 0, 0, 1};
	CHECK_EQ(pair6(V6A, V6B), PB_DROP_NONE);
	CHECK_EQ(pair6(V6A, mc), PB_DROP_NONE);
	CHECK_EQ(pair6(V6A, V6A), PB_DROP_IP_LAND);
	CHECK_EQ(pair6(any, V6A), PB_DROP_IP_SRC);
	CHECK_EQ(pair6(mc, V6A), PB_DROP_IP_SRC);
	CHECK_EQ(pair6(lo, V6A), PB_DROP_IP_SRC);
	CHECK_EQ(pair6(V6A, lo), PB_DROP_IP_SRC);
	CHECK_EQ(pair6(mapped, V6A), PB_DROP_IP_SRC);
	CHECK_EQ(pair6(V6A, mapped), PB_DROP_IP_SRC);
}

TEST(address_kinds)
{
	struct pb_ip zero6 = {0}, zero4 = pb_ip_from4((const uint8_t[4]){0}), a = pb_ip_from4(V4A);
	struct pb_ip m4 = pb_ip_from4((const uint8_t[4]){239, 1, 1, 1}), m6 = {.b = {0xff, 2}}, b = pb_ip_from6(V6A);
	CHECK(pb_ip_is_unspecified(&zero6) && pb_ip_is_unspecified(&zero4));
	CHECK(!pb_ip_is_unspecified(&a) && !pb_ip_is_unspecified(&b) && !pb_ip_is_unspecified(&m6));
	CHECK(pb_ip_is_multicast(&m4) && pb_ip_is_multicast(&m6));
	CHECK(!pb_ip_is_multicast(&a) && !pb_ip_is_multicast(&b));
}

TEST(mutated)
{
	struct pb_rng r = test_rng();
	const uint8_t chain[24] = {60, 0, 5, 2, 0, 0, 1, 0, 44, 0, 1, 4, 0, 0, 0, 0, 6};
	uint32_t good = 0, seen[PB_DROP_COUNT] = {0};
	for (int k = 0; k < 300000; k++) {
		uint8_t s[120] = {0};
		uint32_t n = k & 1 ? make4(s, 40) : make6(s, k & 2 ? 6 : 0, 50);
		if (!(k & 1))
			memcpy(s + 40, chain, sizeof(chain));
		else if (k & 2)
			memcpy(s, (const uint8_t[]){0x48}, 1);
		n = mutate(&r, s, n, sizeof(s));
		if (k & 1 && k & 12)
			fix_csum(s, n);
		uint8_t *p = malloc(n ? n : 1);
		struct pb_ip_view v;
		memcpy(p, s, n);
		enum pb_drop why = parse(p, n, &v);
		seen[why]++;
		if (!why || why == PB_DROP_IP_FRAGMENT) {
			good++;
			CHECK(v.hdr_len >= 20 && v.hdr_len <= v.total_len && v.total_len <= n);
			CHECK((why == PB_DROP_IP_FRAGMENT) == v.fragment);
		}
		free(p);
	}
	CHECK(good > 10000);
	CHECK(seen[PB_DROP_IP_OPTION] && seen[PB_DROP_IP_SHORT] && seen[PB_DROP_IP_VERSION] && seen[PB_DROP_IP_CSUM]);
	CHECK(seen[PB_DROP_IP_FRAGMENT] && seen[PB_DROP_IP_SRC]);
}

MAIN(T(published_header), T(v4_fields), T(v4_malformed), T(v4_options), T(v4_fragments), T(v4_addresses), T(v6_fields),
     T(v6_extensions), T(v6_options_and_bounds), T(v6_fragments), T(v6_addresses), T(address_kinds), T(mutated))
