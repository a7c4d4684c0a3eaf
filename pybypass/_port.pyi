"""One queue of a device."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pybypass._burst import CSUM_PARTIAL as CSUM_PARTIAL
from pybypass._burst import LAUNCH as LAUNCH
from pybypass._burst import TX_STAMP as TX_STAMP
from pybypass._burst import Burst, Lender
from pybypass._mem import Umem

TX_OFFSET: int
STAMP_DTYPE: np.dtype[np.void]

class Queue(Lender):
    """One receive and one transmit queue. Comes from pybypass.open(); one thread at a time may drive it.

    `mtu` is the largest IP packet in bytes, `mac` six bytes, `max_held` how many frames may be in bursts at once. `index`
    is the NIC's queue and `member` which of its sockets (0 unless there are several). A packet has up to `chain_max`
    frames; with more than one, rx_burst() wants to be asked for at least that many. `tx_flags`: which of CSUM_PARTIAL,
    TX_STAMP and LAUNCH a packet may ask for. `tx_chains`: an engine sends a segment again while the device holds it without
    a copy, behind a header of its own. `report`: what the device granted.
    """

    kind: str
    index: int
    mtu: int
    mac: bytes
    max_held: int
    member: int
    chain_max: int
    tx_flags: int
    tx_chains: bool
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

    def look(self) -> None:
        """Reads `mtu` from the device again. PB013 while an engine has it."""

    @property
    def is_closed(self) -> bool: ...
    def fileno(self) -> int:
        """Polls readable when frames wait; -1 for a device without one."""

    def stats(self) -> dict[str, Any]:
        """rx_pkts, rx_bytes, tx_pkts, tx_bytes, rx_wakeups, tx_wakeups, rx_fill_empty, tx_stamps_lost (packets with TX_STAMP of which
        no stamp will come, see tx_timestamps()), and drops by reason."""

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
        TS_SOURCES[source]: "hardware" (the NIC's), or "kernel" (CLOCK_TAI at completion, in copy mode). PB064 where it is
        not granted (xdp: tx_meta=1, dpdk: stamp=1). Packets without a stamp are in stats()["tx_stamps_lost"]: on dpdk:
        the NIC has one register for the port, so what asks while another packet's time is waited for is sent without, and
        one that did not come is given up when four times the ring was sent after it, or at a stop. Source: kernel,
        networking/xsk-tx-metadata; DPDK, rte_eth_timesync_read_tx_timestamp().
        """

    def reap(self) -> None:
        """Returns frames whose transmission is complete to the pool; rx and tx calls do it by themselves."""

    def close(self, force: bool = False) -> None:
        """Closes the device; BufferError while views of frames are alive, unless `force`: their memory stays, and they
        stay readable. Again does nothing."""

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
