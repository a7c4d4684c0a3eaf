"""What is too rare or too odd for the fast path: ARP, neighbour discovery, echo, and packets nobody asked for.

On `xdp:` ports the kernel answers for its own addresses, and is asked for neighbours. For addresses that only the engine has,
and on ports without a kernel behind them, this does both.
"""

from __future__ import annotations

import ipaddress
import logging
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ._frames import (
    ADVERT,
    ECHO6_REPLY,
    ECHO6_REQUEST,
    ECHO_REPLY,
    ECHO_REQUEST,
    IP4,
    IP6,
    SOLICIT,
    advert6,
    announcement,
    arp,
    icmp4,
    icmp6,
    pseudo6,
    question,
    refusal,
)
from ._wire import internet_checksum
from .accept import AcceptPolicies
from .kerneltap import KernelTap
from .neighbours import IpAddress
from .onwire import OnWire

__all__ = ["Neighbourhood", "SlowPath"]

log = logging.getLogger("pybypass.slowpath")

_VLAN = 0x8100
_VLAN_BYTES = _VLAN.to_bytes(2, "big")
_ASK_AGAIN_S, _DOUBT_AGAIN_S = 0.2, 5.0
# Next hops that the kernel was asked for and has not found yet.
_MAX_PENDING, _PENDING_S = 256, 0.5
_MAX_ASKED, _MAX_KNOWN = 1024, 640
# Between two look-ups of them: in proportion to how long the youngest has waited, within these.
_LOOK_AGAIN_S = (0.001, 0.02)
_INLINE_S = 0.005
# RFC 5227 1.1: ANNOUNCE_NUM, ANNOUNCE_INTERVAL, DEFEND_INTERVAL.
_ANNOUNCE_TIMES, _ANNOUNCE_S, _DEFEND_S = 2, 2.0, 10.0
# ICMP errors of ours: RFC 1812 4.3.2.8, RFC 4443 2.4 (f).
_ERRORS_BURST, _ERRORS_PER_S = 50.0, 100.0


class Neighbourhood(Protocol):
    """Who knows the neighbours: a kernel's interface, or a port without one (neighbour_ask() is False then)."""

    def neighbour_lookup(self, hops: list[IpAddress]) -> dict[IpAddress, bytes]: ...
    def neighbour_ask(self, ip: IpAddress) -> bool: ...
    def neighbour_doubt(self, ip: IpAddress) -> bool: ...


