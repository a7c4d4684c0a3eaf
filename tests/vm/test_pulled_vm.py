"""A port pulled away: its card unplugged while it is open.

By the kernel's own file (sysfs remove), and by QEMU as by a hand: the root port says that its button was pressed, the kernel
blinks for five seconds, takes the device out and its power off. The kernel's driver and AF_XDP let go at once; vfio-pci waits
until user space has, and so does the power.
"""

import threading
from pathlib import Path

import pytest
from dpdk_support import (
    ALL,
    Wire,
    command,
    interface_at,
    name_again,
    opened,
    taken,
    to_port,
)
from monitor import GOES_S, all_free, device_deleted, open_files, plug, raises_gone, unplug

import pybypass as pb
from pybypass import bind


def gone_in_words(port) -> None:
    """Every call of a DPDK port whose device is away or on its way."""
    raises_gone(lambda: taken(port))
    assert not port.link()["up"]
    for call in (port.hardware_stats, port.xstats, port.clock, port.stop, port.start):
        raises_gone(call)
    queue = port.queues[0]
    with queue.alloc_burst(1, length=60) as burst:
        raises_gone(lambda: queue.tx_burst(burst))


def works_again(card, driver, cards) -> None:
    """The kernel's driver has it, whose record is that of before; then DPDK does."""
    assert interface_at(card.address)
    assert command("unbind", card.address, "--yes").returncode == 0
    assert card.address not in bind.recorded()
    name_again(card)
    cards.forget(driver)
    again = cards(driver)
    with opened(again) as port, Wire(again) as wire:
        frames = [wire.frame(i, 200, to_dpdk=True) for i in range(32)]
        assert [data for data, _ in to_port(port, wire, frames)] == frames


@ALL
def test_removed_under_a_dpdk_port(card, driver, cards):
    """The kernel takes the device out, as unplugging does; it waits until user space has let it go."""
    at = Path("/sys/bus/pci/devices", card.address)
    with opened(card) as port:
        done = threading.Event()

        def pull():
            (at / "remove").write_text("1")
            done.set()

        thread = threading.Thread(target=pull)
        thread.start()
        gone_in_words(port)
        assert not done.is_set() and at.exists()  # it waits for us
        umem = port.umem
        port.close()
        thread.join(30)
        assert done.is_set() and not at.exists()
    assert all_free(umem)
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(card.uri())
    assert caught.value.code == "PB092"
    Path("/sys/bus/pci/rescan").write_text("1")
    works_again(card, driver, cards)


@ALL
def test_unplugged_under_a_dpdk_port(card, driver, cards):
    """QEMU is told so when the port is closed, and no sooner; then it is plugged in again."""
    at = Path("/sys/bus/pci/devices", card.address)
    with opened(card) as port:
        pass
    files = open_files()
    with opened(card) as port:
        unplug(card.ifname)
        gone_in_words(port)
        assert at.exists() and not device_deleted(card.ifname)
        umem = port.umem
    assert all_free(umem)
    assert device_deleted(card.ifname, wait_s=GOES_S) and not at.exists()
    assert open_files() == files
    plug(card.ifname)
    works_again(card, driver, cards)
