"""The language of packet scripts: what is understood, and where what is not lies."""

import pytest

from pybypass.errors import PybypassError
from pybypass.scriptparse import parse
from pybypass.scripttree import Call, Code, Icmp, Record, TcpPacket, When


def test_times_of_all_kinds():
    s = parse(
        "0 close(3) = 0\n+.25 close(3) = 0\n1.5 close(3) = 0\n* > . 1:1(0) ack 1\n+.3~+.4 > . 1:1(0) ack 1\n2~2.5 > . 1:1(0) ack 1"
    )
    assert [e.when for e in s.events] == [
        When("at", 0), When("after", 250000), When("at", 1500000), When("any"), When("after", 300000, 400000),
        When("at", 2000000, 2500000),
    ]  # fmt: skip
    assert [e.line for e in s.events] == [1, 2, 3, 4, 5, 6]


def test_a_packet_with_everything():
    text = "0 < [ect0] SEW 10:20(10) ack 5 win 100 urg 3 <mss 1460,nop,wscale 7,sackOK,TS val 1 ecr 2,nop,eol>"
    (event,) = parse(text).events
    p = event.action
    assert isinstance(p, TcpPacket)
    assert (p.outbound, p.flags, p.seq, p.length, p.ack, p.window, p.urgent, p.ip.ecn) == (
        False,
        "SEW",
        10,
        10,
        5,
        100,
        3,
        2,
    )
    assert [o.name for o in p.options] == ["mss", "nop", "wscale", "sackOK", "TS", "nop", "eol"]


def test_flags_alone_and_apart():
    for text, flags in ((".", "."), ("S.", "S."), ("-", ""), ("FP.", "FP."), ("S.E", "S.E")):
        (event,) = parse(f"0 < {text} 1:1(0) win 9").events
        assert event.action.flags == flags


def test_blocking_calls_structs_and_notes():
    text = """--tolerance_usecs=10000
    // a comment
    /* another
       one */
    +0...0.200 connect(3, ..., ...) = -1 EINPROGRESS (Operation now in progress (or so))
    +0 sendmsg(4, {msg_name(...)=..., msg_iov(2)=[{..., 40}, {..., 20}], msg_flags=0}, MSG_MORE|MSG_DONTWAIT) = 60
    +0 fcntl(3, F_GETFL) = 0x2 (flags O_RDWR)
    +0 setsockopt(3, SOL_SOCKET, SO_LINGER, {onoff=1, linger=0}, 8) = 0
    +0 %{ assert 1 == 1 }%
    `sysctl -q net.ipv4.tcp_sack=1`"""
    s = parse(text)
    assert s.options == (("tolerance_usecs", "10000", 1),)
    connect, sendmsg, fcntl, linger, code = (e.action for e in s.events)
    assert isinstance(connect, Call) and connect.end_us == 200000 and connect.errno == "EINPROGRESS"
    message = sendmsg.arguments[1]
    assert isinstance(message, Record) and len(message.get("msg_iov").items) == 2
    assert fcntl.result.value == 2
    assert isinstance(linger.arguments[3], Record)
    assert isinstance(code, Code)


def test_icmp():
    (event,) = parse("0 < icmp unreachable frag_needed mtu 1200 [1:1461(1460)]").events
    assert event.action == Icmp(False, "unreachable", "frag_needed", 1200, 1, 1460)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("0 < S 0:0(0) win", "1:17", "a window"),
        ("0 < S 0:1(0) win 5", "1:7", "do not make 1"),
        ("0 < S 0:0(0)", "1:5", "because the packet comes in"),
        ("0 < S 0:0(0) win 5 <...>", "1:20", "because the packet comes in"),
        ("0 < X 0:0(0) win 5", "1:5", "TCP flags"),
        ("0 < S 0:0(0) win 70000", "1:18", "from 0 to 65535"),
        ("0 socket(3 = 3", "1:12", "','"),
        ("0 socket(3) 3", "1:13", "'='"),
        ("\n\n  %{ never ends", "3:3", "does not end"),
        ("0 > S 0:0(0) <mss>", "1:18", "an MSS"),
        ("0 > S 0:0(0) <what 5>", "1:15", "nop, eol"),
        ('0 write(4, "\\x", 1) = 1', "1:12", "whose escapes end"),
        ("0 f(" + "[" * 5000, "1:25", "nested"),
        ("--define=X\n0 f(X) = X", "1:1", "--define=NAME=VALUE"),
        ("", "1:1", "an event"),
        ("`true`", "1:7", "an event"),
        ("0 close(3) = 0\n`true`\n0 close(3) = 0", "3:1", "the end of the script"),
    ],
)
def test_what_is_not_understood_has_a_place(text, place, words):
    with pytest.raises(PybypassError) as e:
        parse(text, "x.pkt")
    assert e.value.code == "PB100"
    assert f"x.pkt:{place}: " in str(e.value)
    assert words in str(e.value)
