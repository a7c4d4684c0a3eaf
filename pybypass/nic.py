"""What a network interface is and can do, and its settings: channels, rings, coalescing, features, RSS, clocks, XDP.

    >>> from pybypass import nic
    >>> nic.channels("eth1")
    Channels(rx=0, tx=0, other=1, combined=4, rx_max=0, tx_max=0, other_max=1, combined_max=8)
    >>> nic.set_rss("eth1", table=[0, 1, 2, 3] * 32)

By netlink (the ethtool and netdev families, rtnetlink); no other program is run. The exceptions: the driver's name, and RSS
on kernels before 6.17, are ioctl(SIOCETHTOOL), and MSI interrupts are read from /sys and /proc.

Every function takes the interface's name and `netns`, a pybypass.netns.NetNs to find it in (default: the calling thread's).
All raise PybypassError: PB020 (no such interface), PB025 (not permitted), PB071 (the driver or kernel has no such thing),
PB072 (a value out of range: nothing was touched), PB070 (refused, in the kernel's words).

Sources: Documentation/networking/ethtool-netlink.rst, Documentation/netlink/specs/netdev.yaml, ethtool(8).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

from . import _ethtool, _netdev
from ._ethtool import Ethtool
from ._netdev import Interface, Irq, Queue, Xdp, XskSocket
from .errors import PybypassError
from .nictypes import Channels, Coalescing, Driver, Feature, Nic, Rings, Rss, Timestamping

__all__ = [
    "Channels", "Coalescing", "Driver", "Feature", "Interface", "Irq", "Nic", "Queue", "Rings", "Rss",
    "Timestamping", "Xdp", "XskSocket", "channels", "coalescing", "driver", "features", "interface", "interfaces",
    "irqs", "look", "queues", "rings", "rss", "set_channels", "set_coalescing", "set_features", "set_rings",
    "set_rss", "system_rss_key", "timestamping", "xdp", "xsk_sockets",
]  # fmt: skip

# ethtool's short names, for the kernel's.
GROUPS: dict[str, tuple[str, ...]] = {
    "rx": ("rx-checksum",),
    "tx": (
        "tx-checksum-ipv4", "tx-checksum-ip-generic", "tx-checksum-ipv6", "tx-checksum-fcoe-crc", "tx-checksum-sctp",
    ),
    "sg": ("tx-scatter-gather", "tx-scatter-gather-fraglist"),
    "tso": (
        "tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation", "tx-tcp6-segmentation",
        "tx-tcp-accecn-segmentation",
    ),
    "gso": ("tx-generic-segmentation",),
    "gro": ("rx-gro",),
    "lro": ("rx-lro",),
    "rxvlan": ("rx-vlan-hw-parse",),
    "txvlan": ("tx-vlan-hw-insert",),
    "ntuple": ("rx-ntuple-filter",),
    "rxhash": ("rx-hashing",),
}  # fmt: skip
_XFRM = {0: "none", 1: "symmetric-xor", 2: "symmetric-or-xor"}


def _inside(netns: Any) -> Any:
    return netns if netns is not None else nullcontext()


def _range(what: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PybypassError.make("PB072", errno.EINVAL, f"{what}={value!r}: a whole number from {low} to {high}")


# ---- reading ----


def interface(ifname: str, *, netns: Any = None) -> Interface:
    """Index, addresses, MTU, state, peer, statistics, the XDP program attached (rtnetlink)."""
    with _inside(netns):
        return _netdev.interface(ifname)


def interfaces(*, netns: Any = None) -> list[Interface]:
    """All of them, by index."""
    with _inside(netns):
        return _netdev.interfaces()


def xsk_sockets(*, netns: Any = None) -> list[XskSocket] | None:
    """The AF_XDP sockets of all processes, with what they lost; None on kernels without CONFIG_XDP_SOCKETS_DIAG."""
    with _inside(netns):
        return _netdev.xsk_sockets()


def _channels(e: Ethtool) -> Channels:
    return Channels(**e.channels())


def _rings(e: Ethtool) -> Rings:
    return Rings(**e.rings())


def _coalescing(e: Ethtool) -> Coalescing:
    values: dict[str, Any] = e.coalescing()
    return Coalescing(**{k: bool(v) if k.startswith("adaptive") else v for k, v in values.items()})


def _features(e: Ethtool) -> dict[str, Feature]:
    return {name: Feature(active=a, wanted=w, fixed=f) for name, (a, w, f) in e.features().items()}


def _field_names(bits: int) -> tuple[str, ...]:
    return tuple(name for name, bit in _ethtool.FIELDS.items() if bits >> bit & 1)


def _rss(e: Ethtool, ifname: str, context: int = 0) -> Rss:
    said: dict[str, Any] = e.rss(context)
    functions = e.hash_functions()
    bit = said["function"].bit_length() - 1
    flows: dict[str, int] = said["flows"]
    if not flows and not context:
        for flow in _ethtool.FLOWS:
            try:
                flows[flow] = _ethtool.hash_fields(ifname, flow)
            except PybypassError:  # this driver does not say it of this flow type
                continue
    return Rss(
        function=functions[bit] if 0 <= bit < len(functions) else "",
        key=said["key"],
        table=said["table"],
        input_xfrm=_XFRM.get(said["xfrm"], str(said["xfrm"])),
        fields={flow: _field_names(bits) for flow, bits in flows.items()},
        context=context,
    )


def _timestamping(e: Ethtool) -> Timestamping:
    capabilities, tx_types, rx_filters, phc = e.timestamping()
    return Timestamping(capabilities=capabilities, tx_types=tx_types, rx_filters=rx_filters, phc=phc)


def _driver(link: Interface) -> Driver:
    name, version, firmware, bus = _ethtool.information(link.ifname)
    node = _netdev.numa_node(link.parent_bus, link.parent)
    return Driver(name=name, version=version, firmware=firmware, bus=bus, numa_node=node)


def _open(ifname: str) -> Ethtool:
    return Ethtool(_netdev.interface(ifname).ifindex)


def channels(ifname: str, *, netns: Any = None) -> Channels:
    """How many queues there are, and can be (`ethtool -l`)."""
    with _inside(netns), _open(ifname) as e:
        return _channels(e)


def rings(ifname: str, *, netns: Any = None) -> Rings:
    """Sizes of the hardware rings (`ethtool -g`)."""
    with _inside(netns), _open(ifname) as e:
        return _rings(e)


def coalescing(ifname: str, *, netns: Any = None) -> Coalescing:
    """Interrupt moderation (`ethtool -c`)."""
    with _inside(netns), _open(ifname) as e:
        return _coalescing(e)


def features(ifname: str, *, netns: Any = None) -> dict[str, Feature]:
    """Offloads and the like, by the kernel's names (`ethtool -k`, whose short names are in GROUPS)."""
    with _inside(netns), _open(ifname) as e:
        return _features(e)


