"""Huge pages: what is read of trees with known numbers, and the scripts, on such trees and with pages of this machine."""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pybypass import cli, dpdk, hugepages
from pybypass.errors import PybypassError

SCRIPTS = Path(__file__).parents[1] / "hugepages"
M2, G1 = 2 << 20, 1 << 30
FILES = ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages")


def pool(place: Path, *numbers: int) -> None:
    place.mkdir(parents=True)
    for name, number in zip(FILES, (*numbers, 0, 0, 0, 0, 0)[:5], strict=True):
        (place / name).write_text(f"{number}\n")


@pytest.fixture
def tree(tmp_path):
    """Two nodes with 2 MB pages, 1 GB pages on node 0 only: /sys and /proc in a directory."""
    sysfs, proc = tmp_path / "sys", tmp_path / "proc"
    pool(sysfs / "kernel/mm/hugepages/hugepages-2048kB", 100, 60, 8, 4, 16)
    pool(sysfs / "kernel/mm/hugepages/hugepages-1048576kB", 3, 2)
    nodes = sysfs / "devices/system/node"
    pool(nodes / "node0/hugepages/hugepages-2048kB", 100, 60, 0, 4)
    pool(nodes / "node1/hugepages/hugepages-2048kB", 0, 0)
    pool(nodes / "node0/hugepages/hugepages-1048576kB", 3, 2)
    pool(nodes / "node1/hugepages/hugepages-1048576kB", 0, 0)
    (sysfs / "kernel/mm/transparent_hugepage").mkdir()
    (sysfs / "kernel/mm/transparent_hugepage/enabled").write_text("always [madvise] never\n")
    (proc / "self").mkdir(parents=True)
    place = tmp_path / "a place"
    place.mkdir(mode=0o770)
    (proc / "self/mounts").write_text(
        "proc /proc proc rw 0 0\n"
        f"x {str(place).replace(' ', chr(92) + '040')} hugetlbfs rw,relatime,gid=7,pagesize=1024M 0 0\n"
        "y /nowhere hugetlbfs rw,relatime,pagesize=2M 0 0\n"
    )
    process = proc / "42"
    process.mkdir()
    (process / "comm").write_text("trader\n")
    (process / "smaps_rollup").write_text("Rss: 5 kB\nShared_Hugetlb: 2048 kB\nPrivate_Hugetlb: 1048576 kB\n")
    (process / "numa_maps").write_text(
        "7f0000000000 default anon=1 dirty=1 N0=1 kernelpagesize_kB=4\n"
        "7f4000000000 default file=/anon_hugepage\\040(deleted) huge anon=1 dirty=1 N1=1 kernelpagesize_kB=2048\n"
        "7f8000000000 default file=/anon_hugepage\\040(deleted) huge dirty=1 N0=1 kernelpagesize_kB=1048576\n"
    )
    idle = proc / "43"
    idle.mkdir()
    (idle / "smaps_rollup").write_text("Private_Hugetlb: 0 kB\n")
    return tmp_path


def look(tree: Path) -> hugepages.HugePages:
    return hugepages.look(sysfs=tree / "sys", proc=tree / "proc")


def test_what_is_read(tree):
    found = look(tree)
    small, large = found.sizes
    assert (small.size, small.reserved, small.free, small.promised, small.surplus, small.overcommit) == (M2, 100, 60, 8, 4, 16)
    assert (small.available, large.size, large.available) == (52, G1, 2)
    assert [(n.node, n.reserved, n.free, n.surplus) for n in small.nodes] == [(0, 100, 60, 4), (1, 0, 0, 0)]
    one, two = found.mounts
    assert (one.path, one.size, one.gid) == (str(tree / "a place"), G1, os.getgid())
    assert one.mode == (tree / "a place").stat().st_mode & 0o7777
    assert (two.path, two.size, two.mode) == ("/nowhere", M2, None)
    (holder,) = found.holders
    assert (holder.pid, holder.name, holder.bytes) == (42, "trader", G1 + M2)
    assert holder.pages == ((M2, 1, 1), (G1, 0, 1))
    assert (found.unseen, found.transparent) == (0, "madvise")


