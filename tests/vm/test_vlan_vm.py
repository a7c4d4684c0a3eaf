"""Engines over the kernel's VLAN interfaces, on cards that strip and filter tags: veth does neither, and the machines that
test elsewhere may have no 8021q."""

import contextlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import eventually, exchange, kernel_connect, kernel_listener
from traffic import exchange as exchange_frames
from traffic import mac, ports, wait_passing

import pybypass as pb
from pybypass import _burst, nic, pcap
from pybypass.netns import NetNs

sys.path.insert(0, str(Path(__file__).parents[1] / "veth"))
from test_follow import Flow

TAG = 100
DRIVERS = pytest.mark.parametrize("driver", ["igb", "virtio_net"])
VERSIONS = pytest.mark.parametrize("version", [4, 6])
ADDRESSES = {4: ("10.100.0.1", "10.100.0.2"), 6: ("fd64::1", "fd64::2")}
SIZE = 200_000
LINK_S = 40.0


@dataclass(frozen=True, kw_only=True)
class Side:
    netns: NetNs
    ifname: str
    vlan: str


def ip(side, *commands):
    for command in commands:
        argv = ["nsenter", f"--net=/proc/self/fd/{side.netns.fd}", "ip", *command.split()]
        subprocess.run(argv, check=True, pass_fds=[side.netns.fd], capture_output=True, text=True)


def keeps_tags(side, driver):
    """igb takes tags out of frames and gives them to nobody else than the kernel: that is turned off for the test."""
    if driver == "igb":
        nic.set_features(side.ifname, {"rxvlan": False}, netns=side.netns)


@contextlib.contextmanager
def vlans(pair, driver):
    """Each end in a namespace of its own, with a VLAN interface of the kernel that has the addresses."""
    with contextlib.ExitStack() as stack:
        sides = []
        for number, ifname in enumerate(pair):
            netns = NetNs()
            stack.callback(netns.close)
            subprocess.run(
                ["ip", "link", "set", ifname, "netns", f"/proc/self/fd/{netns.fd}"], check=True, pass_fds=[netns.fd]
            )
            side = Side(netns=netns, ifname=ifname, vlan=f"{ifname}.{TAG}")
            stack.callback(back, side, driver, nic.rss(ifname, netns=netns).table)
            ip(
                side, f"link set {ifname} up", f"link add link {ifname} name {side.vlan} type vlan id {TAG}",
                f"addr add {ADDRESSES[4][number]}/24 dev {side.vlan}",
                f"addr add {ADDRESSES[6][number]}/64 dev {side.vlan} nodad", f"link set {side.vlan} up",
            )  # fmt: skip
            sides.append(side)
        yield tuple(sides)


def back(side, driver, table):
    with contextlib.suppress(subprocess.CalledProcessError):
        ip(side, f"link del {side.vlan}")
    if driver == "igb":
        nic.set_features(side.ifname, {"rxvlan": True}, netns=side.netns)
    nic.set_rss(side.ifname, table=table, netns=side.netns)
    ip(side, f"link set {side.ifname} netns 1")
    subprocess.run(["ip", "link", "set", side.ifname, "up"], check=True)


@contextlib.contextmanager
def engine_on(side, **how):
    with pb.open(f"xdp:{side.ifname}?frame=4096", netns=side.netns) as port:
        until = time.monotonic() + LINK_S
        while not nic.interface(side.vlan, netns=side.netns).carrier:  # igb takes its link down when XDP goes in
            assert time.monotonic() < until
            time.sleep(0.05)
        # All to the queue that has the engine; by way of another table, see test_virtio_forgets_its_rss_when_xdp_goes_in.
        entries = len(nic.rss(side.ifname, netns=side.netns).table)
        for queue in (1, 0):
            nic.set_rss(side.ifname, table=[queue] * entries, netns=side.netns)
        config = pb.EngineConfig(time_wait=0.1, rto_max=0.5)
        with pb.Engine(port, vlan=TAG, config=config, **how) as engine:
            yield engine
        info = port.umem.info()
        assert info["owners"]["free"] == info["frames"], info


def connect(engine, to):
    """Again until the link passes frames."""
    until = time.monotonic() + LINK_S
    while True:
        try:
            return engine.connect(to, timeout=5)
        except OSError:
            if time.monotonic() > until:
                raise


def tags(engine):
    """(direction, VLAN) of the frames that carry TCP data, by their bytes; None: no tag in the frame."""
    data, _, missed = engine.capture_stop()
    assert not missed
    found = set()
    for _, sent, p in pcap.records(data):
        if len(p) > 200:
            vlan = int.from_bytes(p[14:16], "big") & 0xFFF if p[12:14] == b"\x81\x00" else None
            found.add(("out" if sent else "in", vlan))
    return found


@VERSIONS
@DRIVERS
def test_tcp_both_ways_over_the_kernels_vlan_interface(pair, driver, version):
    """Addresses, neighbours and ports are the kernel's; its stack is at the other end; every frame has its tag."""
    ours, theirs = ADDRESSES[version]
    with vlans(pair, driver) as (a, b):
        keeps_tags(a, driver)
        with kernel_listener(b, 5000, theirs) as server, engine_on(a) as engine, ThreadPoolExecutor() as pool:
            assert {str(i.ip) for i in engine.interfaces} >= {ADDRESSES[4][0], ADDRESSES[6][0]}
            assert engine.owned == []
            engine.capture_start(16 << 20)
            exchange(connect(engine, (theirs, 5000)), server.accept()[0], SIZE)
            assert tags(engine) == {("out", TAG), ("in", TAG)}
            with engine.listen(6000, ip=ours) as listener:
                client = pool.submit(kernel_connect, b, (ours, 6000))
                exchange(listener.accept(30), client.result(), SIZE)
            assert engine.slowpath.counters["asked"] == 0  # the kernel was
            assert engine.stats()["drops"].get("l2_vlan", 0) == 0
            # The kernel's own traffic in the VLAN, beside it.
            with kernel_listener(a, 7000, ours) as native:
                client = kernel_connect(b, (ours, 7000))
                server_end = native.accept()[0]
                client.sendall(b"beside")
                assert server_end.recv(100) == b"beside"
                client.close()
                server_end.close()


