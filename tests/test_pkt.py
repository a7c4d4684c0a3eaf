"""The packet scripts of tests/pkt, in both families."""

import importlib.util
import re
from pathlib import Path

import pytest

from pybypass import script

ROOT = Path(__file__).parent / "pkt"
SCRIPTS = sorted(ROOT.rglob("*.pkt"))
ONLY = re.compile(r"^// only: v([46])$", re.MULTILINE)


def families(path):
    found = ONLY.search(path.read_text())
    return [int(found[1])] if found else [4, 6]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_script(path):
    for ip in families(path):
        result = script.run(path, script.Settings(ip=ip, ts_tick_us=1000))
        assert result.ok, result.text()
        assert any(p.outbound for p in result.packets)


def test_the_grid_is_what_its_table_says():
    spec = importlib.util.spec_from_file_location("grid_make", ROOT / "grid" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    wanted = make.everything()
    assert len(wanted) == len(make.STATES) * len(make.EVENTS) == 121
    assert {str(p.relative_to(ROOT / "grid")): p.read_text() for p in (ROOT / "grid").rglob("*.pkt")} == wanted


def test_each_folder_has_a_row():
    rows = re.findall(r"^\| (`.+?) \| .+ \|$", (ROOT / "README.md").read_text(), re.M)
    named = {name for row in rows for name in re.findall(r"`([\w-]+)/", row)}
    assert named == {path.relative_to(ROOT).parts[0] for path in SCRIPTS}


def test_each_names_its_clause():
    assert len(SCRIPTS) > 200
    for path in SCRIPTS:
        head = [line for line in path.read_text().split("\n")[:6] if line.startswith("//")]
        assert any(re.search(r"RFC \d+|Linux", line) for line in head), path
