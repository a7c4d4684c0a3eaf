"""Engines closed while others are in their calls, ports dropped in forks, holds that must not pile up."""

import contextlib
import gc
import socket
import threading
import time

import pytest
from support import A, B, eventually, in_child

import pybypass as pb
from pybypass import lab as laboratory

root = pytest.mark.root


def two(name, inline=False, **how):
    """(ports, engine a, engine b)"""
    ports = [pb.open(f"mem:{name}"), pb.open(f"mem:{name}")]
    return ports, pb.Engine(ports[0], ip=f"{A}/24", inline=inline, **how), pb.Engine(ports[1], ip=f"{B}/24", **how)


def close_all(ports, *engines):
    for engine in engines:
        engine.close()
    for port in ports:
        port.close()
        info = port.umem.info()
        assert info["owners"]["free"] == info["frames"], info


def in_thread(function):
    """Runs it; gives (thread, list of what it raised)."""
    raised = []

    def body():
        try:
            function()
        except BaseException as e:
            raised.append(e)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, raised


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("what", ["recv", "accept", "send", "connect"])
def test_engine_closed_while_a_thread_is_in_a_call(inline, what):
    for _ in range(5):
        ports, a, b = two("blocked", inline)
        listener, own = b.listen(80), a.listen(81)
        c = a.connect((B, 80), timeout=5)
        s = listener.accept(5)

        def send_for_ever(c=c):
            while True:
                c.sendall(bytes(100000))

        calls = {
            "recv": lambda c=c: c.recv(1), "accept": own.accept, "send": send_for_ever,
            "connect": lambda a=a: a.connect(("10.0.0.77", 80)),
        }  # fmt: skip
        thread, raised = in_thread(calls[what])
        time.sleep(0.03)
        a.close(linger=0.05)
        thread.join(5)
        assert not thread.is_alive()
        (e,) = raised
        assert isinstance(e, pb.PybypassError), e
        assert e.code in ("PB043", "PB055", "PB050", "PB053"), e
        del e, raised, s
        b.close(linger=0.05)
        close_all(ports)


def test_two_threads_close_at_once():
    for _ in range(20):
        ports, a, b = two("twice")
        threads = [in_thread(lambda a=a: a.close(linger=0.01)) for _ in range(4)]
        for thread, raised in threads:
            thread.join(10)
            assert not thread.is_alive()
            assert not raised
        eventually(lambda a=a: a.closed)
        b.close()
        close_all(ports)


def test_close_races_with_questions():
    for _ in range(10):
        ports, a, b = two("race")
        started = threading.Barrier(3)

        def ask(a=a, started=started):
            started.wait()
            while True:
                a.stats()

        threads = [in_thread(ask) for _ in range(2)]
        started.wait()
        a.close()
        for thread, raised in threads:
            thread.join(10)
            assert not thread.is_alive()
            assert raised[0].code == "PB043"
        b.close()
        close_all(ports)


def test_closing_from_inside_a_call_is_refused():
    ports, a, b = two("inside", inline=True)
    codes = []

    def closes_itself():
        try:
            a.close()
        except pb.PybypassError as e:
            codes.append(e.code)

    with a._core.in_use():
        closes_itself()
    assert codes == ["PB045"]
    close_all(ports, a, b)


def test_an_exception_is_not_hidden_by_views_that_it_keeps_alive():
    class Mine(Exception):
        pass

    def handler():
        with pb.open("mem:exc") as x, pb.open("mem:exc") as y:
            with pb.Engine(x, ip=f"{A}/24") as a, pb.Engine(y, ip=f"{B}/24") as b, b.listen(80) as listener:
                with a.connect((B, 80), timeout=5) as c, listener.accept(5) as s:
                    c.sendall(b"piece")
                    piece = s.recv_view()
                    ends.extend([a, b, x, y])
                    raise Mine(len(piece))

    ends = []
    with pytest.raises(Mine) as caught:
        handler()
    assert all(e.closed for e in ends)
    del caught
    ends.clear()
    gc.collect()


def test_a_view_of_a_burst_does_not_hide_an_exception():
    def handler():
        with pb.open("mem:exc2") as x, pb.open("mem:exc2") as y:
            with x.alloc_burst(1, length=60) as burst:
                x.tx_burst(burst)
            burst = y.rx_burst()
            kept.append(burst.view(0))
            raise KeyError("mine")

    kept = []
    with pytest.raises(KeyError, match="mine"):
        handler()
    assert kept[0].sum() == 0  # still readable
    kept.clear()
    gc.collect()


