"""Rows of build/bench.json: each test measures some, ours and the peer's in alternating rounds.

`make bench` runs all; PB_BENCH_ONLY=a,b runs those that hold one of these rows and keeps the others as they are.
"""

import json
import math
import os
import statistics
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench.json"
ROUNDS = int(os.environ.get("PB_BENCH_ROUNDS", "7"))

_rows = {}


def pytest_configure(config):
    config.addinivalue_line("markers", "rows(*names): the rows of build/bench.json that a test makes")


def pytest_collection_modifyitems(config, items):
    # DPDK last: once it has started it stays, and nobody knows what its threads cost the others.
    items.sort(key=lambda item: item.path.name == "test_dpdk.py")
    only = set(filter(None, os.environ.get("PB_BENCH_ONLY", "").split(",")))
    if not only:
        return
    rows = {item: set(item.get_closest_marker("rows").args) for item in items}
    unknown = only - set().union(*rows.values())
    if unknown:
        raise pytest.UsageError(f"no such row: {', '.join(sorted(unknown))}")
    items[:] = [item for item in items if rows[item] & only]


def commit():
    def git(*args):
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


class Rounds:
    """Runs ours and the peers' in turn: each round is one call of each, and no order is the rule."""

    def __init__(self, benchmark):
        self._benchmark = benchmark

    def run(self, calls, rounds=ROUNDS):
        """calls: name to function. Returns name to the list of what it gave, one a round."""
        found = {name: [] for name in calls}
        names = list(calls)

        def one():
            for name in names:
                found[name].append(calls[name]())
            names.reverse()

        asked = max(5, rounds)
        self._benchmark.pedantic(one, rounds=asked, iterations=1)
        assert all(len(values) == asked for values in found.values())
        return found

    def row(self, name, ours, peer, peer_name, unit, *, goal, note, higher_is_better=False, also=True):
        """A row from the values of each round. The ratio is the median of the rounds' own ratios: what disturbs a round
        disturbs both. `goal` is an upper bound of the ratio, or a lower one where higher is better; None: no goal. `also`:
        what else must hold for it to be met."""
        assert ours and all(math.isfinite(v) and v >= 0 for v in ours), ours
        assert peer is None or all(math.isfinite(v) and v > 0 for v in peer), peer
        median = statistics.median(ours)
        row = {
            "name": name, "ours": round(median, 4), "peer": None, "peer_name": peer_name, "unit": unit, "ratio": None,
            "rounds": len(ours), "note": note, "commit": commit(), "goal": goal, "met": None,
        }  # fmt: skip
        if peer is not None:
            ratio = statistics.median(o / p for o, p in zip(ours, peer, strict=True))
            row |= {"peer": round(statistics.median(peer), 4), "ratio": round(ratio, 4)}
        judged = row["ratio"] if peer is not None else median
        if goal is not None:
            row["met"] = bool(also) and (judged >= goal if higher_is_better else judged <= goal)
        if row["met"] is False and judged:
            by = goal / judged - 1 if higher_is_better else judged / goal - 1 if goal else judged
            row["note"] += f"; goal missed by {by:.1%}" if by > 0 else "; the ratio is met, and what the note compares is not"
        _rows[name] = row
        self._benchmark.extra_info.update(row)


@pytest.fixture
def rounds(benchmark):
    return Rounds(benchmark)


def table(rows):
    yield f"{'row':28}{'ours':>12}{'peer':>12}  {'unit':10}{'ratio':>7}{'goal':>7}  peer"
    for r in rows:
        peer, ratio = ("-" if r[k] is None else f"{r[k]:,.3f}" for k in ("peer", "ratio"))
        goal = "-" if r["goal"] is None else f"{r['goal']:g}"
        mark = {None: "", True: "met", False: "MISSED"}[r["met"]]
        yield f"{r['name']:28}{r['ours']:12,.3f}{peer:>12}  {r['unit']:10}{ratio:>7}{goal:>7}  {r['peer_name'] or '-'}  {mark}"


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    kept = json.loads(OUT.read_text()) if OUT.exists() else []
    merged = {row["name"]: row for row in kept} | _rows
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(list(merged.values()), indent=1) + "\n")
    terminalreporter.section("rows")
    for line in table(_rows.values()):
        terminalreporter.line(line)
    for row in _rows.values():
        terminalreporter.line(f"{row['name']}: {row['note']}")
    terminalreporter.line(f"written: {OUT.relative_to(ROOT)}")
