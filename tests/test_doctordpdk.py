"""The doctor's checks of DPDK where things are missing, and with huge pages of this machine."""

import errno
from pathlib import Path

import pytest
from pci_tree import FakeBus, link

from pybypass import devices, doctordpdk, hugepages, pmdinfo
from pybypass.errors import PybypassError


def test_here_it_is_built_with_its_drivers():
    check = doctordpdk.check_dpdk()
    assert check.verdict == "ok" and check.value.startswith("built, DPDK ")
    check = doctordpdk.check_drivers()
    assert check.verdict == "ok" and int(check.value.split()[0]) > 20


@pytest.mark.parametrize(
    ("missing", "verdict", "words"),
    [("not built", "info", "from its sources"), ("librte_eal.so.23: not found", "warn", "apt-get install libdpdk-dev")],
)
def test_not_built_and_gone(monkeypatch, missing, verdict, words):
    monkeypatch.setattr(doctordpdk, "_library_missing", lambda: missing)
    check = doctordpdk.check_dpdk()
    assert (check.verdict, check.value) == (verdict, missing) and words in check.fix


def test_what_the_loader_does_not_find(monkeypatch, tmp_path):
    tool = tmp_path / "ldd"
    tool.write_text("#!/bin/sh\necho '\tlibrte_eal.so.99 => not found'\necho '\tlibc.so.6 => /lib/libc.so.6 (0x1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctordpdk._library_missing() == "librte_eal.so.99: not found"


def test_drivers_missing(monkeypatch):
    def none():
        raise PybypassError.make("PB098", errno.ENOENT, "nowhere")

    some = [p for p in pmdinfo.drivers() if p.name not in ("net_memif", "net_af_xdp")]
    monkeypatch.setattr(pmdinfo, "drivers", lambda: some)
    check = doctordpdk.check_drivers()
    assert check.verdict == "info" and f"librte-net-memif{pmdinfo.abi()}" in check.fix and "net_af_xdp" in check.why
    monkeypatch.setattr(pmdinfo, "drivers", none)
    check = doctordpdk.check_drivers()
    assert (check.verdict, check.value) == ("info", "none") and "libdpdk-dev" in check.fix


@pytest.mark.parametrize(("free", "verdict"), [(64 << 20, "ok"), ((64 << 20) - 1, "info"), (0, "info")])
def test_huge_pages(monkeypatch, free, verdict):
    monkeypatch.setattr(hugepages, "free_bytes", lambda: free)
    check = doctordpdk.check_huge()
    assert check.verdict == verdict
    assert ("hugepages/setup.sh" in check.fix) == (verdict == "info")


def test_vfio_and_iommu(monkeypatch, tmp_path):
    bus = FakeBus(tmp_path)
    monkeypatch.setattr(doctordpdk, "_SYS", bus.sysfs)
    monkeypatch.setattr(doctordpdk.os.path, "exists", lambda path: path == "/dev/vfio/vfio")
    assert (doctordpdk.check_vfio().verdict, doctordpdk.check_vfio().value) == ("info", "no vfio-pci")
    bus.load("vfio-pci")
    assert doctordpdk.check_vfio().verdict == "ok"
    assert "intel_iommu=on" in doctordpdk.check_iommu().fix and "enable_unsafe" in doctordpdk.check_iommu().fix
    (bus.sysfs / "module/vfio").mkdir(parents=True)
    assert "uio_pci_generic" in doctordpdk.check_iommu().fix  # this kernel's vfio has no such mode
    bus.noiommu(True)
    assert "any memory" in doctordpdk.check_iommu().why
    bus.add("0000:03:00.0", group=4)
    assert (doctordpdk.check_iommu().verdict, doctordpdk.check_iommu().value) == ("ok", "1 groups")


def test_cards(monkeypatch, tmp_path):
    bus = FakeBus(tmp_path)
    igb = pmdinfo.Pmd(name="net_e1000_igb", library="x", pci_ids=((0x8086, 0x10C9, 0xFFFF, 0xFFFF),), kmods=("vfio-pci",),
                      bifurcated=False, params="", virtual=False)  # fmt: skip
    real = devices.scan
    monkeypatch.setattr(devices, "scan", lambda: real(sysfs=bus.sysfs, root=Path(tmp_path), pmds=[igb], on=bus.on))
    assert "pybypass devices" in doctordpdk.check_cards().fix
    bus.add("0000:03:00.0", links=(link("eth5", up=True),))
    assert "pybypass devices" in doctordpdk.check_cards().fix  # not one that is up
    bus.add("0000:03:00.1")
    assert doctordpdk.check_cards().fix == "pybypass bind 0000:03:00.1 vfio-pci"
    bus.add("0000:04:00.0", driver="vfio-pci")
    check = doctordpdk.check_cards()
    assert (check.verdict, check.value) == ("ok", "0000:04:00.0 (vfio-pci)")
