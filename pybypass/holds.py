"""Local TCP ports in use by an engine: held against the kernel, and steered here, until their last socket is gone."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import threading
from collections.abc import Iterable
from typing import Any

from .errors import PybypassError
from .owned_ports import EPHEMERAL
from .ports import IpAddress, Port

__all__ = ["Holds"]

_TCP = 6

Key = tuple[IpAddress, int]


class Holds:
    """Each (address, port) with what holds it and how many sockets use it. Any thread may call."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._holders: dict[Key, Any] = {}
        self._users: dict[Key, int] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._holders)

    def __contains__(self, key: Key) -> bool:
        return key in self._holders

    def acquire(self, ip: IpAddress, number: int) -> Key:
        """Takes one more use of a port, 0: of any free one. PB042 when the kernel has it, PB041 for a foreign address."""
        with self._lock:
            if number and (ip, number) in self._holders:
                self._users[ip, number] += 1
                return ip, number
            number, holder = self._port.hold(ip, number or self._pick(ip))
            try:
                self._port.steer(_TCP, ip, number)
            except BaseException:
                if holder is not None:
                    holder.close()
                raise
            self._holders[ip, number] = holder
            self._users[ip, number] = 1
            return ip, number

    def _pick(self, ip: IpAddress) -> int:
        if self._port.picks_ports:
            return 0
        low, high = EPHEMERAL
        start = random.randrange(low, high + 1)
        for i in range(high - low + 1):
            number = low + (start - low + i) % (high - low + 1)
            if (ip, number) not in self._holders:
                return number
        raise PybypassError.make("PB042", errno.EADDRNOTAVAIL, f"no free local port at {ip}")

    def release(self, key: Key) -> None:
        """Gives one use back; the last one lets go."""
        with self._lock:
            if key not in self._holders:
                return
            self._users[key] -= 1
            if not self._users[key]:
                self._drop(key)

    def release_all(self, gone: Iterable[tuple[bytes, int]]) -> None:
        """What EngineCore.freed() reports."""
        for address, number in gone:
            self.release((ipaddress.ip_address(address), number))

    def _drop(self, key: Key) -> None:
        holder = self._holders.pop(key)
        del self._users[key]
        with contextlib.suppress(OSError):  # the interface may be gone, and the rule with it
            self._port.unsteer(_TCP, *key)
        if holder is not None:
            holder.close()

    def close(self) -> None:
        with self._lock:
            for key in list(self._holders):
                self._drop(key)
