"""Neighbours that nobody but us keeps: found by ARP and neighbour discovery of our own, and looked after like a kernel's.

The states are those of RFC 4861 7.3.2 without DELAY: an entry is reachable for 30 s after it was heard of; then it is asked,
by unicast, three times, a second apart; who does not answer is forgotten, and asked for anew by the next packet to it.
No clock and no socket in here: times are arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["OnWire"]

_REACHABLE_S, _RETRANS_S, _PROBES, _MAX = 30.0, 1.0, 3, 512


@dataclass(slots=True)
class _Entry:
    mac: bytes
    due: float
    probes: int = 0


class OnWire:
    """By packed address, the one that was heard of longest ago first; 512 at most."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def heard(self, address: bytes, mac: bytes, now: float) -> bytes | None:
        """A neighbour said where it is. Returns the address that had to make room for it, or None."""
        self._entries.pop(address, None)
        self._entries[address] = _Entry(mac, now + _REACHABLE_S)
        if len(self._entries) <= _MAX:
            return None
        oldest = next(iter(self._entries))
        del self._entries[oldest]
        return oldest

    def forget(self, address: bytes) -> None:
        self._entries.pop(address, None)

    def doubt(self, address: bytes, now: float) -> bool:
        """It seems to be gone: it is asked at once, as if it had been silent for long. False: it is not known, or is being
        asked already."""
        entry = self._entries.get(address)
        if entry is None or entry.probes:
            return False
        entry.due = now
        return True

    def due(self, now: float) -> Iterator[tuple[bytes, bytes | None]]:
        """(address, MAC address to ask now), or (address, None) for one that is forgotten with this."""
        for address, entry in list(self._entries.items()):
            if entry.due > now or self._entries.get(address) is not entry:
                continue  # or it was heard of, or forgotten, since this began: siblings tell from their threads
            if entry.probes == _PROBES:
                self._entries.pop(address, None)
                yield address, None
            else:
                entry.probes += 1
                entry.due = now + _RETRANS_S
                yield address, entry.mac

    def next_due(self) -> float | None:
        """When due() has something to say."""
        return min([e.due for e in list(self._entries.values())], default=None)
