"""A pair of which the second end is DPDK's: bound by our own command, opened as a dpdk: port, the first end the kernel's.

The kernel's end is a packet socket for frames and a namespace of its own for addresses.
"""

import contextlib
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pybypass as pb
from pybypass import devices, dpdk, nic
from pybypass.netns import NetNs

OPTIONS = {"vmxnet3": "tx_desc=512&rx_desc=512", "igb": "", "e1000e": "", "virtio_net": ""}
"""What a driver cannot be opened without: vmxnet3 has no more than 512 transmit descriptors by default here."""
DPDK_DRIVER = {"igb": "net_e1000_igb", "e1000e": "net_e1000_em", "vmxnet3": "net_vmxnet3", "virtio_net": "net_virtio"}
PCI_DRIVER = {"virtio_net": "virtio-pci"}
SIZES = (60, 61, 64, 127, 128, 300, 1023, 1024, 1025, 1500, 1514)
LINK_S, PASSES_S, QUIET_S = 20.0, 30.0, 2.0
ETHERTYPE = 0x88B5


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`pybypass ...`, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "pybypass", *words], text=True, capture_output=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@dataclass
class Card:
    """The pair, its second end bound to vfio-pci."""

    driver: str
    kernel: str
    """The interface at the other end."""
    ifname: str
    """What the bound end's interface was called."""
    address: str
    mac: str
    kernel_mac: str

    def uri(self, options: str = "") -> str:
        return f"dpdk:{self.address}?{'&'.join(filter(None, (OPTIONS[self.driver], options)))}"


def address_of(ifname: str) -> str:
    return next(a for a, on in devices.links().items() if any(link.ifname == ifname for link in on))


def interface_at(address: str) -> str:
    """The interface that the kernel's driver made of a device; there is no udev, so it has the kernel's own name."""
    deadline = time.monotonic() + PASSES_S
    while True:
        on = devices.links().get(address, ())
        if on:
            return on[0].ifname
        assert time.monotonic() < deadline, f"no interface came back at {address}"
        time.sleep(0.05)


def name_again(card: Card) -> None:
    """As guest/init.sh names it, up, with a carrier: for the tests of other back ends."""
    now = interface_at(card.address)
    if now != card.ifname:
        subprocess.run(["ip", "link", "set", now, "down", "name", card.ifname], check=True)
    Path(f"/proc/sys/net/ipv6/conf/{card.ifname}/disable_ipv6").write_text("1")
    subprocess.run(["ip", "link", "set", card.ifname, "up"], check=True)
    deadline = time.monotonic() + LINK_S
    while not nic.interface(card.ifname).carrier:
        assert time.monotonic() < deadline, f"{card.ifname} has no carrier"
        time.sleep(0.05)


def take(driver: str, pair: tuple[str, str]) -> Card:
    """Binds the second end to vfio-pci."""
    subprocess.run(["modprobe", "-a", "vfio_iommu_type1", "vfio-pci"], check=True)
    kernel, ifname = pair
    card = Card(
        driver=driver, kernel=kernel, ifname=ifname, address=address_of(ifname), mac=nic.interface(ifname).mac,
        kernel_mac=nic.interface(kernel).mac,
    )  # fmt: skip
    subprocess.run(["ip", "link", "set", ifname, "down"], check=True)
    done = command("bind", card.address, "vfio-pci", "--yes")
    assert done.returncode == 0, done.stderr
    return card


def give_back(card: Card) -> None:
    done = command("unbind", card.address, "--yes")
    assert done.returncode == 0, done.stderr
    name_again(card)


@contextlib.contextmanager
def opened(card: Card, options: str = "", *, wait: bool = True, **how):
    """The port, with huge pages and, if `wait`, when frames pass both ways."""
    dpdk.start(dpdk.EalOptions(huge="require"))
    with pb.open(card.uri(options), **how) as port:
        if wait:
            wait_link(port)
            with Wire(card) as wire:
                wire.wait_passing(port)
        yield port


def wait_link(port) -> dict:
    """igb's takes some seconds after each start."""
    deadline = time.monotonic() + LINK_S
    while not (link := port.link())["up"]:
        assert time.monotonic() < deadline, link
        time.sleep(0.05)
    return link


class Wire:
    """The kernel's end as a packet socket: whole frames, only those of ETHERTYPE."""

    def __init__(self, card: Card, ethertype: int = ETHERTYPE) -> None:
        self.card, self.ethertype = card, ethertype
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((card.kernel, ethertype))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def frame(self, number: int, size: int, *, to_dpdk: bool, dst: str = "") -> bytes:
        """Frame `number`: its number, then bytes that follow from it."""
        ends = (self.card.mac, self.card.kernel_mac)
        target, source = ends if to_dpdk else ends[::-1]
        head = bytes.fromhex((dst or target).replace(":", "") + source.replace(":", "")) + self.ethertype.to_bytes(2, "big")
        head += number.to_bytes(4, "big")
        return head + bytes((number * 7 + i) & 0xFF for i in range(size - len(head)))

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def receive(self, wait_s: float = 0.0) -> list[bytes]:
        """What waits; at most `wait_s` for the first one."""
        found = []
        while select.select([self.socket], [], [], 0 if found else wait_s)[0]:
            found.append(self.socket.recv(65536))
        return found

    def wait_passing(self, port) -> None:
        """Until a frame gets through each way."""
        deadline = time.monotonic() + PASSES_S
        there = back = False
        while not (there and back):
            assert time.monotonic() < deadline, f"no frame gets through: to DPDK {there}, back {back}"
            self.send(self.frame(0xFFFFFFFF, 60, to_dpdk=True))
            give(port, [self.frame(0xFFFFFFFF, 60, to_dpdk=False)])
            back = back or any(data[14:18] == b"\xff" * 4 for data in self.receive(0.1))
            there = there or any(data[14:18] == b"\xff" * 4 for data, _ in taken(port))
        quiet = time.monotonic() + 0.3
        while time.monotonic() < quiet:
            taken(port)
        self.receive()


