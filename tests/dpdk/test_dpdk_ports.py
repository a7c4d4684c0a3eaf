"""Ports on DPDK's virtual drivers: what is sent comes back, frames are conserved, errors say what to do."""

import contextlib
import itertools
import socket
import subprocess

import numpy as np
import pytest
from support import eventually

import pybypass as pb
from pybypass import dpdkport, lab

root = pytest.mark.root
NUMBER = itertools.count()


def uri(driver, **options):
    """A device of its own for each test."""
    words = "&".join(f"{k}={v}" for k, v in {"frames": 4096, **options}.items())
    return f"dpdk:net_{driver}{next(NUMBER)}?{words}"


def packets(n, size, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, dtype=np.uint8).tobytes() for _ in range(n)]


def send(port, payloads):
    burst = port.alloc_burst(len(payloads), max(map(len, payloads)))
    for i, data in enumerate(payloads):
        burst.write(i, data)
    with burst:
        return port.tx_burst(burst)


def receive(port, n, tries=2000):
    found = []
    for _ in range(tries):
        with port.rx_burst(64) as burst:
            found += [burst.view(i).tobytes() for i in range(len(burst))]
        if len(found) >= n:
            break
    return found


def free(umem):
    owners = umem.info()["owners"]
    return owners["free"] == umem.info()["frames"] == sum(owners.values())


# ---- one driver after the other ----


def test_null_gives_and_takes():
    with pb.open(uri("null", size=100)) as port:
        assert port.kind == "dpdk"
        assert port.mode == "dpdk net_null"
        with port.rx_burst(64) as burst:
            assert len(burst) == 64
            assert (burst.desc["len"] == 100).all()
            assert (burst.desc["off"] == 128).all(), "RTE_PKTMBUF_HEADROOM"
            assert (burst.desc["ts_source"] == 3).all()
            assert len(np.unique(burst.desc["addr"])) == 64
            assert port.tx_burst(burst) == 64
        stats = port.stats()
        assert (stats["rx_pkts"], stats["rx_bytes"], stats["tx_pkts"], stats["tx_bytes"]) == (64, 6400, 64, 6400)
        assert port.hardware_stats()["rx_pkts"] == 64
        assert port.xstats()["tx_good_packets"] == 64
        port.reset_stats()
        assert port.hardware_stats()["tx_pkts"] == 0
        umem = port.umem
    assert free(umem)


@pytest.mark.parametrize("size", [14, 60, 64, 1514, 1518])
def test_ring_brings_back_what_is_sent(size):
    with pb.open(uri("ring")) as port:
        sent = packets(64, size)
        assert send(port, sent) == 64
        assert receive(port, 64) == sent
        umem = port.umem
    assert free(umem)


def test_frames_go_round_and_round():
    """Many times more packets than frames, at all times as many as were sent."""
    with pb.open(uri("ring", frames=2048)) as port:
        for turn in range(200):
            sent = packets(64, 80, seed=turn)
            assert send(port, sent) == 64
            assert receive(port, 64) == sent
        stats = port.stats()
        assert stats["rx_pkts"] == stats["tx_pkts"] == 12800
        assert not stats["drops"]
        umem = port.umem
    assert free(umem)


def test_a_full_ring_leaves_the_rest_in_the_burst():
    with pb.open(uri("ring", frames=8192)) as port:
        total = 0
        while True:
            burst = port.alloc_burst(64, 60)
            n = port.tx_burst(burst)
            total += n
            if n < 64:
                assert len(burst) == 64 - n
                assert (burst.desc["len"] == 60).all()
                burst.release()
                break
            burst.release()
        assert 512 <= total < 8192
        assert len(receive(port, total)) == total
        umem = port.umem
    assert free(umem)


