"""Addresses that only an engine has, on an interface whose kernel has none and IPv6 off, against the kernel at the other end."""

import contextlib
import errno
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import lab as laboratory

sys.path.insert(0, str(Path(__file__).parent))
from support import eventually, exchange, kernel_connect, kernel_listener
from xsk_support import eth, ip4, packet_socket, udp

pytestmark = pytest.mark.root
US4, US6, THEM4, THEM6 = "10.77.0.9", "fd77::9", "10.77.0.2", "fd77::2"
OURS = [f"{US4}/24", f"{US6}/64"]
US = {4: US4, 6: US6}
THEM = {4: THEM4, 6: THEM6}


def bare(side):
    """Takes every address from an interface, and IPv6."""

    def strip():
        subprocess.run(["ip", "addr", "flush", "dev", side.ifname], check=True, capture_output=True)
        Path(f"/proc/sys/net/ipv6/conf/{side.ifname}/disable_ipv6").write_text("1", encoding="ascii")

    side.netns.run(strip)


@pytest.fixture
def wire():
    """The pair: the kernel at `a` has no address, the one at `b` has both."""
    with laboratory.veth(ipv6=True) as pair:
        bare(pair.a)
        shown = in_netns(pair.a, "ip", "addr", "show", "dev", pair.a.ifname)
        assert "inet" not in shown
        yield pair


def in_netns(side, *argv, check=True):
    argv = ["nsenter", f"--net=/proc/self/fd/{side.netns.fd}", *argv]
    return subprocess.run(argv, pass_fds=[side.netns.fd], capture_output=True, text=True, check=check).stdout


@contextlib.contextmanager
def owner(side, ip=OURS, query="", **how):
    with pb.open(f"xdp:{side.ifname}{query}", netns=side.netns) as port:
        with pb.Engine(port, ip=ip, config=pb.EngineConfig(time_wait=0.1), **how) as engine:
            yield engine
        info = port.umem.info()
        assert info["owners"]["free"] == info["frames"]


def ping(side, ip, count=3):
    """How many of them were answered."""
    out = in_netns(side, "ping", "-c", str(count), "-i", "0.05", "-w", "2", ip, check=False)
    return int(out.split(" packets transmitted, ")[1].split(" received")[0])


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_tcp_both_ways_and_ping(wire, mode):
    with owner(wire.a, query=f"?mode={mode}") as engine:
        assert [str(i) for i in engine.owned] == OURS
        for version in (4, 6):
            with kernel_listener(wire.b, 5000, THEM[version]) as server:
                ours = engine.connect((THEM[version], 5000), timeout=5)
                assert ours.getsockname()[0] == US[version]
                exchange(ours, server.accept()[0], 1 << 20)
            with engine.listen(6000, ip=US[version]) as listener, ThreadPoolExecutor() as pool:
                theirs = pool.submit(kernel_connect, wire.b, (US[version], 6000))
                exchange(listener.accept(5), theirs.result(), 1 << 20)
            assert ping(wire.b, US[version]) == 3
        counters = engine.slowpath.counters
        assert counters["echo_answered"] == 6
        assert counters["kernel_asked"] == 0
        assert counters["address_conflict"] == 0
        assert engine.stats()["resets_out"] == 0
    in_netns(wire.b, "ip", "neigh", "flush", "all")
    assert ping(wire.b, US4, 1) == ping(wire.b, US6, 1) == 0, "nobody answers any more"


def test_announced_and_asked_for_on_the_wire(wire):
    """The kernel at the other end knows us by our announcement if it listens to such; and answers our questions."""
    wire.b.netns.run(lambda: Path("/proc/sys/net/ipv4/conf/all/arp_accept").write_text("1", encoding="ascii"))
    with packet_socket(wire.b) as sniffer, owner(wire.a) as engine:
        eventually(lambda: wire.a.mac in in_netns(wire.b, "ip", "neigh", "show", US4))
        eventually(lambda: engine.slowpath.counters["announced"] == 4)  # both addresses, and once more after two seconds
        seen = drain(sniffer)
        mac = bytes.fromhex(wire.a.mac.replace(":", ""))
        ours = socket.inet_aton(US4)
        assert seen.count(b"\xff" * 6 + mac + bytes.fromhex("08060001080006040001") + mac + ours + bytes(6) + ours) == 2
        ours = socket.inet_pton(socket.AF_INET6, US6)
        assert sum(f[:6] == bytes.fromhex("333300000001") and f[54] == 136 and f[62:78] == ours for f in seen) == 2
        with pytest.raises(TimeoutError):
            engine.connect(("10.77.0.99", 80), timeout=0.3)
        asked = bytes.fromhex("08060001080006040001") + mac + socket.inet_aton(US4) + bytes(6) + socket.inet_aton("10.77.0.99")
        assert any(asked in f for f in drain(sniffer))


def drain(s):
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(s.recv(4096))
    return found


def test_a_conflict_is_counted_and_defended(wire):
    with owner(wire.a, ip=f"{US4}/24") as engine, packet_socket(wire.b) as stranger:
        eventually(lambda: engine.slowpath.counters["announced"] == 2)
        drain(stranger)
        mac, ours = bytes.fromhex("020000000066"), socket.inet_aton(US4)
        claim = b"\xff" * 6 + mac + bytes.fromhex("08060001080006040001") + mac + ours + bytes(6) + ours
        for _ in range(3):
            stranger.send(claim)
        eventually(lambda: engine.slowpath.counters["address_conflict"] == 3)
        eventually(lambda: engine.slowpath.counters["announced"] == 3)  # one defence in ten seconds
        assert ping(wire.b, US4) == 3


