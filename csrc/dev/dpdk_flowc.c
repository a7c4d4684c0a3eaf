/* Compiles a rule to rte_flow's structures. */
#include "dev/dpdk_flow_impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static bool any(const void *p, size_t n)
{
	const uint8_t *b = p;
	for (size_t i = 0; i < n; i++)
		if (b[i])
			return true;
	return false;
}

static struct rte_flow_item *item_add(struct pb_flow_compiled *c, uint32_t *n, enum rte_flow_item_type type)
{
	c->items[*n] = (struct rte_flow_item){.type = type};
	return &c->items[(*n)++];
}

/* An item whose mask is all zero matches the header whatever it holds: then it has neither. */
static void item_set(struct rte_flow_item *item, const void *spec, const void *last, const void *mask, size_t n)
{
	if (!any(mask, n))
		return;
	item->spec = spec;
	item->last = last && any(last, n) ? last : NULL;
	item->mask = mask;
}

static void add_ethernet(struct pb_flow_compiled *c, const struct pb_flow_rule *r, uint32_t *n)
{
	memcpy(&c->eth.hdr.dst_addr, r->dst_mac, 6);
	memcpy(&c->eth_mask.hdr.dst_addr, r->dst_mac_mask, 6);
	memcpy(&c->eth.hdr.src_addr, r->src_mac, 6);
	memcpy(&c->eth_mask.hdr.src_addr, r->src_mac_mask, 6);
	if (!r->vlan_mask) {
		c->eth.hdr.ether_type = rte_cpu_to_be_16(r->eth_type);
		c->eth_mask.hdr.ether_type = rte_cpu_to_be_16(r->eth_type_mask);
	}
	item_set(item_add(c, n, RTE_FLOW_ITEM_TYPE_ETH), &c->eth, NULL, &c->eth_mask, sizeof(c->eth));
	if (!r->vlan_mask)
		return;
	c->vlan.hdr.vlan_tci = rte_cpu_to_be_16(r->vlan_tci);
	c->vlan_mask.hdr.vlan_tci = rte_cpu_to_be_16(r->vlan_mask);
	c->vlan.hdr.eth_proto = rte_cpu_to_be_16(r->eth_type);
	c->vlan_mask.hdr.eth_proto = rte_cpu_to_be_16(r->eth_type_mask);
	item_set(item_add(c, n, RTE_FLOW_ITEM_TYPE_VLAN), &c->vlan, NULL, &c->vlan_mask, sizeof(c->vlan));
}

static void add_ip(struct pb_flow_compiled *c, const struct pb_flow_rule *r, bool bare, uint32_t *n)
{
	uint8_t proto_mask = bare ? 0 : r->proto_mask, proto = r->proto & proto_mask;
	if (r->version == 4) {
		c->ip4.hdr.next_proto_id = proto;
		c->ip4_mask.hdr.next_proto_id = proto_mask;
		memcpy(&c->ip4.hdr.src_addr, r->src_ip, 4);
		memcpy(&c->ip4_mask.hdr.src_addr, r->src_ip_mask, 4);
		memcpy(&c->ip4.hdr.dst_addr, r->dst_ip, 4);
		memcpy(&c->ip4_mask.hdr.dst_addr, r->dst_ip_mask, 4);
		item_set(item_add(c, n, RTE_FLOW_ITEM_TYPE_IPV4), &c->ip4, NULL, &c->ip4_mask, sizeof(c->ip4));
	} else {
		c->ip6.hdr.proto = proto;
		c->ip6_mask.hdr.proto = proto_mask;
		memcpy(&c->ip6.hdr.src_addr, r->src_ip, 16);
		memcpy(&c->ip6_mask.hdr.src_addr, r->src_ip_mask, 16);
		memcpy(&c->ip6.hdr.dst_addr, r->dst_ip, 16);
		memcpy(&c->ip6_mask.hdr.dst_addr, r->dst_ip_mask, 16);
		item_set(item_add(c, n, RTE_FLOW_ITEM_TYPE_IPV6), &c->ip6, NULL, &c->ip6_mask, sizeof(c->ip6));
	}
}

