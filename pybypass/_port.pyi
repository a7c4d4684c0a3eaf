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
TX_STAMP: int
LAUNCH: int
PACKET_DTYPE: np.dtype[np.void]
STAMP_DTYPE: np.dtype[np.void]
TS_SOURCES: tuple[str, ...]
HASH_TYPES: tuple[str, ...]

class Queue:
    """One receive and one transmit queue. Comes from pybypass.open(); one thread at a time may drive it.

    `mtu` is the largest IP packet in bytes, `mac` six bytes, `max_held` how many frames may be in bursts at once. `index`
    is the NIC's queue and `member` which of its sockets (0 unless there are several). A packet has up to `chain_max`
    frames; with more than one, rx_burst() wants to be asked for at least that many. `tx_flags`: which of CSUM_PARTIAL,
    TX_STAMP and LAUNCH a packet may ask for. `report`: what the device granted.
    """

    umem: Umem
    kind: str
    index: int
    mtu: int
    mac: bytes
    max_held: int
    member: int
    chain_max: int
    tx_flags: int
    report: dict[str, Any]
    port_ref: Any
    @property
    def port(self) -> Any:
        """The Port that it is a queue of; None when that is gone."""

    @property
    def frame_room(self) -> int:
        """Bytes of a packet that one frame of alloc_burst() holds."""

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
        the queue, PB014 another thread is in it, PB033 the device is gone, PB063 the next packet has more than n frames.
        ValueError for n out of range.
        """

    def alloc_burst(self, n: int, length: int = 0) -> Burst:
        """n free frames to be filled and sent, data at offset 256, `length` bytes each. PB003 when the pool is empty."""

    def tx_burst(self, burst: Burst) -> int:
        """Hands frames to the device; returns how many it took. The burst then holds the rest, in order.

        Raises BufferError while views of the burst are alive, ValueError for a descriptor that leaves its frame,
        PybypassError PB010 when the frames are of another Umem, PB033 when the device is gone, PB064 when a packet asks for
        what `tx_flags` has not. A packet of several frames (MORE) is taken whole or not at all.
        """

    def not_granted(self, flags: int) -> Exception:
        """The error PB064 for those flags."""

    def tx_timestamps(self) -> npt.NDArray[np.void]:
        """When packets left that were sent with TX_STAMP: those completed since the last call, at most 4096, oldest first.

        Shape (n,), dtype STAMP_DTYPE: seq (which packet of this queue, from 0), addr of its first frame, ns, and the clock
        TS_SOURCES[source]: "hardware" (the NIC's), or "kernel" (CLOCK_TAI at completion, in copy mode). PB064 without
        tx_meta=1. Source: kernel, networking/xsk-tx-metadata.
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

def adopt(
    capsule: object, umem: Umem, kind: str, *, member: int = 0, impair_rx: Any = None, impair_tx: Any = None
) -> Queue:
    """A queue from a capsule "pybypass.pb_dev.v1"; takes the device over."""
