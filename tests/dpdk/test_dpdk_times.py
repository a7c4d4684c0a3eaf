"""Times of packets and sending on time, where the NIC grants them. No driver that runs here does, so nic_shim.c stands for one.

The cases are the functions of granted_*.py, all in one process with the shim in front of DPDK (LD_PRELOAD).
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def constant(tree, name):
    """What is assigned to a name. The files are read only, since this process has not the shim that they ask for."""
    (value,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == name)
    return ast.literal_eval(value)


def parsed(name):
    return ast.parse((HERE / f"{name}.py").read_text())


CASES = [
    node.name for part in constant(parsed("granted_cases"), "PARTS") for node in parsed(part).body
    if isinstance(node, ast.FunctionDef) and any(isinstance(d, ast.Name) and d.id == "case" for d in node.decorator_list)
]  # fmt: skip


def pkg_config(*words):
    return subprocess.run(["pkg-config", *words, "libdpdk"], check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """It links to the libraries that it stands before, so that they are where the dynamic linker looks for the next."""
    made = tmp_path_factory.mktemp("shim") / "nic_shim.so"
    libraries = [
        w for w in pkg_config("--libs") if w.startswith("-L") or w in ("-lrte_ethdev", "-lrte_mbuf", "-lrte_eal")
    ]
    done = subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-DALLOW_EXPERIMENTAL_API",
         *pkg_config("--cflags"), str(HERE / "nic_shim.c"), "-o", str(made), "-Wl,--no-as-needed", *libraries],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="session")
def outcome(shim, tmp_path_factory):
    """{case: what it raised}, and what the process said at its end."""
    where = tmp_path_factory.mktemp("cases")
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    done = subprocess.run(
        [sys.executable, str(HERE / "granted_cases.py"), str(where / "found.json"), str(where / "memif.sock")],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "PYTHONPATH": path, "LD_PRELOAD": str(shim)},
    )  # fmt: skip
    found = where / "found.json"
    return (json.loads(found.read_text()) if found.exists() else {}), f"status {done.returncode}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("case", CASES)
def test_granted(outcome, case):
    found, ended = outcome
    assert case in found, f"the process ended before: {ended}"
    assert not found[case], found[case]


def test_the_process_ended_well(outcome):
    found, ended = outcome
    assert list(found) == CASES
    assert ended.startswith("status 0\n"), ended
