"""Round trips of 64 bytes: our engine, a bare loop and the kernel's sockets, each against the same spinning kernel server."""

import base64
import contextlib

import numpy as np
import pytest
from peers import cpus, machine_note

import pybypass as pb
from pybypass import _measure, lab
from pybypass._bench import Device
from pybypass.labjob import KERNEL_MODES, PeerProcess, pinned

PORT, BYTES, TRIPS = 5003, 64, 3000


def percentile(samples, p):
    return float(np.percentile(samples, p)) / 1000


def checked(samples, echoed):
    """As many trips as were asked for, and the far end sent as many back; that each brought its own bytes, the loops check."""
    assert samples.shape == (TRIPS,)
    assert samples.min() > 0
    assert echoed["n"] == TRIPS
    return samples


@contextlib.contextmanager
def our_engine(pair, server):
    cpu, far = cpus()
    with pb.open(f"xdp:{pair.a.ifname}?frames=16384&meta=0", netns=pair.a.netns) as port:
        with pb.Engine(port, ip=pair.a.ip, inline=True) as engine:
            connection = engine.connect((pair.b.ip, PORT), timeout=10)
            server.do("accept", port=PORT, name="ours")

            def trips():
                before = connection.info()
                server.start("echo", name="ours", n=TRIPS, nbytes=BYTES, how="spin", cpu=far)
                with pinned(cpu):
                    samples = _measure.pingpong(connection._core, connection._number(), TRIPS, BYTES)
                after = connection.info()
                for count in ("bytes_sent", "bytes_received"):
                    assert after[count] - before[count] == TRIPS * BYTES
                return checked(samples, server.finish())

            assert port.mode == "native copy"
            yield trips, port.mode


@contextlib.contextmanager
def bare_loop(pair, server):
    cpu, far = cpus()
    a, b = (bytes(map(int, ip.split("."))) for ip in (pair.a.ip, pair.b.ip))
    with pb.open(f"xdp:{pair.a.ifname}?frames=16384&steer=tcp:40000&meta=0", netns=pair.a.netns) as port:
        assert port.mode == "native copy"
        device = Device.of_queue(port.queues[0])
        with contextlib.closing(device):
            loop = device.bare(bytes.fromhex(pair.b.mac.replace(":", "")), a, b, 40000, PORT)
            server.do("accept", port=PORT, name="bare")
            with contextlib.closing(loop):

                def trips():
                    server.start("echo", name="bare", n=TRIPS, nbytes=BYTES, how="spin", cpu=far)
                    before = device.stats()
                    with pinned(cpu):
                        samples = loop.pingpong(TRIPS, BYTES)
                    after = device.stats()
                    assert after["tx_pkts"] - before["tx_pkts"] >= TRIPS  # a segment each, and acknowledgements
                    assert after["rx_pkts"] - before["rx_pkts"] >= TRIPS
                    assert after["drops"] == before["drops"]
                    return checked(samples, server.finish())

                yield trips


def kernel(pair, server, client, name):
    how, (near, far) = KERNEL_MODES[name]
    both = cpus()
    client.do("connect", ip=pair.b.ip, port=PORT, name=name)
    server.do("accept", port=PORT, name=name)

    def trips():
        server.start("echo", name=name, n=TRIPS, nbytes=BYTES, how=how, cpu=both[far])
        answer = client.do("pingpong", name=name, n=TRIPS, nbytes=BYTES, how=how, cpu=both[near])
        return checked(np.frombuffer(base64.b64decode(answer["samples"]), dtype=np.uint32), server.finish())

    return trips


@pytest.mark.rows("rtt_p50", "rtt_p99", "rtt_blocking")
def test_round_trip_against_the_kernel(rounds):
    with lab.veth() as pair, PeerProcess(pair.b.netns.popen) as server, PeerProcess(pair.a.netns.popen) as client:
        server.do("listen", ip=pair.b.ip, port=PORT)
        with our_engine(pair, server) as (ours, mode):
            calls = {"ours": ours} | {name: kernel(pair, server, client, name) for name in KERNEL_MODES}
            for call in calls.values():
                call()  # warm
            found = rounds.run(calls, 11)
    best = {
        p: min((n for n in calls if n != "ours"), key=lambda n, p=p: np.percentile(np.concatenate(found[n]), p))
        for p in (50, 99)
    }
    note = (
        f"{TRIPS} trips a round, {mode} on veth, both ends pinned, CLOCK_MONOTONIC, {machine_note()}; "
        "server: kernel sockets, spinning"
    )
    for name, p, peer, goal in (
        ("rtt_p50", 50, best[50], 0.9), ("rtt_p99", 99, best[99], 1.0), ("rtt_blocking", 50, "kernel_blocking", 0.35),
    ):  # fmt: skip
        ours, theirs = ([percentile(s, p) for s in found[n]] for n in ("ours", peer))
        rounds.row(name, ours, theirs, f"kernel TCP, {peer}", "us", goal=goal, note=note)


@pytest.mark.rows("rtt_floor")
def test_round_trip_against_a_bare_loop(rounds):
    with contextlib.ExitStack() as stack:
        # A veth pair each: two sockets do not share a queue.
        ends = []
        for _ in range(2):
            pair = stack.enter_context(lab.veth())
            server = stack.enter_context(PeerProcess(pair.b.netns.popen))
            server.do("listen", ip=pair.b.ip, port=PORT)
            ends.append((pair, server))
        ours, mode = stack.enter_context(our_engine(*ends[0]))
        bare = stack.enter_context(bare_loop(*ends[1]))
        for call in (ours, bare):
            call()
        found = rounds.run({"ours": ours, "bare": bare}, 11)
    rounds.row(
        "rtt_floor", [percentile(s, 50) for s in found["ours"]], [percentile(s, 50) for s in found["bare"]],
        "bare AF_XDP loop, fixed segments, no engine", "us", goal=1.15,
        note=f"p50 of {TRIPS} trips a round, {mode} on veth, the same spinning kernel server; {machine_note()}",
    )  # fmt: skip
