"""What the engines of several queues share. Private: see pybypass.group."""

from collections.abc import Callable
from typing import TypeVar, final

_T = TypeVar("_T")

MEMBERS_MAX: int

@final
class Group:
    def __new__(cls, members: int, flows: int) -> Group: ...
    @property
    def flows(self) -> int:
        """Connections that the members have now, TIME_WAIT included."""

    def wait(self, look: Callable[[], _T | None], timeout: float | None = None, slow: bool = False) -> _T | None:
        """Calls look() until it returns something: again when a member told its application something (slow: when one has
        exceptions), and every 50 ms. None at the timeout (seconds, None: for ever)."""

    def wake(self) -> None:
        """Everybody who waits looks again."""
