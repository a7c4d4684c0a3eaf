"""The sockets of one queue's engine, over the rings of its loop. Private: see pybypass.tcp."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pybypass._control import Control

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
SEND_MORE: int
SEND_EOR: int
WAIT_ANY: int
WAIT_SLOWPATH: int

_Address = tuple[bytes | None, int]

class EngineCore(Control):
    def connect(self, local: _Address, remote: _Address) -> int: ...
    def listen(self, local: _Address, backlog: int, ask: bool = False) -> int: ...
    def accept(self, listener: int) -> int:
        """A socket that will become CONNECTED, or fail with EAGAIN."""

    def poll(self, s: int) -> int: ...
    def error(self, s: int) -> int: ...
    def name(self, s: int) -> tuple[tuple[bytes, int], tuple[bytes, int]]: ...
    def send(self, s: int, data: Any, timeout: float | None = None, everything: bool = False, flags: int = 0) -> int:
        """Bytes taken: at least one, or all of them when `everything`."""

    def recv_into(self, s: int, buffer: Any, timeout: float | None = None, nbytes: int = 0) -> int:
        """Bytes received; 0 at the end of the stream."""

    def recv_view(self, s: int, timeout: float | None = None) -> npt.NDArray[np.uint8] | None:
        """One piece of received data where it lies, or None at the end of the stream."""

    def shutdown(self, s: int, how: int) -> None: ...
    def set_option(self, s: int, option: int, value: int) -> None: ...
    def get_option(self, s: int, option: int) -> int: ...
    def set_congestion(self, s: int, name: str) -> None: ...
    def info(self, s: int) -> dict[str, Any]: ...
    def close_sock(self, s: int, abort: bool = False) -> None:
        """Gives a socket up; also when the device is gone, which is no reason to fail."""

    def opened(self, s: int) -> bool:
        """Whether the engine ever had this socket: then it will be reported by freed()."""

    def freed(self) -> list[tuple[bytes, int]]:
        """(address, port) of each local end whose socket is gone since the last call."""

class Span: ...
