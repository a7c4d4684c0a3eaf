"""A laboratory on this machine: two network namespaces joined by a veth pair.

Nothing has a name outside and nothing outlives the process: the namespaces are held by file descriptors, and the pair
goes with them. Needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from .netns import NetNs

__all__ = ["Side", "VethLab", "veth"]

# <linux/sockios.h>, <linux/ethtool.h>
_SIOCETHTOOL = 0x8946
_SIOCGIFFLAGS = 0x8913
_IFF_RUNNING = 0x40
_OFFLOADS = {"tx": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}
_IFA_F_NODAD = 0x02

# The second end gets the first free index of its namespace, and this must differ from it: when both ends have the same
# one, the kernel takes a link for one to itself and may need a second to see its carrier.
_IFINDEX = 10


@dataclass(frozen=True, kw_only=True)
class Side:
    """One end of the pair."""

    netns: NetNs
    ifname: str
    ifindex: int
    mac: str
    ip: str
    """The IPv4 address, without its prefix."""
    prefixlen: int
    ip6: str | None
    """The IPv6 address, or None."""


def set_offload(ifname: str, name: str, on: bool) -> None:
    """Switches "tx", "tso", "gso" or "gro" of an interface in the calling thread's namespace (`ethtool -K`).

    Raises OSError: ENODEV, EPERM, EOPNOTSUPP.
    """
    value = array.array("I", [_OFFLOADS[name], int(on)])
    request = struct.pack("16sQ16x", ifname.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, _SIOCETHTOOL, request)


def _sysctl(path: str, value: str) -> None:
    # /proc/sys/net shows the namespace of the thread that opens it.
    with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as f:
        f.write(value)


def _prepare(ipv6: bool) -> None:
    """What must be set before there is an interface."""
    # veth's receive hash is the sender's socket hash, which would otherwise change with each SYN sent again.
    if os.path.exists("/proc/sys/net/core/txrehash"):
        _sysctl("core/txrehash", "0")
    if not os.path.exists("/proc/sys/net/ipv6"):
        return
    for scope in ("all", "default"):
        _sysctl(f"ipv6/conf/{scope}/disable_ipv6", "0" if ipv6 else "1")
        _sysctl(f"ipv6/conf/{scope}/accept_dad", "0")
        _sysctl(f"ipv6/conf/{scope}/dad_transmits", "0")
        _sysctl(f"ipv6/conf/{scope}/router_solicitations", "0")


def _create_pair(names: Sequence[str], mtu: int, queues: int, peer_netns: int, index: int = _IFINDEX) -> None:
    from pyroute2 import IPRoute  # slow to import, and not needed to look at this module

    count = {"num_rx_queues": queues, "num_tx_queues": queues}
    with IPRoute() as ip:
        peer = {"ifname": names[1], "net_ns_fd": peer_netns, "mtu": mtu, **count}
        chosen = {"index": index} if index else {}
        ip.link("add", ifname=names[0], kind="veth", mtu=mtu, peer=peer, **chosen, **count)


def _bring_up(
    ifname: str, v4: ipaddress.IPv4Interface, v6: ipaddress.IPv6Interface | None, mac: str
) -> tuple[int, str]:
    """Offloads, addresses and links; returns ifindex and MAC address."""
    from pyroute2 import IPRoute

    for name in _OFFLOADS:
        set_offload(ifname, name, False)
    index = socket.if_nametoindex(ifname)
    with IPRoute() as ip:
        ip.link("set", index=socket.if_nametoindex("lo"), state="up")
        ip.link("set", index=index, address=mac, state="up")
        ip.addr("add", index=index, address=str(v4.ip), prefixlen=v4.network.prefixlen)
        if v6 is not None:
            ip.addr(
                "add", index=index, address=str(v6.ip), prefixlen=v6.network.prefixlen,
                family=socket.AF_INET6, flags=_IFA_F_NODAD,
            )  # fmt: skip
    return index, mac


def _wait_running(ifname: str) -> None:
    request = struct.pack("16s24x", ifname.encode())
    deadline = time.monotonic() + 3
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        while True:
            flags = struct.unpack("16xH22x", fcntl.ioctl(s, _SIOCGIFFLAGS, request))[0]
            if flags & _IFF_RUNNING:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{ifname} has no carrier")
            time.sleep(0.001)


class VethLab:
    """Context manager with the two ends `.a` and `.b`; made by veth()."""

    def __init__(
        self,
        addresses: Sequence[str],
        mtu: int,
        queues: int,
        ipv6: Sequence[str] | None,
        names: Sequence[str],
    ) -> None:
        self._v4 = [ipaddress.IPv4Interface(a) for a in addresses]
        self._v6 = [ipaddress.IPv6Interface(a) for a in ipv6] if ipv6 else [None, None]
        if len(self._v4) != 2 or len(self._v6) != 2 or len(names) != 2:
            raise ValueError("a pair has two addresses and two names")
        if not all(0 < len(n.encode()) < 16 for n in names):
            raise ValueError(f"not interface names: {names!r}")
        if not 68 <= mtu <= 65535 or not 1 <= queues <= 256:
            raise ValueError(f"MTU {mtu} (68 to 65535) or queues {queues} (1 to 256) out of range")
        self._mtu, self._queues, self._names = mtu, queues, tuple(names)
        self._netns: list[NetNs] = []
        self._sides: list[Side] = []

    def open(self) -> VethLab:
        """Makes namespaces and pair; on an error nothing stays."""
        if self._netns:
            raise ValueError("already open")
        try:
            for _ in range(2):
                self._netns.append(NetNs())
            for netns in self._netns:
                netns.run(_prepare, self._v6[0] is not None)
            self._netns[0].run(_create_pair, self._names, self._mtu, self._queues, self._netns[1].fd)
            for i, netns in enumerate(self._netns):
                mac = f"02:00:00:00:00:{0x0A + i:02x}"
                v4, v6 = self._v4[i], self._v6[i]
                index, mac = netns.run(_bring_up, self._names[i], v4, v6, mac)
                side = Side(
                    netns=netns,
                    ifname=self._names[i],
                    ifindex=index,
                    mac=mac,
                    ip=str(v4.ip),
                    prefixlen=v4.network.prefixlen,
                    ip6=str(v6.ip) if v6 is not None else None,
                )
                self._sides.append(side)
            for side in self._sides:
                side.netns.run(_wait_running, side.ifname)
        except BaseException:
            self.close()
            raise
        return self

    def join(self, first: str, second: str, addresses: Sequence[str]) -> None:
        """A further pair between the two namespaces, with an IPv4 address (and prefix) for each end, set up as the first is."""
        a, b = self.a.netns, self.b.netns
        a.run(_create_pair, (first, second), self._mtu, 1, b.fd, 0)
        for i, (netns, name) in enumerate(((a, first), (b, second))):
            netns.run(_bring_up, name, ipaddress.IPv4Interface(addresses[i]), None, f"02:00:00:00:01:{0x0A + i:02x}")
        for netns, name in ((a, first), (b, second)):
            netns.run(_wait_running, name)

    def close(self) -> None:
        """Lets go of both namespaces; the kernel removes the pair with the first of them."""
        self._sides.clear()
        while self._netns:
            self._netns.pop().close()

    def __enter__(self) -> VethLab:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def a(self) -> Side:
        """The first end; ValueError when the lab is not open."""
        return self._side(0)

    @property
    def b(self) -> Side:
        """The second end; ValueError when the lab is not open."""
        return self._side(1)

    def _side(self, i: int) -> Side:
        if len(self._sides) != 2:
            raise ValueError("the lab is not open")
        return self._sides[i]


def veth(
    addresses: Sequence[str] = ("10.77.0.1/24", "10.77.0.2/24"),
    *,
    mtu: int = 1500,
    queues: int = 1,
    ipv6: bool | Sequence[str] = False,
    names: Sequence[str] = ("pba", "pbb"),
) -> VethLab:
    """Two fresh namespaces joined by a veth pair, both ends up: `with lab.veth() as l: l.a.netns, l.b.ifname, ...`.

    `addresses` are IPv4 with prefix; `queues` is the number of RX and of TX queues of each end; `ipv6` adds a pair of
    addresses (True: fd77::1/64 and fd77::2/64), without duplicate address detection; otherwise IPv6 is off, which keeps
    its multicast off the wire. Checksum and segmentation offloads and GRO are off at both ends, so frames are as on a
    cable; txrehash is 0, so a flow keeps its hash. MAC addresses are 02:00:00:00:00:0a and :0b.

    Raises PermissionError without the privileges, ValueError for malformed arguments before anything is made.
    """
    pair: Sequence[str] | None = ("fd77::1/64", "fd77::2/64") if ipv6 is True else (ipv6 or None)
    return VethLab(addresses, mtu, queues, pair, names)
