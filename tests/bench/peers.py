"""The peers: a kernel process with ordinary sockets, and testpmd."""

import os
import re
import select
import shutil
import subprocess
import time


def cpus():
    """(ours, the other end's); one core for both where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def machine_note():
    with open("/sys/devices/system/cpu/isolated", encoding="ascii") as f:
        isolated = f.read().strip() or "none"
    return f"{len(os.sched_getaffinity(0))} cores, isolated: {isolated}"


class Testpmd:
    """dpdk-testpmd on one virtual device, one forwarding core, driven by its prompt. `popen`: subprocess.Popen, or a
    namespace's."""

    __test__ = False

    def __init__(self, popen, vdev, mode, cpu, main_cpu, options=()):
        if shutil.which("dpdk-testpmd") is None:
            raise RuntimeError("dpdk-testpmd is not installed: apt-get install dpdk-dev")
        argv = [
            "stdbuf", "-oL",  # its statistics go through stdio, its prompt does not
            "dpdk-testpmd", "-l", f"{main_cpu},{cpu}" if main_cpu != cpu else f"{cpu}", "--main-lcore", str(main_cpu),
            "--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "-m", "512",
            "--vdev", vdev, "--", "-i", "--total-num-mbufs=16384", "--nb-cores=1", "--burst=64", "--record-core-cycles",
            f"--forward-mode={mode}", *options,
        ]  # fmt: skip
        self._process = popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._text = ""
        self._read("testpmd> ")

    def _read(self, *marks, seconds=30.0):
        """What it prints up to these marks, one after the other."""
        deadline, start = time.monotonic() + seconds, 0
        fd = self._process.stdout.fileno()
        for mark in marks:
            while (at := self._text.find(mark, start)) < 0:
                ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
                data = os.read(fd, 65536) if ready else b""
                if not data:
                    raise RuntimeError(f"testpmd: no {mark!r} in\n{self._text[-3000:]}")
                self._text += data.decode(errors="replace")
            start = at + len(mark)
        text, self._text = self._text[:start], self._text[start:]
        return text

    def do(self, command, last):
        """Gives a command, and reads what it prints up to a line that holds `last`."""
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return self._read(last, "testpmd> ")

    def counters(self):
        """RX and TX packets so far."""
        text = self.do("show port stats 0", "Tx-pps")
        return int(re.search(r"RX-packets: (\d+)", text)[1]), int(re.search(r"TX-packets: (\d+)", text)[1])

    def start(self):
        self.do("start", "packets/burst")

    def stop(self):
        """Busy cycles per packet since start, of turns that had packets."""
        found = re.search(r"CPU cycles/packet=([\d.]+)", self.do("stop", "Done."))
        return float(found[1]) if found else None

    def cpu_seconds(self):
        """User and system time of its forwarding thread."""
        base = f"/proc/{self._process.pid}/task"
        for tid in os.listdir(base):
            with open(f"{base}/{tid}/comm", encoding="ascii") as f:
                if not re.match(r"(lcore|rte)-worker", f.read()):
                    continue
            with open(f"{base}/{tid}/stat", encoding="ascii") as f:
                fields = f.read().rpartition(")")[2].split()
            return int(fields[11]) / os.sysconf("SC_CLK_TCK"), int(fields[12]) / os.sysconf("SC_CLK_TCK")
        raise RuntimeError("testpmd has no worker thread")

    @classmethod
    def on_interface(cls, side, mode, cpu, main_cpu, options=()):
        """On AF_XDP, at the end of a veth pair."""
        vdev = f"net_af_xdp0,iface={side.ifname},start_queue=0,queue_count=1"
        return cls(side.netns.popen, vdev, mode, cpu, main_cpu, ["--rxd=2048", "--txd=2048", *options])

    def set_burst(self, packets):
        """Between a stop and a start."""
        self._process.stdin.write(f"set burst {packets}\n".encode())
        self._process.stdin.flush()
        self._read("testpmd> ")

    def rate(self, seconds, received):
        """Packets per second that it receives (or sends) from a start to a stop."""
        self.start()
        before, started = self.counters()[not received], time.monotonic()
        time.sleep(seconds)
        found, took = self.counters()[not received] - before, time.monotonic() - started
        self.stop()
        return found / took

    def close(self):
        if self._process.poll() is None:
            try:
                self._process.stdin.write(b"quit\n")
                self._process.stdin.flush()
                self._process.wait(20)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
