"""ARP, neighbour discovery and echo for an address that only we own: a raw port at the other end plays the network."""

import ipaddress
import struct
import time

import pytest

import pybypass as pb
from pybypass import slowpath
from pybypass._wire import internet_checksum

A4, B4 = ipaddress.ip_address("10.0.0.1").packed, ipaddress.ip_address("10.0.0.2").packed
A6, B6 = ipaddress.ip_address("fd00::1").packed, ipaddress.ip_address("fd00::2").packed
B4_IP = ipaddress.ip_address("10.0.0.2")
MAC = bytes.fromhex("020000000042")


@pytest.fixture
def net():
    with pb.open("mem:slow") as port, pb.open("mem:slow") as wire:
        with pb.Engine(port, ip=["10.0.0.1/24", "fd00::1/64"]) as engine:
            yield Net(engine, port, wire)


class Net:
    def __init__(self, engine, port, wire):
        self.engine, self.wire = engine, wire
        self.mac = bytes.fromhex(port.mac.replace(":", ""))

    def send(self, frame):
        with self.wire.alloc_burst(1) as burst:
            burst.write(0, frame)
            self.wire.tx_burst(burst)

    def receive(self, timeout=2.0):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            with self.wire.rx_burst(1) as burst:
                if burst:
                    return bytes(burst.payload(0))
        return None

    def counter(self, name, wanted=1):
        until = time.monotonic() + 2
        while self.engine.slowpath.counters[name] < wanted:
            assert time.monotonic() < until, self.engine.slowpath.counters
            time.sleep(0.001)

    def drop(self, name):
        until = time.monotonic() + 2
        while not self.engine.stats()["drops"].get(name):
            assert time.monotonic() < until, self.engine.stats()["drops"]
            time.sleep(0.001)


def arp(op, sha, spa, tha, tpa, dst=b"\xff" * 6):
    return dst + sha + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, op) + sha + spa + tha + tpa


def ip4(proto, payload, src=B4, dst=A4, **over):
    fields = {"version_ihl": 0x45, "total": 20 + len(payload), "frag": 0, "csum": None, **over}
    head = (
        struct.pack(">BBHHHBBH", fields["version_ihl"], 0, fields["total"], 1, fields["frag"], 64, proto, 0) + src + dst
    )
    csum = internet_checksum(head) if fields["csum"] is None else fields["csum"]
    return head[:10] + csum.to_bytes(2, "big") + head[12:] + payload


def eth(net, ethertype, payload, dst=None):
    return (dst or net.mac) + MAC + ethertype.to_bytes(2, "big") + payload


def icmp(kind, body):
    message = bytes([kind, 0, 0, 0]) + body
    return message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]


def icmp6(message, src, dst):
    pseudo = src + dst + struct.pack(">IHBB", len(message), 0, 0, 58)
    message = message[:2] + internet_checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    return struct.pack(">IHBB", 6 << 28, len(message), 58, 255) + src + dst + message


def test_arp_request_is_answered_and_learnt(net):
    net.send(arp(1, MAC, B4, bytes(6), A4))
    assert net.receive() == arp(2, net.mac, A4, MAC, B4, dst=MAC)
    net.counter("learnt")


def test_arp_for_others_and_nonsense_are_not(net):
    net.send(arp(1, MAC, B4, bytes(6), ipaddress.ip_address("10.0.0.77").packed))
    net.send(arp(1, MAC, B4, bytes(6), A4)[:30])
    net.send(arp(9, MAC, B4, bytes(6), A4))
    net.counter("malformed", 2)
    net.send(arp(1, MAC, A4, bytes(6), A4))  # somebody claims our address
    net.counter("address_conflict")
    assert net.receive(0.05) is None
    assert net.engine.slowpath.counters["learnt"] == 0


def test_echo_is_answered(net):
    body = struct.pack(">HH", 7, 1) + b"payload"
    net.send(eth(net, 0x0800, ip4(1, icmp(8, body))))
    answer = net.receive()
    assert answer[:12] == MAC + net.mac
    assert answer[26:34] == A4 + B4
    assert internet_checksum(answer[14:34]) == 0
    assert internet_checksum(answer[34:]) == 0
    assert answer[34] == 0
    assert answer[38:] == body


def test_echo_with_a_wrong_checksum_is_not(net):
    good = icmp(8, struct.pack(">HH", 7, 1) + b"payload")
    net.send(eth(net, 0x0800, ip4(1, good[:-1] + b"!")))
    net.drop("icmp_bad")
    assert net.receive(0.05) is None


