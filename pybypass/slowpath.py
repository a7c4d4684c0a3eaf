"""What is too rare or too odd for the fast path: ARP, neighbour discovery, echo, and packets nobody asked for.

On `xdp:` ports the kernel answers for its own addresses, and is asked for neighbours. On ports without a kernel behind them
this does both.
"""

from __future__ import annotations

import ipaddress
import logging
import struct
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from ._wire import internet_checksum
from .accept import AcceptPolicies

if TYPE_CHECKING:
    from .ports import Port

__all__ = ["SlowPath"]

log = logging.getLogger("pybypass.slowpath")

_ARP, _IP4, _IP6, _VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
_VLAN_BYTES = _VLAN.to_bytes(2, "big")
_BROADCAST = b"\xff" * 6
_ASK_AGAIN_S = 0.2
# Next hops that the kernel was asked for and has not found yet.
_MAX_PENDING, _PENDING_S = 256, 0.5
_MAX_ASKED = 1024
# Between two look-ups of them: in proportion to how long the youngest has waited, within these.
_LOOK_AGAIN_S = (0.001, 0.02)
_INLINE_S = 0.005
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ECHO6_REQUEST, _ECHO6_REPLY, _NS, _NA = 128, 129, 135, 136


def _with_checksum(message: bytes, pseudo: bytes = b"") -> bytes:
    """An ICMP message with its checksum (at offset 2) filled in."""
    clear = message[:2] + b"\0\0" + message[4:]
    return clear[:2] + internet_checksum(pseudo + clear).to_bytes(2, "big") + clear[4:]


def _pseudo6(src: bytes, dst: bytes, length: int) -> bytes:
    return src + dst + struct.pack(">IHBB", length, 0, 0, 58)


