"""Packets for benchmarks: UDP in IPv4 or IPv6, with fields that vary and a stamp in the payload."""

from __future__ import annotations

import errno
import ipaddress
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ._bench import FIELDS_MAX, Template
from .errors import PybypassError
from .neighbours import IpAddress

__all__ = ["STAMP_BYTES", "Packet", "Vary"]

STAMP_BYTES = 16
"""Number and run in 8 bytes, time in 8, little-endian: at the start of the payload."""
_FCS = 4
_UDP = 17


def _bad(text: str, hint: str) -> PybypassError:
    return PybypassError.make("PB040", errno.EINVAL, text, hint=hint)


@dataclass(frozen=True, kw_only=True)
class Vary:
    """A field that differs from packet to packet: from `low` to `high`, both included, by `step` and round again, or random.

    `field` is "src", "dst" (the whole IPv4 address, the last 32 bits of an IPv6 one), "sport", "dport", "ttl", "tos", or
    "@OFFSET:BYTES", bytes counted from the start of the frame, 1, 2 or 4 of them. Raises PybypassError PB040.
    """

    field: str
    low: int
    high: int
    step: int = 1
    random: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1 << 32 or not 0 < self.step < 1 << 32:
            raise _bad(
                f"vary {self.field}: {self.low} to {self.high} by {self.step}", "0 <= low <= high < 2**32, step > 0"
            )

    @staticmethod
    def parse(text: str) -> Vary:
        """ "sport=1024-65535", "dst=10.0.0.1-10.0.0.9", "sport=random:1024-65535", "@46:2=0-9/3" (by 3)."""
        match = re.fullmatch(r"(@\d+:\d|[a-z]+)=(random:)?([^-/]+)-([^-/]+)(?:/(\d+))?", text)
        if not match:
            raise _bad(f"--vary {text!r}", "FIELD=[random:]LOW-HIGH[/STEP], as in sport=1024-65535")
        field, how, low, high, step = match.groups()
        return Vary(
            field=field, low=_number(low, text), high=_number(high, text), step=int(step or 1), random=how is not None
        )


def _number(text: str, where: str) -> int:
    try:
        return int(ipaddress.ip_address(text)) & 0xFFFFFFFF if "." in text or ":" in text else int(text, 0)
    except ValueError:
        raise _bad(f"--vary {where!r}: {text!r} is no number and no address", "as in dst=10.0.0.1-10.0.0.9") from None


@dataclass(frozen=True, kw_only=True)
class Packet:
    """A UDP packet. `size` counts the frame as RFC 2544 does, with its check sequence: 64 bytes are 60 in memory.

    MAC addresses are six bytes. Raises PybypassError PB040 when it cannot be: too short for headers and stamp, addresses of
    two families.
    """

    src_mac: bytes
    dst_mac: bytes
    src: IpAddress
    dst: IpAddress
    sport: int = 9000
    dport: int = 9001
    size: int = 64
    vary: Sequence[Vary] = ()

    def __post_init__(self) -> None:
        if self.src.version != self.dst.version:
            raise _bad(f"{self.src} to {self.dst}", "both addresses are of one family")
        if not (1 <= self.sport <= 65535 and 1 <= self.dport <= 65535):
            raise _bad(f"ports {self.sport} and {self.dport}", "1 to 65535")
        least = self.headers + STAMP_BYTES + _FCS
        if not max(64, least) <= self.size <= 9604:
            raise _bad(f"size={self.size}", f"{max(64, least)} to 9604 bytes, the frame with its check sequence")
        if len(self.vary) > FIELDS_MAX:
            raise _bad(f"{len(self.vary)} fields vary", f"at most {FIELDS_MAX}")

    @property
    def headers(self) -> int:
        """Bytes before the payload: 42 or 62."""
        return 42 if self.src.version == 4 else 62

    def frame(self) -> bytes:
        """The packet in memory, without check sequence and UDP checksum."""
        length = self.size - _FCS
        payload = length - self.headers
        udp = struct.pack(">HHHH", self.sport, self.dport, 8 + payload, 0) + bytes(payload)
        if self.src.version == 4:
            kind = 0x0800
            ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, _UDP, 0)
        else:
            kind = 0x86DD
            ip = struct.pack(">IHBB", 6 << 28, len(udp), _UDP, 64)
        return self.dst_mac + self.src_mac + struct.pack(">H", kind) + ip + self.src.packed + self.dst.packed + udp

    def _place(self, vary: Vary) -> tuple[int, int]:
        v4 = self.src.version == 4
        l4 = self.headers - 8
        places = {
            "src": (26 if v4 else 34, 4), "dst": (30 if v4 else 50, 4), "sport": (l4, 2), "dport": (l4 + 2, 2),
            "ttl": (22 if v4 else 21, 1), "tos": (15, 1),
        }  # fmt: skip
        if vary.field.startswith("@"):
            offset, _, nbytes = vary.field[1:].partition(":")
            return int(offset), int(nbytes)
        if vary.field not in places or (vary.field == "tos" and not v4):
            raise _bad(f"vary {vary.field}", f"one of {', '.join(places)}, @OFFSET:BYTES")
        return places[vary.field]

    def template(self, run: int, seed: int = 1) -> Template:
        """What the loops in C send; `run` (16 bits) is in the stamp of each packet."""
        fields = [(*self._place(v), int(v.random), v.low, v.high, v.step) for v in self.vary]
        return Template(self.frame(), fields, self.headers, run, seed)
