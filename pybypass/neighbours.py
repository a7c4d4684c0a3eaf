"""The kernel's neighbour table, for ports that have a kernel behind them."""

from __future__ import annotations

import ipaddress
import socket
import time

__all__ = ["resolve"]

_NUD_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # REACHABLE, STALE, DELAY, PROBE, PERMANENT
_NTF_USE = 0x01


def _lookup(ipr: object, ifindex: int, ip: str, family: int) -> bytes | None:
    for msg in ipr.get_neighbours(family=family, ifindex=ifindex):  # type: ignore[attr-defined]
        attrs = dict(msg["attrs"])
        if attrs.get("NDA_DST") == ip and msg["state"] & _NUD_USABLE and attrs.get("NDA_LLADDR"):
            return bytes.fromhex(attrs["NDA_LLADDR"].replace(":", ""))
    return None


def resolve(ifindex: int, ip: ipaddress.IPv4Address | ipaddress.IPv6Address, timeout: float = 0.5) -> bytes | None:
    """The MAC address of a neighbour, in the calling thread's network namespace.

    Has the kernel ask when it does not know (RTM_NEWNEIGH with NTF_USE, as `ip neigh ... use`) and waits up to `timeout`
    seconds for the answer. None when there is none.
    """
    from pyroute2 import IPRoute

    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    deadline = time.monotonic() + timeout
    asked = False
    with IPRoute() as ipr:
        while True:
            mac = _lookup(ipr, ifindex, str(ip), family)
            if mac is not None or time.monotonic() > deadline:
                return mac
            if not asked:
                ipr.neigh("replace", dst=str(ip), ifindex=ifindex, family=family, flags=_NTF_USE, state=0)
                asked = True
            time.sleep(0.001)
