#include "harness.h"
#include "wire/eth.h"
#include "wire/tcp.h"

/* A SYN as Linux 6.18 sent it: 10.0.0.1:53760 to 10.0.0.2:80, Ethernet header and all. */
static const uint8_t linux_syn[] = {
	0x02, 0x66, 0x77, 0x88, 0x99, 0xaa, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x08, 0x00, 0x45,
	0x00, 0x00, 0x3c, 0x31, 0x1a, 0x40, 0x00, 0x40, 0x06, 0xf5, 0x9f, 0x0a, 0x00, 0x00, 0x01,
	0x0a, 0x00, 0x00, 0x02, 0xd2, 0x00, 0x00, 0x50, 0x3c, 0x54, 0x8d, 0xad, 0x00, 0x00, 0x00,
	0x00, 0xa0, 0x02, 0xfa, 0xf0, 0x0d, 0x09, 0x00, 0x00, 0x02, 0x04, 0x05, 0xb4, 0x04, 0x02,
	0x08, 0x0a, 0x62, 0x7e, 0x2d, 0x30, 0x00, 0x00, 0x00, 0x00, 0x01, 0x03, 0x03, 0x0a,
};
/* The same over IPv6, fd00::1 to fd00::2, from the IPv6 header on. */
static const uint8_t linux_syn6[] = {
	0x60, 0x03, 0xac, 0x09, 0x00, 0x28, 0x06, 0x40, 0xfd, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xfd, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0xed, 0xd0, 0x00, 0x50, 0x50, 0x95, 0xc4, 0xf0,
	0x00, 0x00, 0x00, 0x00, 0xa0, 0x02, 0xfd, 0x20, 0xea, 0x48, 0x00, 0x00, 0x02, 0x04, 0x05, 0xa0,
	0x04, 0x02, 0x08, 0x0a, 0x44, 0x6c, 0x1e, 0x90, 0x00, 0x00, 0x00, 0x00, 0x01, 0x03, 0x03, 0x0a,
};

TEST(captured_syn)
{
	struct pb_eth_view eth;
	struct pb_ip_view ip;
	struct pb_tcp_view tcp;
	struct pb_tcp_opts o;
	CHECK_EQ(pb_eth_parse(linux_syn, sizeof(linux_syn), &eth), PB_DROP_NONE);
	CHECK_EQ(eth.type, PB_ETH_IP4);
	CHECK_EQ(pb_ip_parse(linux_syn + 14, sizeof(linux_syn) - 14, &ip), PB_DROP_NONE);
	CHECK_EQ(ip.proto, PB_IPPROTO_TCP);
	const uint8_t *p = linux_syn + 14 + ip.hdr_len;
	CHECK_EQ(pb_tcp_parse(p, 40, &tcp), PB_DROP_NONE);
	CHECK(pb_tcp_csum_ok(p, 40, &ip.src, &ip.dst));
	CHECK_EQ(tcp.sport, 53760);
	CHECK_EQ(tcp.dport, 80);
	CHECK_EQ(tcp.seq, 0x3c548dad);
	CHECK_EQ(tcp.ack, 0);
	CHECK_EQ(tcp.wnd, 64240);
	CHECK_EQ(tcp.urg, 0);
	CHECK_EQ(tcp.flags, PB_TCP_SYN);
	CHECK_EQ(tcp.hdr_len, 40);
	CHECK_EQ(tcp.opts_len, 20);
	CHECK(tcp.opts == p + 20);
	CHECK_EQ(pb_tcp_opts_parse(tcp.opts, tcp.opts_len, &o), PB_DROP_NONE);
	CHECK(o.has_mss && o.mss == 1460 && o.sack_ok && o.has_ts && o.ts_val == 0x627e2d30 && o.ts_ecr == 0);
	CHECK(o.has_wscale && o.wscale == 10 && o.n_sack == 0);
	/* And written again, to the byte. */
	uint8_t q[40];
	uint32_t n = pb_tcp_write(q, tcp.sport, tcp.dport, tcp.seq, tcp.ack, tcp.flags, tcp.wnd,
				  pb_tcp_opts_write(q + 20, &o));
	CHECK_EQ(n, 40);
	pb_tcp_set_csum(q, n, &ip.src, &ip.dst);
	CHECK_MEM(q, p, 40);
}

