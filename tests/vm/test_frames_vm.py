"""Layouts of frames, packets of several frames, metadata of what is sent, busy polling: what each driver grants, and why not."""

import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pytest
from traffic import (
    COPY,
    GENERIC,
    PASSES_S,
    QUIET_S,
    ZEROCOPY,
    exchange,
    frame,
    granted,
    mac,
    ports,
    send,
    wait_passing,
    zero_copy,
)

import pybypass as pb
from pybypass import _burst, nic

CARDS = pytest.mark.parametrize("driver", ["igb", "virtio_net"])
XDP_HEADROOM = 256


@CARDS
@pytest.mark.parametrize("headroom", [64, 256])
def test_headroom(pair, driver, headroom):
    """Free bytes in front of a packet, beyond the kernel's own, whatever the card puts there."""
    with ports(pair, f"frame=4096&headroom={headroom}&ring=256&frames=1024") as (a, b):
        assert b.mode == granted(pair[0], ZEROCOPY)
        assert b.report["frame_room"] == 4096 - XDP_HEADROOM - headroom
        frames = [frame(a, b, i, 60 + 7 * i) for i in range(200)]
        got = exchange(a, b, frames)
        assert [data for data, _ in got] == frames
        assert {desc["off"] >= XDP_HEADROOM + headroom for _, desc in got} == {True}


@CARDS
def test_busy_polling(pair, driver):
    """Granted, and frames pass both ways: received by the driver's own poll function, called from rx_burst(). In zero copy
    without SO_PREFER_BUSY_POLL, or a driver with a NAPI of its own for sending would never be woken for it."""
    options = "frame=4096&ring=256&frames=1024"
    with pb.open(f"xdp:{pair[0]}?steer=all&{options}") as a, pb.open(
        f"xdp:{pair[1]}?steer=all&{options}&busy_poll=20&busy_budget=16"
    ) as b:
        assert b.mode == granted(pair[0], ZEROCOPY)
        assert (b.report["busy_poll_us"], b.report["busy_budget"], b.report["no_busy_poll"]) == (20, 16, "")
        wait_passing(a, b)
        frames = [frame(a, b, i, 60 + i % 1400) for i in range(400)]
        assert sorted(data for data, _ in exchange(a, b, frames)) == sorted(frames)
        assert b.stats()["rx_wakeups"] > 0
        back = [frame(b, a, i, 60 + i) for i in range(200)]
        assert sorted(data for data, _ in exchange(b, a, back)) == sorted(back)


# ---- packets of several frames ----


@contextmanager
def mtu(pair, size: int):
    def set_to(value: int) -> None:
        for ifname in pair:
            subprocess.run(["ip", "link", "set", ifname, "mtu", str(value)], check=True)

    set_to(size)
    try:
        yield
    finally:
        set_to(1500)


def jumbo_mode(ifname: str) -> str:
    """By what the driver reports: a program in the driver needs rx-sg, zero copy more than one segment."""
    known = nic.xdp(ifname)
    if "rx-sg" not in known.features:
        return GENERIC
    return ZEROCOPY if zero_copy(ifname) and known.zc_max_segs > 1 else COPY


def received_packets(there, here, count: int) -> list[bytes]:
    got: list[bytes] = []
    last = time.monotonic()
    while len(got) < count and time.monotonic() - last < QUIET_S:
        there.rx_burst().release()
        with here.rx_burst() as burst:
            if len(burst):
                last = time.monotonic()
            got += [burst.copy_packet(k).tobytes() for k in range(len(burst.packets()))]
    return got


