"""`pybypass script`: packet scripts over the engine, and packet timing diagrams."""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .script import Result

__all__ = ["add_parser", "diagram", "run"]

SCHEMA = "pybypass.script/1"
_VERSIONS = {"v4": (4,), "v6": (6,), "both": (4, 6)}


def _settings(args: argparse.Namespace, version: int) -> Any:
    from .script import Settings

    return Settings(
        ip=6 if version == 6 else 4, layout=args.opts, psh=args.psh == "linux", acks=args.acks, cc=args.cc,
        tolerance_us=args.tolerance_usecs, ts_tick_us=args.ts_tick_usecs,
    )  # fmt: skip


def _plain(r: Result) -> dict[str, Any]:
    f = r.failure
    return {
        "path": r.path, "ip": r.ip, "ok": r.ok, "packets": len(r.packets), "seconds": r.seconds,
        "failure": None if f is None else {"line": f.line, "reason": f.reason, "expected": f.expected, "seen": f.seen},
    }  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """0: all scripts hold, 1: one does not."""
    from . import script

    results: list[Result] = []
    for path in args.files:
        for version in _VERSIONS[args.ip]:
            r = script.run(path, _settings(args, version))
            results.append(r)
            if not args.json and (not r.ok or not args.quiet):
                print(r.text())
    failed = sum(not r.ok for r in results)
    if args.json:
        print(json.dumps({"schema": SCHEMA, "failed": failed, "results": [_plain(r) for r in results]}))
    elif len(results) > 1:
        print(f"{len(results) - failed} of {len(results)} hold")
    return 1 if failed else 0


def _end(where: tuple[bytes, int]) -> str:
    raw, port = where
    text = socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def diagram(args: argparse.Namespace) -> int:
    """Of every TCP conversation of a capture, or of a script's run: then 1 when the script does not hold."""
    from . import script
    from .scriptcapture import conversations, is_capture
    from .scriptdiagram import Arrow, draw

    try:
        with Path(args.file).open("rb") as f:
            capture = is_capture(f.read(4))
    except OSError:
        capture = False  # what is wrong with it, run() says
    if capture:
        talks = conversations(args.file)
        print("\n\n".join(draw(t.arrows, _end(t.left), _end(t.right)) for t in talks) or "no TCP in this capture")
        return 0
    r = script.run(args.file, _settings(args, _VERSIONS[args.ip][0]))
    print(draw([Arrow(p.time_us, not p.outbound, p.packet) for p in r.packets], "script", "stack"))
    if not r.ok:
        print(r.text())
    return 0 if r.ok else 1


def _common(parser: argparse.ArgumentParser, versions: list[str]) -> None:
    parser.add_argument("--ip", choices=versions, default="v4", help="version of IP (default v4)")
    parser.add_argument(
        "--acks", choices=["linux", "bsd"], default="linux", help="when data is acknowledged (default linux)"
    )
    parser.add_argument("--cc", metavar="NAME", help="congestion control: reno, cubic")
    parser.add_argument(
        "--opts", choices=["engine", "linux", "freebsd"], default="linux", help="order of TCP options (default linux)"
    )
    parser.add_argument("--psh", choices=["engine", "linux"], default="linux", help="where PSH is set (default linux)")
    parser.add_argument("--tolerance_usecs", type=int, default=4000, metavar="US", help="of times (default 4000)")
    parser.add_argument(
        "--ts_tick_usecs",
        type=int,
        default=0,
        metavar="US",
        help="compare timestamps, of so many us a tick (1000 here)",
    )


def add_parser(subparsers: Any) -> None:
    """Adds `script run` and `script diagram` to the command line."""
    parser = subparsers.add_parser("script", help="packet scripts over the TCP engine, and packet timing diagrams")
    commands = parser.add_subparsers(dest="what", metavar="run|diagram", required=True)
    runs = commands.add_parser("run", help="run scripts in the language of packetdrill; 1 when one does not hold")
    runs.add_argument("files", nargs="+", metavar="FILE")
    runs.add_argument("--json", action="store_true", help="one line of JSON")
    runs.add_argument("-q", "--quiet", action="store_true", help="only those that do not hold")
    _common(runs, ["v4", "v6", "both"])
    runs.set_defaults(run=run)
    draws = commands.add_parser("diagram", help="draw the packets of a script's run, or of a capture (pcap, pcapng)")
    draws.add_argument("file", metavar="FILE")
    _common(draws, ["v4", "v6"])
    draws.set_defaults(run=diagram)
