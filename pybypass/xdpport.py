"""AF_XDP ports: one or several sockets on queues of a kernel interface, and how packets are spread over them."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _burst, _netdev, _port, neighbours, owned_ports
from ._mem import Umem
from ._port import Queue
from ._wire import TOEPLITZ_KEY, toeplitz
from .errors import PybypassError
from .follow import Follower, Watcher
from .kernelside import KernelSide
from .neighbours import IpAddress
from .ports import Impairment, Port, Uri, umem_for
from .rss import is_symmetric, symmetric_key

if TYPE_CHECKING:
    from .flowtable import XdpFlows

__all__ = ["XdpPort", "open_xdp"]

_PROTOS = {"tcp": 6, "udp": 17, "icmp": 1, "icmp6": 58}
_TABLE = 128
_QUEUES_MAX = 64
"""Of one port, sockets included."""


class XdpPort(Port):
    """AF_XDP sockets on queues of a kernel interface. `report` is that of the first; each Queue has its own."""

    def __init__(
        self, uri: str, queues: list[Queue], umem: Umem, report: dict[str, Any], program: Any, ifname: str
    ) -> None:
        super().__init__(uri, "xdp", queues, umem, report)
        self.program = program
        self.ifname = ifname
        self._rss: _Rss | None = None
        self._no_meta = False
        self._flows: XdpFlows | None = None
        self._card: Any = None
        self._card_at = -1e9
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._owned: dict[IpAddress, int] = {}
        self._follower: Follower | None = None

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with self.netns if self.netns is not None else nullcontext():
            yield

    def side(self, vlan: int = 0) -> KernelSide | None:
        whole = KernelSide(self.report["ifindex"], self._inside)
        return whole.vlan(vlan) if vlan else whole

    def local_networks(self, vlan: int = 0) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
        side = self.side(vlan)
        return side.addresses() if side is not None else []

    def check_vlan(self, vlan: int) -> None:
        from . import vlantags

        metadata = self.report["metadata"] and not self._no_meta
        known = self.side(vlan) is not None
        vlantags.check(self.ifname, vlan, metadata=metadata, known=known, netns=self.netns)

    def follow(self, watcher: Watcher) -> None:
        with self._lock:
            if self._follower is None:
                with self._inside():
                    self._follower = Follower()
            self._follower.add(watcher)

    def unfollow(self, watcher: Watcher) -> None:
        with self._lock:
            if self._follower is None or self._follower.remove(watcher):
                return
            follower, self._follower = self._follower, None
        follower.close()

    def own(self, ip: IpAddress) -> None:
        self.steer(0, ip, 0)
        with self._lock:
            self._owned[ip] = self._owned.get(ip, 0) + 1

    def disown(self, ip: IpAddress) -> None:
        with self._lock:
            self._owned[ip] -= 1
            if not self._owned[ip]:
                del self._owned[ip]
        self.unsteer(0, ip, 0)

    def steer(self, proto: int, ip: IpAddress | None, port: int) -> None:
        try:
            self.program.steer_add(proto, ip, port)
        except OSError as e:
            raise PybypassError.make("PB032", e.errno or 0, f"{proto}/{ip}:{port}") from None

    def unsteer(self, proto: int, ip: IpAddress | None, port: int) -> None:
        self.program.steer_del(proto, ip, port)

    def hold(self, ip: IpAddress, port: int) -> tuple[int, Any]:
        if ip in self._owned:
            return owned_ports.take((self.report["prog_id"], ip), port, shared=len(self.queues) > 1)
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        with self._inside():
            holder = socket.socket(family, socket.SOCK_STREAM)
        try:
            # Engines on other queues of this port may listen at the same one: the NIC or the hash decides between them.
            if port and len(self.queues) > 1:
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if ip.version == 6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            holder.bind((str(ip), port))
        except OSError as e:
            holder.close()
            code = "PB042" if e.errno == errno.EADDRINUSE else "PB041" if e.errno == errno.EADDRNOTAVAIL else "PB050"
            raise PybypassError.make(code, e.errno or 0, f"{ip} port {port}") from None
        return holder.getsockname()[1], holder

    @property
    def rss(self) -> str | None:
        """ "toeplitz" or "symmetric": how packets of a queue are spread over its sockets; None: they are not hashed."""
        return self._rss.name if self._rss is not None else None

    @property
    def rss_key(self) -> bytes | None:
        """The 40 bytes of the Toeplitz key."""
        return self._rss.key if self._rss is not None else None

    @property
    def rss_table(self) -> list[int]:
        """The indirection table: 128 numbers of sockets (Queue.member), indexed by the low 7 bits of the hash; empty without
        rss. May be set at any time; packets for a socket that is closed stay with the kernel. PB010 when malformed."""
        return list(self._rss.table) if self._rss is not None else []

    @rss_table.setter
    def rss_table(self, table: Sequence[int]) -> None:
        if self._rss is None:
            raise PybypassError.make(
                "PB010", errno.EINVAL, "no table", hint="open the port with sockets=N or rss=toeplitz"
            )
        sockets = 1 + max(queue.member for queue in self._queues)
        if len(table) != _TABLE or not all(isinstance(n, int) and 0 <= n < sockets for n in table):
            raise PybypassError.make(
                "PB010", errno.EINVAL, "not a table", hint=f"{_TABLE} numbers of sockets, 0 to {sockets - 1}"
            )
        raw = bytes(table)
        try:
            for index in sorted({queue.index for queue in self._queues}):
                self.program.rss_table(index, raw)
        except OSError as e:
            raise PybypassError.make("PB062", e.errno or 0, "table") from None
        self._rss = _Rss(name=self._rss.name, key=self._rss.key, table=tuple(table))

    def member_of(self, source: tuple[IpAddress, int], target: tuple[IpAddress, int]) -> int:
        """Which socket of a queue a TCP or UDP packet from `source` to `target` (address, port) is given to."""
        if self._rss is None:
            return 0
        ports = source[1].to_bytes(2, "big") + target[1].to_bytes(2, "big")
        return self._rss.table[toeplitz(self._rss.key, source[0].packed + target[0].packed + ports) % _TABLE]

    def reaches(self, queue: Queue, remote: tuple[IpAddress, int], local: tuple[IpAddress, int]) -> bool:
        """By the card's RSS table and key too, where the driver shows them. Where it does not (veth), and the interface has
        several queues, nobody knows: open connections from there on an interface of one queue."""
        if self.member_of(remote, local) != queue.member:
            return False
        card = self._card_rss()
        if card is None:
            return True
        from . import nic, rss

        try:
            key = card.key or nic.system_rss_key()
            found = rss.queue(str(remote[0]), str(local[0]), remote[1], local[1], card, key=key)
        except (PybypassError, ValueError):  # not Toeplitz, or a key that nobody tells
            return True
        return int(found) == queue.index

    def _card_rss(self) -> Any:
        """How the card spreads flows, as of the last second; None: one queue, or the driver does not say."""
        if self.report["rx_queues"] == 1:
            return None
        now = time.monotonic()
        if now - self._card_at > 1.0:
            from . import nic

            self._card_at = now
            try:
                card = nic.rss(self.ifname, netns=self.netns)
                self._card = card if card.table else None
            except PybypassError:
                self._card = None
        return self._card

    def neighbour_lookup(self, hops: list[IpAddress]) -> dict[IpAddress, bytes]:
        with self._inside():
            return neighbours.lookup(self.report["ifindex"], hops)

    def neighbour_ask(self, ip: IpAddress) -> bool:
        with self._inside():
            neighbours.ask(self.report["ifindex"], ip)
        return True

    def neighbour_doubt(self, ip: IpAddress) -> bool:
        with self._inside():
            return neighbours.doubt(self.report["ifindex"], ip)

    def _flow_table(self) -> XdpFlows:
        from .flowtable import XdpFlows  # it knows what a port is

        if self._flows is None:
            self._flows = XdpFlows(self, self.program, metadata=not self._no_meta)
        return self._flows

    def _close(self, force: bool) -> None:
        if self._flows is not None and not self.closed and os.getpid() == self._pid:
            with suppress(PybypassError):  # the interface may be gone, and the program with it
                self._flows.flush()
        super()._close(force)
        if os.getpid() == self._pid:  # a forked child must not take the program from its parent
            self.program.close()


@dataclass(frozen=True, kw_only=True)
class _Rss:
    name: str
    key: bytes
    table: tuple[int, ...]


# Which code an open that failed at a stage of csrc/dev/xsk.h has; errno decides first.
_STAGE_CODES = {
    "iface": "PB020", "queue": "PB022", "mtu": "PB027", "prog_busy": "PB024", "prog_file": "PB030", "prog_load": "PB031",
    "prog_attach": "PB031", "socket": "PB029", "bind": "PB028", "umem": "PB026", "fill": "PB003",
    "memory": "PB001", "config": "PB010",
}  # fmt: skip


def _xdp_error(e: OSError) -> PybypassError:
    stage, number = getattr(e, "stage", ""), e.errno or errno.EIO
    code = _STAGE_CODES.get(stage, "PB099")
    if number in (errno.EPERM, errno.EACCES):
        code = "PB025"
    elif stage == "iface" and number == errno.ENETDOWN:
        code = "PB021"
    elif stage == "bind" and number == errno.EBUSY:
        code = "PB023"
    elif stage == "umem" and number == errno.EINVAL:
        code = "PB099"
    return PybypassError.make(code, number, e.strerror or "", detail=getattr(e, "report", None))


def _steer_all(port: XdpPort, rules: str) -> None:
    """The option steer=: "all", or protocols and ports as "udp", "tcp:80", "udp:4000-4100", joined by "+"."""
    for rule in filter(None, rules.split("+")):
        if rule == "all":
            port.program.steer_add(0)
            continue
        name, _, ports = rule.partition(":")
        low, _, high = ports.partition("-")
        try:
            if name not in _PROTOS:
                raise ValueError(f"one of all, {', '.join(_PROTOS)}")
            if ports:
                port.program.steer_add(_PROTOS[name], None, int(low), int(high or low))
            else:
                port.program.steer_add(_PROTOS[name], None, 0, 65535)
        except ValueError as e:
            raise PybypassError.make("PB010", errno.EINVAL, f"steer={rule!r}: {e}") from None
        except OSError as e:
            raise PybypassError.make("PB032", e.errno or 0, rule) from None


def _queue_list(text: str) -> list[int]:
    """ "3", "0-3", "0,2" or "0-1,6"."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        try:
            first, last = int(low), int(high) if dash else int(low)
        except ValueError:
            first, last = 0, -1
        if not 0 <= first <= last <= 65535 or last - first >= _QUEUES_MAX:
            raise PybypassError.make(
                "PB010", errno.EINVAL, f"queue={text[:40]!r}", hint=f"write 3, 0-3 or 0,2: at most {_QUEUES_MAX} queues"
            )
        found += range(first, last + 1)
    if len(found) > _QUEUES_MAX or len(set(found)) < len(found):
        raise PybypassError.make("PB010", errno.EINVAL, f"queue={text[:40]!r}: too many, or one twice")
    return found


