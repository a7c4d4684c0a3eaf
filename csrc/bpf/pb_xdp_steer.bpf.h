/* Steering: which frames belong to user space. Both XDP programs are this file with another pb_meta_fill().
 * Everything that was not asked for is XDP_PASS. The headers are checked as far as needed to find the tuple and no
 * further: lengths and checksums are user space's business.
 *
 * The rules that act and the spreading are global functions: the verifier goes through each of them once. Inlined, it
 * went through all of them again for every way there is to them: 835,000 steps of the million that it takes, not
 * 60,000, and half a second at each attach. They take the context and numbers only, which kernels do from 5.6 on;
 * pointers to memory came later. What each packet goes through is inline: a call and its return cost 14 ns where the
 * kernel guards returns (SRSO), one packet of a stream in a hundred. */
#ifndef PB_BPF_XDP_STEER_H
#define PB_BPF_XDP_STEER_H
#include "dev/xsk_meta.h"

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PB_IP_OFFSET 0x1fff
#define PB_IP_MORE 0x2000
#define PB_ETH_8021AD 0x88a8
/* <linux/icmp.h> draws in libc headers, which the BPF target does not have. */
#define PB_ICMP_BYTES 8
#define PB_ICMP_UNREACH 3
#define PB_ICMP_TIME_EXCEEDED 11
#define PB_ICMP_PARAMETER 12
#define PB_ICMP6_UNREACH 1
#define PB_ICMP6_PARAMETER 4
#define PB_ND_SOLICIT 135
#define PB_ND_ADVERT 136
/* RFC 826, for Ethernet and IPv4 */
#define PB_ARP_BYTES 28
#define PB_ARP_HTYPE_PTYPE 0x00010800
#define PB_ARP_TARGET 24
#define PB_IPPROTO_DCCP 33
#define PB_IPPROTO_SCTP 132
#define PB_IPPROTO_UDPLITE 136

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, PB_XSK_QUEUES *PB_XSK_SOCKETS);
	__type(key, __u32);
	__type(value, __u32);
} pb_xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PB_STEER_KEYS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pb_steer_key);
	__type(value, struct pb_steer_value);
} pb_steer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PB_STEER_RANGES);
	__type(key, __u32);
	__type(value, struct pb_steer_range);
} pb_ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pb_steer_conf);
} pb_conf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pb_steer_counters);
} pb_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PB_XSK_QUEUES);
	__type(key, __u32);
	__type(value, struct pb_rss_queue);
} pb_rss SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pb_rss_hash);
} pb_hash SEC(".maps");

/* The local end that a frame is for (or that a quoted packet came from). */
struct pb_tuple {
	struct pb_steer_key key;
	__u8 version;    /* 4 or 6 as soon as that much is known, else 0 */
	__u8 icmp_error; /* the tuple was quoted */
};

/* Fills the metadata; returns the valid bits. version: 4, 6 or 0 (not parsed). */
static __always_inline __u16 pb_meta_fill(struct xdp_md *ctx, struct pb_xsk_meta *m, __u8 version);

static __always_inline int has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == PB_IPPROTO_SCTP || proto == PB_IPPROTO_DCCP ||
	       proto == PB_IPPROTO_UDPLITE;
}

static __always_inline void set_addr4(struct pb_steer_key *k, __be32 addr)
{
	k->addr[0] = 0;
	k->addr[1] = 0;
	k->addr[2] = bpf_htonl(0xffff);
	k->addr[3] = addr;
}

static __always_inline void set_addr6(struct pb_steer_key *k, const struct in6_addr *a)
{
	__builtin_memcpy(k->addr, a, 16);
}

/* l4 points at the ports; local: 0 the first (source), 1 the second (destination). Returns 0 or -1. */
static __always_inline int take_port(struct pb_tuple *t, const __be16 *l4, const void *end, int local)
{
	if (!has_ports(t->key.proto))
		return 0;
	if ((const void *)(l4 + 2) > end)
		return -1;
	t->key.port = l4[local];
	return 0;
}

