"""What every test has: after it nothing of the package is alive, and nothing of it is left on the machine.

Markers: `root` (needs root; skipped with that reason elsewhere), `alone` (must not run beside other tests, and says why).
Fixtures: `lab`, a veth pair between two namespaces.

tools/suite.py runs two workers over the tests that bear company (`--part together`), a file at a time since fixtures are
shared in it, and then one over the others (`--part alone`).
"""

import contextlib
import gc
import os
import signal
import socket
import time
import uuid
from pathlib import Path

import pytest

TAG = "PYBYPASS_TEST_SESSION"
SESSION = f"{os.getpid()}-{uuid.uuid4().hex}"
TAGGED = f"{TAG}={SESSION}".encode()
GRACE_S = 3.0
# Processes that multiprocessing keeps until this one ends.
KEPT = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")

STRANGERS: set[str] = set()
"""Processes that are not ours, and cannot become so: asked once, since every test asks twice."""
OWNERS: list[str] = []
"""What the frame pools complained of."""
PHASES = pytest.StashKey[dict[str, pytest.TestReport]]()


def pytest_configure(config):
    config.addinivalue_line("markers", "root: needs root")
    config.addinivalue_line("markers", "forbidden: provokes a change of a frame's owner that debug builds complain of")
    config.addinivalue_line("markers", "alone(reason): not beside other tests")
    os.environ[TAG] = SESSION
    # A shell's background job ignores it, and so would all that the tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--part", choices=("all", "together", "alone"), default="all", help="which tests: see tests/conftest.py")


# Files that take longest: with these at the end one worker would wait for the other.
LONG = ("test_install.py", "test_labjob.py", "test_readme.py", "test_sockets.py", "test_pkt.py")


def pytest_collection_modifyitems(config, items):
    part = config.getoption("--part")
    if part != "all":
        chosen = [item for item in items if bool(item.get_closest_marker("alone")) == (part == "alone")]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen
    if part == "together":
        items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    skip_without_root(items)


def skip_without_root(items):
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


def pytest_collection_finish():
    """What was imported stays: each test's gc.collect() need not walk through it."""
    gc.collect()
    gc.freeze()


def pytest_report_header():
    import pybypass

    debug = pybypass.Umem(frames=64, pages="4k").info()["debug"]
    if os.environ.get("PB_EXPECT_DEBUG") == "1" and not debug:
        raise pytest.UsageError(f"not a debug build: {pybypass.__file__}")
    return f"pybypass: {'debug' if debug else 'release'} build"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.stash.setdefault(PHASES, {})[report.when] = report
    return report


def pytest_sessionstart():
    """Every Umem is asked at its end: are all frames free, and (debug builds) did one change its owner against the table?"""
    import pybypass
    from pybypass import ports

    class WatchedUmem(pybypass.Umem):
        made = False

        def __init__(self, **kwargs):
            self.made = True

        def __del__(self):
            if not self.made:
                return  # its construction failed
            info = self.info()
            if info["violations"]:
                OWNERS.append(f"{info['violations']} forbidden changes of a frame's owner: {info}")
            if info["owners"]["free"] != info["frames"]:
                OWNERS.append(f"frames lost, doubled or still held: {info}")

    pybypass.Umem = ports.Umem = WatchedUmem


def pytest_sessionfinish(session):
    left = leftovers()
    if left:
        session.exitstatus = 1
        print(f"\nleft at the end of the session: {left}")


# ---- what may be left ----


def live_handles() -> dict[str, int]:
    import pybypass

    return {name: count for name, count in pybypass.live_handles().items() if count}


def named_netns() -> set[str]:
    with contextlib.suppress(OSError):
        return {f"netns {name}" for name in os.listdir("/run/netns")}
    return set()


def descriptors() -> set[str]:
    """XDP programs, links and network namespaces that this process holds."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith(("anon_inode:bpf", "net:[")):
                found.add(f"descriptor {fd} {target}")
    return found


def interfaces() -> set[str]:
    return {f"interface {name}" for _, name in socket.if_nameindex()}


def processes() -> set[str]:
    """Processes that this session started, by parent or by the tag in their environment, and zombies of it."""
    me, found = os.getpid(), set()
    there = set(filter(str.isdigit, os.listdir("/proc")))
    STRANGERS.intersection_update(there)
    for pid in there - STRANGERS - {str(me)}:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            kernel, child = fields[2] == "0", int(fields[1]) == me  # the kernel's threads have no group
            environ = b"" if kernel or child else Path(f"/proc/{pid}/environ").read_bytes()
            if not child and TAGGED not in environ:
                if kernel or environ:  # in the middle of exec() there is none
                    STRANGERS.add(pid)
                continue
            if not any(word in command for word in KEPT):
                found.add(f"process {pid} {fields[0]} {command.replace(bytes(1), b' ').decode(errors='replace')[:200]}")
    return found


def on_machine() -> set[str]:
    return named_netns() | descriptors() | interfaces() | processes()


def leftovers() -> list[str]:
    gc.collect()
    return [f"{name}: {count}" for name, count in live_handles().items()] + sorted(processes() | descriptors())


def end_processes(lines: set[str]) -> None:
    """So that one test's stray is not the next one's."""
    for line in lines:
        kind, pid, *_ = line.split()
        if kind == "process":
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(autouse=True)
def nothing_left(request):
    """Live handles are zero after the test (but for those of wider fixtures), and the machine is as before it."""
    handles, machine = live_handles(), on_machine()
    yield
    failed = request.node.stash.get(PHASES, {}).get("call")
    if failed is not None and failed.failed:
        return  # the report holds the frames of the test, and they hold its objects
    request.node.funcargs.clear()  # pytest keeps what the fixtures gave until later
    gc.collect()
    deadline = time.monotonic() + GRACE_S
    while new := on_machine() - machine:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    end_processes(new)
    assert not new, f"left behind: {sorted(new)}"
    grown = {name: count for name, count in live_handles().items() if count > handles.get(name, 0)}
    assert not grown, f"live handles: {grown}, before the test: {handles}"
    complaints, OWNERS[:] = OWNERS[:], []
    if request.node.get_closest_marker("forbidden"):
        complaints = [text for text in complaints if "forbidden changes" not in text]
    assert not complaints


@pytest.fixture
def lab():
    """A veth pair between two anonymous namespaces: pybypass.lab.veth() with its defaults."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    from pybypass import lab

    with lab.veth() as pair:
        yield pair
