"""The EAL: its options, its start, its log, forks and its end. Each in a process of its own, for it starts once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
from dpdk_process import run

import pybypass as pb
from pybypass import dpdk

POWERLESS = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


def test_starts_once_and_says_what_it_is():
    found, _ = run("""
        before = sorted(os.sched_getaffinity(0)), open("/proc/self/comm").read()
        first = dpdk.start(dpdk.EalOptions(huge="no"))
        again = dpdk.start(dpdk.EalOptions(huge="no"))
        any_ = dpdk.start()
        after = sorted(os.sched_getaffinity(0)), open("/proc/self/comm").read()
        try:
            dpdk.start(dpdk.EalOptions(huge="no", memory_mb=128))
        except pb.PybypassError as e:
            code = e.code
        first.pop("options"), again.pop("options"), any_.pop("options")
        print(json.dumps([first, again == first == any_, before == after, code]))
        """)
    info, same, unmoved, code = found
    assert info["started"]
    assert info["version"].startswith("DPDK ")
    assert not info["hugepages"]
    assert info["iova"] in ("va", "pa")
    assert same
    assert unmoved, "the thread's CPUs and name are its own"
    assert code == "PB091"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lcores": ()}, "lcores"), ({"lcores": (4096,)}, "lcores"), ({"memory_mb": 1}, "memory_mb"),
        ({"memory_mb": "64"}, "memory_mb"), ({"huge": "maybe"}, "huge"), ({"iova": "dc"}, "iova"),
        ({"log_level": "loud"}, "log_level"), ({"allow": ("eth0",)}, "allow"),
        ({"allow": ("0000:03:00.0",), "pci": False}, "allow"), ({"extra": ("--proc-type=secondary",)}, "extra"),
        ({"extra": ("--vdev=net_null0",)}, "extra"), ({"extra": ("--proc=secondary",)}, "extra"),
    ],
)  # fmt: skip
def test_options_are_checked_before_dpdk_sees_them(options, word):
    with pytest.raises(pb.PybypassError) as e:
        dpdk.EalOptions(**options)
    assert e.value.code == "PB090"
    assert word in str(e.value)
    assert e.value.hint


def test_arguments():
    words = dpdk.EalOptions(
        lcores=(min(os.sched_getaffinity(0)),), iova="va", allow=("0000:03:00.0",), file_prefix="x", extra=("--no-hpet",)
    ).arguments(huge=True)
    assert "--in-memory" in words
    assert "--no-huge" not in words
    assert "-m" not in words
    assert words[words.index("-a") + 1] == "0000:03:00.0"
    assert {"--iova-mode=va", "--file-prefix=x", "--no-hpet"} <= set(words)
    plain = dpdk.EalOptions().arguments(huge=False)
    assert plain[plain.index("-m") + 1] == "64"
    assert "--file-prefix=pybypass" in plain, "a folder of our own name"
    assert not any("prefix" in w for w in dpdk.EalOptions(in_memory=False).arguments(huge=True)), "files of DPDK's name"
    assert "--no-huge" in plain
    assert "--no-pci" in dpdk.EalOptions(pci=False).arguments(huge=False)


def test_huge_pages_insisted_on():
    (code, hint, started), _ = run("""
        try:
            dpdk.start(dpdk.EalOptions(huge="require", memory_mb=1 << 20))
        except pb.PybypassError as e:
            print(json.dumps([e.code, e.hint, dpdk.info()["started"]]))
        """)
    assert code == "PB002"
    assert "hugepages/setup.sh" in hint
    assert not started, "it can still be started without them"


def test_without_huge_pages_it_says_so():
    (hugepages, records), _ = run("""
        lines = []
        class Handler(logging.Handler):
            def emit(self, record):
                lines.append([record.name, record.levelname, record.getMessage()])
        logging.getLogger("pybypass.dpdk").addHandler(Handler())
        info = dpdk.start(dpdk.EalOptions(memory_mb=1 << 19, extra=()) if False else dpdk.EalOptions())
        print(json.dumps([info["hugepages"], lines]))
        """)
    if not hugepages:
        assert any(level == "WARNING" and "--no-huge" in text for _, level, text in records)


def test_a_start_that_fails_has_dpdks_words():
    (first, second), _ = run("""
        def attempt(**options):
            try:
                dpdk.start(dpdk.EalOptions(huge="no", **options))
            except pb.PybypassError as e:
                return [e.code, str(e), e.detail.get("log", [])]
        print(json.dumps([attempt(extra=("--iova-mode=quantum",)), attempt()]))
        """)
    code, text, words = first
    assert code == "PB090"
    assert words
    assert "iova" in text.lower() or any("iova" in w.lower() for w in words)
    assert second is None or second[0] == "PB090"


def test_log_goes_to_logging_by_level():
    (errors, infos, code), stderr = run("""
        lines = []
        class Handler(logging.Handler):
            def emit(self, record):
                lines.append([record.levelname, record.getMessage()])
        log = logging.getLogger("pybypass.dpdk")
        log.addHandler(Handler()); log.setLevel(logging.DEBUG); log.propagate = False
        dpdk.start(dpdk.EalOptions(huge="no", log_level="debug"))
        try:
            pb.open("dpdk:net_nosuch0")
        except pb.PybypassError as e:
            code = e.code
        dpdk.set_log_level("lib.eal", "error")
        try:
            dpdk.set_log_level("lib.eal", "loud")
        except pb.PybypassError as e:
            code += e.code
        print(json.dumps([[t for l, t in lines if l == "ERROR"], [t for l, t in lines if l == "INFO"], code]))
        """)
    assert any("net_nosuch0" in text for text in errors)
    assert any("EAL" in text for text in infos)
    assert code == "PB092PB090"
    assert "EAL:" not in stderr


def test_after_a_fork_it_is_the_parents():
    (codes, alive), _ = run("""
        port = pb.open("dpdk:net_null0?frames=2048")
        r, w = os.pipe()
        if not os.fork():
            found = []
            for f in (dpdk.start, lambda: pb.open("dpdk:net_null1"), lambda: port.rx_burst(), port.xstats):
                try:
                    f()
                    found.append("no error")
                except pb.PybypassError as e:
                    found.append(e.code)
            port.close()
            os.write(w, json.dumps(found).encode())
            os._exit(0)
        os.wait()
        codes = json.loads(os.read(r, 1000))
        with port.rx_burst() as burst:
            alive = len(burst)
        port.close()
        print(json.dumps([codes, alive]))
        """)
    assert codes == ["PB015"] * 4
    assert alive == 64


def test_a_port_left_open_is_closed_at_the_end():
    found, stderr = run("""
        a, b = pb.open("dpdk:net_null0?frames=2048"), pb.open("dpdk:net_ring0?frames=2048")
        burst = a.rx_burst(8)
        view = burst.view(0)
        print(json.dumps(dpdk.info()["started"]))
        """)
    assert found is True
    assert "Traceback" not in stderr
    assert "Segmentation" not in stderr


@pytest.mark.root
def test_without_any_privilege(tmp_path):
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    tmp_path.chmod(0o777)
    (received, code, hint), _ = run(
        """
        with pb.open("dpdk:net_null0?frames=2048") as port, port.rx_burst(16) as burst:
            received = len(burst)
        try:
            pb.open("dpdk:net_tap0?iface=pbt9")
        except pb.PybypassError as e:
            print(json.dumps([received, e.code, e.hint]))
        """,
        prefix=POWERLESS, home=str(tmp_path), cwd="/",
    )  # fmt: skip
    assert received == 16
    assert code == "PB025"
    assert "root" in hint


def test_a_package_without_it():
    (code, hint, kind), _ = run("""
        import sys
        sys.modules["pybypass._dpdk"] = None
        try:
            pb.open("dpdk:net_null0")
        except pb.PybypassError as e:
            code, hint = e.code, e.hint
        with pb.open("mem:a") as port:
            print(json.dumps([code, hint, port.kind]))
        """)
    assert (code, kind) == ("PB011", "mem")
    assert "libdpdk-dev" in hint


FOLDER = """
def folder(name):
    return f"/var/run/dpdk/{name}" if os.geteuid() == 0 else f"{os.environ['XDG_RUNTIME_DIR']}/dpdk/{name}"
