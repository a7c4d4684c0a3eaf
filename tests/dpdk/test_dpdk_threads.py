"""Control calls, other threads and other ports meanwhile: nothing is touched that is gone, nothing is counted twice."""

import contextlib
import itertools
import mmap
import os
import threading
import time

import numpy as np
import pytest
from dpdk_frames import free, packets, receive, send

import pybypass as pb
from pybypass import lab

NUMBER = itertools.count(500)
SECONDS = 0.6


def during(body):
    """Runs body(ended) in a thread beside the block's work: yields nothing, raises what it raised."""
    ended, errors = threading.Event(), []

    def run():
        try:
            body(ended.is_set)
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    return ended, thread, errors


@pytest.mark.parametrize("how", ["close", "stop", "remove"])
def test_a_ring_of_the_same_name_is_empty(how):
    """DPDK's ring outlives its device: what lay in it was of memory that is gone."""
    number = next(NUMBER)
    for _ in range(3):
        with pb.open(f"dpdk:net_ring{number}?frames=2048") as port:
            assert receive(port, 1, tries=3) == []
            assert send(port, packets(32, 64)) == 32
            if how != "close":
                getattr(port, how)()
            umem = port.umem
        assert free(umem)


def test_statistics_while_the_port_is_removed():
    for _ in range(10):
        with pb.open(f"dpdk:net_ring{next(NUMBER)}?frames=2048") as port:

            def watch(ended, port=port):
                while not ended():
                    for call in (port.xstats, port.hardware_stats, port.link, port.stats, port.pool):
                        with contextlib.suppress(pb.PybypassError):
                            call()

            ended, thread, errors = during(watch)
            time.sleep(0.005)
            port.remove()
            ended.set()
            thread.join()
            assert not errors


def test_stop_and_start_under_a_thread_that_forwards():
    with pb.open(f"dpdk:net_null{next(NUMBER)}?frames=4096") as port:

        def forward(ended):
            while not ended():
                with port.rx_burst(64) as burst:
                    port.tx_burst(burst)

        ended, thread, errors = during(forward)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            port.stop()
            port.start()
        ended.set()
        thread.join()
        assert not errors
        umem = port.umem
    assert free(umem)


def test_two_queues_send_from_one_memory():
    data = np.frombuffer(mmap.mmap(-1, 1 << 16), dtype=np.uint8)
    with pb.open(f"dpdk:net_null{next(NUMBER)}?queues=2&frames=16384") as port:
        with port.register(data) as external:

            def other(ended):
                while not ended():
                    external.send(port.queues[1], [0, 64], [60, 60])

            ended, thread, errors = during(other)
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                external.send(port.queues[0], [0, 64], [60, 60])
            ended.set()
            thread.join()
            assert not errors
            assert external.in_flight == 0
        umem = port.umem
    assert free(umem)


def test_memory_that_is_let_go_while_another_thread_sends():
    data = np.frombuffer(mmap.mmap(-1, 1 << 16), dtype=np.uint8)
    with pb.open(f"dpdk:net_null{next(NUMBER)}?frames=4096") as port:
        current = [port.register(data)]

        def sender(ended):
            while not ended():
                try:
                    current[0].send(port.queues[0], [0], [60])
                except (ValueError, pb.PybypassError):
                    continue

        ended, thread, errors = during(sender)
        until = time.monotonic() + SECONDS
        turns = 0
        while time.monotonic() < until:
            try:
                current[0].close()
            except BufferError:
                continue
            current[0] = port.register(data)
            turns += 1
        ended.set()
        thread.join()
        assert not errors
        assert turns > 10
        umem = port.umem
    assert free(umem)


def test_threads_give_back_what_they_had_at_hand():
    with pb.open(f"dpdk:net_null{next(NUMBER)}?frames=2048") as port:

        def once():
            with port.rx_burst(64):
                pass

        for _ in range(50):
            thread = threading.Thread(target=once)
            thread.start()
            thread.join()
        assert port.pool()["cached"] <= 96 * 2
        with port.rx_burst(64) as burst:
            assert len(burst) == 64
        umem = port.umem
    assert free(umem)


@pytest.mark.root
def test_two_af_xdp_ports_on_one_interface(tmp_path):
    """Closing one closes nothing of the other's."""
    with lab.veth(queues=2) as pair:

        def ours():
            found = set()
            for n in os.listdir("/proc/self/fd"):
                with contextlib.suppress(FileNotFoundError):  # the directory's own
                    if "bpf" in os.readlink(f"/proc/self/fd/{n}"):
                        found.add(n)
            return found

        how = f"iface={pair.a.ifname}&frames=8192&queue_count=1"
        with pb.open(f"dpdk:net_af_xdp{next(NUMBER)}?{how}&start_queue=0", netns=pair.a.netns) as a:
            before = ours()
            assert before
            with pb.open(f"dpdk:net_af_xdp{next(NUMBER)}?{how}&start_queue=1", netns=pair.a.netns):
                assert ours() > before
            assert ours() == before
            assert a.link()["up"]


def test_an_engine_on_each_of_two_queues_of_a_port_without_a_known_key():
    with pb.open(f"dpdk:net_null{next(NUMBER)}?queues=2&frames=16384&rss=all") as port:
        with pb.Engine(port, queue=1, ip="10.0.0.1/24") as engine:
            with pytest.raises(pb.PybypassError):
                engine.connect(("10.0.0.2", 7), timeout=0.2)
