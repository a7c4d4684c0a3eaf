"""Opening ports: a device by its URI, its queues, and what the kernel knows of the interface behind it."""

from __future__ import annotations

import errno
import ipaddress
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from . import _port
from ._burst import Burst
from ._mem import Umem
from ._port import Queue
from .closing import Closing
from .errors import PybypassError
from .kernelside import KernelSide
from .neighbours import IpAddress

if TYPE_CHECKING:
    from .flow import Flow, FlowCheck, Rule
    from .flowtable import FlowTable

__all__ = ["Burst", "Impairment", "IpAddress", "Port", "Queue", "open"]

# By the unit at the end of the name.
_IMPAIRMENT_MAX = {
    "bps": 10**15, "ns": 10**15, "bytes": 1 << 30, "ppm": 10**6, "capacity": 1 << 20, "seed": (1 << 64) - 1,
}  # fmt: skip
# Held while AF_XDP sockets are opened: DPDK's driver for them is told from others by what is new then (csrc/dev/dpdk_socks.c).
XDP_OPENING = threading.RLock()
# Of Queue.stats(): what adds up over queues.
SUMMED = ("rx_pkts", "rx_bytes", "tx_pkts", "tx_bytes", "rx_wakeups", "tx_wakeups", "tx_stamps_lost")


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
            # A plus sign joins steering rules; in forms it would be a space.
            pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query))
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

    `kind` is "xdp", "dpdk" or "mem". `report` says what the device granted: for xdp the mode ("native", "generic"), zerocopy, the
    rungs of the ladder that failed and why, MTU, queues. For all `tx_chains`: segments that are sent again while the device
    holds them go as a chain, a new header and the payload where it lies, else as a copy.
    """

    def __init__(self, uri: str, kind: str, queues: list[Queue], umem: Umem, report: dict[str, Any]) -> None:
        self.uri = uri
        self.kind = kind
        self.umem = umem
        self.report = report
        self.report["tx_chains"] = all(queue.tx_chains for queue in queues)
        self._queues = queues
        for queue in queues:
            queue.port_ref = weakref.ref(self)
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
        return all(queue.is_closed for queue in self._queues)

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
        """The sums over the queues that are open of what Queue.stats() has, `drops` by reason; and `queues`, that of each,
        with `index` (which queue of the interface) and `member` (which of its sockets). `rx_fill_empty` is of an
        interface's queue, whose sockets all show the same, and counts once.

        PB012 when all are closed; PB013 while an engine has one of them: see Engine.stats().
        """
        queues = [queue for queue in self._queues if not queue.is_closed] or self._queues[:1]
        each = [{"index": queue.index, "member": queue.member, **queue.stats()} for queue in queues]
        total: dict[str, Any] = {name: sum(one[name] for one in each) for name in SUMMED}
        fill = {one["index"]: one["rx_fill_empty"] for one in each}
        drops: dict[str, int] = {}
        for one in each:
            for reason, n in one["drops"].items():
                drops[reason] = drops.get(reason, 0) + n
        return {**total, "rx_fill_empty": sum(fill.values()), "drops": drops, "queues": each}

    def info(self) -> dict[str, Any]:
        """uri, kind, mode, mac, mtu, umem (Umem.info()), report."""
        return {
            "uri": self.uri, "kind": self.kind, "mode": self.mode, "mac": self.mac, "mtu": self.mtu,
            "umem": self.umem.info(), "report": self.report,
        }  # fmt: skip

    # What an engine asks of the world behind the port; xdp overrides it.

    def side(self, vlan: int = 0) -> KernelSide | None:
        """The kernel's interface behind the port, or its VLAN interface with that id; None: there is none such."""
        return None

    def local_networks(self, vlan: int = 0) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface] | None:
        """Addresses of the interface (or of its VLAN interface) with their prefixes, or None where there is no kernel behind
        the port."""
        return None

    def check_vlan(self, vlan: int) -> None:
        """Raises PB083 or PB084 when frames of that VLAN do not come, or come without their tag."""

    def follow(self, watcher: Any) -> None:
        """Has a pybypass.follow.Watcher told of the kernel's news until unfollow()."""

    def unfollow(self, watcher: Any) -> None:
        """The end of follow(); again does nothing."""

    def own(self, ip: IpAddress) -> None:
        """Asks for all that is for an address which the kernel does not have. PB032."""

    def disown(self, ip: IpAddress) -> None:
        """Takes back one own()."""

    def steer(self, proto: int, ip: IpAddress | None, port: int) -> None:
        """Asks for the packets of a local address and port."""

    def unsteer(self, proto: int, ip: IpAddress | None, port: int) -> None:
        """Takes back one steer()."""

    @property
    def picks_ports(self) -> bool:
        """Whether hold() finds a free port by itself: the kernel knows them, or several engines of this process do."""
        return self.local_networks() is not None

    def hold(self, ip: IpAddress, port: int) -> tuple[int, Any]:
        """Holds a local TCP port against the kernel (0: any free one): the port, and what to close to let go."""
        return port, None

    def reaches(self, queue: Queue, remote: tuple[IpAddress, int], local: tuple[IpAddress, int]) -> bool:
        """Whether packets from `remote` to `local` (address, port) come to that one of the sockets of its queue."""
        return True

    def neighbour_lookup(self, hops: list[IpAddress]) -> dict[IpAddress, bytes]:
        """The MAC addresses of those neighbours that the kernel knows now."""
        return {}

    def neighbour_ask(self, ip: IpAddress) -> bool:
        """Has the kernel find a neighbour out, without waiting for it; False: no kernel behind the port, ask on the wire."""
        return False

    def neighbour_doubt(self, ip: IpAddress) -> bool:
        """Has the kernel look whether a neighbour is there still, without waiting; False: there is nothing for it to do."""
        return False

    # ---- flow rules: pybypass.flow ----

    def _flow_table(self) -> FlowTable:
        raise PybypassError.make(
            "PB095", errno.EOPNOTSUPP, f"{self.kind}: ports have no flow rules", hint="xdp: and dpdk: have"
        )

    def flow_validate(self, rule: Rule) -> None:
        """Asks the driver (`dpdk:`) or the compiler of the maps (`xdp:`) whether it would take a rule now. PB095."""
        self._flow_table().validate(rule)

    def flow_add(self, rule: Rule) -> Flow:
        """Puts a rule in. It is there until it is deleted or the port is closed; where a stopped port loses its rules, the next
        start puts them in again (Flow.active). PB095 names the item that was refused, with the driver's words."""
        return self._flow_table().add(rule)

    def flow_list(self) -> list[Flow]:
        """The rules in the order in which they came."""
        return self._flow_table().flows()

    def flow_query(self, flow: Flow) -> dict[str, int | None]:
        """hits (packets) and bytes of a rule with count=True; None: the driver does not count those. PB095."""
        return self._flow_table().query(flow)

    def flow_delete(self, flow: Flow) -> None:
        """Takes one rule out. PB095: it is not there, or the driver refuses."""
        self._flow_table().delete(flow)

    def flow_flush(self) -> None:
        """Takes all rules out; again does nothing."""
        self._flow_table().flush()

    def flow_check(
        self, rule: Rule, send: Callable[[bytes], object], *, packets: int = 8, timeout: float = 2.0
    ) -> FlowCheck:
        """Whether a rule that is accepted also steers: sends packets that match and packets that do not, each once without
        the rule and once with it, and looks where they come in. `send` sends a whole Ethernet frame to this port from
        outside (another port's, a packet socket's); `packets` of each kind, `timeout` seconds for each round. What comes in
        meanwhile and is not one of them is lost, so no engine may have a queue (PB013). A rule that is in the port is taken
        out for the first half."""
        return self._flow_table().check(rule, send, packets, timeout)

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


