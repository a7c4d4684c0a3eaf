"""Installing from the sources and from an sdist into an empty environment, with and without libxdp and clang."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREE = ("csrc", "pybypass", "hugepages", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "CHANGELOG.md",
        "README.md", "Makefile")  # fmt: skip
BUILT = shutil.ignore_patterns("*.so", "*.o", "_*.c", "__pycache__", "include", "*.egg-info")
WHEEL = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--no-index"]
USE = """
import pybypass as pb
with pb.open("mem:a?frames=1024&ring=64") as a, pb.open("mem:a?frames=1024&ring=64") as b:
    burst = a.alloc_burst(1, 60)
    assert a.tx_burst(burst) == 1
    burst.release()
    with b.rx_burst() as received:
        assert len(received) == 1
del a, b, burst, received
assert not any(pb.live_handles().values())
print(pb.__file__)
"""


def run(*argv: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs a command, its output in one."""
    cleared = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PB_DEBUG", "PB_NO_XDP", "PB_NO_DPDK", "PB_STRICT")}
    return subprocess.run(
        list(map(str, argv)), cwd=cwd, env={**cleared, **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip


def sh(*argv: object, cwd: Path, **environment: str) -> str:
    """Runs a command; its output is the reason when it fails."""
    result = run(*argv, cwd=cwd, **environment)
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the sources, with nothing built in it."""
    tree = tmp_path_factory.mktemp("install") / "sources"
    tree.mkdir()
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=BUILT)
        elif source.exists():
            shutil.copy2(source, tree / name)
    return tree


@pytest.fixture(scope="module")
def wheels(checkout, tmp_path_factory) -> dict[str, Path]:
    """The wheels by what was there when they were built: "full", "plain"."""
    out = tmp_path_factory.mktemp("wheels")
    build = WHEEL
    # The plain one from an sdist and without pkg-config and clang in PATH, as on a machine that has neither.
    hidden = out / "bin"
    hidden.mkdir()
    for tool in ("gcc", "cc", "as", "ld", "x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc", "env", "sh"):
        if found := shutil.which(tool):
            (hidden / tool).symlink_to(found)
    assert not {"clang", "pkg-config"} & set(os.listdir(hidden))
    sdist = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
    name = sh(sys.executable, "-c", sdist, cwd=checkout).splitlines()[-1]
    sh(*build, "-w", out / "plain", checkout / "dist" / name, cwd=out, PATH=str(hidden), CFLAGS="-O0")
    sh(*build, "-w", out / "full", checkout, cwd=out, CFLAGS="-O0")
    return {kind: next((out / kind).glob("*.whl")) for kind in ("full", "plain")}


def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def install(wheel: Path, where: Path) -> Path:
    """A new environment with the wheel and, by a .pth, what this one has of third parties."""
    venv.create(where, with_pip=False, symlinks=True)
    python = where / "bin" / "python"
    packages = Path(sh(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=where).strip())
    # Directories of this environment that are named in a .pth run no .pth of theirs: a development install is not seen.
    (packages / "third_parties.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    sh(sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=where)
    return python


def test_the_wheel_has_all(wheels):
    names = contents(wheels["full"])
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    wanted = {"pybypass/libpbcore.so", "pybypass/py.typed", "pybypass/_mem.pyi", "pybypass/_mem.pxd"}
    wanted |= {"pybypass/c/__init__.pxd", "pybypass/c/pool.pxd", f"pybypass/_mem{suffix}"}
    assert wanted <= names, wanted - names
    assert {f"pybypass/{p.name}" for p in (ROOT / "pybypass").glob("*.py")} <= names
    headers = {str(p.relative_to(ROOT / "csrc")) for p in (ROOT / "csrc").rglob("*.h")}
    assert {f"pybypass/include/{h}" for h in headers} <= names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert not [n for n in names if n.endswith((".c", ".pyx", ".cpp"))]


def test_what_is_found_at_build_time_decides_about_xdp_and_dpdk(wheels):
    full, plain = contents(wheels["full"]), contents(wheels["plain"])
    xdp = {n for n in full - plain if not n.endswith(".dist-info/RECORD")}
    assert not [n for n in plain if "/_xsk.cpython" in n or "/_dpdk.cpython" in n or n.endswith(".bpf.o")]
    if shutil.which("clang") and shutil.which("pkg-config"):
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        built = {f"pybypass/_xsk{suffix}", "pybypass/bpf/pb_xdp_generic.bpf.o", "pybypass/bpf/pb_xdp_meta.bpf.o"}
        if not subprocess.run(["pkg-config", "--exists", "libdpdk"], check=False).returncode:
            built |= {f"pybypass/_dpdk{suffix}", f"pybypass/_dpdkrule{suffix}"}
        assert xdp == built
    assert full >= plain


def test_nothing_names_the_directory_it_was_built_in(wheels, checkout):
    archive = zipfile.ZipFile(wheels["full"])
    named = [n for n in archive.namelist() if str(checkout).encode() in archive.read(n)]
    assert named == []


@pytest.mark.parametrize("kind", ["full", "plain"])
def test_installed_it_works_from_another_directory(wheels, tmp_path, kind):
    python = install(wheels[kind], tmp_path / "env")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert sh(python, "-c", USE, cwd=elsewhere).startswith(str(tmp_path / "env"))
    command = tmp_path / "env" / "bin" / "pybypass"
    found = {c["id"]: c for c in json.loads(sh(command, "doctor", "--json", cwd=elsewhere))["checks"]}
    if kind == "plain":
        assert found["libxdp"]["verdict"] == found["xdp_programs"]["verdict"] == "warn"
        assert found["main_job"]["value"] == "mem only"
        text = "import pybypass as pb\ntry:\n    pb.open('xdp:lo')\nexcept pb.PybypassError as e:\n    print(e.code)\n"
        assert sh(python, "-c", text, cwd=elsewhere) == "PB011\n"
    else:
        assert found["libxdp"]["verdict"] == "ok"
    assert found["core"]["verdict"] == "ok"


# Refuses one of the programs; the other is compiled by the real one.
FAKE_CLANG = """#!/bin/sh
case "$*" in
--version) echo "fake clang version 3.2.1" ;;
*pb_xdp_meta.bpf.c*) echo "pb_xdp_meta.bpf.c:7: error: no such kfunc here" >&2; exit 1 ;;
*) exec {clang} "$@" ;;
esac
"""


@pytest.mark.skipif(not shutil.which("clang") or not shutil.which("pkg-config"), reason="needs clang and pkg-config")
def test_a_program_that_clang_refuses_leaves_no_older_one_behind(wheels, checkout, tmp_path):
    """A user's build goes on without it and says which compiler said what; a developer's ends."""
    clang = tmp_path / "clang"
    clang.write_text(FAKE_CLANG.format(clang=shutil.which("clang")))
    clang.chmod(0o755)
    there = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CFLAGS": "-O0"}
    assert list((checkout / "build").glob("lib*/pybypass/bpf/pb_xdp_meta.bpf.o")), "the one of the full wheel"
    verbose = [word for word in WHEEL if word != "-q"]

    strict = run(*verbose, "-v", "-w", tmp_path / "strict", checkout, cwd=tmp_path, PB_STRICT="1", **there)
    assert strict.returncode and not list((tmp_path / "strict").glob("*"))
    refusal = f"without pb_xdp_meta.bpf.o: {clang} (fake clang version 3.2.1) refused it"
    assert f"pybypass: not building {refusal}" in strict.stdout

    said = sh(*verbose, "-v", "-w", tmp_path / "wheel", checkout, cwd=tmp_path, **there)
    assert "error: no such kfunc here" in said and f"pybypass: building {refusal}" in said
    wheel = next((tmp_path / "wheel").glob("*.whl"))
    full = contents(wheels["full"])
    assert contents(wheel) == full - {"pybypass/bpf/pb_xdp_meta.bpf.o"}

    install(wheel, tmp_path / "env")
    command = tmp_path / "env" / "bin" / "pybypass"
    found = {c["id"]: c for c in json.loads(sh(command, "doctor", "--json", cwd=tmp_path))["checks"]}["xdp_programs"]
    assert (found["verdict"], found["value"]) == ("warn", "pb_xdp_generic")
    assert "missing: pb_xdp_meta" in found["why"] and found["fix"]
