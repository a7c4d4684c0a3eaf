"""Reads captures for diagrams: pcap (libpcap's file format, us and ns) and pcapng; Ethernet with VLAN tags, raw IP, BSD
loopback and Linux cooked packets."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import PybypassError
from .scriptdiagram import Arrow
from .scriptpacket import seen_of

__all__ = ["Conversation", "conversations", "is_capture", "packets"]

_PCAP = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # ns per unit of the second field
_PCAPNG, _BYTE_ORDER = 0x0A0D0D0A, 0x1A2B3C4D
_NULL, _ETHERNET, _RAW, _LOOP, _SLL, _IPV4, _IPV6, _SLL2 = 0, 1, 101, 108, 113, 228, 229, 276
_RAWS = frozenset({_RAW, 12, 14, _IPV4, _IPV6})
_VLANS = frozenset({0x8100, 0x88A8})


def _bad(path: str, text: str) -> PybypassError:
    return PybypassError.make("PB103", errno.EINVAL, f"{path}: {text}")


def is_capture(data: bytes) -> bool:
    """Whether a file begins like one."""
    if len(data) < 4:
        return False
    return any(struct.unpack(e + "I", data[:4])[0] in (*_PCAP, _PCAPNG) for e in "<>")


def _pcap(data: bytes, path: str) -> Iterator[tuple[int, int, bytes]]:
    e = "<" if struct.unpack("<I", data[:4])[0] in _PCAP else ">"
    if len(data) < 24:
        raise _bad(path, "the header of the file is cut off")
    unit = _PCAP[struct.unpack(e + "I", data[:4])[0]]
    link = struct.unpack(e + "I", data[20:24])[0] & 0xFFFF
    at = 24
    while at < len(data):
        if at + 16 > len(data):
            raise _bad(path, f"a packet's header is cut off at byte {at}")
        seconds, part, size, _ = struct.unpack(e + "IIII", data[at : at + 16])
        if at + 16 + size > len(data):
            raise _bad(path, f"a packet is cut off at byte {at}")
        yield seconds * 1_000_000_000 + part * unit, link, data[at + 16 : at + 16 + size]
        at += 16 + size


def _resolution(body: bytes, e: str) -> int:
    """Units per second of an interface's times (option if_tsresol)."""
    at = 8
    while at + 4 <= len(body):
        code, size = struct.unpack(e + "HH", body[at : at + 4])
        if code == 0:
            break
        if code == 9 and size == 1:
            value = body[at + 4]
            return 1 << (value & 0x7F) if value & 0x80 else 10**value
        at += 4 + size + (-size % 4)
    return 1_000_000


def _pcapng(data: bytes, path: str) -> Iterator[tuple[int, int, bytes]]:
    at, e = 0, "<"
    links: list[tuple[int, int]] = []
    while at + 12 <= len(data):
        kind = struct.unpack(e + "I", data[at : at + 4])[0]
        if kind == _PCAPNG:
            e = "<" if struct.unpack("<I", data[at + 8 : at + 12])[0] == _BYTE_ORDER else ">"
            links = []
        size = struct.unpack(e + "I", data[at + 4 : at + 8])[0]
        if size < 12 or size % 4 or at + size > len(data):
            raise _bad(path, f"a block of {size} bytes at byte {at}")
        body = data[at + 8 : at + size - 4]
        at += size
        if kind == 1 and len(body) >= 8:
            links.append((struct.unpack(e + "H", body[:2])[0], _resolution(body, e)))
        elif kind == 6 and len(body) >= 20:
            number, high, low, length = struct.unpack(e + "IIII", body[:16])
            if number >= len(links) or 20 + length > len(body):
                raise _bad(path, f"a packet of interface {number} with {length} bytes before byte {at}")
            link, units = links[number]
            yield (high << 32 | low) * 1_000_000_000 // units, link, body[20 : 20 + length]
    if at != len(data):
        raise _bad(path, f"the last block is cut off at byte {at}")


def _ip(link: int, frame: bytes) -> bytes:
    """The IP packet in a frame; b"": none."""
    if link in _RAWS:
        return frame
    if link in (_NULL, _LOOP):
        return frame[4:]
    if link == _ETHERNET:
        at = 12
        while frame[at : at + 2] and int.from_bytes(frame[at : at + 2], "big") in _VLANS:
            at += 4
        kind, rest = frame[at : at + 2], frame[at + 2 :]
    elif link == _SLL:
        kind, rest = frame[14:16], frame[16:]
    elif link == _SLL2:
        kind, rest = frame[0:2], frame[20:]
    else:
        return b""
    return rest if kind in (b"\x08\x00", b"\x86\xdd") else b""


def packets(path: str) -> Iterator[tuple[int, bytes]]:
    """(time in ns, IP packet) of every IP packet in a capture. PybypassError PB103."""
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise PybypassError.make("PB103", e.errno or errno.EIO, f"{path}: {e.strerror}") from None
    if not is_capture(data):
        raise _bad(path, "neither pcap nor pcapng")
    ng = struct.unpack("<I", data[:4])[0] == _PCAPNG
    for time_ns, link, frame in (_pcapng if ng else _pcap)(data, path):
        ip = _ip(link, frame)
        if len(ip) >= 20 and ip[0] >> 4 in (4, 6):
            yield time_ns, _cut(ip)


def _cut(ip: bytes) -> bytes:
    """Without what pads an Ethernet frame."""
    v6 = ip[0] >> 4 == 6
    size = 40 + int.from_bytes(ip[4:6], "big") if v6 else int.from_bytes(ip[2:4], "big")
    return ip[:size] if size else ip


@dataclass(slots=True)
class Conversation:
    """The TCP packets of two ends; left sent the first one."""

    left: tuple[bytes, int]
    right: tuple[bytes, int]
    start_ns: int
    arrows: list[Arrow] = field(default_factory=list)


def conversations(path: str) -> list[Conversation]:
    """The TCP conversations of a capture, in the order in which they began. Checksums are not looked at, since what is
    captured where it is sent often has none yet."""
    found: dict[frozenset[tuple[bytes, int]], Conversation] = {}
    start: int | None = None
    for time_ns, ip in packets(path):
        start = time_ns if start is None else start
        try:
            s = seen_of(ip, time_ns, check=False)
        except (ValueError, struct.error, IndexError):
            continue  # cut off by the capture, or malformed
        if s is None:
            continue
        talk = found.setdefault(frozenset((s.src, s.dst)), Conversation(s.src, s.dst, start))
        talk.arrows.append(Arrow((time_ns - start) // 1000, s.src == talk.left, s.packet))
    return list(found.values())
