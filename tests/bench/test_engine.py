"""The engine alone, both ends of a transfer in one thread, beside lwIP; and what it takes from the heap: nothing."""

import json
import os
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


def run(binary, nbytes=BYTES):
    cpu = sorted(os.sched_getaffinity(0))[-1]
    done = subprocess.run(
        [str(binary), str(nbytes)], stdout=subprocess.PIPE, check=True, text=True,
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
