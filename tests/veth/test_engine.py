"""The engine on AF_XDP against the kernel's sockets: data, coexistence, ports held, ICMP, impaired links, errors."""

import contextlib
import errno
import ipaddress
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import eventually, exchange, in_child, kernel_connect, kernel_listener

import pybypass as pb
from pybypass import lab as laboratory
from pybypass._wire import internet_checksum

pytestmark = pytest.mark.root


@contextlib.contextmanager
def engine_on(side, *, impair=None, ip=None, query="", **how):
    extra = {"impair_rx": impair[0], "impair_tx": impair[1]} if impair else {}
    with pb.open(f"xdp:{side.ifname}{query}", netns=side.netns, **extra) as port:
        with pb.Engine(port, ip=ip or side.ip, **how) as engine:
            yield engine
        info = port.umem.info()
        assert info["owners"]["free"] == info["frames"], info
        assert info["violations"] == 0


def snmp(side, name):
    with side.netns:
        text = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii")
    for header, values in re.findall(r"^Tcp: (\D.*)\nTcp: (.*)$", text, re.M):
        return int(values.split()[header.split().index(name)])


# ---- data ----


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("how", ["thread", "inline"])
def test_active_and_passive(lab, mode, how):
    with (
        kernel_listener(lab.b, 5000) as server,
        engine_on(lab.a, query=f"?mode={mode}", inline=how == "inline") as engine,
    ):
        assert engine.port.mode == f"{mode} copy"
        ours = engine.connect((lab.b.ip, 5000), timeout=5)
        exchange(ours, server.accept()[0], 2 << 20)
        with engine.listen(6000) as listener, ThreadPoolExecutor() as pool:
            theirs = pool.submit(kernel_connect, lab.b, (lab.a.ip, 6000))
            ours = listener.accept(5)
            exchange(ours, theirs.result(), 2 << 20)
        stats = engine.stats()
        assert stats["resets_in"] == stats["resets_out"] == 0
    assert snmp(lab.a, "OutRsts") == 0


def test_ipv6():
    with laboratory.veth(ipv6=True) as lab:
        with kernel_listener(lab.b, 5000, lab.b.ip6) as server, engine_on(lab.a, ip=lab.a.ip6) as engine:
            ours = engine.connect((lab.b.ip6, 5000), timeout=5)
            assert ours.getpeername()[0] == lab.b.ip6
            exchange(ours, server.accept()[0], 1 << 20)
            with engine.listen(6000) as listener, ThreadPoolExecutor() as pool:
                theirs = pool.submit(kernel_connect, lab.b, (lab.a.ip6, 6000))
                exchange(listener.accept(5), theirs.result(), 1 << 20)


def test_many_clients_at_once(lab):
    def serve(listener):
        for _ in range(20):
            s = listener.accept(10)
            s.settimeout(10)
            threading.Thread(target=echo, args=(s,)).start()

    def echo(s):
        with s:
            while data := s.recv(65536):
                s.sendall(data)
            with contextlib.suppress(OSError):  # the test may be over
                s.shutdown(socket.SHUT_WR)

    def client(i):
        with kernel_connect(lab.b, (lab.a.ip, 7000)) as s:
            data = os.urandom(20000)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            got = b""
            while piece := s.recv(65536):
                got += piece
            return got == data

    with engine_on(lab.a) as engine, engine.listen(7000) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        with ThreadPoolExecutor(10) as pool:
            assert all(pool.map(client, range(20)))
        server.join()


# ---- living with the kernel ----


