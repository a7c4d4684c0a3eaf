#!/usr/bin/env python3
"""Checks the layers: what may include or import what, and what the pure layers must not contain.

Usage: tools/layers.py [DIRECTORY]

Prints `file:line: what` for each finding, and exits with 1 when there is one.
"""

import ast
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Bottom to top; those of one row do not know each other.
ROWS: tuple[tuple[str, ...], ...] = (
    ("base",), ("mem",), ("wire",), ("link",), ("dev",), ("net",), ("cc",), ("tcp", "udp"), ("path", "script"), ("sim",),
    ("app",),
)  # fmt: skip
RANK = {layer: rank for rank, row in enumerate(ROWS) for layer in row}
# Programs of the kernel: compiled apart, they share one header with the device that loads them.
BPF = "bpf"

# No system call, no clock, no mutable global, integers only.
PURE = frozenset({"tcp", "udp", "cc", "link", "sim", "script"})
PURE_HEADERS = frozenset(
    {"errno.h", "inttypes.h", "limits.h", "stdbool.h", "stddef.h", "stdint.h", "stdlib.h", "string.h"}
)
PURE_CALLS = re.compile(
    r"\b(s?rand(?:om)?|rand_r|getenv|system|clock(?:_\w+)?|time|gettimeofday|nanosleep|usleep|syscall|__rdtsc\w*"
    r"|__builtin_ia32_rdtsc\w*|pthread_\w+|atexit)\s*\("
)
FLOATS = re.compile(
    r"\b(?:float|double|_Float\w+|__float128)\b|\b\d+\.\d*(?:[eE][+-]?\d+)?[fFlL]?\b|\b\d+[eE][+-]?\d+\b"
)
LIBRARY_CALLS = re.compile(r"\b(v?printf|puts|putchar|perror|abort|_?exit|quick_exit|assert)\s*\(")

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
FOREIGN = frozenset({"scapy"})


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def code_of(text: str) -> str:
    """C without comments, string and character literals; lines stay where they are."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.DOTALL)


def line_at(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


# ---- C: includes ----


def may_include(path: str, layer: str, target: str) -> str | None:
    """Why `path` in `layer` may not include "target", or None."""
    other = target.split("/")[0] if "/" in target else layer
    if BPF in (layer, other):
        if layer == other or (layer == BPF and target.startswith("dev/xsk")):
            return None
        return f"{layer} may not include {target}: the XDP programs are compiled apart"
    if other not in RANK:
        return f"{target} is in no layer"
    if layer == "dev" and other == "dev" and "/xsk" in target and not Path(path).name.startswith("xsk"):
        return f"{target} belongs to a back end of its own"
    if other == layer or RANK[other] < RANK[layer]:
        return None
    return f"{layer} may not include {target}: it is {'above' if RANK[other] > RANK[layer] else 'beside'}"


def check_includes(path: str, layer: str, text: str) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        ours, system = found.groups()
        if ours:
            why = may_include(path, layer, ours)
            if why:
                yield Finding(path, number, why)
        elif layer in PURE and system not in PURE_HEADERS:
            yield Finding(
                path, number, f"{layer} may not include <{system}>: no system call, clock, thread or libm there"
            )


# ---- C: globals ----


@dataclass(frozen=True)
class Piece:
    """One declaration or definition outside of functions: its text without what is in braces, and those bodies."""

    offset: int
    text: str
    bodies: tuple[tuple[int, str], ...]
    is_function: bool


def pieces(code: str) -> Iterator[Piece]:
    """Cuts C at the top level; preprocessor lines are left out."""
    code = re.sub(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", blank, code, flags=re.MULTILINE)
    depth, start, head, bodies, opened = 0, 0, "", [], 0
    for i, char in enumerate(code):
        if char == "{":
            if depth == 0:
                opened = i + 1
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                bodies.append((opened, code[opened:i]))
                function = "=" not in head and head.rstrip().endswith(")") and "(" in head
                if function:
                    yield Piece(start, head, tuple(bodies), True)
                    start, head, bodies = i + 1, "", []
                else:
                    head += "{}"
        elif depth == 0:
            if char == ";":
                yield Piece(start, head, tuple(bodies), False)
                start, head, bodies = i + 1, "", []
            else:
                head += char


def is_constant(declaration: str) -> bool:
    """Whether the variable itself is const: after the last star where it is a pointer."""
    left = declaration.split("=")[0]
    function = re.search(r"\(\s*\*\s*(const\b)?[^()]*\)", left)
    if function:
        return function[1] is not None
    return bool(re.search(r"\bconst\b", left.rsplit("*", 1)[-1]))


def is_variable(declaration: str) -> bool:
    text = re.sub(r"__attribute__\s*\(\(.*?\)\)|_Alignas\s*\([^)]*\)", " ", declaration).strip()
    if not text or re.match(r"(typedef|_Static_assert|static_assert|extern\s+\{\})\b", text):
        return False
    left = text.split("=")[0]
    if "=" not in text and "(" in left and not re.search(r"\(\s*\*[^()]*\)\s*(\[[^]]*\]\s*)*\(", left):
        return False  # a prototype
    if re.fullmatch(r"(?:\w+\s+)*(struct|union|enum)(\s+\w+)?\s*(\{\})?\s*", left):
        return False  # a type alone
    return bool(re.search(r"[\w}*]\s*[\w(]", left))


def check_globals(path: str, layer: str, code: str) -> Iterator[Finding]:
    for piece in pieces(code):
        at = piece.offset + len(piece.text) - len(piece.text.lstrip())
        if not piece.is_function:
            if is_variable(piece.text) and not is_constant(piece.text):
                name = " ".join(piece.text.split("=")[0].split())
                yield Finding(path, line_at(code, at), f"{layer} has a mutable global: {name[:80]}")
            continue
        for offset, body in piece.bodies:
            for found in re.finditer(r"\b(?:static|_Thread_local)\b([^;]*)", body):
                if not is_constant(found[1].split("{")[0]):
                    yield Finding(path, line_at(code, offset + found.start()), f"{layer} has a mutable static variable")


def check_c(path: str, layer: str, text: str) -> Iterator[Finding]:
    """One file of csrc/<layer>."""
    yield from check_includes(path, layer, text)
    code = code_of(text)
    if layer != BPF:
        for found in LIBRARY_CALLS.finditer(code):
            yield Finding(
                path, line_at(code, found.start()), f"{found[1]}(): the library does not print or end the process"
            )
    if layer not in PURE:
        return
    for found in PURE_CALLS.finditer(code):
        yield Finding(path, line_at(code, found.start()), f"{layer} may not call {found[1]}()")
    for found in FLOATS.finditer(code):
        yield Finding(path, line_at(code, found.start()), f"{layer} counts in integers: {found[0]}")
    yield from check_globals(path, layer, code)


# ---- Cython ----


def check_externs(path: str, text: str, csrc: Path) -> Iterator[Finding]:
    """A .pxd of pybypass/c: cimports and blocks `cdef extern from "layer/x.h" nogil:`, and nothing else."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith((" ", "\t", "#", ")")) or re.match(r"(from\s+\S+\s+)?cimport\b", line):
            continue
        found = re.match(r'cdef extern from\s+["\']([^"\']+)["\']\s*(nogil)?\s*:', line)
        if not found:
            yield Finding(path, number, "only externs belong here")
        elif not found[2]:
            yield Finding(path, number, "the externs must be nogil")
        elif "/" in found[1] and not (csrc / found[1]).exists():
            yield Finding(path, number, f"{found[1]} does not exist")