TEST(captured_syn_ipv6)
{
	struct pb_ip_view ip;
	CHECK_EQ(pb_ip_parse(linux_syn6, sizeof(linux_syn6), &ip), PB_DROP_NONE);
	CHECK(pb_tcp_csum_ok(linux_syn6 + 40, 40, &ip.src, &ip.dst));
	uint8_t q[40];
	memcpy(q, linux_syn6 + 40, 40);
	pb_tcp_set_csum(q, 40, &ip.src, &ip.dst);
	CHECK_MEM(q, linux_syn6 + 40, 40);
	q[39] ^= 1;
	CHECK(!pb_tcp_csum_ok(q, 40, &ip.src, &ip.dst));
	CHECK(!pb_tcp_csum_ok(linux_syn6 + 40, 40, &ip.dst, &ip.dst));
}

TEST(lengths_and_ports)
{
	uint8_t p[60] = {0};
	struct pb_tcp_view v;
	pb_tcp_write(p, 1, 2, 3, 4, PB_TCP_ACK, 5, 0);
	for (uint32_t n = 0; n < 20; n++)
		CHECK_EQ(pb_tcp_parse(p, n, &v), PB_DROP_TCP_SHORT);
	CHECK_EQ(pb_tcp_parse(p, 20, &v), PB_DROP_NONE);
	CHECK_EQ(v.opts_len, 0);
	for (uint8_t doff = 0; doff < 16; doff++) {
		p[12] = (uint8_t)(doff << 4 | 0xf); /* the reserved bits do not matter */
		CHECK_EQ(pb_tcp_parse(p, 40, &v), doff < 5 || doff > 10 ? PB_DROP_TCP_OFFSET : PB_DROP_NONE);
	}
	p[12] = 0xf0;
	CHECK_EQ(pb_tcp_parse(p, 60, &v), PB_DROP_NONE);
	CHECK_EQ(v.opts_len, 40);
	pb_tcp_write(p, 0, 2, 3, 4, PB_TCP_ACK, 5, 0);
	CHECK_EQ(pb_tcp_parse(p, 20, &v), PB_DROP_TCP_PORT);
	pb_tcp_write(p, 1, 0, 3, 4, PB_TCP_ACK, 5, 0);
	CHECK_EQ(pb_tcp_parse(p, 20, &v), PB_DROP_TCP_PORT);
}

TEST(all_256_flags)
{
	uint8_t p[20];
	struct pb_tcp_view v;
	for (unsigned f = 0; f < 256; f++) {
		bool fin = f & 1, syn = f & 2, rst = f & 4, ack = f & 16;
		bool bad = (!fin && !syn && !rst && !ack) || (syn && fin) || (syn && rst) || (fin && !ack);
		pb_tcp_write(p, 1, 2, 3, 4, (uint8_t)f, 5, 0);
		CHECK_EQ(pb_tcp_parse(p, 20, &v), bad ? PB_DROP_TCP_FLAGS : PB_DROP_NONE);
		CHECK_EQ(v.flags, f);
	}
}

static enum pb_drop opts(const uint8_t *bytes, uint32_t n, struct pb_tcp_opts *o)
{
	uint8_t *p = malloc(n ? n : 1);
	memcpy(p, bytes, n);
	memset(o, 0xee, sizeof(*o));
	enum pb_drop why = pb_tcp_opts_parse(p, n, o);
	free(p);
	return why;
}
#define OPTS(o, ...) opts((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), o)

