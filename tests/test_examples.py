"""Every example on mem: and on a veth pair."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
root = pytest.mark.root


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "PYTHONUNBUFFERED": "1"}


def command(name, *args):
    return [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *args]


def run(name, *args):
    return subprocess.run(command(name, *args), capture_output=True, text=True, timeout=60, env=environment())


def start(side, name, *args):
    return side.netns.popen(
        command(name, *args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )


def finish(process):
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    return out


def test_each_is_short_and_tested_here():
    names = sorted(p.name for p in EXAMPLES.glob("*.py"))
    assert names == ["l2_forward.py", "rx_numpy.py", "tcp_echo.py"]
    for name in names:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 100


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tcp_echo.py", "1000 messages echoed"), ("l2_forward.py", "left to right: 10000 frames"),
        ("rx_numpy.py", "60 to 91 bytes"),
    ],
)  # fmt: skip
def test_on_mem(name, says):
    done = run(name)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert not done.stderr


@root
def test_tcp_echo_serves_a_kernel_client(lab):
    server = start(lab.a, "tcp_echo.py", "--dev", f"xdp:{lab.a.ifname}", "--ip", f"{lab.a.ip}/24")
    assert "native copy" in server.stdout.readline()
    with lab.b.netns:
        client = socket.create_connection((lab.a.ip, 7777), timeout=10)
    with client:
        for i in range(100):
            client.sendall(b"hello %d" % i)
            assert client.recv(100) == b"hello %d" % i
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    finish(server)


@root
def test_tcp_echo_is_a_client_of_a_kernel_server(lab):
    with lab.b.netns:
        server = socket.create_server((lab.b.ip, 7777))

    def echo():
        with server.accept()[0] as s:
            while data := s.recv(65536):
                s.sendall(data)

    t = threading.Thread(target=echo)
    t.start()
    client = start(lab.a, "tcp_echo.py", "--dev", f"xdp:{lab.a.ifname}", "--ip", lab.a.ip, "--connect", lab.b.ip)
    out = finish(client)
    t.join()
    server.close()
    assert "1000 messages echoed" in out


def send_udp(side, to, n, until):
    with side.netns, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for i in range(n):
            s.sendto(b"payload %d" % i, to)
            time.sleep(0.001)
            if time.monotonic() > until:
                return


@root
def test_rx_numpy_on_veth(lab):
    process = start(lab.a, "rx_numpy.py", "--dev", f"xdp:{lab.a.ifname}?steer=udp", "--seconds", "3")
    send_udp(lab.b, (lab.a.ip, 4000), 4000, time.monotonic() + 4)
    out = finish(process)
    assert "native copy" in out
    assert "times by xdp" in out
    assert "0x0800" in out


@root
def test_l2_forward_between_two_interfaces():
    """A host, the forwarder, a host: what the kernel sends at one end arrives at the other."""
    from pybypass import lab as laboratory

    with laboratory.veth(("10.77.0.1/24", "10.77.0.2/24"), names=("fa", "fb")) as left:
        # The second pair: one end beside left.a, the other in left.b's place for the far host.
        from pyroute2 import IPRoute

        from pybypass.netns import NetNs

        far = NetNs()
        try:
            with left.a.netns, IPRoute() as ip:
                ip.link("add", ifname="fc", kind="veth", peer={"ifname": "fd", "net_ns_fd": far.fd})
                ip.link("set", index=socket.if_nametoindex("fc"), state="up")
            with far, IPRoute() as ip:
                index = socket.if_nametoindex("fd")
                ip.link("set", index=index, state="up")
                ip.addr("add", index=index, address="10.77.0.3", prefixlen=24)
                for name in ("tx", "tso", "gso", "gro"):
                    laboratory.set_offload("fd", name, False)
            with left.a.netns:
                for name in ("tx", "tso", "gso", "gro"):
                    laboratory.set_offload("fc", name, False)
            process = start(
                left.a, "l2_forward.py", "--dev", "xdp:fa?steer=all", "--dev", "xdp:fc?steer=all", "--seconds", "4"
            )
            assert "native copy" in process.stdout.readline()
            ping = left.b.netns.popen(
                ["ping", "-c", "20", "-i", "0.05", "-w", "5", "10.77.0.3"], stdout=subprocess.PIPE, text=True
            )
            shown, _ = ping.communicate()
            assert " 0% packet loss" in shown, shown
            with far:
                server = socket.create_server(("10.77.0.3", 5000))
            with left.b.netns:
                client = socket.create_connection(("10.77.0.3", 5000), timeout=5)
            with client, server, server.accept()[0] as s:
                client.sendall(b"across two AF_XDP ports")
                assert s.recv(100) == b"across two AF_XDP ports"
            out = finish(process)
            counts = [int(line.split()[-2]) for line in out.splitlines() if line.endswith("frames")]
            assert len(counts) == 2
            assert min(counts) >= 20
        finally:
            far.close()
