/* Which of several engines has a flow: a table that all of them share. Each enters what it opens and takes it out at
 * the end; it is looked into only for a segment that belongs to no flow of the engine that got it.
 *
 * Any thread, no lock, nobody waits: an entry is one word of a keyed hash and a number, entered and taken out by a
 * compare-and-swap, always in the same few lines of cache. Two flows of one hash (one in 2^56) are taken for each
 * other, which costs no more than a segment that is handed on in vain. */
#ifndef PB_TCP_OWNERS_H
#define PB_TCP_OWNERS_H
#include "tcp/tcp.h"

#define PB_TCP_OWNERS_MAX 64 /* engines */

struct pb_tcp_owners;

/* For this many flows of all engines together, 1 to 2^26. NULL and -errno in *err: -EINVAL, -ENOMEM. */
PB_API struct pb_tcp_owners *pb_tcp_owners_create(uint32_t flows, const uint8_t secret[16], int *err);
PB_API void pb_tcp_owners_destroy(struct pb_tcp_owners *o);
/* False: no place. The flow lives, and what of it comes to other engines is not found. */
PB_API bool pb_tcp_owners_add(struct pb_tcp_owners *o, const struct pb_tcp_endpoint *local,
			      const struct pb_tcp_endpoint *remote, uint32_t who);
/* False: it was not there. */
PB_API bool pb_tcp_owners_del(struct pb_tcp_owners *o, const struct pb_tcp_endpoint *local,
			      const struct pb_tcp_endpoint *remote, uint32_t who);
/* The engine that has it, but not `me`; -1: none. */
PB_API int pb_tcp_owners_find(const struct pb_tcp_owners *o, const struct pb_tcp_endpoint *local,
			      const struct pb_tcp_endpoint *remote, uint32_t me);
/* Entries now; exact when all engines are quiet. */
PB_API uint32_t pb_tcp_owners_count(const struct pb_tcp_owners *o);
#endif
