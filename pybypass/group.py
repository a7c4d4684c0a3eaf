"""Several cores on one port: an engine on each queue, behind one face.

    >>> with pb.open("xdp:eth1?queue=0-3") as port, pb.EngineGroup(port, cpus=[2, 3, 4, 5]) as group:
    ...     listener = group.listen(80)
    ...     connection = listener.accept()

The NIC's hash decides which engine a connection belongs to; the engines share nothing on the way of a packet. One that comes
to an engine which does not have its connection (the table was changed, the driver hashes by other fields than ours, an ICMP
error is hashed by addresses alone) is handed to the one that has, by a ring from each engine to each other: counted as
`stray_out` and `stray_in`, or dropped as "stray" when the ring is full. With queues of one Umem no byte is copied.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _engine
from ._group import MEMBERS_MAX, Group
from .accept import Policy
from .closing import Closing
from .engineconfig import EngineConfig
from .errors import PybypassError, connection_error
from .ports import Port
from .sockets import Connection, Listener
from .tcp import Engine
from .worker import Worker

__all__ = ["EngineGroup", "GroupListener"]

log = logging.getLogger("pybypass.slowpath")

# Of one engine or queue, not of all together.
_NOT_SUMMED = frozenset({"index", "member"})


def merged(each: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sums of counters, dicts of counters included."""
    total: dict[str, Any] = {}
    for one in each:
        for name, value in one.items():
            if isinstance(value, dict):
                total[name] = merged([total.get(name, {}), value])
            elif name not in _NOT_SUMMED:
                total[name] = total.get(name, 0) + value
    return total


class GroupListener(Closing):
    """A listening socket of each engine; comes from EngineGroup.listen()."""

    def __init__(self, group: EngineGroup, listeners: Sequence[Listener]) -> None:
        self.group = group
        self.listeners = tuple(listeners)
        self._timeout: float | None = None
        self._next = 0

    @property
    def closed(self) -> bool:
        return all(one.closed for one in self.listeners)

    def settimeout(self, timeout: float | None) -> None:
        """Seconds that accept() waits; None: for ever; 0: not at all (NotNow)."""
        for one in self.listeners:
            one.settimeout(timeout)
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def getsockname(self) -> tuple[str, int]:
        return self.listeners[0].getsockname()

    def accept(self, timeout: float | None = -1.0) -> Connection:
        """The next connection of any engine (Connection.engine says which), in turn where several wait. `timeout`: as
        settimeout() unless given. NotNow, TimedOut."""
        limit = self._timeout if timeout is not None and timeout < 0 else timeout
        found = self.group._shared.wait(self._look, limit)
        if found is None:
            raise connection_error(errno.EAGAIN if limit == 0 else errno.ETIMEDOUT, "accept")
        return found

    def _look(self) -> Connection | None:
        n = len(self.listeners)
        if self.closed:
            raise connection_error(errno.EBADF, "closed")
        for k in range(n):
            one = self.listeners[(self._next + k) % n]
            try:
                if one.closed or not one._core.poll(one._number()) & _engine.ACCEPT:
                    continue
                found = one.accept(0.0)
            except BlockingIOError:
                continue  # somebody else was faster
            except PybypassError:
                if one.closed or one.engine.closed:
                    continue  # just now; the others go on
                raise
            self._next = (self._next + k + 1) % n
            return found
        return None

    def close(self) -> None:
        """Closes all of them; connections that were not accepted are reset. Again does nothing."""
        for one in self.listeners:
            one.close()
        self.group._shared.wake()

    def __repr__(self) -> str:
        return f"<GroupListener of {len(self.listeners)}: {self.listeners[0]!r}>"


