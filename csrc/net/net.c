#include "net/net.h"

#include "wire/eth.h"
#include "wire/ip.h"

#include <errno.h>
#include <stdlib.h>

int pb_net_init(struct pb_net *net, const uint8_t mac[6])
{
	memset(net, 0, sizeof(*net));
	memcpy(net->mac, mac, 6);
	net->neighs = calloc(PB_NET_NEIGHS, sizeof(*net->neighs));
	return net->neighs ? 0 : -ENOMEM;
}

void pb_net_fini(struct pb_net *net)
{
	free(net->neighs);
	net->neighs = NULL;
}

int pb_net_add_local(struct pb_net *net, const struct pb_ip *addr, unsigned prefix)
{
	bool v4 = pb_ip_is4(addr);
	if (prefix > (v4 ? 32u : 128u) || pb_ip_is_unspecified(addr) || pb_ip_is_multicast(addr))
		return -EINVAL;
	if (net->nlocals == PB_NET_LOCALS)
		return -ENOSPC;
	net->changes++;
	net->locals[net->nlocals++] = (struct pb_net_local){*addr, (uint8_t)(v4 ? 96 + prefix : prefix)};
	return 0;
}

bool pb_net_is_local(const struct pb_net *net, const struct pb_ip *addr)
{
	for (uint32_t i = 0; i < net->nlocals; i++)
		if (pb_ip_eq(&net->locals[i].addr, addr))
			return true;
	return false;
}

static bool in_prefix(const struct pb_ip *net, unsigned prefix, const struct pb_ip *a)
{
	if (pb_ip_is4(net) != pb_ip_is4(a)) /* a short IPv6 prefix covers the mapped form of IPv4 */
		return false;
	unsigned bytes = prefix / 8, bits = prefix % 8;
	if (memcmp(net->b, a->b, bytes))
		return false;
	return !bits || !((net->b[bytes] ^ a->b[bytes]) >> (8 - bits));
}

int pb_net_routes_add(struct pb_net_routes *r, const struct pb_ip *dst, unsigned prefix, const struct pb_ip *gw)
{
	bool v4 = pb_ip_is4(dst);
	if (prefix > (v4 ? 32u : 128u) || pb_ip_is_multicast(dst))
		return -EINVAL;
	if (r->n == PB_NET_ROUTES)
		return -ENOSPC;
	struct pb_net_hop hop = {.dst = *dst, .prefix = (uint8_t)(v4 ? 96 + prefix : prefix)};
	if (gw)
		hop.gw = *gw;
	uint32_t at = r->n++;
	for (; at && r->hop[at - 1].prefix < hop.prefix; at--)
		r->hop[at] = r->hop[at - 1];
	r->hop[at] = hop;
	return 0;
}

void pb_net_set_routes(struct pb_net *net, const struct pb_net_routes *routes)
{
	net->changes++;
	net->routes = *routes;
	net->last = NULL;
}

const struct pb_ip *pb_net_source(const struct pb_net *net, const struct pb_ip *dst)
{
	const struct pb_ip *family = NULL;
	for (uint32_t i = 0; i < net->nlocals; i++) {
		if (in_prefix(&net->locals[i].addr, net->locals[i].prefix, dst))
			return &net->locals[i].addr;
		if (!family && pb_ip_is4(&net->locals[i].addr) == pb_ip_is4(dst))
			family = &net->locals[i].addr;
	}
	return family;
}

int pb_net_route(const struct pb_net *net, const struct pb_ip *dst, struct pb_ip *next_hop)
{
	bool v4 = pb_ip_is4(dst);
	int best = -1, shortest = v4 ? 96 : 0;
	for (uint32_t i = 0; i < net->nlocals; i++)
		if (net->locals[i].prefix > best && in_prefix(&net->locals[i].addr, net->locals[i].prefix, dst))
			best = net->locals[i].prefix;
	*next_hop = *dst;
	const struct pb_ip *gw = v4 ? &net->gw4 : &net->gw6;
	for (uint32_t i = 0; i < net->routes.n; i++) {
		const struct pb_net_hop *h = &net->routes.hop[i];
		if (h->prefix <= best)
			break;
		if (!in_prefix(&h->dst, h->prefix, dst))
			continue;
		if (h->prefix == shortest && !pb_ip_is_unspecified(gw))
			break;
		if (!pb_ip_is_unspecified(&h->gw))
			*next_hop = h->gw;
		return 0;
	}
	if (best >= 0)
		return 0;
	if (pb_ip_is_unspecified(gw))
		return -ENETUNREACH;
	*next_hop = *gw;
	return 0;
}

