"""Runs a packet script over the host: virtual time, one call or packet per event."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections import deque
from dataclasses import dataclass, replace

from ._script import Host
from .scriptcalls import CALLS, Descriptor, Mismatch, Trial, prepare
from .scriptflow import Flow, Tolerance, differences, join
from .scriptinfo import variables
from .scriptknobs import Unknown, run_command
from .scriptlex import trouble
from .scriptpacket import Seen, build_icmp, build_tcp, payload, seen_of, text_of
from .scripttree import Call, Code, Command, Event, Icmp, Script, TcpPacket
from .scriptwords import errno_of, number

__all__ = ["Failure", "Machine", "Traced"]

_IDLE_US = 400_000_000  # nothing later than this is waited for
_EAGAIN = -errno.EAGAIN


@dataclass(frozen=True, slots=True)
class Traced:
    """A packet of a run. time_us: since the first event; `text` as a script would have it, numbers relative."""

    time_us: int
    outbound: bool
    text: str
    packet: TcpPacket | Icmp


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a run was not what the script has. line 0: at its end."""

    line: int
    reason: str
    expected: str = ""
    seen: str = ""


class _Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


@dataclass(slots=True)
class _Waiting:
    event: Event
    call: Call
    trial: Trial
    start_us: int
    end_us: int
    result: int | None = None
    ended_us: int = 0


def _seconds(us: int) -> str:
    return f"{us / 1e6:.6f}"


