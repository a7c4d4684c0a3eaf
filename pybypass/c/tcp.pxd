# csrc/tcp/tcp.h
from pybypass.c.drops cimport pb_drops
from pybypass.c.types cimport int32_t, pb_ip, uint8_t, uint16_t, uint32_t, uint64_t

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
        uint16_t mtu
        uint8_t ttl
        bint timestamps
        bint sack
        bint wscale
        bint nagle
        uint64_t rto_initial_ns, rto_min_ns, rto_max_ns
        uint64_t delack_ns
        uint64_t time_wait_ns
        uint64_t fin_wait2_ns
        uint32_t syn_retries, synack_retries, data_retries
        uint64_t keepalive_idle_ns
        uint64_t keepalive_interval_ns
        uint32_t keepalive_probes
        uint8_t secret[16]
    cdef struct pb_tcp_endpoint:
        pb_ip addr
        uint16_t port
    cdef struct pb_tcp_info:
        uint32_t state
        uint32_t mss
        uint32_t cwnd_bytes, ssthresh_bytes
        uint32_t srtt_us, rttvar_us, rto_us, min_rtt_us
        uint32_t snd_wnd, rcv_wnd
        uint32_t snd_wscale, rcv_wscale
        uint32_t inflight_bytes, unsent_bytes, unread_bytes, ooo_segs
        uint64_t bytes_sent, bytes_acked, bytes_received
        uint64_t bytes_retransmitted
        uint64_t segs_out, segs_in
        uint64_t retransmits, fast_retransmits, timeouts
        uint64_t dup_acks_in, zero_window_probes
        uint32_t flags
        int32_t error
        pb_tcp_endpoint local, remote
    cdef struct pb_tcp_stats:
        uint64_t segs_in, segs_out, retransmits, timeouts, fast_retransmits
        uint64_t resets_in, resets_out, challenge_acks, active_opens, passive_opens, attempt_fails, estab_resets
        uint64_t coalesced
        uint64_t conns
        uint64_t states[11]
        uint64_t time_wait_recycled, pmtu_updates
        pb_drops drops
    void pb_tcp_config_default(pb_tcp_config *cfg)
    const char *pb_tcp_state_name(unsigned state)
