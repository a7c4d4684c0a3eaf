"""Flow rules: which packets go to which queue, are dropped, marked or counted, before any of our code sees them.

    >>> from pybypass.flow import Rss, Rule
    >>> port.flow_add(Rule(dst_ip="10.0.0.2", proto="udp", dst_port=5000, queue=3, mark=7))
    >>> port.flow_add(Rule(src_ip="10.9.0.0/16", drop=True, count=True))
    >>> port.flow_add(Rule(eth_type=0x0800, proto="tcp", tcp_flags="syn,!ack", rss=Rss(queues=(0, 1))))

One type for all ports: on `dpdk:` it is compiled to rte_flow and the NIC obeys it, on `xdp:` to the maps of the XDP program,
which looks at EtherType, addresses, protocol, ports and TCP flags, and drops, marks or counts; of queues it has only the one
that a packet came in on. What a driver, or the program, cannot do is PB095 and names the item. Drivers have been seen to take
rules that they do not obey: Port.flow_check() sends packets and looks.

Sources: DPDK Programmer's Guide, "Generic Flow API (rte_flow)".
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from .errors import PybypassError

__all__ = ["Flow", "FlowCheck", "Rss", "Rule"]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Masked = tuple[int, int]
Bytes = tuple[bytes, bytes]
PortMatch = tuple[int, int, int]

PROTOS = {"icmp": 1, "tcp": 6, "udp": 17, "icmp6": 58, "sctp": 132}
TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128}
_IP4, _IP6 = 0x0800, 0x86DD
_VERSION = {_IP4: 4, _IP6: 6}


def refused(item: str, text: str, number: int = errno.EINVAL, hint: str = "", **detail: Any) -> PybypassError:
    """PB095; the item is in the message and in `detail`."""
    return PybypassError.make(
        "PB095", number, f"{item}: {text}" if item else text, hint=hint, detail={"item": item, **detail}
    )


@dataclass(frozen=True, kw_only=True)
class Rss:
    """Spreads over `queues` (empty: all of the port) by `types` (names as in rss= of `dpdk:` ports; empty: the port's)."""

    queues: tuple[int, ...] = ()
    types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "queues", tuple(self.queues))
        object.__setattr__(self, "types", tuple(self.types))
        if not all(_is_number(q, 65535) for q in self.queues) or len(set(self.queues)) < len(self.queues):
            raise refused("rss", f"queues={self.queues!r}: different numbers of queues")
        if not all(isinstance(t, str) for t in self.types):
            raise refused("rss", f"types={self.types!r}: names of hash types")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What to match, and what to do with it. Fields that are None match anything.

    Match: `src_mac`, `dst_mac`: "02:00:00:00:00:01", with a mask "02:00:00:00:00:00/ff:ff:ff:00:00:00". `eth_type`, `vlan` (id,
    1 to 4094), `vlan_pcp`: a number or (value, mask); eth_type is that behind the tag. `src_ip`, `dst_ip`: an address,
    "10.0.0.0/8", "fd00::/64", or "10.0.0.1/255.0.0.255". `proto`: tcp, udp, icmp, icmp6, sctp, a number or (value, mask).
    `src_port`, `dst_port` with proto tcp or udp: a number, (value, mask), or range(first, last + 1). `tcp_flags`: names
    ("syn,!ack": SYN set and ACK not), or (value, mask).

    Exactly one of `queue` (number among Port.queues), `rss` and `drop`; besides, `mark` (32 bits, in the descriptor's `hash`
    with the flag MARK; not with drop) and `count` (Port.flow_query()). `priority`: 0 is the highest; which there are the
    driver decides.

    Raises PybypassError PB095, which names the field.
    """

    src_mac: str | None = None
    dst_mac: str | None = None
    eth_type: int | Masked | None = None
    vlan: int | Masked | None = None
    vlan_pcp: int | Masked | None = None
    src_ip: str | IpAddress | None = None
    dst_ip: str | IpAddress | None = None
    proto: str | int | Masked | None = None
    src_port: int | Masked | range | None = None
    dst_port: int | Masked | range | None = None
    tcp_flags: str | Masked | None = None
    queue: int | None = None
    rss: Rss | None = None
    drop: bool = False
    mark: int | None = None
    count: bool = False
    priority: int = 0

    def __post_init__(self) -> None:
        self._check_actions()
        match = self.for_core()
        version, proto = match["version"], match["proto"]
        if proto[1] and not version and self.eth_type is not None:
            raise refused("proto", f"eth_type={self.eth_type!r} is not IP")
        ports = [n for n in ("src_port", "dst_port") if getattr(self, n) is not None]
        if ports and proto not in ((6, 255), (17, 255)):
            raise refused(ports[0], "needs proto='tcp' or proto='udp'")
        if self.tcp_flags is not None and proto != (6, 255):
            raise refused("tcp_flags", "needs proto='tcp'")
        value, mask = match["eth_type"]
        if version and mask and value & mask != (_IP4 if version == 4 else _IP6) & mask:
            raise refused("eth_type", f"0x{value:04x} is not that of IPv{version}")

    def _check_actions(self) -> None:
        fates = [self.queue is not None, self.rss is not None, self.drop is True]
        if sum(fates) != 1:
            raise refused("actions", "exactly one of queue, rss and drop")
        for name in ("drop", "count"):
            if not isinstance(getattr(self, name), bool):
                raise refused(name, f"{getattr(self, name)!r} is not True or False")
        for name, limit in (("queue", 65535), ("mark", 0xFFFFFFFF), ("priority", 0xFFFFFFFF)):
            value = getattr(self, name)
            if value is not None and not _is_number(value, limit):
                raise refused(name, f"{value!r} is not 0 to {limit}")
        if self.rss is not None and not isinstance(self.rss, Rss):
            raise refused("rss", "an Rss(queues=..., types=...)")
        if self.mark is not None and self.drop:
            raise refused("mark", "nobody sees the mark of a packet that is dropped")

    # ---- in numbers ----

    @property
    def version(self) -> int:
        """4 or 6 where the rule is about one of them, else 0."""
        found = {v for n in ("src_ip", "dst_ip") if (v := _ip(n, getattr(self, n))[0])}
        if len(found) > 1:
            raise refused("src_ip", "source and destination are of different IP versions")
        if found:
            return found.pop()
        value, mask = _number("eth_type", self.eth_type, 16)
        return _VERSION.get(value, 0) if mask == 0xFFFF else 0

    def for_core(self, queues: Iterable[int] = ()) -> dict[str, Any]:
        """Values and masks, as the compilers of the back ends take them; `queues` are all of the port."""
        vid, vid_mask = _number("vlan", self.vlan, 12)
        pcp, pcp_mask = _number("vlan_pcp", self.vlan_pcp, 3)
        spread = tuple(self.rss.queues or queues) if self.rss is not None else ()
        return {
            "src_mac": _mac("src_mac", self.src_mac), "dst_mac": _mac("dst_mac", self.dst_mac),
            "eth_type": _number("eth_type", self.eth_type, 16), "vlan": (pcp << 13 | vid, pcp_mask << 13 | vid_mask),
            "version": self.version, "src_ip": _ip("src_ip", self.src_ip)[1], "dst_ip": _ip("dst_ip", self.dst_ip)[1],
            "proto": _proto(self.proto), "src_port": _ports("src_port", self.src_port),
            "dst_port": _ports("dst_port", self.dst_port), "tcp_flags": _flags(self.tcp_flags),
            "fate": "drop" if self.drop else "rss" if self.rss is not None else "queue",
            "queues": (self.queue,) if self.queue is not None else spread,
            "rss_types": self.rss.types if self.rss is not None else (), "mark": self.mark, "count": self.count,
            "priority": self.priority,
        }  # fmt: skip

    def __str__(self) -> str:
        """The fields that are set."""
        given = ((f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default)
        return ", ".join(f"{name}={value!r}" if value is not True else name for name, value in given)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A rule in a port."""

    id: int
    rule: Rule
    active: bool = True
    """False: the port is stopped and has lost it, or the last start could not put it in again."""
    error: PybypassError | None = None
    """Why it could not."""