def test_packets_of_several_frames():
    with pb.open(uri("ring", mtu=9000, segs=1)) as port:
        queue = port.queues[0]
        if "multi_segs" not in port.report["tx_offloads"]:
            assert not port.report["offloads"]["segs"]["granted"]
            assert queue.chain_max == 6
        else:
            sent = packets(3, 9000)
            for data in sent:
                with port.alloc_burst(8) as burst:
                    used = burst.write_packet(0, data)
                    assert used > 1
                    burst.desc["len"][used:] = 60
                    assert port.tx_burst(burst) == 8
            found = []
            while True:
                with port.rx_burst(64) as burst:
                    if not len(burst):
                        break
                    found += [burst.copy_packet(i).tobytes() for i in range(len(burst.packets()))]
            assert [p for p in found if len(p) == 9000] == sent
        umem = port.umem
    assert free(umem)


def test_views_hold_frames():
    with pb.open(uri("ring")) as port:
        send(port, packets(4, 64))
        burst = port.rx_burst(64)
        view = burst.view(2)
        copy = view.tobytes()
        with pytest.raises(BufferError):
            burst.release()
        with pytest.raises(BufferError):
            port.tx_burst(burst)
        with pytest.raises(BufferError):
            port.close()
        for _ in range(50):
            send(port, packets(8, 64, seed=2))
            receive(port, 8)
        assert view.tobytes() == copy
        del view
        burst.release()
        umem = port.umem
    assert free(umem)


def test_bad_descriptors_are_refused_and_counted():
    with pb.open(uri("ring")) as port:
        with port.alloc_burst(4, 64) as burst:
            burst.desc["len"][1] = 5  # shorter than an Ethernet header
            assert port.tx_burst(burst) == 4
        assert port.stats()["drops"] == {"tx_bad": 1}
        with port.alloc_burst(2, 64) as burst:
            burst.desc["len"][0] = 1560  # longer than the MTU
            assert port.tx_burst(burst) == 2
        assert port.stats()["drops"] == {"tx_bad": 1, "too_long": 1}
        with port.alloc_burst(2, 64) as burst:
            burst.desc["flags"][0] = 2
            with pytest.raises(pb.PybypassError) as e:
                port.tx_burst(burst)
            assert e.value.code == "PB064"
        assert len(receive(port, 4)) == 4
        umem = port.umem
    assert free(umem)


def test_stop_and_start_again():
    with pb.open(uri("ring")) as port:
        assert send(port, packets(5, 64)) == 5
        port.stop()
        port.stop()
        with port.rx_burst() as burst:
            assert len(burst) == 0
        with port.alloc_burst(3, 64) as burst:
            assert port.tx_burst(burst) == 0
        port.start()
        port.start()
        assert send(port, packets(7, 64, seed=3)) == 7
        assert len(receive(port, 12)) == 12
        umem = port.umem
    assert free(umem)


def test_two_ports_of_one_memory_forward_without_a_copy():
    umem = pb.Umem(frames=4096, dpdk=True)
    with pb.open(uri("null"), umem=umem) as a, pb.open(uri("ring"), umem=umem) as b:
        with a.rx_burst(32) as burst:
            addresses = burst.desc["addr"].copy()
            assert b.tx_burst(burst) == 32
        with b.rx_burst(64) as burst:
            assert (burst.desc["addr"] == addresses).all()
        assert b.queues[0].umem is umem
    assert free(umem)


def test_pool_says_what_dpdk_has():
    with pb.open(uri("null", frames=4096)) as port:
        pool = port.pool()
        assert pool["frames"] == 4096
        assert pool["in_use"] == pool["recovered"] == 0
        with port.rx_burst(64):
            owners = port.umem.info()["owners"]
            assert owners["app"] == 64
            assert sum(owners.values()) == 4096


def test_pcap_reads_and_writes_files(tmp_path):
    from pybypass import pcap

    out = tmp_path / "out.pcap"
    sent = packets(20, 200)
    with pb.open(uri("pcap", tx_pcap=out, rx_pcap=_empty_pcap(tmp_path))) as port:
        assert send(port, sent) == 20
        assert pcap.__name__
    with pb.open(uri("pcap", rx_pcap=out, tx_pcap=tmp_path / "none.pcap")) as port:
        assert receive(port, 20) == sent
        umem = port.umem
    assert free(umem)


