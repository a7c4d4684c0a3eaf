"""docs/conformance.md: what packet scripts may set though it has no effect is named, and only that."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "csrc" / "script"
TEXT = (ROOT / "docs" / "conformance.md").read_text()


def listed(heading: str) -> list[str]:
    paragraph = TEXT.split(f"\n{heading}:\n", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"`(\w+)`", paragraph)


def sources(*without: str) -> str:
    return "".join(path.read_text() for path in sorted(SCRIPT.glob("*.c")) if path.name not in without)


def test_knobs():
    known = re.findall(r"\bX\((\w+), \d", (SCRIPT / "impl.h").read_text())
    used = set(re.findall(r"KNOB_(\w+)", sources()))
    assert len(known) > 50 and len(used) > 25
    assert listed("Knobs of `net.ipv4`") == [name for name in known if name not in used]


def test_options_of_sockets():
    table = (SCRIPT / "options.c").read_text()
    rows = re.findall(r"\{LX_SOL_\w+, LX_(\w+), (OPT_\w+),", table)
    told, read = set(re.findall(r"\[(OPT_\w+)\] = \{PB_TCP_O_", table)), sources("options.c")
    assert len(rows) > 35 and len(told) > 15
    without = [name for name, opt in rows if opt not in told and not re.search(rf"\b{opt}\b", read)]
    assert listed("Options of sockets") == without