class Machine:
    """One run of one script. `local` and `remote` are the ends that `...` stands for."""

    def __init__(
        self, script: Script, host: Host, *, family: int, local: tuple[bytes, int], remote: tuple[bytes, int],
        tolerance: Tolerance, tick_us: int = 0, strict: bool = False,
    ) -> None:  # fmt: skip
        self.script, self.host, self.family = script, host, family
        self.local, self.remote = local, remote
        self.tolerance, self.tick_us, self.strict = tolerance, tick_us, strict
        self.fds: dict[int, Descriptor] = {}
        self.flow: Flow | None = None
        self.listening = False
        self.bare = False  # the last socket that was made neither listens nor connects: packets are of nobody
        self.flows: list[Flow] = []
        self.trace: list[Traced | Seen] = []
        self.sent: deque[Seen] = deque()
        self.waiting: list[_Waiting] = []
        self.alarms: list[int] = []
        self.names: dict[str, object] = {}  # of the code blocks
        self.start_ns = host.now_ns
        self.next_port = 40000
        self.event: Event | None = None
        self.expected_us = 0  # of the event that runs
        self.last_us: int | None = None  # of the one before
        self.last_inbound = False

    # ---- time ----

    @property
    def now_us(self) -> int:
        return (self.host.now_ns - self.start_ns) // 1000

    def wake_at(self, us: int) -> None:
        """Something that is not the engine's ends then."""
        if us not in self.alarms:
            self.alarms.append(us)

    def next_us(self) -> int | None:
        """The next timer, rounded up: none is early."""
        t = self.host.next_ns
        times = [a for a in self.alarms if a > self.now_us]
        if t is not None:
            times.append(max(-(-(t - self.start_ns) // 1000), self.now_us))
        return min(times, default=None)

    def advance(self, us: int) -> None:
        last = None
        while (t := self.next_us()) is not None and t <= us and t != last:
            last = t
            self.host.advance(self.start_ns + t * 1000)
            self.settle()
        self.host.advance(max(self.start_ns + us * 1000, self.host.now_ns))
        self.settle()

    def settle(self) -> None:
        """Takes what went out, and lets those that wait try again."""
        self.drain()
        for w in self.waiting:
            if w.result is None:
                rc = w.trial.attempt()
                if rc != _EAGAIN:
                    w.result, w.ended_us = rc, self.now_us
                    self.drain()

    def drain(self) -> None:
        while (out := self.host.output()) is not None:
            try:
                seen = seen_of(*out)
            except ValueError as e:
                raise self.fail(str(e)) from None
            if seen is not None:
                self.sent.append(seen)
                self.trace.append(seen)

    def packets(self) -> tuple[Traced, ...]:
        """All that passed until now, in order, with the numbers of the script."""
        return tuple(self.traced(t) if isinstance(t, Seen) else t for t in self.trace)

    def traced(self, s: Seen) -> Traced:
        flow = next((f for f in reversed(self.flows) if f.matches(s)), None)
        p = flow.to_script(s.packet, None) if flow else s.packet
        return Traced(self.at(s), True, text_of(p), p)

    # ---- failing ----

    def fail(self, reason: str, expected: str = "", seen: str = "", line: int | None = None) -> _Failed:
        at = line if line is not None else self.event.line if self.event else 0
        return _Failed(Failure(at, reason, expected, seen))

    def not_there(self, text: str) -> Exception:
        return trouble("PB101", self.script.path, self.event.line if self.event else 0, 0, text)

    # ---- the events ----

    def run(self) -> Failure | None:
        """None: all was as the script has it. PybypassError PB101: it asks for what is not there."""
        try:
            for event in self.script.init:
                self.event = event
                self.command(event)
            for event in self.script.events:
                self.event = event
                self.one(event)
                self.last_us = self.expected_us
                self.ended(False)
            self.ended(True)
        except _Failed as e:
            return e.failure
        except Mismatch as e:
            return self.fail(str(e)).failure
        return None

    def one(self, event: Event) -> None:
        action, when = event.action, event.when
        inbound = isinstance(action, TcpPacket | Icmp) and not action.outbound
        if self.last_us is None and (when.start_us or when.kind == "any"):
            raise self.fail("the first event must be at time 0")
        base = 0
        if when.kind != "at":
            base = self.last_us or 0 if inbound and self.last_inbound else self.now_us
        self.expected_us = base + when.start_us
        if when.kind == "at" and self.last_us is not None and when.end_us is None and self.expected_us < self.last_us:
            raise self.fail("time goes backward in the script")
        self.last_inbound = inbound
        end = base + when.end_us if when.end_us is not None else None
        if isinstance(action, TcpPacket | Icmp) and action.outbound:
            self.expect(action, end)
            return
        if self.expected_us > self.now_us:
            self.advance(self.expected_us)
        if when.kind != "any":
            self.check_time(self.now_us, self.expected_us, end, "this")
        if isinstance(action, TcpPacket):
            self.inject(action)
        elif isinstance(action, Icmp):
            self.inject_icmp(action)
        elif isinstance(action, Call):
            self.call(event, action, base)
        elif isinstance(action, Command):
            self.command(event)
        elif isinstance(action, Code):
            self.code(action)

    def check_time(
        self, at: int, start: int, end: int | None, what: str, since: int | None = None, line: int | None = None,
        look: int = 0,
    ) -> None:  # fmt: skip
        """look: microseconds by which the place that times are relative to lies later."""
        since = self.last_us if since is None else since
        slack = self.tolerance.of(start - since) if since is not None else self.tolerance.us
        if start - slack <= at - look <= (end if end is not None else start) + slack:
            return
        wanted = f"{_seconds(start)}" + (f" to {_seconds(end)}" if end is not None else "")
        raise self.fail(
            f"{what} came at another time (tolerance {_seconds(slack)} s)",
            f"at {wanted} s",
            f"at {_seconds(at)} s",
            line,
        )

    # ---- packets in ----

    def trace_in(self, p: TcpPacket | Icmp) -> None:
        self.trace.append(Traced(self.now_us, False, text_of(p), p))

    def begin(self, flow: Flow) -> None:
        """What follows is about this connection."""
        self.flow = flow
        self.bare = False
        self.flows.append(flow)

    def inject(self, p: TcpPacket) -> None:
        if self.bare and not p.ports:
            self.trace_in(p)  # packetdrill has no addresses for it yet: nobody gets it
            return
        if self.flow is None or self.listening:
            self.begin(Flow(self.local, (self.remote[0], self.next_port), "syn-received", peer_isn=p.seq))
            self.next_port += 1
            self.listening = False
        flow = self.flow
        if flow is None or flow.local is None:
            raise self.fail("no packet of this connection has gone out yet, so its port is not known")
        if "S" in p.flags and "." in p.flags and flow.state == "syn-sent":
            flow.state, flow.peer_isn = "open", p.seq
        elif flow.state == "answered" and "." in p.flags:
            flow.state = "open"
        try:
            wire = flow.to_wire(p)
        except ValueError as e:
            raise self.fail(str(e)) from None
        start = (p.seq - (flow.peer_isn if "S" in p.flags else 1)) & 0xFFFFFFFF
        ports = (
            (p.ports[0] or flow.remote[1], p.ports[1] or flow.local[1]) if p.ports else (flow.remote[1], flow.local[1])
        )
        try:
            raw = build_tcp(wire, flow.remote[0], flow.local[0], ports, payload(start, p.length))
        except ValueError as e:
            raise trouble("PB100", self.script.path, self.event.line if self.event else 0, 0, str(e)) from None
        self.trace_in(p)
        self.host.input(raw)
        self.settle()

    def inject_icmp(self, m: Icmp) -> None:
        flow = self.flow
        if flow is None or flow.local is None:
            raise self.fail("there is no connection that this ICMP message could be about")
        ports = (flow.local[1], flow.remote[1])
        try:
            raw = build_icmp(m, flow.remote[0], flow.local[0], ports, m.seq + flow.wire_isn)
        except KeyError as e:
            raise self.not_there(f"no kind or code of ICMP {e}") from None
        self.trace_in(m)
        self.host.input(raw)
        self.settle()

    # ---- packets out ----

    def next_sent(self, want: TcpPacket) -> Seen:
        """The next packet of this connection; waits for it."""
        limit = self.now_us + _IDLE_US
        while True:
            while self.sent:
                s = self.sent.popleft()
                if self.mine(s):
                    return s
            t = self.next_us()
            if t is None or t > limit:
                raise self.fail("nothing more is sent", text_of(want), "nothing")
            self.advance(max(t, self.now_us + 1))

    def mine(self, s: Seen) -> bool:
        flow = self.flow
        if flow is None:
            return False
        if flow.state in ("connecting", "syn-sent") and s.dst == flow.remote and "S" in s.packet.flags:
            flow.local, flow.wire_isn = s.src, s.packet.seq
        return flow.matches(s)

    def expect(self, want: TcpPacket | Icmp, end: int | None) -> None:
        if isinstance(want, Icmp):
            raise self.not_there("ICMP that goes out")
        flow = self.flow
        if flow is None:
            raise self.fail("there is no connection that this packet could be of", text_of(want))
        syn = "S" in want.flags
        if flow.state == "connecting" and syn:
            flow.state, flow.script_isn = "syn-sent", want.seq
        if flow.state == "syn-received" and syn and "." in want.flags:
            flow.script_isn = want.seq
        first = self.next_sent(want)
        if flow.state == "syn-received" and syn and "." in want.flags:
            flow.state, flow.wire_isn = "answered", first.packet.seq
        got, data, times = first.packet, first.data, [first.time_ns]
        last = first.packet
        while len(data) < want.length and not self.strict:
            more = self.next_sent(want)
            joined = join(got, more.packet)
            full = more.packet.length == last.length or len(data) + more.packet.length >= want.length
            if joined is None or not full:
                shown = text_of(flow.to_script(more.packet, None))
                seen = f"{text_of(flow.to_script(got, None))}, then {shown} at {_seconds(self.at(more))} s"
                raise self.fail("what goes out is not one run of segments", text_of(want), seen)
            got, last = joined, more.packet
            data += more.data
            times.append(more.time_ns)
        self.compare(want, flow.to_script(got, want), data, (times[-1] - self.start_ns) // 1000, end)

    def at(self, s: Seen) -> int:
        return (s.time_ns - self.start_ns) // 1000

    def compare(self, want: TcpPacket, got: TcpPacket, data: bytes, at_us: int, end: int | None) -> None:
        slack = self.tolerance.of(self.expected_us)
        found = differences(want, got, tick_us=self.tick_us, slack_us=slack)
        shown = replace(got, window=None) if want.window is None else got
        shown = replace(shown, options=None) if want.options is None else shown
        if found:
            reason = "the packet is not the expected one: " + "; ".join(map(str, found))
            raise self.fail(
                reason, f"{_seconds(self.expected_us)} > {text_of(want)}", f"{_seconds(at_us)} > {text_of(got)}"
            )
        if self.event and self.event.when.kind != "any":
            # packetdrill looks at its clock again for a relative time, and with each look a microsecond passes.
            look = int(self.event.when.kind == "after")
            self.check_time(at_us, self.expected_us, end, f"> {text_of(shown)}", look=look)
        flow = self.flow
        if data and flow is not None and "S" not in want.flags:
            start = (got.seq - 1) & 0xFFFFFFFF
            if data != bytes(flow.sent[start : start + len(data)]):
                raise self.fail("the data of the packet are not what the application sent", text_of(want), text_of(got))

    # ---- calls ----

    def call(self, event: Event, call: Call, base: int) -> None:
        if call.end_us is not None and any(w.result is None for w in self.waiting):
            raise self.fail("a blocking call begins while another is not through")
        if call.name not in CALLS:
            raise self.not_there(f"the call {call.name}()")
        try:
            trial = prepare(self, call)
            number(call.result)
            rc = trial.attempt()
        except KeyError as e:
            raise self.not_there(f"{e.args[0]}, in {call.name}()") from None
        except TypeError as e:
            raise trouble("PB100", self.script.path, event.line, 0, f"{call.name}(): {e}") from None
        if rc != _EAGAIN or trial.once:
            if call.end_us is not None:
                end = (base if event.when.kind == "after" else 0) + call.end_us
                self.check_time(self.now_us, end, None, f"the end of {call.name}()", self.expected_us)
            self.result(call, trial, rc)
            self.settle()
            return
        if call.end_us is not None:
            end = (base if event.when.kind == "after" else 0) + call.end_us
            self.waiting.append(_Waiting(event, call, trial, self.expected_us, end))
            self.settle()
            return
        limit = self.now_us + _IDLE_US
        while rc == _EAGAIN:
            t = self.next_us()
            if t is None or t > limit:
                raise self.fail(f"{call.name}() would wait for ever")
            self.advance(max(t, self.now_us + 1))
            rc = trial.attempt()
        self.result(call, trial, rc)
        self.settle()

    def ended(self, last: bool) -> None:
        """Blocking calls that are through: their times and results."""
        for w in list(self.waiting):
            if w.result is None:
                if last:
                    raise self.fail(f"{w.call.name}() is not through at the end of the script", line=w.event.line)
                continue
            self.waiting.remove(w)
            self.check_time(w.ended_us, w.end_us, None, f"the end of {w.call.name}()", w.start_us, w.event.line)
            self.result(w.call, w.trial, w.result, w.event.line)

    def result(self, call: Call, trial: Trial, rc: int, line: int | None = None) -> None:
        wanted = number(call.result)
        shown = str(rc) if rc >= 0 else f"-1 {errno.errorcode.get(-rc, -rc)} ({os.strerror(-rc)})"
        expected = f"{wanted} {call.errno}".rstrip()
        actual = max(rc, -1)
        same = (actual >= 0) == (wanted >= 0) if trial.is_fd and wanted >= 0 else actual == wanted
        if same and call.errno:
            try:
                same = rc == -errno_of(call.errno)
            except KeyError:
                raise self.not_there(f"the error {call.errno}") from None
        if not same:
            raise self.fail(f"{call.name}() gave another result", expected, shown, line)
        try:
            trial.check(rc)
        except Mismatch as e:
            raise self.fail(f"{call.name}(): {e}", line=line) from None
        except KeyError as e:
            raise self.not_there(f"{e.args[0]}, in {call.name}()") from None

    # ---- commands and code ----

    def command(self, event: Event) -> None:
        action = event.action
        try:
            run_command(self.host, action.text if isinstance(action, Command) else "")
        except Unknown as e:
            raise self.not_there(str(e)) from None
        self.settle()

    def code(self, code: Code) -> None:
        """A block of Python, with what TCP_INFO says of the connection in variables: it runs in this process."""
        d = next((d for d in reversed(self.fds.values()) if d.flow is self.flow), None)
        if d is None:
            raise self.fail("there is no connection whose state the code could look at")
        self.names.update(variables(self.host, d.sock))
        text = code.text.replace("\\\n", "\n").strip()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is the caller's
                exec(
                    compile(_outdented(text), f"{self.script.path}:{self.event.line if self.event else 0}", "exec"),
                    self.names,
                )
        except AssertionError as e:
            raise self.fail("the assertion does not hold", text, str(e) or "no message") from None
        except SyntaxError as e:
            line = self.event.line if self.event else 0
            raise trouble("PB100", self.script.path, line, 0, f"in the code: {e.msg}") from None
        except Exception as e:
            raise self.fail(f"the code raised {type(e).__name__}", text, str(e)) from None


def _outdented(text: str) -> str:
    """Statements on lines of their own, as they stand; what is indented for the script's sake is moved left."""
    lines = text.split("\n")
    rest = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    cut = min(rest, default=0) if not lines[0].rstrip().endswith(":") else 0
    return "\n".join([lines[0], *(line[cut:] for line in lines[1:])])