def test_what_can_be_had(tree):
    found = look(tree)
    assert found.free_bytes() == 52 * M2 + 2 * G1 == hugepages.free_bytes(sysfs=tree / "sys")
    assert found.free_bytes(size=M2) == 52 * M2
    assert (found.free_bytes(node=0), found.free_bytes(node=1)) == (52 * M2 + 2 * G1, 0)
    hugepages.need(2 * G1, found=found)
    hugepages.need(52 * M2, size=M2, node=0, found=found)


@pytest.mark.parametrize(
    ("amount", "how", "number", "hint"),
    [
        (53 * M2, {"size": M2}, errno.ENOMEM, "hugepages/setup.sh 101"),
        (M2, {"size": M2, "node": 1}, errno.ENOMEM, "hugepages/setup.sh -N 1 1"),
        (3 * G1, {"size": G1, "node": 0}, errno.ENOMEM, "hugepages/setup.sh -s 1G -N 0 4"),
        (3 * G1, {}, errno.ENOMEM, "hugepages/setup.sh 560"),
        (1, {"size": 1 << 24}, errno.EOPNOTSUPP, "pybypass hugepages"),
        (1, {"node": 7}, errno.ENODEV, "pybypass hugepages"),
    ],
)
def test_what_cannot_be_had_and_how_it_could(tree, amount, how, number, hint):
    with pytest.raises(PybypassError) as caught:
        hugepages.need(amount, found=look(tree), **how)
    assert (caught.value.code, caught.value.errno) == ("PB097", number)
    assert hint in caught.value.hint


def test_a_kernel_without(tmp_path):
    found = hugepages.look(sysfs=tmp_path, proc=tmp_path)
    assert (found.sizes, found.mounts, found.holders, found.free_bytes()) == ((), (), (), 0)
    with pytest.raises(PybypassError, match="none"):
        hugepages.need(1, found=found)
    text = "\n".join(hugepages.explain(found))
    assert "no huge pages" in text and "pages of 4 KiB" in text and "--no-huge" in text


def test_in_words(tree):
    text = "\n".join(hugepages.explain(look(tree)))
    for words in (
        "pages of 2 MB: 100 reserved, 60 free, 8 promised, 4 surplus, 16 overcommit", "node 0: 3 reserved, 2 free",
        "cards of node 1 get memory of another node", "process 42 (trader): 1026 MB: 1 of 2 MB on node 1, 1 of 1 GB on node 0",
        "a Umem: reserved pages of 2 MB (104 MB free", "DPDK: huge pages (2152 MB free",
    ):  # fmt: skip
        assert words in text


def test_dpdk_asks_here():
    assert dpdk.free_huge_bytes() == hugepages.free_bytes()


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_the_command(capsys, words):
    assert cli.main(["hugepages", *words]) == 0
    out = capsys.readouterr().out
    if words:
        answer = json.loads(out)
        assert answer["schema"] == "pybypass.hugepages/1" and out.count("\n") == 1
        assert answer["free_bytes"] == sum((p["free"] - p["promised"]) * p["size"] for p in answer["sizes"])
    else:
        assert "a Umem: " in out and "DPDK: " in out
    assert cli.main(["hugepages", *words, "--need", str(1 << 30)]) == 1
    assert "PB097" in capsys.readouterr().err


# ---- the scripts, on a tree ----


