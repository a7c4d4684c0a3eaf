"""DPDK's virtual drivers one by one: files, memif, interfaces of the kernel, taps, and checksums that are left to them."""

import contextlib
import socket
import subprocess

import pytest
from dpdk_frames import free, packets, receive, send, uri
from support import eventually

import pybypass as pb
from pybypass import lab

root = pytest.mark.root


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
            s.settimeout(0.2)
            received = []

            def arrives():
                """The interface is new: what comes before the kernel has seen its carrier is dropped."""
                with port.alloc_burst(1, len(frame)) as burst:
                    burst.write(0, frame)
                    burst.desc["flags"] = 2  # CSUM_PARTIAL
                    burst.desc["hash"] = (14 + len(ip)) | 6 << 16
                    assert port.tx_burst(burst) == 1
                with contextlib.suppress(TimeoutError):
                    received.append(s.recv(1000))
                return received

            eventually(arrives)
            assert received == [payload]
        umem = port.umem
    assert free(umem)
