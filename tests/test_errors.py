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
        assert hint or code in ("PB050", "PB052", "PB055", "PB099")


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ECONNREFUSED, ConnectionRefusedError, "PB051"), (errno.ECONNRESET, ConnectionResetError, "PB052"),
        (errno.ETIMEDOUT, TimeoutError, "PB053"), (errno.EAGAIN, BlockingIOError, "PB054"),
        (errno.EPIPE, BrokenPipeError, "PB055"), (errno.ECONNABORTED, ConnectionAbortedError, "PB050"),
        (errno.EHOSTUNREACH, OSError, "PB050"), (errno.ENETUNREACH, OSError, "PB056"),
    ],
)  # fmt: skip
def test_connection_errors(number, kind, code):
    e = connection_error(number)
    assert isinstance(e, kind)
    assert isinstance(e, pb.PybypassError)
    assert (e.errno, e.code) == (number, code)


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
    from pybypass.ports import _xdp_error

    failure = OSError(number, "text of the step")
    failure.stage, failure.report = stage, {"rungs": []}
    e = _xdp_error(failure)
    assert (e.code, e.errno) == (code, number)
    assert "text of the step" in str(e)
    assert e.detail == {"rungs": []}
