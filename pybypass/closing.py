"""What is closed at the end of a `with` block."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

__all__ = ["Closing"]

_T = TypeVar("_T", bound="Closing")


class Closing:
    """A context manager that closes itself.

    An exception that leaves the block is not replaced by one of close(): what its traceback keeps alive (views of frames,
    say) must not keep the device.
    """

    def close(self) -> None:
        raise TypeError(f"{type(self).__name__} does not say how it is closed")

    def _close_after_error(self) -> None:
        self.close()

    def __enter__(self: _T) -> _T:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._close_after_error()
