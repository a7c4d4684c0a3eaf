"""Network cards on the PCI bus: who has them, where they are, and which of DPDK's drivers supports them.

    >>> from pybypass import devices
    >>> for d in devices.scan().devices:
    ...     print(d.address, d.name, d.driver, [p.name for p in d.dpdk])

Reads sysfs, rtnetlink, pci.ids where it is installed, and the libraries of DPDK's drivers (pybypass.pmdinfo); starts nothing
and changes nothing. Sources: Documentation/ABI/testing/sysfs-bus-pci, Documentation/driver-api/vfio.rst, DPDK Getting Started
Guide for Linux, "Linux Drivers".
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import _netdev
from ._ethtool import Ethtool
from ._netdev import Interface
from .errors import PybypassError
from .pmdinfo import Pmd, drivers

__all__ = ["Device", "Found", "Link", "find", "links", "normal", "scan"]

_SYS = Path("/sys")
USER_DRIVERS = ("vfio-pci", "uio_pci_generic", "igb_uio")
"""The kernel drivers that hand a device to user space."""
_NETWORK_CLASS = 0x02
_ADDRESS = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")
_PCI_IDS = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids", "usr/share/pci.ids", "usr/local/share/pci.ids")


@dataclass(frozen=True, kw_only=True)
class Link:
    """An interface of the kernel's on a device, in this network namespace."""

    ifname: str
    up: bool
    carrier: bool
    speed_mbps: int | None
    mac: str
    default_route: bool
    """A default route goes over it, or over a bond, bridge or VLAN on it."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A PCI function of class network."""

    address: str
    """0000:03:00.0."""
    vendor_id: int
    device_id: int
    sub_vendor_id: int
    sub_device_id: int
    class_id: int
    """24 bits: class, subclass, programming interface."""
    vendor: str
    """From pci.ids; the number in hexadecimal where that is not installed or does not have it."""
    name: str
    driver: str | None
    """The kernel driver that it is bound to; None: nobody's."""
    override: str | None
    """driver_override: the only driver that may take it."""
    numa_node: int | None
    """None: the machine does not say (one node)."""
    iommu_group: int | None
    """None: no IOMMU between it and memory."""
    iommu_members: tuple[str, ...]
    """All PCI functions of the group, it too: they go to user space together."""
    iommu_type: str | None
    """How the IOMMU treats the group: identity (passes addresses as they are), DMA, DMA-FQ, blocked; None: the kernel does not
    say, or there is none."""
    links: tuple[Link, ...]
    dpdk: tuple[Pmd, ...]
    """DPDK's drivers for it. Empty: none, or DPDK's libraries are not here (Found.dpdk_missing)."""

    @property
    def held_by(self) -> str:
        """kernel, user (vfio-pci, uio_pci_generic, igb_uio) or nobody."""
        if self.driver is None:
            return "nobody"
        return "user" if self.driver in USER_DRIVERS else "kernel"


@dataclass(frozen=True, kw_only=True)
class Found:
    """All of it."""

    devices: tuple[Device, ...]
    """By address."""
    virtual: tuple[Pmd, ...]
    """DPDK's drivers of devices made from arguments."""
    dpdk_missing: str
    """Why no driver of DPDK's is named (PB098 in words); empty: they are."""


def normal(address: str) -> str:
    """03:00.0 as 0000:03:00.0, in small letters. PB096: no PCI address."""
    if not (found := _ADDRESS.fullmatch(address)):
        raise PybypassError.make("PB096", errno.EINVAL, f"{address[:40]!r} is no PCI address", hint="write 0000:03:00.0")
    domain, bus, slot, function = found.groups()
    return f"{domain or '0000'}:{bus}:{slot}.{function}".lower()


# ---- interfaces ----


def _routed(interfaces: Iterable[Interface], routes: frozenset[int]) -> frozenset[int]:
    """The ifindexes that default routes need: those they go over, and what lies below these."""
    every, needed = list(interfaces), set(routes)
    while True:
        by_index = {i.ifindex: i for i in every}
        below = {i.ifindex for i in every if i.master in needed}
        below |= {
            i.link for n in needed
            if (i := by_index.get(n)) is not None and i.link and i.link_netnsid is None and i.kind != "veth"
        }  # fmt: skip
        if below <= needed:
            return frozenset(needed)
        needed |= below


def _speed(interface: Interface) -> int | None:
    try:
        with Ethtool(interface.ifindex) as e:
            return e.link().get("speed")
    except PybypassError:
        return None


def links(sysfs: Path = _SYS) -> dict[str, tuple[Link, ...]]:
    """The interfaces of this network namespace by the PCI address that they are on (virtio's lie on a device between)."""
    interfaces = _netdev.interfaces()
    routed = _routed(interfaces, _netdev.default_routes())
    found: dict[str, tuple[Link, ...]] = {}
    for i in interfaces:
        at = (sysfs / "bus" / i.parent_bus / "devices" / i.parent).resolve() if i.parent_bus and i.parent else None
        while at is not None and at != at.parent and not _ADDRESS.fullmatch(at.name):
            at = at.parent
        if at is None or at == at.parent:
            continue
        link = Link(
            ifname=i.ifname, up=i.up, carrier=i.carrier, speed_mbps=_speed(i) if i.up else None, mac=i.mac,
            default_route=i.ifindex in routed,
        )  # fmt: skip
        found[at.name] = (*found.get(at.name, ()), link)
    return found