def check_cython(path: str, text: str) -> Iterator[Finding]:
    """A wrapper: no externs of its own, and of the package only other wrappers, pybypass.c and errors."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*cdef\s+extern\b", line):
            yield Finding(path, number, "externs belong in pybypass/c")
        found = re.match(r"\s*(?:from|cimport|import)\s+((?:pybypass)?\.?[\w.]*)\s*(?:c?import\s+(\w+))?", line)
        if not found or not found[1].startswith(("pybypass", ".")):
            continue
        name = found[1].removeprefix("pybypass").lstrip(".") or found[2] or ""
        if name and not re.match(r"_|c(\.|$)|errors$", name):
            yield Finding(path, number, f"a wrapper may not import pybypass.{name}: it is above")


# ---- Python ----


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every import; relative modules begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + (node.module or ""), alias.name


def at_import(node: ast.AST) -> Iterator[ast.stmt]:
    """The imports that run when the module is imported: none of functions, none of TYPE_CHECKING blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from at_import(ast.Module([other], []))
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(child)


def module_of(module: str, name: str) -> str:
    """The module of the package that an import names, or ""."""
    if module in (".", "pybypass"):
        return name
    for prefix in ("pybypass.", "."):
        if module.startswith(prefix):
            return module.removeprefix(prefix).split(".")[0]
    return ""


