"""What cards do with VLAN tags that an engine has to know: strip them from frames, and keep out those that nobody asked for.

Source: the kernel's networking/xdp-rx-metadata and NETIF_F_HW_VLAN_CTAG_RX and _FILTER (netdev-features).
"""

from __future__ import annotations

import errno
from typing import Any

from . import nic
from .errors import PybypassError

__all__ = ["check"]


def check(ifname: str, vlan: int, *, metadata: bool, known: bool, netns: Any = None) -> None:
    """Whether frames of a VLAN come to an AF_XDP socket with their tag.

    `metadata`: the socket's program hands on what the driver knows of a packet; `known`: the kernel has a VLAN interface with
    that id. Raises PybypassError PB083 (the tag is stripped and nobody tells it), PB084 (the card drops such frames).
    """
    features = nic.features(ifname, netns=netns)
    strips, filters = (
        name in features and features[name].active for name in ("rx-vlan-hw-parse", "rx-vlan-filter")
    )  # fmt: skip
    if strips:
        card = nic.xdp(ifname, netns=netns)
        told = card is not None and "vlan-tag" in card.rx_metadata
        if not (told and metadata):
            fix = "open the port without meta=0 and mode=generic" if told else f"ethtool -K {ifname} rxvlan off"
            raise PybypassError.make("PB083", errno.EOPNOTSUPP, f"{ifname}, VLAN {vlan}", hint=fix)
    if filters and not known and not nic.interface(ifname, netns=netns).promiscuity:
        fix = f"ip link add link {ifname} name {ifname}.{vlan} type vlan id {vlan}; or: ip link set {ifname} promisc on"
        raise PybypassError.make("PB084", errno.EADDRNOTAVAIL, f"{ifname}, VLAN {vlan}", hint=fix)
