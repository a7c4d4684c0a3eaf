"""Cases of granted_cases.py: when a packet was sent."""

import time

from granted import NIC, SENT, TX_TMST, case, clock, counters, grant, granted, lost, seen, send, take
from support import eventually

import pybypass as pb
from pybypass import _burst

# ---- when it was sent ----


@case
def stamps_of_what_was_sent():
    with granted() as port:
        queue = port.queues[0]
        assert len(queue.tx_timestamps()) == 0
        for turn in range(20):
            before = port.clock()[0]
            frames = send(port, range(5), [0, 0, 0, _burst.TX_STAMP, 0])
            after = port.clock()[0]
            sent = seen(SENT)
            assert (sent["flags"] & TX_TMST != 0).tolist() == [False, False, False, True, False]
            (stamp,) = queue.tx_timestamps()
            assert (stamp["seq"], stamp["addr"], stamp["ns"]) == (5 * turn + 3, frames[3], sent["latched"][3])
            assert before <= stamp["ns"] <= after
            assert pb.TS_SOURCES[stamp["source"]] == "hardware"
            assert len(queue.tx_timestamps()) == 0
            take(port, 5)
        assert lost(port) == 0


@case
def packets_that_are_refused_have_no_number():
    """As many as `tx_pkts` went before the one that was stamped."""
    with granted() as port:
        with port.alloc_burst(4, 64) as burst:
            burst.desc["len"][1] = 5
            burst.desc["flags"][1:3] = _burst.TX_STAMP
            assert port.tx_burst(burst) == 4
        assert port.stats()["drops"] == {"tx_bad": 1}
        (stamp,) = port.queues[0].tx_timestamps()
        assert stamp["seq"] == 1
        assert seen(SENT)["latched"].tolist() == [0, stamp["ns"], 0]
        take(port, 3)


@case
def a_stamp_that_is_not_ready_is_asked_for_again():
    with granted(not_ready=3) as port:
        send(port, [1], _burst.TX_STAMP)
        (sent,) = seen(SENT)
        reads = counters()["tx_reads"]
        found = [port.queues[0].tx_timestamps() for _ in range(5)]
        assert [len(f) for f in found] == [0, 0, 0, 1, 0]
        assert found[3]["ns"] == sent["latched"]
        assert counters()["tx_reads"] - reads == 4, "and nobody asks when nothing is waited for"
        take(port, 1)


@case
def two_at_once():
    """The NIC has one register: the second goes out without, and is counted."""
    with granted(not_ready=1) as port:
        frames = send(port, range(4), [_burst.TX_STAMP, _burst.TX_STAMP, 0, _burst.TX_STAMP])
        assert lost(port) == 2
        sent = seen(SENT)
        assert (sent["flags"] != 0).tolist() == [True, False, False, False]
        assert counters()["overruns"] == 0
        assert len(port.queues[0].tx_timestamps()) == 0
        (stamp,) = port.queues[0].tx_timestamps()
        assert (stamp["seq"], stamp["addr"], stamp["ns"]) == (0, frames[0], sent["latched"][0])
        take(port, 4)


@case
def one_after_the_other_without_reading():
    """Asking for the next reads the one before, and all wait for the application."""
    with granted() as port:
        for i in range(300):
            send(port, [i], _burst.TX_STAMP)
            take(port, 1)
        latched = seen(SENT)["latched"].tolist()
        assert 0 not in latched
        found = port.queues[0].tx_timestamps()
        kept = 256  # PB_DPDK_STAMPS; the oldest made room
        assert found["seq"].tolist() == list(range(300 - kept, 300))
        assert found["ns"].tolist() == latched[-kept:]
        assert lost(port) == 300 - kept


