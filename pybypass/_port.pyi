"""One queue of a device, and bursts of frames."""

from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pybypass._mem import Umem

BURST_MAX: int
TX_OFFSET: int
DESC_DTYPE: np.dtype[np.void]
CSUM_GOOD: int
CSUM_PARTIAL: int
VLAN: int
MORE: int
MARK: int
TS_SOURCES: tuple[str, ...]
HASH_TYPES: tuple[str, ...]

class Queue:
    """One receive and one transmit queue. Comes from pybypass.open(); one thread at a time may drive it.

    `mtu` is the largest IP packet in bytes, `mac` six bytes, `max_held` how many frames may be in bursts at once.
    """

    umem: Umem
    kind: str
    index: int
    mtu: int
    mac: bytes
    max_held: int
    @property
    def link_up(self) -> bool: ...
    @property
    def held_frames(self) -> int:
        """Frames in bursts that were not released or sent."""

    @property
    def live_views(self) -> int:
        """Views of frames that are alive."""

    @property
    def is_closed(self) -> bool: ...
    def fileno(self) -> int:
        """Polls readable when frames wait; -1 for a device without one."""

    def stats(self) -> dict[str, Any]:
        """rx_pkts, rx_bytes, tx_pkts, tx_bytes, rx_wakeups, tx_wakeups, rx_fill_empty, and drops by reason."""

    def rx_burst(self, n: int = 64) -> Burst:
        """Receives up to n (1 to 64) frames; the burst may be empty. Does not wait.

        Raises PybypassError: PB003 when more than `max_held` frames are in bursts, PB012 closed, PB013 an engine has
        the queue, PB014 another thread is in it, PB033 the device is gone. ValueError for n out of range.
        """

    def alloc_burst(self, n: int, length: int = 0) -> Burst:
        """n free frames to be filled and sent, data at offset 256, `length` bytes each. PB003 when the pool is empty."""

    def tx_burst(self, burst: Burst) -> int:
        """Hands frames to the device; returns how many it took. The burst then holds the rest, in order.

        Raises BufferError while views of the burst are alive, ValueError for a descriptor that leaves its frame,
        PybypassError PB010 when the frames are of another Umem, PB033 when the device is gone.
        """

    def reap(self) -> None:
        """Returns frames whose transmission is complete to the pool; rx and tx calls do it by themselves."""

    def close(self, force: bool = False) -> None:
        """Closes the device; BufferError while views of frames are alive, unless `force`: their memory stays, and they
        stay readable. Again does nothing."""

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

def open_mem(
    name: str,
    umem: Umem,
    *,
    ring: int = 1024,
    mtu: int = 1500,
    completion_delay_ns: int = 0,
    completion_reorder: bool = False,
    seed: int = 0,
    impair_rx: Any = None,
    impair_tx: Any = None,
) -> Queue:
    """One end of a mem: pair; use pybypass.open()."""

def adopt(capsule: object, umem: Umem, kind: str, *, impair_rx: Any = None, impair_tx: Any = None) -> Queue:
    """A queue from a capsule "pybypass.pb_dev.v1"; takes the device over."""