def umem_for(
    uri: Uri, umem: Umem | None, frames: int = 8192, *, dpdk: bool = False, node: int | None = None
) -> Umem:
    """The given Umem, or one as the URI says; `frames` is the default."""
    if umem is not None:
        return umem
    unaligned = uri.choice("unaligned", "0", "0", "1") == "1"
    size = uri.integer("frame", 2048, 2048, 4096)
    if size % 64 or (size not in (2048, 4096) and not unaligned):
        raise PybypassError.make(
            "PB010", errno.EINVAL, f"frame={size}: 2048 or 4096, or with unaligned=1 any multiple of 64 between them"
        )
    try:
        return Umem(
            frames=uri.integer("frames", frames, 64, 1 << 22), frame_bytes=size,
            pages=uri.choice("pages", "best", "best", "hugetlb", "thp", "4k"), unaligned=unaligned,
            dpdk=dpdk, node=node,
        )  # fmt: skip
    except ValueError as e:
        raise PybypassError.make("PB010", errno.EINVAL, str(e)) from None


def _open_mem(text: str, uri: Uri, umem: Umem | None, rx: Impairment | None, tx: Impairment | None) -> Port:
    uri.only("frames", "frame", "pages", "ring", "mtu", "completion_delay_ns", "completion_reorder", "seed")
    memory = umem_for(uri, umem)
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

    `xdp:IFNAME`: AF_XDP sockets. Options: queue=0 (or 0-3, or 0,2: one Queue each), umem=own|shared (memory of the queues),
    sockets=1 to 16 on each queue (one Queue each, driven by any thread), rss=toeplitz|symmetric (how packets are spread over
    them; with one socket too: the hash is then in the descriptors), rss_key=80 hexadecimal digits. They spread as
    chance does: of 10,000 random flows over 4 sockets each has its share within 2.3 % in the median, over 16 within 7.7 %, and
    within 10 % six times in seven. More options: mode=auto|native|generic, copy=auto|zerocopy|copy, ring=2048,
    sg=auto|on|off (packets of several frames; auto: received when the MTU needs it, sent by engines where that costs nothing),
    headroom=0 (bytes free in front of a received packet, beyond the kernel's 256), unaligned=0|1, meta=1|0 (0: no hash, time
    and stripped VLAN tag of what is received, for less work on each packet), tx_meta=0|1 (time stamps and checksums of what
    is sent), busy_poll=MICROSECONDS and busy_budget=8, deadline_ms=2000 (how long a busy queue is tried again), steer=all or
    tcp:80+udp:4000-4100 (what the port receives when no engine asks for it; all else stays with the
    kernel). `Port.report` says what was granted.

    `dpdk:DEVICE`: a device of DPDK by its PCI address or as a virtual one (net_ring0, net_af_xdp0, net_tap0, net_null0, ...).
    Options: queues=1, rx_desc and tx_desc (0: what the driver prefers), mtu, promisc=0|1, allmulti=0|1, csum=1|0 (checksum
    offloads), vlan_strip=0|1, stamp=0|1 (times of the NIC), launch=0|1 (send at a time), segs=0|1 (send packets of several
    frames; virtual devices do in any case), rss=ip, l4, none or names joined by "+" (pybypass.dpdkrss.RSS_GROUPS),
    rss_key=hexadecimal digits; every other option is the driver's own (iface=, start_queue=, role=, rx_pcap=, ...). See
    pybypass.dpdk. `Port.report` says what was granted.

    All: frames=8192 (xdp, dpdk: 4096 more for each further Queue on the same memory), frame=2048|4096 (4096 for DPDK's drivers
    of kernel interfaces; unaligned=1: any multiple of 64 between), pages=best|hugetlb|thp|4k, unless `umem` is given (ports
    that share one may forward bursts without a copy; the memory is registered with the kernel once). `netns`: a
    pybypass.netns.NetNs in which to find the interface. `impair_rx`, `impair_tx`: links in front of the device.

    Raises PybypassError: PB010 (URI), PB011 (back end not built), PB020-PB031 (the interface; each says what to do), PB062
    (another RSS key on the interface), PB090-PB094 (DPDK).
    """
    parsed = Uri.parse(uri)
    if parsed.scheme == "mem":
        return _open_mem(uri, parsed, umem, impair_rx, impair_tx)
    if parsed.scheme == "xdp":
        from .xdpport import open_xdp  # it knows this module

        with XDP_OPENING:
            return open_xdp(uri, parsed, umem, netns, impair_rx, impair_tx)
    if parsed.scheme == "dpdk":
        from .dpdkopen import open_dpdk

        with XDP_OPENING:
            return open_dpdk(uri, parsed, umem, netns, impair_rx, impair_tx)
    raise PybypassError.make("PB010", errno.EINVAL, f"unknown scheme {parsed.scheme!r}")
