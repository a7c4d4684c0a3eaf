"""Network namespaces without names.

A namespace made here is held by one file descriptor (close-on-exec) and by nothing else, so it goes with the process,
however that ends. `ip netns` names are bind mounts and survive; these do not appear there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from . import _sys

__all__ = ["NetNs"]

_T = TypeVar("_T")


class NetNs:
    """An anonymous network namespace.

    `with ns:` moves the calling thread, and it alone, into the namespace and back. It nests, and several threads may
    be inside at once. Close it with close(); sockets, interfaces and processes inside keep it alive until they go too.

    Raises PermissionError without CAP_SYS_ADMIN.
    """

    def __init__(self) -> None:
        self._fd = _sys.netns_new()
        self._came_from = threading.local()

    @property
    def fd(self) -> int:
        """The descriptor that holds the namespace; -1 when closed."""
        return self._fd

    def fileno(self) -> int:
        """The descriptor; ValueError when closed."""
        if self._fd < 0:
            raise ValueError("the network namespace is closed")
        return self._fd

    def close(self) -> None:
        """Lets go of the namespace; again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __enter__(self) -> NetNs:
        before = _sys.netns_enter(self.fileno())
        try:
            self._came_from.stack.append(before)
        except AttributeError:
            self._came_from.stack = [before]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        before = self._came_from.stack.pop()
        try:
            os.close(_sys.netns_enter(before))
        finally:
            os.close(before)

    def run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Calls `function(*args)` inside, in a thread of its own, and returns or raises what it does.

        The caller's thread does not move; a running asyncio loop there does not matter to the function.
        """
        result: list[_T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                with self:
                    result.append(function(*args))
            except BaseException as e:  # handed to the caller
                failure.append(e)

        thread = threading.Thread(target=body, name="pybypass-netns")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def popen(self, args: Sequence[str | os.PathLike[str]], **kwargs: Any) -> subprocess.Popen[Any]:
        """subprocess.Popen inside the namespace; the child is killed when the calling *thread* ends.

        That is what PR_SET_PDEATHSIG offers: call it from a thread that outlives the child. /sys is not mounted anew,
        so /sys/class/net in the child shows the interfaces outside.
        """
        parent = os.getpid()
        before = kwargs.pop("preexec_fn", None)

        def in_child() -> None:
            _sys.pdeathsig(signal.SIGKILL)
            if os.getppid() != parent:  # it died before the request
                os.kill(os.getpid(), signal.SIGKILL)
            if before is not None:
                before()

        with self:
            return subprocess.Popen(args, preexec_fn=in_child, **kwargs)
