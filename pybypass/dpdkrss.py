"""Names of what a DPDK port may hash."""

from __future__ import annotations

import errno

from . import dpdk
from .errors import PybypassError

__all__ = ["RSS_GROUPS", "rss_types", "types_of"]

_L4 = ("ipv4-tcp", "ipv4-udp", "ipv6-tcp", "ipv6-udp")
_L3 = ("ipv4", "ipv4-frag", "ipv4-other", "ipv6", "ipv6-frag", "ipv6-other")
RSS_GROUPS: dict[str, tuple[str, ...]] = {"none": (), "ip": _L3, "l4": _L4, "all": (*_L3, *_L4)}
"""What rss= takes besides the names of single hash types (pybypass.dpdkport.rss_types())."""


def rss_types() -> list[str]:
    """The names of the hash types that rss= takes."""
    return list(dpdk.module().RSS_TYPES)


def types_of(text: str) -> list[str]:
    """The hash types of "ip", "l4", "all", "none", or single names joined by "+"."""
    known, found = rss_types(), list[str]()
    for word in filter(None, text.split("+")):
        if word not in RSS_GROUPS and word not in known:
            raise PybypassError.make(
                "PB010", errno.EINVAL, f"rss={word[:40]!r}", hint=f"one of {', '.join([*RSS_GROUPS, *known])}, joined by +"
            )
        found += [name for name in RSS_GROUPS.get(word, (word,)) if name not in found]
    return found
