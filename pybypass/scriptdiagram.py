"""Packet timing diagrams in text: two columns of ends, and an arrow for each packet in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .scriptpacket import relative, text_of
from .scripttree import Icmp, TcpPacket

__all__ = ["Arrow", "draw", "notes"]

_LOW32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Arrow:
    """One packet. time_us from the diagram's start; rightward: from the left end to the right one."""

    time_us: int
    rightward: bool
    packet: TcpPacket | Icmp


@dataclass(slots=True)
class _Side:
    """What one end has sent."""

    isn: int | None = None
    top: int = 0  # the highest sequence number there was
    ack: int | None = None
    window: int | None = None
    closed: bool = False


def _relative(p: TcpPacket, mine: _Side, other: _Side) -> TcpPacket:
    if mine.isn is None:
        mine.isn = p.seq if "S" in p.flags else (p.seq - 1) & _LOW32
        mine.top = p.seq
    if other.isn is None and "." in p.flags:
        other.isn = (p.ack - 1) & _LOW32
        other.top = p.ack
    return relative(p, -mine.isn, -(other.isn or 0))


def _ahead(a: int, b: int) -> bool:
    """a is after b, as sequence numbers go."""
    return 0 < (a - b) & _LOW32 < 1 << 31


def notes(p: TcpPacket, mine: _Side) -> str:
    """What is remarkable about a packet, given what its sender sent before (numbers of the wire)."""
    end = (p.seq + p.length + ("S" in p.flags) + ("F" in p.flags)) & _LOW32
    found: list[str] = []
    if end != p.seq and mine.top != p.seq:
        if not _ahead(end, mine.top):
            found.append("again")
        elif _ahead(mine.top, p.seq):
            found.append("again in part")
        elif _ahead(p.seq, mine.top):
            found.append("gap before")
    pure = p.length == 0 and not set(p.flags) & set("SFR")
    sack = any(o.name == "sack" for o in p.options or ())
    if pure and p.ack == mine.ack and (p.window == mine.window or sack):
        found.append("duplicate ACK")
    if pure and p.seq != mine.top and mine.isn is not None and (p.seq + 1) & _LOW32 == mine.top:
        found.append("probe")
    if p.window == 0 and "R" not in p.flags and "." in p.flags:
        found.append("window closed")
    if _ahead(end, mine.top):
        mine.top = end
    if "." in p.flags:
        mine.ack, mine.window = p.ack, p.window
    return ", ".join(found)


def _rows(arrows: Iterable[Arrow]) -> Iterator[tuple[Arrow, str, str]]:
    """(arrow, text with relative numbers, notes)."""
    sides = {True: _Side(), False: _Side()}
    for a in arrows:
        if isinstance(a.packet, Icmp):
            yield a, text_of(a.packet), ""
            continue
        mine, other = sides[a.rightward], sides[not a.rightward]
        if "S" in a.packet.flags and mine.isn is not None and mine.isn != a.packet.seq:
            sides[a.rightward] = mine = _Side()  # the port is used anew
        shown = _relative(a.packet, mine, other)
        yield a, text_of(shown), notes(a.packet, mine)


def draw(arrows: Iterable[Arrow], left: str, right: str, *, width: int = 0) -> str:
    """The diagram: time in s, time since the packet before, and arrows with flags, sequence numbers relative to the
    first, length, ACK, window and options; what is sent again or acknowledged twice is marked.

    width: columns between the two ends; 0: as the longest packet needs.
    """
    rows = list(_rows(arrows))
    inner = max([width, *(len(text) + 6 for _, text, _ in rows), len(left) + len(right) + 2 - 4])
    lines = [f"{'time s':>12} {'since':>10}  {left}{right:>{inner + 4 - len(left)}}"]
    before = rows[0][0].time_us if rows else 0
    for a, text, note in rows:
        line = (f" {text} " + "-" * inner)[: inner - 1] + ">" if a.rightward else ""
        if not a.rightward:
            line = "<" + ("-" * inner + f" {text} ")[-(inner - 1) :]
        since = a.time_us - before
        before = a.time_us
        shown = f"+{since / 1e6:.6f}" if since else ""
        lines.append(f"{a.time_us / 1e6:12.6f} {shown:>10}  |{line}-|{'  ' + note if note else ''}".rstrip())
    return "\n".join(lines)
