"""Path MTU discovery through a kernel router whose next link is narrower, IPv4 and IPv6; and messages that are forged."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import lab as laboratory
from pybypass.netns import NetNs

sys.path.insert(0, str(Path(__file__).parent))
from support import eventually
from test_engine import frag_needed
from test_follow import run

pytestmark = pytest.mark.root
FAR = {4: "10.88.0.2", 6: "fd88::2"}
NARROW = {4: 1000, 6: 1300}


class Side:
    def __init__(self, netns):
        self.netns = netns


@contextlib.contextmanager
def routed(version):
    """a - router b - c: what b sends to c may be NARROW, while c says that its own end takes 1500."""
    with laboratory.veth(ipv6=True) as pair:
        c = NetNs()
        try:
            far, router = (("10.88.0.2/24", "10.88.0.1/24"), ("fd88::2/64", "fd88::1/64"))[version == 6]
            argv = ["nsenter", f"--net=/proc/self/fd/{pair.b.netns.fd}", "ip", "link", "add", "r0", "type", "veth",
                    "peer", "name", "r1", "netns", f"/proc/self/fd/{c.fd}"]  # fmt: skip
            subprocess.run(argv, pass_fds=[pair.b.netns.fd, c.fd], check=True, capture_output=True)
            nodad = "nodad" if version == 6 else ""
            if version == 6:
                c.run(lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("0", encoding="ascii"))
            run(pair.b, f"addr add {router} dev r0 {nodad}", f"link set r0 mtu {NARROW[version]} up")
            run(Side(c), "link set lo up", f"addr add {far} dev r1 {nodad}", "link set r1 up",
                f"-{version} route add default via {router.partition('/')[0]}")  # fmt: skip
            for knob in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                pair.b.netns.run(lambda k=knob: Path(f"/proc/sys/net/{k}").write_text("1", encoding="ascii"))
            for side in (pair.b, Side(c)):
                side.netns.run(plain, "r0" if side is pair.b else "r1")
            yield pair, c
        finally:
            c.close()


def arrives_whole(ours, theirs, size):
    """Sends so many bytes and the end of the stream; what the kernel's socket reads is that."""
    data, got = os.urandom(size), bytearray()

    def read():
        while piece := theirs.recv(65536):
            got.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    ours.sendall(data)
    ours.shutdown(socket.SHUT_WR)
    thread.join(60)
    assert bytes(got) == data


def plain(ifname):
    for name in ("tx", "tso", "gso", "gro"):
        laboratory.set_offload(ifname, name, False)


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_a_router_says_what_its_next_link_takes(version, owned):
    overhead = (40 if version == 4 else 60) + 12
    with routed(version) as (pair, c):
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with c:
            server = socket.create_server((FAR[version], 5000), family=family)
        near = (pair.b.ip, pair.b.ip6)[version == 6]
        ip = (pair.a.ip, pair.a.ip6)[version == 6]
        if owned:
            ip = ("10.77.0.9/24", "fd77::9/64")[version == 6]
        with (
            server,
            pb.open(f"xdp:{pair.a.ifname}", netns=pair.a.netns) as port,
            pb.Engine(port, ip=ip, gw=near, config=pb.EngineConfig(time_wait=0.1)) as engine,
        ):
            ours = engine.connect((FAR[version], 5000), timeout=10)
            assert ours.info()["mss"] == 1500 - overhead
            theirs = server.accept()[0]
            arrives_whole(ours, theirs, 400_000)
            assert ours.info()["mss"] == NARROW[version] - overhead
            assert engine.stats()["pmtu_updates"] >= 1
            theirs.close()
            ours.close()
            again = engine.connect((FAR[version], 5000), timeout=10)  # the cache knows
            assert again.info()["mss"] == NARROW[version] - overhead
            server.accept()[0].close()
            again.close()


@pytest.mark.parametrize("version", [4, 6])
def test_a_black_hole_is_met_by_smaller_packets(version):
    """RFC 4821: what is too long for the last link vanishes there, and no router says so."""
    narrow, least, base = {4: (1000, 652, 600), 6: (1400, 1280, 600)}[version]  # RFC 8201 4: IPv6 begins with 1280
    overhead = (40 if version == 4 else 60) + 12
    with routed(version) as (pair, c):
        run(pair.b, "link set r0 mtu 1500")
        router = ("10.88.0.1", "fd88::1")[version == 6]
        # The veth's end drops what is longer than its MTU; the route says what its MSS would be otherwise.
        run(Side(c), f"link set r1 mtu {narrow}",
            f"-{version} route replace default via {router} advmss {1460 if version == 4 else 1440}")  # fmt: skip
        with c:
            server = socket.create_server((FAR[version], 5000), family=socket.AF_INET if version == 4 else socket.AF_INET6)
        config = pb.EngineConfig(mtu_probing=1, base_mss=base, rto_min=0.01, time_wait=0.1)
        ip, near = ((pair.a.ip, pair.b.ip), (pair.a.ip6, pair.b.ip6))[version == 6]
        with (
            server,
            pb.open(f"xdp:{pair.a.ifname}", netns=pair.a.netns) as port,
            pb.Engine(port, ip=ip, gw=near, config=config) as engine,
        ):
            ours = engine.connect((FAR[version], 5000), timeout=10)
            assert ours.info()["mss"] == 1500 - overhead  # nobody knows yet
            theirs = server.accept()[0]
            arrives_whole(ours, theirs, 600_000)
            n = engine.stats()["nstat"]
            assert n["TcpExtTCPTimeouts"] >= 3  # it took some to find out
            assert n["TcpExtTCPMTUPSuccess"] >= 1  # and then it went up again,
            assert least - overhead < ours.info()["mss"] <= narrow + 4 - overhead  # but not too far: veth has room for a VLAN tag
            assert engine.stats()["own"]["PmtuUpdates"] == 0
            theirs.close()
            ours.close()


def test_a_forged_message_changes_nothing(lab):
    """RFC 5927 4.1: it quotes a sequence number that is not in flight."""
    with lab.b.netns:
        server = socket.create_server((lab.b.ip, 5000))
    with server, pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port, pb.Engine(port, ip=lab.a.ip) as engine:
        ours = engine.connect((lab.b.ip, 5000), timeout=5)
        theirs = server.accept()[0]
        engine.neighbour(lab.b.ip, "02:00:00:00:00:99")  # so that something stays in flight
        ours.sendall(bytes(3000))
        local = ours.getsockname()[1]
        for seq in (1, 0x7FFFFFFF, 0xFFFFFFFF):
            frag_needed(lab.b, lab.a.ip, 600, lab.a.ip, lab.b.ip, local, 5000, seq)
        eventually(lambda: engine.stats()["drops"].get("icmp_bad", 0) >= 2)
        assert ours.info()["mss"] == 1448
        assert engine.stats()["pmtu_updates"] == 0
        engine.neighbour(lab.b.ip, lab.b.mac)
        theirs.settimeout(10)
        got = 0
        while got < 3000:
            got += len(theirs.recv(65536))
        theirs.close()
        ours.close()