/* The IPv4 packet quoted by an ICMP error: ours is its source. */
static __always_inline int quoted4(struct pb_tuple *t, const struct iphdr *ip, const void *end)
{
	if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return -1;
	if (ip->frag_off & bpf_htons(PB_IP_OFFSET))
		return -1;
	t->icmp_error = 1;
	t->key.proto = ip->protocol;
	set_addr4(&t->key, ip->saddr);
	return take_port(t, (const void *)ip + ip->ihl * 4, end, 0);
}

static __always_inline int quoted6(struct pb_tuple *t, const struct ipv6hdr *ip, const void *end)
{
	if ((const void *)(ip + 1) > end || ip->version != 6)
		return -1;
	t->icmp_error = 1;
	t->key.proto = ip->nexthdr;
	set_addr6(&t->key, &ip->saddr);
	return take_port(t, (const void *)(ip + 1), end, 0);
}

/* RFC 792 and RFC 1191: unreachable (with "fragmentation needed"), time exceeded, parameter problem. */
static __always_inline int parse4(struct pb_tuple *t, const struct iphdr *ip, const void *end)
{
	if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return -1;
	t->version = 4;
	if (ip->frag_off & bpf_htons(PB_IP_OFFSET))
		return -1;
	t->key.proto = ip->protocol;
	set_addr4(&t->key, ip->daddr);
	const void *l4 = (const void *)ip + ip->ihl * 4;
	if (ip->protocol != IPPROTO_ICMP)
		return take_port(t, l4, end, 1);
	if (l4 + PB_ICMP_BYTES > end)
		return 0;
	__u8 type = *(const __u8 *)l4;
	if (type == PB_ICMP_UNREACH || type == PB_ICMP_TIME_EXCEEDED || type == PB_ICMP_PARAMETER)
		return quoted4(t, l4 + PB_ICMP_BYTES, end);
	return 0;
}

/* RFC 4443: errors are unreachable, packet too big, time exceeded and parameter problem (1 to 4). */
static __always_inline int parse6(struct pb_tuple *t, const struct ipv6hdr *ip, const void *end)
{
	if ((const void *)(ip + 1) > end || ip->version != 6)
		return -1;
	t->version = 6;
	t->key.proto = ip->nexthdr;
	set_addr6(&t->key, &ip->daddr);
	if (ip->nexthdr != IPPROTO_ICMPV6)
		return take_port(t, (const void *)(ip + 1), end, 1);
	const void *icmp = ip + 1;
	if (icmp + PB_ICMP_BYTES > end)
		return 0;
	__u8 type = *(const __u8 *)icmp;
	if (type >= PB_ICMP6_UNREACH && type <= PB_ICMP6_PARAMETER)
		return quoted6(t, icmp + PB_ICMP_BYTES, end);
	return 0;
}

/* The EtherType behind at most one VLAN tag, and where its packet begins; 0: too short. */
static __always_inline __be16 network(const void *data, const void *end, const void **l3)
{
	const struct ethhdr *eth = data;
	*l3 = eth + 1;
	if ((const void *)(eth + 1) > end)
		return 0;
	__be16 type = eth->h_proto;
	if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(PB_ETH_8021AD)) {
		const __be16 *tag = *l3;
		if ((const void *)(tag + 2) > end)
			return 0;
		type = tag[1];
		*l3 = tag + 2;
	}
	return type;
}

#include "pb_xdp_act.bpf.h"

static __always_inline int parse(struct pb_tuple *t, const void *data, const void *end)
{
	const void *l3;
	__be16 type = network(data, end, &l3);
	if (type == bpf_htons(ETH_P_IP))
		return parse4(t, l3, end);
	if (type == bpf_htons(ETH_P_IPV6))
		return parse6(t, l3, end);
	return -1;
}

