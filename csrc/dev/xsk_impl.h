/* Inside of the AF_XDP device: xsk_sock.c sets the socket up, xsk_rx.c and xsk_tx.c move bursts, xsk_open.c ties them
 * together. */
#ifndef PB_DEV_XSK_IMPL_H
#define PB_DEV_XSK_IMPL_H
#include "dev/xsk.h"
#include "dev/xsk_if.h"
#include "dev/xsk_prog.h"
#include "dev/xsk_uapi.h"
#include "dev/xsk_umem.h"
#include "mem/ring.h"

#include <xdp/xsk.h>

/* What the kernel holds a frame for. PB_LENT_TX + k: socket k of the queue sent it. */
enum pb_xsk_lent { PB_LENT_NO = 0, PB_LENT_FILL, PB_LENT_TX };

/* By frame. What is with the kernel for sending is written by its sender alone, from the first descriptor that names
 * the frame to when the last came back to it; others only read whose it is. */
struct pb_xsk_loan {
	uint8_t what;  /* enum pb_xsk_lent */
	uint8_t again; /* TX: descriptors that name it, beyond the first (PB_DESC_AGAIN) */
};

/* That the kernel comes between two threads, which TSan cannot see: one lends a frame, the kernel writes or sends it,
 * and another finds it on its RX ring or on the completion ring. By frame, so that nothing else is taken for ordered.
 */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define PB_XSK_LENDS(lent) __tsan_release(lent)
#define PB_XSK_GETS_BACK(lent) __tsan_acquire(lent)
#else
#define PB_XSK_LENDS(lent) ((void)(lent))
#define PB_XSK_GETS_BACK(lent) ((void)(lent))
#endif

/* Refused by us before the kernel saw them; they come back by reap. */
#define PB_XSK_REFUSED 64

/* Descriptors of one packet. The kernel makes an skb's head of the first and at most 17 fragments of the others. */
#define PB_XSK_CHAIN_MAX 18

/* Stamps that wait to be asked for. */
#define PB_XSK_STAMPS 4096

/* What a ring is mapped from, to be unmapped. */
struct pb_xsk_map {
	void *at;
	size_t bytes;
};

/* What belongs to the queue and not to a socket of it: fill and completion ring, and which frames the kernel has.
 * With several sockets whoever has the duty serves both rings; it is taken by one atomic exchange, and who does not get
 * it goes on with other things. The duty orders all accesses to what it guards. */
struct pb_xsk_group {
	/* read-mostly */
	struct pb_pool *pool;
	struct pb_xsk_loan *lent; /* by frame: all is found again at close */
	uint32_t nsockets;
	uint32_t fill_target;
	bool unaligned;
	/* guarded by the duty, when there are several sockets */
	_Atomic uint32_t duty PB_ALIGNED(PB_CACHE_LINE);
	struct xsk_ring_prod fill;
	struct xsk_ring_cons comp;
	uint32_t filled;           /* frames ever put on the fill ring */
	uint32_t taken_before;     /* what sockets that are closed had received of them */
	_Atomic uint32_t posted;   /* frames lent for receiving, as of the last look */
	_Atomic uint32_t fill_low; /* the fewest there ever were after a refill */
	_Atomic uint64_t pool_empty;
	struct pb_xsk *members[PB_XSK_SOCKETS]; /* NULL: not open, or closed */
	/* cold */
	struct pb_xsk_map maps[2];
	uint32_t joined;        /* how often; a number is not used again */
	_Atomic int open, refs; /* devices that are not being closed; that still use this */
	int probe_fd;           /* zero-copy: see pb_xsk_sock_wait_idle() */
};

struct pb_xsk {
	struct pb_dev dev; /* first: the ops get a pointer to it */
	/* read-mostly */
	struct pb_xsk_group *group PB_ALIGNED(PB_CACHE_LINE);
	int fd;
	uint32_t member; /* which socket of the queue */
	uint32_t magic;  /* of the program that writes the metadata */
	uint32_t tx_max_bytes;
	uint32_t zc_room; /* the longest packet that zero copy receives in one frame */
	bool copy, busy_poll;
	bool sg;        /* packets of several frames come in too */
	bool bound_sg;  /* the kernel takes and gives such packets (XDP_USE_SG) */
	bool rx_inside; /* without sg: the next descriptor belongs to a packet that is thrown away */
	bool no_meta;   /* nothing lies before the packets: not looked for */
	int gone;       /* -errno once the interface was removed */
	/* rx */
	struct xsk_ring_cons rx PB_ALIGNED(PB_CACHE_LINE);
	_Atomic uint32_t rx_taken; /* frames ever taken off the RX ring: written here, read by whoever has the duty */
	uint32_t unfilled;         /* frames taken since the last refill */
	uint64_t check_ns;         /* when to ask next whether there is an interface */
	uint64_t meta_missing;
	/* tx */
	struct xsk_ring_prod tx PB_ALIGNED(PB_CACHE_LINE);
	uint32_t tx_outstanding; /* submitted and not reaped */
	uint32_t tx_limit;       /* of them: what `done` holds */
	uint32_t nrefused;
	uint64_t tx_eagain;
	uint64_t refused[PB_XSK_REFUSED];
	struct pb_ring done; /* several sockets: addresses that completed, from whoever has the duty */
	/* TX metadata; NULL and 0 without */
	uint64_t *stamp_seq; /* by frame: 1 + the number of the packet whose stamp was asked for */
	struct pb_tx_stamp *stamps;
	uint64_t tx_seq;
	uint32_t stamp_head, stamp_tail;
	/* cold */
	struct pb_xsk_config cfg;
	struct pb_xsk_umem *umem;
	struct pb_xsk_prog *prog;
	struct pb_drops own_drops; /* seen here; the kernel's counts come on top, and are absolute */
	struct pb_xsk_map maps[2];
	int ctl_fd; /* to ask about the interface, in its namespace */
	uint32_t ifindex;
	bool in_map, tried_bind;
	bool wants_meta; /* and is counted in the program */
};

