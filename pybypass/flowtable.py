"""The rules of a port, whatever compiles them; see pybypass.flow for the types and Port.flow_add() for the calls."""

from __future__ import annotations

import errno
import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import flowprobe
from .errors import PybypassError
from .flow import Flow, FlowCheck, Rule, refused
from .ports import Port

__all__ = ["DpdkFlows", "FlowTable", "XdpFlows"]


class FlowTable(ABC):
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
        """All that can be; those that the back end does not let go of stay in the list, and the first error is raised."""
        self._alive()
        failed: PybypassError | None = None
        for flow in list(self._flows.values()):
            try:
                self._destroy(flow.id)
            except PybypassError as e:
                failed = failed or e
            else:
                del self._flows[flow.id]
        if failed is not None:
            raise failed

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

    @abstractmethod
    def _validate(self, rule: Rule) -> None: ...

    @abstractmethod
    def _create(self, rule: Rule) -> int: ...

    @abstractmethod
    def _destroy(self, number: int) -> None: ...

    @abstractmethod
    def _query(self, number: int) -> tuple[int | None, int | None]: ...


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

_WITH_PORTS = (6, 17, 33, 132, 136)


class XdpFlows(FlowTable):
    """By the maps of the XDP program. A rule about the local address, protocol and ports that only takes its packets is an entry
    of what is steered: errors of ICMP that quote such a packet come too. Every other rule is in a list of at most 64 that is asked
    before, where the first that matches decides, by priority, then by age; a rule of the list that only adds a mark or a count to
    what could be steered is in both places.

    What is taken comes to this program's sockets in place of the kernel: the card chooses the queue, and the port's RSS table the
    socket of it. On a queue without a socket rules drop and count as elsewhere, and nothing is taken. A mark is
    carried by the metadata before the packet, which is the driver's to grant (`meta_failed` of the program's counters)."""

    def __init__(self, port: Port, program: Any, *, metadata: bool) -> None:
        super().__init__(port)
        self._program, self._metadata = program, metadata
        self._there: dict[int, tuple[Steer | None, int | None]] = {}
        self._last = 0

    def _compile(self, rule: Rule) -> dict[str, Any]:
        for name in ("src_mac", "dst_mac", "vlan", "vlan_pcp"):
            if getattr(rule, name) is not None:
                text = "the XDP program looks at EtherType, addresses, protocol, ports and TCP flags"
                raise refused(name, text, errno.EOPNOTSUPP)
        self._check_fate(rule)
        return rule.for_core()

    def _check_fate(self, rule: Rule) -> None:
        n = len(self.port.queues)
        if rule.queue is not None and (n > 1 or rule.queue):
            text = f"the port has {n}, and XDP cannot send to another queue" if n > 1 else f"{rule.queue}: there is one"
            raise refused("queue", text, errno.EOPNOTSUPP, hint="rss=Rss() takes what the card's queues bring")
        if rule.rss is not None and rule.rss.types:
            raise refused("rss", "types: they are the port's (rss=, rss_table)", errno.EOPNOTSUPP)
        if rule.rss is not None and rule.rss.queues and set(rule.rss.queues) != set(range(n)):
            raise refused("rss", "queues: all of the port, or none named", errno.EOPNOTSUPP)
        if rule.mark is not None and not self._metadata:
            raise refused("mark", "the port was opened without metadata", errno.EOPNOTSUPP, hint="open it without meta=0")

    def _validate(self, rule: Rule) -> None:
        self._compile(rule)

    def _create(self, rule: Rule) -> int:
        core = self._compile(rule)
        steer = _steer_of(core)
        in_list = steer is None or core["mark"] is not None or core["count"] or core["priority"]
        number: int | None = None
        try:
            if in_list:
                number = self._program.act_add(core, core["priority"])
            if steer is not None:
                self._program.steer_add(*steer)
        except OSError as e:
            if number is not None:
                self._program.act_del(number)
            what = "rule" if steer is None or steer[2] == steer[3] or (in_list and number is None) else "dst_port"
            raise refused(what, f"the map is full ({e.strerror})", e.errno or errno.EIO) from None
        self._last += 1
        self._there[self._last] = steer, number
        return self._last

    def _destroy(self, number: int) -> None:
        steer, act = self._there[number]
        try:
            if act is not None:
                self._program.act_del(act)
                self._there[number] = steer, None
            if steer is not None:
                self._program.steer_del(*steer)
        except OSError as e:
            raise refused("rule", e.strerror or "", e.errno or errno.EIO) from None
        del self._there[number]

    def _query(self, number: int) -> tuple[int | None, int | None]:
        try:
            hits, nbytes = self._program.act_count(self._there[number][1])
        except OSError as e:
            raise refused("rule", e.strerror or "", e.errno or errno.EIO) from None
        return hits, nbytes


def _steer_of(core: dict[str, Any]) -> Steer | None:
    """The entry that takes just what the rule matches; None: there is none such."""
    if core["fate"] == "drop" or core["eth_type"][1] or any(core[n][1] for n in ("src_port", "tcp_flags")):
        return None
    address, mask = core["dst_ip"]
    if any(core["src_ip"][1]) or any(b != 0xFF for b in mask):
        return None
    ip = ipaddress.ip_address(address) if address else None
    proto, mask = core["proto"]
    if not mask:
        return (0, None, 0, 0) if ip is None else None
    if mask != 0xFF or not proto or core["dst_port"][1] not in (0, 0xFFFF):
        return None
    if proto not in _WITH_PORTS:
        return proto, ip, 0, 0
    value, mask, last = core["dst_port"]
    return (proto, ip, value, last or value) if mask else (proto, ip, 0, 65535)
