"""Python that does not come back for a while: queues are bounded, what does not fit is counted, and the loop goes on."""

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import lab as laboratory

sys.path.insert(0, str(Path(__file__).parent))
from support import eventually, kernel_connect, kernel_listener
from xsk_support import eth, ip4, packet_socket, udp

pytestmark = pytest.mark.root


def test_the_slow_path_stalls(lab):
    """A policy sleeps; exceptions are dropped and counted meanwhile, and an open connection does not notice."""
    entered, leave = threading.Event(), threading.Event()

    def policy(request):
        entered.set()
        return leave.wait(30)

    with (
        kernel_listener(lab.b, 5000) as server,
        pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port,
        pb.Engine(port, ip=[lab.a.ip, "10.77.0.9/24"]) as engine,
        packet_socket(lab.b) as wire,
        engine.listen(6000, accept=policy) as listener,
    ):
        ours = engine.connect((lab.b.ip, 5000), timeout=5)
        theirs = server.accept()[0]
        found = []
        client = threading.Thread(target=lambda: found.append(kernel_connect(lab.b, (lab.a.ip, 6000))))
        client.start()
        try:
            assert entered.wait(5)
            before = engine.stats()
            frame = bytes.fromhex(lab.a.mac.replace(":", "")) + eth(ip4(udp(1, 9, b"x"), 17, lab.b.ip, "10.77.0.9"))[6:]
            for _ in range(600):
                wire.send(frame)
                time.sleep(0.0001)

            def told():
                now = engine.stats()
                dropped = now["drops"].get("exc_full", 0) - before["drops"].get("exc_full", 0)
                return now["exceptions"] - before["exceptions"] + dropped >= 600 and dropped > 300

            eventually(told)
            for _ in range(50):
                ours.sendall(b"still here")
                assert theirs.recv(100) == b"still here"
        finally:
            leave.set()
        with listener.accept(20):
            client.join()
            found[0].close()
        c = engine.slowpath.counters
        eventually(lambda: c["unreachable_sent"] + c["unreachable_limited"] >= 200)
        theirs.close()
        ours.close()


def test_nobody_accepts(lab):
    """The backlog is bounded; SYNs beyond it are dropped and counted, and their senders come again."""
    with (
        pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port,
        pb.Engine(port, ip=lab.a.ip) as engine,
        engine.listen(6000, backlog=2) as listener,
    ):
        clients = []
        for _ in range(6):
            with lab.b.netns:
                s = socket.socket()
            s.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                s.connect((lab.a.ip, 6000))
            clients.append(s)
        eventually(lambda: engine.stats()["drops"].get("tcp_backlog", 0) >= 3)
        assert engine.stats()["connections"] <= 4
        accepted = [listener.accept(20) for _ in clients]
        for s in [*accepted, *clients]:
            s.close()


@pytest.mark.parametrize("inline", [False, True])
def test_nobody_reads(lab, inline):
    """The window closes: no more is held than rcvbuf, the sender waits, and every byte comes in the end."""
    data = os.urandom(4 << 20)
    with (
        kernel_listener(lab.b, 5000) as server,
        pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port,
        pb.Engine(port, ip=lab.a.ip, inline=inline, config=pb.EngineConfig(rcvbuf=1 << 18)) as engine,
    ):
        ours = engine.connect((lab.b.ip, 5000), timeout=5)
        theirs = server.accept()[0]
        sender = threading.Thread(target=theirs.sendall, args=(data,))
        sender.start()
        time.sleep(1.5)
        assert sender.is_alive()
        held = port.umem.info()["owners"]
        assert held["app"] + held["engine"] <= (1 << 18) // 1024 + 64, held
        got = bytearray()
        ours.settimeout(20)
        while len(got) < len(data):
            got += ours.recv(65536)
        sender.join()
        assert bytes(got) == data
        theirs.close()
        ours.close()


def test_two_engines_and_one_port():
    """Of an address of the kernel: its bound socket says so, across processes too."""
    with laboratory.veth(queues=2) as pair:
        uri = f"xdp:{pair.a.ifname}?queue="
        with pb.open(f"{uri}0", netns=pair.a.netns) as p0, pb.open(f"{uri}1", netns=pair.a.netns) as p1:
            with pb.Engine(p0, ip=pair.a.ip) as first, pb.Engine(p1, ip=pair.a.ip) as second:
                with first.listen(6000):
                    with pytest.raises(pb.PybypassError) as caught:
                        second.listen(6000)
                    assert caught.value.code == "PB042"
                    with pytest.raises(pb.PybypassError) as caught:
                        second.connect((pair.b.ip, 5000), source=(pair.a.ip, 6000), timeout=1)
                    assert caught.value.code == "PB042"


def test_a_fork_does_not_stop_what_the_parent_follows(lab):
    with pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port, pb.Engine(port, ip=lab.a.ip) as engine:
        pid = os.fork()
        if not pid:
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    engine.listen(80)
                except pb.PybypassError as e:
                    code = 0 if e.code == "PB015" else 2
                engine.close()
                port.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        from test_follow import run

        run(lab.a, f"addr add 10.77.0.51/24 dev {lab.a.ifname}", f"addr del {lab.a.ip}/24 dev {lab.a.ifname}")
        eventually(lambda: engine.slowpath.counters["address_removed"] == 1)
