#!/usr/bin/env python3
"""Runs the C tests, the fuzz targets and pytest, and ends with one line: N passed, N failed, N skipped.

A fuzz target counts as one test; the static checks are among the Python tests.

Usage: tools/suite.py [--only c,fuzz,pytest] [--fuzz-seconds N] [-- PYTEST_ARGS]
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
C_SECONDS = 420
PYTEST_SECONDS = 1200
NOTHING_COLLECTED = 5
"""pytest's exit code: what was asked for is all in the other part."""


@dataclass
class Sum:
    """What has been counted so far."""

    passed: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """How many were skipped, by reason."""

    def add(self, other: "Sum") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped.update(other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped.total()} skipped"


def run(argv: list[str], seconds: float) -> tuple[int, str]:
    """Runs a command, shows its output as it comes, and returns exit code (124: too long) and output."""
    process = subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    )  # fmt: skip
    assert process.stdout is not None
    with ThreadPoolExecutor(1) as pool:
        watch = pool.submit(_wait_or_kill, process, seconds)
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        return watch.result(), "".join(lines)


def _wait_or_kill(process: "subprocess.Popen[str]", seconds: float) -> int:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 124


def count_c(output: str, code: int) -> Sum:
    """From the closing line of tests/c/Makefile; without one, that is a failure."""
    found = re.findall(r"^(\d+) passed, (\d+) failed$", output, re.MULTILINE)
    if not found:
        return Sum(failed=1)
    passed, failed = map(int, found[-1])
    return Sum(passed=passed, failed=failed or (1 if code else 0))


def count_junit(path: Path, code: int) -> Sum:
    """From pytest's report; an exit that the report does not explain is a failure."""
    if not path.exists():
        return Sum(failed=1)
    total = Sum()
    for case in ET.parse(path).getroot().iter("testcase"):
        kinds = {child.tag: child for child in case}
        if "failure" in kinds or "error" in kinds:
            total.failed += 1
        elif "skipped" in kinds:
            total.skipped[kinds["skipped"].get("message") or "no reason given"] += 1
        else:
            total.passed += 1
    if code not in (0, 1, NOTHING_COLLECTED) and not total.failed:
        total.failed += 1
    return total


def c_tests() -> Sum:
    code, output = run(["make", "--no-print-directory", "-s", "-C", "tests/c", "-j2", "check"], C_SECONDS)
    return count_c(output, code)


def fuzz_core() -> Path | None:
    """The core with coverage counters and sanitizers; None when it does not compile."""
    out = BUILD / "fuzz"
    options = ["CC=clang", f"BUILD={out}", "SAN=fuzzer-no-link,address,undefined", "CFLAGS=-O1 -g"]
    code, _ = run(
        ["make", "--no-print-directory", "-s", "-C", "tests/c", "-j2", *options, f"{out}/libcore.a"], C_SECONDS
    )
    return out / "libcore.a" if code == 0 else None


def fuzz_one(source: Path, core: Path, seconds: int) -> tuple[str, int, str]:
    """Compiles and runs one target: its name, exit code, output."""
    name = source.stem.removeprefix("fuzz_")
    target = core.parent / source.stem
    flags = ["-std=c11", "-O1", "-g", "-DPB_DEBUG", "-ffp-contract=off", "-pthread", "-Icsrc", "-Itests/c"]
    build = ["clang", *flags, "-fsanitize=fuzzer,address,undefined", str(source), str(core), "-o", str(target)]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        return name, result.returncode, result.stderr
    scratch = core.parent / f"corpus_{name}"
    scratch.mkdir(exist_ok=True)
    # The length limit is the target's own: it returns for what is longer.
    argv = [str(target), f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1",
            f"-artifact_prefix={core.parent}/{name}-", str(scratch)]  # fmt: skip
    seeds = ROOT / "tests" / "fuzz" / "corpus" / name
    if seeds.is_dir():
        argv.append(str(seeds))
    try:
        result = subprocess.run(
            argv, cwd=core.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds + 120, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return name, 124, f"still running {seconds + 120} s after its start"
    return name, result.returncode, result.stderr


def fuzz_runtime() -> str | None:
    """Why there can be no fuzzing here, or None."""
    if not shutil.which("clang"):
        return "needs clang"
    probe = BUILD / "fuzz" / "probe"
    probe.parent.mkdir(parents=True, exist_ok=True)
    text = "int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return !p + !n > 2; }\n"
    argv = ["clang", "-x", "c", "-fsanitize=fuzzer,address", "-", "-o", str(probe)]
    result = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else "needs clang's sanitizer runtime (Debian 12: libclang-rt-14-dev)"


def fuzz(seconds: int) -> Sum:
    sources = sorted((ROOT / "tests" / "fuzz").glob("fuzz_*.c"))
    reason = fuzz_runtime()
    if reason:
        return Sum(skipped=Counter({f"fuzz targets: {reason}": len(sources)}))
    core = fuzz_core()
    if core is None:
        return Sum(failed=len(sources))
    total = Sum()
    # All at once, however few the cores: what counts is the time that they take together.
    with ThreadPoolExecutor(len(sources)) as pool:
        for name, code, output in pool.map(lambda s: fuzz_one(s, core, seconds), sources):
            runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
            print(f"fuzz {name}: {'ok' if code == 0 else f'exit {code}'}, {runs[1] if runs else '?'} runs", flush=True)
            if code:
                print("\n".join(output.splitlines()[-60:]))
            total.add(Sum(passed=int(code == 0), failed=int(code != 0)))
    return total


def pytest(arguments: list[str]) -> Sum:
    """Two workers for the tests that bear company, then one for the others: tests/conftest.py has which are which."""
    total = Sum()
    # A file stays with one worker, since fixtures are shared in it. They are begun in the order that conftest.py gives.
    workers = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart=0"]
    for part, how in (("together", workers), ("alone", ["-n", "0"])):
        report = BUILD / f"junit-{part}.xml"
        report.parent.mkdir(exist_ok=True)
        report.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pytest", "-q", "--durations=5", f"--part={part}", "-o", f"cache_dir={BUILD}/pytest"]
        print(f"-- {part}", flush=True)
        code, _ = run([*argv, f"--junitxml={report}", *how, *arguments], PYTEST_SECONDS)
        if code == 124:
            print(f"pytest: stopped after {PYTEST_SECONDS} s")
        total.add(count_junit(report, code))
    if not total.passed and not total.failed and not total.skipped:
        return Sum(failed=1)  # nothing was found
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="c,fuzz,pytest", help="some of c,fuzz,pytest")
    parser.add_argument("--fuzz-seconds", type=int, default=60, metavar="N")
    parser.add_argument("pytest_args", nargs="*")
    args = parser.parse_args()
    steps = {"c": c_tests, "fuzz": lambda: fuzz(args.fuzz_seconds), "pytest": lambda: pytest(args.pytest_args)}
    chosen = args.only.split(",")
    if not set(chosen) <= set(steps):
        parser.error(f"--only takes some of {', '.join(steps)}")
    total = Sum()
    for name in chosen:
        start = time.monotonic()
        print(f"== {name}", flush=True)
        part = steps[name]()
        print(f"== {name}: {part} ({time.monotonic() - start:.0f} s)", flush=True)
        total.add(part)
    for reason, count in total.skipped.items():
        print(f"skipped {count}: {reason}")
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