class Scripts:
    """The scripts with their state, units and, if given, /sys in a directory."""

    def __init__(self, place: Path, sysfs: Path | None = None) -> None:
        self.place, self.state, self.units = place, place / "state", place / "root/etc/systemd/system"
        self.environment = {**os.environ, "PB_HUGEPAGES_STATE": str(self.state), "PB_HUGEPAGES_ROOT": str(place / "root")}
        if sysfs is not None:
            self.environment |= {"PB_HUGEPAGES_SYS": str(sysfs), "PB_HUGEPAGES_PROC": str(place / "proc")}

    def __call__(self, script: str, *words: object, code: int = 0) -> str:
        done = subprocess.run(
            [SCRIPTS / f"{script}.sh", *map(str, words)], env=self.environment, text=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout


@pytest.fixture
def scripts(tree):
    return Scripts(tree, tree / "sys")


def number(tree: Path, node: int, kib: int = 2048) -> int:
    return int((tree / f"sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB/nr_hugepages").read_text())


@pytest.mark.root
def test_pages_by_node_and_back(tree, scripts):
    assert "nothing to do" in scripts("setup", "-N", "0", 64)  # there are 100
    assert not scripts.state.exists()
    assert "16 huge pages of 2 MB are reserved on node 1 (0 before)" in scripts("setup", "-N", "0,1", 16)
    assert "nothing to do" in scripts("setup", 16, 1)
    scripts("setup", "-s", "1G", "-N", "all", 4)
    assert [number(tree, n, k) for k in (2048, 1048576) for n in (0, 1)] == [100, 16, 4, 4]
    scripts("setup", "-N", "1", 20)
    out = scripts("teardown")
    assert "0 huge pages of 2 MB stay reserved on node 1" in out and "3 huge pages of 1 GB stay reserved on node 0" in out
    assert [number(tree, n, k) for k in (2048, 1048576) for n in (0, 1)] == [100, 0, 3, 0]
    assert not scripts.state.exists()
    assert "nothing to do" in scripts("teardown")


@pytest.mark.root
@pytest.mark.parametrize(("meanwhile", "left"), [(150, 130), (120, 100), (110, 100), (60, 60)])
def test_what_others_reserved_meanwhile_stays_theirs(tree, scripts, meanwhile, left):
    scripts("setup", "-N", 0, 120)  # 20 are ours
    (tree / "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages").write_text(f"{meanwhile}\n")
    scripts("teardown")
    assert number(tree, 0) == left


def test_the_dry_run_touches_nothing(tree, scripts):
    before = {p: p.read_bytes() for p in (tree / "sys").rglob("*") if p.is_file()}
    out = scripts("setup", "-n", "-N", "0,1", "-m", tree / "mnt", "-g", "root", "-p", 200)
    for node in (0, 1):
        assert f"would: echo 200 > {tree}/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages" in out
    assert f"would: mkdir -p {tree / 'mnt'}" in out and "would: mount -t hugetlbfs -o pagesize=2048K,gid=0" in out
    assert "would: write" in out
    assert {p: p.read_bytes() for p in (tree / "sys").rglob("*") if p.is_file()} == before
    assert not (tree / "mnt").exists() and not scripts.state.exists() and not scripts.units.exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["many"], 2, "COUNT is a number"),
        (["-s", "3M"], 2, "2M or 1G"),
        (["-N", "x"], 2, "NODE is a number"),
        (["-N", "0", "5", "1"], 2, "twice"),
        (["-N", "7"], 3, "no such NUMA node"),
        (["-g", "root"], 2, "give -m too"),
        (["-m", "here"], 2, "from the root"),
        (["-m", "/x y"], 2, "without spaces"),
        (["-m", "/x", "-g", "no-such-group-here"], 3, "no group"),
        (["-x"], 2, ""),
        (["1", "2", "3"], 2, "takes COUNT and NODE"),
    ],
)
def test_wrong_arguments(scripts, words, code, said):
    assert said in scripts("setup", "-n", *words, code=code)
    assert not scripts.state.exists()


def test_status(tree, scripts):
    out = scripts("status")
    for words in ("2 MB pages: 100 reserved, 60 free, 8 promised, 4 surplus", "node1: 0 reserved", "1 GB pages: 3 reserved"):
        assert words in out
    scripts("status", "x", code=2)
    scripts("teardown", "x", code=2)


