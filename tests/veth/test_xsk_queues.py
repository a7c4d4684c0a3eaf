"""Ports of several queues, several sockets on one queue, and what spreads packets over them."""

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pybypass as pb
from pybypass import lab as laboratory
from pybypass._wire import TOEPLITZ_KEY, toeplitz
from pybypass.labpeer import Transfer

sys.path.insert(0, str(Path(__file__).parent))
from xsk_support import TCP, UDP, eth, icmp, ip4, ip6, packet_socket, tcp, udp

pytestmark = pytest.mark.root

# "Verifying the RSS hash calculation", Microsoft: destination, source, ports, hash of the addresses, hash with ports.
MICROSOFT_V4 = [
    ("161.142.100.80", "66.9.149.187", 1766, 2794, 0x323E8FC2, 0x51CCC178),
    ("65.69.140.83", "199.92.111.2", 4739, 14230, 0xD718262A, 0xC626B0EA),
    ("12.22.207.184", "24.19.198.95", 38024, 12898, 0xD2D0A5DE, 0x5C2B394A),
    ("209.142.163.6", "38.27.205.30", 2217, 48228, 0x82989176, 0xAFC7327F),
    ("202.188.127.2", "153.39.163.191", 1303, 44251, 0x5D1809C5, 0x10E828A2),
]
MICROSOFT_V6 = [
    ("3ffe:2501:200:3::1", "3ffe:2501:200:1fff::7", 1766, 2794, 0x2CC18CD5, 0x40207D3D),
    ("ff02::1", "3ffe:501:8::260:97ff:fe40:efab", 4739, 14230, 0x0F0C461C, 0xDDE51BBF),
    ("fe80::200:f8ff:fe21:67cf", "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 38024, 44251, 0x4B61E985, 0x02D1FEEF),
]


@contextlib.contextmanager
def port_on(side, query=""):
    """A port; at its end every frame of every queue's memory is free."""
    with pb.open(f"xdp:{side.ifname}?steer=all{query}", netns=side.netns) as port:
        umems = {id(q.umem): q.umem for q in port.queues}
        yield port
    for umem in umems.values():
        info = umem.info()
        assert info["owners"]["free"] == info["frames"], info


def send(queue, frames):
    """All of the frames, in bursts."""
    for i in range(0, len(frames), 64):
        part = frames[i : i + 64]
        with queue.alloc_burst(len(part)) as burst:
            for k, frame in enumerate(part):
                burst.write(k, frame)
            until = time.monotonic() + 10
            while len(burst):
                queue.tx_burst(burst)
                assert time.monotonic() < until


def receive(queues, total, seconds=10.0):
    """Frames by queue as (bytes, hash, hash_type) until there are `total`."""
    got = [[] for _ in queues]
    until = time.monotonic() + seconds
    while sum(map(len, got)) < total and time.monotonic() < until:
        for out, queue in zip(got, queues, strict=True):
            with queue.rx_burst() as burst:
                desc = burst.desc
                out += [
                    (bytes(burst.payload(i)), int(desc["hash"][i]), pb.HASH_TYPES[desc["hash_type"][i]])
                    for i in range(len(burst))
                ]
    assert sum(map(len, got)) == total
    return got


# ---- several queues ----


@pytest.mark.parametrize("umem", ["own", "shared"])
def test_each_queue_has_its_packets(umem):
    with (
        laboratory.veth(queues=4) as v, port_on(v.a, f"&queue=0,2-3&umem={umem}") as a,
        port_on(v.b, f"&queue=0-3&umem={umem}") as b,
    ):  # fmt: skip
        assert [q.index for q in a.queues] == [0, 2, 3]
        assert [q.report["umem_shared"] for q in b.queues] == [False, *[umem == "shared"] * 3]
        assert len({id(q.umem) for q in b.queues}) == (1 if umem == "shared" else 4)
        frames = [eth(b"%d" % q.index * 50, 0x88B5) for q in a.queues]
        for queue, frame in zip(a.queues, frames, strict=True):
            send(queue, [frame] * 100)
        got = receive(b.queues, 300)
        assert [len(g) for g in got] == [100, 0, 100, 100]
        assert [{data for data, *_ in g} for g in got] == [{frames[0]}, set(), {frames[1]}, {frames[2]}]
        with b.queues[0].rx_burst() as burst:
            assert not burst.desc.size
        if umem == "shared":  # a frame of one queue is sent by another without a copy
            send(a.queues[0], [frames[0]])
            until = time.monotonic() + 5
            while not (burst := b.queues[0].rx_burst()):
                assert time.monotonic() < until
            assert b.queues[3].tx_burst(burst) == 1
            burst.release()
            assert receive(a.queues, 1)[2][0][0] == frames[0]


def test_memory_is_registered_once():
    """A limit of locked memory that holds the frames once and not twice is enough for two queues that share them."""
    program = """if True:
        import sys
        import pybypass as pb
        try:
            pb.open(sys.argv[1]).close()
        except pb.PybypassError as e:
            print(e.code)
        else:
            print("opened")
    """
    limited = ["prlimit", "--memlock=3145728", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-all"]
    with laboratory.veth(queues=2) as v:
        for umem, want in (("shared", "opened"), ("own", "PB026")):
            uri = f"xdp:{v.a.ifname}?queue=0-1&umem={umem}&frames=1024&ring=256"  # of 2 MiB
            argv = [*limited, sys.executable, "-c", program, uri]
            with v.a.netns.popen(argv, stdout=subprocess.PIPE, text=True) as p:
                assert p.communicate(timeout=30)[0].strip() == want


def test_memory_is_shared_while_any_socket_has_it():
    umem = pb.Umem(frames=32768)
    with laboratory.veth(queues=2) as v:
        with pb.open(f"xdp:{v.a.ifname}?queue=0", netns=v.a.netns, umem=umem) as first:
            with (
                pb.open(f"xdp:{v.a.ifname}?queue=1", netns=v.a.netns, umem=umem) as second,
                pb.open(f"xdp:{v.b.ifname}?queue=0-1", netns=v.b.netns, umem=umem) as third,
            ):
                assert not first.report["umem_shared"]
                assert second.report["umem_shared"]
                assert [q.report["umem_shared"] for q in third.queues] == [True, True]
                first.close()  # the others go on, and new ones can still join them
                with pb.open(f"xdp:{v.a.ifname}?queue=0", netns=v.a.netns, umem=umem) as again:
                    assert again.report["umem_shared"]
        assert umem.info()["owners"]["free"] == 32768


def test_other_settings_register_for_themselves():
    umem = pb.Umem(frames=4096)
    with laboratory.veth(queues=2) as v, pb.open(f"xdp:{v.a.ifname}?queue=0", netns=v.a.netns, umem=umem):
        with pb.open(f"xdp:{v.a.ifname}?queue=1&headroom=64", netns=v.a.netns, umem=umem) as other:
            assert not other.report["umem_shared"]


def test_a_queue_that_is_not_there_takes_nothing():
    with laboratory.veth(queues=2) as v:
        with pytest.raises(pb.PybypassError) as caught:
            pb.open(f"xdp:{v.a.ifname}?queue=0-2", netns=v.a.netns)
        assert caught.value.code == "PB022"
        with port_on(v.a, "&queue=0-1") as port:  # the first two were closed again
            assert not port.closed


@pytest.mark.parametrize(
    "query",
    ["queue=0,0", "queue=1-0", "queue=", "queue=0-", "queue=0-64", "sockets=0", "sockets=17", "queue=0-15&sockets=16",
     "rss=crc", "sockets=2&rss=none", "rss=toeplitz&rss_key=00", "rss_key=" + "00" * 40,
     "rss=symmetric&rss_key=" + TOEPLITZ_KEY.hex(), "umem=mine", "sg=yes", "headroom=4000", "busy_poll=-1", "tx_meta=2",
     "frame=3008", "frame=3000&unaligned=1", "frame=8192&unaligned=1"],
)  # fmt: skip
def test_malformed_options(query):
    with pytest.raises(pb.PybypassError) as caught:
        pb.open(f"xdp:lo?{query}")
    assert caught.value.code == "PB010"


def test_steering_rules_are_joined_by_plus(lab):
    with pb.open(f"xdp:{lab.a.ifname}?steer=tcp:80+udp:4000-4100", netns=lab.a.netns) as port:
        assert sorted(port.program.steer_list()) == [(6, None, 80, 80, 1), (17, None, 4000, 4100, 1)]


# ---- several sockets on one queue ----


def test_the_hash_is_microsofts(lab):
    """The program's hash, from the descriptors, for the published vectors; and for what has no ports to hash."""
    frames, want = [], []
    for make, vectors, v in ((ip4, MICROSOFT_V4, "v4"), (ip6, MICROSOFT_V6, "v6")):
        type_ = 0x0800 if v == "v4" else 0x86DD
        for dst, src, dport, sport, addrs, ports in vectors:
            for proto, l4, hash_, kind in (
                (TCP, tcp(sport, dport), ports, "l4"), (UDP, udp(sport, dport), ports, "l4"),
                (47, b"gre" * 10, addrs, "l3"),
            ):  # fmt: skip
                frames.append(eth(make(l4, proto, src, dst), type_))
                want.append((hash_, f"{kind}_{v}"))
            if v == "v4":  # the first fragment has ports, and must go where the others go
                for frag in (0x2000, 0x2001, 0x0003):
                    frames.append(eth(ip4(udp(sport, dport), UDP, src, dst, frag=frag), type_))
                    want.append((addrs, "l3_v4"))
                frames.append(eth(ip4(tcp(sport, dport), TCP, src, dst, options=b"\x01" * 8), type_))
                want.append((ports, "l4_v4"))
            frames.append(eth(make(tcp(sport, dport), TCP, src, dst), type_, tags=[(0x8100, 7)]))
            want.append((ports, f"l4_{v}"))
    with port_on(lab.b, "&sockets=4") as port, packet_socket(lab.a) as wire:
        for frame in frames:
            wire.send(frame)
        got = receive(port.queues, len(frames))
        found = {data: (hash_, kind, member) for member, part in enumerate(got) for data, hash_, kind in part}
        table = port.rss_table
        for frame, (hash_, kind) in zip(frames, want, strict=True):
            assert found[frame] == (hash_, kind, table[hash_ % 128])


def test_what_is_not_ip_goes_to_the_first_socket(lab):
    with port_on(lab.b, "&sockets=3") as port, packet_socket(lab.a) as wire:
        port.rss_table = [2] * 128
        wire.send(eth(b"x" * 50, 0x88B5))
        wire.send(eth(b"\x45", 0x0800) + b"")
        wire.send(eth(ip4(icmp(8, b"echo"), 1)))
        got = receive(port.queues, 3)
        assert [len(g) for g in got] == [2, 0, 1]


@pytest.mark.parametrize("rss", ["toeplitz", "symmetric"])
@pytest.mark.parametrize(("sockets", "off"), [(4, 0.1), (8, 0.1), (16, 0.22)])
def test_ten_thousand_flows_are_spread(lab, rss, sockets, off):
    """At most so much off the mean by socket (16: see test_rss.py for what may be asked); symmetric: answers land where the
    flow does. Seeded."""
    rng = random.Random(sockets)
    flows = set()
    while len(flows) < 10_000:
        flows.add((rng.randbytes(4), rng.randbytes(4), rng.randrange(1, 65536), rng.randrange(1, 65536)))
    frames = [
        eth(ip4(udp(sport, dport, i.to_bytes(4, "big")), UDP, socket.inet_ntoa(src), socket.inet_ntoa(dst)))
        for i, (src, dst, sport, dport) in enumerate(sorted(flows))
    ]
    with port_on(lab.b, f"&sockets={sockets}&rss={rss}") as port, port_on(lab.a, "&frames=32768") as wire:
        where = np.full(10_000, -1)
        for i in range(0, len(frames), 1000):
            send(wire.queues[0], frames[i : i + 1000])
            for member, part in enumerate(receive(port.queues, 1000)):
                for data, hash_, kind in part:
                    assert kind == "l4_v4"
                    assert hash_ == toeplitz(port.rss_key, data[26:38])
                    where[int.from_bytes(data[42:46], "big")] = member
        counts = np.bincount(where, minlength=sockets)
        print(f"{rss}, {sockets} sockets: {counts.tolist()}")
        mean = 10_000 / sockets
        assert np.abs(counts - mean).max() <= off * mean
        if rss == "symmetric":
            back = [
                eth(ip4(udp(dport, sport, i.to_bytes(4, "big")), UDP, socket.inet_ntoa(dst), socket.inet_ntoa(src)))
                for i, (src, dst, sport, dport) in enumerate(sorted(flows)[:500])
            ]
            send(wire.queues[0], back)
            for member, part in enumerate(receive(port.queues, 500)):
                assert all(where[int.from_bytes(data[42:46], "big")] == member for data, *_ in part)


def test_the_table_can_be_changed_at_run_time(lab):
    frames = [eth(ip4(udp(1000 + i, 9, b"t"), UDP)) for i in range(200)]
    with port_on(lab.b, "&sockets=2") as port, packet_socket(lab.a) as wire:
        for table, counts in (([1] * 128, [0, 200]), ([0] * 128, [200, 0])):
            port.rss_table = table
            assert port.rss_table == table
            for frame in frames:
                wire.send(frame)
            assert [len(g) for g in receive(port.queues, 200)] == counts
        for bad in ([0] * 127, [2] * 128, [-1] * 128, ["0"] * 128):
            with pytest.raises(pb.PybypassError) as caught:
                port.rss_table = bad
            assert caught.value.code == "PB010"


def test_one_key_for_an_interface():
    with laboratory.veth(queues=2) as v, port_on(v.a, "&queue=0&rss=toeplitz"):
        with pytest.raises(pb.PybypassError) as caught:
            pb.open(f"xdp:{v.a.ifname}?queue=1&rss=symmetric", netns=v.a.netns)
        assert caught.value.code == "PB062"
        with port_on(v.a, "&queue=1&sockets=2") as other:
            assert other.rss_key == TOEPLITZ_KEY


@pytest.mark.parametrize("sockets", [2, 5])
def test_threads_drive_the_sockets(lab, sockets):
    """Each socket echoes in its own thread: nothing is lost, doubled or given to another, and every frame comes back to
    the socket that sent it."""
    total = 20_000
    stop = threading.Event()

    def echo(queue):
        n = 0
        while not stop.is_set():
            burst = queue.rx_burst()
            n += len(burst)
            while len(burst):
                queue.tx_burst(burst)
            burst.release()
        queue.reap()
        return n

    frames = [eth(ip4(udp(1 + i % 60000, 9, i.to_bytes(4, "big")), UDP)) for i in range(total)]
    with port_on(lab.b, f"&sockets={sockets}") as port, port_on(lab.a) as wire, ThreadPoolExecutor(sockets) as pool:
        workers = [pool.submit(echo, q) for q in port.queues]
        seen = []
        try:
            for i in range(0, total, 500):
                send(wire.queues[0], frames[i : i + 500])
                seen += [data for data, *_ in receive(wire.queues, 500)[0]]
        finally:
            stop.set()
        counts = [w.result() for w in workers]
        assert sorted(seen) == sorted(frames)
        assert sum(counts) == total
        assert min(counts) > total / sockets / 2
        stats = [q.stats() for q in port.queues]
        assert [s["rx_pkts"] for s in stats] == [s["tx_pkts"] for s in stats] == counts
        assert [s["drops"] for s in stats] == [{}] * sockets
        whole = port.stats()
        assert (whole["rx_pkts"], whole["tx_pkts"], whole["rx_bytes"]) == (total, total, sum(map(len, frames)))
        assert [(q["index"], q["member"], q["rx_pkts"]) for q in whole["queues"]] == [(0, k, n) for k, n in enumerate(counts)]
        until = time.monotonic() + 5
        while port.umem.info()["owners"]["tx"]:
            for q in port.queues:
                q.reap()
            assert time.monotonic() < until


def test_a_socket_that_is_not_read_starves_nobody(lab):
    frames = [eth(ip4(udp(i, 9, b"s"), UDP)) for i in range(1, 6001)]
    with port_on(lab.b, "&sockets=2&ring=1024") as port, port_on(lab.a) as wire:
        got = 0
        for i in range(0, 6000, 250):
            send(wire.queues[0], frames[i : i + 250])
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                with port.queues[1].rx_burst() as burst:
                    got += len(burst)
        stats = [q.stats() for q in port.queues]
        assert stats[1]["drops"] == {}
        stalled = stats[0]["drops"]["rx_ring"]
        assert got > 2500
        assert stalled == 6000 - got - 1024, "what is beyond the RX ring of the socket that is not read is counted"


def test_statistics_of_a_port_are_the_sums_over_its_queues():
    """Drops by reason too; a fill ring that ran dry is of the queue and counts once, whatever the number of sockets."""
    frames = [eth(ip4(udp(i, 9, b"s"), UDP)) for i in range(1, 1001)]
    with (
        laboratory.veth(queues=2) as v, port_on(v.a, "&queue=0-1") as wire,
        port_on(v.b, "&queue=0-1&sockets=2&ring=64&frames=256") as port,
    ):  # fmt: skip
        for queue in wire.queues:
            send(queue, frames)
        time.sleep(0.05)
        each = [q.stats() for q in port.queues]
        whole = port.stats()
        assert [(q["index"], q["member"]) for q in whole["queues"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert [{k: v for k, v in q.items() if k not in ("index", "member")} for q in whole["queues"]] == each
        lost = sum(q["drops"]["rx_ring"] for q in each)
        assert whole["drops"] == {"rx_ring": lost} and lost > 1000
        assert each[0]["rx_fill_empty"] == each[1]["rx_fill_empty"] > 0
        assert whole["rx_fill_empty"] == each[0]["rx_fill_empty"] + each[2]["rx_fill_empty"]
        sent = wire.stats()
        assert sent["tx_pkts"] == 2000 and [q["tx_pkts"] for q in sent["queues"]] == [1000, 1000]
        port.queues[3].close()
        assert [(q["index"], q["member"]) for q in port.stats()["queues"]] == [(0, 0), (0, 1), (1, 0)]
        for queue in port.queues[:3]:
            queue.close()
        with pytest.raises(pb.PybypassError) as caught:
            port.stats()
        assert caught.value.code == "PB012"


def test_sockets_are_closed_in_any_order(lab):
    """What goes to a closed one stays with the kernel; the others go on, the first of the queue or not."""
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        with port_on(lab.b, "&sockets=3") as port, packet_socket(lab.a) as wire:
            for k, closed in enumerate(order[:2]):
                port.queues[closed].close()
                left = [q for q in port.queues if not q.is_closed]
                for i in range(300):
                    wire.send(eth(ip4(udp(1 + i, 9, b"%d" % k), UDP)))
                until = time.monotonic() + 0.05
                got = 0
                while time.monotonic() < until:
                    for q in left:
                        with q.rx_burst() as burst:
                            got += len(burst)
                            q.tx_burst(burst)
                assert 300 * len(left) / 3 * 0.6 < got < 300 * len(left) / 3 * 1.4
            assert not port.closed


# ---- engines ----


@pytest.mark.parametrize("query", ["queue=0-1&umem=shared", "queue=0-1", "sockets=2"])
def test_an_engine_on_each_queue(query):
    """Both listen at one port; the kernel's clients are served whichever they come to, and connect() gets its answers."""
    with laboratory.veth(queues=2 if "queue" in query else 1) as v:
        with pb.open(f"xdp:{v.b.ifname}?{query}", netns=v.b.netns) as port:
            with (
                pb.Engine(port.queues[0], ip=v.b.ip) as first, pb.Engine(port, queue=1, ip=v.b.ip) as second,
                first.listen(7777) as one, second.listen(7777) as two,
            ):  # fmt: skip
                accepted = [0, 0]

                def serve(k, listener):
                    while True:
                        try:
                            c = listener.accept(0.2)
                        except pb.TimedOut:
                            return
                        with c:
                            c.settimeout(5)
                            accepted[k] += 1
                            c.sendall(c.recv(100))

                threads = [threading.Thread(target=serve, args=a) for a in ((0, one), (1, two))]
                for t in threads:
                    t.start()
                for i in range(30):
                    with v.a.netns:
                        c = socket.create_connection((v.b.ip, 7777), timeout=5)
                    with c:
                        c.sendall(b"%d" % i)
                        assert c.recv(100) == b"%d" % i
                for t in threads:
                    t.join()
                assert sum(accepted) == 30
                assert min(accepted) > 0, "the hash of the source port spreads them"
                if "sockets" in query:
                    with v.a.netns:
                        server = socket.create_server((v.a.ip, 8888))
                    with server, ThreadPoolExecutor(1) as pool:
                        for engine in (first, second, first, second):
                            theirs = pool.submit(server.accept)
                            with engine.connect((v.a.ip, 8888), timeout=5) as ours, theirs.result()[0] as peer:
                                ours.settimeout(5)
                                peer.settimeout(5)
                                done = pool.submit(Transfer(peer, 2, 100_000).run)
                                mine = Transfer(ours, 1, 100_000).run()
                                assert done.result()["sha_received"] == mine["sha_sent"]
            assert port.closed
        info = port.umem.info()
        assert info["owners"]["free"] == info["frames"]


def test_an_engine_for_a_queue_that_is_not_there(lab):
    with pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port, pytest.raises(pb.PybypassError) as caught:
        pb.Engine(port, queue=1, ip=lab.a.ip)
    assert caught.value.code == "PB040"


def test_an_icmp_error_goes_where_its_flow_goes(lab):
    """It quotes what we sent: hashed with both ends exchanged, whoever sent it."""
    with port_on(lab.b, "&sockets=8") as port, packet_socket(lab.a) as wire:
        for i in range(12):
            v6 = i & 1
            ours, theirs, router = ("fd77::2", "fd99::1", "fd77::1") if v6 else ("10.77.0.2", "10.9.0.1", "10.77.0.1")
            make, l4 = (ip6, tcp) if v6 else (ip4, udp if i & 2 else tcp)
            proto = UDP if l4 is udp else TCP
            type_ = 0x86DD if v6 else 0x0800
            flow = eth(make(l4(80, 1000 + i), proto, theirs, ours), type_)
            quote = make(l4(1000 + i, 80)[:8], proto, ours, theirs)
            error = eth(make(icmp(2 if v6 else 3, quote, 0 if v6 else 4), 58 if v6 else 1, router, ours), type_)
            wire.send(flow)
            wire.send(error)
            got = receive(port.queues, 2)
            assert sorted(len(g) for g in got) == [0] * 7 + [2], i
            (both,) = [g for g in got if g]
            assert both[0][1:] == both[1][1:], "the same hash, of the same kind"