def test_ping_and_a_kernel_connection_stay_alive_through_our_transfer(lab):
    with kernel_listener(lab.b, 5000) as server, kernel_listener(lab.a, 8000) as native, engine_on(lab.a) as engine:
        theirs = kernel_connect(lab.b, (lab.a.ip, 8000))  # kernel to kernel, on the same interface
        native_side = native.accept()[0]
        ping = lab.b.netns.popen(
            ["ping", "-i", "0.02", "-c", "20", "-w", "10", lab.a.ip], stdout=subprocess.PIPE, text=True
        )
        ours = engine.connect((lab.b.ip, 5000), timeout=5)
        far = server.accept()[0]
        stop = threading.Event()
        lines = []

        def chat():
            while not stop.is_set():
                theirs.sendall(b"kernel to kernel")
                assert native_side.recv(100) == b"kernel to kernel"
                lines.append(1)
                time.sleep(0.002)

        t = threading.Thread(target=chat)
        t.start()
        exchange(ours, far, 32 << 20)
        out, _ = ping.communicate()
        stop.set()
        t.join()
        theirs.close()
        native_side.close()
        assert " 0% packet loss" in out, out
        assert len(lines) > 10
        assert engine.port.program.counters()["passed"] > 40


def test_local_ports_are_held_against_the_kernel(lab):
    with kernel_listener(lab.b, 5000) as server, kernel_listener(lab.a, 8000):
        with engine_on(lab.a, config=pb.EngineConfig(time_wait=0.3)) as engine:
            with pytest.raises(pb.PybypassError) as caught:
                engine.listen(8000)  # the kernel has it
            assert caught.value.code == "PB042"
            with engine.listen(6000):
                with pytest.raises(OSError) as refused:
                    kernel_listener(lab.a, 6000)
                assert refused.value.errno == errno.EADDRINUSE
            eventually(lambda: not len(engine._holds))
            kernel_listener(lab.a, 6000).close()  # given back
            ours = engine.connect((lab.b.ip, 5000), timeout=5)
            local = ours.getsockname()[1]
            far = server.accept()[0]
            ours.shutdown(socket.SHUT_WR)
            far.close()
            assert ours.wait_closed(5)
            assert ours.info()["state"] == "TIME_WAIT"
            ours.close()
            key = ipaddress.ip_address(lab.a.ip), local
            assert key in engine._holds  # through TIME_WAIT
            assert [r[2] for r in engine.port.program.steer_list()] == [local]
            eventually(lambda: key not in engine._holds)
            assert engine.port.program.steer_list() == []
    assert snmp(lab.a, "OutRsts") == 0


def test_address_must_be_on_the_interface(lab):
    with pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port:
        with pytest.raises(pb.PybypassError) as caught:
            pb.Engine(port, ip="10.99.0.1")
        assert caught.value.code == "PB041"
        assert "ADDRESS/N" in caught.value.hint
        with pb.Engine(port) as engine:  # all of them
            assert [str(i) for i in engine.interfaces] == [f"{lab.a.ip}/24"]


def test_refused_by_the_kernel(lab):
    with engine_on(lab.a) as engine, pytest.raises(ConnectionRefusedError):
        engine.connect((lab.b.ip, 9), timeout=5)


def test_no_such_neighbour(lab):
    with engine_on(lab.a) as engine, pytest.raises(TimeoutError):
        engine.connect(("10.77.0.99", 80), timeout=0.5)


# ---- ICMP about our segments ----


def test_unreachable_from_a_router_ends_the_attempt(lab):
    with lab.b.netns:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
    with engine_on(lab.a, gw=lab.b.ip) as engine:
        with pytest.raises(OSError) as caught:
            engine.connect(("10.200.0.1", 80), timeout=5)  # the router has no route
        assert caught.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        assert engine.port.program.counters()["icmp_redirected"] >= 1


def frag_needed(side, to, mtu, quoted_src, quoted_dst, sport, dport, seq):
    """Sends ICMP type 3 code 4 that quotes a segment."""

    def addr(ip):
        return socket.inet_aton(ip)

    quoted = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 1500, 1, 0x4000, 64, 6, 0, addr(quoted_src), addr(quoted_dst))
    quoted = quoted[:10] + internet_checksum(quoted).to_bytes(2, "big") + quoted[12:]
    body = struct.pack(">HH", 0, mtu) + quoted + struct.pack(">HHI", sport, dport, seq)
    message = b"\x03\x04\0\0" + body
    message = message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]
    with side.netns, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.sendto(message, (to, 0))


