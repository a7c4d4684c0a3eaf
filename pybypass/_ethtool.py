"""The ethtool family of generic netlink, and the ioctl where it has no message (<linux/ethtool_netlink.h>, <linux/ethtool.h>).

Numbers and names in, numbers and names out; nic.py makes the public types of them.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable, Mapping

from ._netlink import Generic, attribute, attributes, error, nest, number, pairs, text, u8, u32
from .errors import PybypassError

__all__ = ["Ethtool", "hash_fields", "hash_fields_set", "information", "ioctl", "rss_ioctl"]

# Messages.
_STRSET_GET, _LINKMODES_GET, _FEATURES_GET, _FEATURES_SET = 1, 4, 11, 12
_RINGS_GET, _RINGS_SET, _CHANNELS_GET, _CHANNELS_SET, _COALESCE_GET, _COALESCE_SET = 15, 16, 17, 18, 19, 20
_TSINFO_GET, _RSS_GET, _RSS_SET = 25, 38, 48  # the last since 6.17
_HEADER_INDEX = 1

# Attributes by the names that nic.py gives them.
CHANNELS = {
    "rx_max": 2, "tx_max": 3, "other_max": 4, "combined_max": 5, "rx": 6, "tx": 7, "other": 8, "combined": 9,
}  # fmt: skip
RINGS = {"rx_max": 2, "tx_max": 5, "rx": 6, "tx": 9, "rx_buf_bytes": 10, "cqe_bytes": 12}
COALESCING = {
    "rx_usecs": 2, "rx_frames": 3, "rx_usecs_irq": 4, "rx_frames_irq": 5, "tx_usecs": 6, "tx_frames": 7,
    "tx_usecs_irq": 8, "tx_frames_irq": 9, "stats_block_usecs": 10, "adaptive_rx": 11, "adaptive_tx": 12,
}  # fmt: skip
_FLAGS = frozenset({"adaptive_rx", "adaptive_tx"})
_LINKMODES_AUTONEG, _LINKMODES_SPEED, _LINKMODES_DUPLEX = 2, 5, 6
_FEATURES_HW, _FEATURES_WANTED, _FEATURES_ACTIVE, _FEATURES_NOCHANGE = 2, 3, 4, 5
_TSINFO_CAPABILITIES, _TSINFO_TX, _TSINFO_RX, _TSINFO_PHC = 2, 3, 4, 5
_RSS_CONTEXT, _RSS_HFUNC, _RSS_TABLE, _RSS_KEY, _RSS_XFRM, _RSS_FLOWS = 2, 3, 4, 5, 6, 8
_SS_HASH_FUNCTIONS = 5
_NO_XFRM_CHANGE = 0xFF
_BITSET_NOMASK, _BITSET_BITS = 1, 3
_BIT, _BIT_NAME, _BIT_VALUE = 1, 2, 3

# Flow types: the attribute in ETHTOOL_A_RSS_FLOW_HASH, the number in the ioctl.
FLOWS = {
    "tcp4": (4, 0x01), "udp4": (6, 0x02), "sctp4": (8, 0x03), "tcp6": (5, 0x05), "udp6": (7, 0x06), "sctp6": (9, 0x07),
}  # fmt: skip
FIELDS = {"l2da": 1, "vlan": 2, "l3_proto": 3, "src": 4, "dst": 5, "sport": 6, "dport": 7}

# <linux/sockios.h>, <linux/ethtool.h>
_SIOCETHTOOL = 0x8946
_GDRVINFO, _GRXFH, _SRXFH, _GRSSH, _SRSSH = 0x03, 0x29, 0x2A, 0x46, 0x47
_NO_TABLE_CHANGE = 0xFFFFFFFF
_RXFH = struct.Struct("=IIIIBBxxxxxx")  # ethtool_rxfh: cmd, context, indir_size, key_size, hfunc, input_xfrm


def _bitset(data: bytes | None) -> tuple[frozenset[str], frozenset[str]]:
    """(names of the set bits, names of all bits that it speaks of) of a verbose bitset."""
    outer = attributes(data or b"")
    bits = [attributes(value) for kind, value in pairs(outer.get(_BITSET_BITS, b"")) if kind == _BIT]
    named = frozenset(text(bit.get(_BIT_NAME)) for bit in bits)
    if _BITSET_NOMASK in outer:
        return named, named
    return frozenset(text(bit.get(_BIT_NAME)) for bit in bits if _BIT_VALUE in bit), named


class Ethtool(Generic):
    """Its messages about one interface, by index, in the network namespace of the thread that opens it.

    Getters raise PB071 (EOPNOTSUPP) where the driver has no such thing, PB020 when the interface is gone.
    """

    def __init__(self, ifindex: int) -> None:
        super().__init__("ethtool")
        self.ifindex = ifindex

    def _get(self, command: int, *more: bytes) -> dict[int, bytes]:
        found = self.call(command, nest(1, u32(_HEADER_INDEX, self.ifindex)) + b"".join(more))
        return found[0] if found else {}

    def _numbers(self, command: int, names: Mapping[str, int]) -> dict[str, int]:
        found = self._get(command)
        return {name: number(found[kind]) for name, kind in names.items() if kind in found}

    def _set(self, command: int, names: Mapping[str, int], values: Mapping[str, int]) -> None:
        body = [u8(names[k], v) if k in _FLAGS else u32(names[k], v) for k, v in values.items()]
        self._get(command, *body)

    def channels(self) -> dict[str, int]:
        return self._numbers(_CHANNELS_GET, CHANNELS)

    def channels_set(self, values: Mapping[str, int]) -> None:
        self._set(_CHANNELS_SET, CHANNELS, values)

    def rings(self) -> dict[str, int]:
        return self._numbers(_RINGS_GET, RINGS)

    def rings_set(self, values: Mapping[str, int]) -> None:
        self._set(_RINGS_SET, RINGS, values)

    def coalescing(self) -> dict[str, int]:
        return self._numbers(_COALESCE_GET, COALESCING)

    def coalescing_set(self, values: Mapping[str, int]) -> None:
        self._set(_COALESCE_SET, COALESCING, values)

    def link(self) -> dict[str, int]:
        """speed (Mbit/s), duplex (0 half, 1 full), autoneg; those that the driver knows."""
        names = {"speed": _LINKMODES_SPEED, "duplex": _LINKMODES_DUPLEX, "autoneg": _LINKMODES_AUTONEG}
        unknown = {"speed": 0xFFFFFFFF, "duplex": 0xFF}
        return {k: v for k, v in self._numbers(_LINKMODES_GET, names).items() if v != unknown.get(k)}

    def features(self) -> dict[str, tuple[bool, bool, bool]]:
        """(active, wanted, fixed) of each feature, by the kernel's names."""
        found = self._get(_FEATURES_GET)
        changeable, names = _bitset(found.get(_FEATURES_HW))
        wanted, _ = _bitset(found.get(_FEATURES_WANTED))
        active, _ = _bitset(found.get(_FEATURES_ACTIVE))
        never, _ = _bitset(found.get(_FEATURES_NOCHANGE))
        return {n: (n in active, n in wanted, n not in changeable or n in never) for n in sorted(names | active) if n}

    def features_set(self, values: Mapping[str, bool]) -> frozenset[str]:
        """Asks for features to be on or off; the names of those that came out otherwise."""
        bits = [
            nest(_BIT, attribute(_BIT_NAME, name.encode() + b"\0"), attribute(_BIT_VALUE) if on else b"")
            for name, on in values.items()
        ]
        answer = self._get(_FEATURES_SET, nest(_FEATURES_WANTED, nest(_BITSET_BITS, *bits)))
        _, differ = _bitset(answer.get(_FEATURES_WANTED))
        return differ & frozenset(values)

    def strings(self, which: int) -> list[str]:
        """A string set of the kernel, in the order of its bits."""
        wanted = nest(2, nest(1, u32(1, which)))
        found = self._get(_STRSET_GET, wanted)
        for _, string_set in pairs(found.get(2, b"")):
            strings = attributes(string_set).get(3, b"")
            by_index = {number(a.get(1)): text(a.get(2)) for a in (attributes(v) for _, v in pairs(strings))}
            return [by_index[i] for i in sorted(by_index)]
        return []

    def hash_functions(self) -> list[str]:
        """Their names (toeplitz, xor, crc32) in the order of their bits."""
        return self.strings(_SS_HASH_FUNCTIONS)

    def timestamping(self) -> tuple[frozenset[str], frozenset[str], frozenset[str], int | None]:
        """Capabilities, TX types, RX filters, and the index of the clock (/dev/ptpN)."""
        found = self._get(_TSINFO_GET)
        sets = [_bitset(found.get(kind))[0] for kind in (_TSINFO_CAPABILITIES, _TSINFO_TX, _TSINFO_RX)]
        phc = number(found[_TSINFO_PHC]) if _TSINFO_PHC in found else None
        return sets[0], sets[1], sets[2], phc

    def rss(self, context: int = 0) -> dict[str, int | bytes | tuple[int, ...] | dict[str, int]]:
        """function (a bit), table, key, xfrm; flows where the kernel says (6.17)."""
        found = self._get(_RSS_GET, u32(_RSS_CONTEXT, context) if context else b"")
        table = found.get(_RSS_TABLE, b"")
        flows = attributes(found.get(_RSS_FLOWS, b""))
        return {
            "function": number(found.get(_RSS_HFUNC)),
            "table": struct.unpack(f"={len(table) // 4}I", table),
            "key": found.get(_RSS_KEY, b""),
            "xfrm": number(found.get(_RSS_XFRM)),
            "flows": {name: number(flows[kind]) for name, (kind, _) in FLOWS.items() if kind in flows},
        }

    def rss_set(self, table: Iterable[int] | None, key: bytes | None, function: int | None, xfrm: int | None) -> None:
        """PB071 on kernels without ETHTOOL_MSG_RSS_SET: rss_ioctl() does the same there."""
        if _RSS_SET not in self.commands:
            raise error(errno.EOPNOTSUPP, f"{self.name}: RSS_SET")
        values = list(table) if table is not None else []
        body = attribute(_RSS_TABLE, struct.pack(f"={len(values)}I", *values)) if table is not None else b""
        body += attribute(_RSS_KEY, key) if key is not None else b""
        body += u32(_RSS_HFUNC, function) if function is not None else b""
        body += u32(_RSS_XFRM, xfrm) if xfrm is not None else b""
        self._get(_RSS_SET, body)


