"""Which frames the XDP program takes, and what it says about them, on a real veth pair."""

import errno
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from xsk_support import (
    GENERIC,
    ICMP,
    ICMP6,
    NATIVE,
    TCP,
    UDP,
    Server,
    check,
    checks,
    eth,
    icmp,
    ip4,
    ip6,
    missing,
    needs_xdp,
    objdir,
    packet_socket,
    pair,
    tcp,
    udp,
)

pytestmark = needs_xdp
if missing() is None:
    from pybypass import lab

__all__ = ["check", "checks", "objdir", "pair"]  # fixtures

# ---- steering ----

OURS = ("10.77.0.2", "10.77.0.1")
OPTIONS = bytes([0x94, 4, 0, 0])  # router alert


def arp_for(ip):
    return b"\0\1\x08\0\6\4\0\1" + bytes(16) + socket.inet_aton(ip)


def nd(kind, target):
    return bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, target)


def cases():
    """(name, frame without marker, redirected?)."""
    data = b"payload"
    quote = ip4(tcp(80, 999), TCP, *OURS)
    quote6 = ip6(tcp(80, 999), TCP, "fd77::2", "fd77::1")
    hop = bytes([TCP, 0, 1, 4, 0, 0, 0, 0])
    e6 = 0x86DD
    return [
        ("tcp4", eth(ip4(tcp(9, 80, data), TCP)), True),
        ("tcp4 other port", eth(ip4(tcp(9, 81, data), TCP)), False),
        ("tcp4 source port", eth(ip4(tcp(80, 9, data), TCP)), False),
        ("tcp4 other address", eth(ip4(tcp(9, 80, data), TCP, dst="10.77.0.3")), False),
        ("tcp4 with options", eth(ip4(tcp(9, 80, data), TCP, options=OPTIONS)), True),
        ("tcp4 in a VLAN", eth(ip4(tcp(9, 80, data), TCP), tags=[(0x8100, 5)]), True),
        ("tcp4 in 802.1ad", eth(ip4(tcp(9, 80, data), TCP), tags=[(0x88A8, 5)]), True),
        ("two tags", eth(ip4(tcp(9, 80, data), TCP), tags=[(0x88A8, 5), (0x8100, 6)]), False),
        ("udp4 on the TCP port", eth(ip4(udp(9, 80, data), UDP)), False),
        ("udp4", eth(ip4(udp(9, 5000, data), UDP)), True),
        ("first fragment", eth(ip4(udp(9, 5000, data), UDP, frag=0x2000)), True),
        ("later fragment", eth(ip4(udp(9, 5000, data), UDP, frag=0x2005)), False),
        ("last fragment", eth(ip4(udp(9, 5000, data), UDP, frag=0x0005)), False),
        ("below the range", eth(ip4(udp(9, 5999, data), UDP)), False),
        ("start of the range", eth(ip4(udp(9, 6000, data), UDP)), True),
        ("end of the range", eth(ip4(udp(9, 6010, data), UDP)), True),
        ("above the range", eth(ip4(udp(9, 6011, data), UDP)), False),
        ("range, other address", eth(ip4(udp(9, 6005, data), UDP, dst="10.77.0.3")), False),
        ("any address", eth(ip4(udp(9, 7000, data), UDP, dst="10.77.0.3")), True),
        ("any address, v6", eth(ip6(udp(9, 7000, data), UDP), e6), True),
        ("whole protocol", eth(ip4(b"\0\0\x08\0" + data, 47)), True),
        ("other protocol", eth(ip4(data, 50)), False),
        ("tcp6", eth(ip6(tcp(9, 80, data), TCP), e6), True),
        ("tcp6 other port", eth(ip6(tcp(9, 81, data), TCP), e6), False),
        ("tcp6 with an extension header", eth(ip6(hop + tcp(9, 80, data), 0), e6), False),
        ("tcp6 in a VLAN", eth(ip6(tcp(9, 80, data), TCP), e6, tags=[(0x8100, 5)]), True),
        ("arp", eth(b"\0\1\x08\0\6\4\0\2" + b"\0" * 20, 0x0806), False),
        ("arp for another", eth(arp_for("10.77.0.8"), 0x0806), False),
        ("arp for an owned address", eth(arp_for("10.77.0.9"), 0x0806), True),
        ("the same in a VLAN", eth(arp_for("10.77.0.9"), 0x0806, tags=[(0x8100, 5)]), True),
        ("arp, cut off", eth(arp_for("10.77.0.9")[:24], 0x0806), False),
        ("owned, udp", eth(ip4(udp(9, 1, data), UDP, dst="10.77.0.9")), True),
        ("owned, later fragment", eth(ip4(udp(9, 1, data), UDP, dst="10.77.0.9", frag=0x0005)), True),
        ("owned, ping", eth(ip4(icmp(8, data), ICMP, dst="10.77.0.9")), True),
        ("owned as source", eth(ip4(udp(9, 1, data), UDP, src="10.77.0.9", dst="10.77.0.2")), False),
        ("owned, v6", eth(ip6(data, 50, dst="fd77::9"), e6), True),
        ("solicitation to the group", eth(ip6(nd(135, "fd77::9"), ICMP6, dst="ff02::1:ff00:9"), e6), True),
        ("of another in the same group", eth(ip6(nd(135, "fd77::1:0:9"), ICMP6, dst="ff02::1:ff00:9"), e6), False),
        ("advertisement to all", eth(ip6(nd(136, "fd77::9"), ICMP6, dst="ff02::1"), e6), True),
        ("of another to all", eth(ip6(nd(136, "fd77::8"), ICMP6, dst="ff02::1"), e6), False),
        ("of another to us", eth(ip6(nd(136, "fd77::8"), ICMP6, dst="fd77::9"), e6), True),
        ("router advertisement", eth(ip6(nd(134, "fd77::9"), ICMP6, dst="ff02::1"), e6), False),
        ("unknown type", eth(data, 0x88B5), False),
        ("ping", eth(ip4(icmp(8, data), ICMP)), False),
        ("unreachable", eth(ip4(icmp(3, quote, 3), ICMP)), True),
        ("fragmentation needed", eth(ip4(icmp(3, quote, 4), ICMP)), True),
        ("time exceeded", eth(ip4(icmp(11, quote), ICMP)), True),
        ("parameter problem", eth(ip4(icmp(12, quote), ICMP)), True),
        ("redirect", eth(ip4(icmp(5, quote), ICMP)), False),
        ("quote with options", eth(ip4(icmp(3, ip4(tcp(80, 9), TCP, *OURS, options=OPTIONS)), ICMP)), True),
        ("quoted 8 bytes only", eth(ip4(icmp(3, quote[:28]), ICMP)), True),
        ("quote of a stranger", eth(ip4(icmp(3, ip4(tcp(81, 9), TCP, *OURS)), ICMP)), False),
        ("quote as destination", eth(ip4(icmp(3, ip4(tcp(9, 80), TCP)), ICMP)), False),
        ("quoted later fragment", eth(ip4(icmp(3, ip4(tcp(80, 9), TCP, *OURS, frag=5)), ICMP)), False),
        ("quote not IP", eth(ip4(icmp(3, b"\0" * 40), ICMP)), False),
        *[(f"icmp6 {t}", eth(ip6(icmp(t, quote6), ICMP6), e6), True) for t in (1, 2, 3, 4)],
        ("icmp6 echo", eth(ip6(icmp(128, quote6), ICMP6), e6), False),
        ("icmp6 quote of a stranger", eth(ip6(icmp(1, ip6(tcp(80, 9), TCP)), ICMP6), e6), False),
    ]


