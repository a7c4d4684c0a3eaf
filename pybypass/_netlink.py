"""Netlink: requests, dumps and news from the kernel, and the generic families found by name (netlink(7), RFC 3549).

A socket belongs to the network namespace of the thread that opened it, and stays there. Attributes are pairs of a kind
and bytes; numbers are in host order, whatever their width: number() reads them. Nothing here knows a family's contents.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from .errors import PybypassError

__all__ = [
    "ACK", "CREATE", "DUMP", "REPLACE", "Generic", "Message", "Netlink", "attribute", "attributes", "children",
    "nest", "number", "pairs", "text", "u8", "u16", "u32",
]  # fmt: skip

_Self = TypeVar("_Self", bound="Netlink")

REQUEST, ACK, REPLACE, DUMP, CREATE = 0x01, 0x04, 0x100, 0x300, 0x400
_DUMP_INTERRUPTED, _CAPPED, _HAS_ATTRIBUTES = 0x10, 0x100, 0x200
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_NETLINK_GENERIC = 16
_SOL_NETLINK, _ADD_MEMBERSHIP, _EXT_ACK, _STRICT = 270, 1, 11, 12
_NESTED, _KIND = 0x8000, 0x3FFF
_EXTACK_TEXT = 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_GENERIC = struct.Struct("=BBxx")  # genlmsghdr: command, version
_ROOM = 1 << 17
_TRIES = 5  # of a dump that what it walks over changed under

# GENL_ID_CTRL and what it says of a family, <linux/genetlink.h>.
_CTRL, _CTRL_GETFAMILY = 16, 3
_FAMILY_ID, _FAMILY_NAME, _FAMILY_VERSION, _FAMILY_OPS, _FAMILY_GROUPS = 1, 2, 3, 6, 7

_CODES = {
    errno.ENODEV: "PB020", errno.EPERM: "PB025", errno.EACCES: "PB025", errno.EOPNOTSUPP: "PB071", errno.ENOBUFS: "PB073",
}  # fmt: skip


def error(number: int, what: str, detail: dict[str, object] | None = None) -> PybypassError:
    """The typed error for a refusal of the kernel: PB020, PB025, PB071 (not supported), PB073 (lost), else PB070."""
    return PybypassError.make(_CODES.get(number, "PB070"), number, what, detail=detail)


# ---- attributes ----


def attribute(kind: int, value: bytes = b"") -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def nest(kind: int, *inner: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(inner))


def pairs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute, in their order; ends where the bytes make no sense."""
    at = 0
    while len(data) - at >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= size <= len(data) - at:
            return
        yield kind & _KIND, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes by kind; the last of each."""
    return dict(pairs(data))


def children(data: bytes | None) -> list[dict[int, bytes]]:
    """The attributes of each member of an array of nests; none where it is absent."""
    return [attributes(value) for _, value in pairs(data or b"")]


def number(value: bytes | None, default: int = 0) -> int:
    """An unsigned number of any width."""
    return int.from_bytes(value, sys.byteorder) if value else default


def text(value: bytes | None) -> str:
    return (value or b"").split(b"\0", 1)[0].decode("utf-8", "replace")


# ---- messages ----


@dataclass(frozen=True, slots=True)
class Message:
    """`kind` is the message type (of a generic family: the command), `body` what follows the header."""

    kind: int
    body: bytes


def _messages(data: bytes) -> Iterator[tuple[int, int, tuple[int, int], bytes]]:
    """(type, flags, (sequence, port), body) of each message of a datagram."""
    while len(data) >= _HEADER.size:
        size, kind, flags, sequence, port = _HEADER.unpack_from(data)
        if not _HEADER.size <= size <= len(data):
            raise error(errno.EBADMSG, "a message of no length")
        yield kind, flags, (sequence, port), data[_HEADER.size : size]
        data = data[(size + 3) & ~3 :]


def _refusal(kind: int, flags: int, body: bytes, what: str) -> PybypassError | None:
    """The error that NLMSG_ERROR or NLMSG_DONE carries, with the kernel's own words (extended ACK); None: it is none."""
    code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
    if not code:
        return None
    extended = body[4:]
    if kind == _ERROR:  # the request comes before them, whole unless capped
        size = _HEADER.size if flags & _CAPPED else number(body[4:8])
        extended = body[4 + ((size + 3) & ~3) :]
    said = text(attributes(extended).get(_EXTACK_TEXT)) if flags & _HAS_ATTRIBUTES else ""
    return error(code, f"{what}: {said or os.strerror(code)}", {"kernel": said} if said else None)


