/* Flow rules that drop, mark or count, or that look at more than the local end: a list in order of priority, of which
 * the first that matches decides. Asked before the steering, and only when it is not empty (conf->nacts). A packet is
 * judged by its own headers: an ICMP error is ICMP, whatever it quotes; of IPv6 the first next header counts. */
#ifndef PB_BPF_XDP_ACT_H
#define PB_BPF_XDP_ACT_H

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PB_ACT_RULES);
	__type(key, __u32);
	__type(value, struct pb_act);
} pb_acts SEC(".maps");

/* Which element of pb_acts comes when. One word each, so that a rule moves without a moment in which it is half here.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PB_ACT_RULES);
	__type(key, __u32);
	__type(value, __u32);
} pb_act_order SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PB_ACT_RULES);
	__type(key, __u32);
	__type(value, struct pb_act_counters);
} pb_act_counts SEC(".maps");

/* What rules look at. */
struct pb_headers {
	__u32 src[4], dst[4]; /* as in struct pb_steer_key */
	__u16 sport, dport;   /* host order */
	__be16 eth_type;
	__u8 version, proto, tcp_flags;
	__u8 has; /* PB_ACT_PORTS, PB_ACT_FLAGS */
};

/* One for each processor. In a map, not on the stack: what the verifier knows of the stack differs with the way by
 * which a packet was read, and it would look at every rule again for each. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pb_headers);
} pb_seen SEC(".maps");

static __always_inline void headers_l4(struct pb_headers *h, const __u8 *l4, const void *end)
{
	if ((h->proto != IPPROTO_TCP && h->proto != IPPROTO_UDP) || (const void *)(l4 + 4) > end)
		return;
	h->sport = (__u16)(l4[0] << 8 | l4[1]);
	h->dport = (__u16)(l4[2] << 8 | l4[3]);
	h->has = PB_ACT_PORTS;
	if (h->proto == IPPROTO_TCP && (const void *)(l4 + 14) <= end) {
		h->tcp_flags = l4[13];
		h->has |= PB_ACT_FLAGS;
	}
}

static __always_inline void headers_of(struct pb_headers *h, const void *data, const void *end)
{
	const void *l3;
	h->eth_type = network(data, end, &l3);
	if (h->eth_type == bpf_htons(ETH_P_IP)) {
		const struct iphdr *ip = l3;
		if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
			return;
		h->version = 4;
		h->proto = ip->protocol;
		h->src[3] = ip->saddr;
		h->dst[3] = ip->daddr;
		/* A fragment after the first has no ports. */
		if (!(ip->frag_off & bpf_htons(PB_IP_OFFSET)))
			headers_l4(h, l3 + ip->ihl * 4, end);
	} else if (h->eth_type == bpf_htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = l3;
		if ((const void *)(ip + 1) > end || ip->version != 6)
			return;
		h->version = 6;
		h->proto = ip->nexthdr;
		__builtin_memcpy(h->src, &ip->saddr, 16);
		__builtin_memcpy(h->dst, &ip->daddr, 16);
		headers_l4(h, (const void *)(ip + 1), end);
	}
}

static __always_inline __u32 port_differs(__u16 port, const struct pb_act_ports *want)
{
	__u32 masked = port & want->mask;
	return masked < want->lo || masked > want->hi;
}

/* Without a branch for each field: the verifier explores this once for each rule. */
static __always_inline int act_matches(const struct pb_act *a, const struct pb_headers *h)
{
	__u32 differs = (__u32)((h->eth_type ^ a->eth_type) & a->eth_mask);
	if (a->version)
		differs |= (__u32)(h->version ^ a->version);
	differs |= (__u32)((h->proto ^ a->proto) & a->proto_mask);
	differs |= (__u32)((h->tcp_flags ^ a->tcp_flags) & a->tcp_mask);
	differs |= (__u32)(a->needs & ~h->has);
#pragma unroll
	for (int i = 0; i < 4; i++) {
		differs |= (h->src[i] ^ a->src[i]) & a->src_mask[i];
		differs |= (h->dst[i] ^ a->dst[i]) & a->dst_mask[i];
	}
	return !(differs | port_differs(h->sport, &a->sport) | port_differs(h->dport, &a->dport));
}

/* The slot of the first of n rules that matches, or -1. */
static __always_inline int act_find(const struct pb_headers *h, __u32 n)
{
	for (__u32 i = 0; i < PB_ACT_RULES; i++) {
		if (i >= n)
			break;
		__u32 at = i;
		const __u32 *slot = bpf_map_lookup_elem(&pb_act_order, &at);
		if (!slot)
			break;
		const struct pb_act *a = bpf_map_lookup_elem(&pb_acts, slot);
		if (a && act_matches(a, h))
			return (int)(*slot & (PB_ACT_RULES - 1));
	}
	return -1;
}

#define PB_ACT_NONE 0xffffu
_Static_assert((PB_ACT_RULES & (PB_ACT_RULES - 1)) == 0 && PB_ACT_RULES < PB_ACT_NONE, "a slot is masked");

/* The slot of the rule for this packet, which it has counted, or PB_ACT_NONE; the IP version above it (0x40000). */
__noinline __u32 pb_act_of(struct xdp_md *ctx)
{
	__u32 zero = 0;
	const struct pb_steer_conf *conf = bpf_map_lookup_elem(&pb_conf, &zero);
	struct pb_headers *h = bpf_map_lookup_elem(&pb_seen, &zero);
	if (!conf || !h)
		return PB_ACT_NONE;
	__builtin_memset(h, 0, sizeof(*h));
	headers_of(h, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
	int found = act_find(h, conf->nacts);
	__u32 version = (__u32)h->version << 16, slot = (__u32)found;
	if (found < 0)
		return version | PB_ACT_NONE;
	const struct pb_act *a = bpf_map_lookup_elem(&pb_acts, &slot);
	struct pb_act_counters *n = a && a->counts ? bpf_map_lookup_elem(&pb_act_counts, &slot) : 0;
	if (n) {
		n->pkts++;
		n->bytes += bpf_xdp_get_buff_len(ctx);
	}
	return version | slot;
}
#endif
