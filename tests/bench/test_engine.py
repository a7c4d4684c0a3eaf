"""The engine alone, both ends of a transfer in one thread, beside lwIP; and what it takes from the heap: nothing."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from peers import machine_note

import pybypass

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "bench"
BYTES = 64 << 20


def compiled(name, *flags):
    BUILD.mkdir(parents=True, exist_ok=True)
    out = BUILD / name
    argv = ["gcc", "-O2", "-Wall", str(HERE / "engine" / f"{name}.c"), "-o", str(out), *flags]
    subprocess.run(argv, check=True)
    return out


@pytest.fixture(scope="module")
def ours():
    package = Path(pybypass.__file__).parent
    return compiled("ours", f"-I{ROOT / 'csrc'}", f"-L{package}", "-lpbcore", f"-Wl,-rpath,{package}")


@pytest.fixture(scope="module")
def lwip():
    return compiled("lwip", "-I/usr/include/lwip", "-llwip")


@pytest.fixture(scope="module")
def growth():
    package = Path(pybypass.__file__).parent
    return compiled("growth", f"-I{ROOT / 'csrc'}", f"-L{package}", "-lpbcore", f"-Wl,-rpath,{package}")


def run(binary, *arguments):
    cpu = sorted(os.sched_getaffinity(0))[-1]
    done = subprocess.run(
        [str(binary), *map(str, arguments or (BYTES,))], stdout=subprocess.PIPE, check=True, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.rows("engine_segment_ns")
def test_a_segment(rounds, ours, lwip):
    found = rounds.run({"ours": lambda: run(ours)["ns_per_segment"], "lwip": lambda: run(lwip)["ns_per_segment"]}, 9)
    rounds.row(
        "engine_segment_ns", found["ours"], found["lwip"], "lwIP 2.1.3 (Debian's build)", "ns", goal=0.5,
        note="both ends of both directions at once in one pinned thread, 1,460 bytes a segment, checksums and copies to and "
        "from the application in both; ACKs included; Debian's lwIP allocates by malloc() and asserts: an easy peer; "
        f"{machine_note()}",
    )  # fmt: skip


@pytest.mark.rows("engine_allocs_per_segment")
def test_allocations(rounds, ours):
    def per_segment():
        found = run(ours)
        return found["allocations"] / found["data_segments"]

    found = rounds.run({"ours": per_segment}, 5)
    rounds.row(
        "engine_allocs_per_segment", found["ours"], None, None, "1/segment", goal=0,
        note="malloc, calloc, realloc and aligned_alloc of the whole process while 128 MiB pass, after an eighth to warm up",
    )  # fmt: skip


@pytest.mark.rows("engine_growth_100k")
def test_growth(rounds, growth):
    def ns(connections):
        return lambda: run(growth, connections, 400_000)["ns_per_segment"]

    found = rounds.run({"many": ns(100_000), "one": ns(1)}, 7)
    rounds.row(
        "engine_growth_100k", found["many"], found["one"], "one connection", "ns", goal=3,
        note="two engines in one pinned thread, 400,000 segments of 1,460 bytes one way over 100,000 connections, two a visit, "
        "visited by a stride that no cache foresees; the same bytes over one connection; copies, checksums, ACKs and both "
        f"ends' work included, no device; {machine_note()}",
    )  # fmt: skip


def instructions(binary):
    """Per data segment: the difference of two runs of other lengths, so that starting up does not count."""
    found = []
    for nbytes in (1 << 20, 5 << 20):
        argv = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(binary), str(nbytes)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        found.append(int(re.search(r"Collected : (\d+)", done.stderr)[1]))
    # Both directions carry so many bytes, and an eighth before to warm up.
    return (found[1] - found[0]) / (2 * (4 << 20) * 9 / 8 / 1460)


@pytest.mark.rows("engine_segment_instructions")
def test_instructions(rounds, ours, lwip):
    found = rounds.run({"ours": lambda: instructions(ours), "lwip": lambda: instructions(lwip)}, 5)
    rounds.row(
        "engine_segment_instructions", found["ours"], found["lwip"], "lwIP 2.1.3 (Debian's build)", "1/segment", goal=None,
        note="counted by callgrind (valgrind) in user space, both ends of both directions: the difference of a run of 5 MiB and "
        "one of 1 MiB each way, by 1,460 bytes; checksums and copies included, and what vector instructions valgrind offers; "
        "Debian's lwIP allocates by malloc() and asserts: an easy peer",
    )  # fmt: skip
