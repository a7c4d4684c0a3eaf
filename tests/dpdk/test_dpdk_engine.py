"""TCP over DPDK: against the kernel behind a tap and an AF_XDP driver, and between two engines; what no kernel does there."""

import contextlib
import errno
import itertools
import socket
import subprocess
import threading
import time

import pytest
from support import eventually, exchange

import pybypass as pb
from pybypass import lab
from pybypass.netns import NetNs

root = pytest.mark.root
NUMBER = itertools.count(100)
OURS, KERNEL = "10.78.0.1", "10.78.0.2"
OURS6, KERNEL6 = "fd78::1", "fd78::2"


def run(netns, *words):
    process = netns.popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    text = process.communicate(timeout=30)[0]
    return process.returncode, text


@contextlib.contextmanager
def tap(**how):
    """An engine on net_tap, and the namespace of the kernel at its other end."""
    netns = NetNs()
    with contextlib.closing(netns):
        with pb.open(f"dpdk:net_tap{next(NUMBER)}?iface=pbt0&frames=8192", netns=netns) as port:
            for words in (
                ["link", "set", "lo", "up"], ["link", "set", "pbt0", "up"], ["addr", "add", f"{KERNEL}/24", "dev", "pbt0"],
                ["addr", "add", f"{KERNEL6}/64", "dev", "pbt0", "nodad"],
            ):  # fmt: skip
                code, text = run(netns, "ip", *words)
                assert code == 0, text
            with pb.Engine(port, ip=[f"{OURS}/24", f"{OURS6}/64"], **how) as engine:
                yield engine, netns
            umem = port.umem
    owners = umem.info()["owners"]
    assert owners["free"] == umem.info()["frames"]


def listening(netns, ip):
    with netns:
        return socket.create_server((ip, 0), family=socket.AF_INET6 if ":" in ip else socket.AF_INET)


@root
@pytest.mark.parametrize(("ours", "theirs"), [(OURS, KERNEL), (OURS6, KERNEL6)])
def test_the_kernel_behind_a_tap(ours, theirs):
    with tap() as (engine, netns):
        with listening(netns, theirs) as server:
            connection = engine.connect((theirs, server.getsockname()[1]), timeout=10)
            peer, _ = server.accept()
            exchange(connection, peer, 2 << 20)
        with engine.listen(7000, ip=ours) as listener:
            with netns:
                peer = socket.create_connection((ours, 7000), timeout=10)
            exchange(listener.accept(10), peer, 2 << 20)
        slow = engine.stats()["slowpath"]
        assert slow["arp" if ours == OURS else "icmp"] > 0
        assert slow["learnt"] > 0


@root
def test_python_answers_for_us():
    """ARP, neighbour discovery, echo, and what nobody here handles."""
    with tap() as (engine, netns):
        assert run(netns, "ping", "-c", "3", "-i", "0.05", "-W", "2", OURS)[0] == 0
        assert run(netns, "ping", "-c", "3", "-i", "0.05", "-W", "2", OURS6)[0] == 0
        for family, ip in ((socket.AF_INET, OURS), (socket.AF_INET6, OURS6)):
            with netns, socket.socket(family, socket.SOCK_DGRAM) as s:
                s.connect((ip, 9))
                s.settimeout(5)
                s.send(b"nobody is there")
                with pytest.raises(ConnectionRefusedError):
                    s.recv(10)
            with netns, pytest.raises(ConnectionRefusedError):
                socket.create_connection((ip, 9), timeout=5)
        assert "REACHABLE" in run(netns, "ip", "neigh")[1] or "STALE" in run(netns, "ip", "neigh")[1]
        assert engine.stats()["slowpath"]["echo_answered"] == 6


@root
def test_two_kernels_see_each_other_through_the_engines_port():
    """`kernel_tap`: the kernel here has a second address on the NIC that the engine drives."""
    here = NetNs()
    with lab.veth() as pair, contextlib.closing(here):
        port = pb.open(f"dpdk:net_af_packet{next(NUMBER)}?iface={pair.a.ifname}&frames=8192", netns=pair.a.netns)
        # af_packet only listens beside the kernel: its own address must be silent.
        assert run(pair.a.netns, "ip", "addr", "flush", "dev", pair.a.ifname)[0] == 0
        with port, pb.Engine(port, ip="10.77.0.1/24", kernel_tap="pbk0") as engine:
            netns = pair.a.netns
            assert "pbk0" in run(netns, "ip", "link", "show", "pbk0")[1]
            assert pair.a.mac in run(netns, "ip", "link", "show", "pbk0")[1]
            assert run(netns, "ip", "addr", "add", "10.77.0.3/24", "dev", "pbk0")[0] == 0
            assert run(netns, "ping", "-c", "3", "-i", "0.05", "-W", "2", "-I", "pbk0", pair.b.ip)[0] == 0
            assert run(pair.b.netns, "ping", "-c", "3", "-i", "0.05", "-W", "2", "10.77.0.3")[0] == 0
            assert run(pair.b.netns, "ping", "-c", "3", "-i", "0.05", "-W", "2", "10.77.0.1")[0] == 0
            with listening(netns, "10.77.0.3") as server, pair.b.netns:
                far = socket.create_connection(("10.77.0.3", server.getsockname()[1]), timeout=10)
                near, _ = server.accept()
                far.sendall(b"x" * 200_000)
                far.close()
                got = bytearray()
                while data := near.recv(65536):
                    got += data
                near.close()
                assert bytes(got) == b"x" * 200_000
            with listening(pair.b.netns, pair.b.ip) as server:
                connection = engine.connect((pair.b.ip, server.getsockname()[1]), timeout=10)
                peer, _ = server.accept()
                exchange(connection, peer, 1 << 20)
            counters = engine.stats()["kernel_tap"]
            assert counters["to_kernel"] > 100
            assert counters["from_kernel"] > 100
        assert run(pair.a.netns, "ip", "link", "show", "pbk0")[0] != 0, "it goes with the engine"


