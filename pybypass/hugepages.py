"""Huge pages: what is reserved and free by size and NUMA node, where they are mounted, who holds them, and what that means.

    >>> from pybypass import hugepages
    >>> found = hugepages.look()
    >>> found.free_bytes(size=2 << 20)
    134217728
    >>> print("\\n".join(hugepages.explain(found)))

Reads and changes nothing; `hugepages/setup.sh` reserves. Sources: Documentation/admin-guide/mm/hugetlbpage.rst,
Documentation/filesystems/proc.rst (smaps_rollup, numa_maps), DPDK Getting Started Guide for Linux, "Use of Hugepages".
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import PybypassError

__all__ = ["Holder", "HugePages", "Mount", "NodePages", "Pages", "explain", "free_bytes", "look", "need"]

_SYS, _PROC = Path("/sys"), Path("/proc")
_UMEM_PAGE = 2 << 20
"""A Umem takes the kernel's pages of 2 MB (csrc/mem/region.c)."""
_UMEM_BYTES = 8192 * 2048
"""The Umem of an xdp: port by default."""
_DPDK_BYTES = 64 << 20
"""What DPDK asks for by default (pybypass.dpdk.EalOptions.memory_mb)."""
_HUGETLB = re.compile(r"^(?:Private|Shared)_Hugetlb:\s*(\d+) kB", re.MULTILINE)
_MAP = re.compile(r" huge .*kernelpagesize_kB=(\d+)")
_ON_NODE = re.compile(r" N(\d+)=(\d+)")


@dataclass(frozen=True, kw_only=True)
class NodePages:
    """The pages of one size on one NUMA node; all numbers are pages."""

    node: int
    reserved: int
    free: int
    surplus: int


@dataclass(frozen=True, kw_only=True)
class Pages:
    """The pages of one size; all numbers but `size` are pages."""

    size: int
    """Bytes of a page."""
    reserved: int
    """That exist (nr_hugepages)."""
    free: int
    """Of these, in nobody's memory yet."""
    promised: int
    """Of the free ones, mapped by somebody and not touched yet: not to be had."""
    surplus: int
    """That exist beyond the reservation, until their programs end."""
    overcommit: int
    """So many surplus pages may be made on demand."""
    nodes: tuple[NodePages, ...]
    """Empty on a kernel without NUMA."""

    @property
    def available(self) -> int:
        """Pages that can be had now."""
        return max(self.free - self.promised, 0)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A hugetlbfs."""

    path: str
    size: int
    """Bytes of a page; 0: not said."""
    uid: int | None
    gid: int | None
    mode: int | None
    """Of its directory, which is whom it is for; None where it cannot be looked at."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that has huge pages."""

    pid: int
    name: str
    bytes: int
    pages: tuple[tuple[int, int, int], ...]
    """(bytes of a page, node, pages); empty where /proc does not tell (another user's process, a kernel without NUMA)."""


@dataclass(frozen=True, kw_only=True)
class HugePages:
    """All of it."""

    sizes: tuple[Pages, ...]
    """Smallest first; empty on a kernel without them."""
    mounts: tuple[Mount, ...]
    holders: tuple[Holder, ...]
    unseen: int
    """Processes of which this user may not know whether they hold some."""
    transparent: str
    """always, madvise, never; empty: not in this kernel."""

    def pages(self, size: int) -> Pages:
        """The pages of one size in bytes. PB097: this machine has no such pages."""
        for found in self.sizes:
            if found.size == size:
                return found
        names = ", ".join(size_name(p.size) for p in self.sizes) or "none"
        raise PybypassError.make("PB097", errno.EOPNOTSUPP, f"no pages of {size_name(size)} here: {names}")

    def free_bytes(self, *, size: int | None = None, node: int | None = None) -> int:
        """Bytes that can be had now, of one size or all, on one node or all. On one node, promised pages are not taken off:
        the kernel does not say on which node they will be.

        PB097: no such size or node.
        """
        chosen = self.sizes if size is None else (self.pages(size),)
        if node is None:
            return sum(p.available * p.size for p in chosen)
        known = sorted({n.node for p in self.sizes for n in p.nodes})
        if node not in known:
            text = f"no node {node} with huge pages: {', '.join(map(str, known)) or 'no NUMA here'}"
            raise PybypassError.make("PB097", errno.ENODEV, text)
        return sum(min(n.free, p.available) * p.size for p in chosen for n in p.nodes if n.node == node)


