"""The environment (EAL) that DPDK ports live in: one per process, started by the first port or by start().

Its options are typed and checked before DPDK sees them, its log goes to the logger "pybypass.dpdk", and it is cleaned up when
the process ends. DPDK Getting Started Guide for Linux, "EAL parameters".
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import re
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any

from . import hugepages
from .errors import PybypassError

__all__ = ["EalOptions", "available", "info", "set_log_level", "start"]

log = logging.getLogger("pybypass.dpdk")

_LEVELS = {"emergency": 1, "alert": 2, "critical": 3, "error": 4, "warning": 5, "notice": 6, "info": 7, "debug": 8}
_TO_LOGGING = {1: logging.CRITICAL, 2: logging.CRITICAL, 3: logging.CRITICAL, 4: logging.ERROR, 5: logging.WARNING,
               6: logging.INFO, 7: logging.INFO, 8: logging.DEBUG}  # fmt: skip
_PCI = re.compile(r"([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$")
# Nothing is taken unless a port is opened on it: an allow list of a place where no device can be.
_NO_DEVICE = "ffff:ff:1f.7"
_MEMORY_MB = 64
_PREFIX = "pybypass"
_END_S = 0.5
_CONFLICTS = frozenset(("--proc-type", "--vdev", "--version", "-v", "--help", "-h", "--block", "-b"))


@dataclass(frozen=True, kw_only=True)
class EalOptions:
    """How the EAL starts.

    `lcores`: the CPUs that it knows of, the first one its main core (None: the first that this process may use); data paths
    run in threads of this package, pinned by Engine(cpu=) and Worker. `memory_mb` is for DPDK's own tables and descriptor
    rings (packets lie in the port's Umem; None: as needed on huge pages, else 64). `huge`: "auto" (huge pages if enough are
    free, else none), "require" (PB002 without), "no". `in_memory`: leave no files behind (with huge pages;
    without there are none); `file_prefix`: what they are named by. `pci`: look at PCI devices at all; `allow`: PCI addresses
    taken at start; others are taken when a port is opened on them. `iova`: "auto",
    "va", "pa". `log_level`: one of emergency, alert, critical, error, warning, notice, info, debug. `extra`: further EAL
    arguments, as they are.

    Raises PybypassError PB090 for what is out of range.
    """

    lcores: tuple[int, ...] | None = None
    memory_mb: int | None = None
    huge: str = "auto"
    in_memory: bool = True
    pci: bool = True
    allow: tuple[str, ...] = ()
    iova: str = "auto"
    log_level: str = "notice"
    file_prefix: str | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def bad(text: str, hint: str) -> PybypassError:
            return PybypassError.make("PB090", errno.EINVAL, text, hint=hint)

        known = os.sched_getaffinity(0)
        if self.lcores is not None and (not self.lcores or not set(self.lcores) <= known):
            raise bad(f"lcores={self.lcores!r}", f"CPUs that this process may use: {sorted(known)}")
        if self.memory_mb is not None and not (isinstance(self.memory_mb, int) and 8 <= self.memory_mb <= 1 << 20):
            raise bad(f"memory_mb={self.memory_mb!r}", "8 to 1,048,576")
        for name, allowed in (
            ("huge", ("auto", "require", "no")), ("iova", ("auto", "va", "pa")), ("log_level", tuple(_LEVELS)),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise bad(f"{name}={getattr(self, name)!r}", f"one of {', '.join(allowed)}")
        for address in self.allow:
            if not _PCI.match(address.partition(",")[0]):
                raise bad(f"allow={address!r}", "a PCI address as 0000:03:00.0")
        if self.allow and not self.pci:
            raise bad("allow= without pci", "leave pci=True")
        for word in self.extra:
            # getopt_long() takes the beginning of a name for the name.
            name = word.partition("=")[0]
            if (len(name) > 3 and any(c.startswith(name) for c in _CONFLICTS)) or name in _CONFLICTS:
                raise bad(
                    f"extra={word!r}",
                    "secondary processes are not supported; virtual devices are opened by pybypass.open('dpdk:...')",
                )

    def arguments(self, huge: bool) -> list[str]:
        """What rte_eal_init() gets; `huge`: whether there are huge pages to use."""
        cpus = self.lcores or (min(os.sched_getaffinity(0)),)
        words = ["pybypass", "-l", ",".join(map(str, cpus)), "--main-lcore", str(cpus[0]), "--no-telemetry"]
        if self.memory_mb is not None or not huge:
            words += ["-m", str(self.memory_mb or _MEMORY_MB)]
        # Without huge pages DPDK's memory is not shared, and its lock files serve nobody.
        words += (["--in-memory"] if self.in_memory else []) if huge else ["--no-huge", "--no-shconf"]
        if not self.pci:
            words.append("--no-pci")
        for address in self.allow or ((_NO_DEVICE,) if self.pci else ()):
            words += ["-a", address]
        if self.iova != "auto":
            words.append(f"--iova-mode={self.iova}")
        # Where DPDK makes a folder and nothing in it, the folder is of our name, for we remove it while others may start.
        prefix = self.file_prefix or (_PREFIX if self.in_memory or not huge else None)
        if prefix is not None:
            words.append(f"--file-prefix={prefix}")
        return [*words, f"--log-level={_LEVELS[self.log_level]}", *self.extra]


class _Environment:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.options: EalOptions | None = None
        self.pid = 0
        self.huge = False
        self.ports: weakref.WeakSet[Any] = weakref.WeakSet()


_env = _Environment()


def module() -> Any:
    """The extension; PB011 when it was not built or its libraries are gone."""
    try:
        from . import _dpdk
    except ImportError as e:
        raise PybypassError.make(
            "PB011", errno.ENOSYS, f"DPDK: {e}",
            hint="apt-get install libdpdk-dev pkg-config, and install this package again",
        ) from None  # fmt: skip
    return _dpdk


def available() -> bool:
    """Whether dpdk: ports can be opened at all."""
    try:
        module()
    except PybypassError:
        return False
    return True


def drain_log(*, quiet: bool = False) -> list[str]:
    """Hands what DPDK wrote to the logger (`quiet`: as debugging); the lines of level warning and worse, for an error."""
    grave: list[str] = []
    for piece in module().log_take().split("\x1e")[1:]:
        level, text = int(piece[:1]), piece[1:].rstrip()
        for line in filter(None, text.split("\n")):
            log.log(logging.DEBUG if quiet else _TO_LOGGING.get(level, logging.INFO), "%s", line)
            if level <= _LEVELS["warning"]:
                grave.append(line)
    return grave


def free_huge_bytes() -> int:
    """What can be had in huge pages of all sizes (pybypass.hugepages)."""
    return hugepages.free_bytes()


def start(options: EalOptions | None = None) -> dict[str, Any]:
    """Starts the EAL, unless it runs; what info() returns.

    Raises PybypassError: PB011 (not built), PB002 (huge="require" and none are free), PB090 (it did not start: `detail` has
    DPDK's words; it can be tried once in a process), PB091 (it runs with other options), PB015 (it was started before a fork).
    """
    native = module()
    with _env.lock:
        if _env.options is not None:
            check_process()
            if options is not None and options != _env.options:
                raise PybypassError.make("PB091", errno.EALREADY, f"it has {_env.options}")
            return info()
        chosen = options or EalOptions()
        free, needed = free_huge_bytes(), (chosen.memory_mb or _MEMORY_MB) << 20
        huge = chosen.huge != "no" and free >= needed
        if chosen.huge == "require" and not huge:
            raise PybypassError.make(
                "PB002", errno.ENOMEM, f"DPDK wants {needed >> 20} MB, {free >> 20} MB are free",
                hint="hugepages/setup.sh reserves some, or take less with EalOptions(memory_mb=)",
            )  # fmt: skip
        try:
            native.eal_start(chosen.arguments(huge))
        except OSError as e:
            words = drain_log()
            text = words[-1] if words else e.strerror or ""
            raise PybypassError.make("PB090", e.errno or 0, text, detail={"log": words}) from None
        _env.options, _env.pid, _env.huge = chosen, os.getpid(), huge
        atexit.register(_end)
        drain_log()
        if not huge and chosen.huge == "auto":
            log.warning(
                "%d MB of huge pages are free, and DPDK wants %d: it runs on ordinary pages (--no-huge); "
                "hugepages/setup.sh reserves some", free >> 20, needed >> 20,
            )  # fmt: skip
        return info()


def check_process() -> None:
    """PB015 in a process that was forked from the one which started the EAL."""
    if _env.pid and _env.pid != os.getpid():
        raise PybypassError.make("PB015", errno.EBADF, "DPDK belongs to the process that started it")


def info() -> dict[str, Any]:
    """version, started, hugepages, iova ("va" or "pa"), lcores, options."""
    return {**module().eal_info(), "options": _env.options}


def set_log_level(pattern: str, level: str) -> None:
    """Log types of DPDK that match a shell pattern ("pmd.net.*", "lib.eal") write from this level on. PB090."""
    try:
        module().log_level(pattern, _LEVELS.get(level, 0))
    except OSError as e:
        raise PybypassError.make(
            "PB090", e.errno or 0, f"{pattern!r}, {level!r}", hint=f"levels: {', '.join(_LEVELS)}"
        ) from None


def register(port: Any) -> None:
    """A port that is closed at the end of the process, before the EAL is."""
    _env.ports.add(port)


def _end() -> None:
    if _env.pid != os.getpid():
        return
    left = [port for port in list(_env.ports) if not _closed_at_last(port)]
    drain_log()
    # A thread of the application may still be in the data path of those: DPDK stays for them until the process is gone.
    if not left:
        module().eal_stop()


def _closed_at_last(port: Any) -> bool:
    until = time.monotonic() + _END_S
    with contextlib.suppress(Exception):
        port.stop()  # whoever is in its data path finds nothing to do, and gets out
    while True:
        try:
            port._close(force=True)
            return True
        except Exception as e:
            if time.monotonic() > until:
                log.warning("closing %s: %s", port, e)
                return False
            time.sleep(0.001)
