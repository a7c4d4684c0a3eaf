"""Builds the C core as one shared library, the extensions that link it, and the XDP programs.

libpbcore.so is built first and lies in the package; each extension finds it by its rpath $ORIGIN. `_xsk` is built only
where pkg-config finds libxdp and libbpf, the XDP programs only where clang is too: the package works without them, and
`pybypass doctor` says what is missing. PB_NO_XDP=1 leaves both out. `_dpdk` is built where pkg-config finds libdpdk,
unless PB_NO_DPDK=1. An XDP program that clang refuses is left out too, and the
one of an earlier build with it; PB_STRICT=1 (`make build`) ends the build instead. PB_DEBUG=1 builds with frame and handle
accounting: give it a tree of its own (`make debug`), for objects are not told apart by it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools._distutils.ccompiler import CCompiler, new_compiler
from setuptools._distutils.sysconfig import customize_compiler
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LAYERS = ("base", "mem", "wire", "link", "net", "cc", "tcp", "udp", "path", "script", "sim", "app")
XSK_PREFIX, DPDK_PREFIX = "xsk", "dpdk"
CFLAGS = ["-std=c11", "-g", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wextra", "-Icsrc"]
# Debug information names the sources: not by where the checkout happens to lie.
CFLAGS.append(f"-ffile-prefix-map={ROOT}=.")
if "-O" not in os.environ.get("CFLAGS", ""):
    CFLAGS.append("-O3")
if os.environ.get("PB_DEBUG") == "1":
    CFLAGS.append("-DPB_DEBUG")
PLAIN = (
    "_mem", "_burst", "_port", "_convert", "_group", "_core", "_control", "_engine", "_wire", "_sys", "_measure", "_bench",
    "_script",
)  # fmt: skip


def core_sources() -> list[str]:
    """Every C file of the core: all layers, and the devices that need no library."""
    found = [p for layer in LAYERS for p in (ROOT / "csrc" / layer).glob("*.c")]
    found += [p for p in (ROOT / "csrc" / "dev").glob("*.c") if not p.name.startswith((XSK_PREFIX, DPDK_PREFIX))]
    return sorted(str(p.relative_to(ROOT)) for p in found)


def headers() -> list[str]:
    """Every header; they are installed for plug-ins."""
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h"))


def say(text: str) -> None:
    print(f"pybypass: {text}", file=sys.stderr)


def pkg_config(*names: str, off: str = "PB_NO_XDP") -> dict[str, list[str]] | None:
    """Flags of the libraries, or None where one is missing or the variable `off` is 1."""
    if os.environ.get(off) == "1":
        return None
    tool = shutil.which("pkg-config")
    if not tool or subprocess.run([tool, "--exists", *names], check=False).returncode:
        return None
    words = subprocess.check_output([tool, "--cflags", "--libs", *names], text=True).split()
    return {
        "include_dirs": [w[2:] for w in words if w.startswith("-I")],
        "library_dirs": [w[2:] for w in words if w.startswith("-L")],
        "libraries": [w[2:] for w in words if w.startswith("-l")],
    }


def extension(name: str, sources: list[str], **more: list[str]) -> Extension:
    return Extension(
        f"pybypass.{name}",
        [f"pybypass/{name}.pyx", *sources],
        include_dirs=["csrc", *more.get("include_dirs", [])],
        libraries=["pbcore", *more.get("libraries", [])],
        library_dirs=more.get("library_dirs", []),
        runtime_library_dirs=["$ORIGIN"],
        extra_compile_args=[*CFLAGS, "-Wno-unused-function", "-Wno-unused-parameter", *more.get("flags", [])],
        depends=headers(),
    )


def extensions() -> list[Extension]:
    found = [extension(n, []) for n in PLAIN if (ROOT / "pybypass" / f"{n}.pyx").exists()]
    flags = pkg_config("libxdp", "libbpf")
    if flags is None:
        say("building without AF_XDP: no libxdp, libbpf or pkg-config, or PB_NO_XDP=1")
    elif (ROOT / "pybypass" / "_xsk.pyx").exists():
        sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "dev").glob(f"{XSK_PREFIX}*.c"))
        found.append(extension("_xsk", sources, **flags))
    found += dpdk_extension()
    directives = {"language_level": 3, "binding": True, "embedsignature": True, "embedsignature.format": "python"}
    return cythonize(found, compiler_directives=directives, nthreads=0)


def dpdk_extension() -> list[Extension]:
    """`_dpdk` and the names that it has for things, where pkg-config finds libdpdk. Of its hundred libraries those that are
    called; drivers are loaded by DPDK."""
    flags = pkg_config("libdpdk", off="PB_NO_DPDK")
    if flags is None:
        say("building without DPDK: no libdpdk or pkg-config, or PB_NO_DPDK=1")
        return []
    sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "dev").glob(f"{DPDK_PREFIX}*.c"))
    flags["libraries"] = [f"rte_{name}" for name in ("eal", "ethdev", "mbuf", "mempool", "kvargs", "ring")]
    # DPDK's headers are written for the instruction set that it was built for, and use what it calls experimental.
    words = subprocess.check_output(["pkg-config", "--cflags-only-other", "libdpdk"], text=True).split()
    flags["flags"] = [*words, "-D_GNU_SOURCE", "-DALLOW_EXPERIMENTAL_API"]
    names = {"include_dirs": flags["include_dirs"], "flags": flags["flags"]}  # they call nothing of it
    return [extension("_dpdk", sources, **flags), extension("_dpdkrule", [], **names)]


def build_bpf(package: Path) -> None:
    """Compiles the XDP programs into the package; what lies there afterwards is of this build.

    An object of an earlier one would be loaded in place of what the sources say, and read memory by an old layout.
    """
    out = package / "bpf"
    out.mkdir(exist_ok=True)
    for old in out.glob("*.bpf.o"):
        old.unlink()
    clang = os.environ.get("CLANG") or shutil.which("clang")
    if not clang or pkg_config("libbpf") is None:
        say("building without the XDP programs: no clang, libbpf or pkg-config, or PB_NO_XDP=1")
        return
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    flags = ["-O2", "-g", "-Wall", "-target", "bpf", f"-I{ROOT / 'csrc'}", f"-I/usr/include/{multiarch}"]
    # Its debug information names the source: not by where the checkout happens to lie.
    flags.append(f"-ffile-prefix-map={ROOT}=.")
    refused = []
    for source in sorted((ROOT / "csrc" / "bpf").glob("*.bpf.c")):
        target = out / (source.name[: -len(".c")] + ".o")
        scratch = target.with_suffix(f".o.{os.getpid()}")
        code, text = output_of(clang, *flags, "-c", str(source), "-o", str(scratch))
        if text:
            print(text, file=sys.stderr)
        if code or not scratch.exists():
            scratch.unlink(missing_ok=True)
            refused.append(target.name)
        else:
            scratch.replace(target)
    if refused:
        version = output_of(clang, "--version")[1].partition("\n")[0] or "it does not say its version"
        text = f"without {', '.join(refused)}: {clang} ({version}) refused it; its words are above"
        if os.environ.get("PB_STRICT") == "1":
            raise SystemExit(f"pybypass: not building {text} (PB_STRICT=1)")
        say(f"building {text}")


def output_of(*argv: str) -> tuple[int, str]:
    """Exit status and what a command said, both streams; 127 and the reason when there is no such command."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    except OSError as e:
        return 127, str(e)
    return done.returncode, done.stdout.strip()


