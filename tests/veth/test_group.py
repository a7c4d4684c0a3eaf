"""Several engines on one port: flows on all of them, and what comes to the wrong one is handed on and counted."""

import contextlib
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import pybypass as pb
from pybypass import dpdk
from pybypass import lab as laboratory
from pybypass.group import merged
from pybypass.labpeer import Transfer

pytestmark = pytest.mark.root

CONFIG = pb.EngineConfig(time_wait=0.05, rto_min=0.02, rto_initial=0.2)
BYTES = 300_000

PORTS = {
    "xdp, two queues of one Umem": ("xdp:{}?queue=0-1&umem=shared", 2),
    "xdp, two queues": ("xdp:{}?queue=0-1", 2),
    # net_af_xdp takes one queue of a veth (it has no combined channels); this one's two share what comes by the flow's hash.
    "dpdk, two queues": ("dpdk:net_af_packet0?iface={}&qpairs=2&queues=2&frame=4096", 2),
}


@contextlib.contextmanager
def grouped(uri, queues, **options):
    """A laboratory of as many queues and a group on its side b; at the end every frame is free."""
    if uri.startswith("dpdk:"):
        dpdk.start(dpdk.EalOptions(huge="no"))  # as all tests of DPDK do: it starts once in a process
    with laboratory.veth(queues=queues) as v:
        with pb.open(uri.format(v.b.ifname), netns=v.b.netns) as port:
            # With no kernel behind the port an address of its own, or the kernel would answer too.
            ip = v.b.ip if port.kind == "xdp" else "10.77.0.99"
            with pb.EngineGroup(port, ip=f"{ip}/24", config=CONFIG, **options) as group:
                yield v, port, group
        for umem in {id(q.umem): q.umem for q in port.queues}.values():
            info = umem.info()
            assert info["owners"]["free"] == info["frames"], info


def serve(listener, stop, served):
    """Takes connections and transfers both ways until told to stop."""
    with ThreadPoolExecutor(16) as pool:
        while not stop.is_set():
            try:
                connection = listener.accept(0.1)
            except pb.TimedOut:
                continue
            served.append((connection.engine, pool.submit(transfer, connection, 2)))


def transfer(end, seed):
    with end:
        end.settimeout(20)
        return Transfer(end, seed, BYTES).run()


def in_kernel(side, target):
    with side.netns:
        return socket.create_connection(target, timeout=10)


def exchange_with(v, group, number, flows, meanwhile=None):
    """So many clients of the kernel's at the same time, each of which sends and receives; which engines served them."""
    stop, served = threading.Event(), []
    with group.listen(number) as listener:
        server = threading.Thread(target=serve, args=(listener, stop, served))
        server.start()
        try:
            with ThreadPoolExecutor(flows) as pool:
                clients = [
                    pool.submit(transfer, c, 1) for c in [in_kernel(v.a, listener.getsockname()) for _ in range(flows)]
                ]
                while meanwhile is not None and not all(c.done() for c in clients):
                    meanwhile()
                results = [c.result() for c in clients]
        finally:
            stop.set()
            server.join()
    ours = [f.result() for _, f in served]
    assert len(ours) == len(results) == flows
    assert {r["sha_received"] for r in results} == {ours[0]["sha_sent"]}
    assert {r["sha_received"] for r in ours} == {results[0]["sha_sent"]}
    return [engine for engine, _ in served]


def check_nothing_reset(group, disorder=False):
    """disorder: ACKs may come after a connection has ended, behind the last one that took another way; they are answered
    as any that belong to none (RFC 9293 3.10.7.1)."""
    stats = group.stats()
    late = stats["drops"].get("tcp_no_flow", 0)
    assert not late or disorder, stats["drops"]
    assert (stats["resets_out"], stats["resets_in"], stats["estab_resets"], stats["attempt_fails"]) == (late, 0, 0, 0), stats
    assert stats["stray_in"] == stats["stray_out"], stats
    return stats


@pytest.mark.parametrize(("uri", "queues"), PORTS.values(), ids=PORTS)
def test_flows_on_every_engine(uri, queues):
    """The kernel's clients are served by whichever engine they come to; what is counted together is the sum of each."""
    with grouped(uri, queues) as (v, _port, group):
        engines = exchange_with(v, group, 7000, 12)
        assert set(engines) == set(group.engines), "the hash of the source port spreads them"
        stats = check_nothing_reset(group)
        assert len(stats["engines"]) == queues
        for name in ("rx_pkts", "tx_pkts", "passive_opens", "segs_in", "stray_out"):
            assert stats[name] == sum(one[name] for one in stats["engines"])
        assert stats["passive_opens"] == 12
        assert all(one["passive_opens"] > 0 for one in stats["engines"])
        until = time.monotonic() + 5
        while group.flows and time.monotonic() < until:
            time.sleep(0.02)
        assert group.flows == 0


