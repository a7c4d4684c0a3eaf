"""Frame pools: what is asked for, what is granted, and their errors."""

import gc

import pytest

import pybypass as pb


def test_info_says_what_was_granted():
    umem = pb.Umem(frames=128, frame_bytes=4096, pages="4k")
    info = umem.info()
    assert (info["frames"], info["frame_bytes"], info["pages"]) == (128, 4096, "4k")
    assert info["region_bytes"] == 128 * 4096
    assert info["owners"] == {"free": 128, "fill": 0, "rx": 0, "app": 0, "engine": 0, "tx": 0}
    assert "128 frames of 4096" in repr(umem)


def test_best_pages_falls_back():
    assert pb.Umem(frames=64).info()["pages"] in ("hugetlb", "thp", "4k")


@pytest.mark.parametrize(
    "bad",
    [
        {"frames": 63},
        {"frames": 1 << 23},
        {"frame_bytes": 1000},
        {"pages": "large"},
        {"frames": -1},
        {"frames": 10**14},
        {"frame_bytes": 1 << 40},
        {"frames": 64.5},
    ],
)
def test_out_of_range(bad):
    with pytest.raises(ValueError):
        pb.Umem(**bad)
    assert pb.live_handles()["pool"] == 0


def test_no_reserved_huge_pages_is_a_typed_error():
    # 32 GiB of them: more than the machine has.
    with pytest.raises(pb.PybypassError) as caught:
        pb.Umem(frames=1 << 22, frame_bytes=4096, pages="hugetlb")
    assert caught.value.code == "PB002"
    assert "hugepages" in caught.value.hint


def test_lives_as_long_as_its_port_and_no_longer():
    port = pb.open("mem:umem-life?frames=64&ring=16")
    del port
    gc.collect()
    assert pb.live_handles() == dict.fromkeys(pb.live_handles(), 0)


def test_drop_reasons_are_explained():
    reasons = pb.drop_reasons()
    assert reasons["tcp_csum"] == "TCP checksum wrong"
    assert all(reasons.values())
    assert len(reasons) > 30


def test_memory_of_a_numa_node():
    umem = pb.Umem(frames=64, node=0)
    assert umem.info()["node"] in (0, None)  # None: a kernel without NUMA
    for wrong in (-1, 1023, 5000):
        with pytest.raises(ValueError):
            pb.Umem(frames=64, node=wrong)
    assert pb.Umem(frames=64).info()["lead"] == 0
    assert pb.Umem(frames=64, dpdk=True).info()["lead"] == 192
