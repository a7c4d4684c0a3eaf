"""Kernel-bypass networking for Python.

Frames stay in memory that the NIC writes; C loops move bursts of them on pinned cores; a TCP engine in C terminates flows.
Python opens ports, steers, does the slow path, and reads bursts as NumPy arrays without a copy.
"""

from typing import TYPE_CHECKING

from ._burst import BURST_MAX, DESC_DTYPE, HASH_TYPES, TS_SOURCES, Burst
from ._mem import Umem, drop_reasons, live_handles
from ._port import Queue
from .accept import Request
from .errors import (
    BrokenConnection,
    ConnectionAborted,
    ConnectionRefused,
    ConnectionReset,
    NotNow,
    NotPermitted,
    PybypassError,
    TimedOut,
)
from .group import EngineGroup, GroupListener
from .ports import Impairment, Port, open
from .tcp import Connection, Engine, EngineConfig, Listener
from .worker import Worker

if TYPE_CHECKING:
    from types import ModuleType

    from . import flow, nic, rss

__version__ = "0.1.0"

__all__ = [
    "BURST_MAX",
    "DESC_DTYPE",
    "HASH_TYPES",
    "TS_SOURCES",
    "BrokenConnection",
    "Burst",
    "Connection",
    "ConnectionAborted",
    "ConnectionRefused",
    "ConnectionReset",
    "Engine",
    "EngineConfig",
    "EngineGroup",
    "GroupListener",
    "Impairment",
    "Listener",
    "NotNow",
    "NotPermitted",
    "Port",
    "PybypassError",
    "Queue",
    "Request",
    "TimedOut",
    "Umem",
    "Worker",
    "drop_reasons",
    "flow",
    "live_handles",
    "nic",
    "open",
    "rss",
]


def __getattr__(name: str) -> "ModuleType":
    # Imported when they are first used: most who open ports do not need them.
    if name in ("flow", "nic", "rss"):
        from importlib import import_module

        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
