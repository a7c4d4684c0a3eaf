"""Words of the packet script language, each with its line and column."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import PybypassError

__all__ = ["Token", "tokens", "trouble"]


@dataclass(frozen=True, slots=True)
class Token:
    kind: str  # option, float, int, hex, word, string, command, code, "..." or the character itself; end
    text: str
    line: int
    column: int


_PATTERN = re.compile(
    r"""(?P<space>[ \t\r\n]+|//[^\n]*|/\*.*?\*/)
    |(?P<code>%\{.*?\}%)
    |(?P<command>`(?:\\.|[^`\\])*`)
    |(?P<string>"(?:\\.|[^"\\])*")
    |(?P<option>--[A-Za-z0-9_]+(?:[ \t]*=[ \t]*(?:"[^"\n]*"|`[^`\n]*`|[^\s"`]+(?:"[^"\n]*"|`[^`\n]*`)?))?)
    |(?P<ellipsis>\.\.\.)
    |(?P<hex>0x[0-9a-fA-F]+)
    |(?P<float>-?[0-9]*\.[0-9]+)
    |(?P<word>[A-Za-z0-9_]*[A-Za-z_][A-Za-z0-9_]*)
    |(?P<int>-?[0-9]+)
    |(?P<char>.)""",
    re.VERBOSE | re.DOTALL,
)


def trouble(code: str, path: str, line: int, column: int, text: str) -> PybypassError:
    """The error that says where in a script something is wrong; column 0: the whole line."""
    number = errno.EINVAL if code == "PB100" else errno.EOPNOTSUPP
    where = f"{path}:{line}:{column}" if column else f"{path}:{line}"
    return PybypassError.make(code, number, f"{where}: {text}")


def tokens(text: str, path: str) -> Iterator[Token]:
    """The words of a script; comments are left out. PB100 for a comment, string or block that does not end."""
    line, start = 1, 0  # start: of the line
    for found in _PATTERN.finditer(text):
        kind, word = found.lastgroup or "", found[0]
        column = found.start() - start + 1
        if (kind == "char" and word in '"`') or (kind == "char" and text.startswith(("%{", "/*"), found.start())):
            raise trouble("PB100", path, line, column, f"what begins here with {word!r} does not end")
        if kind == "ellipsis":
            kind = "..."
        if kind == "char":
            kind = word
        if kind != "space":
            yield Token(kind, word, line, column)
        newlines = word.count("\n")
        if newlines:
            line += newlines
            start = found.start() + word.rindex("\n") + 1
    yield Token("end", "", line, len(text) - start + 1)
