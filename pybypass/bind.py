"""Hands a network card to user space (vfio-pci, uio_pci_generic, igb_uio) and back to the kernel, with the undo recorded.

    >>> from pybypass import bind
    >>> plan = bind.plan_bind("0000:03:00.0", "vfio-pci")      # looks, refuses, changes nothing
    >>> print("\\n".join(plan.lines()))
    >>> bind.apply(plan)
    >>> bind.apply(bind.plan_unbind("0000:03:00.0"))           # the driver of before

By driver_override, which names the only driver that may take the device: no driver learns of other devices by it. What was
before is in a file in /run, so the record ends at boot, as bindings do. Sources: Documentation/ABI/testing/sysfs-bus-pci,
Documentation/driver-api/vfio.rst ("IOMMU groups", "No-IOMMU"), DPDK Getting Started Guide for Linux, "Linux Drivers".
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .devices import USER_DRIVERS, Device, Link, find, links, normal
from .errors import PybypassError

__all__ = ["Bus", "Plan", "Step", "apply", "plan_bind", "plan_unbind", "recorded"]

_STATE = "/run/pybypass-bind.json"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
# Drivers that members of a group may keep: bridges do no DMA of their own (Documentation/driver-api/vfio.rst).
_HARMLESS = ("pcieport", "shpchp", "pci-stub")
_UNLOADED = {
    "vfio-pci": "modprobe vfio-pci (a kernel with CONFIG_VFIO_PCI)",
    "uio_pci_generic": "modprobe uio_pci_generic (a kernel with CONFIG_UIO_PCI_GENERIC)",
    "igb_uio": "build and load igb_uio from dpdk-kmods, or take vfio-pci",
}


class Bus:
    """The PCI bus as sysfs shows it, and the only place that writes to it. `sysfs` and `state`: other places, for tests."""

    def __init__(self, sysfs: Path | str = "/sys", state: Path | str | None = None) -> None:
        self.sysfs = Path(sysfs)
        self.state = Path(state if state is not None else os.environ.get("PB_BIND_STATE", _STATE))

    def find(self, address: str) -> Device:
        return find(address, sysfs=self.sysfs, on=self.links())

    def links(self) -> dict[str, tuple[Link, ...]]:
        return links(self.sysfs)

    def device(self, address: str) -> Path:
        return self.sysfs / "bus/pci/devices" / address

    def driver(self, address: str) -> str | None:
        link = self.device(address) / "driver"
        return link.resolve().name if link.is_symlink() else None

    def loaded(self, driver: str) -> bool:
        return (self.sysfs / "bus/pci/drivers" / driver).is_dir()

    def unsafe_noiommu(self) -> bool:
        """vfio's mode for machines without an IOMMU: the device may write to any memory."""
        try:
            return (self.sysfs / "module/vfio/parameters/enable_unsafe_noiommu_mode").read_text().strip() in ("Y", "1")
        except OSError:
            return False

    def without_noiommu(self) -> bool:
        """vfio is loaded, and the kernel was built without that mode (CONFIG_VFIO_NOIOMMU), as Debian's are."""
        at = self.sysfs / "module/vfio"
        return at.is_dir() and not (at / "parameters/enable_unsafe_noiommu_mode").exists()

    def write(self, path: Path, text: str) -> None:
        """One write(2), as sysfs wants it."""
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, text.encode("ascii"))
        finally:
            os.close(fd)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One write to sysfs."""

    path: Path
    text: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be done to one device."""

    address: str
    before: str | None
    """The driver now."""
    after: str | None
    """The driver that is to have it; None: whichever the kernel chooses, or nobody."""
    override_before: str | None
    steps: tuple[Step, ...]
    """Empty: nothing is to be done."""
    notes: tuple[str, ...]
    undoes: bool
    """The record of the device ends with it."""

    def lines(self) -> Iterator[str]:
        """For people."""
        if not self.steps:
            yield f"{self.address} {f'is with {self.before}' if self.before else 'is bound to nobody'}: nothing to do"
        for step in self.steps:
            yield f"echo {step.text.strip() or 'nothing'} > {step.path}    # {step.why}"
        for note in self.notes:
            yield f"note: {note}"


def _refused(number: int, text: str, hint: str = "") -> PybypassError:
    return PybypassError.make("PB096", number, text, hint=hint)


# ---- the record ----


