"""Engines over DPDK's drivers of cards, by vfio-pci, against the kernel's TCP at the other end of the pair."""

import pytest
from dpdk_support import ALL, both_roles


@ALL
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_against_the_kernel(card, driver, version):
    """An engine over the driver connects and listens: 100 kB there and back in both roles, unchanged."""
    both_roles(card, version)
