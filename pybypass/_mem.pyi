"""Frame pools, drop reasons and live handles."""

from typing import Any

DPDK_LEAD: int
PAGE_KINDS: tuple[str, ...]

class Umem:
    """Memory cut into frames of equal size, which devices write and read.

    `frames` 64 to 4,194,304; `frame_bytes` 2048 or 4096; `pages` "best" (reserved 2 MiB pages, else transparent huge
    pages, else 4 KiB), "hugetlb" (also reserved ones of 1 GiB, each taken whole), "thp" or "4k". `unaligned`: frames for AF_XDP's unaligned mode, whose size may be any
    multiple of 64 from 2048 to 4096 (a frame may lie across two pages: zero-copy drivers want huge pages then). `dpdk`: the
    first 192 bytes of each frame are kept for an mbuf, so that dpdk: ports can use it (and xdp: ports cannot). `node`: the NUMA node
    that the memory comes from while it has some (None: as the thread's policy is; dpdk: ports take their device's). The memory lives until the last device, burst and view of it is gone.

    Raises ValueError for arguments out of range, PybypassError PB001 (no memory) or PB002 (no reserved huge pages).
    """

    unaligned: bool
    dpdk: bool
    def __new__(
        cls,
        *,
        frames: int = 8192,
        frame_bytes: int = 2048,
        pages: str = "best",
        unaligned: bool = False,
        dpdk: bool = False,
        node: int | None = None,
    ) -> Umem: ...
    def info(self) -> dict[str, Any]:
        """frames, frame_bytes, lead (bytes of a frame before its data), node (NUMA node of its first page, or None), region_bytes, pages ("4k", "thp", "hugetlb"), unaligned, debug, owners, violations.

        `owners` counts the frames of each owner (free, fill, rx, app, engine, tx); their sum is `frames`. `violations`
        counts forbidden changes of owner, seen only in debug builds.
        """

    def capsule(self) -> object:
        """The pool as a capsule "pybypass.pb_pool.v1", for devices built outside this package."""

def drop_reasons() -> dict[str, str]:
    """Why a packet may be dropped: stable name -> explanation."""

def live_handles() -> dict[str, int]:
    """How many regions, pools, rings, devices, links, engines, paths and loops exist."""
