from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "mem/desc.h" nogil:
    struct pb_desc:
        pass


cdef extern from "mem/pool.h" nogil:
    struct pb_pool:
        uint32_t lead


cdef extern from "dev/dev.h" nogil:
    struct pb_dev
    struct pb_dev_ops:
        void (*close)(pb_dev *dev) noexcept nogil
    struct pb_dev:
        const pb_dev_ops *ops


cdef extern from "dev/dpdk.h" nogil:
    enum: PB_DPDK_LEAD
    enum: PB_DPDK_QUEUES
    enum: PB_DPDK_KEY_MAX
    enum: PB_DPDK_RETA_MAX
    enum pb_dpdk_stage:
        PB_DPDK_STAGE_NONE
    struct pb_dpdk_fail:
        int err
        pb_dpdk_stage stage
        char text[300]
    const char *pb_dpdk_stage_name(unsigned stage)

    struct pb_dpdk_eal_info:
        char version[64]
        bint started, hugepages, iova_va
        uint32_t lcores
        uint64_t log_lost
    int pb_dpdk_eal_start(int argc, const char *const *argv, pb_dpdk_fail *fail)
    void pb_dpdk_eal_stop()
    void pb_dpdk_eal_get_info "pb_dpdk_eal_info" (pb_dpdk_eal_info *info)
    size_t pb_dpdk_log_take(char *buf, size_t n)
    int pb_dpdk_log_level(const char *pattern, uint32_t level)

    struct pb_dpdk_port
    struct pb_dpdk_config:
        char devargs[256]
        uint16_t queues, rx_desc, tx_desc, mtu
        bint promiscuous, allmulticast
        bint rx_csum, tx_csum, vlan_strip, rx_stamp, timesync, launch, multi_segs
        uint64_t rss_types
        uint8_t key[64]
        uint32_t key_len
    struct pb_dpdk_report:
        pb_dpdk_fail fail
        char driver[64]
        char device[64]
        uint16_t port_id
        int socket
        uint8_t mac[6]
        uint32_t mtu, min_mtu, max_mtu, queues, max_rx_queues, max_tx_queues
        uint32_t rx_desc, tx_desc, rx_desc_min, rx_desc_max, tx_desc_min, tx_desc_max
        uint64_t rx_capa, tx_capa, rx_offloads, tx_offloads, rss_capa, rss_types
        uint32_t reta_size, key_size, frame_room, chain_max, filled, frames_needed
        bint timesync, link_up
        uint32_t speed_mbps
        bint full_duplex
    pb_dpdk_port *pb_dpdk_port_open(const pb_dpdk_config *cfg, pb_pool *pool, pb_dpdk_report *report, int *err)
    pb_dev *pb_dpdk_queue_open(pb_dpdk_port *port, uint16_t q, int *err)
    int pb_dpdk_port_unref(pb_dpdk_port *port)
    int pb_dpdk_port_stop(pb_dpdk_port *port)
    int pb_dpdk_port_start(pb_dpdk_port *port)
    int pb_dpdk_port_remove(pb_dpdk_port *port)
    void pb_dpdk_port_get_report "pb_dpdk_port_report" (pb_dpdk_port *port, pb_dpdk_report *report)

    struct pb_dpdk_stats:
        uint64_t rx_pkts, tx_pkts, rx_bytes, tx_bytes, rx_missed, rx_errors, tx_errors, rx_nombuf
    int pb_dpdk_port_get_stats "pb_dpdk_port_stats" (pb_dpdk_port *port, pb_dpdk_stats *out)
    struct pb_dpdk_xstat:
        char name[64]
        uint64_t value
    int pb_dpdk_port_xstats(pb_dpdk_port *port, pb_dpdk_xstat *out, int n)
    int pb_dpdk_port_stats_reset(pb_dpdk_port *port)
    enum pb_dpdk_setting:
        PB_DPDK_PROMISCUOUS
        PB_DPDK_ALLMULTICAST
        PB_DPDK_LINK
        PB_DPDK_MTU
    int pb_dpdk_port_set(pb_dpdk_port *port, pb_dpdk_setting what, uint32_t value)
    int pb_dpdk_port_get(pb_dpdk_port *port, pb_dpdk_setting what)

    const char *pb_dpdk_offload_name(bint tx, uint64_t bit)

    int pb_dpdk_rss_get(pb_dpdk_port *port, uint8_t *key, uint32_t *len, uint64_t *types)
    int pb_dpdk_rss_set(pb_dpdk_port *port, const uint8_t *key, uint32_t len, uint64_t types)
    int pb_dpdk_reta_get(pb_dpdk_port *port, uint16_t *table, uint32_t n)
    int pb_dpdk_reta_set(pb_dpdk_port *port, const uint16_t *table, uint32_t n)
    int pb_dpdk_clock_read(pb_dpdk_port *port, uint64_t *ns, int *cycles)
    int pb_dpdk_timesync_rx(pb_dpdk_port *port, uint64_t *ns)

    struct pb_dpdk_info:
        uint64_t rx_copied, tx_prepare_bad
        uint32_t tx_outstanding
    void pb_dpdk_queue_info(pb_dev *dev, pb_dpdk_info *info)
    struct pb_dpdk_pool_info:
        uint32_t frames, in_use, cached
        uint64_t recovered
        int socket
        bint iova_va
    void pb_dpdk_port_pool(pb_dpdk_port *port, pb_dpdk_pool_info *info)

    struct pb_dpdk_ext
    pb_dpdk_ext *pb_dpdk_ext_register(pb_dpdk_port *port, void *base, size_t bytes, pb_dpdk_fail *fail)
    int pb_dpdk_ext_unregister(pb_dpdk_ext *ext)
    uint64_t pb_dpdk_ext_in_flight(const pb_dpdk_ext *ext)
    int pb_dpdk_ext_tx(pb_dev *dev, pb_dpdk_ext *ext, const pb_desc *head, const uint64_t *offsets, const uint32_t *lens, int n)


