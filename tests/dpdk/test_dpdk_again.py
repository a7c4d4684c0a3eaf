"""Frames that an engine sends again while a driver has them (again.c): as chains of mbufs, one of them attached to the
frame's own; each reference comes back once, what arrives is what was sent, and no frame is lost at close."""

import ctypes
import subprocess
from pathlib import Path

import pytest
from dpdk_frames import NUMBER, free

import pybypass
import pybypass as pb
from pybypass import _dpdk

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("sent", "chained", "most", "received", "wrong", "extra", "held_at_close", "violations")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    out = tmp_path_factory.mktemp("again") / "again.so"
    package = Path(pybypass.__file__).parent
    debug = ["-DPB_DEBUG"] if pb.Umem(frames=64).info()["debug"] else []
    subprocess.run(
        ["gcc", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", *debug, "-o", out,
         Path(__file__).with_name("again.c"), f"-L{package}", "-lpbcore", f"-Wl,-rpath,{package}"],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(out))


def opened(frames=4096):
    """net_ring and its queue, which is the program's to close."""
    umem = pb.Umem(frames=frames, frame_bytes=4096, dpdk=True)
    handle = _dpdk.open_port(f"net_ring{next(NUMBER)}", umem.capsule())
    capsule = handle.queue(0)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return umem, handle, ctypes.c_void_p(pointer(capsule, b"pybypass.pb_dev.v1"))


def run(library, seed, rounds, burst, settle, frames=4096):
    """Opens net_ring, hands its queue to the program, which closes it, and looks at the frames."""
    umem, handle, dev = opened(frames)
    result = (ctypes.c_uint32 * len(FIELDS))()
    assert library.again_run(dev, ctypes.c_uint64(seed), rounds, burst, settle, result) == 0
    handle.close()
    assert free(umem), umem.info()
    assert umem.info()["violations"] == 0
    return dict(zip(FIELDS, result, strict=True))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_reference_comes_back(again, seed):
    r = run(again, seed, 3000, 8, 1)
    assert (r["wrong"], r["extra"], r["violations"], r["held_at_close"]) == (0, 0, 0, 0)
    assert r["received"] == r["sent"]
    assert r["chained"] > 1000 and r["most"] > 6


def test_bursts_longer_than_the_driver_takes(again):
    """A backlog is cut between packets, never inside of one: more than 64 descriptors at a time."""
    r = run(again, 4, 1500, 70, 1)
    assert (r["wrong"], r["extra"], r["held_at_close"]) == (0, 0, 0)
    assert r["received"] == r["sent"] > 5000 and r["chained"] > 1000


def test_close_with_what_the_driver_has(again):
    held = []
    for rounds in range(1, 40):
        r = run(again, rounds, rounds, 12, 0)
        assert (r["wrong"], r["extra"], r["violations"]) == (0, 0, 0), rounds
        held.append(r["held_at_close"])
    assert sum(n > 0 for n in held) > 20 and max(held) > 24


@pytest.mark.forbidden
def test_a_frame_that_is_out_is_not_sent_as_the_engines_own(again):
    """Its mbuf is not made anew under the reference that the driver has; it is given back when that comes."""
    umem, handle, dev = opened()
    refused, came, violations = (ctypes.c_uint32() for _ in range(3))
    back = again.again_lost_count(dev, ctypes.byref(refused), ctypes.byref(came), ctypes.byref(violations))
    handle.close()
    assert (back, refused.value, came.value) == (2, 1, 2)
    assert (violations.value > 0) == umem.info()["debug"]
    assert free(umem)