# ---- names ----


def _names(ids: Iterable[tuple[int, int]], root: Path) -> dict[tuple[int, int], tuple[str, str]]:
    """(vendor, device) in words by their numbers, of those that pci.ids has."""
    wanted, found = set(ids), dict[tuple[int, int], tuple[str, str]]()
    vendors = {vendor for vendor, _ in wanted}
    path = next((root / p for p in _PCI_IDS if (root / p).is_file()), None)
    if path is None or not wanted:
        return found
    vendor, vendor_name = -1, ""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("C "):
                break  # classes follow
            if line[:1] not in ("\t", "#", "\n"):
                vendor = int(line[:4], 16)
                vendor_name = line[4:].strip()
                if vendor in vendors:
                    found[vendor, -1] = (vendor_name, "")
            elif vendor in vendors and line[0] == "\t" and line[1] != "\t":
                key = (vendor, int(line[1:5], 16))
                if key in wanted:
                    found[key] = (vendor_name, line[5:].strip())
    return found


# ---- devices ----


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _hex(path: Path) -> int:
    try:
        return int(_text(path), 16)
    except ValueError:
        return 0


def _linked(path: Path) -> str | None:
    """The name that a symbolic link ends in."""
    return path.resolve().name if path.is_symlink() else None


def _device(
    at: Path, names: dict[tuple[int, int], tuple[str, str]], pmds: Sequence[Pmd], on: dict[str, tuple[Link, ...]]
) -> Device:
    ids = [_hex(at / name) for name in ("vendor", "device", "subsystem_vendor", "subsystem_device")]
    vendor, device, sub_vendor, sub_device = ids
    vendor_name = names.get((vendor, device), names.get((vendor, -1), ("", "")))[0]
    node = _text(at / "numa_node")
    group, override = _linked(at / "iommu_group"), _text(at / "driver_override")
    members = sorted(p.name for p in (at / "iommu_group" / "devices").glob("*")) if group else []
    return Device(
        address=at.name, vendor_id=vendor, device_id=device, sub_vendor_id=sub_vendor, sub_device_id=sub_device,
        class_id=_hex(at / "class"), vendor=vendor_name or f"{vendor:04x}",
        name=names.get((vendor, device), ("", ""))[1] or f"{device:04x}",
        driver=_linked(at / "driver"), override=override if override not in ("", "(null)") else None,
        numa_node=int(node) if node.isdigit() else None,
        iommu_group=int(group) if group and group.isdigit() else None, iommu_members=tuple(members),
        iommu_type=(_text(at / "iommu_group" / "type") or None) if group else None,
        links=on.get(at.name, ()), dpdk=tuple(p for p in pmds if p.supports(*ids)),
    )  # fmt: skip


def scan(
    *, sysfs: Path = _SYS, root: Path = Path("/"), pmds: Sequence[Pmd] | None = None,
    on: dict[str, tuple[Link, ...]] | None = None,
) -> Found:  # fmt: skip
    """The network cards, and DPDK's drivers for them. What is not here (DPDK, pci.ids) is left out and said.

    `pmds` and `on`, where given, stand for what pmdinfo.drivers() and links() would find.
    """
    missing = ""
    if pmds is None:
        try:
            pmds = drivers()
        except PybypassError as e:
            pmds, missing = (), str(e)
    on = links(sysfs) if on is None else on
    places = [p for p in sorted(sysfs.glob("bus/pci/devices/*")) if _hex(p / "class") >> 16 == _NETWORK_CLASS]
    names = _names({(_hex(p / "vendor"), _hex(p / "device")) for p in places}, root)
    # The links in bus/pci/devices have the address as their name, as the directory that they lead to has.
    found = tuple(_device(p, names, pmds, on) for p in places)
    return Found(devices=found, virtual=tuple(p for p in pmds if p.virtual), dpdk_missing=missing)


def find(address: str, *, sysfs: Path = _SYS, on: dict[str, tuple[Link, ...]] | None = None) -> Device:
    """One PCI device of any class, without names and DPDK's drivers. PB096: no address, or no device there."""
    at = sysfs / "bus/pci/devices" / normal(address)
    if not at.exists():
        known = [p.name for p in sorted(sysfs.glob("bus/pci/devices/*")) if _hex(p / "class") >> 16 == _NETWORK_CLASS]
        text = f"no device at {at.name}: network cards are at {', '.join(known) or 'none'}"
        raise PybypassError.make("PB096", errno.ENODEV, text)
    return _device(at, {}, (), links(sysfs) if on is None else on)