static __always_inline int in_ranges(const struct pb_steer_key *k, __u32 n)
{
	__u16 port = bpf_ntohs(k->port);
	for (__u32 i = 0; i < PB_STEER_RANGES; i++) {
		if (i >= n)
			break;
		__u32 slot = i;
		const struct pb_steer_range *r = bpf_map_lookup_elem(&pb_ranges, &slot);
		if (!r)
			break;
		if (r->proto != k->proto || port < r->lo || port > r->hi)
			continue;
		if (r->any_addr || (r->addr[0] == k->addr[0] && r->addr[1] == k->addr[1] && r->addr[2] == k->addr[2] &&
				    r->addr[3] == k->addr[3]))
			return 1;
	}
	return 0;
}

static __always_inline int is_steered(const struct pb_tuple *t, const struct pb_steer_conf *conf)
{
	if (conf->nexact && bpf_map_lookup_elem(&pb_steer, &t->key))
		return 1;
	if (conf->nany) {
		struct pb_steer_key any = {.port = t->key.port, .proto = t->key.proto};
		if (bpf_map_lookup_elem(&pb_steer, &any))
			return 1;
	}
	return in_ranges(&t->key, conf->nranges);
}

/* An address that only user space has: who asks for it (ARP; ND, also to its solicited-node group), what is said of it,
 * and every IP packet for it, fragments and all. */
static __always_inline int is_owned(const void *data, const void *end, __u8 *version)
{
	struct pb_steer_key k = {};
	const void *l3;
	__be16 type = network(data, end, &l3);
	if (type == bpf_htons(ETH_P_ARP)) {
		if (l3 + PB_ARP_BYTES > end || *(const __be32 *)l3 != bpf_htonl(PB_ARP_HTYPE_PTYPE))
			return 0;
		set_addr4(&k, *(const __be32 *)(l3 + PB_ARP_TARGET));
	} else if (type == bpf_htons(ETH_P_IP)) {
		const struct iphdr *ip = l3;
		if ((const void *)(ip + 1) > end)
			return 0;
		set_addr4(&k, ip->daddr);
		*version = 4;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = l3;
		const __u8 *nd = (const void *)(ip + 1);
		if ((const void *)nd > end)
			return 0;
		*version = 6;
		set_addr6(&k, &ip->daddr);
		/* To a group: whom it is about. An answer to us is about the neighbour. */
		if (ip->daddr.s6_addr[0] == 0xff && ip->nexthdr == IPPROTO_ICMPV6 && (const void *)(nd + 24) <= end &&
		    (*nd == PB_ND_SOLICIT || *nd == PB_ND_ADVERT))
			set_addr6(&k, (const struct in6_addr *)(nd + 8));
	} else {
		return 0;
	}
	return bpf_map_lookup_elem(&pb_steer, &k) != 0;
}

/* What the engines or the application asked for. */
static __always_inline int is_taken(struct pb_tuple *t, const struct pb_steer_conf *conf, const void *data,
				    const void *end)
{
	if (conf->nowned && is_owned(data, end, &t->version))
		return 1;
	return !parse(t, data, end) && is_steered(t, conf);
}

/* A software RSS hash; type: bits of the kernel's enum xdp_rss_hash_type, 0: no IP packet, no hash. */
struct pb_rss_result {
	__u32 hash;
	__u16 type;
};

/* Of n bytes of the packet that are the input's from byte `at` on. Both are constants: unrolled, the table's offsets
 * are constants too, and the verifier has nothing to explore. The barrier keeps the compiler from loading all bytes
 * first: it would need more stack than a program has (clang 19 did). */
static __always_inline __u32 toeplitz(const struct pb_rss_hash *h, const __u8 *in, int at, int n)
{
	__u32 hash = 0;
#pragma unroll
	for (int i = 0; i < n; i++) {
		hash ^= h->t[2 * (at + i)][in[i] >> 4] ^ h->t[2 * (at + i) + 1][in[i] & 15];
		asm volatile("" : "+r"(hash) : : "memory");
	}
	return hash;
}

