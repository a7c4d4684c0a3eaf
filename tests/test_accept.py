"""The accept policy: a callable that judges each SYN of a listener."""

import contextlib
import logging
import socket
import threading
import time

import pytest

import pybypass as pb
from pybypass import lab

A, B = "10.9.0.1", "10.9.0.2"


@contextlib.contextmanager
def two_engines(**more):
    with pb.open("mem:accept") as p, pb.open("mem:accept") as q:
        with pb.Engine(p, ip=f"{A}/24", **more) as a, pb.Engine(q, ip=f"{B}/24") as b:
            yield a, b


def slow(engine):
    return engine.stats()["slowpath"]


def test_who_is_admitted_and_who_is_not():
    seen = []

    def policy(request):
        seen.append(request)
        return request.remote[1] >= 5000

    with two_engines() as (server, client):
        with server.listen(80, accept=policy) as listener:
            with client.connect((A, 80), source=(B, 6000), timeout=5) as c, listener.accept(5) as s:
                c.sendall(b"hello")
                assert s.recv(16) == b"hello"
            with pytest.raises(pb.ConnectionRefused):
                client.connect((A, 80), source=(B, 4000), timeout=5)
            assert {r.remote for r in seen} == {(B, 6000), (B, 4000)}
            assert seen[0].local == (A, 80)
            assert seen[0].mac == bytes(client.port.queues[0].mac)
            assert b"\x02\x04" in seen[0].options  # MSS
            counters = slow(server)
            assert (counters["accept_admitted"], counters["accept_refused"]) == (1, 1)
            assert server.stats()["drops"]["tcp_refused"] == 1
        # A listener without a policy at the same port asks nobody.
        with server.listen(80) as listener, client.connect((A, 80), timeout=5), listener.accept(5):
            pass
        assert len(seen) == 2


def test_a_policy_that_fails_refuses_and_is_logged_once(caplog):
    def policy(request):
        raise RuntimeError("no idea")

    with two_engines() as (server, client), server.listen(80, accept=policy):
        with caplog.at_level(logging.ERROR, "pybypass"):
            for _ in range(3):
                with pytest.raises(pb.ConnectionRefused):
                    client.connect((A, 80), timeout=5)
        assert slow(server)["accept_errors"] == 3
        assert len([r for r in caplog.records if "accept policy" in r.message]) == 1
        assert "no idea" in caplog.text
    caplog.clear()  # the record has the traceback, and that the engine


def test_other_listeners_go_on_while_a_policy_thinks():
    thinking, go_on = threading.Event(), threading.Event()

    def policy(request):
        thinking.set()
        assert go_on.wait(10)
        return True

    with two_engines() as (server, client), server.listen(80, accept=policy) as slow_one, server.listen(81) as quick:
        with client.connect((A, 81), timeout=5) as established, quick.accept(5) as at_server:
            result = []
            thread = threading.Thread(target=lambda: result.append(client.connect((A, 80), timeout=10)))
            thread.start()
            assert thinking.wait(10)
            established.sendall(b"x" * 100_000)  # the loop does not wait for Python
            got = 0
            while got < 100_000:
                got += len(at_server.recv(65536))
            go_on.set()
            thread.join()
            with result[0], slow_one.accept(5):
                pass


def test_inline():
    with two_engines(inline=True) as (server, client):
        with server.listen(80, accept=lambda r: r.remote[1] != 4000) as listener:
            thread = threading.Thread(target=lambda: client.connect((A, 80), timeout=10).close())
            thread.start()
            listener.accept(10).close()
            thread.join()
        assert slow(server)["accept_admitted"] == 1


@pytest.mark.root
@pytest.mark.parametrize("ipv6", [False, True])
def test_against_the_kernel(ipv6):
    with lab.veth(ipv6=True) as pair:
        ours, theirs = (pair.a.ip6, pair.b.ip6) if ipv6 else (pair.a.ip, pair.b.ip)
        with pb.open(f"xdp:{pair.a.ifname}", netns=pair.a.netns) as port, pb.Engine(port, ip=ours) as engine:
            with engine.listen(80, accept=lambda r: r.remote == (theirs, 7000)) as listener:

                def connect(source):
                    s = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET)
                    try:
                        s.settimeout(5)
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        s.bind((theirs, source))
                        s.connect((ours, 80))
                    except BaseException:
                        s.close()
                        raise
                    return s

                with pair.b.netns.run(connect, 7000), listener.accept(5):
                    pass
                with pytest.raises(ConnectionRefusedError):
                    pair.b.netns.run(connect, 7001)


def test_junk_is_refused_and_never_raised():
    from collections import Counter

    from pybypass.accept import AcceptPolicies

    counters = Counter()
    policies = AcceptPolicies()
    for frame in (b"", bytes(14), bytes(60), bytes(14) + b"\x45" + bytes(10), bytes(14) + b"\x60" + bytes(60)):
        assert not policies.judge(frame, counters)
    assert counters == {"accept_asked": 5, "accept_refused": 5}


def test_a_policy_that_would_end_its_thread_does_not(caplog):
    def policy(request):
        raise SystemExit

    with two_engines() as (server, client), server.listen(80, accept=policy), server.listen(81) as other:
        for _ in range(2):
            with pytest.raises(pb.ConnectionRefused):
                client.connect((A, 80), timeout=5)
        assert slow(server)["accept_errors"] == 2
        with client.connect((A, 81), timeout=5), other.accept(5):
            pass
    caplog.clear()


def test_a_syn_that_is_sent_again_is_not_judged_again():
    calls = []

    def policy(request):
        calls.append(request)
        time.sleep(1.5)  # the SYN is sent again after a second
        return True

    with two_engines() as (server, client), server.listen(80, accept=policy) as listener:
        with client.connect((A, 80), timeout=20), listener.accept(20):
            pass
        assert len(calls) == 1
