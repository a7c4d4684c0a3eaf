"""`pybypass doctor`: what is available here, what is not, why, and the command that would fix it.

Looks and changes nothing. Verdicts: `ok`; `info`, which does not matter to the main job; `warn`, with which it works
less well or only over `mem`; `fail`, something is broken.
"""

from __future__ import annotations

import argparse
import array
import fcntl
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import PybypassError
from .worker import isolated_cpus

__all__ = ["CHECKS", "Check", "add_parser", "diagnose", "run"]

SCHEMA = "pybypass.doctor/1"
PACKAGES = "apt-get install libxdp-dev libbpf-dev libelf-dev clang pkg-config"
REBUILD = f"{PACKAGES}; then install pybypass again from its sources"

# <linux/capability.h>
_CAPABILITIES = {
    "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39,
}  # fmt: skip
# <linux/ethtool.h>, <linux/sockios.h>
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x03
_OFFLOADS = {"tx": 0x16, "tso": 0x1E, "gso": 0x23, "gro": 0x2B}
_AF_XDP = 44
_UMEM_BYTES = 8192 * 2048
"""The default Umem."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding: `verdict` is ok, info, warn or fail; `why` and `fix` are empty where there is nothing to say."""

    id: str
    verdict: str
    value: str
    why: str = ""
    fix: str = ""


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def held_capabilities() -> frozenset[str]:
    """The effective capabilities of this process, of those that matter here."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", _read("/proc/self/status") or "", re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    return frozenset(name for name, bit in _CAPABILITIES.items() if bits >> bit & 1)


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of a release such as "6.1.0-18-amd64"; (0, 0) when it has no such form."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


# ---- the package ----


def check_core() -> Check:
    """A frame through a pair of mem ports."""
    from . import ports

    uri = f"mem:doctor-{os.getpid()}?frames=1024&ring=64&pages=4k"
    try:
        with ports.open(uri) as a, ports.open(uri) as b:
            burst = a.alloc_burst(1, 60)
            sent = a.tx_burst(burst)
            burst.release()
            with b.rx_burst() as received:
                passed = sent == len(received) == 1
    except PybypassError as e:
        return Check(id="core", verdict="fail", value=e.code, why=str(e), fix="install pybypass again from its sources")
    if not passed:
        return Check(id="core", verdict="fail", value="frame lost", why="a frame sent on mem: did not arrive")
    return Check(id="core", verdict="ok", value="mem: passes frames")


def check_xsk() -> Check:
    try:
        importlib.import_module("pybypass._xsk")
    except ModuleNotFoundError:
        why = "built without libxdp and libbpf: no xdp: ports"
        return Check(id="libxdp", verdict="warn", value="not built", why=why, fix=REBUILD)
    except ImportError as e:
        return Check(
            id="libxdp", verdict="fail", value="does not load", why=str(e), fix="apt-get install libxdp1 libbpf1"
        )
    return Check(id="libxdp", verdict="ok", value="built")


def check_programs() -> Check:
    found = sorted(p.name.removesuffix(".bpf.o") for p in (Path(__file__).parent / "bpf").glob("*.bpf.o"))
    wanted = {"pb_xdp_generic", "pb_xdp_meta"}
    if wanted <= set(found):
        return Check(id="xdp_programs", verdict="ok", value=", ".join(found))
    why = f"missing: {', '.join(sorted(wanted - set(found)))}; built without clang"
    return Check(id="xdp_programs", verdict="warn", value=", ".join(found) or "none", why=why, fix=REBUILD)


# ---- the kernel ----


def check_kernel() -> Check:
    release = platform.release()
    version = kernel_version(release)
    if version < (5, 11):
        return Check(id="kernel", verdict="warn", value=release, why="AF_XDP needs 5.11", fix="boot a newer kernel")
    if version < (6, 3):
        why = "no receive metadata (time, hash, VLAN) before 6.3"
        return Check(id="kernel", verdict="info", value=release, why=why, fix="boot a newer kernel")
    return Check(id="kernel", verdict="ok", value=release)


def check_btf() -> Check:
    if os.access("/sys/kernel/btf/vmlinux", os.R_OK):
        return Check(id="btf", verdict="ok", value="/sys/kernel/btf/vmlinux")
    why = "without type information no receive metadata can be read"
    return Check(id="btf", verdict="warn", value="none", why=why, fix="boot a kernel with CONFIG_DEBUG_INFO_BTF=y")


def check_af_xdp() -> Check:
    try:
        socket.socket(_AF_XDP, socket.SOCK_RAW).close()
    except PermissionError:
        why = "opening the socket needs CAP_NET_RAW"
        return Check(id="af_xdp", verdict="warn", value="not permitted", why=why, fix=_grant("CAP_NET_RAW"))
    except OSError as e:
        fix = "boot a kernel with CONFIG_XDP_SOCKETS=y"
        return Check(id="af_xdp", verdict="warn", value="no socket", why=os.strerror(e.errno or 0), fix=fix)
    return Check(id="af_xdp", verdict="ok", value="socket opens")


def _grant(*names: str) -> str:
    python = os.path.realpath(sys.executable)
    return f"run as root, or: setcap {','.join(names).lower()}+ep {python}"


def _capabilities(id: str, verdict: str, why: str, *names: str) -> Check:
    missing = [name for name in names if name not in held_capabilities()]
    if not missing:
        return Check(id=id, verdict="ok", value=", ".join(names))
    return Check(id=id, verdict=verdict, value=f"no {', '.join(missing)}", why=why, fix=_grant(*names))


def check_caps_xdp() -> Check:
    return _capabilities("caps_xdp", "warn", "xdp: ports need them", "CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF")


def check_caps_lab() -> Check:
    return _capabilities("caps_lab", "warn", "the lab makes namespaces", "CAP_SYS_ADMIN", "CAP_NET_ADMIN")


def check_memlock() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    value = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    if "CAP_IPC_LOCK" in held_capabilities():
        return Check(id="memlock", verdict="ok", value=f"{value}, CAP_IPC_LOCK")
    if soft == resource.RLIM_INFINITY or soft >= _UMEM_BYTES:
        return Check(id="memlock", verdict="ok", value=value)
    why = f"an xdp: port locks {_UMEM_BYTES >> 10} KiB unless CAP_IPC_LOCK is held"
    return Check(id="memlock", verdict="warn", value=value, why=why, fix="ulimit -l unlimited (as root)")


def check_netns() -> Check:
    """Makes a namespace, in a thread, and lets it go."""
    from .netns import NetNs

    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: NetNs().close()).result()
    except PermissionError:
        why = "the lab needs CAP_SYS_ADMIN"
        return Check(id="netns", verdict="warn", value="not permitted", why=why, fix="run as root")
    except OSError as e:
        why, fix = os.strerror(e.errno or 0), "boot a kernel with CONFIG_NET_NS=y; sysctl user.max_net_namespaces"
        return Check(id="netns", verdict="warn", value="not possible", why=why, fix=fix)
    return Check(id="netns", verdict="ok", value="possible")


def _ethtool(s: socket.socket, ifname: str, request: array.array[int]) -> bool:
    try:
        fcntl.ioctl(s, _SIOCETHTOOL, struct.pack("16sQ16x", ifname.encode(), request.buffer_info()[0]))
    except OSError:
        return False
    return True


def check_veth() -> Check:
    """Offloads of veth interfaces in this namespace: what their peers receive."""
    bad = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _, ifname in socket.if_nameindex():
            info = array.array("I", [_ETHTOOL_GDRVINFO] + [0] * 48)
            if not _ethtool(s, ifname, info) or info.tobytes()[4:36].rstrip(b"\0") != b"veth":
                continue
            for name, command in _OFFLOADS.items():
                value = array.array("I", [command, 0])
                if _ethtool(s, ifname, value) and value[1]:
                    bad.append((ifname, name))
    if not bad:
        return Check(id="veth_offload", verdict="ok", value="none on")
    names = sorted({ifname for ifname, _ in bad})
    why = "an xdp: port at their other end would get unfinished checksums and frames beyond the MTU"
    fix = "; ".join(f"ethtool -K {name} tx off tso off gso off gro off" for name in names[:3])
    return Check(id="veth_offload", verdict="info", value=f"on: {', '.join(names)}", why=why, fix=fix)


# ---- memory ----


def _huge_pages(id: str, kib: int, count: int) -> Check:
    base = f"/sys/kernel/mm/hugepages/hugepages-{kib}kB"
    total = _read(f"{base}/nr_hugepages")
    if total is None:
        return Check(id=id, verdict="info", value="not supported", why="this CPU or kernel has no such pages")
    value = f"{_read(f'{base}/free_hugepages')} of {total} free"
    if int(total):
        return Check(id=id, verdict="ok", value=value)
    fix = f"echo {count} | tee {base}/nr_hugepages (as root)"
    return Check(
        id=id, verdict="info", value="none reserved", why="frames lie on transparent huge pages, or 4 KiB", fix=fix
    )


def check_huge_2m() -> Check:
    return _huge_pages("hugepages_2m", 2048, 64)


def check_huge_1g() -> Check:
    return _huge_pages("hugepages_1g", 1 << 20, 1)


def check_thp() -> Check:
    text = _read("/sys/kernel/mm/transparent_hugepage/enabled") or ""
    found = re.search(r"\[(\w+)\]", text)
    mode = found[1] if found else "not supported"
    if mode in ("always", "madvise"):
        return Check(id="thp", verdict="ok", value=mode)
    fix = "echo madvise | tee /sys/kernel/mm/transparent_hugepage/enabled (as root)" if found else ""
    return Check(
        id="thp", verdict="info", value=mode, why="without reserved huge pages frames lie on 4 KiB pages", fix=fix
    )


# ---- CPUs and clocks ----


def check_cpus() -> Check:
    usable = sorted(os.sched_getaffinity(0))
    value = f"{len(usable)} of {os.cpu_count()} usable"
    if len(usable) > 1:
        return Check(id="cpus", verdict="ok", value=value)
    why = "a pinned loop and what it talks to share one core"
    return Check(id="cpus", verdict="warn", value=value, why=why, fix="give the machine or this process a second core")


def check_isolated() -> Check:
    cpus = sorted(isolated_cpus())
    if cpus:
        return Check(id="isolated_cpus", verdict="ok", value=",".join(map(str, cpus)))
    last = (os.cpu_count() or 1) - 1
    fix = f"kernel command line: isolcpus=managed_irq,domain,{last} nohz_full={last} rcu_nocbs={last}" if last else ""
    return Check(id="isolated_cpus", verdict="info", value="none", why="other tasks disturb a pinned loop", fix=fix)


def check_governor() -> Check:
    value = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if value is None:
        return Check(
            id="governor",
            verdict="info",
            value="no cpufreq",
            why="the clock rate is not ours to set (a virtual machine?)",
        )
    if value == "performance":
        return Check(id="governor", verdict="ok", value=value)
    fix = "cpupower frequency-set -g performance (as root)"
    return Check(id="governor", verdict="info", value=value, why="the clock rate changes while measuring", fix=fix)


def check_clock() -> Check:
    base = "/sys/devices/system/clocksource/clocksource0"
    value = _read(f"{base}/current_clocksource") or "unknown"
    # Those that clock_gettime() reads without a system call.
    if value in ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"):
        return Check(id="clocksource", verdict="ok", value=value)
    offered = (_read(f"{base}/available_clocksource") or "").split()
    fix = f"echo tsc | tee {base}/current_clocksource (as root)" if "tsc" in offered else ""
    return Check(id="clocksource", verdict="warn", value=value, why="every time stamp costs a system call", fix=fix)


# ---- what else there is ----


def check_dpdk() -> Check:
    value = "no pkg-config"
    if shutil.which("pkg-config"):
        try:
            result = subprocess.run(
                ["pkg-config", "--modversion", "libdpdk"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=0.5, check=False,
            )  # fmt: skip
            value = result.stdout.strip() if result.returncode == 0 else "not installed"
        except (OSError, subprocess.TimeoutExpired):
            value = "unknown"
    return Check(id="dpdk", verdict="info", value=value, why="dpdk: ports are not built into this version")


def check_rich() -> Check:
    if importlib.util.find_spec("rich") is not None:
        return Check(id="rich", verdict="ok", value=importlib.metadata.version("rich"))
    fix = f"{sys.executable} -m pip install 'rich>=13'"
    return Check(id="rich", verdict="info", value="not installed", why="progress is shown in plain lines", fix=fix)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_core, check_xsk, check_programs, check_kernel, check_btf, check_af_xdp, check_caps_xdp, check_caps_lab,
    check_memlock, check_netns, check_veth, check_huge_2m, check_huge_1g, check_thp, check_cpus, check_isolated,
    check_governor, check_clock, check_dpdk, check_rich,
)  # fmt: skip

# What the main job needs to run on xdp in the lab.
_NEEDED = ("libxdp", "xdp_programs", "kernel", "btf", "af_xdp", "caps_xdp", "caps_lab", "memlock", "netns")


def main_job(checks: list[Check]) -> Check:
    """What `pybypass lab echo` can run on here."""
    by_id = {check.id: check for check in checks}
    if by_id["core"].verdict == "fail":
        return Check(id="main_job", verdict="fail", value="nothing", why="core fails")
    lacking = [name for name in _NEEDED if by_id[name].verdict in ("warn", "fail")]
    if not lacking:
        return Check(id="main_job", verdict="ok", value="xdp")
    fix = next((by_id[name].fix for name in lacking if by_id[name].fix), "")
    return Check(id="main_job", verdict="warn", value="mem only", why=f"see {', '.join(lacking)}", fix=fix)


def diagnose() -> list[Check]:
    """All checks, in order, and what follows for the main job. Takes well under a second; raises nothing."""
    found = [check() for check in CHECKS]
    return [*found, main_job(found)]


def _lines(checks: list[Check]) -> Iterator[str]:
    ids = max(len(check.id) for check in checks)
    for check in checks:
        why = f": {check.why}" if check.why and check.verdict != "ok" else ""
        yield f"{check.verdict:<4}  {check.id:<{ids}}  {check.value}{why}"
        if check.fix and check.verdict != "ok":
            yield f"{'':<{ids + 8}}fix: {check.fix}"


def run(args: argparse.Namespace) -> int:
    """0 when the main job can be done, on xdp or on mem, and nothing is broken; else 1."""
    from . import __version__

    checks = diagnose()
    if args.json:
        print(json.dumps({"schema": SCHEMA, "checks": [asdict(check) for check in checks]}))
    else:
        libc = " ".join(platform.libc_ver())
        print(f"pybypass {__version__}, Python {platform.python_version()}, {libc}, {platform.machine()}")
        for line in _lines(checks):
            print(line)
    return 1 if any(check.verdict == "fail" for check in checks) else 0


def add_parser(subparsers: Any) -> None:
    """Adds `doctor` to the command line."""
    parser = subparsers.add_parser("doctor", help="what is available here, what is not, and what would fix it")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(run=run)