TEST(options_one_by_one)
{
	struct pb_tcp_opts o;
	CHECK_EQ(opts((const uint8_t[1]){0}, 0, &o), PB_DROP_NONE);
	CHECK(!o.has_mss && !o.has_ts && !o.has_wscale && !o.sack_ok && !o.n_sack);
	CHECK_EQ(OPTS(&o, 2, 4, 0x23, 0x28), PB_DROP_NONE);
	CHECK(o.has_mss && o.mss == 9000);
	for (uint8_t shift = 0; shift < 20; shift++) {
		CHECK_EQ(OPTS(&o, 1, 3, 3, shift), PB_DROP_NONE);
		CHECK(o.has_wscale);
		CHECK_EQ(o.wscale, shift < 14 ? shift : 14);
	}
	CHECK_EQ(OPTS(&o, 4, 2, 0, 0), PB_DROP_NONE);
	CHECK(o.sack_ok);
	/* The shortcut, and the same in other orders. */
	CHECK_EQ(OPTS(&o, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8), PB_DROP_NONE);
	CHECK(o.has_ts && o.ts_val == 0x01020304 && o.ts_ecr == 0x05060708 && !o.has_mss && !o.n_sack);
	CHECK_EQ(OPTS(&o, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1), PB_DROP_NONE);
	CHECK(o.has_ts && o.ts_val == 0x01020304 && o.ts_ecr == 0x05060708);
	CHECK_EQ(OPTS(&o, 1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4), PB_DROP_NONE);
	CHECK_EQ(o.n_sack, 2);
	CHECK(o.sack[0].left == 1 && o.sack[0].right == 2 && o.sack[1].left == 3 && o.sack[1].right == 4);
	/* Nothing after the end is read; unknown ones (MPTCP, Fast Open) are skipped; the last of two counts. */
	CHECK_EQ(OPTS(&o, 0, 2, 4, 0), PB_DROP_NONE);
	CHECK(!o.has_mss);
	CHECK_EQ(OPTS(&o, 30, 4, 0, 0, 34, 2, 2, 4, 5, 0xb4, 0, 0), PB_DROP_NONE);
	CHECK(o.has_mss && o.mss == 1460);
	CHECK_EQ(OPTS(&o, 2, 4, 0, 1, 2, 4, 0, 2), PB_DROP_NONE);
	CHECK_EQ(o.mss, 2);
}

TEST(options_malformed)
{
	struct pb_tcp_opts o;
	/* Lengths 0 and 1 would loop for ever; past the end would read on. */
	for (uint8_t kind = 2; kind < 40; kind++) {
		CHECK_EQ(OPTS(&o, kind, 0, 0, 0), PB_DROP_TCP_OPTION);
		CHECK_EQ(OPTS(&o, kind, 1, 0, 0), PB_DROP_TCP_OPTION);
		CHECK_EQ(OPTS(&o, kind, 5, 0, 0), PB_DROP_TCP_OPTION);
		CHECK_EQ(OPTS(&o, 1, 1, 1, kind), PB_DROP_TCP_OPTION);
	}
	static const struct {
		uint8_t kind, len;
	} right[] = {{2, 4}, {3, 3}, {4, 2}, {8, 10}, {5, 10}, {5, 18}, {5, 26}, {5, 34}};
	for (uint8_t kind = 2; kind <= 8; kind++)
		for (uint8_t len = 2; len <= 40; len++) {
			uint8_t p[40] = {kind, len};
			bool ok = kind == 6 || kind == 7; /* unknown */
			for (size_t i = 0; i < PB_ARRAY_LEN(right); i++)
				ok |= kind == right[i].kind && len == right[i].len;
			CHECK_EQ(opts(p, 40, &o), ok ? PB_DROP_NONE : PB_DROP_TCP_OPTION);
		}
}

