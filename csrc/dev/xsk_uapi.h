/* Kernel interfaces that the headers of the oldest supported distribution (Debian 12: Linux 6.1) do not have yet. */
#ifndef PB_DEV_XSK_UAPI_H
#define PB_DEV_XSK_UAPI_H
#include <linux/bpf.h>
#include <linux/if_xdp.h>
#include <sys/socket.h>

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif

/* bpf(BPF_PROG_LOAD): since 6.3. The program may use the kfuncs of one device and runs nowhere else. */
#ifndef BPF_F_XDP_DEV_BOUND_ONLY
#define BPF_F_XDP_DEV_BOUND_ONLY (1U << 6)
#endif

/* sxdp_flags: since 6.6. Packets of several descriptors. */
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#endif

/* Descriptor options: since 6.6 and 6.8. */
#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif
#ifndef XDP_TX_METADATA
#define XDP_TX_METADATA (1 << 1)
#endif

/* umem flags: since 6.8 and 6.11. */
#ifndef XDP_UMEM_TX_SW_CSUM
#define XDP_UMEM_TX_SW_CSUM (1 << 1)
#endif
#ifndef XDP_UMEM_TX_METADATA_LEN
#define XDP_UMEM_TX_METADATA_LEN (1 << 2)
#endif

/* XDP_UMEM_REG with tx_metadata_len: since 6.8. Older kernels read as much of it as they know. */
struct pb_xdp_umem_reg {
	__u64 addr, len;
	__u32 chunk_size, headroom, flags, tx_metadata_len;
};

/* Before a frame that is sent with XDP_TX_METADATA: since 6.8, launch_time since 6.14. What was asked for is
 * overwritten by what happened. */
struct pb_xsk_tx_meta {
	__u64 flags;
	union {
		struct {
			__u16 csum_start, csum_offset;
			__u64 launch_time;
		} request;
		struct {
			__u64 tx_timestamp;
		} completion;
	};
};
_Static_assert(sizeof(struct pb_xsk_tx_meta) == 24, "as in the kernel's uapi/linux/if_xdp.h");

#define PB_TXMD_TIMESTAMP (1 << 0)
#define PB_TXMD_CHECKSUM (1 << 1)
#define PB_TXMD_LAUNCH_TIME (1 << 2)

/* Since 5.11. */
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#endif
#ifndef SO_BUSY_POLL_BUDGET
#define SO_BUSY_POLL_BUDGET 70
#endif

/* setsockopt: since 6.17. How many frames one wakeup sends in copy mode (32 unless set). */
#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9
#endif

/* What the kernel keeps free before each packet (include/linux/bpf.h), whatever the umem's own headroom. */
#define PB_XDP_PACKET_HEADROOM 256
#endif