def verdicts(s, a, b):
    """Sends every case with a marker at its end; returns {name: redirected} by where the marker turned up."""
    todo, result = {}, {}
    for i, (name, frame, _) in enumerate(cases()):
        marker = b"#%04d#" % i
        todo[marker] = name
        a.send(frame + marker)
    deadline = time.monotonic() + 60
    while todo and time.monotonic() < deadline:
        seen = [(f["data"], True) for f in s.rx()]
        try:
            seen.append((b.recv(4096), False))
        except BlockingIOError:
            pass
        for data, redirected in seen:
            if (name := todo.pop(data[-6:], None)) is not None:
                result[name] = redirected
    assert not todo, f"vanished: {list(todo.values())}"
    return result


def add_rules(s):
    rules = [
        (TCP, "10.77.0.2", 80), (UDP, "10.77.0.2", 5000), (UDP, "10.77.0.2", 6000, 6010), (UDP, "-", 7000),
        (TCP, "fd77::2", 80), (47, "-", 0, 65535), (0, "10.77.0.9"), (0, "fd77::9"),
    ]  # fmt: skip
    for rule in rules:
        assert s.steer("add", *rule) == 0
    return rules


@pytest.mark.parametrize("mode", [NATIVE, GENERIC])
def test_steering(check, objdir, mode):
    with lab.veth() as v, Server(check, v.b, objdir, mode) as s, packet_socket(v.a) as a, packet_socket(v.b) as b:
        nothing = dict.fromkeys((c[0] for c in cases()), False)
        assert verdicts(s, a, b) == nothing, "no rule, nothing taken"
        rules = add_rules(s)
        want = {name: redirected for name, _, redirected in cases()}
        assert verdicts(s, a, b) == want
        st = s("stats")
        assert st["redirected"] == sum(want.values())
        assert st["icmp_redirected"] == 10
        assert st["meta_failed"] == 0
        for rule in rules:
            assert s.steer("del", *rule) == 0
            assert s.steer("del", *rule) == -errno.ENOENT
        assert verdicts(s, a, b) == nothing
        assert s.steer("add", 0) == 0
        assert all(verdicts(s, a, b).values()), "everything"


