"""What DPDK's drivers of cards leave to the card: RSS, times, checksums. By vfio-pci, as in test_dpdk_vm.py."""

import ipaddress
import socket
import struct
import time

import pytest
from dpdk_support import ALL, Wire, kernel_side, opened, to_port
from traffic import packet

import pybypass as pb
from pybypass import _burst, _wire

MANY = pytest.mark.parametrize("driver", ["igb", "virtio_net"])
PTP = 0x88F7

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
    with kernel_side(card, f"{theirs}/24" if version == 4 else f"{theirs}/64") as ns, opened(card, ns=ns) as port:
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
