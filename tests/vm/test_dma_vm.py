"""Memory of the application behind an IOMMU: sent by cards, and refused by the kernel, whose limits are made small for that."""

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dpdk_support import ALL, QUIET_S, Wire, opened

LIMIT = Path("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
MANY = pytest.mark.parametrize("driver", ["igb", "vmxnet3"])
UNPRIVILEGED = ("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock")
"""Without CAP_IPC_LOCK, which stands above the limit of locked memory."""
HELPERS = """
import json, mmap, re, resource, sys
import pybypass as pb
from pybypass import dpdk

def locked():
    return int(re.search(r"VmLck:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

def refused(call):
    try:
        call()
    except pb.PybypassError as e:
        return [e.code, e.errno, str(e), e.hint]
"""


def in_a_process(body: str, *prefix: str) -> list:
    """What a script prints as JSON on its last line: limits are of a process, or of the container that it opens."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", HELPERS + body], text=True, capture_output=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@ALL
def test_sent_by_the_card_unchanged(card, driver):
    """Pieces that begin anywhere, and some with a head in front where the card takes chains."""
    with mmap.mmap(-1, 1 << 20) as held, opened(card, "segs=1") as port, Wire(card) as wire:
        data = np.frombuffer(held, dtype=np.uint8)
        data[:] = np.random.default_rng(1).integers(0, 256, len(data), dtype=np.uint8)
        head = wire.frame(0, 60, to_dpdk=False)[:14]
        queue, umem = port.queues[0], port.umem
        with port.register(data) as external:
            offsets, lengths = np.arange(64) * 4099 + 1, 60 + np.arange(64) * 20
            for at in offsets:
                data[at : at + 14] = np.frombuffer(head, dtype=np.uint8)
            sent, got = 0, []
            while sent < 64:
                some = slice(sent, min(sent + 16, 64))
                sent += external.send(queue, offsets[some], lengths[some])
                while len(got) < sent and (new := wire.receive(QUIET_S)):
                    got += new
            assert got == [bytes(data[o : o + n]) for o, n in zip(offsets, lengths, strict=True)]
            with queue.alloc_burst(8, length=14) as heads:
                for i in range(8):
                    heads.write(i, head)
                assert external.send(queue, [100 * i for i in range(8)], [90] * 8, heads) == 8
            got = []
            while len(got) < 8 and (new := wire.receive(QUIET_S)):
                got += new
            assert got == [head + bytes(data[100 * i : 100 * i + 90]) for i in range(8)]
            port.stop()  # what the driver has at hand comes back
            assert external.in_flight == 0
        del data
    owners = umem.info()["owners"]
    assert owners["free"] == sum(owners.values())


@MANY
def test_more_than_the_process_may_lock(card, driver):
    """RLIMIT_MEMLOCK. The kernel counts what it pins; of memory that it refused nothing stays registered."""
    body = f"""
dpdk.start(dpdk.EalOptions(huge="require"))
with pb.open({card.uri()!r}) as port:
    before = locked()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (before + (1 << 20), resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]))
    big, small = mmap.mmap(-1, 16 << 20), mmap.mmap(-1, 64 << 10)
    errors = [refused(lambda: port.register(big)) for _ in range(2)]
    after = locked()
    with port.register(small) as external:
        sent = external.send(port.queues[0], [0], [60])
        during = locked()
        port.stop()
    end = locked()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.getrlimit(resource.RLIMIT_MEMLOCK)[1],) * 2)
    with port.register(big):
        pass
print(json.dumps([errors, after - before, during - before, end - before, sent]))
"""
    errors, after, during, end, sent = in_a_process(body, "prlimit", f"--memlock={1 << 30}:{1 << 30}", *UNPRIVILEGED)
    for code, number, text, hint in errors:
        assert (code, number) == ("PB104", 12), text
        assert card.address in text and "RLIMIT_MEMLOCK is " in hint and "KiB" in hint
    assert (after, during, end, sent) == (0, 64 << 10, 0, 1)


@MANY
def test_a_port_whose_frames_may_not_be_locked(card, driver):
    body = f"""
dpdk.start(dpdk.EalOptions(huge="require"))
print(json.dumps(refused(lambda: pb.open({card.uri()!r}))))
"""
    code, _, text, hint = in_a_process(body, "prlimit", f"--memlock={1 << 20}:{1 << 20}", *UNPRIVILEGED)
    assert code == "PB104", text
    assert "RLIMIT_MEMLOCK is 1024 KiB" in hint


@MANY
def test_more_mappings_than_the_container_takes(card, driver):
    """dma_entry_limit of vfio_iommu_type1, as it was when the process began."""
    body = f"""
dpdk.start(dpdk.EalOptions(huge="require"))
with pb.open({card.uri()!r}) as port:
    kept, error, pages = [], None, mmap.mmap(-1, 8192 * 200)
    view = memoryview(pages)
    while error is None and len(kept) < 200:
        piece = view[8192 * len(kept) : 8192 * len(kept) + 4096]
        error = refused(lambda: kept.append(port.register(piece)))
    had = len(kept)
    kept.pop(0).close()
    kept.append(port.register(piece))
    again = refused(lambda: port.register(view[4096:8192]))
    sent = [external.send(port.queues[0], [0], [60]) for external in kept]
    port.stop()
    for external in kept:
        external.close()
    with port.register(view[4096:8192]):
        pass
    del piece, view
print(json.dumps([had, error, again, sent]))
"""
    normal = LIMIT.read_text()
    LIMIT.write_text("60")
    try:
        had, error, again, sent = in_a_process(body)
    finally:
        LIMIT.write_text(normal)
    assert 0 < had < 60 and sent == [1] * had
    for code, number, text, hint in (error, again):
        assert (code, number) == ("PB104", 28), text
        assert str(LIMIT) in hint
