"""Flow rules compiled to the XDP program's maps, told by packets."""

import errno
import ipaddress
import socket
import sys
from pathlib import Path

import pytest

import pybypass as pb
from pybypass._burst import MARK
from pybypass.flow import Rss, Rule
from pybypass.lab import veth

sys.path.insert(0, str(Path(__file__).parent))
from xsk_support import UDP, eth, ip4, packet_socket, udp

pytestmark = pytest.mark.root

ALL = Rss()
A, B = ipaddress.ip_address("10.77.0.1"), ipaddress.ip_address("10.77.0.2")


@pytest.fixture
def wired(lab):
    with pb.open(f"xdp:{lab.b.ifname}", netns=lab.b.netns) as port, packet_socket(lab.a) as wire:
        yield port, wire


@pytest.fixture(scope="module")
def standing():
    """One port for tests that leave it as it was."""
    with veth() as pair, pb.open(f"xdp:{pair.b.ifname}", netns=pair.b.netns) as port, packet_socket(pair.a) as wire:
        yield port, wire


RULES = {
    "an address and a port": Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5000, queue=0),
    "any address": Rule(proto="tcp", dst_port=443, rss=ALL),
    "IPv6": Rule(dst_ip="fd77::2", proto="tcp", dst_port=80, rss=ALL),
    "a range": Rule(dst_ip="10.77.0.2", proto="udp", dst_port=range(4000, 4101), rss=ALL),
    "all ports": Rule(dst_ip="10.77.0.2", proto="udp", rss=ALL),
    "no ports": Rule(dst_ip="10.77.0.2", proto=47, rss=Rss(queues=(0,))),
    "a mark": Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5000, queue=0, mark=0xDEADBEEF),
    "mark 0": Rule(dst_ip="10.77.0.2", proto="udp", dst_port=range(4000, 4101), queue=0, mark=0),
    "a count": Rule(dst_ip="fd77::2", proto="udp", dst_port=5000, rss=ALL, count=True),
    "a source": Rule(src_ip="10.77.0.1", proto="tcp", src_port=443, queue=0, mark=1),
    "an IPv6 source": Rule(src_ip="fd77::/64", rss=ALL, count=True),
    "masks": Rule(dst_ip="10.77.0.2/255.0.0.255", proto="udp", dst_port=(80, 0xFFF0), rss=ALL, mark=7),
    "a masked protocol": Rule(dst_ip="10.77.0.2", proto=(16, 16), rss=ALL, count=True),
    "flags": Rule(proto="tcp", tcp_flags="syn,!ack", queue=0, mark=2, count=True),
    "an EtherType": Rule(eth_type=0x88B5, queue=0, count=True),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_steers_and_only_what_it_names(standing, rule):
    port, wire = standing
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
        ("src_mac", Rule(src_mac="02:00:00:00:00:01", rss=ALL)), ("dst_mac", Rule(dst_mac="02:00:00:00:00:01", drop=True)),
        ("vlan", Rule(vlan=5, rss=ALL)), ("vlan_pcp", Rule(vlan_pcp=5, rss=ALL)),
        ("queue", Rule(queue=1)), ("rss", Rule(rss=Rss(types=("ipv4-tcp",)))), ("rss", Rule(rss=Rss(queues=(1,)))),
    ],
)  # fmt: skip
def test_what_the_maps_cannot(standing, item, rule):
    port, _ = standing
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


# ---- the list: drop, mark, count, priority ----


def sent(wire, n: int, port: int = 5000, payload: bytes = b"", src: str = "10.77.0.1") -> int:
    """Bytes of n frames of UDP to a port of 10.77.0.2."""
    frame = eth(ip4(udp(9, port, payload), UDP, src, "10.77.0.2"))
    return sum(wire.send(frame) for _ in range(n))


