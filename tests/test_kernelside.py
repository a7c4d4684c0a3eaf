"""What the kernel says of links, routes, addresses and neighbours: messages put together by the layouts of <linux/rtnetlink.h>
and <linux/if_link.h>, so that cases are covered which this kernel does not have (VLAN interfaces)."""

import ipaddress
import socket
import struct

import pytest

from pybypass import kernelside, neighbours
from pybypass._netlink import attribute, nest, u16, u32
from pybypass.follow import bounded
from pybypass.kernelside import Route, address_of, carrier_of, route_of, vlan_index

IF = 7


def link(index, *attrs, flags=1):
    return kernelside.LINK.pack(0, 1, index, flags, 0) + b"".join(attrs)


def vlan_link(index, lower, vlan, kind=b"vlan\0"):
    return link(index, u32(5, lower), nest(18, attribute(1, kind), nest(2, u16(1, vlan), u16(5, 0x0081))))


def test_the_vlan_interface_over_another():
    links = [
        link(IF), vlan_link(20, IF, 99), vlan_link(21, 8, 100), vlan_link(22, IF, 100, b"macvlan\0"), vlan_link(23, IF, 100),
    ]  # fmt: skip
    assert vlan_index(links, IF, 100) == 23
    assert vlan_index(links, IF, 99) == 20
    assert vlan_index(links, IF, 101) is None
    assert vlan_index([link(IF)], IF, 0) is None


def route(dst, prefix, *attrs, family=socket.AF_INET, table=254, kind=1, flags=0):
    body = kernelside.ROUTE.pack(family, prefix, 0, 0, table, 3, 0, kind, flags)
    return body + (attribute(1, socket.inet_pton(family, dst)) if prefix else b"") + b"".join(attrs)


def via(ip, index=IF, family=socket.AF_INET):
    return attribute(5, socket.inet_pton(family, ip)) + u32(4, index)


def hop(index, *attrs, flags=0):
    data = b"".join(attrs)
    return struct.pack("=HBBi", 8 + len(data), flags, 0, index) + data


def of(network, gateway, priority=0):
    gateway = ipaddress.ip_address(gateway) if gateway else None
    return Route(network=ipaddress.ip_network(network), gateway=gateway, priority=priority)


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (route("0.0.0.0", 0, via("10.0.0.1")), of("0.0.0.0/0", "10.0.0.1")),
        (route("10.1.0.0", 16, u32(4, IF)), of("10.1.0.0/16", None)),
        (route("10.1.0.0", 16, u32(4, IF), u32(6, 100)), of("10.1.0.0/16", None, 100)),
        (route("10.1.0.0", 16, via("10.0.0.1", 8)), None),
        (route("10.1.0.0", 16, u32(4, IF), table=255), None),
        (route("10.1.0.0", 16, u32(4, IF), u32(15, 1000), table=0), None),
        (route("10.1.0.0", 16, u32(4, IF), u32(15, 254), table=0), of("10.1.0.0/16", None)),
        (route("10.1.0.0", 16, u32(4, IF), kind=6), None),
        (route("10.1.0.0", 16, via("10.0.0.1"), flags=1), None),
        (
            route("10.1.0.0", 16, attribute(9, hop(8, attribute(5, b"\x0a\0\0\x05")) + hop(IF, attribute(5, b"\x0a\0\0\x06")))),
            of("10.1.0.0/16", "10.0.0.6"),
        ),
        (
            route("10.1.0.0", 16, attribute(9, hop(IF, attribute(5, b"\x0a\0\0\x05"), flags=1) + hop(IF))),
            of("10.1.0.0/16", None),
        ),
        (
            route("10.1.0.0", 16, u32(4, IF), attribute(18, struct.pack("=H", 10) + socket.inet_pton(socket.AF_INET6, "fe80::1"))),
            of("10.1.0.0/16", "fe80::1"),
        ),
        (route("::", 0, via("fe80::1", family=socket.AF_INET6), family=socket.AF_INET6), of("::/0", "fe80::1")),
        (route("ff00::", 8, u32(4, IF), family=socket.AF_INET6), None),
        (route("0.0.0.0", 0, u32(4, IF), family=7), None),
    ],
)  # fmt: skip
def test_routes(body, want):
    assert route_of(body, IF) == want


def test_links_addresses_and_neighbours():
    assert carrier_of(link(IF, attribute(33, b"\1"))) == (IF, True)
    assert carrier_of(link(IF, attribute(33, b"\0"))) == (IF, False)
    assert carrier_of(link(IF, attribute(33, b"\1"), flags=0)) == (IF, False)
    head = kernelside.ADDRESS.pack(socket.AF_INET, 24, 0, 0, IF)
    own, other = attribute(2, b"\x0a\0\0\1"), attribute(1, b"\x0a\0\0\2")
    assert address_of(head + other + own) == (IF, ipaddress.ip_interface("10.0.0.1/24"))  # point to point: the local one
    assert address_of(head + other) == (IF, ipaddress.ip_interface("10.0.0.2/24"))
    assert address_of(head) is None

    def neighbour(state, *attrs):
        return neighbours.neighbour_of(struct.pack("=BxxxiHBB", 2, IF, state, 0, 0) + b"".join(attrs))

    dst, mac = attribute(1, b"\x0a\0\0\2"), attribute(2, b"\2\0\0\0\0\2")
    assert neighbour(2, dst, mac) == (IF, b"\x0a\0\0\2", b"\2\0\0\0\0\2", 2)
    assert neighbour(neighbours.STALE, dst, mac)[2:] == (b"\2\0\0\0\0\2", 4)
    assert neighbour(0x20, dst, mac)[2] is None  # FAILED
    assert neighbour(1, dst)[2] is None  # INCOMPLETE
    assert neighbour(2, mac) is None


def test_more_routes_than_an_engine_has_room_for():
    many = [of(f"10.{i}.0.0/16", "10.0.0.1") for i in range(100)]
    default = [of("0.0.0.0/0", "10.0.0.1"), of("::/0", "fe80::1")]
    kept = bounded(many + default)
    assert kept == many[:62] + default
