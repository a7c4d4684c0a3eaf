"""DPDK's drivers of real cards, by vfio-pci behind an IOMMU, against the kernel's driver at the other end of the pair.

Bound and given back by `pybypass bind` and `unbind`. What the emulation cannot do is asserted as it is, so that a change shows.
"""

import errno
import time

import pytest
from dpdk_support import (
    ALL,
    DPDK_DRIVER,
    SIZES,
    Wire,
    chains_cross,
    cross,
    from_port,
    jumbo,
    opened,
    taken,
    to_port,
    wait_link,
)

import pybypass as pb
from pybypass import hugepages

MULTI_QUEUE = {"igb": (16, 16), "e1000e": (2, 2), "vmxnet3": (16, 8), "virtio_net": (2, 2)}
"""Receive and transmit queues; the number for vmxnet3 is the driver's, not the card's."""


@ALL
def test_a_port_and_what_it_reports(card, driver):
    with opened(card, "promisc=1") as port:
        r = port.report
        assert (r["driver"], r["device"], port.mode) == (DPDK_DRIVER[driver], card.address, f"dpdk {DPDK_DRIVER[driver]}")
        assert (r["mac"], port.mac, r["mtu"], r["numa_node"]) == (card.mac, card.mac, 1500, 1)
        assert (r["max_rx_queues"], r["max_tx_queues"]) == MULTI_QUEUE[driver]
        for way in ("rx", "tx"):
            low, high = r[f"{way}_desc_limits"]
            assert low <= r[f"{way}_desc"] <= high
            assert set(r[f"{way}_offloads"]) <= set(r[f"{way}_offloads_known"])
        assert r["min_mtu"] <= 1500 <= r["max_mtu"]
        assert (r["queues"], r["chain_max"], r["frame_room"] >= 1514) == (1, 1, True)
        assert r["filled"] <= r["rx_desc"] and port.pool()["frames"] >= r["frames_needed"]
        link = port.link()
        assert link["up"] and link["full_duplex"]
        assert link["speed_mbps"] == {"igb": 1000, "e1000e": 1000, "vmxnet3": 10000, "virtio_net": None}[driver]
        assert port.pool()["iova"] == "va"  # the IOMMU translates
        assert port.pool()["numa_node"] == port.umem.info()["node"] == 1  # as the device
        assert any(h.pid for h in hugepages.look().holders)


@ALL
def test_frames_cross_both_ways_unchanged(card, driver):
    with opened(card) as port, Wire(card) as wire:
        cross(port, wire, [SIZES[i % len(SIZES)] for i in range(1500)])  # more than the rings hold
        assert not any(port.stats()["drops"].values()), port.stats()


@pytest.mark.parametrize(("driver", "size"), [("igb", 2048), ("igb", 4096), ("e1000e", 2048)])
def test_mtu_9000(card, driver, size):
    """Packets of up to 9014 bytes as chains of frames, both ways."""
    with jumbo(card, size) as (port, wire):
        assert port.report["mtu"] == 9000 and port.report["chain_max"] == -(-9018 // port.report["frame_room"]) > 1
        chains_cross(port, wire, 301)


@pytest.mark.driver("vmxnet3")
def test_mtu_9000_of_the_emulated_vmxnet3(cards):
    """Chains are sent. Received is what fits one frame: the driver leaves maxNumRxSG at 0, which QEMU takes for 1 and hands the
    rest over as errors, which the driver counts."""
    card = cards("vmxnet3")
    with jumbo(card, 2048) as (port, wire):
        room = port.report["frame_room"]
        back = [wire.frame(i, n, to_dpdk=False) for i, n in enumerate((9014, 60, 1514, 9013, room, room + 1, 4096))]
        assert from_port(port, wire, back) == back
        before = port.xstats()["rx_errors"]
        there = [wire.frame(i, n, to_dpdk=True) for i, n in enumerate((60, room, room + 1, 1514, 9014, 61))]
        assert [data for data, _ in to_port(port, wire, there)] == [f for f in there if len(f) <= room]
        assert port.xstats()["rx_errors"] - before == 2


@ALL
def test_counters_of_the_card(card, driver):
    with opened(card) as port, Wire(card) as wire:
        before, extended = port.hardware_stats(), port.xstats()
        assert extended
        frames = [wire.frame(i, 300, to_dpdk=True) for i in range(64)]
        assert len(to_port(port, wire, frames)) == 64
        back = [wire.frame(i, 300, to_dpdk=False) for i in range(40)]
        assert len(from_port(port, wire, back)) == 40
        now = port.hardware_stats()
        assert now["rx_pkts"] - before["rx_pkts"] == 64
        assert now["tx_pkts"] - before["tx_pkts"] == 40
        assert now["rx_bytes"] - before["rx_bytes"] in (64 * 300, 64 * 304)  # with the CRC, or without
        good = "rx_good_packets"
        assert port.xstats()[good] - extended[good] == 64
        port.reset_stats()
        assert port.hardware_stats()["rx_pkts"] == 0 and port.xstats()[good] == 0


@ALL
def test_promiscuous(card, driver):
    foreign = "02:00:00:00:00:99"
    with opened(card) as port, Wire(card) as wire:
        for on in (False, True, False):
            port.promiscuous = on
            assert port.promiscuous is on
            time.sleep(0.05)
            frames = [wire.frame(i, 80, to_dpdk=True, dst=foreign) for i in range(8)]
            mine = [wire.frame(100 + i, 80, to_dpdk=True) for i in range(8)]
            got = [data for data, _ in to_port(port, wire, frames if on else mine)]
            assert got == (frames if on else mine)
            if not on:
                for data in frames:
                    wire.send(data)
                until = time.monotonic() + 0.3
                while time.monotonic() < until:
                    assert taken(port) == []


@ALL
def test_stop_and_start(card, driver):
    with opened(card) as port, Wire(card) as wire:
        port.stop()
        for i in range(8):
            wire.send(wire.frame(i, 80, to_dpdk=True))
        assert taken(port) == []
        port.start()
        wait_link(port)
        wire.wait_passing(port)
        frames = [wire.frame(i, 200, to_dpdk=True) for i in range(64)]
        assert [data for data, _ in to_port(port, wire, frames)] == frames


@ALL
def test_opened_again_and_again(card, driver):
    for _ in range(2):
        with opened(card) as port, Wire(card) as wire:
            frames = [wire.frame(i, 200, to_dpdk=True) for i in range(32)]
            assert [data for data, _ in to_port(port, wire, frames)] == frames
    with opened(card, wait=False), pytest.raises(pb.PybypassError) as caught:
        pb.open(card.uri())
    assert caught.value.errno == errno.EBUSY


@ALL
def test_what_a_card_does_not_have_is_refused(card, driver):
    queues = MULTI_QUEUE[driver][1] + 1
    for options, code in ((f"queues={queues}", "PB094"), ("mtu=40", "PB027"), ("frames=64", "PB093")):
        with pytest.raises(pb.PybypassError) as caught, opened(card, options, wait=False):
            pass
        assert caught.value.code == code, caught.value
        assert caught.value.hint
    with opened(card) as port:  # and the card is as good as before
        assert port.link()["up"]


# ---- link ----


@pytest.mark.driver("igb")
def test_link_set_down_has_no_effect_in_the_emulation(cards):
    """The driver powers the PHY down (igb's PMD, eth_igb_dev_set_link_down); QEMU's has no such state and stays up."""
    card = cards("igb")
    with opened(card) as port, Wire(card) as wire:
        port.set_link(False)
        time.sleep(1)
        assert port.link()["up"]
        port.set_link(True)
        wait_link(port)
        wire.wait_passing(port)