def size_name(size: int) -> str:
    """2 MB, 1 GB: as people say it."""
    if size >= 1 << 30 and size % (1 << 30) == 0:
        return f"{size >> 30} GB"
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB"


# ---- reading ----


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _pages(sysfs: Path) -> Iterator[Pages]:
    for pool in sorted(sysfs.glob("kernel/mm/hugepages/hugepages-*kB"), key=_size):
        nodes = []
        for place in sysfs.glob(f"devices/system/node/node[0-9]*/hugepages/{pool.name}"):
            number = int(place.parent.parent.name.removeprefix("node"))
            reserved, free, surplus = (_number(place / f"{word}_hugepages") for word in ("nr", "free", "surplus"))
            nodes.append(NodePages(node=number, reserved=reserved, free=free, surplus=surplus))
        yield Pages(
            size=_size(pool),
            reserved=_number(pool / "nr_hugepages"),
            free=_number(pool / "free_hugepages"),
            promised=_number(pool / "resv_hugepages"),
            surplus=_number(pool / "surplus_hugepages"),
            overcommit=_number(pool / "nr_overcommit_hugepages"),
            nodes=tuple(sorted(nodes, key=lambda n: n.node)),
        )


def _size(pool: Path) -> int:
    found = re.search(r"-(\d+)kB$", pool.name)
    return int(found[1]) << 10 if found else 0


_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}


def _mounts(proc: Path) -> Iterator[Mount]:
    for line in _text(proc / "self" / "mounts").splitlines():
        words = line.split()
        if len(words) < 4 or words[2] != "hugetlbfs":
            continue
        path = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), words[1])
        found = re.search(r"\bpagesize=(\d+)([KMG]?)", words[3])
        uid = gid = mode = None
        try:
            state = Path(path).stat()
            uid, gid, mode = state.st_uid, state.st_gid, state.st_mode & 0o7777
        except OSError:
            pass
        yield Mount(path=path, size=int(found[1]) << _UNITS[found[2]] if found else 0, uid=uid, gid=gid, mode=mode)


def _by_node(maps: str) -> tuple[tuple[int, int, int], ...]:
    """From numa_maps: (bytes of a page, node, pages)."""
    total: dict[tuple[int, int], int] = {}
    for line in maps.splitlines():
        if (huge := _MAP.search(line)) is None:
            continue
        for node, count in _ON_NODE.findall(line):
            key = (int(huge[1]) << 10, int(node))
            total[key] = total.get(key, 0) + int(count)
    return tuple((size, node, count) for (size, node), count in sorted(total.items()))


def _holders(proc: Path) -> tuple[tuple[Holder, ...], int]:
    found, unseen = [], 0
    for place in proc.glob("[0-9]*"):
        try:
            text = (place / "smaps_rollup").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended, or is a thread of the kernel's
        except OSError:
            unseen += 1
            continue
        held = sum(int(kib) for kib in _HUGETLB.findall(text)) << 10
        if held:
            name, by_node = _text(place / "comm").strip(), _by_node(_text(place / "numa_maps"))
            found.append(Holder(pid=int(place.name), name=name, bytes=held, pages=by_node))
    return tuple(sorted(found, key=lambda h: h.pid)), unseen


def look(*, holders: bool = True, sysfs: Path = _SYS, proc: Path = _PROC) -> HugePages:
    """What there is now. `holders`: also look through /proc for who has some (some milliseconds per hundred processes)."""
    held, unseen = _holders(proc) if holders else ((), 0)
    mode = re.search(r"\[(\w+)\]", _text(sysfs / "kernel/mm/transparent_hugepage/enabled"))
    return HugePages(
        sizes=tuple(_pages(sysfs)), mounts=tuple(_mounts(proc)), holders=held, unseen=unseen,
        transparent=mode[1] if mode else "",
    )  # fmt: skip


def free_bytes(*, sysfs: Path = _SYS) -> int:
    """Bytes in huge pages of all sizes that can be had now."""
    return sum(p.available * p.size for p in _pages(sysfs))


