"""Opening DPDK ports: what the URI asks for, what the port granted, and errors that say what to do."""

from __future__ import annotations

import errno
import os
import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from . import _port, devices, dpdk
from ._mem import Umem
from ._port import Queue
from .dpdkport import DpdkPort
from .dpdkrss import types_of
from .errors import PybypassError
from .extmem import dma_hint
from .ports import Impairment, Uri, umem_for

__all__ = ["open_dpdk"]

_OURS = (
    "frames", "frame", "pages", "queues", "rx_desc", "tx_desc", "mtu", "promisc", "allmulti", "csum", "vlan_strip", "stamp",
    "launch", "segs", "rss", "rss_key",
)  # fmt: skip
_PCI = re.compile(r"([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$")
_STAGE_CODES = {
    "eal": "PB090", "config": "PB010", "probe": "PB092", "queues": "PB094", "rings": "PB094", "memory": "PB093",
    "mtu": "PB027", "dma": "PB104", "configure": "PB094", "setup": "PB094", "start": "PB094",
}  # fmt: skip
_RX = {"csum": ("ipv4_cksum", "udp_cksum", "tcp_cksum"), "vlan_strip": ("vlan_strip",), "stamp": ("timestamp",)}
_TX = {"csum": ("ipv4_cksum", "udp_cksum", "tcp_cksum"), "launch": ("send_on_timestamp",), "segs": ("multi_segs",)}
# vfio's container, which takes what DPDK itself has when the first device is opened.
_UNMAPPED = re.compile(r"DMA remapping.*error (\d+)")
_PATIENCE_S = 2.0
# What the kernel keeps free in a frame, or its ring's frame size, makes 2048 too small for an MTU of 1500.
_LARGE = ("net_af_xdp", "net_af_packet")
_KERNEL = (*_LARGE, "net_tap")
_MEANS = {
    ("rx_csum", True): "checksums of received packets are the NIC's: CSUM_GOOD is set and nobody sums again",
    ("rx_csum", False): "checksums of received packets are verified in software",
    ("tx_csum", True): "a descriptor may ask for CSUM_PARTIAL; engines sum by themselves while they copy",
    ("tx_csum", False): "checksums are made in software; CSUM_PARTIAL is refused (PB064)",
    ("rx_hash", True): "the NIC's hash is in the descriptor",
    ("rx_hash", False): "descriptors have no hash; with several queues the NIC may still spread by one",
    ("vlan_strip", True): "the tag is in the descriptor (VLAN), not in the frame",
    ("vlan_strip", False): "the tag stays in the frame",
    ("stamp", True): "ts_ns is the NIC's clock (ts_source hardware)",
    ("stamp", False): "ts_ns is CLOCK_MONOTONIC of the burst (ts_source user)",
    ("tx_stamp", True): "a descriptor may ask for TX_STAMP, one at a time: Queue.tx_timestamps()",
    ("tx_stamp", False): "TX_STAMP is refused (PB064)",
    ("launch", True): "LAUNCH sends at ts_ns of the clock that Port.clock() reads, in its unit",
    ("launch", False): "LAUNCH is refused (PB064)",
    ("segs", True): "packets may be sent from several frames (MORE), as mbuf chains",
    ("segs", False): "each packet is sent from one frame",
    ("scatter", True): "a packet may come in several frames (MORE), at most Queue.chain_max",
    ("scatter", False): "each packet comes in one frame",
    ("tso", False): "not used: engines cut segments themselves",
}  # fmt: skip


def _key_of(uri: Uri) -> bytes | None:
    text = uri.options.get("rss_key")
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise PybypassError.make("PB010", errno.EINVAL, f"rss_key={text[:90]!r}", hint="hexadecimal digits") from None


def _flag(uri: Uri, name: str, default: str = "0") -> bool:
    return uri.choice(name, default, "0", "1") == "1"


def _options(uri: Uri) -> dict[str, Any]:
    queues = uri.integer("queues", 1, 1, dpdk.module().QUEUES_MAX)
    stamp = _flag(uri, "stamp")
    return {
        "queues": queues, "rx_desc": uri.integer("rx_desc", 0, 0, 32768), "tx_desc": uri.integer("tx_desc", 0, 0, 32768),
        "mtu": uri.integer("mtu", 0, 0, 65535), "promiscuous": _flag(uri, "promisc"), "allmulticast": _flag(uri, "allmulti"),
        "rx_csum": _flag(uri, "csum", "1"), "tx_csum": _flag(uri, "csum", "1"), "vlan_strip": _flag(uri, "vlan_strip"),
        "rx_stamp": stamp, "timesync": stamp, "launch": _flag(uri, "launch"), "multi_segs": _flag(uri, "segs"),
        "rss": types_of(uri.options.get("rss", "all" if queues > 1 else "none")), "rss_key": _key_of(uri),
    }  # fmt: skip


