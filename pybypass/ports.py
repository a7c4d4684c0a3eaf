"""Opening ports: a device by its URI, its queues, and what the kernel knows of the interface behind it."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl

from . import _port, neighbours
from ._mem import Umem
from ._port import Burst, Queue
from .closing import Closing
from .errors import PybypassError
from .neighbours import IpAddress

__all__ = ["Burst", "Impairment", "IpAddress", "Port", "Queue", "open"]

# By the unit at the end of the name.
_IMPAIRMENT_MAX = {
    "bps": 10**15, "ns": 10**15, "bytes": 1 << 30, "ppm": 10**6, "capacity": 1 << 20, "seed": (1 << 64) - 1,
}  # fmt: skip
_PROTOS = {"tcp": 6, "udp": 17, "icmp": 1, "icmp6": 58}


@dataclass(frozen=True, kw_only=True)
class Impairment:
    """What a link does to packets; the same seed and the same packets give the same fate.

    `rate_bps` bits per second (0: no limit), `queue_bytes` of the queue before it (0: no limit), `delay_ns` and `jitter_ns`,
    probabilities per million packets: `loss_ppm`, `dup_ppm`, `corrupt_ppm` (one bit flipped), `reorder_ppm` (held back
    by `reorder_ns`). `capacity`: packets under way at most, a power of two. Raises PybypassError PB010, out of range.
    """

    rate_bps: int = 0
    queue_bytes: int = 0
    delay_ns: int = 0
    jitter_ns: int = 0
    loss_ppm: int = 0
    dup_ppm: int = 0
    corrupt_ppm: int = 0
    reorder_ppm: int = 0
    reorder_ns: int = 0
    capacity: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            high = _IMPAIRMENT_MAX[field.name.rpartition("_")[2]]
            if not isinstance(value, int) or not 0 <= value <= high:
                raise PybypassError.make(
                    "PB010", errno.EINVAL, f"Impairment({field.name}={value!r})",
                    hint=f"{field.name} is a whole number from 0 to {high}",
                )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Uri:
    """A port's URI, taken apart."""

    scheme: str
    name: str
    options: dict[str, str]

    @staticmethod
    def parse(uri: str) -> Uri:
        scheme, colon, rest = uri.partition(":")
        name, _, query = rest.partition("?")
        if not colon or not name or not name.isprintable():
            raise PybypassError.make("PB010", errno.EINVAL, repr(uri))
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as e:
            raise PybypassError.make("PB010", errno.EINVAL, f"{uri!r}: {e}") from None
        options = dict(pairs)
        if len(options) < len(pairs):
            raise PybypassError.make("PB010", errno.EINVAL, f"{uri!r}: an option is given twice")
        return Uri(scheme=scheme, name=name, options=options)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        text = self.options.get(key)
        if text is None:
            return default
        try:
            value = int(text, 0)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise PybypassError.make(
                "PB010", errno.EINVAL, f"{key}={text[:40]!r}", hint=f"{key} is a whole number from {low} to {high}"
            )
        return value

    def choice(self, key: str, default: str, *allowed: str) -> str:
        text = self.options.get(key, default)
        if text not in allowed:
            raise PybypassError.make("PB010", errno.EINVAL, f"{key}={text!r}: one of {', '.join(allowed)}")
        return text

    def only(self, *allowed: str) -> None:
        unknown = sorted(set(self.options) - set(allowed))
        if unknown:
            raise PybypassError.make(
                "PB010",
                errno.EINVAL,
                f"unknown option {unknown[0]!r}",
                hint=f"{self.scheme}: knows {', '.join(allowed)}",
            )