class Build(build_ext):
    """The core library and the XDP programs before the extensions."""

    def run(self) -> None:
        package = self.package_dir()
        self.build_core(package)
        build_bpf(package)
        self.library_dirs = [*(self.library_dirs or []), str(package)]
        super().run()
        self.install_headers(package)

    def build_extensions(self) -> None:
        self.parallel = self.parallel or os.cpu_count()
        super().build_extensions()

    def package_dir(self) -> Path:
        base = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        package = base / "pybypass"
        package.mkdir(parents=True, exist_ok=True)
        return package

    def build_core(self, package: Path) -> None:
        out = package / "libpbcore.so"
        sources = core_sources()
        newest = max(Path(ROOT / p).stat().st_mtime for p in [*sources, *headers(), "setup.py"])
        if not self.force and out.exists() and out.stat().st_mtime > newest:
            return
        compiler = self.core_compiler()
        options = [*CFLAGS, "-fPIC", "-fvisibility=hidden", "-pthread"]
        place = str(Path(self.build_temp) / "core")

        def compile_one(source: str) -> str:
            return compiler.compile([source], output_dir=place, extra_postargs=options)[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, sources))
        cc = os.environ.get("CC", sysconfig.get_config_var("CC") or "cc").split()
        scratch = out.with_suffix(f".so.{os.getpid()}")
        subprocess.check_call([*cc, "-shared", "-pthread", "-Wl,-soname,libpbcore.so", *objects, "-o", str(scratch)])
        scratch.replace(out)

    def core_compiler(self) -> CCompiler:
        compiler = new_compiler(verbose=False, force=True)
        customize_compiler(compiler)
        return compiler

    def install_headers(self, package: Path) -> None:
        if self.inplace or self.editable_mode:
            return
        for name in headers():
            target = package / "include" / Path(name).relative_to("csrc")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)


setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
