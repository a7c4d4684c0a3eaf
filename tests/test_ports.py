"""Ports on mem: URIs, bursts, views and who owns which frame."""

import dataclasses
import gc
import os
import threading

import numpy as np
import pytest

import pybypass as pb
from pybypass.ports import Uri


@pytest.fixture
def pair():
    with pb.open("mem:pair?frames=512") as a, pb.open("mem:pair?frames=512") as b:
        yield a, b
        for port in (a, b):
            if not port.closed:
                assert port.queues[0].held_frames == 0


def owners(port):
    return {k: v for k, v in port.umem.info()["owners"].items() if v}


def send(port, *payloads):
    with port.alloc_burst(len(payloads)) as burst:
        for i, data in enumerate(payloads):
            burst.write(i, data)
        assert port.tx_burst(burst) == len(payloads)
        assert len(burst) == 0


# ---- URIs ----


def test_uri_is_taken_apart():
    uri = Uri.parse("xdp:eth1?queue=3&mode=native")
    assert (uri.scheme, uri.name, uri.options) == ("xdp", "eth1", {"queue": "3", "mode": "native"})


@pytest.mark.parametrize(
    "bad",
    [
        "", "mem", "mem:", "udp:a", "mem:a?x=1", "mem:a?frames=many", "mem:a?frames", "mem:a?frames=1",
        "mem:a?frame=100", "mem:a?pages=huge", "mem:" + "x" * 40, "mem:a?ring=3", "mem:a?mtu=70000", "mem:a?mtu=-1",
        "xdp:lo?mode=fast", "xdp:lo?queue=x", "xdp:lo?queue=70000", "xdp:lo?copy=no", "xdp:lo?ring=0", "xdp:" + "n" * 20,
        "mem:a\0b", "xdp:lo\0", "mem:a\ud800", "mem:a?frames=99999999999999", "mem:a?frames=" + "9" * 5000,
        "mem:a?frame=99999999999999", "mem:a?ring=99999999999999", "mem:a?mtu=0", "mem:a?seed=-1", f"mem:a?seed={1 << 64}",
        "mem:a?completion_delay_ns=-1", "mem:a?completion_reorder=2", "mem:a?frames=64&frames=128",
        "xdp:lo?ring=3", "xdp:lo?ring=96", "xdp:lo?ring=65536", "xdp:lo?deadline_ms=-1", "xdp:lo?frames=99999999999999",
    ],
)  # fmt: skip
def test_malformed_uri(bad):
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(bad)
    assert caught.value.code == "PB010"
    assert caught.value.errno
    assert caught.value.hint
    del caught  # its traceback holds the Umem
    gc.collect()
    assert not any(pb.live_handles().values())


def test_third_end_is_busy(pair):
    with pytest.raises(pb.PybypassError) as caught:
        pb.open("mem:pair")
    assert caught.value.code == "PB023"


def test_an_end_can_be_opened_again():
    for _ in range(20):
        with pb.open("mem:again?frames=64&ring=16") as a, pb.open("mem:again?frames=64&ring=16") as b:
            assert a.mac != b.mac


def test_impairment_out_of_range():
    with pytest.raises(pb.PybypassError) as caught:
        pb.open("mem:imp", impair_tx=pb.Impairment(loss_ppm=2_000_000))
    assert caught.value.code == "PB010"
    del caught
    gc.collect()
    assert not any(pb.live_handles().values())


@pytest.mark.parametrize("value", [-1, 1 << 70, "1", 1.5, None])
@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(pb.Impairment)])
def test_impairment_with_a_field_out_of_range(field, value):
    with pytest.raises(pb.PybypassError) as caught:
        pb.Impairment(**{field: value})
    assert caught.value.code == "PB010"
    assert field in str(caught.value)
    assert "whole number from 0 to" in caught.value.hint


@pytest.mark.parametrize("capacity", [0, 3])
def test_capacity_that_is_no_power_of_two(capacity):
    with pytest.raises(pb.PybypassError) as caught:
        pb.open("mem:imp", impair_tx=pb.Impairment(capacity=capacity))
    assert caught.value.code == "PB010"
    del caught
    gc.collect()
    assert not any(pb.live_handles().values())


# ---- bursts ----


