"""Options of connections by name, congestion control by name, the record of ACKs, counters by nstat's names."""

import errno
import socket
import time

import pytest
from support import Pair, eventually

import pybypass as pb
from pybypass.ccrecord import CA_STATES, TRACE_EVENTS
from pybypass.sockoptions import OPTIONS


@pytest.fixture
def pair():
    with Pair() as p:
        yield p


def test_each_option_is_set_and_read(pair):
    c, s = pair.connect()
    values = {
        "nodelay": True, "cork": True, "quickack": False, "acks": 1, "delayed_ack": 0.1, "keepalive_idle": 7.0,
        "keepalive_interval": 2.0, "keepalive_probes": 4, "user_timeout": 30.0, "linger": 3.0, "syn_retries": 2,
        "fin_wait2": 5.0, "rcvbuf": 1 << 18, "sndbuf": 1 << 17, "window_clamp": 30000, "tos": 0x48, "ttl": 9,
        "pmtu_discovery": False, "pacing_rate": 123456, "rto_max": 9.0, "rto_min": 0.005, "notsent_lowat": 4096,
        "slow_start_after_idle": False,
    }  # fmt: skip
    assert set(values) | {"maxseg"} == set(OPTIONS)
    for name, value in values.items():
        c.set_option(name, value)
        assert c.get_option(name) == value, name
    assert c.get_option("maxseg") == c.info()["mss"]
    c.set_option("linger", -1)
    assert c.get_option("linger") == -1
    c.close()
    s.close()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("no_such", 1, errno.ENOPROTOOPT), ("nodelay", 2, errno.EINVAL), ("ttl", 0, errno.EINVAL),
        ("ttl", 1.5, errno.EINVAL), ("user_timeout", -1, errno.EINVAL), ("rto_min", 0.0001, errno.EINVAL),
        ("delayed_ack", 0.6, errno.EINVAL), ("tos", 256, errno.EINVAL),
    ],
)  # fmt: skip
def test_what_is_no_option_or_no_value(pair, name, value, code):
    c, s = pair.connect()
    with pytest.raises(pb.PybypassError) as caught:
        c.set_option(name, value)
    assert (caught.value.code, caught.value.errno) == ("PB040", code)
    assert caught.value.hint
    with pytest.raises(pb.PybypassError):
        c.get_option("no_such")
    c.close()
    s.close()


def test_maxseg_is_for_the_handshake(pair):
    c, s = pair.connect()
    with pytest.raises(OSError) as caught:
        c.set_option("maxseg", 600)
    assert caught.value.errno == errno.EINVAL
    c.close()
    s.close()


def test_connections_inherit_from_the_listener(pair):
    pair.listener.set_option("user_timeout", 12)
    pair.listener.set_option("nodelay", False)
    pair.listener.set_option("maxseg", 700)
    c, s = pair.connect()
    assert s.get_option("user_timeout") == 12
    assert s.get_option("nodelay") is False
    assert c.info()["mss"] == 700 - 12  # the timestamps come out of it (RFC 6691)
    c.close()
    s.close()


def test_cork_and_more_hold_a_small_segment(pair):
    c, s = pair.connect()
    c.set_option("cork", True)
    c.sendall(b"abc")
    s.settimeout(0.05)
    with pytest.raises(OSError):
        s.recv(10)
    c.set_option("cork", False)
    s.settimeout(5)
    assert s.recv(10) == b"abc"
    began = time.monotonic()
    c.send(b"d", socket.MSG_MORE)
    assert s.recv(10) == b"d"
    assert time.monotonic() - began > 0.15  # the timer's 200 ms, not at once
    c.send(b"e", socket.MSG_MORE)
    c.sendall(b"f")
    assert s.recv(10) == b"ef"
    c.close()
    s.close()


def test_a_record_ends_a_segment(pair):
    c, s = pair.connect()
    c.set_option("cork", True)
    assert c.send(b"ab", socket.MSG_EOR) == 2
    c.sendall(b"cd", socket.MSG_EOR)
    c.send(b"ef")
    received = b""
    while len(received) < 4:
        received += s.recv(10)
    assert received == b"abcd"  # two segments of two bytes, though corked; what is no record yet stays
    c.set_option("cork", False)
    assert s.recv(10) == b"ef"
    assert c.info()["tcpi"]["tcpi_data_segs_out"] == 3
    c.close()
    s.close()


def test_linger_0_resets(pair):
    c, s = pair.connect()
    c.set_option("linger", 0)
    c.close()
    s.settimeout(5)
    with pytest.raises(ConnectionResetError):
        s.recv(1)
    assert pair.a.stats()["nstat"]["TcpExtTCPAbortOnData"] == 1
    s.close()


