"""A PCI bus in a directory, as sysfs shows one, and a kernel that reacts to what is written there."""

import errno
import os
from pathlib import Path

from pybypass.bind import Bus
from pybypass.devices import Link

KERNEL = {0x10C9: "igb", 0x10D3: "e1000e", 0x1000: "virtio-pci"}
"""The driver that takes a device by itself, by device id."""


def link(ifname: str, *, up: bool = False, default_route: bool = False) -> Link:
    return Link(ifname=ifname, up=up, carrier=up, speed_mbps=1000 if up else None, mac="52:54:00:00:00:01",
                default_route=default_route)  # fmt: skip


IDLE = link("eth5")
"""An interface that is down."""


class FakeBus(Bus):
    """`add()` puts devices on it; writes act as the kernel's would. `wrote`: all of them, in order."""

    def __init__(self, tmp: Path) -> None:
        super().__init__(tmp / "sys", tmp / "state.json")
        self.on: dict[str, tuple[Link, ...]] = {}
        self.wrote: list[tuple[str, str]] = []
        self.broken: set[str] = set()  # drivers whose probe fails
        (self.sysfs / "bus/pci/devices").mkdir(parents=True)
        (self.sysfs / "bus/pci/drivers_probe").touch()

    def links(self) -> dict[str, tuple[Link, ...]]:
        return self.on

    def load(self, *names: str) -> None:
        for name in names:
            place = self.sysfs / "bus/pci/drivers" / name
            place.mkdir(parents=True, exist_ok=True)
            for file in ("bind", "unbind"):
                (place / file).touch()

    def noiommu(self, on: bool) -> None:
        place = self.sysfs / "module/vfio/parameters"
        place.mkdir(parents=True, exist_ok=True)
        (place / "enable_unsafe_noiommu_mode").write_text("Y\n" if on else "N\n")

    def add(self, address: str, device: int = 0x10C9, *, vendor: int = 0x8086, group: int | None = None, node: int = -1,
            driver: str | None = "igb", cls: int = 0x020000, links: tuple[Link, ...] = (IDLE,)) -> str:  # fmt: skip
        at = self.sysfs / "devices/pci0000:00" / address
        at.mkdir(parents=True)
        texts = {
            "vendor": f"0x{vendor:04x}", "device": f"0x{device:04x}", "subsystem_vendor": "0x1af4",
            "subsystem_device": "0x1100", "class": f"0x{cls:06x}", "numa_node": str(node), "driver_override": "(null)",
        }  # fmt: skip
        for name, text in texts.items():
            (at / name).write_text(text + "\n")
        (self.sysfs / "bus/pci/devices" / address).symlink_to(at)
        if group is not None:
            place = self.sysfs / "kernel/iommu_groups" / str(group)
            (place / "devices").mkdir(parents=True, exist_ok=True)
            (place / "devices" / address).symlink_to(at)
            (place / "type").write_text("DMA-FQ\n")
            (at / "iommu_group").symlink_to(place)
        if driver is not None:
            self.load(driver)
            self._attach(at, driver)
        self.on[address] = links
        return address

    def _attach(self, at: Path, driver: str) -> None:
        (at / "driver").symlink_to(self.sysfs / "bus/pci/drivers" / driver)

    def override(self, address: str) -> str:
        return (self.device(address) / "driver_override").read_text().strip()

    def write(self, path: Path, text: str) -> None:
        self.wrote.append((str(path.relative_to(self.sysfs / "bus/pci")), text))
        if not os.path.exists(path):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if path.name == "driver_override":
            path.write_text(text if text.strip() else "(null)\n")
            return
        at = self.device(text).resolve()
        if path.name == "unbind":
            (at / "driver").unlink()
            return
        override = self.override(text)
        wanted = override if override != "(null)" else KERNEL.get(int((at / "device").read_text(), 16))
        if path.name == "bind" and path.parent.name != wanted:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        if (at / "driver").is_symlink() or wanted is None or not self.loaded(wanted):
            return
        if wanted in self.broken:
            if path.name == "bind":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return  # drivers_probe does not say
        self._attach(at, wanted)