def test_frames_arrive_with_their_descriptors(pair):
    a, b = pair
    send(a, b"x" * 60, b"y" * 1514)
    with b.rx_burst() as burst:
        desc = burst.desc
        assert desc.dtype == pb.DESC_DTYPE
        assert desc.dtype.itemsize == 32
        assert desc["len"].tolist() == [60, 1514]
        assert pb.TS_SOURCES[desc["ts_source"][0]] == "user"
        assert (desc["ts_ns"] > 0).all()
        assert burst.view(0).tobytes() == b"x" * 60
        assert bytes(burst.payload(-1)) == b"y" * 1514
        with pytest.raises(IndexError):
            burst.view(2)
    assert owners(b)["free"] == 512


def test_views_are_no_copies(pair):
    a, b = pair
    send(a, bytes(100))
    burst = b.rx_burst()
    view, again = burst.view(0), burst.view(0)
    view[:4] = (1, 2, 3, 4)
    assert again[:4].tolist() == [1, 2, 3, 4]
    del view, again
    burst.release()


def test_empty_burst(pair):
    with pair[0].rx_burst() as burst:
        assert len(burst) == 0
        assert not burst
        assert burst.desc.shape == (0,)


def test_held_frames_are_pinned(pair):
    a, b = pair
    send(a, b"pinned" * 10)
    burst = b.rx_burst()
    view = burst.view(0)
    part = view[2:8].view(np.uint8)
    for use in (burst.release, lambda: b.tx_burst(burst), b.close):
        with pytest.raises(BufferError):
            use()
    assert b.queues[0].live_views == 1
    del view
    with pytest.raises(BufferError):  # a slice of it is alive
        burst.release()
    assert part.tobytes() == b"nnedpi"
    del part
    burst.release()
    for access in (lambda: burst.desc, lambda: burst.view(0), lambda: burst.payload(0), lambda: b.tx_burst(burst)):
        with pytest.raises(ValueError, match="released"):
            access()
    burst.release()  # again does nothing


def test_a_view_outlives_the_names_of_its_burst(pair):
    a, b = pair
    send(a, b"z" * 64)
    view = b.rx_burst().view(0)
    gc.collect()
    assert owners(b)["app"] == 1
    assert view.tobytes() == b"z" * 64
    del view
    assert "app" not in owners(b)


def test_held_frames_are_capped(pair):
    _, b = pair
    b.queues[0].max_held = 64
    hoard = [b.alloc_burst(64)]
    with pytest.raises(pb.PybypassError) as caught:
        b.rx_burst(64)
    assert caught.value.code == "PB003"
    hoard.clear()
    b.rx_burst(64).release()


def test_alloc_burst_when_the_pool_is_empty():
    with pb.open("mem:small?frames=64&ring=8") as a:
        burst = a.alloc_burst(64)
        with pytest.raises(pb.PybypassError) as caught:
            a.alloc_burst(1)
        assert caught.value.code == "PB003"
        burst.release()
        assert owners(a) == {"free": 64}


def test_what_the_device_does_not_take_stays_with_the_caller():
    with pb.open("mem:full?frames=256&ring=16") as a, pb.open("mem:full?frames=256&ring=16") as b:
        burst = a.alloc_burst(40, length=60)
        for i in range(40):
            burst.write(i, bytes([i]) * 60)
        sent = a.tx_burst(burst)
        assert 0 < sent <= 16
        assert len(burst) == 40 - sent
        assert burst.view(0)[0] == sent  # the first of the rest
        assert a.tx_burst(burst) == 0
        got = []
        while len(got) < 40:
            with b.rx_burst() as received:
                got += [int(received.view(i)[0]) for i in range(len(received))]
            a.tx_burst(burst)
        assert got == list(range(40))
        burst.release()
        a.queues[0].reap()
        assert owners(a) == {"free": 256}


def test_forwarding_without_a_copy():
    umem = pb.Umem(frames=256)
    with (
        pb.open("mem:l", umem=umem) as left, pb.open("mem:r", umem=umem) as right,
        pb.open("mem:l?frames=128") as outer_left, pb.open("mem:r?frames=128") as outer_right,
    ):  # fmt: skip
        send(outer_left, b"through" * 10)
        with left.rx_burst() as burst:
            assert right.tx_burst(burst) == 1
        with outer_right.rx_burst() as burst:
            assert bytes(burst.payload(0)) == b"through" * 10
        right.queues[0].reap()
        assert umem.info()["owners"]["free"] == 256


def test_frames_of_another_umem_are_refused(pair):
    a, b = pair
    with a.alloc_burst(1, length=60) as burst, pytest.raises(pb.PybypassError, match="Umem"):
        b.tx_burst(burst)