# ---- what has no message ----


def ioctl(ifname: str, request: bytes) -> bytes:
    """SIOCETHTOOL with a request; the buffer afterwards."""
    buffer = array.array("B", request)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, _SIOCETHTOOL, struct.pack("16sQ16x", ifname.encode(), buffer.buffer_info()[0]))
    except OSError as e:
        raise error(e.errno or errno.EIO, f"{ifname}: ethtool: {e.strerror}") from None
    return buffer.tobytes()


def information(ifname: str) -> tuple[str, str, str, str]:
    """Name, version, firmware version and bus address of the driver (ETHTOOL_GDRVINFO has no netlink message)."""
    found = ioctl(ifname, struct.pack("=I192x", _GDRVINFO))
    name, version, firmware, bus = struct.unpack_from("=4x32s32s32s32s", found)
    return text(name), text(version), text(firmware), text(bus)


def hash_fields(ifname: str, flow: str) -> int:
    """The fields that a flow type is hashed by, bits as in FIELDS (kernels before 6.17 say it here alone)."""
    found = ioctl(ifname, struct.pack("=IIQ", _GRXFH, FLOWS[flow][1], 0) + bytes(176))
    return int(struct.unpack_from("=Q", found, 8)[0])


def hash_fields_set(ifname: str, flow: str, fields: int) -> None:
    ioctl(ifname, struct.pack("=IIQ", _SRXFH, FLOWS[flow][1], fields) + bytes(176))


def rss_ioctl(
    ifname: str, table: Iterable[int] | None, key: bytes | None, function: int | None, xfrm: int | None
) -> None:
    """ETHTOOL_SRSSH, for kernels whose netlink cannot set."""
    _, _, table_size, key_size, current, _ = _RXFH.unpack_from(ioctl(ifname, _RXFH.pack(_GRSSH, 0, 0, 0, 0, 0)))
    values = list(table) if table is not None else []
    if len(values) not in (0, table_size) or (key is not None and len(key) != key_size):
        raise PybypassError.make("PB072", errno.EINVAL, f"{ifname}: RSS table of {table_size}, key of {key_size} bytes")
    head = _RXFH.pack(
        _SRSSH, 0, len(values) if table is not None else _NO_TABLE_CHANGE, len(key or b""),
        current if function is None else function, _NO_XFRM_CHANGE if xfrm is None else xfrm,
    )  # fmt: skip
    ioctl(ifname, head + struct.pack(f"={len(values)}I", *values) + (key or b""))