def offered(source, target):
    """Whether a first packet went: the client's end lends its frames when it looks for packets."""
    with target.rx_burst():
        return send(source, packets(1, 300, seed=5)) == 1


def test_receive_times_are_those_of_the_device(tmp_path):
    """net_pcap gives the times in its file."""
    path = tmp_path / "timed.pcap"
    records = b"".join(
        (1_700_000_000 + i).to_bytes(4, "little") + (i * 7).to_bytes(4, "little") + (60).to_bytes(4, "little") * 2 + bytes(60)
        for i in range(10)
    )
    path.write_bytes(_empty_pcap(tmp_path).read_bytes() + records)
    with pb.open(uri("pcap", rx_pcap=path, tx_pcap=tmp_path / "none.pcap")) as port, port.rx_burst(64) as burst:
        assert len(burst) == 10
        assert (burst.desc["ts_source"] == 1).all()
        assert burst.desc["ts_ns"].tolist() == [(1_700_000_000 + i) * 10**9 + i * 7000 for i in range(10)]


def _empty_pcap(directory):
    path = directory / "empty.pcap"
    path.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    return path


def test_memif_joins_two_ports(tmp_path):
    where = tmp_path / "m.sock"
    with (
        pb.open(uri("memif", role="server", socket=where, id=0)) as a,
        pb.open(uri("memif", role="client", socket=where, id=0)) as b,
    ):
        eventually(lambda: a.link()["up"] and b.link()["up"])
        for source, target in ((a, b), (b, a)):
            sent = packets(50, 300, seed=5)
            eventually(lambda source=source, target=target: offered(source, target))
            assert receive(target, 1, tries=200000) == sent[:1]
            assert send(source, sent) == 50
            assert receive(target, 50, tries=200000) == sent
        memories = a.umem, b.umem
    assert all(map(free, memories))


@root
@pytest.mark.parametrize("driver", ["af_packet", "af_xdp"])
def test_drivers_of_kernel_interfaces(driver):
    with lab.veth() as pair, pb.open(uri(driver, iface=pair.a.ifname, frames=8192), netns=pair.a.netns) as port:
        assert port.mac == pair.a.mac
        assert port.mtu == 1500
        with pair.b.netns, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as s:
            s.bind((pair.b.ifname, 0))
            s.settimeout(5)
            head = bytes.fromhex(pair.b.mac.replace(":", "") + pair.a.mac.replace(":", "")) + b"\x88\xb5"
            there = [head + p for p in packets(30, 1000)]
            assert send(port, there) == 30
            assert [s.recv(2000) for _ in there] == there
            back = [pair_mac(pair.a) + pair_mac(pair.b) + b"\x88\xb5" + p for p in packets(30, 1500, seed=9)]
            for data in back:
                s.send(data)
            found = [p for p in receive(port, 30, tries=100000) if p[12:14] == b"\x88\xb5"]
            assert found == back
        port.stop()
        port.start()
        umem = port.umem
        port.close()
        assert free(umem)
        with pb.open(uri(driver, iface=pair.a.ifname, frames=8192), netns=pair.a.netns) as again:
            assert again.link()["up"]


def pair_mac(side):
    return bytes.fromhex(side.mac.replace(":", ""))


@root
def test_tap_is_an_interface_of_the_kernel():
    with lab.veth() as pair, pb.open(uri("tap", iface="pbt0"), netns=pair.a.netns) as port:
        def ip(*words):
            run = pair.a.netns.popen(["ip", *words], stdout=subprocess.PIPE, text=True)
            return run.communicate()[0]

        assert "pbt0" in ip("link", "show", "pbt0")
        assert port.promiscuous is False
        port.promiscuous = True
        assert "PROMISC" in ip("link", "show", "pbt0")
        port.promiscuous = False
        port.allmulticast = True
        assert port.allmulticast
        port.set_mtu(1400)
        assert "mtu 1400" in ip("link", "show", "pbt0")
        assert (port.mtu, port.report["mtu"], port.queues[0].mtu) == (1400, 1400, 1400)
        assert port.report["offloads"]["tx_csum"]["granted"]
        assert port.report["offloads"]["tx_csum"]["means"].startswith("a descriptor may ask")
        assert port.rss_table is not None
        port.set_link(False)
        assert not port.link()["up"]
        port.set_link(True)
        for call in (port.clock, port.rx_time):
            with pytest.raises(pb.PybypassError) as e:
                call()
            assert e.value.code == "PB094"
        with pb.Engine(port, ip="10.9.9.1/24"):
            with pytest.raises(pb.PybypassError) as e:
                port.set_mtu(1300)
            assert e.value.code == "PB013"
            assert "mtu 1400" in ip("link", "show", "pbt0")


