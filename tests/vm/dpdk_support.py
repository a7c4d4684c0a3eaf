"""A pair of which the second end is DPDK's: bound by our own command, opened as a dpdk: port, the first end the kernel's.

The kernel's end is a packet socket for frames and a namespace of its own for addresses.
"""

import contextlib
import json
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from traffic import LINK_S, echo, echo_back, talk, wait_carrier

import pybypass as pb
from pybypass import bind, devices, dpdk, nic
from pybypass.netns import NetNs

ALL = pytest.mark.parametrize("driver", ["igb", "e1000e", "vmxnet3", "virtio_net"])
OPTIONS = {"vmxnet3": "tx_desc=512&rx_desc=512", "igb": "", "e1000e": "", "virtio_net": ""}
"""What a driver cannot be opened without: vmxnet3 has no more than 512 transmit descriptors by default here."""
DPDK_DRIVER = {"igb": "net_e1000_igb", "e1000e": "net_e1000_em", "vmxnet3": "net_vmxnet3", "virtio_net": "net_virtio"}
PCI_DRIVER = {"virtio_net": "virtio-pci"}
SIZES = (60, 61, 64, 127, 128, 300, 1023, 1024, 1025, 1500, 1514)
PASSES_S, QUIET_S = 30.0, 2.0
ETHERTYPE = 0x88B5


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`pybypass ...`, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "pybypass", *words], text=True, capture_output=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@dataclass
class Card:
    """The pair, its second end bound to a driver of user space."""

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
    wait_carrier(card.ifname)


MODULES = {"vfio-pci": ("vfio_iommu_type1", "vfio-pci"), "uio_pci_generic": ("uio_pci_generic",)}


def look(driver: str, pair: tuple[str, str]) -> Card:
    """The pair, while the kernel has both ends."""
    kernel, ifname = pair
    return Card(
        driver=driver, kernel=kernel, ifname=ifname, address=address_of(ifname), mac=nic.interface(ifname).mac,
        kernel_mac=nic.interface(kernel).mac,
    )  # fmt: skip


def done_or_why(done: subprocess.CompletedProcess[str]) -> None:
    """What it said if it failed, and the kernel lately."""
    if done.returncode:
        log = subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout.splitlines()
        raise AssertionError("\n".join([done.stderr, *log[-15:]]))


def take(driver: str, pair: tuple[str, str], to: str = "vfio-pci") -> Card:
    """Binds the second end."""
    subprocess.run(["modprobe", "-a", *MODULES[to]], check=True)
    card = look(driver, pair)
    subprocess.run(["ip", "link", "set", card.ifname, "down"], check=True)
    done = command("bind", card.address, to, "--yes")
    done_or_why(done)
    return card


def give_back(card: Card) -> None:
    done_or_why(command("unbind", card.address, "--yes"))
    name_again(card)


def notes_of(to: str, iommu_type: str | None) -> list[str]:
    """What `pybypass bind` says besides."""
    if to == "vfio-pci":
        return []
    notes = [f"{to} protects no memory from the device; vfio-pci does"]
    if iommu_type:
        notes.append("the IOMMU translates for it: no dpdk: port opens on it this way (PB105), and with vfio-pci one does")
    return notes


def bound_and_back(driver: str, pair: tuple[str, str], to: str, check: Callable[[Card], None]) -> None:
    """`pybypass bind` refused, as a dry run, done and done again, then `check`, then `pybypass unbind`; frames pass as before."""
    card, kernel_driver = look(driver, pair), PCI_DRIVER.get(driver, driver)
    subprocess.run(["modprobe", "-a", *MODULES[to]], check=True)

    refused = command("bind", card.address, to, "--yes")
    assert refused.returncode == 1 and f"{card.ifname} is up" in refused.stderr and "PB096" in refused.stderr
    subprocess.run(["ip", "link", "set", card.ifname, "down"], check=True)
    said = command("bind", card.address, to)
    assert said.returncode == 0 and "nothing was done" in said.stdout
    at = f"/sys/bus/pci/devices/{card.address}"
    for step in (f"echo {to} > {at}/driver_override", f"echo {card.address} > {at}/driver/unbind"):
        assert step in said.stdout
    assert nic.interface(card.ifname).mac == card.mac and bind.recorded() == {}

    done = command("bind", card.address, to, "--yes")
    done_or_why(done)
    first, *notes = done.stdout.splitlines()
    assert first == f"{card.address}: {kernel_driver} -> {to}"
    assert notes == [f"note: {note}" for note in notes_of(to, devices.find(card.address).iommu_type)]
    assert Path(at, "driver").resolve().name == Path(at, "driver_override").read_text().strip() == to
    assert "nothing to do" in command("bind", card.address, to, "--yes").stdout
    (found,) = [d for d in json.loads(command("devices", "--json").stdout)["devices"] if d["address"] == card.address]
    assert (found["held_by"], found["driver"], found["links"]) == ("user", to, [])
    assert DPDK_DRIVER[driver] in [p["name"] for p in found["dpdk"]]
    assert bind.recorded() == {card.address: {"driver": kernel_driver, "override": None, "bound": to}}
    check(card)

    said = command("unbind", card.address)
    assert said.returncode == 0 and "nothing was done" in said.stdout
    assert Path(at, "driver").resolve().name == to
    back = json.loads(command("unbind", "--all", "--yes", "--json").stdout)
    assert [(d["address"], d["driver"]) for d in back["devices"]] == [(card.address, kernel_driver)]
    assert bind.recorded() == {} and Path(at, "driver_override").read_text().strip() == "(null)"
    assert devices.find(card.address).driver == kernel_driver
    assert nic.interface(interface_at(card.address)).mac == card.mac
    name_again(card)
    kernel_drivers_pass_frames(card)


