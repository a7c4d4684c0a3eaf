"""DPDK ports: queues of an ethdev port behind the same Port, Queue and Burst as all others."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _port, dpdk, owned_ports
from ._burst import Burst
from ._mem import Umem
from ._port import Queue
from ._wire import toeplitz
from .errors import PybypassError
from .neighbours import IpAddress
from .ports import Impairment, Port, Uri, umem_for

if TYPE_CHECKING:
    from .flowtable import DpdkFlows

__all__ = ["RSS_GROUPS", "DpdkPort", "ExternalMemory", "open_dpdk"]

_OURS = (
    "frames", "frame", "pages", "queues", "rx_desc", "tx_desc", "mtu", "promisc", "allmulti", "csum", "vlan_strip", "stamp",
    "launch", "segs", "rss", "rss_key",
)  # fmt: skip
_L4 = ("ipv4-tcp", "ipv4-udp", "ipv6-tcp", "ipv6-udp")
_L3 = ("ipv4", "ipv4-frag", "ipv4-other", "ipv6", "ipv6-frag", "ipv6-other")
RSS_GROUPS: dict[str, tuple[str, ...]] = {"none": (), "ip": _L3, "l4": _L4, "all": (*_L3, *_L4)}
"""What rss= takes besides the names of single hash types (pybypass.dpdkport.rss_types())."""

_PCI = re.compile(r"([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$")
_STAGE_CODES = {
    "eal": "PB090", "config": "PB010", "probe": "PB092", "queues": "PB094", "rings": "PB094", "memory": "PB093",
    "mtu": "PB027", "configure": "PB094", "setup": "PB094", "start": "PB094",
}  # fmt: skip
_RX = {"csum": ("ipv4_cksum", "udp_cksum", "tcp_cksum"), "vlan_strip": ("vlan_strip",), "stamp": ("timestamp",)}
_TX = {"csum": ("ipv4_cksum", "udp_cksum", "tcp_cksum"), "launch": ("send_on_timestamp",), "segs": ("multi_segs",)}
_PATIENCE_S = 2.0
# What the kernel keeps free in a frame, or its ring's frame size, makes 2048 too small for an MTU of 1500.
_LARGE = ("net_af_xdp", "net_af_packet")
_KERNEL = (*_LARGE, "net_tap")
_MEANS = {
    ("rx_csum", True): "checksums of received packets are the NIC's: CSUM_GOOD is set and nobody sums again",
    ("rx_csum", False): "checksums of received packets are verified in software",
    ("tx_csum", True): "a descriptor may ask for CSUM_PARTIAL; engines sum by themselves while they copy",
    ("tx_csum", False): "checksums are made in software; CSUM_PARTIAL is refused (PB064)",
    ("rx_hash", True): "the NIC's hash is in the descriptor",
    ("rx_hash", False): "descriptors have no hash; with several queues the NIC may still spread by one",
    ("vlan_strip", True): "the tag is in the descriptor (VLAN), not in the frame",
    ("vlan_strip", False): "the tag stays in the frame",
    ("stamp", True): "ts_ns is the NIC's clock (ts_source hardware)",
    ("stamp", False): "ts_ns is CLOCK_MONOTONIC of the burst (ts_source user)",
    ("tx_stamp", True): "a descriptor may ask for TX_STAMP, one at a time: Queue.tx_timestamps()",
    ("tx_stamp", False): "TX_STAMP is refused (PB064)",
    ("launch", True): "LAUNCH sends at ts_ns of the NIC's clock",
    ("launch", False): "LAUNCH is refused (PB064)",
    ("segs", True): "packets may be sent from several frames (MORE), as mbuf chains",
    ("segs", False): "each packet is sent from one frame",
    ("scatter", True): "a packet may come in several frames (MORE), at most Queue.chain_max",
    ("scatter", False): "each packet comes in one frame",
    ("tso", False): "not used: engines cut segments themselves",
}  # fmt: skip


def rss_types() -> list[str]:
    """The names of the hash types that rss= takes."""
    return list(dpdk.module().RSS_TYPES)


# Memory that a driver may still read from, for as long as the process lives.
_NOT_GIVEN_BACK: list[ExternalMemory] = []


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

        PB094: a piece leaves the memory or is too long for the MTU, or chains are not granted; PB003: no frame is free; PB033.
        """
        try:
            return int(
                self._native.send(queue, np.asarray(offsets, dtype=np.uint64), np.asarray(lengths, dtype=np.uint32), heads)
            )
        except PybypassError:
            raise
        except OSError as e:
            code = {errno.ENOBUFS: "PB003", errno.ENODEV: "PB033"}.get(e.errno or 0, "PB094")
            text = {errno.ERANGE: "a piece leaves the memory, or its packet the MTU", errno.ENOTSUP: "heads need segs=1"}
            raise PybypassError.make(code, e.errno or 0, text.get(e.errno or 0, e.strerror or "")) from None

    def close(self) -> None:
        """Lets go of the memory; again does nothing. BufferError while packets are in flight."""
        try:
            self._native.close()
        except OSError:
            raise BufferError(f"{self.in_flight} packets are in flight") from None
        if self in self._port._children:
            self._port._children.remove(self)

    def _close(self, linger: float, force: bool) -> None:
        with contextlib.suppress(BufferError):
            self.close()

    def __enter__(self) -> ExternalMemory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class DpdkPort(Port):
    """Queues of a DPDK port. `report`: driver, MTU and its limits, descriptors, queues, RSS, and under "offloads" what was asked
    for, what was granted and what that means."""

    def __init__(self, uri: str, queues: list[Queue], umem: Umem, report: dict[str, Any], handle: Any, netns: Any) -> None:
        super().__init__(uri, "dpdk", queues, umem, report)
        self.handle = handle
        self.netns = netns
        self._pid = os.getpid()
        self._ended = False
        self._flows: DpdkFlows | None = None
        self._spread: tuple[bytes, list[int]] | None = self._read_spread()
        dpdk.register(self)

    @contextmanager
    def _call(self, what: str) -> Iterator[Any]:
        """A control call: errors typed, the log handed on, and in the right network namespace."""
        if os.getpid() != self._pid:
            raise PybypassError.make("PB015", errno.EBADF)
        if self.closed:
            raise PybypassError.make("PB012", errno.EBADF)
        try:
            with self.netns if self.netns is not None else nullcontext():
                yield self.handle
        except OSError as e:
            words = dpdk.drain_log()
            if isinstance(e, PybypassError):
                raise
            code = "PB033" if e.errno == errno.ENODEV else "PB094"
            text = f"{what} of {self.report['device']} ({self.report['driver']}): {e.strerror}"
            raise PybypassError.make(code, e.errno or 0, text, detail={"log": words}) from None
        dpdk.drain_log()

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
        """A smaller MTU than the port was opened with (its rings and frames were chosen for that). PB094 also from drivers
        that want stop() first."""
        with self._call(f"MTU {mtu}") as handle:
            handle.set("mtu", mtu)

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
        """frames, in_use (that DPDK has: on receive rings, and sent and not completed), recovered, numa_node, iova."""
        with self._call("pool") as handle:
            return dict(handle.pool())

    def clock(self) -> tuple[int, str]:
        """The NIC's clock, and whether that is "nanoseconds" or "cycles". PB094 where there is none."""
        with self._call("clock") as handle:
            value, unit = handle.clock()
            return value, unit

    def register(self, buffer: Any) -> ExternalMemory:
        """Memory of yours that packets are then sent from without a copy: a C-contiguous buffer of bytes, its address and size
        multiples of 4096 (mmap.mmap(-1, n) is such). PB094: not so, or net_af_xdp, which cannot."""
        with self._call("external memory") as handle:
            return ExternalMemory(self, dpdk.module().External(handle, buffer))

    # ---- RSS ----

    def rss(self) -> tuple[bytes, list[str]]:
        """The key and the hash types in use, read from the port. PB094 where it has none."""
        with self._call("RSS") as handle:
            key, types = handle.rss_get()
            return key, types

    def set_rss(self, types: Iterable[str], key: bytes | None = None) -> list[str]:
        """Sets the hash types (names or groups), of which the port takes those that it can do, and the key (None: as it is).
        Returns the types that were set. PB094: none of them, or a key of another length."""
        wanted = _types_of("+".join(types))
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

    def _read_spread(self) -> tuple[bytes, list[int]] | None:
        if len(self.queues) < 2 or not self.report["rss"]:
            return None
        try:
            return self.handle.rss_get()[0], self.handle.reta_get()
        except OSError:
            return None

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
        key, table = self._spread
        words = remote[0].packed + local[0].packed
        if f"ipv{remote[0].version}-tcp" in self.report["rss"]:
            words += remote[1].to_bytes(2, "big") + local[1].to_bytes(2, "big")
        return table[toeplitz(key, words) % len(table)] == queue.index

    def _flow_table(self) -> DpdkFlows:
        from .flowtable import DpdkFlows  # it knows what a port is

        if self._flows is None:
            self._flows = DpdkFlows(self, self.handle)
        return self._flows

    # ---- the end ----

    def _close(self, force: bool) -> None:
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
                    _NOT_GIVEN_BACK.append(memory)
                    dpdk.log.warning("%s: %d packets from external memory were never given back", self.uri, memory.in_flight)
            if ours:
                self.handle.close()
                dpdk.drain_log()
            else:
                self.handle.forget()