def test_frag_needed_reduces_the_segment_size_if_it_quotes_what_is_in_flight(lab):
    with kernel_listener(lab.b, 5000) as server, engine_on(lab.a, inline=True) as engine:
        ours = engine.connect((lab.b.ip, 5000), timeout=5)
        far = server.accept()[0]
        local = ours.getsockname()[1]
        engine.capture_start(1 << 20)
        ours.sendall(bytes(1000))
        assert ours.wait_sent(5)
        data, _, _ = engine.capture_stop()
        from pybypass import pcap

        sent = [p for _, out, p in pcap.records(data) if out and len(p) > 500]
        seq = int.from_bytes(sent[-1][38:42], "big")
        frag_needed(lab.b, lab.a.ip, 1000, lab.a.ip, lab.b.ip, local, 5000, seq)  # acknowledged: not in flight
        eventually(lambda: engine.poll() or engine.stats()["drops"].get("icmp_bad"))
        assert ours.info()["mss"] == 1448
        # In flight: the peer's window is closed by not reading... so send to a peer that cannot answer.
        engine.neighbour(lab.b.ip, "02:00:00:00:00:99")
        ours.sendall(bytes(5000))
        frag_needed(lab.b, lab.a.ip, 1000, lab.a.ip, lab.b.ip, local, 5000, seq + 1000)
        eventually(lambda: engine.poll() or ours.info()["mss"] == 1000 - 52)
        engine.neighbour(lab.b.ip, lab.b.mac)
        got = 0
        far.settimeout(10)
        t = threading.Thread(target=lambda: ours.wait_sent(10))
        t.start()
        while got < 6000:
            got += len(far.recv(65536))
        t.join()
        far.close()
        ours.close()


# ---- impaired links ----


def impaired_run(seed):
    link = {
        "loss_ppm": 10000, "dup_ppm": 10000, "corrupt_ppm": 10000, "reorder_ppm": 10000,
        "reorder_ns": 400_000, "delay_ns": 50_000,
    }  # fmt: skip
    impair = pb.Impairment(**link, seed=seed), pb.Impairment(**link, seed=seed + 1_000_000)
    with laboratory.veth() as lab, kernel_listener(lab.b, 5000) as server:
        with engine_on(lab.a, impair=impair, query="?frames=4096", config=pb.EngineConfig(time_wait=0.1)) as engine:
            if seed & 1:
                ours = engine.connect((lab.b.ip, 5000), timeout=30)
                far = server.accept()[0]
            else:
                with engine.listen(6000) as listener, ThreadPoolExecutor() as pool:
                    theirs = pool.submit(kernel_connect, lab.b, (lab.a.ip, 6000))
                    ours = listener.accept(30)
                    far = theirs.result()
            exchange(ours, far, 150_000)
            drops = engine.stats()["drops"]
            return drops.get("link_loss", 0) + drops.get("tcp_csum", 0)


def test_bytes_survive_impaired_links_to_the_kernel_100_seeds():
    """Loss, reordering, duplication and corruption of 1 % each, both ways; the seed of a failure is in its traceback."""
    with ThreadPoolExecutor(4) as pool:
        hurt = list(pool.map(impaired_run, range(100)))
    assert sum(hurt) > 300  # the links did lose and corrupt
    assert sum(1 for n in hurt if n) > 60


# ---- raw ports: what a frame says of itself ----


def test_descriptors_carry_hash_and_time(lab):
    with pb.open(f"xdp:{lab.a.ifname}?steer=udp", netns=lab.a.netns) as port:
        with lab.b.netns, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for i in range(20):
                s.sendto(b"datagram %d" % i, (lab.a.ip, 4000 + i))
        frames, hashes = [], set()
        until = time.monotonic() + 5
        while len(frames) < 20 and time.monotonic() < until:
            with port.rx_burst() as burst:
                desc = burst.desc
                for i in range(len(burst)):
                    frames.append(bytes(burst.payload(i))[42:])
                    hashes.add(int(desc["hash"][i]))
                    assert pb.TS_SOURCES[desc["ts_source"][i]] == "xdp"
                    assert abs(int(desc["ts_ns"][i]) - time.clock_gettime_ns(time.CLOCK_TAI)) < 5_000_000_000
                    assert pb.HASH_TYPES[desc["hash_type"][i]] != "none"
        assert frames == [b"datagram %d" % i for i in range(20)]
        assert port.report["metadata"]
        assert any(hashes)
        assert port.queues[0].fileno() > 0


