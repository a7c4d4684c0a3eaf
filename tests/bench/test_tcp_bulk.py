"""One TCP flow over veth, out and in: our engine beside the kernel's sockets, the far end the kernel's in both."""

import pytest
from peers import cpus, machine_note

from pybypass import bench

SLICES = 10
MODES = {"xdp": "native copy", "kernel": "kernel sockets, block"}


@pytest.mark.parametrize(
    ("row", "reverse"),
    [
        pytest.param("tcp_bulk_out", False, marks=pytest.mark.rows("tcp_bulk_out")),
        pytest.param("tcp_bulk_in", True, marks=pytest.mark.rows("tcp_bulk_in")),
    ],
)
def test_one_flow(rounds, row, reverse):
    near, far = cpus()

    def flow(dev):
        def run():
            o = bench.Options(
                kind="tcp-stream", dev=f"{dev}:pba", peer="kernel:pbb", lab=True, seconds=0.6, cpu=near, peer_cpu=far,
                reverse=reverse, wait="block", slices=SLICES,
            )  # fmt: skip
            result = bench.run(o)
            assert result.mode == MODES[dev]
            assert result.peer == f"kernel:pbb ({MODES['kernel']})"
            assert result.bytes > 0
            assert not result.invalid()
            assert (result.cpu, result.peer_cpu) == (near, far)
            # The receiver's bytes: its slices hold all of them but what came after the sender's end.
            assert len(result.slices) == SLICES
            assert 0.9 * result.bytes < sum(s["bytes"] for s in result.slices) <= result.bytes
            return result.gbps

        return run

    found = rounds.run({"ours": flow("xdp"), "kernel": flow("kernel")})
    rounds.row(
        row, found["ours"], found["kernel"], "kernel TCP, offloads off", "Gbit/s", goal=None,
        note=f"MTU 1500, native copy on veth, far end kernel sockets; {machine_note()}",
    )  # fmt: skip
