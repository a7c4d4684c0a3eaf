/* Inside of the AF_XDP device: xsk_sock.c sets the socket up, xsk_rx.c and xsk_tx.c move bursts, xsk_open.c ties them
 * together. */
#ifndef PB_DEV_XSK_IMPL_H
#define PB_DEV_XSK_IMPL_H
#include "dev/xsk.h"
#include "dev/xsk_if.h"
#include "dev/xsk_prog.h"
#include "dev/xsk_uapi.h"

#include <xdp/xsk.h>

/* What the kernel holds a frame for. */
enum pb_xsk_lent { PB_LENT_NO = 0, PB_LENT_FILL, PB_LENT_TX };

/* Refused by us before the kernel saw them; they come back by reap. */
#define PB_XSK_REFUSED 64

struct pb_xsk {
	struct pb_dev dev; /* first: the ops get a pointer to it */
	/* read-mostly */
	uint8_t *lent PB_ALIGNED(PB_CACHE_LINE); /* enum pb_xsk_lent by frame: all is found again at close */
	int fd;
	uint32_t magic; /* of the program that writes the metadata */
	uint32_t fill_target;
	uint32_t tx_max_bytes;
	bool copy;
	int gone; /* -errno once the interface was removed */
	/* rx */
	struct xsk_ring_cons rx PB_ALIGNED(PB_CACHE_LINE);
	struct xsk_ring_prod fill;
	uint32_t fill_posted; /* frames lent for receiving */
	uint32_t fill_low;
	uint64_t check_ns; /* when to ask next whether there is an interface */
	uint64_t pool_empty;
	uint64_t meta_missing;
	/* tx */
	struct xsk_ring_prod tx PB_ALIGNED(PB_CACHE_LINE);
	struct xsk_ring_cons comp;
	uint32_t tx_outstanding; /* submitted and not reaped */
	uint32_t nrefused;
	uint64_t tx_eagain;
	uint64_t refused[PB_XSK_REFUSED];
	/* cold */
	struct pb_xsk_prog *prog;
	struct pb_drops own_drops; /* seen here; the kernel's counts come on top, and are absolute */
	struct {
		void *at;
		size_t bytes;
	} maps[4];
	int ctl_fd;   /* to ask about the interface, in its namespace */
	int probe_fd; /* zero-copy: see pb_xsk_sock_wait_idle() */
	uint32_t ifindex;
	bool in_map;
};

static inline struct pb_xsk *pb_xsk_of(struct pb_dev *dev)
{
	return (struct pb_xsk *)(void *)dev;
}

/* xsk_sock.c: the socket with its memory and rings, not yet bound. 0 or -errno with *f filled. */
int pb_xsk_sock_open(struct pb_xsk *x, const struct pb_xsk_config *cfg, struct pb_xsk_fail *f);
/* One attempt; -errno of bind(). */
int pb_xsk_sock_bind(struct pb_xsk *x, uint16_t bind_flags);
int pb_xsk_sock_is_zerocopy(struct pb_xsk *x, bool *yes);
void pb_xsk_sock_close(struct pb_xsk *x);
/* Frames per wakeup in copy mode: what was granted of `want`. */
uint32_t pb_xsk_sock_tx_budget(struct pb_xsk *x, uint32_t want);

/* Waits until the kernel has let go of the queue (and a NIC of the frames): it does so some time after close(). */
void pb_xsk_sock_wait_idle(struct pb_xsk *x);

/* xsk_rx.c */
int pb_xsk_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns);
/* Brings the fill ring back to its target as far as the pool allows. */
void pb_xsk_refill(struct pb_xsk *x);

/* xsk_tx.c */
int pb_xsk_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns);
int pb_xsk_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns);
/* Wakes the driver for what is on the TX ring. 0, or -errno when the interface is down or gone. */
int pb_xsk_kick(struct pb_xsk *x);

/* xsk_dev.c */
extern const struct pb_dev_ops pb_xsk_ops;
/* A device with nothing open yet, or NULL; pb_xsk_destroy() takes it apart from whatever point it got to. */
struct pb_xsk *pb_xsk_create(struct pb_pool *pool, int *err);
void pb_xsk_destroy(struct pb_xsk *x);
#endif
