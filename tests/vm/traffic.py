"""Frames over a pair of ports, made to be told apart, and received until the last has come or nothing comes."""

import ipaddress
import struct
import time
from contextlib import contextmanager

import pybypass as pb
from pybypass import _wire, nic

ZEROCOPY, COPY, GENERIC = "native zero-copy", "native copy", "generic copy"
ETHERTYPE = b"\x88\xb5"  # IEEE 802 local experimental
PASSES_S = 20.0
QUIET_S = 2.0
LINK_S = 20.0


def zero_copy(ifname: str) -> bool:
    """Whether the driver says that it can: those of igb and virtio-net cannot in Linux 6.12."""
    return "xsk-zerocopy" in nic.xdp(ifname).features


def granted(ifname: str, mode: str) -> str:
    """What is granted where `mode` would be by a driver that can do zero copy."""
    return mode if mode != ZEROCOPY or zero_copy(ifname) else COPY


def set_anew(ifname: str, card: nic.Rss) -> None:
    """By way of another table: the kernel tells a driver nothing when the values are what it has already."""
    nic.set_rss(ifname, table=card.table[::-1])
    assert nic.set_rss(ifname, table=card.table, key=card.key) == card


def mac(port) -> bytes:
    return bytes.fromhex(port.mac.replace(":", ""))


def frame(a, b, number: int, size: int) -> bytes:
    """Frame `number` from a to b: its number, then bytes that follow from it."""
    head = mac(b) + mac(a) + ETHERTYPE + struct.pack("!I", number)
    return head + bytes((number * 7 + i) & 0xFF for i in range(size - len(head)))


def receive(port, others=()) -> list[tuple[bytes, dict]]:
    """What waits: the bytes and the descriptor of each frame. Drives the others too."""
    for other in others:
        other.rx_burst().release()
    found = []
    for queue in port.queues:
        with queue.rx_burst() as burst:
            desc = burst.desc.copy()
            found += [
                (bytes(burst.view(i)), dict(zip(desc.dtype.names, desc[i].tolist(), strict=True)))
                for i in range(len(burst))
            ]
    return found


def send(port, frames) -> None:
    """All of them, however many the device takes at once."""
    deadline = time.monotonic() + PASSES_S
    for start in range(0, len(frames), 32):
        with port.alloc_burst(len(frames[start : start + 32])) as burst:
            for i, data in enumerate(frames[start : start + 32]):
                burst.write(i, data)
            while len(burst):
                port.tx_burst(burst)
                assert time.monotonic() < deadline, "the device takes no more frames"


def wait_passing(a, b) -> None:
    """Until a frame gets from a to b: drivers take their link down while XDP goes in, and the emulation is slow."""
    deadline = time.monotonic() + PASSES_S
    while True:
        assert time.monotonic() < deadline, "no frame gets through"
        send(a, [frame(a, b, 0xFFFFFFFF, 60)])
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            if any(data[14:18] == b"\xff" * 4 for data, _ in receive(b, [a])):
                drain(b, a)
                return


def drain(*ports) -> None:
    """Until nothing comes any more."""
    quiet = time.monotonic() + 0.5
    while time.monotonic() < quiet:
        for port in ports:
            if receive(port):
                quiet = time.monotonic() + 0.5


def exchange(a, b, frames, others=()) -> list[tuple[bytes, dict]]:
    """Sends from a in portions; what b received, until all are there or nothing has come for a while."""
    got: list[tuple[bytes, dict]] = []
    for start in range(0, len(frames), 64):
        send(a, frames[start : start + 64])
        last = time.monotonic()
        while len(got) < min(start + 64, len(frames)) and time.monotonic() - last < QUIET_S:
            new = receive(b, [a, *others])
            if new:
                got += new
                last = time.monotonic()
    return got


@contextmanager
def ports(names, options: str):
    """Both ends, passing frames both ways; the second receives everything, and so does the first."""
    with pb.open(f"xdp:{names[0]}?steer=all&{options}") as a, pb.open(f"xdp:{names[1]}?steer=all&{options}") as b:
        wait_passing(a, b)
        wait_passing(b, a)
        yield a, b


def packet(a_mac: bytes, b_mac: bytes, src: str, dst: str, sport: int, dport: int, proto: str) -> bytes:
    """A UDP datagram or a TCP segment (RST, so that nobody answers) in IPv4 or IPv6, checksums right."""
    source, target = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    if proto == "udp":
        number, l4 = 17, struct.pack("!HHHH", sport, dport, 26, 0) + bytes(18)
    else:
        number, l4 = 6, struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 0x50, 4, 0, 0, 0) + bytes(6)
    pseudo = source.packed + target.packed + struct.pack("!II", len(l4), number)
    check = _wire.internet_checksum(pseudo + l4) or 0xFFFF
    at = 6 if proto == "udp" else 16
    l4 = l4[:at] + struct.pack("!H", check) + l4[at + 2 :]
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), 0, 0x4000, 64, number, 0) + source.packed + target.packed
        head = head[:10] + struct.pack("!H", _wire.internet_checksum(head)) + head[12:]
        return b_mac + a_mac + b"\x08\x00" + head + l4
    head = struct.pack("!IHBB", 0x60000000, len(l4), number, 64) + source.packed + target.packed
    return b_mac + a_mac + b"\x86\xdd" + head + l4


def wait_carrier(*ifnames: str) -> None:
    """Until each has one: drivers of cards take their time, and the emulation some more."""
    deadline = time.monotonic() + LINK_S
    for ifname in ifnames:
        while not nic.interface(ifname).carrier:
            assert time.monotonic() < deadline, f"{ifname} has no carrier"
            time.sleep(0.05)


# ---- TCP ----


def echo_back(peer, total: int) -> None:
    """Sends back what comes, until that was `total` bytes or the other end closes."""
    left = total
    while left:
        data = peer.recv(65536)
        if not data:
            return
        peer.sendall(data)
        left -= len(data)


def echo(listener, total: int) -> None:
    """echo_back() for the first that connects."""
    peer, _ = listener.accept()
    with peer:
        echo_back(peer, total)


def talk(connection, data: bytes) -> None:
    """All of it there and back by an echo, unchanged; then closes."""
    received, sent = b"", 0
    connection.settimeout(60)
    while len(received) < len(data):
        if sent < len(data):
            sent += connection.send(data[sent : sent + 4096])
        received += connection.recv(65536) if sent - len(received) > 16384 or sent == len(data) else b""
    assert received == data
    connection.close()
