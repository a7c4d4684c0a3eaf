"""Limits, timers and addresses of an engine."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import Field, dataclass, fields, replace
from typing import Any

from .errors import PybypassError
from .ports import Port

__all__ = ["EngineConfig", "Interface", "check_frames", "check_mtu", "interfaces_of", "largest_mtu"]

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


_RANGES: dict[str, tuple[float, float]] = {
    "max_connections": (1, 1 << 22), "max_listeners": (1, 1 << 16), "rcvbuf": (4096, 1 << 30),
    "sndbuf": (4096, 1 << 30), "reserve_frames": (0, 1 << 22), "ttl": (1, 255), "rto_initial": (1e-6, 3600),
    "rto_min": (1e-6, 3600), "rto_max": (1e-3, 3600), "delayed_ack": (0, 0.5), "time_wait": (0, 3600),
    "fin_wait2": (0, 3600), "syn_retries": (0, 32), "synack_retries": (0, 32), "data_retries": (0, 32),
    "keepalive_idle": (0, 86400 * 365), "keepalive_interval": (1e-3, 86400 * 365), "keepalive_probes": (1, 127),
    "tos": (0, 252), "initial_cwnd": (0, 1000), "mss": (0, 65515), "user_timeout": (0, 86400 * 365),
    "trace": (0, 1 << 24), "timer_slack": (0, 1), "orphan_retries": (0, 32), "base_mss": (48, 65515),
    "cork_time": (1e-3, 60),
}  # fmt: skip
_ACKS = ("linux", "bsd")
_CHOICES: dict[str, tuple[object, ...]] = {
    "congestion": ("cubic", "reno"), "acks": _ACKS, "ecn": (0, 1, 2), "mtu_probing": (0, 1, 2),
}  # fmt: skip
_RESERVE, _MIN_DATA_FRAMES = 512, 64
_HEADROOM, _L2 = 256, 18  # XDP_PACKET_HEADROOM of the kernel; an Ethernet header with a VLAN tag
_MAX_FRAMES = 1 << 22  # of a Umem


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Limits and timers of an engine. Times are seconds, sizes bytes.

    `rcvbuf` is memory that received data may hold per connection, charged by whole frames (RFC 9293 3.8.6; the advertised
    window is less). `sndbuf` is payload queued and not acknowledged. `reserve_frames` is kept from data for the fill ring
    and for control segments (None: 512, or an eighth of the port's frames if that is less). RTO: RFC 6298 with the bounds
    given. `nagle`: RFC 896; off unless asked for. `congestion`: "cubic" (RFC 9438, with HyStart) or "reno". `acks`: when
    data is acknowledged, "linux" or "bsd". `ecn`: 0 off, 1 asked for, 2 agreed to (RFC 3168; Linux's tcp_ecn). `rack`,
    `tlp`: RFC 8985; `frto`: RFC 5682; `dsack`: RFC 2883; `timer_slack`: what their timers allow beyond the RTT.
    `mtu_probing`: 0 off, 1 in a black hole, 2 always, from `base_mss` (RFC 4821; IPv6 from packets of 1280, RFC 8201).
    `mss`: the largest that is announced or used, 0: what the MTU gives. `initial_cwnd`: segments, 0: RFC 6928.
    `user_timeout`: RFC 5482, 0: off. `trace`: per-ACK records kept for `Engine.trace()`, a power of two, 0: none.

    Raises PybypassError PB040, which names the field and what is allowed.
    """

    max_connections: int = 1024
    max_listeners: int = 64
    rcvbuf: int = 1 << 20
    sndbuf: int = 1 << 20
    reserve_frames: int | None = None
    ttl: int = 64
    timestamps: bool = True
    sack: bool = True
    window_scale: bool = True
    nagle: bool = False
    rto_initial: float = 1.0
    rto_min: float = 0.2
    rto_max: float = 120.0
    delayed_ack: float = 0.04
    time_wait: float = 60.0
    fin_wait2: float = 60.0
    syn_retries: int = 7
    synack_retries: int = 5
    data_retries: int = 15
    keepalive_idle: float = 0.0
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9
    congestion: str = "cubic"
    acks: str = "linux"
    ecn: int = 2
    dsack: bool = True
    rack: bool = True
    tlp: bool = True
    frto: bool = True
    slow_start_after_idle: bool = True
    pmtu_discovery: bool = True
    mtu_probing: int = 0
    base_mss: int = 1024
    mss: int = 0
    initial_cwnd: int = 0
    tos: int = 0
    user_timeout: float = 0.0
    orphan_retries: int = 0
    timer_slack: float = 0.001
    cork_time: float = 0.2
    trace: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_field(field, getattr(self, field.name))
        for wrong, text, hint in (
            (self.trace & (self.trace - 1), f"trace={self.trace} is no power of two", "4096, or 0 for none"),
            (self.tos & 3, f"tos={self.tos} has one of the two low bits", "they are ECN's: a multiple of 4"),
            (0 < self.mss < 64, f"mss={self.mss} is too small for the options", "0, or at least 64"),
            (self.rto_min > self.rto_max, f"rto_min={self.rto_min} is above rto_max={self.rto_max}",
             "raise rto_max or lower rto_min"),
        ):  # fmt: skip
            if wrong:
                raise _refused(text, hint)

    def resolved(self, port: Port) -> EngineConfig:
        """This configuration for a port, with nothing left to choose. PB040 when the port has too few frames for it, PB027
        when they are too small for its MTU."""
        check_mtu(port)
        check_frames(self, port)
        return replace(self, reserve_frames=_reserve(self, port.umem.info()["frames"]))

    def for_core(self) -> dict[str, Any]:
        """What the engine in C takes; of a configuration that is resolved()."""
        assert self.reserve_frames is not None

        def ns(seconds: float) -> int:
            return round(seconds * 1e9)

        return {
            "max_conns": self.max_connections, "max_listeners": self.max_listeners, "rcvbuf_bytes": self.rcvbuf,
            "sndbuf_bytes": self.sndbuf, "reserve_frames": self.reserve_frames, "ttl": self.ttl,
            "timestamps": self.timestamps, "sack": self.sack, "wscale": self.window_scale, "nagle": self.nagle,
            "rto_initial_ns": ns(self.rto_initial), "rto_min_ns": ns(self.rto_min), "rto_max_ns": ns(self.rto_max),
            "delack_ns": ns(self.delayed_ack), "time_wait_ns": ns(self.time_wait), "fin_wait2_ns": ns(self.fin_wait2),
            "syn_retries": self.syn_retries, "synack_retries": self.synack_retries, "data_retries": self.data_retries,
            "keepalive_idle_ns": ns(self.keepalive_idle), "keepalive_interval_ns": ns(self.keepalive_interval),
            "keepalive_probes": self.keepalive_probes, "secret": os.urandom(16),
            "congestion": self.congestion, "acks": _ACKS.index(self.acks), "ecn": self.ecn, "dsack": self.dsack,
            "rack": self.rack, "tlp": self.tlp, "frto": self.frto, "slow_start_after_idle": self.slow_start_after_idle,
            "pmtu_discovery": self.pmtu_discovery, "probing": self.mtu_probing, "probing_base_mss": self.base_mss,
            "mss_clamp": self.mss, "initial_cwnd_segs": self.initial_cwnd, "tos": self.tos,
            "user_timeout_ns": ns(self.user_timeout), "orphan_retries": self.orphan_retries,
            "timer_slack_ns": ns(self.timer_slack), "cork_ns": ns(self.cork_time), "trace_records": self.trace,
        }  # fmt: skip