def _devargs(uri: Uri) -> str:
    """The device and what its driver is told."""
    if "," in uri.name and not _PCI.match(uri.name.partition(",")[0]) and not uri.name.startswith("net_"):
        raise PybypassError.make("PB092", errno.EINVAL, uri.name)
    args = [f"{key}={value}" for key, value in uri.options.items() if key not in _OURS]
    if any("," in a for a in args):
        raise PybypassError.make("PB010", errno.EINVAL, f"{uri.name}: a comma in a driver's argument")
    return ",".join([uri.name, *args])


def _offloads(options: dict[str, Any], report: dict[str, Any], queue: Queue) -> dict[str, dict[str, Any]]:
    rx, tx = report["rx_offloads"], report["tx_offloads"]
    state = {
        "rx_csum": (options["rx_csum"], all(n in rx for n in _RX["csum"])),
        "tx_csum": (options["tx_csum"], bool(queue.tx_flags & _port.CSUM_PARTIAL)),
        "rx_hash": (bool(options["rss"]), "rss_hash" in rx),
        "vlan_strip": (options["vlan_strip"], "vlan_strip" in rx),
        "stamp": (options["rx_stamp"], "timestamp" in rx),
        "tx_stamp": (options["timesync"], bool(queue.tx_flags & _port.TX_STAMP)),
        "launch": (options["launch"], bool(queue.tx_flags & _port.LAUNCH)),
        "segs": (options["multi_segs"], "multi_segs" in tx),
        "scatter": (report["chain_max"] > 1, report["chain_max"] > 1),
        "tso": (False, False),
    }
    return {
        name: {"asked": asked, "granted": granted, "means": _MEANS[name, granted]}
        for name, (asked, granted) in state.items()
    }


def _package_of(device: str) -> str:
    """The Debian package of a virtual device's driver: net_af_xdp0 is in librte-net-af-xdp23 for DPDK 22.11."""
    year = re.search(r"DPDK (\d\d)\.", dpdk.info()["version"])
    driver = re.sub(r"\d+$", "", device.partition(",")[0]).replace("_", "-")
    return f"librte-{driver}{int(year[1]) + 1 if year else ''}"


def _error(e: OSError, words: list[str], devargs: str) -> PybypassError:
    stage, number = getattr(e, "stage", ""), e.errno or errno.EIO
    code = _STAGE_CODES.get(stage, "PB099")
    text, hint = e.strerror or "", ""
    device = devargs.partition(",")[0]
    if words and stage in ("eal", "probe", "configure", "setup", "start", "dma"):
        text += f" ({words[0]})"
    report = getattr(e, "report", {})
    # Most virtual drivers answer -1, which reads as EPERM, to whatever they do not like.
    refused = os.geteuid() != 0 or any("permi" in w.lower() for w in words)
    if stage == "probe" and number == errno.EPERM and not refused:
        number = errno.EINVAL
        text = text.replace(os.strerror(errno.EPERM), "the driver refuses its arguments")
    if stage == "probe" and (unmapped := next(filter(None, map(_UNMAPPED.search, words)), None)):
        stage, number, text = "dma", int(unmapped[1]), f"{device} ({unmapped[0]})"
        code = _STAGE_CODES[stage]
    elif stage == "probe" and os.geteuid() != 0 and device.startswith(_KERNEL):
        number = errno.EPERM
    if number in (errno.EPERM, errno.EACCES):
        code, hint = "PB025", "run as root; a driver of a kernel interface needs CAP_NET_ADMIN, and vfio-pci its group"
    elif stage == "probe" and number == errno.EBUSY:
        code, hint = "PB023", "this process has it open"
    elif stage == "probe" and number == errno.ETIMEDOUT and device.startswith("net_memif"):
        code = "PB107"
    elif stage == "probe" and device.startswith("net_memif") and any(os.strerror(errno.EADDRINUSE) in w for w in words):
        code, number = "PB106", errno.EADDRINUSE
        text = f"{devargs}: {os.strerror(number)}"
        # The driver leaves its device half made: one of that name cannot be made again.
        hint = "somebody listens there (/proc/net/unix): give another socket=, or role=client; and net_memif another number"
        if "socket-abstract=no" in devargs:
            hint = f"remove the file if nobody listens there; {hint}"
    elif stage == "probe" and any("Expecting 'PA' IOVA mode" in w for w in words):
        hint = (
            "cards on uio need physical addresses: root, huge pages (hugepages/setup.sh) and EalOptions(iova='pa'); "
            f"or, behind an IOMMU, `pybypass bind {device} vfio-pci`"
        )
    elif stage == "probe" and _PCI.match(device):
        hint = f"`pybypass devices` lists the NICs; `pybypass bind {device} vfio-pci` gives one to DPDK"
    elif stage == "probe" and any("failed to parse device" in w or "no driver" in w.lower() for w in words):
        hint = (
            f"no driver of that name is installed: apt-get install {_package_of(device)}" if device.startswith("net_")
            else f"interfaces of the kernel are xdp:{device}, or dpdk:net_af_xdp0?iface={device}"
        )  # fmt: skip
    elif stage == "memory" and report.get("frames_needed"):
        hint = f"open the port with frames={1 << (report['frames_needed'] - 1).bit_length()}, or fewer descriptors"
    elif stage == "dma":
        hint = dma_hint(number)
    elif stage == "mtu":
        hint = f"at most mtu={report.get('max_mtu', 1500)}, or frame=4096"
    elif stage == "setup" and any("will not fit in mbuf" in w for w in words):
        hint = "open the port with frame=4096"
    return PybypassError.make(code, number, text, hint=hint, detail={"report": report, "log": words})


