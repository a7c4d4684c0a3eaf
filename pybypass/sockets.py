"""Listener and Connection: names and errno semantics are those of `socket`."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import time
import warnings
from socket import MSG_EOR, MSG_MORE, SHUT_WR
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _engine
from .closing import Closing
from .errors import PybypassError, connection_error
from .sockoptions import from_core, number_of, to_core

if TYPE_CHECKING:
    from .tcp import Engine

__all__ = ["Connection", "Listener", "Socket"]


Key = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def _send_flags(flags: int) -> int:
    return (_engine.SEND_MORE if flags & MSG_MORE else 0) | (_engine.SEND_EOR if flags & MSG_EOR else 0)


def give_up(engine: Engine, s: int, key: Key) -> None:
    """A socket that nobody got. The engine reports it when it is gone, unless it never had it: then the port is let go here."""
    if engine._core.closed:
        return
    failed = engine._core.poll(s) & _engine.ERROR and not engine._core.opened(s)
    engine._core.close_sock(s, True)
    if failed:
        engine._holds.release(key)


class Socket(Closing):
    """What a listener and a connection share."""

    def __init__(self, engine: Engine, s: int) -> None:
        self.engine = engine
        self._core = engine._core
        self._s = s
        self._timeout: float | None = None
        self._linger = -1.0
        engine._sockets.add(self)

    def _await_open(self, timeout: float | None, what: str, key: Key) -> None:
        """Until the engine has opened it. On failure the socket is given up, and the local port if nobody else will."""
        try:
            mask = self._core.wait(self._s, _engine.CONNECTED | _engine.ERROR | _engine.CLOSED, timeout)
            if not mask:
                raise connection_error(errno.ETIMEDOUT, what)
            if not mask & _engine.CONNECTED:
                raise connection_error(self._core.error(self._s) or errno.ECONNABORTED, what)
        except BaseException:
            s, self._s = self._s, -1
            self.engine._sockets.discard(self)
            give_up(self.engine, s, key)
            raise

    @property
    def closed(self) -> bool:
        return self._s < 0

    def _number(self) -> int:
        if self._s < 0:
            raise connection_error(errno.EBADF, "closed")
        return self._s

    def set_option(self, name: str, value: float) -> None:
        """One of `sockoptions.OPTIONS` by its name: nodelay, cork, user_timeout, linger, pacing_rate, tos and so on.
        Seconds, bytes, or True and False; of a listener: what its connections begin with. PB040 for what does not exist or
        is out of range."""
        self._core.set_option(self._number(), *to_core(name, value))
        if name == "linger":
            self._linger = value

    def get_option(self, name: str) -> float | bool:
        """The value of an option, in its unit."""
        return from_core(name, self._core.get_option(self._number(), number_of(name)))

    def set_congestion(self, name: str) -> None:
        """Another congestion control from now on ("cubic", "reno"); the window stays. PB040: there is none of this name."""
        try:
            self._core.set_congestion(self._number(), name)
        except ValueError as e:
            raise PybypassError.make("PB040", errno.ENOENT, str(e), hint="cubic or reno") from None

    def settimeout(self, timeout: float | None) -> None:
        """Seconds that calls wait; None: for ever; 0: not at all (NotNow)."""
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"a timeout is a number that is not negative, or None, not {timeout!r}")
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def getsockname(self) -> tuple[str, int]:
        ip, port = self._core.name(self._number())[0]
        return str(ipaddress.ip_address(ip)), port

    def close(self) -> None:
        """Gives the socket up; again does nothing."""
        s, self._s = self._s, -1
        self.engine._sockets.discard(self)
        if s >= 0 and not self._core.closed:
            self._core.close_sock(s, False)
            if self.engine.inline and not self.engine._closing:
                self.engine._let_go()

    def __del__(self) -> None:
        if getattr(self, "_s", -1) >= 0 and not self._core.closed:
            warnings.warn(f"unclosed {type(self).__name__}", ResourceWarning, source=self, stacklevel=2)
            self.close()


class Listener(Socket):
    """A listening socket; comes from Engine.listen()."""

    def close(self) -> None:
        """Gives the socket up; connections that were not accepted are reset. Again does nothing."""
        if self._s >= 0 and not self._core.closed:
            ip, port = self.getsockname()
            self.engine.slowpath.policies.remove(ipaddress.ip_address(ip), port)
        super().close()

    def accept(self, timeout: float | None = -1.0) -> Connection:
        """The next connection. `timeout`: as settimeout() unless given. NotNow, TimedOut."""
        core, limit = self._core, self._timeout if timeout is not None and timeout < 0 else timeout
        until = None if limit is None else time.monotonic() + limit
        ip, number = self.getsockname()
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not core.wait(self._number(), _engine.ACCEPT | _engine.CLOSED, left):
                raise connection_error(errno.EAGAIN if limit == 0 else errno.ETIMEDOUT, "accept")
            self.engine._let_go()
            key = self.engine._holds.acquire(
                ipaddress.ip_address(ip), number
            )  # for the connection, before there is one
            try:
                s = core.accept(self._number())
            except BaseException:
                self.engine._holds.release(key)
                raise
            try:
                core.wait(s, _engine.CONNECTED | _engine.ERROR | _engine.CLOSED, 5.0)
                if core.poll(s) & _engine.CONNECTED:
                    return Connection(self.engine, s)
            except BaseException:
                give_up(self.engine, s, key)
                raise
            give_up(self.engine, s, key)  # somebody else was faster, or it was reset meanwhile

    def __repr__(self) -> str:
        return "<Listener closed>" if self.closed else "<Listener {}:{}>".format(*self.getsockname())


class Connection(Socket):
    """An established connection; comes from Engine.connect() or Listener.accept()."""

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Queues bytes; returns how many were taken (at least one). flags: socket.MSG_MORE holds what does not fill a
        segment for up to 200 ms; after MSG_EOR the last byte ends a record: when all was taken, no segment carries it
        together with what is sent later. BrokenConnection, ConnectionReset, NotNow, TimedOut."""
        taken: int = self._core.send(self._number(), data, self._timeout, False, _send_flags(flags))
        return taken

    def sendall(self, data: bytes | bytearray | memoryview, flags: int = 0) -> None:
        """Queues all of the bytes."""
        sent = self._core.send(self._number(), data, self._timeout, True, _send_flags(flags))
        if sent < memoryview(data).nbytes:
            raise connection_error(errno.ETIMEDOUT, f"{sent} bytes were taken")

    def recv_into(self, buffer: bytearray | memoryview | npt.NDArray[Any], nbytes: int = 0) -> int:
        """Copies received bytes into a writable buffer; 0 at the end of the stream."""
        got: int = self._core.recv_into(self._number(), buffer, self._timeout, nbytes)
        return got

    def close(self) -> None:
        """Gives the connection up: what was queued and the FIN are sent on by the engine; unread data, or a linger of 0, resets
        it (RFC 2525 2.17). A linger above 0 waits so many seconds for the peer's ACK first. Again does nothing."""
        if self._linger > 0 and self._s >= 0 and not self._core.closed:
            with contextlib.suppress(OSError):
                self.shutdown(SHUT_WR)
                self.wait_sent(self._linger)
        super().close()

    def recv(self, nbytes: int) -> bytes:
        """Up to nbytes; b"" at the end of the stream."""
        buffer = bytearray(nbytes)
        return bytes(memoryview(buffer)[: self.recv_into(buffer)])

    def recv_view(self) -> npt.NDArray[np.uint8] | None:
        """The next piece of received data where the NIC put it, without a copy; None at the end of the stream.

        The frame is pinned, and counts against the receive window, while the array or anything based on it lives. When
        such arrays hold half of the connection's receive buffer, or the port's frames run short, the piece is a copy in
        ordinary memory instead (its `base` is None), so that what is held for long does not stop the stream.
        """
        view: npt.NDArray[np.uint8] | None = self._core.recv_view(self._number(), self._timeout)
        return view

    def shutdown(self, how: int) -> None:
        """socket.SHUT_RD, SHUT_WR (FIN follows what was queued) or SHUT_RDWR."""
        self._core.shutdown(self._number(), how)

    def abort(self) -> None:
        """Resets the connection."""
        s, self._s = self._s, -1
        self.engine._sockets.discard(self)
        if s >= 0 and not self._core.closed:
            self._core.close_sock(s, True)

    def wait_sent(self, timeout: float | None = None) -> bool:
        """Waits until everything sent was acknowledged; False at the timeout."""
        return bool(self._core.wait(self._number(), _engine.SENT | _engine.CLOSED, timeout))

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Waits until the connection is over in both directions; False at the timeout."""
        return bool(self._core.wait(self._number(), _engine.CLOSED, timeout))

    def getpeername(self) -> tuple[str, int]:
        ip, port = self._core.name(self._number())[1]
        return str(ipaddress.ip_address(ip)), port

    def set_nodelay(self, on: bool) -> None:
        """False: small segments wait for the ACK of the last one (RFC 896)."""
        self.set_option("nodelay", on)

    def set_keepalive(self, idle: float, interval: float = 75.0, probes: int = 9) -> None:
        """Probes an idle connection (RFC 9293 3.8.4); idle 0 switches it off. Seconds.

        Peers that follow RFC 5961 (this engine, Linux) answer two probes a second at most: let `interval` be above 0.5.
        """
        if not 0 <= idle <= 1e9 or not 0 < interval <= 1e9 or not 1 <= probes <= 127:
            raise ValueError(f"keepalive: idle {idle!r}, interval {interval!r}, probes {probes!r} out of range")
        self.set_option("keepalive_probes", probes)
        self.set_option("keepalive_interval", interval)
        self.set_option("keepalive_idle", idle)


    def info(self) -> dict[str, Any]:
        """state (RFC 9293 name), mss, cwnd, ssthresh, snd_wnd, rcv_wnd, inflight, unsent, unread (bytes), srtt_us,
        rttvar_us, rto_us, min_rtt_us, bytes_sent (retransmissions included), bytes_acked, bytes_received,
        bytes_retransmitted, segs_out, segs_in, retransmits (segments), fast_retransmits (episodes), timeouts,
        dup_acks_in, zero_window_probes, ooo_segs, timestamps, sack, wscale, snd_wscale, rcv_wscale, error, soft_error (errno),
        ca_state, congestion (name), ecn, ecn_seen, dsack_seen; and "tcpi": the names and units of Linux's tcp_info
        (tcpi_rtt in us, tcpi_snd_cwnd in segments, tcpi_busy_time in us, tcpi_last_data_sent in ms, ...)."""
        found: dict[str, Any] = self._core.info(self._number())
        return found

    def __repr__(self) -> str:
        if self.closed:
            return "<Connection closed>"
        return "<Connection {}:{} to {}:{}>".format(*self.getsockname(), *self.getpeername())
