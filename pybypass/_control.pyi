"""What is told to and asked of a path as a whole. Private: a base of _engine.EngineCore."""

from collections.abc import Iterable
from typing import Any

from pybypass._core import Core

EXC_REASONS: dict[int, str]

class Control(Core):
    def exceptions(self) -> list[tuple[str, bytes | None, bytes | None]]:
        """[(reason, frame or None, next hop or None)]; frames are copied."""

    def judged(self, frame: bytes, admitted: bool) -> None: ...
    def hand_over(self, on: bool) -> None:
        """Whether IP packets for other addresses are exceptions ("not_ours") or dropped."""

    def inject(self, frame: bytes) -> None: ...
    def set_neighbour(self, addr: bytes, mac: bytes | None) -> None: ...
    def set_routes(self, routes: Iterable[tuple[bytes, int, bytes | None]]) -> None:
        """[(network, prefix length, gateway or None)] take the place of all routes but the static ones."""

    def stats(self) -> dict[str, Any]: ...
    def trace(self, room: int) -> tuple[bytes, int]:
        """(records as bytes, how many were overwritten before they were read)."""

    def capture_start(self, nbytes: int) -> None: ...
    def capture_stop(self) -> tuple[bytes, int, int]:
        """(records, packets, dropped): each record is struct pb_tap_rec (ts_ns u64, len u32, out u32) and the packet."""