def rss(ifname: str, *, context: int = 0, netns: Any = None) -> Rss:
    """Function, key, indirection table and hashed fields (`ethtool -x`, `-n IF rx-flow-hash ...`)."""
    with _inside(netns), _open(ifname) as e:
        return _rss(e, ifname, context)


def system_rss_key(length: int = 40) -> bytes:
    """The key of this machine (net.core.netdev_rss_key): the card's own with drivers that do not show one, such as igb.

    It is all zeros until a driver has asked for it. PB071 where the kernel does not have it or it may not be read.
    """
    try:
        with open("/proc/sys/net/core/netdev_rss_key", encoding="ascii") as f:
            return bytes.fromhex(f.read().strip().replace(":", ""))[:length]
    except OSError as e:
        raise PybypassError.make("PB071", errno.EOPNOTSUPP, f"net.core.netdev_rss_key: {e.strerror}") from None


def timestamping(ifname: str, *, netns: Any = None) -> Timestamping:
    """What it can stamp (`ethtool -T`)."""
    with _inside(netns), _open(ifname) as e:
        return _timestamping(e)


def driver(ifname: str, *, netns: Any = None) -> Driver:
    """The driver, and the NUMA node of its device (`ethtool -i`)."""
    with _inside(netns):
        return _driver(_netdev.interface(ifname))


def xdp(ifname: str, *, netns: Any = None) -> Xdp | None:
    """What the driver can do for XDP and AF_XDP; None on kernels before 6.3."""
    with _inside(netns):
        return _netdev.xdp(_netdev.interface(ifname).ifindex)


def _queues(link: Interface, found: list[Irq]) -> list[Queue]:
    def complete(queue: Queue) -> Queue:
        if queue.irq is not None:
            return queue
        irq = _netdev.irq_of(queue.kind, queue.id, found)
        return Queue(kind=queue.kind, id=queue.id, napi_id=queue.napi_id, irq=irq, napi_pid=queue.napi_pid)

    return [complete(queue) for queue in _netdev.queues(link.ifindex)]


def queues(ifname: str, *, netns: Any = None) -> list[Queue]:
    """The queues of an interface that is up, with NAPI and interrupt; [] when it is down, or before Linux 6.8."""
    with _inside(netns):
        link = _netdev.interface(ifname)
        return _queues(link, _netdev.irqs(link.parent_bus, link.parent))


