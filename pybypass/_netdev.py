"""What rtnetlink and the netdev family say of an interface (<linux/if_link.h>, <linux/netdev.h>), and its interrupts.

All for the calling thread's network namespace. Where the kernel has no such message the answer is empty.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from ._netlink import DUMP, Generic, Message, Netlink, attribute, attributes, number, text, u32
from .errors import PybypassError

__all__ = [
    "Interface", "Irq", "Queue", "Xdp", "XskSocket", "default_routes", "interface", "interfaces", "irq_of", "irqs",
    "numa_node", "queues", "xdp", "xsk_sockets",
]  # fmt: skip

_RTM_GETLINK = 18
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_RTM_GETROUTE, _RTN_UNICAST, _RTA_OIF, _RTA_MULTIPATH = 26, 1, 4, 9
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, prefixes, tos, table, protocol, scope, type, flags
_IFNAMSIZ = 16
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_ADDRESS, _IFNAME, _MTU, _LINK_INDEX, _MASTER, _OPERSTATE, _LINKINFO, _STATS64 = 1, 3, 4, 5, 10, 16, 18, 23
_NUM_TX, _NUM_RX, _LINK_NETNSID, _XDP, _MIN_MTU, _MAX_MTU = 31, 32, 37, 43, 50, 51
_PARENT, _PARENT_BUS, _PROMISCUITY = 56, 57, 30
_OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
_ATTACHED = ("none", "native", "generic", "offload", "multi")
_STATISTICS = (
    "rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
    "multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors",
    "rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors",
    "tx_heartbeat_errors", "tx_window_errors", "rx_compressed", "tx_compressed", "rx_nohandler",
    "rx_otherhost_dropped",
)  # fmt: skip

_DEV_GET, _QUEUE_GET, _NAPI_GET = 1, 10, 11
_XDP_FEATURES = ("basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg")
_RX_METADATA = ("timestamp", "hash", "vlan-tag")
_XSK_FEATURES = ("tx-timestamp", "tx-checksum", "tx-launch-time-fifo")

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _AF_XDP = 4, 20, 44
_XSK_SHOW = 0x1 | 0x4 | 0x10  # information, umem, statistics
_XSK_STATISTICS = ("rx_dropped", "rx_invalid", "rx_ring_full", "fill_ring_empty", "tx_invalid", "tx_ring_empty")


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A link as rtnetlink describes it."""

    ifindex: int
    ifname: str
    mac: str
    """Empty where it has none."""
    mtu: int
    mtu_min: int
    mtu_max: int
    """0: no limit known."""
    up: bool
    carrier: bool
    promiscuity: int
    """How many want all frames, whatever their address; 0: nobody (`ip -d link`)."""
    operstate: str
    """up, down, dormant, lowerlayerdown, notpresent, testing or unknown (what lo says)."""
    kind: str
    """veth, vlan, bridge, ...; empty for a device with hardware, or lo."""
    rx_queues: int
    tx_queues: int
    master: int
    """The ifindex of the bridge or bond that it belongs to; 0: none."""
    link: int
    """The ifindex of its peer (veth) or of what it lies on (vlan); 0: none."""
    link_netnsid: int | None
    """The number by which this namespace knows that of `link`; None: it is here."""
    parent: str
    """The device behind it ("0000:01:00.0", "virtio2"), with `parent_bus`; empty: none, or a kernel before 5.14."""
    parent_bus: str
    xdp_mode: str
    """native, generic, offload, multi; none: no XDP program is attached."""
    xdp_prog_id: int
    statistics: dict[str, int]
    """struct rtnl_link_stats64 by its names, since the interface was made."""


@dataclass(frozen=True, kw_only=True)
class Xdp:
    """What a driver can do for XDP and AF_XDP (the netdev family, Linux 6.3); names as in its specification."""

    features: frozenset[str]
    """basic, redirect, ndo-xmit, xsk-zerocopy, hw-offload, rx-sg, ndo-xmit-sg."""
    zc_max_segs: int
    """Descriptors per packet in zero-copy mode; 1: no multi-buffer there; 0: no zero copy."""
    rx_metadata: frozenset[str]
    """timestamp, hash, vlan-tag."""
    xsk: frozenset[str]
    """tx-timestamp, tx-checksum, tx-launch-time-fifo."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """One queue of a device that is up, with who serves it (Linux 6.8; PIDs and interrupts where the driver says)."""

    kind: str
    """rx or tx."""
    id: int
    napi_id: int | None
    irq: int | None
    napi_pid: int | None
    """The kernel thread of threaded NAPI."""


@dataclass(frozen=True, kw_only=True)
class Irq:
    """An interrupt of a device."""

    number: int
    action: str
    """The driver's name for it, such as "eth1-TxRx-0"."""
    affinity: str
    """The CPUs allowed, as a list ("0-3,8"); `effective`: those that it goes to."""
    effective: str