/* An ICMP error goes where the packets of the flow go that it quotes: both ends change places. */
static __always_inline int rss_quoted4(const struct pb_rss_hash *h, const __u8 *icmp, const void *end,
				       struct pb_rss_result *r)
{
	/* One register for what is checked and what is read: the verifier knows no other way of the same address. */
	asm volatile("" : "+r"(icmp));
	const struct iphdr *ip = (const void *)(icmp + PB_ICMP_BYTES);
	if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5 ||
	    (*icmp != PB_ICMP_UNREACH && *icmp != PB_ICMP_TIME_EXCEEDED && *icmp != PB_ICMP_PARAMETER))
		return 0;
	const __u8 *l4 = (const void *)ip + ip->ihl * 4;
	asm volatile("" : "+r"(l4));
	if ((ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP) || (const void *)(l4 + 4) > end)
		return 0;
	r->type = PB_RSS_L3_IPV4 | PB_RSS_L4;
	r->hash = toeplitz(h, (const __u8 *)&ip->daddr, 0, 4) ^ toeplitz(h, (const __u8 *)&ip->saddr, 4, 4) ^
		  toeplitz(h, l4 + 2, 8, 2) ^ toeplitz(h, l4, 10, 2);
	return 1;
}

static __always_inline int rss_quoted6(const struct pb_rss_hash *h, const __u8 *icmp, const void *end,
				       struct pb_rss_result *r)
{
	asm volatile("" : "+r"(icmp));
	const struct ipv6hdr *ip = (const void *)(icmp + PB_ICMP_BYTES);
	const __u8 *l4 = (const void *)(ip + 1);
	if ((const void *)(l4 + 4) > end || ip->version != 6 || *icmp < PB_ICMP6_UNREACH ||
	    *icmp > PB_ICMP6_PARAMETER || (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP))
		return 0;
	r->type = PB_RSS_L3_IPV6 | PB_RSS_L4;
	r->hash = toeplitz(h, (const __u8 *)&ip->daddr, 0, 16) ^ toeplitz(h, (const __u8 *)&ip->saddr, 16, 16) ^
		  toeplitz(h, l4 + 2, 32, 2) ^ toeplitz(h, l4, 34, 2);
	return 1;
}

/* What RSS calls the 4-tuple is for whole TCP and UDP packets: a fragment after the first has no ports, and the first
 * one must land where the others do. */
static __always_inline void rss_hash4(const struct pb_rss_hash *h, const struct iphdr *ip, const void *end,
				      struct pb_rss_result *r)
{
	if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return;
	const __u8 *l4 = (const void *)ip + ip->ihl * 4;
	if (ip->protocol == IPPROTO_ICMP && rss_quoted4(h, l4, end, r))
		return;
	r->type = PB_RSS_L3_IPV4;
	r->hash = toeplitz(h, (const __u8 *)&ip->saddr, 0, 8);
	if ((ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) &&
	    !(ip->frag_off & bpf_htons(PB_IP_OFFSET | PB_IP_MORE)) && (const void *)(l4 + 4) <= end) {
		r->type |= PB_RSS_L4;
		r->hash ^= toeplitz(h, l4, 8, 4);
	}
}

static __always_inline void rss_hash6(const struct pb_rss_hash *h, const struct ipv6hdr *ip, const void *end,
				      struct pb_rss_result *r)
{
	if ((const void *)(ip + 1) > end || ip->version != 6)
		return;
	const __u8 *l4 = (const void *)(ip + 1);
	if (ip->nexthdr == IPPROTO_ICMPV6 && rss_quoted6(h, l4, end, r))
		return;
	r->type = PB_RSS_L3_IPV6;
	r->hash = toeplitz(h, (const __u8 *)&ip->saddr, 0, 32);
	if ((ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP) && (const void *)(l4 + 4) <= end) {
		r->type |= PB_RSS_L4;
		r->hash ^= toeplitz(h, l4, 32, 4);
	}
}

