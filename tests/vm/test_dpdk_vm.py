"""DPDK's drivers of real cards, by vfio-pci behind an IOMMU, against the kernel's driver at the other end of the pair.

Bound and given back by `pybypass bind` and `unbind`. What the emulation cannot do is asserted as it is, so that a change shows.
"""

import errno
import ipaddress
import json
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from dpdk_support import (
    DPDK_DRIVER,
    PCI_DRIVER,
    QUIET_S,
    SIZES,
    Card,
    Wire,
    address_of,
    command,
    echo,
    echo_client,
    from_port,
    give_back,
    interface_at,
    kernel_side,
    name_again,
    opened,
    opened_here,
    take,
    taken,
    talk,
    to_port,
    wait_link,
)
from traffic import packet

import pybypass as pb
from pybypass import _burst, _wire, bind, devices, hugepages, nic

ALL = pytest.mark.parametrize("driver", ["igb", "e1000e", "vmxnet3", "virtio_net"])
MANY = pytest.mark.parametrize("driver", ["igb", "virtio_net"])
PTP = 0x88F7
MULTI_QUEUE = {"igb": (16, 16), "e1000e": (2, 2), "vmxnet3": (16, 8), "virtio_net": (2, 2)}
"""Receive and transmit queues; the number for vmxnet3 is the driver's, not the card's."""


@pytest.fixture(scope="module")
def cards(pairs):
    """card(driver): its pair, the second end with vfio-pci until the end of this module."""
    found = {}

    def card(driver):
        if driver not in found:
            found[driver] = take(driver, pairs[driver])
        return found[driver]

    card.forget = found.pop
    yield card
    for one in found.values():
        give_back(one)
    assert bind.recorded() == {}


@pytest.fixture
def card(driver, cards):
    return cards(driver)


@pytest.fixture(autouse=True)
def no_mapping_stays(caplog):
    """What DPDK says when memory that was mapped for a device's DMA cannot be unmapped, or is mapped again when it is gone."""
    yield
    said = [r.getMessage() for r in caplog.get_records("call") if "DMA" in r.getMessage()]
    assert said == []


# ---- binding ----


@ALL
def test_bound_by_our_command_and_back(pair, driver):
    """First of all, while the kernel has both ends."""
    kernel, ifname = pair
    address, mac = address_of(ifname), nic.interface(ifname).mac
    kernel_driver = PCI_DRIVER.get(driver, driver)
    subprocess.run(["modprobe", "-a", "vfio_iommu_type1", "vfio-pci"], check=True)

    refused = command("bind", address, "vfio-pci", "--yes")
    assert refused.returncode == 1 and f"{ifname} is up" in refused.stderr and "PB096" in refused.stderr
    subprocess.run(["ip", "link", "set", ifname, "down"], check=True)
    said = command("bind", address, "vfio-pci")
    assert said.returncode == 0 and "nothing was done" in said.stdout
    assert nic.interface(ifname).mac == mac and bind.recorded() == {}

    done = command("bind", address, "vfio-pci", "--yes")
    assert (done.returncode, done.stdout) == (0, f"{address}: {kernel_driver} -> vfio-pci\n"), done.stderr
    assert "nothing to do" in command("bind", address, "vfio-pci", "--yes").stdout
    (found,) = [d for d in devices.scan().devices if d.address == address]
    assert (found.held_by, found.driver, found.links) == ("user", "vfio-pci", ())
    assert found.iommu_group is not None and found.iommu_members == (address,)
    assert Path(f"/dev/vfio/{found.iommu_group}").exists()
    assert DPDK_DRIVER[driver] in [p.name for p in found.dpdk]
    assert bind.recorded() == {address: {"driver": kernel_driver, "override": None, "bound": "vfio-pci"}}

    back = command("unbind", "--all", "--yes", "--json")
    answer = json.loads(back.stdout)
    assert [(d["address"], d["driver"]) for d in answer["devices"]] == [(address, kernel_driver)]
    assert bind.recorded() == {} and devices.find(address).driver == kernel_driver
    now = interface_at(address)
    assert nic.interface(now).mac == mac
    if now != ifname:
        subprocess.run(["ip", "link", "set", now, "down", "name", ifname], check=True)
    subprocess.run(["ip", "link", "set", ifname, "up"], check=True)
    card = Card(driver=driver, kernel=kernel, ifname=ifname, address=address, mac=mac, kernel_mac=nic.interface(kernel).mac)
    kernel_drivers_pass_frames(card)


