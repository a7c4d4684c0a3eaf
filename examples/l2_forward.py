"""Forwards frames between two ports, both ways, without a copy: they share one Umem.

python examples/l2_forward.py                          between two mem: pairs, with a test at the outer ends
python examples/l2_forward.py --dev xdp:eth1?steer=all --dev xdp:eth2?steer=all --seconds 10
"""

import argparse
import time
from contextlib import ExitStack

import pybypass as pb


def forward(source: pb.Port, target: pb.Port) -> int:
    """One burst; returns the number of frames. What the target does not take is dropped with the burst."""
    with source.rx_burst(64) as burst:
        return target.tx_burst(burst) if burst else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="append", metavar="URI", help="twice")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--frames", type=int, default=10000, help="mem: how many to send through")
    args = parser.parse_args()
    devices = args.dev or ["mem:left", "mem:right"]
    if len(devices) != 2:
        parser.error("--dev is given twice")

    with ExitStack() as stack:
        umem = pb.Umem(frames=8192)
        left, right = (stack.enter_context(pb.open(uri, umem=umem)) for uri in devices)
        ends = [stack.enter_context(pb.open(uri)) for uri in devices if uri.startswith("mem:")]
        counts = {"left to right": 0, "right to left": 0}
        sent = arrived = 0
        until = time.monotonic() + args.seconds
        print(f"{left.uri} ({left.mode}) <-> {right.uri} ({right.mode})", flush=True)
        while time.monotonic() < until:
            counts["left to right"] += forward(left, right)
            counts["right to left"] += forward(right, left)
            if len(ends) == 2 and arrived < args.frames:
                if sent < args.frames:
                    with ends[0].alloc_burst(min(32, args.frames - sent), length=64) as burst:
                        for i in range(len(burst)):
                            burst.write(i, (sent + i).to_bytes(4, "big") * 16)
                        sent += ends[0].tx_burst(burst)
                with ends[1].rx_burst(64) as burst:
                    for i in range(len(burst)):
                        assert bytes(burst.payload(i)) == (arrived + i).to_bytes(4, "big") * 16
                    arrived += len(burst)
            elif len(ends) == 2:
                break
        for way, n in counts.items():
            print(f"{way}: {n} frames")
        if len(ends) == 2:
            assert arrived == args.frames, f"{arrived} of {args.frames} frames arrived"


if __name__ == "__main__":
    main()