def _rss_of(uri: Uri, sockets: int) -> _Rss | None:
    name = uri.choice("rss", "toeplitz" if sockets > 1 else "none", "none", "toeplitz", "symmetric")
    text = uri.options.get("rss_key")
    if name == "none":
        if sockets > 1 or text is not None:
            raise PybypassError.make("PB010", errno.EINVAL, "rss=none: several sockets, or a key, need a hash")
        return None
    key = symmetric_key() if name == "symmetric" else TOEPLITZ_KEY
    if text is not None:
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != 40:
            raise PybypassError.make("PB010", errno.EINVAL, f"rss_key={text[:90]!r}", hint="80 hexadecimal digits")
        if name == "symmetric" and not is_symmetric(key):
            raise PybypassError.make(
                "PB010", errno.EINVAL, "rss_key is not symmetric", hint="a symmetric key repeats its first two bytes"
            )
    return _Rss(name=name, key=key, table=tuple(i % sockets for i in range(_TABLE)))


def _options(uri: Uri) -> dict[str, Any]:
    """What every socket is opened with."""
    ring = uri.integer("ring", 2048, 64, 32768)
    return {
        "mode": uri.choice("mode", "auto", "auto", "native", "generic"),
        "copy": uri.choice("copy", "auto", "auto", "zerocopy", "copy"),
        "rx_ring": ring, "tx_ring": ring, "fill_ring": ring, "comp_ring": ring,
        "deadline_ms": uri.integer("deadline_ms", 2000, 0, 3_600_000),
        "sg": uri.choice("sg", "auto", "auto", "on", "off"),
        "sockets": uri.integer("sockets", 1, 1, 16),
        "headroom": uri.integer("headroom", 0, 0, 3712),
        "tx_meta": uri.choice("tx_meta", "0", "0", "1") == "1",
        "no_meta": uri.choice("meta", "1", "0", "1") == "0",
        "busy_poll_us": uri.integer("busy_poll", 0, 0, 1_000_000),
        "busy_budget": uri.integer("busy_budget", 0, 0, 65535),
    }  # fmt: skip


