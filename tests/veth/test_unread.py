"""An application that does not read, and a kernel that sends it small messages: what the kernel's own books say of it."""

import contextlib
import socket
import struct
import sys
import time
from pathlib import Path

import pytest

import pybypass as pb

sys.path.insert(0, str(Path(__file__).parent))
from support import eventually

pytestmark = [pytest.mark.root, pytest.mark.alone("the kernel's timers run against the engine's thread")]

TCP_REPAIR = 19
HALF = 524_288
"""Bytes, half of the default receive buffer."""


def tcp_info(sock):
    """Of the kernel's struct tcp_info: what is unacknowledged, was sent again, and the timer in ms."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    words = struct.unpack("24I", raw[8:104])
    return {"unacked": words[4], "rto_ms": words[0] / 1000, "total_retrans": words[23]}


def message(i, size):
    return bytes((i + k) % 251 for k in range(size))


@contextlib.contextmanager
def unread(lab, size, **sysctls):
    """A connection from the kernel whose messages nobody reads: until half of the buffer is full of frames, and the window
    is acknowledged in units of its scale."""
    with (
        pb.open(f"xdp:{lab.a.ifname}?frames=4096", netns=lab.a.netns) as port,
        pb.Engine(port, ip=lab.a.ip) as engine,
        engine.listen(6000) as listener,
    ):
        with lab.b.netns:
            for name, value in sysctls.items():
                Path("/proc/sys/net/ipv4", name).write_text(value)
            theirs = socket.socket()
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        theirs.settimeout(20)
        with theirs:
            theirs.connect((lab.a.ip, 6000))
            ours = listener.accept(5)
            sent = 0
            while sent * size < HALF // 2 * 3 // 2:
                theirs.sendall(message(sent, size))
                sent += 1
                time.sleep(0.0003)
            yield theirs, ours, sent


def read_all(ours, n):
    ours.settimeout(10)
    got = bytearray()
    while len(got) < n:
        part = ours.recv(1 << 16)
        assert part, "the end of the stream, too early"
        got += part
    return bytes(got)


@pytest.mark.parametrize("sack", ["1", "0"])
@pytest.mark.parametrize("size", [601, 100])
def test_a_pause_costs_the_peer_nothing(lab, size, sack):
    """Everything is acknowledged before the kernel's timer comes, and no ACK looks like a duplicate: in one of five rounds at
    least, since a thread that does not get a core for a while is late too."""
    with unread(lab, size, tcp_sack=sack) as (theirs, ours, sent):
        again = []
        while not again or (again[-1] and len(again) < 5):
            before = tcp_info(theirs)["total_retrans"]
            for pause in (0.001, 0.02, 0.3):
                for _ in range(5):
                    theirs.sendall(message(sent, size))
                    sent += 1
                    time.sleep(pause)
            eventually(lambda: not tcp_info(theirs)["unacked"])
            again.append(tcp_info(theirs)["total_retrans"] - before)
        print(size, sack, again, tcp_info(theirs), ours.info()["rcv_wnd"], "bytes of window left")
        assert again[-1] == 0
        assert read_all(ours, sent * size) == b"".join(message(i, size) for i in range(sent))


def test_a_peer_that_is_gone_says_so(lab):
    """Its RST, in answer to data of ours, has the number that our ACK had."""
    with unread(lab, 601) as (theirs, ours, _sent):
        theirs.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        theirs.close()  # without FIN or RST, as a machine that was switched off
        ours.sendall(b"x" * 100)
        eventually(lambda: ours.info()["state"] == "CLOSED")
        assert ours.info()["retransmits"] <= 1
