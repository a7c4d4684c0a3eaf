"""An engine over a driver that holds what it was given until the other end takes it (net_ring, two ports crosswise), and
an other end that takes nothing for longer than the retransmission timeout: what is sent again is in the driver twice and
more, every byte arrives once, and no frame is lost."""

import contextlib
import ctypes
import itertools
import socket
import threading

import numpy as np
import pytest
from dpdk_frames import free
from support import eventually

import pybypass as pb

NUMBER = itertools.count()
SIZE = 3_000_000
STALLS = 3
CONFIG = pb.EngineConfig(rto_min=0.01, rto_max=0.2, time_wait=0.05)


def function(library, name, result, *arguments):
    f = getattr(library, name)
    f.restype, f.argtypes = result, arguments
    return f


@contextlib.contextmanager
def crosswise(slots=1024):
    """Names of two devices: what one sends lies in a ring until the other takes it."""
    library = ctypes.CDLL("librte_net_ring.so.23")
    create = function(library, "rte_ring_create", ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_int, ctypes.c_uint)
    queues = (ctypes.c_void_p, ctypes.c_uint)
    from_rings = function(library, "rte_eth_from_rings", ctypes.c_int, ctypes.c_char_p, *queues, *queues, ctypes.c_uint)
    number = next(NUMBER)
    rings = [create(f"pb_cross{number}_{i}".encode(), slots, -1, 0) for i in range(2)]
    assert all(rings)
    for i, name in enumerate("ab"):
        rx, tx = ((ctypes.c_void_p * 1)(ring) for ring in (rings[i], rings[1 - i]))
        assert from_rings(f"held{number}{name}".encode(), rx, 1, tx, 1, 0) >= 0
    yield [f"net_ring_held{number}{name}" for name in "ab"]
    remove = function(library, "rte_vdev_uninit", ctypes.c_int, ctypes.c_char_p)
    for name in "ab":
        assert remove(f"net_ring_held{number}{name}".encode()) == 0
    release = function(library, "rte_ring_free", None, ctypes.c_void_p)
    for ring in rings:
        release(ring)


def driver_counts(sender, receiver):
    """Packets that the sender's driver took, and that left it for the receiver."""
    return sender.hardware_stats()["tx_pkts"], receiver.hardware_stats()["rx_pkts"]


def stall(engine, sender, receiver):
    """Until the sender's timer sent again what lies in the ring, of which nobody reads: how many
    references beyond the first the driver holds then."""

    def chained():
        return engine.stats()["own"]["RetransChained"]

    took, gave = driver_counts(sender, receiver)
    before = chained()
    eventually(lambda: chained() > before)
    second = chained() - before
    held = sender.umem.info()["owners"]["tx"]
    now_took, now_gave = driver_counts(sender, receiver)
    assert now_gave == gave, "somebody read the ring"
    assert now_took - took >= second and held >= 1
    return second


@pytest.mark.parametrize("slots", [1024, 4096])
def test_what_is_sent_again_is_in_the_driver_twice(slots):
    data = np.random.default_rng(slots).integers(0, 256, SIZE, dtype=np.uint8).tobytes()
    with crosswise(slots) as (one, two), pb.open(f"dpdk:{one}?frames=8192") as x, pb.open(f"dpdk:{two}?frames=8192") as y:
        with pb.Engine(y, ip="10.0.0.2/24", config=CONFIG, inline=True) as b:
            with pb.Engine(x, ip="10.0.0.1/24", config=CONFIG) as a, b.listen(80) as listener:
                assert x.report["tx_chains"]
                a.neighbour("10.0.0.2", y.mac)  # such devices have no address, which nobody learns
                b.neighbour("10.0.0.1", x.mac)
                dialled = []
                caller = threading.Thread(target=lambda: dialled.append(a.connect(("10.0.0.2", 80), timeout=10)))
                caller.start()
                theirs = listener.accept(10)
                caller.join()
                (ours,) = dialled
                ours.settimeout(60)
                theirs.settimeout(60)

                def send():
                    ours.sendall(data)
                    ours.shutdown(socket.SHUT_WR)

                sender = threading.Thread(target=send)
                sender.start()
                got, second = bytearray(), 0
                for part in range(1, STALLS + 1):
                    while len(got) < SIZE * part // (STALLS + 1):
                        got += theirs.recv(65536)
                    second += stall(a, x, y)
                while piece := theirs.recv(65536):
                    got += piece
                sender.join(60)
                assert bytes(got) == data
                theirs.shutdown(socket.SHUT_WR)
                own = a.stats()["own"]
                assert second >= STALLS
                assert own["RetransChained"] >= second and own["RetransCopied"] == 0
                assert theirs.wait_closed(10) and ours.wait_closed(10)
                ours.close()
                theirs.close()

                def quiet():
                    b.poll()
                    return not x.umem.info()["owners"]["tx"] and not y.umem.info()["owners"]["tx"]

                eventually(quiet)  # what lies in a ring when its sender closes is of a pool that is gone
        memories = x.umem, y.umem
    for umem in memories:
        assert free(umem), umem.info()
        assert umem.info()["violations"] == 0
