"""Benchmarks of ports and of TCP: `pybypass bench`, and the same from Python.

`run(Options(kind="rtt", dev="xdp:eth1", peer="xdp:eth2"))` gives a Result. Kinds: `tx` and `rx` (packets per second, loss),
`rtt` (a reflector sends packets back), `tcp-rr` (requests and answers), `tcp-stream` (one flow). `kernel:IF` in the place of a
port is the kernel's sockets on that interface, by the same loops.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from . import benchcompare
from ._bench import Histogram, Stop
from .benchreport import Result
from .benchrun import KINDS, Options, run, serve
from .gen import Packet, Vary

__all__ = ["Histogram", "Options", "Packet", "Result", "Vary", "add_parser", "run"]

_HELP = {
    "rx": "receive as fast as the peer sends: packets per second, loss, duplicates, reordering, latency",
    "tx": "send by a template, at a rate or as fast as it goes",
    "rtt": "packets to a schedule, reflected by the peer: latency from when each was due",
    "tcp-rr": "TCP requests and answers: one at a time, or to a schedule (--rate)",
    "tcp-stream": "one TCP flow: Gbit/s",
}


def _options(args: argparse.Namespace) -> Options:
    return Options(
        kind=args.kind, dev=args.dev, peer=args.peer, lab=args.lab, rate=args.rate, seconds=args.seconds,
        packets=args.packets, size=args.size, nbytes=args.bytes, burst=args.burst, slices=args.slices,
        vary=tuple(Vary.parse(v) for v in args.vary), cpu=args.cpu, peer_cpu=args.peer_cpu, wait=args.wait, ip=args.ip,
        to=args.to, to_mac=args.to_mac, reverse=args.reverse,
    )  # fmt: skip


@contextmanager
def _interruptible() -> Iterator[None]:
    """The loops in C do not look up for Python's handler: Ctrl-C ends the process, and the kernel takes all of it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_bench(args: argparse.Namespace) -> int:
    """0, or 1 when the result is invalid: the generator was the bottleneck."""
    o = _options(args)
    with _interruptible():
        result = run(o)
    if args.json:
        print(json.dumps(result.as_json(histogram=args.histogram)))
    else:
        print("\n".join(result.lines()))
    return 1 if result.invalid() else 0


def run_peer(args: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM."""
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    o = Options(
        kind=args.kind, dev=args.dev, to=args.to or "0.0.0.0", seconds=86400, ip=args.ip, cpu=args.cpu, wait=args.wait
    )
    with ThreadPoolExecutor(1) as pool:  # signals are for the main thread, and the loops do not look up
        served = pool.submit(serve, o, stop)
        while not served.done():
            time.sleep(0.05)
        print(json.dumps(served.result()))
    return 0


def run_compare(args: argparse.Namespace) -> int:
    """0; 1 when one of the two is invalid (unless --force), or a metric of B is worse than A's by more than --fail-above
    allows, beyond what chance explains."""
    a, b = benchcompare.load(args.a), benchcompare.load(args.b)
    rows = benchcompare.compare(a, b, force=args.force)
    if args.json:
        print(
            json.dumps({"schema": "pybypass.bench-compare/1", "rows": [vars(r) | {"differs": r.differs} for r in rows]})
        )
    else:
        print("\n".join(benchcompare.lines(a, b, rows)))
    if not args.force and not (a["valid"] and b["valid"]):
        return 1
    return 1 if args.fail_above is not None and any(r.worse_than(args.fail_above) for r in rows) else 0


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dev", required=True, metavar="URI", help="xdp:IF, mem:NAME, or kernel:IF for the kernel's sockets"
    )
    parser.add_argument("--ip", help="own address (default: the interface's)")
    parser.add_argument("--to", metavar="IP", help="the far end's address, where `pybypass bench peer` runs")
    parser.add_argument("--cpu", type=int, help="core of the measuring thread")
    parser.add_argument(
        "--wait", choices=("spin", "yield", "block"), default="spin", help="how kernel sockets wait (default: spin)"
    )


def _add_kind(kinds: Any, kind: str) -> None:
    parser = kinds.add_parser(kind, help=_HELP[kind])
    _common(parser)
    parser.add_argument("--peer", metavar="URI", help="the other end, in this process")
    parser.add_argument("--lab", action="store_true", help="make a veth pair: interfaces pba (--dev) and pbb (--peer)")
    parser.add_argument("--to-mac", metavar="MAC")
    parser.add_argument("--rate", type=float, metavar="N", help="packets or requests per second, to a schedule")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--packets", type=int, metavar="N", help="at most")
    parser.add_argument("--size", type=int, default=64, help="of a frame with its check sequence (default: 64)")
    parser.add_argument("--bytes", type=int, default=64, help="of a TCP request (default: 64)")
    parser.add_argument("--burst", type=int, default=64)
    parser.add_argument("--slices", type=int, default=20, help="parts that `bench compare` draws intervals from")
    parser.add_argument(
        "--vary", action="append", default=[], metavar="FIELD=LOW-HIGH", help="sport=random:1024-65535, ..."
    )
    parser.add_argument("--reverse", action="store_true", help="tcp-stream: from the peer")
    parser.add_argument("--peer-cpu", type=int)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--histogram", action="store_true", help="with --json: the latency's buckets")
    parser.set_defaults(run=run_bench, kind=kind)


def add_parser(subparsers: Any) -> None:
    """Adds `bench` to the command line."""
    bench = subparsers.add_parser(
        "bench", help="measure a port, or TCP over it, against another or the kernel's sockets"
    )
    kinds = bench.add_subparsers(dest="bench_command", required=True, metavar="KIND")
    for kind in KINDS:
        _add_kind(kinds, kind)
    peer = kinds.add_parser("peer", help="the far end for --to")
    peer.add_argument("kind", choices=("rtt", "tx", "tcp-rr", "tcp-stream"))
    _common(peer)
    peer.set_defaults(run=run_peer)
    compare = kinds.add_parser("compare", help="two results of --json, with confidence intervals")
    compare.add_argument("a")
    compare.add_argument("b")
    compare.add_argument("--json", action="store_true")
    compare.add_argument("--force", action="store_true", help="also runs of different settings, and invalid ones")
    compare.add_argument(
        "--fail-above",
        type=float,
        metavar="F",
        help="exit 1 when b is worse than a by more than this factor (1.05: 5 %%)",
    )
    compare.set_defaults(run=run_compare)