TEST(options_written_as_linux_does)
{
	struct pb_tcp_opts o = {.has_mss = true, .mss = 1460, .has_wscale = true, .wscale = 7};
	uint8_t p[40];
	CHECK_EQ(pb_tcp_opts_write(p, &o), 8);
	CHECK_MEM(p, ((const uint8_t[]){2, 4, 5, 0xb4, 1, 3, 3, 7}), 8);
	o.sack_ok = true;
	CHECK_EQ(pb_tcp_opts_write(p, &o), 12);
	CHECK_MEM(p, ((const uint8_t[]){2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7}), 12);
	o.sack_ok = false;
	o.has_ts = true;
	o.ts_val = 1;
	o.ts_ecr = 2;
	CHECK_EQ(pb_tcp_opts_write(p, &o), 20);
	CHECK_MEM(p, ((const uint8_t[]){2, 4, 5, 0xb4, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7}), 20);
	o = (struct pb_tcp_opts){.n_sack = 4, .sack = {{1, 2}, {3, 4}, {5, 6}, {7, 8}}};
	CHECK_EQ(pb_tcp_opts_write(p, &o), 36);
	CHECK_MEM(p, ((const uint8_t[]){1, 1, 5, 34, 0, 0, 0, 1, 0, 0, 0, 2}), 12);
	o.has_ts = true; /* three still fit */
	CHECK_EQ(pb_tcp_opts_write(p, &o), 40);
	CHECK_MEM(p, ((const uint8_t[]){1, 1, 8, 10}), 4);
	CHECK_MEM(p + 12, ((const uint8_t[]){1, 1, 5, 26, 0, 0, 0, 1}), 8);
}

TEST(options_round_trip)
{
	struct pb_rng r = test_rng();
	for (int k = 0; k < 50000; k++) {
		struct pb_tcp_opts o, q;
		uint8_t *p = malloc(40);
		random_bytes(&r, &o.ts_val, sizeof(o) - offsetof(struct pb_tcp_opts, ts_val));
		o.mss = (uint16_t)pb_rng_u64(&r);
		o.wscale = (uint8_t)pb_rng_below(&r, 15);
		o.has_mss = pb_rng_below(&r, 2);
		o.has_wscale = pb_rng_below(&r, 2);
		o.sack_ok = pb_rng_below(&r, 2);
		o.has_ts = pb_rng_below(&r, 2);
		o.n_sack = (uint8_t)pb_rng_below(&r, 5);
		uint32_t n = pb_tcp_opts_write(p, &o);
		CHECK(n <= 40 && n % 4 == 0);
		CHECK_EQ(pb_tcp_opts_parse(p, n, &q), PB_DROP_NONE);
		CHECK(q.has_mss == o.has_mss && q.has_wscale == o.has_wscale && q.sack_ok == o.sack_ok);
		CHECK(q.has_ts == o.has_ts && q.n_sack <= o.n_sack);
		CHECK(!o.has_mss || q.mss == o.mss);
		CHECK(!o.has_wscale || q.wscale == o.wscale);
		CHECK(!o.has_ts || (q.ts_val == o.ts_val && q.ts_ecr == o.ts_ecr));
		/* No block is left out that had room. */
		CHECK(q.n_sack == o.n_sack || n + (q.n_sack ? 8u : 12u) > 40);
		CHECK_MEM(q.sack, o.sack, q.n_sack * sizeof(o.sack[0]));
		free(p);
	}
}

