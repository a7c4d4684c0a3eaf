"""The rules of a port, whatever compiles them; see pybypass.flow for the types and Port.flow_add() for the calls."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import flowprobe
from .errors import PybypassError
from .flow import Flow, FlowCheck, Rule, refused
from .ports import Port

__all__ = ["DpdkFlows", "FlowTable", "XdpFlows"]


class FlowTable:
    """Rules by their numbers. A back end says how one is put in (`_create` gives its number) and taken out."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self._flows: dict[int, Flow] = {}

    def validate(self, rule: Rule) -> None:
        self._alive()
        self._validate(rule)

    def add(self, rule: Rule) -> Flow:
        self._alive()
        flow = Flow(id=self._create(rule), rule=rule)
        self._flows[flow.id] = flow
        return flow

    def flows(self) -> list[Flow]:
        return [self._now(flow) for flow in self._flows.values()]

    def query(self, flow: Flow) -> dict[str, int | None]:
        self._known(flow)
        if not flow.rule.count:
            raise refused("count", "the rule does not count", hint="make it with count=True")
        hits, nbytes = self._query(flow.id)
        return {"hits": hits, "bytes": nbytes}

    def delete(self, flow: Flow) -> None:
        self._known(flow)
        self._destroy(flow.id)
        del self._flows[flow.id]

    def flush(self) -> None:
        self._alive()
        for flow in list(self._flows.values()):
            self._destroy(flow.id)
            del self._flows[flow.id]

    def check(self, rule: Rule, send: Callable[[bytes], object], packets: int, timeout: float) -> FlowCheck:
        """Port.flow_check()."""
        there = [flow for flow in self._flows.values() if flow.rule == rule]
        self.validate(rule)
        if not 1 <= packets <= 1000:
            raise refused("packets", f"{packets} is not 1 to 1000")
        probe = flowprobe.Probe(self.port, rule, send, packets, timeout)
        for flow in there:
            self.delete(flow)
        without = probe.round()
        flow = self.add(rule)
        try:
            found = probe.round()
            hits = self.query(flow)["hits"] if rule.count else None
        finally:
            if not there:
                self.delete(flow)
        return probe.verdict(without, found, hits)

    # ---- the back end ----

    def _alive(self) -> None:
        if self.port.closed:
            raise PybypassError.make("PB012", errno.EBADF)

    def _known(self, flow: Flow) -> None:
        self._alive()
        if flow.id not in self._flows:
            raise refused("rule", f"{flow.id} is not in the port", errno.ENOENT)

    def _now(self, flow: Flow) -> Flow:
        return flow

    def _validate(self, rule: Rule) -> None:
        raise NotImplementedError

    def _create(self, rule: Rule) -> int:
        raise NotImplementedError

    def _destroy(self, number: int) -> None:
        raise NotImplementedError

    def _query(self, number: int) -> tuple[int | None, int | None]:
        raise NotImplementedError


class DpdkFlows(FlowTable):
    """By rte_flow, in the NIC."""

    def __init__(self, port: Port, handle: Any) -> None:
        super().__init__(port)
        self._handle = handle

    def _core(self, rule: Rule) -> dict[str, Any]:
        if rule.proto is not None and not rule.version:
            raise refused("proto", "IPv4 or IPv6? rte_flow has an item for each", hint="an address, eth_type=0x0800 or 0x86dd")
        core = rule.for_core(range(len(self.port.queues)))
        known = self.port.report["rss_known"]
        for name in core["rss_types"]:
            if name not in known:
                raise refused("rss", f"hash type {name!r}: the port knows {', '.join(known) or 'none'}", errno.EOPNOTSUPP)
        return core

    def _error(self, e: OSError, rule: Rule | None) -> PybypassError:
        item, words = getattr(e, "item", ""), getattr(e, "words", "")
        driver = self.port.report["driver"]
        if e.errno == errno.ENOSYS:
            return refused("rte_flow", f"{driver} has no flow rules", errno.EOPNOTSUPP, driver=driver)
        text = f"{words or e.strerror} ({driver})" + (f": {rule}" if rule is not None else "")
        return refused(item, text, e.errno or errno.EIO, driver=driver, words=words)

    def _validate(self, rule: Rule) -> None:
        core = self._core(rule)
        try:
            self._handle.flow_validate(core)
        except OSError as e:
            raise self._error(e, rule) from None

    def _create(self, rule: Rule) -> int:
        core = self._core(rule)
        try:
            return int(self._handle.flow_create(core))
        except OSError as e:
            raise self._error(e, rule) from None

    def _destroy(self, number: int) -> None:
        try:
            self._handle.flow_destroy(number)
        except OSError as e:
            raise self._error(e, None) from None

    def _query(self, number: int) -> tuple[int | None, int | None]:
        try:
            hits, nbytes = self._handle.flow_query(number)
        except OSError as e:
            raise self._error(e, None) from None
        return hits, nbytes

    def _now(self, flow: Flow) -> Flow:
        if self.port.closed:
            return replace(flow, active=False)
        active, failed = self._handle.flow_state(flow.id)
        return replace(flow, active=active, error=self._error(failed, flow.rule) if failed is not None else None)


