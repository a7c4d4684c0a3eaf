"""Packets of 64 bytes per second over AF_XDP on veth: our loops beside testpmd's, and Python beside C."""

import contextlib
import ipaddress
import resource
import threading
import time

import pytest
from peers import Testpmd, cpus, machine_note

import pybypass as pb
from pybypass import gen, lab
from pybypass._bench import Device, Stop, Template
from pybypass.labjob import pinned

SECONDS = 0.6


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


@contextlib.contextmanager
def port_on(side, steer="all"):
    with pb.open(f"xdp:{side.ifname}?frames=16384&steer={steer}&meta=0", netns=side.netns) as port:
        yield port


@contextlib.contextmanager
def device_on(side):
    with port_on(side) as port, contextlib.closing(Device.of_queue(port.queues[0])) as device:
        yield device


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


@contextlib.contextmanager
def sink_on(side, cpu):
    """Takes everything, in C, and counts."""
    stop = Stop()
    with device_on(side) as device:

        def counted():
            return device.stats()["rx_pkts"]

        worker = Worker(cpu, lambda: device.run(None, duration_s=SECONDS, rx=True, stop=stop, drain_s=0.01))
        worker.start()
        try:
            yield counted
        finally:
            stop.set()
            worker.join()


def send_for(device, template, cpu):
    with pinned(cpu):
        return device.run(template, duration_s=SECONDS)


