"""TCP over a port: Engine, Listener, Connection. Names and errno semantics are those of `socket`."""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _engine
from ._engine import EngineCore
from .errors import PybypassError, connection_error
from .ports import IpAddress, Port
from .slowpath import SlowPath
from .worker import Worker

__all__ = ["Connection", "Engine", "EngineConfig", "Listener"]

_TCP = 6
# Their data or FIN is not acknowledged yet.
_UNFINISHED = ("SYN_RCVD", "ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "CLOSING", "LAST_ACK")
_EPHEMERAL = (32768, 60999)  # net.ipv4.ip_local_port_range of Linux


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Limits and timers of an engine. Times are seconds, sizes bytes.

    `rcvbuf` is memory that received data may hold per connection, charged by whole frames (RFC 9293 3.8.6; the advertised
    window is less). `sndbuf` is payload queued and not acknowledged. `reserve_frames` is kept from data for the fill ring
    and for control segments. RTO: RFC 6298 with the bounds given. `nagle`: RFC 896; off unless asked for.
    """

    max_connections: int = 1024
    max_listeners: int = 64
    rcvbuf: int = 1 << 20
    sndbuf: int = 1 << 20
    reserve_frames: int = 512
    ttl: int = 64
    timestamps: bool = True
    sack: bool = True
    window_scale: bool = True
    nagle: bool = False
    rto_initial: float = 1.0
    rto_min: float = 0.2
    rto_max: float = 120.0
    delayed_ack: float = 0.04
    time_wait: float = 60.0
    fin_wait2: float = 60.0
    syn_retries: int = 6
    synack_retries: int = 5
    data_retries: int = 15
    keepalive_idle: float = 0.0
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9

    def __post_init__(self) -> None:
        ranges = {
            "max_connections": (1, 1 << 22), "max_listeners": (1, 1 << 16), "rcvbuf": (4096, 1 << 30),
            "sndbuf": (4096, 1 << 30), "reserve_frames": (0, 1 << 22), "ttl": (1, 255), "rto_initial": (1e-6, 3600),
            "rto_min": (1e-6, 3600), "rto_max": (1e-3, 3600), "delayed_ack": (0, 0.5), "time_wait": (0, 3600),
            "fin_wait2": (0, 3600), "syn_retries": (0, 32), "synack_retries": (0, 32), "data_retries": (0, 32),
            "keepalive_idle": (0, 86400 * 365), "keepalive_interval": (1e-3, 86400 * 365), "keepalive_probes": (1, 127),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise PybypassError.make("PB040", errno.EINVAL, f"{name}={value!r} is not {low} to {high}")
        if self.rto_min > self.rto_max:
            raise PybypassError.make("PB040", errno.EINVAL, "rto_min is above rto_max")

    def _for_core(self) -> dict[str, Any]:
        def ns(seconds: float) -> int:
            return round(seconds * 1e9)

        return {
            "max_conns": self.max_connections, "max_listeners": self.max_listeners, "rcvbuf_bytes": self.rcvbuf,
            "sndbuf_bytes": self.sndbuf, "reserve_frames": self.reserve_frames, "ttl": self.ttl,
            "timestamps": self.timestamps, "sack": self.sack, "wscale": self.window_scale, "nagle": self.nagle,
            "rto_initial_ns": ns(self.rto_initial), "rto_min_ns": ns(self.rto_min), "rto_max_ns": ns(self.rto_max),
            "delack_ns": ns(self.delayed_ack), "time_wait_ns": ns(self.time_wait), "fin_wait2_ns": ns(self.fin_wait2),
            "syn_retries": self.syn_retries, "synack_retries": self.synack_retries, "data_retries": self.data_retries,
            "keepalive_idle_ns": ns(self.keepalive_idle), "keepalive_interval_ns": ns(self.keepalive_interval),
            "keepalive_probes": self.keepalive_probes, "secret": os.urandom(16),
        }  # fmt: skip


Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def _interfaces(port: Port, ip: str | Iterable[str] | None) -> list[Interface]:
    """The engine's addresses with their prefixes: given, or completed from the kernel's, or all of the kernel's."""
    kernel = port.local_networks()
    wanted = [ip] if isinstance(ip, str) else list(ip) if ip is not None else None
    if wanted is None:
        if not kernel:
            raise PybypassError.make("PB040", errno.EINVAL, "no address", hint="pass ip='A.B.C.D/N'")
        return kernel
    found: list[Interface] = []
    for text in wanted:
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError as e:
            raise PybypassError.make("PB040", errno.EINVAL, f"ip={text!r}: {e}") from None
        known = next((k for k in kernel or [] if k.ip == interface.ip), None)
        if kernel is not None and known is None:
            raise PybypassError.make("PB041", errno.EADDRNOTAVAIL, str(interface.ip))
        if "/" not in text and known is not None:
            interface = known
        elif "/" not in text:
            raise PybypassError.make("PB040", errno.EINVAL, f"ip={text!r} without a prefix", hint="write A.B.C.D/N")
        found.append(interface)
    return found


class Engine:
    """The TCP engine of a port's queue.

    `ip`: "A.B.C.D/N", or several, or None for all addresses of the interface (xdp). `gw`: gateways, one per family.
    `cpu` or `worker`: a thread of its own (see Worker); by default an unpinned one. `inline=True`: no thread; the calls of
    this engine and its connections run the loop themselves, on the caller's core, and nothing happens between them
    (lowest latency; call poll() when there is nothing else to call). `spin_us`: how long waiting calls spin.

    On `xdp:` the engine shares the interface's address with the kernel: packets of the ports that it uses come here, all
    else stays there. Those ports are held against the kernel by bound sockets until TIME_WAIT is over.

    Raises PybypassError: PB013 (port has an engine), PB040 (configuration), PB041 (address not on the interface).
    """

    def __init__(
        self,
        port: Port,
        *,
        ip: str | Iterable[str] | None = None,
        gw: str | Iterable[str] | None = None,
        cpu: int | None = None,
        worker: Worker | None = None,
        inline: bool = False,
        spin_us: float = 50.0,
        vlan: int = 0,
        config: EngineConfig | None = None,
    ) -> None:
        self.config = config if config is not None else EngineConfig()
        if inline and (cpu is not None or worker is not None):
            raise PybypassError.make("PB040", errno.EINVAL, "inline has no thread: cpu and worker do not go with it")
        if not 0 <= vlan <= 4095:
            raise PybypassError.make("PB040", errno.EINVAL, f"vlan={vlan} is not 0 to 4095")
        self.port = port
        self.interfaces = _interfaces(port, ip)
        gateways = [ipaddress.ip_address(g) for g in ([gw] if isinstance(gw, str) else gw or [])]
        self._worker = None if inline else worker if worker is not None else Worker(cpu=cpu)
        queue = port.queues[0]
        self._core = EngineCore(
            queue,
            [(i.ip.packed, i.network.prefixlen) for i in self.interfaces],
            self.config._for_core(),
            gw4=next((g.packed for g in gateways if g.version == 4), None),
            gw6=next((g.packed for g in gateways if g.version == 6), None),
            vlan=vlan,
            max_socks=self.config.max_connections + self.config.max_listeners + 64,
            slowpath=self._slow,
        )
        self._core.spin_ns = round(spin_us * 1000)
        self.slowpath = SlowPath(self._core, port, queue.mac, [i.ip for i in self.interfaces])
        self._sockets: weakref.WeakSet[_Socket] = weakref.WeakSet()
        self._holds: dict[int, tuple[IpAddress | None, Any]] = {}
        self._users: Counter[int] = Counter()
        self._lock = threading.RLock()
        self._closing = False
        self._thread: threading.Thread | None = None
        port._children.append(self)
        if self._worker is not None:
            self._worker._adopt(self)
            self._start(self._worker)

    def _start(self, worker: Worker) -> None:
        spin = -1 if worker.spin_us is None else round(worker.spin_us * 1000)
        try:
            self._core.start_loop(-1 if worker.cpu is None else worker.cpu, spin)
        except PybypassError:
            self.close()
            raise
        self._thread = threading.Thread(target=self._serve_slow_path, name="pybypass-slowpath", daemon=True)
        self._thread.start()

    def _slow(self) -> None:
        self.slowpath.run()

    def _serve_slow_path(self) -> None:
        while not self._closing:
            try:
                if self._core.wait(_engine.WAIT_SLOWPATH, 0, 0.2):
                    self.slowpath.run()
                self._let_go()
            except PybypassError:
                return

    # ---- what is known of it ----

    @property
    def worker(self) -> Worker | None:
        """The thread that drives it; None when inline."""
        return self._worker

    @property
    def inline(self) -> bool:
        return self._worker is None

    @property
    def pinned(self) -> bool:
        """Whether its loop runs on one CPU only: the worker's, or the calling thread's affinity when inline."""
        if self._worker is not None:
            return self._worker.pinned
        return len(os.sched_getaffinity(0)) == 1

    @property
    def closed(self) -> bool:
        return bool(self._core.closed)

    def stats(self) -> dict[str, Any]:
        """Counters of the loop, the engine and the device; `drops` by reason (pybypass.drop_reasons() explains them)."""
        found: dict[str, Any] = self._core.stats()
        found["slowpath"] = dict(self.slowpath.counters)
        return found

    # ---- ports of the transport kind ----

    def _acquire(self, ip: IpAddress, number: int) -> int:
        """Holds a local TCP port and has its packets steered here; counts the users."""
        with self._lock:
            if number in self._holds:
                self._users[number] += 1
                return number
            number, holder = self.port.hold(ip, number or self._pick(ip))
            try:
                self.port.steer(_TCP, ip, number)
            except BaseException:
                if holder is not None:
                    holder.close()
                raise
            self._holds[number] = (ip, holder)
            self._users[number] = 1
            return number

    def _pick(self, ip: IpAddress) -> int:
        if self.port.local_networks() is not None:
            return 0  # the kernel knows which are free
        low, high = _EPHEMERAL
        start = random.randrange(low, high + 1)
        for i in range(high - low + 1):
            number = low + (start - low + i) % (high - low + 1)
            if number not in self._holds:
                return number
        raise PybypassError.make("PB042", errno.EADDRNOTAVAIL, f"no free local port at {ip}")

    def _release(self, number: int, count: int = 1) -> None:
        with self._lock:
            self._users[number] -= count
            if self._users[number] > 0 or number not in self._holds:
                return
            ip, holder = self._holds.pop(number)
            del self._users[number]
            self.port.unsteer(_TCP, ip, number)
            if holder is not None:
                holder.close()

    def _let_go(self) -> None:
        """Releases the ports whose last connection has left TIME_WAIT."""
        for number, count in self._core.freed_ports():
            self._release(number, count)

    def _local_for(self, remote: IpAddress, local: str | None) -> IpAddress:
        if local is not None:
            return ipaddress.ip_address(local)
        same = [i for i in self.interfaces if i.ip.version == remote.version]
        for i in same:
            if remote in i.network:
                return i.ip
        if not same:
            raise PybypassError.make(
                "PB056", errno.EADDRNOTAVAIL, f"no IPv{remote.version} address to reach {remote} from"
            )
        return same[0].ip

    # ---- sockets ----

    def connect(
        self,
        address: tuple[str, int],
        *,
        timeout: float | None = None,
        source: tuple[str, int] | None = None,
    ) -> Connection:
        """Opens a connection to (ip, port) and waits until it is established.

        `timeout` in seconds, None: until the SYN retries are used up. `source`: local (ip, port), port 0: any.

        Raises ConnectionRefused, TimedOut, PybypassError PB042 (local port in use), PB056 (no route).
        """
        remote = ipaddress.ip_address(address[0])
        ip = self._local_for(remote, source[0] if source else None)
        number = self._acquire(ip, source[1] if source else 0)
        try:
            s = self._core.connect((ip.packed, number), (remote.packed, address[1]))
        except BaseException:
            self._release(number)
            raise
        connection = Connection(self, s)
        try:
            connection._await_open(timeout, f"{address[0]} port {address[1]}")
        except BaseException:
            connection._discard(number)
            raise
        return connection

    def listen(self, port: int, *, backlog: int = 128, ip: str | None = None) -> Listener:
        """Listens at a port of `ip` (default: the first address). PB042 when the port is in use, here or by the kernel."""
        if not 0 < port < 65536:
            raise PybypassError.make("PB040", errno.EINVAL, f"port {port} is not 1 to 65535")
        if not 0 < backlog <= 1 << 20:
            raise PybypassError.make("PB040", errno.EINVAL, f"backlog {backlog} is not 1 to {1 << 20}")
        address = ipaddress.ip_address(ip) if ip is not None else self.interfaces[0].ip
        if port in self._holds:
            raise PybypassError.make("PB042", errno.EADDRINUSE, f"{address} port {port}")
        self._acquire(address, port)
        try:
            s = self._core.listen((address.packed, port), backlog)
            listener = Listener(self, s)
            listener._await_open(5.0, f"{address} port {port}")
        except BaseException:
            self._release(port)
            raise
        return listener

    def poll(self, timeout: float = 0.0) -> None:
        """Inline: runs the loop once, or until something happened, at most `timeout` seconds. Threaded: only waits."""
        self._core.wait(_engine.WAIT_ANY, 0, timeout)
        self._let_go()

    def neighbour(self, ip: str, mac: str | None) -> None:
        """Sets a neighbour's MAC address by hand, or forgets it."""
        raw = bytes.fromhex(mac.replace(":", "")) if mac is not None else None
        self._core.set_neighbour(ipaddress.ip_address(ip).packed, raw)

    # ---- capture ----

    def capture_start(self, nbytes: int = 64 << 20) -> None:
        """Copies every packet of both directions into memory until capture_stop(); it costs a copy per packet."""
        self._core.capture_start(nbytes)

    def capture_stop(self) -> tuple[bytes, int, int]:
        """(records, packets, packets that found no room); pybypass.pcap.write() makes a file of the records."""
        found: tuple[bytes, int, int] = self._core.capture_stop()
        return found

    # ---- the end ----

    def close(self, *, linger: float = 1.0) -> None:
        """Closes listeners and connections, waits up to `linger` seconds until their data and FIN are acknowledged, resets
        what is left, stops the thread, and closes the device. BufferError while views of received data are alive."""
        if self._core.closed:
            return
        if self._core.live_views:
            raise BufferError(f"{self._core.live_views} views of received data are alive: drop them first")
        for s in list(self._sockets):
            s.close()
        try:
            self._drain(time.monotonic() + linger)
        except PybypassError:
            pass  # the device is gone: there is nobody to say goodbye to
        self._closing = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._core.close()
        with self._lock:
            for ip, holder in self._holds.values():
                if holder is not None:
                    holder.close()
                del ip
            self._holds.clear()
        if self in self.port._children:
            self.port._children.remove(self)
        for queue in self.port.queues:
            queue.close()

    def _drain(self, until: float) -> None:
        while time.monotonic() < until:
            states = self._core.stats()["states"]
            if not any(states.get(name) for name in _UNFINISHED):
                break
            self._core.wait(_engine.WAIT_ANY, 0, 0.005)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        addresses = ", ".join(str(i) for i in self.interfaces)
        how = "closed" if self.closed else "inline" if self.inline else repr(self._worker)
        return f"<Engine {addresses} on {self.port.uri} ({how})>"


class _Socket:
    """What a listener and a connection share."""

    def __init__(self, engine: Engine, s: int) -> None:
        self.engine = engine
        self._core = engine._core
        self._s = s
        self._timeout: float | None = None
        engine._sockets.add(self)

    def _await_open(self, timeout: float | None, what: str) -> None:
        mask = self._core.wait(self._s, _engine.CONNECTED | _engine.ERROR | _engine.CLOSED, timeout)
        if not mask:
            raise connection_error(errno.ETIMEDOUT, what)
        if not mask & _engine.CONNECTED:
            raise connection_error(self._core.error(self._s) or errno.ECONNABORTED, what)

    @property
    def closed(self) -> bool:
        return self._s < 0

    def _number(self) -> int:
        if self._s < 0:
            raise connection_error(errno.EBADF, "closed")
        return self._s

    def settimeout(self, timeout: float | None) -> None:
        """Seconds that calls wait; None: for ever; 0: not at all (NotNow)."""
        if timeout is not None and timeout < 0:
            raise ValueError("a timeout is not negative")
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

    def __del__(self) -> None:
        if getattr(self, "_s", -1) >= 0 and not self._core.closed:
            warnings.warn(f"unclosed {type(self).__name__}", ResourceWarning, source=self, stacklevel=2)
            self.close()


class Listener(_Socket):
    """A listening socket; comes from Engine.listen()."""

    def accept(self, timeout: float | None = -1.0) -> Connection:
        """The next connection. `timeout`: as settimeout() unless given. NotNow, TimedOut."""
        core, limit = self._core, self._timeout if timeout is not None and timeout < 0 else timeout
        until = None if limit is None else time.monotonic() + limit
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not core.wait(self._number(), _engine.ACCEPT | _engine.CLOSED, left):
                raise connection_error(errno.EAGAIN if limit == 0 else errno.ETIMEDOUT, "accept")
            self.engine._let_go()
            s = core.accept(self._number())
            core.wait(s, _engine.CONNECTED | _engine.ERROR | _engine.CLOSED, 5.0)
            if core.poll(s) & _engine.CONNECTED:
                break
            core.close_sock(s, False)  # somebody else was faster, or it was reset meanwhile
        self.engine._acquire(ipaddress.ip_address(core.name(s)[0][0]), core.name(s)[0][1])
        return Connection(self.engine, s)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<Listener closed>" if self.closed else "<Listener {}:{}>".format(*self.getsockname())


class Connection(_Socket):
    """An established connection; comes from Engine.connect() or Listener.accept()."""

    def _discard(self, number: int) -> None:
        """After a failed open: the engine lets go of the port by itself if it ever had it."""
        s, self._s = self._s, -1
        self.engine._sockets.discard(self)
        opened = self._core.poll(s) & (_engine.GONE | _engine.CLOSED) == 0 or self._core.error(s) not in (
            errno.EADDRINUSE, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.EINVAL,
        )  # fmt: skip
        self._core.close_sock(s, True)
        if not opened:
            self.engine._release(number)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Queues bytes; returns how many were taken (at least one). BrokenConnection, ConnectionReset, NotNow, TimedOut."""
        taken: int = self._core.send(self._number(), data, self._timeout)
        return taken

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Queues all of the bytes."""
        sent = self._core.send(self._number(), data, self._timeout, True)
        if sent < memoryview(data).nbytes:
            raise connection_error(errno.ETIMEDOUT, f"{sent} bytes were taken")

    def recv_into(self, buffer: bytearray | memoryview | npt.NDArray[Any], nbytes: int = 0) -> int:
        """Copies received bytes into a writable buffer; 0 at the end of the stream."""
        got: int = self._core.recv_into(self._number(), buffer, self._timeout, nbytes)
        return got

    def recv(self, nbytes: int) -> bytes:
        """Up to nbytes; b"" at the end of the stream."""
        buffer = bytearray(nbytes)
        return bytes(memoryview(buffer)[: self.recv_into(buffer)])

    def recv_view(self) -> npt.NDArray[np.uint8] | None:
        """The next piece of received data where the NIC put it, without a copy; None at the end of the stream.

        The frame is pinned, and counts against the receive window, while the array or anything based on it lives.
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
        self._core.set_nagle(self._number(), not on)

    def set_keepalive(self, idle: float, interval: float = 75.0, probes: int = 9) -> None:
        """Probes an idle connection (RFC 9293 3.8.4); idle 0 switches it off. Seconds.

        Peers that follow RFC 5961 (this engine, Linux) answer two probes a second at most: let `interval` be above 0.5.
        """
        self._core.set_keepalive(self._number(), round(idle * 1e9), round(interval * 1e9), probes)

    def info(self) -> dict[str, Any]:
        """state (RFC 9293 name), mss, cwnd, ssthresh, snd_wnd, rcv_wnd, inflight, unsent, unread (bytes), srtt_us,
        rttvar_us, rto_us, min_rtt_us, bytes_sent (retransmissions included), bytes_acked, bytes_received,
        bytes_retransmitted, segs_out, segs_in, retransmits (segments), fast_retransmits (episodes), timeouts,
        dup_acks_in, zero_window_probes, ooo_segs, timestamps, sack, wscale, snd_wscale, rcv_wscale, error (errno)."""
        found: dict[str, Any] = self._core.info(self._number())
        return found

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<Connection closed>"
        return "<Connection {}:{} to {}:{}>".format(*self.getsockname(), *self.getpeername())
