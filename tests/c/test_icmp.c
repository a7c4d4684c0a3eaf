#include "addresses.h"
#include "harness.h"
#include "wire/icmp.h"
#include "wire/tcp.h"
#include "wire/udp.h"

/* What pb_icmp_parse() needs of the packet around a message. */
static struct pb_ip_view around(bool v6)
{
	return (struct pb_ip_view){.src = v6 ? b6 : b4,
				   .dst = v6 ? a6 : a4,
				   .version = v6 ? 6 : 4,
				   .proto = v6 ? PB_IPPROTO_ICMP6 : PB_IPPROTO_ICMP};
}

static enum pb_drop parse(bool v6, const uint8_t *p, uint32_t len, struct pb_icmp_view *v)
{
	struct pb_ip_view ip = around(v6);
	return pb_icmp_parse(&ip, p, len, v);
}

/* A TCP segment of ours, as it would be quoted: from a to b, ports 1000 and 80, sequence 0x11223344. */
static uint32_t our_packet(bool v6, uint8_t *p, uint32_t payload)
{
	uint32_t n = v6 ? pb_ip6_write(p, &a6, &b6, PB_IPPROTO_TCP, 1, 0, 0, 20 + payload)
			: pb_ip4_write(p, &a4, &b4, PB_IPPROTO_TCP, 1, 0, 7, true, 20 + payload);
	n += pb_tcp_write(p + n, 1000, 80, 0x11223344, 0, PB_TCP_ACK, 100, 0);
	memset(p + n, 0x5a, payload);
	return n + payload;
}

TEST(echo_both_versions)
{
	addresses();
	for (int v6 = 0; v6 < 2; v6++)
		for (int reply = 0; reply < 2; reply++) {
			uint8_t p[64];
			struct pb_icmp_view v;
			uint32_t n = pb_icmp_write_echo(p, v6 ? &b6 : &b4, v6 ? &a6 : &a4, reply, 0x1234, 0x5678,
							(const uint8_t *)"abcdefg", 7);
			CHECK_EQ(n, 15);
			CHECK_EQ(p[0], v6 ? (reply ? 129 : 128) : (reply ? 0 : 8));
			CHECK_EQ(parse(v6, p, n, &v), PB_DROP_NONE);
			CHECK_EQ(v.kind, reply ? PB_ICMP_ECHO_REPLY : PB_ICMP_ECHO_REQUEST);
			CHECK_EQ(v.id, 0x1234);
			CHECK_EQ(v.seq, 0x5678);
			CHECK_EQ(v.body_len, 7);
			CHECK_MEM(v.body, "abcdefg", 7);
			/* Answered in place. */
			uint8_t before[15];
			memcpy(before, p, 15);
			pb_icmp_write_echo(p, v6 ? &b6 : &b4, v6 ? &a6 : &a4, reply, v.id, v.seq, v.body, v.body_len);
			CHECK_MEM(p, before, 15);
		}
}

TEST(echo_request_by_hand)
{
	/* Summed by hand: 0800 + 0001 + 0001 = 0802, complement f7fd. */
	const uint8_t p[16] = {8, 0, 0xf7, 0xfd, 0, 1, 0, 1};
	struct pb_icmp_view v;
	addresses();
	CHECK_EQ(parse(false, p, 16, &v), PB_DROP_NONE);
	CHECK_EQ(v.id, 1);
	/* ICMPv6 sums the pseudo header too, and each version has its own protocol number. */
	CHECK_EQ(parse(true, p, 16, &v), PB_DROP_ICMP_BAD);
	struct pb_ip_view ip = around(false);
	ip.proto = PB_IPPROTO_ICMP6;
	CHECK_EQ(pb_icmp_parse(&ip, p, 16, &v), PB_DROP_ICMP_BAD);
}

