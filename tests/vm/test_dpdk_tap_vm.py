"""rte_flow in effect: DPDK's net_tap compiles rules to the kernel's traffic control, which obeys them.

Here and not in `make test`, for it needs sch_multiq, cls_flower and actions as modules.
"""

import socket
import subprocess

import pytest

import pybypass as pb
from pybypass import dpdk
from pybypass.flow import Rss, Rule

MODULES = ("tun", "sch_multiq", "sch_ingress", "cls_flower", "act_gact", "act_skbedit", "act_mirred")
UDP = {"src_ip": "192.0.2.1", "dst_ip": "192.0.2.2", "proto": "udp", "dst_port": 4002}


@pytest.fixture(scope="module")
def tap():
    """A port of two queues, and the kernel's end of it."""
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    dpdk.start(dpdk.EalOptions(huge="require"))
    with pb.open("dpdk:net_tap0?iface=pbt0&queues=2&rss=none&frames=4096") as port:
        subprocess.run(["ip", "link", "set", "pbt0", "up"], check=True)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("pbt0", 0))
            yield port, wire


@pytest.mark.parametrize("queue", [0, 1])
@pytest.mark.parametrize("match", [UDP, {"dst_ip": "192.0.2.2", "proto": "tcp", "dst_port": 443}], ids=["udp", "tcp"])
def test_a_queue(tap, queue, match):
    port, wire = tap
    check = port.flow_check(Rule(**match, queue=queue), wire.send)
    assert check.matching == {queue: 8}, check
    assert check.steers is (None if set(check.matching_without) == {queue} else True), check
    assert port.flow_list() == []


def test_a_drop(tap):
    port, wire = tap
    check = port.flow_check(Rule(**UDP, drop=True), wire.send)
    assert check.steers is True, check
    assert check.matching == {None: 8}


def test_rules_of_a_stopped_port_come_back(tap):
    port, wire = tap
    flow = port.flow_add(Rule(**UDP, drop=True))
    port.stop()
    port.start()
    (now,) = port.flow_list()
    assert now.active, now
    assert port.flow_check(flow.rule, wire.send).steers is True
    port.flow_flush()
    assert port.flow_list() == []


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ("action MARK", Rule(**UDP, queue=0, mark=1)), ("action COUNT", Rule(**UDP, queue=0, count=True)),
        ("action RSS", Rule(**UDP, rss=Rss(queues=(0, 1)))),
    ],
)  # fmt: skip
def test_what_it_does_not_do(tap, item, rule):
    """RSS would be a BPF program, which Debian's driver is built without."""
    port, _ = tap
    with pytest.raises(pb.PybypassError) as caught:
        port.flow_validate(rule)
    assert (caught.value.code, caught.value.detail["item"]) == ("PB095", item)
