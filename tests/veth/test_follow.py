"""What the kernel changes while a connection lives: neighbours, routes, addresses and links. Bytes are compared both ways."""

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import lab as laboratory

sys.path.insert(0, str(Path(__file__).parent))
from support import eventually, kernel_connect, kernel_listener

pytestmark = pytest.mark.root
BLOCK = 4096


def run(side, *commands):
    """`ip` commands in a namespace."""
    for command in commands:
        argv = ["nsenter", f"--net=/proc/self/fd/{side.netns.fd}", "ip", *command.split()]
        subprocess.run(argv, pass_fds=[side.netns.fd], check=True, capture_output=True, text=True)


def block(n):
    return n.to_bytes(8, "big") * (BLOCK // 8)


class Flow:
    """Both ends send numbered blocks to each other for ever, and check what they get."""

    def __init__(self, ours, theirs):
        self.got, self.failed, self.stop = [0, 0], [], threading.Event()
        self.ends = (ours, theirs)
        for end in self.ends:
            end.settimeout(60)
        self.threads = [threading.Thread(target=self.send, args=(e,)) for e in self.ends]
        self.threads += [threading.Thread(target=self.receive, args=(i, e)) for i, e in enumerate(self.ends)]
        for t in self.threads:
            t.start()

    def send(self, end):
        try:
            for n in itertools.count():
                if self.stop.is_set():
                    end.shutdown(socket.SHUT_WR)
                    return
                end.sendall(block(n))
                time.sleep(0.002)
        except OSError as e:
            self.failed.append(e)

    def receive(self, i, end):
        try:
            while True:
                data = b""
                while len(data) < BLOCK:
                    piece = end.recv(BLOCK - len(data))
                    if not piece:
                        assert not data
                        return
                    data += piece
                assert data == block(self.got[i])
                self.got[i] += 1
        except (OSError, AssertionError) as e:
            self.failed.append(e)

    def goes_on(self, seconds=20.0):
        """Until each end has got another twenty blocks."""
        before = list(self.got)
        until = time.monotonic() + seconds
        while any(now < was + 20 for now, was in zip(self.got, before, strict=True)):
            assert not self.failed, self.failed
            assert time.monotonic() < until, (before, self.got)
            time.sleep(0.005)

    def stands(self, seconds=0.3):
        """Nothing arrives any more."""
        until = time.monotonic() + 5
        while True:
            before = list(self.got)
            time.sleep(seconds)
            if before == self.got:
                return
            assert time.monotonic() < until

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join()
        assert not self.failed, self.failed
        for end in self.ends:
            end.close()


@contextlib.contextmanager
def flow_on(pair, *, ip=None, to=None, **how):
    to = to or pair.b.ip
    with (
        pb.open(f"xdp:{pair.a.ifname}", netns=pair.a.netns) as port,
        pb.Engine(port, ip=ip or pair.a.ip, config=pb.EngineConfig(time_wait=0.1, rto_max=0.5), **how) as engine,
        kernel_listener(pair.b, 5000, to) as server,
    ):
        ours = engine.connect((to, 5000), timeout=5)
        flow = Flow(ours, server.accept()[0])
        try:
            flow.goes_on()
            yield engine, flow
        finally:
            flow.end()


V6 = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def both():
    with laboratory.veth(ipv6=True) as pair:
        for side in (pair.a, pair.b):
            side.netns.run(keep, side)
        yield pair


def keep(side):
    """IPv6 addresses stay when the link is set down, as IPv4's do."""
    Path(f"/proc/sys/net/ipv6/conf/{side.ifname}/keep_addr_on_down").write_text("1", encoding="ascii")


def ends(pair, version):
    return {"ip": pair.a.ip if version == 4 else pair.a.ip6, "to": pair.b.ip if version == 4 else pair.b.ip6}


@V6
def test_a_neighbour_gets_another_mac_address(both, version):
    with flow_on(both, **ends(both, version)) as (engine, flow):
        run(both.b, f"link set {both.b.ifname} address 02:00:00:00:00:77")
        flow.goes_on()
        assert engine.slowpath.counters["neighbour_moved"] >= 1


@V6
def test_a_neighbour_of_an_owned_address_gets_another_mac_address(both, version):
    ip, to = ("10.77.0.9/24", both.b.ip) if version == 4 else ("fd77::9/64", both.b.ip6)
    with flow_on(both, ip=ip, to=to) as (engine, flow):
        run(both.b, f"link set {both.b.ifname} address 02:00:00:00:00:77")
        flow.goes_on()
        assert engine.slowpath.counters["kernel_asked"] == 0


@V6
def test_a_neighbour_is_deleted_and_replaced(both, version):
    where = ends(both, version)
    with flow_on(both, **where) as (engine, flow):
        dev = both.a.ifname
        run(both.a, f"neigh del {where['to']} dev {dev}")
        eventually(lambda: engine.slowpath.counters["neighbour_lost"] >= 1)
        flow.goes_on()
        run(both.a, f"neigh replace {where['to']} lladdr 02:00:00:00:00:99 dev {dev} nud permanent")
        flow.stands()
        run(both.a, f"neigh replace {where['to']} lladdr {both.b.mac} dev {dev} nud reachable")
        flow.goes_on()
        run(both.a, f"neigh change {where['to']} lladdr {both.b.mac} dev {dev} nud stale")
        eventually(lambda: engine.slowpath.counters["neighbour_stale"] >= 1)  # and it was asked to look
        flow.goes_on()


@V6
def test_a_route_moves_to_another_gateway(both, version):
    """The second gateway is another MAC address on the same wire (macvlan)."""
    far, gateways, prefix, length = "10.200.0.1", ("10.77.0.2", "10.77.0.3"), "24", 32
    if version == 6:  # a router's address is link-local, as a rule
        far, gateways, prefix, length = "fd99::1", ("fd77::2", "fe80::3"), "64", 128
    run(
        both.b, f"addr add {far}/{length} dev lo", f"link add link {both.b.ifname} name gw2 type macvlan mode bridge",
        "link set gw2 address 02:00:00:00:00:33", "link set gw2 up",
        f"addr add {gateways[1]}/{prefix} dev gw2 {'nodad' if version == 6 else ''}",
    )  # fmt: skip
    both.b.netns.run(lambda: Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("1", encoding="ascii"))
    run(both.a, f"-{version} route add default via {gateways[0]} dev {both.a.ifname}")
    ip = both.a.ip if version == 4 else both.a.ip6
    with flow_on(both, ip=ip, to=far) as (engine, flow):
        engine.capture_start(16 << 20)
        flow.goes_on()
        assert to_macs(engine) == {both.b.mac}
        run(both.a, f"-{version} route replace default via {gateways[1]} dev {both.a.ifname}")
        eventually(lambda: engine.slowpath.counters["routes_read"] >= 2)
        flow.goes_on()
        eventually(lambda: to_macs_since(engine, flow) == {"02:00:00:00:00:33"})
        engine.capture_stop()
        run(both.a, f"-{version} route add {far}/{length} via {gateways[0]} dev {both.a.ifname}")  # a longer prefix
        flow.goes_on()
        eventually(lambda: to_macs_since(engine, flow, start=True) == {both.b.mac})
        engine.capture_stop()
        run(both.a, f"-{version} route del {far}/{length}", f"-{version} route del default")
        eventually(lambda: engine.stats()["drops"].get("no_route", 0) > 0)
        with pytest.raises(pb.PybypassError) as caught:
            engine.connect((far, 5000), timeout=1)
        assert caught.value.code == "PB056"
        run(both.a, f"-{version} route add default via {gateways[0]} dev {both.a.ifname}")
        flow.goes_on()


def to_macs(engine):
    from pybypass import pcap

    data, _, _ = engine.capture_stop()
    engine.capture_start(16 << 20)
    return {p[:6].hex(":") for _, out, p in pcap.records(data) if out and len(p) > 500}


def to_macs_since(engine, flow, start=False):
    """Where data went while the flow went on."""
    if start:
        with contextlib.suppress(pb.PybypassError):
            engine.capture_start(16 << 20)
    to_macs(engine)
    flow.goes_on()
    return to_macs(engine)


def test_a_static_gateway_wins(both):
    """gw= is before the default route of the kernel, and stays when that goes."""
    run(both.b, "addr add 10.200.0.1/32 dev lo")
    run(both.a, f"route add default via 10.77.0.99 dev {both.a.ifname}")
    with flow_on(both, to="10.200.0.1", gw=both.b.ip) as (engine, flow):
        run(both.a, "route del default")
        eventually(lambda: engine.slowpath.counters["routes_read"] >= 2)
        flow.goes_on()


@V6
@pytest.mark.parametrize("end", ["ours", "theirs"])
def test_a_link_goes_down_and_up(both, end, version):
    side = both.a if end == "ours" else both.b
    with flow_on(both, **ends(both, version)) as (engine, flow):
        for _ in range(2):
            run(side, f"link set {side.ifname} down")
            flow.stands()
            eventually(lambda: engine.slowpath.counters["link_down"] >= 1)
            if end == "ours":  # the kernel forgets its neighbours with the link: segments wait for one, and are given up
                eventually(lambda: engine.stats()["drops"].get("no_neigh", 0) > 0)
            run(side, f"link set {side.ifname} up")
            flow.goes_on()
        assert engine.slowpath.counters["link_up"] >= 2


@pytest.mark.parametrize("how", ["owned", "inline", "spin"])
def test_a_link_goes_down_and_up_under_other_engines(lab, how):
    """Inline: the caller waits, and nothing is spun; owned: announced again."""
    ip = "10.77.0.9/24" if how == "owned" else lab.a.ip
    more = {"inline": {"inline": True}, "spin": {"worker": pb.Worker(mode="spin")}}.get(how, {})
    with flow_on(lab, ip=ip, **more) as (engine, flow):
        announced = engine.slowpath.counters["announced"]
        run(lab.a, f"link set {lab.a.ifname} down")
        flow.stands()
        if how == "owned":
            eventually(lambda: engine.stats()["drops"].get("link_down", 0) > 0)
        run(lab.a, f"link set {lab.a.ifname} up")
        flow.goes_on()
        if how == "owned":
            eventually(lambda: engine.slowpath.counters["announced"] > announced)


def test_a_loop_sleeps_while_the_link_is_down(lab):
    with flow_on(lab, worker=pb.Worker(mode="interrupt")) as (engine, flow):
        run(lab.a, f"link set {lab.a.ifname} down")
        flow.stands()
        before = engine.worker.info()
        time.sleep(0.5)
        after = engine.worker.info()
        assert after["cpu_s"] - before["cpu_s"] < 0.5 * (after["wall_s"] - before["wall_s"])
        run(lab.a, f"link set {lab.a.ifname} up")
        flow.goes_on()


def test_an_address_is_removed(lab):
    """What is open goes on while the other end knows where we are; nothing new is opened from it."""
    with flow_on(lab) as (engine, flow):
        run(lab.a, f"addr add 10.77.0.50/24 dev {lab.a.ifname}", f"addr del {lab.a.ip}/24 dev {lab.a.ifname}")
        eventually(lambda: engine.slowpath.counters["address_removed"] == 1)
        for attempt in (lambda: engine.connect((lab.b.ip, 5000), timeout=1), lambda: engine.listen(6000)):
            with pytest.raises(pb.PybypassError) as caught:
                attempt()
            assert caught.value.code == "PB080"
            assert caught.value.hint
        flow.goes_on()
        run(lab.a, f"addr add {lab.a.ip}/24 dev {lab.a.ifname}")
        eventually(lambda: engine.slowpath.counters["address_added"] == 1)
        with engine.listen(6000):
            pass


def test_lost_news_are_read_anew(lab):
    """The kernel throws news away when nobody reads them in time (ENOBUFS)."""
    with flow_on(lab) as (engine, flow):
        follower = engine.port._follower
        follower._netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        many = "".join(
            f"neigh replace 10.77.{i >> 8}.{i & 255} lladdr 02:00:00:00:01:02 dev {lab.a.ifname}\n" for i in range(300, 2300)
        )
        argv = ["nsenter", f"--net=/proc/self/fd/{lab.a.netns.fd}", "ip", "-batch", "-"]
        subprocess.run(argv, pass_fds=[lab.a.netns.fd], check=True, capture_output=True, text=True, input=many)
        eventually(lambda: engine.slowpath.counters["news_lost"] >= 1)
        follower._netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        run(lab.a, f"neigh del {lab.b.ip} dev {lab.a.ifname}")
        eventually(lambda: engine.slowpath.counters["neighbour_lost"] >= 1)
        flow.goes_on()


def test_one_thread_follows_for_all_engines_of_a_port():
    with laboratory.veth(queues=2) as pair, pb.open(f"xdp:{pair.a.ifname}?queue=0-1", netns=pair.a.netns) as port:

        def followers():
            return [t for t in threading.enumerate() if t.name == "pybypass-follow"]

        with pb.Engine(port, ip=pair.a.ip, queue=0):
            with pb.Engine(port, ip=pair.a.ip, queue=1):
                assert len(followers()) == 1
            assert len(followers()) == 1
        assert not followers()


def test_kernel_clients_are_served_across_a_change(lab):
    """Passive: the listener's next connection comes by the neighbour's new address."""
    with pb.open(f"xdp:{lab.a.ifname}", netns=lab.a.netns) as port, pb.Engine(port, ip=lab.a.ip) as engine:
        with engine.listen(6000) as listener:
            for mac in ("02:00:00:00:00:71", "02:00:00:00:00:72"):
                run(lab.b, f"link set {lab.b.ifname} address {mac}")
                with kernel_connect(lab.b, (lab.a.ip, 6000)) as theirs, listener.accept(5) as ours:
                    theirs.sendall(b"hello")
                    assert ours.recv(5) == b"hello"
