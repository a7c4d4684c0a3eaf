"""EngineConfig: what it refuses and what it says then, and what it makes of the port it is for."""

import errno
import math
from types import SimpleNamespace

import pytest
from support import Pair, exchange

import pybypass as pb
from pybypass.engineconfig import check_frames


def port_of(frames, filled=0):
    info = {"frames": frames, "frame_bytes": 2048}
    return SimpleNamespace(umem=SimpleNamespace(info=lambda: info), mtu=1500, report={"filled": filled})


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("rcvbuf", "x", "rcvbuf='x' is not a whole number from 4096"),
        ("max_connections", 1.5, "max_connections=1.5 is not a whole number from 1"),
        ("max_connections", None, "max_connections=None is not a whole number"),
        ("max_connections", 0, "max_connections=0 is not from 1"),
        ("max_connections", True, "max_connections=True is not a whole number"),
        ("reserve_frames", "all", "reserve_frames='all' is not a whole number from 0"),
        ("reserve_frames", -1, "reserve_frames=-1 is not from 0"),
        ("rto_min", math.nan, "rto_min=nan is not from"),
        ("time_wait", math.inf, "time_wait=inf is not from 0 to 3600"),
        ("delayed_ack", "1", "delayed_ack='1' is not a number from 0 to 0.5"),
        ("sack", 1, "sack=1 is not True or False"),
        ("ttl", 10**30, "ttl=1000000000000000000000000000000 is not from 1 to 255"),
    ],
)
def test_fields_out_of_range_or_of_another_type(field, value, says):
    with pytest.raises(pb.PybypassError) as caught:
        pb.EngineConfig(**{field: value})
    assert caught.value.code == "PB040"
    assert says in str(caught.value)
    assert "the default is" in caught.value.hint


def test_whole_numbers_are_good_times():
    assert pb.EngineConfig(time_wait=1, rto_min=1, reserve_frames=0).time_wait == 1


def test_bounds_of_the_rto_in_order():
    with pytest.raises(pb.PybypassError, match="rto_min=3 is above rto_max=2") as caught:
        pb.EngineConfig(rto_min=3, rto_max=2)
    assert caught.value.hint == "raise rto_max or lower rto_min"


@pytest.mark.parametrize(("frames", "reserve"), [(128, 16), (4096, 512), (8192, 512)])
def test_the_reserve_scales_with_the_frames(frames, reserve):
    config = pb.EngineConfig()
    assert config.reserve_frames is None
    assert config.resolved(port_of(frames)).reserve_frames == reserve
    assert pb.EngineConfig(reserve_frames=7).resolved(port_of(frames)).reserve_frames == 7


@pytest.mark.parametrize(
    ("frames", "filled", "reserve"),
    [(64, 0, None), (64, 32, None), (128, 64, None), (600, 0, 600), (1024, 512, 512), (8192, 2048, 8192)],
)
def test_too_few_frames_and_how_many_are_enough(frames, filled, reserve):
    config = pb.EngineConfig(reserve_frames=reserve)
    with pytest.raises(pb.PybypassError) as caught:
        config.resolved(port_of(frames, filled))
    assert caught.value.code == "PB040"
    assert f"{frames} frames are too few" in str(caught.value)
    needed = int(caught.value.hint.removeprefix("open the port with frames="))
    assert needed > frames
    again = needed // 2 if 2 * filled == frames else filled  # what the device would fill then
    check_frames(config, port_of(needed, again))


def test_a_reserve_that_no_umem_can_hold():
    with pytest.raises(pb.PybypassError) as caught:
        pb.EngineConfig(reserve_frames=1 << 22).resolved(port_of(8192))
    assert caught.value.hint == "lower reserve_frames"


def test_an_engine_on_a_small_port():
    with pb.open("mem:small-engine?frames=64") as port:
        with pytest.raises(pb.PybypassError, match="frames=128") as caught:
            pb.Engine(port, ip="10.0.0.1/24")
        assert caught.value.code == "PB040"
    with pb.open("mem:small-engine?frames=128") as port, pb.Engine(port, ip="10.0.0.1/24") as engine:
        assert engine.config.reserve_frames == 16


@pytest.mark.parametrize("frames", [128, 256])
@pytest.mark.parametrize("inline", [False, True])
def test_a_small_port_carries_a_stream_both_ways(frames, inline):
    """What lies in the caches of loops and applications must not be most of a small pool."""
    with Pair(inline=inline, uri=f"mem:small?frames={frames}") as p:
        exchange(*p.connect(), 1 << 19)


@pytest.mark.parametrize(("frame", "largest"), [(2048, 1774), (4096, 3822)])
def test_the_largest_mtu_of_a_frame(frame, largest):
    uri = f"mem:mtu?frame={frame}&mtu="
    with pb.open(f"{uri}{largest + 1}") as port, pytest.raises(pb.PybypassError, match="frame=4096") as caught:
        pb.Engine(port, ip="10.0.0.1/24")
    assert (caught.value.code, caught.value.errno) == ("PB027", errno.EMSGSIZE)
    with (
        pb.open(f"{uri}{largest}") as port, pb.open(f"{uri}{largest}") as other,
        pb.Engine(port, ip="10.0.0.1/24") as engine, pb.Engine(other, ip="10.0.0.2/24") as peer,
        peer.listen(80) as listener,
    ):  # fmt: skip
        with engine.connect(("10.0.0.2", 80), timeout=10) as ours, listener.accept(10) as theirs:
            ours.settimeout(10)
            theirs.settimeout(10)
            data = bytes(range(256)) * 400
            ours.sendall(data)
            got = b""
            while len(got) < len(data):
                got += bytes(theirs.recv(1 << 16))
            assert got == data
            assert ours.info()["mss"] == largest - 52  # timestamps
