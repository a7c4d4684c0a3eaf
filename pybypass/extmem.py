"""Memory of the application in packets that a DPDK port sends, without a copy."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import dpdk
from ._burst import Burst
from ._port import Queue
from .errors import PybypassError

if TYPE_CHECKING:
    from .dpdkport import DpdkPort

__all__ = ["ExternalMemory", "dma_hint", "not_registered"]

# Memory that a driver may still read from, for as long as the process lives.
_NOT_GIVEN_BACK: list[ExternalMemory] = []


def dma_hint(number: int) -> str:
    """What to do when the kernel does not map memory for a device (drivers/vfio/vfio_iommu_type1.c): it counts pinned pages as
    locked memory, and mappings up to a limit that each container has from when it was opened."""
    if number == errno.ENOMEM:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        amount = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit >> 10} KiB"
        return f"RLIMIT_MEMLOCK is {amount}: ulimit -l unlimited (systemd: LimitMEMLOCK=infinity), or CAP_IPC_LOCK"
    if number == errno.ENOSPC:
        return (
            "fewer and larger pieces, or before the process starts a larger number in "
            "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
        )
    return ""


def not_registered(e: OSError, device: str) -> PybypassError:
    """The error of External(), typed."""
    words, number = dpdk.drain_log(), e.errno or errno.EIO
    text = f"external memory of {device}: {e.strerror}"
    if isinstance(e, PybypassError):
        return e
    if getattr(e, "stage", "") == "dma":
        text += f" ({words[0]})" if words else ""
        return PybypassError.make("PB104", number, text, hint=dma_hint(number), detail={"log": words})
    hint = "DPDK has room for about 100 pieces of memory: fewer and larger ones" if number == errno.ENOSPC else ""
    if number == errno.EOPNOTSUPP and dpdk.info()["iova"] == "pa":
        hint = "its pages lie here and there in physical memory: bind the device to vfio-pci, behind an IOMMU"
    return PybypassError.make("PB033" if number == errno.ENODEV else "PB094", number, text, hint=hint, detail={"log": words})


class ExternalMemory:
    """Memory of the application, known to DPDK and to the port's device (DPDK Programmer's Guide, external buffers)."""

    def __init__(self, port: DpdkPort, native: Any) -> None:
        self._port, self._native = port, native
        port._children.append(self)

    @property
    def in_flight(self) -> int:
        """Packets from it that the device has not sent yet: what they hold must not change until then."""
        return int(self._native.in_flight)

    def send(self, queue: Queue, offsets: Sequence[int], lengths: Sequence[int], heads: Burst | None = None) -> int:
        """Sends up to 64 packets, piece i being `lengths[i]` bytes at `offsets[i]`. `heads`: a burst with a frame for each, which
        goes in front of it (a port opened with segs=1); it keeps those that were not taken. Each packet uses a frame of the
        port as its handle until it was sent. Returns how many the device took.

        PB094: a piece leaves the memory or is too long for the MTU, or chains are not granted; PB003: no frame is free; PB033;
        PB064: a head asks for a checksum, a stamp or a launch time.
        """
        try:
            return int(
                self._native.send(queue, np.asarray(offsets, dtype=np.uint64), np.asarray(lengths, dtype=np.uint32), heads)
            )
        except PybypassError:
            raise
        except OSError as e:
            code = {errno.ENOBUFS: "PB003", errno.ENODEV: "PB033"}.get(e.errno or 0, "PB094")
            text = {
                errno.ERANGE: "a piece leaves the memory, or its packet the MTU", errno.ENOTSUP: "heads need segs=1",
                errno.EINVAL: "not a queue of this port, or one behind an impairment",
            }  # fmt: skip
            raise PybypassError.make(code, e.errno or 0, text.get(e.errno or 0, e.strerror or "")) from None

    def close(self) -> None:
        """Lets go of the memory; again does nothing. BufferError while packets are in flight."""
        try:
            self._native.close()
        except PybypassError:
            raise
        except OSError:
            raise BufferError(f"{self.in_flight} packets are in flight") from None
        if self in self._port._children:
            self._port._children.remove(self)

    def _close(self, linger: float, force: bool) -> None:
        with contextlib.suppress(BufferError, PybypassError):
            self.close()

    def keep(self) -> None:
        """The port is closed, and its driver has not given everything back."""
        _NOT_GIVEN_BACK.append(self)

    def __enter__(self) -> ExternalMemory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
