"""Neighbours that the kernel finds for an engine on AF_XDP: one that is not there keeps nobody waiting."""

import errno
import ipaddress
import socket
import threading
import time

import pytest

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