@DRIVERS
def test_a_neighbour_in_the_vlan_is_followed(pair, driver):
    """Its MAC address changes; its entry is deleted; a wrong one is set and the right one again."""
    _, to = ADDRESSES[4]
    with vlans(pair, driver) as (a, b):
        keeps_tags(a, driver)
        with kernel_listener(b, 5000, to) as server, engine_on(a) as engine:
            flow = Flow(connect(engine, (to, 5000)), server.accept()[0])
            try:
                flow.goes_on()
                ip(b, f"link set {b.vlan} address 02:00:00:00:00:77")
                flow.goes_on()
                eventually(lambda: engine.slowpath.counters["neighbour_moved"] >= 1)
                ip(a, f"neigh del {to} dev {a.vlan}")
                eventually(lambda: engine.slowpath.counters["neighbour_lost"] >= 1)
                flow.goes_on()
                ip(a, f"neigh replace {to} lladdr 02:00:00:00:00:99 dev {a.vlan} nud permanent")
                flow.stands()
                ip(a, f"neigh replace {to} lladdr 02:00:00:00:00:77 dev {a.vlan} nud reachable")
                flow.goes_on()
            finally:
                flow.end()


@DRIVERS
def test_routes_of_the_vlan_interface(pair, driver):
    ours, gateway = ADDRESSES[4]
    far = "10.200.0.1"
    with vlans(pair, driver) as (a, b):
        keeps_tags(a, driver)
        ip(b, f"addr add {far}/32 dev {b.vlan}")
        ip(a, f"route add {far}/32 via {gateway} dev {a.vlan}")
        with kernel_listener(b, 5000, far) as server, engine_on(a, ip=ours) as engine:
            exchange(connect(engine, (far, 5000)), server.accept()[0], SIZE)
            ip(a, f"route del {far}/32")
            eventually(lambda: engine.slowpath.counters["routes_read"] >= 2)
            with pytest.raises(pb.PybypassError) as caught:
                engine.connect((far, 5000), timeout=1)
            assert caught.value.code == "PB056"


def tagged(a, b, number):
    head = mac(b) + mac(a) + b"\x81\x00" + TAG.to_bytes(2, "big") + b"\x88\xb5" + number.to_bytes(4, "big")
    return head + bytes(200)


@DRIVERS
def test_where_the_tag_of_a_frame_goes(pair, driver):
    """igb strips tags by default, and has no kfunc for them: an XDP program sees a frame like one that never had any. With
    stripping off, and on virtio-net always, the tag is in the frame."""
    strips = nic.features(pair[0])["rx-vlan-hw-parse"].active
    assert strips == (driver == "igb")
    assert "vlan-tag" not in nic.xdp(pair[0]).rx_metadata
    for name in pair:
        subprocess.run(
            ["ip", "link", "add", "link", name, "name", f"{name}.{TAG}", "type", "vlan", "id", str(TAG)], check=True
        )
        subprocess.run(["ip", "link", "set", f"{name}.{TAG}", "up"], check=True)
    try:
        with ports(pair, "frame=4096&ring=256&frames=1024") as (a, b):
            sent = [tagged(a, b, i) for i in range(50)]
            got = exchange_frames(a, b, sent)
            assert not any(desc["flags"] & _burst.VLAN for _, desc in got)
            assert [data for data, _ in got] == ([f[:12] + f[16:] for f in sent] if strips else sent)
            if strips:
                nic.set_features(pair[1], {"rxvlan": False})
                wait_passing(a, b)
                assert [data for data, _ in exchange_frames(a, b, sent)] == sent
    finally:
        for name in pair:
            subprocess.run(["ip", "link", "del", f"{name}.{TAG}"], check=True)
            if strips:
                nic.set_features(name, {"rxvlan": True})


@DRIVERS
def test_a_vlan_that_the_card_filters(pair, driver):
    """Without a VLAN interface nobody has told the card about the tag: an engine is refused, unless the card takes all."""
    assert nic.features(pair[1])["rx-vlan-filter"].active
    for promiscuous, comes in ((False, 0), (True, 20)):
        if promiscuous:
            subprocess.run(["ip", "link", "set", pair[1], "promisc", "on"], check=True)
        try:
            with ports(pair, "frame=4096&ring=256&frames=1024") as (a, b):
                assert len(exchange_frames(a, b, [tagged(a, b, i) for i in range(20)])) == comes
            with pb.open(f"xdp:{pair[1]}?frame=4096") as port:
                if driver == "igb":
                    assert refused(port) == ("PB083", f"ethtool -K {pair[1]} rxvlan off")
                    nic.set_features(pair[1], {"rxvlan": False})
                if promiscuous:
                    pb.Engine(port, ip="10.100.0.9/24", vlan=TAG).close()
                else:
                    code, hint = refused(port)
                    assert code == "PB084" and f"ip link add link {pair[1]}" in hint
        finally:
            subprocess.run(["ip", "link", "set", pair[1], "promisc", "off"], check=True)
            if driver == "igb":
                nic.set_features(pair[1], {"rxvlan": True})


def refused(port):
    with pytest.raises(pb.PybypassError) as caught:
        pb.Engine(port, ip="10.100.0.9/24", vlan=TAG)
    assert caught.value.errno
    return caught.value.code, caught.value.hint
