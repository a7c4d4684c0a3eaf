/* DPDK: queues of an ethdev port as devices, whose mbufs are the pool's frames.
 *
 * Not part of libpbcore.so: it needs librte_*, so it is compiled into the extension _dpdk. The EAL is one per process
 * and stays until the process ends (DPDK Programmer's Guide, "Environment Abstraction Layer").
 *
 * Control calls (everything here but pb_dev's ops) are for one thread at a time; the data path of each queue may run in
 * another thread meanwhile. Like AF_XDP, drivers of kernel interfaces (net_af_xdp, net_tap, net_af_packet) look at the
 * network namespace of the calling thread. */
#ifndef PB_DEV_DPDK_H
#define PB_DEV_DPDK_H
#include "base/types.h"
#include "dev/dev.h"

/* In front of a frame's data lie DPDK's object header (64 bytes) and the mbuf (128): frames are made by
 * pb_pool_create_lead() with this lead. */
#define PB_DPDK_LEAD 192

#define PB_DPDK_QUEUES 64
#define PB_DPDK_KEY_MAX 64
#define PB_DPDK_RETA_MAX 512

/* The step that failed; pb_dpdk_stage_name() gives the stable name. */
#define PB_DPDK_STAGE_LIST(X)                                                                                          \
	X(NONE, "none")           /* nothing failed */                                                                 \
	X(EAL, "eal")             /* it did not start; the log says why */                                             \
	X(CONFIG, "config")       /* an argument is out of range */                                                    \
	X(PROBE, "probe")         /* no driver, no such device, or wrong device arguments */                           \
	X(QUEUES, "queues")       /* more queues than the port has (-EINVAL) */                                        \
	X(RINGS, "rings")         /* descriptors out of the port's range */                                            \
	X(MEMORY, "memory")       /* the pool is too small for the rings (-ENOBUFS), or no memory */                   \
	X(MTU, "mtu")             /* out of the port's range, or packets that no frame holds (-EMSGSIZE) */            \
	X(CONFIGURE, "configure") /* the driver refuses what was asked for */                                          \
	X(SETUP, "setup")         /* a queue could not be set up */                                                    \
	X(START, "start")         /* the port does not start */                                                        \
	X(DMA, "dma")             /* memory could not be mapped for the device */

enum pb_dpdk_stage {
#define X(id, name) PB_DPDK_STAGE_##id,
	PB_DPDK_STAGE_LIST(X)
#undef X
		PB_DPDK_STAGE_COUNT
};

struct pb_dpdk_fail {
	int err; /* -errno, or 0 */
	enum pb_dpdk_stage stage;
	char text[300];
};

PB_API const char *pb_dpdk_stage_name(unsigned stage);

/* ---- the EAL ---- */

struct pb_dpdk_eal_info {
	char version[64];
	bool started;
	bool hugepages;  /* its memory is on huge pages */
	bool iova_va;    /* devices use virtual addresses; false: physical ones */
	uint32_t lcores; /* that it knows of */
	uint64_t log_lost;
};

/* Starts it with these arguments (argv[0] is the program's name); they are copied. The thread keeps its CPU affinity.
 * -EALREADY when it runs or has failed to start once, -ENOTSUP after pb_dpdk_eal_stop(), else what DPDK says. */
PB_API int pb_dpdk_eal_start(int argc, const char *const *argv, struct pb_dpdk_fail *fail);
/* At the end of the process, when all ports are closed. */
PB_API void pb_dpdk_eal_stop(void);
PB_API void pb_dpdk_eal_info(struct pb_dpdk_eal_info *info);
/* Takes log text that DPDK wrote, at most n bytes (65,536 for all of it): pieces of '\x1e', the level as a digit
 * (RTE_LOG_*), and text. Returns how many. Any thread. What is not taken in time is lost and counted. */
PB_API size_t pb_dpdk_log_take(char *buf, size_t n);
/* 1 to 8 (RTE_LOG_EMERG to RTE_LOG_DEBUG) for log types that match the pattern (`pmd.net.*`). 0 or -EINVAL. */
PB_API int pb_dpdk_log_level(const char *pattern, uint32_t level);

/* ---- ports ---- */

struct pb_dpdk_port;

