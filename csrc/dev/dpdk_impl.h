/* Inside of the DPDK device: dpdk_eal.c starts the EAL, dpdk_pool.c makes a mempool of a pool's frames, dpdk_port.c
 * sets ports up, dpdk_rx.c and dpdk_tx.c move bursts, dpdk_dev.c ties a queue together. */
#ifndef PB_DEV_DPDK_IMPL_H
#define PB_DEV_DPDK_IMPL_H
#include "base/flag.h"
#include "dev/dpdk.h"

#include <pthread.h>
#include <rte_config.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>

/* DPDK's headers give RTE_PKTMBUF_HEADROOM (128) to each received packet. */
_Static_assert(sizeof(struct rte_mbuf) == 128, "PB_DPDK_LEAD");
#define PB_DPDK_OBJ 64 /* rte_mempool's object header, aligned */
_Static_assert(PB_DPDK_LEAD == PB_DPDK_OBJ + 128, "an object header and an mbuf");

#define PB_DPDK_STAMPS 256

/* Why DPDK has a frame. FILL: to do with as it likes, in a cache, on a ring or in transmission. TX: sent by an engine,
 * which waits for it. */
/* TX + k: it is k times more among those that were sent (PB_DESC_AGAIN). */
enum pb_dpdk_lent { PB_DPDK_NO = 0, PB_DPDK_FILL, PB_DPDK_TX };

struct pb_dpdk_queue;
struct pb_dpdk_flow;

/* A pool's mempool: its objects are the frames, its "get" and "put" move them in and out of the pool. */
struct pb_dpdk_pool {
	struct pb_pool *pool;
	struct rte_mempool *mp;
	struct rte_mempool *again; /* mbufs for frames that are sent again (dpdk_again.c); NULL: none */
	uint8_t *lent;             /* enum pb_dpdk_lent by frame */
	/* Frames between pool and mempool go through this cache. */
	_Atomic uint32_t lock PB_ALIGNED(PB_CACHE_LINE);
	struct pb_pool_cache *cache;
	uint32_t refs;
	uint64_t recovered;
	bool mapped;        /* by rte_extmem_register() */
	uint32_t dma_ports; /* on vfio-pci, for which it is mapped (dpdk_dma.c) */
	bool ending;
	struct pb_dpdk_pool *next;
};

/* Frames in the mempool's cache of each thread. */
static inline uint32_t pb_dpdk_cache_size(const struct pb_pool *p)
{
	return p->nframes >= 4096 ? 256 : p->nframes >= 1024 ? 64 : 0;
}
/* A cache holds half as much again before it gives some back (rte_mempool.h). */
static inline uint32_t pb_dpdk_cache_most(const struct pb_pool *p)
{
	return pb_dpdk_cache_size(p) * 3 / 2;
}

/* Descriptors of net_af_xdp, by what they stand for: dpdk_socks.c. */
#define PB_DPDK_SOCKS 256
struct pb_dpdk_socks {
	struct {
		int fd;
		uint64_t id;
	} sock[PB_DPDK_SOCKS];
	uint32_t n;
};
void pb_dpdk_socks_look(struct pb_dpdk_socks *s);
/* Those that there are now and not in `before`. */
void pb_dpdk_socks_keep_new(struct pb_dpdk_socks *s, const struct pb_dpdk_socks *before);
/* `before`: as it was when the port's device began to be closed. */
void pb_dpdk_socks_close(struct pb_dpdk_socks *s, const struct pb_dpdk_socks *before);

enum pb_dpdk_dma { PB_DPDK_DMA_NONE = 0, PB_DPDK_DMA_CONTAINER, PB_DPDK_DMA_DEVICE };

struct pb_dpdk_port {
	uint16_t id;
	_Atomic int refs;
	_Atomic bool running;
	_Atomic bool gone;    /* the device is away, or on its way: nobody uses it any more */
	_Atomic bool removed; /* and DPDK has let go of it */
	bool started_once, probed, watched, uevents;
	bool stuck; /* DPDK's interrupt thread did not come: the driver was not stopped or closed (dpdk_intr.c) */
	struct pb_dpdk_config cfg;
	struct pb_dpdk_pool *dp;
	struct rte_eth_dev_info info;
	uint32_t rx_desc, tx_desc, chain_max, frame_room;
	uint64_t rx_offloads, tx_offloads, rss_types;
	bool timesync;
	_Atomic uint32_t stamp_lock;
	struct pb_dpdk_queue *stamp_owner;          /* whose packet's time the NIC is to tell; NULL: none */
	uint64_t stamp_asked_ns, stamp_patience_ns; /* when, by the asking queue's now_ns, and how long it may take */
	bool sends_chains;                          /* without being asked to, as vdevs that walk any chain do */
	int ts_field;                               /* dynamic field of receive times; -1: none */
	uint64_t ts_flag, ts_scale;                 /* ns in a unit of them */
	int launch_field;
	uint64_t launch_flag;
	struct pb_dpdk_queue *queues[PB_DPDK_QUEUES];
	struct rte_device *device;
	struct pb_dpdk_flow *flows; /* dpdk_flow.c */
	int last_flow;
	enum pb_dpdk_dma dma; /* how the pool is mapped for the device */
	struct pb_dpdk_socks socks;
};

