"""What `pybypass doctor` asks of the network interfaces: offloads, programs, MTU, clocks, interrupts, drops by place.

Each check takes what pybypass.nic.look() found of the interfaces (one, or those of this namespace that are up) and gives one
verdict on them all, with the fix for each. None raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from . import nic, peers
from .doctorcheck import Check
from .errors import PybypassError
from .nictypes import Nic
from .worker import parse_cpu_list

__all__ = ["CHECKS", "check_all", "seen"]

LOOK_MAX = 16
"""So many interfaces are looked at; a machine with hundreds of them asks with --dev."""
_ROOM = 2048 - 256 - 18
"""The MTU that a frame of 2048 bytes holds in XDP: without its headroom, Ethernet and a VLAN tag."""
_SENDER = ("tx", "tso", "gso", "gro")
# Of ethtool's group "tso", but the kernel leaves it on with all others off, and then it has no effect.
_RARE = frozenset({"tx-tcp-accecn-segmentation"})
_KIB_DRIVERS = ("igb", "igc", "ixgbe")  # csrc/dev/xsk_if.c says why
_DROPS = ("rx_dropped", "rx_missed_errors", "rx_fifo_errors", "rx_crc_errors", "tx_dropped", "tx_fifo_errors")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def seen() -> list[Nic]:
    """The interfaces of this namespace that are up, without lo."""
    found: list[Nic] = []
    for link in nic.interfaces():
        if link.up and link.ifname != "lo" and len(found) < LOOK_MAX:
            try:
                found.append(nic.look(link.ifname))
            except PybypassError:  # it went away meanwhile
                continue
    return found


def _names(nics: Iterable[Nic]) -> str:
    return ", ".join(n.interface.ifname for n in nics) or "none"


def _each(bad: Sequence[Nic], command: Callable[[Nic], str]) -> str:
    return "; ".join(command(n) for n in bad[:4])


def _good(id: str, value: str) -> Check:
    return Check(id=id, verdict="ok", value=value)


def _on(n: Nic, groups: Iterable[str]) -> list[str]:
    """Those groups of ethtool's that have a feature active."""
    return [g for g in groups if any(n.features[m].active for m in nic.GROUPS[g] if m in n.features and m not in _RARE)]


def _offloads_off(n: Nic) -> str:
    return f"ethtool -K {n.interface.ifname} tx off tso off gso off gro off"


# ---- veth and its peer ----


def check_veth(nics: list[Nic]) -> Check:
    """What the other ends of veth interfaces here receive."""
    bad = [n for n in nics if n.interface.kind == "veth" and _on(n, _SENDER)]
    if not bad:
        return _good("veth_offload", "none on")
    why = "an xdp: port at their other end would get unfinished checksums and frames beyond the MTU"
    return Check(id="veth_offload", verdict="info", value=f"on: {_names(bad)}", why=why, fix=_each(bad, _offloads_off))


def check_peer(nics: list[Nic]) -> Check:
    """What veth interfaces here receive from their peers, wherever these are."""
    veths = [n for n in nics if n.interface.kind == "veth"]
    if not veths:
        return _good("peer_offload", "no veth")
    bad, unknown = [], []
    for n in veths:
        peer = peers.find(n.interface)
        if peer is None:
            unknown.append(n)
        elif on := _on(peer, _SENDER):
            bad.append((n, peer, on))
    if bad:
        value = ", ".join(f"{p.interface.ifname} of {n.interface.ifname}: {' '.join(on)}" for n, p, on in bad)
        why = "its peer sends partial checksums and frames beyond the MTU, which no card would put on a cable"
        fix = "in the peer's namespace: " + "; ".join(_offloads_off(p) for _, p, _ in bad[:4])
        return Check(id="peer_offload", verdict="warn", value=value, why=why, fix=fix)
    if unknown:
        why = "the peer is in a namespace that this process cannot enter"
        fix = "run the doctor there, or as root: " + _each(
            unknown, lambda n: f"nsenter -t PID -n ethtool -k {n.interface.ifname}"
        )
        return Check(id="peer_offload", verdict="info", value=f"not seen: {_names(unknown)}", why=why, fix=fix)
    return _good("peer_offload", "off")


def check_txrehash(nics: list[Nic]) -> Check:
    """veth's receive hash is the sender's socket hash, which changes with each SYN sent again unless this is 0."""
    value = _read("/proc/sys/net/core/txrehash")
    veth = any(n.interface.kind == "veth" for n in nics)
    if value is None or value == "0" or not veth:
        return _good("txrehash", value or "not in this kernel")
    why = "over veth a flow changes its queue when its SYN is sent again"
    return Check(id="txrehash", verdict="info", value=value, why=why, fix="sysctl -w net.core.txrehash=0 (as root)")


