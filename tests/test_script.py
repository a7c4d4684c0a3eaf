"""Packet scripts: the runner's verdicts, its host, and the command line. The scripts of tests/pkt are run by tests/test_pkt.py."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybypass import cli, script
from pybypass._script import Host, knobs
from pybypass.errors import PybypassError
from pybypass.scriptpacket import build_tcp, options_bytes, payload, seen_of, text_of
from pybypass.scripttree import Option, TcpPacket

SERVER = """`sysctl -q net.ipv4.tcp_timestamps=0`
    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
   +0 < S 0:0(0) win 32792 <mss 1000>
   +0 > S. 0:0(0) ack 1 <mss 1460>
  +.1 < . 1:1(0) ack 1 win 32792
   +0 accept(3, ..., ...) = 4
"""


def run(text, **settings):
    return script.run("t.pkt", script.Settings(**settings), text=text)


def failing(more, **settings):
    result = run(SERVER + more, **settings)
    assert not result.ok
    return result


# ---- what can be run ----


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0 epoll_create(1) = 3", "epoll_create()"),
        ("0 setsockopt(3, SOL_NOWHERE, 1, [1], 4) = 0", "SOL_NOWHERE"),
        ("`rm -rf /nothing`\n0 close(3) = 0", "'rm'"),
        ("`sysctl -q net.ipv4.tcp_nothing=1`\n0 close(3) = 0", "tcp_nothing"),
        ("`sysctl -q net.core.somaxconn=1`\n0 close(3) = 0", "net.core.somaxconn"),
        ("`echo 1 > /etc/passwd`\n0 close(3) = 0", "only knobs"),
        ("--nothing=1\n0 close(3) = 0", "--nothing"),
        ("--so_flags=what=1\n0 close(3) = 0", "what=1"),
        ("--ip_version=ipv4-mapped-ipv6\n0 close(3) = 0", "ipv4-mapped-ipv6"),
        ("0 < udp (100)", "UDP"),
        ("0 < gre: . 1:1(0) win 5", "gre"),
        ("0 < A. 1:1(0) win 5", "accurate ECN"),
    ],
)
def test_what_is_not_there_is_named(text, name):
    if "SOL_NOWHERE" in text:
        text = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+" + text
    with pytest.raises(PybypassError) as e:
        run(text)
    assert e.value.code == "PB101"
    assert name in str(e.value)


def test_nothing_of_a_command_is_run(tmp_path):
    target = tmp_path / "x"
    with pytest.raises(PybypassError):
        run(f"`touch {target}`\n0 close(3) = 0")
    assert not target.exists()


def test_defines():
    text = "--define=COOKIE=0x55\n" + SERVER + "+0 write(4, ..., COOKIE) = N\n+0 > P. 1:86(85) ack 1"
    assert script.run("t", script.Settings(defines={"N": "85"}), text=text).ok


def test_changed_scripts_end_in_a_verdict_or_a_typed_error(capfd):
    """Replays with PB_SEED."""
    seed = int(os.environ.get("PB_SEED", time.time_ns() & 0xFFFFFFFF))
    r = random.Random(seed)
    texts = [p.read_text() for p in sorted((Path(__file__).parent / "pkt").rglob("*.pkt"))]
    letters = '0123456789<>().,:+-~*[]{}`"%=| \nabcSFRP\\x'
    typed = []
    for _ in range(300):
        s = list(re.sub(r"%\{.*?\}%", "%{ assert tcpi_state }%", r.choice(texts), flags=re.DOTALL))
        for _ in range(r.randrange(1, 5)):
            i = r.randrange(len(s) - 8)
            s[i : i + r.randrange(8)] = r.choice(letters) if r.random() < 0.7 else []
        try:
            assert script.run("changed", text="".join(s)).text(), seed
        except PybypassError as e:
            typed.append((e.code, "".join(s)))
    assert {code for code, _ in typed} <= {"PB100", "PB101"}, (seed, typed)
    assert 10 < len(typed) < 300, (seed, len(typed))


# ---- verdicts ----


def test_it_holds():
    result = run(SERVER + "+0 write(4, ..., 2000) = 2000\n+0 > P. 1:2001(2000) ack 1")
    assert result.ok and result.failure is None
    assert [p.outbound for p in result.packets] == [False, True, False, True, True]
    assert [p.packet.length for p in result.packets] == [0, 0, 0, 1000, 1000]
    assert result.text().startswith("ok    t.pkt (IPv4): 5 packets")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("+0 write(4, ..., 9) = 9\n+0 > . 1:10(9) ack 1", "flags: expected ., seen P."),
        ("+0 write(4, ..., 9) = 9\n+0 > P. 2:11(9) ack 1", "sequence number: expected 2, seen 1"),
        ("+0 write(4, ..., 9) = 9\n+0 > P. 1:10(9) ack 2", "acknowledgment number: expected 2, seen 1"),
        ("+0 write(4, ..., 9) = 9\n+0 > P. 1:9(8) ack 1", "length: expected 8, seen 9"),
        ("+0 write(4, ..., 9) = 9\n+0 > P. 1:10(9) ack 1 win 5", "window: expected 5, seen 65535"),
        (
            "+0 write(4, ..., 9) = 9\n+0 > P. 1:10(9) ack 1 <nop,nop,sack 1:2>",
            "options: expected <nop,nop,sack 1:2>, seen none",
        ),
        ("+0 write(4, ..., 9) = 9\n+0 > [ce] P. 1:10(9) ack 1", "ECN: expected ce, seen noecn"),
        ("+0 write(4, ..., 9) = 9\n+0 > [ttl 3] P. 1:10(9) ack 1", "TTL: expected 3, seen 64"),
        ("+0 write(4, ..., 9) = 9\n+0 > [tos 0x10] P. 1:10(9) ack 1", "TOS byte: expected 0x10, seen 0x0"),
        ("+0 write(4, ..., 9) = 9\n+.1 > P. 1:10(9) ack 1", "came at another time"),
        ("+0 > . 1:1(0) ack 1", "nothing more is sent"),
        ("+0 write(4, ..., 9) = 8", "write() gave another result"),
        ("+0 read(4, ..., 9) = 9", "would wait for ever"),
        ("+0 fcntl(4, F_SETFL, O_NONBLOCK) = 0\n+0 read(4, ..., 9) = -1 EPIPE", "read() gave another result"),
        ("+0 close(7) = 0", "no open file descriptor 7"),
        ("+0 close(4, 5) = 0", "takes 1 arguments"),
        ("+0...0.1 read(4, ..., 9) = 9\n+.2 < P. 1:10(9) ack 1 win 99", "the end of read() came at another time"),
        ("+0...0.1 read(4, ..., 9) = 9", "is not through at the end"),
        ("+0 %{ assert tcpi_snd_cwnd == 3, tcpi_snd_cwnd }%", "the assertion does not hold"),
        ("+0 %{ nothing }%", "the code raised NameError"),
        ("+0 ioctl(4, SIOCINQ, [5]) = 0", "the value is 0, the script has 5"),
        ("+0 getsockopt(4, SOL_TCP, TCP_MAXSEG, [5], [4]) = 0", "the value is [1000]"),
        ("0 close(4) = 0", "time goes backward"),
    ],
)
def test_it_does_not_hold(more, reason):
    result = failing(more)
    assert reason in result.failure.reason, result.text()
    lines = (SERVER + more).splitlines()
    assert result.failure.line in (len(lines), len(lines) - 1)
    assert f"t.pkt:{result.failure.line}" in result.text()


def test_numbers_count_from_the_isns_but_in_a_syn():
    """As packetdrill has it: absolute in a SYN, relative to both ISNs in everything else."""
    server = SERVER.replace("S 0:0(0)", "S 5000:5000(0)").replace("S. 0:0(0) ack 1 ", "S. 700:700(0) ack 5001 ")
    text = server + """   +0 < P. 1:11(10) ack 1 win 32792
   +0 > . 1:1(0) ack 11
   +0 read(4, ..., 10) = 10
   +0 write(4, ..., 9) = 9
   +0 > P. 1:10(9) ack 11