def irqs(ifname: str, *, netns: Any = None) -> list[Irq]:
    """The device's interrupts, with the CPUs that they may go to; [] where there are none (veth, lo)."""
    with _inside(netns):
        link = _netdev.interface(ifname)
        return _netdev.irqs(link.parent_bus, link.parent)


def look(ifname: str, *, netns: Any = None) -> Nic:
    """Everything at once: a few milliseconds."""

    def maybe(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except PybypassError as e:
            if e.code in ("PB071", "PB025"):
                return None
            raise

    with _inside(netns):
        link = _netdev.interface(ifname)
        found = _netdev.irqs(link.parent_bus, link.parent)
        with Ethtool(link.ifindex) as e:
            state = maybe(e.link) or {}
            duplex = state.get("duplex")
            return Nic(
                interface=link,
                driver=maybe(_driver, link),
                speed_mbps=state.get("speed"),
                duplex=None if duplex is None else "full" if duplex else "half",
                channels=maybe(_channels, e),
                rings=maybe(_rings, e),
                coalescing=maybe(_coalescing, e),
                features=maybe(_features, e) or {},
                rss=maybe(_rss, e, ifname),
                timestamping=maybe(_timestamping, e),
                xdp=_netdev.xdp(link.ifindex),
                queues=_queues(link, found),
                irqs=found,
            )


# ---- setting ----


def _given(**values: int | None) -> dict[str, int]:
    found = {name: value for name, value in values.items() if value is not None}
    if not found:
        raise PybypassError.make("PB072", errno.EINVAL, "nothing to set")
    return found


def set_channels(
    ifname: str, *, rx: int | None = None, tx: int | None = None, combined: int | None = None, netns: Any = None
) -> Channels:
    """Sets how many queues there are (`ethtool -L`); what they are afterwards. Many drivers reset their link for it."""
    wanted = _given(rx=rx, tx=tx, combined=combined)
    with _inside(netns), _open(ifname) as e:
        now = _channels(e)
        for name, value in wanted.items():
            _range(f"{ifname}: {name}", value, 0, getattr(now, f"{name}_max"))
        after = {name: wanted.get(name, getattr(now, name)) for name in ("rx", "tx", "combined")}
        if not after["combined"] and not (after["rx"] and after["tx"]):
            raise PybypassError.make("PB072", errno.EINVAL, f"{ifname}: no queue would be left for rx or tx")
        e.channels_set(wanted)
        return _channels(e)


def set_rings(ifname: str, *, rx: int | None = None, tx: int | None = None, netns: Any = None) -> Rings:
    """Sets the descriptors of each ring (`ethtool -G`); what they are afterwards (drivers round)."""
    wanted = _given(rx=rx, tx=tx)
    with _inside(netns), _open(ifname) as e:
        now = _rings(e)
        for name, value in wanted.items():
            _range(f"{ifname}: {name}", value, 1, getattr(now, f"{name}_max"))
        e.rings_set(wanted)
        return _rings(e)


def set_coalescing(ifname: str, *, netns: Any = None, **values: int | bool) -> Coalescing:
    """Sets fields of Coalescing (`ethtool -C`); what they are afterwards. PB071 for one that the driver does not have."""
    known = {field.name for field in fields(Coalescing)}
    if not values or set(values) - known:
        raise PybypassError.make("PB072", errno.EINVAL, f"{sorted(set(values) - known)}: some of {sorted(known)}")
    for name, value in values.items():
        _range(name, int(value), 0, 1 if name.startswith("adaptive") else (1 << 32) - 1)
    with _inside(netns), _open(ifname) as e:
        now = _coalescing(e)
        missing = sorted(name for name in values if getattr(now, name) is None)
        if missing:
            raise PybypassError.make("PB071", errno.EOPNOTSUPP, f"{ifname}: {', '.join(missing)}")
        e.coalescing_set({name: int(value) for name, value in values.items()})
        return _coalescing(e)


def set_features(ifname: str, values: Mapping[str, bool], *, netns: Any = None) -> dict[str, Feature]:
    """Switches features by the kernel's names, or groups of them by ethtool's (GROUPS); all of them afterwards.

    Of a group, members that are fixed are left alone. Raises PB071 for a feature that is fixed or that the driver keeps
    otherwise (`detail["features"]`), PB072 for an unknown name: nothing is touched then.
    """
    with _inside(netns), _open(ifname) as e:
        now = _features(e)
        wanted: dict[str, bool] = {}
        for name, on in values.items():
            members = [m for m in GROUPS.get(name, (name,)) if m in now]
            if not members:
                raise PybypassError.make("PB072", errno.EINVAL, f"{ifname}: no feature {name!r}")
            free = [m for m in members if not now[m].fixed]
            if not free and any(now[m].active != on for m in members):
                raise _kept(ifname, [name])
            wanted.update(dict.fromkeys(free, on))
        if wanted:
            kept = e.features_set(wanted)
            asked = {name: {m for m in GROUPS.get(name, (name,)) if m in wanted} for name in values}
            alone = sorted(name for name, members in asked.items() if members and members <= kept)
            if alone:
                raise _kept(ifname, alone)
        return _features(e)


def _kept(ifname: str, names: list[str]) -> PybypassError:
    text = f"{ifname}: the driver does not change {', '.join(names)}"
    return PybypassError.make("PB071", errno.EOPNOTSUPP, text, detail={"features": names})


def _checked_key(ifname: str, key: bytes | None, now: Rss) -> bytes | None:
    if key is not None and len(key) != len(now.key):
        if not now.key:
            raise PybypassError.make("PB071", errno.EOPNOTSUPP, f"{ifname}: the driver has no key to set")
        raise PybypassError.make("PB072", errno.EINVAL, f"{ifname}: a key of {len(key)} bytes: it has {len(now.key)}")
    return key


def _checked_table(ifname: str, table: Sequence[int] | None, now: Rss, e: Ethtool) -> list[int] | None:
    if table is None:
        return None
    if not now.table:
        raise PybypassError.make("PB071", errno.EOPNOTSUPP, f"{ifname}: the driver has no table to set")
    values = [int(queue) for queue in table]
    if not values or len(now.table) % len(values):
        raise PybypassError.make(
            "PB072", errno.EINVAL, f"{ifname}: a table of {len(values)}: it has {len(now.table)}, or a divisor of that"
        )
    queues_now = _channels(e).rx_queues
    for queue in values:
        _range(f"{ifname}: queue", queue, 0, queues_now - 1)
    return values * (len(now.table) // len(values))


def set_rss(
    ifname: str,
    *,
    table: Sequence[int] | None = None,
    key: bytes | None = None,
    function: str | None = None,
    input_xfrm: str | None = None,
    fields: Mapping[str, Sequence[str]] | None = None,
    netns: Any = None,
) -> Rss:
    """Sets how flows are spread (`ethtool -X`, `-N IF rx-flow-hash ...`); what it is afterwards.

    `table`: a queue for each entry; a shorter one whose length divides the table's is repeated. `key`: as long as the
    present one. `function`, `input_xfrm`: names as in Rss. `fields`: per flow type, as {"udp4": ("src", "dst", "sport",
    "dport")}. The kernel tells a driver nothing when all is as it has it. Set RSS of virtio-net after ports are open: its
    driver turns a table set before off in the device when a program is attached, and goes on showing it (Linux 7.2).
    """
    for flow, names in (fields or {}).items():
        if flow not in _ethtool.FLOWS or set(names) - set(_ethtool.FIELDS):
            what = f"{flow}: {names}: of {list(_ethtool.FLOWS)} with {list(_ethtool.FIELDS)}"
            raise PybypassError.make("PB072", errno.EINVAL, what)
    with _inside(netns), _open(ifname) as e:
        now = _rss(e, ifname)
        values = _checked_table(ifname, table, now, e)
        key = _checked_key(ifname, key, now)
        functions, xfrms = e.hash_functions(), {name: number for number, name in _XFRM.items()}
        if function is not None and function not in functions:
            raise PybypassError.make("PB072", errno.EINVAL, f"function {function!r}: one of {', '.join(functions)}")
        if input_xfrm is not None and input_xfrm not in xfrms:
            raise PybypassError.make("PB072", errno.EINVAL, f"input_xfrm {input_xfrm!r}: one of {', '.join(xfrms)}")
        bit = 1 << functions.index(function) if function is not None else None
        xfrm = xfrms[input_xfrm] if input_xfrm is not None else None
        if not all(v is None for v in (values, key, bit, xfrm)):
            try:
                e.rss_set(values, key, bit, xfrm)
            except PybypassError as error:
                if error.code != "PB071":
                    raise
                _ethtool.rss_ioctl(ifname, values, key, bit, xfrm)
        for flow, names in (fields or {}).items():
            _ethtool.hash_fields_set(ifname, flow, sum(1 << _ethtool.FIELDS[name] for name in set(names)))
        return _rss(e, ifname)
