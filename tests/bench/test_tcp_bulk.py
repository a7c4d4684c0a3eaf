"""One TCP flow over veth, out and in: our engine beside the kernel's sockets, the far end the kernel's in both."""

import pytest
from peers import cpus, machine_note

from pybypass import bench


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
                reverse=reverse, wait="block",
            )  # fmt: skip
            return bench.run(o).gbps

        return run

    found = rounds.run({"ours": flow("xdp"), "kernel": flow("kernel")})
    rounds.row(
        row, found["ours"], found["kernel"], "kernel TCP, offloads off", "Gbit/s", goal=None,
        note=f"MTU 1500, native copy on veth, far end kernel sockets; {machine_note()}",
    )  # fmt: skip
