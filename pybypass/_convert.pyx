# cython: language_level=3
"""Between Python's values and the engine's structures."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy, memset

from pybypass.c.drops cimport PB_DROP_COUNT, pb_drop_name, pb_drops
from pybypass.c.path cimport pb_now_ns, pb_path_report
from pybypass.c.tcp cimport pb_tcp_config, pb_tcp_endpoint, pb_tcp_info, pb_tcp_state_name
from pybypass.c.types cimport pb_ip, uint64_t

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


cdef dict info_dict(const pb_tcp_info *i):
    return {
        "state": STATE_NAMES[i.state], "mss": i.mss, "cwnd": i.cwnd_bytes, "ssthresh": i.ssthresh_bytes,
        "srtt_us": i.srtt_us, "rttvar_us": i.rttvar_us, "rto_us": i.rto_us, "min_rtt_us": i.min_rtt_us,
        "snd_wnd": i.snd_wnd, "rcv_wnd": i.rcv_wnd, "snd_wscale": i.snd_wscale, "rcv_wscale": i.rcv_wscale,
        "inflight": i.inflight_bytes, "unsent": i.unsent_bytes, "unread": i.unread_bytes, "ooo_segs": i.ooo_segs,
        "bytes_sent": i.bytes_sent, "bytes_acked": i.bytes_acked, "bytes_received": i.bytes_received,
        "bytes_retransmitted": i.bytes_retransmitted, "segs_out": i.segs_out, "segs_in": i.segs_in,
        "retransmits": i.retransmits, "fast_retransmits": i.fast_retransmits, "timeouts": i.timeouts,
        "dup_acks_in": i.dup_acks_in, "zero_window_probes": i.zero_window_probes,
        "timestamps": bool(i.flags & 1), "sack": bool(i.flags & 2), "wscale": bool(i.flags & 4), "error": i.error,
    }


cdef dict report_dict(const pb_path_report *r):
    drops = {}
    for part in (drops_dict(&r.path.drops), drops_dict(&r.tcp.drops), drops_dict(&r.dev.drops)):
        for k, v in part.items():
            drops[k] = drops.get(k, 0) + v
    return {
        "rx_pkts": r.path.rx_pkts, "tx_pkts": r.path.tx_pkts, "steps": r.path.steps, "idle_steps": r.path.idle_steps,
        "exceptions": r.path.exceptions, "injected": r.path.injected, "parked": r.path.parked,
        "stray_out": r.path.stray_out, "stray_in": r.path.stray_in,
        "rx_bytes": r.dev.rx_bytes, "tx_bytes": r.dev.tx_bytes, "rx_wakeups": r.dev.rx_wakeups,
        "tx_wakeups": r.dev.tx_wakeups, "rx_fill_empty": r.dev.rx_fill_empty,
        "segs_in": r.tcp.segs_in, "segs_out": r.tcp.segs_out, "retransmits": r.tcp.retransmits,
        "timeouts": r.tcp.timeouts, "fast_retransmits": r.tcp.fast_retransmits, "resets_in": r.tcp.resets_in,
        "resets_out": r.tcp.resets_out, "challenge_acks": r.tcp.challenge_acks, "active_opens": r.tcp.active_opens,
        "passive_opens": r.tcp.passive_opens, "attempt_fails": r.tcp.attempt_fails,
        "estab_resets": r.tcp.estab_resets, "coalesced": r.tcp.coalesced, "connections": r.tcp.conns, "time_wait_recycled": r.tcp.time_wait_recycled,
        "pmtu_updates": r.tcp.pmtu_updates,
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
    c.timestamps = v["timestamps"]
    c.sack = v["sack"]
    c.wscale = v["wscale"]
    c.nagle = v["nagle"]
    c.rto_initial_ns = v["rto_initial_ns"]
    c.rto_min_ns = v["rto_min_ns"]
    c.rto_max_ns = v["rto_max_ns"]
    c.delack_ns = v["delack_ns"]
    c.time_wait_ns = v["time_wait_ns"]
    c.fin_wait2_ns = v["fin_wait2_ns"]
    c.syn_retries = v["syn_retries"]
    c.synack_retries = v["synack_retries"]
    c.data_retries = v["data_retries"]
    c.keepalive_idle_ns = v["keepalive_idle_ns"]
    c.keepalive_interval_ns = v["keepalive_interval_ns"]
    c.keepalive_probes = v["keepalive_probes"]
    secret = v["secret"]
    if len(secret) != 16:
        raise ValueError("secret must have 16 bytes")
    memcpy(c.secret, <const char *><bytes>secret, 16)
    return 0