def kernel_drivers_pass_frames(card) -> None:
    """From one interface of the pair to the other, both the kernel's again."""
    deadline = time.monotonic() + 30
    with Wire(card) as wire, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(wire.ethertype)) as other:
        other.bind((card.ifname, wire.ethertype))
        other.settimeout(QUIET_S)
        sent = wire.frame(7, 200, to_dpdk=True)
        while True:
            wire.send(sent)
            try:
                assert other.recv(65536) == sent
                return
            except TimeoutError:
                assert time.monotonic() < deadline, "no frame gets through"


# ---- ports ----


@ALL
def test_a_port_and_what_it_reports(card, driver):
    with opened(card, "promisc=1") as port:
        r = port.report
        assert (r["driver"], r["device"], port.mode) == (DPDK_DRIVER[driver], card.address, f"dpdk {DPDK_DRIVER[driver]}")
        assert (r["mac"], port.mac, r["mtu"], r["numa_node"]) == (card.mac, card.mac, 1500, 1)
        assert (r["max_rx_queues"], r["max_tx_queues"]) == MULTI_QUEUE[driver]
        for way in ("rx", "tx"):
            low, high = r[f"{way}_desc_limits"]
            assert low <= r[f"{way}_desc"] <= high
            assert set(r[f"{way}_offloads"]) <= set(r[f"{way}_offloads_known"])
        assert r["min_mtu"] <= 1500 <= r["max_mtu"]
        assert (r["queues"], r["chain_max"], r["frame_room"] >= 1514) == (1, 1, True)
        assert r["filled"] <= r["rx_desc"] and port.pool()["frames"] >= r["frames_needed"]
        link = port.link()
        assert link["up"] and link["full_duplex"]
        assert link["speed_mbps"] == {"igb": 1000, "e1000e": 1000, "vmxnet3": 10000, "virtio_net": None}[driver]
        assert port.pool()["iova"] == "va"  # the IOMMU translates
        assert port.pool()["numa_node"] == port.umem.info()["node"] == 1  # as the device
        assert any(h.pid for h in hugepages.look().holders)


@ALL
def test_frames_cross_both_ways_unchanged(card, driver):
    with opened(card) as port, Wire(card) as wire:
        frames = [wire.frame(i, SIZES[i % len(SIZES)], to_dpdk=True) for i in range(1500)]  # more than the rings hold
        got = to_port(port, wire, frames)
        assert [data for data, _ in got] == frames
        back = [wire.frame(i, SIZES[i % len(SIZES)], to_dpdk=False) for i in range(1500)]
        assert from_port(port, wire, back) == back
        assert not any(port.stats()["drops"].values()), port.stats()