static void add_ports(struct pb_flow_compiled *c, const struct pb_flow_rule *r, uint32_t *n)
{
	rte_be16_t sport = rte_cpu_to_be_16(r->src_port.value), sport_last = rte_cpu_to_be_16(r->src_port.last),
		   sport_mask = rte_cpu_to_be_16(r->src_port.mask), dport = rte_cpu_to_be_16(r->dst_port.value),
		   dport_last = rte_cpu_to_be_16(r->dst_port.last), dport_mask = rte_cpu_to_be_16(r->dst_port.mask);
	bool range = r->src_port.last || r->dst_port.last;
	/* In `last` a field that is no range is as in `spec`. */
	if (range) {
		sport_last = sport_last ? sport_last : sport;
		dport_last = dport_last ? dport_last : dport;
	}
	if (r->proto == 6) {
		c->tcp.hdr = (struct rte_tcp_hdr){.src_port = sport, .dst_port = dport, .tcp_flags = r->tcp_flags};
		c->tcp_mask.hdr = (struct rte_tcp_hdr){
			.src_port = sport_mask, .dst_port = dport_mask, .tcp_flags = r->tcp_flags_mask};
		if (range)
			c->tcp_last.hdr = (struct rte_tcp_hdr){
				.src_port = sport_last, .dst_port = dport_last, .tcp_flags = r->tcp_flags};
		item_set(item_add(c, n, RTE_FLOW_ITEM_TYPE_TCP), &c->tcp, &c->tcp_last, &c->tcp_mask, sizeof(c->tcp));
	} else {
		c->udp.hdr = (struct rte_udp_hdr){.src_port = sport, .dst_port = dport};
		c->udp_mask.hdr = (struct rte_udp_hdr){.src_port = sport_mask, .dst_port = dport_mask};
		if (range)
			c->udp_last.hdr = (struct rte_udp_hdr){.src_port = sport_last, .dst_port = dport_last};
		item_set(item_add(c, n, RTE_FLOW_ITEM_TYPE_UDP), &c->udp, &c->udp_last, &c->udp_mask, sizeof(c->udp));
	}
}

static void add_actions(struct pb_flow_compiled *c, const struct pb_flow_rule *r)
{
	struct rte_flow_action *a = c->actions;
	c->mark.id = r->mark;
	c->queue.index = r->queues[0];
	c->rss = (struct rte_flow_action_rss){.types = r->rss_types, .queue_num = r->nqueues, .queue = r->queues};
	if (r->count)
		*a++ = (struct rte_flow_action){RTE_FLOW_ACTION_TYPE_COUNT, &c->count};
	if (r->has_mark)
		*a++ = (struct rte_flow_action){RTE_FLOW_ACTION_TYPE_MARK, &c->mark};
	if (r->fate == PB_FLOW_QUEUE)
		*a++ = (struct rte_flow_action){RTE_FLOW_ACTION_TYPE_QUEUE, &c->queue};
	else if (r->fate == PB_FLOW_RSS)
		*a++ = (struct rte_flow_action){RTE_FLOW_ACTION_TYPE_RSS, &c->rss};
	else
		*a++ = (struct rte_flow_action){RTE_FLOW_ACTION_TYPE_DROP, NULL};
	*a = (struct rte_flow_action){RTE_FLOW_ACTION_TYPE_END, NULL};
}

void pb_flow_compile(const struct pb_flow_rule *r, bool bare, struct pb_flow_compiled *c)
{
	uint32_t n = 0;
	bool l4 = r->proto_mask == 255 && (r->proto == 6 || r->proto == 17);
	memset(c, 0, sizeof(*c));
	c->attr.priority = r->priority;
	c->attr.ingress = 1;
	add_ethernet(c, r, &n);
	if (r->version)
		add_ip(c, r, bare && l4, &n);
	if (r->version && l4)
		add_ports(c, r, &n);
	item_add(c, &n, RTE_FLOW_ITEM_TYPE_END);
	add_actions(c, r);
}

const char *pb_flow_item_name(enum rte_flow_item_type type)
{
	const char *name = NULL;
	return rte_flow_conv(RTE_FLOW_CONV_OP_ITEM_NAME_PTR, &name, sizeof(name), (void *)(uintptr_t)type, NULL) > 0
		       ? name
		       : "?";
}

const char *pb_flow_action_name(enum rte_flow_action_type type)
{
	const char *name = NULL;
	return rte_flow_conv(RTE_FLOW_CONV_OP_ACTION_NAME_PTR, &name, sizeof(name), (void *)(uintptr_t)type, NULL) > 0
		       ? name
		       : "?";
}

