#!/usr/bin/env python3
"""Writes packet scripts of random ACKs whose assertions are what this machine's kernel did, into tests/pkt/recorded.

Usage: tools/record_scripts.py PACKETDRILL FIRST COUNT

PACKETDRILL is google/packetdrill's program, which needs root; each script runs in a network namespace of its own, three
times: what differs from run to run hangs on the kernel's timer ticks and is left out. FIRST is the first seed.
"""

import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FIELDS = ("ca_state", "snd_cwnd", "snd_ssthresh", "unacked", "sacked", "lost", "retrans", "total_retrans", "reordering")
NAMES = ", ".join(f"tcpi_{name}" for name in FIELDS)
OUT = Path(__file__).resolve().parent.parent / "tests" / "pkt" / "recorded"
SEGMENTS, MSS = 10, 1000
PAUSES = ("+0", "+.005", "+.02", "+.5", "+.8", "+1.3")
HEAD = """// Ten segments, and ACKs by seed {seed}{kind}: state, window, marks and counts are those of Linux {kernel}.
// Linux (RFC 8985, 6937, 5682, 6675, 2883), recorded by tools/record_scripts.py.
`sysctl -q net.ipv4.tcp_timestamps=0`

    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 setsockopt(3, SOL_TCP, TCP_CONGESTION, "cubic", 5) = 0
   +0 setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
   +0 < S 0:0(0) win 32792 <{options}>
   +0 > S. 0:0(0) ack 1 <...>
 +.2 < . 1:1(0) ack 1 win {win}
   +0 accept(3, ..., ...) = 4
   +0 write(4, ..., {bytes}) = {bytes}
"""


def blocks(una: int, sacked: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for i in sorted(i for i in sacked if i >= una):
        if found and found[-1][1] == i:
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found


def span(block: tuple[int, int]) -> str:
    return f"{1 + MSS * block[0]}:{1 + MSS * block[1]}"


def ack_lines(seed: int, sack: bool, win: int) -> list[str]:
    """Segments arrive, are reported, acknowledged and reported again, in any order and with any pause."""
    r = random.Random(seed)
    una, sacked, pause, lines = 0, set[int](), "+.2", []
    for _ in range(r.randrange(4, 12)):
        what, holes, duplicate = r.randrange(10), [i for i in range(una, SEGMENTS) if i not in sacked], None
        if not holes:
            break
        if what < 5 and sack:
            first = r.choice(holes[1:] or holes)
            sacked.update(range(first, min(SEGMENTS, first + r.choice((1, 1, 2, 3)))))
        elif what < 8:
            una = min(SEGMENTS, una + r.choice((1, 1, 2)))
        elif what == 8 and sack and una:
            duplicate = r.randrange(una)
        while una in sacked:
            una += 1
        shown = blocks(una, sacked)
        r.shuffle(shown)
        spans = [] if duplicate is None else [span((duplicate, duplicate + 1))]
        spans += [span(b) for b in shown[:3]]
        options = f" <nop,nop,sack {' '.join(spans)}>" if spans else ""
        lines.append(f"{pause:>5} < . 1:1(0) ack {1 + MSS * una} win {win}{options}")
        pause = r.choice(PAUSES)
    return lines


def seen_by_kernel(program: str, text: str, count: int) -> list[str] | None:
    """What it had after each ACK; None: not the same each time, or the machine was late."""
    with tempfile.NamedTemporaryFile("w", suffix=".pkt") as file:
        file.write(text)
        file.flush()
        command = f"ip link set lo up; timeout 20 {program} --ip_version=ipv4 --tolerance_usecs=15000 {file.name}"
        runs = []
        for _ in range(3):
            done = subprocess.run(["unshare", "-n", "sh", "-c", command], capture_output=True, text=True, check=False)
            runs.append(re.findall(r"^R (.*)$", done.stdout, re.M))
    return runs[0] if len(runs[0]) == count and runs[1:] == runs[:1] * 2 else None


def main() -> None:
    program, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    kernel = subprocess.check_output(["uname", "-r"], text=True).split(".")
    OUT.mkdir(exist_ok=True)
    for seed in range(first, first + count):
        sack = seed % 4 != 0
        win = 1000 if sack else 60000
        head = HEAD.format(
            seed=seed, kind="" if sack else ", without SACK", kernel=".".join(kernel[:2]), win=win, bytes=SEGMENTS * MSS,
            options="mss 1000,nop,nop,sackOK,nop,wscale 7" if sack else "mss 1000",
        )  # fmt: skip
        lines = ack_lines(seed, sack, win)
        asked = "".join(f'{line}\n   +0 %{{ print("R", {NAMES}) }}%\n' for line in lines)
        seen = seen_by_kernel(program, head + asked, len(lines))
        if seen is None:
            print(f"{seed}: left out")
            continue
        said = "".join(
            f"{line}\n   +0 %{{ assert now() == ({', '.join(values.split())}), now() }}%\n"
            for line, values in zip(lines, seen, strict=True)
        )
        (OUT / f"acks-{seed}.pkt").write_text(f"{head}   +0 %{{ now = lambda: ({NAMES}) }}%\n{said}")


if __name__ == "__main__":
    main()