class SlowPath:
    """Serves the exceptions of one engine. `counters` counts what was seen and done, by name.

    A neighbour that the kernel has to find first is pending: tick() looks whether it is there, and nobody waits for it.
    `owned`: those of the addresses that only we have. `siblings` gives the slow paths of the port's other engines, which
    hear of neighbours too: an answer comes to one socket of a queue. `neighbourhood` None: there is nothing but the wire.
    """

    def __init__(
        self,
        core: Any,
        neighbourhood: Neighbourhood | None,
        mac: bytes,
        addresses: Sequence[IpAddress],
        vlan: int = 0,
        *,
        owned: Sequence[ipaddress.IPv4Interface | ipaddress.IPv6Interface] = (),
        siblings: Callable[[], Iterable[SlowPath]] = tuple,
    ) -> None:
        self._tag = struct.pack(">HH", _VLAN, vlan) if vlan else b""
        self._core = core
        self._neighbourhood = neighbourhood
        self._mac = mac
        self._addresses = dict.fromkeys(a.packed for a in addresses)
        self._owned = tuple(owned)
        ours = {i.ip.packed for i in owned}
        self._kernel_sizes = {len(a) for a in self._addresses if a not in ours}
        self._siblings = siblings
        self._wire = OnWire()
        self._announce_left, self._announce_at, self._defended = 0, 0.0, -1e9
        self._errors, self._errors_at = _ERRORS_BURST, 0.0
        self._asked: dict[bytes, float] = {}  # when, oldest first
        self._pending: dict[bytes, float] = {}  # since when, oldest first
        self._known: dict[bytes, bytes] = {}  # what the kernel told
        self._doubted: dict[bytes, float] = {}  # when, of late
        self._look_at = 0.0
        self._lock = threading.RLock()
        self.counters: Counter[str] = Counter()
        self.policies = AcceptPolicies()
        self.kernel: KernelTap | None = None

    def run(self) -> None:
        """Handles everything that waits. A packet that makes trouble is counted and logged, never raised. SYNs come last,
        and outside of the lock: a policy may think for as long as it likes."""
        syns: list[bytes] = []
        with self._lock:
            wanted: list[bytes] = []
            for reason, frame, hop in self._core.exceptions():
                self.counters[reason] += 1
                try:
                    if frame is not None and frame[12:14] == _VLAN_BYTES:
                        frame = frame[:12] + frame[16:]  # the loop has checked that it is ours
                    if self.kernel is not None and frame is not None and self._hand_over(reason, frame):
                        continue
                    if reason == "neigh":
                        wanted.append(hop)
                    elif reason == "doubt":
                        self._doubt(hop)
                    elif reason == "arp":
                        self._arp(frame)
                    elif reason == "icmp":
                        self._icmp(frame)
                    elif reason in ("udp", "ip"):
                        self._refuse(frame, reason)
                    elif reason == "accept":
                        syns.append(frame)
                except (struct.error, ValueError, IndexError):
                    self.counters["malformed"] += 1
                except OSError as e:
                    self.counters["errors"] += 1
                    log.warning("slow path: %s: %s", reason, e)
                except Exception:
                    self.counters["errors"] += 1
                    log.exception("slow path: %s", reason)
            asked = self._want(wanted)
            self._look()
            self._timers()
            if asked and not self._core.threaded:
                self._look_for_a_moment()
        for frame in syns:
            try:
                self._core.judged(frame, self.policies.judge(frame, self.counters))
            except OSError as e:  # closed meanwhile, or no frame: the SYN comes again
                self.counters["errors"] += 1
                log.debug("slow path: accept: %s", e)

    def _hand_over(self, reason: str, frame: bytes) -> bool:
        """Gives the kernel what it may want; whether that was all there is to do with the frame."""
        assert self.kernel is not None
        if reason in ("not_ours", "l2", "udp", "ip"):
            self.kernel.give(frame)
            return True
        if reason == "arp" and len(frame) >= 42:
            # Answers may be for both; questions for our addresses are ours alone.
            if frame[20:22] == b"\0\2" or frame[38:42] not in self._addresses:
                self.kernel.give(frame)
        elif reason == "icmp" and frame[0] & 1:
            ours = len(frame) >= 78 and frame[54] == SOLICIT and frame[62:78] in self._addresses
            if not ours:
                self.kernel.give(frame)
        return False

    def tick(self) -> float | None:
        """Looks for the neighbours that are pending when it is time to, and does what else is due. Returns the seconds until
        it is time again, None when there is nothing to do. Raises nothing; from any thread."""
        with self._lock:
            self._look()
            self._timers()
            times = [self._look_at] if self._pending else []
            times += [self._announce_at] if self._announce_left else []
            due = self._wire.next_due()
            times += [due] if due is not None else []
            return max(0.0, min(times) - time.monotonic()) if times else None

    def _want(self, hops: list[bytes]) -> bool:
        """Has unknown neighbours found out; whether the kernel was asked for one."""
        now = time.monotonic()
        new = [
            h for h in dict.fromkeys(hops) if now - self._asked.get(h, -1e9) >= _ASK_AGAIN_S and h not in self._pending
        ]
        if not new:
            return False
        for hop in new:
            self._asked.pop(hop, None)
            self._asked[hop] = now
        while len(self._asked) > _MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        known = self._learn_from_kernel([h for h in new if not self._is_ours_to_ask(h)])
        asked = False
        for hop in new:
            if hop not in known:
                asked |= self._ask(hop, now)
        return asked

    def _ask(self, hop: bytes, now: float) -> bool:
        """Asks for a neighbour: the kernel, or on the wire where there is none. Whether it was the kernel."""
        try:
            ours = self._neighbourhood is None or self._is_ours_to_ask(hop)
            if ours or not self._neighbourhood.neighbour_ask(ipaddress.ip_address(hop)):  # type: ignore[union-attr]
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
        known: set[bytes] = set()
        if not hops or self._neighbourhood is None:
            return known
        try:
            for ip, mac in self._neighbourhood.neighbour_lookup([ipaddress.ip_address(h) for h in hops]).items():
                self._core.set_neighbour(ip.packed, mac)
                self._remember(ip.packed, mac)
                known.add(ip.packed)
        except OSError as e:
            self.counters["errors"] += 1
            log.debug("slow path: neighbours: %s", e)
        return known

    def _remember(self, hop: bytes, mac: bytes) -> None:
        self._known.pop(hop, None)
        self._known[hop] = mac
        if len(self._known) > _MAX_KNOWN:  # the table of the engine is not larger
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._core.set_neighbour(oldest, None)

    def _doubt(self, hop: bytes) -> None:
        """TCP hears nothing from behind this next hop (RFC 9293 3.8.3 (b), RFC 1122 2.3.2.1 (4)): it is asked by unicast, now and
        not when its time comes, and forgotten if it does not answer."""
        now = time.monotonic()
        if now - self._doubted.get(hop, -1e9) < _DOUBT_AGAIN_S:
            return  # many connections lie behind one gateway
        self._doubted = {h: at for h, at in self._doubted.items() if now - at < _DOUBT_AGAIN_S} | {hop: now}
        if self._wire.doubt(hop, now):
            self.counters["neighbour_doubted"] += 1
        elif hop in self._known and self._neighbourhood is not None:
            self.counters["neighbour_doubted"] += self._neighbourhood.neighbour_doubt(ipaddress.ip_address(hop))

    # ---- news of the kernel ----

    def kernel_neighbour(self, hop: bytes, mac: bytes | None, stale: bool = False) -> None:
        """The kernel says where a neighbour is now, or that it knows no more. One that it will not look after by itself
        (STALE) it is asked to: RFC 4861 7.3.3 has upper layers do so by sending."""
        with self._lock:
            old = self._known.get(hop)
            if old is None and hop not in self._pending:
                return
            if mac is not None:
                self._pending.pop(hop, None)
                if mac != old:
                    self.counters["neighbour_moved"] += old is not None
                    self._core.set_neighbour(hop, mac)
                    self._remember(hop, mac)
                if stale and self._neighbourhood is not None:
                    self.counters["neighbour_stale"] += 1
                    self._neighbourhood.neighbour_ask(ipaddress.ip_address(hop))
            elif old is not None:
                self.counters["neighbour_lost"] += 1
                del self._known[hop]
                self._asked.pop(hop, None)  # the next packet may ask at once
                self._core.set_neighbour(hop, None)

    def kernel_neighbours(self) -> None:
        """Looks up anew all that the kernel told: news of it were lost, or the link is back."""
        with self._lock:
            if self._neighbourhood is None or not self._known:
                return
            now = self._neighbourhood.neighbour_lookup([ipaddress.ip_address(h) for h in self._known])
            for hop in list(self._known):
                self.kernel_neighbour(hop, now.get(ipaddress.ip_address(hop)))

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

    # ---- neighbours of our own, on the wire ----

    def _source(self, hop: bytes) -> bytes | None:
        """The address to ask for `hop` from: one on its link, or any of the family."""
        same = [a for a in self._addresses if len(a) == len(hop)]
        for interface in self._owned:
            if interface.ip.packed in same and ipaddress.ip_address(hop) in interface.network:
                return interface.ip.packed
        return same[0] if same else None

    def _is_ours_to_ask(self, hop: bytes) -> bool:
        """The kernel has no address to ask from, or is not on that link."""
        if self._neighbourhood is None or (self._owned and len(hop) not in self._kernel_sizes):
            return True
        return any(ipaddress.ip_address(hop) in i.network for i in self._owned)

    def _ask_on_wire(self, hop: bytes, to: bytes | None = None) -> None:
        src = self._source(hop)
        if src is not None:
            self.counters["asked"] += 1
            self._send(question(self._mac, src, hop, to))

    def _learn(self, addr: bytes, mac: bytes) -> None:
        if mac[0] & 1 or not any(mac):
            return
        self.counters["learnt"] += 1
        for path in (self, *self._siblings()):
            path._heard(addr, mac)

    def _heard(self, addr: bytes, mac: bytes) -> None:
        self._core.set_neighbour(addr, mac)
        oldest = self._wire.heard(addr, mac, time.monotonic())
        if oldest is not None:
            self._core.set_neighbour(oldest, None)

    def _look_after(self, now: float) -> None:
        """Asks neighbours that were not heard of for a while, and forgets those that do not answer."""
        for hop, mac in self._wire.due(now):
            if mac is not None:
                self._ask_on_wire(hop, mac)
                continue
            self._core.set_neighbour(hop, None)
            self._asked.pop(hop, None)
            self.counters["neighbour_lost"] += 1

    # ---- addresses that only we have ----

    def announce(self) -> None:
        """Tells everybody where the owned addresses are, twice (RFC 5227 2.3, RFC 4861 7.2.6); the second time by tick()."""
        with self._lock:
            self._announce_left, self._announce_at = _ANNOUNCE_TIMES, 0.0
            self._timers()

    def _announce(self, addresses: Iterable[bytes]) -> None:
        for address in addresses:
            self._send(announcement(self._mac, address))
            self.counters["announced"] += 1

    def _timers(self) -> None:
        """Announcements and neighbours that are due. A device that does not take them is counted."""
        now = time.monotonic()
        try:
            if self._announce_left and now >= self._announce_at:
                self._announce_left -= 1
                self._announce_at = now + _ANNOUNCE_S
                self._announce(i.ip.packed for i in self._owned)
            self._look_after(now)
        except OSError as e:
            self.counters["errors"] += 1
            log.debug("slow path: timers: %s", e)

    def _conflict(self, address: bytes) -> None:
        """Somebody else says that he has it: RFC 5227 2.4 (b), defended at most once in ten seconds, and never given up."""
        self.counters["address_conflict"] += 1
        now = time.monotonic()
        if not any(address == i.ip.packed for i in self._owned) or now - self._defended < _DEFEND_S:
            return
        self._defended = now
        log.warning("slow path: somebody else uses %s", ipaddress.ip_address(address))
        self._announce([address])

    # ---- what came in ----

    def _arp(self, frame: bytes) -> None:
        htype, ptype, hlen, plen, op = struct.unpack_from(">HHBBH", frame, 14)
        if (htype, ptype, hlen, plen) != (1, IP4, 6, 4) or len(frame) < 42 or op not in (1, 2):
            raise ValueError("not Ethernet and IPv4")
        sha, spa, tpa = frame[22:28], frame[28:32], frame[38:42]
        if tpa not in self._addresses:
            return
        # RFC 826: the sender's address is learnt when the packet is for us. Nobody may claim our own.
        if spa in self._addresses:
            if sha != self._mac:
                self._conflict(spa)
            return
        if any(spa):
            self._learn(spa, sha)
        if op == 1:
            self._send(arp(2, self._mac, tpa, sha, spa, to=sha))
            self.counters["arp_answered"] += 1

    def _icmp(self, frame: bytes) -> None:
        ethertype = int.from_bytes(frame[12:14], "big")
        if ethertype == IP4:
            self._icmp4(frame)
        elif ethertype == IP6:
            self._icmp6(frame)

    def _icmp4(self, frame: bytes) -> None:
        ihl = (frame[14] & 15) * 4
        total = int.from_bytes(frame[16:18], "big")
        ip = frame[14 : 14 + total]
        message = ip[ihl:]
        if ihl < 20 or len(ip) < total or len(message) < 8 or internet_checksum(ip[:ihl]) or internet_checksum(message):
            raise ValueError("bad ICMP")
        src, dst = ip[12:16], ip[16:20]
        if message[0] != ECHO_REQUEST or dst not in self._addresses:
            return
        self._send(icmp4(frame[6:12], self._mac, dst, src, bytes([ECHO_REPLY, 0]) + message[2:]))
        self.counters["echo_answered"] += 1

    def _icmp6(self, frame: bytes) -> None:
        length = int.from_bytes(frame[18:20], "big")
        src, dst, message = frame[22:38], frame[38:54], frame[54 : 54 + length]
        if len(message) < 8 or len(message) < length or internet_checksum(pseudo6(src, dst, length) + message):
            raise ValueError("bad ICMPv6")
        if message[0] == ECHO6_REQUEST and dst in self._addresses:
            self._send(icmp6(frame[6:12], self._mac, dst, src, bytes([ECHO6_REPLY, 0]) + message[2:]))
            self.counters["echo_answered"] += 1
        elif message[0] in (SOLICIT, ADVERT) and frame[21] == 255 and len(message) >= 24:
            self._discovery(frame[6:12], src, message)

    def _discovery(self, mac: bytes, src: bytes, message: bytes) -> None:
        """RFC 4861 7.2; one who asks from the unspecified address is about to take it (RFC 4862 5.4)."""
        target, option = message[8:24], message[24:32]
        if message[0] == ADVERT:
            if target not in self._addresses:
                self._learn(target, option[2:8] if option[:2] == b"\x02\x01" else mac)
            elif mac != self._mac:
                self._conflict(target)
        elif target in self._addresses:
            if any(src):
                self._learn(src, mac)
                self._send(advert6(self._mac, target, to=mac, dst=src))
            else:
                self._send(advert6(self._mac, target))
            self.counters["nd_answered"] += 1

    def _refuse(self, frame: bytes, reason: str) -> None:
        """A UDP or other packet that nobody handles, answered as a kernel would, at a limited rate."""
        dst = frame[30:34] if frame[12:14] == b"\x08\x00" else frame[38:54]
        answer = refusal(frame, self._mac, reason == "ip") if dst in self._addresses else None
        if answer is None:
            return
        now = time.monotonic()
        self._errors = min(_ERRORS_BURST, self._errors + (now - self._errors_at) * _ERRORS_PER_S)
        self._errors_at = now
        if self._errors < 1:
            self.counters["unreachable_limited"] += 1
            return
        self._errors -= 1
        self._send(answer)
        self.counters["unreachable_sent"] += 1
