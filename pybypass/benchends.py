"""The two ends of a benchmark: a port, or the kernel's sockets on an interface."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from . import nic, ports
from ._bench import Device, Stream
from ._mem import Umem
from .errors import PybypassError
from .neighbours import IpAddress
from .tcp import Engine, EngineConfig
from .xdpport import XdpPort

__all__ = ["KERNEL_SIZE", "End", "KernelEnd", "PortEnd", "open_end"]

_SIOCGIFADDR, _SIOCGIFHWADDR, _SIOCGIFMTU = 0x8915, 0x8927, 0x8921
_BUFFER_BYTES = 8 << 20
KERNEL_SIZE = 4096 - 256 + 4
"""The largest frame, with its check sequence, that the loops send over kernel sockets."""
_DEFAULTS = ("10.77.0.1", "10.77.0.2")


class End(ABC):
    """One end. `ip` and `mac` are its own; `mode` says how packets pass. A context manager."""

    ip: IpAddress
    mac: bytes
    mode: str
    mtu: int

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._stack = ExitStack()

    @abstractmethod
    def device(self, remote: IpAddress, port: int, remote_port: int) -> Device:
        """What the packet loops drive: UDP between `port` here and `remote_port` there."""

    @abstractmethod
    def connect(self, remote: IpAddress, port: int) -> Stream: ...

    @abstractmethod
    def listen(self, port: int) -> None: ...

    @abstractmethod
    def accept(self, timeout: float = 10.0) -> Stream:
        """The connection that listen() waits for. TimeoutError."""

    @abstractmethod
    def finish(self) -> None:
        """No more is sent on the stream."""

    @abstractmethod
    def drops(self) -> dict[str, int]: ...

    def resolve(self, remote: IpAddress) -> bytes:
        """The MAC address of a neighbour. Raises PybypassError PB058 when nobody answers."""
        raise PybypassError.make("PB058", errno.EHOSTUNREACH, str(remote), hint="name it: --to-mac")

    @abstractmethod
    def abort(self) -> None:
        """Has a thread that waits on the stream of this end come out, as far as that can be done from another one."""

    def interface(self) -> tuple[str, int, Any] | None:
        """Name, index and network namespace of the interface it lies on; None: there is none."""
        return None

    def check(self) -> None:
        """Raises PB033 when its interface was removed. What was under way then fails by a time limit, or not at all where
        the kernel sends: nobody tells a socket."""
        where = self.interface()
        if where is None:
            return
        name, index, netns = where
        try:
            links = nic.interfaces(netns=netns)
        except PybypassError:  # and the namespace with it
            links = []
        if all(link.ifindex != index for link in links):
            raise PybypassError.make("PB033", errno.ENODEV, f"{name} was removed")

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> End:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


class PortEnd(End):
    """A port of this library: packets by its first queue, TCP by an engine that its caller's thread drives."""

    def __init__(self, uri: str, netns: Any, index: int, ip: str | None, udp_port: int, raw: bool) -> None:
        super().__init__(uri)
        if uri.startswith("xdp:"):
            wanted = (
                {"meta": "0", "steer": f"udp:{udp_port}"} if raw else {"meta": "0"}
            )  # unless the URI says otherwise
            for name, value in wanted.items():
                if f"{name}=" not in uri.replace("tx_meta=", ""):
                    uri += f"{'&' if '?' in uri else '?'}{name}={value}"
        self.port = ports.open(uri, netns=netns)
        self._stack.push(self.port.__exit__)
        networks = self.port.local_networks()
        if ip is not None:
            self.ip = ipaddress.ip_address(ip)
        elif networks:
            self.ip = networks[0].ip
        else:
            self.ip = ipaddress.ip_address(_DEFAULTS[index])
        self.mac = bytes(self.port.queues[0].mac)
        self.mode, self.mtu = self.port.mode, self.port.mtu
        self._device: Device | None = None
        self._engine: Engine | None = None
        self._connection: Any = None
        self._listener: Any = None

    def interface(self) -> tuple[str, int, Any] | None:
        if not isinstance(self.port, XdpPort):
            return None
        return self.port.ifname, self.port.report["ifindex"], self.port.netns

    def abort(self) -> None:
        """Nothing: its loop sees the device go, and has its own time limit."""

    def device(self, remote: IpAddress, port: int, remote_port: int) -> Device:
        self._device = Device.of_queue(self.port.queues[0])
        self._stack.callback(self._device.close)
        return self._device

    def _start_engine(self) -> Engine:
        if self._engine is None:
            address: str = str(self.ip)
            if self.port.kind != "xdp":
                address += "/24" if self.ip.version == 4 else "/64"
            self._engine = self._stack.enter_context(Engine(self.port, ip=address, inline=True, config=EngineConfig()))
        return self._engine

    def connect(self, remote: IpAddress, port: int) -> Stream:
        engine = self._start_engine()
        self._connection = engine.connect((str(remote), port), timeout=10)
        return Stream.of_engine(self._connection._core, self._connection._number())

    def listen(self, port: int) -> None:
        self._listener = self._start_engine().listen(port)

    def accept(self, timeout: float = 10.0) -> Stream:
        self._connection = self._listener.accept(timeout)
        return Stream.of_engine(self._connection._core, self._connection._number())

    def finish(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)
        self._connection.wait_closed(5.0)

    def drops(self) -> dict[str, int]:
        if self._engine is not None:
            found: dict[str, int] = dict(self._engine.stats()["drops"])
        elif self._device is not None:
            found = dict(self._device.stats()["drops"])
        else:
            found = dict(self.port.stats()["drops"])
        return found

    def resolve(self, remote: IpAddress) -> bytes:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            found = self.port.neighbour_lookup([remote])
            if found:
                return found[remote]
            if not self.port.neighbour_ask(remote):
                break
            time.sleep(0.02)
        return super().resolve(remote)