def test_echo6_is_answered(net):
    body = struct.pack(">HH", 7, 1) + b"payload"
    net.send(eth(net, 0x86DD, icmp6(bytes([128, 0, 0, 0]) + body, B6, A6)))
    answer = net.receive()
    assert answer[22:54] == A6 + B6
    assert answer[54] == 129
    assert answer[58:] == body


def test_neighbour_solicitation_is_answered(net):
    message = struct.pack(">BBHI", 135, 0, 0, 0) + A6 + b"\x01\x01" + MAC
    group = bytes.fromhex("ff0200000000000000000001ff") + A6[13:]
    net.send(eth(net, 0x86DD, icmp6(message, B6, group), dst=b"\x33\x33" + group[12:]))
    answer = net.receive()
    assert answer[54] == 136
    assert answer[62:78] == A6
    assert answer[78:86] == b"\x02\x01" + net.mac


def test_unknown_neighbour_is_asked_for(net):
    with pytest.raises(TimeoutError):
        net.engine.connect(("10.0.0.2", 80), timeout=0.05)
    assert net.receive() == arp(1, net.mac, A4, bytes(6), B4)
    with pytest.raises(TimeoutError):
        net.engine.connect(("fd00::2", 80), timeout=0.05)
    question = net.receive()
    assert question[54] == 135
    assert question[62:78] == B6


def test_packets_wait_for_their_neighbour(net):
    with pytest.raises(TimeoutError):
        net.engine.connect(("10.0.0.2", 80), timeout=0.02)
    assert net.receive()[12:14] == b"\x08\x06"
    net.send(arp(2, MAC, B4, net.mac, A4, dst=net.mac))
    syn = net.receive()
    assert syn[:14] == MAC + net.mac + b"\x08\x00"
    assert syn[47] & 2


def tcp(flags=2, sport=1000, dport=80, src=B4, dst=A4, offset=5, csum=None, options=b"", data=b""):
    head = struct.pack(">HHIIBBHHH", sport, dport, 1, 0, offset << 4, flags, 1000, 0, 0) + options + data
    pseudo = src + dst + struct.pack(">HH", 6, len(head))
    value = internet_checksum(pseudo + head) if csum is None else csum
    return head[:16] + value.to_bytes(2, "big") + head[18:]