@pytest.mark.rows("xdp_rx_64")
def test_receiving(rounds):
    near, far = cpus()
    busy = {"ours": [], "testpmd": []}
    with contextlib.ExitStack() as stack:
        first, second = stack.enter_context(lab.veth()), stack.enter_context(lab.veth())
        ours = stack.enter_context(device_on(first.a))
        senders = [stack.enter_context(device_on(pair.b)) for pair in (first, second)]
        templates = [packet(pair.b, pair.a).template(1) for pair in (first, second)]
        testpmd = stack.enter_context(Testpmd(second.a.netns, second.a.ifname, "rxonly", near, far))

        def we_receive():
            stop = Stop()
            worker = Worker(near, lambda: ours.run(None, duration_s=SECONDS, rx=True, stop=stop, drain_s=0.01))
            worker.start()
            sent = send_for(senders[0], templates[0], far)
            stop.set()
            worker.join()
            busy["ours"].append(worker.result["busy_cycles"] / max(1, worker.result["received"]))
            return worker.result["received"] / sent["seconds"]

        def testpmd_receives():
            testpmd.start()
            before = testpmd.counters()[0]
            sent = send_for(senders[1], templates[1], far)
            time.sleep(0.01)
            received = testpmd.counters()[0] - before
            busy["testpmd"].append(testpmd.stop() or float("nan"))
            return received / sent["seconds"]

        found = rounds.run({"ours": we_receive, "testpmd": testpmd_receives})
    ours_cycles, their_cycles = (sorted(busy[n])[len(busy[n]) // 2] for n in ("ours", "testpmd"))
    rounds.row(
        "xdp_rx_64", [v / 1e6 for v in found["ours"]], [v / 1e6 for v in found["testpmd"]], "testpmd net_af_xdp 22.11, rxonly",
        "Mpkt/s", goal=0.95, higher_is_better=True, also=ours_cycles < their_cycles,
        note=f"one core sends (our C generator, the same for both), another receives; native copy on veth; busy cycles per "
        f"packet in user space, turns that had packets: ours {ours_cycles:.0f}, testpmd {their_cycles:.0f} (TSC); "
        f"{machine_note()}",
    )  # fmt: skip


@pytest.mark.rows("xdp_tx_64")
def test_sending(rounds):
    near, far = cpus()
    user = {"ours": [0.0, 0], "testpmd": [0.0, 0]}  # seconds, packets: ticks are coarse, so over all rounds
    with contextlib.ExitStack() as stack:
        first, second = stack.enter_context(lab.veth()), stack.enter_context(lab.veth())
        ours = stack.enter_context(device_on(first.a))
        template = Template(packet(first.a, first.b).frame(), [], 0, 1, 1)  # without a stamp, as testpmd's
        testpmd = stack.enter_context(
            Testpmd(
                second.a.netns, second.a.ifname, "txonly", near, far, ["--txpkts=60", f"--eth-peer=0,{second.b.mac}"]
            )
        )

        def we_send():
            with sink_on(first.b, far):
                worker = Worker(near, lambda: ours.run(template, duration_s=SECONDS))
                worker.start()
                worker.join()
            user["ours"][0] += worker.cpu_seconds[0]
            user["ours"][1] += worker.result["sent"]
            return worker.result["sent"] / worker.result["seconds"]

        def testpmd_sends():
            with sink_on(second.b, far):
                testpmd.start()
                before, cpu_before, t0 = testpmd.counters()[1], testpmd.cpu_seconds(), time.monotonic()
                time.sleep(SECONDS)
                sent, seconds = testpmd.counters()[1] - before, time.monotonic() - t0
                user["testpmd"][0] += testpmd.cpu_seconds()[0] - cpu_before[0]
                user["testpmd"][1] += sent
                testpmd.stop()
            return sent / seconds

        found = rounds.run({"ours": we_send, "testpmd": testpmd_sends})
    ours_cycles, their_cycles = (seconds * tsc_hz() / packets for seconds, packets in user.values())
    rounds.row(
        "xdp_tx_64", [v / 1e6 for v in found["ours"]], [v / 1e6 for v in found["testpmd"]], "testpmd net_af_xdp 22.11, txonly",
        "Mpkt/s", goal=0.95, higher_is_better=True, also=ours_cycles < their_cycles,
        note=f"one core sends, another takes (our C sink, the same for both); native copy on veth; user cycles per packet: "
        f"ours {ours_cycles:.0f}, testpmd {their_cycles:.0f} (thread's user time x clock rate; the kernel's share is the "
        f"rest); {machine_note()}",
    )  # fmt: skip


@pytest.mark.rows("xdp_rx_64_python")
def test_receiving_in_python(rounds):
    near, far = cpus()
    with contextlib.ExitStack() as stack:
        first, second = stack.enter_context(lab.veth()), stack.enter_context(lab.veth())
        port = stack.enter_context(port_on(first.a))
        in_c = stack.enter_context(device_on(second.a))
        senders = [stack.enter_context(device_on(pair.b)) for pair in (first, second)]
        templates = [packet(pair.b, pair.a).template(1) for pair in (first, second)]

        def in_python(stop):
            received, burst_of, ended = 0, port.rx_burst, stop.is_set
            while not ended():
                for _ in range(64):
                    with burst_of(64) as burst:
                        received += len(burst)
            return received

        def python_receives():
            stop = threading.Event()
            worker = Worker(near, lambda: in_python(stop))
            worker.start()
            sent = send_for(senders[0], templates[0], far)
            stop.set()
            worker.join()
            return worker.result / sent["seconds"]

        def c_receives():
            stop = Stop()
            worker = Worker(near, lambda: in_c.run(None, duration_s=SECONDS, rx=True, stop=stop, drain_s=0.01))
            worker.start()
            sent = send_for(senders[1], templates[1], far)
            stop.set()
            worker.join()
            return worker.result["received"] / sent["seconds"]

        found = rounds.run({"python": python_receives, "c": c_receives})
    rounds.row(
        "xdp_rx_64_python", [v / 1e6 for v in found["python"]], [v / 1e6 for v in found["c"]], "our C loop", "Mpkt/s",
        goal=0.9, higher_is_better=True,
        note="one call per burst of up to 64; the sender is our C generator on the other core; native copy on veth; "
        f"{machine_note()}",
    )  # fmt: skip
