"""Packets that a flow rule matches, and packets that it must not: how Port.flow_check() finds out what a rule does."""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ._burst import MARK
from ._wire import internet_checksum
from .flow import FlowCheck, Rule
from .ports import Port

__all__ = ["Probe", "frame_of", "others_of"]

Fields = dict[str, Any]

# For what a rule leaves open: a local administered address, RFC 5737, RFC 3849, and an EtherType for experiments.
_SRC_MAC = bytes.fromhex("02005e0000fe")
_DOC6 = bytes.fromhex("20010db8") + bytes(11)
_IP = {4: (bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])), 6: (_DOC6 + b"\1", _DOC6 + b"\2")}
_LOCAL_TYPE, _TYPES = 0x88B5, {4: 0x0800, 6: 0x86DD}
_PORTS = (40001, 40002)
_NONCE = 16
# After the last one that came, this long.
_QUIET_S = 0.3


def _mixed(pair: tuple[bytes, bytes], default: bytes) -> bytes:
    value, mask = pair
    if not mask:
        return default
    return bytes((v & m) | (d & ~m & 0xFF) for v, m, d in zip(value, mask, default, strict=True))


def _number(match: Sequence[int], default: int) -> int:
    value, mask = match[:2]
    return (value & mask) | (default & ~mask)


def fields_of(rule: Rule, mac: bytes) -> Fields:
    """Of a packet that the rule matches; `mac` is the port's."""
    core = rule.for_core()
    # A rule about neither: IPv4 if it is about ports or a protocol.
    version = core["version"] or (4 if core["proto"][1] else 0)
    src, dst = _IP[version or 4]
    return {
        "dst_mac": _mixed(core["dst_mac"], mac), "src_mac": _mixed(core["src_mac"], _SRC_MAC),
        "vlan": core["vlan"][0] if core["vlan"][1] else None, "version": version,
        "eth_type": _number(core["eth_type"], _TYPES.get(version, _LOCAL_TYPE)),
        "src_ip": _mixed(core["src_ip"], src), "dst_ip": _mixed(core["dst_ip"], dst),
        "proto": _number(core["proto"], 17), "src_port": _number(core["src_port"], _PORTS[0]),
        "dst_port": _number(core["dst_port"], _PORTS[1]), "tcp_flags": _number(core["tcp_flags"], 0x10),
    }  # fmt: skip


def _flip(raw: bytes, mask: bytes) -> bytes:
    """The lowest bit that the mask has, the other way."""
    at = max(i for i, m in enumerate(mask) if m)
    return raw[:at] + bytes([raw[at] ^ (mask[at] & -mask[at])]) + raw[at + 1 :]


def others_of(rule: Rule, mac: bytes) -> list[tuple[str, Fields]]:
    """Packets that differ from the rule in one field, by its name. Not in dst_mac and the VLAN, which the card itself filters."""
    core, base = rule.for_core(), fields_of(rule, mac)
    found: list[tuple[str, Fields]] = []
    for name in ("src_mac", "src_ip", "dst_ip"):
        if any(core[name][1]):
            found.append((name, {**base, name: _flip(base[name], core[name][1])}))
    for name in ("src_port", "dst_port"):
        value, mask, last = core[name]
        if last and (value or last < 65535):
            found.append((name, {**base, name: last + 1 if last < 65535 else value - 1}))
        elif mask and not last:
            found.append((name, {**base, name: base[name] ^ (mask & -mask)}))
    flags = core["tcp_flags"][1]
    if flags:
        found.append(("tcp_flags", {**base, "tcp_flags": base["tcp_flags"] ^ (flags & -flags)}))
    if core["proto"] in ((6, 255), (17, 255)):
        found.append(("proto", {**base, "proto": 23 - core["proto"][0]}))
    if not found and (core["eth_type"][1] or core["version"]):
        found.append(("eth_type", {**base, "version": 0, "eth_type": _LOCAL_TYPE + 1}))
    return found


def _l4(f: Fields, payload: bytes) -> bytes:
    if f["proto"] == 6:
        head = struct.pack(">HHIIBBHHH", f["src_port"], f["dst_port"], 1, 1, 5 << 4, f["tcp_flags"], 1024, 0, 0)
        at = 16
    elif f["proto"] == 17:
        head = struct.pack(">HHHH", f["src_port"], f["dst_port"], 8 + len(payload), 0)
        at = 6
    else:
        return payload
    whole: bytes = head + payload
    pseudo: bytes = f["src_ip"] + f["dst_ip"] + struct.pack(">II", f["proto"], len(whole))
    total = internet_checksum(pseudo + whole) or 0xFFFF
    summed: bytes = whole[:at] + struct.pack(">H", total) + whole[at + 2 :]
    return summed


