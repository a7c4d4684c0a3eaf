"""The kernel's neighbour table, for ports that have a kernel behind them (rtnetlink(7), <linux/neighbour.h>).

Nothing here waits for a neighbour to answer: ask() has the kernel send its question, lookup() says what it knows by now.
Both are for the calling thread's network namespace, and raise OSError when the kernel refuses.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterator

__all__ = ["IpAddress", "ask", "lookup"]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NUD_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # REACHABLE, STALE, DELAY, PROBE, PERMANENT
_NTF_USE = 0x01
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP, _CREATE_OR_REPLACE = 0x01, 0x04, 0x300, 0x500
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_TIMEOUT_S = 1.0  # the kernel answers at once; this is for a kernel that does not

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, ifindex, state, flags, type
_ATTRIBUTE = struct.Struct("=HH")


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= size <= len(data):
            return
        yield kind, data[_ATTRIBUTE.size : size]
        data = data[(size + 3) & ~3 :]


def _exchange(kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """Sends one request over a socket of its own; the bodies of the answers, up to the end of the dump or the ACK."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as s:
        s.settimeout(_TIMEOUT_S)
        s.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)  # a dump of one interface only
        s.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)
        while True:
            data = s.recv(1 << 17)
            while len(data) >= _HEADER.size:
                size, got, _, _, _ = _HEADER.unpack_from(data)
                if not _HEADER.size <= size <= len(data):
                    raise OSError(errno.EBADMSG, "rtnetlink: a message of no length")
                if got in (_NLMSG_ERROR, _NLMSG_DONE):
                    number = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    if number:
                        raise OSError(number, f"rtnetlink: {os.strerror(number)}")
                    return
                yield data[_HEADER.size : size]
                data = data[(size + 3) & ~3 :]


def _known(ifindex: int, family: int) -> Iterator[tuple[bytes, bytes]]:
    """(address, MAC address) of each usable entry."""
    body = _NEIGHBOUR.pack(family, 0, 0, 0, 0) + _attribute(_NDA_IFINDEX, struct.pack("=i", ifindex))
    for answer in _exchange(_RTM_GETNEIGH, _DUMP, body):
        _, index, state, _, _ = _NEIGHBOUR.unpack_from(answer)
        if index == ifindex and state & _NUD_USABLE:
            found = dict(_attributes(answer[_NEIGHBOUR.size :]))
            if _NDA_DST in found and len(found.get(_NDA_LLADDR, b"")) == 6:
                yield found[_NDA_DST], found[_NDA_LLADDR]


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
    body = _NEIGHBOUR.pack(family, ifindex, 0, _NTF_USE, 0) + _attribute(_NDA_DST, ip.packed)
    for _ in _exchange(_RTM_NEWNEIGH, _ACK | _CREATE_OR_REPLACE, body):
        pass
