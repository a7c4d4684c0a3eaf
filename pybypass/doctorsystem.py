"""What `pybypass doctor` asks of the package, the kernel, memory, CPUs and clocks. Each check gives a verdict; none raises."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .doctorcheck import Check
from .errors import PybypassError
from .worker import isolated_cpus

__all__ = ["CHECKS", "held_capabilities", "kernel_version"]

PACKAGES = "apt-get install libxdp-dev libbpf-dev libelf-dev clang pkg-config"
REBUILD = f"{PACKAGES}; then install pybypass again from its sources"

# <linux/capability.h>
_CAPABILITIES = {
    "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39,
}  # fmt: skip
_AF_XDP = 44
_UMEM_BYTES = 8192 * 2048
"""The default Umem."""


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
    why = f"missing: {', '.join(sorted(wanted - set(found)))}; clang, libbpf or pkg-config was not there, or clang refused them"
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


def _since(id: str, needed: tuple[int, int], what: str) -> Check:
    release = platform.release()
    if kernel_version(release) >= needed:
        return Check(id=id, verdict="ok", value=f"Linux {needed[0]}.{needed[1]} has it")
    why = f"{what}: Linux {needed[0]}.{needed[1]}, and this is {release}"
    return Check(id=id, verdict="info", value="not in this kernel", why=why, fix="boot a newer kernel")


def check_multi_buffer() -> Check:
    return _since("multi_buffer", (6, 6), "packets of several frames (MTU 9000)")


def check_tx_metadata() -> Check:
    return _since("tx_metadata", (6, 8), "transmit time stamps and checksums of xdp: ports")


def check_sysfs() -> Check:
    """/sys shows the network namespace of whoever mounted it, not that of this process."""
    try:
        shown = set(os.listdir("/sys/class/net"))
    except OSError:
        return Check(
            id="sysfs_netns", verdict="info", value="no /sys", why="drivers and interrupts cannot be looked up"
        )
    here = {name for _, name in socket.if_nameindex()}
    if here <= shown | {"bonding_masters"}:
        return Check(id="sysfs_netns", verdict="ok", value="/sys shows this namespace")
    why = "/sys/class/net shows other interfaces than this namespace has: other programs that look there are misled"
    fix = "unshare --mount sh -c 'mount -t sysfs sysfs /sys; exec COMMAND'"
    return Check(id="sysfs_netns", verdict="info", value="another namespace's", why=why, fix=fix)


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


def check_huge_nodes() -> Check:
    """2 MB pages by NUMA node: a pool on the wrong node costs every packet a trip between sockets."""
    nodes = sorted(p.name for p in Path("/sys/devices/system/node").glob("node[0-9]*"))
    name = "hugepages/hugepages-2048kB"
    found = {}
    for node in nodes:
        base = f"/sys/devices/system/node/{node}/{name}"
        total = _read(f"{base}/nr_hugepages")
        if total is not None:
            found[node] = (int(total), int(_read(f"{base}/free_hugepages") or 0))
    if not found:
        return Check(id="hugepages_nodes", verdict="info", value="not said", why="this machine names no NUMA nodes")
    value = ", ".join(f"{node} {free} of {total} free" for node, (total, free) in found.items())
    without = [node for node, (total, _) in found.items() if not total]
    if not without or len(without) == len(found):
        return Check(id="hugepages_nodes", verdict="ok", value=value)
    why = f"pools of ports on cards of {', '.join(without)} lie on another node"
    fix = "; ".join(f"echo 64 | tee /sys/devices/system/node/{node}/{name}/nr_hugepages" for node in without)
    return Check(id="hugepages_nodes", verdict="warn", value=value, why=why, fix=f"{fix} (as root)")


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


def check_smt() -> Check:
    value = _read("/sys/devices/system/cpu/smt/active")
    if value != "1":
        return Check(id="smt", verdict="ok", value="not active" if value else "not said")
    why = "two threads of one core share it: keep the sibling of a pinned loop idle"
    fix = "echo off | tee /sys/devices/system/cpu/smt/control (as root), or isolate siblings together"
    return Check(id="smt", verdict="info", value="active", why=why, fix=fix)


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


def check_kernel_cc() -> Check:
    value = _read("/proc/sys/net/ipv4/tcp_available_congestion_control") or "not said"
    missing = [name for name in ("cubic", "bbr") if name not in value.split()]
    if not missing:
        return Check(id="kernel_cc", verdict="ok", value=value)
    why = f"no {', '.join(missing)} in the kernel to compare with"
    fix = "; ".join(f"modprobe tcp_{name}" for name in missing)
    return Check(id="kernel_cc", verdict="info", value=value, why=why, fix=f"{fix} (as root)")


def check_rich() -> Check:
    if importlib.util.find_spec("rich") is not None:
        return Check(id="rich", verdict="ok", value=importlib.metadata.version("rich"))
    fix = f"{sys.executable} -m pip install 'rich>=13'"
    return Check(id="rich", verdict="info", value="not installed", why="progress is shown in plain lines", fix=fix)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_core, check_xsk, check_programs, check_kernel, check_multi_buffer, check_tx_metadata, check_btf, check_af_xdp,
    check_caps_xdp, check_caps_lab, check_memlock, check_netns, check_sysfs, check_huge_2m, check_huge_1g,
    check_huge_nodes, check_thp, check_cpus, check_isolated, check_smt, check_governor, check_clock, check_kernel_cc,
    check_rich,
)  # fmt: skip
