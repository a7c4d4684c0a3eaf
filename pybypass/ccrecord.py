"""The record of a connection's congestion control, one entry per ACK."""

from __future__ import annotations

import numpy as np

__all__ = ["CA_STATES", "TRACE_DTYPE", "TRACE_EVENTS"]

# struct pb_tcp_trace of csrc/tcp/info.h.
TRACE_DTYPE = np.dtype(
    {
        "names": ["time_ns", "conn", "delivered", "lost", "cwnd", "ssthresh", "srtt_us", "rtt_us", "inflight", "acked",
                  "ca_state", "event", "state", "snd_wnd"],
        "formats": ["u8", "u8", "u8", "u8", "u4", "u4", "u4", "u4", "u4", "u4", "u1", "u1", "u1", "u4"],
        "offsets": [0, 8, 16, 24, 32, 36, 40, 44, 48, 52, 56, 57, 58, 60],
        "itemsize": 64,
    }
)  # fmt: skip

CA_STATES = ("open", "disorder", "cwr", "recovery", "loss")
TRACE_EVENTS = (
    "ack", "rto", "tlp", "reo", "undo", "enter_recovery", "enter_cwr", "enter_loss", "open", "idle",
)  # fmt: skip
