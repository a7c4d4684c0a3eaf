"""System calls of scripts, done to the host; each may have to be tried again before it is through."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .scriptflow import Flow
from .scriptpacket import address, payload
from .scripttree import Call, Ellipsis_, Expr, Items, Name, Number, Record, Text
from .scriptwords import number

if TYPE_CHECKING:
    from .scriptrun import Machine

__all__ = ["CALLS", "Descriptor", "Mismatch", "Trial", "prepare"]

_NONBLOCK, _DONTWAIT, _TRUNC, _PEEK, _ERRQUEUE = 0x800, 0x40, 0x20, 0x2, 0x2000
_O_RDWR = 2
_SOL_SOCKET, _SO_LINGER = 1, 13
_TIMEOUT_FOREVER = -1


class Mismatch(Exception):
    """Something is not as the script has it; the text says what."""


@dataclass(slots=True)
class Descriptor:
    """What a script's file descriptor stands for."""

    sock: int
    nonblocking: bool = False
    flow: Flow | None = None
    listening: bool = False


@dataclass(slots=True)
class Trial:
    """A call on its way: attempt() gives its result or -errno, -EAGAIN when it would block."""

    attempt: Callable[[], int]
    once: bool = True
    is_fd: bool = False  # the result is a descriptor: only its sign is compared
    check: Callable[[int], None] = lambda _: None  # what it gave beside its result; Mismatch


def _int(e: Expr) -> int:
    return number(e)


def _fd(m: Machine, e: Expr) -> Descriptor:
    fd = _int(e)
    if fd not in m.fds:
        raise Mismatch(f"the script has no open file descriptor {fd}")
    return m.fds[fd]


def _new_fd(m: Machine, call: Call, d: Descriptor) -> None:
    fd = _int(call.result)
    if fd in m.fds:
        raise Mismatch(f"the script has file descriptor {fd} already, and did not close it")
    m.fds[fd] = d


def _count(call: Call, *allowed: int) -> tuple[Expr, ...]:
    if len(call.arguments) not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise Mismatch(f"{call.name}() takes {wanted} arguments here, not {len(call.arguments)}")
    return call.arguments


def _ints(e: Expr) -> list[int]:
    """`[1, 2]`."""
    if not isinstance(e, Items):
        raise TypeError("a list in brackets was expected")
    return [number(i) for i in e.items]


# ---- making and ending ----


def _socket(m: Machine, call: Call) -> Trial:
    domain, kind, protocol = _count(call, 3)
    family = m.family if isinstance(domain, Ellipsis_) else {2: 4, 10: 6}.get(_int(domain), 0)
    bits = _int(kind)

    def attempt() -> int:
        return m.host.socket(family, bits & ~(_NONBLOCK | 0x80000), _int(protocol))

    def check(result: int) -> None:
        if result >= 0:
            _new_fd(m, call, Descriptor(result, bool(bits & _NONBLOCK)))
            m.flow, m.listening, m.bare = None, False, True

    return Trial(attempt, is_fd=True, check=check)


def _where(e: Expr, default: tuple[bytes | None, int]) -> tuple[bytes | None, int]:
    if isinstance(e, Ellipsis_):
        return default
    if not isinstance(e, Record):
        raise TypeError('an address ({sa_family=..., sin_port=htons(N), sin_addr=inet_addr("A")}) or ... was expected')
    port, addr = e.get("sin_port"), e.get("sin_addr")
    if not isinstance(port, Name) or not port.arguments or not isinstance(addr, Name) or not addr.arguments:
        raise TypeError('sin_port=htons(N) and sin_addr=inet_addr("A") were expected')
    text = addr.arguments[0]
    if not isinstance(text, Text):
        raise TypeError("an address in quotes was expected")
    return address(text.value), number(port.arguments[0])


