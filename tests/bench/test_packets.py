"""Packets of 64 bytes per second over AF_XDP on veth: our loops beside testpmd's, and Python beside C.

Each round is balanced: what the one end says it sent is what the other says it received, and what the kernel says it dropped
between them. A loop that counts what it did not do, or runs on after its measurement, does not pass.
"""

import contextlib
import ipaddress
import resource
import threading
import time

import pytest
from peers import Testpmd, cpus, machine_note
from pyroute2 import IPRoute

import pybypass as pb
from pybypass import gen, lab
from pybypass._bench import Device, Stop, Template
from pybypass.labjob import pinned

SECONDS = 0.6
DRAIN_S = 0.01
SETTLE_S = 2.0
TESTPMD_TX_RING = 2048
XDP_ATTACHED_DRV = "xdp"  # as pyroute2 names it; generic: "xdpgeneric"


def tsc_hz():
    with open("/proc/cpuinfo", encoding="ascii") as f:
        return next(float(line.split(":")[1]) * 1e6 for line in f if line.startswith("cpu MHz"))


def packet(src, dst, size=64):
    def mac(side):
        return bytes.fromhex(side.mac.replace(":", ""))

    return gen.Packet(
        src_mac=mac(src),
        dst_mac=mac(dst),
        src=ipaddress.ip_address(src.ip),
        dst=ipaddress.ip_address(dst.ip),
        size=size,
    )


def link(side):
    """What the kernel counted of the interface, and how an XDP program is attached to it."""
    with side.netns, IPRoute() as ip:
        (found,) = ip.get_links(index=side.ifindex)
    return found.get_attr("IFLA_STATS64"), found.get_attr("IFLA_XDP").get_attr("IFLA_XDP_ATTACHED")


def dropped(side):
    """Packets that came to an interface and into no socket."""
    return link(side)[0]["rx_dropped"]


def check_native(side):
    assert link(side)[1] == XDP_ATTACHED_DRV, "the row says native"


@contextlib.contextmanager
def port_on(side, steer="all"):
    with pb.open(f"xdp:{side.ifname}?frames=16384&steer={steer}&meta=0", netns=side.netns) as port:
        assert port.mode == "native copy"
        yield port


@contextlib.contextmanager
def device_on(side):
    with port_on(side) as port, contextlib.closing(Device.of_queue(port.queues[0])) as device:
        yield device


@contextlib.contextmanager
def two_links():
    """A veth pair for each of the two that are compared: two sockets do not share a queue."""
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(lab.veth()) for _ in range(2))
        yield stack, first, second


