"""Tests that run in the guest of tools/vmlab (`make test-vm`): pairs of emulated NICs, pN0 and pN1 joined back to back.

A test asks for the fixture of a driver and gets its pair. A driver that this guest does not have has its tests left out,
unless VMLAB_EXPECT names it: then they fail.
"""

import os
import socket
import subprocess
import time

import pytest

from pybypass import nic

DRIVERS = ("igb", "virtio_net", "e1000e", "vmxnet3")
LINK_S = 20


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


def pytest_collection_modifyitems(config, items):
    wanted = PAIRS.keys() | EXPECTED
    out = [item for item in items if (driver := driver_of(item)) and driver not in wanted]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def pytest_configure(config):
    config.addinivalue_line("markers", "driver(name): needs a pair of this driver")


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="session")
def pairs() -> dict[str, tuple[str, str]]:
    """The pairs by driver, up, with a carrier."""
    for pair in PAIRS.values():
        for ifname in pair:
            run("ip", "link", "set", ifname, "up")
    deadline = time.monotonic() + LINK_S
    for pair in PAIRS.values():
        for ifname in pair:
            while not nic.interface(ifname).carrier:
                assert time.monotonic() < deadline, f"{ifname} has no carrier"
                time.sleep(0.05)
    return PAIRS


@pytest.fixture
def pair(request, pairs) -> tuple[str, str]:
    """The pair of the test's driver: its parameter `driver`, or its mark."""
    driver = driver_of(request.node)
    assert driver in pairs, f"this guest has {sorted(pairs)}"
    return pairs[driver]
