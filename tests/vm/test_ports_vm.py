"""AF_XDP on the drivers of real cards: what each grants, and that frames cross both ways unchanged."""

import errno
import socket
import subprocess
import threading
import time

import pytest
from traffic import COPY, GENERIC, ZEROCOPY, echo, exchange, frame, granted, ports, talk

import pybypass as pb
from pybypass import nic
from pybypass.netns import NetNs

SIZES = (60, 61, 127, 1023, 1024, 1025, 1200, 1514)
# Driver, options, what is granted where the driver says that it can do zero copy.
GRANTED = [
    ("igb", "frame=4096", ZEROCOPY),
    ("igb", "frame=2048", COPY),  # test_igb_zero_copy_needs_large_frames
    ("igb", "frame=4096&copy=copy", COPY),
    ("igb", "frame=4096&mode=generic", GENERIC),
    ("virtio_net", "frame=2048", ZEROCOPY),
    ("virtio_net", "frame=4096", ZEROCOPY),
    ("virtio_net", "frame=2048&copy=copy", COPY),
    ("virtio_net", "frame=2048&mode=generic", GENERIC),
    ("vmxnet3", "frame=2048", COPY),
    ("e1000e", "frame=2048", GENERIC),
]


@pytest.mark.parametrize(("driver", "options", "mode"), GRANTED)
def test_frames_cross_both_ways_unchanged(pair, driver, options, mode):
    mode = granted(pair[0], mode)
    with ports(pair, f"{options}&ring=256&frames=2048") as (a, b):
        for port in (a, b):
            assert port.mode == mode, port.report
            assert port.report["zerocopy"] is (mode == ZEROCOPY)
        for there, here in ((a, b), (b, a)):
            frames = [frame(there, here, i, SIZES[i % len(SIZES)]) for i in range(600)]  # more than the rings hold
            got = [data for data, _ in exchange(there, here, frames)]
            assert len(got) == len(frames)
            assert sorted(got) == sorted(frames)
        for port in (a, b):
            assert not any(port.stats()["drops"].values()), port.stats()


@pytest.mark.parametrize(
    ("driver", "stages"),
    [
        ("vmxnet3", [("native", "zerocopy", "bind"), ("native", "copy", "none")]),
        (
            "e1000e",
            [("native", "zerocopy", "prog_attach"), ("native", "copy", "prog_attach"), ("generic", "copy", "none")],
        ),
    ],
)
def test_drivers_without_zero_copy_say_why(pair, driver, stages):
    with pb.open(f"xdp:{pair[0]}?frames=256&ring=64") as port:
        rungs = port.report["rungs"]
        assert [(r["mode"], r["copy"], r["stage"]) for r in rungs] == stages
        assert {r["errno"] for r in rungs[:-1]} == {errno.EOPNOTSUPP}
    assert "xsk-zerocopy" not in nic.xdp(pair[0]).features
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(f"xdp:{pair[0]}?frames=256&ring=64&copy=zerocopy")
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.driver("igb")
def test_igb_zero_copy_needs_large_frames(pair):
    """The card counts its buffers in KiB: 1792 bytes would be 1024, and longer packets would arrive in pieces."""
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(f"xdp:{pair[0]}?frames=256&ring=64&frame=2048&copy=zerocopy")
    assert (caught.value.code, caught.value.errno) == ("PB027", errno.EMSGSIZE)
    assert "1024 bytes into a frame of 2048" in str(caught.value)


@pytest.mark.parametrize(("driver", "options"), [("igb", "frame=4096"), ("virtio_net", "frame=2048")])
def test_a_queue_can_be_opened_again_at_once(pair, driver, options):
    """The kernel lets go of a zero-copy queue in a work item: neither is memory of ours written to after, nor is it busy."""
    for _ in range(3):
        with pb.open(f"xdp:{pair[0]}?{options}&ring=256&frames=1024") as port:
            assert port.mode == granted(pair[0], ZEROCOPY)
    with ports(pair, f"{options}&ring=256&frames=1024") as (a, b):
        frames = [frame(a, b, i, 300) for i in range(100)]
        assert sorted(data for data, _ in exchange(a, b, frames)) == sorted(frames)


@pytest.mark.parametrize(("driver", "source"), [("igb", "xdp"), ("virtio_net", "xdp"), ("vmxnet3", "none")])
def test_receive_metadata_is_what_the_driver_can(pair, driver, source):
    """No hardware time: none of these drivers has the kfunc, igb's clock included, and the descriptor says so. vmxnet3 gives
    the program no room for metadata at all."""
    assert "timestamp" not in nic.xdp(pair[1]).rx_metadata
    with ports(pair, "frame=4096&ring=256&frames=1024") as (a, b):
        before = time.clock_gettime_ns(time.CLOCK_TAI)
        got = exchange(a, b, [frame(a, b, i, 200) for i in range(20)])
        after = time.clock_gettime_ns(time.CLOCK_TAI)
        assert len(got) == 20
        sources = {pb.TS_SOURCES[desc["ts_source"]] for _, desc in got}
        if source == "none":
            assert sources == {"none"}
            return
        assert sources == {source}
        stamps = [desc["ts_ns"] for _, desc in got]
        assert before <= stamps[0] and stamps == sorted(stamps) and stamps[-1] <= after


@pytest.mark.parametrize(("driver", "options"), [("igb", "frame=4096"), ("virtio_net", "frame=2048")])
def test_tcp_against_the_kernel_over_zero_copy(pair, driver, options):
    """The engine on one end, the kernel's TCP on the other: 200 kB there and back, unchanged."""
    ours, theirs = pair
    data = bytes(range(256)) * 800
    ns = NetNs()
    try:
        subprocess.run(["ip", "link", "set", theirs, "netns", f"/proc/self/fd/{ns.fd}"], check=True, pass_fds=[ns.fd])
        with ns:
            for command in (f"addr add 10.9.0.2/24 dev {theirs}", f"link set {theirs} up"):
                subprocess.run(["ip", *command.split()], check=True)
            listener = socket.create_server(("10.9.0.2", 7000))
        listener.settimeout(60)
        thread = threading.Thread(target=echo, args=(listener, len(data)))
        thread.start()
        subprocess.run(["ip", "addr", "add", "10.9.0.1/24", "dev", ours], check=True)
        with pb.open(f"xdp:{ours}?{options}") as port, pb.Engine(port, ip="10.9.0.1/24") as engine:
            assert port.mode == granted(ours, ZEROCOPY)
            talk(connect(engine), data)
        thread.join(60)
        assert not thread.is_alive()
        listener.close()
    finally:
        subprocess.run(["ip", "addr", "flush", "dev", ours], check=True)
        with ns:
            subprocess.run(["ip", "link", "set", theirs, "netns", "1"], check=True)
        ns.close()
        subprocess.run(["ip", "link", "set", theirs, "up"], check=True)


def connect(engine):
    """Again until the link is there."""
    deadline = time.monotonic() + 40
    while True:
        try:
            return engine.connect(("10.9.0.2", 7000), timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