Steer = tuple[int, Any, int, int]

# What the maps have no place for, in the order in which it is named.
_NOT_IN_MAPS = ("src_mac", "dst_mac", "eth_type", "vlan", "vlan_pcp", "src_ip", "src_port", "tcp_flags", "drop", "mark", "count")


class XdpFlows(FlowTable):
    """By the maps of the XDP program: the local address, protocol and port, or a range of ports. What matches comes to this
    program's sockets in place of the kernel; the card chooses the queue, and the port's RSS table the socket of it. Errors of
    ICMP that quote a packet from there match too."""

    def __init__(self, port: Port, program: Any) -> None:
        super().__init__(port)
        self._program = program
        self._steered: dict[int, Steer] = {}
        self._last = 0

    def _compile(self, rule: Rule) -> Steer:
        for name in _NOT_IN_MAPS:
            if getattr(rule, name) not in (None, False):
                raise refused(name, _why_not(name), errno.EOPNOTSUPP)
        if rule.priority:
            raise refused("priority", "steering has no order: a packet matches or it does not", errno.EOPNOTSUPP)
        self._check_fate(rule)
        core = rule.for_core()
        address, mask = core["dst_ip"]
        if rule.dst_ip is not None and any(b != 0xFF for b in mask):
            raise refused("dst_ip", "a whole address: the map has no masks", errno.EOPNOTSUPP)
        ip = ipaddress.ip_address(address) if address else None
        if rule.proto is None:
            if ip is not None or rule.dst_port is not None:
                raise refused("proto", "needed with an address or a port", errno.EOPNOTSUPP)
            return 0, None, 0, 0
        proto, mask = core["proto"]
        if mask != 0xFF or not proto:
            raise refused("proto", "a whole number, not 0: the map has no masks", errno.EOPNOTSUPP)
        value, mask, last = core["dst_port"]
        if mask not in (0, 0xFFFF):
            raise refused("dst_port", "a number or a range: the map has no masks", errno.EOPNOTSUPP)
        if proto not in (6, 17, 33, 132, 136):
            return proto, ip, 0, 0
        return (proto, ip, value, last or value) if mask else (proto, ip, 0, 65535)

    def _check_fate(self, rule: Rule) -> None:
        n = len(self.port.queues)
        if rule.queue is not None and (n > 1 or rule.queue):
            text = f"the port has {n}, and XDP cannot send to another queue" if n > 1 else f"{rule.queue}: there is one"
            raise refused("queue", text, errno.EOPNOTSUPP, hint="rss=Rss() takes what the card's queues bring")
        if rule.rss is not None and rule.rss.types:
            raise refused("rss", "types: they are the port's (rss=, rss_table)", errno.EOPNOTSUPP)
        if rule.rss is not None and rule.rss.queues and set(rule.rss.queues) != set(range(n)):
            raise refused("rss", "queues: all of the port, or none named", errno.EOPNOTSUPP)

    def _validate(self, rule: Rule) -> None:
        self._compile(rule)

    def _create(self, rule: Rule) -> int:
        steer = self._compile(rule)
        try:
            self._program.steer_add(*steer)
        except OSError as e:
            what = "dst_port" if steer[2] != steer[3] else "rule"
            raise refused(what, f"the map is full ({e.strerror})", e.errno or errno.EIO) from None
        self._last += 1
        self._steered[self._last] = steer
        return self._last

    def _destroy(self, number: int) -> None:
        try:
            self._program.steer_del(*self._steered[number])
        except OSError as e:
            raise refused("rule", e.strerror or "", e.errno or errno.EIO) from None
        del self._steered[number]


def _why_not(name: str) -> str:
    if name in ("drop", "mark", "count"):
        return "the XDP program only chooses between this port and the kernel"
    return "the XDP program's maps match the local address, protocol and port"
