"""Ports of several queues, with several sockets on each: a flow is received from the Queue that was foretold for it.

It sets RSS by hand, so it comes after test_rss_vm.py, which looks at virtio-net as it comes.
"""

import ipaddress
import time

import pytest
from traffic import PASSES_S, QUIET_S, ZEROCOPY, granted, mac, packet, ports, set_anew

from pybypass import nic, rss

FLOWS = 96
WAYS = ("umem=own", "umem=shared", "umem=own&sockets=2&rss=toeplitz", "umem=shared&sockets=2&rss=symmetric")


def send_on(queue, frames) -> None:
    deadline = time.monotonic() + PASSES_S
    with queue.alloc_burst(len(frames)) as burst:
        for i, data in enumerate(frames):
            burst.write(i, data)
        while len(burst):
            queue.tx_burst(burst)
            assert time.monotonic() < deadline, "the queue takes no more frames"


def receive_all(there, here, wanted: int) -> dict[bytes, list[tuple[int, int]]]:
    """Frames by their bytes, each with the index and member of the Queues that it was received from."""
    found: dict[bytes, list[tuple[int, int]]] = {}
    last = time.monotonic()
    while len(found) < wanted and time.monotonic() - last < QUIET_S:
        for queue in there.queues:
            queue.rx_burst().release()  # a device that nobody drives sends no more in copy mode
        for queue in here.queues:
            with queue.rx_burst() as burst:
                for i in range(len(burst)):
                    assert burst.desc["queue"][i] == queue.index
                    found.setdefault(bytes(burst.view(i)), []).append((queue.index, queue.member))
                    last = time.monotonic()
    return found


def flows(version: int):
    ours, theirs = ("10.9.0.%d", "10.9.1.1") if version == 4 else ("fd09::%x", "fd09:1::1")
    return [(ours % (2 + i % 50), theirs, 1000 + 37 * i, 9000 + i % 3) for i in range(FLOWS)]


def foretold(port, card, key, src, dst, sport, dport) -> tuple[int, int]:
    source, target = (ipaddress.ip_address(src), sport), (ipaddress.ip_address(dst), dport)
    return rss.queue(src, dst, sport, dport, card, key=key), port.member_of(source, target)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("driver", ["igb", "virtio_net"])
def test_flows_come_from_the_queue_that_was_foretold(pair, driver, way):
    """Both ways, IPv4 and IPv6, sent on every queue in turn; each packet once, unchanged, counted where it came."""
    key = nic.system_rss_key() if driver == "igb" else None  # igb shows none: it is the machine's
    sockets = 2 if "sockets" in way else 1
    with ports(pair, f"frame=4096&ring=256&frames=4096&queue=0-1&{way}") as (a, b):
        for port in (a, b):
            assert [(q.index, q.member) for q in port.queues] == [(i, k) for i in range(2) for k in range(sockets)]
            assert port.mode == granted(pair[0], ZEROCOPY), port.report
            for queue in port.queues:
                assert queue.report["zerocopy"] is (port.mode == ZEROCOPY)
                assert queue.report["umem_shared"] is (queue.member > 0 or ("shared" in way and queue.index > 0))
        if driver == "virtio_net":  # see test_virtio_forgets_its_rss_when_xdp_goes_in
            for ifname in pair:
                set_anew(ifname, nic.rss(ifname))
        for there, here, ifname in ((a, b, pair[1]), (b, a, pair[0])):
            card, before = nic.rss(ifname), here.stats()["queues"]
            wanted = {}
            for version in (4, 6):
                made = {
                    packet(mac(there), mac(here), *flow, "tcp"): foretold(here, card, key, *flow)
                    for flow in flows(version)
                }
                for k, queue in enumerate(there.queues):
                    send_on(queue, list(made)[k :: len(there.queues)])
                assert receive_all(there, here, FLOWS) == {data: [where] for data, where in made.items()}
                wanted |= made
            seen = list(wanted.values())
            assert set(seen) == {(q.index, q.member) for q in here.queues}, "every Queue got some"
            for old, new in zip(before, here.stats()["queues"], strict=True):
                assert new["rx_pkts"] - old["rx_pkts"] == seen.count((new["index"], new["member"]))
            assert here.stats()["drops"] == {}
