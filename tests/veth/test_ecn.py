"""Explicit congestion notification with the kernel: who asks, who agrees (RFC 3168 6.1.1, Linux's tcp_ecn)."""

import socket
import struct
import sys
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import lab as laboratory

sys.path.insert(0, str(Path(__file__).parent))
from support import exchange, kernel_connect, kernel_listener

pytestmark = pytest.mark.root
TCPI_OPT_ECN = 8


@pytest.fixture(scope="module")
def both():
    with laboratory.veth(ipv6=True) as pair:
        yield pair


def kernel_ecn(side, value):
    side.netns.run(lambda: Path("/proc/sys/net/ipv4/tcp_ecn").write_text(str(value), encoding="ascii"))


def agreed(sock):
    """Whether the kernel's socket uses ECN: tcpi_options of its TCP_INFO."""
    return bool(struct.unpack_from("6B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8))[5] & TCPI_OPT_ECN)


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("theirs", [0, 1, 2])
@pytest.mark.parametrize("ours", [0, 1, 2])
def test_both_ways_of_opening(both, ours, theirs, v6):
    lab = both
    kernel_ecn(lab.b, theirs)
    a, b = ((lab.a.ip, lab.b.ip), (lab.a.ip6, lab.b.ip6))[v6]
    config = pb.EngineConfig(ecn=ours, time_wait=0.1)
    with (
        kernel_listener(lab.b, 5000, b) as server, pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port,
        pb.Engine(port, ip=a, config=config) as engine, engine.listen(6000) as listener,
    ):  # fmt: skip
        out = engine.connect((b, 5000), timeout=10)
        peer = server.accept()[0]
        wanted = ours == 1 and theirs != 0  # who opens asks with 1 only; who answers agrees with 1 and 2
        assert (out.info()["ecn"], agreed(peer)) == (wanted, wanted)
        exchange(out, peer, 200_000)
        peer = kernel_connect(lab.b, (a, 6000))
        came = listener.accept(10)
        wanted = theirs == 1 and ours != 0
        assert (came.info()["ecn"], agreed(peer)) == (wanted, wanted)
        exchange(came, peer, 200_000)
        assert came.closed
