"""Connections over mem: blocking, timeouts, half-close, views, errors. The engine itself is tested in tests/c."""

import errno
import gc
import socket
import threading
import time
import warnings

import numpy as np
import pytest
from support import B, Pair, eventually, exchange

import pybypass as pb


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
    exchange(*pair.connect(), 8 << 20)


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


def keep_all(receiver, sender, total):
    """Every view of `total` bytes of a pattern, all kept."""
    data = np.arange(total, dtype=np.uint32).astype(np.uint8)
    feeder = threading.Thread(target=sender.sendall, args=(data,))
    feeder.start()
    views = []
    while sum(map(len, views)) < total:
        views.append(receiver.recv_view())
    feeder.join()
    assert np.array_equal(np.concatenate(views), data)
    return views


def test_views_that_are_kept_do_not_stop_the_stream():
    with Pair(config_a=pb.EngineConfig(rcvbuf=65536)) as p:
        c, s = p.connect()
        c.settimeout(5)
        views = keep_all(c, s, 300_000)
        pinned = [v for v in views if v.base is not None]
        frame = p.ports[0].umem.info()["frame_bytes"]
        assert len(pinned) == 65536 // 2 // frame  # the rest are copies
        assert p.ports[0].umem.info()["owners"]["app"] == len(pinned)
        views.clear()
        pinned.clear()
        gc.collect()
        assert keep_all(c, s, 20_000)[0].base is not None  # in frames again
        c.close()
        s.close()


def test_views_of_many_connections_leave_frames_to_the_port():
    with Pair(config_a=pb.EngineConfig(rcvbuf=1 << 24)) as p:
        frames = p.ports[0].umem.info()["frames"]
        kept = []
        for _ in range(4):
            c, s = p.connect()
            c.settimeout(5)
            kept.append((c, s, keep_all(c, s, frames // 2 * 1000)))
        held = p.ports[0].umem.info()["owners"]["app"]
        assert frames // 4 < held < frames
        assert held == sum(v.base is not None for *_, views in kept for v in views)
        for c, s, views in kept:
            views.clear()
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
    assert info["rto_us"] == info["srtt_us"] + 200_000 or info["rto_us"] >= 200_000
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


@pytest.mark.parametrize("seed", range(10))
def test_bytes_survive_an_impaired_link(seed):
    link = {"loss_ppm": 10000, "dup_ppm": 10000, "corrupt_ppm": 10000, "reorder_ppm": 10000, "reorder_ns": 300000}
    impair = {"impair_rx": pb.Impairment(**link, seed=seed), "impair_tx": pb.Impairment(**link, seed=seed + 1000)}
    uri = f"mem:tcp?completion_delay_ns=20000&completion_reorder=1&seed={seed}"
    config = pb.EngineConfig(rto_min=0.01)
    with Pair(uri=uri, config_a=config, config_b=config, **impair) as p:
        exchange(*p.connect(), 300_000)
