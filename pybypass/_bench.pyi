"""The benchmark's loops in C: histograms, packet templates, devices under test, streams. Private but for Histogram."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pybypass._mem import Umem
from pybypass._port import Queue

SLICES_MAX: int
FIELDS_MAX: int
FORWARDS: dict[str, int]
SPIN: dict[str, int]

class Histogram:
    """Counts of unsigned values in HdrHistogram's buckets: exact below 2048, else to 1 part in 1024, up to 2**42."""

    def __len__(self) -> int: ...
    @property
    def min(self) -> int:
        """Exact; 0 when empty."""

    @property
    def max(self) -> int:
        """Exact; 0 when empty."""

    @property
    def mean(self) -> float: ...
    @property
    def over(self) -> int:
        """Values of 2**42 and more: counted in the last bucket."""

    def percentile(self, p: float) -> int:
        """The value of the smallest rank that is at least p percent of the count: the highest that its bucket stands
        for. 0 when empty; ValueError unless 0 <= p <= 100."""

    def record(self, values: npt.ArrayLike) -> None:
        """Adds values, any shape, taken as uint64."""

    def merge(self, other: Histogram) -> None:
        """Adds all of another."""

    def buckets(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """(lowest value of the bucket, count) of the buckets in use, in order; two arrays of one shape."""

class Stop:
    """Ends a loop, from any thread."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...

class Template:
    """A packet that is sent again and again. `fields`: (offset, bytes, 0 step or 1 random, low, high, step) each.

    Raises PybypassError PB040 for what cannot vary."""

    def __new__(
        cls, frame: bytes, fields: Sequence[tuple[int, int, int, int, int, int]], stamp_off: int, run: int, seed: int
    ) -> Template: ...
    def __len__(self) -> int: ...
    @property
    def stamp_off(self) -> int: ...
    @property
    def run(self) -> int: ...
    def write(self, seq: int, stamp_ns: int) -> bytes:
        """The next packet."""

class Device:
    """A device that the loops drive: a port's queue while this is open, or a kernel socket. Calls release the GIL."""

    headers: bool
    @staticmethod
    def of_queue(queue: Queue) -> Device: ...
    @staticmethod
    def of_socket(fd: int, umem: Umem, hdr_bytes: int, mtu: int) -> Device:
        """Takes the descriptor of a connected UDP socket over."""

    def close(self) -> None:
        """Gives the queue back, or closes the socket."""

    def stats(self) -> dict[str, Any]:
        """Queue.stats()."""

    def reflect(self, stop: Stop) -> dict[str, int]:
        """Sends UDP packets back until stop: received, sent, refused."""

    def forward(
        self,
        out: Device | None = None,
        *,
        how: str = "io",
        frame: bytes | None = None,
        duration_s: float = 0.0,
        burst: int = 64,
        stop: Stop | None = None,
    ) -> dict[str, Any]:
        """testpmd's loops, in C, for duration_s seconds or until stop: "io" (from here to `out`, or back; without descriptors
        where the devices can), "desc" (the same by descriptors), "macswap" (with the
        MAC addresses changed places), "rx" (received and dropped), "tx" (`frame` sent again and again). Both ends on one Umem.
        received, sent, dropped, rx_calls, rx_empty, tx_full, no_frame, seconds, busy_cycles. PB040, PB033."""

    def run(
        self,
        template: Template | None,
        *,
        interval_ns: float = 0.0,
        packets: int | None = None,
        duration_s: float,
        drain_s: float = 0.2,
        burst: int = 64,
        slices: int = 20,
        stamp_off: int = 0,
        run: int = 0,
        rx: bool = False,
        until_back: bool = False,
        stop: Stop | None = None,
    ) -> dict[str, Any]:
        """One measurement, see csrc/app/bench.h; the counters of struct pb_bench, with Histograms."""

    def bare(self, dst_mac: bytes, src: bytes, dst: bytes, sport: int, dport: int) -> Bare:
        """Opens a TCP connection without an engine, for the floor of a round trip (csrc/app/bare.h); IPv4, 4 bytes each."""

class Bare:
    def __new__(cls, device: Device, dst_mac: bytes, src: bytes, dst: bytes, sport: int, dport: int) -> Bare: ...
    def pingpong(self, n: int, nbytes: int) -> npt.NDArray[np.uint32]:
        """n round trips of nbytes (1 to 1400): ns each, shape (n,)."""

    def close(self) -> None:
        """Resets it; the device is free again."""

class Stream:
    """One end of a TCP connection, the engine's or the kernel's. Raises PybypassError as sockets do."""

    @staticmethod
    def of_engine(core: Any, number: int) -> Stream: ...
    @staticmethod
    def of_socket(sock: Any, how: str) -> Stream:
        """`how`: "block", "spin" or "yield"."""

    def requests(
        self,
        *,
        interval_ns: float = 0.0,
        requests: int | None = None,
        duration_s: float,
        nbytes: int,
        slices: int = 20,
    ) -> dict[str, Any]:
        """Requests and answers, see csrc/app/rr.h."""

    def bulk_send(self, duration_s: float, slices: int = 20) -> dict[str, Any]: ...
    def bulk_recv(self, duration_s: float, slices: int = 20) -> dict[str, Any]:
        """To the end of the stream."""

    def echo(self, stop: Stop) -> None:
        """Sends back what comes, to the end of the stream or until stop."""

def noise(seconds: float) -> tuple[Histogram, int]:
    """How long the calling thread was away from its core each time, ns (gaps of 200 ns and more), and how often a loop
    that reads the clock went round."""
