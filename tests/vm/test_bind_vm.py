"""`pybypass bind` and `unbind` of cards to vfio-pci, behind an IOMMU. To uio: test_uio_vm.py."""

from pathlib import Path

from dpdk_support import ALL, bound_and_back

from pybypass import devices


@ALL
def test_bound_by_our_command_and_back(pair, driver):
    def check(card):
        found = devices.find(card.address)
        assert found.iommu_group is not None and found.iommu_members == (card.address,)
        assert Path(f"/dev/vfio/{found.iommu_group}").exists()

    bound_and_back(driver, pair, "vfio-pci", check)