def taken(port) -> list[tuple[bytes, dict]]:
    """What waits at the port: each packet's bytes, its frames joined, and the descriptor of its first frame."""
    found = []
    for queue in port.queues:
        with queue.rx_burst() as burst:
            for k, first in enumerate(burst.packets()["first"] if len(burst) else ()):
                desc = burst.desc[int(first)]
                found.append(
                    (burst.copy_packet(k).tobytes(), dict(zip(burst.desc.dtype.names, desc.tolist(), strict=True)))
                )
    return found


def give(port, frames, flags: int = 0) -> None:
    """All of them, however many the device takes at once."""
    queue = port.queues[0]
    deadline = time.monotonic() + PASSES_S
    for data in frames:
        with queue.alloc_burst(-(-len(data) // queue.frame_room)) as burst:
            burst.write_packet(0, data)
            if flags:
                burst.desc["flags"] |= flags
            while len(burst):
                queue.tx_burst(burst)
                assert time.monotonic() < deadline, "the device takes no more frames"


def to_port(port, wire: Wire, frames) -> list[tuple[bytes, dict]]:
    """Sends from the kernel's end; what the port got, until all are there or nothing has come for a while."""
    got: list[tuple[bytes, dict]] = []
    for start in range(0, len(frames), 16):
        for frame in frames[start : start + 16]:
            wire.send(frame)
        last = time.monotonic()
        while len(got) < min(start + 16, len(frames)) and time.monotonic() - last < QUIET_S:
            if new := taken(port):
                got += new
                last = time.monotonic()
    return got


def from_port(port, wire: Wire, frames) -> list[bytes]:
    got: list[bytes] = []
    for start in range(0, len(frames), 16):
        give(port, frames[start : start + 16])
        while len(got) < min(start + 16, len(frames)) and (new := wire.receive(QUIET_S)):
            got += new
    return got


@contextlib.contextmanager
def kernel_side(card: Card, *addresses: str):
    """The kernel's end in a namespace of its own, with addresses; afterwards where it was."""
    ns = NetNs()
    try:
        subprocess.run(["ip", "link", "set", card.kernel, "netns", f"/proc/self/fd/{ns.fd}"], check=True, pass_fds=[ns.fd])
        with ns:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            Path(f"/proc/sys/net/ipv6/conf/{card.kernel}/disable_ipv6").write_text("0")
            for address in addresses:
                words = ["nodad"] if ":" in address else []
                subprocess.run(["ip", "addr", "add", address, "dev", card.kernel, *words], check=True)
            subprocess.run(["ip", "link", "set", card.kernel, "up"], check=True)
        yield ns
    finally:
        with ns:
            subprocess.run(["ip", "link", "set", card.kernel, "netns", "1"], check=True)
        ns.close()
        Path(f"/proc/sys/net/ipv6/conf/{card.kernel}/disable_ipv6").write_text("1")
        subprocess.run(["ip", "link", "set", card.kernel, "up"], check=True)
        deadline = time.monotonic() + LINK_S
        while not nic.interface(card.kernel).carrier:
            assert time.monotonic() < deadline
            time.sleep(0.05)


class opened_here:
    """opened() with the kernel's end in a namespace: its packet socket is there."""

    def __init__(self, card, ns, options: str = "") -> None:
        self.ns, self.context = ns, opened(card, options, wait=False)
        self.card = card

    def __enter__(self):
        port = self.context.__enter__()
        try:
            wait_link(port)
            with self.ns:
                wire = Wire(self.card)
            with wire:
                wire.wait_passing(port)
        except BaseException as e:
            self.context.__exit__(type(e), e, e.__traceback__)
            raise
        return port

    def __exit__(self, *exc):
        return self.context.__exit__(*exc)


# ---- TCP ----


def echo(listener, total: int) -> None:
    peer, _ = listener.accept()
    with peer:
        left = total
        while left:
            data = peer.recv(65536)
            if not data:
                return
            peer.sendall(data)
            left -= len(data)


def echo_client(client, total: int) -> None:
    left = total
    while left:
        data = client.recv(65536)
        if not data:
            return
        client.sendall(data)
        left -= len(data)


def talk(connection, data: bytes) -> None:
    received, sent = b"", 0
    connection.settimeout(60)
    while len(received) < len(data):
        if sent < len(data):
            sent += connection.send(data[sent : sent + 4096])
        received += connection.recv(65536) if sent - len(received) > 16384 or sent == len(data) else b""
    assert received == data
    connection.close()
