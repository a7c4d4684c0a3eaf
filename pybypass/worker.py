"""The thread that drives an engine."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from .errors import PybypassError

__all__ = ["Worker", "isolated_cpus"]


def parse_cpu_list(text: str) -> frozenset[int]:
    """The kernel's list format, "0-3,8" (Documentation/admin-guide/cputopology.rst)."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if not part:
            continue
        low, _, high = part.partition("-")
        cpus.update(range(int(low), int(high or low) + 1))
    return frozenset(cpus)


def isolated_cpus() -> frozenset[int]:
    """CPUs that the scheduler leaves alone (isolcpus=); empty when there are none."""
    try:
        return parse_cpu_list(Path("/sys/devices/system/cpu/isolated").read_text(encoding="ascii"))
    except OSError:
        return frozenset()


def _spin_of(mode: str | None, spin_us: float | None, pinned: bool) -> float | None:
    """How long to spin, in us; None: for ever."""
    given = spin_us is None or spin_us >= 0
    if mode is None:
        return spin_us if given else None if pinned else 50.0
    if mode not in ("spin", "adaptive", "interrupt"):
        raise PybypassError.make("PB040", errno.EINVAL, f"mode={mode!r}", hint="spin, adaptive or interrupt")
    if mode == "adaptive":
        if given and not spin_us:
            raise PybypassError.make("PB040", errno.EINVAL, f"adaptive with spin_us={spin_us!r}", hint="a number above 0")
        return spin_us if given else 50.0
    if given and spin_us != (None if mode == "spin" else 0):
        raise PybypassError.make("PB040", errno.EINVAL, f"{mode} with spin_us={spin_us!r}", hint="spin_us is for adaptive")
    return None if mode == "spin" else 0.0


class Worker:
    """A C thread that runs one engine's loop, pinned to a core when `cpu` is given.

    `mode`: "spin" never sleeps (lowest latency; takes the whole core); "adaptive" spins for `spin_us` without work and then
    sleeps until a packet or a call wakes it; "interrupt" sleeps as soon as there is nothing to do. Without it `spin_us` says:
    None spins, 0 is interrupt, else adaptive; the default spins on a pinned core and is adaptive with 50 us otherwise. On
    ports with busy_poll= each pass without work drives the NIC's queue.

    Raises PybypassError PB044 when this process may not run on that CPU, PB040 for a mode and spin_us that do not go
    together.
    """

    def __init__(self, *, cpu: int | None = None, mode: str | None = None, spin_us: float | None = -1.0) -> None:
        if cpu is not None and cpu not in os.sched_getaffinity(0):
            raise PybypassError.make("PB044", errno.EINVAL, f"cpu {cpu}")
        self._cpu = cpu
        self._spin_us = _spin_of(mode, spin_us, cpu is not None)
        self._engine: object | None = None

    @property
    def mode(self) -> str:
        """"spin", "adaptive" or "interrupt"."""
        return "spin" if self._spin_us is None else "adaptive" if self._spin_us else "interrupt"

    def info(self) -> dict[str, Any]:
        """mode, spin_us (None: for ever), cpu, pinned, isolated, running; and of a running thread cpu_s and wall_s (seconds of
        CPU time and since its start) and sleeps (how often it went to sleep)."""
        core = getattr(self._engine, "_core", None)
        measured = core.loop_info() if core is not None and not core.closed else None
        return {
            "mode": self.mode, "spin_us": self._spin_us, "cpu": self._cpu, "pinned": self.pinned,
            "isolated": self.isolated, "running": self.running, **(measured or {}),
        }  # fmt: skip

    @property
    def cpu(self) -> int | None:
        """The CPU that was asked for."""
        return self._cpu

    @property
    def spin_us(self) -> float | None:
        return self._spin_us

    @property
    def pinned(self) -> bool:
        """Whether the thread runs on that one CPU: read back from the running thread."""
        core = getattr(self._engine, "_core", None)
        return (
            core is not None
            and not core.closed
            and core.threaded
            and core.loop_cpu == self._cpu
            and self._cpu is not None
        )

    @property
    def isolated(self) -> bool:
        """Whether the kernel keeps other tasks off that CPU."""
        return self._cpu is not None and self._cpu in isolated_cpus()

    @property
    def running(self) -> bool:
        core = getattr(self._engine, "_core", None)
        return core is not None and not core.closed and bool(core.threaded)

    def _adopt(self, engine: object) -> None:
        if self._engine is not None and self.running:
            raise PybypassError.make("PB040", errno.EBUSY, "the worker drives another engine")
        self._engine = engine

    def __repr__(self) -> str:
        where = f"{self.mode}, cpu {self._cpu}" if self._cpu is not None else f"{self.mode}, any cpu"
        return f"<Worker {where}{', isolated' if self.isolated else ''}{', running' if self.running else ''}>"
