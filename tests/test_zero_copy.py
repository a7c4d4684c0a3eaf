"""Payload where the NIC wrote it and where it is sent from, both ways at once, while segments are lost and sent again and
completions come late: what a view shows never changes while it lives, and every byte arrives (mem, xdp and dpdk)."""

import collections
import contextlib
import itertools
import socket
import subprocess
import threading

import numpy as np
import pytest

import pybypass as pb
from pybypass import dpdk
from pybypass import lab as laboratory
from pybypass.netns import NetNs

SIZE = 600_000
HELD = 6
NUMBER = itertools.count(500)
CONFIG = pb.EngineConfig(rto_min=0.01, time_wait=0.1)


def pattern(start, count):
    """The bytes of the stream from `start` on: no two pieces of it are alike."""
    at = np.arange(start, start + count, dtype=np.uint64)
    return ((at * 11 + (at >> 8) * 3 + (at >> 16) * 7) & 0xFF).astype(np.uint8)


def echoed(connection):
    """Sends the pattern and reads it back by views, of which the last HELD are kept and looked at again."""
    connection.settimeout(60)
    sender = threading.Thread(target=lambda: connection.sendall(pattern(0, SIZE).tobytes()))
    sender.start()
    held, got = collections.deque(), 0
    while got < SIZE:
        view = connection.recv_view()
        assert view is not None
        assert not view.flags.owndata
        assert (view == pattern(got, len(view))).all()
        held.append((got, view))
        got += len(view)
        while len(held) > HELD:
            at, old = held.popleft()
            assert (old == pattern(at, len(old))).all()
            del old
    for at, old in held:
        assert (old == pattern(at, len(old))).all()
    held.clear()
    del view, old
    sender.join(60)
    assert not sender.is_alive()
    info = connection.info()
    assert info["bytes_received"] == SIZE
    return info


def echo(connection):
    """The other end: what comes goes back."""
    with contextlib.closing(connection):
        while data := connection.recv(65536):
            connection.sendall(data)


def free_again(umem):
    info = umem.info()
    assert info["owners"]["free"] == info["frames"], info
    assert info["violations"] == 0


# What is held back is sent again while the link, and so the device, has it still.
HELD_BACK = {"reorder_ppm": 30_000, "reorder_ns": 20_000_000}


def sent_again(engine, port):
    """How often the engine sent again what the device held: (by chain, by copy). It is one or the other, as the report says."""
    own = engine.stats()["own"]
    chained, copied = own["RetransChained"], own["RetransCopied"]
    assert (copied if port.report["tx_chains"] else chained) == 0
    return chained, copied


def over(port, engine, ours, peer):
    thread = threading.Thread(target=echo, args=(peer,))
    thread.start()
    info = echoed(ours)
    ours.close()
    thread.join(60)
    assert not thread.is_alive()
    return info


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mem_with_late_and_shuffled_completions(seed):
    slow = f"?frames=4096&completion_delay_ns=2000000&completion_reorder=1&seed={seed}"
    with pb.open(f"mem:zc{slow}", impair_tx=pb.Impairment(loss_ppm=20_000, seed=seed)) as x, pb.open(f"mem:zc{slow}") as y:
        with pb.Engine(x, ip="10.0.0.1/24", config=CONFIG) as a, pb.Engine(y, ip="10.0.0.2/24", config=CONFIG) as b:
            with b.listen(80) as listener:
                ours = a.connect(("10.0.0.2", 80), timeout=10)
                info = over(x, a, ours, listener.accept(10))
                assert info["retransmits"] > 0
        memories = (x.umem, y.umem)
    for umem in memories:
        free_again(umem)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mem_sends_again_what_the_device_holds(seed):
    """The receiver's link loses packets: the sender's device has them still, and gives them back late, in any order."""
    slow = f"?frames=4096&completion_delay_ns=30000000&completion_reorder=1&seed={seed}"
    lossy = pb.Impairment(loss_ppm=30_000, seed=seed)
    with pb.open(f"mem:zc{slow}", impair_rx=lossy) as x, pb.open(f"mem:zc{slow}", impair_rx=lossy) as y:
        with pb.Engine(x, ip="10.0.0.1/24", config=CONFIG) as a, pb.Engine(y, ip="10.0.0.2/24", config=CONFIG) as b:
            assert x.report["tx_chains"] and y.report["tx_chains"]
            with b.listen(80) as listener:
                ours = a.connect(("10.0.0.2", 80), timeout=10)
                over(x, a, ours, listener.accept(10))
            assert sent_again(a, x)[0] > 3
            assert sent_again(b, y)[0] > 3
            assert a.stats()["drops"].get("too_long", 0) == b.stats()["drops"].get("too_long", 0) == 0
        memories = (x.umem, y.umem)
    for umem in memories:
        free_again(umem)