def _types_of(text: str) -> list[str]:
    """The hash types of "ip", "l4", "all", "none", or single names joined by "+"."""
    known, found = rss_types(), list[str]()
    for word in filter(None, text.split("+")):
        if word not in RSS_GROUPS and word not in known:
            raise PybypassError.make(
                "PB010", errno.EINVAL, f"rss={word[:40]!r}", hint=f"one of {', '.join([*RSS_GROUPS, *known])}, joined by +"
            )
        found += [name for name in RSS_GROUPS.get(word, (word,)) if name not in found]
    return found


def _key_of(uri: Uri) -> bytes | None:
    text = uri.options.get("rss_key")
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise PybypassError.make("PB010", errno.EINVAL, f"rss_key={text[:90]!r}", hint="hexadecimal digits") from None


def _flag(uri: Uri, name: str, default: str = "0") -> bool:
    return uri.choice(name, default, "0", "1") == "1"


def _options(uri: Uri) -> dict[str, Any]:
    queues = uri.integer("queues", 1, 1, dpdk.module().QUEUES_MAX)
    stamp = _flag(uri, "stamp")
    return {
        "queues": queues, "rx_desc": uri.integer("rx_desc", 0, 0, 32768), "tx_desc": uri.integer("tx_desc", 0, 0, 32768),
        "mtu": uri.integer("mtu", 0, 0, 65535), "promiscuous": _flag(uri, "promisc"), "allmulticast": _flag(uri, "allmulti"),
        "rx_csum": _flag(uri, "csum", "1"), "tx_csum": _flag(uri, "csum", "1"), "vlan_strip": _flag(uri, "vlan_strip"),
        "rx_stamp": stamp, "timesync": stamp, "launch": _flag(uri, "launch"), "multi_segs": _flag(uri, "segs"),
        "rss": _types_of(uri.options.get("rss", "all" if queues > 1 else "none")), "rss_key": _key_of(uri),
    }  # fmt: skip