def _driver_grants(ifname: str) -> int:
    """What a driver can do for packets that it sends without a copy (netdev family); descriptor flags."""
    try:
        known = _netdev.xdp(socket.if_nametoindex(ifname))
    except OSError:
        return 0  # no such interface: opening says so
    names = {"tx-checksum": _burst.CSUM_PARTIAL, "tx-timestamp": _burst.TX_STAMP, "tx-launch-time-fifo": _burst.LAUNCH}
    return sum(flag for name, flag in names.items() if known is not None and name in known.xsk)


def _zc_segs(ifname: str) -> int:
    """Descriptors of a packet that a driver sends without a copy; 0: it cannot, or nobody tells."""
    try:
        known = _netdev.xdp(socket.if_nametoindex(ifname))
    except OSError:
        return 0
    return known.zc_max_segs if known is not None else 0


def _labelled(report: dict[str, Any]) -> dict[str, Any]:
    """Who does what was granted for packets to be sent: the kernel's copy is software, whatever the NIC could."""
    by = "hardware" if report["zerocopy"] else "software"
    report["tx_csum_by"] = by if report["tx_csum"] else "none"
    report["tx_stamp_by"] = "none" if not report["tx_stamp"] else by if report["zerocopy"] else "kernel"
    return report


class _Opening:
    """Devices that are open and belong to nobody yet: closed again when a later one fails."""

    def __init__(self, xsk: Any, uri: Uri, options: dict[str, Any]) -> None:
        self.xsk, self.uri, self.options = xsk, uri, options
        self.programs: list[Any] = []
        self.devices: list[tuple[Any, Umem, int, dict[str, Any]]] = []

    def queue(self, index: int, umem: Umem, fill_max: int) -> None:
        capsule, program, report = self.xsk.open_device(
            self.uri.name, index, umem.capsule(), fill_max=fill_max, unaligned=umem.unaligned, **self.options
        )
        self.programs.append(program)
        self.devices.append((capsule, umem, 0, report))
        for member in range(1, self.options["sockets"]):
            joined, report = self.xsk.join_device(capsule)
            self.devices.append((joined, umem, member, report))

    def undo(self) -> None:
        for capsule, *_ in reversed(self.devices):
            self.xsk.close_device(capsule)
        self.devices.clear()
        for program in self.programs:
            program.close()

    def adopted(self, rx: Impairment | None, tx: Impairment | None) -> list[Queue]:
        queues = []
        while self.devices:
            capsule, umem, member, report = self.devices.pop(0)
            queue = _port.adopt(capsule, umem, "xdp", member=member, impair_rx=rx, impair_tx=tx)
            queue.report = _labelled(report)
            queues.append(queue)
        return queues