def came(port) -> list[tuple[int, int, int]]:
    """Flags, hash and hash type of what waits."""
    with port.rx_burst() as burst:
        return [tuple(map(int, (d["flags"], d["hash"], d["hash_type"]))) for d in burst.desc]


def test_what_is_dropped_reaches_nobody(lab):
    """Neither this port nor the kernel's socket, and only what the rule names."""
    with pb.open(f"xdp:{lab.b.ifname}", netns=lab.b.netns) as port:
        with lab.b.netns:
            theirs = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for s, number in zip(theirs, (5000, 5001), strict=True):
            s.bind((lab.b.ip, number))
            s.settimeout(5)
        with lab.a.netns:
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        before = port.program.counters()["dropped"]
        gone = port.flow_add(Rule(dst_ip=lab.b.ip, proto="udp", dst_port=5000, drop=True, count=True))
        for _ in range(20):
            client.sendto(b"dropped", (lab.b.ip, 5000))
        client.sendto(b"not dropped", (lab.b.ip, 5001))
        assert theirs[1].recv(100) == b"not dropped"
        theirs[0].setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs[0].recv(100)
        assert came(port) == []
        assert port.flow_query(gone) == {"hits": 20, "bytes": 20 * (42 + 7)}
        assert port.program.counters()["dropped"] - before == 20
        port.flow_delete(gone)
        client.sendto(b"again", (lab.b.ip, 5000))
        theirs[0].settimeout(5)
        assert theirs[0].recv(100) == b"again"
        for s in (*theirs, client):
            s.close()


def test_a_drop_goes_before_what_is_steered(wired):
    """A port that takes everything, but of a network only one address, by priority."""
    port, wire = wired
    port.flow_add(Rule(rss=ALL))
    port.flow_add(Rule(src_ip="10.77.0.0/24", proto="udp", drop=True, priority=5))
    friend = port.flow_add(Rule(src_ip="10.77.0.9", proto="udp", queue=0, priority=4, count=True))
    sent(wire, 3)
    sent(wire, 2, src="10.77.0.9")
    sent(wire, 4, src="10.78.0.1")
    assert len(came(port)) == 6
    assert port.flow_query(friend)["hits"] == 2
    port.flow_delete(friend)
    sent(wire, 2, src="10.77.0.9")
    assert came(port) == []


def test_the_first_of_two_rules_decides(wired):
    """By priority, and by age where that is the same; each in its place however the list was made."""
    port, wire = wired
    rules = {p: port.flow_add(Rule(proto="udp", queue=0, mark=p, priority=p)) for p in (5, 3, 9, 1, 7)}
    younger = port.flow_add(Rule(proto="udp", queue=0, mark=100, priority=1))
    for winner in (1, 100, 3, 5, 7, 9):
        sent(wire, 1)
        ((flags, number, kind),) = came(port)
        assert (bool(flags & MARK), number, kind) == (True, winner, 0)
        port.flow_delete(younger if winner == 100 else rules[winner])
    sent(wire, 1)
    assert came(port) == []


def test_marks_beside_hashes(lab):
    """Sockets of one queue: the hash chooses the socket also of a marked packet, which then shows its mark instead."""
    with pb.open(f"xdp:{lab.b.ifname}?sockets=2", netns=lab.b.netns) as port, packet_socket(lab.a) as wire:
        port.flow_add(Rule(dst_ip="10.77.0.2", proto="udp", rss=ALL))
        port.flow_add(Rule(dst_ip="10.77.0.2", proto="udp", dst_port=(0, 1), rss=ALL, mark=77))
        for number in range(6000, 6040):
            sent(wire, 1, port=number)
        seen = {}
        for index, queue in enumerate(port.queues):
            with queue.rx_burst(64) as burst:
                for i, d in enumerate(burst.desc):
                    number = int.from_bytes(bytes(burst.payload(i))[36:38], "big")
                    seen[number] = (index, bool(d["flags"] & MARK), int(d["hash"]), int(d["hash_type"]))
        assert set(seen) == set(range(6000, 6040))
        for number, (index, marked, value, kind) in seen.items():
            assert marked is (number % 2 == 0)
            assert (value == 77 and kind == 0) if marked else kind != 0
            assert index == port.member_of((A, 9), (B, number))


