"""What happens to a port whose interface is removed, renamed, set down, changed or flooded while it is in use."""

import contextlib
import errno
import ipaddress
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import lab as laboratory
from pybypass import nic

sys.path.insert(0, str(Path(__file__).parent))
from xsk_support import UDP, eth, ip4, packet_socket, udp

pytestmark = pytest.mark.root
FRAME = eth(ip4(udp(1, 2, b"x" * 40), UDP))


def link(side, verb, **what):
    from pyroute2 import IPRoute

    def change():
        with IPRoute() as ip:
            ip.link(verb, index=side.ifindex, **what)

    side.netns.run(change)


def attached(side):
    """Whether the kernel shows an XDP program on the interface."""
    shown = subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{side.netns.fd}", "ip", "-d", "link", "show", side.ifname],
        pass_fds=[side.netns.fd], capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return "xdp" in shown


def all_free(umem):
    info = umem.info()
    return info["owners"]["free"] == info["frames"] and not info["violations"]


def arrives(port, wire, queue=0, seconds=5.0):
    """A frame sent by the other end comes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        wire.send(FRAME)
        with port.queues[queue].rx_burst() as burst:
            if len(burst):
                return True
    return False


def member_of(port):
    """The socket that FRAME comes to."""
    source, target = ((ipaddress.ip_address(a), p) for a, p in (("10.77.0.1", 1), ("10.77.0.2", 2)))
    return port.member_of(source, target)


def drain(port):
    for queue in port.queues:
        while True:
            with queue.rx_burst() as burst:
                if not burst:
                    break


@pytest.mark.parametrize("query", ["", "&sockets=3", "&busy_poll=20"])
def test_interface_removed(query):
    with laboratory.veth() as v:
        with pb.open(f"xdp:{v.b.ifname}?steer=all{query}", netns=v.b.netns) as port, packet_socket(v.a) as wire:
            assert arrives(port, wire, queue=0 if "sockets" not in query else member_of(port))
            umem, held = port.umem, port.alloc_burst(4, length=60)
            link(v.a, "del")
            for queue in port.queues:
                until = time.monotonic() + 5
                with pytest.raises(pb.PybypassError) as caught:
                    while time.monotonic() < until:
                        queue.rx_burst().release()
                assert (caught.value.code, caught.value.errno) == ("PB033", errno.ENODEV)
                assert caught.value.hint
            with pytest.raises(pb.PybypassError) as caught:
                while time.monotonic() < until:
                    port.tx_burst(held)
            assert (caught.value.code, caught.value.errno) == ("PB033", errno.ENODEV)
            assert not port.queues[0].link_up
            held.release()
        assert all_free(umem)


def test_interface_removed_under_an_engine():
    with laboratory.veth() as v:
        with pb.open(f"xdp:{v.b.ifname}", netns=v.b.netns) as port, pb.Engine(port, ip=v.b.ip) as engine:
            umem = port.umem
            with engine.listen(80) as listener:
                link(v.a, "del")
                with pytest.raises(pb.PybypassError) as caught:
                    listener.accept(5)
                assert caught.value.code == "PB033"
        assert all_free(umem)


def test_interface_renamed(lab):
    """A port is bound to the interface, not to its name; the next one is opened by the new name."""
    with pb.open(f"xdp:{lab.b.ifname}?steer=all", netns=lab.b.netns) as port, packet_socket(lab.a) as wire:
        link(lab.b, "set", ifname="other0")
        assert arrives(port, wire)
        with port.alloc_burst(1) as burst:
            burst.write(0, FRAME)
            assert port.tx_burst(burst) == 1
        assert port.local_networks(), "asked by index"
        with pytest.raises(pb.PybypassError) as caught:
            pb.open(f"xdp:{lab.b.ifname}", netns=lab.b.netns)
        assert caught.value.code == "PB020"
        with pytest.raises(pb.PybypassError) as caught:
            pb.open("xdp:other0?deadline_ms=20", netns=lab.b.netns)
        assert caught.value.code == "PB023"
        drain(port)
        umem = port.umem
    assert all_free(umem)
    pb.open("xdp:other0", netns=lab.b.netns).close()


@pytest.mark.parametrize("query", ["", "&sockets=2&rss=toeplitz", "&tx_meta=1"])
def test_interface_down_and_up(lab, query):
    with pb.open(f"xdp:{lab.b.ifname}?steer=all{query}", netns=lab.b.netns) as port, packet_socket(lab.a) as wire:
        queue = member_of(port) if "sockets" in query else 0
        assert arrives(port, wire, queue)
        link(lab.b, "set", state="down")
        burst = port.alloc_burst(2, length=60)
        until = time.monotonic() + 5
        with pytest.raises(pb.PybypassError) as caught:
            while time.monotonic() < until:
                if not len(burst):
                    burst = port.alloc_burst(2, length=60)
                port.tx_burst(burst)
        assert (caught.value.code, caught.value.errno) == ("PB033", errno.ENETDOWN)
        burst.release()
        port.stats()
        assert not port.queues[0].link_up
        link(lab.b, "set", state="up")
        until = time.monotonic() + 5
        while True:  # the same port goes on
            with contextlib.suppress(pb.PybypassError), port.alloc_burst(1) as again:
                again.write(0, FRAME)
                if port.tx_burst(again) == 1:
                    break
            assert time.monotonic() < until
        assert arrives(port, wire, queue)
        port.stats()
        assert port.queues[0].link_up
        drain(port)
        umem = port.umem
    assert all_free(umem)
    assert not attached(lab.b)


def test_number_of_queues_is_kept_while_a_socket_is_bound():
    """The kernel refuses to take a queue away that has a socket, and the refusal is typed; others may go."""
    with laboratory.veth(queues=4) as v:
        with pb.open(f"xdp:{v.b.ifname}?queue=0,2&steer=all", netns=v.b.netns) as port, packet_socket(v.a) as wire:
            with pytest.raises(pb.PybypassError) as caught:
                nic.set_channels(v.b.ifname, rx=2, tx=2, netns=v.b.netns)
            assert caught.value.errno == errno.EINVAL
            assert caught.value.code in ("PB070", "PB072")
            assert nic.channels(v.b.ifname, netns=v.b.netns).rx == 4
            assert arrives(port, wire) or arrives(port, wire, 1)
            drain(port)
        until = time.monotonic() + 5
        while nic.channels(v.b.ifname, netns=v.b.netns).rx != 2:  # the kernel lets go of a queue some time after close()
            with contextlib.suppress(pb.PybypassError):
                nic.set_channels(v.b.ifname, rx=2, tx=2, netns=v.b.netns)
            assert time.monotonic() < until
        with pytest.raises(pb.PybypassError) as caught:
            pb.open(f"xdp:{v.b.ifname}?queue=0,2", netns=v.b.netns)
        assert caught.value.code == "PB022"
        pb.open(f"xdp:{v.b.ifname}?queue=0,1", netns=v.b.netns).close()


def test_a_second_process_on_the_same_queue():
    """Refused with its reason, on the same queue and on another one; the first is not disturbed."""
    program = """if True:
        import sys
        import pybypass as pb
        for uri in sys.argv[1:]:
            try:
                pb.open(uri).close()
            except pb.PybypassError as e:
                print(e.code)
            else:
                print("opened")
    """
    with laboratory.veth(queues=2) as v:
        with pb.open(f"xdp:{v.b.ifname}?steer=all", netns=v.b.netns) as port, packet_socket(v.a) as wire:
            argv = [sys.executable, "-c", program, *(f"xdp:{v.b.ifname}?deadline_ms=20&queue={q}" for q in (0, 1, 9))]
            with v.b.netns.popen(argv, stdout=subprocess.PIPE, text=True) as p:
                assert p.communicate(timeout=30)[0].split() == ["PB023", "PB024", "PB022"]
            with pytest.raises(pb.PybypassError) as caught:
                pb.open(f"xdp:{v.b.ifname}?deadline_ms=20", netns=v.b.netns)
            assert caught.value.code == "PB023"
            assert arrives(port, wire)
            drain(port)


@pytest.mark.parametrize("sockets", [1, 3])
def test_a_flood_is_received_or_counted(lab, sockets):
    """sent = received + what the counters of drops say, however slow the receiver is; and the loop goes on after it."""
    query = f"steer=all&ring=256&frames=4096&sockets={sockets}&rss=toeplitz"
    with (
        pb.open(f"xdp:{lab.b.ifname}?{query}", netns=lab.b.netns) as port,
        pb.open(f"xdp:{lab.a.ifname}?steer=all", netns=lab.a.netns) as flood,
    ):
        stop, sent = threading.Event(), [0]

        def pour():
            frames = [eth(ip4(udp(1 + i, 2, b"f" * 20), UDP)) for i in range(64)]
            while not stop.is_set():
                with flood.alloc_burst(64) as burst:
                    for i, frame in enumerate(frames):
                        burst.write(i, frame)
                    while len(burst) and not stop.is_set():
                        sent[0] += flood.tx_burst(burst)

        thread = threading.Thread(target=pour)
        thread.start()
        got = 0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for queue in port.queues:
                with queue.rx_burst(16) as burst:
                    got += len(burst)
            time.sleep(0.002)
        stop.set()
        thread.join()
        # Kicks that were put off end with the next calls.
        until = time.monotonic() + 5
        while flood.umem.info()["owners"]["tx"]:
            flood.queues[0].reap()
            assert time.monotonic() < until
        time.sleep(0.05)
        for queue in port.queues:
            while n := len(burst := queue.rx_burst()):
                got += n
                burst.release()
            burst.release()
        dropped = [q.stats()["drops"].get("rx_ring", 0) for q in port.queues]
        lost = sum(dropped) + flood.stats()["drops"].get("tx_full", 0)
        print(f"sent {sent[0]}, received {got}, dropped {dropped} by socket, {lost} in all")
        assert sent[0] == got + lost
        assert sent[0] > 20_000
        assert sum(dropped) > 0
        with packet_socket(lab.a) as wire:
            assert arrives(port, wire, member_of(port))
        drain(port)
        umem = port.umem
    assert all_free(umem)
    assert not attached(lab.b)


def test_fork_while_several_sockets_are_open(lab):
    with pb.open(f"xdp:{lab.b.ifname}?sockets=2&steer=all", netns=lab.b.netns) as port, packet_socket(lab.a) as wire:
        pid = os.fork()
        if not pid:
            codes = []
            for use in (port.queues[1].rx_burst, lambda: port.alloc_burst(1)):
                try:
                    use()
                except pb.PybypassError as e:
                    codes.append(e.code)
            with contextlib.suppress(BaseException):
                port.close()
            os._exit(0 if codes == ["PB015", "PB015"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert arrives(port, wire, member_of(port))
        drain(port)
        umem = port.umem
    assert all_free(umem)