static uint32_t slot_of(const struct pb_ip *a)
{
	uint64_t h = (a->q[0] ^ a->q[1]) * 0x9e3779b97f4a7c15u;
	return (uint32_t)(h >> 40) & (PB_NET_NEIGHS - 1);
}

/* The entry of addr, or the empty slot where it belongs. */
static struct pb_net_neigh *find(struct pb_net *net, const struct pb_ip *addr)
{
	uint32_t i = slot_of(addr);
	while (!pb_ip_eq(&net->neighs[i].addr, addr) && (net->neighs[i].addr.q[0] | net->neighs[i].addr.q[1]))
		i = (i + 1) & (PB_NET_NEIGHS - 1);
	return &net->neighs[i];
}

/* A slot on the way to addr whose neighbour was forgotten, or NULL. */
static struct pb_net_neigh *forgotten(struct pb_net *net, const struct pb_ip *addr)
{
	uint32_t i = slot_of(addr);
	for (; net->neighs[i].addr.q[0] | net->neighs[i].addr.q[1]; i = (i + 1) & (PB_NET_NEIGHS - 1))
		if (!net->neighs[i].valid)
			return &net->neighs[i];
	return NULL;
}

int pb_net_neigh_set(struct pb_net *net, const struct pb_ip *addr, const uint8_t *mac)
{
	if (pb_ip_is_unspecified(addr))
		return -EINVAL;
	struct pb_net_neigh *n = find(net, addr);
	bool known = pb_ip_eq(&n->addr, addr);
	net->last = NULL;
	if (!mac) {
		n->valid = false; /* the slot keeps its address: the probe chain stays whole */
		return 0;
	}
	if (!known) {
		struct pb_net_neigh *old = forgotten(net, addr);
		if (!old && net->nneighs >= PB_NET_NEIGHS / 4 * 3)
			return -ENOSPC;
		net->nneighs += !old;
		n = old ? old : n;
		n->addr = *addr;
	}
	memcpy(n->mac, mac, 6);
	n->valid = true;
	net->changes++;
	return 0;
}

const uint8_t *pb_net_neigh_get(struct pb_net *net, const struct pb_ip *addr)
{
	struct pb_net_neigh *n = find(net, addr);
	return n->valid && pb_ip_eq(&n->addr, addr) ? n->mac : NULL;
}

static struct pb_ip dst_of(const uint8_t *ip)
{
	if (ip[0] >> 4 == 4)
		return pb_ip_from4(ip + offsetof(struct pb_ip4_hdr, dst));
	return pb_ip_from6(ip + offsetof(struct pb_ip6_hdr, dst));
}

enum pb_drop pb_net_l2(struct pb_net *net, const struct pb_pool *pool, struct pb_desc *d, struct pb_ip *missing)
{
	uint8_t *ip = pb_pool_data(pool, d);
	struct pb_ip dst = dst_of(ip), hop;
	struct pb_net_neigh *n = net->last;
	if (!n || !pb_ip_eq(&net->last_dst, &dst)) {
		if (pb_net_route(net, &dst, &hop))
			return PB_DROP_NO_ROUTE;
		n = find(net, &hop);
		if (!n->valid || !pb_ip_eq(&n->addr, &hop)) {
			*missing = hop;
			return PB_DROP_NO_NEIGH;
		}
		net->last_dst = dst;
		net->last = n;
	}
	uint16_t type = ip[0] >> 4 == 4 ? PB_ETH_IP4 : PB_ETH_IP6;
	uint16_t hlen = net->vlan ? PB_ETH_HLEN + PB_VLAN_HLEN : PB_ETH_HLEN;
	d->off = (uint16_t)(d->off - hlen);
	d->len = (uint16_t)(d->len + hlen);
	if (net->vlan)
		pb_eth_write_vlan(ip - hlen, n->mac, net->mac, net->vlan, type);
	else
		pb_eth_write(ip - hlen, n->mac, net->mac, type);
	return PB_DROP_NONE;
}
