"""Diagrams of packets, and the captures that they are drawn from."""

import struct

import pytest

import pybypass as pb
from pybypass import cli, pcap, scriptcapture
from pybypass.errors import PybypassError
from pybypass.scriptdiagram import Arrow, draw
from pybypass.scriptpacket import build_tcp
from pybypass.scripttree import Option, TcpPacket


def test_diagram_marks_what_is_remarkable():
    def arrow(us, right, flags, seq, length, ack, window=100):
        return Arrow(us, right, TcpPacket(right, flags, seq, length, ack, window))

    base, far = 0xFFFFFF00, 5000
    text = draw(
        [
            arrow(0, True, "S", base, 0, 0), arrow(1, False, "S.", far, 0, base + 1), arrow(2, True, ".", base + 1, 0, far + 1),
            arrow(3, True, "P.", base + 1, 100, far + 1), arrow(4, True, "P.", base + 201, 100, far + 1),
            arrow(5, False, ".", far + 1, 0, base + 101), arrow(6, False, ".", far + 1, 0, base + 101),
            arrow(7, True, "P.", base + 101, 100, far + 1), arrow(8, False, ".", far + 1, 0, (base + 301) & 0xFFFFFFFF, 0),
        ],
        "a", "b",
    )  # fmt: skip
    lines = text.splitlines()[1:]
    assert "201:301(100)" in lines[4] and lines[4].endswith("gap before")
    assert lines[6].endswith("duplicate ACK")
    assert lines[7].endswith("again")
    assert lines[8].endswith("window closed")
    assert not lines[3].endswith("again")


@pytest.fixture
def conversation():
    a, b = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    there = TcpPacket(True, "S", 1000, 0, 0, 500, 0, (Option("mss", (1460,)),))
    back = TcpPacket(True, "S.", 9000, 0, 1001, 600)
    return [
        (1_000_000_000, build_tcp(there, a, b, (1111, 80), b"")),
        (1_000_250_000, build_tcp(back, b, a, (80, 1111), b"")),
    ]


