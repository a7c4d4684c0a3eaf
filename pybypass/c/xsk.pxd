from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "base/types.h" nogil:
    struct pb_ip:
        uint8_t b[16]


cdef extern from "mem/pool.h" nogil:
    struct pb_pool:
        pass


cdef extern from "dev/dev.h" nogil:
    struct pb_dev
    struct pb_dev_ops:
        void (*close)(pb_dev *dev) noexcept nogil
    struct pb_dev:
        const pb_dev_ops *ops


cdef extern from "dev/xsk_meta.h" nogil:
    struct pb_steer_counters:
        uint64_t redirected, passed, icmp_redirected, meta_failed, dropped
    enum:
        PB_ACT_PORTS
        PB_ACT_FLAGS
    struct pb_act_ports:
        uint16_t mask, lo, hi
    struct pb_act:
        uint32_t src[4]
        uint32_t src_mask[4]
        uint32_t dst[4]
        uint32_t dst_mask[4]
        pb_act_ports sport, dport
        uint16_t eth_type, eth_mask
        uint8_t version, proto, proto_mask, tcp_flags, tcp_mask, needs, drops, marks, counts
        uint32_t mark
    struct pb_act_counters:
        uint64_t pkts, bytes
    enum: PB_RSS_KEY_BYTES
    enum: PB_RSS_TABLE
    enum: PB_XSK_SOCKETS


cdef extern from "dev/xsk.h" nogil:
    enum pb_xsk_mode:
        PB_XSK_AUTO
        PB_XSK_NATIVE
        PB_XSK_GENERIC
    enum pb_xsk_copy:
        PB_XSK_COPY_AUTO
        PB_XSK_ZEROCOPY
        PB_XSK_COPY
    enum pb_xsk_sg:
        PB_XSK_SG_AUTO
        PB_XSK_SG_ON
        PB_XSK_SG_OFF
    enum pb_xsk_stage:
        PB_XSK_STAGE_NONE
    struct pb_xsk_fail:
        int err
        pb_xsk_stage stage
        char text[240]
    struct pb_xsk_rung:
        pb_xsk_mode mode
        pb_xsk_copy copy
        pb_xsk_fail fail
    struct pb_xsk_report:
        pb_xsk_fail fail
        pb_xsk_rung rungs[3]
        uint32_t nrungs
        pb_xsk_mode mode
        bint zerocopy, metadata, frags
        char no_metadata[160]
        uint32_t prog_id, ifindex, mtu, rx_queues, bind_retries, filled, tx_budget, frame_room
        bint sg, tx_sg, umem_shared, tx_csum, tx_stamp, tx_launch
        uint32_t busy_poll_us, busy_budget
        char no_busy_poll[120]
        char no_tx_meta[160]

    const char *pb_xsk_stage_name(unsigned stage)
    const char *pb_xsk_mode_name(unsigned mode)

    struct pb_xsk_prog:
        pass
    struct pb_xsk_prog_config:
        uint32_t ifindex
        pb_xsk_mode mode
        const char *obj_dir
    struct pb_xsk_prog_info:
        uint32_t ifindex, prog_id
        pb_xsk_mode mode
        bint metadata, frags, attached
        char no_metadata[160]
    struct pb_steer_rule:
        pb_ip ip
        uint16_t lo, hi
        uint8_t proto, any_ip
        uint32_t refs

    pb_xsk_prog *pb_xsk_prog_open(const pb_xsk_prog_config *cfg, pb_xsk_fail *fail, int *err)
    void pb_xsk_prog_unref(pb_xsk_prog *p)
    void pb_xsk_prog_get_info "pb_xsk_prog_info"(pb_xsk_prog *p, pb_xsk_prog_info *info)
    int pb_xsk_steer_add(pb_xsk_prog *p, uint8_t proto, const pb_ip *ip, uint16_t lo, uint16_t hi)
    int pb_xsk_steer_del(pb_xsk_prog *p, uint8_t proto, const pb_ip *ip, uint16_t lo, uint16_t hi)
    int pb_xsk_steer_list(pb_xsk_prog *p, pb_steer_rule *out, int n)
    int pb_xsk_act_add(pb_xsk_prog *p, const pb_act *act, uint32_t priority)
    int pb_xsk_act_del(pb_xsk_prog *p, uint32_t slot)
    int pb_xsk_act_count(pb_xsk_prog *p, uint32_t slot, pb_act_counters *out)
    int pb_xsk_rss_on(pb_xsk_prog *p, uint32_t queue, const uint8_t *key, const uint8_t *table)
    int pb_xsk_rss_table(pb_xsk_prog *p, uint32_t queue, const uint8_t *table)
    void pb_xsk_rss_off(pb_xsk_prog *p, uint32_t queue)
    int pb_xsk_prog_counters(pb_xsk_prog *p, pb_steer_counters *out)

    struct pb_xsk_config:
        char ifname[16]
        uint32_t ifindex
        uint16_t queue
        pb_xsk_mode mode
        pb_xsk_copy copy
        uint32_t rx_ring, tx_ring, fill_ring, comp_ring
        uint32_t deadline_ms
        const char *obj_dir
        pb_xsk_sg sg
        uint32_t sockets, fill_max, headroom
        uint16_t tx_zc_flags
        uint32_t tx_zc_segs
        bint unaligned, own_umem, tx_meta, no_meta
        uint32_t busy_poll_us, busy_budget
    struct pb_xsk_info:
        uint32_t fill_target, fill_posted, fill_low, tx_outstanding, member
        uint64_t pool_empty, tx_eagain, meta_missing, stamps_lost

    void pb_xsk_config_init(pb_xsk_config *cfg)
    pb_dev *pb_dev_xsk_open(const pb_xsk_config *cfg, pb_pool *pool, pb_xsk_report *report, int *err)
    pb_dev *pb_dev_xsk_join(pb_dev *first, pb_xsk_report *report, int *err)
    pb_xsk_prog *pb_dev_xsk_prog(pb_dev *dev)
    void pb_dev_xsk_get_info "pb_dev_xsk_info"(pb_dev *dev, pb_xsk_info *info)
