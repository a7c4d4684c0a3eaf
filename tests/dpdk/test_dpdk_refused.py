"""What DPDK ports cannot be or do: errors say what to do, and nothing is left behind."""

import pytest
from dpdk_frames import free, packets, send, uri

import pybypass as pb
from pybypass import lab

root = pytest.mark.root


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("dpdk:net_nosuch0", "PB092", "librte-net-nosuch"),
        ("dpdk:net_null90?bogus=1", "PB092", "refuses its arguments"),
        ("dpdk:net_pcap90?rx_pcap=/nonexistent", "PB092", "/nonexistent"),
        ("dpdk:ffff:12:00.0", "PB092", "pybypass devices"),
        ("dpdk:net_null91?queues=65", "PB010", "1 to 64"),
        ("dpdk:net_ring91?queues=17&frames=65536", "PB094", "16 for receiving"),
        ("dpdk:net_null92?queues=4&frames=2048", "PB093", "frames=8192"),
        ("dpdk:net_null93?frames=64", "PB093", "frames=2048"),
        ("dpdk:net_null94?mtu=65535", "PB027", "65535"),
        ("dpdk:net_null95?rss=banana", "PB010", "banana"),
        ("dpdk:net_null95?rss_key=xyz", "PB010", "hexadecimal"),
        ("dpdk:net_null95?csum=2", "PB010", "csum"),
        ("dpdk:net_null95?frame=3000", "PB010", "frame"),
        ("dpdk:", "PB010", "malformed"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(text, code, words):
    with pytest.raises(pb.PybypassError) as e:
        pb.open(text)
    assert e.value.code == code, str(e.value)
    assert words in str(e.value)
    assert e.value.hint


@root
def test_frames_too_small_for_a_drivers_headroom():
    with lab.veth() as pair:
        for driver, code in (("af_xdp", "PB027"), ("af_packet", "PB094")):
            with pytest.raises(pb.PybypassError) as e:
                pb.open(uri(driver, iface=pair.a.ifname, frame=2048), netns=pair.a.netns)
            assert e.value.code == code
            assert "frame=4096" in str(e.value)
        with pytest.raises(pb.PybypassError) as e:
            pb.open(uri("tap", iface="pbt0", mtu=9000), netns=pair.a.netns)
        assert e.value.code == "PB027"
        assert "1504" in e.value.hint
        with pytest.raises(pb.PybypassError) as e:
            pb.open(uri("af_xdp", iface="nosuch0"), netns=pair.a.netns)
        assert e.value.code == "PB092"
        assert "nosuch0" in str(e.value)


def test_memory_of_another_kind():
    with pytest.raises(pb.PybypassError) as e:
        pb.open(uri("null"), umem=pb.Umem(frames=4096))
    assert e.value.code == "PB093"
    assert "dpdk=True" in e.value.hint


@root
def test_xdp_on_memory_for_dpdk():
    with lab.veth() as pair, pytest.raises(pb.PybypassError) as e:
        pb.open(f"xdp:{pair.a.ifname}", netns=pair.a.netns, umem=pb.Umem(frames=4096, dpdk=True))
    assert "laid out for DPDK" in str(e.value)


def test_a_device_is_open_once():
    text = uri("ring")
    with pb.open(text):
        with pytest.raises(pb.PybypassError) as e:
            pb.open(text)
        assert e.value.code == "PB023"
    with pb.open(text):
        pass


def test_a_port_pulled_away():
    with pb.open(uri("ring")) as port:
        burst = port.alloc_burst(8, 64)
        send(port, packets(8, 64))
        port.remove()
        for call in (port.rx_burst, lambda: port.tx_burst(burst), port.xstats, port.stop, port.remove):
            with pytest.raises(pb.PybypassError) as e:
                call()
            assert e.value.code == "PB033"
        burst.release()
        umem = port.umem
    assert free(umem)
    with pytest.raises(pb.PybypassError) as e:
        port.xstats()
    assert e.value.code == "PB012"


def test_nothing_is_left_of_ports_that_did_not_open():
    umem = pb.Umem(frames=1024, dpdk=True)
    for text in ("dpdk:net_null96?queues=8", "dpdk:net_null96?bogus=1", "dpdk:net_null96?mtu=60000"):
        with pytest.raises(pb.PybypassError):
            pb.open(text, umem=umem)
        assert free(umem)
    with pb.open("dpdk:net_null96?rx_desc=128&tx_desc=128", umem=umem) as port, port.rx_burst(4) as burst:
        assert len(burst) == 4
    assert free(umem)
