/* AF_XDP: one socket on one queue of an interface, and the XDP program that steers frames to the sockets.
 *
 * Not part of libpbcore.so: it needs libbpf, so it is compiled into the extension _xsk.
 *
 * Everything here looks at the network namespace of the calling thread when it opens; what is open goes on working when
 * that thread leaves. Opening needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF.
 * One program is attached per interface and process; it is shared and counted. It is attached by a bpf_link, so it goes
 * when the last reference goes, or with the process, however that ends. */
#ifndef PB_DEV_XSK_H
#define PB_DEV_XSK_H
#include "base/types.h"
#include "dev/dev.h"
#include "dev/xsk_meta.h"

enum pb_xsk_mode {
	PB_XSK_AUTO = 0,
	PB_XSK_NATIVE = 1,  /* in the driver, before there is an skb */
	PB_XSK_GENERIC = 2, /* in the stack, after the skb was made: any driver, slow, and all of veth on queue 0 */
};
/* Without the device-bound program (generic mode, or a driver without RX metadata) a VLAN tag that the NIC strips is
 * lost, and nothing tells that there was one: turn stripping off there (ethtool -K IF rxvlan off). */

enum pb_xsk_copy {
	PB_XSK_COPY_AUTO = 0,
	PB_XSK_ZEROCOPY = 1,
	PB_XSK_COPY = 2,
};

/* The step that failed, from which a caller makes a remedy. pb_xsk_stage_name() gives the stable name. */
#define PB_XSK_STAGE_LIST(X)                                                                                           \
	X(NONE, "none")               /* nothing failed */                                                             \
	X(CONFIG, "config")           /* an argument is out of range (-EINVAL) */                                      \
	X(IFACE, "iface")             /* no such interface (-ENODEV), or it is down (-ENETDOWN) */                     \
	X(QUEUE, "queue")             /* no such queue (-EINVAL) */                                                    \
	X(MTU, "mtu")                 /* a packet does not fit a frame (-EMSGSIZE) */                                  \
	X(MEMORY, "memory")           /* no memory for the device itself, or no pool cache (-ENOSPC) */                \
	X(PROG_BUSY, "prog_busy")     /* another XDP program is attached (-EBUSY) */                                   \
	X(PROG_FILE, "prog_file")     /* object file missing or unreadable (-ENOENT, ...) */                           \
	X(PROG_LOAD, "prog_load")     /* the kernel refuses the program or its maps (-EPERM: CAP_BPF) */               \
	X(PROG_ATTACH, "prog_attach") /* the driver or the kernel refuses to attach it (-EPERM: CAP_NET_ADMIN) */      \
	X(SOCKET, "socket")           /* socket(AF_XDP): -EPERM (CAP_NET_RAW), -EAFNOSUPPORT (kernel) */               \
	X(UMEM, "umem")               /* registering the memory: -ENOBUFS (RLIMIT_MEMLOCK), -ENOMEM, -EINVAL */        \
	X(RINGS, "rings")             /* sizing or mapping the rings */                                                \
	X(FILL, "fill")               /* the pool had no frame for the fill ring (-ENOBUFS) */                         \
	X(BIND, "bind")               /* -EBUSY: queue in use; -EOPNOTSUPP: no such mode in this driver */             \
	X(OPTIONS, "options")         /* reading back what was granted */                                              \
	X(MAP, "map")                 /* entering the socket in the XSKMAP */

enum pb_xsk_stage {
#define X(id, name) PB_XSK_STAGE_##id,
	PB_XSK_STAGE_LIST(X)
#undef X
		PB_XSK_STAGE_COUNT
};

struct pb_xsk_fail {
	int err; /* -errno, or 0 */
	enum pb_xsk_stage stage;
	char text[240];
};

/* One step of the ladder native zero-copy, native copy, generic copy; fail.err is 0 on the one that held. */
struct pb_xsk_rung {
	enum pb_xsk_mode mode;
	enum pb_xsk_copy copy;
	struct pb_xsk_fail fail;
};

#define PB_XSK_RUNGS 3

/* Packets of several frames (XDP_USE_SG, since Linux 6.6). The kernel knows both directions together: where only
 * sending is wanted, those that come in are dropped (TOO_LONG). */
enum pb_xsk_sg {
	PB_XSK_SG_AUTO = 0, /* in: when a packet of the MTU does not fit a frame. Out: where it costs nothing */
	PB_XSK_SG_ON = 1,
	PB_XSK_SG_OFF = 2,
};

