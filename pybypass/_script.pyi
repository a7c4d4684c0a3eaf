"""The host for packet scripts: sockets over one engine on a virtual clock."""

def knobs() -> dict[str, int]:
    """The names of the knobs (those of /proc/sys/net/ipv4), and how many numbers each has."""

class Host:
    """Sockets with Linux's numbers and semantics over one TCP engine, on a virtual clock that the caller moves.

    Calls return what the system call would, or -errno; none blocks (-EAGAIN: let time pass, ask again). Sockets are
    numbers from 0 up. An end is (address of 4 or 16 bytes or None, port).
    """

    def __new__(
        cls,
        *,
        layout: int = 0,
        acks: int = 0,
        psh: bool = False,
        cc: str | None = None,
        mtu: tuple[int, int] = ...,
        addresses: tuple[bytes, bytes] | None = None,
    ) -> Host:
        """layout: order of TCP options, 0 the engine's, 1 Linux's, 2 FreeBSD's; acks: 0 Linux's, 1 BSD's; psh: PSH as
        Linux sets it; cc: congestion control; mtu: for IPv4 and IPv6; addresses: source of both families for sockets
        that are not bound. PybypassError: PB001 no memory, PB040 out of range, PB101 no such cc or profile."""

    def set_knob(self, name: str, field: int, value: int) -> int:
        """0, -ENOENT for an unknown name, -EINVAL for a field that it does not have."""

    def knob(self, name: str, field: int = 0) -> int:
        """Its value; KeyError."""

    @property
    def now_ns(self) -> int:
        """The virtual time."""

    @property
    def next_ns(self) -> int | None:
        """When a timer fires next; None: none is set."""

    def advance(self, now_ns: int) -> None:
        """To now_ns, firing the timers on the way."""

    def input(self, packet: bytes | bytearray | memoryview) -> str:
        """An IP packet comes in. The name of the reason why it was not used, or ""."""

    def output(self) -> tuple[bytes, int] | None:
        """The oldest IP packet that went out and its time in ns; None: there is none."""

    def set_stuck(self, stuck: bool) -> None:
        """Nothing can leave any more, or it can again."""

    def socket(self, family: int, kind: int, protocol: int) -> int: ...
    def bind(self, s: int, where: tuple[bytes | None, int]) -> int: ...
    def listen(self, s: int, backlog: int) -> int: ...
    def accept(self, s: int) -> int: ...
    def connect(self, s: int, where: tuple[bytes | None, int]) -> int: ...
    def recv(self, s: int, n: int, flags: int, nowhere: bool = False) -> tuple[int, bytes]:
        """Result, and the bytes (none with MSG_TRUNC). nowhere: into a null pointer."""

    def send(self, s: int, data: bytes | bytearray | memoryview | None, flags: int) -> int:
        """None stands for a pointer to nowhere."""

    def shutdown(self, s: int, how: int) -> int: ...
    def close(self, s: int) -> int: ...
    def ioctl(self, s: int, request: int) -> tuple[int, int]:
        """Result and value."""

    def setsockopt(self, s: int, level: int, name: int, value: bytes | None) -> int: ...
    def getsockopt(self, s: int, level: int, name: int, room: int) -> tuple[int, bytes]:
        """Result and value, at most `room` bytes."""

    def events(self, s: int) -> int:
        """Bits of poll(2)."""

    def names(self, s: int) -> tuple[tuple[bytes, int], tuple[bytes, int]] | None:
        """Both ends; all-zero addresses where there is none. None: no such socket."""

    def counters(self) -> tuple[dict[str, int], dict[str, int]]:
        """Those of the engine: by nstat's names, and what nstat has no counter for. Empty before the first socket."""
