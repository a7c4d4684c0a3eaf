# cython: language_level=3
"""Between Python's values and the engine's structures."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy, memset

from pybypass.c.drops cimport PB_DROP_COUNT, pb_drop_name, pb_drops
from pybypass.c.path cimport pb_now_ns, pb_path_report
from pybypass.c.tcp cimport (
    PB_TCP_COUNTER_COUNT, pb_cc_find, pb_tcp_config, pb_tcp_counter_is_nstat, pb_tcp_counter_name, pb_tcp_endpoint,
    pb_tcp_info,    pb_tcp_state_name, pb_tcp_stats,
)
from pybypass.c.types cimport pb_ip, uint32_t, uint64_t

cdef uint64_t FOREVER = 0xffffffffffffffff

STATE_NAMES = tuple(pb_tcp_state_name(i).decode() for i in range(11))


cdef int ip_in(bytes raw, pb_ip *out) except -1:
    if len(raw) == 4:
        raw = b"\0" * 10 + b"\xff\xff" + raw
    if len(raw) != 16:
        raise ValueError("an address has 4 or 16 bytes")
    memcpy(out.b, <const char *>raw, 16)
    return 0


cdef bytes ip_out(const pb_ip *ip):
    cdef bytes raw = PyBytes_FromStringAndSize(<const char *>ip.b, 16)
    return raw[12:] if raw[:12] == b"\0" * 10 + b"\xff\xff" else raw


cdef dict drops_dict(const pb_drops *d):
    return {pb_drop_name(i).decode(): d.n[i] for i in range(1, PB_DROP_COUNT) if d.n[i]}


CA_STATE_NAMES = ("open", "disorder", "cwr", "recovery", "loss")


cdef dict info_dict(const pb_tcp_info *i):
    cdef uint64_t now = pb_now_ns()
    return {
        "state": STATE_NAMES[i.state], "ca_state": CA_STATE_NAMES[i.ca_state], "congestion": (<const char *>i.cc_name).decode(),
        "mss": i.mss, "cwnd": i.cwnd_bytes,
        "ssthresh": i.ssthresh_bytes if i.ssthresh_bytes != 0xFFFFFFFF else None,
        "srtt_us": i.srtt_us, "rttvar_us": i.rttvar_us, "rto_us": i.rto_us, "min_rtt_us": i.min_rtt_us,
        "snd_wnd": i.snd_wnd, "rcv_wnd": i.rcv_wnd, "snd_wscale": i.snd_wscale, "rcv_wscale": i.rcv_wscale,
        "inflight": i.inflight_bytes, "unsent": i.unsent_bytes, "unread": i.unread_bytes, "ooo_segs": i.ooo_segs,
        "bytes_sent": i.bytes_sent, "bytes_acked": i.bytes_acked, "bytes_received": i.bytes_received,
        "bytes_retransmitted": i.bytes_retransmitted, "segs_out": i.segs_out, "segs_in": i.segs_in,
        "retransmits": i.retransmits, "fast_retransmits": i.fast_retransmits, "timeouts": i.timeouts,
        "dup_acks_in": i.dup_acks_in, "zero_window_probes": i.zero_window_probes,
        "timestamps": bool(i.flags & 1), "sack": bool(i.flags & 2), "wscale": bool(i.flags & 4), "error": i.error, "soft_error": i.soft_error,
        "ecn": bool(i.flags & 8), "ecn_seen": bool(i.flags & 16), "dsack_seen": bool(i.flags & 32),
        "tcpi": tcpi_dict(i, now),
    }


cdef uint32_t ms_ago(uint64_t then, uint64_t now):
    return <uint32_t>((now - then) // 1000000) if then and then < now else 0


cdef dict tcpi_dict(const pb_tcp_info *i, uint64_t now):
    """The names and units of Linux's struct tcp_info."""
    cdef uint32_t mss = max(i.mss, 1)
    return {
        "tcpi_state": STATE_LINUX[i.state], "tcpi_ca_state": i.ca_state, "tcpi_retransmits": i.timeouts_now,
        "tcpi_probes": i.probes, "tcpi_backoff": i.backoff, "tcpi_options": i.flags & 0x1f,
        "tcpi_snd_wscale": i.snd_wscale, "tcpi_rcv_wscale": i.rcv_wscale, "tcpi_rto": i.rto_us, "tcpi_ato": i.ato_us,
        "tcpi_snd_mss": i.mss, "tcpi_rcv_mss": i.rcv_mss, "tcpi_unacked": i.unacked_segs,
        "tcpi_sacked": i.sacked_segs, "tcpi_lost": i.lost_segs, "tcpi_retrans": i.retrans_segs,
        "tcpi_last_data_sent": ms_ago(i.last_data_sent_ns, now),
        "tcpi_last_data_recv": ms_ago(i.last_data_recv_ns, now),
        "tcpi_last_ack_recv": ms_ago(i.last_ack_recv_ns, now), "tcpi_pmtu": i.pmtu, "tcpi_rtt": i.srtt_us,
        "tcpi_rttvar": i.rttvar_us,
        "tcpi_snd_ssthresh": i.ssthresh_bytes // mss if i.ssthresh_bytes != 0xFFFFFFFF else 0x7FFFFFFF,
        "tcpi_snd_cwnd": i.cwnd_bytes // mss, "tcpi_advmss": i.advmss, "tcpi_reordering": i.reordering_segs,
        "tcpi_total_retrans": i.retransmits, "tcpi_pacing_rate": i.pacing_rate or 0xFFFFFFFFFFFFFFFF,
        "tcpi_bytes_acked": i.bytes_acked, "tcpi_bytes_received": i.bytes_received, "tcpi_segs_out": i.segs_out,
        "tcpi_segs_in": i.segs_in, "tcpi_notsent_bytes": i.unsent_bytes, "tcpi_min_rtt": i.min_rtt_us,
        "tcpi_data_segs_in": i.data_segs_in, "tcpi_data_segs_out": i.data_segs_out,
        "tcpi_delivery_rate": i.delivery_rate, "tcpi_busy_time": i.busy_ns // 1000,
        "tcpi_rwnd_limited": i.rwnd_limited_ns // 1000, "tcpi_sndbuf_limited": i.sndbuf_limited_ns // 1000,
        "tcpi_delivered": i.delivered_segs, "tcpi_delivered_ce": i.delivered_ce_segs,
        "tcpi_bytes_sent": i.bytes_sent, "tcpi_bytes_retrans": i.bytes_retransmitted,
        "tcpi_dsack_dups": i.dsack_dups, "tcpi_reord_seen": i.reord_seen, "tcpi_rcv_ooopack": i.ooo_total_segs,
        "tcpi_snd_wnd": i.snd_wnd, "tcpi_rcv_wnd": i.rcv_wnd,
    }


