"""Pages of 1 GB, in the guest without an IOMMU, which boots with one on node 0 and two on node 1 (tools/vmlab/test.sh)."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from dpdk_support import Cards, command

import pybypass as pb
from pybypass import hugepages

pytestmark = pytest.mark.iommu(False)

SCRIPTS = Path(__file__).resolve().parents[2] / "hugepages"
M2, G1 = 2 << 20, 1 << 30
THERE = {0: 1, 1: 2}


def free(size: int = G1) -> dict[int, int]:
    return {n.node: n.free for n in hugepages.look(holders=False).pages(size).nodes}


def place(node: int, kib: int = 1048576) -> Path:
    return Path(f"/sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB/nr_hugepages")


def script(name: str, *words: object) -> str:
    done = subprocess.run(
        ["sh", str(SCRIPTS / f"{name}.sh"), *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def only_giants():
    """Without the pages of 2 MB meanwhile."""
    before = {node: place(node, 2048).read_text() for node in THERE}
    try:
        for node in THERE:
            place(node, 2048).write_text("0")
        assert free(M2) == {0: 0, 1: 0}
        yield
    finally:
        for node, count in before.items():
            place(node, 2048).write_text(count)


def test_what_is_read():
    found = hugepages.look(holders=False)
    pages = found.pages(G1)
    assert (pages.reserved, pages.free) == (3, 3)
    assert {n.node: n.reserved for n in pages.nodes} == free() == THERE
    assert found.free_bytes(size=G1, node=1) == 2 * G1
    assert "pages of 1 GB: 3 reserved, 3 free" in hugepages.explain(found)
    hugepages.need(2 * G1, size=G1, node=1)
    with pytest.raises(pb.PybypassError) as caught:
        hugepages.need(3 * G1, size=G1, node=1)
    assert (caught.value.code, caught.value.hint) == ("PB097", "hugepages/setup.sh -s 1G -N 1 3")
    said = json.loads(command("hugepages", "--json").stdout)
    assert [p["reserved"] for p in said["sizes"] if p["size"] == G1] == [3]


def test_taken_and_given_back_by_the_scripts(tmp_path):
    """One that was given up is reserved again at run time, mounted, mapped, seen with its holder, and given back."""
    assert "nothing to do" in script("setup", "-s", "1G", "-N", "1", 2)
    at = tmp_path / "giant"
    place(1).write_text("1")
    try:
        assert free() == {0: 1, 1: 1}
        assert "2 huge pages of 1 GB are reserved on node 1 (1 before)" in script("setup", "-s", "1G", "-N", "1", "-m", at, 2)
        assert free() == THERE
        assert "nothing to do" in script("setup", "-s", "1G", "-N", "1", "-m", at, 2)
        (mount,) = (m for m in hugepages.look(holders=False).mounts if m.path == str(at))
        assert (mount.size, mount.mode) == (G1, 0o700)
        body = f"""
import mmap, os, sys
fd = os.open({str(at / "file")!r}, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, {G1})
held = mmap.mmap(fd, {G1})
held[{G1 - 1}] = 7
print("held", flush=True)
sys.stdin.read()
"""
        with subprocess.Popen([sys.executable, "-c", body], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "held\n"
            (holder,) = (h for h in hugepages.look().holders if h.pid == process.pid)
            assert holder.bytes == G1
            assert [(size, count) for size, _, count in holder.pages] == [(G1, 1)]
            assert sum(free().values()) == 2
            process.communicate("")
        (at / "file").unlink()
        assert free() == THERE
        assert str(at) in script("status")
        script("teardown")
        assert free() == {0: 1, 1: 1}, "what setup.sh added, and no more"
        assert not at.exists()
    finally:
        place(1).write_text("2")
    assert free() == THERE


def test_frames_on_one():
    """Asked for, when there are none of 2 MB; a page is taken whole."""
    before = free()
    umem = pb.Umem(frames=8192, pages="hugetlb")
    assert (umem.info()["pages"], free()) == ("hugetlb", before), "of 2 MB while there are any"
    del umem
    with only_giants():
        umem = pb.Umem(frames=8192, node=1)
        assert umem.info()["pages"] in ("thp", "4k") and free() == before, "not unasked"
        del umem
        umem = pb.Umem(frames=8192, pages="hugetlb", node=1)
        assert (umem.info()["pages"], umem.info()["node"]) == ("hugetlb", 1)
        assert free() == {0: 1, 1: 1}
        assert os.waitstatus_to_exitcode(os.waitpid(child(), 0)[1]) == 0
        del umem
        assert free() == before


def child() -> int:
    """A fork that leaves at once: the page is not copied for it, for which there is no second one."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    return pid


@pytest.mark.driver("igb")
def test_a_card_on_them(pairs):
    """DPDK's tables, the rings and the frames on pages of 1 GB, by physical addresses, and frames through the card."""
    cards = Cards(pairs, "uio_pci_generic")
    body = """
import json, re, sys
import dpdk_support as s
import pybypass as pb
from pathlib import Path
from pybypass import dpdk
card = s.Card(**json.loads(sys.argv[1]))
options = dpdk.EalOptions(huge="require", lcores=(1,), iova="pa")
print(dpdk.start(options)["hugepages"])
with pb.open(card.uri("pages=hugetlb")) as port, s.Wire(card) as wire:
    s.wait_link(port)
    wire.wait_passing(port)
    there = [wire.frame(i, s.SIZES[i % len(s.SIZES)], to_dpdk=True) for i in range(600)]
    print([data for data, _ in s.to_port(port, wire, there)] == there)
    back = [wire.frame(i, s.SIZES[i % len(s.SIZES)], to_dpdk=False) for i in range(600)]
    print(s.from_port(port, wire, back) == back)
    print(port.umem.info()["pages"], port.pool()["iova"], port.umem.info()["node"])
    maps = Path("/proc/self/numa_maps").read_text()
    print(sorted(set(re.findall(r" huge .*kernelpagesize_kB=(\\d+)", maps))))
"""
    try:
        card = cards("igb")
        with only_giants():
            done = subprocess.run(
                [sys.executable, "-c", body, json.dumps(vars(card))], text=True, capture_output=True, timeout=180, check=False,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-5:] == ["True", "True", "True", "hugetlb pa 1", "['1048576']"], done.stdout + done.stderr
    finally:
        cards.give_back()
    assert free() == THERE
