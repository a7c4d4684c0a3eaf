"""Cases of granted_cases.py: what a port is granted, and packets that are sent on time."""

import pytest
from granted import (
    CAME,
    NIC,
    SEND_ON_TIMESTAMP,
    SENT,
    TX_TMST,
    case,
    clock,
    counters,
    granted,
    lost,
    refused,
    seen,
    send,
    take,
)

import pybypass as pb
from pybypass import _burst

# ---- what is granted ----


@case
def the_report_says_what_was_asked_for_and_granted():
    before = counters()["calls"]
    with granted() as port:
        assert counters()["calls"] > before, "the functions of DPDK are not the shim's"
        assert (counters()["rx_timestamp"], counters()["send_on_timestamp"], counters()["enabled"]) == (1, 1, 1)
        offloads = port.report["offloads"]
        for name, words in (
            ("stamp", "NIC's clock"), ("tx_stamp", "one at a time"), ("launch", "Port.clock()"),
        ):  # fmt: skip
            assert offloads[name]["asked"] and offloads[name]["granted"]
            assert words in offloads[name]["means"]
        assert port.report["timesync"] is True
        assert "timestamp" in port.report["rx_offloads"] and "send_on_timestamp" in port.report["tx_offloads"]
        assert port.queues[0].tx_flags & (_burst.TX_STAMP | _burst.LAUNCH) == _burst.TX_STAMP | _burst.LAUNCH


@case
def what_the_port_has_and_nobody_asked_for_stays_off():
    with granted(stamp=0, launch=0) as port:
        found = counters()
        assert (found["rx_timestamp"], found["send_on_timestamp"], found["enabled"]) == (0, 0, 0)
        assert "timestamp" in port.report["rx_offloads_known"]
        assert "send_on_timestamp" in port.report["tx_offloads_known"]
        for flag in (_burst.TX_STAMP, _burst.LAUNCH):
            refused(port, flag)


@case
def a_driver_without_stamps_of_what_it_sends():
    """It has timesync and refuses the packets, as Debian's Intel drivers do."""
    with granted(refuse=1) as port:
        assert port.report["timesync"] is True
        assert port.report["offloads"]["tx_stamp"]["granted"] is False
        assert port.report["offloads"]["launch"]["granted"] is True
        refused(port, _burst.TX_STAMP)


@case
def timesync_that_cannot_be_enabled():
    with granted(timesync=-1) as port:
        assert port.report["timesync"] is False
        assert port.report["offloads"]["tx_stamp"] == {
            "asked": True,
            "granted": False,
            "means": "TX_STAMP is refused (PB064)",
        }
        refused(port, _burst.TX_STAMP)


@case
def no_room_in_mbufs_for_times():
    for options in ({"launch": 0}, {"stamp": 0}):
        NIC.nic_no_fields(1)
        with pytest.raises(pb.PybypassError, match=r"no room in mbufs.*No space left") as e, granted(**options):
            pass
        NIC.nic_no_fields(0)
        assert e.value.code == "PB094"
    with granted() as port:
        assert port.report["offloads"]["stamp"]["granted"]


# ---- sent on time ----


@case
def launch_times_are_in_the_mbufs_that_ask():
    """And at the other end of the ring. Past, far and impossible ones too: what becomes of those is the NIC's to say."""
    with granted() as port:
        send(port, [0])
        (plain,) = seen(SENT)
        assert plain["flags"] == 0
        now = port.clock()[0]
        times = [now + 1_000_000, 5, 0, now - 10**9, 2**64 - 1, 7, now + 3600 * 10**9, 2**63]
        flags = [_burst.LAUNCH] * len(times)
        flags[1] = flags[5] = 0
        send(port, range(1, 9), flags, times)
        sent = seen(SENT)
        assert sent["number"].tolist() == list(range(1, 9))
        (flag,) = set(sent["flags"].tolist()) - {0}
        assert flag.bit_count() == 1, "only the dynamic flag"
        assert (sent["flags"] != 0).tolist() == [f != 0 for f in flags]
        asked = sent["flags"] == flag
        assert sent["field"][asked].tolist() == [t for t, f in zip(times, flags, strict=True) if f]
        take(port, 9)
        came = seen(CAME)
        assert came["number"].tolist() == list(range(9))
        assert came["flags"].tolist() == [0, *sent["flags"].tolist()]
        assert came["field"][1:][asked].tolist() == sent["field"][asked].tolist()
        send(port, range(64))
        assert not seen(SENT)["flags"].any(), "frames that carried a time go out without"
        assert not port.stats()["drops"] and lost(port) == 0


@case
def what_comes_with_a_launch_time_has_no_time_of_receiving():
    """The two share the field, not the flag."""
    with granted(rx=0) as port:
        assert port.report["offloads"]["stamp"]["granted"] is False
        send(port, [1], _burst.LAUNCH, 12345)
        (d,) = take(port, 1)
        assert seen(CAME)["field"].tolist() == [12345]
        assert (pb.TS_SOURCES[d["ts_source"]], d["flags"]) == ("user", 0)
        assert d["ts_ns"] != 12345


@case
def a_launch_time_and_a_stamp_on_one_packet():
    with granted(tx=SEND_ON_TIMESTAMP | 1 << 15, segs=1, mtu=4000, frame=2048) as port:
        queue, when = port.queues[0], clock() + 10**6
        with queue.alloc_burst(8) as burst:
            used = burst.write_packet(0, bytes(14) + (9).to_bytes(4, "big") + bytes(3000))
            assert used == 2
            burst.write(2, bytes(14) + (10).to_bytes(4, "big") + bytes(46))
            burst.desc["flags"][0] |= _burst.LAUNCH | _burst.TX_STAMP
            burst.desc["ts_ns"][0] = when
            burst.desc["len"][3:] = 60
            first = burst.desc["addr"][0]
            assert queue.tx_burst(burst) == 8
        sent = seen(SENT)
        assert sent["segs"].tolist() == [2, 1, 1, 1, 1, 1, 1]
        assert (sent["field"][0], sent["flags"][0] & TX_TMST, sent["flags"][1:].any()) == (when, TX_TMST, False)
        (stamp,) = queue.tx_timestamps()
        assert (stamp["seq"], stamp["addr"], stamp["ns"]) == (0, first, sent["latched"][0])
        for _ in range(2):
            port.rx_burst(64).release()