# TCP_ESTABLISHED and so on of the kernel, by our states.
STATE_LINUX = (7, 10, 2, 3, 1, 4, 5, 8, 11, 9, 6)


cdef dict counters_dict(const pb_tcp_stats *t, bint nstat):
    """Those that nstat has too, or the others."""
    return {
        pb_tcp_counter_name(i).decode(): t.n[i]
        for i in range(PB_TCP_COUNTER_COUNT) if pb_tcp_counter_is_nstat(i) == nstat
    }


cdef dict report_dict(const pb_path_report *r):
    drops = {}
    for part in (drops_dict(&r.path.drops), drops_dict(&r.tcp.drops), drops_dict(&r.dev.drops)):
        for k, v in part.items():
            drops[k] = drops.get(k, 0) + v
    cdef dict c = counters_dict(&r.tcp, True), own = counters_dict(&r.tcp, False)
    return {
        "rx_pkts": r.path.rx_pkts, "tx_pkts": r.path.tx_pkts, "steps": r.path.steps, "idle_steps": r.path.idle_steps,
        "exceptions": r.path.exceptions, "injected": r.path.injected, "parked": r.path.parked,
        "stray_out": r.path.stray_out, "stray_in": r.path.stray_in,
        "rx_bytes": r.dev.rx_bytes, "tx_bytes": r.dev.tx_bytes, "rx_wakeups": r.dev.rx_wakeups,
        "tx_wakeups": r.dev.tx_wakeups, "rx_fill_empty": r.dev.rx_fill_empty,
        "segs_in": c["TcpInSegs"], "segs_out": c["TcpOutSegs"] + c["TcpRetransSegs"], "retransmits": c["TcpRetransSegs"],
        "timeouts": c["TcpExtTCPTimeouts"],
        "fast_retransmits": c["TcpExtTCPSackRecovery"] + c["TcpExtTCPRenoRecovery"], "resets_in": r.tcp.resets_in,
        "resets_out": c["TcpOutRsts"], "challenge_acks": c["TcpExtTCPChallengeACK"],
        "active_opens": c["TcpActiveOpens"], "passive_opens": c["TcpPassiveOpens"],
        "attempt_fails": c["TcpAttemptFails"], "estab_resets": c["TcpEstabResets"],
        "coalesced": c["TcpExtTCPRcvCoalesce"] + own["SendJoined"], "connections": r.tcp.conns,
        "time_wait_recycled": own["TimeWaitCutShort"], "pmtu_updates": own["PmtuUpdates"],
        "nstat": c, "own": own,
        "states": {STATE_NAMES[i]: r.tcp.states[i] for i in range(11) if r.tcp.states[i]},
        "drops": drops,
    }


