"""What `pybypass doctor` asks of DPDK: the extension, its drivers, huge pages, and the way of a card to user space.

None of it matters to the main job on xdp: or mem:. The EAL is not started. Each check gives a verdict; none raises.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from . import bind, devices, hugepages, pmdinfo
from .doctorcheck import Check
from .errors import PybypassError

__all__ = ["CHECKS"]

_SYS = Path("/sys")
_WANTED = 64 << 20
"""What DPDK asks for by default (pybypass.dpdk.EalOptions.memory_mb)."""
_INSTALL = "apt-get install libdpdk-dev pkg-config"
_VIRTUAL = ("net_af_packet", "net_af_xdp", "net_memif", "net_null", "net_pcap", "net_ring", "net_tap")


def _library_missing() -> str:
    """What the dynamic loader does not find for the extension; nothing when all is there. It is not loaded: DPDK's libraries
    run code when they are."""
    spec = importlib.util.find_spec("pybypass._dpdk")
    if spec is None or spec.origin is None:
        return "not built"
    try:
        done = subprocess.run(
            ["ldd", spec.origin], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    missing = re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)
    return f"{', '.join(missing[:3])}: not found" if missing else ""


def check_dpdk() -> Check:
    """Whether dpdk: ports can be opened at all."""
    missing = _library_missing()
    if missing == "not built":
        fix = f"{_INSTALL}; then install pybypass again from its sources"
        return Check(id="dpdk", verdict="info", value=missing, why="there are no dpdk: ports", fix=fix)
    if missing:
        why = "the extension was built for a DPDK that is gone"
        fix = f"{_INSTALL}; then install pybypass again"
        return Check(id="dpdk", verdict="warn", value=missing, why=why, fix=fix)
    abi = pmdinfo.abi()
    year = f", DPDK {int(abi) - 1}.11" if abi is not None and abi.isdigit() else ""
    return Check(id="dpdk", verdict="ok", value=f"built{year}")


def check_drivers() -> Check:
    """DPDK's drivers of the same version, and those that tests and benchmarks use."""
    try:
        found = pmdinfo.drivers()
    except PybypassError as e:
        why = f"no dpdk: port can be opened: {e.strerror}"
        return Check(id="dpdk_drivers", verdict="info", value="none", why=why, fix=_INSTALL)
    names = {p.name for p in found}
    value = f"{len(names)} of network devices"
    lacking = [name for name in _VIRTUAL if name not in names]
    if not lacking:
        return Check(id="dpdk_drivers", verdict="ok", value=value)
    number = pmdinfo.abi() or ""
    packages = " ".join(f"librte-{name.replace('_', '-')}{number}" for name in lacking)
    why = f"without {', '.join(lacking)}"
    return Check(id="dpdk_drivers", verdict="info", value=value, why=why, fix=f"apt-get install {packages}")


def check_huge() -> Check:
    """Pages of any size that can be had."""
    free = hugepages.free_bytes()
    value = f"{free >> 20} MB free"
    if free >= _WANTED:
        return Check(id="dpdk_hugepages", verdict="ok", value=value)
    why = f"DPDK wants {_WANTED >> 20} MB: it runs on ordinary pages, without most drivers of cards"
    count = -(-(_WANTED - free) // (2 << 20)) + sum(p.reserved for p in hugepages.look(holders=False).sizes if p.size == 2 << 20)
    return Check(id="dpdk_hugepages", verdict="info", value=value, why=why, fix=f"hugepages/setup.sh {count} (as root)")


def check_vfio() -> Check:
    """vfio-pci, by which a card goes to user space."""
    loaded = (_SYS / "bus/pci/drivers/vfio-pci").is_dir()
    if loaded and os.path.exists("/dev/vfio/vfio"):
        return Check(id="vfio", verdict="ok", value="vfio-pci is loaded")
    value = "no vfio-pci" if os.path.exists("/dev/vfio/vfio") else "none"
    why = "a dpdk: port on a PCI card needs it; xdp:, mem: and virtual devices do not"
    return Check(id="vfio", verdict="info", value=value, why=why, fix="modprobe vfio-pci (as root; a kernel with VFIO)")


def check_iommu() -> Check:
    """What keeps a card in user space from memory that is not its own."""
    groups = len(list((_SYS / "kernel/iommu_groups").glob("*")))
    if groups:
        return Check(id="iommu", verdict="ok", value=f"{groups} groups")
    unsafe = _SYS / "module/vfio/parameters/enable_unsafe_noiommu_mode"
    try:
        on = unsafe.read_text(encoding="ascii").strip() in ("Y", "1")
    except OSError:
        on = False
    if on:
        why = "cards in user space can write to any memory (vfio's no-IOMMU mode is on)"
        return Check(id="iommu", verdict="info", value="none, and done without", why=why, fix="boot with intel_iommu=on")
    why = "vfio-pci refuses cards without an IOMMU"
    without = "uio_pci_generic" if bind.Bus(_SYS).without_noiommu() else f"echo 1 > {unsafe} (as root)"
    fix = f"boot with intel_iommu=on (AMD: the firmware's settings), or, without protection, {without}"
    return Check(id="iommu", verdict="info", value="none", why=why, fix=fix)


def _said(found: Sequence[devices.Device]) -> str:
    return ", ".join(f"{d.address} ({d.driver or 'nobody'})" for d in found)


def check_cards() -> Check:
    """Cards on PCI that user space has, and those that it could have."""
    try:
        found = devices.scan().devices
    except PybypassError as e:
        fix = "run as root, with /sys of this namespace"
        return Check(id="dpdk_cards", verdict="info", value="not seen", why=e.strerror or "", fix=fix)
    bound = [d for d in found if d.held_by == "user"]
    if bound:
        return Check(id="dpdk_cards", verdict="ok", value=_said(bound))
    able = [d for d in found if d.dpdk and not any(link.default_route or link.up for link in d.links)]
    why = "no card is bound to user space: dpdk: ports are virtual devices only"
    fix = f"pybypass bind {able[0].address} vfio-pci" if able else "`pybypass devices` shows the cards that there are"
    return Check(id="dpdk_cards", verdict="info", value="none bound", why=why, fix=fix)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_dpdk, check_drivers, check_huge, check_vfio, check_iommu, check_cards,
)  # fmt: skip