/* Which socket of the queue (the upper half of the second word), by which hash (the first word) of what type. */
__noinline __u64 pb_spread(struct xdp_md *ctx, __u32 queue)
{
	const void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct pb_rss_result r = {};
	__u32 zero = 0;
	const struct pb_rss_queue *q = bpf_map_lookup_elem(&pb_rss, &queue);
	const struct pb_rss_hash *h = bpf_map_lookup_elem(&pb_hash, &zero);
	if (!q || !q->on || !h)
		return 0;
	const void *l3;
	__be16 type = network(data, end, &l3);
	if (type == bpf_htons(ETH_P_IP))
		rss_hash4(h, l3, end, &r);
	else if (type == bpf_htons(ETH_P_IPV6))
		rss_hash6(h, l3, end, &r);
	__u64 member = r.type ? q->table[r.hash % PB_RSS_TABLE] % PB_XSK_SOCKETS : 0;
	return member << 48 | (__u64)r.type << 32 | r.hash;
}

/* Writes the metadata before the packet. act: the rule that took it, or NULL. Returns -1 when the driver gives no room
 * for it. */
static __always_inline int put_meta(struct xdp_md *ctx, const struct pb_steer_conf *conf, __u8 version,
				    const struct pb_rss_result *rss, const struct pb_act *act)
{
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct pb_xsk_meta)))
		return -1;
	struct pb_xsk_meta *m = (void *)(long)ctx->data_meta;
	if ((void *)(m + 1) > (void *)(long)ctx->data)
		return -1;
	struct pb_xsk_meta v = {.magic = conf->magic};
	v.valid = pb_meta_fill(ctx, &v, version);
	/* The hash that chose the socket, not the driver's. */
	if (rss->type) {
		v.hash = rss->hash;
		v.hash_type = rss->type;
		v.valid |= PB_META_HASH;
	}
	if (act && act->marks) {
		v.hash = act->mark;
		v.valid = (__u16)((v.valid & ~PB_META_HASH) | PB_META_MARK);
	}
	*m = v;
	return 0;
}

static __always_inline int pb_xdp_steer(struct xdp_md *ctx)
{
	__u32 zero = 0;
	const struct pb_steer_conf *conf = bpf_map_lookup_elem(&pb_conf, &zero);
	struct pb_steer_counters *count = bpf_map_lookup_elem(&pb_counters, &zero);
	const struct pb_act *act = 0;
	if (!conf || !count)
		return XDP_PASS;
	struct pb_tuple t = {};
	if (conf->nacts) {
		__u32 found = pb_act_of(ctx), at = found & 0xffff;
		t.version = (__u8)(found >> 16);
		act = bpf_map_lookup_elem(&pb_acts, &at); /* PB_ACT_NONE is beyond its end */
	}
	if (act && act->drops) {
		count->dropped++;
		return XDP_DROP;
	}
	if (!act && !conf->all && !is_taken(&t, conf, (void *)(long)ctx->data, (void *)(long)ctx->data_end))
		goto pass;
	/* Asked before the metadata is made: a frame for the kernel must not carry any, or GRO sees no two alike. */
	struct pb_rss_result rss = {};
	__u32 queue = ctx->rx_queue_index, slot = queue * PB_XSK_SOCKETS;
	if (conf->nrss) {
		__u64 chosen = pb_spread(ctx, queue);
		rss.hash = (__u32)chosen;
		rss.type = (__u16)(chosen >> 32);
		slot += (__u32)(chosen >> 48);
	}
	if (bpf_redirect_map(&pb_xsks, slot, XDP_PASS) != XDP_REDIRECT)
		goto pass;
	if (conf->nmeta && put_meta(ctx, conf, t.version, &rss, act))
		count->meta_failed++;
	count->redirected++;
	count->icmp_redirected += t.icmp_error;
	return XDP_REDIRECT;
pass:
	count->passed++;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