@dataclass(frozen=True, kw_only=True)
class FlowCheck:
    """What Port.flow_check() saw. Counts are by queue; None stands for packets that did not come."""

    steers: bool | None
    """True: the rule does what it says, and only that. None: it cannot be told, for the packets fare the same without it."""
    words: str
    matching: dict[int | None, int]
    others: dict[int | None, int]
    matching_without: dict[int | None, int]
    others_without: dict[int | None, int]


# ---- fields ----


def _is_number(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


def _number(name: str, value: int | Masked | None, bits: int) -> Masked:
    limit = (1 << bits) - 1
    if value is None:
        return 0, 0
    pair = value if isinstance(value, tuple) else (value, limit)
    if len(pair) != 2 or not all(_is_number(v, limit) for v in pair):
        raise refused(name, f"{value!r} is not a number from 0 to {limit}, or (value, mask)")
    return pair[0] & pair[1], pair[1]


def _mac(name: str, text: str | None) -> Bytes:
    if text is None:
        return bytes(6), bytes(6)
    value, slash, mask = text.partition("/") if isinstance(text, str) else ("", "", "")
    try:
        raw = bytes.fromhex(value.replace(":", " ")), bytes.fromhex(mask.replace(":", " ")) if slash else b"\xff" * 6
    except ValueError:
        raw = b"", b""
    if len(raw[0]) != 6 or len(raw[1]) != 6:
        raise refused(name, f"{text!r} is not a MAC address", hint="write 02:00:00:00:00:01 or ADDRESS/MASK")
    return bytes(a & b for a, b in zip(*raw, strict=True)), raw[1]


def _ip(name: str, value: str | IpAddress | None) -> tuple[int, Bytes]:
    """4 or 6, and the address with its mask."""
    if value is None:
        return 0, (b"", b"")
    address, slash, mask = str(value).partition("/")
    try:
        ip = ipaddress.ip_address(address)
        if not slash:
            bits = b"\xff" * len(ip.packed)
        elif mask.isdigit() and int(mask) <= ip.max_prefixlen:
            bits = ((1 << ip.max_prefixlen) - (1 << (ip.max_prefixlen - int(mask)))).to_bytes(len(ip.packed), "big")
        else:
            bits = ipaddress.ip_address(mask).packed
        if len(bits) != len(ip.packed):
            raise ValueError
    except ValueError:
        raise refused(name, f"{str(value)!r} is not ADDRESS, ADDRESS/PREFIX or ADDRESS/MASK") from None
    return ip.version, (bytes(a & b for a, b in zip(ip.packed, bits, strict=True)), bits)


def _proto(value: str | int | Masked | None) -> Masked:
    if isinstance(value, str):
        if value not in PROTOS:
            raise refused("proto", f"{value!r}: {', '.join(PROTOS)}, or a number")
        value = PROTOS[value]
    return _number("proto", value, 8)


def _ports(name: str, value: int | Masked | range | None) -> PortMatch:
    """Value, mask and, of a range, its last."""
    if not isinstance(value, range):
        return (*_number(name, value, 16), 0)
    if value.step != 1 or not 0 <= value.start < value.stop <= 65536:
        raise refused(name, f"{value!r} is not a range of ports")
    last = value.stop - 1
    return value.start, 0xFFFF, last if last != value.start else 0


def _flags(value: str | Masked | None) -> Masked:
    if not isinstance(value, str):
        return _number("tcp_flags", value, 8)
    found = mask = 0
    for word in value.split(","):
        name = word.strip().lower().removeprefix("!")
        if name not in TCP_FLAGS or mask & TCP_FLAGS[name]:
            raise refused("tcp_flags", f"{value!r}: each of {', '.join(TCP_FLAGS)} once, with ! for one that is not set")
        mask |= TCP_FLAGS[name]
        found |= TCP_FLAGS[name] if not word.strip().startswith("!") else 0
    return found, mask
