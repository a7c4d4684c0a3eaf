"""pybypass.nic on the drivers of real cards: against ethtool and ip, before and after it sets what can be set."""

import platform

import nic_compare
import pytest
from conftest import DRIVERS

from pybypass import nic, rss
from pybypass.errors import PybypassError

KERNEL = tuple(int(part) for part in platform.release().split(".")[:2])


@pytest.mark.parametrize("driver", DRIVERS)
def test_as_ethtool_and_ip_say(pair, driver):
    for ifname in pair:
        found = nic_compare.compare(ifname)
        assert found.driver.name == driver
        assert found.interface.up and found.interface.parent
        assert found.irqs, "MSI-X"


@pytest.mark.parametrize(
    ("driver", "zero_copy"), [("igb", True), ("virtio_net", True), ("vmxnet3", False), ("e1000e", False)]
)
def test_xdp_capabilities(pair, driver, zero_copy):
    found = nic.xdp(pair[0]).features
    assert ("basic" in found) == (driver != "e1000e")
    if KERNEL >= (6, 14) or not zero_copy:
        assert ("xsk-zerocopy" in found) == zero_copy


@pytest.mark.parametrize("driver", ["igb", "virtio_net"])
def test_queues_have_their_interrupts(pair, driver):
    found = nic.look(pair[0])
    actions = {irq.number: irq.action for irq in found.irqs}
    receive = [q for q in found.queues if q.kind == "rx"]
    assert [q.id for q in receive] == list(range(found.channels.rx_queues))
    for queue in receive:
        assert queue.irq in actions and actions[queue.irq].endswith(str(queue.id)), actions


@pytest.mark.parametrize("driver", ["igb", "vmxnet3", "e1000e"])
def test_rings(pair, driver):
    before = nic.rings(pair[0])
    after = nic.set_rings(pair[0], rx=512, tx=1024)
    assert (after.rx, after.tx) == (512, 1024)
    nic_compare.compare(pair[0])
    with pytest.raises(PybypassError) as caught:
        nic.set_rings(pair[0], rx=before.rx_max + 1)
    assert caught.value.code == "PB072"
    assert nic.set_rings(pair[0], rx=before.rx, tx=before.tx) == before


@pytest.mark.parametrize("driver", ["igb", "e1000e"])
def test_coalescing(pair, driver):
    before = nic.coalescing(pair[0])
    assert nic.set_coalescing(pair[0], rx_usecs=100).rx_usecs == 100
    nic_compare.compare(pair[0])
    with pytest.raises(PybypassError) as caught:
        nic.set_coalescing(pair[0], rx_frames=4)
    assert caught.value.code == "PB071"
    assert nic.set_coalescing(pair[0], rx_usecs=before.rx_usecs) == before


@pytest.mark.parametrize("driver", ["igb", "virtio_net"])
def test_channels(pair, driver):
    before = nic.channels(pair[0])
    assert before.combined == 2
    assert nic.set_channels(pair[0], combined=1).combined == 1
    nic_compare.compare(pair[0])
    assert nic.set_channels(pair[0], combined=2) == before


@pytest.mark.parametrize("driver", ["igb", "virtio_net", "vmxnet3"])
def test_rss_table_and_key(pair, driver):
    before = nic.rss(pair[0])
    assert before.function == "toeplitz" and set(before.table) == {0, 1}
    after = nic.set_rss(pair[0], table=[1, 0, 1, 1])
    assert after.table == (1, 0, 1, 1) * (len(before.table) // 4)
    nic_compare.compare(pair[0])
    if driver == "virtio_net":
        assert len(before.key) == 40
        assert nic.set_rss(pair[0], key=rss.SYMMETRIC_KEY).key == rss.SYMMETRIC_KEY
        nic_compare.compare(pair[0])
        assert nic.set_rss(pair[0], key=before.key).key == before.key
    else:  # these drivers show no key, and take none
        assert before.key == b""
        with pytest.raises(PybypassError) as caught:
            nic.set_rss(pair[0], key=rss.KEY)
        assert caught.value.code == "PB071"
    for wrong in ([2], [0] * 7, []):
        with pytest.raises(PybypassError) as caught:
            nic.set_rss(pair[0], table=wrong)
        assert caught.value.code == "PB072"
    assert nic.set_rss(pair[0], table=before.table).table == before.table


@pytest.mark.driver("igb")
def test_rss_fields(pair):
    four = ("src", "dst", "sport", "dport")
    assert nic.rss(pair[0]).fields["udp4"] == four[:2]
    after = nic.set_rss(pair[0], fields={"udp4": four, "udp6": four})
    assert after.fields["udp4"] == after.fields["udp6"] == four
    nic_compare.compare(pair[0])
    assert nic.set_rss(pair[0], fields={"udp4": four[:2], "udp6": four[:2]}).fields["udp4"] == four[:2]


def test_the_clocks_of_igb_and_e1000e(pairs):
    for driver in {"igb", "e1000e"} & pairs.keys():
        found = nic.timestamping(pairs[driver][0])
        assert found.hardware_rx and found.phc is not None
    for driver in {"virtio_net", "vmxnet3"} & pairs.keys():
        assert not nic.timestamping(pairs[driver][0]).hardware_rx
