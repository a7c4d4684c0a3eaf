"""A port whose NIC grants times (nic_shim.c), and what its driver is given: for the cases of granted_cases.py."""

import contextlib
import ctypes

import numpy as np
import pytest
from dpdk_frames import free, uri

import pybypass as pb
from pybypass import _burst

RX_TIMESTAMP, SEND_ON_TIMESTAMP = 1 << 14, 1 << 21
TX_TMST = 1 << 51
SEEN = np.dtype([
    ("flags", "u8"), ("field", "u8"), ("latched", "u8"), ("given", "u8"), ("queue", "u4"), ("len", "u4"), ("segs", "u2"),
    ("way", "u2"), ("number", ">u4"),
])  # fmt: skip
SENT, CAME = 0, 1
NIC = ctypes.CDLL(None)
CASES = {}
COUNTERS = ("calls", "enabled", "tx_reads", "overruns", "rx_timestamp", "send_on_timestamp")


def case(function):
    """One that granted_cases.py calls, in the order of the files."""
    CASES[function.__name__] = function
    return function


def grant(rx=RX_TIMESTAMP, tx=SEND_ON_TIMESTAMP, timesync=1, not_ready=0, refuse=0):
    """To the port that is opened next."""
    NIC.nic_grant(ctypes.c_uint64(rx), ctypes.c_uint64(tx), timesync)
    NIC.nic_stamps(not_ready, refuse)


@contextlib.contextmanager
def granted(driver="ring", *, rx=RX_TIMESTAMP, tx=SEND_ON_TIMESTAMP, timesync=1, not_ready=0, refuse=0, **options):
    """A port whose NIC has all of it, or less; afterwards all its frames are free."""
    grant(rx, tx, timesync, not_ready, refuse)
    with pb.open(uri(driver, **{"stamp": 1, "launch": 1, **options})) as port:
        yield port
        umem = port.umem
    grant(0, 0, 0)
    assert free(umem)


def clock():
    NIC.nic_clock.restype = ctypes.c_uint64
    return NIC.nic_clock()


def counters():
    out = (ctypes.c_uint32 * len(COUNTERS))()
    NIC.nic_counters(out)
    return dict(zip(COUNTERS, out, strict=True))


def seen(way=None):
    """What the driver was given and gave since the last call."""
    out = np.zeros(65536, SEEN)
    found = out[: NIC.nic_take(ctypes.c_void_p(out.ctypes.data), len(out))]
    return found if way is None else found[found["way"] == way]


def send(where, numbers, flags=0, times=0, size=64):
    """Packets with these numbers in bytes 14 to 17; the first frame of each."""
    queue = where.queues[0] if isinstance(where, pb.Port) else where
    with queue.alloc_burst(len(numbers), size) as burst:
        for i, number in enumerate(numbers):
            burst.write(i, bytes(14) + number.to_bytes(4, "big") + bytes(size - 18))
        burst.desc["flags"] |= np.asarray(flags, dtype=np.uint16)
        burst.desc["ts_ns"] = times
        frames = burst.desc["addr"].copy()
        assert queue.tx_burst(burst) == len(numbers)
    return frames


def take(port, n):
    """Descriptors of n packets that came."""
    found = []
    while len(found) < n:
        with port.rx_burst(64) as burst:
            assert len(burst), "no packet"
            found += burst.desc.copy().tolist()
    names = _burst.DESC_DTYPE.names
    return [dict(zip(names, d, strict=True)) for d in found]


def lost(where):
    return where.stats()["tx_stamps_lost"]


def refused(port, flag):
    with port.alloc_burst(1, 64) as burst:
        burst.desc["flags"] = flag
        with pytest.raises(pb.PybypassError) as e:
            port.tx_burst(burst)
        assert e.value.code == "PB064"
        assert len(burst) == 1
