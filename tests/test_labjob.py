"""The main job as users run it: over xdp and over mem, its JSON, its endings, killed at any moment."""

import contextlib
import hashlib
import importlib.util
import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import labjob, labpeer

root = pytest.mark.root
SPINS = pytest.mark.alone("both ends spin in one process, and need the processors")
XSK = importlib.util.find_spec("pybypass._xsk") is not None
SMALL = ["--bytes", "2000000", "--rounds", "400"]


def command(*args):
    return [sys.executable, "-m", "pybypass", *args]


def job(*args, cwd, **how):
    return subprocess.run(
        command("lab", "echo", *args), cwd=cwd, capture_output=True, text=True, timeout=120, env=environment(), **how
    )


def environment(**more):
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    return {**os.environ, "PYTHONPATH": path, **more}


def check_schema(report, device):
    assert list(report) == ["schema", "device", "mode", "active", "passive", "rtt_us", "drops"]
    assert report["schema"] == "pybypass.lab-echo/1"
    assert report["device"] == device
    for part in (report["active"], report["passive"]):
        assert part == {"bytes_each_way": 2000000, "sha256_ok": True, "closed_cleanly": True}
    rtt = report["rtt_us"]
    assert list(rtt) == ["pybypass", "kernel_blocking", "kernel_best", "ratio_p50", "ratio_p99"]
    for row in ("pybypass", "kernel_blocking", "kernel_best"):
        assert rtt[row]["n"] == 400
        assert 0 < rtt[row]["p50"] <= rtt[row]["p99"]
    assert rtt["ratio_p50"] == pytest.approx(rtt["pybypass"]["p50"] / rtt["kernel_best"]["p50"], rel=0.01)
    assert isinstance(report["drops"], int)