static inline struct pb_xsk *pb_xsk_of(struct pb_dev *dev)
{
	return (struct pb_xsk *)(void *)dev;
}

/* xsk_sock.c: the socket with its rings, not yet bound; those of the queue too for the first of it. umem NULL: it
 * registers the memory. 0 or -errno with *f filled. */
int pb_xsk_sock_open(struct pb_xsk *x, struct pb_xsk_umem *umem, struct pb_xsk_fail *f);
/* What a registration for this device is. */
void pb_xsk_sock_kind(const struct pb_xsk *x, struct pb_xsk_umem_kind *kind);
/* One attempt; -errno of bind(). */
int pb_xsk_sock_bind(struct pb_xsk *x, uint16_t bind_flags);
int pb_xsk_sock_is_zerocopy(struct pb_xsk *x, bool *yes);
void pb_xsk_sock_close(struct pb_xsk *x);
/* Frames per wakeup in copy mode: what was granted of `want`. */
uint32_t pb_xsk_sock_tx_budget(struct pb_xsk *x, uint32_t want);
/* Asks for what cfg says and puts what was granted into the report. */
void pb_xsk_sock_busy_poll(struct pb_xsk *x, struct pb_xsk_report *rep);

/* Waits until the kernel has let go of the queue (and a NIC of the frames): it does so some time after close(). */
void pb_xsk_sock_wait_idle(struct pb_xsk *x);

/* xsk_group.c */
struct pb_xsk_group *pb_xsk_group_create(struct pb_pool *pool, uint32_t nsockets, int *err);
/* Takes the next number of the group; -ENOSPC, -ENOMEM. */
int pb_xsk_group_enter(struct pb_xsk_group *g, struct pb_xsk *x);
/* What is on the RX ring and on the way back goes to the pool. The socket is closed (and its ring still mapped). */
void pb_xsk_group_leave(struct pb_xsk_group *g, struct pb_xsk *x);
/* Everything that the kernel had, wherever in its rings it was. After the last socket was closed. */
void pb_xsk_group_take_back(struct pb_xsk_group *g, struct pb_pool_cache *cache);
void pb_xsk_group_free(struct pb_xsk_group *g);
/* Brings the fill ring back to its target as far as the pool allows, with frames of x's cache. */
void pb_xsk_group_refill(struct pb_xsk *x);
/* One more descriptor names the frame, and goes to the kernel. */
static inline void pb_xsk_lend(struct pb_xsk *x, uint64_t frame)
{
	struct pb_xsk_loan *lent = &x->group->lent[pb_pool_index(x->dev.pool, frame)];
	if (lent->what >= PB_LENT_TX)
		lent->again++;
	else
		lent->what = (uint8_t)(PB_LENT_TX + x->member);
	PB_XSK_LENDS(lent);
}
/* One of them came back. True: it was the last. */
static inline bool pb_xsk_unlend(struct pb_xsk_loan *lent)
{
	if (lent->again) {
		lent->again--;
		return false;
	}
	lent->what = PB_LENT_NO;
	return true;
}
/* Up to n addresses (of data) of what x sent and the kernel is done with. */
int pb_xsk_group_completed(struct pb_xsk *x, uint64_t *addrs, int n);

/* xsk_rx.c */
int pb_xsk_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns);

/* xsk_tx.c */
int pb_xsk_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns);
int pb_xsk_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns);
/* Wakes the driver for what is on the TX ring. 0, or -errno when the interface is down or gone. */
int pb_xsk_kick(struct pb_xsk *x);

/* xsk_txmeta.c: metadata before a frame that is sent, and what comes back in it. */
int pb_xsk_txmeta_create(struct pb_xsk *x);
void pb_xsk_txmeta_destroy(struct pb_xsk *x);
/* Whether what the descriptor asks for can be had: room for the metadata, and a checksum that lies in the packet. */
bool pb_xsk_txmeta_ok(const struct pb_desc *d, uint32_t bytes);
void pb_xsk_txmeta_put(struct pb_xsk *x, const struct pb_desc *d, uint64_t data_addr);
void pb_xsk_txmeta_done(struct pb_xsk *x, uint64_t data_addr, uint32_t frame);
int pb_xsk_txmeta_stamps(struct pb_dev *dev, struct pb_tx_stamp *out, int n);

/* xsk_dev.c */
extern const struct pb_dev_ops pb_xsk_ops;
/* A device with nothing open yet, or NULL; pb_xsk_destroy() takes it apart from whatever point it got to. group NULL:
 * it is the first of its queue. */
struct pb_xsk *pb_xsk_create(struct pb_pool *pool, struct pb_xsk_group *group, uint32_t nsockets, int *err);
void pb_xsk_destroy(struct pb_xsk *x);

#define PB_XSK_TX_META_FLAGS (PB_DESC_CSUM_PARTIAL | PB_DESC_TX_STAMP | PB_DESC_LAUNCH)
#endif
