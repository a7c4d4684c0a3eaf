"""Memory of the application, sent without a copy: contents, references, chains, and what cannot be."""

import contextlib
import itertools
import mmap

import numpy as np
import pytest
from dpdk_frames import free, receive

import pybypass as pb
from pybypass import lab
from pybypass._burst import TX_STAMP

NUMBER = itertools.count(300)


def memory(n=1 << 20, seed=1):
    held = mmap.mmap(-1, n)
    array = np.frombuffer(held, dtype=np.uint8)
    array[:] = np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)
    return array


def ring(**options):
    words = "&".join(f"{k}={v}" for k, v in {"frames": 4096, **options}.items())
    return pb.open(f"dpdk:net_ring{next(NUMBER)}?{words}")


def test_what_arrives_is_what_lies_there():
    data = memory()
    with ring() as port:
        with port.register(data) as external:
            offsets, lengths = np.arange(64) * 2001, 60 + np.arange(64) * 20
            assert external.send(port.queues[0], offsets, lengths) == 64
            assert external.in_flight == 64
            with pytest.raises(BufferError):
                external.close()
            found = receive(port, 64)
            assert found == [data[o : o + n].tobytes() for o, n in zip(offsets, lengths, strict=True)]
            assert external.in_flight == 0
            assert port.stats()["tx_pkts"] == 64
            assert port.stats()["tx_bytes"] == lengths.sum()
        umem = port.umem
    assert free(umem)


def test_it_is_not_copied():
    """What is changed before it is received is received changed."""
    data = memory()
    with ring() as port:
        with port.register(data) as external:
            external.send(port.queues[0], [4096], [100])
            data[4096] ^= 0xFF
            assert receive(port, 1) == [data[4096:4196].tobytes()]
        umem = port.umem
    assert free(umem)


def test_many_times_as_many_as_there_are_frames():
    data = memory()
    with ring(frames=2048) as port:
        with port.register(data) as external:
            for turn in range(100):
                offsets = np.arange(64) * 100 + turn
                assert external.send(port.queues[0], offsets, [80] * 64) == 64
                assert len(receive(port, 64)) == 64
            assert external.in_flight == 0
        umem = port.umem
    assert free(umem)


def test_a_head_in_front():
    data = memory()
    with ring(segs=1) as port, port.register(data) as external:
        heads = port.alloc_burst(4, 14)
        for i in range(4):
            heads.write(i, bytes([i]) * 14)
        if "multi_segs" not in port.report["tx_offloads"]:
            with pytest.raises(pb.PybypassError) as e:
                external.send(port.queues[0], [0] * 4, [100] * 4, heads)
            assert e.value.code == "PB094"
            assert "segs=1" in str(e.value)
            assert len(heads) == 4
        else:
            heads.desc["flags"][3] |= TX_STAMP
            with pytest.raises(pb.PybypassError) as e:
                external.send(port.queues[0], [0, 100, 200, 300], [100] * 4, heads)
            assert e.value.code == "PB064"
            assert len(heads) == 4
            heads.desc["flags"] = 0
            assert external.send(port.queues[0], [0, 100, 200, 300], [100] * 4, heads) == 4
            assert len(heads) == 0
            assert receive(port, 4) == [bytes([i]) * 14 + data[100 * i : 100 * i + 100].tobytes() for i in range(4)]
        heads.release()
        umem = port.umem
    assert free(umem)


def test_a_ring_that_is_full_leaves_the_rest():
    data = memory()
    with ring(frames=8192) as port:
        external = port.register(data)
        total = 0
        while (n := external.send(port.queues[0], np.arange(64) * 64, [64] * 64)) == 64:
            total += n
        total += n
        assert external.in_flight == total
        umem = port.umem
    assert external.in_flight == 0, "closing the port gives back what was not sent"
    assert free(umem)


def test_what_cannot_be():
    data = memory(8192)
    with ring() as port:
        for wrong in (data[1:4097], data[:100], np.zeros(0, np.uint8)):
            with pytest.raises(pb.PybypassError) as e:
                port.register(wrong)
            assert e.value.code == "PB094"
        with port.register(data) as external:
            for offset, length in ((8192, 60), (8000, 200), (2**63, 60), (0, 0), (0, 5), (0, 1519)):
                with pytest.raises(pb.PybypassError) as e:
                    external.send(port.queues[0], [0, offset], [60, length])
                assert e.value.code == "PB094"
            for offsets, lengths in (([], []), ([0], [60, 60]), ([0] * 65, [60] * 65)):
                with pytest.raises(ValueError):
                    external.send(port.queues[0], offsets, lengths)
            with port.alloc_burst(2, 14) as heads, pytest.raises(ValueError):
                external.send(port.queues[0], [0], [60], heads)
            with ring() as other, pytest.raises(pb.PybypassError):
                external.send(other.queues[0], [0], [60])
        with pytest.raises(ValueError):
            external.send(port.queues[0], [0], [60])
        external.close()


@pytest.mark.root
def test_a_driver_that_cannot():
    with lab.veth() as pair, contextlib.ExitStack() as stack:
        port = stack.enter_context(
            pb.open(f"dpdk:net_af_xdp{next(NUMBER)}?iface={pair.a.ifname}&frames=8192", netns=pair.a.netns)
        )
        with pytest.raises(pb.PybypassError) as e:
            port.register(memory(4096))
        assert e.value.code == "PB094"


@pytest.mark.root
def test_over_a_kernel_interface():
    import socket

    data = memory()
    with lab.veth() as pair:
        port = pb.open(f"dpdk:net_af_packet{next(NUMBER)}?iface={pair.a.ifname}", netns=pair.a.netns)
        with port, port.register(data) as external:
            with pair.b.netns, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as s:
                s.bind((pair.b.ifname, 0))
                s.settimeout(5)
                for i in range(8):
                    data[2048 * i : 2048 * i + 6] = 0xFF
                    data[2048 * i + 12 : 2048 * i + 14] = (0x88, 0xB5)
                assert external.send(port.queues[0], [2048 * i for i in range(8)], [1000] * 8) == 8
                assert [s.recv(2000) for _ in range(8)] == [data[2048 * i : 2048 * i + 1000].tobytes() for i in range(8)]