class KernelEnd(End):
    """Ordinary sockets on an interface: `kernel:IF`. UDP by sendmmsg() and recvmmsg(), TCP with TCP_NODELAY."""

    def __init__(self, uri: str, netns: Any, ip: str | None, how: str) -> None:
        super().__init__(uri)
        self.ifname = uri.removeprefix("kernel:").partition("?")[0]
        self._netns, self._how = netns, how
        self._socket: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._umem: Umem | None = None
        self._device: Device | None = None
        self.mode = f"kernel sockets, {how}"
        with self._inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            try:
                self.mac = self._ask(s, _SIOCGIFHWADDR)[2:8]
                self.mtu = struct.unpack("=i", self._ask(s, _SIOCGIFMTU)[:4])[0]
                self.ip = ipaddress.ip_address(ip) if ip else ipaddress.ip_address(self._ask(s, _SIOCGIFADDR)[4:8])
            except OSError as e:
                code = "PB041" if e.errno == errno.EADDRNOTAVAIL else "PB020"
                raise PybypassError.make(code, e.errno or 0, self.ifname) from None
        self._index = nic.interface(self.ifname, netns=netns).ifindex
        self._before = self._counters()

    def interface(self) -> tuple[str, int, Any] | None:
        return self.ifname, self._index, self._netns

    def abort(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        with self._netns if self._netns is not None else contextlib.nullcontext():
            yield

    def _ask(self, s: socket.socket, request: int) -> bytes:
        return fcntl.ioctl(s, request, struct.pack("16s24x", self.ifname.encode()[:15]))[16:]

    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.ip.version == 4 else socket.AF_INET6

    def _counters(self) -> dict[str, int]:
        """What the namespace's kernel refused or sent again."""
        wanted = {"Udp": ("InErrors", "RcvbufErrors", "SndbufErrors", "InCsumErrors"), "Tcp": ("RetransSegs", "InErrs")}
        found: dict[str, int] = {}
        with self._inside(), open("/proc/thread-self/net/snmp", encoding="ascii") as f:
            table = [line.split() for line in f]
        for names, values in zip(table[::2], table[1::2], strict=True):
            kind = names[0].rstrip(":")
            for name, value in zip(names[1:], values[1:], strict=True):
                if name in wanted.get(kind, ()):
                    found[f"{kind}{name}"] = int(value)
        return found

    def _make(self, kind: socket.SocketKind) -> socket.socket:
        with self._inside():
            s = socket.socket(self._family(), kind)
        for option, force in ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
            if kind is socket.SOCK_DGRAM:
                try:
                    s.setsockopt(socket.SOL_SOCKET, force, _BUFFER_BYTES)
                except PermissionError:
                    s.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        return s

    def device(self, remote: IpAddress, port: int, remote_port: int) -> Device:
        s = self._make(socket.SOCK_DGRAM)
        try:
            s.bind((str(self.ip), port))
            s.connect((str(remote), remote_port))
        except OSError as e:
            s.close()
            raise PybypassError.make(
                "PB050", e.errno or 0, f"{self.ip} port {port} to {remote}: {e.strerror}"
            ) from None
        self._umem = Umem(frames=4096, frame_bytes=4096)
        self._device = Device.of_socket(s.detach(), self._umem, 42 if self.ip.version == 4 else 62, self.mtu)
        self._stack.callback(self._device.close)
        return self._device

    def _stream(self, s: socket.socket) -> Stream:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = s
        self._stack.push(s)
        return Stream.of_socket(s, self._how)

    def connect(self, remote: IpAddress, port: int) -> Stream:
        s = self._make(socket.SOCK_STREAM)
        s.settimeout(10)
        try:
            s.bind((str(self.ip), 0))
            s.connect((str(remote), port))
        except OSError as e:
            s.close()
            raise PybypassError.make("PB050", e.errno or 0, f"{remote} port {port}: {e}") from None
        return self._stream(s)

    def listen(self, port: int) -> None:
        s = self._make(socket.SOCK_STREAM)
        self._stack.push(s)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((str(self.ip), port))
        s.listen(4)
        self._listener = s

    def accept(self, timeout: float = 10.0) -> Stream:
        assert self._listener is not None
        self._listener.settimeout(timeout)
        return self._stream(self._listener.accept()[0])

    def finish(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):  # the far end was quicker
            self._socket.shutdown(socket.SHUT_WR)

    def drops(self) -> dict[str, int]:
        own = self._device.stats()["drops"] if self._device is not None else {}
        now = self._counters()
        return {**own, **{k: n - self._before[k] for k, n in now.items() if n != self._before[k]}}


def open_end(
    uri: str, *, netns: Any = None, index: int = 0, ip: str | None = None, udp_port: int = 0, raw: bool = False,
    how: str = "spin",
) -> End:  # fmt: skip
    """`index` is 0 or 1: which of the two addresses an end without a kernel behind it takes unless `ip` says."""
    if uri.startswith("kernel:"):
        return KernelEnd(uri, netns, ip, how)
    return PortEnd(uri, netns, index, ip, udp_port, raw)
