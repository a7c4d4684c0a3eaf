"""The other end of a veth pair, in whatever network namespace it is (rtnetlink's link-netnsid, setns(2))."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from . import _netdev, _sys, nic
from ._netdev import Interface
from ._netlink import Netlink, attributes, u32
from .errors import PybypassError
from .nictypes import Nic

__all__ = ["find"]

_RTM_GETNSID = 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_GENERAL = struct.pack("=Bxxx", 0)  # rtgenmsg
_LOOK_MAX = 4096  # processes


def _places() -> Iterator[str]:
    """Where descriptors of network namespaces can be opened: what this process holds, named ones, those of processes."""
    for directory, name in (("/proc/self/fd", ""), ("/run/netns", ""), ("/proc", "ns/net")):
        with suppress(OSError):
            for entry in os.listdir(directory)[:_LOOK_MAX]:
                if directory != "/proc" or entry.isdigit():
                    yield os.path.join(directory, entry, name).rstrip("/")


def _namespaces() -> Iterator[int]:
    """A descriptor of each, once; the caller closes it."""
    known: set[int] = set()
    for place in _places():
        try:
            status = os.stat(place)
            if status.st_ino in known or (place.startswith("/proc") and not os.readlink(place).startswith("net:[")):
                continue
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        known.add(status.st_ino)
        yield fd


def _number(fd: int) -> int | None:
    """The number by which this namespace knows another; None: it has none."""
    with suppress(PybypassError), Netlink() as route:
        answers = route.request(_RTM_GETNSID, _GENERAL + u32(_NETNSA_FD, fd))
        value = attributes(answers[0].body[len(_GENERAL) :]).get(_NETNSA_NSID, b"")
        number = struct.unpack("=i", value)[0] if len(value) == 4 else -1
        return number if number >= 0 else None
    return None


def _look_inside(fd: int, ifindex: int) -> Nic | None:
    """In a thread of its own, which ends there: the caller's does not move."""

    def look() -> Nic | None:
        os.close(_sys.netns_enter(fd))
        return _by_index(ifindex)

    with suppress(OSError), ThreadPoolExecutor(1) as pool:
        return pool.submit(look).result()
    return None


def _by_index(ifindex: int) -> Nic | None:
    for link in _netdev.interfaces():
        if link.ifindex == ifindex:
            return nic.look(link.ifname)
    return None


def find(link: Interface) -> Nic | None:
    """The peer of a veth interface of the calling thread's namespace; None: it is where this process cannot look."""
    if link.link_netnsid is None:
        return _by_index(link.link)
    for fd in _namespaces():
        try:
            if _number(fd) == link.link_netnsid:
                return _look_inside(fd, link.link)
        finally:
            os.close(fd)
    return None
