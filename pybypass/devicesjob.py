"""`pybypass devices`: what pybypass.devices.scan() finds, for people or as one line of JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .devices import Device, Found, Link

__all__ = ["add_parser", "run"]

SCHEMA = "pybypass.devices/1"


def _link(link: Link) -> str:
    state = "down" if not link.up else "up" if link.carrier else "up, no carrier"
    speed = f", {link.speed_mbps} Mbit/s" if link.speed_mbps else ""
    return f"{link.ifname} ({state}{speed}{', default route' if link.default_route else ''})"


def _device(d: Device, known: bool) -> Iterator[str]:
    yield f"{d.address}  {d.vendor} {d.name} [{d.vendor_id:04x}:{d.device_id:04x}]"
    override = f", only {d.override} may take it" if d.override else ""
    yield f"    driver    {d.driver or 'none'} ({d.held_by}){override}"
    if d.links:
        yield f"    interface {', '.join(map(_link, d.links))}"
    elif d.held_by == "kernel":
        yield "    interface none in this network namespace"
    yield f"    NUMA node {'not said' if d.numa_node is None else d.numa_node}"
    if d.iommu_group is None:
        yield "    IOMMU     none: vfio-pci needs its no-IOMMU mode, uio_pci_generic needs nothing"
    else:
        others = [m for m in d.iommu_members if m != d.address]
        yield f"    IOMMU     group {d.iommu_group}{f', with {chr(44).join(others)}' if others else ''}"
    if not known:
        return
    for pmd in d.dpdk:
        how = f"stays with {' '.join(pmd.kmods)}" if pmd.bifurcated else f"bind to {' or '.join(pmd.kmods) or 'nothing'}"
        yield f"    DPDK      {pmd.name} ({pmd.library}): {how}"
    if not d.dpdk:
        yield "    DPDK      no driver"


def lines(found: Found) -> Iterator[str]:
    """For people."""
    for d in found.devices:
        yield from _device(d, not found.dpdk_missing)
    if not found.devices:
        yield "no network card on the PCI bus"
    if found.dpdk_missing:
        yield f"DPDK's drivers are not known: {found.dpdk_missing}"
    else:
        yield f"virtual   {', '.join(p.name for p in found.virtual) or 'no driver'} (dpdk:NAME0?argument=value)"


def run(args: argparse.Namespace) -> int:
    from . import devices
    from .nicjob import plain

    found = devices.scan()
    if args.json:
        answer = plain(found)
        for device, original in zip(answer["devices"], found.devices, strict=True):
            device["held_by"] = original.held_by
            for pmd in device["dpdk"]:
                del pmd["pci_ids"]  # hundreds of numbers, of which the device is one
        for pmd in answer["virtual"]:
            del pmd["pci_ids"]
        print(json.dumps({"schema": SCHEMA, **answer}))
    else:
        print("\n".join(lines(found)))
    return 0


def add_parser(subparsers: Any) -> None:
    """Adds `devices` to the command line."""
    parser = subparsers.add_parser("devices", help="network cards: driver, node, link, and which DPDK driver supports them")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(run=run)
