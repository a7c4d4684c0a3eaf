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


@pytest.mark.root
def test_xdp(lab):
    with lab.b.netns:
        server = socket.create_server((lab.b.ip, 0))
    with server, pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns, impair_tx=pb.Impairment(loss_ppm=10_000, seed=5)) as port:
        with pb.Engine(port, ip=lab.a.ip, config=CONFIG) as engine:
            ours = engine.connect((lab.b.ip, server.getsockname()[1]), timeout=10)
            info = over(port, engine, ours, server.accept()[0])
            assert info["retransmits"] > 0
        umem = port.umem
    free_again(umem)


@pytest.mark.root
def test_dpdk():
    pytest.importorskip("pybypass._dpdk", reason="pybypass._dpdk is not built (libdpdk-dev)")
    dpdk.start(dpdk.EalOptions(huge="no"))
    netns = NetNs()
    with contextlib.closing(netns):
        uri, lossy = f"dpdk:net_tap{next(NUMBER)}?iface=pbz0&frames=8192", pb.Impairment(loss_ppm=10_000, seed=7)
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
            umem = port.umem
    free_again(umem)
