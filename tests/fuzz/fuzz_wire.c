/* Feeds a frame through Ethernet, ARP, IP, ICMP, UDP and TCP as the receive path does, and traps when what a parser
 * promises does not hold. Most bytes die at a checksum, so in half of the runs the checksums are made right first.
 *
 * A libFuzzer target: link it with all of csrc/wire under -fsanitize=fuzzer,address,undefined, and run it on a scratch
 * directory followed by tests/fuzz/corpus/wire, which tools/make_corpus.py writes. */
#include "wire/arp.h"
#include "wire/eth.h"
#include "wire/icmp.h"
#include "wire/ip.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#include <stdlib.h>

#define HOLDS(cond) ((cond) ? (void)0 : __builtin_trap())

static void fix_csum4(uint8_t *p, uint32_t len)
{
	uint32_t n = len ? (p[0] & 15u) * 4 : 0;
	if (n < PB_IP4_HLEN || n > len || p[0] >> 4 != 4)
		return;
	struct pb_ip4_hdr *h = (void *)p;
	h->csum = (be16){{0, 0}};
	h->csum = pb_csum_finish(pb_csum_partial(p, n, 0));
}

static void fuzz_tcp(uint8_t *p, uint32_t len, const struct pb_ip_view *ip)
{
	struct pb_tcp_view v;
	struct pb_tcp_opts o, again;
	uint8_t written[PB_TCP_OPTS_MAX];
	if (pb_tcp_parse(p, len, &v))
		return;
	HOLDS(v.hdr_len >= PB_TCP_HLEN && v.hdr_len <= len && v.opts_len == v.hdr_len - PB_TCP_HLEN);
	HOLDS(v.sport && v.dport && (v.flags & (PB_TCP_SYN | PB_TCP_ACK | PB_TCP_RST)));
	pb_tcp_set_csum(p, len, &ip->src, &ip->dst);
	HOLDS(pb_tcp_csum_ok(p, len, &ip->src, &ip->dst));
	if (pb_tcp_opts_parse(v.opts, v.opts_len, &o))
		return;
	HOLDS(o.n_sack <= PB_TCP_SACKS_MAX && o.wscale <= PB_TCP_WSCALE_MAX);
	uint32_t n = pb_tcp_opts_write(written, &o);
	HOLDS(n <= PB_TCP_OPTS_MAX && n % 4 == 0);
	HOLDS(!pb_tcp_opts_parse(written, n, &again));
	HOLDS(again.mss == o.mss && again.wscale == o.wscale && again.sack_ok == o.sack_ok && again.ts_val == o.ts_val);
}

static void fuzz_icmp(uint8_t *p, uint32_t len, const struct pb_ip_view *ip, bool fix)
{
	struct pb_icmp_view v;
	if (fix && len >= PB_ICMP_HLEN) {
		bool v6 = ip->version == 6;
		memset(p + 2, 0, 2);
		uint32_t sum = v6 ? pb_csum_pseudo(&ip->src, &ip->dst, PB_IPPROTO_ICMP6, len) : 0;
		be16 c = pb_csum_finish(pb_csum_partial(p, len, sum));
		memcpy(p + 2, c.b, 2);
	}
	if (pb_icmp_parse(ip, p, len, &v))
		return;
	HOLDS(v.body == p + PB_ICMP_HLEN && v.body_len == len - PB_ICMP_HLEN);
	HOLDS(!v.quote.has_seq || (v.quote.has_ports && v.quote.proto == PB_IPPROTO_TCP));
}

static void fuzz_udp(const uint8_t *p, uint32_t len, const struct pb_ip_view *ip, bool fix)
{
	struct pb_udp_view v;
	if (pb_udp_parse(p, len, &ip->src, &ip->dst, fix, &v))
		return;
	HOLDS(v.payload == p + PB_UDP_HLEN && v.payload_len <= len - PB_UDP_HLEN && v.dport);
	/* The last byte that is promised can be read. */
	HOLDS(!v.payload_len || *(const volatile uint8_t *)&v.payload[v.payload_len - 1] <= 255);
}

static void fuzz_ip(uint8_t *p, uint32_t len, bool fix)
{
	struct pb_ip_view v, w;
	if (fix)
		fix_csum4(p, len);
	enum pb_drop why = pb_ip_parse(p, len, &v);
	HOLDS(pb_ip_parse_any(p, len, &w) == why);
	if (why && why != PB_DROP_IP_SRC && why != PB_DROP_IP_LAND && why != PB_DROP_IP_FRAGMENT)
		return;
	HOLDS(v.hdr_len == w.hdr_len && v.total_len == w.total_len && v.proto == w.proto && v.fragment == w.fragment);
	HOLDS(pb_ip_eq(&v.src, &w.src) && pb_ip_eq(&v.dst, &w.dst));
	HOLDS(v.hdr_len >= PB_IP4_HLEN && v.hdr_len <= v.total_len && v.total_len <= len);
	HOLDS(v.version == 4 || (v.version == 6 && v.hdr_len >= PB_IP6_HLEN));
	if (v.fragment)
		return;
	uint32_t n = v.total_len - v.hdr_len;
	if (v.proto == PB_IPPROTO_TCP)
		fuzz_tcp(p + v.hdr_len, n, &v);
	else if (v.proto == PB_IPPROTO_UDP)
		fuzz_udp(p + v.hdr_len, n, &v, fix);
	else
		fuzz_icmp(p + v.hdr_len, n, &v, fix);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pb_eth_view eth;
	struct pb_arp_view arp;
	if (size > 4096)
		return 0;
	uint32_t len = (uint32_t)size;
	for (int fix = 0; fix < 2; fix++) {
		/* A copy of its own and of exact size: the parsers' next byte is out of bounds. */
		uint8_t *p = malloc(size ? size : 1);
		if (!p)
			return 0;
		if (size)
			memcpy(p, data, size);
		if (!pb_eth_parse(p, len, &eth)) {
			HOLDS(eth.hdr_len <= len && eth.vlans <= 2 && eth.hdr_len == PB_ETH_HLEN + 4 * eth.vlans);
			if (eth.type == PB_ETH_ARP)
				(void)pb_arp_parse(p + eth.hdr_len, len - eth.hdr_len, &arp);
			else
				fuzz_ip(p + eth.hdr_len, len - eth.hdr_len, fix);
		}
		free(p);
	}
	return 0;
}