@root
def test_kernel_tap_errors():
    with lab.veth() as pair:
        with pb.open(f"xdp:{pair.a.ifname}", netns=pair.a.netns) as port:
            with pytest.raises(pb.PybypassError) as e:
                pb.Engine(port, ip=pair.a.ip, kernel_tap="pbk0")
            assert e.value.code == "PB040"
        for name in ("", "x" * 16, "a/b"):
            with pb.open("mem:tapped") as port, pytest.raises(pb.PybypassError) as e:
                pb.Engine(port, ip="10.0.0.1/24", kernel_tap=name)
            assert e.value.code == "PB040"
        run(pair.a.netns, "ip", "tuntap", "add", "pbk1", "mode", "tun")
        with pb.open("mem:tapped") as port:
            port.netns = pair.a.netns
            with pytest.raises(pb.PybypassError) as e:
                pb.Engine(port, ip="10.0.0.1/24", kernel_tap="pbk1")
            assert e.value.hint


@root
@pytest.mark.parametrize("inline", [False, True])
def test_the_kernel_across_af_xdp(inline):
    with lab.veth(ipv6=True) as pair:
        port = pb.open(f"dpdk:net_af_xdp{next(NUMBER)}?iface={pair.a.ifname}&frames=8192", netns=pair.a.netns)
        with port, pb.Engine(port, ip=[f"{pair.a.ip}/24", f"{pair.a.ip6}/64"], inline=inline) as engine:
            for ip in (pair.b.ip, pair.b.ip6):
                with listening(pair.b.netns, ip) as server:
                    connection = engine.connect((ip, server.getsockname()[1]), timeout=10)
                    peer, _ = server.accept()
                    exchange(connection, peer, 4 << 20)
            assert port.pool()["recovered"] == 0
            umem = port.umem
        assert umem.info()["owners"]["free"] == umem.info()["frames"]


def test_two_engines_over_memif(tmp_path):
    where = tmp_path / "m.sock"
    with (
        pb.open(f"dpdk:net_memif{next(NUMBER)}?role=server&socket={where}&frames=8192") as a,
        pb.open(f"dpdk:net_memif{next(NUMBER)}?role=client&socket={where}&frames=8192") as b,
    ):
        eventually(lambda: a.link()["up"] and b.link()["up"])
        with pb.Engine(a, ip="10.0.0.1/24") as one, pb.Engine(b, ip="10.0.0.2/24") as two:
            with two.listen(7000) as listener:
                near = one.connect(("10.0.0.2", 7000), timeout=10)
                exchange(near, listener.accept(10), 4 << 20)
            for engine in (one, two):
                drops = engine.stats()["drops"]
                assert set(drops) <= {"tcp_dup", "tcp_ooo_limit", "tcp_ack"}, drops


@root
def test_a_port_that_stops_under_an_engine():
    """Segments are lost for a while, and the flow goes on."""
    with tap() as (engine, netns), listening(netns, KERNEL) as server:
        connection = engine.connect((KERNEL, server.getsockname()[1]), timeout=10)
        peer, _ = server.accept()
        stopped = []

        def disturb():
            for _ in range(3):
                time.sleep(0.02)
                engine.port.stop()
                stopped.append(engine.stats()["rx_pkts"])
                time.sleep(0.05)
                stopped.append(engine.stats()["rx_pkts"])
                engine.port.start()

        thread = threading.Thread(target=disturb)
        thread.start()
        exchange(connection, peer, 32 << 20)
        thread.join()
        assert stopped[0::2] == stopped[1::2], "nothing comes while it is stopped"


def test_an_engine_whose_port_is_pulled_away():
    found = []

    def connect(engine):
        try:
            engine.connect(("10.0.0.2", 7), timeout=20)
        except pb.PybypassError as e:
            found.append(e)

    with pb.open(f"dpdk:net_ring{next(NUMBER)}?frames=8192") as port:
        with pb.Engine(port, ip="10.0.0.1/24") as engine:
            thread = threading.Thread(target=connect, args=(engine,))
            thread.start()
            eventually(lambda: engine.stats()["states"])
            port.remove()
            thread.join(10)
            assert not thread.is_alive()
            with pytest.raises(pb.PybypassError):
                port.xstats()
        umem = port.umem
    assert [e.errno for e in found] == [errno.ENODEV], found
    assert umem.info()["owners"]["free"] == umem.info()["frames"]
