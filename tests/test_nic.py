"""What pybypass.nic reads, against ethtool and ip; what it sets, and what it refuses to."""

import dataclasses
import errno
import json
import shutil
import socket
import subprocess
import sys

import nic_compare
import pytest

import pybypass as pb
from pybypass import cli, nic
from pybypass import lab as laboratory
from pybypass.errors import PybypassError

needs_tools = pytest.mark.skipif(
    not (shutil.which("ethtool") and shutil.which("ip")), reason="needs ethtool and ip (iproute2)"
)


def refused(code, function, /, *args, **kwargs):
    with pytest.raises(PybypassError) as caught:
        function(*args, **kwargs)
    assert caught.value.code == code, caught.value
    assert caught.value.errno and caught.value.hint
    return caught.value


@needs_tools
@pytest.mark.parametrize("ifname", [name for _, name in socket.if_nameindex()])
def test_every_interface_of_this_machine_as_ethtool_and_ip_say(ifname):
    nic_compare.compare(ifname)


@needs_tools
@pytest.mark.root
@pytest.mark.parametrize("queues", [1, 2])
def test_veth_as_ethtool_and_ip_say(queues):
    with laboratory.veth(queues=queues, mtu=2000) as lab, lab.a.netns:
        found = nic_compare.compare(lab.a.ifname)
        assert (found.driver.name, found.interface.kind, found.interface.mtu) == ("veth", "veth", 2000)
        assert (found.channels.rx, found.channels.tx_max) == (queues, queues)
        assert found.rings is None and found.coalescing is None and found.rss is None
        assert {q.kind for q in found.queues} == {"rx", "tx"}
        assert len(found.queues) == 2 * queues
        assert found.irqs == [] and found.driver.numa_node is None
        assert found.speed_mbps == 10000


@needs_tools
@pytest.mark.root
def test_netns_and_the_peers_index(lab):
    a, b = nic.interface(lab.a.ifname, netns=lab.a.netns), nic.interface(lab.b.ifname, netns=lab.b.netns)
    assert (a.link, b.link) == (b.ifindex, a.ifindex)
    assert a.link_netnsid is not None
    assert (a.mac, b.mac) == (lab.a.mac, lab.b.mac)
    refused("PB020", nic.interface, lab.a.ifname)
    for function in (nic.channels, nic.features, nic.driver, nic.xdp, nic.timestamping, nic.queues, nic.irqs, nic.look):
        assert function(lab.a.ifname, netns=lab.a.netns) is not None
        refused("PB020", function, lab.a.ifname)


@needs_tools
@pytest.mark.root
def test_the_xdp_program_is_seen(lab):
    with lab.a.netns:
        assert nic_compare.compare(lab.a.ifname).interface.xdp_mode == "none"
        with pb.open(f"xdp:{lab.a.ifname}?frames=256&ring=64&mode=generic") as port:
            found = nic_compare.compare(lab.a.ifname).interface
            assert (found.xdp_mode, found.xdp_prog_id) == ("generic", port.program.info()["prog_id"])
        with pb.open(f"xdp:{lab.a.ifname}?frames=256&ring=64"):
            found = nic_compare.compare(lab.a.ifname)
            assert found.interface.xdp_mode == "native"


@pytest.mark.root
def test_xdp_capabilities_of_veth(lab):
    found = nic.xdp(lab.a.ifname, netns=lab.a.netns)
    if found is None:
        assert tuple(map(int, __import__("platform").release().split(".")[:2])) < (6, 3)
        return
    assert {"basic", "redirect", "rx-sg"} <= found.features
    assert "xsk-zerocopy" not in found.features and found.zc_max_segs == 0
    assert found.rx_metadata == {"timestamp", "hash", "vlan-tag"}


@pytest.mark.parametrize("name", ["", "nosuch0", "x" * 16, "x" * 300, "a\0b", "lo\0", "\udc80"])
def test_no_such_interface(name):
    assert refused("PB020", nic.look, name).errno == errno.ENODEV
    refused("PB020", nic.set_channels, name, rx=1)