@pytest.mark.parametrize(
    ("field", "value"), [("addr", 1 << 40), ("addr", 2048), ("off", 2000), ("len", 2048), ("len", 65535)]
)
def test_descriptor_that_leaves_its_frame(pair, field, value):
    a, _ = pair
    with a.alloc_burst(2, length=100) as burst:
        burst.desc[1][field] = value if field != "addr" else burst.desc[1]["addr"] + value
        with pytest.raises(ValueError, match="leaves its frame"):
            a.tx_burst(burst)
        assert len(burst) == 2
        if field != "addr":
            with pytest.raises(ValueError, match="leaves its frame"):
                burst.view(1)


def test_oversized_frames_are_counted_and_dropped(pair):
    a, b = pair
    send(a, bytes(1519))
    assert a.stats()["drops"] == {"too_long": 1}
    assert a.stats()["queues"] == [{"index": 0, "member": 0, **a.queues[0].stats()}]
    with b.rx_burst() as burst:
        assert not burst


def test_write_checks_its_size(pair):
    a, _ = pair
    with a.alloc_burst(1) as burst:
        with pytest.raises(ValueError, match="do not fit"):
            burst.write(0, bytes(2048))
        with pytest.raises(IndexError):
            burst.write(1, b"")


@pytest.mark.parametrize("n", [0, -1, 65])
def test_burst_sizes(pair, n):
    with pytest.raises(ValueError):
        pair[0].rx_burst(n)
    with pytest.raises(ValueError):
        pair[0].alloc_burst(n)


def test_closed_port(pair):
    a, _ = pair
    a.close()
    a.close()
    for use in (a.rx_burst, lambda: a.alloc_burst(1), a.stats):
        with pytest.raises(pb.PybypassError) as caught:
            use()
        assert caught.value.code == "PB012"
    assert "closed" in repr(a)


def test_burst_survives_the_close_of_its_port(pair):
    a, b = pair
    send(a, b"later" * 20)
    burst = b.rx_burst()
    b.close()
    assert burst.desc["len"].tolist() == [100]
    burst.release()
    assert owners(b) == {"free": 512}


def test_two_threads_on_one_queue():
    """One of them is refused, or they take turns; nothing is lost."""
    with pb.open("mem:threads") as a, pb.open("mem:threads") as b:
        stop, refused, got = threading.Event(), [], []

        def reader():
            while not stop.is_set():
                try:
                    with b.rx_burst() as burst:
                        got.append(len(burst))
                except pb.PybypassError as e:
                    refused.append(e.code)

        threads = [threading.Thread(target=reader) for _ in range(2)]
        for t in threads:
            t.start()
        for _ in range(200):
            send(a, bytes(60), bytes(60))
        while sum(got) < 400:
            pass
        stop.set()
        for t in threads:
            t.join()
        assert sum(got) == 400
        assert set(refused) <= {"PB014"}


def test_use_after_fork_is_refused(pair):
    a, _ = pair
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            a.rx_burst()
            os.write(w, b"no error")
        except pb.PybypassError as e:
            os.write(w, e.code.encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(r, 20) == b"PB015"
    os.close(r)
    os.close(w)
    a.rx_burst().release()


def test_completions_delayed_and_reordered():
    uri = "mem:late?frames=256&completion_delay_ns=1000000&completion_reorder=1&seed=7"
    with pb.open(uri) as a, pb.open("mem:late") as b:
        for _ in range(10):
            send(a, *[bytes(60)] * 8)
            with b.rx_burst() as burst:
                assert len(burst) == 8
        assert owners(a).get("tx", 0) > 0
        while "tx" in owners(a):
            a.queues[0].reap()
        assert owners(a) == {"free": 256}


def test_impaired_port_loses_by_seed():
    def arrivals(seed):
        link = pb.Impairment(loss_ppm=300_000, seed=seed)
        with pb.open("mem:lossy", impair_tx=link) as a, pb.open("mem:lossy") as b:
            got = []
            for i in range(200):
                send(a, i.to_bytes(2, "big") * 30)
                with b.rx_burst() as burst:
                    got += [int.from_bytes(burst.payload(k)[:2], "big") for k in range(len(burst))]
            drops = a.stats()["drops"]
            assert drops == {"link_loss": 200 - len(got)}
            return got

    first = arrivals(1)
    assert 80 < len(first) < 190
    assert arrivals(1) == first
    assert arrivals(2) != first


def test_info(pair):
    info = pair[0].info()
    assert info["mode"] == "mem"
    assert info["mtu"] == 1500
    assert info["umem"]["frames"] == 512
