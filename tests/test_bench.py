"""pybypass bench: packets, loops over mem: and over a veth pair, validity, comparison, the command."""

import ipaddress
import json
import math
import signal
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import pybypass as pb
from pybypass import bench, benchcompare, benchreport, cli, gen, lab
from pybypass.bench import Histogram, Options, Vary

pytestmark = pytest.mark.alone("rates and times")
MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def address(text):
    return ipaddress.ip_address(text)


def a_packet(**more):
    values = {"src_mac": MAC_A, "dst_mac": MAC_B, "src": address("10.0.0.1"), "dst": address("10.0.0.2")} | more
    return gen.Packet(**values)


# ---- histograms ----


def test_percentiles_are_those_of_the_values():
    rng = np.random.default_rng(3)
    values = (rng.pareto(1.5, 50_000) * 5000).astype(np.uint64)
    h = Histogram()
    h.record(values)
    assert len(h) == len(values)
    assert (h.min, h.max) == (values.min(), values.max())
    assert h.mean == pytest.approx(values.mean())
    for p in (0, 1, 50, 90, 99, 99.9, 99.99, 100):
        rank = max(1, math.ceil(Fraction(str(p)) * len(values) / 100))
        exact = np.sort(values)[rank - 1]
        assert exact <= h.percentile(p) <= exact * (1 + 1 / 1024), p
    low, count = h.buckets()
    assert count.sum() == len(values)
    assert (np.diff(low.astype(np.int64)) > 0).all()
    both = Histogram()
    both.merge(h)
    both.merge(h)
    assert len(both) == 2 * len(h)
    assert both.percentile(99) == h.percentile(99)


def test_an_empty_histogram_and_wrong_percentiles():
    h = Histogram()
    assert (len(h), h.min, h.max, h.mean, h.percentile(50)) == (0, 0, 0, 0.0, 0)
    assert benchreport.percentiles(h)["p50"] is None
    for wrong in (-1, 100.1, float("nan")):
        with pytest.raises(ValueError):
            h.percentile(wrong)


def test_a_percentile_that_no_sample_is_above_is_not_given():
    h = Histogram()
    h.record(range(1, 1001))
    row = benchreport.percentiles(h)
    assert row["p99.9"] == 999
    assert row["p99.99"] is None
    assert row["max"] == 1000


# ---- packets ----


