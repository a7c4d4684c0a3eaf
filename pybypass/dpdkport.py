"""DPDK ports: queues of an ethdev port behind the same Port, Queue and Burst as all others."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import dpdk, owned_ports
from ._mem import Umem
from ._port import Queue
from ._wire import toeplitz
from .dpdkrss import RSS_GROUPS, rss_types, types_of
from .errors import PybypassError
from .extmem import ExternalMemory, not_registered
from .neighbours import IpAddress
from .ports import XDP_OPENING, Port

if TYPE_CHECKING:
    from .flowtable import DpdkFlows

__all__ = ["RSS_GROUPS", "DpdkPort", "rss_types"]


_KEY_BYTES = 40  # for two IPv6 addresses and two ports


@dataclass(frozen=True, kw_only=True)
class _Spread:
    key: bytes
    types: frozenset[str]
    table: list[int]


class DpdkPort(Port):
    """Queues of a DPDK port. `report`: driver, MTU and its limits, descriptors, queues, RSS, and under "offloads" what was asked
    for, what was granted and what that means."""

    def __init__(self, uri: str, queues: list[Queue], umem: Umem, report: dict[str, Any], handle: Any, netns: Any) -> None:
        super().__init__(uri, "dpdk", queues, umem, report)
        self.handle = handle
        self.netns = netns
        self._pid = os.getpid()
        self._ended = False
        self._lock = threading.RLock()
        self._flows: DpdkFlows | None = None
        self._spread: _Spread | None = self._read_spread()
        dpdk.register(self)

    @contextmanager
    def _call(self, what: str) -> Iterator[Any]:
        """A control call: errors typed, the log handed on, and in the right network namespace."""
        if os.getpid() != self._pid:
            raise PybypassError.make("PB015", errno.EBADF)
        if self.closed:
            raise PybypassError.make("PB012", errno.EBADF)
        try:
            with self._lock, self.netns if self.netns is not None else nullcontext():
                yield self.handle
        except OSError as e:
            words = dpdk.drain_log()
            if isinstance(e, PybypassError):
                raise
            code = "PB033" if e.errno == errno.ENODEV else "PB107" if self._is_stuck(e) else "PB094"
            text = f"{what} of {self.report['device']} ({self.report['driver']}): {e.strerror}"
            raise PybypassError.make(code, e.errno or 0, text, detail={"log": words}) from None
        dpdk.drain_log()

    def _is_stuck(self, e: OSError) -> bool:
        """Nothing else of this driver takes long."""
        return e.errno == errno.ETIMEDOUT and self.report["driver"] == "net_memif"

    @property
    def mode(self) -> str:
        return f"dpdk {self.report['driver']}"

    # ---- control ----

    def stop(self) -> None:
        """Stops the port: its queues receive nothing and take nothing to send until start(). Engines on it see lost packets."""
        with self._call("stop") as handle:
            handle.stop()

    def start(self) -> None:
        """Starts a port that was stopped. PB094 when the driver refuses."""
        with self._call("start") as handle:
            handle.start()

    def remove(self) -> None:
        """Takes the device out of DPDK from under its queues, as pulling it would: they raise PB033 from then on."""
        with self._call("remove") as handle:
            handle.remove()

    def link(self) -> dict[str, Any]:
        """up, speed_mbps (None: not known), full_duplex: as of now."""
        with self._call("link") as handle:
            found = handle.look()
            return {"up": found["link_up"], "speed_mbps": found["speed_mbps"], "full_duplex": found["full_duplex"]}

    def set_link(self, up: bool) -> None:
        """Sets the link up or down. PB094 where the driver cannot."""
        with self._call("set_link") as handle:
            handle.set("link_up", int(up))

    @property
    def promiscuous(self) -> bool:
        """Whether frames for other MAC addresses are received; may be set."""
        with self._call("promiscuous") as handle:
            return bool(handle.get("promiscuous"))

    @promiscuous.setter
    def promiscuous(self, on: bool) -> None:
        with self._call("promiscuous") as handle:
            handle.set("promiscuous", int(on))

    @property
    def allmulticast(self) -> bool:
        """Whether all multicast frames are received; may be set."""
        with self._call("allmulticast") as handle:
            return bool(handle.get("allmulticast"))

    @allmulticast.setter
    def allmulticast(self, on: bool) -> None:
        with self._call("allmulticast") as handle:
            handle.set("allmulticast", int(on))

    def set_mtu(self, mtu: int) -> None:
        """An MTU up to the one that the port was opened with (its rings and frames were chosen for that), for engines opened
        from now on. PB013 while an engine has a queue, PB094 also from drivers that want stop() first."""
        with self._call(f"MTU {mtu}") as handle:
            for queue in self.queues:
                queue.look()
            handle.set("mtu", mtu)
            for queue in self.queues:
                queue.look()
            self.report["mtu"] = mtu

    def hardware_stats(self) -> dict[str, int]:
        """DPDK's basic counters: rx_pkts, tx_pkts, rx_bytes, tx_bytes, rx_missed (no descriptor was free), rx_errors,
        tx_errors, rx_no_frame (the pool was empty)."""
        with self._call("statistics") as handle:
            return dict(handle.stats())

    def xstats(self) -> dict[str, int]:
        """The driver's extended statistics by their names."""
        with self._call("extended statistics") as handle:
            return dict(handle.xstats())

    def reset_stats(self) -> None:
        """Sets hardware_stats() and xstats() to zero. PB094 where the driver cannot."""
        with self._call("reset of statistics") as handle:
            handle.stats_reset()

    def pool(self) -> dict[str, Any]:
        """frames, in_use (that DPDK has: on receive rings, and sent and not completed), cached (free, and at hand for one
        thread: each that has used the port keeps up to 384, or 96 of a pool below 4096 frames, until it ends), recovered (not
        given back by a driver that was closed), numa_node, iova."""
        with self._call("pool") as handle:
            return dict(handle.pool())

    def clock(self) -> tuple[int, str]:
        """The NIC's clock, and whether that is "nanoseconds" or "cycles". PB094 where there is none."""
        with self._call("clock") as handle:
            value, unit = handle.clock()
            return value, unit

    def rx_time(self) -> int | None:
        """When the last packet came in that the NIC stamps by itself (IEEE 1588 packets, with stamp=1), ns of its clock; None:
        none since the last call. PB094 where the port has no timesync. DPDK Programmer's Guide, ethdev timesync."""
        with self._call("timesync") as handle:
            try:
                return int(handle.timesync_rx())
            except OSError as e:
                if e.errno == errno.EINVAL:
                    return None
                raise

    def register(self, buffer: Any) -> ExternalMemory:
        """Memory of yours that packets are then sent from without a copy: a C-contiguous buffer of bytes, its address and size
        multiples of 4096 (mmap.mmap(-1, n) is such). With vfio-pci its pages are pinned until close(), and count as locked
        memory of this process. PB094: not so; net_af_xdp, and all ports with physical addresses (uio), which cannot. PB104: the
        kernel does not let the device have it, and nothing of it is registered."""
        with self._call("external memory") as handle:
            try:
                return ExternalMemory(self, dpdk.module().External(handle, buffer))
            except OSError as e:
                raise not_registered(e, self.report["device"]) from None

    # ---- RSS ----

    def rss(self) -> tuple[bytes, list[str]]:
        """The key and the hash types in use, read from the port. PB094 where it has none."""
        with self._call("RSS") as handle:
            key, types = handle.rss_get()
            return key, types

    def set_rss(self, types: Iterable[str], key: bytes | None = None) -> list[str]:
        """Sets the hash types (names or groups), of which the port takes those that it can do, and the key (None: as it is).
        Returns the types that were set. PB094: none of them, or a key of another length."""
        wanted = types_of("+".join(types))
        with self._call("RSS") as handle:
            granted = [name for name in wanted if name in self.report["rss_known"]]
            if wanted and not granted:
                raise OSError(errno.EOPNOTSUPP, f"{', '.join(wanted)}: it knows {', '.join(self.report['rss_known']) or 'none'}")
            handle.rss_set(key, granted)
        self._spread = self._read_spread()
        return granted

    def rss_table(self) -> list[int]:
        """The indirection table: a queue for each of report["rss_table_size"] values of the hash. PB094."""
        with self._call("RSS table") as handle:
            return list(handle.reta_get())

    def set_rss_table(self, table: Sequence[int]) -> None:
        """Sets the indirection table. PB094: another length, a queue that is not there, or a driver that cannot."""
        if not all(isinstance(q, int) and 0 <= q <= 65535 for q in table):
            raise PybypassError.make("PB094", errno.EINVAL, "the table holds numbers of queues")
        with self._call("RSS table") as handle:
            handle.reta_set(table)
        self._spread = self._read_spread()

    def _read_spread(self) -> _Spread | None:
        """How flows are spread now; None: one queue, or the port does not say."""
        if len(self.queues) < 2 or not self.report["rss"]:
            return None
        try:
            (key, types), table = self.handle.rss_get(), self.handle.reta_get()
        except OSError:
            return None
        return _Spread(key=key, types=frozenset(types), table=table) if len(key) >= _KEY_BYTES and table else None

    @property
    def picks_ports(self) -> bool:
        return len(self.queues) > 1

    def hold(self, ip: IpAddress, port: int) -> tuple[int, Any]:
        """Engines on other queues of this port may listen at the same one, and choose others to open connections from."""
        if not self.picks_ports:
            return port, None
        return owned_ports.take((-1 - self.report["port_id"], ip), port, shared=True)

    def reaches(self, queue: Queue, remote: tuple[IpAddress, int], local: tuple[IpAddress, int]) -> bool:
        """By the port's key and table, where it shows them."""
        if self._spread is None:
            return True
        spread = self._spread
        words = remote[0].packed + local[0].packed
        if f"ipv{remote[0].version}-tcp" in spread.types:
            words += remote[1].to_bytes(2, "big") + local[1].to_bytes(2, "big")
        return spread.table[toeplitz(spread.key, words) % len(spread.table)] == queue.index

    def _flow_table(self) -> DpdkFlows:
        from .flowtable import DpdkFlows  # it knows what a port is

        if self._flows is None:
            self._flows = DpdkFlows(self, self.handle)
        return self._flows

    # ---- the end ----

    def stats(self) -> dict[str, Any]:
        """Port.stats(), with `rx_ring` among the drops and `rx_fill_empty` as the port counts them."""
        with self._lock:
            return super().stats()

    def _close(self, force: bool) -> None:
        if os.getpid() != self._pid:  # in a forked child nobody lets go of a lock that another thread had
            self._close_locked(force)
            return
        with XDP_OPENING, self._lock:
            self._close_locked(force)

    def _close_locked(self, force: bool) -> None:
        if self._ended:
            return
        ours = os.getpid() == self._pid
        with self.netns if self.netns is not None and ours else nullcontext():
            lent = [child for child in self._children if isinstance(child, ExternalMemory)]
            super()._close(force)
            self._ended = True
            if ours and any(memory.in_flight for memory in lent):
                with contextlib.suppress(OSError):
                    self.handle.stop()  # what the driver has not sent it gives back now
            for memory in lent:
                memory._close(0.0, force)
                if ours and memory.in_flight:
                    memory.keep()
                    dpdk.log.warning("%s: %d packets from external memory were never given back", self.uri, memory.in_flight)
            if ours:
                try:
                    self.handle.close()
                except OSError as e:
                    raise PybypassError.make("PB107", e.errno or 0, f"{self.report['device']} was not closed") from None
                finally:
                    dpdk.drain_log()
            else:
                self.handle.forget()