class Cards:
    """cards(driver): its pair, the second end bound until the end."""

    def __init__(self, pairs: dict[str, tuple[str, str]], to: str = "vfio-pci") -> None:
        self.pairs, self.to = pairs, to
        self.bound: dict[str, Card] = {}

    def __call__(self, driver: str) -> Card:
        assert driver in self.pairs, f"this guest has {sorted(self.pairs)}"
        if driver not in self.bound:
            self.bound[driver] = take(driver, self.pairs[driver], self.to)
        return self.bound[driver]

    def forget(self, driver: str) -> None:
        """It was given back."""
        del self.bound[driver]

    def give_back(self) -> None:
        for card in self.bound.values():
            give_back(card)
        assert bind.recorded() == {}


def kernel_drivers_pass_frames(card: Card) -> None:
    """From one interface of the pair to the other, both the kernel's again."""
    deadline = time.monotonic() + PASSES_S
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


@contextlib.contextmanager
def opened(card: Card, options: str = "", *, wait: bool = True, ns: NetNs | None = None, **how):
    """The port, with huge pages and, if `wait`, when frames pass both ways. `ns`: where the kernel's end is."""
    dpdk.start(dpdk.EalOptions(huge="require"))
    with pb.open(card.uri(options), **how) as port:
        if wait:
            wait_link(port)
            with ns if ns is not None else contextlib.nullcontext():
                wire = Wire(card)
            with wire:
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


def in_portions(frames, send: Callable, receive: Callable) -> list:
    """Sends so many at once as wait nowhere too long; what was received, until all are there or nothing has come for a while."""
    got: list = []
    for start in range(0, len(frames), 16):
        send(frames[start : start + 16])
        last = time.monotonic()
        while len(got) < min(start + 16, len(frames)) and time.monotonic() - last < QUIET_S:
            if new := receive():
                got += new
                last = time.monotonic()
    return got


def to_port(port, wire: Wire, frames) -> list[tuple[bytes, dict]]:
    """Sends from the kernel's end; what the port got."""
    return in_portions(frames, lambda some: [wire.send(frame) for frame in some], lambda: taken(port))


def from_port(port, wire: Wire, frames) -> list[bytes]:
    """Sends from the port; what the kernel's end got."""
    return in_portions(frames, lambda some: give(port, some), lambda: wire.receive(QUIET_S))


@contextlib.contextmanager
def jumbo(card: Card, size: int):
    """The port with MTU 9000 and frames of `size` bytes, and the kernel's end with that MTU too."""
    subprocess.run(["ip", "link", "set", card.kernel, "mtu", "9000"], check=True)
    try:
        with opened(card, f"mtu=9000&frame={size}&segs=1&frames=8192") as port, Wire(card) as wire:
            yield port, wire
    finally:
        subprocess.run(["ip", "link", "set", card.kernel, "mtu", "1500"], check=True)


def cross(port, wire: Wire, sizes) -> None:
    """Packets of these sizes both ways, unchanged and in order."""
    there = [wire.frame(i, n, to_dpdk=True) for i, n in enumerate(sizes)]
    assert [data for data, _ in to_port(port, wire, there)] == there
    back = [wire.frame(i, n, to_dpdk=False) for i, n in enumerate(sizes)]
    assert from_port(port, wire, back) == back


def chains_cross(port, wire: Wire, step: int) -> None:
    """Packets of up to 9014 bytes as chains of frames."""
    cross(port, wire, [9014, 60, 1514, 9013, 4096, *range(61, 9000, step)])


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
        wait_carrier(card.kernel)


def both_roles(card: Card, version: int) -> None:
    """An engine over the port connects and listens: 100 kB there and back in both roles, unchanged."""
    ours, theirs, bits = ("10.9.0.1", "10.9.0.2", 24) if version == 4 else ("fd09::1", "fd09::2", 64)
    data = bytes(range(256)) * 400
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (
        kernel_side(card, f"{theirs}/{bits}") as ns,
        opened(card, ns=ns) as port,
        pb.Engine(port, ip=f"{ours}/{bits}") as engine,
    ):
        with ns:
            listener = socket.create_server((theirs, 7000), family=family)
        listener.settimeout(60)
        with beside(echo, listener, len(data)):
            talk(engine.connect((theirs, 7000), timeout=30), data)
        listener.close()

        passive = engine.listen(7001)
        with ns:
            client = socket.socket(family)
        client.settimeout(60)
        client.connect((ours, 7001))
        server = passive.accept(30)
        with beside(echo_back, client, len(data)):
            talk(server, data)
        client.close()
        passive.close()


@contextlib.contextmanager
def beside(call: Callable, *args):
    """In a thread meanwhile, which ends by itself then."""
    thread = threading.Thread(target=call, args=args)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()
