"""Several threads on one engine and its connections, and a signal that ends a wait."""

import _thread
import threading
import time

import pytest
from support import B, Pair


@pytest.fixture
def pair():
    with Pair() as p:
        yield p


def test_many_connections(pair):
    def serve(n):
        for _ in range(n):
            with pair.listener.accept(5) as s:
                s.sendall(s.recv(10))
                assert s.recv(10) == b""

    t = threading.Thread(target=serve, args=(50,))
    t.start()
    for i in range(50):
        with pair.a.connect((B, 80), timeout=5) as c:
            c.settimeout(5)
            c.sendall(b"%d" % i)
            assert c.recv(10) == b"%d" % i
    t.join()
    assert pair.b.stats()["passive_opens"] == 50


def test_threads_share_an_engine(pair):
    def client(i):
        with pair.a.connect((B, 80), timeout=5) as c:
            c.settimeout(20)
            for k in range(50):
                c.sendall(b"%d:%d" % (i, k))
                assert c.recv(100) == b"%d:%d" % (i, k)

    def server():
        for _ in range(6):
            s = pair.listener.accept(5)
            s.settimeout(20)
            threads.append(threading.Thread(target=echo, args=(s,)))
            threads[-1].start()

    def echo(s):
        with s:
            while data := s.recv(100):
                s.sendall(data)

    threads = [threading.Thread(target=server)] + [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for t in threads[:7]:
        t.start()
    for t in threads:
        t.join(30)
        assert not t.is_alive()


def test_questions_from_many_threads_at_once(pair):
    c, s = pair.connect()

    def ask():
        for _ in range(200):
            assert c.info()["state"] == "ESTABLISHED"
            assert pair.a.stats()["connections"] == 1
            c.set_nodelay(True)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
        assert not t.is_alive()
    c.close()
    s.close()


def test_inline_engine_with_two_threads():
    with Pair(inline=True) as p:
        c, s = p.connect()
        got = []
        t = threading.Thread(target=lambda: got.append(c.recv(10)))
        t.start()
        time.sleep(0.05)  # the other thread drives the engine and waits
        c.sendall(b"ping")
        assert s.recv(10) == b"ping"
        s.sendall(b"pong")
        t.join(5)
        assert got == [b"pong"]
        c.close()
        s.close()


@pytest.mark.parametrize("inline", [False, True])
def test_ctrl_c_ends_a_wait(inline):
    with Pair(inline=inline) as p:
        c, s = p.connect()
        c.settimeout(None)
        timer = threading.Timer(0.2, _thread.interrupt_main)
        timer.start()
        t = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            c.recv(1)
        assert time.monotonic() - t < 2
        c.close()
        s.close()
