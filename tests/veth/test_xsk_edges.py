"""Values at the edge of what fields hold, and nothing written when they are beyond."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import pybypass as pb
from pybypass import lab, nic
from pybypass.netns import NetNs

pytestmark = pytest.mark.root


def test_an_mtu_that_the_field_does_not_hold_is_the_largest_that_it_does():
    """lo has 65536 bytes: as 16 bits that would be 0."""
    netns = NetNs()
    try:
        with netns:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        assert nic.interface("lo", netns=netns).mtu == 65536
        with pb.open("xdp:lo?frame=4096&frames=1024&ring=64", netns=netns) as port:
            assert port.mtu == 65535
    finally:
        netns.close()


@pytest.mark.parametrize("off", [2048, 2049, 65535])
@pytest.mark.parametrize("where", [0, 1])
def test_a_packet_does_not_begin_behind_its_frame(off, where):
    """In its first frame or in a later one: neither memory nor a descriptor is touched."""
    with pb.open("mem:edge?frames=64") as port, port.alloc_burst(3) as burst:
        contents = [bytes([0xA0 + i]) * 1500 for i in range(3)]
        for i, data in enumerate(contents):
            burst.write(i, data)
        right = burst.desc["off"][where].item()
        burst.desc["off"][where] = off
        before = burst.desc.copy()
        with pytest.raises(ValueError, match=f"begins behind its frame: off {off}"):
            burst.write_packet(0, b"\x55" * (3000 if where else 10))
        assert np.array_equal(burst.desc, before)
        burst.desc["off"][where] = right
        assert [bytes(burst.payload(i)) for i in range(3)] == contents


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_programs_stay_far_below_what_the_verifier_takes(mode):
    """A million steps are the limit, and other kernels and compilers need more: what it took stands in fdinfo (Linux 5.16)."""
    with lab.veth() as v, pb.open(f"xdp:{v.a.ifname}?mode={mode}", netns=v.a.netns):
        texts = [path.read_text() for path in Path("/proc/self/fdinfo").iterdir() if path.exists()]
    steps = [int(n) for text in texts for n in re.findall(r"^prog_type:\t6\n(?:.*\n)*?verified_insns:\t(\d+)$", text, re.M)]
    assert len(steps) == 1
    assert 2000 < steps[0] < 150_000
