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