cdef object as_bytes(data):
    """Any C-contiguous buffer as a flat one of bytes, without a copy."""
    m = memoryview(data)
    return m if m.format == "B" and m.ndim == 1 else m.cast("B")


cdef uint64_t until_of(timeout) except? 0:
    if timeout is None:
        return FOREVER
    return pb_now_ns() + <uint64_t>(max(0.0, <double>timeout) * 1e9)


cdef int endpoint_in(tuple t, pb_tcp_endpoint *out) except -1:
    if not 0 < t[1] < 65536:
        raise ValueError(f"port {t[1]} is not 1 to 65535")
    if t[0] is None:
        memset(&out.addr, 0, sizeof(pb_ip))
    else:
        ip_in(t[0], &out.addr)
    out.port = t[1]
    return 0


cdef int fill_config(pb_tcp_config *c, dict v) except -1:
    c.max_conns = v["max_conns"]
    c.max_listeners = v["max_listeners"]
    c.rcvbuf_bytes = v["rcvbuf_bytes"]
    c.sndbuf_bytes = v["sndbuf_bytes"]
    c.reserve_frames = v["reserve_frames"]
    c.ttl = v["ttl"]
    c.tos = v["tos"]
    c.acks = v["acks"]
    c.ecn = v["ecn"]
    c.timestamps = v["timestamps"]
    c.sack = v["sack"]
    c.wscale = v["wscale"]
    c.dsack = v["dsack"]
    c.rack = v["rack"]
    c.tlp = v["tlp"]
    c.frto = v["frto"]
    c.slow_start_after_idle = v["slow_start_after_idle"]
    c.nagle = v["nagle"]
    c.pmtu_discovery = v["pmtu_discovery"]
    c.initial_cwnd_segs = v["initial_cwnd_segs"]
    c.mss_clamp = v["mss_clamp"]
    c.rto_initial_ns = v["rto_initial_ns"]
    c.rto_min_ns = v["rto_min_ns"]
    c.rto_max_ns = v["rto_max_ns"]
    c.delack_ns = v["delack_ns"]
    c.cork_ns = v["cork_ns"]
    c.timer_slack_ns = v["timer_slack_ns"]
    c.time_wait_ns = v["time_wait_ns"]
    c.fin_wait2_ns = v["fin_wait2_ns"]
    c.user_timeout_ns = v["user_timeout_ns"]
    c.syn_retries = v["syn_retries"]
    c.synack_retries = v["synack_retries"]
    c.data_retries = v["data_retries"]
    c.orphan_retries = v["orphan_retries"]
    c.keepalive_idle_ns = v["keepalive_idle_ns"]
    c.keepalive_interval_ns = v["keepalive_interval_ns"]
    c.keepalive_probes = v["keepalive_probes"]
    c.probing = v["probing"]
    c.probing_base_mss = v["probing_base_mss"]
    c.trace_records = v["trace_records"]
    c.cc = pb_cc_find(v["congestion"].encode())
    if c.cc == NULL:
        raise ValueError(f"no congestion control named {v['congestion']!r}")
    secret = v["secret"]
    if len(secret) != 16:
        raise ValueError("secret must have 16 bytes")
    memcpy(c.secret, <const char *><bytes>secret, 16)
    return 0
