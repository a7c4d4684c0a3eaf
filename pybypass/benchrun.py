"""Runs benchmarks: two ends, their threads and cores, and what was found."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import resource
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from . import lab
from ._bench import Histogram, Stop, noise
from .benchends import KERNEL_SIZE, End, open_end
from .benchreport import Result
from .errors import PybypassError
from .gen import Packet, Vary
from .labjob import pinned
from .worker import isolated_cpus

__all__ = ["KINDS", "Options", "run"]

KINDS = ("rx", "tx", "rtt", "tcp-rr", "tcp-stream")
_SPORT, _DPORT, _TCP_PORT = 9000, 9001, 9002
_NOISE_S = 0.1
_DRAIN_S = 2.0  # for what is under way: over sooner when all of it came back


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run. `rate` in packets or requests per second, None: as fast as it goes (rtt, tcp-rr: one at a time for
    tcp-rr, 10,000/s for rtt). `size` of a frame with its check sequence, `nbytes` of a TCP request."""

    kind: str
    dev: str
    peer: str | None = None
    lab: bool = False
    rate: float | None = None
    seconds: float = 2.0
    packets: int | None = None
    size: int = 64
    nbytes: int = 64
    burst: int = 64
    slices: int = 20
    vary: tuple[Vary, ...] = ()
    cpu: int | None = None
    peer_cpu: int | None = None
    wait: str = "spin"
    ip: str | None = None
    to: str | None = None
    to_mac: str | None = None
    reverse: bool = False
    netns: Any = None
    peer_netns: Any = None
    queues: int = 1
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = {
            "seconds": (0.01, 86400), "burst": (1, 64), "slices": (1, 64), "nbytes": (1, 65536),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise PybypassError.make(
                    "PB040", errno.EINVAL, f"{name}={getattr(self, name)}", hint=f"{low} to {high}"
                )
        if self.kind not in KINDS:
            raise PybypassError.make("PB040", errno.EINVAL, self.kind, hint=f"one of {', '.join(KINDS)}")
        if self.rate is not None and not 0.001 <= self.rate <= 1e9:
            raise PybypassError.make("PB040", errno.EINVAL, f"rate={self.rate}", hint="0.001 to 1e9 per second")
        if self.packets is not None and self.packets < 1:
            raise PybypassError.make("PB040", errno.EINVAL, f"packets={self.packets}", hint="at least 1")
        if self.peer is None and self.to is None and not self.lab and not self.dev.startswith("mem:"):
            raise PybypassError.make(
                "PB040",
                errno.EINVAL,
                "no peer",
                hint="--peer URI (another port here), --to ADDRESS (`bench peer` there), or --lab",
            )

    @property
    def peer_uri(self) -> str | None:
        if self.peer is not None:
            return self.peer
        if self.lab:
            return "kernel:pbb"
        if self.dev.startswith("mem:"):
            return self.dev
        return None

    def cpus(self) -> tuple[int | None, int | None]:
        """Those asked for, else the first two of this process; None: one core for both, and neither is pinned."""
        allowed = sorted(os.sched_getaffinity(0))
        for cpu in (self.cpu, self.peer_cpu):
            if cpu is not None and cpu not in allowed:
                raise PybypassError.make("PB044", errno.EINVAL, f"cpu {cpu}")
        if len(allowed) < 2:
            return self.cpu, self.peer_cpu
        own = self.cpu if self.cpu is not None else next(c for c in allowed if c != self.peer_cpu)
        other = self.peer_cpu if self.peer_cpu is not None else next(c for c in allowed if c != own)
        return own, other


class _Peer:
    """A thread that serves the other end while it is entered; what it raises is raised at the end."""

    def __init__(self, body: Callable[[], Any], cpu: int | None) -> None:
        self.answer: Any = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(body, cpu), name="bench peer", daemon=True)

    def _run(self, body: Callable[[], Any], cpu: int | None) -> None:
        try:
            with pinned(cpu):
                self.answer = body()
        except BaseException as e:
            self._failure = e

    def start(self) -> None:
        self._thread.start()

    def join(self) -> Any:
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.answer


@contextlib.contextmanager
def _measured(result: Result, cpu: int | None) -> Iterator[None]:
    """On its core, with the noise floor of that core before and after."""
    with pinned(cpu) as is_pinned:
        result.cpu = cpu if is_pinned else None
        result.isolated = cpu is not None and cpu in isolated_cpus()
        result.noise.merge(noise(_NOISE_S)[0])
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        yield
        result.switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - before
        result.noise.merge(noise(_NOISE_S)[0])