class Worker(threading.Thread):
    """A loop on a core, in the background."""

    def __init__(self, cpu, body):
        super().__init__(daemon=True)
        self._cpu, self._body, self.result = cpu, body, None
        self.cpu_seconds = (0.0, 0.0)

    def run(self):
        with pinned(self._cpu):
            before = resource.getrusage(resource.RUSAGE_THREAD)
            self.result = self._body()
            after = resource.getrusage(resource.RUSAGE_THREAD)
            self.cpu_seconds = (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


class Sink:
    """Takes everything that comes to a side, in C, and counts it: on a core, from the start of the block to its end."""

    def __init__(self, side, cpu):
        self._side, self._cpu, self.arrived = side, cpu, 0

    def __enter__(self):
        self._stop, self._stack, self._before = Stop(), contextlib.ExitStack(), dropped(self._side)
        self._device = self._stack.enter_context(device_on(self._side))
        self._worker = receiver(self._device, self._cpu, self._stop)
        self._worker.start()
        return self

    def __exit__(self, *exc):
        with self._stack:
            self._stop.set()
            self._worker.join()
            if exc[0] is None:
                assert 0 < self._worker.result["received"] == self._device.stats()["rx_pkts"]
                self.arrived = self._worker.result["received"] + dropped(self._side) - self._before


def receiver(device, cpu, stop):
    """Our C loop that receives until `stop`, and then until nothing came for a while."""
    # Its own end is far off: it must not stop while the sender still sends.
    return Worker(cpu, lambda: device.run(None, duration_s=60.0, rx=True, stop=stop, drain_s=DRAIN_S))


def generator(stack, pair):
    """What sends from pair.b to pair.a: (device, template)."""
    return stack.enter_context(device_on(pair.b)), packet(pair.b, pair.a).template(1)


def sent_into(worker, stop, pair, generator, cpu):
    """Sends from pair.b while the worker receives at pair.a. (what was sent, its seconds, what the kernel dropped)"""
    device, template = generator
    before, stats = dropped(pair.a), device.stats()["tx_pkts"]
    worker.start()
    with pinned(cpu):
        sent = device.run(template, duration_s=SECONDS)
    stop.set()
    worker.join()
    assert sent["sent"] > 0
    assert sent["sent"] == device.stats()["tx_pkts"] - stats
    return sent["sent"], sent["seconds"], dropped(pair.a) - before


def c_loop(ours, pair, generator, near, far):
    """One round of our C loop: packets received, seconds of the sender, the worker."""
    stop = Stop()
    before = ours.stats()
    worker = receiver(ours, near, stop)
    sent, seconds, lost = sent_into(worker, stop, pair, generator, far)
    after, received = ours.stats(), worker.result["received"]
    assert received > 0
    assert sent == received + lost
    assert received == after["rx_pkts"] - before["rx_pkts"]
    assert worker.result["rx_bytes"] == received * (64 - 4)  # the wire's check sequence is not in a frame
    assert sum(after["drops"].values()) - sum(before["drops"].values()) == lost, "each loss has a reason of ours"
    return received, seconds, worker.result


def mpkts_row(rounds, name, found, peer_name, goal, note, also=True):
    """A row from packets per second, ours first."""
    ours, peer = ([v / 1e6 for v in values] for values in found.values())
    rounds.row(
        name, ours, peer, peer_name, "Mpkt/s", goal=goal, higher_is_better=True, also=also,
        note=f"{note}; native copy on veth; {machine_note()}",
    )  # fmt: skip


@pytest.mark.rows("xdp_rx_64")
def test_receiving(rounds):
    near, far = cpus()
    busy = {"ours": [], "testpmd": []}
    with two_links() as (stack, first, second):
        ours = stack.enter_context(device_on(first.a))
        generators = [generator(stack, pair) for pair in (first, second)]
        testpmd = stack.enter_context(Testpmd.on_interface(second.a, "rxonly", near, far))

        def we_receive():
            received, seconds, result = c_loop(ours, first, generators[0], near, far)
            busy["ours"].append(result["busy_cycles"] / received)
            return received / seconds

        def testpmd_receives():
            testpmd.start()
            check_native(second.a)
            before, lost = testpmd.counters()[0], dropped(second.a)
            device, template = generators[1]
            with pinned(far):
                sent = device.run(template, duration_s=SECONDS)
            until = time.monotonic() + SETTLE_S
            while (received := testpmd.counters()[0] - before) + dropped(second.a) - lost < sent["sent"]:
                assert time.monotonic() < until
            assert 0 < received == sent["sent"] - (dropped(second.a) - lost)
            busy["testpmd"].append(testpmd.stop())
            return received / sent["seconds"]

        found = rounds.run({"ours": we_receive, "testpmd": testpmd_receives})
        check_native(first.a)
    assert all(len(busy[n]) == len(found[n]) and None not in busy[n] for n in busy)
    ours_cycles, their_cycles = (sorted(busy[n])[len(busy[n]) // 2] for n in ("ours", "testpmd"))
    mpkts_row(
        rounds, "xdp_rx_64", found, "testpmd net_af_xdp 22.11, rxonly", 0.95, also=ours_cycles < their_cycles,
        note="one core sends (our C generator, the same for both), another receives; busy cycles per packet in user space, "
        f"turns that had packets: ours {ours_cycles:.0f}, testpmd {their_cycles:.0f} (TSC)",
    )  # fmt: skip


@pytest.mark.rows("xdp_tx_64")
def test_sending(rounds):
    near, far = cpus()
    user = {"ours": [0.0, 0], "testpmd": [0.0, 0]}  # seconds, packets: ticks are coarse, so over all rounds
    with two_links() as (stack, first, second):
        ours = stack.enter_context(device_on(first.a))
        template = Template(packet(first.a, first.b).frame(), [], 0, 1, 1)  # without a stamp, as testpmd's
        testpmd = stack.enter_context(
            Testpmd.on_interface(
                second.a, "txonly", near, far, ["--txpkts=60", f"--eth-peer=0,{second.b.mac}"]
            )
        )

        def we_send():
            with Sink(first.b, far) as sink:
                worker = Worker(near, lambda: ours.run(template, duration_s=SECONDS))
                worker.start()
                worker.join()
            assert 0 < worker.result["sent"] == sink.arrived
            user["ours"][0] += worker.cpu_seconds[0]
            user["ours"][1] += worker.result["sent"]
            return worker.result["sent"] / worker.result["seconds"]

        def testpmd_sends():
            with Sink(second.b, far) as sink:
                first_count = testpmd.counters()[1]
                testpmd.start()
                check_native(second.a)
                before, cpu_before, t0 = testpmd.counters()[1], testpmd.cpu_seconds(), time.monotonic()
                time.sleep(SECONDS)
                sent, seconds = testpmd.counters()[1] - before, time.monotonic() - t0
                user["testpmd"][0] += testpmd.cpu_seconds()[0] - cpu_before[0]
                user["testpmd"][1] += sent
                testpmd.stop()
                total = testpmd.counters()[1] - first_count
            # It counts what it put into its ring: what it had not kicked out when it stopped leaves in its next round.
            assert sent > 0
            assert abs(total - sink.arrived) <= TESTPMD_TX_RING
            return sent / seconds

        found = rounds.run({"ours": we_send, "testpmd": testpmd_sends})
        check_native(first.a)
    assert all(seconds > 0 for seconds, _ in user.values())
    ours_cycles, their_cycles = (seconds * tsc_hz() / packets for seconds, packets in user.values())
    mpkts_row(
        rounds, "xdp_tx_64", found, "testpmd net_af_xdp 22.11, txonly", 0.95, also=ours_cycles < their_cycles,
        note="one core sends, another takes (our C sink, the same for both); user cycles per packet: "
        f"ours {ours_cycles:.0f}, testpmd {their_cycles:.0f} (thread's user time x clock rate; the kernel's share is the rest)",
    )  # fmt: skip


@pytest.mark.rows("xdp_rx_64_python")
def test_receiving_in_python(rounds):
    near, far = cpus()
    with two_links() as (stack, first, second):
        port = stack.enter_context(port_on(first.a))
        in_c = stack.enter_context(device_on(second.a))
        generators = [generator(stack, pair) for pair in (first, second)]

        def in_python(stop):
            received, burst_of, ended = 0, port.rx_burst, stop.is_set
            while not ended():
                for _ in range(64):
                    with burst_of(64) as burst:
                        received += len(burst)
            quiet = time.monotonic()
            while time.monotonic() - quiet < DRAIN_S:  # as the loop in C does
                with burst_of(64) as burst:
                    received += len(burst)
                    quiet = time.monotonic() if burst else quiet
            return received

        def python_receives():
            stop, before = threading.Event(), port.stats()["rx_pkts"]
            worker = Worker(near, lambda: in_python(stop))
            sent, seconds, lost = sent_into(worker, stop, first, generators[0], far)
            assert worker.result > 0
            assert sent == worker.result + lost
            assert worker.result == port.stats()["rx_pkts"] - before
            return worker.result / seconds

        def c_receives():
            received, seconds, _ = c_loop(in_c, second, generators[1], near, far)
            return received / seconds

        found = rounds.run({"python": python_receives, "c": c_receives})
        for pair in (first, second):
            check_native(pair.a)
    mpkts_row(
        rounds, "xdp_rx_64_python", found, "our C loop", 0.9,
        note="one call per burst of up to 64; the sender is our C generator on the other core",
    )  # fmt: skip
