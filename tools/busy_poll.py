#!/usr/bin/env python3
"""The effect of busy polling on round trips: an inline engine on AF_XDP over veth against a spinning kernel echo server,
with and without `busy_poll`, taking turns. Prints a table, or one line of JSON with --json.

Usage: tools/busy_poll.py [--rounds 9] [--trips 4000] [--busy-poll 20] [--budget 8] [--json]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import numpy as np

import pybypass as pb
from pybypass import _measure, lab

SERVER = """if True:
    import os, socket, sys
    from pybypass import _measure
    os.sched_setaffinity(0, {int(sys.argv[3])})
    s = socket.create_server((sys.argv[1], 5000))
    print("ready", flush=True)
    while True:
        c, _ = s.accept()
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with c:
            try:
                _measure.kernel_echo(c.fileno(), int(sys.argv[2]), 64, "spin")
            except OSError:
                pass
"""


def one(side: lab.Side, server: str, query: str, trips: int) -> tuple[np.ndarray, dict[str, object]]:
    """Round trips in ns over a port of its own, and the port's report."""
    with (
        pb.open(f"xdp:{side.ifname}{query}", netns=side.netns) as port,
        pb.Engine(port, ip=side.ip, inline=True) as engine,
        engine.connect((server, 5000), timeout=10) as connection,
    ):
        return _measure.pingpong(engine._core, connection._s, trips, 64), port.report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--trips", type=int, default=4000)
    parser.add_argument("--busy-poll", type=int, default=20, metavar="US")
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    queries = {"interrupts": "", "busy polling": f"?busy_poll={args.busy_poll}&busy_budget={args.budget}"}
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in queries}
    with lab.veth() as v:
        argv = [sys.executable, "-c", SERVER, v.b.ip, str(args.trips), str(cpus[-1])]
        server = v.b.netns.popen(argv, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        server.stdout.readline()
        os.sched_setaffinity(0, {cpus[0]})
        try:
            for _ in range(args.rounds):
                for name, query in queries.items():
                    times, report = one(v.a, v.b.ip, query, args.trips)
                    if query and not report["busy_poll_us"]:
                        print(f"busy polling refused: {report['no_busy_poll']}", file=sys.stderr)
                        return 1
                    p50, p99 = np.percentile(times[len(times) // 10 :], (50, 99))
                    rows[name].append((float(p50), float(p99)))
        finally:
            server.kill()
            server.communicate()
    result = {
        name: {"p50_us": statistics.median(r[0] for r in found) / 1e3, "p99_us": statistics.median(r[1] for r in found) / 1e3}
        for name, found in rows.items()
    }
    ratio = {k: result["busy polling"][k] / result["interrupts"][k] for k in ("p50_us", "p99_us")}
    if args.json:
        print(json.dumps({"rounds": args.rounds, "trips": args.trips, **result, "ratio": ratio}))
        return 0
    for name, found in result.items():
        print(f"{name:14} p50 {found['p50_us']:8.2f} us   p99 {found['p99_us']:8.2f} us")
    print(f"{'ratio':14} p50 {ratio['p50_us']:8.3f}      p99 {ratio['p99_us']:8.3f}   (medians of {args.rounds} rounds, in turns)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