def _bind(m: Machine, call: Call) -> Trial:
    fd, where, _ = _count(call, 3)
    d = _fd(m, fd)
    end = _where(where, m.local)
    return Trial(lambda: m.host.bind(d.sock, end))


def _listen(m: Machine, call: Call) -> Trial:
    fd, backlog = _count(call, 2)
    d = _fd(m, fd)

    def check(result: int) -> None:
        if not result:
            d.listening = True
            m.listening, m.bare = True, False

    return Trial(lambda: m.host.listen(d.sock, _int(backlog)), check=check)


def _accept(m: Machine, call: Call) -> Trial:
    arguments = _count(call, 3, 4)
    d = _fd(m, arguments[0])
    flags = _int(arguments[3]) if len(arguments) == 4 else 0

    def check(result: int) -> None:
        if result >= 0:
            _new_fd(m, call, Descriptor(result, bool(flags & _NONBLOCK), m.flow))

    return Trial(lambda: m.host.accept(d.sock), d.nonblocking, True, check)


def _connect(m: Machine, call: Call) -> Trial:
    fd, where, _ = _count(call, 3)
    d = _fd(m, fd)
    end = _where(where, m.remote)
    if d.flow is None:
        d.flow = Flow(None, (end[0] or b"", end[1]), "connecting")
        m.begin(d.flow)
        m.listening = False

    def attempt() -> int:
        rc = m.host.connect(d.sock, end)
        if not d.nonblocking and rc in (-errno.EINPROGRESS, -errno.EALREADY):
            return -errno.EAGAIN
        return rc

    return Trial(attempt, d.nonblocking)


def _close(m: Machine, call: Call) -> Trial:
    (fd,) = _count(call, 1)
    d = _fd(m, fd)

    def check(_: int) -> None:
        del m.fds[_int(fd)]
        if d.listening and m.flow is None:
            m.listening = False

    return Trial(lambda: m.host.close(d.sock), once=False, check=check)


def _shutdown(m: Machine, call: Call) -> Trial:
    fd, how = _count(call, 2)
    d = _fd(m, fd)
    return Trial(lambda: m.host.shutdown(d.sock, _int(how)))


# ---- data ----


def _recv_with(m: Machine, d: Descriptor, n: int, flags: int, into: Expr | None = None) -> Trial:
    nowhere = isinstance(into, Number) or (isinstance(into, Name) and into.word == "NULL")

    def attempt() -> int:
        result, data = m.host.recv(d.sock, n, flags, nowhere)
        if result > 0 and d.flow is not None and not flags & _PEEK:
            start = d.flow.read
            d.flow.read += result
            if data and data != payload(start, len(data)):
                raise Mismatch(
                    f"bytes {start} to {start + len(data)} of the stream were read, and are not what came in"
                )
        return result

    return Trial(attempt, d.nonblocking or bool(flags & (_DONTWAIT | _ERRQUEUE)))


def _read(m: Machine, call: Call) -> Trial:
    fd, buf, n = _count(call, 3)
    return _recv_with(m, _fd(m, fd), _int(n), 0, buf)


def _recv(m: Machine, call: Call) -> Trial:
    arguments = _count(call, 4, 6)
    return _recv_with(m, _fd(m, arguments[0]), _int(arguments[2]), _int(arguments[3]), arguments[1])


def _send_with(m: Machine, d: Descriptor, data: bytes | None, flags: int) -> Trial:
    done = 0
    once = d.nonblocking or bool(flags & _DONTWAIT)
    flags |= _DONTWAIT if once else 0

    def attempt() -> int:
        nonlocal done
        while True:
            rc = m.host.send(d.sock, data[done:] if data is not None else None, flags)
            if rc < 0 and rc != -errno.EAGAIN:
                return done or rc
            if rc > 0 and data is not None:
                if d.flow is not None:
                    d.flow.sent += data[done : done + rc]
                done += rc
            if data is None or done == len(data):
                return done
            if rc <= 0:
                return done if once and done else -errno.EAGAIN

    return Trial(attempt, once)