def _devargs(uri: Uri) -> str:
    """The device and what its driver is told."""
    if "," in uri.name and not _PCI.match(uri.name.partition(",")[0]) and not uri.name.startswith("net_"):
        raise PybypassError.make("PB092", errno.EINVAL, uri.name)
    args = [f"{key}={value}" for key, value in uri.options.items() if key not in _OURS]
    if any("," in a for a in args):
        raise PybypassError.make("PB010", errno.EINVAL, f"{uri.name}: a comma in a driver's argument")
    return ",".join([uri.name, *args])


def _offloads(options: dict[str, Any], report: dict[str, Any], queue: Queue) -> dict[str, dict[str, Any]]:
    rx, tx = report["rx_offloads"], report["tx_offloads"]
    state = {
        "rx_csum": (options["rx_csum"], all(n in rx for n in _RX["csum"])),
        "tx_csum": (options["tx_csum"], bool(queue.tx_flags & _port.CSUM_PARTIAL)),
        "rx_hash": (bool(options["rss"]), "rss_hash" in rx),
        "vlan_strip": (options["vlan_strip"], "vlan_strip" in rx),
        "stamp": (options["rx_stamp"], "timestamp" in rx),
        "tx_stamp": (options["timesync"], bool(queue.tx_flags & _port.TX_STAMP)),
        "launch": (options["launch"], bool(queue.tx_flags & _port.LAUNCH)),
        "segs": (options["multi_segs"], "multi_segs" in tx),
        "scatter": (report["chain_max"] > 1, report["chain_max"] > 1),
        "tso": (False, False),
    }
    return {
        name: {"asked": asked, "granted": granted, "means": _MEANS[name, granted]}
        for name, (asked, granted) in state.items()
    }


