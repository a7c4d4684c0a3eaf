"""A card unplugged by QEMU under an AF_XDP port. After test_pulled_vm.py: a card that was plugged in again may get no I/O ports
from the kernel, without which vfio-pci does not open it; its own driver does not ask for them."""

import time
from pathlib import Path

import pytest
import traffic
from dpdk_support import ALL, Wire, kernel_drivers_pass_frames, look, name_again
from monitor import GOES_S, all_free, device_deleted, open_files, plug, raises_gone, unplug

import pybypass as pb


@ALL
def test_unplugged_under_an_xdp_port(pair, driver):
    """It goes without waiting for the port, whose frames come back when it is closed."""
    card = look(driver, pair)
    at = Path("/sys/bus/pci/devices", card.address)
    files = open_files()
    with pb.open(f"xdp:{card.ifname}?steer=all&frame=4096&ring=256&frames=2048") as port, Wire(card) as wire:
        deadline = time.monotonic() + GOES_S
        while not traffic.receive(port):
            wire.send(wire.frame(1, 100, to_dpdk=True))
            assert time.monotonic() < deadline, "no frame comes in"
            time.sleep(0.01)
        unplug(card.ifname)
        assert device_deleted(card.ifname, wait_s=GOES_S) and not at.exists()
        raises_gone(lambda: port.rx_burst().release())
        with port.alloc_burst(1, length=60) as burst:
            raises_gone(lambda: port.tx_burst(burst))
        assert not port.queues[0].link_up
        umem = port.umem
        port.stats()
    assert all_free(umem)
    assert open_files() == files
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(f"xdp:{card.ifname}")
    assert caught.value.code == "PB020"
    plug(card.ifname)
    name_again(card)
    kernel_drivers_pass_frames(card)
