"""Flow rules in drivers of cards: what they take, what they refuse and in which words, and which of what is taken steers.

The emulated igb keeps the rules that its driver writes and obeys few of them, which is what Port.flow_check() is for.
"""

import ipaddress
import socket
import struct
import time

import pytest
from dpdk_support import PASSES_S, opened, taken
from traffic import packet

import pybypass as pb
from pybypass import _wire
from pybypass.flow import Rss, Rule

DRIVERS = ("igb", "e1000e", "vmxnet3", "virtio_net")


@pytest.fixture
def igb(cards):
    with opened(cards("igb"), "queues=2&rss=none&promisc=1") as port:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with wire:
            wire.bind((cards("igb").kernel, 0))
            yield port, wire


TAKEN = {
    "EtherType": Rule(eth_type=0x88B5, queue=1),
    "UDP, 5-tuple": Rule(src_ip="192.0.2.1", dst_ip="192.0.2.2", proto="udp", src_port=4001, dst_port=4002, queue=1),
}


@pytest.mark.driver("igb")
@pytest.mark.parametrize("rule", TAKEN.values(), ids=TAKEN)
def test_rules_that_are_taken_and_do_not_steer(igb, rule):
    port, wire = igb
    port.flow_validate(rule)
    check = port.flow_check(rule, wire.send, packets=4)
    assert check.steers is False, check
    assert check.matching == check.matching_without == {0: 4}
    assert "queue 0 (4)" in check.words
    assert port.flow_list() == []


@pytest.mark.driver("igb")
def test_rules_over_stop_and_start(igb):
    """The driver forgets them with the stop; the start puts them in again."""
    port, _ = igb
    flows = [port.flow_add(rule) for rule in TAKEN.values()]
    assert port.flow_list() == flows
    port.stop()
    assert [f.active for f in port.flow_list()] == [False, False]
    port.start()
    assert [(f.active, f.error) for f in port.flow_list()] == [(True, None), (True, None)]
    port.flow_delete(flows[0])
    assert port.flow_list() == flows[1:]
    port.flow_flush()
    assert port.flow_list() == []
    again = port.flow_add(flows[0].rule)
    port.flow_delete(again)


@pytest.mark.driver("igb")
def test_a_rule_twice(igb):
    port, _ = igb
    port.flow_add(TAKEN["EtherType"])
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_add(TAKEN["EtherType"])
    assert caught.value.code == "PB095"
    assert len(port.flow_list()) == 1


FLOWS = [(5000 + 7 * i, 6000 + i) for i in range(64)]
OURS, THEIRS = "192.0.2.2", "192.0.2.1"


def udp_ports(frame: bytes) -> tuple[int, int] | None:
    """Of a datagram in IPv4 without options."""
    if frame[12:15] != b"\x08\x00\x45" or frame[23] != 17 or len(frame) < 38:
        return None
    sport, dport = struct.unpack("!HH", frame[34:38])
    return sport, dport


def queues_of_flows(port, wire, card) -> list[int]:
    """One UDP datagram of each of FLOWS: the queue that it came to. What the kernel sends of its own is not looked at."""
    seen: list[int] = []
    a, b = (bytes.fromhex(m.replace(":", "")) for m in (card.kernel_mac, card.mac))
    for flow in FLOWS:
        wire.send(packet(a, b, THEIRS, OURS, *flow, "udp"))
        until = time.monotonic() + PASSES_S
        came: list[int] = []
        while not came:
            assert time.monotonic() < until, f"the datagram of {flow} did not come"
            came = [desc["queue"] for data, desc in taken(port) if udp_ports(data) == flow]
        seen += came
    assert len(seen) == len(FLOWS), "one datagram came twice"
    return seen


@pytest.mark.driver("igb")
def test_rss_by_a_rule_spreads(igb, cards):
    """Each flow goes where the card's table has its hash, over addresses and ports; without the rule all go to queue 0."""
    (port, wire), card = igb, cards("igb")
    assert set(queues_of_flows(port, wire, card)) == {0}
    for queues in ((0, 1), (1,), (0,)):
        flow = port.flow_add(Rule(rss=Rss(queues=queues, types=("ipv4", "ipv4-udp"))))
        key, table = port.rss()[0], port.rss_table()
        assert set(table) == set(queues)
        ends = ipaddress.ip_address(THEIRS).packed + ipaddress.ip_address(OURS).packed
        hashes = [_wire.toeplitz(key, ends + struct.pack("!HH", *ports)) for ports in FLOWS]
        found = queues_of_flows(port, wire, card)
        assert found == [table[h % len(table)] for h in hashes]
        assert set(found) == set(queues)
        port.flow_delete(flow)
        assert set(queues_of_flows(port, wire, card)) == {0}


@pytest.mark.driver("igb")
def test_rss_by_a_rule(igb):
    port, _ = igb
    flow = port.flow_add(Rule(rss=Rss(queues=(0, 1), types=("ipv4", "ipv4-udp"))))
    assert port.flow_list() == [flow]
    assert set(port.rss_table()) == {0, 1}
    port.flow_delete(flow)


# The driver tries one kind of filter after the other, and says what the last of them minds.
REFUSED = {
    "drop": (Rule(dst_ip="192.0.2.2", proto="udp", dst_port=80, drop=True), "action"),
    "mark": (Rule(eth_type=0x88B5, queue=1, mark=1), "action"),
    "count": (Rule(eth_type=0x88B5, queue=1, count=True), "action"),
    "VLAN": (Rule(vlan=5, queue=1), "action QUEUE"),
    "a prefix, which it validates": (Rule(dst_ip="192.0.2.0/24", proto="udp", dst_port=80, queue=1), "rule"),
}


@pytest.mark.driver("igb")
@pytest.mark.parametrize(("rule", "what"), REFUSED.values(), ids=REFUSED)
def test_rules_that_are_refused_in_words(igb, rule, what):
    """Nothing of them stays, and the item is named as the driver names it."""
    port, _ = igb
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_add(rule)
    assert caught.value.code == "PB095"
    assert caught.value.detail["item"].startswith(what), caught.value
    assert caught.value.detail["words"]
    assert port.flow_list() == []


@pytest.mark.parametrize("driver", [d for d in DRIVERS if d != "igb"])
def test_drivers_without_rules(cards, driver):
    with opened(cards(driver), wait=False) as port:
        with pytest.raises(pb.PybypassError) as caught:
            port.flow_add(Rule(dst_ip="10.0.0.1", proto="udp", dst_port=5000, queue=0))
        assert (caught.value.code, caught.value.detail["item"]) == ("PB095", "rte_flow")
        assert port.flow_list() == []