@contextmanager
def _record(bus: Bus) -> Iterator[dict[str, dict[str, Any]]]:
    """What was before, by address; what the caller leaves in it is written back. One process at a time."""
    try:
        lock = os.open(f"{bus.state}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise _refused(e.errno or errno.EIO, f"{bus.state}: {e.strerror}", "run as root, or set PB_BIND_STATE") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = recorded(bus)
        old = json.dumps(known)
        yield known
        if json.dumps(known) != old:
            fresh = Path(f"{bus.state}.new")
            fresh.write_text(json.dumps({"schema": "pybypass.bind/1", "devices": known}) + "\n", encoding="ascii")
            fresh.replace(bus.state)
    finally:
        os.close(lock)


def recorded(bus: Bus | None = None) -> dict[str, dict[str, Any]]:
    """The devices that were bound and not yet given back: by address {"driver", "override", "bound"}: of before, and to what.
    PB096: the record cannot be read."""
    bus = bus or Bus()
    try:
        said = json.loads(bus.state.read_text(encoding="ascii"))
        return {normal(a): {k: v[k] for k in ("driver", "override", "bound")} for a, v in said["devices"].items()}
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise _refused(e.errno or errno.EIO, f"{bus.state}: {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        hint = "remove the file: `pybypass unbind` then goes by the kernel's own choice of driver"
        raise _refused(errno.EBADMSG, f"{bus.state} is not what this program wrote", hint) from None


# ---- what is in the way ----


def _check_links(d: Device, force: bool) -> list[str]:
    """Refuses what would cut somebody off; with force it becomes notes."""
    notes = []
    for link in d.links:
        if link.default_route:
            notes.append(f"{link.ifname} has the default route: this machine may become unreachable")
        elif link.up:
            notes.append(f"{link.ifname} is up: what uses it loses it")
    if not d.links and d.held_by == "kernel":
        notes.append(f"{d.driver} shows no interface in this network namespace: it may be up in another one")
    if notes and not force:
        names = " ".join(link.ifname for link in d.links)
        advice = f"ip link set {names} down, and try again; " if names else ""
        raise _refused(errno.EBUSY, f"{d.address}: {'; '.join(notes)}", f"{advice}--force does it all the same")
    return notes


def _check_group(d: Device, bus: Bus) -> list[str]:
    """vfio's terms: every member of the IOMMU group is with vfio, nobody, or a bridge."""
    if d.iommu_group is None:
        if bus.unsafe_noiommu():
            return ["no IOMMU: the device can write to any memory (vfio's no-IOMMU mode is on)"]
        unsafe = (
            f"pybypass bind {d.address} uio_pci_generic (this kernel's vfio has no mode without an IOMMU)"
            if bus.without_noiommu()
            else "echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
        )
        raise _refused(
            errno.ENOTSUP, f"{d.address} is in no IOMMU group",
            "boot with intel_iommu=on (AMD: on by default; and see the firmware's settings), or, without protection from the "
            f"device, {unsafe}",
        )  # fmt: skip
    others = {m: bus.driver(m) for m in d.iommu_members if m != d.address}
    bad = {m: name for m, name in others.items() if name and name not in _HARMLESS and not name.startswith("vfio")}
    if bad:
        words = ", ".join(f"{m} ({name})" for m, name in bad.items())
        text = f"{d.address} shares IOMMU group {d.iommu_group} with devices that the kernel uses: {words}"
        hint = "bind them too, or put the card in another slot: a group goes to user space as a whole"
        raise _refused(errno.EBUSY, text, hint)
    return []


# ---- plans ----


def _take(bus: Bus, d: Device, override: str, why: str) -> list[Step]:
    at = bus.device(d.address)
    steps = [Step(path=at / "driver_override", text=override, why=why)]
    if d.driver:
        steps.append(Step(path=at / "driver/unbind", text=d.address, why=f"from {d.driver}"))
    return steps


def _probe(bus: Bus, address: str, why: str) -> Step:
    return Step(path=bus.sysfs / "bus/pci/drivers_probe", text=address, why=why)


def plan_bind(address: str, driver: str, *, force: bool = False, bus: Bus | None = None) -> Plan:
    """How to give the device at a PCI address to a kernel driver. Changes nothing.

    `force`: although its interface is up, or has the default route. Raises PB096: no such device (ENODEV), a driver that is not
    loaded (ENOENT), what is in the way (EBUSY), no IOMMU (ENOTSUP).
    """
    bus = bus or Bus()
    d = bus.find(address)
    if not _NAME.fullmatch(driver):
        raise _refused(errno.EINVAL, f"{driver[:40]!r} is no driver's name", f"one of {', '.join(USER_DRIVERS)}")
    steps: list[Step] = []
    notes: list[str] = []
    if d.driver != driver:
        if d.class_id >> 16 != 0x02:
            raise _refused(errno.EINVAL, f"{d.address} is no network card (class {d.class_id:06x})")
        notes = _check_links(d, force)
        if not bus.loaded(driver):
            hint = _UNLOADED.get(driver, f"modprobe {driver}")
            raise _refused(errno.ENOENT, f"the driver {driver} is not loaded", hint)
        if driver.startswith("vfio"):
            notes += _check_group(d, bus)
        elif driver in USER_DRIVERS:
            notes.append(f"{driver} protects no memory from the device; vfio-pci does")
            if d.iommu_type not in (None, "identity"):
                notes.append("the IOMMU translates for it: no dpdk: port opens on it this way (PB105), and with vfio-pci one does")
        steps = [*_take(bus, d, driver, f"only {driver} may take it"), _probe(bus, d.address, f"{driver} takes it")]
    return Plan(
        address=d.address, before=d.driver, after=driver, override_before=d.override, steps=tuple(steps),
        notes=tuple(notes), undoes=False,
    )  # fmt: skip


def plan_unbind(address: str, *, force: bool = False, bus: Bus | None = None) -> Plan:
    """How to give the device back: to the driver of before plan_bind(), or without a record to the kernel's choice.
    Changes nothing. PB096: no such device; the kernel has it and its interface is up (EBUSY), unless `force`."""
    bus = bus or Bus()
    d = bus.find(address)
    record = recorded(bus).get(d.address)
    after: str | None = record["driver"] if record is not None else None
    override: str | None = record["override"] if record is not None else None
    steps: list[Step] = []
    notes: list[str] = []
    back = d.held_by == "kernel" if record is None else d.driver == after and d.override == override
    if not back:
        if d.held_by == "kernel" and d.driver != after:
            notes += _check_links(d, force)
        why = f"{override} may take it, as before" if override else "any driver may take it"
        same = d.driver is not None and d.driver == after
        steps = _take(bus, d, override or "\n", why)[: 1 if same else None]
        nobody = record is not None and after is None
        if nobody:
            notes.append("nobody had it before")
        elif not same:
            steps.append(_probe(bus, d.address, f"{after or 'the kernel' + chr(39) + 's driver'} takes it"))
        if record is None:
            notes.append("no record of what had it before: the kernel chooses")
        elif after and not bus.loaded(after):
            raise _refused(errno.ENOENT, f"the driver {after}, which had {d.address}, is not loaded", f"modprobe {after}")
    return Plan(
        address=d.address, before=d.driver, after=after, override_before=d.override, steps=tuple(steps),
        notes=tuple(notes), undoes=True,
    )  # fmt: skip


# ---- doing it ----


def _run(bus: Bus, steps: tuple[Step, ...], address: str) -> None:
    for step in steps:
        try:
            bus.write(step.path, step.text)
        except OSError as e:
            code = e.errno or errno.EIO
            hint = "run as root" if code in (errno.EACCES, errno.EPERM) else "the kernel's log (dmesg) may say why"
            raise _refused(code, f"{address}: {step.path}: {e.strerror}", hint) from None


def _roll_back(bus: Bus, plan: Plan) -> None:
    """As far as the kernel lets us: the device should not stay with nobody because a step failed."""
    at = bus.device(plan.address)
    steps = [(at / "driver_override", plan.override_before or "\n")]
    now = bus.driver(plan.address)
    if now != plan.before:
        if now is not None:
            steps.append((at / "driver/unbind", plan.address))
        if plan.before is not None:
            steps.append((bus.sysfs / "bus/pci/drivers" / plan.before / "bind", plan.address))
    for path, text in steps:
        try:
            bus.write(path, text)
        except OSError:
            continue


def apply(plan: Plan, *, bus: Bus | None = None) -> str | None:
    """Does it, and returns the driver that has the device then. What was before is recorded first.

    Raises PB096 when a step fails or another driver took the device than was to: then the device is as before.
    """
    bus = bus or Bus()
    with _record(bus) as known:
        if bus.driver(plan.address) != plan.before:
            raise _refused(errno.EAGAIN, f"{plan.address} changed hands meanwhile", "look again")
        if not plan.undoes and plan.steps:
            # Bound twice, the first record stands: it is the kernel's driver that the device goes back to.
            known.setdefault(plan.address, {"driver": plan.before, "override": plan.override_before, "bound": plan.after})
            known[plan.address]["bound"] = plan.after
    try:
        _run(bus, plan.steps, plan.address)
        now = bus.driver(plan.address)
        if plan.steps and plan.after is not None and now != plan.after:
            has = f"{now} has" if now else "nobody took"
            raise _refused(errno.EIO, f"{plan.after} did not take {plan.address}: {has} it", "dmesg may say why")
    except PybypassError:
        _roll_back(bus, plan)
        if not plan.undoes:
            with _record(bus) as known:
                if (now := bus.driver(plan.address)) == known[plan.address]["driver"]:
                    del known[plan.address]
                else:
                    known[plan.address]["bound"] = now
        raise
    if plan.undoes:
        with _record(bus) as known:
            known.pop(plan.address, None)
    return bus.driver(plan.address)