struct pb_dpdk_config {
	char devargs[256];         /* "net_ring0", "net_af_xdp0,iface=eth1", "0000:03:00.0" */
	uint16_t queues;           /* receive and transmit queues */
	uint16_t rx_desc, tx_desc; /* 0: what the driver prefers, or 512 */
	uint16_t mtu;              /* 0: as it comes */
	bool promiscuous, allmulticast;
	bool rx_csum, tx_csum, vlan_strip, rx_stamp, timesync, launch, multi_segs; /* asked for */
	uint64_t rss_types;           /* RTE_ETH_RSS_*; masked by what the port can do; 0: no RSS */
	uint8_t key[PB_DPDK_KEY_MAX]; /* key_len 0: the driver's */
	uint32_t key_len;
};

struct pb_dpdk_report {
	struct pb_dpdk_fail fail;
	char driver[64], device[64];
	uint16_t port_id;
	int socket; /* NUMA node; -1: none */
	uint8_t mac[6];
	uint32_t mtu, min_mtu, max_mtu;
	uint32_t queues, max_rx_queues, max_tx_queues;
	uint32_t rx_desc, tx_desc, rx_desc_min, rx_desc_max, tx_desc_min, tx_desc_max;
	uint64_t rx_capa, tx_capa;         /* RTE_ETH_RX/TX_OFFLOAD_* that the port has */
	uint64_t rx_offloads, tx_offloads; /* in use */
	uint64_t rss_capa, rss_types;
	uint32_t reta_size, key_size;
	uint32_t frame_room; /* bytes of a packet that one frame receives */
	uint32_t chain_max;  /* frames of the longest packet; 1 without scattered receiving */
	uint32_t filled;     /* frames on the receive rings */
	uint32_t frames_needed;
	bool timesync; /* the NIC's clock stamps packets that are sent */
	bool link_up;
	uint32_t speed_mbps; /* UINT32_MAX: not known */
	bool full_duplex;
};

/* Probes, configures and starts a port. All queues receive into `pool` (lead PB_DPDK_LEAD), which needs at least
 * report->frames_needed frames. Returns NULL and -errno in *err; report says the rest and may not be NULL. */
PB_API struct pb_dpdk_port *pb_dpdk_port_open(const struct pb_dpdk_config *cfg, struct pb_pool *pool,
					      struct pb_dpdk_report *report, int *err);
/* Queue q as a device: each once. The port is stopped, closed and its device removed when the caller has called
 * pb_dpdk_port_unref() and the last queue is closed. NULL and -EBUSY, -EINVAL, -ENOMEM, -ENOSPC. */
PB_API struct pb_dev *pb_dpdk_queue_open(struct pb_dpdk_port *port, uint16_t q, int *err);
PB_API void pb_dpdk_port_ref(struct pb_dpdk_port *port);
/* 0; or, from the last one, -ETIMEDOUT: DPDK's interrupt thread does not answer, in which the driver would have to be
 * closed (net_memif). The device stays open in DPDK then, with its frames, until the process ends. */
PB_API int pb_dpdk_port_unref(struct pb_dpdk_port *port);
PB_API uint16_t pb_dpdk_port_id(const struct pb_dpdk_port *port);

/* Stops the port: queues receive and send nothing (tx takes none) until it is started again. 0 or -errno. What the
 * driver had taken and not sent is given back by reap. */
PB_API int pb_dpdk_port_stop(struct pb_dpdk_port *port);
PB_API int pb_dpdk_port_start(struct pb_dpdk_port *port);
/* Removes the device from under its queues, as pulling it does: they answer -ENODEV. */
PB_API int pb_dpdk_port_remove(struct pb_dpdk_port *port);
PB_API void pb_dpdk_port_report(struct pb_dpdk_port *port, struct pb_dpdk_report *report);

/* DPDK's own counters. */
struct pb_dpdk_stats {
	uint64_t rx_pkts, tx_pkts, rx_bytes, tx_bytes, rx_missed, rx_errors, tx_errors, rx_nombuf;
};
PB_API int pb_dpdk_port_stats(struct pb_dpdk_port *port, struct pb_dpdk_stats *out);
#define PB_DPDK_XSTAT_NAME 64
struct pb_dpdk_xstat {
	char name[PB_DPDK_XSTAT_NAME];
	uint64_t value;
};
/* Up to n; returns how many there are, or -errno. */
PB_API int pb_dpdk_port_xstats(struct pb_dpdk_port *port, struct pb_dpdk_xstat *out, int n);
PB_API int pb_dpdk_port_stats_reset(struct pb_dpdk_port *port);

