"""Cases of granted_cases.py: when a packet came in, and the engine above, which asks for no times."""

import sys

from dpdk_frames import free, uri
from granted import CAME, SENT, case, clock, grant, granted, seen, send, take
from support import eventually, exchange

import pybypass as pb

# ---- when it came in ----


@case
def times_of_receiving():
    with granted() as port:
        assert port.rx_time() is None
        before = port.clock()[0]
        send(port, range(100, 140))
        found = take(port, 40)
        after = port.clock()[0]
        came = seen(CAME)
        assert [d["ts_ns"] for d in found] == came["given"].tolist()
        assert {pb.TS_SOURCES[d["ts_source"]] for d in found} == {"hardware"}
        assert before <= found[0]["ts_ns"] <= found[-1]["ts_ns"] <= after
        with pb.open(uri("ring")) as other:
            send(other, [1])
            (d,) = take(other, 1)
            assert pb.TS_SOURCES[d["ts_source"]] == "user", "a port of which nobody asked for them"


@case
def times_of_ptp_packets():
    with granted(rx=0) as port:
        assert port.rx_time() is None
        before = port.clock()[0]
        with port.alloc_burst(1, 64) as burst:
            burst.write(0, bytes(12) + b"\x88\xf7" + bytes(50))
            assert port.tx_burst(burst) == 1
        take(port, 1)
        assert before <= port.rx_time() <= port.clock()[0]
        assert port.rx_time() is None


@case
def clocks():
    with granted() as port:
        value, unit = port.clock()
        assert unit == "nanoseconds" and clock() - value < 10**10
    with granted(stamp=0, timesync=0) as port:
        value, unit = port.clock()
        assert unit == "cycles" and clock() - value < 10**10
        assert port.report["offloads"]["launch"]["granted"] and not port.report["offloads"]["tx_stamp"]["asked"]


# ---- the engine above ----


@case
def engines_go_on_as_before():
    grant()
    path = sys.argv[2]
    options = {"socket": path, "frames": 8192, "stamp": 1, "launch": 1}
    with pb.open(uri("memif", role="server", **options)) as a, pb.open(uri("memif", role="client", **options)) as b:
        assert [p.report["offloads"]["tx_stamp"]["granted"] for p in (a, b)] == [True, False]
        eventually(lambda: a.link()["up"] and b.link()["up"])
        with pb.Engine(a, ip="10.0.0.1/24") as one, pb.Engine(b, ip="10.0.0.2/24") as two:
            with two.listen(7000) as listener:
                near = one.connect(("10.0.0.2", 7000), timeout=10)
                exchange(near, listener.accept(10), 4 << 20)
        sent = seen(SENT)
        assert len(sent) > 1000
        assert not sent["flags"].any(), "an engine asks for no times"
        memories = a.umem, b.umem
    assert all(free(umem) for umem in memories)
