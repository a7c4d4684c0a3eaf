r"""Packet scripts: tests of TCP written as what goes in, what must come out, and what the application does meanwhile.

The language is that of google/packetdrill, run over the engine in virtual time: no kernel, no privilege, no network.

    0   socket(..., SOCK_STREAM, IPPROTO_TCP) = 3        a call and its result; ... is what suits
    +0  bind(3, ..., ...) = 0                            +N: seconds after the event before
    +0  listen(3, 1) = 0
    +0  < S 0:0(0) win 32792 <mss 1000,sackOK>           a packet that comes in: flags, first:last(bytes), options
    +0  > S. 0:0(0) ack 1 <...>                          one that must go out now; <...>: with any options
    +.1 < . 1:1(0) ack 1 win 257
    +0  accept(3, ..., ...) = 4
    +0  %{ assert tcpi_snd_cwnd == 10, tcpi_snd_cwnd }%  Python, with TCP_INFO in variables

Times: `1.5` since the first event, `+.1` since the last one, `*` any, `+.3~+.4` in between; `+.1...0.3 read(...)` is a
call that blocks and ends at .3. Packets: flags of `. F S R P E W U`, `win`, `urg`, `[ect0]`, `[tos 0x10]`, `[ttl 64]`;
options mss, wscale, sackOK, sack a:b, TS val a ecr b, nop, eol; `icmp unreachable frag_needed mtu 1200 [1:1001(1000)]`.
Shell commands in backticks are not run: `sysctl net.ipv4.NAME=VALUE` and packetdrill's own defaults.sh and set_sysctls.py
set the host's knobs, `tc qdisc ... limit 0` keeps everything from going out; any other is an error. UDP, tunnels, epoll,
pipe, splice, control messages, Fast Open and accurate ECN are not there: PB101 names what a script asked for.
Options before the first event: --tolerance_usecs, --tolerance_percent, --tcp_ts_tick_usecs, --ip_version, --mtu,
--local_ip, --remote_ip, --bind_port, --connect_port, --strict_segments, --define, and --so_flags=opts=linux,psh=linux,
acks=linux,cc=NAME as the engine's shared object for packetdrill has them.

Code blocks are run in this process: treat a script as you would a Python program.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ._script import Host
from .errors import PybypassError
from .scriptflow import Tolerance
from .scriptlex import trouble
from .scriptpacket import address
from .scriptparse import parse
from .scriptrun import Failure, Machine, Traced
from .scripttree import Script

__all__ = ["Failure", "Result", "Settings", "Traced", "parse", "run"]

_LAYOUTS = {"engine": 0, "linux": 1, "freebsd": 2}
_ACKS = {"linux": 0, "bsd": 1}
# What an option of a script means to the run; those of the second row mean something to packetdrill only.
_KNOWN = frozenset(
    {
        "tolerance_usecs", "tolerance_percent", "tcp_ts_tick_usecs", "ip_version", "mtu", "local_ip", "remote_ip",
        "bind_port", "connect_port", "strict_segments", "define", "so_flags",
        "tcp_ts_ecr_scaled", "gateway_ip", "netmask_ip", "speed", "mss", "init_scripts", "verbose", "non_fatal",
        "connect_ip", "send_omit_free",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How scripts are run. What a script's own options say comes first.

    ip: version 4 or 6; a script for IPv4 usually holds in IPv6 too. layout: order of TCP options that scripts expect,
    "engine", "linux" or "freebsd". psh: PSH as Linux sets it, on the last segment of each large send. acks: when data
    is acknowledged, "linux" or "bsd". cc: congestion control by name, None for the knob's. tolerance_us, tolerance_percent:
    how far from its time something may happen; ts_tick_us: microseconds per tick of timestamps, which are then
    compared; 0 leaves their values alone.
    """

    ip: Literal[4, 6] = 4
    layout: Literal["engine", "linux", "freebsd"] = "linux"
    psh: bool = True
    acks: Literal["linux", "bsd"] = "linux"
    cc: str | None = None
    tolerance_us: int = 4000
    tolerance_percent: float = 12.5
    ts_tick_us: int = 0
    defines: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bad = (
            self.ip not in (4, 6) or self.layout not in _LAYOUTS or self.acks not in _ACKS
            or self.tolerance_us < 0 or not 0 <= self.tolerance_percent <= 100 or not 0 <= self.ts_tick_us <= 10**6
        )  # fmt: skip
        if bad:
            raise PybypassError.make("PB072", errno.EINVAL, f"settings of scripts: {self}")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one run. packets: all that passed, in order, those that went out beside the script's included.

    nstat: the engine's counters at the end, by the names of Linux's nstat, as Linux counts them; own: what nstat has no
    counter for (as Engine.stats() has both).
    """

    path: str
    ip: int
    ok: bool
    failure: Failure | None
    packets: tuple[Traced, ...]
    seconds: float  # of virtual time
    line_text: str = ""
    nstat: Mapping[str, int] = field(default_factory=dict)
    own: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """A line, and for a failure what was expected and seen."""
        name = f"{self.path} (IPv{self.ip})"
        if self.failure is None:
            return f"ok    {name}: {len(self.packets)} packets, {self.seconds:.3f} s"
        f = self.failure
        lines = [f"FAIL  {self.path}:{f.line} (IPv{self.ip}): {f.reason}"]
        if self.line_text:
            lines.append(f"  script   {self.line_text}")
        if f.expected:
            lines.append("  expected " + f.expected.replace("\n", "\n           "))
        if f.seen:
            lines.append("  seen     " + f.seen.replace("\n", "\n           "))
        if self.packets:
            lines.append("  packets before:")
            lines += [f"    {p.time_us / 1e6:.6f} {'>' if p.outbound else '<'} {p.text}" for p in self.packets[-6:]]
        return "\n".join(lines)


@dataclass(slots=True)
class _Plan:
    """Settings and a script's options together."""

    ip: int
    mtu: int
    local: tuple[bytes, int]
    remote: tuple[bytes, int]
    tolerance: Tolerance
    tick_us: int
    strict: bool