@pytest.mark.parametrize("device", [pytest.param("xdp", marks=root), pytest.param("mem", marks=SPINS)])
def test_json_is_one_line_of_the_schema(tmp_path, device):
    done = job("--dev", device, "--json", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    check_schema(report, device)
    assert report["mode"] == ("mem" if device == "mem" else "native copy")
    assert not done.stderr
    check_capture(tmp_path / "lab.pcapng")


@root
@pytest.mark.parametrize(
    ("device", "mode"), [("dpdk", "dpdk net_af_xdp"), ("dpdk:net_tap", "dpdk net_tap"), ("dpdk:net_af_xdp", "dpdk net_af_xdp")]
)
def test_the_same_job_over_dpdk(tmp_path, device, mode):
    pytest.importorskip("pybypass._dpdk", reason="pybypass._dpdk is not built (libdpdk-dev)")
    done = job("--dev", device, "--json", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check_schema(report, "dpdk")
    assert report["mode"] == mode
    assert "Traceback" not in done.stderr
    check_capture(tmp_path / "lab.pcapng")


def check_capture(path):
    """1 MiB each way, both directions in the file."""
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    done = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", "-e", "ip.src", "-e", "tcp.len", "-e", "frame.time_epoch"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "Running as user" not in line]
    assert complaints == []
    carried = {}
    for line in done.stdout.splitlines():
        src, size, _ = line.split("\t")
        if size:
            carried[src] = carried.get(src, 0) + int(size)
    assert len(carried) == 2
    assert all(1 << 20 <= n < 2 << 20 for n in carried.values()), carried


@root
def test_text_says_what_each_number_is(tmp_path):
    done = job(*SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for row in ("pybypass", "kernel_blocking", "kernel_spin_2", "kernel_spin_1"):
        assert re.search(
            rf"^{row} +(\d+\.\d\d +){{5}}400 +\d+  (yes|no) +(native copy|kernel) +CLOCK_MONOTONIC", text, re.M
        ), text
    for word in ("p99.9", "CLOCK_MONOTONIC", "native copy", "pinned", "isolated", "drops", "kernel's best"):
        assert word in text
    assert text.count("SHA-256 equal, closed cleanly") == 2
    assert "\r" not in text  # no progress bar in a file


@root
def test_progress_on_a_terminal(tmp_path):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("lab", "echo", "--no-capture", "--bytes", "30000000", "--rounds", "400"),
        cwd=tmp_path, stdout=slave, stderr=slave, env=environment(TERM="xterm"),
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        seen += piece
    os.close(master)
    assert process.wait(60) == 0
    assert b"active transfer" in seen
    assert not (tmp_path / "lab.pcapng").exists()


# Root's files and none of its capabilities: the interpreter may lie where others cannot read.
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
WITHOUT_XSK = "import sys; sys.modules['pybypass._xsk'] = None; from pybypass.cli import main; sys.exit(main(sys.argv[1:]))"


@root
@SPINS
def test_without_privilege_it_runs_over_mem_and_says_why(tmp_path):
    done = subprocess.run(
        [*POWERLESS, *command("lab", "echo", "--json", *SMALL)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_schema(json.loads(done.stdout), "mem")
    assert len(done.stderr.splitlines()) == 1
    assert "running over mem, because" in done.stderr
    assert "root" in done.stderr


def check_refusal(argv, cwd, status, *words):
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not done.stdout


@root
def test_xdp_without_privilege_is_a_typed_refusal(tmp_path):
    check_refusal(
        [*POWERLESS, *command("lab", "echo", "--dev", "xdp", *SMALL)], tmp_path, 4, "PB060", "EPERM", "run as root"
    )


def test_xdp_that_is_not_built_is_a_typed_refusal(tmp_path):
    argv = [sys.executable, "-c", WITHOUT_XSK, "lab", "echo", "--dev", "xdp", *SMALL]
    check_refusal(argv, tmp_path, 3, "PB011", "apt-get install libxdp-dev")


@SPINS
def test_where_xdp_is_not_built_it_runs_over_mem(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_XSK, "lab", "echo", "--json", "--no-capture", *SMALL],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_schema(json.loads(done.stdout), "mem")
    assert "running over mem, because" in done.stderr


def test_a_bad_file_for_the_capture_is_an_error(tmp_path):
    done = job("--dev", "mem", "--capture", "/nonexistent/x.pcapng", *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "/nonexistent" in done.stderr


# ---- however it ends ----


def ours(pid):
    """Whether a process belongs to this session of tests: others on the machine may have laboratories of their own."""
    tag = f"PYBYPASS_TEST_SESSION={os.environ['PYBYPASS_TEST_SESSION']}\0".encode()
    return int(pid) == os.getpid() or tag in Path(f"/proc/{pid}/environ").read_bytes() + b"\0"


def namespaces():
    """Network namespaces, by inode: those that our processes are in or have descriptors of, and those with a mount."""
    found = set(re.findall(r"net:\[(\d+)\]", Path("/proc/self/mountinfo").read_text()))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if not ours(pid):
                continue
            for link in [*Path(f"/proc/{pid}/task").glob("*/ns/net"), *Path(f"/proc/{pid}/fd").iterdir()]:
                with contextlib.suppress(OSError):
                    found.update(re.findall(r"^net:\[(\d+)\]", os.readlink(link)))
    return found


def strays():
    """What a main job could leave: processes of it, named namespaces, interfaces."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if (b"pybypass.labpeer" in line or b"lab\0echo" in line) and b"PB_KILL_TEST" in environ:
            found.append(f"{pid} {line!r}")
    found += [name for _, name in socket.if_nameindex() if name.startswith("pb")]
    if os.path.isdir("/run/netns"):
        found += os.listdir("/run/netns")
    return found


def xdp_programs():
    """Ids of the XDP programs that processes of this session hold, by walking /proc/*/fdinfo."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if not ours(pid):
                continue
            for info in Path(f"/proc/{pid}/fdinfo").iterdir():
                with contextlib.suppress(OSError):
                    found.update(re.findall(r"^prog_type:\t6\n(?:.*\n)*?prog_id:\t(\d+)$", info.read_text(), re.M))
    return found


def start(cwd, *args):
    return subprocess.Popen(
        command("lab", "echo", "--json", "--no-capture", *args), cwd=cwd, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=environment(PB_KILL_TEST="1"), start_new_session=True,
    )  # fmt: skip


def gone(before, seconds=10.0):
    """Waits until there are no strays, and no namespaces but those from before."""
    until = time.monotonic() + seconds
    while left := strays() + sorted(namespaces() - before):
        assert time.monotonic() < until, left
        time.sleep(0.005)


@root
def test_killed_at_50_random_moments_nothing_is_left(tmp_path):
    seed = int(os.environ.get("PB_SEED", time.time_ns()))
    print(f"PB_SEED={seed}")
    rng = random.Random(seed)
    before, spaces = xdp_programs(), namespaces()
    small = ("--bytes", "1000000", "--rounds", "200")  # so that each part of the job is hit, and none takes long
    t = time.monotonic()
    assert start(tmp_path, *small).wait(60) == 0
    whole = time.monotonic() - t
    reached = 0
    for _ in range(50):
        process = start(tmp_path, *small)
        time.sleep(rng.uniform(0.0, whole))
        reached += any("labpeer" in line for line in strays())
        process.kill()
        process.wait()
        gone(spaces)
    assert reached > 10  # not all were killed before they began
    assert xdp_programs() <= before
    assert start(tmp_path, *small).wait(60) == 0  # the next start works at once


@root
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_in_order(tmp_path, sig):
    spaces = namespaces()
    process = start(tmp_path, "--rounds", "200000")
    until = time.monotonic() + 20
    while not any("labpeer" in line for line in strays()):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(namespaces() - spaces) == 2
    time.sleep(0.3)
    process.send_signal(sig)
    assert process.wait(30) != 0
    gone(spaces)


@root
def test_an_error_in_the_middle_leaves_nothing(monkeypatch):
    def broken(self, *args):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(labjob.XdpJob, "_round_trips", broken)
    monkeypatch.setenv("PB_KILL_TEST", "1")
    spaces = namespaces()
    with pytest.raises(RuntimeError, match="in the middle"):
        labjob.XdpJob(labjob.JobOptions(size=100000, rounds=100, capture=None, quiet=True)).run()
    gone(spaces)


# ---- the echo server ----


def serve(cwd, *args, netns=None):
    popen = netns.popen if netns is not None else subprocess.Popen
    process = popen(command("echo", *args), cwd=cwd, stdout=subprocess.PIPE, text=True, env=environment())
    assert "listening" in process.stdout.readline()
    return process


@root
def test_echo_serves_any_client_and_ends_by_itself(lab, tmp_path):
    uri = f"xdp:{lab.a.ifname}"
    server = serve(
        tmp_path, "--dev", uri, "--ip", f"{lab.a.ip}/24", "--port", "7000", "--seconds", "3", netns=lab.a.netns
    )
    for _ in range(3):
        with lab.b.netns:
            client = socket.create_connection((lab.a.ip, 7000), timeout=10)
        with client:
            data = os.urandom(300000)
            t = threading.Thread(target=lambda c=client, d=data: (c.sendall(d), c.shutdown(socket.SHUT_WR)))
            t.start()
            got = bytearray()
            while piece := client.recv(65536):
                got += piece
            t.join()
            assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    assert server.wait(20) == 0
    server.stdout.close()


@root
def test_echo_ends_in_order_at_sigterm(lab, tmp_path):
    server = serve(tmp_path, "--dev", f"xdp:{lab.a.ifname}", "--ip", lab.a.ip, "--port", "7000", netns=lab.a.netns)
    with lab.b.netns:
        client = socket.create_connection((lab.a.ip, 7000), timeout=10)
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    server.terminate()
    assert client.recv(1) == b""  # FIN, not RST
    client.close()
    assert server.wait(20) == 0
    server.stdout.close()


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["--dev", "xdp:nosuch0", "--ip", "10.0.0.1/24", "--port", "7"], 1 if XSK else 3),
        (["--dev", "what", "--ip", "10.0.0.1/24", "--port", "7"], 2),
        (["--dev", "mem:a", "--ip", "nonsense", "--port", "7"], 2),
        (["--dev", "mem:a", "--ip", "10.0.0.1/24", "--port", "70000"], 2),
        (["--dev", "mem:a"], 2),
        (["--dev", "mem:a?frames=64", "--ip", "10.0.0.1/24", "--port", "7"], 2),
        (["--dev", "mem:a", "--ip", "10.0.0.1/24", "--port", "7", "--cpu", "100000"], 2),
    ],
)
def test_echo_with_bad_arguments(args, status, tmp_path):
    done = subprocess.run(
        command("echo", *args), capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=20
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr


# ---- parts ----


def test_pattern_repeats_by_seed_and_not_by_itself():
    assert labpeer.pattern(1, 3 << 20) == labpeer.pattern(1, 3 << 20)
    assert labpeer.pattern(1, 1000) != labpeer.pattern(2, 1000)
    pieces = labpeer.pattern(3, (2 << 20) + 5)
    assert [len(p) for p in pieces] == [1 << 20, 1 << 20, 5]
    assert pieces[0] != pieces[1]


def test_a_wrong_byte_is_noticed():
    verdict = labjob._verdict(
        {"sha_sent": "a", "sha_received": "b", "sent": 1, "received": 1},
        {"sha_sent": "b", "sha_received": "x", "sent": 1, "received": 1}, True,
    )  # fmt: skip
    assert verdict["sha256_ok"] is False


def test_a_peer_that_dies_is_reported():
    for how in ("start", "finish"):
        with pytest.raises(pb.PybypassError) as caught, labjob.PeerProcess(subprocess.Popen) as peer:
            if how == "finish":
                peer.start("listen", ip="127.0.0.1", port=65536 + 1)
                peer.finish()
            peer._process.kill()
            peer._process.wait()
            peer.start("listen", ip="127.0.0.1", port=1)
            peer.finish()
        assert caught.value.code == "PB060"
        assert "died" in str(caught.value)