@pytest.mark.parametrize(("uri", "queues"), PORTS.values(), ids=PORTS)
def test_answers_that_come_to_the_wrong_queue(uri, queues):
    """veth does not say how it spreads what the kernel sends: half of the answers come to the other engine."""
    with grouped(uri, queues) as (v, _port, group):
        with v.a.netns:
            server = socket.create_server((v.a.ip, 8888), backlog=64)
        with server, ThreadPoolExecutor(4) as pool:
            for opened in range(1, 129):  # chance decides which come to the wrong one
                theirs = pool.submit(server.accept)
                ours = group.connect((v.a.ip, 8888), timeout=10)
                done = pool.submit(transfer, theirs.result()[0], 2)
                mine = transfer(ours, 1)
                assert done.result()["sha_received"] == mine["sha_sent"]
                assert done.result()["sha_sent"] == mine["sha_received"]
                each = group.stats()["engines"]
                if opened % queues == 0 and opened >= 8 and all(e["stray_out"] and e["stray_in"] for e in each):
                    break
        stats = check_nothing_reset(group)
        assert all(one["active_opens"] == opened // queues for one in stats["engines"])
        assert all(one["stray_out"] > 0 and one["stray_in"] > 0 for one in stats["engines"])


def test_a_table_that_changes_all_the_time():
    """The hardest spread: every few milliseconds another table, so packets of each flow come to all of the sockets."""
    rng = random.Random(4)
    with grouped("xdp:{}?sockets=3", 1) as (v, port, group):

        def shuffle():
            port.rss_table = [rng.randrange(3) for _ in range(128)]
            time.sleep(0.003)

        engines = set()
        for number in range(7100, 7120):
            engines |= set(exchange_with(v, group, number, 9, shuffle))
            stats = check_nothing_reset(group, disorder=True)
            if all(one["stray_out"] > 20 and one["stray_in"] > 20 for one in stats["engines"]):
                break
        assert engines == set(group.engines)
        assert all(one["stray_out"] > 20 and one["stray_in"] > 20 for one in stats["engines"])
        assert stats["drops"].get("stray", 0) < stats["stray_out"]


def test_closing_one_of_them():
    """The others go on; what comes for the one that is gone is refused, as it would be without a group."""
    with grouped("xdp:{}?sockets=2", 1) as (v, port, group), group.listen(7200) as listener:
        port.rss_table = [1] * 128
        client = in_kernel(v.a, (v.b.ip, 7200))
        with client, listener.accept(5) as connection:
            assert connection.engine is group.engines[1]
            group.engines[1].close(linger=0)
            port.rss_table = [0] * 128
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                for _ in range(250):
                    client.sendall(b"x")
                    time.sleep(0.02)
        with in_kernel(v.a, (v.b.ip, 7200)) as client, listener.accept(5) as connection:
            assert connection.engine is group.engines[0]
            client.sendall(b"still here")
            connection.settimeout(5)
            assert connection.recv(100) == b"still here"
        assert [one["queue"] for one in group.stats()["engines"]] == [0]


def test_listeners_share_a_port_or_none_has_it():
    with grouped("xdp:{}?sockets=2", 1) as (v, _port, group):
        with v.b.netns:
            taken = socket.create_server((v.b.ip, 7300))
        with taken, pytest.raises(pb.PybypassError) as caught:
            group.listen(7300)
        assert caught.value.code == "PB042"
        with group.listen(7300) as listener:
            assert listener.getsockname() == (v.b.ip, 7300)
            with pytest.raises(pb.NotNow):
                listener.accept(0)
            listener.settimeout(0.05)
            assert listener.gettimeout() == 0.05
            with pytest.raises(pb.TimedOut):
                listener.accept()
        assert listener.closed
        with pytest.raises(pb.PybypassError):
            listener.accept(0)


def test_what_a_group_refuses():
    with laboratory.veth() as v, pb.open(f"xdp:{v.b.ifname}?sockets=2", netns=v.b.netns) as port:
        for options in ({"cpus": [0]}, {"workers": [pb.Worker()]}, {"cpus": [0, 0], "workers": [pb.Worker()] * 2}):
            with pytest.raises(pb.PybypassError) as caught:
                pb.EngineGroup(port, ip=f"{v.b.ip}/24", **options)
            assert caught.value.code == "PB040"
        with pytest.raises(pb.PybypassError) as caught:
            pb.EngineGroup(port, ip="10.99.0.1")
        assert caught.value.code == "PB041"


def test_a_group_over_one_queue():
    """mem: has one; the port closes the group."""
    with pb.open("mem:group?frames=2048") as near, pb.open("mem:group?frames=2048") as far:
        group = pb.EngineGroup(near, ip="10.5.0.1/24")
        with pb.Engine(far, ip="10.5.0.2/24") as other, group.listen(80) as listener:
            with other.connect(("10.5.0.1", 80), timeout=5) as client, listener.accept(5) as server:
                client.sendall(b"abc")
                server.settimeout(5)
                assert server.recv(10) == b"abc"
                assert group.flows == 1
        near.close()
        assert group.closed
        with pytest.raises(pb.PybypassError) as caught:
            group.stats()
        assert caught.value.code == "PB043"


def test_sums_of_counters():
    one = {"rx": 1, "queue": 0, "drops": {"a": 1}, "states": {}, "member": 3}
    two = {"rx": 4, "queue": 1, "drops": {"a": 2, "b": 5}, "states": {"LISTEN": 1}, "member": 4}
    assert merged([one, two]) == {"rx": 5, "queue": 1, "drops": {"a": 3, "b": 5}, "states": {"LISTEN": 1}}
