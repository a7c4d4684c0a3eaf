"""The main job: `pybypass lab echo` and `pybypass echo`.

`lab echo` joins two network namespaces by a veth pair, puts our engine at one end and the Linux kernel's sockets at the other,
moves data both ways, actively and passively opened, and compares round trips. Without the privilege it runs two engines over
a `mem:` pair.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _measure, lab, labpeer, pcap, ports, progress
from .errors import PybypassError
from .labreport import MESSAGE_BYTES, Report, Samples
from .tcp import Connection, Engine, EngineConfig
from .worker import Worker

__all__ = ["EchoJob", "JobOptions", "add_parser"]

DEVICES = ("xdp", "mem", "dpdk", "dpdk:net_af_xdp", "dpdk:net_tap")
_SLICES = 20
_ACTIVE, _PASSIVE, _RTT = 5001, 5002, 5003
KERNEL_MODES = {
    "kernel_blocking": ("blocking", (0, 1)),
    "kernel_spin_2": ("spin", (0, 1)),
    "kernel_spin_1": ("yield", (0, 0)),
}


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What to run. `size` bytes each way, `rounds` round trips per row, `capture` a file or None."""

    size: int = 64 << 20
    rounds: int = 20000
    capture: str | None = "lab.pcapng"
    quiet: bool = False


