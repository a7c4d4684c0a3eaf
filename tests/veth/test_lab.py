"""Network namespaces and the veth lab: what they set, and that nothing outlives them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from xsk_support import missing, needs_xdp

pytestmark = needs_xdp
if missing() is None:
    from pybypass import _sys, lab
    from pybypass.netns import NetNs


def namespaces(pid: str = "self") -> set[int]:
    """The numbers of the network namespaces that a process is in or has descriptors of."""
    found = set()
    try:
        found.add(os.stat(f"/proc/{pid}/ns/net").st_ino)
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("net:["):
                found.add(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)
    except OSError:
        pass  # it ended meanwhile
    return found


def held(inode: int) -> bool:
    """Whether any process holds that namespace."""
    return any(inode in namespaces(pid) for pid in os.listdir("/proc") if pid.isdigit())


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---- namespaces ----


def test_entering_moves_one_thread_and_back():
    home = _sys.netns_id()
    with_it, after = [], []
    ns = NetNs()
    fds = open_fds()
    with ns:
        inside = _sys.netns_id()
        assert inside == os.fstat(ns.fd).st_ino != home
        t = threading.Thread(target=lambda: with_it.append(os.stat("/proc/self/ns/net").st_ino))
        t.start()
        t.join()
        with ns, NetNs() as other:
            assert _sys.netns_id() == os.fstat(other.fd).st_ino
            other_inside = _sys.netns_id()
        assert _sys.netns_id() == inside != other_inside
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert _sys.netns_id() == home
    with pytest.raises(KeyError), ns:
        raise KeyError
    assert _sys.netns_id() == home
    assert ns.run(_sys.netns_id) == inside, "in a thread of its own"
    with pytest.raises(ZeroDivisionError):
        ns.run(lambda: 1 // 0)
    assert _sys.netns_id() == home
    assert not after
    del other
    assert open_fds() == fds
    ns.close()
    ns.close()
    with pytest.raises(ValueError), ns:
        pass


def test_descriptor_is_close_on_exec():
    ns = NetNs()
    assert not os.get_inheritable(ns.fd)
    ns.close()


def test_errors_are_oserrors():
    with pytest.raises(OSError) as e:
        _sys.netns_enter(-1)
    assert e.value.errno == 9
    with pytest.raises(OSError):
        _sys.pdeathsig(1000)


def test_popen_runs_inside_and_keeps_its_arguments():
    ns = NetNs()
    p = ns.popen(["readlink", "/proc/self/ns/net"], stdout=subprocess.PIPE, text=True)
    assert p.communicate()[0].strip() == f"net:[{os.fstat(ns.fd).st_ino}]"
    with pytest.raises(FileNotFoundError):
        ns.popen(["/nonexistent/program"])
    assert _sys.netns_id() != os.fstat(ns.fd).st_ino
    ns.close()


# ---- the lab ----


def sysctl(side, path):
    def read():
        return Path(f"/proc/sys/net/{path}").read_text().strip()

    return side.netns.run(read)


def test_settings():
    with lab.veth(queues=2, mtu=1400, ipv6=True) as v:
        for side, other in ((v.a, v.b), (v.b, v.a)):
            out = side.netns.popen(["ip", "-o", "addr"], stdout=subprocess.PIPE, text=True).communicate()[0]
            assert f"{side.ip}/24" in out
            assert f"{side.ip6}/64" in out
            assert "tentative" not in out
            features = side.netns.popen(["ethtool", "-k", side.ifname], stdout=subprocess.PIPE, text=True)
            on = [line for line in features.communicate()[0].splitlines() if line.endswith(": on")]
            for name in ("tx-checksumming", "generic-segmentation-offload", "generic-receive-offload",
                         "\ttx-tcp-segmentation", "\ttx-tcp6-segmentation"):  # fmt: skip
                assert f"{name}: on" not in on
            link = side.netns.popen(["ip", "-d", "link", "show", side.ifname], stdout=subprocess.PIPE, text=True)
            text = link.communicate()[0]
            assert "mtu 1400" in text
            assert "numrxqueues 2" in text
            assert "numtxqueues 2" in text
            assert side.mac in text
            assert "state UP" in text
            assert sysctl(side, "core/txrehash") == "0"
            assert side.netns.run(socket.if_nametoindex, side.ifname) == side.ifindex
            ping = ["ping", "-c1", "-W1", "-q"]
            for address in (other.ip, other.ip6, "127.0.0.1"):
                assert side.netns.popen([*ping, address], stdout=subprocess.DEVNULL).wait() == 0
        assert v.a.ifindex != v.b.ifindex
    with pytest.raises(ValueError):
        _ = v.a


def test_frames_are_as_on_a_cable():
    """A TCP stream larger than the MTU arrives in segments with full checksums, and without IPv6 nothing else does."""
    with lab.veth() as v:
        with v.b.netns:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            server = socket.create_server((v.b.ip, 5000))
        tap.bind((v.b.ifname, 0))
        with v.a.netns:
            client = socket.create_connection((v.b.ip, 5000), timeout=5)
        peer, _ = server.accept()
        client.sendall(b"z" * 20000)
        client.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass
        tap.settimeout(1)
        frames = []
        try:
            while True:
                frames.append(tap.recv(65536))
        except TimeoutError:
            pass
        for s in (tap, server, client, peer):
            s.close()
        assert {f[12:14] for f in frames} <= {b"\x08\x00", b"\x08\x06"}
        full = [f for f in frames if len(f) > 1000]
        assert len(full) >= 13
        assert max(map(len, full)) <= 1514
        for f in full:
            segment = f[34:]
            pseudo = f[26:34] + b"\0\6" + len(segment).to_bytes(2, "big")
            from xsk_support import checksum

            assert checksum(pseudo + segment) == 0


def test_it_is_quick_and_leaves_nothing():
    with lab.veth():
        pass
    before, fds = namespaces(), open_fds()
    start = time.monotonic()
    for _ in range(10):
        with lab.veth() as v:
            assert len(namespaces() - before) == 2
            assert v.a.netns.fd >= 0
    per_lab = (time.monotonic() - start) / 10
    assert per_lab < 5, per_lab  # tens of milliseconds; a second more where it waits for a carrier that it has
    assert namespaces() <= before
    assert open_fds() == fds


def test_an_error_leaves_nothing():
    before, fds = namespaces(), open_fds()
    with pytest.raises(KeyError), lab.veth():
        raise KeyError
    with pytest.raises(Exception, match=r"."):
        lab.veth(names=("same", "a/b")).open()  # the kernel refuses the second name
    assert namespaces() <= before
    assert open_fds() == fds


@pytest.mark.parametrize(
    "arguments",
    [
        {"addresses": ("10.0.0.1/24",)},
        {"addresses": ("x", "y")},
        {"mtu": 10},
        {"queues": 0},
        {"names": ("a" * 16, "b")},
        {"ipv6": ("fd00::1/64",)},
    ],
)
def test_arguments_are_checked_first(arguments):
    before = namespaces()
    with pytest.raises(ValueError):
        lab.veth(**arguments)
    assert namespaces() <= before


KILLED = """
import sys, time
from pybypass import lab
with lab.veth() as v:
    child = v.b.netns.popen(["sleep", "1000"])
    print(v.a.netns.run(lambda: __import__("os").stat("/proc/thread-self/ns/net").st_ino), child.pid, flush=True)
    time.sleep(1000)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_is_left_after_sigkill():
    """Namespaces, interfaces and the children inside go with the process."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True).stdout
    p = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    inode, child = map(int, p.stdout.readline().split())
    assert held(inode)
    p.send_signal(signal.SIGKILL)
    p.wait()
    p.stdout.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (held(inode) or running(child)):
        time.sleep(0.01)
    assert not held(inode)
    assert not running(child)
    assert subprocess.run(["ip", "netns", "list"], capture_output=True, check=True).stdout == names
