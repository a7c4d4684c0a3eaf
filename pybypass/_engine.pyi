"""The engine of one queue: sockets over the rings of its loop. Private: see pybypass.tcp."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pybypass._mem import Umem
from pybypass._port import Queue

CONNECTED: int
ACCEPT: int
READ: int
WRITE: int
FIN: int
CLOSED: int
ERROR: int
GONE: int
REPLY: int
SLOWPATH: int
SENT: int
WAIT_ANY: int
WAIT_SLOWPATH: int
EXC_REASONS: dict[int, str]
STATE_NAMES: tuple[str, ...]

_Address = tuple[bytes | None, int]

class EngineCore:
    queue: Queue
    umem: Umem
    slowpath: Callable[[], None] | None
    spin_ns: int
    def __new__(
        cls,
        queue: Queue,
        locals_: list[tuple[bytes, int]],
        config: dict[str, Any],
        *,
        gw4: bytes | None = None,
        gw6: bytes | None = None,
        vlan: int = 0,
        max_socks: int = 1024,
        slowpath: Callable[[], None] | None = None,
    ) -> EngineCore: ...
    @property
    def closed(self) -> bool: ...
    @property
    def live_views(self) -> int: ...
    @property
    def loop_cpu(self) -> int: ...
    def loop_info(self) -> dict[str, float] | None:
        """cpu_s and wall_s of the loop's thread, and sleeps; None without one."""

    @property
    def threaded(self) -> bool: ...
    def close(self, force: bool = False) -> None: ...
    def in_use(self) -> InUse:
        """For the measuring loops in C: `with core.in_use() as pointer` keeps the engine from being closed."""

    def start_loop(self, cpu: int, spin_ns: int) -> None: ...
    def stop_loop(self) -> None: ...
    def wait(self, s: int, mask: int, timeout: float | None = None) -> int:
        """Waits for what mask names; returns what is true, 0 at the timeout (seconds, None: for ever)."""

    def connect(self, local: _Address, remote: _Address) -> int: ...
    def listen(self, local: _Address, backlog: int, ask: bool = False) -> int: ...
    def accept(self, listener: int) -> int:
        """A socket that will become CONNECTED, or fail with EAGAIN."""

    def poll(self, s: int) -> int: ...
    def error(self, s: int) -> int: ...
    def name(self, s: int) -> tuple[tuple[bytes, int], tuple[bytes, int]]: ...
    def send(self, s: int, data: Any, timeout: float | None = None, everything: bool = False) -> int:
        """Bytes taken: at least one, or all of them when `everything`."""

    def recv_into(self, s: int, buffer: Any, timeout: float | None = None, nbytes: int = 0) -> int:
        """Bytes received; 0 at the end of the stream."""

    def recv_view(self, s: int, timeout: float | None = None) -> npt.NDArray[np.uint8] | None:
        """One piece of received data where it lies, or None at the end of the stream."""

    def shutdown(self, s: int, how: int) -> None: ...
    def set_nagle(self, s: int, on: bool) -> None: ...
    def set_keepalive(self, s: int, idle_ns: int, interval_ns: int, probes: int) -> None: ...
    def info(self, s: int) -> dict[str, Any]: ...
    def close_sock(self, s: int, abort: bool = False) -> None:
        """Gives a socket up; also when the device is gone, which is no reason to fail."""

    def opened(self, s: int) -> bool:
        """Whether the engine ever had this socket: then it will be reported by freed()."""

    def freed(self) -> list[tuple[bytes, int]]:
        """(address, port) of each local end whose socket is gone since the last call."""

    def exceptions(self) -> list[tuple[str, bytes | None, bytes | None]]:
        """[(reason, frame or None, next hop or None)]; frames are copied."""

    def judged(self, frame: bytes, admitted: bool) -> None: ...
    def inject(self, frame: bytes) -> None: ...
    def set_neighbour(self, addr: bytes, mac: bytes | None) -> None: ...
    def set_routes(self, routes: Iterable[tuple[bytes, int, bytes | None]]) -> None:
        """[(network, prefix length, gateway or None)] take the place of all routes but the static ones."""

    def stats(self) -> dict[str, Any]: ...
    def capture_start(self, nbytes: int) -> None: ...
    def capture_stop(self) -> tuple[bytes, int, int]:
        """(records, packets, dropped): each record is struct pb_tap_rec (ts_ns u64, len u32, out u32) and the packet."""

class InUse:
    def __new__(cls, core: EngineCore) -> InUse: ...
    def __enter__(self) -> int: ...
    def __exit__(self, *exc: object) -> None: ...

class Span: ...
