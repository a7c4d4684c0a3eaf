"""Capture files: pcapng (draft-ietf-opsawg-pcapng) with nanosecond times and the direction of each packet."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["records", "write"]

_RECORD = struct.Struct("=QII")  # csrc/path/tap.h
_SHB, _IDB, _EPB = 0x0A0D0D0A, 1, 6
_MAGIC = 0x1A2B3C4D
_ETHERNET = 1


def records(data: bytes) -> Iterator[tuple[int, bool, memoryview]]:
    """(time in ns of CLOCK_MONOTONIC, sent, packet) of what Engine.capture_stop() gave."""
    view, at = memoryview(data), 0
    while at < len(view):
        ts, size, out = _RECORD.unpack_from(view, at)
        at += _RECORD.size
        yield ts, bool(out), view[at : at + size]
        at += size


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("=II", kind, size) + body + struct.pack("=I", size)


def write(path: str | os.PathLike[str], data: bytes, *, ifname: str = "pybypass", dropped: int = 0) -> int:
    """Writes a capture as pcapng; returns the number of packets.

    Times are turned into wall-clock time by the difference of the two clocks now, ns resolution; each packet has its
    direction (epb_flags). `dropped` is stated as a comment.
    """
    offset = time.time_ns() - time.monotonic_ns()
    comment = b"times: CLOCK_MONOTONIC in user space, once per burst, shifted to wall-clock time"
    if dropped:
        comment += b"; %d packets found no room in the capture buffer" % dropped
    section = struct.pack("=IHHq", _MAGIC, 1, 0, -1) + _option(4, b"pybypass") + _option(1, comment) + _option(0, b"")
    options = _option(2, ifname.encode()) + _option(9, b"\x09") + _option(0, b"")
    parts = [_block(_SHB, section), _block(_IDB, struct.pack("=HHI", _ETHERNET, 0, 0) + options)]
    count = 0
    for ts, out, packet in records(data):
        wall = ts + offset
        head = struct.pack("=IIIII", 0, wall >> 32, wall & 0xFFFFFFFF, len(packet), len(packet))
        flags = _option(2, struct.pack("=I", 2 if out else 1)) + _option(0, b"")
        parts.append(_block(_EPB, head + bytes(packet) + b"\0" * (-len(packet) % 4) + flags))
        count += 1
    Path(path).write_bytes(b"".join(parts))
    return count
