"""The thread that drives an engine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

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


class Worker:
    """A C thread that runs one engine's loop, pinned to a core when `cpu` is given.

    `spin_us`: how long the loop spins without work before it sleeps until a packet or a call wakes it; None: it never
    sleeps. The default spins for ever on a pinned core and 50 us otherwise.

    Raises PybypassError PB044 when this process may not run on that CPU.
    """

    def __init__(self, *, cpu: int | None = None, spin_us: float | None = -1.0) -> None:
        if cpu is not None and cpu not in os.sched_getaffinity(0):
            raise PybypassError.make("PB044", errno.EINVAL, f"cpu {cpu}")
        if spin_us is not None and spin_us < 0:
            spin_us = None if cpu is not None else 50.0
        self._cpu = cpu
        self._spin_us = spin_us
        self._engine: object | None = None

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
        where = f"cpu {self._cpu}" if self._cpu is not None else "any cpu"
        return f"<Worker {where}{', isolated' if self.isolated else ''}{', running' if self.running else ''}>"