@pytest.mark.parametrize("ips", [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_packets_vary_and_keep_their_checksums(ips):
    packet = a_packet(
        src=address(ips[0]), dst=address(ips[1]), size=128,
        vary=(Vary.parse("sport=random:1024-65535"), Vary.parse("dport=7000-7002"), Vary.parse("@100:1=1-9/4")),
    )  # fmt: skip
    template = packet.template(run=77)
    assert len(template) == 124
    l4 = packet.headers - 8
    pseudo = packet.src.packed + packet.dst.packed + (124 - l4).to_bytes(2, "big") + b"\0\x11"
    ports, tails = set(), []
    for seq in range(30):
        data = template.write(seq, 10**9 + seq)
        assert internet_sum(pseudo + data[l4:]) == 0xFFFF
        if packet.src.version == 4:
            assert internet_sum(data[14:34]) == 0xFFFF
        ports.add(int.from_bytes(data[l4 : l4 + 2], "big"))
        assert int.from_bytes(data[l4 + 2 : l4 + 4], "big") == 7000 + seq % 3
        tails.append(data[100])
        word, stamp = (int.from_bytes(data[at : at + 8], "little") for at in (l4 + 8, l4 + 16))
        assert (word & (1 << 48) - 1, word >> 48, stamp) == (seq, 77, 10**9 + seq)
    assert len(ports) > 25
    assert min(ports) >= 1024
    assert tails[:4] == [1, 5, 9, 1]


def internet_sum(data):
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize(
    "wrong",
    [
        {"dst": address("fd00::2")}, {"sport": 0}, {"dport": 65536}, {"size": 61}, {"size": 10_000},
        {"vary": [Vary(field="sport", low=0, high=1)] * 9},
    ],
)  # fmt: skip
def test_packets_that_cannot_be(wrong):
    with pytest.raises(pb.PybypassError) as e:
        a_packet(**wrong)
    assert e.value.code == "PB040"


@pytest.mark.parametrize(
    "text",
    [
        "sport",
        "sport=1",
        "sport=9-1",
        "sport=a-b",
        "@5=1-2",
        "dst=10.0.0.1-10.0.0",
        "sport=1-2/0",
        "sport=0-5000000000",
    ],
)
def test_fields_that_cannot_vary(text):
    with pytest.raises(pb.PybypassError) as e:
        Vary.parse(text)
    assert e.value.code == "PB040"


@pytest.mark.parametrize("text", ["nothing=1-2", "@24:2=1-2", "@42:4=1-2", "@63:4=0-1", "sport=0-65536", "@12:2=0-1"])
def test_fields_that_a_packet_does_not_have_or_may_not_change(text):
    with pytest.raises(pb.PybypassError) as e:
        a_packet(vary=[Vary.parse(text)]).template(run=1)
    assert e.value.code == "PB040"


# ---- loops ----


def check_sums(result):
    assert result.sent == result.received - result.duplicates + result.lost
    assert sum(map(len, result.latency)) == result.received
    assert result.offered >= result.sent
    assert result.seconds > 0
    rows = [s["rate"] for s in result.as_json()["slices"]]
    assert sum(s["received"] for s in result.slices) <= result.received
    assert rows
    return rows


@pytest.mark.parametrize("kind", ["rtt", "tx", "rx"])
def test_packets_over_mem(kind):
    result = bench.run(Options(kind=kind, dev="mem:bench", rate=2000.0, seconds=0.4))
    check_sums(result)
    assert result.lost == 0
    assert result.received > 0
    assert (result.mode, result.rate_asked) == ("mem", 2000.0)
    if not result.invalid() and result.received > 400:  # the slices lie over the traffic
        rates = sorted(s["rate"] for s in result.as_json()["slices"])
        assert rates[-1] <= 3 * rates[len(rates) // 2]


@pytest.mark.parametrize(
    ("dev", "peer"),
    [("xdp:pba", "kernel:pbb"), ("kernel:pba", "kernel:pbb"), ("kernel:pba", "xdp:pbb"), ("xdp:pba", "xdp:pbb")],
)
def test_round_trips_in_the_lab(dev, peer):
    result = bench.run(Options(kind="rtt", dev=dev, peer=peer, lab=True, rate=2000.0, seconds=0.4))
    check_sums(result)
    assert result.received > 0
    assert result.lost == 0
    assert result.drops["dev"] == {}
    assert result.mode.startswith("native copy" if dev.startswith("xdp") else "kernel")


@pytest.mark.parametrize("kind", ["rtt", "tx", "rx"])
def test_jumbo_packets_over_several_frames(kind):
    result = bench.run(Options(kind=kind, dev="xdp:pba", peer="xdp:pbb", lab=True, rate=2000.0, seconds=0.3, size=9018))
    check_sums(result)
    assert result.lost == 0
    assert result.bytes == 9014 * result.received > 0


def test_full_speed_counts_what_the_ring_dropped():
    result = bench.run(Options(kind="tx", dev="xdp:pba", peer="xdp:pbb", lab=True, seconds=0.4))
    check_sums(result)
    assert result.received > 0
    # Nothing is lost without a counter: what the receiver's ring had no room for is all there is.
    assert result.lost == sum(result.drops["peer"].values()) + sum(result.drops["dev"].values())


@pytest.mark.parametrize("rate", [None, 2000.0])
@pytest.mark.parametrize("dev", ["xdp:pba", "kernel:pba"])
def test_requests_in_the_lab(dev, rate):
    result = bench.run(Options(kind="tcp-rr", dev=dev, lab=True, rate=rate, seconds=0.4))
    assert result.received == result.sent > 0
    assert sum(map(len, result.latency)) == result.sent
    assert (result.lag is not None) == (rate is not None)


def test_requests_over_mem():
    result = bench.run(Options(kind="tcp-rr", dev="mem:bench", seconds=20, nbytes=1000, packets=500))
    assert result.received == result.sent == 500


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dev", ["xdp:pba", "kernel:pba"])
def test_streams_in_the_lab(dev, reverse):
    result = bench.run(Options(kind="tcp-stream", dev=dev, lab=True, seconds=0.4, reverse=reverse))
    assert result.bytes > 100_000
    assert result.gbps > 0
    assert 0 < sum(s["bytes"] for s in result.slices) <= result.bytes
    assert result.received is None  # a stream has no packets to count
    assert result.as_json()["lost"] is None


def test_two_processes(tmp_path):
    with lab.veth() as pair:
        argv = [sys.executable, "-m", "pybypass", "bench"]
        far = pair.b.netns.popen([*argv, "peer", "tcp-rr", "--dev", "kernel:pbb"], stdout=subprocess.PIPE, text=True)
        try:
            wait_for_listener(pair.b.netns)
            result = bench.run(
                Options(kind="tcp-rr", dev="xdp:pba", to=pair.b.ip, netns=pair.a.netns, seconds=20, packets=200)
            )
        finally:
            far.send_signal(signal.SIGTERM)
            assert far.wait(20) == 0
            far.stdout.close()
        assert result.received == 200
        far = pair.b.netns.popen(
            [*argv, "peer", "rtt", "--dev", "xdp:pbb", "--to", pair.a.ip], stdout=subprocess.PIPE, text=True
        )
        try:
            result = None
            for _ in range(20):  # until it is there
                result = bench.run(
                    Options(
                        kind="rtt", dev="xdp:pba", to=pair.b.ip, netns=pair.a.netns, seconds=5, packets=100, rate=1000.0
                    )
                )
                if result.received == 100:
                    break
        finally:
            far.send_signal(signal.SIGTERM)
            out, _ = far.communicate(timeout=20)
        assert result.received == 100
        assert json.loads(out)["sent"] >= 100


def wait_for_listener(netns):
    import time

    def listening():
        with open("/proc/thread-self/net/tcp") as f:
            return any(line.split()[3] == "0A" for line in f.readlines()[1:])

    deadline = time.monotonic() + 20
    while not netns.run(listening):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- what a result is worth ----


def a_result(**more):
    values = {
        "bench": "rtt", "dev": "mem:a", "peer": "mem:a", "mode": "mem", "args": {}, "cpu": 0, "peer_cpu": 1,
        "isolated": False, "seconds": 1.0, "rate_asked": 1000.0, "offered": 1000, "sent": 1000, "received": 1000,
    } | more  # fmt: skip
    return benchreport.Result(**values)


def times(low, high):
    h = Histogram()
    h.record(np.linspace(low, high, 1000).astype(np.uint64))
    return h


def test_a_generator_that_was_the_bottleneck_makes_a_result_invalid():
    assert a_result(latency=[times(1000, 2000)], lag=times(0, 10)).invalid() == []
    late = a_result(latency=[times(1000, 2000)], lag=times(0, 1000))
    assert ["late" in why for why in late.invalid()] == [True]
    assert not late.as_json()["valid"]
    assert any(line.startswith("INVALID") for line in late.lines())
    short = a_result(offered=900, latency=[times(1000, 2000)], lag=times(0, 10))
    assert ["offered 900" in why for why in short.invalid()] == [True]
    assert a_result(bench="tx", rate_asked=None, generator_share=0.6).invalid()
    assert not a_result(bench="tx", rate_asked=None, generator_share=0.4).invalid()
    assert a_result(bench="rx", rate_asked=None, idle_share=0.5).invalid()
    assert a_result(bench="rx", rate_asked=None, idle_share=0.5, lost=1).invalid()
    assert not a_result(bench="rx", rate_asked=None, idle_share=0.5, lost=50).invalid()
    # Without a latency to compare with: later than 64 packets take.
    assert a_result(bench="tx", lag=times(70_000_000, 80_000_000)).invalid()
    assert not a_result(bench="tx", lag=times(0, 1000)).invalid()
    # The tail may be the generator's alone.
    tail = times(0, 10)
    tail.record([5000] * 5)
    marked = a_result(latency=[times(10_000, 20_000)], lag=tail)
    assert marked.invalid() == []
    assert marked.tainted() == ["p99.9"]
    assert any("p99.9" in line and "generator" in line for line in marked.lines())


def test_a_rate_that_no_generator_reaches_is_marked(capsys):
    code = cli.main(["bench", "rtt", "--dev", "mem:bench", "--rate", "1e9", "--seconds", "0.2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert not found["valid"]
    assert "offered" in found["invalid_because"][0]


def test_the_command_writes_the_schema(capsys):
    cli.main(["bench", "tcp-rr", "--dev", "mem:bench", "--seconds", "0.2", "--json", "--histogram"])
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "pybypass.bench/1"
    assert found["latency_ns"]["n"] == found["received"] > 0
    assert sum(n for _, n in found["histogram"]) == found["received"]
    assert {"p50", "p90", "p99", "p99.9", "p99.99", "p99.999", "max"} <= set(found["latency_ns"])
    assert set(found["noise_floor_ns"]) == set(found["latency_ns"])
    cli.main(["bench", "tcp-rr", "--dev", "mem:bench", "--seconds", "0.2"])
    text = capsys.readouterr().out
    assert "noise floor" in text
    assert "p99.999" in text


def result_file(path, p50, *, bench="rtt"):
    rng = np.random.default_rng(p50)
    slices = [{"rate": 1000.0, "gbps": 1.0, "p50": float(v), "p99": 2 * float(v)} for v in rng.normal(p50, 10, 20)]
    path.write_text(
        json.dumps(
            {
                "schema": "pybypass.bench/1",
                "bench": bench,
                "dev": "d",
                "peer": "p",
                "mode": "m",
                "valid": True,
                "slices": slices,
            }
        )
    )
    return str(path)


def test_comparing(tmp_path, capsys):
    a, b, c = (result_file(tmp_path / f"{n}.json", n) for n in (1000, 1001, 1200))
    rows = {r.metric: r for r in benchcompare.compare(benchcompare.load(a), benchcompare.load(b))}
    assert not rows["p50"].differs
    assert rows["p50"].low < 1.0 < rows["p50"].high
    rows = {r.metric: r for r in benchcompare.compare(benchcompare.load(a), benchcompare.load(c))}
    assert rows["p50"].differs
    assert rows["p50"].low < 1.2 < rows["p50"].high
    assert not rows["rate"].differs
    assert cli.main(["bench", "compare", a, c]) == 0
    assert "differs" in capsys.readouterr().out
    assert cli.main(["bench", "compare", a, c, "--fail-above", "1.05"]) == 1
    assert cli.main(["bench", "compare", c, a, "--fail-above", "1.05", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["schema"] == "pybypass.bench-compare/1"


def test_what_cannot_be_compared(tmp_path, capsys):
    a = result_file(tmp_path / "a.json", 1000)
    other = result_file(tmp_path / "b.json", 1000, bench="tx")
    junk = tmp_path / "junk.json"
    junk.write_text("{}")
    for b in (other, str(junk), str(tmp_path / "nowhere")):
        assert cli.main(["bench", "compare", a, b]) == cli.EXIT_USAGE
        assert "PB040" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["rtt", "--dev", "xdp:pba"], "PB040"),  # no peer
        (["rtt", "--dev", "kernel:nosuchif", "--peer", "kernel:lo"], "PB020"),
        (["rtt", "--dev", "mem:x", "--rate", "0"], "PB040"),
        (["rtt", "--dev", "mem:x", "--seconds", "0"], "PB040"),
        (["rtt", "--dev", "mem:x", "--burst", "65"], "PB040"),
        (["rtt", "--dev", "mem:x", "--size", "40"], "PB040"),
        (["rtt", "--dev", "mem:x", "--size", "3000"], "PB040"),
        (["tcp-rr", "--dev", "mem:x", "--bytes", "65537"], "PB040"),
        (["tcp-stream", "--dev", "kernel:lo", "--to", "127.0.0.1", "--reverse"], "PB040"),
        (["rtt", "--dev", "mem:x", "--cpu", "4095"], "PB044"),
        (["rtt", "--dev", "mem:x", "--vary", "sport"], "PB040"),
        (["tx", "--dev", "bogus:x", "--peer", "mem:x"], "PB01"),
    ],
)
def test_wrong_usage_is_a_typed_error(argv, code, capsys):
    assert cli.main(["bench", *argv]) not in (0, 1) or code == "PB020"
    assert code in capsys.readouterr().err