def _refused(text: str, hint: str) -> PybypassError:
    return PybypassError.make("PB040", errno.EINVAL, text, hint=hint)


def _check_field(field: Field[Any], value: object) -> None:
    kind, (low, high) = str(field.type), _RANGES.get(field.name, (0, 0))
    if field.name in _CHOICES:
        choices = _CHOICES[field.name]
        fine, allowed = not isinstance(value, bool) and value in choices, "one of " + ", ".join(map(str, choices))
    elif kind == "bool":
        fine, allowed = isinstance(value, bool), "True or False"
    elif isinstance(value, bool) or not isinstance(value, int | float if kind == "float" else int):
        fine = value is None and kind.endswith("None")
        allowed = f"a {'' if kind == 'float' else 'whole '}number from {low} to {high}"
    else:
        fine, allowed = low <= value <= high, f"from {low} to {high}"
    if not fine:
        raise _refused(f"{field.name}={value!r} is not {allowed}", f"the default is {field.default}")


def _reserve(config: EngineConfig, frames: int) -> int:
    return config.reserve_frames if config.reserve_frames is not None else min(_RESERVE, frames // 8)


def largest_mtu(port: Port) -> int:
    """The largest IP packet that fits one frame, behind what the kernel keeps free in front of it."""
    room: int = port.report.get("frame_room", port.umem.info()["frame_bytes"] - _HEADROOM)
    return min(port.mtu, room - _L2)


def check_mtu(port: Port) -> None:
    """PB027 unless a packet of the port's MTU fits a frame, or comes in several: then the engine's segments are for one."""
    largest = largest_mtu(port)
    if port.mtu > largest and not port.report.get("sg"):
        raise PybypassError.make(
            "PB027", errno.EMSGSIZE, f"MTU {port.mtu}, and frames for one of up to {largest}",
            hint=f"open the port with frame=4096, or an MTU of {largest}",
        )  # fmt: skip


def check_frames(config: EngineConfig, port: Port) -> None:
    """PB040 unless the port's frames are enough for its fill ring, the reserve, and some data."""
    frames, filled = port.umem.info()["frames"], port.report.get("filled", 0)

    def enough(n: int, fill: int) -> bool:
        return n > _reserve(config, n) + fill + _MIN_DATA_FRAMES

    if enough(frames, filled):
        return
    needed = 1 << frames.bit_length()
    # A device fills its ring with half of the frames at most: with more of them it may take more.
    while not enough(needed, needed // 2 if 2 * filled + 1 >= frames else filled):
        needed *= 2
    text = f"{frames} frames are too few: {filled} lie on the fill ring, reserve_frames={_reserve(config, frames)}"
    hint = f"open the port with frames={needed}" if needed <= _MAX_FRAMES else "lower reserve_frames"
    raise _refused(f"{text}, and data needs {_MIN_DATA_FRAMES}", hint)


def _check_own(interface: Interface) -> None:
    ip = interface.ip
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback or ip == ipaddress.ip_address("255.255.255.255"):
        raise PybypassError.make("PB041", errno.EADDRNOTAVAIL, f"{ip} is no host's address", hint="a unicast address")


def interfaces_of(port: Port, ip: str | Iterable[str] | None, vlan: int = 0) -> tuple[list[Interface], list[Interface]]:
    """The engine's addresses with their prefixes, and those of them that the kernel behind the port does not have, which
    are the engine's alone. Given, or completed from the kernel's, or all of the kernel's. PB040, PB041."""
    kernel = port.local_networks(vlan)
    wanted = [ip] if isinstance(ip, str) else list(ip) if ip is not None else None
    if wanted is None:
        if not kernel:
            raise _refused("no address", "pass ip='A.B.C.D/N'")
        return kernel, []
    found: list[Interface] = []
    owned: list[Interface] = []
    for text in wanted:
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError as e:
            raise _refused(f"ip={text!r}: {e}", "write A.B.C.D/N, or an IPv6 address/N") from None
        known = next((k for k in kernel or [] if k.ip == interface.ip), None)
        if "/" not in text:
            if kernel is None:
                raise _refused(f"ip={text!r} without a prefix", "write A.B.C.D/N")
            if known is None:
                raise PybypassError.make("PB041", errno.EADDRNOTAVAIL, str(interface.ip))
            interface = known
        elif kernel is not None and known is None:
            _check_own(interface)
            owned.append(interface)
        found.append(interface)
    return found, owned
