"""Engines over mem: addresses, limits, their ports and workers, errors. The engine itself is tested in tests/c."""

import gc
import os

import pytest
from support import A, B, Pair

import pybypass as pb


@pytest.fixture
def pair():
    with Pair() as p:
        yield p


def test_no_route(pair):
    with pytest.raises(pb.PybypassError) as caught:
        pair.a.connect(("192.168.1.1", 80), timeout=1)
    assert caught.value.code == "PB056"
    with pytest.raises(pb.PybypassError) as caught:
        pair.a.connect(("fd00::1", 80), timeout=1)
    assert caught.value.code == "PB056"


def test_gateway_carries_what_is_not_local():
    with (
        pb.open("mem:gw") as x, pb.open("mem:gw") as y, pb.Engine(x, ip="10.0.0.1/24", gw="10.0.0.2") as a,
        pb.Engine(y, ip=["10.0.0.2/24", "10.9.9.9/24"], gw="10.0.0.1") as b,
        b.listen(80, ip="10.9.9.9") as listener,
    ):  # fmt: skip
        with a.connect(("10.9.9.9", 80), timeout=5) as c, listener.accept(5) as s:
            c.sendall(b"via")
            assert s.recv(10) == b"via"


def test_vlan_keeps_to_itself():
    with pb.open("mem:vlan") as x, pb.open("mem:vlan") as y:
        with (
            pb.Engine(x, ip="10.0.0.1/24", vlan=7) as a, pb.Engine(y, ip="10.0.0.2/24", vlan=7) as b,
            b.listen(80) as listener,
        ):  # fmt: skip
            with a.connect(("10.0.0.2", 80), timeout=5) as c, listener.accept(5) as s:
                c.sendall(b"tagged")
                assert s.recv(10) == b"tagged"
    with pb.open("mem:vlan") as x, pb.open("mem:vlan") as y:
        with pb.Engine(x, ip="10.0.0.1/24", vlan=7) as a, pb.Engine(y, ip="10.0.0.2/24", vlan=8) as b, b.listen(80):
            with pytest.raises(TimeoutError):
                a.connect(("10.0.0.2", 80), timeout=0.2)
            assert b.stats()["drops"]["l2_vlan"] >= 1


def test_closed_engine():
    p = Pair()
    c, s = p.connect()
    p.close()
    for use in (p.a.stats, lambda: p.a.connect((B, 80)), c.close):
        if use == c.close:
            use()
            continue
        with pytest.raises(pb.PybypassError) as caught:
            use()
        assert caught.value.code == "PB043"
    s.close()


def test_engine_close_says_goodbye(pair):
    c, s = pair.connect()
    c.sendall(b"last words")
    pair.a.close()
    assert s.recv(100) == b"last words"
    assert s.recv(100) == b""
    s.close()


def test_port_close_closes_its_engine():
    with pb.open("mem:own") as port:
        engine = pb.Engine(port, ip="10.0.0.1/24")
        port.close()
        assert engine.closed


def test_a_port_has_one_engine(pair):
    with pytest.raises(pb.PybypassError) as caught:
        pb.Engine(pair.ports[0], ip="10.0.0.9/24")
    assert caught.value.code == "PB013"
    for use in (pair.ports[0].rx_burst, lambda: pair.ports[0].alloc_burst(1)):
        with pytest.raises(pb.PybypassError) as caught:
            use()
        assert caught.value.code == "PB013"


def test_engine_refuses_a_port_with_frames_in_bursts():
    with pb.open("mem:busy") as port:
        burst = port.alloc_burst(1)
        with pytest.raises(BufferError):
            pb.Engine(port, ip="10.0.0.1/24")
        burst.release()
        pb.Engine(port, ip="10.0.0.1/24").close()


@pytest.mark.parametrize(
    "bad",
    [
        {"rcvbuf": 1}, {"sndbuf": 1 << 40}, {"max_connections": 0}, {"rto_min": 0}, {"rto_min": 10, "rto_max": 1},
        {"ttl": 0}, {"syn_retries": -1}, {"delayed_ack": 1}, {"keepalive_probes": 0},
    ],
)  # fmt: skip
def test_configuration_out_of_range(bad):
    with pytest.raises(pb.PybypassError) as caught:
        pb.EngineConfig(**bad)
    assert caught.value.code == "PB040"


@pytest.mark.parametrize(
    "bad",
    [
        {}, {"ip": "10.0.0.1"}, {"ip": "10.0.0.300/24"}, {"ip": "10.0.0.1/24", "vlan": 5000},
        {"ip": "10.0.0.1/24", "inline": True, "cpu": 0}, {"ip": "224.0.0.1/4"},
    ],
)  # fmt: skip
def test_engine_arguments(bad):
    with pb.open("mem:bad") as port:
        with pytest.raises(pb.PybypassError) as caught:
            pb.Engine(port, **bad)
        assert caught.value.code == "PB040"
        del caught
    del port
    gc.collect()
    assert not any(pb.live_handles().values())


def test_no_such_cpu():
    with pytest.raises(pb.PybypassError) as caught:
        pb.Worker(cpu=4095)
    assert caught.value.code == "PB044"


def test_listen_errors(pair):
    with pytest.raises(pb.PybypassError) as caught:
        pair.b.listen(80)
    assert caught.value.code == "PB042"
    for bad in (0, 65536, -1):
        with pytest.raises(pb.PybypassError):
            pair.b.listen(bad)
    with pytest.raises(pb.PybypassError):
        pair.b.listen(90, backlog=0)


def test_backlog_is_a_limit(pair):
    small = pair.b.listen(90, backlog=2)
    first = [pair.a.connect((B, 90), timeout=5) for _ in range(2)]
    with pytest.raises(TimeoutError):
        pair.a.connect((B, 90), timeout=0.3)
    assert pair.b.stats()["drops"]["tcp_backlog"] >= 1
    accepted = [small.accept(5) for _ in range(2)]
    for s in (*first, *accepted, small):
        s.close()


def test_source_port_and_address(pair):
    c = pair.a.connect((B, 80), timeout=5, source=(A, 12345))
    s = pair.listener.accept(5)
    assert c.getsockname() == (A, 12345)
    with pytest.raises(pb.PybypassError) as caught:
        pair.a.connect((B, 80), timeout=1, source=(A, 12345))
    assert caught.value.code == "PB042"
    c.sendall(b"still alive")
    assert s.recv(100) == b"still alive"
    with pytest.raises(pb.PybypassError) as caught:
        pair.a.connect((B, 80), timeout=1, source=("10.0.0.99", 1))
    assert caught.value.code == "PB041"
    c.close()
    s.close()


def test_worker_says_where_it_runs():
    cpu = min(os.sched_getaffinity(0))
    worker = pb.Worker(cpu=cpu, spin_us=10)
    assert not worker.running
    with pb.open("mem:worker") as port, pb.Engine(port, ip="10.0.0.1/24", worker=worker) as engine:
        assert worker.running
        assert worker.pinned
        assert engine.pinned
        assert worker.isolated == (cpu in pb.worker.isolated_cpus())
        with pb.open("mem:worker") as other, pytest.raises(pb.PybypassError):
            pb.Engine(other, ip="10.0.0.2/24", worker=worker)
    assert not worker.running
