"""Receive-side scaling as the NIC does it: the hash of a flow, the queue it lands on, a source port for a wanted queue.

    >>> from pybypass import nic, rss
    >>> rss.hash("66.9.149.187", "161.142.100.80", 2794, 1766) == 0x51CCC178
    True
    >>> card = nic.rss("eth1")
    >>> rss.queue("10.0.0.9", "10.0.0.1", 5000, 80, card)
    2
    >>> rss.source_port("10.0.0.1", "10.0.0.9", 80, card, queue=2)
    32771

The tuple is that of the packet which the NIC receives: for an answer to us, `src` is the other side. Only the low bits of
the hash choose: table[hash % len(table)], as the drivers of the usual cards do.

All take arrays too, one flow per element, and hash them by one call without the GIL. Addresses of arrays are uint32 in host
order (IPv4) or uint8 of shape (n, 16) (IPv6); ports are integers of shape (n,); scalars are repeated.

Sources: Microsoft, "RSS hashing types" and "Verifying the RSS hash calculation"; Woo and Park, "Scalable TCP session
monitoring with symmetric receive-side scaling" (2012); Documentation/networking/scaling.rst for `input_xfrm`.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._wire import TOEPLITZ_KEY, toeplitz_rows
from .errors import PybypassError
from .nictypes import Rss

__all__ = [
    "KEY",
    "PORTS",
    "SYMMETRIC_KEY",
    "hash",
    "is_symmetric",
    "queue",
    "source_port",
    "source_ports",
    "symmetric_key",
]

Address = str | bytes | int | ipaddress.IPv4Address | ipaddress.IPv6Address
Addresses = Address | npt.NDArray[Any]
Ports = int | npt.NDArray[Any]

KEY: bytes = TOEPLITZ_KEY
"""Microsoft's verification key, 40 bytes, the default of many NICs."""
FOUR_TUPLE = ("src", "dst", "sport", "dport")
PORTS = range(32768, 61000)
"""Linux's default range of local ports."""