@dataclass(frozen=True, kw_only=True)
class XskSocket:
    """An AF_XDP socket of any process in this network namespace (sock_diag)."""

    inode: int
    ifindex: int
    queue: int
    zerocopy: bool
    statistics: dict[str, int]
    """rx_dropped, rx_invalid, rx_ring_full, fill_ring_empty, tx_invalid, tx_ring_empty."""


def _interface(answer: Message) -> Interface:
    _, _, index, flags, _ = _LINK.unpack_from(answer.body)
    found = attributes(answer.body[_LINK.size :])
    information = attributes(found.get(_LINKINFO, b""))
    program = attributes(found.get(_XDP, b""))
    state, attached = number(found.get(_OPERSTATE)), number(program.get(2))
    counters = found.get(_STATS64, b"")
    values = struct.unpack(f"={len(counters) // 8}Q", counters[: len(counters) & ~7])
    return Interface(
        ifindex=index,
        ifname=text(found.get(_IFNAME)),
        mac=found.get(_ADDRESS, b"").hex(":"),
        mtu=number(found.get(_MTU)),
        mtu_min=number(found.get(_MIN_MTU)),
        mtu_max=number(found.get(_MAX_MTU)),
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        promiscuity=number(found.get(_PROMISCUITY)),
        operstate=_OPERSTATES[state] if state < len(_OPERSTATES) else str(state),
        kind=text(information.get(1)),
        rx_queues=number(found.get(_NUM_RX)),
        tx_queues=number(found.get(_NUM_TX)),
        master=number(found.get(_MASTER)),
        link=number(found.get(_LINK_INDEX)),
        link_netnsid=number(found[_LINK_NETNSID]) if _LINK_NETNSID in found else None,
        parent=text(found.get(_PARENT)),
        parent_bus=text(found.get(_PARENT_BUS)),
        xdp_mode=_ATTACHED[attached] if attached < len(_ATTACHED) else str(attached),
        xdp_prog_id=number(program.get(4)),
        statistics=dict(zip(_STATISTICS, values, strict=False)),
    )


def interface(ifname: str) -> Interface:
    """One interface by its name. PB020 when there is none such."""
    name = ifname.encode("utf-8", "surrogateescape")
    if not 0 < len(name) < _IFNAMSIZ or b"\0" in name:
        raise PybypassError.make("PB020", errno.ENODEV, repr(ifname[:40]))
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFNAME, name + b"\0")
    with Netlink() as route:
        return _interface(route.request(_RTM_GETLINK, body)[0])


def interfaces() -> list[Interface]:
    """All of the namespace, by index."""
    with Netlink() as route:
        found = [_interface(answer) for answer in route.request(_RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0), DUMP)]
    return sorted(found, key=lambda i: i.ifindex)


def default_routes() -> frozenset[int]:
    """The ifindexes that some routing table of the namespace sends to without a prefix, IPv4 and IPv6."""
    found = set[int]()
    with Netlink() as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                answers = route.request(_RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), DUMP)
            except PybypassError:  # a kernel without that family
                continue
            for answer in answers:
                if len(answer.body) < _ROUTE.size:
                    continue
                _, prefix, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(answer.body)
                if prefix or kind != _RTN_UNICAST:
                    continue
                told = attributes(answer.body[_ROUTE.size :])
                found.add(number(told.get(_RTA_OIF)))
                hops = told.get(_RTA_MULTIPATH, b"")
                while len(hops) >= 8:
                    size, ifindex = struct.unpack_from("=HxxI", hops)
                    found.add(ifindex)
                    hops = hops[max((size + 3) & ~3, 8) :]
    return frozenset(found - {0})


def _names(value: bytes | None, names: tuple[str, ...]) -> frozenset[str]:
    bits = number(value)
    return frozenset(
        names[bit] if bit < len(names) else f"bit-{bit}" for bit in range(bits.bit_length()) if bits >> bit & 1
    )


def xdp(ifindex: int) -> Xdp | None:
    """None on kernels without the netdev family."""
    try:
        with Generic("netdev") as netdev:
            answers = netdev.call(_DEV_GET, u32(1, ifindex))
    except PybypassError as e:
        if e.code == "PB071":
            return None
        raise
    found = answers[0]
    return Xdp(
        features=_names(found.get(3), _XDP_FEATURES),
        zc_max_segs=number(found.get(4)),
        rx_metadata=_names(found.get(5), _RX_METADATA),
        xsk=_names(found.get(6), _XSK_FEATURES),
    )