# ---- what can go wrong at opening ----


def code_of(uri, **how):
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(uri, **how)
    assert caught.value.hint
    assert caught.value.errno
    return caught.value.code, caught.value.errno


def test_opening_errors(lab):
    ns = {"netns": lab.a.netns}
    name = lab.a.ifname
    assert code_of("xdp:nosuch0", **ns) == ("PB020", errno.ENODEV)
    assert code_of(f"xdp:{name}?queue=7", **ns) == ("PB022", errno.EINVAL)
    assert code_of(f"xdp:{name}?copy=zerocopy", **ns) == ("PB028", errno.EOPNOTSUPP)
    assert code_of(f"xdp:{name}?steer=sctp", **ns)[0] == "PB010"
    with pb.open(f"xdp:{name}", **ns):
        assert code_of(f"xdp:{name}?deadline_ms=50", **ns) == ("PB023", errno.EBUSY)
    subprocess.run(["nsenter", f"--net=/proc/self/fd/{lab.a.netns.fd}", "ip", "link", "set", name, "down"],
                   pass_fds=[lab.a.netns.fd], check=True)  # fmt: skip
    assert code_of(f"xdp:{name}", **ns) == ("PB021", errno.ENETDOWN)


def test_mtu_larger_than_a_frame():
    with laboratory.veth(mtu=3000) as lab:
        assert code_of(f"xdp:{lab.a.ifname}?sg=off", netns=lab.a.netns) == ("PB027", errno.EMSGSIZE)
        with pb.open(f"xdp:{lab.a.ifname}?frame=4096", netns=lab.a.netns) as port:
            assert port.mtu == 3000


def test_without_privilege(lab):
    def attempt():
        lab.a.netns.__enter__()
        os.setgid(65534)
        os.setuid(65534)
        try:
            pb.open(f"xdp:{lab.a.ifname}")
        except pb.PybypassError as e:
            return f"{e.code} {isinstance(e, PermissionError)} {'CAP_' in e.hint}"

    assert in_child(attempt) == "PB025 True True"


def test_memlock_too_small(lab):
    program = (
        "import pybypass as pb, sys\n"
        "try:\n    pb.open(sys.argv[1])\n"
        "except pb.PybypassError as e:\n    print(e.code, e.errno, 'ulimit' in e.hint)\n"
    )
    limited = ["prlimit", "--memlock=65536", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-all"]
    paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
    child = lab.a.netns.popen(
        [*limited, sys.executable, "-c", program, f"xdp:{lab.a.ifname}"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    out, _ = child.communicate(timeout=20)
    code, number, advised = out.split()
    assert (code, advised) == ("PB026", "True")
    assert int(number) in (errno.ENOBUFS, errno.ENOMEM, errno.EPERM)


def test_another_xdp_program_is_attached(lab):
    from pybypass._xsk import XdpProgram

    # Another process of ours, without a socket on the queue, is as good as a stranger's.
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        with lab.a.netns:
            program = XdpProgram(lab.a.ifindex)
            os.write(w, b"x")
            time.sleep(30)
            program.close()
        os._exit(0)
    os.read(r, 1)
    try:
        assert code_of(f"xdp:{lab.a.ifname}", netns=lab.a.netns) == ("PB024", errno.EBUSY)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(r)
        os.close(w)
    pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns).close()


def test_nothing_is_left_after_errors_and_the_next_open_works(lab):
    for uri in ("xdp:{}?copy=zerocopy", "xdp:{}?queue=9", "xdp:{}?steer=nonsense"):
        code_of(uri.format(lab.a.ifname), netns=lab.a.netns)
    import gc

    gc.collect()
    assert not any(pb.live_handles().values())
    with lab.a.netns:
        shown = subprocess.run(["ip", "-d", "link", "show", lab.a.ifname], capture_output=True, text=True, check=True)
    assert "xdp" not in shown.stdout
    with engine_on(lab.a):
        pass
