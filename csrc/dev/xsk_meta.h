/* What the XDP programs (csrc/bpf) and user space share: the metadata before each packet and the layouts of the maps.
 * Kernel types only, so that it compiles for the BPF target too. */
#ifndef PB_DEV_XSK_META_H
#define PB_DEV_XSK_META_H
#include <linux/types.h>

/* Which fields of struct pb_xsk_meta hold something. */
enum pb_meta_valid {
	PB_META_HASH = 1 << 0,
	PB_META_TS_HW = 1 << 1,  /* rx_ts: the NIC's clock */
	PB_META_TS_TAI = 1 << 2, /* tai_ns: bpf_ktime_get_tai_ns() */
	PB_META_VLAN = 1 << 3,   /* the NIC stripped a tag */
	PB_META_MARK = 1 << 4,   /* hash: the mark of a flow rule, and no hash */
};

/* Directly before the packet. 32 bytes: kernels before 6.9 allow no more. The area is not zeroed by the kernel, hence
 * the magic: a random number of each program instance, so that no packet's old bytes can pass for it. */
struct pb_xsk_meta {
	__u32 magic;
	__u16 valid;
	__u16 vlan_tci;
	__u64 rx_ts;
	__u64 tai_ns;
	__u32 hash;
	__u16 hash_type;  /* bits of the kernel's enum xdp_rss_hash_type */
	__u16 vlan_proto; /* big-endian */
};
_Static_assert(sizeof(struct pb_xsk_meta) == 32, "the metadata limit of older kernels");

/* The kernel's enum xdp_rss_hash_type (include/net/xdp.h), which is not UAPI. */
#define PB_RSS_L3_IPV4 (1 << 0)
#define PB_RSS_L3_IPV6 (1 << 1)
#define PB_RSS_L4 (1 << 3)

/* Key of the map of exact tuples. The address is IPv6 or ::ffff:a.b.c.d; all zero: any. The port is big-endian.
 * Protocol and port 0: an address that only user space has. */
struct pb_steer_key {
	__u32 addr[4];
	__u16 port;
	__u8 proto;
	__u8 zero;
};
_Static_assert(sizeof(struct pb_steer_key) == 20, "no padding: the map hashes every byte");

struct pb_steer_value {
	__u32 refs; /* how often it was added */
};

/* Ports lo to hi, host order, both included. */
struct pb_steer_range {
	__u32 addr[4];
	__u16 lo;
	__u16 hi;
	__u8 proto;
	__u8 any_addr;
	__u16 zero;
};

/* A flow rule of the list (csrc/bpf/pb_xdp_act.bpf.h): values under masks; a mask of 0 matches anything. */
enum pb_act_needs {
	PB_ACT_PORTS = 1 << 0, /* matches only what has ports: TCP and UDP, of fragments the first */
	PB_ACT_FLAGS = 1 << 1, /* matches only what has flags: TCP */
};

/* lo <= (port & mask) <= hi, host order. */
struct pb_act_ports {
	__u16 mask, lo, hi;
};

struct pb_act {
	__u32 src[4], src_mask[4]; /* IPv6, or the last word: IPv4 */
	__u32 dst[4], dst_mask[4];
	struct pb_act_ports sport, dport;
	__u16 eth_type, eth_mask; /* big-endian; behind at most one tag */
	__u8 version;             /* 4, 6 or 0: any */
	__u8 proto, proto_mask;
	__u8 tcp_flags, tcp_mask;
	__u8 needs;
	/* What becomes of a packet: dropped, or taken for the socket of the queue it came in on. */
	__u8 drops, marks, counts;
	__u8 zero[3];
	__u32 mark;
};
_Static_assert(sizeof(struct pb_act) == 96, "no hidden padding");

/* Per CPU and rule. */
struct pb_act_counters {
	__u64 pkts;
	__u64 bytes; /* of the frames, as they came */
};

#define PB_ACT_RULES 64
#define PB_STEER_RANGES 16
#define PB_STEER_KEYS 65536
#define PB_XSK_QUEUES 256
#define PB_XSK_SOCKETS 16 /* of one queue; the XSKMAP has them side by side */
#define PB_RSS_KEY_BYTES 40
#define PB_RSS_TABLE 128

/* By queue: whether its packets are spread by hash, and over which of its sockets. */
struct pb_rss_queue {
	__u32 on;
	__u8 table[PB_RSS_TABLE];
};

/* What each nibble of the input adds to the Toeplitz hash: struct pb_toeplitz_table of csrc/wire. 36 bytes of two IPv6
 * addresses and two ports. By nibble, not by byte: IPv4 with ports then touches 1.5 KiB instead of 12, which stays in
 * L1 beside the packets; bit by bit it would be 288 conditional shifts. */
#define PB_RSS_IN_MAX 36
struct pb_rss_hash {
	__u32 t[2 * PB_RSS_IN_MAX][16];
};

/* The only element of the map pb_conf. Counts let the program skip lookups that cannot hit. */
struct pb_steer_conf {
	__u32 magic;
	__u32 all; /* not 0: every frame of every queue that has a socket */
	__u32 nexact;
	__u32 nany; /* entries of the map of exact tuples whose address is "any" */
	__u32 nranges;
	__u32 nrss;   /* queues whose packets are spread by hash */
	__u32 nowned; /* addresses of user space alone */
	__u32 nmeta;  /* sockets that want metadata: without one, none is written */
	__u32 nacts;  /* flow rules of the list */
};

/* Per CPU. */
struct pb_steer_counters {
	__u64 redirected;      /* to a socket, ICMP included */
	__u64 passed;          /* to the kernel: not steered, or no socket on this queue */
	__u64 icmp_redirected; /* ICMP errors that quote a steered tuple */
	__u64 meta_failed;     /* redirected without metadata */
	__u64 dropped;         /* by flow rules */
};
#endif
