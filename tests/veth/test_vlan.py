"""Engines in a VLAN that only they know, beside one without a tag on the same interface."""

import contextlib
import errno
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pybypass as pb
from pybypass import lab as laboratory

sys.path.insert(0, str(Path(__file__).parent))
from support import eventually, exchange, kernel_connect, kernel_listener
from xsk_support import eth, ip4, packet_socket, udp

pytestmark = pytest.mark.root
TAGGED = {"a": ["10.100.0.1/24", "fd64::1/64"], "b": ["10.100.0.2/24", "fd64::2/64"]}


def test_a_vlan_that_only_engines_know():
    with laboratory.veth(ipv6=True) as pair, contextlib.ExitStack() as stack:
        engines = {}
        config = pb.EngineConfig(time_wait=0.1)
        for name, side in (("a", pair.a), ("b", pair.b)):
            port = stack.enter_context(pb.open(f"xdp:{side.ifname}?queue=0", netns=side.netns))
            engines[name] = stack.enter_context(pb.Engine(port, ip=TAGGED[name], vlan=100, config=config))
            assert [str(i) for i in engines[name].owned] == TAGGED[name]
        a, b = engines["a"], engines["b"]
        with ThreadPoolExecutor() as pool, b.listen(6000) as four, b.listen(6000, ip="fd64::2") as six:
            for listener, to in ((four, "10.100.0.2"), (six, "fd64::2")):
                far = pool.submit(listener.accept, 10)
                exchange(a.connect((to, 6000), timeout=10), far.result(), 300_000)
            assert a.slowpath.counters["learnt"] >= 1
            assert a.slowpath.counters["kernel_asked"] == 0
            # The kernels beside them talk without a tag, and are not disturbed.
            with kernel_listener(pair.a, 7000) as native:
                client = kernel_connect(pair.b, (pair.a.ip, 7000))
                server = native.accept()[0]
                client.sendall(b"untagged")
                assert server.recv(100) == b"untagged"
                client.close()
                server.close()
        # What comes for a tagged address without its tag, or with another one, is dropped and counted.
        with packet_socket(pair.b) as wire:
            mac = bytes.fromhex(pair.a.mac.replace(":", ""))
            for tags in ([], [(0x8100, 7)]):
                wire.send(mac + eth(ip4(udp(1, 9, b"x"), 17, "10.100.0.2", "10.100.0.1"), tags=tags)[6:])
            eventually(lambda: a.stats()["drops"].get("l2_vlan", 0) == 2)


def test_a_tagged_engine_beside_one_without_a_tag():
    """On the two sockets of a queue; the table of the software RSS sends each its own packets."""
    with laboratory.veth() as pair, contextlib.ExitStack() as stack:
        config = pb.EngineConfig(time_wait=0.1)
        far = stack.enter_context(pb.open(f"xdp:{pair.b.ifname}", netns=pair.b.netns))
        b = stack.enter_context(pb.Engine(far, ip="10.100.0.2/24", vlan=100, config=config))
        port = stack.enter_context(pb.open(f"xdp:{pair.a.ifname}?sockets=2", netns=pair.a.netns))
        tagged = stack.enter_context(pb.Engine(port, ip="10.100.0.1/24", vlan=100, queue=0, config=config))
        plain = stack.enter_context(pb.Engine(port, ip=pair.a.ip, queue=1, config=config))
        server = stack.enter_context(kernel_listener(pair.b, 5000))
        with ThreadPoolExecutor() as pool, b.listen(6000) as listener:
            for _ in range(2):
                accepted = pool.submit(listener.accept, 10)
                exchange(tagged.connect(("10.100.0.2", 6000), timeout=10), accepted.result(), 200_000)
                exchange(plain.connect((pair.b.ip, 5000), timeout=10), server.accept()[0], 200_000)


@pytest.mark.parametrize("query", ["meta=0", "mode=generic"])
def test_a_vlan_whose_tags_are_not_told_is_refused(query):
    """veth carries the tags of the kernel's VLAN interfaces beside the packet; here nobody would hand them on."""
    with laboratory.veth() as pair, pb.open(f"xdp:{pair.a.ifname}?{query}", netns=pair.a.netns) as port:
        with pytest.raises(pb.PybypassError) as caught:
            pb.Engine(port, ip="10.100.0.1/24", vlan=100)
        assert (caught.value.code, caught.value.errno) == ("PB083", errno.EOPNOTSUPP)
        assert query.partition("=")[0] in caught.value.hint
        pb.Engine(port, ip=pair.a.ip).close()  # and one without a tag is not
