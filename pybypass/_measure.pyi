"""Measuring loops in C: the same for this engine and for the kernel's sockets."""

from typing import Any

import numpy as np
import numpy.typing as npt

SPIN: dict[str, int]

def pingpong(core: Any, s: int, n: int, nbytes: int) -> npt.NDArray[np.uint32]:
    """n round trips of nbytes over socket s of an EngineCore: ns each, CLOCK_MONOTONIC, shape (n,)."""

def pingpong_echo(core: Any, s: int, n: int, nbytes: int) -> int:
    """Sends back n * nbytes bytes over socket s."""

def kernel_pingpong(fd: int, n: int, nbytes: int, how: str) -> npt.NDArray[np.uint32]:
    """The same over a connected kernel socket; `how` is "blocking", "spin" or "yield" (spinning with sched_yield)."""

def kernel_echo(fd: int, n: int, nbytes: int, how: str) -> int:
    """Sends back n messages of nbytes; blocks for the first, then as `how` says."""
