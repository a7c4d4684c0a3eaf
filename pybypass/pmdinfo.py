"""DPDK's drivers (PMDs) as their shared libraries describe themselves: names, PCI ids, kernel modules, arguments.

Each library holds strings "PMD_INFO_STRING= {json}" in its read-only data, for DPDK's dpdk-pmdinfo.py; they are read from
the ELF files, without loading one or starting the EAL. The format is that of DPDK 16.07 to 24.11 (buildtools/pmdinfogen.py).
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import PybypassError

__all__ = ["ANY", "Pmd", "abi", "directory", "drivers", "read"]

ANY = 0xFFFF
"""Of a device or subsystem id: whichever (RTE_PCI_ANY_ID)."""
_INFO = re.compile(rb"PMD_INFO_STRING= ([^\0]*)\0")
_PLACES = ("usr/lib/*/dpdk/pmds-*", "usr/lib*/dpdk/pmds-*", "usr/local/lib/*/dpdk/pmds-*", "usr/local/lib*/dpdk/pmds-*")
# Buses whose devices are neither PCI functions nor made from arguments.
_OTHER_BUSES = ("bus_dpaa", "bus_fslmc", "bus_vmbus", "bus_ifpga", "bus_platform", "bus_cdx", "bus_uacce")


@dataclass(frozen=True, kw_only=True)
class Pmd:
    """A driver."""

    name: str
    """As DPDK knows it: net_e1000_igb."""
    library: str
    """The file's name: librte_net_e1000.so.23."""
    pci_ids: tuple[tuple[int, int, int, int], ...]
    """Vendor, device, subsystem vendor, subsystem device; ANY stands for all but a vendor."""
    kmods: tuple[str, ...]
    """The kernel drivers that the device may be bound to."""
    bifurcated: bool
    """The device stays with its kernel driver, whose modules are all needed (mlx5): nothing is bound."""
    params: str
    """Device arguments, in the driver's own notation."""
    virtual: bool
    """Made from arguments, not from hardware: dpdk:net_ring0."""

    def supports(self, vendor: int, device: int, sub_vendor: int = ANY, sub_device: int = ANY) -> bool:
        """Whether the driver takes a PCI device with these ids."""
        return any(
            v == vendor and d in (device, ANY) and sv in (sub_vendor, ANY) and sd in (sub_device, ANY)
            for v, d, sv, sd in self.pci_ids
        )


def _unreadable(text: str, number: int = errno.ENOENT) -> PybypassError:
    return PybypassError.make("PB098", number, text)


def _elf(path: Path) -> tuple[bytes, list[str]]:
    """The read-only data, and the libraries that it needs."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            data = b"".join(s.data() for s in elf.iter_sections() if s.name.startswith((".rodata", ".data")))
            dynamic = elf.get_section_by_name(".dynamic")
            needed = [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")] if dynamic is not None else []
    except OSError as e:
        raise _unreadable(f"{path.name}: {e.strerror}", e.errno or errno.EIO) from None
    except (ELFError, ValueError, KeyError, AttributeError) as e:
        raise _unreadable(f"{path.name} is no shared library that can be read: {e}", errno.ENOEXEC) from None
    return data, needed


def _described(text: bytes, path: Path, virtual: bool) -> Pmd:
    try:
        said = json.loads(text)
        words = str(said.get("kmod", "")).replace("*", " ")
        ids = tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in said.get("pci_ids", ()))
        kmods = tuple(word for word in re.split(r"[\s|&,()]+", words) if word)
        name, params = str(said["name"]), " ".join(str(said.get("params", "")).split())
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise _unreadable(f"{path.name}: its description makes no sense: {e!r}", errno.EBADMSG) from None
    return Pmd(
        name=name, library=path.name, pci_ids=ids, kmods=kmods, bifurcated="&" in words, params=params,
        virtual=virtual and not ids and not kmods and name.startswith("net_"),
    )  # fmt: skip


def read(path: Path) -> list[Pmd]:
    """The drivers in one library; [] in one without. PB098: no ELF file, or a description that makes no sense."""
    data, needed = _elf(path)
    virtual = any("bus_vdev" in n for n in needed) and not any(b in n for n in needed for b in _OTHER_BUSES)
    return [_described(text, path, virtual) for text in _INFO.findall(data)]


# ---- where they are ----


def abi() -> str | None:
    """The version of librte_eal that this package's extension was linked to ("23" for DPDK 22.11); None: it was not built."""
    for extension in sorted(Path(__file__).parent.glob("_dpdk*.so")):
        try:
            _, needed = _elf(extension)
        except PybypassError:
            continue
        for name in needed:
            if found := re.fullmatch(r"librte_eal\.so\.(\d+)", name):
                return found[1]
    return None


def _version(path: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", path.name)]


def directory(root: Path = Path("/")) -> Path:
    """Where DPDK looks for its drivers: of the version that this package is linked to, else of the newest. PB098: nowhere."""
    found = sorted({place.resolve() for pattern in _PLACES for place in root.glob(pattern) if place.is_dir()}, key=_version)
    if not found:
        raise _unreadable("no directory dpdk/pmds-* of a DPDK with shared libraries")
    version = abi()
    return next((place for place in reversed(found) if version and place.name.startswith(f"pmds-{version}.")), found[-1])


def _libraries(place: Path) -> Iterator[Path]:
    """Each once: librte_net_ring.so, .so.23 and .so.23.0 are one file."""
    chosen: dict[Path, Path] = {}
    for path in sorted(place.glob("librte_*.so*")):
        chosen.setdefault(path.resolve(), path)
    yield from chosen.values()


def drivers(place: Path | None = None, *, kinds: Sequence[str] = ("net",)) -> list[Pmd]:
    """The drivers of all libraries librte_KIND_*.so in `place` (default: directory()), by name.

    A library that cannot be read is left out, unless none can: PB098, which a missing directory is too.
    """
    place = directory() if place is None else place
    found: list[Pmd] = []
    bad: list[PybypassError] = []
    for path in _libraries(place):
        if path.name.split("_")[1] not in kinds:
            continue
        try:
            found += read(path)
        except PybypassError as e:
            bad.append(e)
    if not found:
        raise bad[0] if bad else _unreadable(f"no driver in {place}")
    return sorted(found, key=lambda p: (p.name, p.library))
