/* The burst-level interface that every device implements, and the struct that it extends.
 *
 * A device belongs to one thread at a time. Its pool cache is that thread's. Frames:
 *   rx    descriptors come out with owner RX; the device refills its own fill ring from dev->cache.
 *   tx    takes the first k descriptors of d[0..n) (owner moves from `from` to TX) and returns k, or -errno if the
 *         device is gone. With PB_DESC_MORE a packet is taken whole or not at all.
 *   reap  gives back the frame address of up to n completed transmissions (owner still TX; the caller moves it on to
 *         FREE or ENGINE). Order need not be that of transmission. Frames that were not ENGINE's a device may keep for
 *         itself (owner FILL) instead of giving them back.
 *   close takes back everything: after it each frame that the device had is FREE. The caller unrefs the pool.
 *
 * A frame may be sent by several descriptors at a time, when the device has PB_DESC_AGAIN in tx_flags and `from` is
 * ENGINE: the first to be taken moves it to TX, the others carry PB_DESC_AGAIN and move nothing. reap gives its address
 * once for each, in any order, and the caller moves it on with the last. At most PB_DESC_REFS_MAX at a time; they need
 * not name the same bytes, but nobody writes what a descriptor names before that one came back. A descriptor with the
 * flag may be taken when the others are back already, may be the first of its packet (behind a link that reorders), and
 * asks for nothing; a frame that was sent with TX_STAMP is back before it is sent again. From others than an engine the
 * flag means nothing.
 *
 * now_ns is CLOCK_MONOTONIC on real devices and virtual time in a simulation; only `mem`, `fault` and
 * `dpdk` use it. */
#ifndef PB_DEV_DEV_H
#define PB_DEV_DEV_H
#include "base/drops.h"
#include "base/types.h"
#include "mem/desc.h"
#include "mem/pool.h"

#define PB_DEV_ABI 4

struct pb_dev;

struct pb_dev_stats {
	uint64_t rx_pkts, rx_bytes, tx_pkts, tx_bytes;
	uint64_t rx_wakeups, tx_wakeups; /* system calls made to wake the driver */
	uint64_t rx_fill_empty;          /* times the driver found no frame to fill */
	uint64_t tx_stamps_lost; /* PB_DESC_TX_STAMP without a stamp: refused, never come, or not taken in time */
	struct pb_drops drops;
};

/* When a packet left that was sent with PB_DESC_TX_STAMP. */
struct pb_tx_stamp {
	uint64_t seq;  /* which packet of this device, counted from 0 in the order of sending */
	uint64_t addr; /* frame of its first descriptor */
	uint64_t ns;
	uint32_t source; /* enum pb_ts_source: whose clock */
	uint32_t pad;
};
_Static_assert(sizeof(struct pb_tx_stamp) == 32, "ABI with NumPy");

/* What a pass moved, packets. */
struct pb_passed {
	uint32_t received, sent;
};

struct pb_dev_ops {
	uint32_t abi; /* PB_DEV_ABI */
	const char *name;
	int (*rx)(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns);
	int (*tx)(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns);
	int (*reap)(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns);
	/* Time of the next thing that happens by itself (a delayed packet), or UINT64_MAX. NULL: never. */
	uint64_t (*next_ns)(struct pb_dev *dev);
	/* A file descriptor that polls readable when rx would return something, or -1 (then the caller spins). */
	int (*fd)(struct pb_dev *dev);
	/* Brings dev->stats up to date with what the kernel or the NIC counted. */
	void (*stats)(struct pb_dev *dev);
	void (*close)(struct pb_dev *dev);
	/* Takes up to n stamps of completed (reaped) transmissions, oldest first. NULL: never any. */
	int (*stamps)(struct pb_dev *dev, struct pb_tx_stamp *out, int n);
	/* Sends up to n packets that come in at dev out at `to`, as rx and tx would, without making descriptors; those
	 * that `to` does not take are dropped and counted there. `to` has the same ops, and the calling thread drives
	 * both. How many came in, or -errno. NULL: the caller uses rx and tx. */
	int (*pass)(struct pb_dev *dev, struct pb_dev *to, int n, struct pb_passed *p);
};

struct pb_dev {
	const struct pb_dev_ops *ops;
	struct pb_pool *pool;
	struct pb_pool_cache *cache; /* of the thread that drives the device */
	uint16_t queue;
	uint16_t mtu; /* largest L3 packet */
	uint8_t mac[6];
	bool tx_pending; /* frames were submitted and the driver was not yet woken for all of them */
	bool link_up;
	uint16_t tx_flags;  /* PB_DESC_CSUM_PARTIAL, TX_STAMP, LAUNCH, MORE, AGAIN: what tx honours; else ignored */
	uint16_t chain_max; /* descriptors of the longest packet; 0 and 1: never several. rx wants n >= chain_max */
	struct pb_dev_stats stats;
};

static inline int pb_dev_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns)
{
	return dev->ops->rx(dev, d, n, now_ns);
}

static inline int pb_dev_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns)
{
	return dev->ops->tx(dev, d, n, from, now_ns);
}

static inline int pb_dev_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns)
{
	return dev->ops->reap(dev, addrs, n, now_ns);
}

/* Completed frames go back to the pool: nobody else wants them. */
static inline void pb_dev_reap_free(struct pb_dev *dev, uint64_t now_ns)
{
	uint64_t addrs[PB_BURST_MAX];
	int n;
	do {
		n = pb_dev_reap(dev, addrs, PB_BURST_MAX, now_ns);
		for (int i = 0; i < n; i++)
			pb_pool_put(dev->cache, addrs[i], PB_OWN_TX);
	} while (n == PB_BURST_MAX);
}

/* Whether one header frame and a span of a frame that the device has already may go as one packet. */
static inline bool pb_dev_chains_again(const struct pb_dev *dev)
{
	return (dev->tx_flags & (PB_DESC_MORE | PB_DESC_AGAIN)) == (PB_DESC_MORE | PB_DESC_AGAIN);
}

static inline uint64_t pb_dev_next_ns(struct pb_dev *dev)
{
	return dev->ops->next_ns ? dev->ops->next_ns(dev) : UINT64_MAX;
}
#endif