def pcap_file(path, packets, link, wrap, order="<", magic=0xA1B23C4D):
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    unit = 1 if magic == 0xA1B23C4D else 1000
    for ns, ip in packets:
        frame = wrap(ip)
        data += struct.pack(order + "IIII", ns // 10**9, ns % 10**9 // unit, len(frame), len(frame)) + frame
    path.write_bytes(data)


ETHER = b"\0" * 12 + b"\x08\x00"
WRAPS = {
    "ethernet": (1, lambda ip: ETHER + ip.ljust(46, b"\0")),
    "vlan": (1, lambda ip: b"\0" * 12 + b"\x81\x00\0\5" + b"\x88\xa8\0\7" + b"\x08\x00" + ip),
    "raw": (101, lambda ip: ip),
    "loopback": (0, lambda ip: b"\2\0\0\0" + ip),
    "cooked": (113, lambda ip: b"\0" * 14 + b"\x08\x00" + ip),
    "cooked2": (276, lambda ip: b"\x08\x00" + b"\0" * 18 + ip),
}


@pytest.mark.parametrize("kind", WRAPS)
@pytest.mark.parametrize(("order", "magic"), [("<", 0xA1B23C4D), (">", 0xA1B2C3D4)])
def test_pcap(tmp_path, conversation, kind, order, magic):
    link, wrap = WRAPS[kind]
    path = tmp_path / "x.pcap"
    pcap_file(path, conversation, link, wrap, order, magic)
    (talk,) = scriptcapture.conversations(str(path))
    assert talk.left == (bytes([10, 0, 0, 1]), 1111)
    assert [(a.time_us, a.rightward) for a in talk.arrows] == [(0, True), (250, False)]


def test_diagram_of_what_the_engine_captured(tmp_path, capsys):
    path = tmp_path / "x.pcapng"
    with pb.open("mem:diagram") as x, pb.open("mem:diagram") as y:
        with pb.Engine(x, ip="10.0.0.1/24") as a, pb.Engine(y, ip="10.0.0.2/24") as b, b.listen(80) as listener:
            a.capture_start(1 << 20)
            with a.connect(("10.0.0.2", 80), timeout=5) as c, listener.accept(5) as s:
                c.sendall(b"x" * 100)
                assert s.recv(1000)
            pcap.write(path, a.capture_stop()[0])
    assert cli.main(["script", "diagram", str(path)]) == 0
    out = capsys.readouterr().out
    assert "10.0.0.2:80" in out.splitlines()[0]
    assert "S 0:0(0)" in out and "S. 0:0(0) ack 1" in out and "1:101(100) ack 1" in out


@pytest.mark.parametrize("cut", [10, 30, 45, 60])
def test_a_capture_that_is_cut_off(tmp_path, conversation, cut):
    path = tmp_path / "x.pcap"
    pcap_file(path, conversation, *WRAPS["raw"])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(PybypassError) as e:
        scriptcapture.conversations(str(path))
    assert e.value.code == "PB103"


def test_no_capture(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"no capture at all")
    assert not scriptcapture.is_capture(path.read_bytes())
    with pytest.raises(PybypassError) as e:
        list(scriptcapture.packets(str(path)))
    assert e.value.code == "PB103"
    with pytest.raises(PybypassError) as e:
        list(scriptcapture.packets(str(tmp_path / "nothing")))
    assert e.value.code == "PB103"


@pytest.mark.parametrize(("hlen", "snap"), [(20, 40), (20, 46), (20, 54), (20, 1500), (40, 60), (40, 66)])
def test_lengths_are_those_of_the_ip_header(tmp_path, hlen, snap):
    """A capture keeps the first bytes of each packet only: 46 bytes are in the middle of the options here."""
    a, b = (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])) if hlen == 20 else (bytes(15) + b"\1", bytes(15) + b"\2")
    stamp = (Option("nop"), Option("nop"), Option("TS", (7, 8)))
    data = build_tcp(TcpPacket(True, "P.", 1001, 1400, 9001, 500, 0, stamp), a, b, (1111, 80), b"x" * 1400)
    more = build_tcp(TcpPacket(True, ".", 2401, 100, 9001, 500, 0, stamp), a, b, (1111, 80), b"x" * 100)
    path = tmp_path / "x.pcap"
    pcap_file(path, [(0, data[:snap]), (1000, more[:snap])], 101, bytes)
    (talk,) = scriptcapture.conversations(str(path))
    one, two = (arrow.packet for arrow in talk.arrows)
    assert (one.length, two.length) == (1400, 100)
    whole = snap >= hlen + 32
    assert one.options == (stamp if whole else None)
    text = draw(talk.arrows, "a", "b")
    assert (
        "P. 1:1401(1400)" in text
        and ". 1401:1501(100)" in text
        and "gap" not in text
        and ("<...>" in text) == (not whole)
    )


def one_packet(tmp_path, where, what):
    """A capture of 700 bytes of data, with a field of the IP header changed."""
    a, b = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    raw = bytearray(build_tcp(TcpPacket(True, ".", 1, 700, 1, 500), a, b, (1111, 80), b"x" * 700))
    raw[where] = what
    path = tmp_path / "x.pcap"
    pcap_file(path, [(0, bytes(raw))], 101, bytes)
    return path


def test_a_length_that_offloads_left_out_is_that_of_the_capture(tmp_path):
    path = one_packet(tmp_path, slice(2, 4), b"\0\0")
    (talk,) = scriptcapture.conversations(str(path))
    assert talk.arrows[0].packet.length == 700


def test_a_later_fragment_is_no_segment(tmp_path):
    path = one_packet(tmp_path, slice(6, 8), b"\0\x10")
    assert scriptcapture.conversations(str(path)) == []
