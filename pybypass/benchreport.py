"""What a benchmark found: as text, and as the JSON schema pybypass.bench/1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ._bench import Histogram

__all__ = ["PERCENTILES", "SCHEMA", "Result", "percentiles"]

SCHEMA = "pybypass.bench/1"
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
_LAG_SHARE = 0.1
_OFFERED = 0.99
_GENERATOR_SHARE = 0.5
_IDLE_SHARE = 0.1
_LOST_SHARE = 0.01
_LAG_PACKETS = 64


def percentiles(h: Histogram) -> dict[str, float | None]:
    """min, p50 to p99.999, max and mean in ns, and n. A percentile of which no sample is above is None."""
    n = len(h)
    row: dict[str, float | None] = {"n": n, "min": h.min if n else None}
    for p in PERCENTILES:
        row[f"p{p:g}"] = h.percentile(p) if n * (100 - p) / 100 >= 1 - 1e-6 else None
    row["max"] = h.max if n else None
    row["mean"] = round(h.mean, 1) if n else None
    return row


def merged(parts: list[Histogram]) -> Histogram:
    whole = Histogram()
    for part in parts:
        whole.merge(part)
    return whole


@dataclass(kw_only=True)
class Result:
    """One measurement. Times in ns, CLOCK_MONOTONIC in user space; `bytes` are those of frames, or of the stream."""

    bench: str
    dev: str
    peer: str
    mode: str
    args: dict[str, Any]
    cpu: int | None
    peer_cpu: int | None
    isolated: bool
    seconds: float = 0.0
    rate_asked: float | None = None
    offered: int | None = None
    sent: int | None = None
    received: int | None = None
    lost: int | None = None
    duplicates: int | None = None
    reordered: int | None = None
    """None: not measured."""
    bytes: int = 0
    latency: list[Histogram] = field(default_factory=list)
    """One a slice; empty where there is no latency."""
    slices: list[dict[str, int]] = field(default_factory=list)
    lag: Histogram | None = None
    noise: Histogram = field(default_factory=Histogram)
    switches: int = 0
    """How often the scheduler took the core away from the measuring thread while it ran."""
    drops: dict[str, dict[str, int]] = field(default_factory=dict)
    """By side, by reason."""
    generator_share: float | None = None
    """At full speed: how much of the time went into making packets."""
    idle_share: float | None = None
    """Of the receiver's looks at its ring: how many found nothing."""
    syscalls: int = 0

    @property
    def rate(self) -> float | None:
        """Packets, or requests, per second: those that arrived where that is known. None: of a stream."""
        n = self.received if self.received is not None else self.sent
        return None if n is None else n / self.seconds if self.seconds else 0.0

    @property
    def gbps(self) -> float:
        return self.bytes * 8 / self.seconds / 1e9 if self.seconds else 0.0

    def invalid(self) -> list[str]:
        """Why the number is the generator's and not the device's; empty when it stands."""
        why = []
        if self.rate_asked is not None and self.seconds and self.offered is not None:
            asked = self.rate_asked * self.seconds
            if self.offered < _OFFERED * asked - 1:
                why.append(f"the generator offered {self.offered} of {asked:.0f} packets that were due")
            why += self._late()
        if self.rate_asked is None and self.bench == "tx" and (self.generator_share or 0) > _GENERATOR_SHARE:
            why.append(f"{self.generator_share:.0%} of the time went into making packets")
        if self.rate_asked is None and self.bench == "rx" and (self.idle_share or 0) > _IDLE_SHARE:
            lost_share = (self.lost or 0) / self.sent if self.sent else 0.0
            if self.sent is not None and lost_share < _LOST_SHARE:
                why.append(
                    f"the receiver found nothing in {self.idle_share:.0%} of its looks and lost next to nothing: it could "
                    "take more"
                )
        return why

    def _late(self) -> list[str]:
        """Lag against the latency, or where there is none, against what the schedule asks."""
        if self.lag is None or self.rate_asked is None:
            return []
        lag, whole = self.lag.percentile(99), merged(self.latency)
        if len(whole):
            limit, what = _LAG_SHARE * whole.percentile(99), "a tenth of the latency's p99"
        else:
            limit, what = _LAG_PACKETS * 1e9 / self.rate_asked, f"the time of {_LAG_PACKETS} packets"
        return [f"the generator was late: p99 {lag} ns, more than {what}"] if lag > limit else []

    def tainted(self) -> list[str]:
        """The percentiles of the latency of which the generator's own lag is more than a tenth: they say little of the
        device."""
        if self.lag is None or not self.latency or not len(self.lag):
            return []
        latency, lag = percentiles(merged(self.latency)), percentiles(self.lag)
        names = [f"p{p:g}" for p in PERCENTILES]
        return [n for n in names if latency[n] and (lag[n] or 0) > _LAG_SHARE * (latency[n] or 0)]

    def _slice_rows(self) -> list[dict[str, Any]]:
        rows = []
        for i, s in enumerate(self.slices):
            if not s["ns"]:
                continue
            row: dict[str, Any] = {"gbps": round(s["bytes"] * 8 / s["ns"], 6)}
            if self.rate is not None:
                row["rate"] = round((s["received"] if self.received is not None else s["sent"]) * 1e9 / s["ns"], 1)
            if i < len(self.latency) and len(self.latency[i]):
                row |= {"p50": self.latency[i].percentile(50), "p99": self.latency[i].percentile(99)}
            rows.append(row)
        return rows

    def as_json(self, *, histogram: bool = False) -> dict[str, Any]:
        whole = merged(self.latency) if self.latency else None
        out: dict[str, Any] = {
            "schema": SCHEMA, "bench": self.bench, "dev": self.dev, "peer": self.peer, "mode": self.mode,
            "args": self.args, "clock": "CLOCK_MONOTONIC (user)", "cpu": self.cpu, "peer_cpu": self.peer_cpu,
            "pinned": self.cpu is not None, "isolated": self.isolated, "seconds": round(self.seconds, 6),
            "rate_asked": self.rate_asked, "rate": None if self.rate is None else round(self.rate, 1), "gbps": round(self.gbps, 6),
            "offered": self.offered, "sent": self.sent, "received": self.received, "lost": self.lost,
            "duplicates": self.duplicates, "reordered": self.reordered, "bytes": self.bytes,
            "latency_ns": percentiles(whole) if whole is not None else None,
            "generator_lag_ns": percentiles(self.lag) if self.lag is not None else None,
            "generator_bound": self.tainted(), "noise_floor_ns": percentiles(self.noise), "involuntary_switches": self.switches,
            "generator_share": self.generator_share, "idle_share": self.idle_share, "drops": self.drops,
            "valid": not self.invalid(), "invalid_because": self.invalid(), "slices": self._slice_rows(),
        }  # fmt: skip
        if histogram and whole is not None:
            low, count = whole.buckets()
            out["histogram"] = [[int(a), int(b)] for a, b in zip(low, count, strict=True)]
        return out

    def lines(self) -> Iterator[str]:
        pinned = f"cpu {self.cpu}" if self.cpu is not None else "not pinned"
        yield f"{self.bench}: {self.dev} ({self.mode}) and {self.peer}"
        yield f"{pinned}, {'isolated' if self.isolated else 'not isolated'}; clock CLOCK_MONOTONIC (user); {self.seconds:.2f} s"
        asked = f" of {self.rate_asked:,.0f}/s asked" if self.rate_asked is not None else ""
        rate = f"rate {self.rate:,.0f}/s{asked}, " if self.rate is not None else ""
        yield f"{rate}{self.gbps:.3f} Gbit/s"
        found = ((name, getattr(self, name)) for name in ("sent", "received", "lost", "duplicates", "reordered"))
        yield ", ".join(f"{name} {'-' if n is None else n}" for name, n in found)
        rows = {"generator lag": self.lag, "noise floor": self.noise}
        if self.latency:
            rows = {"latency": merged(self.latency), **rows}
        names = ["min", *(f"p{p:g}" for p in PERCENTILES), "max"]
        yield f"{'us':15}" + "".join(f"{name:>10}" for name in names) + f"{'n':>10}"
        for name, h in rows.items():
            if h is None:
                continue
            row = percentiles(h)
            cells = ((row[k] or 0) / 1000 if row[k] is not None else None for k in names)
            yield f"{name:15}" + "".join(f"{'-':>10}" if c is None else f"{c:10.2f}" for c in cells) + f"{len(h):10}"
        if self.tainted():
            yield f"of the generator more than of the device: {', '.join(self.tainted())}"
        yield "noise floor: gaps of 200 ns and more in a loop that reads the clock, 0.1 s before and 0.1 s after"
        yield f"involuntary switches while measuring: {self.switches}"
        for side, reasons in self.drops.items():
            yield f"drops, {side}: {reasons or 'none'}"
        for why in self.invalid():
            yield f"INVALID: {why}"