def need(amount: int, *, size: int | None = None, node: int | None = None, found: HugePages | None = None) -> None:
    """Returns when `amount` bytes can be had, of pages of one size or any, on one node or any; else raises PB097 with what is
    missing and the command that reserves it. Of pages of any size, no page is shared between sizes: the sum counts."""
    found = found if found is not None else look(holders=False)
    if not found.sizes:
        raise PybypassError.make("PB097", errno.EOPNOTSUPP, "this kernel has none", hint="boot one with CONFIG_HUGETLBFS")
    free = found.free_bytes(size=size, node=node)
    if free >= amount:
        return
    unit = size or _UMEM_PAGE
    pool = next((p for p in found.sizes if p.size == unit), found.sizes[0])
    exist = next((n.reserved for n in pool.nodes if n.node == node), pool.reserved)
    count = exist + -(-(amount - free) // pool.size)
    where = f" on node {node}" if node is not None else ""
    kind = " -s 1G" if pool.size == 1 << 30 else ""
    raise PybypassError.make(
        "PB097", errno.ENOMEM, f"{amount >> 20} MB are wanted{where}, {free >> 20} MB are free",
        hint=f"hugepages/setup.sh{kind}{f' -N {node}' if node is not None else ''} {count}",
        detail={"wanted": amount, "free": free, "node": node, "size": size},
    )  # fmt: skip


# ---- in words ----


def _umem_words(found: HugePages) -> str:
    small = next((p for p in found.sizes if p.size == _UMEM_PAGE), None)
    free = small.available * small.size if small is not None else 0
    wanted = -(-_UMEM_BYTES // _UMEM_PAGE)
    if free >= _UMEM_BYTES:
        return f"a Umem: reserved pages of 2 MB ({free >> 20} MB free; the default of an xdp: port takes {wanted} pages)"
    instead = "transparent huge pages" if found.transparent in ("always", "madvise") else "pages of 4 KiB"
    only = f"; {free >> 20} MB of reserved ones are free, it takes {wanted} pages of 2 MB" if free else ""
    return f"a Umem: {instead}{only} (hugepages/setup.sh reserves some)"


def _dpdk_words(found: HugePages) -> str:
    free = found.free_bytes()
    if free >= _DPDK_BYTES:
        return f"DPDK: huge pages ({free >> 20} MB free; it takes {_DPDK_BYTES >> 20} MB and more as needed)"
    return (
        f"DPDK: ordinary pages, --no-huge ({free >> 20} MB free, it wants {_DPDK_BYTES >> 20} MB), "
        "on which most drivers of cards do not work (hugepages/setup.sh reserves some)"
    )


def _size_words(pages: Pages) -> Iterator[str]:
    words = [f"{pages.reserved} reserved", f"{pages.free} free"]
    for name in ("promised", "surplus", "overcommit"):
        if count := getattr(pages, name):
            words.append(f"{count} {name}")
    yield f"pages of {size_name(pages.size)}: {', '.join(words)}"
    for n in pages.nodes:
        extra = f", {n.surplus} surplus" if n.surplus else ""
        yield f"  node {n.node}: {n.reserved} reserved, {n.free} free{extra}"
    empty = [n.node for n in pages.nodes if not n.reserved]
    if empty and len(empty) < len(pages.nodes):
        yield f"  ports on cards of node {', '.join(map(str, empty))} get memory of another node: every packet crosses over"


def _holder_words(holders: Iterable[Holder]) -> Iterator[str]:
    for h in holders:
        where = ", ".join(f"{count} of {size_name(size)} on node {node}" for size, node, count in h.pages)
        yield f"process {h.pid} ({h.name}): {h.bytes >> 20} MB{f': {where}' if where else ''}"


def explain(found: HugePages | None = None) -> list[str]:
    """Lines for people: what there is, who holds it, what a Umem and DPDK would get."""
    found = found if found is not None else look()
    lines = [line for pages in found.sizes for line in _size_words(pages)] or ["this kernel has no huge pages"]
    for m in found.mounts:
        who = f"uid {m.uid}, gid {m.gid}, mode {m.mode:04o}" if m.mode is not None else "not to be looked at"
        lines.append(f"mount {m.path}: pages of {size_name(m.size)}, {who}")
    lines += _holder_words(found.holders)
    if found.unseen:
        lines.append(f"{found.unseen} processes are not this user's to look at")
    lines.append(f"transparent huge pages: {found.transparent or 'not in this kernel'}")
    return [*lines, _umem_words(found), _dpdk_words(found)]