def test_without_a_prefix_it_is_not_ours(wire):
    with pb.open(f"xdp:{wire.a.ifname}", netns=wire.a.netns) as port:
        with pytest.raises(pb.PybypassError) as caught:
            pb.Engine(port, ip=US4)
        assert (caught.value.code, caught.value.errno) == ("PB041", errno.EADDRNOTAVAIL)
        assert "prefix" in caught.value.hint
        with pytest.raises(pb.PybypassError) as caught:
            pb.Engine(port, ip="224.0.0.5/24")
        assert caught.value.code == "PB041"
        with pb.Engine(port, ip=OURS):
            assert sorted(r[:2] for r in port.program.steer_list()) == [(0, US4), (0, US6)]
        assert port.program.steer_list() == []


def test_nobody_at_a_port(wire):
    """UDP: port unreachable, at a limited rate. TCP: refused. An unknown protocol: unreachable too."""
    with owner(wire.a) as engine, packet_socket(wire.b) as raw:
        for family, ip in ((socket.AF_INET, US4), (socket.AF_INET6, US6)):
            with wire.b.netns, socket.socket(family, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.connect((ip, 9))
                s.send(b"anybody?")
                with pytest.raises(ConnectionRefusedError):
                    s.recv(100)
            with pytest.raises(ConnectionRefusedError):
                kernel_connect(wire.b, (ip, 81))
        assert engine.slowpath.counters["unreachable_sent"] == 2
        mac = bytes.fromhex(wire.a.mac.replace(":", ""))
        frame = mac + eth(ip4(udp(1, 9, b"x"), 17, THEM4, US4))[6:]
        for _ in range(400):
            raw.send(frame)
            time.sleep(0.0001)

        def told():
            stats = engine.stats()
            c = stats["slowpath"]
            return c["unreachable_sent"] + c["unreachable_limited"] + stats["drops"].get("exc_full", 0) == 402

        eventually(told)
        assert engine.slowpath.counters["unreachable_limited"] > 100
        raw.send(mac + eth(ip4(b"x" * 20, 132, THEM4, US4))[6:])
        eventually(lambda: engine.slowpath.counters["ip"] == 1)


def test_fragments_are_counted(wire):
    """To an owned address every piece comes here; what is for the kernel is put together by it."""
    with owner(wire.a, ip=f"{US4}/24") as engine:
        with wire.b.netns, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"x" * 4000, (US4, 9))
        eventually(lambda: engine.stats()["drops"].get("ip_fragment") == 3)
        assert engine.slowpath.counters["udp"] == 0
        assert ping(wire.b, US4) == 3


def test_fragments_for_the_kernel_stay_there(lab):
    with pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port, pb.Engine(port, ip=lab.a.ip) as engine:
        with lab.a.netns:
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with receiver, engine.listen(6000):
            receiver.bind((lab.a.ip, 6000))  # UDP: another port space
            receiver.settimeout(5)
            with lab.b.netns, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(b"x" * 4000, (lab.a.ip, 6000))
            assert receiver.recv(5000) == b"x" * 4000
            with packet_socket(lab.b) as raw:  # the first fragment of TCP to our port names it; it is ours
                mac = bytes.fromhex(lab.a.mac.replace(":", ""))
                raw.send(mac + eth(ip4(b"\x04\0\x17\x70" + b"\0" * 20, 6, lab.b.ip, lab.a.ip, frag=0x2000))[6:])
            eventually(lambda: engine.stats()["drops"].get("ip_fragment") == 1)


def test_a_port_has_one_engine():
    """Held by this process where the kernel cannot; on several sockets of one port engines may share what they listen at."""
    with laboratory.veth(queues=2) as pair:
        bare(pair.a)
        uri = f"xdp:{pair.a.ifname}?queue="
        with pb.open(f"{uri}0", netns=pair.a.netns) as p0, pb.open(f"{uri}1", netns=pair.a.netns) as p1:
            with pb.Engine(p0, ip=OURS) as first, pb.Engine(p1, ip=OURS) as second:
                with first.listen(80):
                    with pytest.raises(pb.PybypassError) as caught:
                        second.listen(80)
                    assert (caught.value.code, caught.value.errno) == ("PB042", errno.EADDRINUSE)
                    with second.listen(80, ip=US6):
                        pass
                eventually(lambda: not len(first._holds))
                second.listen(80).close()
        with pb.open(f"{uri}0-1", netns=pair.a.netns) as port:
            with pb.Engine(port, ip=OURS, queue=0) as first, pb.Engine(port, ip=OURS, queue=1) as second:
                with first.listen(80), second.listen(80):
                    pass


def test_engines_of_one_queue_hear_what_came_to_another(wire):
    """ARP comes to one socket of a queue; every engine there learns from it."""
    with (
        pb.open(f"xdp:{wire.a.ifname}?sockets=2", netns=wire.a.netns) as port,
        pb.Engine(port, ip=OURS, queue=0) as first,
        pb.Engine(port, ip=OURS, queue=1) as second,
        kernel_listener(wire.b, 5000) as server,
        kernel_listener(wire.b, 5000, THEM6) as server6,
    ):
        for engine in (second, first):
            exchange(engine.connect((THEM4, 5000), timeout=5), server.accept()[0], 100_000)
            exchange(engine.connect((THEM6, 5000), timeout=5), server6.accept()[0], 100_000)
