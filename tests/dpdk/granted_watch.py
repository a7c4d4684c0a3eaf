"""Cases of granted_cases.py: a device is pulled away, by the word of its driver or of the bus, while its port is closed."""

import ctypes
import threading

import pytest
from dpdk_frames import free, uri
from granted import NIC, case
from support import eventually

import pybypass as pb

BY_BUS, BY_DRIVER = 0, 1


def pulls():
    """Who are being told now, who were, and how often one could not be taken out because of that."""
    out = (ctypes.c_uint32 * 3)()
    NIC.nic_pulls(out)
    return tuple(out)


@case
def a_port_is_told_and_closes():
    for by in (BY_BUS, BY_DRIVER):
        before = pulls()[1]
        with pb.open(uri("ring")) as port, pb.open(uri("ring")) as other:
            assert NIC.nic_pull(port.report["device"].encode(), by) == 0
            assert pulls() == (0, before + 1, pulls()[2])
            with pytest.raises(pb.PybypassError) as caught:
                port.rx_burst(8)
            assert caught.value.code == "PB033"
            other.rx_burst(8).release()


@case
def closing_waits_for_who_is_being_told():
    """What it is told with is freed after that, and not before; and nobody is told afterwards."""
    for by in (BY_BUS, BY_DRIVER):
        port = pb.open(uri("ring"))
        device, umem = port.report["device"].encode(), port.umem
        _, told, again = pulls()
        NIC.nic_hold(1)
        tells = threading.Thread(target=NIC.nic_pull, args=(device, by))
        closes = threading.Thread(target=port.close)
        try:
            tells.start()
            eventually(lambda: pulls()[0] == 1)
            closes.start()
            eventually(lambda again=again: pulls()[2] > again + 100)
            assert closes.is_alive() and pulls()[:2] == (1, told)
        finally:
            NIC.nic_hold(0)
            tells.join(10)
            closes.join(10)
        assert not tells.is_alive() and not closes.is_alive()
        assert pulls()[:2] == (0, told + 1)
        assert NIC.nic_pull(device, by) == (0 if by == BY_BUS else -1)
        assert pulls()[:2] == (0, told + 1), "nobody listens any more"
        assert free(umem)