/* ---- as text ---- */

struct out {
	char *buf;
	size_t room, n;
};

static void put(struct out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct out *o, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int k = vsnprintf(o->buf + o->n, o->room - o->n, fmt, ap);
	va_end(ap);
	o->n += k > 0 ? (size_t)k : 0;
	if (o->n >= o->room)
		o->n = o->room - 1;
}

static void put_bytes(struct out *o, const char *what, const void *p, size_t n)
{
	if (!p)
		return;
	put(o, " %s ", what);
	for (size_t i = 0; i < n; i++)
		put(o, "%02x", ((const uint8_t *)p)[i]);
}

/* Of the header alone: what else an item has differs between versions of DPDK, and is not used here. */
static size_t header_bytes(enum rte_flow_item_type type)
{
	switch ((int)type) {
	case RTE_FLOW_ITEM_TYPE_ETH:
		return sizeof(struct rte_ether_hdr);
	case RTE_FLOW_ITEM_TYPE_VLAN:
		return sizeof(struct rte_vlan_hdr);
	case RTE_FLOW_ITEM_TYPE_IPV4:
		return sizeof(struct rte_ipv4_hdr);
	case RTE_FLOW_ITEM_TYPE_IPV6:
		return sizeof(struct rte_ipv6_hdr);
	case RTE_FLOW_ITEM_TYPE_TCP:
		return sizeof(struct rte_tcp_hdr);
	case RTE_FLOW_ITEM_TYPE_UDP:
		return sizeof(struct rte_udp_hdr);
	}
	return 0;
}

static void put_action(struct out *o, const struct rte_flow_action *a)
{
	put(o, "action %s", pb_flow_action_name(a->type));
	if (a->type == RTE_FLOW_ACTION_TYPE_QUEUE)
		put(o, " %u", ((const struct rte_flow_action_queue *)a->conf)->index);
	if (a->type == RTE_FLOW_ACTION_TYPE_MARK)
		put(o, " %u", ((const struct rte_flow_action_mark *)a->conf)->id);
	if (a->type == RTE_FLOW_ACTION_TYPE_RSS) {
		const struct rte_flow_action_rss *rss = a->conf;
		put(o, " types %llx queues", (unsigned long long)rss->types);
		for (uint32_t i = 0; i < rss->queue_num; i++)
			put(o, " %u", rss->queue[i]);
	}
	put(o, "\n");
}

static void put_rule(struct out *o, const struct rte_flow_attr *attr, const struct rte_flow_item *item,
		     const struct rte_flow_action *a)
{
	put(o, "attr group %u priority %u%s\n", attr->group, attr->priority, attr->ingress ? " ingress" : "");
	for (; item->type != RTE_FLOW_ITEM_TYPE_END; item++) {
		size_t n = header_bytes(item->type);
		put(o, "item %s", pb_flow_item_name(item->type));
		put_bytes(o, "spec", item->spec, n);
		put_bytes(o, "last", item->last, n);
		put_bytes(o, "mask", item->mask, n);
		put(o, "\n");
	}
	for (; a->type != RTE_FLOW_ACTION_TYPE_END; a++)
		put_action(o, a);
}

int pb_dpdk_flow_text(const struct pb_flow_rule *rule, bool conv, char *buf, size_t room)
{
	struct pb_flow_compiled c;
	struct out o = {buf, room, 0};
	if (!room)
		return -ENOSPC;
	pb_flow_compile(rule, false, &c);
	if (!conv) {
		put_rule(&o, &c.attr, c.items, c.actions);
	} else {
		struct rte_flow_conv_rule src = {{&c.attr}, {c.items}, {c.actions}}, *dst;
		struct rte_flow_error error;
		int n = rte_flow_conv(RTE_FLOW_CONV_OP_RULE, NULL, 0, &src, &error);
		if (n <= 0)
			return n ? n : -EINVAL;
		dst = malloc((size_t)n);
		if (!dst)
			return -ENOMEM;
		n = rte_flow_conv(RTE_FLOW_CONV_OP_RULE, dst, (size_t)n, &src, &error);
		if (n > 0)
			put_rule(&o, dst->attr_ro, dst->pattern_ro, dst->actions_ro);
		free(dst);
		if (n <= 0)
			return n ? n : -EINVAL;
	}
	return o.n + 1 < room ? (int)o.n : -ENOSPC;
}
