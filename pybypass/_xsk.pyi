"""AF_XDP: opening devices and steering frames to them. The data path stays in C, behind the device's ops."""

from ipaddress import IPv4Address, IPv6Address
from os import PathLike
from types import TracebackType
from typing import Any

_Bytes = bytes | bytearray | memoryview
_Ip = str | bytes | IPv4Address | IPv6Address

MODES: dict[str, int]
COPIES: dict[str, int]
SGS: dict[str, int]
SOCKETS_MAX: int
RSS_TABLE: int
RSS_KEY_BYTES: int

class XdpProgram:
    """A reference to the XDP program that this process has attached to an interface.

    The first reference attaches it and the last one detaches it; an open device holds one too. An interface is found
    in the network namespace of the calling thread. `mode` is "auto", "native" or "generic"; `objdir` holds the
    compiled objects (default: the package's own).

    Raises OSError with `.stage` (csrc/dev/xsk.h lists them) and `.report`: EBUSY when another program is attached.
    """

    def __init__(self, ifindex: int, mode: str = "auto", objdir: str | PathLike[str] | None = None) -> None: ...
    def __enter__(self) -> XdpProgram: ...
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None:
        """Drops this reference; again does nothing."""

    def info(self) -> dict[str, Any]:
        """ifindex, prog_id, mode, metadata, no_metadata (why not), frags, attached."""

    def steer_add(self, proto: int, ip: _Ip | None = None, port_lo: int = 0, port_hi: int | None = None) -> None:
        """Redirects frames to a local address and port (or ports `port_lo` to `port_hi`), of IP protocol `proto`.

        `ip` None: any address. Ports 0 to 65535: all of the protocol. `proto` 0 without address and port: every frame.
        ICMP errors that quote such a tuple as their source are redirected too. Rules are counted.

        Raises OSError: EINVAL (malformed), ENOSPC (16 port ranges exist), E2BIG (65,536 tuples exist).
        """

    def steer_del(self, proto: int, ip: _Ip | None = None, port_lo: int = 0, port_hi: int | None = None) -> None:
        """Takes back one steer_add(); OSError(ENOENT) when there was none."""

    def steer_list(self) -> list[tuple[int, str | None, int, int, int]]:
        """(proto, address or None, lowest port, highest port, how often it was added) of each rule, in no order."""

    def act_add(self, rule: dict[str, Any], priority: int) -> int:
        """Puts a flow rule (Rule.for_core()) into the list that is asked before steer_add()'s; its number.

        Raises OSError: ENOSPC (64 rules exist).
        """

    def act_del(self, number: int) -> None:
        """Takes one out; OSError(ENOENT) when it is not there."""

    def act_count(self, number: int) -> tuple[int, int]:
        """Packets and bytes that a rule with `count` has matched; OSError(ENOENT)."""

    def rss_on(self, queue: int, key: _Bytes, table: _Bytes) -> None:
        """Spreads the packets of a queue over its sockets by the Toeplitz hash with `key` (40 bytes): socket
        `table[hash % 128]`, 128 bytes.

        Raises OSError: EBUSY (another key is in use on this interface), EINVAL (queue); ValueError for other lengths.
        """

    def rss_table(self, queue: int, table: _Bytes) -> None:
        """Another table; OSError(ENOENT) when the queue is not spread."""

    def rss_off(self, queue: int) -> None:
        """All packets of the queue go to its first socket again."""

    def counters(self) -> dict[str, int]:
        """redirected, passed, icmp_redirected, meta_failed and dropped (by flow rules), summed over the CPUs."""

def open_device(
    ifname: str,
    queue: int,
    pool_capsule: object,
    *,
    mode: str = "auto",
    copy: str = "auto",
    rx_ring: int = 2048,
    tx_ring: int = 2048,
    fill_ring: int = 2048,
    comp_ring: int = 2048,
    deadline_ms: int = 2000,
    objdir: str | PathLike[str] | None = None,
    sg: str = "auto",
    sockets: int = 1,
    fill_max: int = 0,
    headroom: int = 0,
    unaligned: bool = False,
    own_umem: bool = False,
    tx_meta: bool = False,
    no_meta: bool = False,
    tx_zc_flags: int = 0,
    tx_zc_segs: int = 0,
    busy_poll_us: int = 0,
    busy_budget: int = 0,
) -> tuple[object, XdpProgram, dict[str, Any]]:
    """Binds a socket to a queue: native zero-copy, else native copy, else generic copy, unless `mode`/`copy` say which.

    `pool_capsule` is a "pybypass.pb_pool.v1"; the device takes its own reference. Ring sizes are powers of two from 64
    to 32768. A busy queue is tried again for `deadline_ms`.

    `sg` "auto" (when a packet of the MTU does not fit a frame), "on" or "off": packets of several frames. `sockets`: how
    many the queue will have, the others by join_device(). The rest is as in csrc/dev/xsk.h.

    Returns the capsule "pybypass.pb_dev.v1", the program, and the report of what was tried and granted. Whoever takes
    the capsule must close the device once, by `ops->close` or close_device(); the capsule itself closes nothing.

    Raises OSError with `.stage` and `.report`: ENODEV, ENETDOWN (stage "iface"), EINVAL ("queue", "config"), EMSGSIZE
    ("mtu"), EBUSY ("bind", "prog_busy"), EPERM, ENOBUFS ("umem": locked memory; "fill": pool empty), EOPNOTSUPP,
    EAFNOSUPPORT.
    """

def join_device(dev_capsule: object) -> tuple[object, dict[str, Any]]:
    """The next socket on the queue of a device that was opened with `sockets` > 1 and has not moved a packet yet.

    Raises OSError with `.stage` and `.report`: ENOSPC when all sockets are open.
    """

def device_info(dev_capsule: object) -> dict[str, int]:
    """fill_target, fill_posted, fill_low, pool_empty, tx_eagain, meta_missing, stamps_lost, tx_outstanding, member
    (csrc/dev/xsk.h)."""

def close_device(dev_capsule: object) -> None:
    """Closes the device; ValueError when the capsule was closed by this function before."""