struct pb_dpdk_queue {
	struct pb_dev dev;
	struct pb_dpdk_port *port;
	struct pb_dpdk_pool *dp;
	uint32_t chain;          /* frames of the longest packet that comes in */
	uint32_t tx_max_bytes;   /* largest frame with its Ethernet header and a VLAN tag */
	uint32_t tx_chain;       /* most frames of a packet that goes out */
	_Atomic uint32_t inside; /* the data path is in a DPDK call */
	/* Engines' frames on their way, oldest first, once for each reference: a ring of sent_max. */
	uint32_t *sent;
	uint32_t sent_head, sent_n, sent_max;
	/* Of them those that are done, for reap. */
	uint32_t *done;
	uint32_t ndone;
	uint32_t idle_reaps;
	bool has_cleanup;
	struct pb_dpdk_info stats;
	struct pb_drops own_drops;
	/* Times of packets that were sent, oldest first, and the packet that is waited for: dpdk_time.c. */
	struct pb_tx_stamp stamps[PB_DPDK_STAMPS];
	uint32_t stamp_head, stamp_n;
	uint32_t tx_built; /* packets made before this one, and not sent yet */
	uint64_t stamp_seq, stamp_addr, tx_seq;
	uint64_t now_ns; /* of the last call that told */
};

/* Whether this thread is known to DPDK, which gives it a cache of each mempool. */
extern __thread bool pb_dpdk_known __attribute__((tls_model("initial-exec")));
void pb_dpdk_know_thread(void);

static inline struct pb_dpdk_queue *pb_dpdk_of(struct pb_dev *dev)
{
	return (struct pb_dpdk_queue *)dev;
}

static inline struct rte_mbuf *pb_dpdk_mbuf(const struct pb_pool *p, uint64_t frame)
{
	return (struct rte_mbuf *)(void *)(p->base + frame - sizeof(struct rte_mbuf));
}

/* The frame that an mbuf of our mempool lies in. */
static inline uint64_t pb_dpdk_frame(const struct pb_pool *p, const struct rte_mbuf *m)
{
	return (uint64_t)((const uint8_t *)m - p->base) + sizeof(struct rte_mbuf);
}

/* Enters the data path: false when the port is stopped or gone. Stopping waits until nobody is inside; the fence that
 * orders the two is on its side (membarrier(2)), so here is none. */