def _package_of(device: str) -> str:
    """The Debian package of a virtual device's driver: net_af_xdp0 is in librte-net-af-xdp23 for DPDK 22.11."""
    year = re.search(r"DPDK (\d\d)\.", dpdk.info()["version"])
    driver = re.sub(r"\d+$", "", device.partition(",")[0]).replace("_", "-")
    return f"librte-{driver}{int(year[1]) + 1 if year else ''}"


def _error(e: OSError, words: list[str], devargs: str) -> PybypassError:
    stage, number = getattr(e, "stage", ""), e.errno or errno.EIO
    code = _STAGE_CODES.get(stage, "PB099")
    text, hint = e.strerror or "", ""
    device = devargs.partition(",")[0]
    if words:
        text += f" ({words[0]})"
    report = getattr(e, "report", {})
    # Most virtual drivers answer -1, which reads as EPERM, to whatever they do not like.
    refused = os.geteuid() != 0 or any("permi" in w.lower() for w in words)
    if stage == "probe" and number == errno.EPERM and not refused:
        number = errno.EINVAL
        text = text.replace(os.strerror(errno.EPERM), "the driver refuses its arguments")
    if stage == "probe" and os.geteuid() != 0 and device.startswith(_KERNEL):
        number = errno.EPERM
    if number in (errno.EPERM, errno.EACCES):
        code, hint = "PB025", "run as root; a driver of a kernel interface needs CAP_NET_ADMIN, and vfio-pci its group"
    elif stage == "probe" and number == errno.EBUSY:
        code, hint = "PB023", "this process has it open"
    elif stage == "probe" and _PCI.match(device):
        hint = f"`pybypass devices` lists the NICs; `pybypass bind {device} vfio-pci` gives one to DPDK"
    elif stage == "probe" and any("failed to parse device" in w or "no driver" in w.lower() for w in words):
        hint = f"no driver of that name is installed: apt-get install {_package_of(device)}"
    elif stage == "memory" and report.get("frames_needed"):
        hint = f"open the port with frames={1 << (report['frames_needed'] - 1).bit_length()}, or fewer descriptors"
    elif stage == "setup" and any("will not fit in mbuf" in w for w in words):
        hint = "open the port with frame=4096"
    return PybypassError.make(code, number, text, hint=hint, detail={"report": report, "log": words})


def _open_once(native: Any, devargs: str, memory: Umem, options: dict[str, Any]) -> tuple[Any, list[Any]]:
    handle = native.open_port(devargs, memory.capsule(), **options)
    devices: list[Any] = []
    try:
        for q in range(options["queues"]):
            devices.append(handle.queue(q))
    except OSError:
        for device in devices:
            native.close_device(device)
        handle.close()
        raise
    return handle, devices


def _open_patiently(native: Any, devargs: str, memory: Umem, options: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A queue that was just closed is busy for a while in the kernel, which net_af_xdp takes for an error."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return _open_once(native, devargs, memory, options)
        except OSError as e:
            busy = getattr(e, "stage", "") == "setup" and devargs.startswith("net_af_xdp")
            if busy and time.monotonic() < until:
                dpdk.drain_log(quiet=True)
                time.sleep(0.01)
                continue
            raise _error(e, dpdk.drain_log(), devargs) from None


def open_dpdk(
    text: str, uri: Uri, umem: Umem | None, netns: Any, rx: Impairment | None, tx: Impairment | None
) -> DpdkPort:
    """pybypass.open() for `dpdk:`."""
    native, options, devargs = dpdk.module(), _options(uri), _devargs(uri)
    queues = options["queues"]
    if uri.name.startswith(_LARGE):
        uri.options.setdefault("frame", "4096")
    memory = umem_for(uri, umem, 4096 + 4096 * queues, dpdk=True)
    if not memory.dpdk:
        raise PybypassError.make("PB093", errno.EINVAL, "the Umem has no room for mbufs", hint="make it with Umem(dpdk=True)")
    dpdk.start()
    try:
        with netns if netns is not None else nullcontext():
            handle, devices = _open_patiently(native, devargs, memory, options)
    except ValueError as e:
        raise PybypassError.make("PB010", errno.EINVAL, f"{text!r}: {e}") from None
    dpdk.drain_log()
    opened = [_port.adopt(device, memory, "dpdk", impair_rx=rx, impair_tx=tx) for device in devices]
    report = dict(handle.report)
    report["offloads"] = _offloads(options, report, opened[0])
    for queue in opened:
        queue.report = report
    return DpdkPort(text, opened, memory, report, handle, netns)
