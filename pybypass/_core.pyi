"""A path and the application's end of its rings. Private: the base of _engine.EngineCore."""

from collections.abc import Callable
from typing import Any, Self

from pybypass._group import Group
from pybypass._mem import Umem
from pybypass._port import Queue

class Core:
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
        group: Group | None = None,
        member: int = 0,
    ) -> Self: ...
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

class InUse:
    def __new__(cls, core: Core) -> InUse: ...
    def __enter__(self) -> int: ...
    def __exit__(self, *exc: object) -> None: ...