def test_rules_are_counted_and_bounded(check, objdir, pair):
    with Server(check, pair.b, objdir) as s:
        for _ in range(2):
            assert s.steer("add", TCP, "10.77.0.2", 80) == 0
            assert s.steer("add", UDP, "10.77.0.2", 1, 9) == 0
        for result in (0, 0, -errno.ENOENT):
            assert s.steer("del", TCP, "10.77.0.2", 80) == result
            assert s.steer("del", UDP, "10.77.0.2", 1, 9) == result
        for i in range(16):
            assert s.steer("add", UDP, "-", 100 * i, 100 * i + 50) == 0
        assert s.steer("add", UDP, "-", 5000, 5001) == -errno.ENOSPC
        assert s.steer("del", UDP, "-", 0, 50) == 0
        assert s.steer("add", UDP, "-", 5000, 5001) == 0
        assert s.steer("add", TCP, "-", 9, 8) == -errno.EINVAL
        assert s.steer("add", 0, "10.77.0.2", 80) == -errno.EINVAL


# ---- metadata ----


def test_metadata_native(check, objdir, pair):
    """veth: the flow's hash by the device, no hardware time, so TAI of the XDP program."""
    with Server(check, pair.b, objdir, NATIVE) as s, packet_socket(pair.a) as a:
        s.steer("add", UDP, "-", 0, 65535)
        for port in (1, 1, 2):
            a.send(eth(ip4(udp(port, 5000, b"x"), UDP)))
        a.send(eth(ip6(udp(3, 5000, b"x"), UDP), 0x86DD))
        f = s.rx(4, 1000)
        assert [x["hash_type"] for x in f] == [4, 4, 4, 5]
        assert f[0]["hash"] == f[1]["hash"] != 0
        assert len({x["hash"] for x in f}) == 3
        for x in f:
            assert x["ts_source"] == 2
            assert 0 <= x["age_ns"] < 20_000_000_000
            assert (x["off"], x["flags"], x["queue"]) == (256, 0, 0)
        assert s("stats")["meta_missing"] == 0


def test_metadata_generic(check, objdir, pair):
    with Server(check, pair.b, objdir, GENERIC) as s, packet_socket(pair.a) as a:
        s.steer("add", UDP, "-", 0, 65535)
        a.send(eth(ip4(udp(1, 5000, b"x"), UDP)))
        (x,) = s.rx(1, 1000)
        assert (x["hash"], x["hash_type"], x["ts_source"]) == (0, 0, 2)
        assert 0 <= x["age_ns"] < 20_000_000_000
        assert s("stats")["meta_missing"] == 0


def test_stripped_vlan_tag(check, objdir, pair):
    """A tag that the sender leaves to the device arrives in the descriptor, not in the frame."""
    argv = [str(check), "vlan", f"if={pair.a.ifname}", "count=123"]
    pusher = pair.a.netns.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert json.loads(pusher.stdout.readline()) == {"ret": 0}
    frame = eth(ip4(udp(1, 5000, b"x"), UDP))
    with Server(check, pair.b, objdir, NATIVE) as s, packet_socket(pair.a) as a:
        s.steer("add", UDP, "-", 5000)
        a.send(frame)
        (x,) = s.rx(1, 1000)
        assert (x["flags"], x["vlan"] & 0xFFF, x["data"]) == (1 << 2, 123, frame)
    pusher.communicate()
