"""The doctor: what it finds where things are missing, and that it says how to get them."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest

from pybypass import cli, doctor
from pybypass.errors import PybypassError

ALL = {
    "core", "libxdp", "xdp_programs", "kernel", "btf", "af_xdp", "caps_xdp", "caps_lab", "memlock", "netns",
    "veth_offload", "hugepages_2m", "hugepages_1g", "thp", "cpus", "isolated_cpus", "governor", "clocksource", "dpdk",
    "rich", "main_job",
}  # fmt: skip


def by_id() -> dict[str, doctor.Check]:
    return {check.id: check for check in doctor.diagnose()}


def hide(monkeypatch, **files: str | None):
    """Files of /proc and /sys with other contents: the end of the path, with _ for /, and the text or None."""
    real = doctor._read

    def read(path):
        for end, text in files.items():
            if path.replace("/", "_").endswith(end):
                return text
        return real(path)

    monkeypatch.setattr(doctor, "_read", read)


def test_every_check_is_there_and_well_formed():
    checks = doctor.diagnose()
    assert {check.id for check in checks} == ALL
    assert len(checks) == len(ALL)
    for check in checks:
        assert check.verdict in ("ok", "info", "warn", "fail")
        assert check.value
        assert check.why or check.verdict == "ok", check
        if check.verdict in ("warn", "fail"):
            assert check.fix, check


def test_it_does_not_hang():
    start = time.monotonic()
    doctor.diagnose()
    assert time.monotonic() - start < 20  # tens of milliseconds on an idle machine


def test_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "pybypass.doctor/1"
    assert {c["id"] for c in answer["checks"]} == ALL
    assert all(set(c) == {"id", "verdict", "value", "why", "fix"} for c in answer["checks"])


def test_text_is_aligned(capsys):
    assert cli.main(["doctor"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("pybypass ")
    assert {line[6:20].strip() for line in lines if not line.startswith(" ")} == ALL
    assert all(line[19:21] == "  " or line.startswith(" ") for line in lines)


@pytest.mark.root
def test_as_root_with_everything_built_the_main_job_runs_on_xdp():
    found = by_id()
    assert found["main_job"].value == "xdp", found


WITHOUT_PRIVILEGE = """
import ctypes, struct, sys
# capset(2) of nothing. Not another user: that one might not be allowed to read the interpreter's files.
header, data = struct.pack("Ii", 0x20080522, 0), bytes(24)
assert ctypes.CDLL(None).capset(header, data) == 0
from pybypass import cli
sys.exit(cli.main(["doctor", "--json"]))
"""


def test_without_privilege_it_runs_on_mem_and_says_why():
    argv = [sys.executable, "-c", WITHOUT_PRIVILEGE]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    found = {c["id"]: c for c in json.loads(result.stdout)["checks"]}
    for name in ("af_xdp", "caps_xdp", "caps_lab", "netns", "main_job"):
        assert found[name]["verdict"] == "warn"
        assert "root" in found[name]["fix"]
    assert found["core"]["verdict"] == "ok"
    assert found["main_job"]["value"] == "mem only"
    assert "caps_xdp" in found["main_job"]["why"]


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("5.10.0-28-amd64", "warn"), ("5.11.0", "info"), ("6.1.0-18-amd64", "info"), ("6.3.1", "ok"), ("odd", "warn")],
)
def test_kernel(monkeypatch, release, verdict):
    monkeypatch.setattr(doctor.platform, "release", lambda: release)
    check = doctor.check_kernel()
    assert (check.verdict, check.value) == (verdict, release)


@pytest.mark.parametrize(
    ("error", "verdict", "fix"),
    [
        (ModuleNotFoundError("no"), "warn", "libxdp-dev"),
        (ImportError("libxdp.so.1: cannot open shared object file"), "fail", "libxdp1"),
    ],
)
def test_libxdp(monkeypatch, error, verdict, fix):
    def fails(name):
        raise error

    monkeypatch.setattr(doctor.importlib, "import_module", fails)
    check = doctor.check_xsk()
    assert check.verdict == verdict
    assert fix in check.fix


def test_programs_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "doctor.py"))
    check = doctor.check_programs()
    assert (check.verdict, check.value) == ("warn", "none")
    assert "pb_xdp_generic, pb_xdp_meta" in check.why
    assert "clang" in check.fix


def test_core_broken(monkeypatch, capsys):
    from pybypass import ports

    def fails(uri):
        raise PybypassError.make("PB001", 12)

    monkeypatch.setattr(ports, "open", fails)
    assert cli.main(["doctor", "--json"]) == 1
    found = {c["id"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert found["core"]["verdict"] == found["main_job"]["verdict"] == "fail"


def test_capabilities(monkeypatch):
    hide(monkeypatch, self_status="Name:\tx\nCapEff:\t0000000000002000\n")  # CAP_NET_RAW
    assert doctor.held_capabilities() == {"CAP_NET_RAW"}
    check = doctor.check_caps_xdp()
    assert check.value == "no CAP_NET_ADMIN, CAP_BPF"
    assert f"setcap cap_net_raw,cap_net_admin,cap_bpf+ep {os.path.realpath(sys.executable)}" in check.fix


@pytest.mark.parametrize(
    ("soft", "lock", "verdict"),
    [(8 << 20, False, "warn"), (16 << 20, False, "ok"), (resource.RLIM_INFINITY, False, "ok"), (8 << 20, True, "ok")],
)
def test_memlock(monkeypatch, soft, lock, verdict):
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda what: (soft, soft))
    monkeypatch.setattr(doctor, "held_capabilities", lambda: frozenset({"CAP_IPC_LOCK"} if lock else ()))
    check = doctor.check_memlock()
    assert check.verdict == verdict
    assert ("ulimit -l" in check.fix) == (verdict == "warn")


@pytest.mark.parametrize(
    ("name", "files", "verdict", "value"),
    [
        ("check_huge_2m", {"nr_hugepages": "0"}, "info", "none reserved"),
        ("check_huge_2m", {"nr_hugepages": "8", "free_hugepages": "3"}, "ok", "3 of 8 free"),
        ("check_huge_1g", {"nr_hugepages": None}, "info", "not supported"),
        ("check_thp", {"transparent_hugepage_enabled": "always madvise [never]"}, "info", "never"),
        ("check_thp", {"transparent_hugepage_enabled": "[always] madvise never"}, "ok", "always"),
        ("check_governor", {"scaling_governor": "powersave"}, "info", "powersave"),
        ("check_governor", {"scaling_governor": "performance"}, "ok", "performance"),
        ("check_clock", {"current_clocksource": "hpet", "available_clocksource": "tsc hpet"}, "warn", "hpet"),
        ("check_clock", {"current_clocksource": "kvm-clock"}, "ok", "kvm-clock"),
    ],
)
def test_what_the_system_says(monkeypatch, name, files, verdict, value):
    hide(monkeypatch, **files)
    check = getattr(doctor, name)()
    assert (check.verdict, check.value) == (verdict, value)


@pytest.mark.root
def test_veth_with_offloads(lab):
    assert lab.a.netns.run(doctor.check_veth).verdict == "ok"
    from pybypass.lab import set_offload

    lab.a.netns.run(set_offload, lab.a.ifname, "gro", True)
    check = lab.a.netns.run(doctor.check_veth)
    assert (check.verdict, check.value) == ("info", f"on: {lab.a.ifname}")
    assert check.fix == f"ethtool -K {lab.a.ifname} tx off tso off gso off gro off"
