"""Flow rules compiled to the XDP program's maps, told by packets."""

import socket
import sys
from pathlib import Path

import pytest

import pybypass as pb
from pybypass.flow import Rss, Rule

sys.path.insert(0, str(Path(__file__).parent))
from xsk_support import UDP, eth, ip4, packet_socket, udp

pytestmark = pytest.mark.root

ALL = Rss()


@pytest.fixture
def wired(lab):
    with pb.open(f"xdp:{lab.b.ifname}", netns=lab.b.netns) as port, packet_socket(lab.a) as wire:
        yield port, wire


RULES = {
    "an address and a port": Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5000, queue=0),
    "any address": Rule(proto="tcp", dst_port=443, rss=ALL),
    "IPv6": Rule(dst_ip="fd77::2", proto="tcp", dst_port=80, rss=ALL),
    "a range": Rule(dst_ip="10.77.0.2", proto="udp", dst_port=range(4000, 4101), rss=ALL),
    "all ports": Rule(dst_ip="10.77.0.2", proto="udp", rss=ALL),
    "no ports": Rule(dst_ip="10.77.0.2", proto=47, rss=Rss(queues=(0,))),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_steers_and_only_what_it_names(wired, rule):
    port, wire = wired
    check = port.flow_check(rule, wire.send, timeout=0.2)
    assert check.steers is True, check
    assert check.matching == {0: 8}
    assert check.matching_without == {None: 8}
    assert set(check.others) == {None}
    assert port.flow_list() == []


def test_rules_live_with_the_port(wired):
    port, wire = wired
    one = port.flow_add(RULES["an address and a port"])
    two = port.flow_add(RULES["a range"])
    again = port.flow_add(RULES["a range"])
    assert port.flow_list() == [one, two, again]
    assert (one.active, one.error) == (True, None)
    assert len({f.id for f in (one, two, again)}) == 3
    port.flow_delete(two)
    assert [f.rule for f in port.flow_list()] == [one.rule, again.rule]
    assert port.flow_check(again.rule, wire.send, timeout=0.2).steers is True
    assert len(port.flow_list()) == 2, "the rule of a check stays when it was there"
    assert len(port.program.steer_list()) == 2
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_delete(two)
    assert caught.value.code == "PB095"
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_query(one)
    assert caught.value.detail["item"] == "count"
    port.flow_flush()
    assert port.flow_list() == []
    assert port.program.steer_list() == []
    wire.send(eth(ip4(udp(9, 5000), UDP, "10.77.0.1", "10.77.0.2")))
    with port.rx_burst() as burst:
        assert len(burst) == 0


def test_rules_go_with_their_port(lab):
    """The program stays while another port of the interface is open: the rules of the first one do not."""
    rule = Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5000, rss=ALL)
    with pb.open(f"xdp:{lab.b.ifname}?sockets=2", netns=lab.b.netns) as port:
        port.flow_add(rule)
        port.flow_add(Rule(rss=ALL))
        program = port.program
        assert len(program.steer_list()) == 2
        with pytest.raises(pb.PybypassError) as caught:
            port.flow_validate(Rule(dst_ip="10.77.0.2", proto="udp", dst_port=1, queue=0))
        assert caught.value.detail["item"] == "queue"
        with pytest.raises(pb.PybypassError) as caught:
            port.flow_validate(Rule(dst_ip="10.77.0.2", proto="udp", dst_port=1, rss=Rss(queues=(1,))))
        assert caught.value.detail["item"] == "rss"
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_list() or port.flow_add(rule)
    assert caught.value.code == "PB012"


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ("src_ip", Rule(src_ip="10.77.0.1", rss=ALL)), ("src_port", Rule(proto="udp", src_port=5, rss=ALL)),
        ("src_mac", Rule(src_mac="02:00:00:00:00:01", rss=ALL)), ("dst_mac", Rule(dst_mac="02:00:00:00:00:01", rss=ALL)),
        ("vlan", Rule(vlan=5, rss=ALL)), ("vlan_pcp", Rule(vlan_pcp=5, rss=ALL)), ("eth_type", Rule(eth_type=0x800, rss=ALL)),
        ("tcp_flags", Rule(proto="tcp", tcp_flags="syn", rss=ALL)), ("priority", Rule(priority=1, rss=ALL)),
        ("dst_ip", Rule(dst_ip="10.77.0.0/24", proto="udp", rss=ALL)), ("proto", Rule(dst_ip="10.77.0.2", rss=ALL)),
        ("proto", Rule(proto=(16, 16), rss=ALL)), ("dst_port", Rule(proto="udp", dst_port=(80, 0xFFF0), rss=ALL)),
        ("queue", Rule(queue=1)), ("rss", Rule(rss=Rss(types=("ipv4-tcp",)))), ("rss", Rule(rss=Rss(queues=(1,)))),
    ],
)  # fmt: skip
def test_what_the_maps_cannot(wired, item, rule):
    port, _ = wired
    for call in (port.flow_validate, port.flow_add):
        with pytest.raises(pb.PybypassError) as caught:
            call(rule)
        assert caught.value.code == "PB095"
        assert caught.value.detail["item"] == item
    assert port.flow_list() == []


def test_a_map_that_is_full(wired):
    port, _ = wired
    added = [port.flow_add(Rule(proto="udp", dst_port=range(100 * i, 100 * i + 50), rss=ALL)) for i in range(1, 17)]
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_add(Rule(proto="udp", dst_port=range(1, 3), rss=ALL))
    assert caught.value.detail["item"] == "dst_port"
    assert port.flow_list() == added


def test_a_check_that_cannot_tell(wired):
    """Everything comes here without the rule too."""
    port, wire = wired
    port.flow_add(Rule(rss=ALL))
    check = port.flow_check(RULES["an address and a port"], wire.send, timeout=0.2)
    assert check.steers is None
    assert "choose another queue" in check.words


def test_a_check_that_fails(wired):
    """What is sent does not arrive: the rule does not steer, whatever the driver says."""
    port, _ = wired
    check = port.flow_check(RULES["an address and a port"], lambda frame: None, packets=2, timeout=0.1)
    assert check.steers is False
    assert "nowhere (2)" in check.words


def test_a_kernel_socket_still_gets_the_rest(lab):
    """A rule takes its packets from the kernel, and no others."""
    with pb.open(f"xdp:{lab.b.ifname}", netns=lab.b.netns) as port:
        port.flow_add(Rule(dst_ip=lab.b.ip, proto="udp", dst_port=5000, queue=0))
        with lab.b.netns:
            theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with lab.a.netns:
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with theirs, client:
            theirs.bind((lab.b.ip, 5001))
            theirs.settimeout(5)
            client.sendto(b"ours", (lab.b.ip, 5000))
            client.sendto(b"theirs", (lab.b.ip, 5001))
            assert theirs.recv(100) == b"theirs"
            with port.rx_burst() as burst:
                assert [bytes(burst.payload(i))[42:46] for i in range(len(burst))] == [b"ours"]
