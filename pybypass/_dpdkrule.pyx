# cython: language_level=3
"""Names of hash types and flow rules as DPDK has them: numbers and structs of what Python says. Nothing here calls DPDK."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pybypass.c cimport dpdk as c

RSS_TYPES = {
    "ipv4": c.RTE_ETH_RSS_IPV4, "ipv4-frag": c.RTE_ETH_RSS_FRAG_IPV4, "ipv4-tcp": c.RTE_ETH_RSS_NONFRAG_IPV4_TCP,
    "ipv4-udp": c.RTE_ETH_RSS_NONFRAG_IPV4_UDP, "ipv4-sctp": c.RTE_ETH_RSS_NONFRAG_IPV4_SCTP,
    "ipv4-other": c.RTE_ETH_RSS_NONFRAG_IPV4_OTHER, "ipv6": c.RTE_ETH_RSS_IPV6, "ipv6-frag": c.RTE_ETH_RSS_FRAG_IPV6,
    "ipv6-tcp": c.RTE_ETH_RSS_NONFRAG_IPV6_TCP, "ipv6-udp": c.RTE_ETH_RSS_NONFRAG_IPV6_UDP,
    "ipv6-sctp": c.RTE_ETH_RSS_NONFRAG_IPV6_SCTP, "ipv6-other": c.RTE_ETH_RSS_NONFRAG_IPV6_OTHER,
    "l2": c.RTE_ETH_RSS_L2_PAYLOAD, "ipv6-ex": c.RTE_ETH_RSS_IPV6_EX, "ipv6-tcp-ex": c.RTE_ETH_RSS_IPV6_TCP_EX,
    "ipv6-udp-ex": c.RTE_ETH_RSS_IPV6_UDP_EX,
}


cdef list rss_names(uint64_t bits):
    return [name for name, bit in RSS_TYPES.items() if bits & bit]


cdef uint64_t rss_bits(types) except? 0:
    return sum(RSS_TYPES[name] for name in set(types))


cdef int pair_in(uint8_t *value, uint8_t *mask, tuple pair, size_t room) except -1:
    cdef bytes raw = pair[0], bits = pair[1]
    if <size_t>len(raw) > room or len(raw) != len(bits):
        raise ValueError(f"{len(raw)} and {len(bits)} bytes for {room}")
    memcpy(value, <const char *>raw, len(raw))
    memcpy(mask, <const char *>bits, len(bits))
    return 0


cdef int rule_in(dict d, c.pb_flow_rule *r) except -1:
    """Of what pybypass.flow.Rule.for_core() gives."""
    memset(r, 0, sizeof(c.pb_flow_rule))
    pair_in(r.src_mac, r.src_mac_mask, d["src_mac"], 6)
    pair_in(r.dst_mac, r.dst_mac_mask, d["dst_mac"], 6)
    r.eth_type, r.eth_type_mask = d["eth_type"]
    r.vlan_tci, r.vlan_mask = d["vlan"]
    r.version = d["version"]
    r.proto, r.proto_mask = d["proto"]
    r.tcp_flags, r.tcp_flags_mask = d["tcp_flags"]
    pair_in(r.src_ip, r.src_ip_mask, d["src_ip"], 16)
    pair_in(r.dst_ip, r.dst_ip_mask, d["dst_ip"], 16)
    r.src_port.value, r.src_port.mask, r.src_port.last = d["src_port"]
    r.dst_port.value, r.dst_port.mask, r.dst_port.last = d["dst_port"]
    r.fate = c.PB_FLOW_DROP if d["fate"] == "drop" else c.PB_FLOW_RSS if d["fate"] == "rss" else c.PB_FLOW_QUEUE
    queues = d["queues"]
    if len(queues) > c.PB_FLOW_QUEUES:
        raise ValueError(f"{len(queues)} queues: at most {c.PB_FLOW_QUEUES}")
    r.nqueues = <uint32_t>len(queues)
    for i, q in enumerate(queues):
        r.queues[i] = q
    r.rss_types = rss_bits(d["rss_types"])
    r.priority, r.count = d["priority"], d["count"]
    r.has_mark = d["mark"] is not None
    r.mark = d["mark"] or 0
    return 0