# ---- what XDP can do here ----


def check_attached(nics: list[Nic]) -> Check:
    bad = [n for n in nics if n.interface.xdp_prog_id]
    if not bad:
        return _good("xdp_attached", "none")
    value = ", ".join(f"{n.interface.ifname}: program {n.interface.xdp_prog_id}, {n.interface.xdp_mode}" for n in bad)
    why = "an xdp: port finds the interface taken (PB024) unless this program is its own"
    flags = {"generic": "xdpgeneric", "native": "xdpdrv", "offload": "xdpoffload"}
    fix = _each(bad, lambda n: f"ip link set dev {n.interface.ifname} {flags.get(n.interface.xdp_mode, 'xdp')} off")
    return Check(id="xdp_attached", verdict="warn", value=value, why=why, fix=fix)


def check_zero_copy(nics: list[Nic]) -> Check:
    able = [n for n in nics if n.xdp is not None and "xsk-zerocopy" in n.xdp.features]
    others = [n for n in nics if n not in able]
    if not nics:
        return Check(id="zero_copy", verdict="info", value="no interface", why="none is up here")
    if not others:
        return _good("zero_copy", _names(able))
    native = [n for n in others if n.xdp is not None and "redirect" in n.xdp.features]
    generic = [n for n in others if n not in native]
    parts = [
        f"{word}: {_names(group)}" for word, group in (("yes", able), ("copy", native), ("generic", generic)) if group
    ]
    why = (
        "the drivers of the others copy each frame; generic goes through the kernel's stack, and all of veth to queue 0"
    )
    fix = "take a card whose driver has it (netdev's xdp-features), or a newer kernel"
    return Check(id="zero_copy", verdict="info", value="; ".join(parts), why=why, fix=fix)


def check_zero_copy_frames(nics: list[Nic]) -> Check:
    """Drivers that count receive buffers in KiB cut packets that do not fit (csrc/dev/xsk_if.c)."""
    bad = [n for n in nics if n.driver is not None and n.driver.name in _KIB_DRIVERS and n.interface.mtu > 1024 - 18]
    if not bad:
        return _good("zero_copy_frames", "2048 bytes will do")
    why = "this driver's zero copy receives 1024 bytes into a frame of 2048: such ports fall back to copy mode"
    fix = _each(bad, lambda n: f"open xdp:{n.interface.ifname}?frame=4096")
    return Check(id="zero_copy_frames", verdict="info", value=_names(bad), why=why, fix=fix)


def check_hardware_gro(nics: list[Nic]) -> Check:
    """Drivers refuse XDP while the card joins packets (LRO, GRO_HW)."""
    bad = [n for n in nics if any(f in n.features and n.features[f].active for f in ("rx-lro", "rx-gro-hw"))]
    if not bad:
        return _good("lro", "off")
    why = "drivers refuse native XDP, or packets beyond the MTU arrive, while the card joins segments"
    fix = _each(bad, lambda n: f"ethtool -K {n.interface.ifname} lro off rx-gro-hw off")
    return Check(id="lro", verdict="info", value=f"on: {_names(bad)}", why=why, fix=fix)


def check_mtu(nics: list[Nic]) -> Check:
    bad = [n for n in nics if n.interface.mtu > _ROOM]
    if not bad:
        return _good("mtu", f"at most {max((n.interface.mtu for n in nics), default=0)}")
    value = ", ".join(f"{n.interface.ifname} {n.interface.mtu}" for n in bad)
    why = (
        f"frames of 2048 bytes hold an MTU of {_ROOM}: packets will take several frames, or the port is refused (PB027)"
    )
    fix = _each(
        bad, lambda n: f"open xdp:{n.interface.ifname}?frame=4096, or ip link set {n.interface.ifname} mtu 1500"
    )
    return Check(id="mtu", verdict="info", value=value, why=why, fix=fix)


def check_clock(nics: list[Nic]) -> Check:
    """Whether a receive time in a descriptor can be the card's. veth says it can, and gives 0."""
    able = [n for n in nics if n.xdp is not None and "timestamp" in n.xdp.rx_metadata and n.interface.kind != "veth"]
    if able:
        return _good("rx_clock", f"hardware: {_names(able)}")
    why = "receive times are taken by the XDP program (CLOCK_TAI), or in user space: descriptors say which"
    clocks = [n for n in nics if n.timestamping is not None and n.timestamping.hardware_rx]
    if clocks:
        why = f"{_names(clocks)} can stamp, but the driver does not hand the time to XDP; {why}"
    fix = "take a card whose driver has the kfunc (ice, igc, mlx5, stmmac, ...)"
    return Check(id="rx_clock", verdict="info", value="none in XDP", why=why, fix=fix)