@root
@pytest.mark.parametrize("version", [4, 6])
def test_checksums_left_to_the_port(version):
    """A UDP packet whose sum holds only the pseudo header: the kernel gets it whole."""
    from pybypass._wire import internet_checksum

    ours, theirs = ("10.78.0.1", "10.78.0.2") if version == 4 else ("fd78::1", "fd78::2")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with lab.veth(ipv6=True) as pair, pb.open(uri("tap", iface="pbt0"), netns=pair.a.netns) as port:
        for words in (
            ["link", "set", "pbt0", "up"],
            ["addr", "add", f"{theirs}/{24 if version == 4 else 64}", "dev", "pbt0", *(["nodad"] * (version == 6))],
        ):
            assert pair.a.netns.popen(["ip", *words]).wait() == 0
        with pair.a.netns, socket.socket(family, socket.SOCK_DGRAM) as s:
            s.bind((theirs, 7000))
            s.settimeout(5)
            src, dst = socket.inet_pton(family, ours), socket.inet_pton(family, theirs)
            payload = b"sum me" * 30
            size = 8 + len(payload)
            udp = (5000).to_bytes(2, "big") + (7000).to_bytes(2, "big") + size.to_bytes(2, "big")
            partial = 0xFFFF ^ internet_checksum(src + dst + size.to_bytes(4, "big") + (17).to_bytes(4, "big"))
            if version == 4:
                ip = bytes([0x45, 0]) + (20 + size).to_bytes(2, "big") + bytes([0, 0, 0, 0, 64, 17, 0, 0]) + src + dst
                ip = ip[:10] + internet_checksum(ip).to_bytes(2, "big") + ip[12:]
            else:
                ip = bytes([0x60, 0, 0, 0]) + size.to_bytes(2, "big") + bytes([17, 64]) + src + dst
            mac = bytes.fromhex(port.mac.replace(":", ""))
            kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
            frame = mac + b"\2\0\0\0\0\1" + kind + ip + udp + partial.to_bytes(2, "big") + payload
            with port.alloc_burst(1, len(frame)) as burst:
                burst.write(0, frame)
                burst.desc["flags"] = 2  # CSUM_PARTIAL
                burst.desc["hash"] = (14 + len(ip)) | 6 << 16
                assert port.tx_burst(burst) == 1
            assert s.recv(1000) == payload
        umem = port.umem
    assert free(umem)


# ---- what cannot be ----


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


def test_rss_is_what_the_port_can_do():
    with pb.open(uri("null", queues=4, frames=32768)) as port:
        known = port.report["rss_known"]
        assert set(port.report["rss"]) == set(dpdkport.RSS_GROUPS["all"]) & set(known)
        if not known:
            with pytest.raises(pb.PybypassError) as e:
                port.set_rss(["l4"])
            assert e.value.code == "PB094"
        else:
            table = [i % 4 for i in range(port.report["rss_table_size"])]
            with contextlib.suppress(pb.PybypassError):
                port.set_rss_table(table)
                assert port.rss_table() == table
        for queue in port.queues:
            with queue.rx_burst(8) as burst:
                assert (burst.desc["queue"] == queue.index).all()
        with pytest.raises(pb.PybypassError):
            port.set_rss_table([9] * port.report["rss_table_size"])
