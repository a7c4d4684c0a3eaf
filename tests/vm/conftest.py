"""Tests that run in the guest of tools/vmlab (`make test-vm`): pairs of emulated NICs, pN0 and pN1 joined back to back.

A test asks for the fixture of a driver and gets its pair. A driver that this guest does not have has its tests left out,
unless VMLAB_EXPECT names it: then they fail. Tests that are marked `iommu(False)` are left out in
a guest with an IOMMU; test.sh boots another one for them.
"""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from dpdk_support import Cards
from traffic import wait_carrier

from pybypass import nic

DRIVERS = ("igb", "virtio_net", "e1000e", "vmxnet3")
IOMMU = any(Path("/sys/kernel/iommu_groups").glob("*"))


def find_pairs() -> dict[str, tuple[str, str]]:
    """The pair of each driver."""
    names = {name for _, name in socket.if_nameindex()}
    return {
        nic.driver(name).name: (name, f"{name[:-1]}1")
        for name in sorted(names)
        if len(name) == 3 and name[0] == "p" and name[2] == "0"
    }


PAIRS = find_pairs()
EXPECTED = set(os.environ.get("VMLAB_EXPECT", "").split()) or set(PAIRS)


def driver_of(item) -> str | None:
    mark = item.get_closest_marker("driver")
    return mark.args[0] if mark else getattr(item, "callspec", None) and item.callspec.params.get("driver")


def turn(item) -> int:
    """First the pages of 1 GB, while memory lies in such pieces: what the other tests leave in the kernel does not move. Last
    those that unplug a card: plugged in again it has no I/O ports in QEMU, and uio_pci_generic does not take it."""
    if item.path.name == "test_giant_vm.py":
        return 0
    return 2 if "unplugged" in item.name else 1


def pytest_collection_modifyitems(config, items):
    wanted = PAIRS.keys() | EXPECTED
    out = [
        item for item in items
        if ((driver := driver_of(item)) and driver not in wanted)
        or ((mark := item.get_closest_marker("iommu")) and mark.args[0] is not IOMMU)
    ]  # fmt: skip
    config.hook.pytest_deselected(items=out)
    items[:] = sorted((item for item in items if item not in out), key=turn)


def pytest_configure(config):
    config.addinivalue_line("markers", "driver(name): needs a pair of this driver")
    config.addinivalue_line("markers", "iommu(there): for a guest with an IOMMU, or without")


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="session")
def pairs() -> dict[str, tuple[str, str]]:
    """The pairs by driver, up, with a carrier."""
    for pair in PAIRS.values():
        for ifname in pair:
            run("ip", "link", "set", ifname, "up")
    wait_carrier(*(ifname for pair in PAIRS.values() for ifname in pair))
    return PAIRS


@pytest.fixture
def pair(request, pairs) -> tuple[str, str]:
    """The pair of the test's driver: its parameter `driver`, or its mark."""
    driver = driver_of(request.node)
    assert driver in pairs, f"this guest has {sorted(pairs)}"
    return pairs[driver]


@pytest.fixture(scope="module")
def cards(pairs):
    """cards(driver): its pair, the second end with vfio-pci until the end of this module."""
    bound = Cards(pairs)
    yield bound
    bound.give_back()


@pytest.fixture
def card(driver, cards):
    return cards(driver)


@pytest.fixture(autouse=True)
def no_mapping_stays(caplog):
    """What DPDK says when memory that was mapped for a device's DMA cannot be unmapped, or is mapped again when it is gone."""
    yield
    said = [r.getMessage() for r in caplog.get_records("call") if r.name == "pybypass.dpdk" and "DMA" in r.getMessage()]
    assert said == []