TEST(malformed)
{
	uint8_t p[64];
	struct pb_icmp_view v;
	addresses();
	uint32_t n = pb_icmp_write_echo(p, &b4, &a4, false, 1, 2, p + 8, 20);
	for (uint32_t i = 0; i < 8; i++)
		CHECK_EQ(parse(false, p, i, &v), PB_DROP_ICMP_BAD);
	for (uint32_t i = 0; i < n; i++) {
		p[i] ^= 0x10;
		CHECK_EQ(parse(false, p, n, &v), PB_DROP_ICMP_BAD);
		p[i] ^= 0x10;
	}
	CHECK_EQ(parse(false, p, n, &v), PB_DROP_NONE);
	/* All zeros: the checksum would be ffff. */
	memset(p, 0, 8);
	CHECK_EQ(parse(false, p, 8, &v), PB_DROP_ICMP_BAD);
}

static void check_quote(bool v6, const struct pb_icmp_view *v)
{
	CHECK(pb_ip_eq(&v->quote.src, v6 ? &a6 : &a4));
	CHECK(pb_ip_eq(&v->quote.dst, v6 ? &b6 : &b4));
	CHECK_EQ(v->quote.proto, PB_IPPROTO_TCP);
	CHECK(v->quote.has_ports && v->quote.has_seq);
	CHECK_EQ(v->quote.sport, 1000);
	CHECK_EQ(v->quote.dport, 80);
	CHECK_EQ(v->quote.seq, 0x11223344);
}

TEST(errors_and_their_quotes)
{
	addresses();
	for (int v6 = 0; v6 < 2; v6++) {
		uint8_t p[1600], ours[1500];
		struct pb_icmp_view v;
		const struct pb_ip *src = v6 ? &b6 : &b4, *dst = v6 ? &a6 : &a4;
		uint32_t n = our_packet(v6, ours, 100);
		uint32_t len = pb_icmp_write_unreach(p, src, dst, 3, ours, n);
		CHECK_EQ(len, 8 + n);
		CHECK_EQ(parse(v6, p, len, &v), PB_DROP_NONE);
		CHECK_EQ(v.kind, PB_ICMP_UNREACH);
		CHECK_EQ(v.type, v6 ? 1 : 3);
		CHECK_EQ(v.code, 3);
		check_quote(v6, &v);
		len = pb_icmp_write_too_big(p, src, dst, 1280, ours, n);
		CHECK_EQ(parse(v6, p, len, &v), PB_DROP_NONE);
		CHECK_EQ(v.kind, PB_ICMP_TOO_BIG);
		CHECK_EQ(v.mtu, 1280);
		check_quote(v6, &v);
		len = pb_icmp_write_error(p, src, dst, v6 ? 3 : 11, 0, 0, ours, n);
		CHECK_EQ(parse(v6, p, len, &v), PB_DROP_NONE);
		CHECK_EQ(v.kind, PB_ICMP_TIME_EXCEEDED);
		check_quote(v6, &v);
		/* A long packet is quoted in part only. */
		n = our_packet(v6, ours, 1400);
		len = pb_icmp_write_unreach(p, src, dst, 0, ours, n);
		CHECK_EQ(len, v6 ? 1280 - 40 : 576 - 20);
		CHECK_EQ(parse(v6, p, len, &v), PB_DROP_NONE);
		check_quote(v6, &v);
	}
}

TEST(an_error_with_eight_bytes)
{
	/* RFC 792: the IP header and 64 bits. Fewer: no sequence number, then no ports, then nothing. */
	addresses();
	for (int v6 = 0; v6 < 2; v6++) {
		uint8_t p[200], ours[100];
		struct pb_icmp_view v;
		uint32_t hdr = v6 ? 40 : 20;
		our_packet(v6, ours, 0);
		for (uint32_t n = 0; n <= hdr + 8; n++) {
			uint32_t len = pb_icmp_write_unreach(p, v6 ? &b6 : &b4, v6 ? &a6 : &a4, 1, ours, n);
			enum pb_drop why = parse(v6, p, len, &v);
			CHECK_EQ(why, n < hdr ? PB_DROP_ICMP_BAD : PB_DROP_NONE);
			if (why)
				continue;
			CHECK_EQ(v.quote.has_ports, n >= hdr + 4);
			CHECK_EQ(v.quote.has_seq, n == hdr + 8);
		}
	}
}

