"""What code blocks of scripts see of a connection: Linux's TCP_INFO as variables."""

from __future__ import annotations

import struct

from ._script import Host
from .scriptwords import CA_STATES, TCP_STATES

__all__ = ["FIELDS", "variables"]

# csrc/script/linux.h; the name, and its type as in struct.
FIELDS: tuple[tuple[str, str], ...] = (
    ("state", "B"), ("ca_state", "B"), ("retransmits", "B"), ("probes", "B"), ("backoff", "B"), ("options", "B"),
    ("wscale", "B"), ("app_limited", "B"),
    *((n, "I") for n in (
        "rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets", "last_data_sent",
        "last_ack_sent", "last_data_recv", "last_ack_recv", "pmtu", "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh",
        "snd_cwnd", "advmss", "reordering", "rcv_rtt", "rcv_space", "total_retrans",
    )),
    *((n, "Q") for n in ("pacing_rate", "max_pacing_rate", "bytes_acked", "bytes_received")),
    *((n, "I") for n in ("segs_out", "segs_in", "notsent_bytes", "min_rtt", "data_segs_in", "data_segs_out")),
    *((n, "Q") for n in ("delivery_rate", "busy_time", "rwnd_limited", "sndbuf_limited")),
    *((n, "I") for n in ("delivered", "delivered_ce")),
    *((n, "Q") for n in ("bytes_sent", "bytes_retrans")),
    *((n, "I") for n in ("dsack_dups", "reord_seen", "rcv_ooopack", "snd_wnd", "rcv_wnd", "rehash")),
    ("total_rto", "H"), ("total_rto_recoveries", "H"), ("total_rto_time", "I"),
)  # fmt: skip
_LAYOUT = struct.Struct("=" + "".join(kind for _, kind in FIELDS))
_SOL_TCP, _TCP_INFO = 6, 11
_OPTIONS = {
    "TCPI_OPT_TIMESTAMPS": 1, "TCPI_OPT_SACK": 2, "TCPI_OPT_WSCALE": 4, "TCPI_OPT_ECN": 8, "TCPI_OPT_ECN_SEEN": 16,
    "TCPI_OPT_SYN_DATA": 32,
}  # fmt: skip


def variables(host: Host, sock: int) -> dict[str, int]:
    """tcpi_* of a socket, and the constants that they are compared with."""
    rc, raw = host.getsockopt(sock, _SOL_TCP, _TCP_INFO, 1024)
    if rc:
        raise ValueError(f"TCP_INFO: {rc}")
    values = _LAYOUT.unpack(raw[: _LAYOUT.size])
    found = {f"tcpi_{name}": value for (name, _), value in zip(FIELDS, values, strict=True)}
    found["tcpi_snd_wscale"], found["tcpi_rcv_wscale"] = found["tcpi_wscale"] & 15, found.pop("tcpi_wscale") >> 4
    found["tcpi_delivery_rate_app_limited"] = found.pop("tcpi_app_limited") & 1
    return {**found, **TCP_STATES, **CA_STATES, **_OPTIONS, "TCP_INFINITE_SSTHRESH": 0x7FFFFFFF}