@contextlib.contextmanager
def _ends(o: Options, raw: bool) -> Iterator[tuple[End, End | None]]:
    with ExitStack() as stack:
        near, far = o.netns, o.peer_netns
        if o.lab:
            pair = stack.enter_context(lab.veth(mtu=max(1500, o.size - 18) if raw else 1500, queues=o.queues))
            near, far = pair.a.netns, pair.b.netns
        a = stack.enter_context(open_end(o.dev, netns=near, index=0, ip=o.ip, udp_port=_SPORT, raw=raw, how=o.wait))
        uri = o.peer_uri
        b = None
        if uri is not None:
            b = stack.enter_context(open_end(uri, netns=far, index=1, udp_port=_DPORT, raw=raw, how=o.wait))
        try:
            yield a, b
        finally:  # whatever else it led to, and also when nobody noticed
            for end in (a, b):
                if end is not None:
                    end.check()


@contextlib.contextmanager
def _let_out(far: End | None) -> Iterator[None]:
    """What fails at this end leaves the other one waiting for it."""
    try:
        yield
    except BaseException:
        if far is not None:
            far.abort()
        raise


def _result(o: Options, a: End, b: End | None, args: dict[str, Any]) -> Result:
    own, other = o.cpus()
    return Result(
        bench=o.kind, dev=o.dev, peer=f"{o.peer_uri} ({b.mode})" if b is not None else f"{o.to}", mode=a.mode, args=args,
        cpu=own, peer_cpu=other if b is not None else None, isolated=False, rate_asked=o.rate,
    )  # fmt: skip


def _remote(o: Options, a: End, b: End | None) -> tuple[Any, bytes]:
    if b is not None:
        return b.ip, b.mac
    ip = ipaddress.ip_address(o.to or "")
    if o.to_mac is not None:
        return ip, bytes.fromhex(o.to_mac.replace(":", ""))
    return ip, b"" if o.dev.startswith("kernel:") else a.resolve(ip)


