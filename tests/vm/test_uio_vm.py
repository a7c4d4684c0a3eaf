"""Cards given to DPDK by uio_pci_generic, in a guest without an IOMMU: bound by our command, opened with physical addresses.

The line interrupts of the second end of each pair arrive nowhere: it lies on QEMU's second root bus (run-guest.sh -N). What
DPDK wants to know of the link it has to ask for.
"""

import mmap
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dpdk_support import (
    ALL,
    DPDK_DRIVER,
    SIZES,
    Cards,
    Wire,
    address_of,
    both_roles,
    bound_and_back,
    chains_cross,
    command,
    cross,
    give_back,
    jumbo,
    kernel_drivers_pass_frames,
    opened,
)
from monitor import GOES_S, all_free, device_deleted, gone_in_words, open_files, plug, unplug, works_again
from traffic import wait_carrier

import pybypass as pb
from pybypass import bind, devices, dpdk

pytestmark = pytest.mark.iommu(False)


@pytest.fixture(scope="module")
def cards(pairs):
    """cards(driver): its pair, the second end with uio_pci_generic until the end of this module."""
    bound = Cards(pairs, "uio_pci_generic")
    yield bound
    bound.give_back()


@ALL
def test_bound_by_our_command_and_back(pair, driver):
    """First of all, while the kernel has both ends."""

    def check(card):
        found = devices.find(card.address)
        assert found.iommu_group is None and found.iommu_members == ()
        (name,) = (p.name for p in Path("/sys/bus/pci/devices", card.address, "uio").iterdir())
        assert Path("/dev", name).is_char_device()

    bound_and_back(driver, pair, "uio_pci_generic", check)


def test_vfio_is_refused_and_says_what_else_there_is(pairs):
    """Debian's kernels are built without vfio's mode for machines without an IOMMU, so its switch is not named."""
    subprocess.run(["modprobe", "-a", "vfio_iommu_type1", "vfio-pci"], check=True)
    address = address_of(next(iter(pairs.values()))[1])
    refused = command("bind", address, "vfio-pci", "--force")
    assert refused.returncode == 3  # not supported here
    assert "PB096" in refused.stderr and "in no IOMMU group" in refused.stderr
    switch = Path("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
    assert (str(switch) in refused.stderr) is switch.exists()
    assert ("uio_pci_generic" in refused.stderr) is not switch.exists()
    assert bind.recorded() == {}


@ALL
def test_frames_cross_both_ways_unchanged(card, driver):
    for turn in range(2):
        with opened(card) as port, Wire(card) as wire:
            assert (port.report["driver"], port.mac) == (DPDK_DRIVER[driver], card.mac)
            assert port.pool()["iova"] == dpdk.info()["iova"] == "pa"
            cross(port, wire, [SIZES[i % len(SIZES)] for i in range(600)])  # more than the rings hold
            assert not any(port.stats()["drops"].values()), port.stats()
            assert port.hardware_stats()["rx_pkts"] >= 600 or turn


@pytest.mark.parametrize("driver", ["igb", "e1000e"])
def test_chains_of_frames(card, driver):
    with jumbo(card, 2048) as (port, wire):
        chains_cross(port, wire, 901)


@ALL
def test_the_link_is_seen_without_an_interrupt(card, driver):
    """Up after a start, and again after a stop: nothing tells the driver but its own look."""
    with opened(card) as port:
        port.stats()
        assert port.link()["up"] and port.queues[0].link_up
        port.stop()
        port.start()
        with Wire(card) as wire:
            wire.wait_passing(port)
        assert port.link()["up"]


@ALL
def test_tcp_against_the_kernel(card, driver):
    both_roles(card, 4)


@pytest.mark.driver("igb")
def test_memory_of_the_application_is_refused(cards):
    """Its pages are scattered, and the card sees the physical ones."""
    with opened(cards("igb"), wait=False) as port, pytest.raises(pb.PybypassError) as caught:
        port.register(mmap.mmap(-1, 1 << 16))
    assert caught.value.code == "PB094"
    assert "vfio-pci" in caught.value.hint


@pytest.mark.driver("igb")
def test_without_huge_pages_there_are_no_physical_addresses(cards):
    """An error in words, not a port whose card writes somewhere."""
    card = cards("igb")
    script = f"""
import pybypass as pb
from pybypass import dpdk
dpdk.start(dpdk.EalOptions(huge="no"))
try:
    pb.open({card.uri()!r})
except pb.PybypassError as e:
    print(e.code, dpdk.info()["iova"], e, e.hint)
"""
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PB092"), done.stdout
    assert "hugepages" in done.stdout, done.stdout


@ALL
def test_given_back_after_its_process_was_killed(card, driver, cards):
    """The kernel stops the card's DMA when the last file of it is closed, and its own driver finds a card that works."""
    script = f"""
import os, pybypass as pb
from pybypass import dpdk
dpdk.start(dpdk.EalOptions(huge="require"))
port = pb.open({card.uri("promisc=1")!r})
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(Path("/var/run/dpdk").iterdir()) == [], "with huge pages too the EAL leaves no file and no folder"
    command_bits = Path("/sys/bus/pci/devices", card.address, "config").read_bytes()[4:6]
    assert not command_bits[0] & 4, "bus mastering is on: the card still writes to memory"
    give_back(card)
    if driver == "vmxnet3":
        # QEMU's goes on with the rings that it has until it is told to be quiet, as the kernel's driver does when it stops.
        for state in ("down", "up"):
            subprocess.run(["ip", "link", "set", card.ifname, state], check=True)
        wait_carrier(card.ifname)
    kernel_drivers_pass_frames(card)
    cards.forget(driver)
    cards(driver)


@ALL
def test_unplugged_under_a_port(card, driver, cards):
    """uio holds nothing up: QEMU is told that the card is gone while the port is open. The port says so and can be closed, and
    SIGBUS is caught afterwards if it was before."""
    at = Path("/sys/bus/pci/devices", card.address)
    with opened(card) as port:
        pass
    files, handler = open_files(), sigbus_handlers()
    with opened(card) as port:
        unplug(card.ifname)
        gone_in_words(port)
        assert device_deleted(card.ifname, wait_s=GOES_S) and not at.exists()
        gone_in_words(port)
        umem = port.umem
    assert all_free(umem)
    assert (open_files(), sigbus_handlers()) == (files, handler)
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(card.uri())
    assert caught.value.code == "PB092"
    plug(card.ifname)
    works_again(card, driver, cards)


def sigbus_handlers() -> bool:
    """Whether this process catches SIGBUS."""
    caught = re.search(r"SigCgt:\s+(\w+)", Path("/proc/self/status").read_text())[1]
    return bool(int(caught, 16) >> (signal.SIGBUS - 1) & 1)
