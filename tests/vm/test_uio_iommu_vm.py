"""A card on uio_pci_generic in a guest whose IOMMU translates: refused in words, for its addresses would lead nowhere."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from dpdk_support import bound_and_back

pytestmark = [pytest.mark.iommu(True), pytest.mark.driver("igb")]

BODY = """
import sys, time
import pybypass as pb
from pybypass import dpdk, dpdkopen
dpdk.start(dpdk.EalOptions(huge="require", iova="pa"))
try:
    pb.open(sys.argv[1])
except pb.PybypassError as e:
    print(e.code, e.errno, e, e.hint, sep="|")
if sys.argv[2] == "all the same":
    dpdkopen._behind_iommu = lambda device: None
    with pb.open(sys.argv[1]) as port:
        until = time.monotonic() + 30
        while not port.link()["up"] and time.monotonic() < until:
            time.sleep(0.05)
        print(port.link()["up"])
        before = port.hardware_stats()["tx_pkts"]
        with port.alloc_burst(1, 60) as burst:
            print(port.tx_burst(burst))
        time.sleep(1)
        print(port.hardware_stats()["tx_pkts"] - before)
"""


def mark_kernel_log() -> str:
    """The kernel's log is a ring: what was first in it may be gone later."""
    mark = f"pybypass: before {uuid.uuid4()}"
    Path("/dev/kmsg").write_text(mark + "\n")
    return mark


def kernel_log_since(mark: str) -> str:
    """What was logged since `mark`; all that there is, when it is gone by then."""
    log = subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout
    return log.rpartition(mark)[2]


def test_refused_and_why(pair):
    """And what happens without that look: the card's own reading of its ring is stopped by the IOMMU."""

    def check(card):
        group = Path("/sys/bus/pci/devices", card.address, "iommu_group")
        assert (group / "type").read_text().strip() in ("DMA", "DMA-FQ")
        mark = mark_kernel_log()
        done = subprocess.run(
            [sys.executable, "-c", BODY, card.uri(), "all the same"], text=True, capture_output=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said, up, taken, sent = done.stdout.splitlines()
        code, _, words, hint = said.split("|")
        assert code == "PB105" and f"IOMMU group {group.resolve().name} translates" in words
        assert f"pybypass bind {card.address} vfio-pci" in hint
        assert (up, taken, sent) == ("True", "1", "0")
        assert "DMAR: [DMA " in kernel_log_since(mark), "the IOMMU tells of it"

    bound_and_back("igb", pair, "uio_pci_generic", check)
