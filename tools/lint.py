#!/usr/bin/env python3
"""The static checks, one step each: `make lint` runs all, tests/test_lint.py one test for each.

Usage: tools/lint.py [STEP ...]
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Command = list[str]


def files(*patterns: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


@functools.cache
def ruff() -> str:
    beside = Path(sys.executable).parent / "ruff"
    return str(beside) if beside.exists() else "ruff"


def clang_format() -> str:
    """Version 14 where it is: other versions break lines elsewhere."""
    return shutil.which("clang-format-14") or "clang-format"


def stubs() -> Command:
    modules = [f"pybypass.{Path(p).stem}" for p in files("pybypass/_*.pyx")]
    for optional in ("_xsk", "_dpdk", "_dpdkrule"):
        if not list((ROOT / "pybypass").glob(f"{optional}*.so")):
            modules.remove(f"pybypass.{optional}")
    options = ["--mypy-config-file", "pyproject.toml", "--allowlist", "tools/stubtest_allow.txt", "--concise"]
    return [sys.executable, "-m", "mypy.stubtest", *options, "--ignore-unused-allowlist", *modules]


STEPS: dict[str, Callable[[], Command]] = {
    "ruff": lambda: [ruff(), "check", "."],
    "mypy": lambda: [sys.executable, "-m", "mypy"],
    "stubtest": stubs,
    "clang-format": lambda: [
        clang_format(), "--dry-run", "--Werror", *files("csrc/**/*.[ch]", "tests/**/*.[ch]", "tools/**/*.[ch]"),
    ],
    "shellcheck": lambda: ["shellcheck", "-x", ".ci/run", *files("tools/**/*.sh", "hugepages/*.sh")],
    "layers": lambda: [sys.executable, "tools/layers.py"],
}  # fmt: skip


def run(step: str) -> subprocess.CompletedProcess[str]:
    """Runs a step; FileNotFoundError where its tool is missing."""
    environment = {**os.environ, "MYPYPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(
        STEPS[step](), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def main(steps: list[str]) -> int:
    bad = 0
    for step in steps or STEPS:
        try:
            result = run(step)
        except FileNotFoundError as e:
            print(f"{step}: not run: no {e.filename}")
            continue
        print(f"{step}: {'ok' if result.returncode == 0 else 'FAILED'}")
        if result.returncode:
            bad += 1
            print(result.stdout)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
