"""Benchmarks whose interface goes away under them, and the serving end beside clients that do not end well."""

import errno
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import pybypass as pb
from pybypass import bench, lab
from pybypass.bench import Options

pytestmark = pytest.mark.root


def delete(side, when_up):
    """Removes its interface, and so the pair, when there is traffic, or after a while: who waits for this must not for ever."""
    until = time.monotonic() + 30
    with side.netns:
        while not when_up() and time.monotonic() < until:
            time.sleep(0.01)
        subprocess.run(["ip", "link", "del", side.ifname], check=True)


def carried(side):
    """Whether there is traffic: what has arrived at an interface."""
    return pb.nic.interface(side.ifname, netns=side.netns).statistics["rx_packets"] > 500


@pytest.mark.parametrize(
    ("kind", "dev", "peer"),
    [
        (kind, *ends)
        for kind in ("tcp-rr", "tcp-stream")
        for ends in (("xdp", "kernel"), ("kernel", "xdp"), ("xdp", "xdp"))
    ]
    + [("tcp-rr", "kernel", "kernel")],
)
def test_an_interface_that_is_removed_is_what_is_reported(kind, dev, peer):
    """Not the time limit of an end that waits for the other, nor a result that ends early."""
    with lab.veth() as pair:
        options = Options(
            kind=kind, dev=f"{dev}:{pair.a.ifname}", peer=f"{peer}:{pair.b.ifname}", netns=pair.a.netns,
            peer_netns=pair.b.netns, seconds=20,
        )  # fmt: skip
        thread = threading.Thread(target=delete, args=(pair.a, lambda: carried(pair.b)))
        thread.start()
        with pytest.raises(pb.PybypassError) as caught:
            bench.run(options)
        thread.join()
        assert (caught.value.code, caught.value.errno) == ("PB033", errno.ENODEV)
        assert "was removed" in str(caught.value)


def connect(pair):
    """As soon as somebody serves."""
    until = time.monotonic() + 20
    while True:
        try:
            with pair.a.netns:
                return socket.create_connection((pair.b.ip, 9002), timeout=10)
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize("kind", ["tcp-rr", "tcp-stream"])
@pytest.mark.parametrize("dev", ["xdp", "kernel"])
def test_the_serving_end_survives_a_client_that_resets(kind, dev):
    with lab.veth() as pair:
        argv = [sys.executable, "-m", "pybypass", "bench", "peer", kind, "--dev", f"{dev}:{pair.b.ifname}"]
        far = pair.b.netns.popen(argv, stdout=subprocess.PIPE, text=True)
        try:
            for _ in range(2):
                client = connect(pair)
                if kind == "tcp-rr":
                    client.sendall(bytes(1000))
                    assert client.recv(1) == b"\0"  # accepted, and served
                else:
                    client.sendall(bytes(16 << 20))  # more than buffers hold: somebody reads
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()  # RST
            result = bench.run(
                Options(kind=kind, dev=f"kernel:{pair.a.ifname}", to=pair.b.ip, netns=pair.a.netns, seconds=0.3)
            )
        finally:
            far.send_signal(signal.SIGTERM)
            out, _ = far.communicate(timeout=20)
        assert far.returncode == 0
        assert result.bytes > 0
        told = json.loads(out)
        assert told["connections"] == 3
        if kind == "tcp-stream":  # a client of requests may end as it likes
            assert told["failed"] == 2
