/* The variant without kfuncs: for generic (SKB) mode, for drivers without RX metadata and for kernels before 6.3. */
#include "pb_xdp_steer.bpf.h"

static __always_inline __u16 pb_meta_fill(struct xdp_md *ctx, struct pb_xsk_meta *m, __u8 version)
{
	(void)ctx;
	(void)version;
	m->tai_ns = bpf_ktime_get_tai_ns();
	return PB_META_TS_TAI;
}

SEC("xdp")
int pb_xdp_generic(struct xdp_md *ctx)
{
	return pb_xdp_steer(ctx);
}
