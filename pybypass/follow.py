"""What the kernel changes while an engine runs: its neighbours, routes, addresses and links, heard by netlink (rtnetlink(7)).

One thread per port sleeps until there is news. What it follows is read before it listens and again when news were lost
(ENOBUFS), so nothing is missed; routes are read anew as a whole, at most every 50 ms, and replaced at once in the engine.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from . import neighbours
from ._netlink import Message, Netlink
from .errors import PybypassError
from .kernelside import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    Interface,
    KernelSide,
    Route,
    address_of,
    carrier_of,
    route_of,
)
from .neighbours import IpAddress
from .slowpath import SlowPath

__all__ = ["Follower", "Watcher"]

log = logging.getLogger("pybypass.follow")

_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
# RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_GROUPS = (1, 3, 5, 7, 9, 11)
_ROUTES_EVERY_S = 0.05
_MAX_ROUTES = 64


class Core(Protocol):
    """What of EngineCore is wanted here."""

    def set_routes(self, routes: Iterable[tuple[bytes, int, bytes | None]]) -> None: ...


def bounded(routes: list[Route]) -> list[Route]:
    """As many as an engine has room for: the default routes, and the longest prefixes."""
    default = [r for r in routes if not r.network.prefixlen]
    return [r for r in routes if r.network.prefixlen][: _MAX_ROUTES - len(default)] + default


class Watcher:
    """Hands the kernel's news about one interface to one engine. `counters` are those of its slow path: routes_read,
    routes_left_out, address_removed, address_added, link_down, link_up, news_lost.

    An address that is taken from the interface: connections go on as far as the network lets them (the kernel answers for
    it no more), new ones from it are refused (PB080) until it is back.
    """

    def __init__(self, side: KernelSide, core: Core, slowpath: SlowPath, addresses: Iterable[IpAddress]) -> None:
        self.side = side
        self.removed: set[IpAddress] = set()
        self._core = core
        self._slowpath = slowpath
        self._addresses = frozenset(addresses)
        self._routes: list[Route] | None = None
        self._up: bool | None = None
        self._lock = threading.Lock()

    @property
    def counters(self) -> Counter[str]:
        return self._slowpath.counters

    def read_routes(self) -> None:
        """Reads the routes and hands them over if they are others than before."""
        with self._lock:
            routes = self.side.routes()
            self.counters["routes_read"] += 1
            if routes == self._routes:
                return
            kept = bounded(routes)
            self.counters["routes_left_out"] += len(routes) - len(kept)
            self._core.set_routes(
                (r.network.network_address.packed, r.network.prefixlen, r.gateway.packed if r.gateway else None)
                for r in kept
            )
            self._routes = routes

    def concerns(self, message: Message) -> bool:
        """Whether news of a route may change ours: it goes by this interface, or to a network that one of ours goes to."""
        if route_of(message.body, self.side.ifindex) is not None:
            return True
        network = route_of(message.body, -1)
        return network is not None and any(r.network == network.network for r in self._routes or [])

    def address(self, interface: Interface, present: bool) -> None:
        ip = interface.ip
        if ip not in self._addresses or present == (ip not in self.removed):
            return
        if present:
            self.removed.discard(ip)
        else:
            self.removed.add(ip)
        self.counters["address_added" if present else "address_removed"] += 1
        log.warning("%s was %s the interface", ip, "added to" if present else "taken from")

    def link(self, up: bool) -> None:
        if up == self._up:
            return
        before, self._up = self._up, up
        if before is None and up:
            return
        self.counters["link_up" if up else "link_down"] += 1
        if up:
            self._slowpath.kernel_neighbours()
            self._slowpath.announce()

    def neighbour(self, hop: bytes, mac: bytes | None, stale: bool) -> None:
        self._slowpath.kernel_neighbour(hop, mac, stale)

    def resync(self) -> None:
        """News were lost."""
        self.counters["news_lost"] += 1
        self.read_routes()
        present = {i.ip for i in self.side.addresses()}
        for ip in self._addresses:
            self.address(_whole(ip), ip in present)
        self._slowpath.kernel_neighbours()


def _whole(ip: IpAddress) -> Interface:
    import ipaddress

    return ipaddress.ip_interface(ip)


class Follower:
    """The thread that hears the kernel's news for the engines of a port; in the network namespace it is made in."""

    def __init__(self) -> None:
        self._netlink = Netlink(groups=_GROUPS)
        self._watchers: list[Watcher] = []
        self._dirty: set[Watcher] = set()
        self._read_at = 0.0
        self._pid = os.getpid()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="pybypass-follow", daemon=True)
        self._thread.start()

    def add(self, watcher: Watcher) -> None:
        """From now on it is told; then it reads how things are."""
        self._watchers = [*self._watchers, watcher]
        watcher.read_routes()

    def remove(self, watcher: Watcher) -> bool:
        """Whether there are others left. It may be told of one more thing that was on its way."""
        self._watchers = [w for w in self._watchers if w is not watcher]
        return bool(self._watchers)

    def close(self) -> None:
        """Ends the thread. In a forked child there is none, and what wakes it is the parent's too."""
        if os.getpid() != self._pid:
            return
        os.eventfd_write(self._wake, 1)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._netlink.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            while True:
                pause = max(0.0, self._read_at + _ROUTES_EVERY_S - time.monotonic()) if self._dirty else None
                ready = dict(poll.poll(None if pause is None else pause * 1000))
                if self._wake in ready:
                    return
                if ready:
                    self._hear()
                if self._dirty and time.monotonic() >= self._read_at + _ROUTES_EVERY_S:
                    self._read()
        finally:
            self._netlink.close()
            os.close(self._wake)

    def _hear(self) -> None:
        """To the end: after a loss the kernel drops all else, without another word, until the socket is empty. What is read
        anew before that may be out of date."""
        lost = False
        while True:
            try:
                messages = self._netlink.news()
            except PybypassError as e:
                lost = True
                if e.errno == errno.ENOBUFS:
                    continue
                log.warning("netlink: %s", e)
                break
            if not messages:
                break
            for message in messages:
                self._one(message)
        if lost:
            for watcher in self._watchers:
                _tell(watcher.resync)

    def _read(self) -> None:
        self._read_at = time.monotonic()
        dirty, self._dirty = self._dirty, set()
        for watcher in dirty & set(self._watchers):
            _tell(watcher.read_routes)

    def _one(self, message: Message) -> None:
        try:
            self._dispatch(message)
        except (struct.error, ValueError, IndexError) as e:
            log.warning("netlink: a message that makes no sense: %s", e)
        except Exception:  # whatever it was, the next message is to be heard
            log.exception("netlink: a message of kind %d", message.kind)

    def _dispatch(self, message: Message) -> None:
        kind, body = message.kind, message.body
        if kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
            neighbour = neighbours.neighbour_of(body)
            if neighbour is not None:
                index, hop, mac, state = neighbour
                mac = mac if kind == _RTM_NEWNEIGH else None
                for watcher in self._of(index):
                    _tell(watcher.neighbour, hop, mac, state == neighbours.STALE)
        elif kind in (RTM_NEWADDR, RTM_DELADDR):
            address = address_of(body)
            if address is not None:
                for watcher in self._of(address[0]):
                    _tell(watcher.address, address[1], kind == RTM_NEWADDR)
        elif kind in (RTM_NEWLINK, RTM_DELLINK):
            index, up = carrier_of(body)
            for watcher in self._of(index):
                _tell(watcher.link, up and kind == RTM_NEWLINK)
                self._dirty.add(watcher)  # what goes with a link that is set down is not news
        elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
            self._dirty.update(w for w in self._watchers if w.concerns(message))

    def _of(self, index: int) -> list[Watcher]:
        return [w for w in self._watchers if w.side.ifindex == index]


def _tell(what: object, *args: object) -> None:
    """Calls it; an engine that is being closed, or a kernel that refuses, is no reason to stop following."""
    assert callable(what)
    try:
        what(*args)
    except OSError as e:
        log.debug("follow: %s", e)