struct pb_xsk_report {
	struct pb_xsk_fail fail; /* of the whole; that of the last rung when every rung failed */
	struct pb_xsk_rung rungs[PB_XSK_RUNGS];
	uint32_t nrungs;
	/* Granted, read back from the kernel. */
	enum pb_xsk_mode mode;
	bool zerocopy;
	bool metadata;         /* the device-bound program: hash, VLAN and, where the NIC has them, times */
	bool frags;            /* packets larger than a page may pass by the program */
	char no_metadata[160]; /* why not */
	uint32_t prog_id;
	uint32_t ifindex;
	uint32_t mtu;
	uint32_t rx_queues; /* 0: the driver does not say */
	uint32_t bind_retries;
	uint32_t filled;                    /* frames on the fill ring at bind */
	uint32_t tx_budget;                 /* frames sent by one wakeup in copy mode */
	uint32_t frame_room;                /* bytes of a packet that one frame receives */
	bool sg;                            /* packets of several frames come in */
	bool tx_sg;                         /* and may go out: PB_DESC_MORE and PB_DESC_AGAIN */
	bool umem_shared;                   /* the memory was registered by another socket, not once more */
	bool tx_csum, tx_stamp, tx_launch;  /* TX metadata: in software in copy mode, else as far as the driver can */
	uint32_t busy_poll_us, busy_budget; /* granted, read back; 0: the kernel's interrupts drive the queue */
	char no_busy_poll[120];             /* why not, or empty */
	char no_tx_meta[160];               /* why none of it was granted, or empty */
};

PB_API const char *pb_xsk_stage_name(unsigned stage);
PB_API const char *pb_xsk_mode_name(unsigned mode);

/* ---- the program ---- */

struct pb_xsk_prog;

struct pb_xsk_prog_config {
	uint32_t ifindex;
	enum pb_xsk_mode mode; /* AUTO is NATIVE, and GENERIC where that fails */
	const char *obj_dir;   /* holds pb_xdp_meta.bpf.o and pb_xdp_generic.bpf.o */
};

/* Attaches the program, or takes one more reference to the one this process attached in this mode. Returns NULL and
 * -errno in *err and fail->err; stages PROG_*. In native mode the device-bound variant is tried first, then the plain
 * one (drivers without RX metadata, kernels before 6.3). */
PB_API struct pb_xsk_prog *pb_xsk_prog_open(const struct pb_xsk_prog_config *cfg, struct pb_xsk_fail *fail, int *err);
PB_API void pb_xsk_prog_ref(struct pb_xsk_prog *p);
/* Detaches at the last reference. */
PB_API void pb_xsk_prog_unref(struct pb_xsk_prog *p);

struct pb_xsk_prog_info {
	uint32_t ifindex;
	uint32_t prog_id;
	enum pb_xsk_mode mode;
	bool metadata;
	bool frags;
	char no_metadata[160]; /* why not */
	bool attached;         /* false once the interface is gone or somebody forced the link off */
};
PB_API void pb_xsk_prog_info(struct pb_xsk_prog *p, struct pb_xsk_prog_info *info);

/* A rule by local address and port. proto 0 (ports 0 to 0): with ip NULL every frame of every queue that has a socket,
 * with an address what only user space has: every IP packet to it, ARP for it, neighbour discovery of it.
 * ip NULL: any address. lo == hi: one port. lo 0 and hi 65535: the whole protocol, also one without ports; fragments
 * after the first have no ports and always pass to the kernel. */
struct pb_steer_rule {
	struct pb_ip ip;
	uint16_t lo, hi;
	uint8_t proto;
	uint8_t any_ip;
	uint32_t refs; /* how often it was added; it goes when it was deleted as often */
};

/* 0, -EINVAL (malformed), -ENOSPC (16 port ranges exist), -E2BIG (65536 tuples exist); del: -ENOENT. Thread-safe. */
PB_API int pb_xsk_steer_add(struct pb_xsk_prog *p, uint8_t proto, const struct pb_ip *ip, uint16_t lo, uint16_t hi);
PB_API int pb_xsk_steer_del(struct pb_xsk_prog *p, uint8_t proto, const struct pb_ip *ip, uint16_t lo, uint16_t hi);
/* Writes up to n rules in no order; returns how many there are, which may be more. */
PB_API int pb_xsk_steer_list(struct pb_xsk_prog *p, struct pb_steer_rule *out, int n);

/* Flow rules that drop, mark or count, or that look at more than the local end: a list, asked before the rules above.
 * The first that matches decides, by priority (0 first), then by age. Returns the rule's number, -ENOSPC (64 exist) or
 * -errno. Thread-safe. */
PB_API int pb_xsk_act_add(struct pb_xsk_prog *p, const struct pb_act *act, uint32_t priority);
/* 0, -ENOENT. */
PB_API int pb_xsk_act_del(struct pb_xsk_prog *p, uint32_t slot);
/* What a rule with `counts` has matched since it was added, summed over the CPUs. 0, -ENOENT. */
PB_API int pb_xsk_act_count(struct pb_xsk_prog *p, uint32_t slot, struct pb_act_counters *out);

/* Sums over the CPUs. */
PB_API int pb_xsk_prog_counters(struct pb_xsk_prog *p, struct pb_steer_counters *out);

/* ---- spreading over several sockets of one queue ---- */

/* From now on the sockets of a queue get packets by the Toeplitz hash: of addresses and ports of TCP and UDP, of the
 * addresses of other IP and of fragments (as NICs do), none for the rest, which goes to socket 0. An ICMP error that
 * quotes TCP or UDP goes where the packets of that flow come in. table[hash % 128] is
 * the socket's number; a packet for a socket that is not there stays with the kernel. The hash goes into the metadata,
 * in place of the driver's. It ends with the last device of the queue. One key for all queues of an interface: -EBUSY
 * while another is in use. -EINVAL: queue. */
