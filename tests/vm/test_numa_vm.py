"""Two NUMA nodes (run-guest.sh -N): memory lands where it is asked for. The second end of each pair is on node 1."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import devices, hugepages

SETUP = Path(__file__).resolve().parents[2] / "hugepages/setup.sh"
M2 = 2 << 20


def free(node: int) -> int:
    """Pages of 2 MB."""
    return next(n.free for n in hugepages.look().pages(M2).nodes if n.node == node)


def mapped() -> list[int]:
    """Bytes that this process has on each node, by the kernel's count."""
    total = [0, 0]
    for line in Path("/proc/self/numa_maps").read_text().splitlines():
        kib = int(re.search(r"kernelpagesize_kB=(\d+)", line + " kernelpagesize_kB=0")[1])
        for node, pages in re.findall(r" N(\d)=(\d+)", line):
            total[int(node)] += int(pages) * kib * 1024
    return total


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("pages", ["hugetlb", "thp", "4k"])
def test_memory_of_frames(node, pages):
    spare, before = (free(0), free(1)), mapped()
    umem = pb.Umem(frames=8192, frame_bytes=2048, pages=pages, node=node)
    info, after = umem.info(), mapped()
    assert (info["node"], info["pages"]) == (node, pages)
    assert after[node] - before[node] >= 8192 * 2048
    assert after[1 - node] - before[1 - node] < 1 << 20  # the interpreter's own
    taken = [was - free(n) for n, was in enumerate(spare)]
    assert taken[1 - node] == 0
    assert taken[node] == (info["region_bytes"] // M2 if pages == "hugetlb" else 0)
    del umem
    assert (free(0), free(1)) == spare


def test_pages_reserved_on_one_node():
    def reserved() -> list[int]:
        return [n.reserved for n in hugepages.look().pages(M2).nodes]

    before = reserved()
    assert len(before) == 2 and all(before), before
    place = Path("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages")
    try:
        subprocess.run(["sh", str(SETUP), "-N", "1", str(before[1] + 8)], check=True, capture_output=True)
        assert reserved() == [before[0], before[1] + 8]
        assert hugepages.look().free_bytes(size=M2, node=1) == free(1) * M2
    finally:
        place.write_text(str(before[1]))
    assert reserved() == before


def test_nics_by_node(pairs):
    found = {link.ifname: d.numa_node for d in devices.scan().devices for link in d.links}
    for near, far in pairs.values():
        assert (found[near], found[far]) == (None, 1)  # QEMU's first bus is of no node


@pytest.mark.parametrize("cpu", [0, 1])
def test_dpdk_takes_memory_of_its_core(cpu):
    """net_null is where the EAL's main core is: its mempool too. In a process of its own, for the EAL starts once."""
    script = f"""
import json, pybypass as pb
from pybypass import dpdk
dpdk.start(dpdk.EalOptions(huge="require", lcores=({cpu},)))
with pb.open("dpdk:net_null0") as port:
    print(json.dumps([port.report["numa_node"], port.pool()["numa_node"], port.umem.info()["node"]]))
"""
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [cpu, cpu, cpu]