TEST(checksum_variants)
{
	struct pb_rng r = test_rng();
	for (int k = 0; k < 5000; k++) {
		uint8_t p[200], a[16], b[16];
		uint32_t n = 20 + pb_rng_below(&r, 180);
		random_bytes(&r, p, sizeof(p));
		random_bytes(&r, a, 16);
		random_bytes(&r, b, 16);
		struct pb_ip src = k & 1 ? pb_ip_from4(a) : pb_ip_from6(a),
			     dst = k & 1 ? pb_ip_from4(b) : pb_ip_from6(b);
		pb_tcp_set_csum(p, n, &src, &dst);
		CHECK(pb_tcp_csum_ok(p, n, &src, &dst));
		uint8_t want[2] = {p[16], p[17]};
		uint8_t q[60], opts[40] = {0};
		uint32_t in[4], o = 4 * pb_rng_below(&r, 11);
		random_bytes(&r, (uint8_t *)in, sizeof(in));
		random_bytes(&r, opts, o);
		pb_tcp_write(q, (uint16_t)in[0], (uint16_t)(in[0] >> 16), in[1], in[2], (uint8_t)in[3],
			     (uint16_t)(in[3] >> 16), o);
		memcpy(q + 20, opts, o);
		pb_tcp_set_csum(q, 20 + o, &src, &dst);
		uint8_t once[20];
		uint32_t rest = pb_csum_partial(opts, o, pb_csum_pseudo(&src, &dst, PB_IPPROTO_TCP, 20 + o));
		pb_tcp_write_sum(once, (uint16_t)in[0], (uint16_t)(in[0] >> 16), in[1], in[2], (uint8_t)in[3],
				 (uint16_t)(in[3] >> 16), o, rest);
		CHECK_MEM(once, q, 20);
		/* A NIC sums the segment with the field as it finds it, and complements. */
		pb_tcp_set_csum_partial(p, n, &src, &dst);
		be16 c = pb_csum_finish(pb_csum_partial(p, n, 0));
		CHECK_MEM(c.b, want, 2);
		memcpy(p + 16, want, 2);
		p[pb_rng_below(&r, n)] ^= (uint8_t)(1u << pb_rng_below(&r, 8));
		CHECK(!pb_tcp_csum_ok(p, n, &src, &dst));
	}
}

TEST(mutated)
{
	struct pb_rng r = test_rng();
	uint32_t good = 0, good_opts = 0;
	for (int k = 0; k < 300000; k++) {
		uint8_t s[80];
		memcpy(s, linux_syn + 34, 40);
		uint32_t n = mutate(&r, s, 40, sizeof(s));
		uint8_t *p = malloc(n ? n : 1);
		struct pb_tcp_view v;
		struct pb_tcp_opts o, q;
		memcpy(p, s, n);
		if (!pb_tcp_parse(p, n, &v)) {
			good++;
			CHECK(v.hdr_len >= 20 && v.hdr_len <= n && v.opts + v.opts_len <= p + n);
			enum pb_drop why = pb_tcp_opts_parse(v.opts, v.opts_len, &o);
			CHECK_EQ(pb_tcp_opts_parse_any(v.opts, v.opts_len, &q), why);
			if (!why) {
				good_opts++;
				CHECK(o.n_sack <= 4 && o.wscale <= 14 && o.ts_val == q.ts_val && o.has_ts == q.has_ts);
			}
		}
		free(p);
	}
	CHECK(good > 10000 && good_opts > 1000 && good_opts < good);
}

TEST(random_options)
{
	/* Bytes from a small alphabet, so that lengths often lie near the truth. */
	struct pb_rng r = test_rng();
	uint32_t good = 0;
	for (int k = 0; k < 200000; k++) {
		uint32_t n = pb_rng_below(&r, 11) * 4;
		uint8_t *p = malloc(n ? n : 1);
		struct pb_tcp_opts o;
		for (uint32_t i = 0; i < n; i++)
			p[i] = (uint8_t)pb_rng_below(&r, 12);
		good += pb_tcp_opts_parse(p, n, &o) == PB_DROP_NONE;
		free(p);
	}
	CHECK(good > 1000 && good < 200000);
}

MAIN(T(captured_syn), T(captured_syn_ipv6), T(lengths_and_ports), T(all_256_flags), T(options_one_by_one),
     T(options_malformed), T(options_written_as_linux_does), T(options_round_trip), T(checksum_variants), T(mutated),
     T(random_options))
