"""DPDK: the loops of testpmd over net_null, in C and in Python, beside testpmd itself; round trips over net_ring and
net_memif; the main job over dpdk: beside xdp:.

Both sides have the same core, the same device and one queue; testpmd has the burst size that is better for it. net_null
gives a packet whenever it is asked for one, so what is measured is the framework's own cost.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from peers import Testpmd, cpus, machine_note
from support import eventually

import pybypass as pb
from pybypass import dpdk, gen
from pybypass._bench import Device, Stop
from pybypass.labjob import pinned

SECONDS = 0.4
PROBE_S = 0.15
FRAME = bytes(range(64))
MODES = {"io": "io", "macswap": "macswap", "rx": "rxonly", "tx": "txonly"}


def where():
    info = dpdk.info()
    pages = "huge pages" if info["hugepages"] else "no huge pages"
    return f"DPDK {info['version'].removeprefix('DPDK ')} on {pages}, net_null, pinned; {machine_note()}"


@contextlib.contextmanager
def null_device():
    with pb.open("dpdk:net_null0?frames=16384") as port, contextlib.closing(Device.of_queue(port.queues[0])) as device:
        yield device


def best_burst(measure):
    """Of 32 (testpmd's default) and 64."""
    return max((32, 64), key=measure)


@contextlib.contextmanager
def peer_on_null(mode, cpu, main_cpu):
    """testpmd on net_null, with its better burst size: (it, that size)."""
    with Testpmd(subprocess.Popen, "net_null0", MODES[mode], cpu, main_cpu) as peer:

        def probe(burst):
            peer.set_burst(burst)
            return peer.rate(PROBE_S, mode != "tx")

        burst = best_burst(probe)
        peer.set_burst(burst)
        yield peer, burst


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.rows(f"dpdk_{mode}")) for mode in MODES]
)
def test_loop(rounds, mode):
    near, far = cpus()
    with null_device() as device, peer_on_null(mode, near, far) as (peer, their_burst):
        frame = FRAME[:60] if mode == "tx" else None

        def run(seconds, burst):
            before = device.stats()
            with pinned(near):
                done = device.forward(how=mode, frame=frame, duration_s=seconds, burst=burst)
            after = device.stats()
            assert done["received"] == after["rx_pkts"] - before["rx_pkts"]
            assert done["sent"] == after["tx_pkts"] - before["tx_pkts"]
            assert done["received"] == (0 if mode == "tx" else done["sent"] + done["dropped"])
            assert done["dropped"] == (done["received"] if mode == "rx" else 0)
            return (done["sent"] if mode == "tx" else done["received"]) / done["seconds"]

        our_burst = best_burst(lambda burst: run(PROBE_S, burst))
        found = rounds.run({"ours": lambda: run(SECONDS, our_burst), "testpmd": lambda: peer.rate(SECONDS, mode != "tx")})
    ours, theirs = ([v / 1e6 for v in values] for values in found.values())
    rounds.row(
        f"dpdk_{mode}", ours, theirs, f"testpmd {MODES[mode]}", "Mpkt/s", goal=0.95, higher_is_better=True,
        note=f"packets of 64 bytes; bursts: ours {our_burst}, testpmd {their_burst} (the better of 32 and 64 for each); {where()}",
    )  # fmt: skip


@pytest.mark.rows("dpdk_io_python", "dpdk_python_burst_ns")
def test_loop_in_python(rounds):
    near, far = cpus()
    with peer_on_null("io", near, far) as (peer, their_burst), pb.open("dpdk:net_null0?frames=16384") as port:
        (queue,) = port.queues

        def in_python(seconds):
            rx, tx, packets, bursts = queue.rx_burst, queue.tx_burst, 0, 0
            with pinned(near):
                started = time.perf_counter()
                until = started + seconds
                while (now := time.perf_counter()) < until:
                    for _ in range(256):
                        burst = rx(64)
                        packets += tx(burst)
                        burst.release()
                    bursts += 256
            assert packets == 64 * bursts
            return packets, now - started

        def python():
            packets, seconds = in_python(SECONDS)
            return packets / seconds

        def by_descriptors():
            with contextlib.closing(Device.of_queue(queue)) as device, pinned(near):
                done = device.forward(how="desc", duration_s=SECONDS)
            assert done["received"] == done["sent"] > 0
            return done["sent"] / done["seconds"]

        found = rounds.run({"python": python, "c": by_descriptors, "testpmd": lambda: peer.rate(SECONDS, True)})
    python_, c, theirs = ([v / 1e6 for v in values] for values in found.values())
    overhead = [64e3 / p - 64e3 / q for p, q in zip(python_, c, strict=True)]
    rounds.row(
        "dpdk_io_python", python_, theirs, "testpmd io", "Mpkt/s", goal=0.5, higher_is_better=True,
        note=f"rx_burst, tx_burst and release for each 64 packets; testpmd's bursts {their_burst}; {where()}",
    )  # fmt: skip
    rounds.row(
        "dpdk_python_burst_ns", [max(0.0, v) for v in overhead], None, None, "ns", goal=None,
        note="what a burst of 64, received and sent, costs in Python beyond the same by descriptors in our C loop "
        f"({sorted(c)[len(c) // 2]:.1f} Mpkt/s); {where()}",
    )  # fmt: skip