def test_linger_waits_for_the_ack(pair):
    c, s = pair.connect()
    c.set_option("linger", 5)
    c.sendall(b"x" * 100_000)
    c.close()
    got = 0
    while data := s.recv(65536):
        got += len(data)
    assert got == 100_000
    s.close()


def test_pacing_keeps_to_its_rate(pair):
    c, s = pair.connect()
    rate, size = 2_000_000, 400_000
    c.set_option("pacing_rate", rate)
    began = time.monotonic()
    c.sendall(b"p" * size)
    got = 0
    while got < size:
        got += len(s.recv(65536))
    took = time.monotonic() - began
    assert took >= 0.95 * size / rate  # not faster; how much slower is the machine's affair
    assert pair.a.stats()["own"]["PacingWaits"] > 0
    c.close()
    s.close()


def test_congestion_control_by_name(pair):
    c, s = pair.connect()
    assert c.info()["congestion"] == "cubic"
    c.set_congestion("reno")
    assert c.info()["congestion"] == "reno"
    with pytest.raises(pb.PybypassError) as caught:
        c.set_congestion("vegas")
    assert caught.value.code == "PB040"
    with pytest.raises(pb.PybypassError):
        pb.EngineConfig(congestion="vegas")
    c.close()
    s.close()


def test_trace_is_one_record_per_ack():
    with Pair(config_a=pb.EngineConfig(trace=4096)) as p:
        c, s = p.connect()
        size = 300_000
        c.sendall(bytes(size))
        got = 0
        while got < size:
            got += len(s.recv(65536))
        assert c.wait_sent(5)
        records, lost = p.a.trace()
        assert lost == 0
        assert len(records) > 3
        assert records["acked"].sum() == size == c.info()["bytes_acked"]
        assert (records["time_ns"][1:] >= records["time_ns"][:-1]).all()
        assert len(set(records["conn"])) == 1
        assert (records["delivered"][1:] >= records["delivered"][:-1]).all()
        assert records["delivered"][-1] == size
        assert records["cwnd"][-1] >= records["cwnd"][0] >= 14000
        assert {CA_STATES[i] for i in records["ca_state"]} == {"open"}
        assert "ack" in {TRACE_EVENTS[i] for i in records["event"]}
        again, _ = p.a.trace()
        assert len(again) == 0
        assert p.b.trace()[0].size == 0  # not asked for there
        c.close()
        s.close()


def test_trace_keeps_the_newest():
    with Pair(config_a=pb.EngineConfig(trace=16)) as p:
        c, s = p.connect()
        for _ in range(40):
            c.sendall(b"x")
            assert s.recv(1) == b"x"
            assert c.wait_sent(5)
        records, lost = p.a.trace()
        assert len(records) == 16
        assert lost == 40 - 16
        assert records["delivered"][-1] == 40
        c.close()
        s.close()
    with pytest.raises(pb.PybypassError):
        pb.EngineConfig(trace=1000)


def test_counters_have_nstats_names(pair):
    c, s = pair.connect()
    c.sendall(b"x" * 1000)
    assert len(s.recv(1000)) == 1000
    assert c.wait_sent(5)
    stats = pair.a.stats()
    n = stats["nstat"]
    assert n["TcpActiveOpens"] == 1 == pair.b.stats()["nstat"]["TcpPassiveOpens"]
    assert n["TcpOutSegs"] == stats["segs_out"] > 2
    assert n["TcpExtTCPOrigDataSent"] == 1
    assert n["TcpRetransSegs"] == 0
    assert all(name.startswith("Tcp") for name in n)
    assert not set(n) & set(stats["own"]) and stats["own"]["PmtuUpdates"] == 0
    c.close()
    s.close()
    eventually(lambda: sum(e.stats()["nstat"]["TcpExtTW"] for e in (pair.a, pair.b)) >= 1)


def test_info_has_linuxs_names(pair):
    c, s = pair.connect()
    c.sendall(b"x" * 5000)
    got = 0
    while got < 5000:
        got += len(s.recv(5000))
    assert c.wait_sent(5)
    info = c.info()
    t = info["tcpi"]
    assert t["tcpi_state"] == 1  # TCP_ESTABLISHED
    assert t["tcpi_snd_mss"] == info["mss"]
    assert t["tcpi_snd_cwnd"] == info["cwnd"] // info["mss"] >= 10
    assert t["tcpi_snd_ssthresh"] == 0x7FFFFFFF
    assert t["tcpi_bytes_acked"] == 5000
    assert t["tcpi_delivered"] - 1 == t["tcpi_data_segs_out"] == 4  # the SYN was delivered too
    assert t["tcpi_unacked"] == t["tcpi_lost"] == t["tcpi_retrans"] == 0
    assert t["tcpi_rto"] >= 200_000
    assert s.info()["tcpi"]["tcpi_bytes_received"] == 5000
    c.close()
    s.close()
