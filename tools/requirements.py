#!/usr/bin/env python3
"""Prints requirements of pyproject.toml, one a line: `build`, `run`, or the name of an extra."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
for name in sys.argv[1:]:
    if name == "build":
        found = project["build-system"]["requires"]
    elif name == "run":
        found = project["project"]["dependencies"]
    else:
        found = project["project"]["optional-dependencies"][name]
    print("\n".join(f"'{requirement}'" for requirement in found))
