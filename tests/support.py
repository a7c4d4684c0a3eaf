"""What tests of several files share: waiting for a condition, a child's answer, data both ways, engines over mem."""

import os
import socket
import threading
import time

import pybypass as pb
from pybypass.labpeer import Transfer

A, B = "10.0.0.1", "10.0.0.2"


def eventually(condition, seconds=10.0):
    """Asks until the answer is true, and returns it; fails after `seconds`."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.002)
    return found


def in_child(function):
    """Runs function in a fork and returns the text that it gives."""
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(w, str(function()).encode())
        except BaseException as e:
            os.write(w, repr(e).encode())
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return text


def exchange(ours, theirs, size):
    """`size` bytes in both directions at once: what came is what was sent. Closes both.

    `ours` is a Connection, `theirs` another or a kernel's socket.
    """
    result = {}
    ours.settimeout(60)
    theirs.settimeout(60)
    t = threading.Thread(target=lambda: result.update(Transfer(theirs, 2, size).run()))
    t.start()
    mine = Transfer(ours, 1, size).run()
    assert ours.wait_closed(60)  # an inline engine moves only while it is called
    t.join(60)
    assert not t.is_alive()
    theirs.close()
    assert mine["sha_sent"] == result["sha_received"]
    assert result["sha_sent"] == mine["sha_received"]
    assert mine["received"] == result["received"] == size
    assert ours.info()["error"] == 0
    ours.close()


def kernel_listener(side, port, ip=None):
    with side.netns:
        ip = ip or side.ip
        return socket.create_server((ip, port), family=socket.AF_INET6 if ":" in ip else socket.AF_INET)


def kernel_connect(side, address):
    with side.netns:
        s = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    s.settimeout(10)
    s.connect(address)
    return s


class Pair:
    """Two engines over mem; b listens at port 80."""

    def __init__(self, inline=False, config_a=None, config_b=None, uri="mem:tcp", v6=False, **impair):
        self.ports = [pb.open(uri, **impair), pb.open(uri)]
        ips = ("fd00::1", "fd00::2") if v6 else (A, B)
        bits = 64 if v6 else 24
        self.ip_a, self.ip_b = ips
        self.a = pb.Engine(self.ports[0], ip=f"{ips[0]}/{bits}", inline=inline, config=config_a)
        self.b = pb.Engine(self.ports[1], ip=f"{ips[1]}/{bits}", config=config_b)
        self.listener = self.b.listen(80)

    def connect(self, **how):
        c = self.a.connect((self.ip_b, 80), timeout=5, **how)
        s = self.listener.accept(5)
        for x in (c, s):
            x.settimeout(10)
        return c, s

    def close(self):
        for engine in (self.a, self.b):
            engine.close()
        for port in self.ports:
            port.close()
            info = port.umem.info()
            assert info["owners"]["free"] == info["frames"], info
            assert info["violations"] == 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
