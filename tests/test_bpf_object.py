"""The compiled XDP programs: sections, maps and licence, read by pyelftools; no privilege needed."""

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
elffile = pytest.importorskip("elftools.elf.elffile", reason="needs pyelftools")

MAPS = {
    "pb_xsks", "pb_steer", "pb_ranges", "pb_conf", "pb_counters", "pb_rss", "pb_hash", "pb_acts", "pb_act_order", "pb_act_counts",
    "pb_seen",
}  # fmt: skip
KFUNCS = {"bpf_xdp_metadata_rx_hash", "bpf_xdp_metadata_rx_timestamp", "bpf_xdp_metadata_rx_vlan_tag"}
R_BPF_64_64 = 1


def shipped(name: str) -> Path | None:
    """The object in the installed package, if it is there."""
    spec = importlib.util.find_spec("pybypass")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "bpf" / name
        if path.exists():
            return path
    return None


@pytest.fixture(scope="module", params=["meta", "generic"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def elf(variant, tmp_path_factory):
    path = shipped(f"pb_xdp_{variant}.bpf.o")
    if path is None:
        if not shutil.which("clang"):
            pytest.skip("neither a built package nor clang")
        path = tmp_path_factory.mktemp("bpf") / f"{variant}.o"
        multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
        source = ROOT / f"csrc/bpf/pb_xdp_{variant}.bpf.c"
        subprocess.run(
            ["clang", "-O2", "-g", "-target", "bpf", f"-I{ROOT / 'csrc'}", f"-I/usr/include/{multiarch}",
             "-c", source, "-o", path],
            check=True,
        )  # fmt: skip
    with path.open("rb") as f:
        yield elffile.ELFFile(f)


def symbols(elf, section):
    """Names of the symbols defined in a section."""
    index = elf.get_section_index(section)
    return {s.name for s in elf.get_section_by_name(".symtab").iter_symbols() if s["st_shndx"] == index and s.name}


def test_machine_is_bpf(elf):
    assert elf["e_machine"] == "EM_BPF"
    assert elf.elfclass == 64
    assert elf.little_endian


def test_one_program_with_btf(elf, variant):
    assert elf.get_section_by_name("xdp").data_size > 0
    assert f"pb_xdp_{variant}" in symbols(elf, "xdp")
    # Global functions, which the verifier goes through once each; what every packet meets is inlined.
    functions = {name for name in symbols(elf, ".text") if not name.startswith("LBB")}
    assert functions == {"pb_act_of", "pb_spread"}
    for name in (".BTF", ".BTF.ext"):
        assert elf.get_section_by_name(name) is not None


def test_licence(elf):
    assert elf.get_section_by_name("license").data() == b"Dual BSD/GPL\0"


def test_maps(elf):
    """BTF-defined maps: their symbols lie in .maps, and BTF knows their names and value types."""
    assert symbols(elf, ".maps") == MAPS
    strings = set(elf.get_section_by_name(".BTF").data().split(b"\0"))
    for name in (*MAPS, "pb_steer_key", "pb_steer_value", "pb_steer_range", "pb_steer_conf", "pb_steer_counters", "pb_act"):
        assert name.encode() in strings
    for name in (".data", ".bss", ".rodata"):
        assert elf.get_section_by_name(name) is None, "a hidden map"


def test_every_map_is_used(elf):
    table = elf.get_section_by_name(".symtab")
    used = {
        table.get_symbol(r["r_info_sym"]).name
        for section in (".relxdp", ".rel.text")
        for r in elf.get_section_by_name(section).iter_relocations()
        if r["r_info_type"] == R_BPF_64_64
    }
    assert used >= MAPS


def test_only_the_device_bound_variant_calls_kfuncs(elf, variant):
    undefined = {
        s.name: s["st_info"]["bind"]
        for s in elf.get_section_by_name(".symtab").iter_symbols()
        if s["st_shndx"] == "SHN_UNDEF" and s.name
    }
    assert set(undefined) == (KFUNCS if variant == "meta" else set())
    assert set(undefined.values()) <= {"STB_WEAK"}, "a kernel without one of them still loads the program"
