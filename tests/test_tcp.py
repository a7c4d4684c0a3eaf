"""The Python face of TCP, over mem: blocking, timeouts, half-close, views, errors. The engine itself is tested in tests/c."""

import errno
import gc
import socket
import threading
import time
import warnings

import numpy as np
import pytest

import pybypass as pb

A, B = "10.0.0.1", "10.0.0.2"


def eventually(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


class Pair:
    """Two engines over mem; b listens at port 80."""

    def __init__(self, inline=False, config_a=None, config_b=None, uri="mem:tcp", v6=False, **impair):
        self.ports = [pb.open(uri, **impair), pb.open(uri)]
        ips = ("fd00::1", "fd00::2") if v6 else (A, B)
        bits = 64 if v6 else 24
        self.ip_a, self.ip_b = ips
        self.a = pb.Engine(self.ports[0], ip=f"{ips[0]}/{bits}", inline=inline, config=config_a)
        self.b = pb.Engine(self.ports[1], ip=f"{ips[1]}/{bits}", config=config_b)
        self.listener = self.b.listen(80)

    def connect(self, **how):
        c = self.a.connect((self.ip_b, 80), timeout=5, **how)
        s = self.listener.accept(5)
        for x in (c, s):
            x.settimeout(10)
        return c, s

    def close(self):
        for engine in (self.a, self.b):
            engine.close()
        for port in self.ports:
            port.close()
            info = port.umem.info()
            assert info["owners"]["free"] == info["frames"], info
            assert info["violations"] == 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


@pytest.fixture
def pair():
    with Pair() as p:
        yield p


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("v6", [False, True])
def test_bytes_both_ways_and_half_close(inline, v6):
    with Pair(inline=inline, v6=v6) as p:
        c, s = p.connect()
        assert c.getpeername() == (p.ip_b, 80)
        assert s.getpeername() == c.getsockname()
        c.sendall(b"question")
        assert s.recv(100) == b"question"
        c.shutdown(socket.SHUT_WR)
        if inline:
            p.a.poll()
        assert s.recv(100) == b""
        s.sendall(b"answer" * 5000)  # the other direction is open still
        got = bytearray()
        while piece := c.recv(1 << 16):
            got += piece
            if len(got) == 30000:
                s.shutdown(socket.SHUT_WR)
        assert got == b"answer" * 5000
        assert c.wait_closed(5)
        assert c.info()["state"] == "TIME_WAIT"
        c.close()
        s.close()


def test_large_transfer_in_both_directions_at_once(pair):
    from pybypass.labpeer import Transfer

    c, s = pair.connect()
    result = {}
    t = threading.Thread(target=lambda: result.update(Transfer(s, 2, 8 << 20).run()))
    t.start()
    mine = Transfer(c, 1, 8 << 20).run()
    t.join()
    assert mine["sha_sent"] == result["sha_received"]
    assert result["sha_sent"] == mine["sha_received"]
    assert mine["received"] == 8 << 20
    c.close()
    s.close()


def test_recv_view_is_the_frame_itself(pair):
    c, s = pair.connect()
    s.sendall(b"abc" * 100)
    view = c.recv_view()
    assert isinstance(view, np.ndarray)
    assert view.dtype == np.uint8
    assert view.tobytes() == b"abc" * 100
    with pytest.raises(BufferError):
        pair.a.close()
    owners = pair.ports[0].umem.info()["owners"]
    assert owners["app"] == 1
    del view
    assert pair.ports[0].umem.info()["owners"]["app"] == 0
    s.shutdown(socket.SHUT_WR)
    assert c.recv_view() is None
    c.close()
    s.close()


def test_held_views_close_the_window_and_dropping_them_opens_it():
    with Pair(config_a=pb.EngineConfig(rcvbuf=65536)) as p:
        c, s = p.connect()
        s.settimeout(0)
        held, sent = [], 0
        until = time.monotonic() + 10
        while time.monotonic() < until and (len(held) < 30 or p.connect is None):
            try:
                sent += s.send(bytes(1448))
            except BlockingIOError:
                pass
            c.settimeout(0)
            try:
                held.append(c.recv_view())
            except BlockingIOError:
                if len(held) >= 20:
                    break
        assert len(held) >= 20
        assert c.info()["rcv_wnd"] < 65536 // 2
        got = sum(map(len, held))
        held.clear()
        gc.collect()
        c.settimeout(5)
        while got < sent:
            got += len(c.recv_view())
        assert got == sent
        c.close()
        s.close()


def test_view_outlives_its_connection(pair):
    c, s = pair.connect()
    s.sendall(b"kept")
    view = c.recv_view()
    c.close()
    s.close()
    assert view.tobytes() == b"kept"


def test_refused(pair):
    with pytest.raises(ConnectionRefusedError) as caught:
        pair.a.connect((B, 81), timeout=5)
    assert caught.value.code == "PB051"
    assert caught.value.errno == errno.ECONNREFUSED
    eventually(lambda: pair.a.stats()["connections"] == 0)


def test_connect_times_out():
    with Pair(config_a=pb.EngineConfig(rto_initial=0.05, syn_retries=2)) as p:
        t = time.monotonic()
        with pytest.raises(TimeoutError):
            p.a.connect(("10.0.0.77", 80), timeout=0.1)
        assert time.monotonic() - t < 2
        with pytest.raises(TimeoutError):  # the retries are used up
            p.a.connect(("10.0.0.77", 80))
        eventually(lambda: p.a.stats()["connections"] == 0)


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


def test_timeouts(pair):
    c, s = pair.connect()
    c.settimeout(0)
    with pytest.raises(BlockingIOError):
        c.recv(10)
    c.settimeout(0.05)
    t = time.monotonic()
    with pytest.raises(TimeoutError):
        c.recv(10)
    assert 0.04 < time.monotonic() - t < 1
    with pytest.raises(TimeoutError):
        pair.listener.accept(0.05)
    with pytest.raises(BlockingIOError):
        pair.listener.accept(0)
    with pytest.raises(ValueError):
        c.settimeout(-1)
    c.close()
    s.close()


def test_send_without_waiting_stops_at_the_buffer():
    with Pair(config_a=pb.EngineConfig(sndbuf=65536), config_b=pb.EngineConfig(rcvbuf=65536)) as p:
        c, s = p.connect()
        c.settimeout(0)
        sent = 0
        until = time.monotonic() + 3
        blocked = 0
        while time.monotonic() < until and blocked < 100:
            try:
                sent += c.send(bytes(10000))
                blocked = 0
            except BlockingIOError:
                blocked += 1
                time.sleep(0.001)
        assert 65536 <= sent <= 200_000
        got = 0
        while got < sent:
            got += len(s.recv(65536))
        assert c.wait_sent(5)
        c.close()
        s.close()


def test_reset_by_peer(pair):
    c, s = pair.connect()
    s.abort()
    with pytest.raises(ConnectionResetError):
        c.recv(1)
    with pytest.raises(OSError):
        c.sendall(b"x")
    assert c.info()["error"] == errno.ECONNRESET
    c.close()


def test_close_with_unread_data_resets(pair):
    c, s = pair.connect()
    c.sendall(b"never read")
    assert c.wait_sent(5)
    s.close()
    with pytest.raises(ConnectionResetError):
        c.recv(1)
    c.close()


def test_send_after_shutdown(pair):
    c, s = pair.connect()
    c.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        c.send(b"x")
    s.sendall(b"the other way is open")
    assert c.recv(100) == b"the other way is open"
    s.close()
    c.close()


def test_closed_connection(pair):
    c, s = pair.connect()
    c.close()
    c.close()
    for use in (lambda: c.send(b"x"), lambda: c.recv(1), c.info, c.getsockname):
        with pytest.raises(pb.PybypassError) as caught:
            use()
        assert caught.value.code == "PB055"
    assert repr(c) == "<Connection closed>"
    s.close()


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


def test_many_connections(pair):
    def serve(n):
        for _ in range(n):
            with pair.listener.accept(5) as s:
                s.sendall(s.recv(10))
                assert s.recv(10) == b""

    t = threading.Thread(target=serve, args=(50,))
    t.start()
    for i in range(50):
        with pair.a.connect((B, 80), timeout=5) as c:
            c.settimeout(5)
            c.sendall(b"%d" % i)
            assert c.recv(10) == b"%d" % i
    t.join()
    assert pair.b.stats()["passive_opens"] == 50


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


def test_info_names_and_units(pair):
    c, s = pair.connect()
    c.sendall(bytes(5000))
    s.recv(5000)
    assert c.wait_sent(5)
    info = c.info()
    assert info["state"] == "ESTABLISHED"
    assert info["bytes_sent"] == info["bytes_acked"] == 5000
    assert info["mss"] == 1448
    assert info["cwnd"] >= 10 * 1448
    assert info["rto_us"] == 200_000
    assert 0 < info["srtt_us"] < 1_000_000
    assert info["segs_out"] >= 5
    assert info["retransmits"] == 0
    assert info["timestamps"] and info["sack"] and info["wscale"]
    c.close()
    s.close()


def test_keepalive_finds_a_dead_peer():
    with Pair() as p:
        c, s = p.connect()
        c.set_keepalive(0.05, 0.6, 2)
        time.sleep(1.5)
        assert c.info()["state"] == "ESTABLISHED"  # the peer answers
        assert c.info()["zero_window_probes"] >= 1
        p.a.neighbour(B, "02:00:00:00:00:99")  # now nobody does
        assert c.wait_closed(5)
        assert c.info()["error"] == errno.ETIMEDOUT
        c.close()
        s.close()


def test_unclosed_connection_warns(pair):
    c, s = pair.connect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del c
        gc.collect()
    assert any(issubclass(w.category, ResourceWarning) for w in caught)
    assert s.recv(1) == b""
    s.close()


def test_threads_share_an_engine(pair):
    def client(i):
        with pair.a.connect((B, 80), timeout=5) as c:
            c.settimeout(20)
            for k in range(50):
                c.sendall(b"%d:%d" % (i, k))
                assert c.recv(100) == b"%d:%d" % (i, k)

    def server():
        for _ in range(6):
            s = pair.listener.accept(5)
            s.settimeout(20)
            threads.append(threading.Thread(target=echo, args=(s,)))
            threads[-1].start()

    def echo(s):
        with s:
            while data := s.recv(100):
                s.sendall(data)

    threads = [threading.Thread(target=server)] + [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for t in threads[:7]:
        t.start()
    for t in threads:
        t.join(30)
        assert not t.is_alive()


def test_questions_from_many_threads_at_once(pair):
    c, s = pair.connect()

    def ask():
        for _ in range(200):
            assert c.info()["state"] == "ESTABLISHED"
            assert pair.a.stats()["connections"] == 1
            c.set_nodelay(True)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
        assert not t.is_alive()
    c.close()
    s.close()


def test_inline_engine_with_two_threads():
    with Pair(inline=True) as p:
        c, s = p.connect()
        got = []
        t = threading.Thread(target=lambda: got.append(c.recv(10)))
        t.start()
        time.sleep(0.05)  # the other thread drives the engine and waits
        c.sendall(b"ping")
        assert s.recv(10) == b"ping"
        s.sendall(b"pong")
        t.join(5)
        assert got == [b"pong"]
        c.close()
        s.close()


def test_worker_says_where_it_runs():
    import os

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


@pytest.mark.parametrize("inline", [False, True])
def test_ctrl_c_ends_a_wait(inline):
    import _thread

    with Pair(inline=inline) as p:
        c, s = p.connect()
        c.settimeout(None)
        timer = threading.Timer(0.2, _thread.interrupt_main)
        timer.start()
        t = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            c.recv(1)
        assert time.monotonic() - t < 2
        c.close()
        s.close()


@pytest.mark.parametrize("seed", range(10))
def test_bytes_survive_an_impaired_link(seed):
    from pybypass.labpeer import Transfer

    link = {"loss_ppm": 10000, "dup_ppm": 10000, "corrupt_ppm": 10000, "reorder_ppm": 10000, "reorder_ns": 300000}
    impair = {"impair_rx": pb.Impairment(**link, seed=seed), "impair_tx": pb.Impairment(**link, seed=seed + 1000)}
    uri = f"mem:tcp?completion_delay_ns=20000&completion_reorder=1&seed={seed}"
    config = pb.EngineConfig(rto_min=0.01)
    with Pair(uri=uri, config_a=config, config_b=config, **impair) as p:
        c, s = p.connect()
        result = {}
        t = threading.Thread(target=lambda: result.update(Transfer(s, 2, 300_000).run()))
        t.start()
        mine = Transfer(c, 1, 300_000).run()
        t.join(60)
        assert mine["sha_sent"] == result["sha_received"]
        assert result["sha_sent"] == mine["sha_received"]
        c.close()
        s.close()