PB_API int pb_xsk_rss_on(struct pb_xsk_prog *p, uint32_t queue, const uint8_t key[PB_RSS_KEY_BYTES],
			 const uint8_t table[PB_RSS_TABLE]);
/* Another table; -ENOENT when it is not on. */
PB_API int pb_xsk_rss_table(struct pb_xsk_prog *p, uint32_t queue, const uint8_t table[PB_RSS_TABLE]);
/* All of the queue goes to socket 0 again. */
PB_API void pb_xsk_rss_off(struct pb_xsk_prog *p, uint32_t queue);

/* ---- the device ---- */

struct pb_xsk_config {
	char ifname[16];
	uint32_t ifindex; /* 0: by name */
	uint16_t queue;
	enum pb_xsk_mode mode;
	enum pb_xsk_copy copy;
	uint32_t rx_ring, tx_ring, fill_ring, comp_ring; /* powers of two, 64 to 32768; 0: 2048; comp >= tx */
	uint32_t deadline_ms;                            /* how long a busy queue is tried again */
	const char *obj_dir;
	enum pb_xsk_sg sg;
	uint32_t sockets;  /* 1 to 16 on this queue: this one, and pb_dev_xsk_join() for the others; 0: 1 */
	uint32_t fill_max; /* frames lent to the kernel for receiving, at most; 0: half of the pool */
	uint32_t headroom; /* bytes kept free in front of a received packet, beyond the kernel's own 256 */
	bool unaligned;    /* frames may lie anywhere: any frame size, and the offset in the address' upper 16 bits */
	bool own_umem;     /* register the memory even if another socket has it registered */
	uint16_t tx_zc_flags; /* what the driver grants in zero-copy mode (netdev family, xsk-features):
				 PB_DESC_CSUM_PARTIAL, TX_STAMP, LAUNCH */
	uint32_t tx_zc_segs;  /* descriptors of a packet in zero-copy mode (netdev family, xdp-zc-max-segs) */
	bool no_meta;         /* no hash, time and VLAN tag of what is received: less work for each packet */
	bool tx_meta; /* time stamps and checksums for what is sent, where kernel (6.8) and driver have them; a driver
			 that refuses sockets which may ask for them is opened without */
	uint32_t busy_poll_us, busy_budget; /* SO_PREFER_BUSY_POLL and what goes with it; 0: not, the default (8) */
};

/* The defaults: 2048 each, 2000 ms. */
PB_API void pb_xsk_config_init(struct pb_xsk_config *cfg);

/* The UMEM is the pool's region, a chunk is a frame. The device takes its own reference to the pool and drops it at
 * close. The first device on a pool registers (pins) its memory, later ones share that (XDP_SHARED_UMEM, each with a
 * fill and a completion ring of its own; kernels before 5.10 and other settings: registered once more). Half of the
 * pool at most goes on the fill ring. Sleeps while the queue is busy. Returns NULL with -errno in *err; report says all
 * the rest and may not be NULL. */
PB_API struct pb_dev *pb_dev_xsk_open(const struct pb_xsk_config *cfg, struct pb_pool *pool,
				      struct pb_xsk_report *report, int *err);

/* The next socket on the queue of `first`, which was opened with cfg.sockets > 1 and has not moved a packet yet. Its
 * rings are its own but for fill and completion, which belong to the queue: one thread at a time has the duty to serve
 * them, whichever comes by while nobody has it; no thread ever waits for another. What completes goes back to the
 * socket that sent it. Each of these devices may be driven by another thread and closed at any time; a frame that the
 * kernel still has of a closed one is FREE at the latest when the last of them is closed.
 * NULL and -errno (-ENOSPC: all cfg.sockets are open). */
PB_API struct pb_dev *pb_dev_xsk_join(struct pb_dev *first, struct pb_xsk_report *report, int *err);

/* The program that steers to this device, with a reference of the caller's. */
PB_API struct pb_xsk_prog *pb_dev_xsk_prog(struct pb_dev *dev);

/* What only AF_XDP has; the caller must be the device's thread. What is of the fill ring is of the queue. */
struct pb_xsk_info {
	uint32_t fill_target;  /* frames that are kept with the kernel to receive into */
	uint32_t fill_posted;  /* there now */
	uint32_t fill_low;     /* the fewest there ever were after a refill */
	uint64_t pool_empty;   /* refills cut short because the pool had no frame */
	uint64_t tx_eagain;    /* wakeups that the kernel cut short (normal in copy mode) */
	uint64_t meta_missing; /* packets without valid metadata */
	uint64_t stamps_lost;  /* TX stamps that nobody asked for in time */
	uint32_t tx_outstanding;
	uint32_t member; /* which socket of the queue */
};
PB_API void pb_dev_xsk_info(struct pb_dev *dev, struct pb_xsk_info *info);
#endif