"""
    result = run(text)
    assert result.ok, result.text()
    # Nobody's: it comes to no socket, and the RST acknowledges it relative to its own SYN.
    assert run("0 < S 4000:4100(100) win 9\n+0 > R. 0:0(0) ack 101").ok
    assert not run("0 < S 4000:4100(100) win 9\n+0 > R. 0:0(0) ack 4101").ok


def test_a_descriptor_is_made_once():
    made = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n"
    assert "file descriptor 3 already" in run(made + made).failure.reason
    assert "file descriptor 4 already" in failing("+0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 4").failure.reason
    assert run(made + "+0 close(3) = 0\n+0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3").ok


def test_packets_for_a_socket_that_neither_listens_nor_connects_go_nowhere():
    bound = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 bind(3, ..., ...) = 0\n"
    packet = "+.01 < . 1:1(0) ack 1 win 32792\n"
    assert run(bound + packet).ok
    assert not run(bound + packet + "+0 > R 1:1(0)").ok
    assert run(packet.replace("+.01", "0") + "+0 > R 1:1(0)").ok  # without any socket it is answered


def test_the_first_event_is_at_zero():
    assert "must be at time 0" in run("1 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3").failure.reason


def test_segments_of_one_send_are_joined_unless_strict():
    more = "+0 write(4, ..., 2500) = 2500\n+0 > P. 1:2501(2500) ack 1"
    assert run(SERVER + more).ok
    assert "length" in run("--strict_segments\n" + SERVER + more).failure.reason


def test_timestamps_are_compared_with_a_tick():
    text = """0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
    +0 fcntl(3, F_SETFL, O_NONBLOCK) = 0
    +0 connect(3, ..., ...) = -1 EINPROGRESS
    +0 > S 0:0(0) <mss 1460,sackOK,TS val 100 ecr 0,nop,wscale 7>
    +.1 < S. 0:0(0) ack 1 win 9000 <mss 1000,sackOK,TS val 7 ecr 100,nop,wscale 7>
    +0 > . 1:1(0) ack 1 <nop,nop,TS val {} ecr 7>"""
    assert run(text.format(200), ts_tick_us=1000).ok
    assert "options" in run(text.format(230), ts_tick_us=1000).failure.reason
    assert run(text.format(230)).ok
    wrong = text.replace("ecr 100,nop", "ecr 99,nop").format(200)
    assert "echoes no TS val" in run(wrong).failure.reason


def test_sent_and_received_data_are_compared():
    """The host's own bytes: a run in which one is changed on the way must fail."""
    result = run(SERVER + "+0 < P. 1:101(100) ack 1 win 999\n+0 > . 1:1(0) ack 101\n+0 read(4, ..., 100) = 100")
    assert result.ok
    assert payload(70000, 10) == payload(70000 - 65536, 10)
    assert len({payload(0, 2000)[i : i + 8] for i in range(0, 1992, 8)}) > 200


