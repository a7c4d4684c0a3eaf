/* Registered memory: which sockets of this process have a pool's region as their UMEM, so that the next one shares it
 * instead of pinning every page once more. Set-up only; thread-safe. */
#ifndef PB_DEV_XSK_UMEM_H
#define PB_DEV_XSK_UMEM_H
#include "base/types.h"

struct pb_pool;
struct pb_xsk_umem;

/* Everything that the registration fixes for all who share it. */
struct pb_xsk_umem_kind {
	const struct pb_pool *pool;
	uint32_t headroom;
	uint32_t flags;      /* XDP_UMEM_* */
	uint32_t meta_bytes; /* tx_metadata_len */
	bool sg;             /* bound with XDP_USE_SG */
};

/* One that can be shared, with a reference, and whether its sockets are zero-copy (sharers are what the first is); or
 * NULL. */
struct pb_xsk_umem *pb_xsk_umem_find(const struct pb_xsk_umem_kind *kind, bool *zerocopy);
/* A new one, of a socket that has registered the memory and is bound. NULL: no memory. */
struct pb_xsk_umem *pb_xsk_umem_new(const struct pb_xsk_umem_kind *kind, bool zerocopy);
/* One attempt to bind fd to a queue with the memory of any socket that is in; -errno of bind(), -EBADF when there is no
 * bound one left. */
int pb_xsk_umem_bind(struct pb_xsk_umem *u, int fd, uint32_t ifindex, uint32_t queue);
/* A bound socket whose descriptor others may name; 0 or -ENOMEM. */
int pb_xsk_umem_enter(struct pb_xsk_umem *u, int fd);
/* Before fd is closed. */
void pb_xsk_umem_leave(struct pb_xsk_umem *u, int fd);
void pb_xsk_umem_unref(struct pb_xsk_umem *u);
#endif
