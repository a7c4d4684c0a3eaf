"""net_memif: opened and closed again and again, at one socket, and what becomes of that when DPDK's interrupt thread is busy."""

import itertools
import os
import socket

import pytest
from dpdk_frames import free, uri
from dpdk_process import run

import pybypass as pb

FAULTS = ("Invalid memory", "sendmsg fail", "Failed to accept", "PANIC", "Traceback")


@pytest.mark.parametrize("first", ["server", "client"])
@pytest.mark.parametrize("joined", [True, False])
def test_pairs_come_and_go_at_one_socket(tmp_path, first, joined):
    """`joined`: closed when they are, or while they still talk about it. The driver frees nothing twice, and leaves one
    descriptor that never says anything for each that listened (csrc/dev/dpdk_memif.c)."""
    (open_files, frames), said = run(f"""
        import time
        dpdk.start(dpdk.EalOptions(huge="no"))
        at, files, all_free = "frames=2048&socket={tmp_path}/m.sock", [], []
        for turn in range(40):
            server = pb.open(f"dpdk:net_memif{{2 * turn}}?role=server&{{at}}")
            client = pb.open(f"dpdk:net_memif{{2 * turn + 1}}?role=client&{{at}}")
            until = time.monotonic() + 10
            while {joined} and not (server.link()["up"] and client.link()["up"]):
                assert time.monotonic() < until
                time.sleep(0.001)
            umems = server.umem, client.umem
            for port in (server, client) if {first!r} == "server" else (client, server):
                port.close()
            files.append(len(os.listdir("/proc/self/fd")))
            all_free.append(all(u.info()["owners"]["free"] == 2048 for u in umems))
        print(json.dumps([files, all_free]))
        """)
    assert not [word for word in FAULTS if word in said], said
    assert frames == [True] * 40
    assert [b - a for a, b in itertools.pairwise(open_files)] == [1] * 39


def test_stopped_and_started_again_with_the_other_end_there(tmp_path):
    """Each end in turn, which the other one hears of: they join again."""
    done, said = run(f"""
        import time
        dpdk.start(dpdk.EalOptions(huge="no"))
        at = "frames=2048&socket={tmp_path}/m.sock"
        def joined():
            until = time.monotonic() + 10
            while not (server.link()["up"] and client.link()["up"]):
                assert time.monotonic() < until
                time.sleep(0.001)
        with pb.open(f"dpdk:net_memif0?role=server&{{at}}") as server, pb.open(f"dpdk:net_memif1?role=client&{{at}}") as client:
            joined()
            for turn in range(20):
                client.stop()
                if turn % 2:
                    server.stop()
                    server.start()
                client.start()
                joined()
        print(json.dumps(turn))
        """)
    assert done == 19 and not [word for word in FAULTS if word in said], said


@pytest.mark.parametrize("abstract", ["yes", "no"])
def test_a_socket_that_is_taken(tmp_path, abstract):
    """By somebody else's, or as a file that was left: PB106, and it can be had when it is free."""
    path = str(tmp_path / "m.sock")
    options = {"role": "server", "socket": path, "socket-abstract": abstract}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind("\0" + path if abstract == "yes" else path)
        other.listen()
        with pytest.raises(pb.PybypassError) as caught:
            pb.open(uri("memif", **options))
        assert caught.value.code == "PB106" and path in str(caught.value)
        assert "another socket=" in caught.value.hint and "another number" in caught.value.hint
        assert ("remove" in caught.value.hint) is (abstract == "no")
    if abstract == "no":
        os.unlink(path)
    for _ in range(2):
        with pb.open(uri("memif", **options)) as port:
            umem = port.umem
        assert free(umem)


def test_one_that_others_use_goes_on_listening(tmp_path):
    """Ports of two ids share a socket: it is given up with the last."""
    options = {"role": "server", "socket": tmp_path / "m.sock"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        with pb.open(uri("memif", id=0, **options)):
            with pb.open(uri("memif", id=1, **options)):
                pass
            client.connect("\0" + str(options["socket"]))
            client.settimeout(10)
            assert len(client.recv(4096)) == 128, "a hello (memif.h)"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, pytest.raises(ConnectionRefusedError):
        client.connect("\0" + str(options["socket"]))


ALARM = """
        import ctypes, threading
        dpdk.start(dpdk.EalOptions(huge="no"))
        (library,) = {line.split()[-1] for line in open("/proc/self/maps") if "/librte_eal." in line}
        eal = ctypes.CDLL(library)
        CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        eal.rte_eal_alarm_set.argtypes = ctypes.c_uint64, CALL, ctypes.c_void_p
        def soon(function):
            soon.kept = CALL(function)
            assert eal.rte_eal_alarm_set(1, soon.kept, None) == 0
"""


def test_closed_from_the_interrupt_thread(tmp_path):
    """Which does not wait for itself."""
    (threads, closed, again), said = run(f"""{ALARM}
        at = "dpdk:net_memif0?role=server&frames=2048&socket={tmp_path}/m.sock"
        port, done, found = pb.open(at), threading.Event(), []
        def close(_):
            port.close()
            found.append(threading.get_native_id() != os.getpid())
            done.set()
        soon(close)
        assert done.wait(30)
        with pb.open(at) as other:
            print(json.dumps([found, port.closed, other.link()["up"]]))
        """)
    assert (threads, closed, again) == ([True], True, False) and not [word for word in FAULTS if word in said], said


def test_the_interrupt_thread_is_busy(tmp_path):
    """PB107 after a while; the port stays as it is, its name is taken, and the process goes on."""
    (codes, taken, works), said = run(f"""{ALARM}
        at = "dpdk:net_memif0?role=server&frames=2048&socket={tmp_path}/m.sock"
        port, inside, go = pb.open(at), threading.Event(), threading.Event()
        def keep(_):
            inside.set()
            go.wait()
        soon(keep)
        assert inside.wait(30)
        codes = []
        def code(call):
            try:
                call()
                return ""
            except pb.PybypassError as e:
                return e.code
        codes = [code(port.close), code(port.close), port.closed]
        go.set()
        taken = code(lambda: pb.open(at))
        with pb.open("dpdk:net_memif1?role=server&frames=2048&socket={tmp_path}/n.sock") as other:
            print(json.dumps([codes, taken, other.mode]))
        """)
    assert codes == ["PB107", "", True]
    assert taken == "PB023"
    assert works == "dpdk net_memif" and not [word for word in FAULTS if word in said], said