TEST(quotes_without_ports)
{
	uint8_t p[200], ours[100];
	struct pb_icmp_view v;
	addresses();
	uint32_t n = our_packet(false, ours, 0);
	ours[6] = 0x20; /* first fragment: the ports are there */
	uint32_t len = pb_icmp_write_unreach(p, &b4, &a4, 1, ours, n);
	CHECK_EQ(parse(false, p, len, &v), PB_DROP_NONE);
	CHECK(v.quote.has_ports);
	ours[7] = 8; /* a later one: what follows is data */
	len = pb_icmp_write_unreach(p, &b4, &a4, 1, ours, n);
	CHECK_EQ(parse(false, p, len, &v), PB_DROP_NONE);
	CHECK(!v.quote.has_ports && !v.quote.has_seq);
	n = our_packet(false, ours, 0);
	ours[9] = PB_IPPROTO_UDP;
	len = pb_icmp_write_unreach(p, &b4, &a4, 3, ours, n);
	CHECK_EQ(parse(false, p, len, &v), PB_DROP_NONE);
	CHECK(v.quote.has_ports && !v.quote.has_seq);
	ours[9] = PB_IPPROTO_ICMP;
	len = pb_icmp_write_unreach(p, &b4, &a4, 3, ours, n);
	CHECK_EQ(parse(false, p, len, &v), PB_DROP_NONE);
	CHECK(!v.quote.has_ports);
	/* Not an IPv4 header. */
	for (int first = 0; first < 256; first++) {
		ours[0] = (uint8_t)first;
		len = pb_icmp_write_unreach(p, &b4, &a4, 3, ours, n);
		bool ok = first >> 4 == 4 && (first & 15) >= 5 && (first & 15) * 4 <= (int)n;
		CHECK_EQ(parse(false, p, len, &v), ok ? PB_DROP_NONE : PB_DROP_ICMP_BAD);
	}
}

TEST(which_are_errors)
{
	static const uint8_t errors4[] = {3, 4, 5, 11, 12};
	for (unsigned t = 0; t < 256; t++) {
		bool want = memchr(errors4, (int)t, sizeof(errors4)) != NULL;
		CHECK_EQ(pb_icmp_is_error(4, (uint8_t)t), want);
		CHECK_EQ(pb_icmp_is_error(6, (uint8_t)t), t < 128);
	}
}

TEST(mutated)
{
	struct pb_rng r = test_rng();
	uint32_t good = 0;
	addresses();
	for (int k = 0; k < 200000; k++) {
		uint8_t s[200] = {0}, ours[100];
		bool v6 = k & 1;
		uint32_t n = our_packet(v6, ours, 8);
		const struct pb_ip *src = v6 ? &b6 : &b4, *dst = v6 ? &a6 : &a4;
		n = mutate(&r, ours, n, sizeof(ours));
		n = pb_icmp_write_unreach(s, src, dst, (uint8_t)pb_rng_below(&r, 8), ours, n);
		if (k & 2)
			n = mutate(&r, s, n, sizeof(s));
		uint8_t *p = malloc(n ? n : 1);
		struct pb_icmp_view v;
		memcpy(p, s, n);
		if (!parse(v6, p, n, &v)) {
			good++;
			CHECK(v.body == p + 8 && v.body_len == n - 8);
			CHECK(!v.quote.has_seq || v.quote.has_ports);
		}
		free(p);
	}
	CHECK(good > 10000);
}

MAIN(T(echo_both_versions), T(echo_request_by_hand), T(malformed), T(errors_and_their_quotes),
     T(an_error_with_eight_bytes), T(quotes_without_ports), T(which_are_errors), T(mutated))
