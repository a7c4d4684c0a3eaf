"""The AF_XDP device on a real veth pair, driven through the C test program (xsk_check.c) and through pybypass._xsk."""

import ctypes
import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from xsk_support import (
    GENERIC,
    NATIVE,
    UDP,
    Server,
    check,
    checks,
    eth,
    ip4,
    missing,
    needs_xdp,
    objdir,
    packet_socket,
    pair,
    udp,
)

pytestmark = needs_xdp
if missing() is None:
    from pybypass import lab

__all__ = ["check", "checks", "objdir", "pair"]  # fixtures


def both_ends(check, objdir, v, command, *args, timeout=60):
    argv = [str(check), command, f"dir={objdir}"]
    for name, side in (("a", v.a), ("b", v.b)):
        argv += [f"{name}.netns={side.netns.fd}", f"{name}.if={side.ifname}"]
    fds = (v.a.netns.fd, v.b.netns.fd)
    p = subprocess.run([*argv, *args], pass_fds=fds, capture_output=True, text=True, timeout=timeout)
    assert p.stderr == "", p.stderr
    result = json.loads(p.stdout)
    assert (result["own"]["free"], result["violations"]) == (result["frames"], 0), result
    return result


# ---- opening ----


def test_ladder_ends_at_native_copy(check, objdir, pair):
    """veth has no zero-copy: that rung fails at bind, the next one holds."""
    with Server(check, pair.b, objdir) as s:
        r = s.report
        assert [(g["mode"], g["copy"], g["stage"], g["errno"]) for g in r["rungs"]] == [
            ("native", 1, "bind", errno.EOPNOTSUPP),
            ("native", 2, "none", 0),
        ]
        assert (r["mode"], r["zerocopy"], r["metadata"], r["filled"]) == ("native", 0, 1, 2048)


def test_ladder_generic(check, objdir, pair):
    with Server(check, pair.b, objdir, GENERIC) as s:
        r = s.report
        assert [(g["mode"], g["errno"]) for g in r["rungs"]] == [("generic", 0)]
        assert (r["mode"], r["metadata"]) == ("generic", 0)


def test_explicit_zerocopy_is_refused(check, objdir, pair):
    with Server(check, pair.b, objdir, "copy=1") as s:
        assert (s.report["stage"], s.report["errno"]) == ("bind", errno.EOPNOTSUPP)
        assert len(s.report["rungs"]) == 1


@pytest.mark.parametrize(
    ("dropped", "stage"),
    [("-net_raw", "socket"), ("-bpf,-sys_admin", "prog_load"), ("-net_admin,-sys_admin", "prog_load")],
)
def test_missing_capability_names_its_stage(checks, objdir, pair, dropped, stage):
    wrapper = ("setpriv", f"--bounding-set={dropped}", "--inh-caps=-all")
    with Server(checks["debug"], pair.b, objdir, wrapper=wrapper) as s:
        assert s.report["stage"] == stage
        assert s.report["errno"] == errno.EPERM