@pytest.mark.parametrize("bad", [{"ip": [f"10.0.{i}.1/24" for i in range(64)]}, {"ip": "224.0.0.1/4"}, {"gw": "x"}])
def test_a_failed_engine_keeps_nothing(bad):
    with pb.open("mem:failed") as port:
        with pytest.raises(pb.PybypassError) as caught:
            pb.Engine(port, **{"ip": f"{A}/24", **bad})
        assert caught.value.code == "PB040"
        del caught
    gc.disable()
    try:
        with pb.open("mem:failed") as x, pb.open("mem:failed") as y:
            assert x.mac != y.mac
    finally:
        gc.enable()
    gc.collect()


@pytest.mark.parametrize("inline", [False, True])
def test_holds_do_not_pile_up(inline):
    ports, a, b = two("holds", inline, config=pb.EngineConfig(time_wait=0.01, max_connections=64))
    with b.listen(80) as listener:
        for _ in range(300):
            with a.connect((B, 80), timeout=5) as c, listener.accept(5) as s:
                c.shutdown(socket.SHUT_WR)
                assert s.recv(1) == b""
        for _ in range(3):
            eventually(lambda: a.poll() or len(a._holds) == 0)
        assert len(b._holds) == 1  # the listener's
    close_all(ports, a, b)


def test_more_connections_than_slots_one_after_the_other():
    """TIME_WAIT must not stop an engine that opens and closes: the oldest of them makes room."""
    config = pb.EngineConfig(max_connections=32)
    ports, a, b = two("slots", config=config)
    with b.listen(80) as listener:
        for i in range(150):
            with a.connect((B, 80), timeout=5) as c, listener.accept(5) as s:
                first, second = (c, s) if i & 1 else (s, c)
                first.shutdown(socket.SHUT_WR)
                assert second.recv(1) == b""
    close_all(ports, a, b)


def test_too_many_open_connections_is_a_typed_error():
    config = pb.EngineConfig(max_connections=4)
    ports, a, b = two("many", config=config)
    with b.listen(80) as listener:
        pairs = [(a.connect((B, 80), timeout=5), listener.accept(5)) for _ in range(4)]
        with pytest.raises(pb.PybypassError) as caught:
            a.connect((B, 80), timeout=0.5)
        assert caught.value.code == "PB057"
        assert "max_connections" in caught.value.hint
        for pair in pairs:
            for c in pair:
                c.close()
    close_all(ports, a, b)


def test_one_port_of_two_addresses():
    with pb.open("mem:both") as x, pb.open("mem:both") as y:
        with (
            pb.Engine(x, ip=["10.0.0.1/24", "fd00::1/64"]) as a, pb.Engine(y, ip=["10.0.0.2/24", "fd00::2/64"]) as b,
            b.listen(80) as four, b.listen(80, ip="fd00::2") as six,
        ):  # fmt: skip
            for listener, ip in ((four, "10.0.0.2"), (six, "fd00::2")):
                with a.connect((ip, 80), timeout=5) as c, listener.accept(5) as s:
                    c.sendall(ip.encode())
                    assert s.recv(100) == ip.encode()
            with pytest.raises(pb.PybypassError) as caught:
                b.listen(80, ip="fd00::2")
            assert caught.value.code == "PB042"
            with pytest.raises(pb.PybypassError) as caught:
                b.listen(81, ip="10.0.0.9")
            assert caught.value.code == "PB041"


def test_listening_again_while_an_old_connection_lives():
    ports, a, b = two("again")
    listener = b.listen(80)
    c, s = a.connect((B, 80), timeout=5), listener.accept(5)
    listener.close()
    with b.listen(80) as second, a.connect((B, 80), timeout=5) as c2, second.accept(5) as s2:
        c2.sendall(b"new")
        assert s2.recv(10) == b"new"
        c.sendall(b"old")
        assert s.recv(10) == b"old"
    c.close()
    s.close()
    close_all(ports, a, b)


def test_own_address_is_refused_at_once():
    ports, a, b = two("own")
    with pytest.raises(pb.PybypassError) as caught:
        a.connect((A, 80))
    assert caught.value.code == "PB056"
    close_all(ports, a, b)