enum pb_dpdk_setting { PB_DPDK_PROMISCUOUS = 0, PB_DPDK_ALLMULTICAST, PB_DPDK_LINK, PB_DPDK_MTU };
/* 0 or -errno. PB_DPDK_MTU: the port must be stopped on many NICs (-EBUSY). */
PB_API int pb_dpdk_port_set(struct pb_dpdk_port *port, enum pb_dpdk_setting what, uint32_t value);
/* The value, or -errno. */
PB_API int pb_dpdk_port_get(struct pb_dpdk_port *port, enum pb_dpdk_setting what);

/* The name of one RTE_ETH_RX/TX_OFFLOAD_* bit ("UDP_CKSUM"), "UNKNOWN" for others. */
PB_API const char *pb_dpdk_offload_name(bool tx, uint64_t bit);

/* ---- RSS ---- */

/* The key of `*len` bytes and the hash types in use; *len is the room at first. 0 or -errno. */
PB_API int pb_dpdk_rss_get(struct pb_dpdk_port *port, uint8_t *key, uint32_t *len, uint64_t *types);
/* key NULL: as it is. */
PB_API int pb_dpdk_rss_set(struct pb_dpdk_port *port, const uint8_t *key, uint32_t len, uint64_t types);
/* The indirection table, report.reta_size entries. */
PB_API int pb_dpdk_reta_get(struct pb_dpdk_port *port, uint16_t *table, uint32_t n);
PB_API int pb_dpdk_reta_set(struct pb_dpdk_port *port, const uint16_t *table, uint32_t n);

/* ---- time ---- */

/* The NIC's clock: timesync (ns) or raw cycles; -ENOTSUP. */
PB_API int pb_dpdk_clock_read(struct pb_dpdk_port *port, uint64_t *ns, int *cycles);
/* The time at which the last packet for timesync came in. -EINVAL: none since. */
PB_API int pb_dpdk_timesync_rx(struct pb_dpdk_port *port, uint64_t *ns);

/* ---- what only this device has ---- */

struct pb_dpdk_info {
	uint64_t rx_copied;      /* packets in another pool's mbufs, copied */
	uint64_t tx_prepare_bad; /* refused by the driver's own check of offloads */
	uint32_t tx_outstanding; /* frames of engines that the driver has */
};
PB_API void pb_dpdk_queue_info(struct pb_dev *dev, struct pb_dpdk_info *info);

struct pb_dpdk_pool_info {
	uint32_t frames;
	uint32_t in_use;    /* that DPDK has: on receive rings and in transmission */
	uint32_t cached;    /* that threads have at hand, each up to one and a half times the size of its cache */
	uint64_t recovered; /* that no driver had given back when its port was closed */
	int socket;
	bool iova_va;
};
PB_API void pb_dpdk_port_pool(struct pb_dpdk_port *port, struct pb_dpdk_pool_info *info);

/* ---- memory of the application, sent without a copy ---- */

struct pb_dpdk_ext;

/* Registers pages that the application owns (rte_extmem_register()) with DPDK and with this port's device. base and
 * bytes are multiples of 4096. NULL and why: PB_DPDK_STAGE_DMA when the device could not be given the memory, of which
 * nothing stays registered then; PB_DPDK_STAGE_CONFIG with -EOPNOTSUPP where the port cannot. It counts what is in
 * flight. */
PB_API struct pb_dpdk_ext *pb_dpdk_ext_register(struct pb_dpdk_port *port, void *base, size_t bytes,
						struct pb_dpdk_fail *fail);
/* -EBUSY while a packet of it is in flight. */
PB_API int pb_dpdk_ext_unregister(struct pb_dpdk_ext *ext);
PB_API uint64_t pb_dpdk_ext_in_flight(const struct pb_dpdk_ext *ext);
/* Sends n packets (at most PB_BURST_MAX) of one piece, piece i being lens[i] bytes at offsets[i], each with a frame of
 * the pool as its handle. head: NULL, or frames of owner APP with what is sent in front of the piece, asking for
 * nothing (an mbuf chain: -ENOTSUP where the port cannot send those). Returns how many the device took, of which heads
 * too; -ERANGE: a piece leaves the memory, or with its head the MTU; -ENOBUFS: no frame is free; -EOPNOTSUPP at
 * registering: net_af_xdp. The device's thread. */
PB_API int pb_dpdk_ext_tx(struct pb_dev *dev, struct pb_dpdk_ext *ext, const struct pb_desc *head,
			  const uint64_t *offsets, const uint32_t *lens, int n);
#endif
