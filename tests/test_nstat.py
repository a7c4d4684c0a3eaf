"""The engine's counters beside Linux's: what Linux 6.18 counted up to the end of a script, run there by packetdrill."""

import re
from pathlib import Path

import pytest

from pybypass import script

ROOT = Path(__file__).parent.parent
PACKETS = ROOT / "tests" / "pkt"

# Seen in /proc/net/snmp and /proc/net/netstat; what is not named was 0. TCPPureAcks is left out: Linux counts there only
# what its header prediction does not take.
LINUX = """
cubic/hystart-train
    TcpPassiveOpens=1 TcpInSegs=17 TcpOutSegs=58 TcpExtTCPHystartTrainDetect=1 TcpExtTCPHystartTrainCwnd=33
    TcpExtTCPDelivered=24 TcpExtTCPOrigDataSent=57
cubic/hystart-delay
    TcpPassiveOpens=1 TcpInSegs=12 TcpOutSegs=65 TcpExtTCPHystartDelayDetect=1 TcpExtTCPHystartDelayCwnd=36
    TcpExtTCPDelivered=28 TcpExtTCPOrigDataSent=64
cubic/timeout
    TcpPassiveOpens=1 TcpInSegs=2 TcpOutSegs=11 TcpRetransSegs=1 TcpExtTCPTimeouts=1 TcpExtTCPOrigDataSent=10
congestion/initial-window-after-a-lost-syn
    TcpActiveOpens=1 TcpInSegs=1 TcpOutSegs=3 TcpRetransSegs=2 TcpExtTCPTimeouts=2 TcpExtTCPLostRetransmit=1
    TcpExtTCPDelivered=1 TcpExtTCPOrigDataSent=1 TcpExtTCPSynRetrans=2
states/linger-zero-resets
    TcpPassiveOpens=1 TcpEstabResets=1 TcpInSegs=2 TcpOutSegs=3 TcpOutRsts=1 TcpExtTCPAbortOnData=1
    TcpExtTCPOrigDataSent=1
states/close-with-unread-data-resets
    TcpPassiveOpens=1 TcpEstabResets=1 TcpInSegs=3 TcpOutSegs=3 TcpOutRsts=1 TcpExtTCPAbortOnClose=1
states/half-close-goes-on-reading
    TcpPassiveOpens=1 TcpInSegs=5 TcpOutSegs=4 TcpExtTW=1 TcpExtTCPDelivered=1 TcpExtTCPOrigDataSent=1
states/fin-wait-2-ends
    TcpPassiveOpens=1 TcpInSegs=5 TcpOutSegs=4 TcpOutRsts=1 TcpExtTW=1 TcpExtTCPDelivered=1 TcpExtTCPOrigDataSent=1
states/data-after-close-resets
    TcpPassiveOpens=1 TcpInSegs=4 TcpOutSegs=3 TcpOutRsts=1 TcpExtTW=1 TcpExtTCPDelivered=1 TcpExtTCPOrigDataSent=1
states/time-wait-no-reuse-of-old-numbers
    TcpPassiveOpens=1 TcpInSegs=5 TcpOutSegs=4 TcpExtTW=1 TcpExtTCPDelivered=1 TcpExtTCPOrigDataSent=1
timers/keepalive
    TcpPassiveOpens=1 TcpEstabResets=1 TcpInSegs=2 TcpOutSegs=4 TcpOutRsts=1 TcpExtTCPKeepAlive=2
    TcpExtTCPAbortOnTimeout=1
timers/orphan-gives-up
    TcpPassiveOpens=1 TcpInSegs=3 TcpOutSegs=3 TcpRetransSegs=2 TcpOutRsts=1 TcpExtTCPTimeouts=3
    TcpExtTCPLostRetransmit=1 TcpExtTCPAbortOnTimeout=1 TcpExtTCPOrigDataSent=1
rto/gives-up
    TcpPassiveOpens=1 TcpEstabResets=1 TcpInSegs=2 TcpOutSegs=2 TcpRetransSegs=2 TcpExtTCPTimeouts=3
    TcpExtTCPLostRetransmit=1 TcpExtTCPAbortOnTimeout=1 TcpExtTCPOrigDataSent=1
rto/frto-spurious
    TcpPassiveOpens=1 TcpInSegs=4 TcpOutSegs=5 TcpRetransSegs=1 TcpExtTCPTimeouts=1 TcpExtTCPLossUndo=1
    TcpExtTCPSpuriousRTOs=1 TcpExtTCPDelivered=4 TcpExtTCPOrigDataSent=4
rfc5961/challenge-acks-are-limited
    TcpPassiveOpens=1 TcpInSegs=6 TcpOutSegs=3 TcpExtTCPChallengeACK=2 TcpExtTCPACKSkippedChallenge=2
rfc5961/blind-data-is-refused
    TcpPassiveOpens=1 TcpInSegs=4 TcpOutSegs=3 TcpExtTCPChallengeACK=1
sack/below-what-is-acknowledged
    TcpPassiveOpens=1 TcpInSegs=5 TcpOutSegs=6 TcpExtTCPSACKDiscard=1 TcpExtTCPDSACKRecv=1
    TcpExtTCPDSACKIgnoredDubious=1 TcpExtTCPDelivered=5 TcpExtTCPOrigDataSent=5
api/info-out-of-order-in-all
    TcpPassiveOpens=1 TcpInSegs=7 TcpOutSegs=6 TcpExtTCPDSACKOfoSent=1 TcpExtTCPOFOQueue=3 TcpExtTCPOFOMerge=1
api/info-options-after-a-dsack
    TcpPassiveOpens=1 TcpInSegs=4 TcpOutSegs=2 TcpRetransSegs=1 TcpExtTCPTimeouts=1 TcpExtTCPDSACKUndo=1
    TcpExtTCPDSACKRecv=1 TcpExtTCPDelivered=2 TcpExtTCPOrigDataSent=1
recovery/three-duplicate-acks
    TcpPassiveOpens=1 TcpInSegs=7 TcpOutSegs=7 TcpRetransSegs=1 TcpExtTCPFastRetrans=1 TcpExtTCPRenoRecovery=1
    TcpExtTCPDelivered=6 TcpExtTCPOrigDataSent=6
recovery/tail-loss-probe
    TcpPassiveOpens=1 TcpInSegs=5 TcpOutSegs=5 TcpRetransSegs=1 TcpExtTCPLossProbes=1 TcpExtTCPDelivered=4
    TcpExtTCPOrigDataSent=4
ecn/echo-reduces-the-window
    TcpPassiveOpens=1 TcpInSegs=3 TcpOutSegs=13 TcpExtTCPDelivered=10 TcpExtTCPDeliveredCE=10 TcpExtTCPOrigDataSent=12
windows/zero-window-probe-backs-off
    TcpPassiveOpens=1 TcpInSegs=6 TcpOutSegs=6 TcpExtTCPWinProbe=3 TcpExtTCPDelivered=1 TcpExtTCPOrigDataSent=2
"""
PURE = "TcpExtTCPPureAcks"


