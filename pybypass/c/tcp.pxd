# csrc/tcp/tcp.h
from pybypass.c.drops cimport pb_drops
from pybypass.c.types cimport int32_t, pb_ip, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "cc/cc.h" nogil:
    cdef struct pb_cc_ops:
        const char *name
    const pb_cc_ops *pb_cc_find(const char *name)
    const pb_cc_ops *pb_cc_at(unsigned i)

cdef extern from "tcp/tcp.h" nogil:
    enum: PB_TCP_ASK
    enum: PB_TCP_HEADROOM
    ctypedef uint64_t pb_tcp_handle
    cdef struct pb_tcp_config:
        uint32_t max_conns
        uint32_t max_listeners
        uint32_t rcvbuf_bytes
        uint32_t sndbuf_bytes
        uint32_t ooo_segs
        uint32_t reserve_frames
        uint16_t mtu, mss_clamp
        uint8_t ttl, tos, acks, ecn
        bint timestamps, sack, wscale, dsack, rack, rack_static, rack_no_dupthresh, tlp, frto
        bint slow_start_after_idle, nagle, pmtu_discovery
        uint32_t initial_cwnd_segs, reordering_segs
        uint64_t rto_initial_ns, rto_min_ns, rto_max_ns
        uint64_t timer_slack_ns, delack_ns, cork_ns
        uint64_t time_wait_ns
        uint64_t fin_wait2_ns
        uint64_t user_timeout_ns
        uint32_t syn_retries, synack_retries, data_retries, orphan_retries
        uint64_t keepalive_idle_ns
        uint64_t keepalive_interval_ns
        uint32_t keepalive_probes
        uint64_t challenge_ns
        uint32_t challenge_per_sec
        uint8_t probing, rcv_wscale
        uint16_t probing_base_mss, probing_floor_mss
        uint32_t trace_records
        uint8_t secret[16]
        const pb_cc_ops *cc
    cdef struct pb_tcp_endpoint:
        pb_ip addr
        uint16_t port
    cdef struct pb_tcp_info:
        uint32_t state, ca_state, mss, rcv_mss, advmss, pmtu
        uint32_t cwnd_bytes, ssthresh_bytes
        uint32_t srtt_us, rttvar_us, rto_us, min_rtt_us, ato_us
        uint32_t snd_wnd, rcv_wnd
        uint32_t snd_wscale, rcv_wscale
        uint32_t inflight_bytes, unsent_bytes, unread_bytes, ooo_segs
        uint32_t unacked_segs, sacked_segs, lost_segs, retrans_segs
        uint32_t reordering_segs, reord_seen
        uint32_t backoff, timeouts_now, probes
        uint64_t bytes_sent, bytes_acked, bytes_received
        uint64_t bytes_retransmitted
        uint64_t segs_out, segs_in, data_segs_out, data_segs_in
        uint64_t retransmits, fast_retransmits, timeouts
        uint64_t dup_acks_in, zero_window_probes, dsack_dups
        uint64_t delivered_segs, delivered_ce_segs, lost_total_segs, ooo_total_segs
        uint64_t last_data_sent_ns, last_data_recv_ns, last_ack_recv_ns
        uint64_t busy_ns, rwnd_limited_ns, sndbuf_limited_ns
        uint64_t pacing_rate, delivery_rate
        uint32_t flags
        int32_t error, soft_error
        char cc_name[16]
        pb_tcp_endpoint local, remote
    cdef struct pb_tcp:
        pass
    enum: PB_TCP_COUNTER_COUNT
    enum: PB_TCP_MORE, PB_TCP_EOR
    const char *pb_tcp_counter_name(unsigned counter)
    const char *pb_tcp_counter_what(unsigned counter)
    bint pb_tcp_counter_is_nstat(unsigned counter)
    cdef struct pb_tcp_trace:
        pass
    cdef struct pb_tcp_stats:
        uint64_t *n
        uint64_t resets_in
        uint64_t conns
        uint64_t states[11]
        pb_drops drops
    const pb_tcp_stats *pb_tcp_get_stats(pb_tcp *e)
    void pb_tcp_config_default(pb_tcp_config *cfg)
    const char *pb_tcp_state_name(unsigned state)