def test_locked_memory_limit(checks, objdir, pair):
    wrapper = ("prlimit", "--memlock=65536", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-all")
    with Server(checks["debug"], pair.b, objdir, wrapper=wrapper) as s:
        assert (s.report["stage"], s.report["errno"]) == ("umem", errno.ENOBUFS)


# ---- moving frames ----


@pytest.mark.parametrize("mode", [NATIVE, GENERIC])
@pytest.mark.parametrize("build", ["plain", "asan"])
def test_echo_keeps_every_byte(checks, objdir, pair, mode, build):
    """100,000 frames there and back in the same UMEM frame: each once, unchanged, none lost."""
    r = both_ends(checks[build], objdir, pair, "echo", "count=100000", mode)
    assert (r["sent"], r["turned"], r["got"], r["bad"], r["twice"]) == (100000, 100000, 100000, 0, 0)
    for side in (r["a"], r["b"]):
        assert (side["rx_pkts"], side["tx_pkts"], side["rx_bytes"]) == (100000, 100000, 6400000)
        assert side["drops"] == {}
        assert side["fill_empty"] == 0
        assert side["meta_missing"] == 0
    print(f"{mode} {build}: {r['pps']:.0f} round trips/s")


@pytest.mark.parametrize(
    "how", [["sockets=4"], ["sg=1"], ["headroom=64", "tx_meta=1"], ["unaligned=1", "frame_bytes=3072"], ["busy_poll=20"]]
)
def test_echo_in_every_way_of_receiving(check, objdir, pair, how):
    """The same under ASan and the table of owners: rings with a duty, packets of several frames, odd layouts."""
    r = both_ends(check, objdir, pair, "echo", "count=20000", *how)
    assert (r["sent"], r["turned"], r["got"], r["bad"], r["twice"]) == (20000, 20000, 20000, 0, 0)
    for side in (r["a"], r["b"]):
        assert (side["drops"], side["meta_missing"]) == ({}, 0)


@pytest.mark.parametrize("build", ["tsan", "asan"])
def test_threads_share_a_queue(checks, objdir, pair, build):
    """Four sockets on one queue, each received from, sent on and at last closed by a thread of its own, with packets under
    way: no data race, every byte as it was, every frame free at the end (both_ends() asserts that)."""
    r = both_ends(checks[build], objdir, pair, "threads", "count=20000", "b.sockets=4")
    assert (r["sent"], r["got"], r["bad"], r["twice"], r["bad_there"]) == (20000, 20000, 0, 0, 0)
    assert len(r["turned"]) == 4 and min(r["turned"]) > 20000 / 4 / 2
    assert r["a"]["drops"] == {}


@pytest.mark.parametrize(
    "how", [[], [GENERIC], ["sg=1"], ["sockets=2"], ["unaligned=1", "frame_bytes=3072"], ["tx_meta=1"], ["ring=64"]]
)
def test_a_frame_several_times(check, objdir, pair, how):
    """The same frame on the TX ring up to 16 times, each time behind another header: the kernel sends each as one packet and
    completes each once; a socket that takes no chains sends them, and gets them whole."""
    r = both_ends(check, objdir, pair, "again", "count=5000", *how)
    assert (r["bad"], r["extra"]) == (0, 0)
    assert r["got"] == r["sent"] >= 5000
    assert r["chained"] > 1500 and r["most"] > 6
    assert (r["a"]["drops"], r["b"]["drops"]) == ({}, {})


def test_small_rings(check, objdir, pair):
    r = both_ends(check, objdir, pair, "echo", "count=20000", "ring=64")
    assert (r["got"], r["bad"], r["twice"]) == (20000, 0, 0)


def test_second_queue(check, objdir):
    """veth receives on the queue that was sent on; the program redirects to the socket of that queue."""
    with lab.veth(queues=2) as v:
        r = both_ends(check, objdir, v, "echo", "count=20000", "queue=1")
        assert (r["got"], r["bad"], r["twice"]) == (20000, 0, 0)


def test_flood_is_received_or_counted(check, objdir, pair):
    """What is sent arrives or is in a drop counter, and with a fill ring larger than the RX ring the kernel never
    lacks a frame, whether the receiver keeps up or stalls."""
    r = both_ends(check, objdir, pair, "flood", "count=200000", "fill=4096", "frames=16384")
    before = {"got": 0, "rx_ring": 0, "tx_full": 0}
    for phase in (r, r["stalled"]):
        rx_ring = phase["b"]["drops"].get("rx_ring", 0)
        tx_full = phase["a"]["drops"].get("tx_full", 0)
        lost = rx_ring - before["rx_ring"] + tx_full - before["tx_full"]
        assert phase["sent"] == 200000 == phase["got"] + lost
        assert phase["bad"] == 0
        assert phase["b"]["fill_empty"] == 0
        assert phase["b"]["fill_low"] >= 4096 // 2
        before = {"rx_ring": rx_ring, "tx_full": tx_full}
    assert r["stalled"]["got"] == 2048, "what the RX ring holds"


def test_an_empty_pool_is_counted_and_recovers(check, objdir, pair):
    """A pool of 64 frames: half goes to the fill ring, and the rest cannot make up for held frames."""
    with Server(check, pair.b, objdir, "frames=64", "ring=64") as s, packet_socket(pair.a) as a:
        assert s.report["filled"] == 32
        assert s.steer("add", 0) == 0
        for i in range(100):
            a.send(eth(ip4(udp(1, 2, b"%03d" % i), UDP)))
        got = s.rx(200, 50)
        assert len(got) == 32
        st = s("stats")
        assert st["drops"] == {"rx_ring": 68}
        assert st["fill_empty"] == 68
        a.send(eth(ip4(udp(1, 2, b"after"), UDP)))
        assert s.rx(1, 1000)[0]["data"].endswith(b"after")


def test_close_and_reopen(check, objdir, pair):
    """50 times with frames in every ring: all come back at close, and a queue still busy is tried again."""
    r = both_ends(check, objdir, pair, "reopen", "count=50", timeout=120)
    assert (r["ok"], r["rounds"], r["got"], r["bad"], r["lost"]) == (1, 50, 400, 0, 0)


def test_refused_descriptors_come_back(check, objdir, pair):
    good = eth(b"x" * 50, 0x88B5)
    with Server(check, pair.b, objdir) as s, packet_socket(pair.a) as a:
        assert s.tx(good[:13])["sent"] == 1
        assert s.tx(good, flags=1 << 3)["sent"] == 1, "PB_DESC_MORE without scatter-gather"
        assert s.tx(good, off=2040)["sent"] == 1, "beyond the end of the frame"
        assert s.tx(eth(b"x" * 1505, 0x88B5, tags=[(0x8100, 5)]))["sent"] == 1, "above the MTU"
        assert s.tx(eth(b"x" * 1500, 0x88B5, tags=[(0x8100, 5)]), off=100)["sent"] == 1
        assert s("reap")["reaped"] == 5
        st = s("stats")
        assert st["drops"] == {"tx_bad": 3, "too_long": 1}
        assert st["tx_pkts"] == 1
        assert st["own"]["tx"] == 0
        time.sleep(0.01)
        seen = a.recv(2000)
        assert seen.endswith(b"x" * 1500)


def test_interface_down_and_up(check, objdir, pair):
    from pyroute2 import IPRoute

    def set_state(state):
        with IPRoute() as ip:
            ip.link("set", index=pair.b.ifindex, state=state)

    frame = eth(b"x" * 50, 0x88B5)
    with Server(check, pair.b, objdir) as s:
        assert s("stats")["link_up"] == 1
        pair.b.netns.run(set_state, "down")
        assert s.tx(frame)["ret"] == 1, "taken before anything is known"
        assert s.tx(frame)["ret"] == -errno.ENETDOWN
        st = s("stats")
        assert (st["link_up"], st["tx_pending"]) == (0, 1)
        pair.b.netns.run(set_state, "up")
        assert s.tx(frame)["ret"] == 1
        assert s("reap")["reaped"] == 2
        assert s("stats")["link_up"] == 1


def test_interface_removed(check, objdir, pair):
    from pyroute2 import IPRoute

    def remove():
        with IPRoute() as ip:
            ip.link("del", index=pair.a.ifindex)

    with Server(check, pair.b, objdir) as s:
        pair.a.netns.run(remove)
        assert s("rx 1 100 5")["ret"] == -errno.ENODEV, "an idle receiver finds out, though it looks seldom"
        assert s.tx(eth(b"x" * 50, 0x88B5))["ret"] < 0
        assert s("stats")["link_up"] == 0


# ---- pybypass._xsk ----


@pytest.fixture
def xsk():
    return pytest.importorskip("pybypass._xsk", reason="pybypass._xsk is not built (libbpf, libxdp)")


@pytest.fixture
def pool():
    """A pool capsule from the library that the extensions use; at the end every frame must be free."""
    import pybypass

    core = ctypes.CDLL(str(Path(pybypass.__file__).parent / "libpbcore.so"))
    core.pb_pool_create.restype = ctypes.c_void_p
    err = ctypes.c_int()
    p = core.pb_pool_create(8192, 2048, 3, ctypes.byref(err))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    name = b"pybypass.pb_pool.v1"
    yield new(p, name, None)
    info = (ctypes.c_int64 * 32)()
    core.pb_pool_info(ctypes.c_void_p(p), ctypes.byref(info))
    assert info[0] == info[5] == 8192, "frames, frames that are free"
    core.pb_pool_unref(ctypes.c_void_p(p))
    core.pb_handles_live.restype = ctypes.c_int64
    assert [core.pb_handles_live(k) for k in (0, 1, 3)] == [0, 0, 0], "regions, pools, devices"


def test_open_device(xsk, pool, objdir, pair):
    with pair.b.netns:
        dev, program, report = xsk.open_device("pbb", 0, pool, objdir=objdir)
    assert report["mode"] == "native"
    assert report["metadata"]
    assert not report["zerocopy"]
    assert report["rungs"][0]["stage"] == "bind"
    assert "zero copy" in report["rungs"][0]["text"]
    assert program.info()["attached"]
    assert program.info()["prog_id"] == report["prog_id"]
    program.steer_add(6, "10.77.0.2", 80)
    program.steer_add(17, "fd77::2", 10, 20)
    program.steer_add(0)
    rules = [(0, None, 0, 0, 1), (6, "10.77.0.2", 80, 80, 1), (17, "fd77::2", 10, 20, 1)]
    assert sorted(program.steer_list()) == rules
    assert program.counters() == dict.fromkeys(("redirected", "passed", "icmp_redirected", "meta_failed", "dropped"), 0)
    assert xsk.device_info(dev)["fill_posted"] == 2048
    xsk.close_device(dev)
    with pytest.raises(ValueError):
        xsk.close_device(dev)
    program.close()
    with pytest.raises(ValueError):
        program.counters()


def test_two_queues_share_one_program(xsk, pool, objdir):
    with lab.veth(queues=2) as v:
        with v.b.netns:
            d0, p0, r0 = xsk.open_device("pbb", 0, pool, objdir=objdir)
            d1, p1, r1 = xsk.open_device("pbb", 1, pool, objdir=objdir)
        assert r0["prog_id"] == r1["prog_id"]
        assert r0["rx_queues"] == 2
        p0.steer_add(6, None, 80)
        assert p1.steer_list() == [(6, None, 80, 80, 1)]
        with v.a.netns, pytest.raises(OSError) as e:  # same names and queues, another namespace: another program
            xsk.open_device("pbb", 0, pool, objdir=objdir)
        assert e.value.errno == errno.ENODEV
        with v.b.netns, pytest.raises(OSError) as e:
            xsk.open_device("pbb", 0, pool, objdir=objdir, mode="generic")
        assert (e.value.errno, e.value.stage) == (errno.EBUSY, "prog_busy")
        xsk.close_device(d0)
        p0.close()
        assert p1.info()["attached"]
        xsk.close_device(d1)
        p1.close()
        with v.b.netns:
            xsk.XdpProgram(v.b.ifindex, "generic", objdir).close()


def fails(xsk, pool, side, objdir, err, stage, *, ifname="pbb", queue=0, **kwargs):
    with side.netns, pytest.raises(OSError) as e:
        xsk.open_device(ifname, queue, pool, objdir=objdir, **kwargs)
    assert (e.value.errno, e.value.stage) == (err, stage), e.value
    assert e.value.report["stage"] == stage
    assert e.value.report["text"] == e.value.strerror
    return e.value


def test_errors_name_their_stage(xsk, pool, objdir, pair, tmp_path):
    b = pair.b
    fails(xsk, pool, b, objdir, errno.ENODEV, "iface", ifname="nosuch0")
    e = fails(xsk, pool, b, objdir, errno.EINVAL, "queue", queue=7)
    assert "1 RX" in str(e)
    fails(xsk, pool, b, objdir, errno.EINVAL, "config", rx_ring=1000)
    fails(xsk, pool, b, objdir, errno.EINVAL, "config", comp_ring=1024)
    fails(xsk, pool, b, objdir, errno.EINVAL, "config", mode="generic", copy="zerocopy")
    fails(xsk, pool, b, tmp_path, errno.ENOENT, "prog_file")
    (tmp_path / "pb_xdp_generic.bpf.o").write_bytes(b"not an object")
    fails(xsk, pool, b, tmp_path, errno.ENOEXEC, "prog_file", mode="generic")
    with b.netns, pytest.raises(ValueError):
        xsk.open_device("pbb", 0, pool, objdir=objdir, mode="fast")
    with pytest.raises(ValueError):
        xsk.open_device("pbb", 0, object(), objdir=objdir)
    with b.netns:  # nothing stayed attached
        xsk.XdpProgram(b.ifindex, "generic", objdir).close()


def test_interface_that_is_down(xsk, pool, objdir, pair):
    from pyroute2 import IPRoute

    def down():
        with IPRoute() as ip:
            ip.link("set", index=pair.b.ifindex, state="down")

    pair.b.netns.run(down)
    fails(xsk, pool, pair.b, objdir, errno.ENETDOWN, "iface")


def test_mtu_that_does_not_fit(xsk, pool, objdir):
    with lab.veth(mtu=2000) as v:
        e = fails(xsk, pool, v.b, objdir, errno.EMSGSIZE, "mtu", sg="off")
        assert "1774" in str(e)
    with lab.veth(mtu=1774) as v, v.b.netns:
        dev, program, _ = xsk.open_device("pbb", 0, pool, objdir=objdir)
        xsk.close_device(dev)
        program.close()


def test_busy_queue_and_foreign_program(xsk, pool, objdir, pair, check):
    with pair.b.netns:
        dev, program, _ = xsk.open_device("pbb", 0, pool, objdir=objdir)
    start = time.monotonic()
    e = fails(xsk, pool, pair.b, objdir, errno.EBUSY, "bind", deadline_ms=100)
    assert 0.1 <= time.monotonic() - start < 20
    assert e.report["bind_retries"] > 2
    assert program.info()["attached"], "the failure took nothing away"
    xsk.close_device(dev)
    program.close()
    with Server(check, pair.b, objdir) as s:
        assert s.report["stage"] == "none"
        e = fails(xsk, pool, pair.b, objdir, errno.EBUSY, "bind")
        assert "queue 0, by another process" in str(e)


def test_foreign_program_on_another_queue(xsk, pool, objdir, check):
    with lab.veth(queues=2) as v, Server(check, v.b, objdir) as s:
        assert s.report["stage"] == "none"
        e = fails(xsk, pool, v.b, objdir, errno.EBUSY, "prog_busy", queue=1)
        assert "another XDP program (id" in str(e)


def test_program_goes_with_a_killed_process(xsk, pool, objdir, pair, check):
    s = Server(check, pair.b, objdir)
    s.process.kill()
    s.process.communicate()
    with pair.b.netns:
        dev, program, report = xsk.open_device("pbb", 0, pool, objdir=objdir)
    assert report["mode"] == "native"
    xsk.close_device(dev)
    program.close()