class Port(Closing):
    """A device that is open. A context manager; close() closes its engine first.

    `kind` is "xdp" or "mem". `report` says what the device granted: for xdp the mode ("native", "generic"), zerocopy, the
    rungs of the ladder that failed and why, MTU, queues.
    """

    def __init__(self, uri: str, kind: str, queues: list[Queue], umem: Umem, report: dict[str, Any]) -> None:
        self.uri = uri
        self.kind = kind
        self.umem = umem
        self.report = report
        self._queues = queues
        self._children: list[Any] = []
        self.netns: Any = None

    @property
    def queues(self) -> tuple[Queue, ...]:
        return tuple(self._queues)

    @property
    def mac(self) -> str:
        return self._queues[0].mac.hex(":")

    @property
    def mtu(self) -> int:
        """Largest IP packet, bytes."""
        return self._queues[0].mtu

    @property
    def closed(self) -> bool:
        return self._queues[0].is_closed

    @property
    def mode(self) -> str:
        """How frames pass: "native zero-copy", "native copy", "generic copy" or "mem"."""
        if self.kind != "xdp":
            return self.kind
        return f"{self.report['mode']} {'zero-copy' if self.report['zerocopy'] else 'copy'}"

    def rx_burst(self, n: int = 64) -> Burst:
        """Queue.rx_burst() of the first queue."""
        return self._queues[0].rx_burst(n)

    def tx_burst(self, burst: Burst) -> int:
        """Queue.tx_burst() of the first queue: the first n frames belong to the device, the rest stay in the burst."""
        return self._queues[0].tx_burst(burst)

    def alloc_burst(self, n: int, length: int = 0) -> Burst:
        """Queue.alloc_burst() of the first queue."""
        return self._queues[0].alloc_burst(n, length)

    def stats(self) -> dict[str, Any]:
        """Queue.stats() of the first queue; with an engine on it, see Engine.stats()."""
        return self._queues[0].stats()

    def info(self) -> dict[str, Any]:
        """uri, kind, mode, mac, mtu, umem (Umem.info()), report."""
        return {
            "uri": self.uri, "kind": self.kind, "mode": self.mode, "mac": self.mac, "mtu": self.mtu,
            "umem": self.umem.info(), "report": self.report,
        }  # fmt: skip

    # What an engine asks of the world behind the port; xdp overrides it.

    def local_networks(self) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface] | None:
        """Addresses of the interface with their prefixes, or None where there is no kernel behind the port."""
        return None

    def steer(self, proto: int, ip: IpAddress | None, port: int) -> None:
        """Asks for the packets of a local address and port."""

    def unsteer(self, proto: int, ip: IpAddress | None, port: int) -> None:
        """Takes back one steer()."""

    def hold(self, ip: IpAddress, port: int) -> tuple[int, Any]:
        """Holds a local TCP port against the kernel (0: any free one): the port, and what to close to let go."""
        return port, None

    def neighbour_lookup(self, hops: list[IpAddress]) -> dict[IpAddress, bytes]:
        """The MAC addresses of those neighbours that the kernel knows now."""
        return {}

    def neighbour_ask(self, ip: IpAddress) -> bool:
        """Has the kernel find a neighbour out, without waiting for it; False: no kernel behind the port, ask on the wire."""
        return False

    def close(self) -> None:
        """Closes the engine, then the device. BufferError while views of frames are alive. Again does nothing."""
        self._close(force=False)

    def _close_after_error(self) -> None:
        self._close(force=True)

    def _close(self, force: bool) -> None:
        for child in list(self._children):
            child._close(1.0, force)
        for queue in self._queues:
            queue.close(force)

    def __repr__(self) -> str:
        return f"<Port {self.uri} {'closed' if self.closed else self.mode}>"