def _generate(device: Any, template: Any, o: Options, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = device.run(
        template, interval_ns=1e9 / o.rate if o.rate else 0.0, packets=o.packets, duration_s=o.seconds, burst=o.burst,
        slices=o.slices, **more,
    )  # fmt: skip
    return found


def _sink(device: Any, o: Options, offset: int, run_id: int, stop: Stop) -> dict[str, Any]:
    found: dict[str, Any] = device.run(
        None, duration_s=o.seconds, drain_s=0.3, slices=o.slices, stamp_off=offset, run=run_id, rx=True, stop=stop
    )
    return found


def _take_sent(result: Result, sent: dict[str, Any]) -> None:
    result.offered, result.sent, result.lag = sent["offered"], sent["sent"], sent["lag"]
    result.seconds = sent["seconds"]
    if sent["sent"]:
        result.generator_share = round(min(1.0, sent["build_ns"] * sent["sent"] / (sent["seconds"] * 1e9)), 4)


def _take_received(result: Result, got: dict[str, Any], sent: int | None) -> None:
    result.received, result.bytes = got["received"], got["rx_bytes"]
    if sent is not None:  # without the sender's count and stamps only arrivals are known
        result.duplicates, result.reordered = got["duplicates"], got["reordered"]
        result.lost = max(0, sent - got["unique"] - got["old"])
    result.latency = [h for h, s in zip(got["latency"], got["slices"], strict=True) if s["ns"]]
    result.slices = [s for s in got["slices"] if s["ns"]]
    result.idle_share = round(got["rx_empty"] / got["rx_calls"], 4) if got["rx_calls"] else None


def _packets(o: Options) -> Result:
    """rx, tx and rtt."""
    if o.kind == "rtt" and o.rate is None:
        from dataclasses import replace

        o = replace(o, rate=10000.0)
    with _ends(o, raw=True) as (a, b):
        remote_ip, remote_mac = _remote(o, a, b)
        run_id = secrets.randbelow(1 << 16)
        forward = o.kind != "rx"
        args = {"size": o.size, "rate": o.rate, "seconds": o.seconds, "burst": o.burst}
        result = _result(o, a, b, args)
        own, other = o.cpus()
        a_dev = a.device(remote_ip, _SPORT, _DPORT)
        b_dev = b.device(a.ip, _DPORT, _SPORT) if b is not None else None
        if forward:
            src, dst, macs, via = a.ip, remote_ip, (a.mac, remote_mac or bytes(6)), (_SPORT, _DPORT)
        else:
            src, dst, macs, via = remote_ip, a.ip, (remote_mac or bytes(6), a.mac), (_DPORT, _SPORT)
        for end in (a, b):
            if end is not None and end.uri.startswith("kernel:") and o.size > KERNEL_SIZE:
                raise PybypassError.make(
                    "PB040", errno.EINVAL, f"size={o.size}", hint=f"kernel sockets: at most {KERNEL_SIZE}"
                )
        packet = Packet(
            src_mac=macs[0], dst_mac=macs[1], src=src, dst=dst, sport=via[0], dport=via[1], size=o.size, vary=o.vary
        )
        template, offset, stop = packet.template(run_id), packet.headers, Stop()
        if o.kind == "rtt":
            _rtt(o, result, a_dev, b_dev, template, stop, (own, other))
        elif o.kind == "tx":
            _tx(o, result, a_dev, b_dev, template, offset, run_id, stop, (own, other))
        else:
            _rx(o, result, a_dev, b_dev, template, offset, run_id, stop, (own, other))
        result.drops = {"dev": a.drops()} | ({"peer": b.drops()} if b is not None else {})
        return result


def _rtt(o: Options, result: Result, a: Any, b: Any, template: Any, stop: Stop, cpus: tuple[Any, Any]) -> None:
    peer = _Peer(lambda: b.reflect(stop), cpus[1]) if b is not None else None
    if peer is not None:
        peer.start()
    try:
        with _measured(result, cpus[0]):
            found = _generate(a, template, o, rx=True, until_back=True, drain_s=_DRAIN_S)
    finally:
        stop.set()
        if peer is not None:
            peer.join()
    _take_sent(result, found)
    _take_received(result, found, found["sent"])


def _tx(
    o: Options, result: Result, a: Any, b: Any, template: Any, offset: int, run_id: int, stop: Stop,
    cpus: tuple[Any, Any],
) -> None:  # fmt: skip
    peer = _Peer(lambda: _sink(b, o, offset, run_id, stop), cpus[1]) if b is not None else None
    if peer is not None:
        peer.start()
    got = None
    try:
        with _measured(result, cpus[0]):
            found = _generate(a, template, o)
    finally:
        stop.set()
        if peer is not None:
            got = peer.join()
    _take_sent(result, found)
    if got is not None:
        _take_received(result, got, found["sent"])
    else:
        result.bytes, result.slices = found["sent_bytes"], found["slices"]


def _rx(
    o: Options, result: Result, a: Any, b: Any, template: Any, offset: int, run_id: int, stop: Stop,
    cpus: tuple[Any, Any],
) -> None:  # fmt: skip
    sent = None
    if b is None:
        with _measured(result, cpus[0]):
            timer = threading.Timer(o.seconds, stop.set)
            timer.start()
            try:
                got = _sink(a, o, 0, 0, stop)
            finally:
                timer.cancel()
        result.seconds = o.seconds
    else:

        def generate() -> dict[str, Any]:
            try:
                return _generate(b, template, o)
            finally:
                stop.set()

        peer = _Peer(generate, cpus[1])
        try:
            with _measured(result, cpus[0]):
                peer.start()
                got = _sink(a, o, offset, run_id, stop)
        finally:
            stop.set()
            found = peer.join()
        _take_sent(result, found)
        sent = found["sent"]
    _take_received(result, got, sent)


def _tcp_rr(o: Options) -> Result:
    with _ends(o, raw=False) as (a, b):
        result = _result(o, a, b, {"nbytes": o.nbytes, "rate": o.rate, "seconds": o.seconds, "wait": o.wait})
        own, other = o.cpus()
        stop = Stop()
        peer = None
        if b is not None:
            b.listen(_TCP_PORT)

            def far() -> None:
                with _let_out(a):
                    b.accept().echo(stop)
                    b.finish()

            peer = _Peer(far, other)
            peer.start()
        try:
            with _let_out(b):
                stream = a.connect(_remote_ip(o, b), _TCP_PORT)
                stream.requests(requests=200, duration_s=5.0, nbytes=o.nbytes, slices=1)  # warm
                with _measured(result, own):
                    found = stream.requests(
                        interval_ns=1e9 / o.rate if o.rate else 0.0, requests=o.packets, duration_s=o.seconds,
                        nbytes=o.nbytes, slices=o.slices,
                    )  # fmt: skip
                a.finish()
        finally:
            stop.set()
            if peer is not None:
                peer.join()
        result.seconds, result.sent, result.received = found["seconds"], found["sent"], found["received"]
        result.offered, result.lag = found["sent"], found["lag"] if o.rate else None
        result.bytes = found["received"] * o.nbytes
        result.latency = [h for h, s in zip(found["latency"], found["slices"], strict=True) if s["ns"]]
        result.slices = [s for s in found["slices"] if s["ns"]]
        result.drops = {"dev": a.drops()} | ({"peer": b.drops()} if b is not None else {})
        return result


def _remote_ip(o: Options, b: End | None) -> Any:
    return b.ip if b is not None else ipaddress.ip_address(o.to or "")


def _tcp_stream(o: Options) -> Result:
    """One flow: from the device under test, or towards it (`reverse`)."""
    if o.reverse and o.peer_uri is None:
        raise PybypassError.make("PB040", errno.EINVAL, "reverse", hint="needs --peer or --lab: the sender runs here")
    with _ends(o, raw=False) as (a, b):
        result = _result(o, a, b, {"seconds": o.seconds, "reverse": o.reverse, "wait": o.wait})
        own, other = o.cpus()
        peer = None
        if b is not None:
            b.listen(_TCP_PORT)

            def far() -> dict[str, Any]:
                with _let_out(a):
                    stream = b.accept()
                    found = stream.bulk_send(o.seconds, o.slices) if o.reverse else stream.bulk_recv(o.seconds, o.slices)
                    b.finish()
                return found

            peer = _Peer(far, other)
            peer.start()
        got: dict[str, Any] | None = None
        try:
            with _let_out(b):
                stream = a.connect(_remote_ip(o, b), _TCP_PORT)
                with _measured(result, own):
                    found = stream.bulk_recv(o.seconds, o.slices) if o.reverse else stream.bulk_send(o.seconds, o.slices)
                    a.finish()
        finally:
            if peer is not None:
                got = peer.join()
        received = found if o.reverse or got is None else got
        result.seconds, result.bytes = received["seconds"], received["bytes"]
        result.slices = [
            {"received": 0, "sent": 0, **s, "ns": int(o.seconds * 1e9 / o.slices)} for s in received["slices"]
        ]
        result.drops = {"dev": a.drops()} | ({"peer": b.drops()} if b is not None else {})
        return result


def run(o: Options) -> Result:
    """Runs one benchmark to its end. Raises PybypassError; nothing stays open."""
    if o.kind == "tcp-rr":
        return _tcp_rr(o)
    if o.kind == "tcp-stream":
        return _tcp_stream(o)
    return _packets(o)


def serve(o: Options, stop: Stop) -> dict[str, Any]:
    """The other end, for `--to` from elsewhere: reflects packets (rtt), takes them (tx), answers requests (tcp-rr), takes
    streams (tcp-stream), one connection after another, until stop."""
    raw = o.kind in ("rtt", "tx")
    if raw and o.dev.startswith("kernel:") and o.to in (None, "0.0.0.0"):
        raise PybypassError.make(
            "PB040", errno.EINVAL, "no peer", hint="--to ADDRESS: the machine whose packets the socket is for"
        )
    with open_end(o.dev, netns=o.netns, index=1, ip=o.ip, udp_port=_DPORT, raw=raw, how=o.wait) as end:
        with pinned(o.cpu):
            if raw:
                device = end.device(ipaddress.ip_address(o.to or str(end.ip)), _DPORT, _SPORT)
                if o.kind == "rtt":
                    return device.reflect(stop)
                found = _sink(device, o, 0, 0, stop)
                return {"received": found["received"], "bytes": found["rx_bytes"]}
            end.listen(_TCP_PORT)
            served, failed, total = 0, 0, 0
            while not stop.is_set():
                try:
                    stream = end.accept(0.2)
                except TimeoutError:
                    continue
                served += 1
                try:
                    if o.kind == "tcp-rr":
                        stream.echo(stop)
                    else:
                        total += stream.bulk_recv(o.seconds, 1)["bytes"]
                    end.finish()
                except OSError:  # this client's end, not ours
                    failed += 1
            return {"connections": served, "failed": failed, "bytes": total}


def histogram_of(result: Result) -> Histogram:
    """All latencies of a result."""
    whole = Histogram()
    for part in result.latency:
        whole.merge(part)
    return whole
