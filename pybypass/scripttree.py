"""What a packet script is made of, once it was read: plain records, each with the place where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "Call",
    "Code",
    "Command",
    "Either",
    "Ellipsis_",
    "Event",
    "Expr",
    "Field",
    "Icmp",
    "IpFields",
    "Items",
    "Name",
    "Number",
    "Option",
    "Record",
    "Script",
    "TcpPacket",
    "Text",
    "When",
]


# ---- expressions ----


@dataclass(frozen=True, slots=True)
class Number:
    value: int


@dataclass(frozen=True, slots=True)
class Name:
    """A word: a constant, or a call on arguments as in htons(80)."""

    word: str
    arguments: tuple[Expr, ...] | None = None


@dataclass(frozen=True, slots=True)
class Text:
    value: str


@dataclass(frozen=True, slots=True)
class Ellipsis_:
    """`...`: whatever suits."""


@dataclass(frozen=True, slots=True)
class Either:
    """Flags joined by `|`."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """`[a, b]`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    value: Expr
    arguments: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """`{name=value, name(x)=value, value}`: fields with names, and those without."""

    fields: tuple[Field, ...]
    items: tuple[Expr, ...]

    def get(self, name: str) -> Expr | None:
        return next((f.value for f in self.fields if f.name == name), None)


Expr = Number | Name | Text | Ellipsis_ | Either | Items | Record


# ---- events ----


@dataclass(frozen=True, slots=True)
class When:
    """Times in microseconds. "at": of the script; "after": since the event before; "any": `*`."""

    kind: Literal["at", "after", "any"]
    start_us: int = 0
    end_us: int | None = None  # of a range


@dataclass(frozen=True, slots=True)
class Option:
    """One TCP option: nop, eol, mss, wscale, sackOK, sack, TS, FO, FOEXP, md5."""

    name: str
    values: tuple[int, ...] = ()
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class IpFields:
    """What is asked of the IP header; None is not looked at. ecn 0 to 3, or -1 for either ECT."""

    ecn: int | None = None
    tos: int | None = None
    ttl: int | None = None
    flow_label: int | None = None


@dataclass(frozen=True, slots=True)
class TcpPacket:
    outbound: bool
    flags: str  # letters of ".FSRPEWU", "" for none
    seq: int
    length: int
    ack: int = 0
    window: int | None = None
    urgent: int = 0
    options: tuple[Option, ...] | None = ()  # None: <...>
    ip: IpFields = IpFields()
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Icmp:
    outbound: bool
    kind: str
    code: str = ""
    mtu: int = 0
    seq: int = 0
    length: int = 0
    ip: IpFields = IpFields()


@dataclass(frozen=True, slots=True)
class Call:
    """A system call; end_us is set for one that blocks: when it returns, counted as its event's time."""

    name: str
    arguments: tuple[Expr, ...]
    result: Expr
    errno: str = ""
    end_us: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    text: str


@dataclass(frozen=True, slots=True)
class Code:
    text: str


@dataclass(frozen=True, slots=True)
class Event:
    when: When
    action: TcpPacket | Icmp | Call | Command | Code
    line: int


@dataclass(frozen=True, slots=True)
class Script:
    path: str
    lines: tuple[str, ...]
    options: tuple[tuple[str, str, int], ...] = ()  # name, value, line
    init: tuple[Event, ...] = ()  # commands before the first event
    events: tuple[Event, ...] = field(default=())