@pytest.mark.root
def test_the_unit_does_the_same_and_goes_again(tree, scripts):
    strange = scripts.units / "pybypass-hugepages-theirs.service"
    scripts.units.mkdir(parents=True)
    strange.write_text("[Unit]\n")
    scripts("setup", "-p", "-N", 1, 9)
    assert "is there: nothing to do" in scripts("setup", "-p", "-N", 1, 9)
    (unit,) = scripts.units.glob("pybypass-hugepages-2048k-*.service")
    assert unit.name == "pybypass-hugepages-2048k-1.service"
    enabled = scripts.units / "sysinit.target.wants" / unit.name
    assert enabled.is_symlink() and enabled.resolve() == unit.resolve()
    start = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)[1]
    # At boot: the pages are gone, /run is empty, and the unit brings them back.
    scripts("teardown")
    assert not unit.exists() and not enabled.is_symlink() and strange.exists() and number(tree, 1) == 0
    subprocess.run(shlex.split(start), env=scripts.environment, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert number(tree, 1) == 9
    # A unit is reason enough for teardown.sh, though nothing was done since boot.
    scripts("setup", "-p", "-N", 1, 5)
    for file in scripts.state.iterdir():
        file.unlink()
    scripts.state.rmdir()
    scripts("teardown")
    assert not list(scripts.units.glob("pybypass-hugepages-2048k-*")) and strange.exists()


@pytest.mark.root
def test_systemd_accepts_the_unit(tree, scripts):
    tool = "/usr/bin/systemd-analyze"
    scripts("setup", "-p", 120)
    (unit,) = scripts.units.glob("*.service")
    if Path(tool).exists():
        done = subprocess.run([tool, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False)
        assert unit.name not in done.stderr, done.stderr
    sections = re.findall(r"^\[(\w+)\]$", unit.read_text(), re.MULTILINE)
    assert sections == ["Unit", "Service", "Install"]
    assert f"ConditionPathExists={SCRIPTS}/setup.sh" in unit.read_text()


# ---- with pages of this machine ----


def reserved(kib: int = 2048) -> int:
    return int(Path(f"/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages").read_text())


@pytest.fixture
def real(tmp_path):
    """The scripts on this machine's pages, which are as many afterwards as they were."""
    before = {kib: reserved(kib) for kib in (2048, 1048576) if Path(f"/sys/kernel/mm/hugepages/hugepages-{kib}kB").is_dir()}
    run = Scripts(tmp_path)
    yield run
    with contextlib.suppress(AssertionError):
        run("teardown")
    subprocess.run(["umount", "-q", str(tmp_path / "mnt/huge")], check=False)
    assert {kib: reserved(kib) for kib in before} == before


@pytest.mark.root
@pytest.mark.alone("the huge pages of the machine")
def test_real_pages_there_and_back(real):
    before, free = reserved(), hugepages.free_bytes()
    assert "are reserved" in real("setup", before + 6)
    assert reserved() == before + 6
    assert hugepages.free_bytes() - free == 6 * M2 or hugepages.free_bytes() >= 6 * M2
    assert "nothing to do" in real("setup", before + 6)
    real("setup", before + 9)
    assert reserved() == before + 9
    real("teardown")
    assert reserved() == before


@pytest.mark.root
@pytest.mark.alone("the huge pages of the machine")
def test_who_holds_them(real):
    """This process maps two, touches one: the other one is promised."""
    before = hugepages.look(holders=False).pages(M2)
    real("setup", before.reserved + 2)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_long]
    at = libc.mmap(None, 2 * M2, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000, -1, 0)
    assert at != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
    try:
        ctypes.memset(at, 1, 1)
        found = hugepages.look()
        (mine,) = [h for h in found.holders if h.pid == os.getpid()]
        assert mine.bytes == M2
        assert sum(count for size, _, count in mine.pages if size == M2) in (0, 1)  # 0: a kernel without NUMA
        assert found.pages(M2).promised >= 1
        assert f"process {os.getpid()}" in real("status")
        with_ours = hugepages.look(holders=False).pages(M2)
    finally:
        libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(2 * M2))
    without = hugepages.look(holders=False).pages(M2)
    if with_ours.reserved == without.reserved and with_ours.promised - without.promised <= 1:  # nobody else came or went
        assert with_ours.promised - without.promised == 1
        assert without.available - with_ours.available == 2  # one was in use, one promised