def check_vlan(nics: list[Nic]) -> Check:
    bad = [
        n for n in nics
        if "rxvlan" in _on(n, ["rxvlan"]) and n.xdp is not None and n.xdp.features and "vlan-tag" not in n.xdp.rx_metadata
    ]  # fmt: skip
    if not bad:
        return _good("vlan_strip", "no tag is lost")
    why = "the card strips VLAN tags and the driver does not hand them to XDP: a tagged packet looks untagged"
    fix = _each(bad, lambda n: f"ethtool -K {n.interface.ifname} rxvlan off")
    return Check(id="vlan_strip", verdict="info", value=_names(bad), why=why, fix=fix)


# ---- latency ----


def check_coalescing(nics: list[Nic]) -> Check:
    bad = [n for n in nics if n.coalescing is not None and (n.coalescing.rx_usecs or n.coalescing.adaptive_rx)]
    if not bad:
        return _good("coalescing", "no delay")

    def said(n: Nic) -> str:
        assert n.coalescing is not None
        return f"{n.interface.ifname} {n.coalescing.rx_usecs or 0} us{' adaptive' if n.coalescing.adaptive_rx else ''}"

    def command(n: Nic) -> str:
        assert n.coalescing is not None
        adaptive = "adaptive-rx off " if n.coalescing.adaptive_rx else ""
        return f"ethtool -C {n.interface.ifname} {adaptive}rx-usecs 0"

    why = "the card waits so long before it interrupts: latency without busy polling"
    return Check(id="coalescing", verdict="info", value=", ".join(map(said, bad)), why=why, fix=_each(bad, command))


def check_irqs(nics: list[Nic]) -> Check:
    """Interrupts that go to CPUs of another NUMA node than the card's."""
    far: list[tuple[Nic, int, str]] = []
    known = False
    for n in nics:
        if n.driver is None or n.driver.numa_node is None:
            continue
        local = _read(f"/sys/devices/system/node/node{n.driver.numa_node}/cpulist")
        if not local:
            continue
        known = True
        cpus = parse_cpu_list(local)
        for irq in n.irqs:
            goes = parse_cpu_list(irq.effective or irq.affinity)
            if goes and not goes & cpus:
                far.append((n, irq.number, local))
    if not far:
        return _good("irq_affinity", "on the card's node" if known else "one node, or not said")
    value = ", ".join(f"{n.interface.ifname} irq {number}" for n, number, _ in far[:8])
    why = "every packet crosses between NUMA nodes"
    fix = "; ".join(f"echo {local} | tee /proc/irq/{number}/smp_affinity_list" for _, number, local in far[:8])
    return Check(id="irq_affinity", verdict="warn", value=value, why=why, fix=f"{fix} (as root)")


def check_rings(nics: list[Nic]) -> Check:
    bad = [n for n in nics if n.rings is not None and n.rings.rx < min(n.rings.rx_max, 1024)]
    if not bad:
        return _good("rings", "as large as need be")
    value = ", ".join(f"{n.interface.ifname} {n.rings.rx} of {n.rings.rx_max}" for n in bad if n.rings)
    why = "bursts overflow a small ring while a loop is away"
    fix = _each(bad, lambda n: f"ethtool -G {n.interface.ifname} rx {min(n.rings.rx_max, 4096) if n.rings else 0}")
    return Check(id="rings", verdict="info", value=value, why=why, fix=fix)


# ---- drops by place ----


def check_drops(nics: list[Nic]) -> Check:
    """Counted by the interfaces since they were made."""
    lost = [(n, {k: v for k in _DROPS if (v := n.interface.statistics.get(k))}) for n in nics]
    bad = [(n, counts) for n, counts in lost if counts]
    if not bad:
        return _good("drops", "none")
    value = "; ".join(f"{n.interface.ifname} " + " ".join(f"{k} {v}" for k, v in c.items()) for n, c in bad)
    why = "missed and fifo: the ring was full; dropped: by the stack, or by XDP; crc: the cable"
    fix = _each(
        [n for n, _ in bad], lambda n: f"ethtool -S {n.interface.ifname} says where; ethtool -G, -L spread the load"
    )
    return Check(id="drops", verdict="info", value=value, why=why, fix=fix)


