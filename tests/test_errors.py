"""Every code is whole and stable; errors are the builtin classes that socket users catch."""

import errno
import re

import pytest

import pybypass as pb
from pybypass.errors import CODES, connection_error


def test_codes_say_what_and_what_to_do():
    for code, (what, hint) in CODES.items():
        assert re.fullmatch(r"PB\d{3}", code)
        assert (what and what[0].islower()) or what.startswith(("MTU", "XDP"))
        assert len(hint) > 10, code
        assert "the text" not in hint


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ECONNREFUSED, ConnectionRefusedError, "PB051"), (errno.ECONNRESET, ConnectionResetError, "PB052"),
        (errno.ETIMEDOUT, TimeoutError, "PB053"), (errno.EAGAIN, BlockingIOError, "PB054"),
        (errno.EPIPE, BrokenPipeError, "PB055"), (errno.ECONNABORTED, ConnectionAbortedError, "PB050"),
        (errno.EHOSTUNREACH, OSError, "PB058"), (errno.ENETUNREACH, OSError, "PB056"),
        (errno.ENOBUFS, OSError, "PB057"), (errno.EMFILE, OSError, "PB057"), (errno.EADDRINUSE, OSError, "PB042"),
        (errno.EADDRNOTAVAIL, OSError, "PB041"),
    ],
)  # fmt: skip
def test_connection_errors(number, kind, code):
    e = connection_error(number)
    assert isinstance(e, kind)
    assert isinstance(e, pb.PybypassError)
    assert (e.errno, e.code) == (number, code)


def test_one_connection_too_many():
    few = pb.EngineConfig(max_connections=2)
    with (
        pb.open("mem:many") as port, pb.open("mem:many") as other,
        pb.Engine(port, ip="10.0.0.1/24", config=few) as engine, pb.Engine(other, ip="10.0.0.2/24") as peer,
        peer.listen(80),
    ):  # fmt: skip
        connections = [engine.connect(("10.0.0.2", 80), timeout=10) for _ in range(2)]
        with pytest.raises(pb.PybypassError) as caught:
            engine.connect(("10.0.0.2", 80), timeout=10)
        assert (caught.value.code, caught.value.errno) == ("PB057", errno.ENOBUFS)
        assert "EngineConfig(max_connections=" in caught.value.hint
        for connection in connections:
            connection.close()


def test_text_has_code_errno_and_hint():
    e = pb.PybypassError.make("PB023", errno.EBUSY, "queue 0 of eth1")
    assert str(e) == (
        "[PB023] queue is busy: queue 0 of eth1 (EBUSY). another socket is bound to it: close that process, or take "
        "another queue"
    )
    assert e.detail == {}


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        ("socket", errno.EAFNOSUPPORT, "PB029"),  # a kernel without AF_XDP
        ("prog_load", errno.EINVAL, "PB031"),  # or without what the program needs
        ("socket", errno.EPERM, "PB025"),
        ("prog_load", errno.EPERM, "PB025"),
        ("iface", errno.ENODEV, "PB020"),
        ("iface", errno.ENETDOWN, "PB021"),
        ("queue", errno.EINVAL, "PB022"),
        ("bind", errno.EBUSY, "PB023"),
        ("bind", errno.EOPNOTSUPP, "PB028"),
        ("prog_busy", errno.EBUSY, "PB024"),
        ("prog_file", errno.ENOENT, "PB030"),
        ("umem", errno.ENOBUFS, "PB026"),
        ("mtu", errno.EMSGSIZE, "PB027"),
        ("fill", errno.ENOBUFS, "PB003"),
        ("config", errno.EINVAL, "PB010"),
        ("what", errno.EIO, "PB099"),
    ],
)
def test_each_stage_of_opening_has_its_code(stage, number, code):
    from pybypass.xdpport import _xdp_error

    failure = OSError(number, "text of the step")
    failure.stage, failure.report = stage, {"rungs": []}
    e = _xdp_error(failure)
    assert (e.code, e.errno) == (code, number)
    assert "text of the step" in str(e)
    assert e.detail == {"rungs": []}