@pytest.mark.root
@pytest.mark.alone("the huge pages of the machine")
def test_a_mount_for_a_group(real, tmp_path):
    at = tmp_path / "mnt/huge"
    real("setup", "-m", at, "-g", "daemon", reserved())
    (mount,) = [m for m in hugepages.look(holders=False).mounts if m.path == str(at)]
    gid = int(subprocess.run(["getent", "group", "daemon"], check=True, capture_output=True, text=True).stdout.split(":")[2])
    assert (mount.size, mount.gid, mount.mode) == (M2, gid, 0o770)
    assert "nothing to do" in real("setup", "-m", at, "-g", "daemon", reserved())
    assert "is mounted for group" in real("setup", "-m", at, "-g", "root", reserved(), code=1)
    (at / "file").touch()
    assert "has files" in real("teardown", code=1)
    (at / "file").unlink()
    assert at.is_mount()
    real("teardown")
    assert not at.exists() and not at.parent.exists() and not real.state.exists()


@pytest.mark.root
@pytest.mark.alone("the huge pages of the machine")
def test_a_place_that_is_taken(real, tmp_path):
    place = tmp_path / "taken"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "x", str(place)], check=True)
    try:
        assert "mount point of something else" in real("setup", "-m", place, reserved(), code=1)
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.root
@pytest.mark.alone("the huge pages of the machine")
def test_a_page_of_1_gb(real):
    """Memory in one piece for it may be there or not: either way it is said, and goes back."""
    if not Path("/sys/kernel/mm/hugepages/hugepages-1048576kB").is_dir():
        assert "without pages of 1 GB" in real("setup", "-s", "1G", 1, code=3)
        return
    before = reserved(1048576)
    try:
        assert f"{before + 1} huge pages of 1 GB are reserved" in real("setup", "-s", "1G", before + 1)
        assert reserved(1048576) == before + 1
        assert hugepages.look(holders=False).pages(G1).reserved == before + 1
    except AssertionError:
        assert reserved(1048576) == before
        assert f"only {before} of {before + 1}" in real("setup", "-s", "1G", before + 1, code=1)
    real("teardown")
    assert reserved(1048576) == before


@pytest.mark.root
@pytest.mark.parametrize("node", [None, 1])
@pytest.mark.parametrize(("size", "boot"), [("2M", "hugepages="), ("1G", "hugepagesz=1G hugepages=")])
def test_fewer_than_asked_for(tree, scripts, size, boot, node):
    """A number that stays as it is, whatever is written: here one of the kernel's that is 65,536 and read-only.
    What is to be compacted is that node, or all memory."""
    stuck = Path("/proc/sys/kernel/ngroups_max")
    assert stuck.read_text() == "65536\n"
    for file in (tree / "sys").rglob("nr_hugepages"):
        file.unlink()
        file.symlink_to(stuck)
    (tree / "proc/sys/vm").mkdir(parents=True)
    nodes = tree / "sys/devices/system/node"
    asked = {None: tree / "proc/sys/vm/compact_memory", 0: nodes / "node0/compact", 1: nodes / "node1/compact"}
    for file in asked.values():
        file.touch()
    scripts("setup", "-s", size, *(() if node is None else ("-N", node)), 65536)
    assert not any(file.read_text() for file in asked.values()), "there were enough"
    out = scripts("setup", "-s", size, *(() if node is None else ("-N", node)), 70000, code=1)
    assert "only 65536 of 70000 huge pages" in out and "also after compacting" in out
    assert out.rstrip().endswith(boot + ("70000" if node is None else f"{node}:70000"))
    assert {at: file.read_text() for at, file in asked.items()} == dict.fromkeys(asked, "") | {node: "1\n"}
    scripts("teardown")