def _umems(uri: Uri, given: Umem | None, queues: int, sockets: int) -> list[Umem]:
    """One for each queue: the same, or one of its own."""
    shared = uri.choice("umem", "own", "own", "shared") == "shared" or given is not None
    members = sockets * (queues if shared else 1)
    first = umem_for(uri, given, 8192 + 4096 * (members - 1))
    return (
        [first] * queues
        if shared
        else [first, *(umem_for(uri, None, 8192 + 4096 * (members - 1)) for _ in range(queues - 1))]
    )


def open_xdp(
    text: str, uri: Uri, umem: Umem | None, netns: Any, rx: Impairment | None, tx: Impairment | None
) -> XdpPort:
    """pybypass.open() for `xdp:`."""
    uri.only(
        "frames", "frame", "pages", "queue", "umem", "sockets", "rss", "rss_key", "mode", "copy", "ring", "sg", "headroom",
        "unaligned", "meta", "tx_meta", "busy_poll", "busy_budget", "deadline_ms", "steer",
    )  # fmt: skip
    indices, options = _queue_list(uri.options.get("queue", "0")), _options(uri)
    sockets = options["sockets"]
    if len(indices) * sockets > _QUEUES_MAX:
        raise PybypassError.make(
            "PB010", errno.EINVAL, f"{len(indices)} queues of {sockets} sockets", hint=f"at most {_QUEUES_MAX} in all"
        )
    rss = _rss_of(uri, sockets)
    try:
        from . import _xsk
    except ImportError as e:
        raise PybypassError.make("PB011", errno.ENOSYS, f"xdp: ({e})") from None
    umems = _umems(uri, umem, len(indices), sockets)
    opening = _Opening(_xsk, uri, options)
    try:
        with netns if netns is not None else nullcontext():
            options["tx_zc_segs"] = _zc_segs(uri.name)
            if options["tx_meta"]:
                options["tx_zc_flags"] = _driver_grants(uri.name)
            for index, memory in zip(indices, umems, strict=True):
                sharers = umems.count(memory)
                opening.queue(index, memory, memory.info()["frames"] // 2 // sharers if sharers > 1 else 0)
                if rss is not None:
                    opening.programs[0].rss_on(index, rss.key, bytes(rss.table))
    except OSError as e:
        opening.undo()
        if not hasattr(e, "stage"):
            raise PybypassError.make("PB062", e.errno or 0, f"queue {indices[len(opening.programs) - 1]}") from None
        raise _xdp_error(e) from None
    except (ValueError, OverflowError) as e:
        opening.undo()
        raise PybypassError.make("PB010", errno.EINVAL, f"{text!r}: {e}") from None
    report = dict(_labelled(opening.devices[0][3]))
    report["filled"] = sum(d[3]["filled"] for d in opening.devices if d[1] is umems[0] and d[2] == 0)
    programs = opening.programs
    port = XdpPort(text, opening.adopted(rx, tx), umems[0], report, programs[0], uri.name)
    for program in programs[1:]:
        program.close()
    port.netns = netns
    port._rss = rss
    port._no_meta = options["no_meta"]
    try:
        _steer_all(port, uri.options.get("steer", ""))
    except BaseException:
        port.close()
        raise
    return port
