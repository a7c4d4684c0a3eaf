"""What the main job found: as text, and as the JSON schema pybypass.lab-echo/1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .worker import isolated_cpus

__all__ = ["MESSAGE_BYTES", "SCHEMA", "Report", "Samples"]

Samples = npt.NDArray[np.uint32]
"""Round trips in ns."""
SCHEMA = "pybypass.lab-echo/1"
MESSAGE_BYTES = 64


@dataclass
class Report:
    """What was found; `as_json()` is the schema pybypass.lab-echo/1."""

    device: str
    mode: str
    why: str = ""
    active: dict[str, Any] = field(default_factory=dict)
    passive: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict)
    pinned: dict[str, bool] = field(default_factory=dict)
    row_drops: dict[str, int] = field(default_factory=dict)
    drops: int = 0  # of our engine, over the whole job
    drop_reasons: dict[str, int] = field(default_factory=dict)
    captured: int = 0

    @property
    def best(self) -> str:
        """The kernel's row with the lowest median."""
        rows = [k for k in self.samples if k.startswith("kernel")]
        return min(rows, key=lambda k: float(np.median(self.samples[k])))

    def ratio(self, percentile: float, other: str) -> float:
        ours = np.percentile(self.samples["pybypass"], percentile)
        return float(ours / np.percentile(self.samples[other], percentile))

    def ok(self) -> bool:
        return all(part["sha256_ok"] and part["closed_cleanly"] for part in (self.active, self.passive))

    def as_json(self) -> dict[str, Any]:
        def row(name: str) -> dict[str, Any]:
            s = self.samples[name] / 1000
            return {
                "p50": round(float(np.percentile(s, 50)), 3),
                "p99": round(float(np.percentile(s, 99)), 3),
                "n": len(s),
            }

        return {
            "schema": SCHEMA, "device": self.device, "mode": self.mode, "active": self.active, "passive": self.passive,
            "rtt_us": {
                "pybypass": row("pybypass"), "kernel_blocking": row("kernel_blocking"), "kernel_best": row(self.best),
                "ratio_p50": round(self.ratio(50, self.best), 4), "ratio_p99": round(self.ratio(99, self.best), 4),
            },
            "drops": self.drops,
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        if self.why:
            yield self.why
        yield f"device {self.device}, mode {self.mode}"
        for name, part in (("active", self.active), ("passive", self.passive)):
            verdict = "SHA-256 equal" if part["sha256_ok"] else "SHA-256 DIFFERS"
            closed = "closed cleanly" if part["closed_cleanly"] else "NOT closed cleanly"
            yield f"{name:8} {part['bytes_each_way']} bytes each way, {verdict}, {closed}"
        yield ""
        yield f"round trips of {MESSAGE_BYTES} bytes, us, interleaved in one run:"
        yield f"{'':16}{'p50':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}{'max':>10}{'n':>8}{'drops':>7}  pinned  {'mode':17}clock"
        for name, s in self.samples.items():
            v = np.percentile(s / 1000, (50, 90, 99, 99.9, 100))
            numbers = "".join(f" {x:8.2f}" for x in v[:4]) + f" {v[4]:9.2f} {len(s):7d}{self.row_drops[name]:7d}"
            mode = self.mode if name == "pybypass" else "kernel"
            yield f"{name:16}{numbers}  {'yes' if self.pinned[name] else 'no':6}  {mode:17}CLOCK_MONOTONIC (user)"
        isolated = sorted(isolated_cpus()) or "none"
        yield f"isolated cores: {isolated}; drops of the whole job: {self.drops} {self.drop_reasons or ''}"
        best = self.best
        yield (
            f"ours / kernel's best ({best}): p50 {self.ratio(50, best):.2f}, p99 {self.ratio(99, best):.2f}; "
            f"ours / kernel_blocking: p50 {self.ratio(50, 'kernel_blocking'):.2f}"
        )
