/* Flow rules of a DPDK port: one description, compiled to rte_flow's attributes, items and actions (Programmer's Guide,
 * "Generic Flow API").
 *
 * Rules are the port's: they go when it closes. Where the driver does not keep them over a stop, they are taken out
 * before it and put in again by the next start; one that the driver then refuses stays in the list with its error. */
#ifndef PB_DEV_DPDK_FLOW_H
#define PB_DEV_DPDK_FLOW_H
#include "dev/dpdk.h"

#define PB_FLOW_QUEUES 64

/* A field matches when (field & mask) == (value & mask); mask 0: any. Numbers in host order, addresses as in headers.
 */
struct pb_flow_port {
	uint16_t value, mask;
	uint16_t last; /* value to last, both included; 0: value alone */
};

enum pb_flow_fate { PB_FLOW_QUEUE = 1, PB_FLOW_RSS, PB_FLOW_DROP };

struct pb_flow_rule {
	uint32_t priority; /* 0 is the highest */
	uint8_t src_mac[6], src_mac_mask[6], dst_mac[6], dst_mac_mask[6];
	uint16_t eth_type, eth_type_mask; /* behind a VLAN tag, if there is one */
	uint16_t vlan_tci, vlan_mask;     /* priority, id */
	uint8_t version;                  /* 4, 6, or 0: any packet */
	uint8_t proto, proto_mask;        /* 6 or 17 with proto_mask 255: ports, flags */
	uint8_t tcp_flags, tcp_flags_mask;
	uint8_t src_ip[16], src_ip_mask[16], dst_ip[16], dst_ip_mask[16]; /* IPv4: the first four */
	struct pb_flow_port src_port, dst_port;
	enum pb_flow_fate fate;
	uint32_t nqueues; /* QUEUE: 1; RSS: those to spread over, 1 to PB_FLOW_QUEUES */
	uint16_t queues[PB_FLOW_QUEUES];
	uint64_t rss_types; /* RTE_ETH_RSS_*; 0: the driver's choice */
	bool has_mark, count;
	uint32_t mark;
};

/* Why a rule was refused: what of it, by rte_flow's name ("item IPV4: mask", "action QUEUE", "priority"), and the
 * driver's words. */
struct pb_dpdk_flow_fail {
	int err; /* -errno */
	char item[48];
	char text[200];
};

/* Whether the driver would take it now. 0 or -errno (-ENOSYS: it has no flow rules). */
PB_API int pb_dpdk_flow_validate(struct pb_dpdk_port *port, const struct pb_flow_rule *rule,
				 struct pb_dpdk_flow_fail *fail);
/* Validates and creates it. Its number, from 1 on, or -errno. */
PB_API int pb_dpdk_flow_create(struct pb_dpdk_port *port, const struct pb_flow_rule *rule,
			       struct pb_dpdk_flow_fail *fail);
/* -ENOENT: no such number. On other errors it is still there. */
PB_API int pb_dpdk_flow_destroy(struct pb_dpdk_port *port, int id, struct pb_dpdk_flow_fail *fail);
/* Packets and bytes of a rule with `count`; UINT64_MAX: the driver does not count those. */
PB_API int pb_dpdk_flow_query(struct pb_dpdk_port *port, int id, uint64_t *hits, uint64_t *bytes,
			      struct pb_dpdk_flow_fail *fail);
/* 1: it is in the port; 0: the port is stopped and has lost it; -errno with *fail: refused by the last start. */
PB_API int pb_dpdk_flow_state(struct pb_dpdk_port *port, int id, struct pb_dpdk_flow_fail *fail);
/* What a rule is compiled to, as text: a line for the attributes, each item and each action, with the bytes of its
 * structures in hexadecimal. conv: of the copy that rte_flow_conv() makes. Returns the length, -ENOSPC, -errno. */
PB_API int pb_dpdk_flow_text(const struct pb_flow_rule *rule, bool conv, char *buf, size_t room);
#endif