class Netlink:
    """A netlink socket (a context manager); not for several threads at once. Follow news on one, send requests on another.

    `groups`: multicast groups to hear from the start. `timeout_s` bounds the wait for an answer. Errors of the kernel are
    PybypassErrors with its errno: PB020 (no such device), PB025, PB071 (not supported), PB073 (news lost: ENOBUFS), PB070.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE, *, groups: tuple[int, ...] = (), timeout_s: float = 2.0):
        self.name = "rtnetlink" if protocol == socket.NETLINK_ROUTE else f"netlink {protocol}"
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as e:
            raise error(e.errno or errno.EIO, f"{self.name}: {e.strerror}") from None
        self._sequence = 0
        self._timeout_s = timeout_s
        try:
            self._socket.bind((0, 0))
            self._port: int = self._socket.getsockname()[0]
            for option in (_EXT_ACK, _STRICT):  # its words in errors; dumps that heed their filter
                try:
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
                except OSError:  # a kernel before 4.20
                    pass
            for group in groups:
                self.subscribe(group)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """For select()."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def subscribe(self, group: int) -> None:
        """Hears a multicast group by its number (RTNLGRP_...; of a generic family, see Generic.group())."""
        try:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as e:
            raise error(e.errno or errno.EIO, f"{self.name}: group {group}: {e.strerror}") from None

    def _receive(self, timeout_s: float | None) -> bytes:
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.recv(_ROOM)
        except TimeoutError:
            raise error(errno.ETIMEDOUT, f"{self.name}: no answer in {timeout_s} s") from None
        except BlockingIOError:
            raise
        except OSError as e:
            raise error(e.errno or errno.EIO, f"{self.name}: {e.strerror}") from None

    def news(self, timeout_s: float | None = 0) -> list[Message]:
        """What the subscribed groups said: one datagram's messages; [] when there is none within `timeout_s`.

        Raises PB073 when some were lost (ENOBUFS): dump again what you follow.
        """
        try:
            data = self._receive(timeout_s)
        except BlockingIOError:
            return []
        except PybypassError as e:
            if e.errno == errno.ETIMEDOUT:
                return []
            raise
        return [Message(kind, body) for kind, _, _, body in _messages(data) if kind > _OVERRUN]

    def request(self, kind: int, body: bytes = b"", flags: int = ACK) -> list[Message]:
        """Sends a request and returns the answers up to its ACK, or to the end of the dump (`flags` DUMP)."""
        for _ in range(_TRIES):
            answers = self._once(kind, body, flags)
            if answers is not None:
                return answers
        raise error(errno.EBUSY, f"{self.name}: the table changes faster than it can be read")

    def _once(self, kind: int, body: bytes, flags: int) -> list[Message] | None:
        """None: the dump was interrupted by a change."""
        self._sequence += 1
        head = _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, self._sequence, 0)
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.send(head + body)
        except OSError as e:
            raise error(e.errno or errno.EIO, f"{self.name}: {e.strerror}") from None
        answers: list[Message] = []
        whole = True
        while True:
            for got, got_flags, to, answer in _messages(self._receive(self._timeout_s)):
                if to != (self._sequence, self._port):
                    continue  # news, or what is left of a request that was given up
                whole = whole and not got_flags & _DUMP_INTERRUPTED
                if got in (_ERROR, _DONE):
                    refused = _refusal(got, got_flags, answer, self.name)
                    if refused is not None:
                        raise refused
                    return answers if whole else None
                answers.append(Message(got, answer))


class Generic(Netlink):
    """A generic netlink family by its name ("ethtool", "netdev"). PB071 (EOPNOTSUPP) where the kernel has none such."""

    def __init__(self, family: str, *, timeout_s: float = 2.0) -> None:
        super().__init__(_NETLINK_GENERIC, timeout_s=timeout_s)
        self.name = f"netlink {family}"
        body = _GENERIC.pack(_CTRL_GETFAMILY, 1) + attribute(_FAMILY_NAME, family.encode() + b"\0")
        try:
            (answer,) = super().request(_CTRL, body)
        except PybypassError as e:
            self.close()
            if e.errno == errno.ENOENT:
                raise error(errno.EOPNOTSUPP, f"{self.name}: this kernel has no such family") from None
            raise
        found = attributes(answer.body[_GENERIC.size :])
        self.id = number(found[_FAMILY_ID])
        self.version = number(found.get(_FAMILY_VERSION), 1)
        self.commands = frozenset(number(op.get(1)) for op in children(found.get(_FAMILY_OPS)))
        """The commands that this kernel knows."""
        self._groups = {text(g.get(1)): number(g.get(2)) for g in children(found.get(_FAMILY_GROUPS))}

    def group(self, name: str) -> int:
        """The number of a multicast group; PB071 where the family has none such."""
        try:
            return self._groups[name]
        except KeyError:
            raise error(errno.EOPNOTSUPP, f"{self.name}: no group {name!r}") from None

    def call(self, command: int, body: bytes = b"", flags: int = ACK) -> list[dict[int, bytes]]:
        """One command with its attributes; the attributes of each answer."""
        answers = self.request(self.id, _GENERIC.pack(command, self.version) + body, flags)
        return [attributes(answer.body[_GENERIC.size :]) for answer in answers if answer.kind == self.id]