class XdpPort(Port):
    """An AF_XDP socket on one queue of a kernel interface."""

    def __init__(
        self, uri: str, queues: list[Queue], umem: Umem, report: dict[str, Any], program: Any, ifname: str
    ) -> None:
        super().__init__(uri, "xdp", queues, umem, report)
        self.program = program
        self.ifname = ifname
        self._pid = os.getpid()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with self.netns if self.netns is not None else nullcontext():
            yield

    def local_networks(self) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
        from pyroute2 import IPRoute

        found = []
        with self._inside(), IPRoute() as ipr:
            for msg in ipr.get_addr(index=self.report["ifindex"]):
                attrs = dict(msg["attrs"])
                address = attrs.get("IFA_LOCAL") or attrs.get("IFA_ADDRESS")
                found.append(ipaddress.ip_interface(f"{address}/{msg['prefixlen']}"))
        return found

    def steer(self, proto: int, ip: IpAddress | None, port: int) -> None:
        try:
            self.program.steer_add(proto, ip, port)
        except OSError as e:
            raise PybypassError.make("PB032", e.errno or 0, f"{proto}/{ip}:{port}") from None

    def unsteer(self, proto: int, ip: IpAddress | None, port: int) -> None:
        self.program.steer_del(proto, ip, port)

    def hold(self, ip: IpAddress, port: int) -> tuple[int, Any]:
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        with self._inside():
            holder = socket.socket(family, socket.SOCK_STREAM)
        try:
            if ip.version == 6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            holder.bind((str(ip), port))
        except OSError as e:
            holder.close()
            code = "PB042" if e.errno == errno.EADDRINUSE else "PB041" if e.errno == errno.EADDRNOTAVAIL else "PB050"
            raise PybypassError.make(code, e.errno or 0, f"{ip} port {port}") from None
        return holder.getsockname()[1], holder

    def neighbour_lookup(self, hops: list[IpAddress]) -> dict[IpAddress, bytes]:
        with self._inside():
            return neighbours.lookup(self.report["ifindex"], hops)

    def neighbour_ask(self, ip: IpAddress) -> bool:
        with self._inside():
            neighbours.ask(self.report["ifindex"], ip)
        return True

    def _close(self, force: bool) -> None:
        super()._close(force)
        if os.getpid() == self._pid:  # a forked child must not take the program from its parent
            self.program.close()


# Which code an open that failed at a stage of csrc/dev/xsk.h has; errno decides first.
_STAGE_CODES = {
    "iface": "PB020", "queue": "PB022", "mtu": "PB027", "prog_busy": "PB024", "prog_file": "PB030", "prog_load": "PB031",
    "prog_attach": "PB031", "socket": "PB029", "bind": "PB028", "umem": "PB026", "fill": "PB003",
    "memory": "PB001", "config": "PB010",
}  # fmt: skip


def _xdp_error(e: OSError) -> PybypassError:
    stage, number = getattr(e, "stage", ""), e.errno or errno.EIO
    code = _STAGE_CODES.get(stage, "PB099")
    if number in (errno.EPERM, errno.EACCES):
        code = "PB025"
    elif stage == "iface" and number == errno.ENETDOWN:
        code = "PB021"
    elif stage == "bind" and number == errno.EBUSY:
        code = "PB023"
    elif stage == "umem" and number == errno.EINVAL:
        code = "PB099"
    return PybypassError.make(code, number, e.strerror or "", detail=getattr(e, "report", None))


def _umem_for(uri: Uri, umem: Umem | None) -> Umem:
    if umem is not None:
        return umem
    try:
        return Umem(
            frames=uri.integer("frames", 8192, 64, 1 << 22),
            frame_bytes=int(uri.choice("frame", "2048", "2048", "4096")),
            pages=uri.choice("pages", "best", "best", "hugetlb", "thp", "4k"),
        )
    except ValueError as e:
        raise PybypassError.make("PB010", errno.EINVAL, str(e)) from None


def _open_mem(text: str, uri: Uri, umem: Umem | None, rx: Impairment | None, tx: Impairment | None) -> Port:
    uri.only("frames", "frame", "pages", "ring", "mtu", "completion_delay_ns", "completion_reorder", "seed")
    memory = _umem_for(uri, umem)
    numbers = {
        "ring": uri.integer("ring", 1024, 8, 65536), "mtu": uri.integer("mtu", 1500, 68, 65535),
        "completion_delay_ns": uri.integer("completion_delay_ns", 0, 0, 10**15),
        "seed": uri.integer("seed", 0, 0, (1 << 64) - 1),
    }  # fmt: skip
    try:
        queue = _port.open_mem(
            uri.name, memory, **numbers, completion_reorder=uri.choice("completion_reorder", "0", "0", "1") == "1",
            impair_rx=rx, impair_tx=tx,
        )  # fmt: skip
    except OverflowError as e:
        raise PybypassError.make("PB010", errno.EINVAL, f"{text!r}: {e}") from None
    return Port(text, "mem", [queue], memory, {})