class PeerProcess:
    """A labpeer.py process, in a namespace or beside us."""

    def __init__(self, popen: Callable[..., subprocess.Popen[str]]) -> None:
        self._process = popen(
            [sys.executable, "-m", "pybypass.labpeer"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )  # fmt: skip

    def start(self, do: str, **args: Any) -> None:
        """Sends a command; finish() waits for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **args}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None

    def _dead(self) -> PybypassError:
        return PybypassError.make("PB060", errno.EIO, f"the kernel's side died with status {self._process.wait()}")

    def finish(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._dead()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PybypassError.make("PB050", errno.EIO, f"the kernel's side: {answer['error']}")
        return answer

    def do(self, what: str, **args: Any) -> dict[str, Any]:
        self.start(what, **args)
        return self.finish()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


@contextlib.contextmanager
def pinned(cpu: int | None) -> Iterator[bool]:
    """The calling thread on one CPU for a while; yields whether it is."""
    before = os.sched_getaffinity(0)
    if cpu is None or cpu not in before:
        yield False
        return
    os.sched_setaffinity(0, {cpu})
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)


def _placement(want: tuple[int, int]) -> tuple[int | None, int | None]:
    """(client CPU, server CPU) from among those that this process may use."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return None, None
    return cpus[want[0]], cpus[want[1]]


def _verdict(ours: dict[str, Any], theirs: dict[str, Any], clean: bool) -> dict[str, Any]:
    equal = ours["sha_sent"] == theirs["sha_received"] and ours["sha_received"] == theirs["sha_sent"]
    complete = ours["sent"] == theirs["received"] and ours["received"] == theirs["sent"]
    return {"bytes_each_way": ours["received"], "sha256_ok": equal and complete, "closed_cleanly": clean}


def _close(connection: Connection) -> bool:
    """Whether both directions ended in order; gives the handle up."""
    clean = connection.wait_closed(5.0)
    info = connection.info() if clean else {"error": -1, "state": "?"}
    connection.close()
    return clean and info["error"] == 0 and info["state"] in ("TIME_WAIT", "CLOSED")


def _kernel_row(name: str, server: PeerProcess, client: PeerProcess, report: Report) -> Callable[[int], Samples]:
    """A row of the kernel's: n round trips between two processes with ordinary sockets, placed as KERNEL_MODES says."""
    how, where = KERNEL_MODES[name]
    near, far = _placement(where)
    report.pinned[name] = near is not None
    report.row_drops[name] = 0

    def run(n: int) -> Samples:
        before = client.do("troubles")["n"]
        server.start("echo", name=name, n=n, nbytes=MESSAGE_BYTES, how=how, cpu=far)
        answer = client.do("pingpong", name=name, n=n, nbytes=MESSAGE_BYTES, how=how, cpu=near)
        server.finish()
        report.row_drops[name] += client.do("troubles")["n"] - before
        return np.frombuffer(base64.b64decode(answer["samples"]), dtype=np.uint32)

    return run


class EchoJob(ABC):
    """Common to both devices: what is measured, in which order."""

    def __init__(self, options: JobOptions) -> None:
        self.options = options

    @abstractmethod
    def run(self) -> Report: ...

    def _transfer(self, connection: Connection, seed: int, size: int, what: str) -> dict[str, Any]:
        with progress.step(what, size, quiet=self.options.quiet) as advance:
            return labpeer.Transfer(connection, seed, size).run(advance)

    def _add_drops(self, report: Report, engine: Engine) -> None:
        for reason, n in engine.stats()["drops"].items():
            report.drop_reasons[reason] = report.drop_reasons.get(reason, 0) + n
            report.drops += n

    def _interleave(self, rows: dict[str, Callable[[int], Samples]]) -> dict[str, Samples]:
        """Each row in `_SLICES` slices that alternate, after a warm-up of each."""
        total = self.options.rounds
        slices = [total // _SLICES + (i < total % _SLICES) for i in range(_SLICES)]
        slices = [n for n in slices if n]
        found: dict[str, list[Samples]] = {name: [] for name in rows}
        for run in rows.values():
            run(min(2000, total))
        with progress.step("round trips", total * len(rows), quiet=self.options.quiet) as advance:
            for n in slices:
                for name, run in rows.items():
                    found[name].append(run(n))
                    advance(n)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _compare(
        self, report: Report, connection: Connection, echo: Callable[[int, int | None], AbstractContextManager[None]],
        server: PeerProcess, client: PeerProcess,
    ) -> None:  # fmt: skip
        """Our row and the kernel's. `echo(n, cpu)` answers `connection` while it is entered, n times."""
        near, far = _placement((0, 1))

        def ours(n: int) -> Samples:
            with echo(n, far), pinned(near) as is_pinned:
                report.pinned["pybypass"] = is_pinned
                return _measure.pingpong(connection._core, connection._number(), n, MESSAGE_BYTES)

        rows = {name: _kernel_row(name, server, client, report) for name in KERNEL_MODES}
        report.samples = self._interleave({"pybypass": ours, **rows})


def _need_xsk() -> None:
    try:
        from . import _xsk  # noqa: F401
    except ImportError as e:
        raise PybypassError.make(
            "PB011", errno.ENOSYS, f"AF_XDP is not built in ({e})",
            hint="apt-get install libxdp-dev libbpf-dev clang, and install again",
        ) from None  # fmt: skip


@contextlib.contextmanager
def _laboratory() -> Iterator[lab.VethLab]:
    """lab.veth(), with typed errors."""
    pair = lab.veth()
    try:
        pair.open()
    except Exception as e:  # of the system or of rtnetlink, which has classes of its own
        number = getattr(e, "errno", None) or getattr(e, "code", None) or errno.EIO
        hint = "run as root" if number in (errno.EPERM, errno.EACCES) else "run `pybypass doctor`"
        text = f"no network namespaces ({os.strerror(number)})"
        raise PybypassError.make("PB060", number, text, hint=hint) from e
    with contextlib.closing(pair):
        yield pair


class XdpJob(EchoJob):
    """Our engine on AF_XDP against the kernel's sockets, in two namespaces."""

    device = "xdp"

    def run(self) -> Report:
        self._need()
        with _laboratory() as pair, PeerProcess(pair.b.netns.popen) as server, PeerProcess(pair.a.netns.popen) as client:
            self._pair = pair
            with self._port() as port:
                report = Report(device=self.device, mode=port.mode)
                with self._engine(port, worker=self._worker()) as engine:
                    self._transfers(engine, server, report)
                    if self.options.capture:
                        self._captured(engine, server, report)
                    self._add_drops(report, engine)
            with self._port() as port, self._engine(port, inline=True) as engine:
                self._round_trips(engine, server, client, report)
                self._add_drops(report, engine)
            return report

    def _need(self) -> None:
        _need_xsk()

    def _port(self) -> ports.Port:
        return ports.open(f"xdp:{self._pair.a.ifname}?frames=16384&meta=0", netns=self._pair.a.netns)

    def _addresses(self) -> tuple[str, str]:
        """Ours, and the kernel's that we talk to."""
        return self._pair.a.ip, self._pair.b.ip

    def _kernel_address(self) -> str:
        """Where the kernel's own rows find their server."""
        return self._pair.b.ip

    def _engine(self, port: ports.Port, **how: Any) -> Engine:
        return Engine(port, ip=self._addresses()[0], config=EngineConfig(), **how)

    def _worker(self) -> Worker:
        cpu, _ = _placement((0, 1))
        return Worker(cpu=cpu, spin_us=200.0)

    def _transfers(self, engine: Engine, server: PeerProcess, report: Report) -> None:
        (ours, theirs), size = self._addresses(), self.options.size
        server.do("listen", ip=theirs, port=_ACTIVE)
        connection = engine.connect((theirs, _ACTIVE), timeout=10)
        server.do("accept", port=_ACTIVE, name="active")
        report.active = self._one(connection, server, "active", size, seed=1)
        with engine.listen(_PASSIVE, ip=ours) as listener:
            server.start("connect", ip=ours, port=_PASSIVE, name="passive")
            connection = listener.accept(10)
            server.finish()
            report.passive = self._one(connection, server, "passive", size, seed=3)

    def _one(self, connection: Connection, server: PeerProcess, name: str, size: int, seed: int) -> dict[str, Any]:
        connection.settimeout(60)
        server.start("transfer", name=name, seed=seed + 1, size=size)
        mine = self._transfer(connection, seed, size, f"{name} transfer")
        other = server.finish()
        return _verdict(mine, other, _close(connection))

    def _captured(self, engine: Engine, server: PeerProcess, report: Report) -> None:
        """1 MiB both ways into a file; the capture is over before anything is timed."""
        assert self.options.capture is not None
        engine.capture_start(16 << 20)
        connection = engine.connect((self._addresses()[1], _ACTIVE), timeout=10)
        server.do("accept", port=_ACTIVE, name="captured")
        self._one(connection, server, "captured", 1 << 20, seed=5)
        data, packets, dropped = engine.capture_stop()
        pcap.write(self.options.capture, data, ifname=self._pair.a.ifname, dropped=dropped)
        report.captured = packets

    def _round_trips(self, engine: Engine, server: PeerProcess, client: PeerProcess, report: Report) -> None:
        server.do("listen", ip="0.0.0.0", port=_RTT)
        connection = engine.connect((self._addresses()[1], _RTT), timeout=10)
        server.do("accept", port=_RTT, name="pybypass")
        for name in KERNEL_MODES:
            client.do("connect", ip=self._kernel_address(), port=_RTT, name=name)
            server.do("accept", port=_RTT, name=name)

        @contextlib.contextmanager
        def echo(n: int, cpu: int | None) -> Iterator[None]:
            server.start("echo", name="pybypass", n=n, nbytes=MESSAGE_BYTES, how="spin", cpu=cpu)
            yield
            server.finish()

        self._compare(report, connection, echo, server, client)
        report.row_drops["pybypass"] = sum(engine.stats()["drops"].values())
        connection.close()


class MemJob(EchoJob):
    """Two engines in this process over a mem: pair; the kernel's rows over the loopback interface."""

    _A, _B = "10.77.0.1", "10.77.0.2"

    def __init__(self, options: JobOptions, why: str) -> None:
        super().__init__(options)
        self.why = why

    def _pair(self) -> tuple[ports.Port, ports.Port]:
        name = f"lab-{os.getpid()}"
        return ports.open(f"mem:{name}?frames=16384"), ports.open(f"mem:{name}?frames=16384")

    def run(self) -> Report:
        report = Report(device="mem", mode="mem", why=self.why)
        first, second = self._pair()
        with first, second, Engine(first, ip=f"{self._A}/24") as a, Engine(second, ip=f"{self._B}/24") as b:
            report.active = self._between(a, b, self._B, _ACTIVE, "active", self.options.size, initiator=a)
            report.passive = self._between(a, b, self._A, _PASSIVE, "passive", self.options.size, initiator=b)
            if self.options.capture:
                a.capture_start(16 << 20)
                self._between(a, b, self._B, _ACTIVE + 10, "captured", 1 << 20, initiator=a)
                data, report.captured, dropped = a.capture_stop()
                pcap.write(self.options.capture, data, ifname="mem", dropped=dropped)
            self._add_drops(report, a)
            self._add_drops(report, b)
        self._round_trips(report)
        return report

    def _between(
        self, a: Engine, b: Engine, ip: str, port: int, what: str, size: int, *, initiator: Engine
    ) -> dict[str, Any]:
        """A transfer between the two; the result is that of `a`."""
        listening = b if initiator is a else a
        with listening.listen(port, ip=ip) as listener:
            opened = initiator.connect((ip, port), timeout=10)
            accepted = listener.accept(10)
            ours, theirs = (opened, accepted) if initiator is a else (accepted, opened)
            other: dict[str, Any] = {}

            def far() -> None:
                theirs.settimeout(60)
                other.update(labpeer.Transfer(theirs, 2, size).run())

            thread = threading.Thread(target=far, daemon=True)
            thread.start()
            ours.settimeout(60)
            mine = self._transfer(ours, 1, size, f"{what} transfer")
            thread.join()
            clean = [_close(c) for c in (ours, theirs)]
            return _verdict(mine, other, all(clean))

    def _round_trips(self, report: Report) -> None:
        first, second = self._pair()
        beside = subprocess.Popen
        with (
            first, second, Engine(first, ip=f"{self._A}/24", inline=True) as a,
            Engine(second, ip=f"{self._B}/24") as b, PeerProcess(beside) as server, PeerProcess(beside) as client,
        ):  # fmt: skip
            self._loopback(server, client)
            with b.listen(_RTT) as listener:
                near = a.connect((self._B, _RTT), timeout=10)
                far = listener.accept(10)
            b._core.stop_loop()  # from here on the echo's thread drives it

            @contextlib.contextmanager
            def echo(n: int, cpu: int | None) -> Iterator[None]:
                def body() -> None:
                    with pinned(cpu):
                        _measure.pingpong_echo(b._core, far._number(), n, MESSAGE_BYTES)

                thread = threading.Thread(target=body, daemon=True)
                thread.start()
                yield
                thread.join()

            self._compare(report, near, echo, server, client)
            before = report.drops
            for engine in (a, b):
                self._add_drops(report, engine)
            report.row_drops["pybypass"] = report.drops - before

    def _loopback(self, server: PeerProcess, client: PeerProcess) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        server.do("listen", ip="127.0.0.1", port=port)
        for name in KERNEL_MODES:
            client.do("connect", ip="127.0.0.1", port=port, name=name)
            server.do("accept", port=port, name=name)


def _why_not_xdp() -> str:
    """Why the real thing cannot run here, and what would change that; empty when it can."""
    try:
        _need_xsk()
        with _laboratory() as pair, ports.open(f"xdp:{pair.a.ifname}?frames=1024", netns=pair.a.netns):
            return ""
    except PybypassError as e:
        return str(e)


def _check_writable(path: str) -> None:
    """Before anything runs: minutes of measuring must not end at a file that cannot be written."""
    try:
        with open(path, "ab"):
            pass
    except OSError as e:
        raise PybypassError.make("PB061", e.errno or errno.EIO, f"{path}: {e.strerror}") from None


def _job(device: str, options: JobOptions, why: str) -> EchoJob:
    if device == "mem":
        return MemJob(options, why)
    if device == "xdp":
        return XdpJob(options)
    from .labdpdk import dpdk_job  # it knows this module

    return dpdk_job(device, options)


def run_lab_echo(args: argparse.Namespace) -> int:
    options = JobOptions(
        size=args.bytes, rounds=args.rounds, capture=None if args.no_capture else args.capture, quiet=args.json
    )
    if args.bytes < 1 or args.rounds < 1:
        raise PybypassError.make("PB040", errno.EINVAL, "--bytes and --rounds", hint="both are at least 1")
    if options.capture:
        _check_writable(options.capture)
    device, why = args.dev, ""
    if device is None:
        reason = _why_not_xdp()
        device = "mem" if reason else "xdp"
        why = f"running over mem, because: {reason}" if reason else ""
    report = _job(device, options, why).run()
    if args.json:
        if why:
            print(why, file=sys.stderr)
        print(json.dumps(report.as_json()))
    else:
        print("\n".join(report.lines()))
        if options.capture:
            print(f"capture: {report.captured} packets in {options.capture}")
    return 0 if report.ok() else 1


def add_parser(subparsers: Any) -> None:
    """Adds `lab` to the command line."""
    lab = subparsers.add_parser("lab", help="a laboratory on this machine")
    kinds = lab.add_subparsers(dest="lab_command", required=True)
    job = kinds.add_parser("echo", help="TCP between this engine and the kernel: data both ways, round trips")
    job.add_argument(
        "--dev", choices=DEVICES, help="default: xdp, and mem where that is not possible; dpdk is dpdk:net_af_xdp"
    )
    job.add_argument("--json", action="store_true", help="one line of JSON")
    job.add_argument("--bytes", type=int, default=64 << 20, metavar="N", help="each way (default: 64 MiB)")
    job.add_argument("--rounds", type=int, default=20000, metavar="N", help="round trips per row (default: 20000)")
    job.add_argument("--capture", default="lab.pcapng", metavar="FILE", help="default: lab.pcapng")
    job.add_argument("--no-capture", action="store_true")
    job.set_defaults(run=run_lab_echo)
