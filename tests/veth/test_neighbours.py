"""Neighbours that the kernel finds for an engine on AF_XDP: one that is not there keeps nobody waiting."""

import errno
import ipaddress
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support import eventually

import pybypass as pb
from pybypass import lab as laboratory
from pybypass import neighbours

pytestmark = pytest.mark.root


def test_lookup_and_ask():
    with laboratory.veth(ipv6=True) as lab, lab.a.netns:
        there = [ipaddress.ip_address(lab.b.ip), ipaddress.ip_address(lab.b.ip6)]
        nobody = ipaddress.ip_address("10.77.0.99")
        assert neighbours.lookup(lab.a.ifindex, [*there, nobody]) == {}
        for ip in (*there, nobody):
            neighbours.ask(lab.a.ifindex, ip)
        until = time.monotonic() + 10
        while len(found := neighbours.lookup(lab.a.ifindex, [*there, nobody])) < 2:
            assert time.monotonic() < until
        assert found == dict.fromkeys(there, bytes.fromhex(lab.b.mac.replace(":", "")))
        assert neighbours.lookup(lab.a.ifindex + 1, there) == {}
        assert neighbours.lookup(lab.a.ifindex, []) == {}
        with pytest.raises(OSError) as caught:
            neighbours.ask(999, nobody)
        assert caught.value.errno == errno.ENODEV


def kernel_server(side):
    with side.netns:
        return socket.create_server((side.ip, 5000))


@pytest.mark.parametrize("inline", [False, True])
def test_the_first_connect_of_an_idle_engine_needs_no_second_syn(lab, inline):
    uri = f"xdp:{lab.a.ifname}"
    with kernel_server(lab.b), pb.open(uri, netns=lab.a.netns) as port:
        with pb.Engine(port, ip=lab.a.ip, inline=inline) as engine:
            connection = engine.connect((lab.b.ip, 5000), timeout=10)
            assert connection.info()["retransmits"] == 0
            assert engine.slowpath.counters["kernel_asked"] == 1
            connection.close()


def test_dead_neighbours_do_not_delay_a_live_one(lab):
    uri = f"xdp:{lab.a.ifname}"
    with kernel_server(lab.b), pb.open(uri, netns=lab.a.netns) as port, pb.Engine(port, ip=lab.a.ip) as engine:

        def nobody(i):
            with pytest.raises(TimeoutError):
                engine.connect((f"10.77.0.{100 + i}", 80), timeout=1.0)

        threads = [threading.Thread(target=nobody, args=(i,)) for i in range(24)]
        for t in threads:
            t.start()
        until = time.monotonic() + 10
        while engine.slowpath.counters["kernel_asked"] < 24:
            assert time.monotonic() < until
        connection = engine.connect((lab.b.ip, 5000), timeout=10)
        # The SYN waited for its neighbour, and not behind 24 others; once more is a busy machine's.
        assert connection.info()["retransmits"] <= 1
        connection.close()
        for t in threads:
            t.join()
        until = time.monotonic() + 10
        while engine.slowpath.counters["unresolved"] < 24:
            assert time.monotonic() < until, engine.slowpath.counters
            time.sleep(0.01)


def test_doubt_of_a_neighbour_that_does_not_answer():
    with laboratory.veth() as lab, lab.a.netns:
        there, nobody = ipaddress.ip_address(lab.b.ip), ipaddress.ip_address("10.77.0.99")
        assert not neighbours.doubt(lab.a.ifindex, nobody), "it is not known"
        neighbours.ask(lab.a.ifindex, there)
        eventually(lambda: neighbours.lookup(lab.a.ifindex, [there]))
        assert neighbours.doubt(lab.a.ifindex, there)
        eventually(lambda: neighbours.doubt(lab.a.ifindex, there))  # it answered, so it may be doubted again


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "owned"])
def test_a_neighbour_that_moved_in_silence_is_found_at_r1(lab, kernel):
    """Its MAC address is another one, and nobody says so: three retransmissions later it is asked, and then found."""
    config = pb.EngineConfig(rto_min=0.05, rto_max=1.0)
    ip = lab.a.ip if kernel else "10.77.0.50"
    uri = f"xdp:{lab.a.ifname}"
    with lab.a.netns:
        for family in ("ipv4", "ipv6"):
            Path(f"/proc/sys/net/{family}/neigh/{lab.a.ifname}/retrans_time_ms").write_text("100")
    with kernel_server(lab.b) as server, pb.open(uri, netns=lab.a.netns) as port:
        with pb.Engine(port, ip=f"{ip}/24", config=config) as engine:
            connection = engine.connect((lab.b.ip, 5000), timeout=10)
            peer, _ = server.accept()
            with peer:
                connection.sendall(b"before")
                assert peer.recv(100) == b"before"
                with lab.b.netns:
                    subprocess.run(["ip", "link", "set", lab.b.ifname, "address", "02:00:00:00:77:02"], check=True)
                connection.sendall(b"after")
                peer.settimeout(20)
                assert peer.recv(100) == b"after"
                counters = engine.slowpath.counters
                assert counters["neighbour_doubted"] >= 1, counters
                assert connection.info()["timeouts"] >= 3
            connection.close()
