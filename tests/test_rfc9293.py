"""docs/rfc9293.md names every requirement, and tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| ((?:MUST|SHLD)-\d+) \| (.+?) \| (.+?) \| (.+?) \|$", (ROOT / "docs/rfc9293.md").read_text(), re.M)


def test_no_number_is_missing():
    wanted = [f"MUST-{i}" for i in range(1, 70)] + [f"SHLD-{i}" for i in range(1, 32)]
    assert [row[0] for row in ROWS] == wanted


@pytest.mark.parametrize(("number", "shown"), [(row[0], row[3]) for row in ROWS])
def test_what_shows_it_exists(number, shown):
    for one in shown.split("; "):
        if one.startswith("tests/"):
            assert (ROOT / one).is_file(), (number, one)
        else:
            file, name = one.split(": ")
            assert f"TEST({name})" in (ROOT / "tests" / "c" / file).read_text(), (number, one)


@pytest.mark.parametrize(("number", "code"), [(row[0], row[2]) for row in ROWS])
def test_code_that_is_named_exists(number, code):
    for file, names in re.findall(r"((?:tcp|wire|cc|path|net)/\w+\.[ch])((?:,? `\w+`)*)", code):
        text = (ROOT / "csrc" / file).read_text()
        for name in re.findall(r"\w+", names):
            assert name in text, (number, file, name)