static inline bool pb_dpdk_enter(struct pb_dpdk_queue *x)
{
	atomic_store_explicit(&x->inside, 1, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	if (!atomic_load_explicit(&x->port->running, memory_order_relaxed)) {
		atomic_store_explicit(&x->inside, 0, memory_order_release);
		return false;
	}
	if (!pb_dpdk_known)
		pb_dpdk_know_thread();
	return true;
}

static inline void pb_dpdk_leave(struct pb_dpdk_queue *x)
{
	atomic_store_explicit(&x->inside, 0, memory_order_release);
}

static inline void pb_dpdk_lock(struct pb_dpdk_pool *dp)
{
	while (atomic_exchange_explicit(&dp->lock, 1, memory_order_acquire))
		pb_cpu_relax();
}

static inline void pb_dpdk_unlock(struct pb_dpdk_pool *dp)
{
	atomic_store_explicit(&dp->lock, 0, memory_order_release);
}

int pb_dpdk_fail_set(struct pb_dpdk_fail *f, enum pb_dpdk_stage stage, int err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* dpdk_pool.c. The mempool of this pool, made at the first call; -EINVAL: the pool has not PB_DPDK_LEAD. */
struct pb_dpdk_pool *pb_dpdk_pool_get(struct pb_pool *pool, int *err);
/* The port's device may read and write the pool's memory: after it is probed, before a queue is set up. 0 or -errno. */
int pb_dpdk_dma_map(struct pb_dpdk_port *p);
/* When the port is stopped, and before it is closed: virtio's driver lets the device go there. */
void pb_dpdk_dma_unmap(struct pb_dpdk_port *p);
/* Around a call that maps: 0 or -errno of its return value. DPDK sets rte_errno in some of its ways to fail and leaves
 * the kernel's errno in others; what was in either before is of something else. */
void pb_dpdk_dma_begin(void);
int pb_dpdk_dma_done(int rc);
/* Whether the kernel's driver of a device on PCI has a name that begins so. */
bool pb_dpdk_bound_to(const char *device, const char *prefix);
void pb_dpdk_pool_ref(struct pb_dpdk_pool *dp);
/* At the last one what DPDK still has of the frames is free again. */
void pb_dpdk_pool_put(struct pb_dpdk_pool *dp);
uint32_t pb_dpdk_pool_in_use(struct pb_dpdk_pool *dp, uint32_t *cached);
/* What this thread's cache has of the mempool goes back to the pool. */
void pb_dpdk_pool_flush(struct pb_dpdk_pool *dp);
void pb_dpdk_pools_flush(void);

/* dpdk_limits.c: checks a configuration against info before anything is touched. */
int pb_dpdk_limits(struct pb_dpdk_port *p, const struct pb_pool *pool, struct rte_eth_conf *conf,
		   struct pb_dpdk_report *rep);
void pb_dpdk_report_fill(struct pb_dpdk_port *p, struct pb_dpdk_report *rep);

/* dpdk_flow.c. Before a stop, after a start, and when the device went away with its rules. */
void pb_dpdk_flows_stop(struct pb_dpdk_port *p);
void pb_dpdk_flows_start(struct pb_dpdk_port *p);
void pb_dpdk_flows_lost(struct pb_dpdk_port *p);
void pb_dpdk_flows_free(struct pb_dpdk_port *p);

/* DPDK's interrupt thread may look at what the cleaning up takes away: it is left to the end of the process. */
void pb_dpdk_eal_stay(void);

/* dpdk_intr.c. f(p) in DPDK's interrupt thread, also when called from it: what it returns. Else p->stuck is set and f
 * is not called any more: -ETIMEDOUT, the thread did not come; -ENOMEM. */
int pb_dpdk_in_intr(struct pb_dpdk_port *p, int (*f)(struct pb_dpdk_port *p));
/* Whether this is it: known once it has run one. */
bool pb_dpdk_is_intr(void);

/* dpdk_memif.c. rte_eth_dev_stop() and _close(), in the interrupt thread where the driver needs that; so before a
 * device is used it is seen that the thread comes. As pb_dpdk_in_intr(). */
int pb_dpdk_dev_begin(struct pb_dpdk_port *p);
int pb_dpdk_dev_stop(struct pb_dpdk_port *p);
int pb_dpdk_dev_close(struct pb_dpdk_port *p);

/* dpdk_again.c */
struct rte_mempool *pb_dpdk_again_pool(const struct pb_pool *pool, unsigned number);
/* Whether references may be added to what is on its way. */
bool pb_dpdk_again_room(const struct pb_dpdk_queue *x);
/* One more reference to the frame of d, as an mbuf that says what of it; NULL: not now. */
struct rte_mbuf *pb_dpdk_again_mbuf(struct pb_dpdk_queue *x, const struct pb_desc *d);
/* The driver did not take it. */
void pb_dpdk_again_undo(struct pb_dpdk_queue *x, struct rte_mbuf *m);
/* One of the references is no longer among those that were sent. True: it was the last. */
static inline bool pb_dpdk_again_back(uint8_t *lent)
{
	bool last = *lent <= PB_DPDK_TX;
	*lent = (uint8_t)(last ? PB_DPDK_NO : *lent - 1);
	return last;
}

int pb_dpdk_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns);
int pb_dpdk_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns);
int pb_dpdk_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns);
int pb_dpdk_pass(struct pb_dev *dev, struct pb_dev *to, int n, struct pb_passed *p);
/* At close: engines' frames are FREE, and go to the mempool when the driver lets go of those it has. */
void pb_dpdk_abandon(struct pb_dpdk_queue *x);

/* dpdk_watch.c: when the device is pulled away its queues answer -ENODEV. */
int pb_dpdk_watch(struct pb_dpdk_port *p, struct pb_dpdk_report *rep);
void pb_dpdk_unwatch(struct pb_dpdk_port *p);
/* When the driver was closed too, and touches no register of the device any more. */
void pb_dpdk_unwatch_last(struct pb_dpdk_port *p);

/* dpdk_time.c. The fields of mbufs that times are in, for the offloads that were granted: 0 or -errno. */
int pb_dpdk_time_fields(struct pb_dpdk_port *p);
/* Timesync on, and nothing of before in its register: when the port has started. */
void pb_dpdk_stamp_begin(struct pb_dpdk_port *p);
/* Nobody waits for a packet of queue x any more; x NULL: of any, when the port stops and nobody is in the data path. */
void pb_dpdk_stamp_end(struct pb_dpdk_port *p, struct pb_dpdk_queue *x);
/* Has the mbuf ask for its time, the port's only one; else it is counted in tx_stamps_lost. */
void pb_dpdk_stamp_ask(struct pb_dpdk_queue *x, struct rte_mbuf *m, const struct pb_desc *d);
/* The mbuf that asked was not sent. */
void pb_dpdk_stamp_unask(struct pb_dpdk_queue *x);
int pb_dpdk_stamps(struct pb_dev *dev, struct pb_tx_stamp *out, int n);
/* The largest layer-2 frame on an MTU. */
#define PB_DPDK_L2 18
#endif