def _open_once(native: Any, devargs: str, memory: Umem, options: dict[str, Any]) -> tuple[Any, list[Any]]:
    handle = native.open_port(devargs, memory.capsule(), **options)
    devices: list[Any] = []
    try:
        for q in range(options["queues"]):
            devices.append(handle.queue(q))
    except OSError:
        for device in devices:
            native.close_device(device)
        handle.close()
        raise
    return handle, devices


def _open_patiently(native: Any, devargs: str, memory: Umem, options: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A queue that was just closed is busy for a while in the kernel, which net_af_xdp takes for an error."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return _open_once(native, devargs, memory, options)
        except OSError as e:
            busy = getattr(e, "stage", "") == "setup" and devargs.startswith("net_af_xdp")
            if busy and time.monotonic() < until:
                dpdk.drain_log(quiet=True)
                time.sleep(0.01)
                continue
            raise _error(e, dpdk.drain_log(), devargs) from None


def _node_of(device: str) -> int | None:
    """The NUMA node of a PCI device, where the machine has several; its packets lie there."""
    address = device.partition(",")[0]
    if not _PCI.match(address) or not Path("/sys/devices/system/node/node1").exists():
        return None
    full = address if address.count(":") == 2 else f"0000:{address}"
    try:
        node = int(Path(f"/sys/bus/pci/devices/{full}/numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _behind_iommu(device: str) -> None:
    """PB105 for a card on uio whose IOMMU translates: it would be told physical addresses, which lead nowhere there."""
    if not _PCI.match(address := device.partition(",")[0]):
        return
    try:
        card = devices.find(address)
    except PybypassError:
        return  # DPDK says why not
    if card.driver in ("uio_pci_generic", "igb_uio") and card.iommu_type not in (None, "identity"):
        raise PybypassError.make(
            "PB105", errno.ENOTSUP, f"{card.address} is with {card.driver}, and its IOMMU group {card.iommu_group} translates",
            hint=f"`pybypass bind {card.address} vfio-pci`; or boot with iommu=pt, which lets every device reach all memory",
        )  # fmt: skip


def open_dpdk(
    text: str, uri: Uri, umem: Umem | None, netns: Any, rx: Impairment | None, tx: Impairment | None
) -> DpdkPort:
    """pybypass.open() for `dpdk:`."""
    native, options, devargs = dpdk.module(), _options(uri), _devargs(uri)
    queues = options["queues"]
    _behind_iommu(uri.name)
    if uri.name.startswith(_LARGE):
        uri.options.setdefault("frame", "4096")
    memory = umem_for(uri, umem, 4096 + 4096 * queues, dpdk=True, node=_node_of(uri.name))
    if not memory.dpdk:
        raise PybypassError.make("PB093", errno.EINVAL, "the Umem has no room for mbufs", hint="make it with Umem(dpdk=True)")
    dpdk.start()
    try:
        with netns if netns is not None else nullcontext():
            handle, devices = _open_patiently(native, devargs, memory, options)
    except ValueError as e:
        raise PybypassError.make("PB010", errno.EINVAL, f"{text!r}: {e}") from None
    dpdk.drain_log()
    opened = [_port.adopt(device, memory, "dpdk", impair_rx=rx, impair_tx=tx) for device in devices]
    report = dict(handle.report)
    report["offloads"] = _offloads(options, report, opened[0])
    for queue in opened:
        queue.report = report
    return DpdkPort(text, opened, memory, report, handle, netns)