def symmetric_key(length: int = 40) -> bytes:
    """0x6d5a repeated: with it both directions of a flow hash alike, on any card that takes a key."""
    if length < 8 or length % 2:
        raise ValueError(f"{length}: an even number of bytes, at least 8")
    return b"\x6d\x5a" * (length // 2)


SYMMETRIC_KEY: bytes = symmetric_key()


def is_symmetric(key: bytes) -> bool:
    """Whether a flow and its answers hash alike whatever the flow: the key repeats itself every 16 bits."""
    return len(key) >= 4 and all(a == b for a, b in zip(key, key[2:], strict=False))


# ---- the input of the hash ----


def _address(value: Addresses) -> npt.NDArray[np.uint8]:
    """Addresses as they lie in the header: shape (n, 4) or (n, 16)."""
    if isinstance(value, np.ndarray):
        if value.ndim == 2 and value.shape[1] in (4, 16) and value.dtype == np.uint8:
            return value
        if value.ndim == 1 and value.dtype.kind in "ui":
            if value.size and (value.min() < 0 or value.max() > 0xFFFFFFFF):
                raise ValueError("an IPv4 address has 32 bits")
            return value.astype(">u4").view(np.uint8).reshape(-1, 4)
        raise ValueError(f"addresses are integers (n,) or uint8 (n, 4 or 16), not {value.dtype} {value.shape}")
    packed = ipaddress.ip_address(value).packed
    return np.frombuffer(packed, np.uint8).reshape(1, -1)


def _port(value: Ports) -> npt.NDArray[np.uint8]:
    """Ports as they lie in the header: shape (n, 2)."""
    ports = np.atleast_1d(np.asarray(value))
    if ports.ndim != 1 or ports.dtype.kind not in "ui" or (ports.size and (ports.min() < 0 or ports.max() > 65535)):
        raise ValueError("ports are whole numbers from 0 to 65535, of shape (n,)")
    return ports.astype(">u2").view(np.uint8).reshape(-1, 2)


_Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def _transformed(pair: _Pair, input_xfrm: str) -> _Pair:
    a, b = pair
    if input_xfrm == "none":
        return a, b
    if input_xfrm == "symmetric-xor":
        return a ^ b, a ^ b
    if input_xfrm == "symmetric-or-xor":
        return a | b, a ^ b
    raise ValueError(f"input_xfrm {input_xfrm!r}: none, symmetric-xor or symmetric-or-xor")


def _rows(
    src: Addresses, dst: Addresses, sport: Ports, dport: Ports, fields: Collection[str], input_xfrm: str
) -> npt.NDArray[np.uint8]:
    """The bytes that are hashed, a row for each flow."""
    if not fields or set(fields) - set(FOUR_TUPLE):
        raise ValueError(f"fields {tuple(fields)!r}: some of {', '.join(FOUR_TUPLE)}")
    addresses, ports = (_address(src), _address(dst)), (_port(sport), _port(dport))
    if addresses[0].shape[1] != addresses[1].shape[1]:
        raise ValueError("source and destination are of different IP versions")
    counts = {len(part) for part in (*addresses, *ports)} - {1}
    if len(counts) > 1:
        raise ValueError(f"arrays of different lengths: {sorted(counts)}")
    n = counts.pop() if counts else 1
    parts = dict(zip(FOUR_TUPLE, (*_transformed(addresses, input_xfrm), *_transformed(ports, input_xfrm)), strict=True))
    chosen = [np.broadcast_to(parts[name], (n, parts[name].shape[1])) for name in FOUR_TUPLE if name in fields]
    return np.ascontiguousarray(np.concatenate(chosen, axis=1))


def _hashes(key: bytes, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    found = np.empty(len(rows), np.uint32)
    toeplitz_rows(key, rows, found)
    return found


def _scalar(*values: object) -> bool:
    return not any(isinstance(value, np.ndarray) for value in values)


def hash(
    src: Addresses,
    dst: Addresses,
    sport: Ports = 0,
    dport: Ports = 0,
    *,
    key: bytes = KEY,
    fields: Collection[str] = FOUR_TUPLE,
    input_xfrm: str = "none",
) -> Any:
    """The Toeplitz hash of a flow: an int, or uint32 of shape (n,) when an argument is an array.

    `fields`: those that the card hashes; ("src", "dst") for fragments and for protocols without ports. `input_xfrm`:
    what is done to them first: none, symmetric-xor or symmetric-or-xor.

    Raises ValueError for malformed arguments, and a key shorter than the input plus four bytes.
    """
    found = _hashes(key, _rows(src, dst, sport, dport, fields, input_xfrm))
    return int(found[0]) if _scalar(src, dst, sport, dport) else found


# ---- the table ----


def _setting(
    card: Rss | Sequence[int] | npt.NDArray[Any], key: bytes | None, proto: str, version: int
) -> tuple[npt.NDArray[np.uint32], bytes, Collection[str], str]:
    """Table, key, fields and transformation."""
    if not isinstance(card, Rss):
        table = np.asarray(card, np.uint32)
        if table.ndim != 1 or not table.size:
            raise ValueError("an indirection table is a sequence of queues")
        return table, KEY if key is None else key, FOUR_TUPLE, "none"
    if not card.table or card.function not in ("toeplitz", ""):
        raise PybypassError.make("PB071", errno.EOPNOTSUPP, f"RSS with a table and Toeplitz, not {card.function!r}")
    if key is None and not card.key:
        raise PybypassError.make("PB075", errno.ENODATA)
    fields = [f for f in card.fields.get(f"{proto}{version}", FOUR_TUPLE) if f in FOUR_TUPLE]
    return np.asarray(card.table, np.uint32), card.key if key is None else key, fields, card.input_xfrm


def _version(address: Addresses) -> int:
    return 4 if _address(address).shape[1] == 4 else 6


def queue(
    src: Addresses,
    dst: Addresses,
    sport: Ports,
    dport: Ports,
    card: Rss | Sequence[int] | npt.NDArray[Any],
    *,
    key: bytes | None = None,
    proto: str = "tcp",
) -> Any:
    """The queue that a packet lands on: an int, or uint32 of shape (n,) when an argument is an array.

    `card`: what nic.rss() returned, or an indirection table. `key`: for a table (default KEY), or where the driver does
    not show the card's. `proto`: tcp, udp or sctp; what the card hashes of it is in `card.fields`.

    Raises PB071 (no table, or not Toeplitz), PB075 (the key is not known); ValueError for malformed arguments.
    """
    table, key, fields, xfrm = _setting(card, key, proto, _version(src))
    if fields:
        found = table[_hashes(key, _rows(src, dst, sport, dport, fields, xfrm)) % np.uint32(len(table))]
    else:  # nothing is hashed: the hash is 0
        found = np.full(max(len(_address(src)), len(_port(sport)), len(_port(dport))), table[0], np.uint32)
    return int(found[0]) if _scalar(src, dst, sport, dport) else found


def source_ports(
    src: Address,
    dst: Address,
    dport: int,
    card: Rss | Sequence[int] | npt.NDArray[Any],
    *,
    queue: int,
    key: bytes | None = None,
    proto: str = "tcp",
    ports: range = PORTS,
    avoid: Collection[int] = (),
) -> Iterator[int]:
    """The local ports from `ports`, in their order, with which the answers of `dst`:`dport` to `src` land on `queue`.

    `src` is our address: the flow is named as we open it, and what the card hashes is the answer. `avoid`: ports in use.
    Other arguments and errors as in queue().
    """
    candidates = np.fromiter(ports, np.int64, len(ports))
    landed = _queue(dst, src, dport, candidates, card, key=key, proto=proto)
    avoided = frozenset(avoid)
    return (port for port in candidates[landed == queue].tolist() if port not in avoided)


_queue = queue


def source_port(
    src: Address,
    dst: Address,
    dport: int,
    card: Rss | Sequence[int] | npt.NDArray[Any],
    *,
    queue: int,
    key: bytes | None = None,
    proto: str = "tcp",
    ports: range = PORTS,
    avoid: Collection[int] = (),
) -> int:
    """The first of source_ports(). Raises PB074 when there is none."""
    found = source_ports(src, dst, dport, card, queue=queue, key=key, proto=proto, ports=ports, avoid=avoid)
    port = next(found, None)
    if port is None:
        raise PybypassError.make("PB074", errno.EADDRNOTAVAIL, f"queue {queue}, of {len(ports)} ports to {dst!s}:{dport}")
    return port
