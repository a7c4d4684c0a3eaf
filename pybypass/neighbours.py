"""The kernel's neighbour table, for ports that have a kernel behind them (rtnetlink(7), <linux/neighbour.h>).

Nothing here waits for a neighbour to answer: ask() has the kernel send its question, lookup() says what it knows by now.
Both are for the calling thread's network namespace, and raise PybypassError when the kernel refuses.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterator

from ._netlink import ACK, CREATE, DUMP, REPLACE, Netlink, attribute, attributes, u32

__all__ = ["STALE", "IpAddress", "ask", "doubt", "lookup", "neighbour_of"]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NUD_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # REACHABLE, STALE, DELAY, PROBE, PERMANENT
STALE = 0x04
_NUD_DOUBTED = 0x02 | 0x04 | 0x08  # REACHABLE, STALE, DELAY: not PERMANENT, and PROBE is what is asked for
_NUD_PROBE = 0x10
_NTF_USE = 0x01
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, ifindex, state, flags, type


def neighbour_of(body: bytes) -> tuple[int, bytes, bytes | None, int] | None:
    """(ifindex, address, MAC address or None while it is of no use, NUD state) of an RTM_NEWNEIGH or RTM_DELNEIGH."""
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = attributes(body[_NEIGHBOUR.size :])
    if _NDA_DST not in found:
        return None  # a bridge's
    mac = found.get(_NDA_LLADDR, b"")
    return index, found[_NDA_DST], mac if state & _NUD_USABLE and len(mac) == 6 else None, state


def _known(ifindex: int, family: int) -> Iterator[tuple[bytes, bytes]]:
    """(address, MAC address) of each usable entry."""
    body = _NEIGHBOUR.pack(family, 0, 0, 0, 0) + u32(_NDA_IFINDEX, ifindex)
    with Netlink() as route:
        answers = route.request(_RTM_GETNEIGH, body, DUMP)
    for answer in answers:
        found = neighbour_of(answer.body)
        if found is not None and found[0] == ifindex and found[2] is not None:
            yield found[1], found[2]


def lookup(ifindex: int, ips: Collection[IpAddress]) -> dict[IpAddress, bytes]:
    """The MAC addresses of those that the kernel knows now: one dump of the table per family."""
    found: dict[IpAddress, bytes] = {}
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        wanted = {ip.packed: ip for ip in ips if ip.version == version}
        if wanted:
            found.update({wanted[dst]: mac for dst, mac in _known(ifindex, family) if dst in wanted})
    return found


def ask(ifindex: int, ip: IpAddress) -> None:
    """Has the kernel find a neighbour out (RTM_NEWNEIGH with NTF_USE, as `ip neigh ... use`); returns at once."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    body = _NEIGHBOUR.pack(family, ifindex, 0, _NTF_USE, 0) + attribute(_NDA_DST, ip.packed)
    with Netlink() as route:
        route.request(_RTM_NEWNEIGH, body, ACK | CREATE | REPLACE)


def doubt(ifindex: int, ip: IpAddress) -> bool:
    """Has the kernel ask a neighbour that it takes to be there whether that is so (as `ip neigh change ... nud probe`); returns
    at once. Who does not answer is forgotten. False: the kernel does not know it, was told it for good, or asks already."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    which = attribute(_NDA_DST, ip.packed)
    with Netlink() as route:
        try:
            found = route.request(_RTM_GETNEIGH, _NEIGHBOUR.pack(family, ifindex, 0, 0, 0) + which, ACK)
        except OSError as e:
            if e.errno == errno.ENOENT:
                return False
            raise
    entries = [neighbour_of(answer.body) for answer in found]
    if not any(entry is not None and entry[3] & _NUD_DOUBTED for entry in entries):
        return False
    body = _NEIGHBOUR.pack(family, ifindex, _NUD_PROBE, 0, 0) + attribute(_NDA_DST, ip.packed)
    with Netlink() as route:
        route.request(_RTM_NEWNEIGH, body, ACK | REPLACE)
    return True