def _bytes_of(d: Descriptor, e: Expr, n: int) -> bytes | None:
    """What a call sends: the text, or for `...` bytes that follow from their place; None for a null pointer."""
    if isinstance(e, Text):
        return e.value.encode("latin-1")[:n].ljust(n, b"\0")
    if isinstance(e, Number) or (isinstance(e, Name) and e.word == "NULL"):
        return None
    return payload(len(d.flow.sent) if d.flow else 0, n)


def _write(m: Machine, call: Call) -> Trial:
    fd, buf, n = _count(call, 3)
    d = _fd(m, fd)
    return _send_with(m, d, _bytes_of(d, buf, _int(n)), 0)


def _send(m: Machine, call: Call) -> Trial:
    arguments = _count(call, 4, 6)
    d = _fd(m, arguments[0])
    return _send_with(m, d, _bytes_of(d, arguments[1], _int(arguments[2])), _int(arguments[3]))


def _iov_bytes(e: Expr | None) -> int:
    """The bytes of `[{..., 40}, {..., 20}]`."""
    total = 0
    for part in e.items if isinstance(e, Items) else ():
        if not isinstance(part, Record) or len(part.items) != 2:
            raise TypeError("an iovec ({..., BYTES}) was expected")
        total += number(part.items[1])
    return total


def _iov(m: Machine, call: Call) -> Trial:
    fd, vector, _ = _count(call, 3)
    d, n = _fd(m, fd), _iov_bytes(vector)
    return _send_with(m, d, _bytes_of(d, Ellipsis_(), n), 0) if call.name == "writev" else _recv_with(m, d, n, 0)


def _msg(m: Machine, call: Call) -> Trial:
    fd, message, flag = _count(call, 3)
    d, flags = _fd(m, fd), _int(flag)
    if not isinstance(message, Record):
        raise TypeError("a message ({msg_name(...)=..., msg_iov(N)=[...], msg_flags=0}) was expected")
    n = _iov_bytes(message.get("msg_iov"))
    if call.name == "recvmsg":
        if message.get("msg_control") is not None:
            raise KeyError("msg_control")
        return _recv_with(m, d, n, flags)
    return _send_with(m, d, _bytes_of(d, Ellipsis_(), n), flags)


# ---- asking and setting ----


def _fcntl(m: Machine, call: Call) -> Trial:
    arguments = _count(call, 2, 3)
    d, command = _fd(m, arguments[0]), _int(arguments[1])

    def attempt() -> int:
        if command == 3:
            return _O_RDWR | (_NONBLOCK if d.nonblocking else 0)
        if command == 4:
            d.nonblocking = bool(_int(arguments[2]) & _NONBLOCK)
        return 0 if command in (1, 2, 4) else -errno.EINVAL

    return Trial(attempt)


def _ioctl(m: Machine, call: Call) -> Trial:
    fd, request, want = _count(call, 3)
    d = _fd(m, fd)
    seen = [0]

    def attempt() -> int:
        rc, seen[0] = m.host.ioctl(d.sock, _int(request))
        return rc

    def check(result: int) -> None:
        if not result and not isinstance(want, Ellipsis_) and _ints(want) != seen:
            raise Mismatch(f"the value is {seen[0]}, the script has {_ints(want)[0]}")

    return Trial(attempt, check=check)


def _option_value(e: Expr, size: int) -> bytes | None:
    if isinstance(e, Items):
        values = _ints(e)
        if size == 1 and len(values) == 1:
            return struct.pack("=B", values[0] & 0xFF)
        return b"".join(struct.pack("=I", v & 0xFFFFFFFF) for v in values)
    if isinstance(e, Text):
        return e.value.encode("latin-1")
    if isinstance(e, Record):
        on, seconds = e.get("onoff"), e.get("linger")
        if on is None or seconds is None:
            raise TypeError("{onoff=N, linger=N} was expected")
        return struct.pack("=ii", number(on), number(seconds))
    return None if number(e) == 0 else struct.pack("=I", number(e) & 0xFFFFFFFF)