class EngineGroup(Closing):
    """An Engine on each queue of a port, each with a thread of its own, and one thread for the slow path of all.

    `cpus`: a CPU for each queue, pinned; by default the threads are unpinned. Or `workers`: a Worker for each. `ip`, `gw`,
    `spin_us`, `vlan` and `config` are those of Engine; limits such as max_connections are of each engine. `engines` gives
    the engines, which can be used by themselves as well: `group.engines[2].connect(...)`.

    Raises PybypassError as Engine does, and PB040 when `cpus` or `workers` are not as many as the queues.
    """

    def __init__(
        self,
        port: Port,
        *,
        ip: str | Iterable[str] | None = None,
        gw: str | Iterable[str] | None = None,
        cpus: Sequence[int] | None = None,
        workers: Sequence[Worker] | None = None,
        spin_us: float = 50.0,
        vlan: int = 0,
        config: EngineConfig | None = None,
    ) -> None:
        self.port = port
        n = len(port.queues)
        if cpus is not None and workers is not None:
            raise PybypassError.make("PB040", errno.EINVAL, "cpus and workers: one of them")
        where: Sequence[int | None] = cpus if cpus is not None else [None] * n
        threads = list(workers) if workers is not None else [Worker(cpu=c) for c in where]
        if len(threads) != n or n > MEMBERS_MAX:
            raise PybypassError.make(
                "PB040", errno.EINVAL, f"{len(threads)} threads for {n} queues", hint=f"one for each, at most {MEMBERS_MAX}"
            )
        addresses = [ip] if isinstance(ip, str) else list(ip) if ip is not None else None
        gateways = [gw] if isinstance(gw, str) else list(gw) if gw is not None else None
        self.config = (config if config is not None else EngineConfig()).resolved(port)
        self._shared = Group(n, n * self.config.max_connections)
        self._engines: list[Engine] = []
        self._turn = itertools.count()
        self._closing = False
        self._thread: threading.Thread | None = None
        try:
            for i, worker in enumerate(threads):
                self._engines.append(
                    Engine(
                        port, queue=i, ip=addresses, gw=gateways, worker=worker, spin_us=spin_us, vlan=vlan,
                        config=config, _member=(self._shared, i),
                    )
                )  # fmt: skip
        except BaseException:
            self._close(0.0, force=True)
            raise
        port._children.insert(0, self)  # closed before its engines
        self._thread = threading.Thread(target=self._serve, name="pybypass-slowpath", daemon=True)
        self._thread.start()

    # ---- the slow path of all ----

    def _serve(self) -> None:
        pause = 0.0
        while not self._closing:
            self._shared.wait(self._exceptions, pause, slow=True)
            pause = 0.2
            for engine in self._engines:
                try:
                    due = engine._serve_once(0.0)
                except PybypassError:
                    continue  # closed, or its device is gone; the others go on
                except Exception:
                    log.exception("slow path of %r", engine)
                    continue
                pause = pause if due is None else min(pause, due)

    def _exceptions(self) -> bool | None:
        if self._closing:
            return True
        for engine in self._engines:
            try:
                if engine._core.wait(_engine.WAIT_SLOWPATH, 0, 0.0):
                    return True
            except PybypassError:
                continue
        return None

    # ---- what is known of it ----

    @property
    def engines(self) -> tuple[Engine, ...]:
        """One for each of Port.queues, in their order."""
        return tuple(self._engines)

    @property
    def flows(self) -> int:
        """Connections of all engines, TIME_WAIT included."""
        return int(self._shared.flows)

    @property
    def closed(self) -> bool:
        return all(engine.closed for engine in self._engines)

    def stats(self) -> dict[str, Any]:
        """The sums of Engine.stats() over the engines that are open, and under `engines` those of each, with `queue`, the
        number among Port.queues. `stray_out` and `stray_in` are packets that engines handed to each other; what of them was
        lost is under `drops` as "stray". PB043 when all are closed."""
        each = [(i, e.stats()) for i, e in enumerate(self._engines) if not e.closed]
        if not each:
            raise PybypassError.make("PB043", errno.EBADF)
        return {**merged(s for _, s in each), "engines": [{"queue": i, **s} for i, s in each]}

    # ---- sockets ----

    def listen(
        self, port: int, *, backlog: int = 128, ip: str | None = None, accept: Policy | None = None
    ) -> GroupListener:  # fmt: skip
        """Engine.listen() of each engine; `backlog` is of each. A SYN belongs to the engine that it comes to."""
        found: list[Listener] = []
        try:
            for engine in self._engines:
                found.append(engine.listen(port, backlog=backlog, ip=ip, accept=accept))
        except BaseException:
            for one in found:
                one.close()
            raise
        return GroupListener(self, found)

    def connect(
        self, address: tuple[str, int], *, timeout: float | None = None, source: tuple[str, int] | None = None
    ) -> Connection:  # fmt: skip
        """Engine.connect() of each engine in turn. Where the port shows how it spreads flows, a source port is chosen whose
        answers come to that engine; where it does not, what comes to another one is handed over."""
        engine = self._engines[next(self._turn) % len(self._engines)]
        return engine.connect(address, timeout=timeout, source=source)

    def neighbour(self, ip: str, mac: str | None) -> None:
        """Engine.neighbour() of each."""
        for engine in self._engines:
            engine.neighbour(ip, mac)

    # ---- the end ----

    def close(self, *, linger: float = 1.0) -> None:
        """Closes all engines as Engine.close() does; `linger` seconds are for all together. BufferError while views of
        received data are alive; then nothing is closed. Again does nothing."""
        self._close(linger, force=False)

    def _close_after_error(self) -> None:
        self._close(1.0, force=True)

    def _close(self, linger: float, force: bool) -> None:
        views = sum(e._core.live_views for e in self._engines if not e.closed)
        if views and not force:
            raise BufferError(f"{views} views of received data are alive: drop them first")
        until = time.monotonic() + linger
        with contextlib.suppress(PybypassError):  # a device is gone: closing it says so, if it matters
            self._each(lambda engine: engine._say_goodbye())
        try:
            self._each(lambda engine: engine._close(max(0.0, until - time.monotonic()), force))
        finally:
            self._closing = True
            self._shared.wake()
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join()
            if self in self.port._children:
                self.port._children.remove(self)

    def _each(self, what: Callable[[Engine], None]) -> None:
        """Of all engines, even when one fails; the first error is raised at the end."""
        failed: BaseException | None = None
        for engine in self._engines:
            try:
                what(engine)
            except BaseException as e:
                failed = failed or e
        if failed is not None:
            raise failed

    def __repr__(self) -> str:
        how = "closed" if self.closed else f"{len(self._engines)} engines"
        return f"<EngineGroup on {self.port.uri} ({how})>"