def latencies(device, template):
    with pinned(cpus()[0]):
        done = device.run(template, interval_ns=20_000, duration_s=SECONDS, rx=True, until_back=True, slices=1)
    assert done["received"] == done["sent"] > SECONDS / 20e-6 * 0.9
    assert done["unique"] == done["received"]
    return done["latency"][0].percentile(50) / 1000


def template():
    import ipaddress

    return gen.Packet(
        src_mac=b"\2\0\0\0\0\1", dst_mac=b"\2\0\0\0\0\2", src=ipaddress.ip_address("10.0.0.1"),
        dst=ipaddress.ip_address("10.0.0.2"), size=64,
    ).template(1)  # fmt: skip


@pytest.mark.rows("dpdk_ring_rtt")
def test_round_trip_over_a_ring(rounds):
    with pb.open("dpdk:net_ring0?frames=8192") as port, contextlib.closing(Device.of_queue(port.queues[0])) as device:
        found = rounds.run({"ours": lambda: latencies(device, template())})
    rounds.row(
        "dpdk_ring_rtt", found["ours"], None, None, "us", goal=None,
        note="median from when a packet of 64 bytes was due (every 20 us) to its reception by the same thread over net_ring, "
        f"CLOCK_MONOTONIC; {where()}".replace("net_null, ", ""),
    )  # fmt: skip


@pytest.mark.rows("dpdk_memif_rtt")
def test_round_trip_over_memif(rounds, tmp_path):
    far = cpus()[1]
    with (
        pb.open(f"dpdk:net_memif0?role=server&socket={tmp_path}/m.sock&frames=8192") as a,
        pb.open(f"dpdk:net_memif1?role=client&socket={tmp_path}/m.sock&frames=8192") as b,
    ):
        eventually(lambda: a.link()["up"] and b.link()["up"])
        with contextlib.closing(Device.of_queue(a.queues[0])) as one, contextlib.closing(Device.of_queue(b.queues[0])) as two:
            stop, result = Stop(), {}

            def reflect():
                with pinned(far):
                    result.update(two.reflect(stop))

            thread = threading.Thread(target=reflect)
            thread.start()
            try:
                found = rounds.run({"ours": lambda: latencies(one, template())})
            finally:
                stop.set()
                thread.join()
            assert result["sent"] == result["received"] > 0
    rounds.row(
        "dpdk_memif_rtt", found["ours"], None, None, "us", goal=None,
        note="as dpdk_ring_rtt, to another thread on another core that sends it back, over net_memif both ways; "
        f"{where()}".replace("net_null, ", ""),
    )  # fmt: skip


@pytest.mark.rows("dpdk_rtt_p50")
def test_main_job_beside_xdp(rounds, tmp_path):
    def job(device):
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        done = subprocess.run(
            [sys.executable, "-m", "pybypass", "lab", "echo", "--dev", device, "--json", "--no-capture", "--rounds", "4000",
             "--bytes", "1000000"],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["active"]["sha256_ok"] and report["passive"]["sha256_ok"]
        assert report["rtt_us"]["pybypass"]["n"] == 4000
        return report["rtt_us"]["pybypass"]["p50"]

    found = rounds.run({"dpdk": lambda: job("dpdk"), "xdp": lambda: job("xdp")}, rounds=5)
    rounds.row(
        "dpdk_rtt_p50", found["dpdk"], found["xdp"], "our xdp: port", "us", goal=None,
        note="`pybypass lab echo`: round trip of 64 bytes between our engine on net_af_xdp (copy mode on veth) and the kernel's "
        f"sockets, both spinning; {machine_note()}",
    )  # fmt: skip
