"""Every command of the README runs, and its example is real. A command that is new there needs a way to be run here."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)


def commands():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "PYTHONUNBUFFERED": "1"}


def as_here(command):
    """The words of a command, with this interpreter."""
    words = shlex.split(command)
    if words[0] == "python":
        return [sys.executable, *words[1:]]
    if words[0] == "pybypass":
        return [sys.executable, "-m", "pybypass", *words[1:]]
    return words


def plain(command, lab, cwd):
    words = [str(ROOT / w) if w.startswith("examples/") else w for w in as_here(command)]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def make_run(command, lab, cwd):
    # Without MAKEFLAGS: this may be running under `make test`.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    words = [*shlex.split(command), f"ARGS=--bytes 1000000 --rounds 200 --capture {cwd}/lab.pcapng"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SHA-256 equal, closed cleanly" in done.stdout


def make_test(command, lab, cwd):
    # What runs this very test. That the target exists and starts the suite:
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tools/suite.py" in done.stdout


def make_packetdrill(command, lab, cwd):
    # tests/test_packetdrill_so.py builds it and calls it.
    done = subprocess.run(["make", "-n", "packetdrill-so"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tools/packetdrill" in done.stdout


def scripts(command, lab, cwd):
    words = [str(w) for word in as_here(command) for w in (sorted(ROOT.glob(word)) if word.endswith(".pkt") else [word])]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "SYN" in done.stdout or " hold" in done.stdout or "S 0" in done.stdout


def echo_server(command, lab, cwd):
    words = [lab.a.ifname.join(w.split("eth1")) if "eth1" in w else w for w in as_here(command)]
    words = [w.replace("10.0.0.2/24", f"{lab.a.ip}/24") for w in words]
    server = lab.a.netns.popen(words, cwd=cwd, stdout=subprocess.PIPE, text=True, env=environment())
    assert "listening" in server.stdout.readline()
    with lab.b.netns, socket.create_connection((lab.a.ip, 7777), timeout=5) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    assert server.wait(20) == 0
    server.stdout.close()


def on_an_interface(command, lab, cwd):
    words = [lab.a.ifname if w == "eth1" else w for w in as_here(command)]
    process = lab.a.netns.popen(words, cwd=cwd, stdout=subprocess.PIPE, text=True, env=environment())
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "veth" in out


def a_benchmark(command, lab, cwd):
    done = subprocess.run(as_here(command), cwd=cwd, capture_output=True, text=True, timeout=120, env=environment())
    # 1: on this machine at this moment the generator was the bottleneck, and it says so.
    said = "INVALID" in done.stdout or '"valid": false' in done.stdout
    assert done.returncode == (1 if said else 0), done.stdout + done.stderr
    assert "noise" in done.stdout


WAYS = {
    "make run": make_run,
    "make test": make_test,
    "python examples/tcp_echo.py": plain,
    "python examples/l2_forward.py": plain,
    "python examples/rx_numpy.py": plain,
    "make packetdrill-so": make_packetdrill,
    "pybypass script run tests/pkt/recovery/*.pkt": scripts,
    "pybypass script diagram tests/pkt/rto/doubles.pkt": scripts,
    "pybypass doctor": plain,
    "pybypass doctor --dev eth1": on_an_interface,
    "pybypass nic eth1": on_an_interface,
    "pybypass lab echo": plain,
    "pybypass lab echo --dev mem --bytes 1000000 --rounds 1000 --json": plain,
    "pybypass lab echo --dev dpdk --bytes 1000000 --rounds 1000 --json": plain,
    "pybypass bench rtt --lab --dev xdp:pba --rate 10000": a_benchmark,
    "pybypass bench tcp-rr --lab --dev kernel:pba --seconds 1 --json": a_benchmark,
    "pybypass echo --dev xdp:eth1 --ip 10.0.0.2/24 --port 7777 --seconds 5": echo_server,
}


def test_each_command_has_a_way():
    assert sorted(commands()) == sorted(WAYS)


ALONE = [pytest.mark.alone("both ends spin in one process")]


@pytest.mark.root
@pytest.mark.parametrize("command", [pytest.param(c, marks=ALONE if "--dev mem" in c else []) for c in WAYS])
def test_command(command, lab, tmp_path):
    WAYS[command](command, lab, tmp_path)


def test_example_of_dpdk(tmp_path):
    pytest.importorskip("pybypass._dpdk", reason="pybypass._dpdk is not built (libdpdk-dev)")
    _, source, _ = blocks("python")
    (tmp_path / "ring.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "ring.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("32 net_ring checksums are made in software")


def test_example_of_tcp(tmp_path):
    _, _, source = blocks("python")
    (tmp_path / "fine.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "fine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("100000 bytes acknowledged\n")


@pytest.mark.root
def test_example(lab, tmp_path):
    source, _, _ = blocks("python")
    assert len([line for line in source.splitlines() if line.strip()]) <= 10
    cpu = min(os.sched_getaffinity(0))
    source = source.replace("xdp:eth1", f"xdp:{lab.a.ifname}").replace("10.0.0.2/24", f"{lab.a.ip}/24")
    (tmp_path / "ten.py").write_text(source.replace("cpu=1", f"cpu={cpu}"), encoding="utf-8")
    server = lab.a.netns.popen(
        [sys.executable, "-W", "error", "ten.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment()
    )
    killer = threading.Timer(20, lambda: server.send_signal(signal.SIGKILL))
    killer.start()
    until = time.monotonic() + 10
    while True:
        try:
            with lab.b.netns:
                client = socket.create_connection((lab.a.ip, 7777), timeout=5)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.02)
    with client:
        client.sendall(b"ten lines")
        assert client.recv(100) == b"ten lines"
    out, _ = server.communicate()
    killer.cancel()
    assert server.returncode == 0
    assert re.fullmatch(r"\d+ us\n", out)