def test_interrupted_accept_loses_no_connection(monkeypatch):
    ports, a, b = two("interrupted")
    with b.listen(80) as listener:
        c = a.connect((B, 80), timeout=5)
        from pybypass import sockets

        def interrupted(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(sockets, "Connection", interrupted)
        with pytest.raises(KeyboardInterrupt):
            listener.accept(5)
        monkeypatch.undo()
        c.settimeout(5)
        with pytest.raises(ConnectionResetError):
            c.recv(1)  # it was given up, not forgotten
        c.close()
        eventually(lambda: b.stats()["connections"] == 1)
    close_all(ports, a, b)


@pytest.mark.alone("times of milliseconds")
def test_waiting_for_a_shared_inline_engine_is_short():
    """One thread sleeps in the engine; another's calls must not wait for its sleep to end."""
    ports, a, b = two("shared", inline=True, spin_us=0)
    with b.listen(80) as listener:
        c, s = a.connect((B, 80), timeout=5), listener.accept(5)
        thread, raised = in_thread(lambda: c.recv(1))
        time.sleep(0.05)
        waits = []
        for _ in range(200):
            t = time.perf_counter()
            a._core.poll(c._s)
            waits.append(time.perf_counter() - t)
            time.sleep(0.001)
        s.sendall(b"x")
        thread.join(5)
        assert not raised
        assert sorted(waits)[len(waits) * 9 // 10] < 0.005, sorted(waits)[-20:]
        c.close()
        s.close()
    close_all(ports, a, b)


# ---- forks ----


@root
def test_a_child_that_drops_the_port_does_not_take_it_from_its_parent():
    with laboratory.veth() as pair:
        held = [pb.open(f"xdp:{pair.a.ifname}?steer=udp", netns=pair.a.netns)]

        def drop():
            held.clear()
            gc.collect()
            return "dropped"

        def close():
            held[0].close()
            return "closed"

        for child, says in ((drop, "dropped"), (close, "closed")):
            assert in_child(child) == says
            with pair.b.netns, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(b"after the fork", (pair.a.ip, 4000))
            got = []

            def received(got=got):
                with held[0].rx_burst() as burst:
                    got.extend(bytes(burst.payload(i))[42:] for i in range(len(burst)))
                return b"after the fork" in got

            eventually(received, 3)
        held.pop().close()


@contextlib.contextmanager
def to_the_kernel():
    """(veth pair, an engine on its side a, a connection of it, the kernel's end of that)"""
    with laboratory.veth() as pair:
        with pair.b.netns:
            server = socket.create_server((pair.b.ip, 5000))
        with server, pb.open(f"xdp:{pair.a.ifname}", netns=pair.a.netns) as port, pb.Engine(port, ip=pair.a.ip) as engine:
            c = engine.connect((pair.b.ip, 5000), timeout=5)
            with server.accept()[0] as far:
                yield pair, engine, c, far
            c.close()


@root
def test_a_child_of_an_engine():
    with to_the_kernel() as (_, engine, c, far):

        def use():
            try:
                c.recv(1)
            except pb.PybypassError as e:
                engine.close()
                return e.code

        assert in_child(use) == "PB015"
        c.sendall(b"parent")
        assert far.recv(10) == b"parent"


@root
def test_engines_on_one_interface_do_not_leave_rules():
    with laboratory.veth(queues=2) as pair:
        first = pb.open(f"xdp:{pair.a.ifname}?queue=0", netns=pair.a.netns)
        second = pb.open(f"xdp:{pair.a.ifname}?queue=1", netns=pair.a.netns)
        with first, second:
            engine = pb.Engine(first, ip=pair.a.ip)
            engine.listen(6000)
            assert len(second.program.steer_list()) == 1
            engine.close()
            assert second.program.steer_list() == []


@root
def test_the_interface_goes_away_under_a_threaded_engine():
    from pyroute2 import IPRoute

    with to_the_kernel() as (pair, _, c, _):
        c.settimeout(20)
        thread, raised = in_thread(lambda: c.recv(1))
        with pair.a.netns, IPRoute() as ip:
            ip.link("del", index=pair.a.ifindex)
        thread.join(15)
        assert not thread.is_alive()
        assert raised[0].code == "PB033"
        raised.clear()


def test_time_does_not_run_backwards_between_threads_of_an_inline_engine():
    """A thread that waited for its turn comes with an older time; a round trip must not seem to last for seconds."""
    with pb.open("mem:turns") as p, pb.open("mem:turns") as q:
        with pb.Engine(p, ip="10.9.1.1/24", inline=True) as a, pb.Engine(q, ip="10.9.1.2/24") as b:
            with b.listen(80) as listener:
                pairs = []
                for _ in range(2):
                    near = a.connect(("10.9.1.2", 80), timeout=10)
                    pairs.append((near, listener.accept(10)))
            ends = [threading.Thread(target=_answer, args=(far, 400)) for _, far in pairs]
            longest: list[int] = []  # srtt as it was: one wrong sample is soon smoothed away
            ends += [threading.Thread(target=_ask, args=(near, 400, longest)) for near, _ in pairs]
            for thread in ends:
                thread.start()
            for thread in ends:
                thread.join(60)
            assert len(longest) == 2 * 400
            assert max(longest) < 5_000_000
            for near, far in pairs:
                near.close()
                far.close()


def _answer(connection, n):
    for _ in range(n):
        connection.sendall(connection.recv(64))


def _ask(connection, n, longest):
    for _ in range(n):
        connection.sendall(bytes(64))
        got = 0
        while got < 64:
            got += len(connection.recv(64))
        longest.append(connection.info()["srtt_us"])