def frame_of(f: Fields, payload: bytes) -> bytes:
    """The Ethernet frame, at least 60 bytes."""
    tag = struct.pack(">HH", 0x8100, f["vlan"]) if f["vlan"] is not None else b""
    head: bytes = f["dst_mac"] + f["src_mac"] + tag + struct.pack(">H", f["eth_type"])
    if not f["version"]:
        return (head + payload).ljust(60, b"\0")
    body = _l4(f, payload)
    if f["version"] == 4:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0x4000, 64, f["proto"], 0) + f["src_ip"] + f["dst_ip"]
        ip = ip[:10] + struct.pack(">H", internet_checksum(ip)) + ip[12:]
    else:
        ip = struct.pack(">IHBB", 6 << 28, len(body), f["proto"], 64) + f["src_ip"] + f["dst_ip"]
    whole: bytes = head + ip + body
    return whole.ljust(60, b"\0")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One round, by queue; None: did not come."""

    matching: dict[int | None, int]
    others: dict[int | None, int]
    where: dict[str, set[int | None]]
    """The others by the field in which they differ."""
    marked: int
    marked_others: int


class Probe:
    """The packets of one check, and what they tell."""

    def __init__(self, port: Port, rule: Rule, send: Callable[[bytes], object], packets: int, timeout: float) -> None:
        mac = bytes.fromhex(port.mac.replace(":", ""))
        self.port, self.rule, self.packets = port, rule, packets
        self._send, self._timeout = send, timeout
        self._kinds = [("", fields_of(rule, mac)), *others_of(rule, mac)]

    def round(self) -> Seen:
        self._poll({}, 0.0)  # what lies there already
        sent: dict[bytes, str] = {}
        came: dict[bytes, tuple[int, int | None]] = {}
        for name, packet in self._kinds:
            for _ in range(self.packets):
                nonce = os.urandom(_NONCE)
                sent[nonce] = name
                self._send(frame_of(packet, nonce))
                came.update(self._poll(sent, 0.0))
        until, quiet = time.monotonic() + self._timeout, time.monotonic() + self._timeout
        while len(came) < len(sent) and time.monotonic() < min(until, quiet):
            new = self._poll(sent, 0.002)
            came.update(new)
            if new:
                quiet = time.monotonic() + _QUIET_S
        return self._seen(sent, came)

    def _poll(self, sent: dict[bytes, str], pause: float) -> dict[bytes, tuple[int, int | None]]:
        """Queue and mark of those that came."""
        found: dict[bytes, tuple[int, int | None]] = {}
        for number, queue in enumerate(self.port.queues):
            with queue.rx_burst(64) as burst:
                for i in range(len(burst)):
                    data = bytes(burst.payload(i))
                    nonce = next((n for n in sent if n in data), None)
                    if nonce is not None:
                        d = burst.desc[i]
                        found[nonce] = (number, int(d["hash"]) if int(d["flags"]) & MARK else None)
        if not found and pause:
            time.sleep(pause)
        return found

    def _seen(self, sent: dict[bytes, str], came: dict[bytes, tuple[int, int | None]]) -> Seen:
        counts: tuple[Counter[int | None], Counter[int | None]] = (Counter(), Counter())
        where: dict[str, set[int | None]] = {}
        marked = [0, 0]
        for nonce, name in sent.items():
            queue, mark = came.get(nonce, (None, None))
            counts[bool(name)][queue] += 1
            marked[bool(name)] += self.rule.mark is not None and mark == self.rule.mark
            if name:
                where.setdefault(name, set()).add(queue)
        return Seen(
            matching=dict(counts[0]), others=dict(counts[1]), where=where, marked=marked[0], marked_others=marked[1]
        )

    def _fits(self, seen: Seen) -> bool:
        """Whether those that match fared as the rule says, by where they came."""
        if self.rule.drop:
            return set(seen.matching) == {None}
        if self.rule.queue is not None:
            return set(seen.matching) == {self.rule.queue}
        assert self.rule.rss is not None
        return set(seen.matching) <= set(self.rule.rss.queues or range(len(self.port.queues)))

    def verdict(self, without: Seen, found: Seen, hits: int | None) -> FlowCheck:
        changed = sorted(n for n in found.where if found.where[n] != without.where.get(n))
        steers: bool | None
        if not self._fits(found):
            steers, words = False, f"packets that match came to {_places(found.matching)}"
        elif changed:
            steers, words = False, f"packets that differ in {', '.join(changed)} fare as if they matched"
        elif self.rule.mark is not None and found.marked < self.packets:
            steers, words = False, f"{found.marked} of {self.packets} packets have the mark"
        elif found.marked_others:
            steers, words = False, f"{found.marked_others} packets that do not match have the mark"
        elif hits is not None and hits != self.packets:
            steers, words = False, f"{hits} packets were counted, and {self.packets} sent"
        elif self._fits(without) and self.rule.mark is None and hits is None:
            steers, words = None, f"without the rule packets come to {_places(without.matching)} too: choose another queue"
        else:
            steers, words = True, "packets that match, and only those, fare as the rule says"
        return FlowCheck(
            steers=steers, words=words, matching=found.matching, others=found.others,
            matching_without=without.matching, others_without=without.others,
        )  # fmt: skip


def _places(counts: dict[int | None, int]) -> str:
    return ", ".join(f"queue {q} ({n})" if q is not None else f"nowhere ({n})" for q, n in counts.items()) or "nowhere"
