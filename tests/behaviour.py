"""What applications do with a connection, and what a link does to it, drawn by hypothesis. Two ends are driven by threads;
the bytes that come are those that were sent, and every run ends.

A failure prints the example and a line that replays it (`@reproduce_failure`); CI draws the same examples each time.
"""

import os
import random
import socket
import threading
import time
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import pybypass as pb

CALL_SECONDS = 15.0
RUN_SECONDS = 20.0
ENDS = ("shutdown", "shutdown", "shutdown", "close", "abort")


def profile(examples, **more):
    """So many examples, or PB_EXAMPLES times as many; the same in each run under CI."""
    return settings(
        max_examples=examples * int(os.environ.get("PB_EXAMPLES", "1")), deadline=None, print_blob=True,
        derandomize="CI" in os.environ, suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a smaller example would take as long as this one, many times
        **more,
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One end: what it sends, (bytes, flags, ms of rest) each; how it ends; how it reads."""

    sends: tuple[tuple[int, int, int], ...]
    end: str
    read_size: int
    rest_ms: int
    views: bool


def plans(ends=ENDS):
    size = st.one_of(st.integers(1, 300), st.integers(1000, 9000), st.sampled_from((1460, 2920, 40000, 100000)))
    step = st.tuples(size, st.sampled_from((0, 0, socket.MSG_MORE)), st.sampled_from((0, 0, 0, 1, 5)))
    return st.builds(
        Plan, sends=st.lists(step, max_size=6).map(tuple), end=st.sampled_from(ends),
        read_size=st.sampled_from((1 << 16, 5000, 700)), rest_ms=st.sampled_from((0, 0, 1, 3)), views=st.booleans(),
    )  # fmt: skip


def configs():
    """Settings of an engine, with timers short enough for a test."""
    return st.builds(
        pb.EngineConfig, sack=st.booleans(), timestamps=st.booleans(), window_scale=st.booleans(), nagle=st.booleans(),
        ecn=st.sampled_from((0, 1, 2)), dsack=st.booleans(), rack=st.booleans(), tlp=st.booleans(), frto=st.booleans(),
        acks=st.sampled_from(("linux", "bsd")), congestion=st.sampled_from(("cubic", "reno")),
        rcvbuf=st.sampled_from((8192, 30000, 1 << 20)), sndbuf=st.sampled_from((4096, 20000, 1 << 20)),
        mss=st.sampled_from((0, 0, 300, 536)), mtu_probing=st.sampled_from((0, 1, 2)),
        initial_cwnd=st.sampled_from((0, 1, 40)), rto_initial=st.just(0.05), rto_min=st.sampled_from((0.002, 0.02)),
        rto_max=st.just(0.5), cork_time=st.just(0.01), time_wait=st.just(0.05), fin_wait2=st.just(1.0),
        data_retries=st.just(30), syn_retries=st.just(30), synack_retries=st.just(30),
    )  # fmt: skip


def links():
    parts_per_million = st.sampled_from((0, 0, 5000, 40000))
    return st.builds(
        pb.Impairment, loss_ppm=parts_per_million, dup_ppm=parts_per_million, corrupt_ppm=parts_per_million,
        reorder_ppm=st.sampled_from((0, 20000, 100000)), reorder_ns=st.sampled_from((50_000, 1_500_000)),
        delay_ns=st.sampled_from((0, 20_000, 500_000)), jitter_ns=st.sampled_from((0, 100_000)),
        seed=st.integers(0, 1 << 30),
    )  # fmt: skip


class End:
    """Runs a plan over a Connection, or over a kernel's socket."""

    def __init__(self, conn, plan, seed):
        self.conn, self.plan = conn, plan
        rng = random.Random(seed)
        self.pieces = [rng.randbytes(n) for n, _, _ in plan.sends]
        self.received = bytearray()
        self.eof = False
        self.failures = []
        conn.settimeout(CALL_SECONDS)
        self._threads = [
            threading.Thread(target=self._guard, args=(f,), daemon=True) for f in (self._write, self._read)
        ]

    def _guard(self, function):
        try:
            function()
        except BaseException as e:  # told by check()
            self.failures.append(e.with_traceback(None))

    def _write(self):
        for data, (_, flags, rest_ms) in zip(self.pieces, self.plan.sends, strict=True):
            self.conn.sendall(data, flags)
            time.sleep(rest_ms / 1000)
        if self.plan.end == "abort":
            self._reset()
        else:
            self.conn.shutdown(socket.SHUT_WR)

    def _reset(self):
        if isinstance(self.conn, socket.socket):
            self.conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.conn.close()
        else:
            self.conn.abort()

    def _read(self):
        held = []
        rests = 50
        try:
            while not self.eof:
                data = self._piece(held)
                self.eof = not data
                self.received += data
                if rests and self.plan.rest_ms:
                    rests -= 1
                    time.sleep(self.plan.rest_ms / 1000)
        finally:
            held.clear()  # what pins a frame keeps its port open

    def _piece(self, held):
        if not self.plan.views or isinstance(self.conn, socket.socket):
            return self.conn.recv(self.plan.read_size)
        view = self.conn.recv_view()
        if view is None:
            return b""
        # What was handed up stays as it was while it is held. No more: the least receive buffer has four frames.
        held.append((view, bytes(view)))
        if len(held) > 1:
            old, copy = held.pop(0)
            assert bytes(old) == copy
        return bytes(view)

    def start(self):
        for t in self._threads:
            t.start()

    def join(self, until):
        for t in self._threads:
            t.join(max(until - time.monotonic(), 0))
            assert not t.is_alive(), f"this end still runs after {RUN_SECONDS:.0f} s: {self.plan}"


def run(a, b):
    """Both ends at once. Bytes are a prefix of what was sent where an end aborts, and all of it where none does."""
    until = time.monotonic() + RUN_SECONDS
    for end in (a, b):
        end.start()
    for end in (a, b):
        end.join(until)
    aborted = "abort" in (a.plan.end, b.plan.end)
    for end, other in ((a, b), (b, a)):
        sent = b"".join(other.pieces)
        assert sent.startswith(bytes(end.received))
        if aborted:
            assert all(isinstance(e, OSError) for e in end.failures), end.failures
        else:
            assert not end.failures, end.failures
            assert end.eof and len(end.received) == len(sent)
    for end in (a, b):
        end.conn.close()