@CARDS
@pytest.mark.parametrize("size", [2048, 4096])
def test_mtu_9000(pair, driver, size):
    """Packets of up to 9014 bytes, in as many frames as they need, both ways and unchanged."""
    rng = np.random.default_rng(9)
    with mtu(pair, 9000):
        mode = jumbo_mode(pair[0])
        assert mode == (GENERIC if driver == "igb" else COPY), "a driver learned packets of several frames: say so"
        if mode != ZEROCOPY:
            with pytest.raises(pb.PybypassError) as caught:
                pb.open(f"xdp:{pair[0]}?frame={size}&copy=zerocopy")
            # No native program at all, or a program and no zero copy with XDP_USE_SG.
            assert caught.value.code == ("PB031" if mode == GENERIC else "PB028")
        with ports(pair, f"frame={size}&ring=256&frames=2048") as (a, b):
            assert (a.mode, a.report["sg"]) == (mode, True)
            for there, here in ((a, b), (b, a)):
                packets = [
                    mac(here) + mac(there) + b"\x88\xb5" + rng.bytes(int(n) - 14)
                    for n in [9014, 60, 1514, *rng.integers(60, 9014, 60)]
                ]
                got: list[bytes] = []
                for data in packets:
                    queue = there.queues[0]
                    with queue.alloc_burst(-(-len(data) // queue.frame_room)) as burst:
                        burst.write_packet(0, data)
                        deadline = time.monotonic() + PASSES_S
                        while len(burst):
                            there.tx_burst(burst)
                            assert time.monotonic() < deadline
                    got += received_packets(there, here, 1)
                assert got == packets
                assert not any(here.stats()["drops"].values()), here.stats()


# ---- metadata of what is sent ----


def stamps(port, flags: int) -> list[tuple[int, int, str]]:
    """Sends three frames that ask for it; number, time and clock of what came back."""
    queue = port.queues[0]
    with queue.alloc_burst(3, length=60) as burst:
        burst.desc["flags"] = flags
        deadline = time.monotonic() + PASSES_S
        while len(burst):
            port.tx_burst(burst)
            assert time.monotonic() < deadline
    found: list[tuple[int, int, str]] = []
    while len(found) < 3 and time.monotonic() < deadline:
        queue.rx_burst().release()
        found += [(int(s["seq"]), int(s["ns"]), pb.TS_SOURCES[s["source"]]) for s in queue.tx_timestamps()]
    return found


@pytest.mark.parametrize(("driver", "copy"), [("igb", "auto"), ("igb", "copy"), ("virtio_net", "auto"), ("virtio_net", "copy")])
def test_metadata_of_what_is_sent(pair, driver, copy):
    """Zero copy: neither driver has any, though igb has a clock; said with the reason, and asking is refused. Copied by
    the kernel: a stamp of its clock; but not from virtio-net, which refuses such sockets at all (Linux 7.2)."""
    assert not nic.xdp(pair[0]).xsk
    mode = granted(pair[0], ZEROCOPY) if copy == "auto" else COPY
    with pb.open(f"xdp:{pair[0]}?frame=4096&tx_meta=1&copy={copy}&ring=256&frames=1024") as port:
        report = port.report
        assert port.mode == mode
        assert not report["tx_launch"]
        offered = _burst.TX_STAMP if report["tx_stamp"] else 0
        for flag in {_burst.TX_STAMP, _burst.LAUNCH, _burst.CSUM_PARTIAL} - {offered, _burst.CSUM_PARTIAL * report["tx_csum"]}:
            with port.alloc_burst(1, length=60) as burst, pytest.raises(pb.PybypassError) as caught:
                burst.desc["flags"] = flag
                port.tx_burst(burst)
            assert caught.value.code == "PB064"
        if offered:
            assert (mode, report["tx_stamp_by"], report["tx_csum_by"]) == (COPY, "kernel", "software")
            assert report["no_tx_meta"] == ""
            before = time.clock_gettime_ns(time.CLOCK_TAI)
            found = stamps(port, _burst.TX_STAMP)
            assert [(seq, by) for seq, _, by in found] == [(0, "kernel"), (1, "kernel"), (2, "kernel")]
            assert all(before <= ns <= time.clock_gettime_ns(time.CLOCK_TAI) for _, ns, _ in found), found
        else:
            assert (report["tx_csum"], report["tx_stamp_by"], report["tx_csum_by"]) == (False, "none", "none")
            why = "binding a socket that may ask for it" if driver == "virtio_net" else "the driver has none"
            assert why in report["no_tx_meta"]
            send(port, [bytes(60)])
        assert offered or mode == ZEROCOPY or driver == "virtio_net"