cdef extern from "dev/dpdk_flow.h" nogil:
    enum: PB_FLOW_QUEUES
    struct pb_flow_port:
        uint16_t value, mask, last
    enum pb_flow_fate:
        PB_FLOW_QUEUE
        PB_FLOW_RSS
        PB_FLOW_DROP
    struct pb_flow_rule:
        uint32_t priority
        uint8_t src_mac[6]
        uint8_t src_mac_mask[6]
        uint8_t dst_mac[6]
        uint8_t dst_mac_mask[6]
        uint16_t eth_type, eth_type_mask, vlan_tci, vlan_mask
        uint8_t version, proto, proto_mask, tcp_flags, tcp_flags_mask
        uint8_t src_ip[16]
        uint8_t src_ip_mask[16]
        uint8_t dst_ip[16]
        uint8_t dst_ip_mask[16]
        pb_flow_port src_port, dst_port
        pb_flow_fate fate
        uint32_t nqueues
        uint16_t queues[64]
        uint64_t rss_types
        bint has_mark, count
        uint32_t mark
    struct pb_dpdk_flow_fail:
        int err
        char item[48]
        char text[200]
    int pb_dpdk_flow_validate(pb_dpdk_port *port, const pb_flow_rule *rule, pb_dpdk_flow_fail *fail)
    int pb_dpdk_flow_create(pb_dpdk_port *port, const pb_flow_rule *rule, pb_dpdk_flow_fail *fail)
    int pb_dpdk_flow_destroy(pb_dpdk_port *port, int id, pb_dpdk_flow_fail *fail)
    int pb_dpdk_flow_query(pb_dpdk_port *port, int id, uint64_t *hits, uint64_t *bytes, pb_dpdk_flow_fail *fail)
    int pb_dpdk_flow_state(pb_dpdk_port *port, int id, pb_dpdk_flow_fail *fail)
    int pb_dpdk_flow_text(const pb_flow_rule *rule, bint conv, char *buf, size_t room)


cdef extern from "rte_ethdev.h" nogil:
    enum:
        RTE_ETH_RSS_IPV4
        RTE_ETH_RSS_FRAG_IPV4
        RTE_ETH_RSS_NONFRAG_IPV4_TCP
        RTE_ETH_RSS_NONFRAG_IPV4_UDP
        RTE_ETH_RSS_NONFRAG_IPV4_SCTP
        RTE_ETH_RSS_NONFRAG_IPV4_OTHER
        RTE_ETH_RSS_IPV6
        RTE_ETH_RSS_FRAG_IPV6
        RTE_ETH_RSS_NONFRAG_IPV6_TCP
        RTE_ETH_RSS_NONFRAG_IPV6_UDP
        RTE_ETH_RSS_NONFRAG_IPV6_SCTP
        RTE_ETH_RSS_NONFRAG_IPV6_OTHER
        RTE_ETH_RSS_L2_PAYLOAD
        RTE_ETH_RSS_IPV6_EX
        RTE_ETH_RSS_IPV6_TCP_EX
        RTE_ETH_RSS_IPV6_UDP_EX
