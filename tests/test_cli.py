"""The command line: exit codes, errors as one line, what is registered."""

import errno
import json
import os
import subprocess
import sys

import pytest

import pybypass
from pybypass import cli
from pybypass.errors import CODES, PybypassError


def call(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pybypass", *args], env={**os.environ, **environment}, text=True, timeout=60,
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip


@pytest.fixture
def command(monkeypatch):
    """Registers a command `fake` that does what the test says."""

    def register(function):
        def add(subparsers):
            subparsers.add_parser("fake").set_defaults(run=function)

        monkeypatch.setattr(cli, "REGISTER", (add,))

    return register


def test_version_and_help():
    result = call("--version")
    assert (result.returncode, result.stdout) == (0, f"pybypass {pybypass.__version__}\n")
    listed = call("--help").stdout
    for name in ("doctor", "lab", "echo"):
        assert f"\n    {name} " in listed


@pytest.mark.parametrize("args", [(), ("nonsense",), ("doctor", "--nonsense"), ("lab",), ("echo", "--dev", "mem:a")])
def test_wrong_usage_is_2(args):
    result = call(*args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("usage: pybypass")


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [
        ("PB010", errno.EINVAL, 2),
        ("PB044", errno.EINVAL, 2),
        ("PB011", errno.ENOSYS, 3),
        ("PB028", errno.EOPNOTSUPP, 3),
        ("PB029", errno.EAFNOSUPPORT, 3),
        ("PB060", errno.EPERM, 4),
        ("PB025", errno.EPERM, 4),
        ("PB031", errno.EACCES, 4),
        ("PB031", errno.EINVAL, 3),
        ("PB020", errno.ENODEV, 1),
        ("PB053", errno.ETIMEDOUT, 1),
    ],
)
def test_errors_are_one_line_with_code_and_hint(command, capsys, code, number, expected):
    def fails(args):
        raise PybypassError.make(code, number, "two\nlines")

    command(fails)
    assert cli.main(["fake"]) == expected
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pybypass: [{code}] {CODES[code][0]}: two lines ({errno.errorcode[number]})")
    assert CODES[code][1] in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(command, monkeypatch):
    def fails(args):
        raise PybypassError.make("PB020", errno.ENODEV)

    command(fails)
    monkeypatch.setenv("PYBYPASS_DEBUG", "1")
    with pytest.raises(PybypassError):
        cli.main(["fake"])


def test_what_a_command_returns_is_the_exit_code(command):
    command(lambda args: 1)
    assert cli.main(["fake"]) == 1


def test_other_errors_are_not_hidden(command):
    def fails(args):
        raise ZeroDivisionError

    command(fails)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


def test_interrupt(command):
    def fails(args):
        raise KeyboardInterrupt

    command(fails)
    assert cli.main(["fake"]) == 130


def test_a_reader_that_goes_away():
    code = "import sys; from pybypass import cli; sys.exit(cli.main(['doctor']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 1


def test_a_real_error():
    result = call("echo", "--dev", "nonsense", "--ip", "10.0.0.1/24", "--port", "7")
    assert result.returncode == 2
    assert result.stderr.startswith("pybypass: [PB010] malformed port URI: 'nonsense' (EINVAL). write xdp:")
    assert len(result.stderr.splitlines()) == 1


def test_json_is_one_line():
    result = call("doctor", "--json")
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["schema"] == "pybypass.doctor/1"
