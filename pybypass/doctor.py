"""`pybypass doctor`: what is available here, what is not, why, and the command that would fix it.

Looks and changes nothing. Verdicts: `ok`; `info`, which does not matter to the main job; `warn`, with which it works
less well or only over `mem`; `fail`, something is broken. The checks are in doctorsystem.py (the machine), doctordpdk.py
(what dpdk: ports need) and doctornet.py (its interfaces).
"""

from __future__ import annotations

import argparse
import errno
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from . import doctordpdk, doctornet, doctorsystem, nic
from .doctorcheck import Check
from .errors import PybypassError

__all__ = ["Check", "add_parser", "diagnose", "main_job", "run"]

SCHEMA = "pybypass.doctor/1"

# What the main job needs to run on xdp in the lab.
_NEEDED = ("libxdp", "xdp_programs", "kernel", "btf", "af_xdp", "caps_xdp", "caps_lab", "memlock", "netns")


def main_job(checks: list[Check]) -> Check:
    """What `pybypass lab echo` can run on here."""
    by_id = {check.id: check for check in checks}
    if by_id["core"].verdict == "fail":
        return Check(id="main_job", verdict="fail", value="nothing", why="core fails")
    lacking = [name for name in _NEEDED if by_id[name].verdict in ("warn", "fail")]
    if not lacking:
        return Check(id="main_job", verdict="ok", value="xdp")
    fix = next((by_id[name].fix for name in lacking if by_id[name].fix), "")
    return Check(id="main_job", verdict="warn", value="mem only", why=f"see {', '.join(lacking)}", fix=fix)


def diagnose(dev: str | None = None) -> list[Check]:
    """All checks, in order, and what follows for the main job; with `dev`, those of one interface, up or not.

    `dev`: an interface's name, or an xdp: URI. Takes well under a second; of checks none raises. Raises PybypassError
    PB010 (a URI of another kind), PB020 (no such interface).
    """
    if dev is not None:
        found = nic.look(_ifname(dev))
        return [doctornet.check_interface(found), *doctornet.check_all([found])]
    checks = [check() for check in (*doctorsystem.CHECKS, *doctordpdk.CHECKS)]
    checks += doctornet.check_all(doctornet.seen())
    return [*checks, main_job(checks)]


def _ifname(dev: str) -> str:
    if ":" not in dev:
        return dev
    from .ports import Uri

    uri = Uri.parse(dev)
    if uri.scheme != "xdp":
        raise PybypassError.make("PB010", errno.EINVAL, f"{dev!r}: no interface of the kernel behind it")
    return uri.name


def _lines(checks: list[Check]) -> Iterator[str]:
    ids = max(len(check.id) for check in checks)
    for check in checks:
        why = f": {check.why}" if check.why and check.verdict != "ok" else ""
        yield f"{check.verdict:<4}  {check.id:<{ids}}  {check.value}{why}"
        if check.fix and check.verdict != "ok":
            yield f"{'':<{ids + 8}}fix: {check.fix}"


def run(args: argparse.Namespace) -> int:
    """0 when the main job can be done, on xdp or on mem, and nothing is broken; else 1."""
    from . import __version__

    checks = diagnose(args.dev)
    if args.json:
        print(json.dumps({"schema": SCHEMA, "checks": [asdict(check) for check in checks]}))
    else:
        libc = " ".join(platform.libc_ver())
        print(f"pybypass {__version__}, Python {platform.python_version()}, {libc}, {platform.machine()}")
        for line in _lines(checks):
            print(line)
    return 1 if any(check.verdict == "fail" for check in checks) else 0


def add_parser(subparsers: Any) -> None:
    """Adds `doctor` to the command line."""
    parser = subparsers.add_parser("doctor", help="what is available here, what is not, and what would fix it")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--dev", metavar="URI|IF", help="one interface only, in depth: eth1, or xdp:eth1")
    parser.set_defaults(run=run)
