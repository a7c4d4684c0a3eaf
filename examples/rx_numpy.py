"""Counts and measures frames with NumPy: one call per burst, descriptors as a structured array, payloads without a copy.

python examples/rx_numpy.py                                       a generator at the other end of mem:
python examples/rx_numpy.py --dev xdp:eth1?steer=udp --seconds 10
"""

import argparse
import time
from contextlib import ExitStack

import numpy as np

import pybypass as pb


def generate(port: pb.Port, n: int) -> None:
    """n frames of varying length, the Ethernet type of an experiment (IEEE 802)."""
    with port.alloc_burst(n) as burst:
        for i in range(n):
            burst.write(i, b"\xff" * 6 + port.queues[0].mac + b"\x88\xb5" + bytes(46 + i))
        port.tx_burst(burst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", default="mem:rx", metavar="URI")
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()

    with ExitStack() as stack:
        port = stack.enter_context(pb.open(args.dev))
        other = stack.enter_context(pb.open(args.dev)) if port.kind == "mem" else None
        frames = octets = 0
        sizes = np.zeros(2049, dtype=np.int64)
        ethertypes: dict[int, int] = {}
        hashes: set[int] = set()
        clock = "none"
        until = time.monotonic() + args.seconds
        while time.monotonic() < until:
            if other is not None:
                generate(other, 32)
            with port.rx_burst(64) as burst:
                if not burst:
                    continue
                desc = burst.desc
                frames += len(desc)
                octets += int(desc["len"].sum())
                sizes += np.bincount(np.minimum(desc["len"], 2048), minlength=2049)
                hashes.update(np.unique(desc["hash"]).tolist())
                clock = pb.TS_SOURCES[int(desc["ts_source"][0])]
                kind = int.from_bytes(burst.payload(0)[12:14], "big")
                ethertypes[kind] = ethertypes.get(kind, 0) + 1
        stats = port.stats()
        used = np.nonzero(sizes)[0]
        shown = f"{used.min()} to {used.max()} bytes" if len(used) else "none"
        print(f"{frames} frames, {octets} bytes, {shown}, mode {port.mode}, times by {clock}, drops {stats['drops']}")
        print("Ethernet types seen first in a burst:", {f"0x{k:04x}": v for k, v in sorted(ethertypes.items())})
        print(f"{len(hashes)} hash values")
        assert frames > 0, "nothing was received"


if __name__ == "__main__":
    main()