def test_layouts_and_profiles():
    client = """0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
    +0 fcntl(3, F_SETFL, O_NONBLOCK) = 0
    +0 connect(3, ..., ...) = -1 EINPROGRESS
    +0 > S 0:0(0) <{}>"""
    assert run(client.format("mss 1460,sackOK,TS val 1 ecr 0,nop,wscale 7")).ok
    assert run(client.format("mss 1460,nop,wscale 7,sackOK,TS val 1 ecr 0"), layout="freebsd").ok
    assert run("--so_flags=opts=freebsd\n" + client.format("mss 1460,nop,wscale 7,sackOK,TS val 1 ecr 0")).ok
    with pytest.raises(PybypassError) as e:
        run(client.format("..."), cc="nothing")
    assert e.value.code == "PB101"
    with pytest.raises(PybypassError) as e:
        script.Settings(layout="windows")
    assert e.value.code == "PB072"


def test_a_file_that_is_not_there():
    with pytest.raises(PybypassError) as e:
        script.run("/nowhere/x.pkt")
    assert e.value.code == "PB102"


def test_code_may_span_lines_and_prints_to_stderr(capsys):
    more = "+0 %{\nif tcpi_snd_cwnd == 10:\n  print('ten')\nassert tcpi_state == TCP_ESTABLISHED\n}%"
    assert run(SERVER + more).ok
    out, err = capsys.readouterr()
    assert (out, err) == ("", "ten\n")


# ---- bytes ----


