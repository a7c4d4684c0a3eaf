"""Netlink: attributes, errors with the kernel's own words, dumps, news, families."""

import errno
import os
import socket
import struct

import pytest

from pybypass import _netlink as nl
from pybypass.errors import NotPermitted, PybypassError

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFLA_IFNAME, IFLA_MTU, IFLA_STATS64, IFLA_LINKINFO = 3, 4, 23, 18
LINK = struct.Struct("=BxHiII")


def links(route):
    found = {}
    for answer in route.request(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0), nl.DUMP):
        assert answer.kind == RTM_NEWLINK
        index = LINK.unpack_from(answer.body)[2]
        found[index] = nl.text(nl.attributes(answer.body[LINK.size :])[IFLA_IFNAME])
    return found


def test_attributes_there_and_back():
    data = nl.u8(1, 200) + nl.u16(2, 60000) + nl.u32(3, 1 << 31) + nl.attribute(4, b"abc\0") + nl.nest(5, nl.u8(1, 7))
    assert len(data) % 4 == 0
    found = nl.attributes(data)
    assert [nl.number(found[kind]) for kind in (1, 2, 3)] == [200, 60000, 1 << 31]
    assert nl.text(found[4]) == "abc"
    assert nl.attributes(found[5]) == {1: b"\x07"}
    assert nl.number(None, 3) == 3 and nl.text(None) == "" and nl.children(None) == []


@pytest.mark.parametrize("data", [b"", b"\x04", b"\x03\0\x01\0", b"\0\0\x01\0", b"\xff\xff\x01\0abcd"])
def test_attributes_of_no_length_end_the_list(data):
    good = nl.u8(9, 1)
    assert nl.attributes(good + data) == {9: b"\x01"}


def test_a_dump_has_every_interface():
    with nl.Netlink() as route:
        assert links(route) == dict(socket.if_nameindex())


def test_a_refusal_is_typed():
    with nl.Netlink() as route, pytest.raises(PybypassError) as caught:
        route.request(RTM_GETLINK, LINK.pack(0, 0, 1 << 30, 0, 0))
    assert (caught.value.code, caught.value.errno) == ("PB020", errno.ENODEV)


@pytest.mark.root
def test_the_kernels_own_words(lab):
    def run():
        with nl.Netlink() as route:
            body = LINK.pack(0, 0, lab.a.ifindex, 0, 0) + nl.u32(IFLA_MTU, 5)
            with pytest.raises(PybypassError) as caught:
                route.request(RTM_SETLINK, body)
            assert (caught.value.code, caught.value.errno) == ("PB070", errno.EINVAL)
            assert caught.value.detail["kernel"] == "mtu less than device minimum"
            assert "mtu less than device minimum" in str(caught.value)
            assert lab.a.ifname in links(route).values()  # the socket goes on

    lab.a.netns.run(run)


WITHOUT_PRIVILEGE = """
import ctypes, struct
assert ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0
from pybypass import _netlink as nl
try:
    with nl.Netlink() as route:
        route.request(19, struct.pack("=BxHiII", 0, 0, 1, 0, 0) + nl.u32(4, 1500))
except PermissionError as e:
    print(e.code)
"""


@pytest.mark.root
def test_not_permitted_is_typed():
    import subprocess
    import sys

    argv = [sys.executable, "-c", WITHOUT_PRIVILEGE]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == "PB025", result
    assert issubclass(NotPermitted, PermissionError)


@pytest.mark.root
def test_news(lab):
    def run():
        with nl.Netlink(groups=(1,)) as news, nl.Netlink() as route:  # RTNLGRP_LINK
            assert news.news() == []
            assert news.news(0.01) == []
            body = LINK.pack(0, 0, lab.a.ifindex, 0, 0) + nl.u32(IFLA_MTU, 1400)
            route.request(RTM_SETLINK, body)
            found = [m for m in news.news(2) if LINK.unpack_from(m.body)[2] == lab.a.ifindex]
            assert found and found[0].kind == RTM_NEWLINK
            assert nl.number(nl.attributes(found[0].body[LINK.size :])[IFLA_MTU]) == 1400
            os.stat(news.fileno())

    lab.a.netns.run(run)


@pytest.mark.root
def test_news_that_were_lost_are_an_error(lab):
    def run():
        with nl.Netlink(groups=(1,)) as news, nl.Netlink() as route:
            news._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            for mtu in range(1400, 1440):
                route.request(RTM_SETLINK, LINK.pack(0, 0, lab.a.ifindex, 0, 0) + nl.u32(IFLA_MTU, mtu))
            with pytest.raises(PybypassError) as caught:
                for _ in range(50):
                    news.news()
            assert (caught.value.code, caught.value.errno) == ("PB073", errno.ENOBUFS)

    lab.a.netns.run(run)


def test_families():
    with nl.Generic("ethtool") as ethtool:
        assert ethtool.id > 16 and 1 in ethtool.commands
        assert ethtool.group("monitor") > 0
        with pytest.raises(PybypassError) as caught:
            ethtool.group("nothing")
        assert caught.value.code == "PB071"
    with pytest.raises(PybypassError) as caught:
        nl.Generic("pybypassless")
    assert (caught.value.code, caught.value.errno) == ("PB071", errno.EOPNOTSUPP)


def test_a_group_that_is_not():
    with nl.Netlink() as route, pytest.raises(PybypassError):
        route.subscribe(100000)
