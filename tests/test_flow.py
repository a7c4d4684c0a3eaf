"""Flow rules: what is a rule, what it is compiled to for DPDK (bytes made by hand), and packets that tell what one does."""

import errno
import ipaddress

import pytest

import pybypass as pb
from pybypass import dpdk
from pybypass.errors import PybypassError
from pybypass.flow import Rss, Rule
from pybypass.flowprobe import fields_of, frame_of, others_of
from pybypass.flowtable import FlowTable

native = pytest.importorskip("pybypass._dpdk", reason="built without DPDK")


def code_and_item(error):
    return error.value.code, error.value.detail["item"]


# ---- the type ----


@pytest.mark.parametrize(
    ("item", "fields"),
    [
        ("actions", {}), ("actions", {"queue": 0, "drop": True}), ("actions", {"queue": 0, "rss": Rss()}),
        ("queue", {"queue": -1}), ("queue", {"queue": True}), ("queue", {"queue": 65536}), ("drop", {"drop": 1, "queue": 0}),
        ("mark", {"drop": True, "mark": 1}), ("mark", {"queue": 0, "mark": 1 << 32}),
        ("count", {"queue": 0, "count": 1}), ("priority", {"queue": 0, "priority": -1}),
        ("rss", {"rss": 3}), ("src_mac", {"queue": 0, "src_mac": "02:00:00:00:00"}),
        ("dst_mac", {"queue": 0, "dst_mac": "02:00:00:00:00:01/ff"}), ("dst_mac", {"queue": 0, "dst_mac": "zz:00:00:00:00:01"}),
        ("eth_type", {"queue": 0, "eth_type": 65536}), ("eth_type", {"queue": 0, "eth_type": (1, 2, 3)}),
        ("vlan", {"queue": 0, "vlan": 4096}), ("vlan_pcp", {"queue": 0, "vlan_pcp": 8}),
        ("src_ip", {"queue": 0, "src_ip": "10.0.0.1/33"}), ("src_ip", {"queue": 0, "src_ip": "10.0.0.1/ffff::"}),
        ("dst_ip", {"queue": 0, "dst_ip": "ten"}), ("src_ip", {"queue": 0, "src_ip": "10.0.0.1", "dst_ip": "fd00::1"}),
        ("eth_type", {"queue": 0, "src_ip": "10.0.0.1", "eth_type": 0x86DD}),
        ("proto", {"queue": 0, "proto": "tpc"}), ("proto", {"queue": 0, "proto": 256}),
        ("proto", {"queue": 0, "proto": "udp", "eth_type": 0x88B5}),
        ("dst_port", {"queue": 0, "dst_port": 80}),
        ("dst_port", {"queue": 0, "dst_ip": "10.0.0.1", "proto": "icmp", "dst_port": 1}),
        ("src_port", {"queue": 0, "dst_ip": "10.0.0.1", "proto": "udp", "src_port": range(5, 5)}),
        ("src_port", {"queue": 0, "dst_ip": "10.0.0.1", "proto": "udp", "src_port": range(0, 100, 2)}),
        ("tcp_flags", {"queue": 0, "dst_ip": "10.0.0.1", "proto": "udp", "tcp_flags": "syn"}),
        ("tcp_flags", {"queue": 0, "dst_ip": "10.0.0.1", "proto": "tcp", "tcp_flags": "syn,syn"}),
        ("tcp_flags", {"queue": 0, "dst_ip": "10.0.0.1", "proto": "tcp", "tcp_flags": "sin"}),
    ],
)  # fmt: skip
def test_what_is_no_rule(item, fields):
    with pytest.raises(pb.PybypassError) as caught:
        Rule(**fields)
    assert code_and_item(caught) == ("PB095", item)
    assert item in str(caught.value)


@pytest.mark.parametrize("fields", [{"queues": (0, 0)}, {"queues": ("a",)}, {"types": (1,)}])
def test_what_is_no_spreading(fields):
    with pytest.raises(pb.PybypassError) as caught:
        Rss(**fields)
    assert code_and_item(caught) == ("PB095", "rss")


def test_rules_are_values():
    one = Rule(dst_ip="10.0.0.1", proto="udp", dst_port=80, queue=1, count=True)
    assert one == Rule(dst_ip="10.0.0.1", proto="udp", dst_port=80, queue=1, count=True)
    assert hash(one) != hash(Rule(dst_ip="10.0.0.1", proto="udp", dst_port=80, queue=2))
    assert str(one) == "dst_ip='10.0.0.1', proto='udp', dst_port=80, queue=1, count"
    assert one.version == 4
    assert Rule(eth_type=0x86DD, drop=True).version == 6
    assert Rule(dst_ip=ipaddress.ip_address("fd00::1"), drop=True).version == 6
    with pytest.raises(AttributeError):
        one.queue = 2