def test_counts_of_long_packets_and_of_nothing(wired):
    port, wire = wired
    exact = port.flow_add(Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5000, queue=0, count=True))
    other = port.flow_add(Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5001, queue=0, count=True))
    assert port.flow_query(exact) == {"hits": 0, "bytes": 0}
    total = sum(sent(wire, 10, payload=bytes(n)) for n in (0, 1, 200, 1472))
    assert port.flow_query(exact) == {"hits": 40, "bytes": total}
    assert port.flow_query(other) == {"hits": 0, "bytes": 0}
    port.flow_delete(exact)
    again = port.flow_add(exact.rule)
    assert port.flow_query(again) == {"hits": 0, "bytes": 0}, "a rule begins at 0"
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_query(exact)
    assert caught.value.errno == errno.ENOENT


def test_a_list_that_is_full(wired):
    port, wire = wired
    added = [port.flow_add(Rule(proto="udp", dst_port=100 + i, queue=0, mark=i)) for i in range(64)]
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_add(Rule(proto="udp", dst_port=5000, queue=0, mark=64))
    assert (caught.value.code, caught.value.errno) == ("PB095", errno.ENOSPC)
    assert port.flow_list() == added
    assert len(port.program.steer_list()) == 64
    sent(wire, 1, port=163)
    assert [number for _, number, _ in came(port)] == [63]
    port.flow_flush()
    assert (port.flow_list(), port.program.steer_list()) == ([], [])
    sent(wire, 1, port=163)
    assert came(port) == []


def test_a_fragment_has_no_ports(wired):
    port, wire = wired
    by_port = port.flow_add(Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5000, drop=True, count=True))
    by_address = port.flow_add(Rule(dst_ip="10.77.0.2", proto="udp", queue=0, mark=1, count=True))
    first, later = (eth(ip4(udp(9, 5000), UDP, "10.77.0.1", "10.77.0.2", frag=f)) for f in (0x2000, 0x0001))
    wire.send(first)
    wire.send(later)
    assert [port.flow_query(f)["hits"] for f in (by_port, by_address)] == [1, 1]
    assert [number for _, number, _ in came(port)] == [1]


def test_errors_that_quote_a_counted_flow_still_come(wired):
    """They are no packets of the rule, but go where its packets go."""
    port, wire = wired
    rule = port.flow_add(Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5000, queue=0, mark=5, count=True))
    quoted = ip4(udp(5000, 9), UDP, "10.77.0.2", "10.77.0.1")
    wire.send(eth(ip4(bytes([3, 3]) + bytes(6) + quoted, 1, "10.77.0.1", "10.77.0.2")))
    ((flags, _, _),) = came(port)
    assert not flags & MARK
    assert port.flow_query(rule)["hits"] == 0


def test_a_mark_needs_metadata(lab):
    with pb.open(f"xdp:{lab.b.ifname}?meta=0", netns=lab.b.netns) as port:
        with pytest.raises(pb.PybypassError) as caught:
            port.flow_add(Rule(proto="udp", queue=0, mark=1))
        assert (caught.value.code, caught.value.detail["item"]) == ("PB095", "mark")
        assert port.flow_add(Rule(proto="udp", queue=0, count=True)).active


def test_generic_mode_obeys_too(lab):
    with pb.open(f"xdp:{lab.b.ifname}?mode=generic", netns=lab.b.netns) as port, packet_socket(lab.a) as wire:
        for rule in (RULES["a mark"], Rule(dst_ip="10.77.0.2", proto="udp", dst_port=5000, drop=True, count=True)):
            check = port.flow_check(rule, wire.send, timeout=0.2)
            assert check.steers is True, check
