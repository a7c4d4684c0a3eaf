"""Kernel-bypass networking for Python.

Frames stay in memory that the NIC writes; C loops move bursts of them on pinned cores; a TCP engine in C terminates flows.
Python opens ports, steers, does the slow path, and reads bursts as NumPy arrays without a copy.
"""

from ._mem import Umem, drop_reasons, live_handles
from ._port import BURST_MAX, DESC_DTYPE, HASH_TYPES, TS_SOURCES, Burst, Queue
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
from .ports import Impairment, Port, open
from .tcp import Connection, Engine, EngineConfig, Listener
from .worker import Worker

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
    "Impairment",
    "Listener",
    "NotNow",
    "NotPermitted",
    "Port",
    "PybypassError",
    "Queue",
    "TimedOut",
    "Umem",
    "Worker",
    "drop_reasons",
    "live_handles",
    "open",
]