def queues(ifindex: int) -> list[Queue]:
    """The queues of an interface that is up; [] when it is down, or on kernels before 6.8."""
    try:
        with Generic("netdev") as netdev:
            if _QUEUE_GET not in netdev.commands:
                return []
            found = netdev.call(_QUEUE_GET, u32(2, ifindex), DUMP)
            napis = {number(n.get(2)): n for n in netdev.call(_NAPI_GET, u32(1, ifindex), DUMP)}
    except PybypassError as e:
        if e.code == "PB071":
            return []
        raise
    result = []
    for queue in found:
        napi_id = number(queue[4]) if 4 in queue else None
        napi = napis.get(napi_id, {}) if napi_id is not None else {}
        result.append(
            Queue(
                kind="tx" if number(queue.get(3)) else "rx",
                id=number(queue.get(1)),
                napi_id=napi_id,
                irq=number(napi[3]) if 3 in napi else None,
                napi_pid=number(napi[4]) if 4 in napi else None,
            )
        )
    return sorted(result, key=lambda q: (q.kind, q.id))


# ---- the device behind it ----


def _device(bus: str, name: str) -> Path | None:
    path = Path("/sys/bus", bus, "devices", name)
    return path.resolve() if bus and name and path.exists() else None


def numa_node(bus: str, device: str) -> int | None:
    """The NUMA node of a device, or of what it hangs from; None: the machine does not say (one node)."""
    at = _device(bus, device)
    while at is not None and at != at.parent and str(at).startswith("/sys/devices/"):
        try:
            node = int((at / "numa_node").read_text())
            return node if node >= 0 else None
        except (OSError, ValueError):
            at = at.parent
    return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def irqs(bus: str, device: str) -> list[Irq]:
    """The message-signalled interrupts of a device that are in use, by number.

    Not by netlink: MSI numbers are in sysfs, who uses them and the CPUs in /sys/kernel/irq and /proc/irq.
    """
    at = _device(bus, device)
    while at is not None and at != at.parent and not (at / "msi_irqs").is_dir() and str(at).startswith("/sys/devices/"):
        at = at.parent
    if at is None or not (at / "msi_irqs").is_dir():
        return []
    found = []
    for name in sorted(os.listdir(at / "msi_irqs"), key=int):
        action = _text(f"/sys/kernel/irq/{name}/actions")
        if action:
            base = f"/proc/irq/{name}"
            effective = _text(f"{base}/effective_affinity_list")
            affinity = _text(f"{base}/smp_affinity_list")
            found.append(Irq(number=int(name), action=action, affinity=affinity, effective=effective))
    return found


def irq_of(kind: str, queue: int, found: list[Irq]) -> int | None:
    """The interrupt of a queue by its driver's name for it: for drivers whose NAPI does not say.

    Their names end in the queue's number, after rx, tx, input, output or TxRx.
    """
    words = {"rx": ("rx", "input", "txrx", "rxtx"), "tx": ("tx", "output", "txrx", "rxtx")}[kind]
    for irq in found:
        match = re.search(r"(txrx|rxtx|rx|tx|input|output)[-.]?(\d+)$", irq.action, re.IGNORECASE)
        if match and match[1].lower() in words and int(match[2]) == queue:
            return irq.number
    return None


# ---- AF_XDP sockets ----


def xsk_sockets() -> list[XskSocket] | None:
    """The AF_XDP sockets that are bound in this namespace; None on kernels without CONFIG_XDP_SOCKETS_DIAG."""
    request = struct.pack("=BBHIIII", _AF_XDP, 0, 0, 0, _XSK_SHOW, 0, 0)
    try:
        with Netlink(_NETLINK_SOCK_DIAG) as diag:
            answers = diag.request(_SOCK_DIAG_BY_FAMILY, request, DUMP)
    except PybypassError:
        return None
    result = []
    for answer in answers:
        inode = struct.unpack_from("=4xI", answer.body)[0]
        found = attributes(answer.body[16:])
        if 1 not in found or not any(found[1]):
            continue  # not bound
        ifindex, queue = struct.unpack("=II", found[1][:8])
        values = struct.unpack("=6Q", found[9][:48]) if len(found.get(9, b"")) >= 48 else ()
        flags = struct.unpack_from("=32xI", found[5])[0] if len(found.get(5, b"")) >= 40 else 0
        counters = dict(zip(_XSK_STATISTICS, values, strict=False))
        result.append(
            XskSocket(inode=inode, ifindex=ifindex, queue=queue, zerocopy=bool(flags & 1), statistics=counters)
        )
    return sorted(result, key=lambda s: (s.ifindex, s.queue, s.inode))
