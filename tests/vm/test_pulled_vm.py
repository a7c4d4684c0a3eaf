"""A port pulled away: its card unplugged while it is open.

By the kernel's own file (sysfs remove), and by QEMU as by a hand: the root port says that its button was pressed, the kernel
blinks for five seconds, takes the device out and its power off. The kernel's driver and AF_XDP let go at once; vfio-pci waits
until user space has, and so does the power.
"""

import threading
from pathlib import Path

import pytest
from dpdk_support import ALL, opened
from monitor import GOES_S, all_free, device_deleted, gone_in_words, open_files, plug, unplug, works_again

import pybypass as pb


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
