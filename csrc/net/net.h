/* Where a packet goes next: our addresses, on-link prefixes, gateways, neighbours, and the L2 header. No system call
 * and no clock: neighbours are learnt by whoever hears of them (the slow path) and told here. One thread. */
#ifndef PB_NET_NET_H
#define PB_NET_NET_H
#include "base/drops.h"
#include "base/types.h"
#include "mem/pool.h"

#define PB_NET_LOCALS 8
#define PB_NET_NEIGHS 1024u
#define PB_NET_ROUTES 64u

struct pb_net_local {
	struct pb_ip addr;
	uint8_t prefix; /* of the 128-bit form: 96 + n for IPv4 */
};

struct pb_net_hop {
	struct pb_ip dst, gw; /* gw all zero: on the link; it may be of the other family (RFC 8950) */
	uint8_t prefix;       /* of the 128-bit form */
};

/* Longest prefixes first. */
struct pb_net_routes {
	uint32_t n;
	struct pb_net_hop hop[PB_NET_ROUTES];
};

struct pb_net_neigh {
	struct pb_ip addr;
	uint8_t mac[6];
	bool valid;
};

struct pb_net {
	struct pb_net_local locals[PB_NET_LOCALS];
	uint32_t nlocals;
	struct pb_ip gw4, gw6; /* static default routes, before those of `routes`; all zero: none */
	struct pb_net_routes routes;
	uint8_t mac[6];
	uint16_t vlan; /* TCI to send with, 0: untagged */
	/* next hop of the last packet: bursts go one way */
	struct pb_ip last_dst;
	struct pb_net_neigh *last;
	struct pb_net_neigh *neighs; /* open addressing, never more than 3/4 full */
	uint32_t nneighs;
	uint32_t changes; /* how often something was told by which a next hop may be known, or be another */
};

/* 0 or -ENOMEM. */
PB_API int pb_net_init(struct pb_net *net, const uint8_t mac[6]);
PB_API void pb_net_fini(struct pb_net *net);
/* prefix: 0-32 for IPv4, 0-128 for IPv6. -EINVAL, -ENOSPC. */
PB_API int pb_net_add_local(struct pb_net *net, const struct pb_ip *addr, unsigned prefix);
PB_API bool pb_net_is_local(const struct pb_net *net, const struct pb_ip *addr);
/* The address of ours that a packet to dst leaves from, or NULL. */
PB_API const struct pb_ip *pb_net_source(const struct pb_net *net, const struct pb_ip *dst);
/* Adds a route to a table that is being made; prefix as in pb_net_add_local(), gw NULL: on the link. -EINVAL, -ENOSPC.
 */
PB_API int pb_net_routes_add(struct pb_net_routes *r, const struct pb_ip *dst, unsigned prefix, const struct pb_ip *gw);
/* Takes the place of all routes there were. Our own prefixes and gw4, gw6 stay. */
PB_API void pb_net_set_routes(struct pb_net *net, const struct pb_net_routes *routes);
/* By the longest prefix; of equal ones a prefix of ours is before a route. -ENETUNREACH: not on a link of ours, and no
 * gateway. */
PB_API int pb_net_route(const struct pb_net *net, const struct pb_ip *dst, struct pb_ip *next_hop);
/* mac NULL forgets the neighbour. -ENOSPC when the table is full. */
PB_API int pb_net_neigh_set(struct pb_net *net, const struct pb_ip *addr, const uint8_t *mac);
PB_API const uint8_t *pb_net_neigh_get(struct pb_net *net, const struct pb_ip *addr);
/* Writes the Ethernet header before the IP packet of d (off and len then cover it). PB_DROP_NONE, or NO_ROUTE, or
 * NO_NEIGH with the next hop in *missing. */
PB_API enum pb_drop pb_net_l2(struct pb_net *net, const struct pb_pool *pool, struct pb_desc *d, struct pb_ip *missing);
#endif