# ---- rte_flow ----

VECTORS = {
    "any packet": (Rule(drop=True), "attr group 0 priority 0 ingress\nitem ETH\naction DROP\n"),
    "addresses, type, mark, count": (
        Rule(dst_mac="02:00:00:00:00:01", src_mac="02:aa:00:00:00:00/ff:ff:00:00:00:00", eth_type=0x88B5, queue=3, mark=258,
             count=True, priority=5),
        "attr group 0 priority 5 ingress\n"
        "item ETH spec 020000000001 02aa00000000 88b5 mask ffffffffffff ffff00000000 ffff\n"
        "action COUNT\naction MARK 258\naction QUEUE 3\n",
    ),
    "VLAN": (
        Rule(vlan=5, vlan_pcp=6, eth_type=0x0800, queue=1),
        "attr group 0 priority 0 ingress\n"
        "item ETH\n"
        "item VLAN spec c005 0800 mask efff ffff\n"
        "item IPV4\n"
        "action QUEUE 1\n",
    ),
    "IPv4, UDP": (
        Rule(src_ip="10.1.2.0/24", dst_ip="192.168.0.1", proto="udp", src_port=(0x1230, 0xFFF0), dst_port=80, queue=2),
        "attr group 0 priority 0 ingress\n"
        "item ETH\n"
        "item IPV4 spec 00 00 0000 0000 0000 00 11 0000 0a010200 c0a80001 mask 00 00 0000 0000 0000 00 ff 0000 ffffff00 ffffffff\n"
        "item UDP spec 1230 0050 0000 0000 mask fff0 ffff 0000 0000\n"
        "action QUEUE 2\n",
    ),
    "a range, TCP flags": (
        Rule(dst_ip="10.0.0.2", proto="tcp", src_port=7, dst_port=range(1000, 2001), tcp_flags="syn,!ack", drop=True),
        "attr group 0 priority 0 ingress\n"
        "item ETH\n"
        "item IPV4 spec 00 00 0000 0000 0000 00 06 0000 00000000 0a000002 mask 00 00 0000 0000 0000 00 ff 0000 00000000 ffffffff\n"
        "item TCP spec 0007 03e8 00000000 00000000 00 02 0000 0000 0000"
        " last 0007 07d0 00000000 00000000 00 02 0000 0000 0000"
        " mask ffff ffff 00000000 00000000 00 12 0000 0000 0000\n"
        "action DROP\n",
    ),
    "IPv6, RSS": (
        Rule(src_ip="fd00::/16", proto="tcp", rss=Rss(queues=(1, 3), types=("ipv6-tcp",))),
        "attr group 0 priority 0 ingress\n"
        "item ETH\n"
        "item IPV6 spec 00000000 0000 06 00 fd000000000000000000000000000000 00000000000000000000000000000000"
        " mask 00000000 0000 ff 00 ffff0000000000000000000000000000 00000000000000000000000000000000\n"
        "item TCP\n"
        "action RSS types {types:x} queues 1 3\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("conv", [False, True], ids=["compiled", "copied by rte_flow_conv"])
@pytest.mark.parametrize(("rule", "expected"), VECTORS.values(), ids=VECTORS)
def test_bytes_of_rte_flow(rule, expected, conv):
    """Here the fields of a header stand apart; there they do not."""
    text = native.flow_text(rule.for_core(), conv)
    assert text.replace(" ", "") == expected.format(types=native.RSS_TYPES["ipv6-tcp"]).replace(" ", "")


@pytest.fixture(scope="module")
def null():
    dpdk.start(dpdk.EalOptions(huge="no"))  # as all tests of DPDK do: it starts once in a process
    with pb.open("dpdk:net_null0?queues=2") as port:
        yield port


def test_a_driver_without_rules(null):
    rule = Rule(dst_ip="10.0.0.1", queue=1)
    for call in (null.flow_validate, null.flow_add, lambda r: null.flow_check(r, bytes)):
        with pytest.raises(pb.PybypassError) as caught:
            call(rule)
        assert code_and_item(caught) == ("PB095", "rte_flow")
        assert "net_null has no flow rules" in str(caught.value)
    assert null.flow_list() == []
    null.flow_flush()
    with pytest.raises(pb.PybypassError) as caught:
        null.flow_delete(pb.flow.Flow(id=1, rule=rule))
    assert code_and_item(caught) == ("PB095", "rule")
    null.stop()
    null.start()


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ("action QUEUE", Rule(queue=2)), ("action RSS", Rule(rss=Rss(queues=(0, 2)))),
        ("proto", Rule(proto="tcp", queue=0)), ("rss", Rule(rss=Rss(types=("l2tp",)))),
    ],
)  # fmt: skip
def test_what_the_port_has_not(null, item, rule):
    with pytest.raises(pb.PybypassError) as caught:
        null.flow_validate(rule)
    assert code_and_item(caught) == ("PB095", item)