HOSTILE = {
    "l2_short": lambda net: net.mac + MAC,
    "l2_dst": lambda net: eth(net, 0x0800, ip4(6, tcp()), dst=b"\x02\0\0\0\0\x09"),
    "l2_vlan": lambda net: net.mac + MAC + b"\x81\x00\x00\x07\x08\x00" + ip4(6, tcp()),
    "ip_short": lambda net: eth(net, 0x0800, ip4(6, tcp(), total=2000)),
    "ip_version": lambda net: eth(net, 0x0800, ip4(6, tcp(), version_ihl=0x44)),
    "ip_csum": lambda net: eth(net, 0x0800, ip4(6, tcp(), csum=1)),
    "ip_fragment": lambda net: eth(net, 0x0800, ip4(6, tcp(), frag=0x2000)),
    "ip_src": lambda net: eth(net, 0x0800, ip4(6, tcp(), src=b"\xe0\0\0\1")),
    "ip_dst": lambda net: eth(net, 0x0800, ip4(6, tcp(), dst=B4, src=b"\x0a\0\0\x09")),
    "ip_land": lambda net: eth(net, 0x0800, ip4(6, tcp(src=A4), src=A4)),
    "tcp_short": lambda net: eth(net, 0x0800, ip4(6, tcp()[:10])),
    "tcp_offset": lambda net: eth(net, 0x0800, ip4(6, tcp(offset=15))),
    "tcp_csum": lambda net: eth(net, 0x0800, ip4(6, tcp(csum=0xBEEF))),
    "tcp_option": lambda net: eth(net, 0x0800, ip4(6, tcp(offset=6, options=b"\x02\x00\x01\x01"))),
    "tcp_flags": lambda net: eth(net, 0x0800, ip4(6, tcp(flags=0x03))),
    "tcp_port": lambda net: eth(net, 0x0800, ip4(6, tcp(sport=0))),
    "tcp_no_flow": lambda net: eth(net, 0x0800, ip4(6, tcp(flags=4))),
    "icmp_bad": lambda net: eth(net, 0x0800, ip4(1, b"\x03\x03\0\0")),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_hostile_frames_are_counted_by_reason(net, reason):
    net.send(HOSTILE[reason](net))
    net.drop(reason)
    assert net.engine.stats()["connections"] == 0


def test_a_flood_of_exceptions_is_bounded_and_counted(net):
    for _ in range(60):
        with net.wire.alloc_burst(32) as burst:
            for i in range(32):
                burst.write(i, eth(net, 0x88B5, bytes(46)))
            while len(burst):
                net.wire.tx_burst(burst)
                time.sleep(0)
    until = time.monotonic() + 5
    while True:
        stats = net.engine.stats()
        if stats["exceptions"] + stats["drops"].get("exc_full", 0) == 60 * 32:
            break
        assert time.monotonic() < until, stats
        time.sleep(0.01)


# ---- neighbours that a kernel is asked for ----


class Kernel:
    """A port with a kernel behind it that knows some neighbours, and a core that hands out exceptions."""

    threaded = True

    def __init__(self):
        self.knows, self.looked, self.asked, self.waiting, self.set = {}, [], [], [], {}
        self.doubts, self.doubted = [], []
        self.refuses = None

    def exceptions(self):
        waiting, self.waiting = self.waiting[:32], self.waiting[32:]
        doubts, self.doubts = self.doubts, []
        return [("neigh", None, hop) for hop in waiting] + [("doubt", None, hop) for hop in doubts]

    def set_neighbour(self, hop, mac):
        self.set[hop] = mac

    def neighbour_lookup(self, hops):
        self.looked.append(len(hops))
        if self.refuses is not None:
            raise self.refuses
        return {hop: self.knows[hop] for hop in hops if hop in self.knows}

    def neighbour_ask(self, ip):
        if self.refuses is not None:
            raise self.refuses
        self.asked.append(ip)
        return True


    def neighbour_doubt(self, ip):
        self.doubted.append(ip)
        return True


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    kernel.now = 1000.0
    monkeypatch.setattr(slowpath.time, "monotonic", lambda: kernel.now)
    monkeypatch.setattr(slowpath.time, "sleep", lambda s: setattr(kernel, "now", kernel.now + max(s, 1e-6)))
    kernel.path = slowpath.SlowPath(kernel, kernel, bytes(6), [ipaddress.ip_address("10.0.0.1")])
    return kernel


def host(i):
    return (ipaddress.ip_address("10.0.0.0") + i).packed


def test_what_the_kernel_knows_is_not_asked_for(kernel):
    kernel.knows[ipaddress.ip_address("10.0.0.2")] = MAC
    kernel.waiting = [B4]
    kernel.path.run()
    assert (kernel.set, kernel.asked) == ({B4: MAC}, [])
    assert kernel.path.tick() is None


def test_the_kernel_is_told_of_a_doubt_about_what_it_knows(kernel):
    there, nobody = host(1), host(2)
    kernel.knows = {ipaddress.ip_address(there): MAC}
    kernel.waiting = [there]
    kernel.path.run()
    kernel.doubts = [nobody, there]
    kernel.path.run()
    assert kernel.doubted == [ipaddress.ip_address(there)]
    assert kernel.path.counters["neighbour_doubted"] == 1
    kernel.doubts = [there]
    kernel.path.run()
    assert len(kernel.doubted) == 1, "many connections lie behind one hop: asked once for all"
    kernel.now += 6
    kernel.doubts = [there]
    kernel.path.run()
    assert len(kernel.doubted) == 2
    assert kernel.path.counters["errors"] == 0


def test_one_look_for_all_that_are_pending_and_one_question_each(kernel):
    kernel.waiting = [host(i) for i in range(10, 22)] * 2
    kernel.path.run()
    assert len(kernel.asked) == 12
    assert kernel.looked == [12]
    assert kernel.path.tick() == pytest.approx(0.001)
    assert kernel.looked == [12]  # not yet
    kernel.knows[ipaddress.ip_address(host(12))] = MAC
    kernel.now += 0.001
    assert 0 < kernel.path.tick() <= 0.02
    assert kernel.looked == [12, 12]
    assert kernel.set == {host(12): MAC}
    while (pause := kernel.path.tick()) is not None:
        kernel.now += pause
    assert kernel.now - 1000 == pytest.approx(0.5, abs=0.03)
    assert kernel.path.counters["unresolved"] == 11
    assert len(kernel.asked) == 12
    kernel.waiting = [host(13)]
    kernel.path.run()
    assert len(kernel.asked) == 13  # those that were given up are asked for again


def test_a_flood_of_spoofed_sources_is_bounded_and_the_newest_are_looked_for(kernel):
    kernel.waiting = [host(i) for i in range(10, 5010)]
    while kernel.waiting:
        kernel.path.run()
    assert len(kernel.path._pending) == 256
    assert len(kernel.path._asked) == 1024
    assert kernel.path.counters["pending_full"] == 5000 - 256
    kernel.knows[ipaddress.ip_address(host(5009))] = MAC
    kernel.now += 0.001
    kernel.path.tick()
    assert kernel.set == {host(5009): MAC}


def test_a_kernel_that_refuses_is_counted(kernel):
    kernel.refuses = OSError(105, "No buffer space available")
    kernel.waiting = [host(i) for i in range(10, 20)]
    kernel.path.run()
    assert kernel.path.counters["ask_failed"] == 10
    assert kernel.path.tick() is None


def test_inline_a_first_answer_is_waited_for_a_moment(kernel):
    kernel.threaded = False
    lookup = kernel.neighbour_lookup
    kernel.neighbour_lookup = lambda hops: {B4_IP: MAC} if kernel.now > 1000.002 else lookup(hops)
    kernel.waiting = [B4]
    kernel.path.run()
    assert kernel.set == {B4: MAC}
    assert kernel.now - 1000 < 0.005
    kernel.neighbour_lookup = lookup
    kernel.waiting = [host(77)]
    kernel.path.run()
    assert kernel.now - 1000 < 0.0101  # five milliseconds at most for one that is not there
    assert kernel.path.tick() is not None


# ---- neighbours and refusals without a kernel ----


def test_a_neighbour_on_the_wire_is_looked_after():
    from pybypass.onwire import OnWire

    wire = OnWire()
    assert wire.next_due() is None
    assert wire.heard(B4, MAC, 0.0) is None
    assert wire.next_due() == 30.0
    assert list(wire.due(29.9)) == []
    for now in (30.0, 31.0, 32.0):
        assert list(wire.due(now)) == [(B4, MAC)], "asked by unicast, a second apart"
        assert list(wire.due(now + 0.9)) == []
    assert list(wire.due(33.0)) == [(B4, None)], "forgotten"
    assert len(wire) == 0
    wire.heard(B4, MAC, 40.0)
    assert list(wire.due(70.0)) == [(B4, MAC)]
    wire.heard(B4, MAC, 70.5)  # it answered
    assert wire.next_due() == 100.5
    room = [wire.heard(host(i), MAC, 71.0 + i) for i in range(1000, 1512)]
    assert room == [None] * 511 + [B4], "the one that was heard of longest ago"
    assert len(wire) == 512


def test_what_gets_no_icmp_error():
    from pybypass._frames import refusal

    def frame(src=B4, dst=A4, to=bytes(6)):
        return to + MAC + b"\x08\x00" + ip4(17, bytes(12), src=src, dst=dst)

    answer = refusal(frame(), bytes(6), False)
    assert answer[34:36] == b"\x03\x03"
    assert answer[42:] == frame()[14:]
    assert internet_checksum(answer[34:]) == 0
    assert refusal(frame(), bytes(6), True)[34:36] == b"\x03\x02"
    for hostile in (
        frame(to=b"\xff" * 6), frame(src=bytes(4)), frame(src=b"\xe0\0\0\1"), frame(src=b"\xff" * 4), frame(dst=b"\xe0\0\0\1"),
        frame(src=A4), frame(src=b"\x7f\0\0\1"), frame()[:20],
    ):  # fmt: skip
        assert refusal(hostile, bytes(6), False) is None
    long = refusal(bytes(6) + MAC + b"\x08\x00" + ip4(17, bytes(1400)), bytes(6), False)
    assert len(long) == 14 + 576
    six = bytes(6) + MAC + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, 12, 17, 64) + B6 + A6 + bytes(12)
    answer = refusal(six, bytes(6), False)
    assert answer[54:56] == b"\x01\x04"
    assert answer[62:] == six[14:]
    assert refusal(six, bytes(6), True)[54:62][4:] == b"\0\0\0\x06"
    assert refusal(six[:14] + six[14:38] + b"\xff" + six[39:], bytes(6), False) is None


def test_udp_to_a_port_with_nobody_is_refused(net):
    net.send(eth(net, 0x0800, ip4(17, struct.pack(">HHHH", 5, 9, 8, 0))))
    answer = net.receive()
    assert answer[34:36] == b"\x03\x03"
    assert answer[26:34] == A4 + B4
    net.counter("unreachable_sent")
