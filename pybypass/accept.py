"""Who may connect: a Python callable that each SYN of a listener is shown before it is answered."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .neighbours import IpAddress

__all__ = ["AcceptPolicies", "Policy", "Request"]

log = logging.getLogger(__name__)
_VERDICT_S, _VERDICTS = 10.0, 4096


@dataclass(frozen=True, kw_only=True)
class Request:
    """A connection that somebody wants: both ends as (address, port), and the SYN's own words."""

    remote: tuple[str, int]
    local: tuple[str, int]
    seq: int
    window: int
    options: bytes
    """The TCP options as they came (RFC 9293 3.2)."""
    ttl: int
    """Time to live, or hop limit."""
    mac: bytes
    """Where the frame came from: the peer, or the last router."""


Policy = Callable[[Request], object]
"""True: the connection is accepted; false, or an exception: it is refused by RST."""


def parse(frame: bytes) -> Request:
    """Of an untagged frame that the engine has checked: IPv4, or IPv6 without extension headers. ValueError for others."""
    version = frame[14] >> 4
    if version == 4:
        l4, ttl = 14 + (frame[14] & 15) * 4, frame[22]
        src, dst = frame[26:30], frame[30:34]
    else:
        l4, ttl = 54, frame[21]
        src, dst = frame[22:38], frame[38:54]
        if frame[20] != 6:
            raise ValueError("extension headers")
    tcp = frame[l4:]
    if len(tcp) < 20:
        raise ValueError("short")

    def number(at: int, n: int) -> int:
        return int.from_bytes(tcp[at : at + n], "big")

    return Request(
        remote=(str(ipaddress.ip_address(src)), number(0, 2)), local=(str(ipaddress.ip_address(dst)), number(2, 2)),
        seq=number(4, 4), window=number(14, 2), options=tcp[20 : (tcp[12] >> 4) * 4], ttl=ttl, mac=frame[6:12],
    )  # fmt: skip


class AcceptPolicies:
    """The policies of one engine's listeners, by local address and port. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._policies: dict[tuple[str, int], Policy] = {}
        self._complained: set[tuple[str, int]] = set()
        self._verdicts: dict[tuple[object, ...], tuple[float, bool]] = {}  # by SYN: when, what; oldest first

    def add(self, ip: IpAddress, port: int, policy: Policy) -> None:
        with self._lock:
            self._policies[(str(ip), port)] = policy
            self._complained.discard((str(ip), port))

    def remove(self, ip: IpAddress, port: int) -> None:
        with self._lock:
            self._policies.pop((str(ip), port), None)

    def judge(self, frame: bytes, counters: Counter[str]) -> bool:
        """Whether the SYN in this frame is to be answered. Raises nothing; counts in `counters`: accept_asked and one of
        accept_admitted, accept_refused, accept_errors, accept_again (a SYN sent again)."""
        counters["accept_asked"] += 1
        try:
            request = parse(frame)
        except (ValueError, IndexError):
            counters["accept_refused"] += 1
            return False
        key = (request.remote, request.local, request.seq)
        with self._lock:
            policy = self._policies.get(request.local)
            verdict = self._verdicts.get(key)
        if verdict is not None and policy is not None and time.monotonic() - verdict[0] <= _VERDICT_S:
            counters["accept_again"] += 1
            return verdict[1]
        if policy is None:  # the listener was closed meanwhile: the engine refuses by itself
            counters["accept_refused"] += 1
            return False
        try:
            admitted = bool(policy(request))
        except BaseException as e:  # SystemExit too: it must not end the thread that answers for all
            counters["accept_errors"] += 1
            with self._lock:
                first = request.local not in self._complained
                self._complained.add(request.local)
            if first:
                log.exception(
                    "accept policy of %s port %d: refused, and so will be all that it fails for", *request.local
                )
            if isinstance(e, KeyboardInterrupt):
                raise
            return self._remember(key, False)
        counters["accept_admitted" if admitted else "accept_refused"] += 1
        return self._remember(key, admitted)

    def _remember(self, key: tuple[object, ...], admitted: bool) -> bool:
        """A SYN that is sent again gets the same answer, without the policy's being asked again."""
        now = time.monotonic()
        with self._lock:
            while self._verdicts and (
                len(self._verdicts) >= _VERDICTS or now - next(iter(self._verdicts.values()))[0] > _VERDICT_S
            ):
                del self._verdicts[next(iter(self._verdicts))]
            self._verdicts[key] = (now, admitted)
        return admitted