@pytest.mark.root
@pytest.mark.parametrize("query", ["", "?mode=generic", "?sg=off", "?sg=on", "?tx_meta=1"])
def test_xdp(lab, query):
    with lab.b.netns:
        server = socket.create_server((lab.b.ip, 0))
    held = pb.Impairment(loss_ppm=10_000, seed=5, **HELD_BACK)
    with server, pb.open(f"xdp:{lab.a.ifname}{query}", netns=lab.a.netns, impair_tx=held) as port:
        with pb.Engine(port, ip=lab.a.ip, config=CONFIG) as engine:
            ours = engine.connect((lab.b.ip, server.getsockname()[1]), timeout=10)
            info = over(port, engine, ours, server.accept()[0])
            assert info["retransmits"] > 0
            chained, copied = sent_again(engine, port)
            assert port.report["tx_chains"] == (query != "?sg=off")
            assert (copied if query == "?sg=off" else chained) > 0
        umem = port.umem
    free_again(umem)


@pytest.mark.root
def test_xdp_to_another_engine(lab):
    held = pb.Impairment(loss_ppm=10_000, seed=6, **HELD_BACK)
    with pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns, impair_tx=held) as x, pb.open(
        f"xdp:{lab.b.ifname}", netns=lab.b.netns, impair_tx=held
    ) as y:
        with pb.Engine(x, ip=lab.a.ip, config=CONFIG) as a, pb.Engine(y, ip=lab.b.ip, config=CONFIG) as b:
            with b.listen(80) as listener:
                over(x, a, a.connect((lab.b.ip, 80), timeout=10), listener.accept(10))
            assert sent_again(a, x)[0] > 0 and sent_again(b, y)[0] > 0
            assert a.stats()["drops"].get("too_long", 0) == b.stats()["drops"].get("too_long", 0) == 0
        memories = (x.umem, y.umem)
    for umem in memories:
        free_again(umem)


@pytest.mark.root
def test_dpdk():
    pytest.importorskip("pybypass._dpdk", reason="pybypass._dpdk is not built (libdpdk-dev)")
    dpdk.start(dpdk.EalOptions(huge="no"))
    netns = NetNs()
    with contextlib.closing(netns):
        uri = f"dpdk:net_tap{next(NUMBER)}?iface=pbz0&frames=8192"
        lossy = pb.Impairment(loss_ppm=10_000, seed=7, **HELD_BACK)
        with pb.open(uri, netns=netns, impair_tx=lossy) as port:
            for words in ("link set lo up", "link set pbz0 up", "addr add 10.79.0.2/24 dev pbz0"):
                assert netns.popen(["ip", *words.split()], stdout=subprocess.DEVNULL).wait(10) == 0
            netns.run(lambda: [laboratory.set_offload("pbz0", name, False) for name in ("tx", "tso", "gso", "gro")])
            with netns:
                server = socket.create_server(("10.79.0.2", 0))
            with server, pb.Engine(port, ip="10.79.0.1/24", config=CONFIG) as engine:
                ours = engine.connect(("10.79.0.2", server.getsockname()[1]), timeout=10)
                info = over(port, engine, ours, server.accept()[0])
                assert info["retransmits"] > 0
                assert port.report["tx_chains"] and sent_again(engine, port)[0] > 0
            umem = port.umem
    free_again(umem)


@pytest.mark.root
def test_dpdk_beside_the_kernel(lab):
    """net_af_packet, which copies chains into its ring."""
    pytest.importorskip("pybypass._dpdk", reason="pybypass._dpdk is not built (libdpdk-dev)")
    dpdk.start(dpdk.EalOptions(huge="no"))
    uri = f"dpdk:net_af_packet{next(NUMBER)}?iface={lab.a.ifname}&frames=8192"
    with pb.open(uri, netns=lab.a.netns, impair_tx=pb.Impairment(loss_ppm=10_000, seed=8, **HELD_BACK)) as port:
        flush = ["ip", "addr", "flush", "dev", lab.a.ifname]  # the kernel there must not answer for us
        assert lab.a.netns.popen(flush, stdout=subprocess.DEVNULL).wait(10) == 0
        with lab.b.netns:
            server = socket.create_server((lab.b.ip, 0))
        with server, pb.Engine(port, ip="10.77.0.1/24", config=CONFIG) as engine:
            ours = engine.connect((lab.b.ip, server.getsockname()[1]), timeout=10)
            over(port, engine, ours, server.accept()[0])
            assert port.report["tx_chains"] and sent_again(engine, port)[0] > 0
        umem = port.umem
    free_again(umem)
