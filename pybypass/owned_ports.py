"""Local TCP ports of addresses that the kernel does not have: it cannot hold them, so this process does, for all its engines."""

from __future__ import annotations

import errno
import random
import threading

from .errors import PybypassError
from .neighbours import IpAddress

__all__ = ["EPHEMERAL", "Holder", "take"]

EPHEMERAL = (32768, 60999)
"""net.ipv4.ip_local_port_range of Linux."""

Place = tuple[int, IpAddress]
"""The XDP program, which is one per interface and process (a DPDK port: -1 less its number), and the address."""

_lock = threading.Lock()
_taken: dict[tuple[Place, int], list[bool]] = {}


class Holder:
    """A port that is held until close()."""

    def __init__(self, key: tuple[Place, int], shared: bool) -> None:
        self._key: tuple[Place, int] | None = key
        self._shared = shared

    def close(self) -> None:
        """Lets go; again does nothing."""
        with _lock:
            key, self._key = self._key, None
            if key is not None:
                _taken[key].remove(self._shared)
                if not _taken[key]:
                    del _taken[key]


def _free(place: Place) -> int:
    low, high = EPHEMERAL
    start = random.randrange(low, high + 1)
    for i in range(high - low + 1):
        number = low + (start - low + i) % (high - low + 1)
        if (place, number) not in _taken:
            return number
    raise PybypassError.make("PB042", errno.EADDRNOTAVAIL, f"no free local port at {place[1]}")


def take(place: Place, number: int, *, shared: bool) -> tuple[int, Holder]:
    """A port of the address, 0: any free one. PB042 when it is held, unless both are `shared`: by engines on queues of one
    port, between which the NIC or the hash decides."""
    with _lock:
        shared = shared and number != 0
        number = number or _free(place)
        holders = _taken.setdefault((place, number), [])
        if holders and not (shared and all(holders)):
            raise PybypassError.make(
                "PB042", errno.EADDRINUSE, f"{place[1]} port {number}", hint="another engine of this process has it"
            )
        holders.append(shared)
        return number, Holder((place, number), shared)
