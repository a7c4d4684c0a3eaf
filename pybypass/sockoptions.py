"""Options of a TCP connection by name, with their units."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from .errors import PybypassError

__all__ = ["OPTIONS", "Option", "from_core", "number_of", "to_core"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """`number` is the engine's (csrc/tcp/config.h), `kind` bool, int, or seconds (given to the engine in ns)."""

    number: int
    kind: str
    low: float
    high: float
    what: str


_NAMES: tuple[tuple[str, str, float, float, str], ...] = (
    ("nodelay", "bool", 0, 1, "Nagle's algorithm off (RFC 896)"),
    ("cork", "bool", 0, 1, "only full segments, or after 200 ms"),
    ("quickack", "bool", 0, 1, "acknowledge at once for now"),
    ("acks", "int", 0, 1, "profile of delayed ACKs: 0 linux, 1 bsd"),
    ("delayed_ack", "seconds", 0, 0.5, "the longest an ACK waits by itself (RFC 1122 4.2.3.2)"),
    ("keepalive_idle", "seconds", 0, 86400 * 365, "silence before the first probe; 0: none (RFC 9293 3.8.4)"),
    ("keepalive_interval", "seconds", 1e-9, 86400 * 365, "between probes"),
    ("keepalive_probes", "int", 1, 127, "probes without an answer that end the connection"),
    ("user_timeout", "seconds", 0, 86400 * 365, "how long data may stay unacknowledged; 0: off (RFC 5482)"),
    ("linger", "seconds", -1, 86400 * 365, "0: close() resets; below 0: off"),
    ("maxseg", "int", 64, 65515, "largest MSS; before the handshake (RFC 6691)"),
    ("syn_retries", "int", 0, 127, "of a SYN"),
    ("fin_wait2", "seconds", 0, 86400 * 365, "how long FIN_WAIT_2 lasts once the application has closed"),
    ("rcvbuf", "int", 2048, 1 << 30, "memory that received data may hold"),
    ("sndbuf", "int", 2048, 1 << 30, "payload queued and not acknowledged"),
    ("window_clamp", "int", 0, 1 << 30, "never advertise more; 0: off"),
    ("tos", "int", 0, 255, "DSCP; the two ECN bits are the engine's (RFC 2474, 3168)"),
    ("ttl", "int", 1, 255, "or hop limit"),
    ("pmtu_discovery", "bool", 0, 1, "DF on IPv4, ICMP about it listened to (RFC 1191)"),
    ("pacing_rate", "int", 0, 1 << 40, "bytes of IP packets per second; 0: as the windows allow"),
    ("rto_min", "seconds", 1e-3, 3600, "RFC 6298"),
    ("rto_max", "seconds", 1e-3, 3600, "RFC 6298"),
    ("notsent_lowat", "int", 0, 1 << 30, "writable only below so many unsent bytes; 0: off"),
    ("slow_start_after_idle", "bool", 0, 1, "RFC 5681 4.1"),
)

OPTIONS: dict[str, Option] = {
    name: Option(number=i, kind=kind, low=low, high=high, what=what)
    for i, (name, kind, low, high, what) in enumerate(_NAMES)
}


def _find(name: str) -> Option:
    option = OPTIONS.get(name)
    if option is None:
        raise PybypassError.make(
            "PB040", errno.ENOPROTOOPT, f"no option named {name!r}", hint="one of " + ", ".join(OPTIONS)
        )
    return option


def number_of(name: str) -> int:
    """The engine's number. PB040: no such option."""
    return _find(name).number


def to_core(name: str, value: float) -> tuple[int, int]:
    """(number, value) for the engine. PB040: no such option, or a value out of its range."""
    option = _find(name)
    whole = isinstance(value, int) or option.kind == "seconds"
    if not whole or not option.low <= value <= option.high:
        allowed = "True or False" if option.kind == "bool" else f"from {option.low:g} to {option.high:g}"
        raise PybypassError.make("PB040", errno.EINVAL, f"{name}={value!r} is not {allowed}", hint=option.what)
    if option.kind == "seconds":
        return option.number, -1 if value < 0 else round(value * 1e9)
    return option.number, int(value)


def from_core(name: str, value: int) -> float | bool:
    """What the engine says, in the option's unit."""
    kind = _find(name).kind
    if kind == "bool":
        return bool(value)
    return value if kind == "int" or value < 0 else value / 1e9
