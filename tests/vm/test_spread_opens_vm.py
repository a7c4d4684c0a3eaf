"""Active opens from ports of two queues: the source port is chosen so that the card brings the answers to the queue that asked.

It sets RSS by hand, so it comes after test_rss_vm.py (see test_spread_vm.py).
"""

import contextlib
import socket
import subprocess
import threading
import time

import pytest
from traffic import set_anew

import pybypass as pb
from pybypass import nic
from pybypass.netns import NetNs

CONNECTIONS = 12
OURS, THEIRS = {4: "10.9.0.1", 6: "fd09::1"}, {4: "10.9.0.2", 6: "fd09::2"}
LINK_S = 40.0


def ip(netns, *commands):
    for command in commands:
        argv = ["nsenter", f"--net=/proc/self/fd/{netns.fd}", "ip", *command.split()]
        subprocess.run(argv, check=True, pass_fds=[netns.fd], capture_output=True, text=True)


@contextlib.contextmanager
def apart(pair):
    """Each end in a namespace of its own, with addresses."""
    with contextlib.ExitStack() as stack:
        found = []
        for ifname, addresses in zip(pair, (OURS, THEIRS), strict=True):
            netns = NetNs()
            stack.callback(netns.close)
            subprocess.run(
                ["ip", "link", "set", ifname, "netns", f"/proc/self/fd/{netns.fd}"], check=True, pass_fds=[netns.fd]
            )
            stack.callback(subprocess.run, ["ip", "link", "set", ifname, "up"], check=True)
            stack.callback(ip, netns, f"link set {ifname} netns 1")
            ip(
                netns, f"addr add {addresses[4]}/24 dev {ifname}", f"addr add {addresses[6]}/64 dev {ifname} nodad",
                f"link set {ifname} up",
            )  # fmt: skip
            found.append(netns)
        yield found


def serve(listener, stop):
    """Sends back the first 16 bytes of each connection, and keeps it open."""
    kept = []
    listener.settimeout(0.2)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            connection = listener.accept()[0]
            connection.settimeout(20)
            connection.sendall(connection.recv(16))
            kept.append(connection)
    for connection in kept:
        connection.close()


def wait_until_answered(engine, to):
    """The link comes up some time after the program went in."""
    until = time.monotonic() + LINK_S
    while True:
        try:
            engine.connect(to, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise


@pytest.mark.parametrize("driver", ["igb", "virtio_net"])
def test_active_opens_of_each_queue_come_back_to_it(pair, driver):
    """At random half of them would be answered at the sibling, and never complete."""
    config = pb.EngineConfig(time_wait=0.1)
    with contextlib.ExitStack() as stack:
        ours, theirs = stack.enter_context(apart(pair))
        stop = threading.Event()
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            with theirs:
                listener = stack.enter_context(socket.create_server((THEIRS[version], 7000), family=family, backlog=64))
            thread = threading.Thread(target=serve, args=(listener, stop))
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        port = stack.enter_context(pb.open(f"xdp:{pair[0]}?queue=0-1&frame=4096", netns=ours))
        if driver == "virtio_net":  # see test_virtio_forgets_its_rss_when_xdp_goes_in
            with ours:
                set_anew(pair[0], nic.rss(pair[0]))
        engines = [
            stack.enter_context(pb.Engine(port, ip=[f"{OURS[4]}/24", f"{OURS[6]}/64"], queue=i, config=config))
            for i in (0, 1)
        ]
        for engine in engines:
            wait_until_answered(engine, (THEIRS[4], 7000))
        before = [engine.stats() for engine in engines]
        for index, engine in enumerate(engines):
            opened = []
            for number in range(CONNECTIONS):
                connection = engine.connect((THEIRS[4 if number % 2 else 6], 7000), timeout=10)
                connection.settimeout(10)
                text = b"queue %d conn %03d" % (index, number)
                connection.sendall(text)
                got = b""
                while len(got) < len(text):
                    got += connection.recv(len(text) - len(got))
                assert got == text
                opened.append(connection)
            for connection in opened:
                connection.close()
        for old, engine in zip(before, engines, strict=True):
            new = engine.stats()
            assert new["active_opens"] - old["active_opens"] == CONNECTIONS
            # What is for the sibling would be answered with RST here: nobody has such a connection.
            assert new.get("resets_out", 0) == 0
            assert new["drops"].get("tcp_no_flow", 0) == 0, new["drops"]