def _plan(script: Script, s: Settings) -> _Plan:
    options: dict[str, tuple[str, int]] = {}
    for name, value, line in script.options:
        if name not in _KNOWN:
            raise trouble("PB101", script.path, line, 0, f"the option --{name}")
        options[name] = (value, line)

    def get(name: str, default: str) -> str:
        return options.get(name, (default, 0))[0]

    try:
        version = get("ip_version", f"ipv{s.ip}")
        if version not in ("ipv4", "ipv6"):
            raise trouble("PB101", script.path, options["ip_version"][1], 0, f"--ip_version={version}")
        ip = int(version[-1])
        local = get("local_ip", "192.168.0.1" if ip == 4 else "fd3d:fa7b:d17d::1")
        remote = get("remote_ip", "192.0.2.1" if ip == 4 else "2001:db8::1")
        ends = [address(a.split("/")[0]) for a in (local, remote)]
        return _Plan(
            ip=ip,
            # Scripts name the MSS of IPv4; the header of IPv6 has 20 bytes more.
            mtu=int(get("mtu", "1500" if ip == 4 else "1520")),
            local=(ends[0], int(get("bind_port", "8080"))),
            remote=(ends[1], int(get("connect_port", "8080"))),
            tolerance=Tolerance(
                int(get("tolerance_usecs", str(s.tolerance_us))),
                float(get("tolerance_percent", str(s.tolerance_percent))),
            ),
            tick_us=int(get("tcp_ts_tick_usecs", str(s.ts_tick_us))),
            strict="strict_segments" in options,
        )
    except PybypassError:
        raise
    except (ValueError, OSError) as e:
        raise trouble(
            "PB100", script.path, script.options[0][2] if script.options else 1, 0, f"an option: {e}"
        ) from None


def _flagged(script: Script, s: Settings) -> Settings:
    """With what --so_flags says."""
    names = {"opts": "layout", "acks": "acks", "cc": "cc"}
    found: dict[str, Any] = {}
    for name, value, line in script.options:
        for flag in value.split(",") if name == "so_flags" else ():
            key, _, word = flag.partition("=")
            if flag == "psh=linux":
                found["psh"] = True
            elif key not in names or not word:
                raise trouble("PB101", script.path, line, 0, f"the flag {flag!r}")
            else:
                found[names[key]] = word
    return replace(s, **found)


def run(path: str | os.PathLike[str] = "", settings: Settings | None = None, *, text: str | None = None) -> Result:
    """Runs the script in a file, or in `text` (then `path` is its name in messages).

    A script that does not hold is no exception: Result.ok is False and Result.failure says where and why.
    PybypassError: PB100 it is not understood, PB101 it asks for what is not there, PB102 the file cannot be read.
    """
    settings = settings or Settings()
    name = os.fspath(path) or "<text>"
    if text is None:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise PybypassError.make("PB102", getattr(e, "errno", None) or errno.EINVAL, f"{name}: {e}") from None
    script = parse(text, name, settings.defines)
    settings = _flagged(script, settings)
    plan = _plan(script, settings)
    mtu = (plan.mtu, 1500) if plan.ip == 4 else (1500, plan.mtu)
    four = plan.local[0] if plan.ip == 4 else bytes([192, 168, 0, 1])
    six = plan.local[0] if plan.ip == 6 else address("fd3d:fa7b:d17d::1")
    host = Host(
        layout=_LAYOUTS[settings.layout], acks=_ACKS[settings.acks], psh=settings.psh, cc=settings.cc, mtu=mtu,
        addresses=(four, six),
    )  # fmt: skip
    machine = Machine(
        script, host, family=plan.ip, local=plan.local, remote=plan.remote, tolerance=plan.tolerance,
        tick_us=plan.tick_us, strict=plan.strict,
    )  # fmt: skip
    failure = machine.run()
    shown = script.lines[failure.line - 1].strip() if failure and 0 < failure.line <= len(script.lines) else ""
    nstat, own = host.counters()
    return Result(
        name, plan.ip, failure is None, failure, machine.packets(), machine.now_us / 1e6, shown, nstat, own
    )  # fmt: skip
