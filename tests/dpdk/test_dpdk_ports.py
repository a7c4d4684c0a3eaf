"""Ports on DPDK's virtual drivers: what is sent comes back, frames are conserved, and a port can do what it says."""

import contextlib

import numpy as np
import pytest
from dpdk_frames import free, packets, receive, send, uri

import pybypass as pb
from pybypass import dpdkport

root = pytest.mark.root


def test_null_gives_and_takes():
    with pb.open(uri("null", size=100)) as port:
        assert port.kind == "dpdk"
        assert port.mode == "dpdk net_null"
        with port.rx_burst(64) as burst:
            assert len(burst) == 64
            assert (burst.desc["len"] == 100).all()
            assert (burst.desc["off"] == 128).all(), "RTE_PKTMBUF_HEADROOM"
            assert (burst.desc["ts_source"] == 3).all()
            assert len(np.unique(burst.desc["addr"])) == 64
            assert port.tx_burst(burst) == 64
        stats = port.stats()
        assert (stats["rx_pkts"], stats["rx_bytes"], stats["tx_pkts"], stats["tx_bytes"]) == (64, 6400, 64, 6400)
        assert port.hardware_stats()["rx_pkts"] == 64
        assert port.xstats()["tx_good_packets"] == 64
        port.reset_stats()
        assert port.hardware_stats()["tx_pkts"] == 0
        umem = port.umem
    assert free(umem)


@pytest.mark.parametrize("size", [14, 60, 64, 1514, 1518])
def test_ring_brings_back_what_is_sent(size):
    with pb.open(uri("ring")) as port:
        sent = packets(64, size)
        assert send(port, sent) == 64
        assert receive(port, 64) == sent
        umem = port.umem
    assert free(umem)


def test_frames_go_round_and_round():
    """Many times more packets than frames, at all times as many as were sent."""
    with pb.open(uri("ring", frames=2048)) as port:
        for turn in range(200):
            sent = packets(64, 80, seed=turn)
            assert send(port, sent) == 64
            assert receive(port, 64) == sent
        stats = port.stats()
        assert stats["rx_pkts"] == stats["tx_pkts"] == 12800
        assert not stats["drops"]
        umem = port.umem
    assert free(umem)


def test_a_full_ring_leaves_the_rest_in_the_burst():
    with pb.open(uri("ring", frames=8192)) as port:
        total = 0
        while True:
            burst = port.alloc_burst(64, 60)
            n = port.tx_burst(burst)
            total += n
            if n < 64:
                assert len(burst) == 64 - n
                assert (burst.desc["len"] == 60).all()
                burst.release()
                break
            burst.release()
        assert 512 <= total < 8192
        assert len(receive(port, total)) == total
        umem = port.umem
    assert free(umem)


def test_packets_of_several_frames():
    with pb.open(uri("ring", mtu=9000, segs=1)) as port:
        queue = port.queues[0]
        if "multi_segs" not in port.report["tx_offloads"]:
            assert not port.report["offloads"]["segs"]["granted"]
            assert queue.chain_max == 6
        else:
            sent = packets(3, 9000)
            for data in sent:
                with port.alloc_burst(8) as burst:
                    used = burst.write_packet(0, data)
                    assert used > 1
                    burst.desc["len"][used:] = 60
                    assert port.tx_burst(burst) == 8
            found = []
            while True:
                with port.rx_burst(64) as burst:
                    if not len(burst):
                        break
                    found += [burst.copy_packet(i).tobytes() for i in range(len(burst.packets()))]
            assert [p for p in found if len(p) == 9000] == sent
        umem = port.umem
    assert free(umem)


def test_views_hold_frames():
    with pb.open(uri("ring")) as port:
        send(port, packets(4, 64))
        burst = port.rx_burst(64)
        view = burst.view(2)
        copy = view.tobytes()
        with pytest.raises(BufferError):
            burst.release()
        with pytest.raises(BufferError):
            port.tx_burst(burst)
        with pytest.raises(BufferError):
            port.close()
        for _ in range(50):
            send(port, packets(8, 64, seed=2))
            receive(port, 8)
        assert view.tobytes() == copy
        del view
        burst.release()
        umem = port.umem
    assert free(umem)


def test_bad_descriptors_are_refused_and_counted():
    with pb.open(uri("ring")) as port:
        with port.alloc_burst(4, 64) as burst:
            burst.desc["len"][1] = 5  # shorter than an Ethernet header
            assert port.tx_burst(burst) == 4
        assert port.stats()["drops"] == {"tx_bad": 1}
        with port.alloc_burst(2, 64) as burst:
            burst.desc["len"][0] = 1560  # longer than the MTU
            assert port.tx_burst(burst) == 2
        assert port.stats()["drops"] == {"tx_bad": 1, "too_long": 1}
        with port.alloc_burst(2, 64) as burst:
            burst.desc["flags"][0] = 2
            with pytest.raises(pb.PybypassError) as e:
                port.tx_burst(burst)
            assert e.value.code == "PB064"
        assert len(receive(port, 4)) == 4
        umem = port.umem
    assert free(umem)


def test_stop_and_start_again():
    with pb.open(uri("ring")) as port:
        assert send(port, packets(5, 64)) == 5
        port.stop()
        port.stop()
        with port.rx_burst() as burst:
            assert len(burst) == 0
        with port.alloc_burst(3, 64) as burst:
            assert port.tx_burst(burst) == 0
        port.start()
        port.start()
        assert send(port, packets(7, 64, seed=3)) == 7
        assert len(receive(port, 12)) == 12
        umem = port.umem
    assert free(umem)


def test_two_ports_of_one_memory_forward_without_a_copy():
    umem = pb.Umem(frames=4096, dpdk=True)
    with pb.open(uri("null"), umem=umem) as a, pb.open(uri("ring"), umem=umem) as b:
        with a.rx_burst(32) as burst:
            addresses = burst.desc["addr"].copy()
            assert b.tx_burst(burst) == 32
        with b.rx_burst(64) as burst:
            assert (burst.desc["addr"] == addresses).all()
        assert b.queues[0].umem is umem
    assert free(umem)


def test_pool_says_what_dpdk_has():
    with pb.open(uri("null", frames=4096)) as port:
        pool = port.pool()
        assert pool["frames"] == 4096
        assert pool["in_use"] == pool["recovered"] == 0
        with port.rx_burst(64):
            owners = port.umem.info()["owners"]
            assert owners["app"] == 64
            assert sum(owners.values()) == 4096


def test_rss_is_what_the_port_can_do():
    with pb.open(uri("null", queues=4, frames=32768)) as port:
        known = port.report["rss_known"]
        assert set(port.report["rss"]) == set(dpdkport.RSS_GROUPS["all"]) & set(known)
        if not known:
            with pytest.raises(pb.PybypassError) as e:
                port.set_rss(["l4"])
            assert e.value.code == "PB094"
        else:
            table = [i % 4 for i in range(port.report["rss_table_size"])]
            with contextlib.suppress(pb.PybypassError):
                port.set_rss_table(table)
                assert port.rss_table() == table
        for queue in port.queues:
            with queue.rx_burst(8) as burst:
                assert (burst.desc["queue"] == queue.index).all()
        with pytest.raises(pb.PybypassError):
            port.set_rss_table([9] * port.report["rss_table_size"])
