"""Sizes and layouts of frames, jumbo packets over several frames, and what may be asked for a packet that is sent."""

import contextlib
import errno
import itertools
import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import exchange

import pybypass as pb
from pybypass import _burst
from pybypass import lab as laboratory
from pybypass._wire import internet_checksum

sys.path.insert(0, str(Path(__file__).parent))
from xsk_support import TCP, UDP, eth, ip4, packet_socket, tcp, udp

pytestmark = pytest.mark.root
UDP_SEGMENT = 103  # linux/udp.h
HUGE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


@contextlib.contextmanager
def port_on(side, query="", **how):
    with pb.open(f"xdp:{side.ifname}?steer=all{query}", netns=side.netns, **how) as port:
        umem = port.umem
        yield port
    info = umem.info()
    assert info["owners"]["free"] == info["frames"], info
    assert info["violations"] == 0


@contextlib.contextmanager
def huge_pages(count):
    """Reserves 2 MiB pages and gives them back."""
    before = int(HUGE.read_text(encoding="ascii"))
    HUGE.write_text(str(before + count), encoding="ascii")
    try:
        assert int(HUGE.read_text(encoding="ascii")) == before + count
        yield
    finally:
        HUGE.write_text(str(before), encoding="ascii")


def received(port, total, n=64, seconds=10.0):
    """Packets as bytes; a burst holds whole ones only."""
    got = []
    until = time.monotonic() + seconds
    while len(got) < total and time.monotonic() < until:
        with port.rx_burst(n) as burst:
            got += [burst.copy_packet(k).tobytes() for k in range(len(burst.packets()))]
    assert len(got) == total
    return got


