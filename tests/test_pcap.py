"""Capture files: written here, read by tshark."""

import json
import shutil
import struct
import subprocess
import threading

import pytest

import pybypass as pb
from pybypass import pcap


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pcap") / "x.pcapng"
    with pb.open("mem:pcap") as x, pb.open("mem:pcap") as y:
        with pb.Engine(x, ip="10.0.0.1/24") as a, pb.Engine(y, ip="10.0.0.2/24") as b, b.listen(80) as listener:
            a.capture_start(1 << 20)
            with pytest.raises(pb.PybypassError):
                a.capture_start()
            with a.connect(("10.0.0.2", 80), timeout=5) as c, listener.accept(5) as s:
                t = threading.Thread(target=s.sendall, args=(bytes(20000),))
                t.start()
                got = 0
                while got < 20000:
                    got += len(c.recv(65536))
                t.join()
            data, packets, dropped = a.capture_stop()
            with pytest.raises(pb.PybypassError):
                a.capture_stop()
    assert dropped == 0
    assert pcap.write(path, data) == packets > 15
    return path, data


def test_tshark_reads_it_without_a_complaint(capture):
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    done = subprocess.run(
        ["tshark", "-r", capture[0], "-T", "json", "-e", "frame.time_epoch", "-e", "tcp.len", "-e", "tcp.checksum.status",
         "-e", "frame.packet_flags_direction", "-e", "_ws.malformed", "-o", "tcp.check_checksum:TRUE"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "appears" not in done.stderr
    assert "damaged" not in done.stderr
    layers = [p["_source"]["layers"] for p in json.loads(done.stdout)]
    assert not any("_ws.malformed" in x for x in layers)
    assert {x["tcp.checksum.status"][0] for x in layers if "tcp.len" in x} == {"1"}
    assert sum(int(x["tcp.len"][0]) for x in layers if "tcp.len" in x) == 20000
    assert len({x["frame.packet_flags_direction"][0] for x in layers}) == 2
    assert any(not x["frame.time_epoch"][0].endswith("000") for x in layers)  # ns


def test_records_are_whole(capture):
    rows = list(pcap.records(capture[1]))
    assert [ts for ts, _, _ in rows] == sorted(ts for ts, _, _ in rows)
    assert all(len(p) >= 42 for _, _, p in rows)


def test_blocks_by_hand(tmp_path):
    packet = b"\x01" * 61
    data = struct.pack("=QII", 123456789, len(packet), 1) + packet
    assert pcap.write(tmp_path / "one.pcapng", data, ifname="eth9", dropped=3) == 1
    raw = (tmp_path / "one.pcapng").read_bytes()
    at, kinds = 0, []
    while at < len(raw):
        kind, size = struct.unpack_from("=II", raw, at)
        assert struct.unpack_from("=I", raw, at + size - 4)[0] == size
        assert size % 4 == 0
        kinds.append(kind)
        at += size
    assert kinds == [0x0A0D0D0A, 1, 6]
    assert b"eth9" in raw
    assert b"3 packets found no room" in raw


def test_a_full_buffer_is_said():
    with pb.open("mem:full-tap") as x, pb.open("mem:full-tap") as y:
        with pb.Engine(x, ip="10.0.0.1/24") as a, pb.Engine(y, ip="10.0.0.2/24") as b, b.listen(80) as listener:
            a.capture_start(300)
            with a.connect(("10.0.0.2", 80), timeout=5) as c, listener.accept(5) as s:
                c.sendall(b"x" * 1000)
                assert s.recv(10)
                assert c.wait_sent(5)
            data, packets, dropped = a.capture_stop()
            assert dropped > 0
            assert len(list(pcap.records(data))) == packets
