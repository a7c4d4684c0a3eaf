"""What the kernel has on one interface: addresses, routes, neighbours (rtnetlink(7)). Nothing here waits for anybody.

Raises PybypassError when the kernel refuses; what has no place in an engine's table (routes by other interfaces, of other
tables than main, that are no unicast) is left out.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from . import neighbours
from ._netlink import DUMP, Netlink, attributes, number, text
from .neighbours import IpAddress

__all__ = ["Interface", "KernelSide", "Route", "carrier_of", "route_of", "vlan_index"]

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 1, 4, 5, 6, 9, 15, 18
_IFLA_LINK, _IFLA_LINKINFO, _IFLA_CARRIER = 5, 18, 33
_INFO_KIND, _INFO_DATA, _VLAN_ID = 1, 2, 1
_TABLE_MAIN, _UNICAST = 254, 1
_DEAD = 1  # RTNH_F_DEAD
_IFF_UP = 1
ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, ifindex
ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, ifindex, flags, change
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, ifindex
_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 16}


@dataclass(frozen=True, kw_only=True, order=True)
class Route:
    """`network` by way of `gateway`, or on the link when that is None. `priority`: the kernel's metric, lower is better."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: IpAddress | None
    priority: int = 0


def address_of(body: bytes) -> tuple[int, Interface] | None:
    """(ifindex, address with its prefix) of an RTM_NEWADDR or RTM_DELADDR."""
    family, prefix, _, _, index = ADDRESS.unpack_from(body)
    found = attributes(body[ADDRESS.size :])
    raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if len(raw or b"") != _FAMILIES.get(family):
        return None
    return index, ipaddress.ip_interface(f"{ipaddress.ip_address(raw or b'')}/{prefix}")


def _hops(found: dict[int, bytes], flags: int) -> Iterator[tuple[int, dict[int, bytes]]]:
    """(ifindex, attributes) of each next hop that lives."""
    if _RTA_MULTIPATH not in found:
        if not flags & _DEAD:
            yield number(found.get(_RTA_OIF)), found
        return
    data = found[_RTA_MULTIPATH]
    while len(data) >= _NEXT_HOP.size:
        size, hop_flags, _, index = _NEXT_HOP.unpack_from(data)
        if not _NEXT_HOP.size <= size <= len(data):
            return
        if not hop_flags & _DEAD:
            yield index, attributes(data[_NEXT_HOP.size : size])
        data = data[(size + 3) & ~3 :]


def route_of(body: bytes, ifindex: int) -> Route | None:
    """The route of an RTM_NEWROUTE as far as it goes by that interface: the first of several next hops there."""
    family, prefix, src, _, table, _, _, kind, flags = ROUTE.unpack_from(body)
    found = attributes(body[ROUTE.size :])
    size = _FAMILIES.get(family)
    if size is None or src or kind != _UNICAST or number(found.get(_RTA_TABLE), table) != _TABLE_MAIN:
        return None
    network = ipaddress.ip_network((found.get(_RTA_DST, bytes(size)), prefix))
    if network.is_multicast:
        return None
    for index, hop in _hops(found, flags):
        if index == ifindex:
            raw = hop.get(_RTA_GATEWAY) or hop.get(_RTA_VIA, b"\0\0")[2:]  # struct rtvia: family, address
            gateway = ipaddress.ip_address(raw) if raw else None
            return Route(network=network, gateway=gateway, priority=number(found.get(_RTA_PRIORITY)))
    return None


def carrier_of(body: bytes) -> tuple[int, bool]:
    """(ifindex, up and with a carrier) of an RTM_NEWLINK."""
    _, _, index, flags, _ = LINK.unpack_from(body)
    carrier = attributes(body[LINK.size :]).get(_IFLA_CARRIER, b"\1")
    return index, bool(flags & _IFF_UP and number(carrier))


def vlan_index(links: list[bytes], ifindex: int, vlan: int) -> int | None:
    """The VLAN interface with that id over an interface, among the bodies of RTM_NEWLINK; None: there is none."""
    for body in links:
        found = attributes(body[LINK.size :])
        info = attributes(found.get(_IFLA_LINKINFO, b""))
        if text(info.get(_INFO_KIND)) != "vlan" or number(found.get(_IFLA_LINK)) != ifindex:
            continue
        if number(attributes(info.get(_INFO_DATA, b"")).get(_VLAN_ID)) == vlan:
            return int(LINK.unpack_from(body)[2])
    return None


class KernelSide:
    """The kernel behind one interface. `inside` is entered around each question: the interface's network namespace."""

    def __init__(self, ifindex: int, inside: Callable[[], AbstractContextManager[object]]) -> None:
        self.ifindex = ifindex
        self.inside = inside

    def addresses(self) -> list[Interface]:
        """The interface's addresses with their prefixes."""
        with self.inside(), Netlink() as route:
            answers = route.request(RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, self.ifindex), DUMP)
        found = [address_of(a.body) for a in answers if a.kind == RTM_NEWADDR]
        return [f[1] for f in found if f is not None and f[0] == self.ifindex]

    def routes(self) -> list[Route]:
        """What the main table has by this interface: of several routes to a network the best, longest prefixes first."""
        best: dict[object, Route] = {}
        with self.inside(), Netlink() as netlink:
            for family in _FAMILIES:
                body = ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
                for answer in netlink.request(RTM_GETROUTE, body, DUMP):
                    route = route_of(answer.body, self.ifindex) if answer.kind == RTM_NEWROUTE else None
                    if route is not None and (
                        route.network not in best or route.priority < best[route.network].priority
                    ):
                        best[route.network] = route
        return sorted(best.values(), key=lambda r: (-r.network.prefixlen, r.network.version, r.network.network_address.packed))

    def vlan(self, vlan: int) -> KernelSide | None:
        """That of the VLAN interface with this id over this one."""
        with self.inside(), Netlink() as route:
            answers = route.request(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0), DUMP)
        index = vlan_index([a.body for a in answers if a.kind == RTM_NEWLINK], self.ifindex, vlan)
        return KernelSide(index, self.inside) if index is not None else None

    def neighbour_lookup(self, hops: Collection[IpAddress]) -> dict[IpAddress, bytes]:
        """The MAC addresses of those neighbours that the kernel knows now."""
        with self.inside():
            return neighbours.lookup(self.ifindex, hops)

    def neighbour_ask(self, ip: IpAddress) -> bool:
        """Has the kernel find a neighbour out, without waiting for it; True."""
        with self.inside():
            neighbours.ask(self.ifindex, ip)
        return True

    def neighbour_doubt(self, ip: IpAddress) -> bool:
        """Has the kernel look whether a neighbour is there still, without waiting; whether it does."""
        with self.inside():
            return neighbours.doubt(self.ifindex, ip)
