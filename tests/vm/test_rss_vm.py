"""The queue where a flow lands is the one that pybypass.rss foretells, with the tables and keys of cards."""

from contextlib import ExitStack

import pytest
from traffic import drain, mac, packet, receive, send, set_anew, wait_passing, zero_copy

import pybypass as pb
from pybypass import nic, rss

FOUR = ("src", "dst", "sport", "dport")
FLOWS = 128


def flows(version: int):
    ours, theirs = ("10.9.0.%d", "10.9.1.1") if version == 4 else ("fd09::%x", "fd09:1::1")
    return [(ours % (2 + i % 50), theirs, 1000 + 37 * i, 9000 + i % 3) for i in range(FLOWS)]


def landings(pair, options: str, version: int, proto: str, then=lambda: None) -> list[int | None]:
    """The queue of the second interface where each flow was received; None: nowhere. `then` is called with ports open."""
    found: list[int | None] = [None] * FLOWS
    wanted = flows(version)
    by_port = {flow[2]: i for i, flow in enumerate(wanted)}
    with ExitStack() as stack:
        a = stack.enter_context(pb.open(f"xdp:{pair[0]}?{options}"))
        queues = [stack.enter_context(pb.open(f"xdp:{pair[1]}?queue={q}&steer=all&{options}")) for q in range(2)]
        wait_passing_to_any(a, queues)
        then()
        for start in range(0, FLOWS, 32):
            send(a, [packet(mac(a), mac(queues[0]), *flow, proto) for flow in wanted[start : start + 32]])
            for _ in range(2000):
                for number, port in enumerate(queues):
                    for data, desc in receive(port, [a]):
                        at = 14 + (20 if version == 4 else 40)
                        i = by_port.get(int.from_bytes(data[at : at + 2], "big"))
                        if i is not None:
                            assert desc["queue"] == number
                            found[i] = number
                if None not in found[start : start + 32]:
                    break
    return found


def wait_passing_to_any(a, queues) -> None:
    """Untagged frames of no known protocol land on queue 0 with all of these cards."""
    wait_passing(a, queues[0])
    drain(a, *queues)


OPTIONS = "frame=4096&ring=256&frames=1024"


def check(pair, card, options=OPTIONS, key=None, versions=(4, 6), protos=("tcp", "udp"), then=lambda: None) -> set[int]:
    """Every flow lands where it was foretold; the queues that were seen."""
    seen: set[int] = set()
    for version in versions:
        for proto in protos:
            foretold = [rss.queue(*flow, card, key=key, proto=proto) for flow in flows(version)]
            assert landings(pair, options, version, proto, then) == foretold, (version, proto)
            seen |= set(foretold)
    return seen


def refused(pair) -> None:
    """A driver that does not say that it can do zero copy cannot."""
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(f"xdp:{pair[1]}?frame=4096&copy=zerocopy")
    assert caught.value.code == "PB028"


@pytest.fixture
def restored(pair):
    """What it was before; nothing is set back that is as it was, for a driver remembers that somebody set it."""
    before = nic.rss(pair[1])
    yield before
    now = nic.rss(pair[1])
    if (now.table, now.key) != (before.table, before.key):
        nic.set_rss(pair[1], table=before.table, key=before.key or None)


@pytest.mark.driver("virtio_net")
def test_source_ports_for_a_wanted_queue(pair, restored):
    """The answers to flows that we open from source_port() come back on the queue that was asked for."""
    with ExitStack() as stack:
        peer = stack.enter_context(pb.open(f"xdp:{pair[0]}?{OPTIONS}"))
        queues = [stack.enter_context(pb.open(f"xdp:{pair[1]}?queue={q}&steer=all&{OPTIONS}")) for q in range(2)]
        wait_passing_to_any(peer, queues)
        for wanted in (0, 1):
            port = rss.source_port("10.9.1.1", "10.9.0.7", 80, restored, queue=wanted)
            answer = packet(mac(peer), mac(queues[0]), "10.9.0.7", "10.9.1.1", 80, port, "tcp")
            send(peer, [answer])
            got: list[bytes] = []
            for _ in range(2000):
                got += [data for data, _ in receive(queues[wanted], [peer])]
                if answer in got:
                    break
            assert answer in got


@pytest.mark.driver("virtio_net")
def test_virtio_as_it_comes(pair):
    """First of those that set nothing: see test_virtio_forgets_its_rss_when_xdp_goes_in."""
    card = nic.rss(pair[1])
    assert check(pair, card) == {0, 1}
    assert nic.rss(pair[1]) == card


@pytest.mark.parametrize("copy", ["zerocopy", "copy"])
@pytest.mark.driver("virtio_net")
def test_virtio(pair, restored, copy):
    """With a table and a key set while the ports are open."""
    if copy == "zerocopy" and not zero_copy(pair[1]):
        refused(pair)
        return
    options = f"frame=4096&ring=256&frames=1024&copy={copy}"
    ours = nic.set_rss(pair[1], table=[0, 0, 0, 1], key=rss.SYMMETRIC_KEY)

    assert check(pair, ours, options, versions=(4,), then=lambda: set_anew(pair[1], ours)) == {0, 1}
    assert nic.rss(pair[1]) == ours


@pytest.mark.driver("virtio_net")
def test_virtio_forgets_its_rss_when_xdp_goes_in(pair, restored):
    """A known fault: the driver of Linux 7.2 sets the number of queues when a program is attached; on a card whose RSS was set
    by hand it does so by a command that turns RSS off in the device, and goes on showing table and key. Set RSS after
    opening ports."""
    table = [0] * 127 + [1]
    card = nic.set_rss(pair[1], table=table, key=rss.SYMMETRIC_KEY)
    foretold = [rss.queue(*flow, card) for flow in flows(4)]
    assert landings(pair, OPTIONS, 4, "tcp") != foretold
    assert nic.rss(pair[1]) == card  # what it shows

    assert landings(pair, OPTIONS, 4, "tcp", lambda: set_anew(pair[1], card)) == foretold


@pytest.mark.parametrize("copy", ["zerocopy", "copy"])
@pytest.mark.driver("igb")
def test_igb(pair, restored, copy):
    """Its driver shows no key: it is the machine's."""
    if copy == "zerocopy" and not zero_copy(pair[1]):
        refused(pair)
        return
    key, options = nic.system_rss_key(), f"frame=4096&ring=256&frames=1024&copy={copy}"
    assert any(key)
    nic.set_rss(pair[1], fields={"udp4": FOUR, "udp6": FOUR})
    assert check(pair, nic.rss(pair[1]), options, key) == {0, 1}
    card = nic.set_rss(pair[1], table=[0, 1, 1, 1], fields={"udp4": FOUR[:2], "udp6": FOUR[:2]})
    assert check(pair, card, options, key, versions=(4,)) == {0, 1}


@pytest.mark.driver("vmxnet3")
def test_vmxnet3_lands_on_queue_0_whatever_its_table_says(pair, restored):
    """A known fault of the emulation: it takes table and key and spreads nothing."""
    assert set(restored.table) == {0, 1}
    for version in (4, 6):
        assert landings(pair, "frame=2048&ring=256&frames=1024", version, "tcp") == [0] * FLOWS