@pytest.mark.root
def test_what_veth_does_not_have(lab):
    for function in (nic.rings, nic.coalescing, nic.rss):
        assert refused("PB071", function, lab.a.ifname, netns=lab.a.netns).errno == errno.EOPNOTSUPP
    refused("PB071", nic.set_rings, lab.a.ifname, rx=64, netns=lab.a.netns)
    refused("PB071", nic.set_coalescing, lab.a.ifname, rx_usecs=3, netns=lab.a.netns)
    refused("PB071", nic.set_rss, lab.a.ifname, key=bytes(40), netns=lab.a.netns)


# ---- setting ----


@needs_tools
@pytest.mark.root
def test_channels():
    with laboratory.veth(queues=4) as lab:
        ns, name = lab.a.netns, lab.a.ifname
        assert nic.channels(name, netns=ns).rx == 4
        after = nic.set_channels(name, rx=2, tx=3, netns=ns)
        assert (after.rx, after.tx, after.rx_queues) == (2, 3, 2)
        with ns:
            nic_compare.compare(name)
        for wrong in ({"rx": 5}, {"rx": -1}, {"combined": 1}, {"rx": 0}, {"tx": 0}, {}, {"rx": 1.5}, {"tx": True}):
            refused("PB072", nic.set_channels, name, netns=ns, **wrong)
        assert nic.channels(name, netns=ns) == after


@needs_tools
@pytest.mark.root
def test_features(lab):
    ns, name = lab.a.netns, lab.a.ifname
    before = nic.features(name, netns=ns)
    assert not before["rx-gro"].active and not before["tx-tcp-segmentation"].active
    after = nic.set_features(name, {"gro": True, "tx": True, "tx-udp-segmentation": False}, netns=ns)
    assert after["rx-gro"].active and after["tx-checksum-ip-generic"].active
    assert not after["tx-checksum-ipv4"].active  # fixed: left alone in a group
    assert not after["tx-udp-segmentation"].wanted
    with ns:
        nic_compare.compare(name)
    refused("PB072", nic.set_features, name, {"rx-gro": False, "no-such": True}, netns=ns)
    kept = refused("PB071", nic.set_features, name, {"rx-gro": False, "rx-hashing": True}, netns=ns)
    assert kept.detail["features"] == ["rx-hashing"]
    assert nic.features(name, netns=ns)["rx-gro"].active  # nothing was touched
    assert nic.set_features(name, {"rx-hashing": False}, netns=ns) == after  # as it is: nothing to do


@pytest.mark.root
def test_a_feature_that_lacks_another_is_said_to_be_kept(lab):
    ns, name = lab.a.netns, lab.a.ifname
    nic.set_features(name, {"sg": False}, netns=ns)
    kept = refused("PB071", nic.set_features, name, {"tx-tcp-segmentation": True}, netns=ns)
    assert kept.detail["features"] == ["tx-tcp-segmentation"]
    assert not nic.features(name, netns=ns)["tx-tcp-segmentation"].active


@pytest.mark.parametrize("values", [{}, {"rx_usec": 1}, {"rx_usecs": -1}, {"rx_usecs": 1 << 32}, {"adaptive_rx": 2}])
def test_coalescing_out_of_range(values):
    refused("PB072", nic.set_coalescing, "lo", **values)


@pytest.mark.parametrize("fields", [{"tcp5": ("src",)}, {"udp4": ("source",)}])
def test_hash_fields_out_of_range(fields):
    refused("PB072", nic.set_rss, "lo", fields=fields)


WITHOUT_PRIVILEGE = """
import ctypes, struct, sys
assert ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0
from pybypass import cli, nic
found = nic.look("lo")
assert found.interface.ifname == "lo" and found.features["rx-gro"].active is not None, found
try:
    nic.set_features("lo", {"rx-gro": not found.features["rx-gro"].active})
except PermissionError as e:
    print(e.code)
"""