def test_ports_without_rules():
    with pb.open("mem:flow") as port:
        with pytest.raises(pb.PybypassError) as caught:
            port.flow_add(Rule(drop=True))
        assert caught.value.code == "PB095"
        assert "mem: ports" in str(caught.value)


@pytest.mark.usefixtures("null")
def test_a_closed_port():
    with pb.open("dpdk:net_null1") as port:
        port.flow_flush()
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_add(Rule(drop=True))
    assert caught.value.code == "PB012"


class Stubborn(FlowTable):
    """A back end that does not let go of some of its rules."""

    def __init__(self, port):
        super().__init__(port)
        self.there, self.kept = {}, set()

    def _validate(self, rule):
        pass

    def _create(self, rule):
        self.there[len(self.there) + 1] = rule
        return len(self.there)

    def _destroy(self, number):
        if number in self.kept:
            raise PybypassError.make("PB095", errno.EBUSY, f"rule {number}")
        del self.there[number]

    def _query(self, number):
        return 0, 0


def test_a_flush_forgets_no_rule_that_stays():
    with pb.open("mem:flush") as port:
        table = Stubborn(port)
        flows = [table.add(Rule(queue=0, mark=i)) for i in range(5)]
        table.kept = {2, 4}
        with pytest.raises(pb.PybypassError) as caught:
            table.flush()
        assert "rule 2" in str(caught.value)
        assert table.flows() == [flows[1], flows[3]]
        assert set(table.there) == {2, 4}
        table.kept = set()
        table.flush()
        assert (table.flows(), table.there) == ([], {})


# ---- packets ----


def in_frame(fields):
    """What a frame of such a packet really holds, read by hand."""
    raw = frame_of(fields, b"n" * 16)
    at = 18 if fields["vlan"] is not None else 14
    found = {"dst_mac": raw[:6], "src_mac": raw[6:12], "eth_type": int.from_bytes(raw[at - 2 : at], "big")}
    found["vlan"] = int.from_bytes(raw[14:16], "big") if at == 18 else None
    if fields["version"] == 4:
        found |= {"proto": raw[at + 9], "src_ip": raw[at + 12 : at + 16], "dst_ip": raw[at + 16 : at + 20]}
        l4 = at + 20
    elif fields["version"] == 6:
        found |= {"proto": raw[at + 6], "src_ip": raw[at + 8 : at + 24], "dst_ip": raw[at + 24 : at + 40]}
        l4 = at + 40
    else:
        return found
    found |= {"src_port": int.from_bytes(raw[l4 : l4 + 2], "big"), "dst_port": int.from_bytes(raw[l4 + 2 : l4 + 4], "big")}
    if found["proto"] == 6:
        found["tcp_flags"] = raw[l4 + 13]
    return found


def matches(rule, frame):
    """The rule, applied to a packet field by field."""
    core = rule.for_core()
    for name in ("src_mac", "dst_mac", "src_ip", "dst_ip"):
        value, mask = core[name]
        raw = frame.get(name)
        if any(mask) and (raw is None or bytes(a & b for a, b in zip(raw, mask, strict=True)) != value):
            return False
    for name in ("eth_type", "proto", "tcp_flags", "vlan"):
        value, mask = core[name]
        if mask and (frame.get(name) is None or frame[name] & mask != value):
            return False
    for name in ("src_port", "dst_port"):
        value, mask, last = core[name]
        if last and not value <= frame.get(name, -1) <= last:
            return False
        if mask and not last and frame.get(name, -1) & mask != value:
            return False
    return True


@pytest.mark.parametrize(
    "rule", [v[0] for v in VECTORS.values()] + [Rule(dst_ip="10.0.0.1", proto="udp", dst_port=range(0, 65536), queue=0)]
)
def test_packets_of_a_probe(rule):
    """One that matches, and some that differ in one field."""
    mac = bytes.fromhex("020000000001")
    assert matches(rule, in_frame(fields_of(rule, mac)))
    others = others_of(rule, mac)
    names = [name for name, _ in others]
    assert len(set(names)) == len(names)
    for name, fields in others:
        assert not matches(rule, in_frame(fields)), name
    if str(rule) != "drop":
        assert others