def _steer_all(port: XdpPort, rules: str) -> None:
    """The option steer=: "all", or protocols and ports as "udp", "tcp:80", "udp:4000-4100", joined by "+"."""
    for rule in filter(None, rules.split("+")):
        if rule == "all":
            port.program.steer_add(0)
            continue
        name, _, ports = rule.partition(":")
        low, _, high = ports.partition("-")
        try:
            if name not in _PROTOS:
                raise ValueError(f"one of all, {', '.join(_PROTOS)}")
            if ports:
                port.program.steer_add(_PROTOS[name], None, int(low), int(high or low))
            else:
                port.program.steer_add(_PROTOS[name], None, 0, 65535)
        except ValueError as e:
            raise PybypassError.make("PB010", errno.EINVAL, f"steer={rule!r}: {e}") from None
        except OSError as e:
            raise PybypassError.make("PB032", e.errno or 0, rule) from None


def _open_xdp(text: str, uri: Uri, umem: Umem | None, netns: Any, rx: Impairment | None, tx: Impairment | None) -> Port:
    uri.only("frames", "frame", "pages", "queue", "mode", "copy", "ring", "deadline_ms", "steer")
    ring, queue = uri.integer("ring", 2048, 64, 32768), uri.integer("queue", 0, 0, 65535)
    deadline = uri.integer("deadline_ms", 2000, 0, 3_600_000)
    mode = uri.choice("mode", "auto", "auto", "native", "generic")
    copy = uri.choice("copy", "auto", "auto", "zerocopy", "copy")
    try:
        from . import _xsk
    except ImportError as e:
        raise PybypassError.make("PB011", errno.ENOSYS, f"xdp: ({e})") from None
    memory = _umem_for(uri, umem)
    try:
        with netns if netns is not None else nullcontext():
            capsule, program, report = _xsk.open_device(
                uri.name, queue, memory.capsule(), mode=mode, copy=copy, rx_ring=ring, tx_ring=ring,
                fill_ring=ring, comp_ring=ring, deadline_ms=deadline,
            )  # fmt: skip
    except OSError as e:
        raise _xdp_error(e) from None
    except (ValueError, OverflowError) as e:
        raise PybypassError.make("PB010", errno.EINVAL, f"{text!r}: {e}") from None
    port = XdpPort(
        text, [_port.adopt(capsule, memory, "xdp", impair_rx=rx, impair_tx=tx)], memory, report, program, uri.name
    )
    port.netns = netns
    try:
        _steer_all(port, uri.options.get("steer", ""))
    except BaseException:
        port.close()
        raise
    return port


def open(
    uri: str,
    *,
    umem: Umem | None = None,
    netns: Any = None,
    impair_rx: Impairment | None = None,
    impair_tx: Impairment | None = None,
) -> Port:
    """Opens a port.

    `mem:NAME`: one end of a pair in this process; the second open of the name is the other end. Options: mtu=1500,
    ring=1024, completion_delay_ns, completion_reorder=0|1, seed.

    `xdp:IFNAME`: an AF_XDP socket. Options: queue=0, mode=auto|native|generic, copy=auto|zerocopy|copy, ring=2048,
    deadline_ms=2000 (how long a busy queue is tried again), steer=all or tcp:80+udp:4000-4100 (what the port receives
    when no engine asks for it; all else stays with the kernel).

    Both: frames=8192, frame=2048|4096, pages=best|hugetlb|thp|4k, unless `umem` is given (ports that share one may
    forward bursts without a copy). `netns`: a pybypass.netns.NetNs in which to find the interface. `impair_rx`,
    `impair_tx`: links in front of the device.

    Raises PybypassError: PB010 (URI), PB011 (back end not built), PB020-PB031 (the interface; each says what to do).
    """
    parsed = Uri.parse(uri)
    if parsed.scheme == "mem":
        return _open_mem(uri, parsed, umem, impair_rx, impair_tx)
    if parsed.scheme == "xdp":
        return _open_xdp(uri, parsed, umem, netns, impair_rx, impair_tx)
    raise PybypassError.make("PB010", errno.EINVAL, f"unknown scheme {parsed.scheme!r}")