@pytest.mark.parametrize("version", [4, 6])
def test_packets_there_and_back(version):
    src, dst = (bytes([10, 0, 0, i]) if version == 4 else bytes([0xFD, *[0] * 14, i]) for i in (1, 2))
    options = (
        Option("mss", (1400,)),
        Option("nop"),
        Option("wscale", (7,)),
        Option("sackOK"),
        Option("eol"),
        Option("eol"),
    )
    p = TcpPacket(True, "SE", 5, 3, 0, 77, 0, options)
    seen = seen_of(build_tcp(p, src, dst, (1, 2), b"abc"), 9)
    assert (seen.src, seen.dst, seen.data) == ((src, 1), (dst, 2), b"abc")
    assert text_of(seen.packet) == "SE 5:8(3) win 77 <mss 1400,nop,wscale 7,sackOK,eol,eol>"
    broken = bytearray(build_tcp(p, src, dst, (1, 2), b"abc"))
    broken[-1] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        seen_of(bytes(broken), 9)


def test_options_must_fill_words():
    with pytest.raises(ValueError, match="multiple of 4"):
        options_bytes((Option("sackOK"),))
    with pytest.raises(PybypassError) as e:
        run("0 < S 0:0(0) win 5 <sackOK>")
    assert e.value.code == "PB100"


# ---- the host ----


def test_the_host_itself():
    h = Host()
    assert "tcp_rmem" in knobs() and knobs()["tcp_rmem"] == 3
    assert h.set_knob("nothing", 0, 1) < 0
    with pytest.raises(KeyError):
        h.knob("nothing")
    assert h.knob("tcp_sack") == 1
    assert h.output() is None and h.next_ns is None
    s = h.socket(4, 1, 6)
    assert h.connect(s, (bytes([192, 0, 2, 1]), 80)) < 0
    packet, at = h.output()
    assert at == h.now_ns and packet[0] == 0x45
    assert h.next_ns == h.now_ns + 10**9
    h.advance(h.now_ns + 3 * 10**9)
    assert len(list(iter(h.output, None))) == 2
    assert h.input(b"") and h.input(b"\x45" * 30)
    assert h.close(s) == 0 and h.close(s) < 0


# ---- the command line ----


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.pkt"
    path.write_text(SERVER + "+0 write(4, ..., 9) = 9\n+0 > P. 1:10(9) ack 1\n")
    return path


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.pkt"
    path.write_text(SERVER + "+0 write(4, ..., 9) = 9\n+0 > F. 1:10(9) ack 1\n")
    return path


def test_run_prints_and_exits(good, bad, capsys):
    assert cli.main(["script", "run", str(good)]) == 0
    assert capsys.readouterr().out.startswith("ok ")
    assert cli.main(["script", "run", "--ip", "both", str(good), str(bad)]) == 1
    out = capsys.readouterr().out
    assert "2 of 4 hold" in out
    assert "expected 0.100000 > F. 1:10(9) ack 1" in out
    assert "seen     0.100000 > P. 1:10(9) ack 1 win 65535" in out
    assert cli.main(["script", "run", "-q", str(good)]) == 0
    assert capsys.readouterr().out == ""


def test_json_is_one_line(good, bad, capsys):
    assert cli.main(["script", "run", "--json", str(good), str(bad)]) == 1
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    answer = json.loads(out)
    assert answer["schema"] == "pybypass.script/1" and answer["failed"] == 1
    assert [r["ok"] for r in answer["results"]] == [True, False]
    assert answer["results"][1]["failure"]["line"] == 10


def test_exit_codes_of_errors(tmp_path, capsys):
    path = tmp_path / "x.pkt"
    for text, code in (("nonsense", 2), ("0 epoll_create(1) = 3", 3)):
        path.write_text(text)
        assert cli.main(["script", "run", str(path)]) == code
        assert f"{path}:1" in capsys.readouterr().err
    assert cli.main(["script", "run", str(tmp_path / "nothing")]) == 2
    done = subprocess.run([sys.executable, "-m", "pybypass", "script"], capture_output=True, check=False)
    assert done.returncode == 2


def test_diagram_of_a_script(good, bad, capsys):
    assert cli.main(["script", "diagram", str(good)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["time", "s", "since", "script", "stack"]
    assert len(lines) == 5
    assert "S 0:0(0) win 32792 <mss 1000> --" in lines[1] and lines[1].endswith(">-|")
    assert "|<--" in lines[2] and "-- S. 0:0(0) ack 1 win 65535 <mss 1460> -|" in lines[2]
    assert "+0.100000" in lines[3]
    assert len({len(line.rstrip("duplicate ACK").rstrip()) for line in lines[1:]}) == 1
    assert cli.main(["script", "diagram", str(bad)]) == 1
    assert "FAIL" in capsys.readouterr().out
