"""TCP over a port: Engine, Listener, Connection. Names and errno semantics are those of `socket`."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _engine
from ._engine import EngineCore
from ._port import Queue
from .accept import Policy
from .ccrecord import TRACE_DTYPE
from .closing import Closing
from .engineconfig import EngineConfig, interfaces_of, largest_mtu
from .errors import PybypassError
from .follow import Watcher
from .holds import Holds
from .kernelside import KernelSide
from .kerneltap import KernelTap
from .ports import IpAddress, Port
from .slowpath import SlowPath
from .sockets import Connection, Listener, Socket
from .worker import Worker

__all__ = ["Connection", "Engine", "EngineConfig", "Listener"]

# Their data or FIN is not acknowledged yet.
_UNFINISHED = ("SYN_RCVD", "ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "CLOSING", "LAST_ACK")


_PORT_TRIES = 256
"""Sixteen sockets share a queue at most: one of so many source ports misses its own with a chance of 7e-8."""


def _queue_of(port: Port | Queue, number: int) -> tuple[Port, Queue]:
    """The port and the queue of it that an engine is for."""
    if isinstance(port, Queue):
        owner = port.port
        if owner is None:
            raise PybypassError.make("PB012", errno.EBADF, "the port of this queue is gone")
        return owner, port
    if not 0 <= number < len(port.queues):
        raise PybypassError.make(
            "PB040", errno.EINVAL, f"queue={number}", hint=f"the port has {len(port.queues)}: see Port.queues"
        )
    return port, port.queues[number]


class Engine(Closing):
    """The TCP engine of one queue: `port` is a Queue, or a Port, of which it takes Port.queues[`queue`]. Several engines
    may have one queue each; the NIC's rules, or the port's software RSS, say which flow comes to which, and connect() takes
    a source port whose answers come to its own socket of a queue.

    `ip`: "A.B.C.D/N", or several, or None for all addresses of the interface (xdp). `gw`: gateways, one per family.
    `cpu` or `worker`: a thread of its own (see Worker); by default an unpinned one. `inline=True`: no thread; the calls of
    this engine and its connections run the loop themselves, on the caller's core, and nothing happens between them
    (lowest latency; call poll() when there is nothing else to call). `spin_us`: how long waiting calls spin.

    On `xdp:` the engine shares the interface's address with the kernel: packets of the ports that it uses come here, all
    else stays there. Those ports are held against the kernel by bound sockets until TIME_WAIT is over, or the engine closed.
    `vlan`: what is sent and taken has that tag; the addresses, routes and neighbours of the kernel are those of its VLAN
    interface with that id, and where it has none, every address is the engine's alone. Cards that take tags out of frames
    without telling (igb), or filter VLANs that no interface has, are refused (PB083, PB084): the hint says what to set.
    An address given with its prefix that the interface does not have is the engine's alone (`owned`): all that is for it
    comes here, and the engine announces it, answers ARP, neighbour discovery and echo for it, refuses what nobody handles,
    and finds neighbours by itself; after close() nobody answers for it any more. Inline that happens while calls are made.

    `kernel_tap`: on a port without a kernel behind it (dpdk, mem), the name of a tap interface to make: packets for other
    addresses than the engine's, and those to its own that no TCP is, go to the kernel there, and what the kernel sends there
    goes out of the port, untouched. Give the interface its addresses with `ip addr add`. It goes with the engine.

    Raises PybypassError: PB013 (port has an engine), PB040 (configuration), PB041 (address not on the interface),
    PB083 and PB084 (the card and its VLANs).
    """

    def __init__(
        self,
        port: Port | Queue,
        *,
        queue: int = 0,
        ip: str | Iterable[str] | None = None,
        gw: str | Iterable[str] | None = None,
        cpu: int | None = None,
        worker: Worker | None = None,
        inline: bool = False,
        spin_us: float = 50.0,
        vlan: int = 0,
        config: EngineConfig | None = None,
        kernel_tap: str | None = None,
        _member: tuple[Any, int] | None = None,
    ) -> None:
        port, taken = _queue_of(port, queue)
        self.config = (config if config is not None else EngineConfig()).resolved(port)
        if inline and (cpu is not None or worker is not None):
            raise PybypassError.make("PB040", errno.EINVAL, "inline has no thread: cpu and worker do not go with it")
        if not 0 <= vlan <= 4095:
            raise PybypassError.make("PB040", errno.EINVAL, f"vlan={vlan} is not 0 to 4095")
        if vlan:
            port.check_vlan(vlan)
        self.port = port
        self.interfaces, self.owned = interfaces_of(port, ip, vlan)
        if not 0 <= spin_us <= 1e9:
            raise PybypassError.make("PB040", errno.EINVAL, f"spin_us={spin_us!r} is not 0 to 1e9")
        try:
            gateways = [ipaddress.ip_address(g) for g in ([gw] if isinstance(gw, str) else gw or [])]
        except ValueError as e:
            raise PybypassError.make("PB040", errno.EINVAL, f"gw={gw!r}: {e}") from None
        self._worker = None if inline else worker if worker is not None else Worker(cpu=cpu)
        self._queue = taken
        self._core = EngineCore(
            taken,
            [(i.ip.packed, i.network.prefixlen) for i in self.interfaces],
            {**self.config.for_core(), "mtu": largest_mtu(port)},
            gw4=next((g.packed for g in gateways if g.version == 4), None),
            gw6=next((g.packed for g in gateways if g.version == 6), None),
            vlan=vlan,
            max_socks=self.config.max_connections + self.config.max_listeners + 64,
            slowpath=self._slow,
            group=_member[0] if _member is not None else None,
            member=_member[1] if _member is not None else 0,
        )
        self._core.spin_ns = round(spin_us * 1000)
        side = port.side(vlan) if port.kind == "xdp" else port
        self.slowpath = SlowPath(
            self._core, side, taken.mac, [i.ip for i in self.interfaces], vlan, owned=self.owned, siblings=self._siblings
        )
        self._kernel_tap: KernelTap | None = None
        self._sockets: weakref.WeakSet[Socket] = weakref.WeakSet()
        self._holds = Holds(port)
        self._lock = threading.Lock()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._ours: list[IpAddress] = []
        kernel = [i.ip for i in self.interfaces if i not in self.owned]
        self._watcher = (
            Watcher(side, self._core, self.slowpath, kernel) if isinstance(side, KernelSide) else None
        )
        port._children.append(self)
        try:
            self._take_addresses()
            if self._worker is not None:
                self._worker._adopt(self)
                self._start(self._worker, alone=_member is None)
            if self._watcher is not None:
                port.follow(self._watcher)
            if self.owned:
                self.slowpath.announce()
            if kernel_tap is not None:
                self._open_tap(kernel_tap)
        except PybypassError:
            self.close()
            raise

    def _open_tap(self, name: str) -> None:
        if self.port.local_networks() is not None:
            raise PybypassError.make(
                "PB040", errno.EINVAL, f"kernel_tap={name!r} on {self.port.uri}",
                hint="the kernel has that interface itself, and all that no engine asks for",
            )  # fmt: skip
        tap = KernelTap(name, self._queue.mac, self.port.mtu, self.slowpath._send, self.port.netns)
        self._kernel_tap = self.slowpath.kernel = tap
        self._core.hand_over(True)

    def _start(self, worker: Worker, alone: bool) -> None:
        spin = -1 if worker.spin_us is None else round(worker.spin_us * 1000)
        self._core.start_loop(-1 if worker.cpu is None else worker.cpu, spin)
        if not alone:  # the group has one thread for all
            return
        self._thread = threading.Thread(target=self._serve_slow_path, name="pybypass-slowpath", daemon=True)
        self._thread.start()

    def _take_addresses(self) -> None:
        for interface in self.owned:
            self.port.own(interface.ip)
            self._ours.append(interface.ip)

    def _siblings(self) -> list[SlowPath]:
        others = [e for e in list(self.port._children) if isinstance(e, Engine) and e is not self]
        return [e.slowpath for e in others if not e.closed]

    def _slow(self) -> None:
        self.slowpath.run()
        self.slowpath.tick()

    def _serve_slow_path(self) -> None:
        pause: float | None = None
        while not self._closing:
            try:
                pause = self._serve_once(0.2 if pause is None else min(pause, 0.2))
            except PybypassError:
                return

    def _serve_once(self, timeout: float) -> float | None:
        """Serves exceptions that come within `timeout` seconds; how long until something is due, None: for ever."""
        if self._core.wait(_engine.WAIT_SLOWPATH, 0, timeout):
            self.slowpath.run()
        pause = self.slowpath.tick()
        self._let_go()
        return pause

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
        """Counters of the loop, the engine and the device; `drops` by reason (pybypass.drop_reasons() explains them).

        `nstat`: the engine's by the names of Linux's nstat, counted where Linux counts them; `own`: what nstat has no
        counter for (csrc/tcp/counters.h says what each counts). segs_out and segs_in are all segments.
        """
        found: dict[str, Any] = self._core.stats()
        found["slowpath"] = dict(self.slowpath.counters)
        if self._kernel_tap is not None:
            found["kernel_tap"] = dict(self._kernel_tap.counters)
        return found

    def _let_go(self) -> None:
        """Releases the ports whose last connection has left TIME_WAIT."""
        self._holds.release_all(self._core.freed())

    def _local_for(self, remote: IpAddress, local: str | None) -> IpAddress:
        if local is not None:
            return self._present(ipaddress.ip_address(local))
        same = [i for i in self.interfaces if i.ip.version == remote.version]
        same.sort(key=lambda i: i.ip.is_link_local and not remote.is_link_local)
        for i in same:
            if remote in i.network:
                return self._present(i.ip)
        if not same:
            raise PybypassError.make(
                "PB056", errno.EADDRNOTAVAIL, f"no IPv{remote.version} address to reach {remote} from"
            )
        return self._present(same[0].ip)

    def _present(self, ip: IpAddress) -> IpAddress:
        """PB080 for an address that was taken from the interface since."""
        if self._watcher is not None and ip in self._watcher.removed:
            raise PybypassError.make("PB080", errno.EADDRNOTAVAIL, str(ip))
        return ip

    def _acquire_for(self, local: IpAddress, number: int, remote: tuple[IpAddress, int]) -> tuple[IpAddress, int]:
        """A local port whose answers come to this engine's socket of the queue; the one asked for, wherever they go."""
        refused: list[tuple[IpAddress, int]] = []
        try:
            key = self._holds.acquire(local, number)
            while not number and len(refused) < _PORT_TRIES and not self.port.reaches(self._queue, remote, key):
                refused.append(key)
                key = self._holds.acquire(local, 0)
            return key
        finally:
            for other in refused:
                self._holds.release(other)

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
        if any(remote == i.ip for i in self.interfaces):
            raise PybypassError.make("PB056", errno.EADDRNOTAVAIL, f"{remote} is this engine's own address")
        self._let_go()
        local = self._local_for(remote, source[0] if source else None)
        key = self._acquire_for(local, source[1] if source else 0, (remote, address[1]))
        try:
            s = self._core.connect((key[0].packed, key[1]), (remote.packed, address[1]))
        except BaseException:
            self._holds.release(key)
            raise
        connection = Connection(self, s)
        connection._await_open(timeout, f"{address[0]} port {address[1]}", key)
        return connection

    def listen(
        self, port: int, *, backlog: int = 128, ip: str | None = None, accept: Policy | None = None
    ) -> Listener:  # fmt: skip
        """Listens at a port of `ip` (default: the first address). PB042 when the port is in use, here or by the kernel.

        `accept` is called with a Request for each SYN before it is answered, in the slow path's thread (inline: inside of
        the caller's next call): true accepts, false refuses with RST. An exception refuses too; it is logged once and
        counted (stats()["slowpath"]["accept_errors"]). While it runs, other exceptions of the engine wait.
        """
        if not 0 < port < 65536:
            raise PybypassError.make("PB040", errno.EINVAL, f"port {port} is not 1 to 65535")
        if not 0 < backlog <= 1 << 20:
            raise PybypassError.make("PB040", errno.EINVAL, f"backlog {backlog} is not 1 to {1 << 20}")
        address = ipaddress.ip_address(ip) if ip is not None else self.interfaces[0].ip
        if not any(address == i.ip for i in self.interfaces):
            raise PybypassError.make("PB041", errno.EADDRNOTAVAIL, f"{address} is not an address of this engine")
        self._let_go()
        key = self._holds.acquire(self._present(address), port)
        try:
            if accept is not None:
                self.slowpath.policies.add(address, port, accept)
            s = self._core.listen((address.packed, port), backlog, accept is not None)
        except BaseException:
            self.slowpath.policies.remove(address, port)
            self._holds.release(key)
            raise
        listener = Listener(self, s)
        listener._await_open(5.0, f"{address} port {port}", key)
        return listener

    def poll(self, timeout: float = 0.0) -> None:
        """Inline: runs the loop once, or until something happened, at most `timeout` seconds. Threaded: only waits."""
        self._core.wait(_engine.WAIT_ANY, 0, timeout)
        self.slowpath.tick()
        self._let_go()

    def neighbour(self, ip: str, mac: str | None) -> None:
        """Sets a neighbour's MAC address by hand, or forgets it."""
        raw = bytes.fromhex(mac.replace(":", "")) if mac is not None else None
        self._core.set_neighbour(ipaddress.ip_address(ip).packed, raw)

    def trace(self, room: int = 65536) -> tuple[npt.NDArray[np.void], int]:
        """What happened to the congestion windows since the last call: (records, how many were lost).

        The records are a structured array of `ccrecord.TRACE_DTYPE`, oldest first, at most `room`: one for each ACK, and for
        each event of `ccrecord.TRACE_EVENTS`; time_ns is the loop's clock (CLOCK_MONOTONIC), conn tells connections apart,
        delivered and lost are bytes since the connection began, rtt_us is this ACK's sample (0: none), ca_state indexes
        `ccrecord.CA_STATES`. Empty unless the configuration has trace=N; the ring keeps the newest N.
        """
        if not 0 < room <= 1 << 24:
            raise ValueError(f"room={room!r} is not from 1 to {1 << 24}")
        raw, lost = self._core.trace(room)
        return np.frombuffer(raw, dtype=TRACE_DTYPE), lost

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
        what is left, stops the thread, and closes the device; calls that other threads are in end with PB043 or PB055.
        BufferError while views of received data are alive. Again does nothing."""
        self._close(linger, force=False)

    def _close_after_error(self) -> None:
        self._close(1.0, force=True)

    def _close(self, linger: float, force: bool) -> None:
        if self._core.live_views and not force and not self._core.closed:
            raise BufferError(f"{self._core.live_views} views of received data are alive: drop them first")
        with self._lock:
            if self._closing or self._core.closed:
                return
            self._closing = True
        if self._watcher is not None:
            self.port.unfollow(self._watcher)
        if self._kernel_tap is not None:
            self._kernel_tap.close()
            self.slowpath.kernel = None
        try:
            self._say_goodbye()
            self._drain(time.monotonic() + linger)
        except PybypassError:
            pass  # the device is gone, or this is a forked child: there is nobody to say goodbye to
        try:
            self._core.close(force)
        except BaseException:
            self._closing = False
            raise
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._holds.close()
        while self._ours:
            with contextlib.suppress(OSError):  # the interface may be gone, and the rule with it
                self.port.disown(self._ours.pop())
        if self in self.port._children:
            self.port._children.remove(self)
        self._queue.close(force)

    def _say_goodbye(self) -> None:
        for s in list(self._sockets):
            s.close()

    def _drain(self, until: float) -> None:
        while time.monotonic() < until:
            states = self._core.stats()["states"]
            if not any(states.get(name) for name in _UNFINISHED):
                break
            self._core.wait(_engine.WAIT_ANY, 0, 0.005)

    def __repr__(self) -> str:
        addresses = ", ".join(str(i) for i in self.interfaces)
        how = "closed" if self.closed else "inline" if self.inline else repr(self._worker)
        return f"<Engine {addresses} on {self.port.uri} ({how})>"