@case
def queues_share_the_register():
    """One packet of the port at a time, and its time goes to the queue that sent it."""
    with granted("null", queues=2, rss="none", frames=16384, not_ready=1) as port:
        one, two = port.queues
        send(one, [1, 2], [0, _burst.TX_STAMP])
        send(two, [3], _burst.TX_STAMP)
        assert (lost(one), lost(two), lost(port)) == (0, 1, 1)
        assert len(two.tx_timestamps()) == 0
        (stamp,) = one.tx_timestamps()
        sent = seen(SENT)
        assert (stamp["seq"], stamp["ns"]) == (1, sent["latched"][sent["number"] == 2])
        send(two, [4], _burst.TX_STAMP)
        assert len(one.tx_timestamps()) == 0
        (stamp,) = two.tx_timestamps()
        sent = seen(SENT)
        assert (stamp["seq"], stamp["ns"]) == (1, sent["latched"][sent["number"] == 4])
        assert counters()["overruns"] == 0


@case
def one_that_never_comes_is_given_up():
    with granted("null", not_ready=-1) as port:
        queue, ring = port.queues[0], port.report["tx_desc"]
        send(port, [0], _burst.TX_STAMP)
        for _ in range(ring // 64):  # they may all wait behind it
            send(port, range(64))
        assert len(queue.tx_timestamps()) == 0 and lost(port) == 0
        send(port, [1], _burst.TX_STAMP)
        assert lost(port) == 1, "the second one, for the first is waited for"
        for _ in range(4 * ring // 64):
            send(port, range(64))
        assert len(queue.tx_timestamps()) == 0
        assert lost(port) == 2
        NIC.nic_stamps(0, 0)
        seen()
        send(port, [2], _burst.TX_STAMP)
        (stamp,) = queue.tx_timestamps()
        assert (stamp["seq"], stamp["ns"]) == (port.stats()["tx_pkts"] - 1, seen(SENT)["latched"][0])


@case
def one_that_nobody_reads_for_long_is_not_taken_for_the_next():
    with granted("null") as port:
        send(port, [0], _burst.TX_STAMP)
        first = seen(SENT)["latched"][0]
        for _ in range(6 * port.report["tx_desc"] // 64):
            send(port, range(64))
        seen()
        number = port.stats()["tx_pkts"]
        send(port, [1], _burst.TX_STAMP)
        found = port.queues[0].tx_timestamps()
        assert found["seq"].tolist() == [0, number]
        assert found["ns"].tolist() == [first, seen(SENT)["latched"][0]]
        assert lost(port) == 0


@case
def a_time_that_comes_after_giving_up_is_nobodys():
    """Held up by pause frames, or with its launch time far ahead."""
    with granted("null", not_ready=10**9) as port:
        queue, ring = port.queues[0], port.report["tx_desc"]
        send(port, [0], _burst.TX_STAMP)
        first = seen(SENT)["latched"][0]
        for _ in range(4 * ring // 64 + 2):
            send(port, range(64))
        assert len(queue.tx_timestamps()) == 0 and lost(port) == 1
        NIC.nic_comes()
        seen()
        number = port.stats()["tx_pkts"]
        send(port, [1], _burst.TX_STAMP)
        (stamp,) = queue.tx_timestamps()
        assert stamp["seq"] == number
        assert stamp["ns"] == seen(SENT)["latched"][0] != first
        assert (lost(port), counters()["overruns"]) == (1, 0)


@case
def the_queue_that_asked_closes():
    """With its time in the register, and before it is there: neither is that of the next packet."""
    for not_ready in (0, 10**9):
        with granted("null", queues=2, rss="none", frames=16384, not_ready=not_ready) as port:
            one, two = port.queues
            send(one, [1], _burst.TX_STAMP)
            first = seen(SENT)["latched"][0]
            one.close()
            NIC.nic_comes()
            send(two, [2], _burst.TX_STAMP)
            (stamp,) = two.tx_timestamps()
            assert stamp["ns"] == seen(SENT)["latched"][0] != first
            assert (stamp["seq"], lost(two), counters()["overruns"]) == (0, 0, 0)


def until_stamped(queue, other):
    """Asks, and asks again with what came: the stamp, and how many were refused before."""
    before = lost(queue)
    for i in range(10**4):
        send(queue, [i], _burst.TX_STAMP)
        found = queue.tx_timestamps()
        if len(found):
            return found, lost(queue) - before
        assert len(other.tx_timestamps()) == 0
        time.sleep(0.001)
    raise AssertionError("no stamp")


@case
def one_that_never_comes_on_a_queue_that_sends_no_more():
    """Other queues get theirs when it is given up by time; it is counted once, and so is each that was refused."""
    for ahead in (None, 10**18):  # a launch time that no NIC takes holds the others up no longer than a second more
        with granted("null", queues=2, rss="none", frames=16384, not_ready=-1) as port:
            one, two = port.queues
            flags = _burst.TX_STAMP if ahead is None else _burst.TX_STAMP | _burst.LAUNCH
            send(one, [0], flags, 0 if ahead is None else clock() + ahead)
            NIC.nic_comes()
            seen()
            start = time.monotonic()
            found, refusals = until_stamped(two, one)
            passed = time.monotonic() - start
            assert passed > (0.09 if ahead is None else 1), "given up too early"
            (stamp,) = found
            assert stamp["seq"] == two.stats()["tx_pkts"] - 1 == refusals > 0
            assert stamp["ns"] == seen(SENT)["latched"].max()
            assert lost(one) == 1
            send(two, [1], _burst.TX_STAMP)
            assert len(two.tx_timestamps()) == 1 and lost(one) == 1


@case
def one_that_is_only_asked_for_is_given_up_too():
    with granted("null", not_ready=-1) as port:
        send(port, [0], _burst.TX_STAMP)
        eventually(lambda: len(port.queues[0].tx_timestamps()) == 0 and lost(port) == 1)
        assert len(port.queues[0].tx_timestamps()) == 0 and lost(port) == 1


@case
def a_full_ring_takes_the_wish_back():
    with granted(frames=8192) as port:
        sent = 0
        while True:
            with port.alloc_burst(64, 64) as burst:
                n = port.tx_burst(burst)
            sent += n
            if n < 64:
                break
        with port.alloc_burst(1, 64) as burst:
            burst.desc["flags"] = _burst.TX_STAMP
            NIC.nic_stamps(-1, 0)  # the shim looks at packets before the driver refuses them
            assert port.tx_burst(burst) == 0
        NIC.nic_stamps(0, 0)
        take(port, sent)
        send(port, [1], _burst.TX_STAMP)
        (stamp,) = port.queues[0].tx_timestamps()
        assert stamp["seq"] == sent
        assert lost(port) == 0
        take(port, 1)


# ---- stop and start ----


@case
def stopped_and_started_again():
    """The time of before the stop is handed over or counted, never taken for that of a packet sent after it."""
    with granted(not_ready=1) as port:
        queue = port.queues[0]
        send(port, [1], _burst.TX_STAMP)
        port.stop()
        assert lost(port) == 1, "not ready when the port stopped"
        assert len(queue.tx_timestamps()) == 0
        NIC.nic_stamps(0, 0)
        port.start()
        assert counters()["enabled"] == 2
        take(port, 1)
        seen()
        when = port.clock()[0] + 10**6
        send(port, [2, 3], [_burst.TX_STAMP, _burst.LAUNCH], when)
        sent = seen(SENT)
        (stamp,) = queue.tx_timestamps()
        assert (stamp["seq"], stamp["ns"]) == (1, sent["latched"][0])
        assert sent["field"][1] == when and sent["flags"][1] not in (0, TX_TMST)
        assert [pb.TS_SOURCES[d["ts_source"]] for d in take(port, 2)] == ["hardware"] * 2
        send(port, [4], _burst.TX_STAMP)
        port.stop()
        (stamp,) = queue.tx_timestamps()
        assert stamp["seq"] == 3, "it was ready when the port stopped"
        port.start()
        assert lost(port) == 1
        take(port, 1)


@case
def timesync_is_gone_after_a_start():
    with granted() as port:
        port.stop()
        grant(timesync=-1)
        port.start()
        send(port, [1], _burst.TX_STAMP)
        assert len(port.queues[0].tx_timestamps()) == 0
        assert lost(port) == 1
        take(port, 1)