"""


def test_no_folder_is_left():
    """Of this prefix, from the moment that the EAL runs; also when it did not start."""
    for options in ("", ", extra=('--no-such-option',)"):
        found, _ = run(
            FOLDER
            + textwrap.dedent(f"""
            prefix = f"pbtest{{os.getpid()}}"
            try:
                dpdk.start(dpdk.EalOptions(huge="no", file_prefix=prefix{options}))
                code = None
            except pb.PybypassError as e:
                code = e.code
            there = os.path.exists(folder(prefix))
            ports = [pb.open("dpdk:net_null0?frames=2048"), pb.open("dpdk:net_ring0?frames=2048")] if code is None else []
            print(json.dumps([code, folder(prefix), there or os.path.exists(folder(prefix))]))
            """)
        )
        code, path, there = found
        assert (code, there) == ("PB090" if options else None, False)
        assert not os.path.exists(path)


def test_no_folder_is_left_of_a_process_that_was_killed():
    """Nor does one of that prefix stay which another had left; one with something in it does, for it is somebody's."""
    prefixes = [f"pbkilled{os.getpid()}{n}" for n in range(3)]
    body = FOLDER + textwrap.dedent("""
        prefix, kind = os.environ["PB_PREFIX"], os.environ["PB_KIND"]
        if kind != "none":
            os.makedirs(folder(prefix))
        if kind == "used":
            open(folder(prefix) + "/config", "w").close()
        dpdk.start(dpdk.EalOptions(huge="no", file_prefix=prefix))
        pb.open("dpdk:net_null0?frames=2048")
        print(json.dumps([folder(prefix), os.getpid()]), flush=True)
        os.kill(os.getpid(), 9)
        """)
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    for prefix, kind in zip(prefixes, ("none", "empty", "used"), strict=True):
        done = subprocess.run(
            [sys.executable, "-c", "import json, os, pybypass as pb\nfrom pybypass import dpdk\n" + body],
            capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": path, "PB_PREFIX": prefix, "PB_KIND": kind},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        folder, _ = json.loads(done.stdout)
        assert os.path.exists(folder) is (kind == "used")
        if kind == "used":
            assert os.listdir(folder) == ["config"]
            shutil.rmtree(folder)


def test_the_end_with_a_thread_in_the_data_path():
    """It runs on while the interpreter ends: DPDK stays for it, and the process goes with its own status, in time."""
    found, said = run("""
        import threading
        dpdk.start(dpdk.EalOptions(huge="no"))
        port = pb.open("dpdk:net_null0")
        turns = 0

        def work():
            global turns
            while True:
                try:
                    with port.queues[0].rx_burst(64) as burst:
                        turns += len(burst)
                except pb.PybypassError:
                    pass

        threading.Thread(target=work, daemon=True).start()
        while turns < 10000:
            pass
        print(json.dumps(turns))
        """)
    assert found >= 10000
    assert "Fatal" not in said and "Traceback" not in said
