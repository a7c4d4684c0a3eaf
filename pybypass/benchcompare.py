"""`pybypass bench compare`: two results, metric by metric, with confidence intervals."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .benchreport import SCHEMA
from .errors import PybypassError

__all__ = ["Row", "compare", "load"]

_RESAMPLES = 4000
_METRICS = {"rate": "/s", "gbps": "Gbit/s", "p50": "ns", "p99": "ns"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of both: medians over the slices, b / a, and the 95 % interval of that ratio."""

    metric: str
    unit: str
    a: float
    b: float
    ratio: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether 1 lies outside of the interval."""
        return not self.low <= 1.0 <= self.high

    def worse_than(self, factor: float) -> bool:
        """Whether b is surely worse by more than this factor: higher for a time, lower for a rate."""
        if self.metric.startswith("p"):
            return self.low > factor
        return self.high < 1 / factor


def load(path: str) -> dict[str, Any]:
    """A result of `pybypass bench --json`. Raises PybypassError PB040 for anything else."""
    try:
        with open(path, encoding="utf-8") as f:
            found = json.load(f)
    except (OSError, ValueError) as e:
        raise PybypassError.make(
            "PB040", errno.EINVAL, f"{path}: {e}", hint="a file that `bench ... --json` wrote"
        ) from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise PybypassError.make(
            "PB040", errno.EINVAL, f"{path}: not of schema {SCHEMA}", hint="a file that `bench ... --json` wrote"
        )
    return found


def _medians(values: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Medians of resamples with replacement (Efron's bootstrap)."""
    picks = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    return np.median(values[picks], axis=1)


def compare(a: dict[str, Any], b: dict[str, Any], *, seed: int = 1, force: bool = False) -> list[Row]:
    """Per metric that both have in at least three slices: the ratio of medians, with a bootstrap interval over the slices.

    Slices of one run are closer to each other than two runs are: an interval says what this pair of runs can tell, not
    that a third would agree. Raises PybypassError PB040 when the two are not the same kind of benchmark.
    """
    if a["bench"] != b["bench"]:
        raise PybypassError.make(
            "PB040", errno.EINVAL, f"{a['bench']} and {b['bench']}", hint="compare two runs of one kind"
        )
    if a.get("args") != b.get("args") and not force:
        raise PybypassError.make(
            "PB040", errno.EINVAL, f"{a.get('args')} and {b.get('args')}",
            hint="runs of different settings: --force compares them all the same",
        )  # fmt: skip
    rng = np.random.default_rng(seed)
    rows = []
    for metric, unit in _METRICS.items():
        both = [np.array([s[metric] for s in r["slices"] if metric in s], dtype=np.float64) for r in (a, b)]
        if any(len(v) < 3 or not np.median(v) for v in both):
            continue
        resampled = [_medians(v, rng) for v in both]
        ratios = resampled[1] / np.maximum(resampled[0], 1e-12)
        low, high = np.percentile(ratios, (2.5, 97.5))
        middle = [float(np.median(v)) for v in both]
        rows.append(
            Row(
                metric=metric,
                unit=unit,
                a=middle[0],
                b=middle[1],
                ratio=middle[1] / middle[0],
                low=float(low),
                high=float(high),
            )
        )
    return rows


def lines(a: dict[str, Any], b: dict[str, Any], rows: list[Row]) -> Iterator[str]:
    for name, r in (("a", a), ("b", b)):
        bad = "" if r["valid"] else f"  INVALID: {'; '.join(r['invalid_because'])}"
        yield f"{name}: {r['bench']} {r['dev']} ({r['mode']}) and {r['peer']}{bad}"
    yield f"{'metric':8}{'a':>16}{'b':>16}{'b/a':>9}   95 % interval"
    for row in rows:
        mark = "differs" if row.differs else "no difference shown"
        yield (
            f"{row.metric:8}{row.a:16,.2f}{row.b:16,.2f}{row.ratio:9.3f}   {row.low:.3f} to {row.high:.3f}  {mark} ({row.unit})"
        )