def _setsockopt(m: Machine, call: Call) -> Trial:
    fd, level, name, value, size = _count(call, 5)
    d, n = _fd(m, fd), _int(size)
    data = _option_value(value, n)
    if data is not None and len(data) > n:
        data = data[:n]
    return Trial(lambda: m.host.setsockopt(d.sock, _int(level), _int(name), data))


def _getsockopt(m: Machine, call: Call) -> Trial:
    fd, level, name, want, size = _count(call, 5)
    d = _fd(m, fd)
    room = 64 if isinstance(size, Ellipsis_) else _ints(size)[0]
    seen = [b""]

    def attempt() -> int:
        rc, seen[0] = m.host.getsockopt(d.sock, _int(level), _int(name), room)
        return rc

    def check(result: int) -> None:
        if result or isinstance(want, Ellipsis_):
            return
        wanted = _option_value(want, len(seen[0])) or b""
        got = seen[0].rstrip(b"\0") if isinstance(want, Text) else seen[0]
        if wanted != got:
            numbers = [v for (v,) in struct.iter_unpack("=i", got)] if len(got) % 4 == 0 else [got]
            raise Mismatch(
                f"the value is {numbers}, the script has {list(wanted) if len(wanted) % 4 else _show(wanted)}"
            )

    return Trial(attempt, check=check)


def _show(data: bytes) -> list[int]:
    return [v for (v,) in struct.iter_unpack("=i", data)]


def _poll(m: Machine, call: Call) -> Trial:
    fds, _, timeout = _count(call, 3)
    wait = _int(timeout)
    until = None if wait == _TIMEOUT_FOREVER else m.now_us + wait * 1000
    asked: list[tuple[Descriptor | None, int, int]] = []
    for e in fds.items if isinstance(fds, Items) else ():
        if not isinstance(e, Record):
            raise TypeError("{fd=N, events=..., revents=...} was expected")
        fd, events, wanted = (number(e.get(k) or Number(0)) for k in ("fd", "events", "revents"))
        asked.append((m.fds.get(fd), events, wanted))

    found: list[int] = []

    def attempt() -> int:
        found[:] = [m.host.events(d.sock) & (events | 0x18) if d else 0x20 for d, events, _ in asked]
        ready = sum(1 for s in found if s)
        if not ready and until is not None and m.now_us < until:
            m.wake_at(until)
        return ready if ready or (until is not None and m.now_us >= until) else -errno.EAGAIN

    def check(_: int) -> None:
        for i, (seen, (_d, _events, wanted)) in enumerate(zip(found, asked, strict=True)):
            if seen != wanted:
                raise Mismatch(f"revents of number {i} are {seen:#x}, the script has {wanted:#x}")

    return Trial(attempt, False, check=check)


CALLS: dict[str, Callable[[Machine, Call], Trial]] = {
    "socket": _socket, "bind": _bind, "listen": _listen, "accept": _accept, "accept4": _accept, "connect": _connect,
    "close": _close, "shutdown": _shutdown, "read": _read, "recv": _recv, "recvfrom": _recv, "readv": _iov,
    "recvmsg": _msg, "write": _write, "send": _send, "sendto": _send, "writev": _iov, "sendmsg": _msg,
    "fcntl": _fcntl, "ioctl": _ioctl, "setsockopt": _setsockopt, "getsockopt": _getsockopt, "poll": _poll,
}  # fmt: skip


def prepare(m: Machine, call: Call) -> Trial:
    """The call, ready to be tried. KeyError: a call or constant that is not there. TypeError: an argument of another
    form. Mismatch: a descriptor that is not open, a wrong number of arguments."""
    return CALLS[call.name](m, call)
