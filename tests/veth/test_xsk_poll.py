"""Who drives the queue: worker modes (by the CPU time of their threads), and busy polling."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pybypass as pb

pytestmark = [pytest.mark.root, pytest.mark.alone("what waiting costs")]


def idle_share(info_of, seconds=0.5):
    """CPU time per wall time of the loop's thread over a while."""
    a = info_of()
    time.sleep(seconds)
    b = info_of()
    return (b["cpu_s"] - a["cpu_s"]) / (b["wall_s"] - a["wall_s"]), b["sleeps"] - a["sleeps"]


@pytest.mark.parametrize(
    ("how", "mode", "spin_us"),
    [
        ({"mode": "spin"}, "spin", None), ({"mode": "adaptive"}, "adaptive", 50.0),
        ({"mode": "adaptive", "spin_us": 200.0}, "adaptive", 200.0), ({"mode": "interrupt"}, "interrupt", 0.0),
        ({"spin_us": None}, "spin", None), ({"spin_us": 0}, "interrupt", 0), ({}, "adaptive", 50.0), ({"cpu": 0}, "spin", None),
        ({"cpu": 0, "mode": "interrupt"}, "interrupt", 0.0),
    ],
)  # fmt: skip
def test_modes_are_read_back(how, mode, spin_us):
    worker = pb.Worker(**how)
    info = worker.info()
    assert (worker.mode, info["mode"], info["spin_us"], info["cpu"]) == (mode, mode, spin_us, how.get("cpu"))
    assert not info["running"]
    assert mode in repr(worker)
    assert "cpu_s" not in info


@pytest.mark.parametrize(
    "how",
    [{"mode": "poll"}, {"mode": "spin", "spin_us": 10}, {"mode": "interrupt", "spin_us": 10}, {"mode": "adaptive", "spin_us": None},
     {"mode": "adaptive", "spin_us": 0}],
)  # fmt: skip
def test_modes_that_make_no_sense(how):
    with pytest.raises(pb.PybypassError) as caught:
        pb.Worker(**how)
    assert caught.value.code == "PB040"


def echo_server(side, stop):
    with side.netns:
        server = socket.create_server((side.ip, 5000))

    def run():
        c, _ = server.accept()
        with server, c:
            while data := c.recv(100):
                c.sendall(data)

    t = threading.Thread(target=run)
    t.start()
    return t


@pytest.mark.parametrize("mode", ["spin", "adaptive", "interrupt"])
@pytest.mark.parametrize("query", ["", "?busy_poll=20&busy_budget=16"])
def test_a_worker_behaves_as_its_mode_says(lab, mode, query):
    """Idle: a spinning thread has a core, the others none. Each does its work, and sleeps or not while it does."""
    with pb.open(f"xdp:{lab.b.ifname}{query}", netns=lab.b.netns) as port:
        worker = pb.Worker(mode=mode, spin_us=2000.0) if mode == "adaptive" else pb.Worker(mode=mode)
        server = echo_server(lab.a, None)
        with pb.Engine(port, ip=lab.b.ip, worker=worker) as engine:
            with engine.connect((lab.a.ip, 5000), timeout=10) as c:
                c.settimeout(10)
                before = worker.info()
                for i in range(50):
                    c.sendall(b"%d" % i)
                    assert c.recv(100) == b"%d" % i
                busy = worker.info()
                assert busy["running"]
                slept = busy["sleeps"] - before["sleeps"]
                if mode == "interrupt":
                    assert slept >= 50
                else:
                    assert slept < 50, "spins through the pauses between packets, or most of them"
            server.join()
            time.sleep(0.1)  # the end of the connection
            share, sleeps = idle_share(worker.info)
            stats = engine.stats()
            print(f"{mode}{query}: {share:.3f} of a core when idle, {sleeps} sleeps; {slept} sleeps in 50 round trips")
            if mode == "spin":
                assert share > 0.3, "as much of a core as others leave it"
                assert sleeps == 0
            else:
                assert share < 0.15
                assert sleeps > 0
            assert (stats["rx_wakeups"] > 0) == bool(query), "each idle pass drives the queue, with busy polling only"
            if mode == "spin" and query:
                assert stats["rx_wakeups"] > 1000


def test_adaptive_spins_before_it_sleeps(lab):
    """The longer it spins, the more CPU time an occasional packet costs: a ratio, not a time."""
    cost = {}
    for spin_us in (1.0, 20_000.0):
        with pb.open(f"xdp:{lab.b.ifname}", netns=lab.b.netns) as port:
            worker = pb.Worker(mode="adaptive", spin_us=spin_us)
            with pb.Engine(port, ip=lab.b.ip, worker=worker) as engine:
                time.sleep(0.1)
                before = worker.info()["cpu_s"]
                for _ in range(10):
                    engine.stats()  # a command: something to do
                    time.sleep(0.04)
                cost[spin_us] = worker.info()["cpu_s"] - before
    print(cost)
    assert cost[20_000.0] > 5 * cost[1.0]


def test_busy_polling_is_granted_or_refused_with_its_reason(lab):
    with pb.open(f"xdp:{lab.b.ifname}?busy_poll=50&busy_budget=32", netns=lab.b.netns) as port:
        assert (port.report["busy_poll_us"], port.report["busy_budget"], port.report["no_busy_poll"]) == (50, 32, "")
        assert port.info()["report"]["busy_poll_us"] == 50
    with pb.open(f"xdp:{lab.b.ifname}", netns=lab.b.netns) as port:
        assert (port.report["busy_poll_us"], port.report["no_busy_poll"]) == (0, "")
        port.rx_burst().release()
        assert port.stats()["rx_wakeups"] == 0
    with pb.open(f"xdp:{lab.b.ifname}?sockets=2&busy_poll=50", netns=lab.b.netns) as port:
        assert [q.report["busy_poll_us"] for q in port.queues] == [50, 50]
        for q in port.queues:
            q.rx_burst().release()
            assert q.stats()["rx_wakeups"] == 1


def test_busy_polling_without_the_privilege(lab):
    """The port opens all the same, and says why not."""
    program = """if True:
        import sys, pybypass as pb
        with pb.open(sys.argv[1]) as port:
            print(port.report["busy_poll_us"], port.report["no_busy_poll"])
            port.rx_burst().release()
            print(port.stats()["rx_wakeups"])
    """
    without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]
    argv = [sys.executable, "-c", program, f"xdp:{lab.b.ifname}?busy_poll=50"]
    with lab.b.netns.popen([*without, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        first, second = p.communicate(timeout=30)[0].splitlines()
    assert first.startswith("0 SO_PREFER_BUSY_POLL")
    assert "CAP_NET_ADMIN" in first
    assert second == "0"


def test_the_effect_can_be_measured():
    """tools/busy_poll.py, with few round trips: both ways, in turns, as a ratio."""
    tool = Path(__file__).parents[2] / "tools/busy_poll.py"
    argv = [sys.executable, tool, "--rounds", "2", "--trips", "300", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, env=environment).stdout)
    for name in ("interrupts", "busy polling"):
        assert 0 < found[name]["p50_us"] <= found[name]["p99_us"]
    assert found["ratio"]["p50_us"] == pytest.approx(found["busy polling"]["p50_us"] / found["interrupts"]["p50_us"])
