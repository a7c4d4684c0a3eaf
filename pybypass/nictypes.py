"""What pybypass.nic returns: frozen dataclasses, with the field's own names for things."""

from __future__ import annotations

from dataclasses import dataclass

from ._netdev import Interface, Irq, Queue, Xdp

__all__ = ["Channels", "Coalescing", "Driver", "Feature", "Nic", "Rings", "Rss", "Timestamping"]


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Queues: `combined` serve both directions. `other`: for link events and the like. The maxima are the driver's."""

    rx: int = 0
    tx: int = 0
    other: int = 0
    combined: int = 0
    rx_max: int = 0
    tx_max: int = 0
    other_max: int = 0
    combined_max: int = 0

    @property
    def rx_queues(self) -> int:
        """Receive queues in use."""
        return self.rx + self.combined


@dataclass(frozen=True, kw_only=True)
class Rings:
    """Descriptors of each hardware ring, and their maxima. `rx_buf_bytes` and `cqe_bytes`: None where not said."""

    rx: int = 0
    tx: int = 0
    rx_max: int = 0
    tx_max: int = 0
    rx_buf_bytes: int | None = None
    cqe_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Coalescing:
    """When the device interrupts: after microseconds, or frames. None: the driver has no such setting."""

    rx_usecs: int | None = None
    rx_frames: int | None = None
    rx_usecs_irq: int | None = None
    rx_frames_irq: int | None = None
    tx_usecs: int | None = None
    tx_frames: int | None = None
    tx_usecs_irq: int | None = None
    tx_frames_irq: int | None = None
    stats_block_usecs: int | None = None
    adaptive_rx: bool | None = None
    adaptive_tx: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Feature:
    """`active` now, `wanted` by the user, `fixed`: cannot be changed."""

    active: bool
    wanted: bool
    fixed: bool


@dataclass(frozen=True, kw_only=True)
class Rss:
    """How received flows are spread over queues."""

    function: str
    """toeplitz, xor or crc32; empty: the driver does not say."""
    key: bytes
    """Empty where the driver does not show it."""
    table: tuple[int, ...]
    """The queue for each value of the hash modulo its length. Empty: none."""
    input_xfrm: str
    """none; symmetric-xor: source and destination are XORed first; symmetric-or-xor: ORed and XORed."""
    fields: dict[str, tuple[str, ...]]
    """Of tcp4, udp4, sctp4, tcp6, udp6, sctp6, those whose fields are known: src, dst, sport, dport, ..."""
    context: int = 0


@dataclass(frozen=True, kw_only=True)
class Driver:
    """As `ethtool -i` has it. `numa_node`: None where the machine has one node or does not say."""

    name: str
    version: str
    firmware: str
    bus: str
    numa_node: int | None


@dataclass(frozen=True, kw_only=True)
class Timestamping:
    """What can be stamped (names of ethtool's string sets). `phc`: the clock is /dev/ptpN; None: there is none."""

    capabilities: frozenset[str]
    tx_types: frozenset[str]
    rx_filters: frozenset[str]
    phc: int | None

    @property
    def hardware_rx(self) -> bool:
        """The device says it can stamp what it receives, by some filter."""
        return "hardware-receive" in self.capabilities and bool(self.rx_filters - {"none"})


@dataclass(frozen=True, kw_only=True)
class Nic:
    """All of it; None where the driver has no such thing."""

    interface: Interface
    driver: Driver | None
    speed_mbps: int | None
    duplex: str | None
    channels: Channels | None
    rings: Rings | None
    coalescing: Coalescing | None
    features: dict[str, Feature]
    rss: Rss | None
    timestamping: Timestamping | None
    xdp: Xdp | None
    queues: list[Queue]
    irqs: list[Irq]
