"""The connection that a script is about: how its numbers and the wire's belong together, and whether a packet that went
out is the one that the script expects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .scriptpacket import Seen, relative, text_of
from .scripttree import Option, TcpPacket

__all__ = ["Difference", "Flow", "Tolerance", "differences", "join"]

_LOW32 = 0xFFFFFFFF
_ECN = ("noecn", "ect1", "ect0", "ce")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far from its time something may happen: `us`, or `percent` of what has passed since the event before."""

    us: int = 4000
    percent: float = 12.5

    def of(self, delta_us: int) -> int:
        return max(self.us, int(self.percent / 100 * delta_us))


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a packet: what the script has, and what was seen."""

    what: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, seen {self.seen}"


@dataclass(slots=True)
class Flow:
    """local and remote: (address, port) on the wire. ISNs are those of the script and of the wire; the peer's are the
    same. As packetdrill has it, the numbers of a SYN are absolute, and all others count from the ISNs: a peer whose SYN
    is `S 4000:4000(0)` goes on with 1, and `ack 1` is what acknowledges our SYN. `state` follows the handshake:
    connecting, syn-sent, syn-received, answered, open."""

    local: tuple[bytes, int] | None
    remote: tuple[bytes, int]
    state: str
    script_isn: int = 0
    wire_isn: int = 0
    peer_isn: int = 0
    sent: bytearray = field(default_factory=bytearray)  # what the application gave
    unsure: bool = False  # some of it is not known: its bytes are not looked at
    read: int = 0  # how far the application has read
    label: int = 0  # IPv6 flow label, of the script and of the wire
    wire_label: int = 0
    stamps: dict[int, int] = field(default_factory=dict)  # TS val of the script, as it was on the wire
    first_stamp: tuple[int, int] | None = None  # script, wire

    def _offsets(self, p: TcpPacket) -> tuple[int, int]:
        """From the script's sequence numbers to the wire's: of ours, and of the peer's."""
        if "S" in p.flags:
            return (self.wire_isn - self.script_isn) & _LOW32, 0
        return self.wire_isn, self.peer_isn

    def matches(self, s: Seen) -> bool:
        return s.dst == self.remote and s.src == self.local

    # ---- in ----

    def to_wire(self, p: TcpPacket) -> TcpPacket:
        """What a script's peer sends, with the numbers of the wire. ValueError: an echoed timestamp never sent."""
        ours, peers = self._offsets(p)
        moved = relative(p, peers, ours)
        if "." not in p.flags:
            return moved
        return replace(moved, options=tuple(self._echo(o) for o in moved.options or ()))

    def _echo(self, o: Option) -> Option:
        if o.name != "TS":
            return o
        val, ecr = o.values
        if ecr not in self.stamps:
            raise ValueError(f"TS ecr {ecr} echoes no TS val that was expected before")
        return replace(o, values=(val, self.stamps[ecr]))

    # ---- out ----

    def to_script(self, p: TcpPacket, expected: TcpPacket | None) -> TcpPacket:
        """What went out, with the numbers of the script; learns from the expected packet's timestamp."""
        ours, peers = self._offsets(p)
        moved = relative(p, -ours, -peers)
        stamp = _stamp(moved)
        if not stamp or len(stamp.values) != 2:
            return moved
        wanted = _stamp(expected) if expected else None
        val, ecr = stamp.values
        if wanted:
            self.stamps[wanted.values[0]] = val
            if self.first_stamp is None:
                self.first_stamp = (wanted.values[0], val)
        if self.first_stamp is None:
            return moved
        shown = (self.first_stamp[0] + val - self.first_stamp[1]) & _LOW32
        options = tuple(replace(o, values=(shown, ecr)) if o.name == "TS" else o for o in moved.options or ())
        return replace(moved, options=options)


def _stamp(p: TcpPacket) -> Option | None:
    return next((o for o in p.options or () if o.name == "TS"), None)


def join(a: TcpPacket, b: TcpPacket) -> TcpPacket | None:
    """Two segments that follow each other, as the one of which a stack with large sends would have made them; None: they
    do not belong together."""
    same = set("SR.UE")
    if (a.seq + a.length) & _LOW32 != b.seq or a.ack != b.ack or a.window != b.window or a.urgent != b.urgent:
        return None
    if set(a.flags) & same != set(b.flags) & same or len(a.options or ()) != len(b.options or ()):
        return None
    flags = "".join(f for f in b.flags if f != "W") + ("W" if "W" in a.flags else "")
    return replace(b, seq=a.seq, length=a.length + b.length, flags=_ordered(flags))


def _ordered(flags: str) -> str:
    return "".join(f for f in "SFRPEWU." if f in flags)


def _stamp_wrong(want: Option, got: Option, tick_us: int, slack_us: int) -> bool:
    ticks = (got.values[0] - want.values[0] + (1 << 31)) % (1 << 32) - (1 << 31)
    return bool(tick_us) and abs(ticks) * tick_us > slack_us


def _options_differ(want: tuple[Option, ...], got: tuple[Option, ...], tick_us: int, slack_us: int) -> bool:
    if [o.name for o in want] != [o.name for o in got]:
        return True
    return any(
        _stamp_wrong(w, g, tick_us, slack_us) if w.name == "TS" and len(g.values) == 2 else w != g
        for w, g in zip(want, got, strict=True)
    )


def differences(want: TcpPacket, got: TcpPacket, *, tick_us: int = 0, slack_us: int = 0) -> list[Difference]:
    """In which fields a packet is not the expected one. Window and options only as far as the script has them; of
    timestamps the value when a tick is given, never the echo."""
    found: list[Difference] = []

    def check(what: str, a: object, b: object) -> None:
        if a != b:
            found.append(Difference(what, str(a), str(b)))

    check("flags", _ordered(want.flags) or "-", _ordered(got.flags) or "-")
    check("sequence number", want.seq, got.seq)
    check("length", want.length, got.length)
    check("acknowledgment number", want.ack, got.ack)
    check("urgent pointer", want.urgent, got.urgent)
    if want.window is not None:
        check("window", want.window, got.window)
    if want.options is not None and _options_differ(want.options, got.options or (), tick_us, slack_us):
        check("options", _shown(want), _shown(got))
    seen_ecn = got.ip.ecn or 0
    if want.ip.tos is not None:
        check("TOS byte", hex(want.ip.tos), hex(got.ip.tos or 0))
    elif want.ip.ecn == -1:
        check("ECN", "ect0 or ect1", "ect0 or ect1" if seen_ecn in (1, 2) else _ECN[seen_ecn])
    elif want.ip.ecn is not None:
        check("ECN", _ECN[want.ip.ecn], _ECN[seen_ecn])
    if want.ip.ttl is not None:
        check("TTL", want.ip.ttl, got.ip.ttl)
    return found


def _shown(p: TcpPacket) -> str:
    text = text_of(p)
    return text[text.index("<") :] if "<" in text else "none"
