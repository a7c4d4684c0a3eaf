/* Inside of flow rules: dpdk_flowc.c compiles, dpdk_flow.c keeps. */
#ifndef PB_DEV_DPDK_FLOW_IMPL_H
#define PB_DEV_DPDK_FLOW_IMPL_H
#include "dev/dpdk_flow.h"
#include "dev/dpdk_impl.h"

#include <rte_flow.h>

/* A rule as rte_flow takes it; items and actions point into it. */
struct pb_flow_compiled {
	struct rte_flow_attr attr;
	struct rte_flow_item items[6];
	struct rte_flow_action actions[4];
	struct rte_flow_item_eth eth, eth_mask;
	struct rte_flow_item_vlan vlan, vlan_mask;
	struct rte_flow_item_ipv4 ip4, ip4_mask;
	struct rte_flow_item_ipv6 ip6, ip6_mask;
	struct rte_flow_item_tcp tcp, tcp_last, tcp_mask;
	struct rte_flow_item_udp udp, udp_last, udp_mask;
	struct rte_flow_action_queue queue;
	struct rte_flow_action_rss rss;
	struct rte_flow_action_mark mark;
	struct rte_flow_action_count count;
};

/* bare: the IP header's protocol is not matched where an item for TCP or UDP says it. Some drivers want it said, some
 * do not allow it; the packets are the same. */
void pb_flow_compile(const struct pb_flow_rule *r, bool bare, struct pb_flow_compiled *c);
const char *pb_flow_item_name(enum rte_flow_item_type type);
const char *pb_flow_action_name(enum rte_flow_action_type type);
#endif