def transmit(port, packets):
    """Each in as many frames as it needs, several packets to a burst."""
    queue = port.queues[0]
    until = time.monotonic() + 10
    for packet in packets:
        with queue.alloc_burst(-(-len(packet) // queue.frame_room)) as burst:
            assert burst.write_packet(0, packet) == len(burst)
            while len(burst):
                before = len(burst)
                assert port.tx_burst(burst) in (0, before), "whole or not at all"
                assert time.monotonic() < until


def packets_of(sizes, seed):
    rng = np.random.default_rng(seed)
    return [eth(rng.integers(0, 256, n - 14, dtype=np.uint8).tobytes(), 0x88B5) for n in sizes]


# ---- layouts ----


@pytest.mark.parametrize("mtu", [1500, 9000])
@pytest.mark.parametrize(
    "query",
    ["frame=2048", "frame=4096", "headroom=128", "frame=4096&headroom=1000", "unaligned=1&frame=3072", "unaligned=1&frame=2112",
     "unaligned=1&frame=3072&pages=4k&headroom=192", "unaligned=1&frame=2048", "sg=on", "pages=4k", "mode=generic",
     *(pytest.param(query, marks=pytest.mark.alone("the huge pages of the machine"))
       for query in ("pages=hugetlb", "pages=hugetlb&unaligned=1&frame=3520"))],
)  # fmt: skip
def test_every_layout_carries_traffic_both_ways(query, mtu):
    """Packets of all sizes there and back in the same frames, unchanged."""
    sizes = [60, 61, 1514, mtu + 14, mtu + 13, mtu // 2, 1792, 1793, 3584] if mtu > 1500 else [60, 61, 777, 1513, 1514]
    with (
        huge_pages(48) if "hugetlb" in query else contextlib.nullcontext(), laboratory.veth(mtu=mtu) as v,
        port_on(v.a, "&" + query) as a, port_on(v.b, "&" + query) as b,
    ):  # fmt: skip
        info = a.umem.info()
        assert info["unaligned"] == ("unaligned" in query)
        assert info["pages"] == "hugetlb" or "hugetlb" not in query
        headroom = 256 + int(dict(p.split("=") for p in query.split("&")).get("headroom", 0))
        assert a.report["sg"] == (mtu > a.report["frame_room"] or "sg=on" in query)
        assert a.report["frame_room"] == info["frame_bytes"] - headroom
        for round_ in range(20):
            packets = packets_of(sizes, round_)
            transmit(a, packets)
            turned = 0
            until = time.monotonic() + 10
            while turned < len(packets):
                burst = b.rx_burst()
                if len(burst):
                    firsts = burst.packets()["first"]
                    assert (burst.desc["off"][firsts] == headroom).all()
                turned += len(burst.packets())
                while len(burst):
                    b.tx_burst(burst)
                burst.release()
                assert time.monotonic() < until
            assert received(a, len(packets)) == packets
        for port in (a, b):
            assert port.stats()["drops"] == {}
            assert port.stats()["rx_pkts"] == port.stats()["tx_pkts"] == 20 * len(sizes)
            port.queues[0].reap()


def test_unaligned_frames_are_for_unaligned_ports(lab):
    with pytest.raises(ValueError):
        pb.Umem(frame_bytes=3072)
    umem = pb.Umem(frames=512, frame_bytes=3072, unaligned=True)
    assert umem.info()["region_bytes"] >= 512 * 3072
    with port_on(lab.a, umem=umem) as port:
        assert port.umem.unaligned
    with pb.open("mem:odd", umem=umem) as left, pb.open("mem:odd", umem=umem) as right:
        with left.alloc_burst(3, length=60) as burst:
            for i in range(3):
                burst.write(i, bytes([i]) * 2500)
            assert left.tx_burst(burst) in (0, 3)
        right.rx_burst().release()
        left.queues[0].reap()


def test_an_engine_on_unaligned_frames(lab):
    with lab.a.netns:
        server = socket.create_server((lab.a.ip, 5000))
    with (
        server, pb.open(f"xdp:{lab.b.ifname}?unaligned=1&frame=2944", netns=lab.b.netns) as port,
        pb.Engine(port, ip=lab.b.ip) as engine, engine.connect((lab.a.ip, 5000), timeout=10) as ours,
    ):  # fmt: skip
        exchange(ours, server.accept()[0], 300_000)


# ---- jumbo ----


@pytest.fixture
def jumbo():
    with laboratory.veth(mtu=9000) as v:
        yield v


@pytest.mark.parametrize("frame", [2048, 4096])
def test_jumbo_datagrams_with_the_kernel(jumbo, frame):
    """Against a UDP socket, each way, byte for byte."""
    v = jumbo
    payload = np.random.default_rng(frame).integers(0, 256, 9000 - 28, dtype=np.uint8).tobytes()
    with v.a.netns:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((v.a.ip, 4000))
        s.settimeout(5)
    with s, pb.open(f"xdp:{v.b.ifname}?frame={frame}&steer=udp:4000", netns=v.b.netns) as port:
        assert port.mtu == 9000
        with v.a.netns:
            s.sendto(payload, (v.b.ip, 4000))
        (packet,) = received(port, 1)
        assert packet[42:] == payload
        frames = -(-9014 // port.report["frame_room"])
        with v.a.netns:
            s.sendto(payload, (v.b.ip, 4000))
        until = time.monotonic() + 5
        while not (burst := port.rx_burst()):
            assert time.monotonic() < until
        with burst:
            (found,) = burst.packets()
            assert (found["first"], found["count"], found["bytes"]) == (0, frames, 9014)
            assert (burst.desc["flags"] & _burst.MORE != 0).tolist() == [True] * (frames - 1) + [False]
        transmit(port, [eth(ip4(udp(4000, 4000, payload), UDP, v.b.ip, v.a.ip), dst=v.a.mac, src=v.b.mac)])
        assert s.recv(10000) == payload
        port.queues[0].reap()


def test_bursts_hold_whole_packets(jumbo):
    """Whatever size of burst is asked for; one that is too small for a packet is refused, and takes nothing."""
    with port_on(jumbo.a) as a, port_on(jumbo.b) as b:
        packets = packets_of([9014, 60, 5000, 9014, 9000, 60, 9014, 3000], 1)
        for n in (18, 19, 23, 64):
            transmit(a, packets)
            assert received(b, len(packets), n) == packets
        transmit(a, packets[:1])
        time.sleep(0.05)
        assert b.queues[0].chain_max >= 6
        with pytest.raises(pb.PybypassError) as caught:
            b.rx_burst(5)
        assert (caught.value.code, caught.value.errno) == ("PB063", errno.EMSGSIZE)
        assert received(b, 1, 6) == packets[:1]


def test_packets_that_cannot_be_sent_are_counted(jumbo):
    with port_on(jumbo.a) as a, port_on(jumbo.b) as b:
        queue = a.queues[0]
        for edit in ("no end", "too many", "empty piece", "beyond the MTU"):
            with queue.alloc_burst(19) as burst:
                burst.write_packet(0, bytes(9014))
                flags = burst.desc["flags"]
                if edit == "no end":
                    flags[:] = _burst.MORE
                elif edit == "too many":
                    burst.desc["len"][:] = 100
                    flags[:18] = _burst.MORE
                elif edit == "empty piece":
                    burst.desc["len"][1] = 0
                else:
                    burst.desc["len"][:6] = 1700
                    flags[:6] = [_burst.MORE] * 5 + [0]
                burst.desc["len"][6:] = np.where(burst.desc["len"][6:] == 0, 60, burst.desc["len"][6:])
                assert a.tx_burst(burst) == 19
        queue.reap()
        assert a.stats()["drops"] == {"tx_bad": 3, "too_long": 1}
        assert a.stats()["tx_pkts"] == 26, "the single frames behind the refused packets"
        received(b, 26)


def test_bursts_of_hand_made_packets(jumbo):
    with port_on(jumbo.a) as a, a.alloc_burst(4) as burst:
        with pytest.raises(ValueError, match="do not fit"):
            burst.write_packet(0, bytes(4 * 1792 + 1))
        assert burst.write_packet(0, bytes(4 * 1792)) == 4
        assert burst.write_packet(2, bytes(1793)) == 2
        burst.desc["flags"][1] = 0
        assert burst.packets()["count"].tolist() == [2, 2]
        assert burst.copy_packet(-1).shape == (1793,)
        for wrong in (lambda: burst.copy_packet(2), lambda: burst.write_packet(4, b"x")):
            with pytest.raises(IndexError):
                wrong()
        burst.desc["flags"][3] = _burst.MORE
        with pytest.raises(ValueError, match="no end"):
            burst.packets()


def test_without_several_frames_the_mtu_must_fit(jumbo):
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(f"xdp:{jumbo.a.ifname}?sg=off", netns=jumbo.a.netns)
    assert (caught.value.code, caught.value.errno) == ("PB027", errno.EMSGSIZE)
    assert "sg=auto" in caught.value.hint


@pytest.mark.parametrize(("frame", "mss"), [(2048, 1774 - 52), (4096, 3822 - 52)])
def test_tcp_on_a_jumbo_port(jumbo, frame, mss):
    """Segments fit one frame, in what we send and in what the peer was told; a longer packet is counted, and hurts none."""
    v = jumbo
    with v.a.netns:
        server = socket.create_server((v.a.ip, 5000))
    with (
        server, packet_socket(v.a) as wire, pb.open(f"xdp:{v.b.ifname}?frame={frame}", netns=v.b.netns) as port,
        pb.Engine(port, ip=v.b.ip) as engine, engine.connect((v.a.ip, 5000), timeout=10) as ours,
    ):  # fmt: skip
        assert ours.info()["mss"] == mss
        theirs = server.accept()[0]
        assert struct.unpack_from("I", theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 16)[0] == mss
        local = ours.getsockname()[1]
        wire.send(eth(ip4(tcp(5000, local, bytes(8000)), TCP, v.a.ip, v.b.ip), dst=v.b.mac, src=v.a.mac))
        exchange(ours, theirs, 500_000)
        assert engine.stats()["drops"]["too_long"] == 1  # the packet, not its frames


@pytest.mark.parametrize("sg", ["auto", "off"])
def test_chains_may_be_sent_where_none_are_taken(lab, sg):
    """The kernel gives a socket that may send packets of several frames such packets too (here: super-frames, which generic
    mode hands up): a port that did not ask for them drops them, counts each once, and goes on with what follows."""
    with port_on(lab.a, f"&mode=generic&sg={sg}") as port, lab.b.netns:
        queue = port.queues[0]
        assert (port.report["tx_sg"], port.report["tx_chains"], port.report["sg"]) == (sg == "auto", sg == "auto", False)
        assert (queue.chain_max, queue.tx_chains) == (1, sg == "auto")
        neighbour = ["ip", "neigh", "replace", lab.a.ip, "lladdr", port.mac, "dev", lab.b.ifname]
        assert lab.b.netns.popen(neighbour).wait(10) == 0
        for name in ("tx", "gso"):
            laboratory.set_offload(lab.b.ifname, name, True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect((lab.a.ip, 9))
            for segment, data in ((1400, bytes(14000)), (1400, bytes(9000)), (0, b"after")):
                s.setsockopt(socket.SOL_UDP, UDP_SEGMENT, segment)
                s.send(data)
        got, until = [], time.monotonic() + 10
        while not got and time.monotonic() < until:
            with queue.rx_burst(64) as burst:
                got += [burst.copy_packet(i) for i in range(len(burst))]
        assert [bytes(packet[-5:]) for packet in got] == [b"after"]
        drops = {"too_long": 2} if sg == "auto" else {"rx_ring": 2}
        assert queue.stats()["drops"] == drops


# ---- what may be asked for ----


def udp_frame(side, peer, payload):
    """With the pseudo header's sum in place of the checksum."""
    datagram = udp(5, 4000, payload)
    pseudo = socket.inet_aton(side.ip) + socket.inet_aton(peer.ip) + struct.pack("!BBH", 0, UDP, len(datagram))
    datagram = datagram[:6] + struct.pack("!H", ~internet_checksum(pseudo) & 0xFFFF) + datagram[8:]
    return eth(ip4(datagram, UDP, side.ip, peer.ip), dst=peer.mac, src=side.mac)


def test_checksums_and_time_stamps(lab):
    with lab.a.netns:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((lab.a.ip, 4000))
        s.settimeout(5)
    with s, port_on(lab.b, "&tx_meta=1") as port:
        queue = port.queues[0]
        assert (port.report["tx_csum"], port.report["tx_stamp"]) == (True, True)
        assert (port.report["tx_csum_by"], port.report["tx_stamp_by"]) == ("software", "kernel")
        assert port.report["no_tx_meta"] == ""
        stamped = []
        for i in range(50):
            with queue.alloc_burst(3) as burst:
                for k in range(3):
                    burst.write(k, udp_frame(lab.b, lab.a, b"%d.%d" % (i, k)))
                # The first asks for both, the second for nothing (so its checksum is wrong), the third for a checksum.
                burst.desc["flags"] = [_burst.CSUM_PARTIAL | _burst.TX_STAMP, 0, _burst.CSUM_PARTIAL]
                burst.desc["hash"] = 6 << 16 | 34
                before = time.clock_gettime_ns(time.CLOCK_TAI)
                assert port.tx_burst(burst) == 3
            assert [s.recv(100), s.recv(100)] == [b"%d.0" % i, b"%d.2" % i]
            until = time.monotonic() + 5
            while not len(found := queue.tx_timestamps()):
                assert time.monotonic() < until
            stamped += found["seq"].tolist()
            assert pb.TS_SOURCES[found["source"][0]] == "kernel"
            assert before <= found["ns"][0] <= time.clock_gettime_ns(time.CLOCK_TAI)
        assert stamped == list(range(0, 150, 3))
        assert len(queue.tx_timestamps()) == 0
        port.queues[0].reap()


def test_a_jumbo_packet_with_a_time_stamp(jumbo):
    """The kernel's software checksum would cover the first frame only: such a packet is refused and counted."""
    with port_on(jumbo.b, "&tx_meta=1") as port, port_on(jumbo.a) as wire:
        packet = packets_of([9014], 5)[0]
        for flag in (_burst.TX_STAMP, _burst.TX_STAMP | _burst.CSUM_PARTIAL):
            with port.alloc_burst(-(-len(packet) // port.queues[0].frame_room)) as burst:
                burst.write_packet(0, packet)
                burst.desc["flags"][0] |= flag
                burst.desc["hash"][0] = 6 << 16 | 34
                assert port.tx_burst(burst) == 6
        assert received(wire, 1) == [packet]
        until = time.monotonic() + 5
        while not len(found := port.queues[0].tx_timestamps()):
            assert time.monotonic() < until
        assert found["seq"].tolist() == [0]
        assert port.stats()["drops"] == {"tx_bad": 1}


@pytest.mark.parametrize("flag", [_burst.CSUM_PARTIAL, _burst.TX_STAMP, _burst.LAUNCH])
def test_what_was_not_granted_is_refused(lab, flag):
    with port_on(lab.b) as port, port.alloc_burst(2, length=60) as burst:
        burst.desc["flags"][1] = flag
        with pytest.raises(pb.PybypassError) as caught:
            port.tx_burst(burst)
        assert (caught.value.code, caught.value.errno) == ("PB064", errno.EOPNOTSUPP)
        assert len(burst) == 2
    with port_on(lab.b) as port, pytest.raises(pb.PybypassError) as caught:
        port.queues[0].tx_timestamps()
    assert caught.value.code == "PB064"


def test_launch_time_is_refused_where_the_driver_has_none(lab):
    with port_on(lab.b, "&tx_meta=1") as port, port.alloc_burst(1, length=60) as burst:
        assert not port.report["tx_launch"]
        burst.desc["flags"] = _burst.LAUNCH
        with pytest.raises(pb.PybypassError, match="LAUNCH") as caught:
            port.tx_burst(burst)
        assert caught.value.code == "PB064"


def test_requests_that_make_no_sense_are_counted(lab):
    """A checksum beyond the packet, and no room for the metadata before the data."""
    with port_on(lab.b, "&tx_meta=1") as port:
        for edit in ({"hash": 59 << 16}, {"hash": 60}, {"off": 16}):
            with port.alloc_burst(1, length=60) as burst:
                burst.desc["flags"] = _burst.CSUM_PARTIAL
                for field, value in edit.items():
                    burst.desc[field] = value
                assert port.tx_burst(burst) == 1
        port.queues[0].reap()
        assert port.stats()["drops"] == {"tx_bad": 3}


def test_stamps_that_nobody_asks_for_make_room():
    """4096 wait at most; the oldest go, and that is counted."""
    with laboratory.veth() as v, port_on(v.b, "&tx_meta=1") as port, port_on(v.a) as sink:
        queue = port.queues[0]
        for _ in itertools.repeat(None, 70):
            with queue.alloc_burst(64, length=60) as burst:
                burst.desc["flags"] = _burst.TX_STAMP
                until = time.monotonic() + 5
                while len(burst):
                    port.tx_burst(burst)
                    assert time.monotonic() < until
            with sink.rx_burst():
                pass
        until = time.monotonic() + 5
        while port.umem.info()["owners"]["tx"]:
            queue.reap()
            assert time.monotonic() < until
        seqs = queue.tx_timestamps()["seq"]
        assert len(seqs) == 4096
        assert len(np.unique(seqs)) == 4096
        assert seqs.max() == 70 * 64 - 1


def test_without_metadata(lab):
    """meta=0: nothing is written before the packets, unless another socket of the interface wants it."""
    frames = [
        eth(ip4(udp(1000 + i, 2000, b"x" * 40), UDP, src=lab.b.ip, dst=lab.a.ip), dst=lab.a.mac) for i in range(8)
    ]

    def one(query):
        with port_on(lab.a, query) as port, packet_socket(lab.b) as s:
            for frame in frames:
                s.send(frame)
            seen, until = [], time.monotonic() + 10
            while len(seen) < len(frames) and time.monotonic() < until:
                with port.rx_burst(64) as burst:
                    seen += [(int(d["ts_source"]), int(d["hash_type"])) for d in burst.desc]
            return seen

    assert one("&meta=0") == [(0, 0)] * len(frames)
    assert all(pb.TS_SOURCES[source] == "xdp" for source, _ in one(""))
    assert one("&meta=0") == [(0, 0)] * len(frames)  # the count of those that want it came down again