def test_without_privilege_it_reads_and_does_not_set():
    result = subprocess.run([sys.executable, "-c", WITHOUT_PRIVILEGE], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "PB025", result


# ---- rules that no driver of this machine lets one try: the values of a card, by hand ----


class Card:
    """An ethtool socket to a card with a table of 8 entries, a key of 4 bytes, 2 queues of 4."""

    def __init__(self):
        self.sent = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def channels(self):
        return {"combined": 2, "combined_max": 4, "other": 1, "other_max": 1}

    def rings(self):
        return {"rx": 256, "tx": 256, "rx_max": 4096, "tx_max": 4096}

    def rss(self, context=0):
        return {"function": 1, "table": (0, 1) * 4, "key": b"abcd", "xfrm": 0, "flows": {"tcp4": 0xF0}}

    def hash_functions(self):
        return ["toeplitz", "xor", "crc32"]

    def coalescing(self):
        return {"rx_usecs": 3, "adaptive_rx": 1}

    def __getattr__(self, name):
        assert name.endswith("_set")
        return lambda *args: self.sent.append((name, *args))


@pytest.fixture
def card(monkeypatch):
    made = Card()
    monkeypatch.setattr(nic, "_open", lambda ifname: made)
    return made


def test_rss_is_validated_before_it_is_sent(card):
    for wrong in ({"table": [2]}, {"table": [-1]}, {"table": []}, {"table": [0] * 3}, {"table": [0] * 16}, {"key": b"abc"},
                  {"function": "md5"}, {"input_xfrm": "x"}):  # fmt: skip
        refused("PB072", nic.set_rss, "card", **wrong)
    assert not card.sent
    found = nic.set_rss("card", table=[1, 0], key=b"wxyz", function="xor", input_xfrm="symmetric-xor")
    assert card.sent == [("rss_set", [1, 0] * 4, b"wxyz", 2, 1)]
    assert found.fields == {"tcp4": ("src", "dst", "sport", "dport")}
    assert (found.function, found.input_xfrm) == ("toeplitz", "none")


def test_rss_falls_back_on_the_ioctl(card, monkeypatch):
    def no_message(*args):
        raise PybypassError.make("PB071", errno.EOPNOTSUPP)

    card.rss_set = no_message
    sent = []
    monkeypatch.setattr(nic._ethtool, "rss_ioctl", lambda *args: sent.append(args))
    nic.set_rss("card", table=[1] * 8)
    assert sent == [("card", [1] * 8, None, None, None)]


def test_rings_and_coalescing_are_validated_before_they_are_sent(card):
    for wrong in ({"rx": 0}, {"rx": 4097}, {"tx": -1}, {}):
        refused("PB072", nic.set_rings, "card", **wrong)
    refused("PB071", nic.set_coalescing, "card", tx_usecs=4)
    assert not card.sent
    nic.set_rings("card", rx=512)
    found = nic.set_coalescing("card", rx_usecs=0, adaptive_rx=False)
    assert card.sent == [("rings_set", {"rx": 512}), ("coalescing_set", {"rx_usecs": 0, "adaptive_rx": 0})]
    assert dataclasses.asdict(found)["adaptive_rx"] is True and found.tx_usecs is None


# ---- the command, and the import ----


def test_the_command_prints_json(capsys):
    assert cli.main(["nic", "lo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "pybypass.nic/1"
    assert found["interface"]["ifname"] == "lo" and found["features"]["rx-gro"]["fixed"] is False
    assert found["rings"] is None and found["queues"] is not None


def test_the_command_prints_text(capsys):
    assert cli.main(["nic", "lo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("interface      ifindex=1 ifname=lo ")
    assert "rings          not there" in lines


def test_the_command_fails_with_the_interface_named(capsys):
    assert cli.main(["nic", "nosuch0"]) == 1
    assert "PB020" in capsys.readouterr().err


def test_nic_and_rss_come_when_they_are_asked_for():
    code = "import sys, pybypass as pb; before = set(sys.modules); print('pybypass.nic' in before, pb.nic.__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["False", "pybypass.nic"]
    with pytest.raises(AttributeError):
        _ = pb.no_such_module