class SlowPath:
    """Serves the exceptions of one engine. `counters` counts what was seen and done, by name.

    A neighbour that the kernel has to find first is pending: tick() looks whether it is there, and nobody waits for it.
    """

    def __init__(
        self,
        core: Any,
        port: Port,
        mac: bytes,
        addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
        vlan: int = 0,
    ) -> None:
        self._tag = struct.pack(">HH", _VLAN, vlan) if vlan else b""
        self._core = core
        self._port = port
        self._mac = mac
        self._addresses = {a.packed for a in addresses}
        self._asked: dict[bytes, float] = {}  # when, oldest first
        self._pending: dict[bytes, float] = {}  # since when, oldest first
        self._look_at = 0.0
        self._lock = threading.Lock()
        self.counters: Counter[str] = Counter()
        self.policies = AcceptPolicies()

    def run(self) -> None:
        """Handles everything that waits. A packet that makes trouble is counted and logged, never raised."""
        with self._lock:
            wanted: list[bytes] = []
            for reason, frame, hop in self._core.exceptions():
                self.counters[reason] += 1
                try:
                    if frame is not None and frame[12:14] == _VLAN_BYTES:
                        frame = frame[:12] + frame[16:]  # the loop has checked that it is ours
                    if reason == "neigh":
                        wanted.append(hop)
                    elif reason == "arp":
                        self._arp(frame)
                    elif reason == "icmp":
                        self._icmp(frame)
                    elif reason == "accept":
                        self._core.judged(frame, self.policies.judge(frame, self.counters))
                except (struct.error, ValueError, IndexError):
                    self.counters["malformed"] += 1
                except OSError as e:
                    self.counters["errors"] += 1
                    log.warning("slow path: %s: %s", reason, e)
            asked = self._want(wanted)
            self._look()
            if asked and not self._core.threaded:
                self._look_for_a_moment()

    def tick(self) -> float | None:
        """Looks for the neighbours that are pending when it is time to. Returns the seconds until it is time again, None
        when none is pending. Raises nothing; from any thread."""
        with self._lock:
            self._look()
            return max(0.0, self._look_at - time.monotonic()) if self._pending else None

    def _want(self, hops: list[bytes]) -> bool:
        """Has unknown neighbours found out; whether the kernel was asked for one."""
        now = time.monotonic()
        new = [h for h in dict.fromkeys(hops) if now - self._asked.get(h, -1e9) >= _ASK_AGAIN_S and h not in self._pending]
        if not new:
            return False
        for hop in new:
            self._asked.pop(hop, None)
            self._asked[hop] = now
        while len(self._asked) > _MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        known = self._learn_from_kernel(new)
        asked = False
        for hop in new:
            if hop not in known:
                asked |= self._ask(hop, now)
        return asked

    def _ask(self, hop: bytes, now: float) -> bool:
        """Asks for a neighbour: the kernel, or on the wire where there is none. Whether it was the kernel."""
        try:
            if not self._port.neighbour_ask(ipaddress.ip_address(hop)):
                self._ask_on_wire(hop)
                return False
        except OSError as e:
            self.counters["ask_failed"] += 1
            log.debug("slow path: neighbour %s: %s", hop.hex(), e)
            return False
        self.counters["kernel_asked"] += 1
        while len(self._pending) >= _MAX_PENDING:  # the oldest has had most of its time
            del self._pending[next(iter(self._pending))]
            self.counters["pending_full"] += 1
        self._pending[hop] = now
        self._look_at = now + _LOOK_AGAIN_S[0]
        return True

    def _learn_from_kernel(self, hops: list[bytes]) -> set[bytes]:
        """Hands over what the kernel knows of these; which those are."""
        known = set()
        try:
            for ip, mac in self._port.neighbour_lookup([ipaddress.ip_address(h) for h in hops]).items():
                self._core.set_neighbour(ip.packed, mac)
                known.add(ip.packed)
        except OSError as e:
            self.counters["errors"] += 1
            log.debug("slow path: neighbours: %s", e)
        return known

    def _look(self) -> None:
        now = time.monotonic()
        if not self._pending or now < self._look_at:
            return
        for hop in self._learn_from_kernel(list(self._pending)):
            del self._pending[hop]
        for hop in [h for h, since in self._pending.items() if now - since >= _PENDING_S]:
            del self._pending[hop]
            self.counters["unresolved"] += 1
        if self._pending:
            youngest = now - next(reversed(self._pending.values()))
            low, high = _LOOK_AGAIN_S
            self._look_at = now + min(high, max(low, youngest / 2))

    def _look_for_a_moment(self) -> None:
        """Inline: nobody calls tick() until the caller's next call, and a neighbour that lives answers at once."""
        until = time.monotonic() + _INLINE_S
        while self._pending and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, max(0.0, self._look_at - time.monotonic())))
            self._look()

    def _send(self, frame: bytes) -> None:
        """Injects a frame, tagged if the engine's VLAN wants it."""
        self._core.inject(frame[:12] + self._tag + frame[12:])

    def _source(self, size: int) -> bytes | None:
        return next((a for a in self._addresses if len(a) == size), None)

    def _ask_on_wire(self, hop: bytes) -> None:
        src = self._source(len(hop))
        if src is None:
            return
        self.counters["asked"] += 1
        if len(hop) == 4:
            body = struct.pack(">HHBBH", 1, _IP4, 6, 4, 1) + self._mac + src + b"\0" * 6 + hop
            self._send(_BROADCAST + self._mac + struct.pack(">H", _ARP) + body)
            return
        # RFC 4861 4.3, 7.2.2: solicitation to the solicited-node address.
        group = bytes.fromhex("ff0200000000000000000001ff") + hop[13:]
        message = struct.pack(">BBHI", _NS, 0, 0, 0) + hop + b"\x01\x01" + self._mac
        self._send6(b"\x33\x33" + group[12:], src, group, message)

    def _send6(self, to: bytes, src: bytes, dst: bytes, message: bytes) -> None:
        message = _with_checksum(message, _pseudo6(src, dst, len(message)))
        header = struct.pack(">IHBB", 6 << 28, len(message), 58, 255) + src + dst
        self._send(to + self._mac + struct.pack(">H", _IP6) + header + message)

    def _learn(self, addr: bytes, mac: bytes) -> None:
        if not mac[0] & 1 and any(mac):
            self._core.set_neighbour(addr, mac)
            self.counters["learnt"] += 1

    def _arp(self, frame: bytes) -> None:
        htype, ptype, hlen, plen, op = struct.unpack_from(">HHBBH", frame, 14)
        if (htype, ptype, hlen, plen) != (1, _IP4, 6, 4) or len(frame) < 42 or op not in (1, 2):
            raise ValueError("not Ethernet and IPv4")
        sha, spa, tpa = frame[22:28], frame[28:32], frame[38:42]
        if tpa not in self._addresses:
            return
        # RFC 826: the sender's address is learnt when the packet is for us. Nobody may claim our own.
        if spa in self._addresses:
            self.counters["address_conflict"] += 1
            return
        if any(spa):
            self._learn(spa, sha)
        if op == 1:
            body = struct.pack(">HHBBH", 1, _IP4, 6, 4, 2) + self._mac + tpa + sha + spa
            self._send(sha + self._mac + struct.pack(">H", _ARP) + body)
            self.counters["arp_answered"] += 1

    def _icmp(self, frame: bytes) -> None:
        ethertype = int.from_bytes(frame[12:14], "big")
        if ethertype == _IP4:
            self._icmp4(frame)
        elif ethertype == _IP6:
            self._icmp6(frame)

    def _icmp4(self, frame: bytes) -> None:
        ihl = (frame[14] & 15) * 4
        total = int.from_bytes(frame[16:18], "big")
        ip = frame[14 : 14 + total]
        message = ip[ihl:]
        if ihl < 20 or len(ip) < total or len(message) < 8 or internet_checksum(ip[:ihl]) or internet_checksum(message):
            raise ValueError("bad ICMP")
        src, dst = ip[12:16], ip[16:20]
        if message[0] != _ECHO_REQUEST or dst not in self._addresses:
            return
        reply = _with_checksum(bytes([_ECHO_REPLY, 0]) + message[2:])
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(reply), 0, 0x4000, 64, 1, 0, dst, src)
        header = header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:]
        self._send(frame[6:12] + self._mac + struct.pack(">H", _IP4) + header + reply)
        self.counters["echo_answered"] += 1

    def _icmp6(self, frame: bytes) -> None:
        length = int.from_bytes(frame[18:20], "big")
        src, dst, message = frame[22:38], frame[38:54], frame[54 : 54 + length]
        hop_limit = frame[21]
        if len(message) < 8 or len(message) < length or internet_checksum(_pseudo6(src, dst, length) + message):
            raise ValueError("bad ICMPv6")
        kind = message[0]
        if kind == _ECHO6_REQUEST and dst in self._addresses:
            self._send6(frame[6:12], dst, src, bytes([_ECHO6_REPLY, 0]) + message[2:])
            self.counters["echo_answered"] += 1
        elif kind == _NS and hop_limit == 255 and message[8:24] in self._addresses and any(src):
            target = message[8:24]
            self._learn(src, frame[6:12])
            answer = struct.pack(">BBHI", _NA, 0, 0, 0x60000000) + target + b"\x02\x01" + self._mac
            self._send6(frame[6:12], target, src, answer)
            self.counters["nd_answered"] += 1
        elif kind == _NA and hop_limit == 255 and len(message) >= 24:
            option = message[24:32]
            mac = option[2:8] if option[:2] == b"\x02\x01" else frame[6:12]
            self._learn(message[8:24], mac)
