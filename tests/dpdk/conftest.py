"""DPDK in the process of the tests: one environment for all of them, without huge pages."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def eal():
    from pybypass import dpdk

    if not dpdk.available():
        pytest.skip("pybypass._dpdk is not built (libdpdk-dev)")
    return dpdk.start(dpdk.EalOptions(huge="no"))
