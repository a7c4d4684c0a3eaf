"""Bursts of frames and what is based on them: descriptors, views, packets of several frames."""

from types import TracebackType

import numpy as np
import numpy.typing as npt

from pybypass._mem import Umem
from pybypass._port import Queue

BURST_MAX: int
DESC_DTYPE: np.dtype[np.void]
CSUM_GOOD: int
CSUM_PARTIAL: int
VLAN: int
MORE: int
MARK: int
TX_STAMP: int
LAUNCH: int
PACKET_DTYPE: np.dtype[np.void]
TS_SOURCES: tuple[str, ...]
HASH_TYPES: tuple[str, ...]

class Lender:
    """Whose frames a burst has: the base of Queue."""

    umem: Umem

class Burst:
    """Up to 64 frames that belong to the application until they are released or sent."""

    queue: Queue
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __enter__(self) -> Burst: ...
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def desc(self) -> npt.NDArray[np.void]:
        """The descriptors: shape (len,), dtype DESC_DTYPE, writable, no copy.

        addr: offset of the frame in the Umem. ts_ns: receive time in ns, its clock is TS_SOURCES[ts_source]. hash:
        receive hash of kind HASH_TYPES[hash_type]. len, off: bytes of data and where they start. vlan: TCI when flags
        has VLAN. flags: CSUM_GOOD, CSUM_PARTIAL, VLAN, MORE, MARK. queue: queue number.

        To be sent: CSUM_PARTIAL asks for the checksum over the bytes from `hash & 0xffff` on, stored `hash >> 16` bytes
        behind that, where the pseudo header's sum lies (in copy mode only for packets of one frame; others are dropped and
        counted as tx_bad); TX_STAMP for a time stamp; LAUNCH for sending at ts_ns.
        """

    def packets(self) -> npt.NDArray[np.void]:
        """The packets: shape (packets,), dtype PACKET_DTYPE: first frame, count of frames, bytes. ValueError when the last
        one has no end (flags edited by hand: a received burst holds whole packets only)."""

    def copy_packet(self, k: int) -> npt.NDArray[np.uint8]:
        """A copy of packet k of packets(), whatever number of frames it has; shape (bytes,)."""

    def write_packet(self, first: int, data: bytes | bytearray | memoryview) -> int:
        """Copies data into the frames from `first` on, as one packet, and returns how many frames it has.

        ValueError when it does not fit the burst: alloc_burst(-(-len(data) // queue.frame_room)) has enough.
        """

    @property
    def live_views(self) -> int: ...
    def view(self, i: int) -> npt.NDArray[np.uint8]:
        """The data of frame i without a copy, shape (len,). The frame is pinned while the array lives."""

    def payload(self, i: int) -> memoryview:
        """The data of frame i without a copy. The frame is pinned while the view lives."""

    def write(self, i: int, data: bytes | bytearray | memoryview) -> None:
        """Copies data into frame i at its offset and sets its length; ValueError when it does not fit."""

    def release(self) -> None:
        """Returns the frames to the pool; BufferError while views are alive. Again does nothing; other access raises."""
