/* The device-bound variant: hash, hardware time and VLAN tag from the driver (kernel: networking/xdp-rx-metadata). */
#include "pb_xdp_steer.bpf.h"

/* Only its name and size matter: libbpf compares the prototypes of the kfuncs with the kernel's. */
enum xdp_rss_hash_type {
	PB_XDP_RSS_TYPE_NONE = 0,
};

extern int bpf_xdp_metadata_rx_hash(const struct xdp_md *ctx, __u32 *hash, enum xdp_rss_hash_type *type) __ksym __weak;
extern int bpf_xdp_metadata_rx_timestamp(const struct xdp_md *ctx, __u64 *timestamp) __ksym __weak;
extern int bpf_xdp_metadata_rx_vlan_tag(const struct xdp_md *ctx, __be16 *proto, __u16 *tci) __ksym __weak;

static __always_inline __u16 pb_meta_fill(struct xdp_md *ctx, struct pb_xsk_meta *m, __u8 version)
{
	__u16 valid = 0;
	__u32 hash = 0;
	enum xdp_rss_hash_type type = PB_XDP_RSS_TYPE_NONE;
	if (bpf_xdp_metadata_rx_hash && !bpf_xdp_metadata_rx_hash(ctx, &hash, &type)) {
		m->hash = hash;
		m->hash_type = (__u16)type;
		/* Some drivers (veth) say "layer 4" without the family, which is known here. */
		if ((type & PB_RSS_L4) && !(type & (PB_RSS_L3_IPV4 | PB_RSS_L3_IPV6)) && version)
			m->hash_type |= version == 4 ? PB_RSS_L3_IPV4 : PB_RSS_L3_IPV6;
		valid |= PB_META_HASH;
	}
	/* Success with 0 (veth) is no time. */
	__u64 ts = 0;
	if (bpf_xdp_metadata_rx_timestamp && !bpf_xdp_metadata_rx_timestamp(ctx, &ts) && ts) {
		m->rx_ts = ts;
		valid |= PB_META_TS_HW;
	} else {
		m->tai_ns = bpf_ktime_get_tai_ns();
		valid |= PB_META_TS_TAI;
	}
	__be16 proto = 0;
	__u16 tci = 0;
	if (bpf_xdp_metadata_rx_vlan_tag && !bpf_xdp_metadata_rx_vlan_tag(ctx, &proto, &tci)) {
		m->vlan_proto = proto;
		m->vlan_tci = tci;
		valid |= PB_META_VLAN;
	}
	return valid;
}

SEC("xdp")
int pb_xdp_meta(struct xdp_md *ctx)
{
	return pb_xdp_steer(ctx);
}
