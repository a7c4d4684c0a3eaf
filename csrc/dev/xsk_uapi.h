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

/* setsockopt: since 6.17. How many frames one wakeup sends in copy mode (32 unless set). */
#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9
#endif

/* What the kernel keeps free before each packet (include/linux/bpf.h), whatever the umem's own headroom. */
#define PB_XDP_PACKET_HEADROOM 256
#endif