def check_python(paths: dict[str, ast.Module]) -> Iterator[Finding]:
    """The modules of the package: no circle, nothing imports the command line, errors imports nothing of ours."""
    graph: dict[str, dict[str, int]] = {}
    where = {Path(p).stem: p for p in paths}
    for path, tree in paths.items():
        mine = Path(path).stem
        for line, module, name in imports(tree):
            target = module_of(module, name)
            if target == "cli" and mine not in ("cli", "__main__"):
                yield Finding(path, line, "nothing imports the command line")
            if target and mine == "errors":
                yield Finding(path, line, "errors is below all: it imports nothing of the package")
        edges = graph.setdefault(mine, {})
        for node in at_import(tree):
            for line, module, name in imports(node):
                target = module_of(module, name)
                if target in where and target not in (mine, "__init__"):
                    edges.setdefault(target, line)
    yield from circles(graph, where)


def circles(graph: dict[str, dict[str, int]], where: dict[str, str]) -> Iterator[Finding]:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> Iterator[Finding]:
        if name in done:
            return
        for target, line in graph[name].items():
            if target in (*trail, name):
                loop = (*trail, name)[(*trail, name).index(target) :]
                yield Finding(where[name], line, f"imports go in a circle: {' -> '.join((*loop, target))}")
            else:
                yield from visit(target, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        yield from visit(name, ())


def check_foreign(path: str, tree: ast.AST) -> Iterator[Finding]:
    for line, module, _ in imports(tree):
        if module.split(".")[0] in FOREIGN:
            yield Finding(path, line, f"{module} is never imported: its licence is GPL only")


# ---- paths ----


def machine_paths(root: Path) -> re.Pattern[str]:
    """What a path of one machine looks like: somebody's home, or where this checkout happens to lie."""
    own = {str(p) for p in (root, root.parent, Path.home()) if len(p.parts) > 1 and str(p) != tempfile.gettempdir()}
    longest_first = "|".join(map(re.escape, sorted(own, key=len, reverse=True)))
    return re.compile(rf"(?<![\w.$)}}-])(?:{longest_first}|/(?:home|Users)/\w+)(?:/|\b)")


def check_paths(path: str, text: str, pattern: re.Pattern[str]) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), 1):
        found = pattern.search(line)
        if found:
            yield Finding(path, number, f"a path of one machine: {found[0]}")


def tracked(root: Path) -> list[Path]:
    """The files of the tree: git's where there is git, else all but what is built."""
    result = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode == 0:
        return sorted(p for name in result.stdout.split("\0") if name and (p := root / name).is_file())
    skip = {"build", ".venv", "__pycache__"}
    return sorted(p for p in root.rglob("*") if p.is_file() and not skip & set(p.relative_to(root).parts))


def check(root: Path) -> list[Finding]:
    """Every finding in a tree."""
    found: list[Finding] = []
    package: dict[str, ast.Module] = {}
    pattern = machine_paths(root)
    for file in tracked(root):
        path = str(file.relative_to(root))
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        parts = Path(path).parts
        found += check_paths(path, text, pattern)
        if parts[0] == "csrc" and file.suffix in (".c", ".h"):
            if len(parts) < 3 or (parts[1] not in RANK and parts[1] != BPF):
                found.append(Finding(path, 1, "in no layer"))
            else:
                found += check_c(path, parts[1], text)
        elif parts[:2] == ("pybypass", "c") and file.suffix == ".pxd":
            found += check_externs(path, text, root / "csrc")
        elif parts[0] == "pybypass" and file.suffix in (".pyx", ".pxd"):
            found += check_cython(path, text)
        elif file.suffix == ".py":
            tree = ast.parse(text, path)
            found += check_foreign(path, tree)
            if parts[0] == "pybypass":
                package[path] = tree
    return sorted({*found, *check_python(package)})


def main() -> int:
    findings = check(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve())
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