@pytest.mark.parametrize(("driver", "size"), [("igb", 2048), ("igb", 4096), ("e1000e", 2048)])
def test_mtu_9000(card, driver, size):
    """Packets of up to 9014 bytes as chains of frames, both ways."""
    subprocess.run(["ip", "link", "set", card.kernel, "mtu", "9000"], check=True)
    try:
        with opened(card, f"mtu=9000&frame={size}&segs=1&frames=8192") as port, Wire(card) as wire:
            assert port.report["mtu"] == 9000 and port.report["chain_max"] == -(-9018 // port.report["frame_room"]) > 1
            sizes = [9014, 60, 1514, 9013, 4096, *range(61, 9000, 301)]
            there = [wire.frame(i, n, to_dpdk=True) for i, n in enumerate(sizes)]
            assert [data for data, _ in to_port(port, wire, there)] == there
            back = [wire.frame(i, n, to_dpdk=False) for i, n in enumerate(sizes)]
            assert from_port(port, wire, back) == back
    finally:
        subprocess.run(["ip", "link", "set", card.kernel, "mtu", "1500"], check=True)


@pytest.mark.driver("vmxnet3")
def test_mtu_9000_of_the_emulated_vmxnet3(cards):
    """Chains are sent. Received is what fits one frame: the driver leaves maxNumRxSG at 0, which QEMU takes for 1 and hands the
    rest over as errors, which the driver counts."""
    card = cards("vmxnet3")
    subprocess.run(["ip", "link", "set", card.kernel, "mtu", "9000"], check=True)
    try:
        with opened(card, "mtu=9000&frame=2048&segs=1&frames=8192") as port, Wire(card) as wire:
            room = port.report["frame_room"]
            back = [wire.frame(i, n, to_dpdk=False) for i, n in enumerate((9014, 60, 1514, 9013, room, room + 1, 4096))]
            assert from_port(port, wire, back) == back
            before = port.xstats()["rx_errors"]
            there = [wire.frame(i, n, to_dpdk=True) for i, n in enumerate((60, room, room + 1, 1514, 9014, 61))]
            assert [data for data, _ in to_port(port, wire, there)] == [f for f in there if len(f) <= room]
            assert port.xstats()["rx_errors"] - before == 2
    finally:
        subprocess.run(["ip", "link", "set", card.kernel, "mtu", "1500"], check=True)


@ALL
def test_counters_of_the_card(card, driver):
    with opened(card) as port, Wire(card) as wire:
        before, extended = port.hardware_stats(), port.xstats()
        assert extended
        frames = [wire.frame(i, 300, to_dpdk=True) for i in range(64)]
        assert len(to_port(port, wire, frames)) == 64
        back = [wire.frame(i, 300, to_dpdk=False) for i in range(40)]
        assert len(from_port(port, wire, back)) == 40
        now = port.hardware_stats()
        assert now["rx_pkts"] - before["rx_pkts"] == 64
        assert now["tx_pkts"] - before["tx_pkts"] == 40
        assert now["rx_bytes"] - before["rx_bytes"] in (64 * 300, 64 * 304)  # with the CRC, or without
        good = "rx_good_packets"
        assert port.xstats()[good] - extended[good] == 64
        port.reset_stats()
        assert port.hardware_stats()["rx_pkts"] == 0 and port.xstats()[good] == 0


@ALL
def test_promiscuous(card, driver):
    foreign = "02:00:00:00:00:99"
    with opened(card) as port, Wire(card) as wire:
        for on in (False, True, False):
            port.promiscuous = on
            assert port.promiscuous is on
            time.sleep(0.05)
            frames = [wire.frame(i, 80, to_dpdk=True, dst=foreign) for i in range(8)]
            mine = [wire.frame(100 + i, 80, to_dpdk=True) for i in range(8)]
            got = [data for data, _ in to_port(port, wire, frames if on else mine)]
            assert got == (frames if on else mine)
            if not on:
                for data in frames:
                    wire.send(data)
                until = time.monotonic() + 0.3
                while time.monotonic() < until:
                    assert taken(port) == []


@ALL
def test_stop_and_start(card, driver):
    with opened(card) as port, Wire(card) as wire:
        port.stop()
        for i in range(8):
            wire.send(wire.frame(i, 80, to_dpdk=True))
        assert taken(port) == []
        port.start()
        wait_link(port)
        wire.wait_passing(port)
        frames = [wire.frame(i, 200, to_dpdk=True) for i in range(64)]
        assert [data for data, _ in to_port(port, wire, frames)] == frames


@ALL
def test_opened_again_and_again(card, driver):
    for _ in range(2):
        with opened(card) as port, Wire(card) as wire:
            frames = [wire.frame(i, 200, to_dpdk=True) for i in range(32)]
            assert [data for data, _ in to_port(port, wire, frames)] == frames
    with opened(card, wait=False), pytest.raises(pb.PybypassError) as caught:
        pb.open(card.uri())
    assert caught.value.errno == errno.EBUSY


@ALL
def test_what_a_card_does_not_have_is_refused(card, driver):
    queues = MULTI_QUEUE[driver][1] + 1
    for options, code in ((f"queues={queues}", "PB094"), ("mtu=40", "PB027"), ("frames=64", "PB093")):
        with pytest.raises(pb.PybypassError) as caught, opened(card, options, wait=False):
            pass
        assert caught.value.code == code, caught.value
        assert caught.value.hint
    with opened(card) as port:  # and the card is as good as before
        assert port.link()["up"]


# ---- link ----


@pytest.mark.driver("igb")
def test_link_set_down_has_no_effect_in_the_emulation(cards):
    """The driver powers the PHY down (igb's PMD, eth_igb_dev_set_link_down); QEMU's has no such state and stays up."""
    card = cards("igb")
    with opened(card) as port, Wire(card) as wire:
        port.set_link(False)
        time.sleep(1)
        assert port.link()["up"]
        port.set_link(True)
        wait_link(port)
        wire.wait_passing(port)


# ---- RSS ----


def flows(card, count: int):
    """TCP segments of IPv4 and IPv6 to the card's end: (bytes, IP version, what the hash is over: addresses, and ports)."""
    kernel, ours = (bytes.fromhex(m.replace(":", "")) for m in (card.kernel_mac, card.mac))
    for i in range(count):
        src, dst = (f"10.9.{i}.2", "10.9.0.1") if i % 2 else (f"fd09::{i + 2:x}", "fd09::1")
        sport, dport = 1000 + 37 * i, 80 + i
        data = packet(kernel, ours, src, dst, sport, dport, "tcp")
        family = socket.AF_INET if i % 2 else socket.AF_INET6
        addresses = socket.inet_pton(family, src) + socket.inet_pton(family, dst)
        yield data, 4 if i % 2 else 6, (addresses, struct.pack("!HH", sport, dport))


HASHED = {"igb": {(4, "ports"), (6, "addresses")}, "virtio_net": {(4, "ports"), (6, "ports")}}
"""What the hash of a TCP segment is over, by IP version: QEMU's igb does not know the bit that this driver sets for TCP over
IPv6, and takes the addresses alone."""
GIVES_HASH = {"igb": True, "virtio_net": False}
"""Whether the driver hands the hash over: virtio's does not, so there the queue alone tells."""


@MANY
def test_rss_key_table_and_hash(card, driver):
    """Written and read back, and every flow is where our Toeplitz hash and the table say."""
    with opened(card, "queues=2&rss=all") as port, Wire(card) as wire:
        key, types = port.rss()
        assert len(key) == port.report["rss_key_bytes"] == 40
        assert {"ipv4-tcp", "ipv6-tcp"} <= set(types)
        table = port.rss_table()
        assert len(table) == port.report["rss_table_size"] == 128 and set(table) == {0, 1}
        for new_key, new_table in ((bytes(range(1, 41)), table[::-1]), (bytes(range(101, 141)), [0, 0, 0, 1] * 32)):
            port.set_rss(types, key=new_key)
            port.set_rss_table(new_table)
            assert (port.rss()[0], port.rss_table()) == (new_key, new_table)
            wanted = {
                data: (version, _wire.toeplitz(new_key, words + ports), _wire.toeplitz(new_key, words))
                for data, version, (words, ports) in flows(card, 40)
            }
            got = to_port(port, wire, list(wanted))
            assert sorted(data for data, _ in got) == sorted(wanted)
            assert {desc["queue"] for _, desc in got} == {0, 1}
            seen = set()
            for data, desc in got:
                version, with_ports, addresses_only = wanted[data]
                assert (desc["hash_type"] != 0) is GIVES_HASH[driver]
                used = desc["hash"] if GIVES_HASH[driver] else with_ports
                over = {with_ports: "ports", addresses_only: "addresses"}.get(used, "other")
                seen.add((version, over, desc["queue"] == new_table[used % 128]))
            assert seen == {(version, over, True) for version, over in HASHED[driver]}
        with pytest.raises(pb.PybypassError) as caught:
            port.set_rss_table([0] * 7)
        assert caught.value.code == "PB094"
        # By addresses alone: what the port says of a flow follows what was set.
        assert set(port.set_rss(["ipv4", "ipv6"])) <= set(port.rss()[1])
        assert not any("tcp" in name for name in port.rss()[1])
        for data, desc in to_port(port, wire, [data for data, _, _ in flows(card, 40)]):
            v4 = data[12:14] == b"\x08\x00"
            src, dst = (data[26:30], data[30:34]) if v4 else (data[22:38], data[38:54])
            ports = struct.unpack("!HH", data[34:38] if v4 else data[54:58])
            remote, local = ((ipaddress.ip_address(a), p) for a, p in zip((src, dst), ports, strict=True))
            assert [port.reaches(q, remote, local) for q in port.queues] == [q == desc["queue"] for q in (0, 1)]


# ---- time ----


@pytest.mark.driver("igb")
def test_the_clock_of_the_card(cards):
    with opened(cards("igb"), "stamp=1") as port:
        assert port.report["timesync"] is True
        (first, unit), at = port.clock(), time.monotonic_ns()
        time.sleep(0.5)
        (second, _), later = port.clock(), time.monotonic_ns()
        assert unit == "nanoseconds"
        # The emulation's clock runs with the host's: in the same direction, at a rate that is not asserted.
        assert 0 < second - first < 100 * (later - at)


@pytest.mark.driver("igb")
def test_times_of_packets(cards):
    """Received: IEEE 1588 packets, of which the emulation stamps the first after each start; it then waits for a register
    that this driver does not read (RXSATRH), and goes on showing that time. Sent: none, for Debian's driver is built without
    (RTE_LIBRTE_IEEE1588), which the port finds out."""
    card = cards("igb")
    for _ in range(2):
        with opened(card, "stamp=1") as port, Wire(card, PTP) as wire:
            assert port.report["timesync"] is True
            assert port.report["offloads"]["tx_stamp"]["granted"] is False
            with port.queues[0].alloc_burst(1, length=60) as burst, pytest.raises(pb.PybypassError) as caught:
                burst.desc["flags"] |= _burst.TX_STAMP
                port.queues[0].tx_burst(burst)
            assert caught.value.code == "PB064"
            assert port.rx_time() is None, "no packet of IEEE 1588 has come"
            frame = wire.frame(1, 80, to_dpdk=True)
            sync = frame[:14] + bytes((0, 2, 0, 44)) + frame[18:]  # version 2, message type 0
            before = port.clock()[0]
            assert len(to_port(port, wire, [sync])) == 1
            after, stamp = port.clock()[0], port.rx_time()
            assert before < stamp < after
            assert len(to_port(port, wire, [sync])) == 1
            assert port.rx_time() == stamp


# ---- checksums ----


@ALL
@pytest.mark.parametrize("version", [4, 6])
def test_checksums_that_the_card_makes(card, driver, version):
    """The kernel's UDP socket at the other end hands over what it has verified."""
    ours, theirs = ("10.9.0.1", "10.9.0.2") if version == 4 else ("fd09::1", "fd09::2")
    with kernel_side(card, f"{theirs}/24" if version == 4 else f"{theirs}/64") as ns, opened_here(card, ns) as port:
        if not port.queues[0].tx_flags & _burst.CSUM_PARTIAL:
            assert port.report["offloads"]["tx_csum"]["granted"] is False
            pytest.fail("a driver without checksums: name it here")
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with ns:
            listener = socket.socket(family, socket.SOCK_DGRAM)
            listener.bind((theirs, 7000))
        listener.settimeout(10)
        a, b = (bytes.fromhex(m.replace(":", "")) for m in (card.mac, card.kernel_mac))
        queue = port.queues[0]
        l4 = 34 if version == 4 else 54
        for good in (True, False, True):
            data = bytearray(packet(a, b, ours, theirs, 5000, 7000, "udp"))
            pseudo = bytes(data[26:34] if version == 4 else data[22:54]) + struct.pack("!II", len(data) - l4, 17)
            partial = ~_wire.internet_checksum(pseudo) & 0xFFFF  # what a partial checksum starts from
            data[l4 + 6 : l4 + 8] = struct.pack("!H", partial if good else 0x1234)
            with queue.alloc_burst(1) as burst:
                burst.write(0, bytes(data))
                if good:
                    burst.desc["flags"] |= _burst.CSUM_PARTIAL
                    burst.desc["hash"] = 6 << 16 | l4
                assert queue.tx_burst(burst) == 1
            if good:
                assert listener.recv(100) == bytes(data[l4 + 8 :])
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.recv(100)  # the one with a wrong sum was not delivered
        listener.close()


# ---- TCP ----


@ALL
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_against_the_kernel(card, driver, version):
    """An engine over the driver connects and listens: 100 kB there and back in both roles, unchanged."""
    ours, theirs, bits = ("10.9.0.1", "10.9.0.2", 24) if version == 4 else ("fd09::1", "fd09::2", 64)
    data = bytes(range(256)) * 400
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with kernel_side(card, f"{theirs}/{bits}") as ns, opened_here(card, ns) as port:
        with pb.Engine(port, ip=f"{ours}/{bits}") as engine:
            with ns:
                listener = socket.create_server((theirs, 7000), family=family)
            listener.settimeout(60)
            thread = threading.Thread(target=echo, args=(listener, len(data)))
            thread.start()
            talk(engine.connect((theirs, 7000), timeout=30), data)
            thread.join(60)
            assert not thread.is_alive()
            listener.close()

            passive = engine.listen(7001)
            with ns:
                client = socket.socket(family)
            client.settimeout(60)
            client.connect((ours, 7001))
            server = passive.accept(30)
            thread = threading.Thread(target=echo_client, args=(client, len(data)))
            thread.start()
            talk(server, data)
            thread.join(60)
            assert not thread.is_alive()
            client.close()
            passive.close()


# ---- pulled away ----


@ALL
def test_a_port_pulled_away(card, driver, cards):
    """The kernel takes the device out, as unplugging does; it waits until user space has let it go."""
    at = Path("/sys/bus/pci/devices", card.address)
    with opened(card) as port:
        done = threading.Event()

        def pull():
            (at / "remove").write_text("1")
            done.set()

        thread = threading.Thread(target=pull)
        thread.start()
        deadline = time.monotonic() + 20
        with pytest.raises(pb.PybypassError) as caught:
            while True:
                taken(port)
                assert time.monotonic() < deadline, "nobody says that the device is going"
        assert (caught.value.code, caught.value.errno) == ("PB033", errno.ENODEV)
        assert not port.link()["up"]
        for call in (port.hardware_stats, port.xstats, port.clock, port.stop, port.start):
            with pytest.raises(pb.PybypassError) as caught:
                call()
            assert caught.value.code == "PB033"
        queue = port.queues[0]
        with queue.alloc_burst(1, length=60) as burst, pytest.raises(pb.PybypassError) as caught:
            queue.tx_burst(burst)
        assert caught.value.code == "PB033"
        assert not done.is_set() and at.exists()  # it waits for us
        port.close()
        thread.join(30)
        assert done.is_set() and not at.exists()
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(card.uri())
    assert caught.value.code == "PB092"
    # Plugged in again: the kernel's driver has it, whose record is that of before.
    Path("/sys/bus/pci/rescan").write_text("1")
    assert interface_at(card.address)
    assert command("unbind", card.address, "--yes").returncode == 0
    assert card.address not in bind.recorded()
    name_again(card)
    cards.forget(driver)
    again = cards(driver)
    with opened(again) as port, Wire(again) as wire:
        frames = [wire.frame(i, 200, to_dpdk=True) for i in range(32)]
        assert [data for data, _ in to_port(port, wire, frames)] == frames
