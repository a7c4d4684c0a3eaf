"""The command line: `pybypass COMMAND`, or `python -m pybypass COMMAND`.

Exit codes: 0 ok, 1 a check or threshold failed, 2 usage, 3 not supported here, 4 permission.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__, bench, bindjob, devicesjob, doctor, echo, hugepagesjob, labjob, nicjob, scriptjob
from .errors import PybypassError

__all__ = ["EXIT_FAILED", "EXIT_OK", "EXIT_PERMISSION", "EXIT_UNSUPPORTED", "EXIT_USAGE", "exit_code", "main"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNSUPPORTED, EXIT_PERMISSION = range(5)

# Each adds its sub-commands, with `run` set to what is called with the parsed arguments and returns the exit code.
REGISTER: tuple[Callable[[Any], None], ...] = (
    doctor.add_parser, labjob.add_parser, echo.add_parser, bench.add_parser, nicjob.add_parser,
    hugepagesjob.add_parser, devicesjob.add_parser, bindjob.add_parser, scriptjob.add_parser,
)  # fmt: skip

# Errors that say the arguments are wrong, and that something is missing here.
_USAGE_CODES = frozenset({"PB010", "PB040", "PB044", "PB072", "PB100", "PB102", "PB103"})
_UNSUPPORTED_CODES = frozenset({"PB011", "PB028", "PB029", "PB030", "PB031", "PB060", "PB071", "PB101"})
_UNSUPPORTED_ERRNOS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


def exit_code(error: PybypassError) -> int:
    """The exit code that stands for an error."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return EXIT_PERMISSION
    if error.code in _USAGE_CODES:
        return EXIT_USAGE
    if error.code in _UNSUPPORTED_CODES or error.errno in _UNSUPPORTED_ERRNOS:
        return EXIT_UNSUPPORTED
    return EXIT_FAILED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pybypass", description="Kernel-bypass networking for Python.")
    parser.add_argument("--version", action="version", version=f"pybypass {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for register in REGISTER:
        register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; argparse exits by itself (SystemExit) on wrong usage.

    A PybypassError becomes one line on stderr; with PYBYPASS_DEBUG=1 in the environment it is raised.
    """
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except PybypassError as e:
        if os.environ.get("PYBYPASS_DEBUG") == "1":
            raise
        print("pybypass:", " ".join(str(e).split()), file=sys.stderr)
        return exit_code(e)
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