def check_softnet(nics: list[Nic]) -> Check:
    """/proc/net/softnet_stat, summed over the CPUs: the second and third column, hexadecimal."""
    dropped = squeezed = 0
    for line in (_read("/proc/net/softnet_stat") or "").splitlines():
        columns = line.split()
        if len(columns) >= 3:
            dropped, squeezed = dropped + int(columns[1], 16), squeezed + int(columns[2], 16)
    value = f"dropped {dropped}, squeezed {squeezed}"
    if not dropped:
        return _good("softnet", value)
    why = "the queue between driver and stack (generic mode and veth go through it) was full"
    fix = "sysctl -w net.core.netdev_max_backlog=10000 net.core.netdev_budget=600 (as root)"
    return Check(id="softnet", verdict="info", value=value, why=why, fix=fix)


def check_xsk(nics: list[Nic]) -> Check:
    """The AF_XDP sockets of all processes here, and what they lost (sock_diag)."""
    found = nic.xsk_sockets()
    if found is None:
        why = "the kernel does not list AF_XDP sockets: each port's own statistics say what it lost"
        return Check(id="xsk_sockets", verdict="info", value="not said", why=why, fix="modprobe xsk_diag (as root)")
    names = {n.interface.ifindex: n.interface.ifname for n in nics}
    mine = [s for s in found if s.ifindex in names]
    lost = {(s.ifindex, s.queue): {k: v for k, v in s.statistics.items() if v and k != "tx_ring_empty"} for s in mine}
    bad = {where: counts for where, counts in lost.items() if counts}
    if not bad:
        return _good("xsk_sockets", f"{len(mine)} bound, nothing lost" if mine else "none")
    value = "; ".join(
        f"{names[i]} queue {q}: " + " ".join(f"{k} {v}" for k, v in c.items()) for (i, q), c in bad.items()
    )
    why = "rx_ring_full: the program did not take frames; fill_ring_empty: it gave none back in time"
    fix = "open with larger ring= and frames=, release bursts sooner, or spread over more queues"
    return Check(id="xsk_sockets", verdict="info", value=value, why=why, fix=fix)


def check_named_netns(nics: list[Nic]) -> Check:
    try:
        names = sorted(os.listdir("/run/netns"))
    except OSError:
        names = []
    if not names:
        return _good("named_netns", "none")
    why = "named namespaces survive the programs that made them, with what is attached inside"
    fix = "; ".join(f"ip netns del {name}" for name in names[:4]) + " (those that nobody uses)"
    return Check(id="named_netns", verdict="info", value=", ".join(names[:8]), why=why, fix=fix)


CHECKS: tuple[Callable[[list[Nic]], Check], ...] = (
    check_veth, check_peer, check_txrehash, check_attached, check_zero_copy, check_zero_copy_frames, check_hardware_gro,
    check_mtu, check_clock, check_vlan, check_coalescing, check_irqs, check_rings, check_drops, check_softnet, check_xsk,
    check_named_netns,
)  # fmt: skip


def check_interface(n: Nic) -> Check:
    """Of one interface that was asked for: is it there to be used."""
    link, driver = n.interface, n.driver.name if n.driver else n.interface.kind or "no driver"
    queues = (
        f"{n.channels.rx_queues} of {max(n.channels.rx_max, n.channels.combined_max)} queues"
        if n.channels
        else "1 queue"
    )
    speed = f", {n.speed_mbps} Mbit/s" if n.speed_mbps else ""
    value = f"{driver}, {'up' if link.up else 'down'}, {queues}, MTU {link.mtu}{speed}"
    if not link.up:
        return Check(
            id="interface", verdict="warn", value=value, why="a port on it cannot be opened (PB021)",
            fix=f"ip link set {link.ifname} up",
        )  # fmt: skip
    if not link.carrier:
        why = "no carrier: the cable, or the other end, is down"
        return Check(id="interface", verdict="warn", value=value, why=why, fix=f"see to the other end of {link.ifname}")
    return _good("interface", value)


def check_all(nics: list[Nic]) -> list[Check]:
    """Every check; one that meets something unforeseen says so instead of raising."""
    found = []
    for check in CHECKS:
        try:
            found.append(check(nics))
        except (OSError, ValueError, KeyError) as e:
            id = check.__name__.removeprefix("check_")
            why = f"it could not be looked at: {e}"
            found.append(Check(id=id, verdict="info", value="not seen", why=why, fix="run as root"))
    return found