def table():
    """Script -> what was counted."""
    found = {}
    for line in LINUX.strip().split("\n"):
        if not line.startswith(" "):
            counted = found[line] = {}
            continue
        counted.update((name, int(n)) for name, n in (word.split("=") for word in line.split()))
    return found


SEEN = table()


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("ip", [4, 6])
def test_counts_as_linux_does(name, ip):
    result = script.run(PACKETS / f"{name}.pkt", script.Settings(ip=ip, ts_tick_us=1000))
    assert result.ok, result.text()
    assert {k: v for k, v in result.nstat.items() if v and k != PURE} == SEEN[name]


def test_what_a_listener_never_established():
    """Linux counts no connection for it, and a SYN-ACK sent again as one that goes out too."""
    result = script.run(PACKETS / "rto" / "syn-ack-backs-off.pkt", script.Settings())
    assert result.ok, result.text()
    n = result.nstat
    assert (n["TcpPassiveOpens"], n["TcpAttemptFails"], n["TcpExtTCPAbortOnTimeout"]) == (0, 0, 0)
    assert (n["TcpExtTCPTimeouts"], n["TcpRetransSegs"], n["TcpExtTCPSynRetrans"]) == (3, 2, 2)
    assert n["TcpOutSegs"] == 4 and result.own["EmbryosGivenUp"] == 1


def kernels_names():
    found = set()
    for file, prefixes in (("snmp", ("Tcp:",)), ("netstat", ("TcpExt:", "IpExt:"))):
        lines = (Path("/proc/net") / file).read_text().split("\n")
        for names in lines[::2]:
            first, *rest = names.split() or [""]
            if first in prefixes:
                found |= {first[:-1] + n for n in rest}
    return found


def test_names_are_the_kernels_where_it_has_them():
    result = script.run(PACKETS / "cubic" / "timeout.pkt")
    there = kernels_names()
    assert len(there) > 100
    # Kernels before 6.16 do not count what ends beyond the window.
    assert set(result.nstat) - there <= {"TcpExtBeyondWindow"}
    bare = {n for name in there for n in (name, re.sub("^(TcpExt|IpExt|Tcp)", "", name))}
    assert result.own and not {n for name in result.own for n in (name, f"TCP{name}")} & bare


def test_each_is_counted_somewhere():
    source = "".join(p.read_text() for p in (ROOT / "csrc" / "tcp").glob("*.c"))
    result = script.run(PACKETS / "cubic" / "timeout.pkt")
    for name in [*result.nstat, *result.own]:
        short = name.removeprefix("TcpExtTCPHystart")
        assert re.search(rf"(COUNT\(e, |PB_C_){name}\b|SAME_ORDER\({short}, ", source), name
