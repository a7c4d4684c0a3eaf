#!/usr/bin/env python3
"""Writes the scripts of this folder: every state against every kind of segment, STATE/EVENT.pkt.

Usage: tests/pkt/grid/make.py [DIRECTORY]

The table of what must happen is here, with the clause that says so; the scripts are for reading and running. tests/test_pkt.py
sees to it that they are what this writes. Sequence numbers: both ISNs are 0, so the first byte of data is 1. R stands for
the next byte that the stack expects (RCV.NXT: 1, 2 after the peer's FIN), N for its own next one (SND.NXT: 1, 2 after its
FIN), U for what the peer has acknowledged (SND.UNA). The window in force is 65535 bytes, never scaled.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent

SERVER = """    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
"""
SYN = (
    SERVER
    + """
   +0 < S 0:0(0) win 32792 <mss 1000>
   +0 > S. 0:0(0) ack 1 win 65535 <mss 1460>
"""
)
OPEN = (
    SYN
    + """  +.1 < . 1:1(0) ack 1 win 32792
   +0 accept(3, ..., ...) = 4
"""
)
PEER_FIN = """  +.1 < F. 1:1(0) ack 1 win 32792
   +0 > . 1:1(0) ack 2
"""
OUR_FIN = """  +.1 shutdown(4, SHUT_WR) = 0
   +0 > F. 1:1(0) ack 1
"""
CONNECT = """    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 fcntl(3, F_SETFL, O_RDWR|O_NONBLOCK) = 0
   +0 connect(3, ..., ...) = -1 EINPROGRESS (Operation now in progress)
   +0 > S 0:0(0) win 65535 <...>
"""

# state: (how it is reached, R, N, U)
STATES = {
    "closed": ("", 1, 0, 0),
    "listen": (SERVER, 0, 0, 0),
    "syn-sent": (CONNECT, 0, 1, 0),
    "syn-rcvd": (SYN, 1, 1, 0),
    "established": (OPEN, 1, 1, 1),
    "fin-wait-1": (OPEN + OUR_FIN, 1, 2, 1),
    "fin-wait-2": (OPEN + OUR_FIN + "   +0 < . 1:1(0) ack 2 win 32792\n", 1, 2, 2),
    "close-wait": (OPEN + PEER_FIN, 2, 1, 1),
    "closing": (OPEN + OUR_FIN + "   +0 < F. 1:1(0) ack 1 win 32792\n   +0 > . 2:2(0) ack 2\n", 2, 2, 1),
    "last-ack": (OPEN + PEER_FIN + "  +.1 shutdown(4, SHUT_WR) = 0\n   +0 > F. 1:1(0) ack 2\n", 2, 2, 1),
    "time-wait": (
        OPEN + OUR_FIN + "   +0 < . 1:1(0) ack 2 win 32792\n   +0 < F. 1:1(0) ack 2 win 32792\n   +0 > . 2:2(0) ack 2\n", 2, 2, 2,
    ),
}  # fmt: skip
SYNCHRONIZED = tuple(STATES)[4:]
NAMES = {
    "established": "TCP_ESTABLISHED", "fin-wait-1": "TCP_FIN_WAIT1", "fin-wait-2": "TCP_FIN_WAIT2",
    "close-wait": "TCP_CLOSE_WAIT", "closing": "TCP_CLOSING", "last-ack": "TCP_LAST_ACK",
}  # fmt: skip

EVENTS = (
    "syn", "syn-old", "syn-ack", "rst-exact", "rst-inside", "rst-edge", "rst-outside", "fin", "data", "old-ack", "future-ack",
)  # fmt: skip


def still(state: str, r: int, n: int, u: int) -> str:
    """The connection lives, in that state: a segment from before the window is acknowledged (3.10.7.4, first check). The
    FIN that is not acknowledged in some states is sent again meanwhile, which is not looked at: the check comes soon."""
    check = f"   +0 %{{ assert tcpi_state == {NAMES[state]}, tcpi_state }}%\n" if state in NAMES else ""
    return f"{check}+.001 < . {r - 1}:{r - 1}(0) ack {u} win 32792\n   +0 > . {n}:{n}(0) ack {r}\n"


def gone(r: int, u: int) -> str:
    """No connection: what comes for it draws a reset."""
    return f"+.001 < . {r}:{r}(0) ack {u} win 32792\n   +0 > R {u}:{u}(0)\n"


def challenge(segment: str, state: str, r: int, n: int, u: int) -> str:
    check = f"   +0 %{{ assert tcpi_state == {NAMES[state]}, tcpi_state }}%\n" if state in NAMES else ""
    return f"{segment}   +0 > . {n}:{n}(0) ack {r}\n{check}"


def synchronized(state: str, event: str) -> tuple[str, str]:
    """(clause and sentence, script) of the states from ESTABLISHED on."""
    _, r, n, u = STATES[state]
    at = (state, r, n, u)
    seg = {
        "syn": f"+.01 < S {r}:{r}(0) win 32792 <mss 1000>\n",
        "syn-old": "+.01 < S 0:0(0) win 32792 <mss 1000>\n",
        "syn-ack": f"+.01 < S. {r}:{r}(0) ack {u} win 32792 <mss 1000>\n",
        "rst-exact": f"+.01 < R {r}:{r}(0) win 0\n",
        "rst-inside": f"+.01 < R {r + 100}:{r + 100}(0) win 0\n",
        "rst-edge": f"+.01 < R {r + 65534 - (r - 1)}:{r + 65534 - (r - 1)}(0) win 0\n",
        "rst-outside": f"+.01 < R {r + 65535}:{r + 65535}(0) win 0\n",
        "old-ack": f"+.01 < . {r}:{r}(0) ack 0 win 32792\n",
        "future-ack": f"+.01 < . {r}:{r}(0) ack {n + 1000} win 32792\n",
    }
    if state == "time-wait":
        return time_wait(event, seg)
    if event in ("syn", "syn-old", "syn-ack"):
        return "RFC 5961 4.2: a SYN is answered by a challenge ACK, wherever it lies.", challenge(seg[event], *at)
    if event == "rst-exact":
        return "RFC 9293 3.10.7.4, RFC 5961 3.2: a RST at RCV.NXT ends the connection.", seg[event] + gone(r, n)
    if event in ("rst-inside", "rst-edge"):
        where = "inside of the window" if event == "rst-inside" else "on the last byte of the window"
        return f"RFC 5961 3.2: a RST {where}, not at RCV.NXT, draws a challenge ACK.", challenge(seg[event], *at)
    if event == "rst-outside":
        return "RFC 5961 3.2: a RST beyond the window is dropped in silence.", seg[event] + still(*at)
    if event == "old-ack":
        return "RFC 9293 3.10.7.4, RFC 5961 5.2: an old acknowledgment is nothing new.", seg[event] + still(*at)
    if event == "future-ack":
        return "RFC 9293 3.10.7.4: what was never sent cannot be acknowledged: an ACK says so.", challenge(
            seg[event], *at
        )
    return data_or_fin(event, *at)


def data_or_fin(event: str, state: str, r: int, n: int, u: int) -> tuple[str, str]:
    if event == "data":
        if r == 2:
            why = "RFC 9293 3.10.7.4: data after the peer's FIN should not be, and is not taken."
            return why, f"+.01 < P. 2:102(100) ack {u} win 32792\n" + still(state, r, n, u)
        why = "RFC 9293 3.10.7.4, seventh: data is taken, acknowledged, and read."
        text = f"+.01 < P. 1:101(100) ack {u} win 32792\n   +0 > . {n}:{n}(0) ack 101\n   +0 read(4, ..., 1000) = 100\n"
        return why, text + still(state, 101, n, u)
    if r == 2:
        why = "RFC 9293 3.10.7.4: the peer's FIN again, since our ACK was lost: it is acknowledged again."
        return why, challenge(f"+.01 < F. 1:1(0) ack {u} win 32792\n", state, r, n, u)
    after = {"established": "close-wait", "fin-wait-1": "closing", "fin-wait-2": "time-wait"}[state]
    why = f"RFC 9293 3.10.7.4, eighth: a FIN is acknowledged; {after.upper()}."
    text = f"+.01 < F. 1:1(0) ack {u} win 32792\n   +0 > . {n}:{n}(0) ack 2\n   +0 read(4, ..., 1000) = 0\n"
    return why, text + still(after, 2, n, u)


def time_wait(event: str, seg: dict[str, str]) -> tuple[str, str]:
    alive = still("time-wait", 2, 2, 2)
    ack = "   +0 > . 2:2(0) ack 2\n"
    if event.startswith("rst"):
        return "RFC 1337 3: no RST ends TIME-WAIT.", seg[event] + alive
    if event == "fin":
        why = "RFC 9293 3.10.7.4, eighth: the peer's FIN again: it is acknowledged again, and the time starts anew."
        return why, "+.01 < F. 1:1(0) ack 2 win 32792\n" + ack + "  +59 < F. 1:1(0) ack 2 win 32792\n" + ack
    if event == "data":
        return "RFC 9293 3.10.7.4: no data can come after the FIN.", "+.01 < P. 2:102(100) ack 2 win 32792\n" + alive
    if event == "old-ack":
        return "RFC 9293 3.10.7.4: an old acknowledgment is nothing new.", seg[event] + alive
    if event == "future-ack":
        return "RFC 9293 3.10.7.4: what was never sent cannot be acknowledged: an ACK says so.", seg[event] + ack
    if event == "syn":
        # At RCV.NXT, so above all that was received: a listener would take it for a new connection (RFC 6191 2).
        why = "RFC 9293 3.10.7.4, RFC 5961 4.2: a new SYN that nobody listens for draws an ACK."
        return why, "   +0 close(3) = 0\n" + seg[event] + ack
    return "RFC 9293 3.10.7.4, RFC 5961 4.2: a SYN that is no reuse draws an ACK.", seg[event] + ack


ACCEPT = "   +0 accept(3, ..., ...) = 4\n"
QUIET = "RFC 9293 3.10.7.{}: a RST {}is ignored."


def closed(event: str) -> tuple[str, str]:
    """No socket at all: a segment with ACK draws RST at its ACK, one without RST+ACK over it; a RST draws nothing."""
    probe = "+.01 < . 7:7(0) ack 9 win 1000\n   +0 > R 9:9(0)\n"
    with_ack = "RFC 9293 3.10.7.1: what acknowledges draws a RST at its acknowledgment number."
    segments = {
        "syn": ("S 0:0(0) win 32792 <mss 1000>", "R. 0:0(0) ack 1"),
        "syn-old": ("S 4000:4100(100) win 32792 <mss 1000>", "R. 0:0(0) ack 101"),
        "syn-ack": ("S. 0:0(0) ack 1 win 32792 <mss 1000>", "R 1:1(0)"),
        "fin": ("F. 1:1(0) ack 1 win 32792", "R 1:1(0)"),
        "data": ("P. 1:101(100) ack 1 win 32792", "R 1:1(0)"),
        "old-ack": (". 1:1(0) ack 1 win 32792", "R 1:1(0)"),
        "future-ack": (". 1:1(0) ack 100001 win 32792", "R 100001:100001(0)"),
    }
    if event in segments:
        sent, answer = segments[event]
        why = (
            with_ack
            if "ack" in sent
            else "RFC 9293 3.10.7.1: what acknowledges nothing draws a RST that acknowledges it."
        )
        return why, f"    0 < {sent}\n   +0 > {answer}\n" + probe
    seq = {"rst-exact": 1, "rst-inside": 101, "rst-edge": 65535, "rst-outside": 65536}[event]
    flags = "R." if event == "rst-inside" else "R"
    ack = " ack 1" if "." in flags else ""
    return QUIET.format(1, ""), f"    0 < {flags} {seq}:{seq}(0){ack} win 0\n" + probe


def listen(event: str) -> tuple[str, str]:
    opens = "+.01 < S 0:0(0) win 32792 <mss 1000>\n   +0 > S. 0:0(0) ack 1 win 65535 <mss 1460>\n"
    with_ack = "RFC 9293 3.10.7.2, second: what acknowledges draws a RST; the listener stays."
    if event == "syn":
        return "RFC 9293 3.10.7.2, third: a SYN is answered by SYN+ACK.", opens
    if event == "syn-old":
        text = "+.01 < S 4294967295:4294967295(0) win 32792 <mss 1000>\n   +0 > S. 0:0(0) ack 0 win 65535 <mss 1460>\n"
        return "RFC 9293 3.10.7.2, third: any ISN will do, the last number there is too.", text
    answers = {
        "syn-ack": ("S. 0:0(0) ack 1 win 32792 <mss 1000>", 1), "fin": ("F. 1:1(0) ack 1 win 32792", 1),
        "data": ("P. 1:101(100) ack 1 win 32792", 1), "old-ack": (". 1:1(0) ack 1 win 32792", 1),
        "future-ack": (". 1:1(0) ack 100001 win 32792", 100001),
    }  # fmt: skip
    if event in answers:
        sent, ack = answers[event]
        return with_ack, f"+.01 < {sent}\n   +0 > R {ack}:{ack}(0)\n"
    seq = {"rst-exact": 0, "rst-inside": 100, "rst-edge": 65535, "rst-outside": 65536}[event]
    probe = "+.01 < . 7:7(0) ack 9 win 1000\n   +0 > R 9:9(0)\n"
    return QUIET.format(2, "to a listener "), f"+.01 < R {seq}:{seq}(0) win 0\n" + probe


def syn_sent(event: str) -> tuple[str, str]:
    opens = "+.01 < S. 0:0(0) ack 1 win 32792 <mss 1000>\n   +0 > . 1:1(0) ack 1\n   +0 connect(3, ..., ...) = 0\n"
    both = "RFC 9293 3.5, figure 7: both open at once: SYN+ACK, the same ISN."
    if event == "syn":
        text = "+.01 < S 0:0(0) win 32792 <mss 1000>\n   +0 > S. 0:0(0) ack 1 <...>\n+.01 < . 1:1(0) ack 1 win 32792\n"
        return both, text + "   +0 connect(3, ..., ...) = 0\n"
    if event == "syn-old":
        text = "+.01 < S 4294967295:4294967295(0) win 32792 <mss 1000>\n   +0 > S. 0:0(0) ack 0 <...>\n"
        return both, text + "+.01 < . 0:0(0) ack 1 win 32792\n   +0 connect(3, ..., ...) = 0\n"
    if event == "syn-ack":
        return "RFC 9293 3.10.7.3, fourth: our SYN is acknowledged: ESTABLISHED.", opens
    if event == "rst-exact":
        text = "+.01 < R. 0:0(0) ack 1 win 0\n   +0 connect(3, ..., ...) = -1 ECONNREFUSED (Connection refused)\n"
        return "RFC 9293 3.10.7.3, second: a RST that acknowledges our SYN refuses the connection.", text
    ignored = {
        "rst-inside": "R 100:100(0) win 0",
        "rst-edge": "R 65534:65534(0) win 0",
        "rst-outside": "R 65535:65535(0) win 0",
    }
    if event in ignored:
        why = "RFC 9293 3.10.7.3, second: a RST that acknowledges nothing is dropped, whatever its number."
        return why, f"+.01 < {ignored[event]}\n" + opens
    if event in ("old-ack", "future-ack"):
        ack = 0 if event == "old-ack" else 1001
        why = "RFC 9293 3.10.7.3, first: an ACK of what was not sent draws a RST; the opening goes on."
        return why, f"+.01 < . 0:0(0) ack {ack} win 32792\n   +0 > R {ack}:{ack}(0)\n" + opens
    sent = "F. 1:1(0) ack 1 win 32792" if event == "fin" else "P. 1:101(100) ack 1 win 32792"
    return "RFC 9293 3.10.7.3, fifth: neither SYN nor RST: dropped.", f"+.01 < {sent}\n" + opens


def syn_rcvd(event: str) -> tuple[str, str]:
    opens = "+.01 < . 1:1(0) ack 1 win 32792\n   +0 accept(3, ..., ...) = 4\n"
    ack = "   +0 > . 1:1(0) ack 1\n"
    if event == "syn":
        return (
            "RFC 9293 3.10.7.4, RFC 5961 4.2: a SYN in the window draws an ACK.",
            f"+.01 < S 1:1(0) win 32792 <mss 1000>\n{ack}" + opens,
        )
    if event == "syn-old":
        text = "+.01 < S 0:0(0) win 32792 <mss 1000>\n   +0 > S. 0:0(0) ack 1 win 65535 <mss 1460>\n"
        return "RFC 9293 3.10.7.4: the peer's SYN again, since our answer was lost: SYN+ACK again.", text + opens
    if event == "syn-ack":
        why = "RFC 9293 3.10.7.4, fifth: what acknowledges our SYN opens the connection, the peer's SYN from before included."
        return why, "+.01 < S. 0:0(0) ack 1 win 32792 <mss 1000>\n" + ("   +0 accept(3, ..., ...) = 4\n")
    if event == "rst-exact":
        return (
            "RFC 9293 3.10.7.4, second: back to LISTEN, in silence.",
            "+.01 < R 1:1(0) win 0\n+.01 < . 1:1(0) ack 1 win 32792\n   +0 > R 1:1(0)\n",
        )
    if event in ("rst-inside", "rst-edge"):
        seq = 101 if event == "rst-inside" else 65535
        return (
            "RFC 5961 3.2: a RST in the window, not at RCV.NXT, draws a challenge ACK.",
            f"+.01 < R {seq}:{seq}(0) win 0\n{ack}" + opens,
        )
    if event == "rst-outside":
        return "RFC 5961 3.2: a RST beyond the window is dropped in silence.", "+.01 < R 65536:65536(0) win 0\n" + opens
    if event == "fin":
        text = "+.01 < F. 1:1(0) ack 1 win 32792\n   +0 > . 1:1(0) ack 2\n" + ACCEPT + "   +0 read(4, ..., 10) = 0\n"
        return "RFC 9293 3.10.7.4, fifth and eighth: the ACK opens the connection, the FIN half-closes it.", text
    if event == "data":
        text = (
            "+.01 < P. 1:101(100) ack 1 win 32792\n   +0 > . 1:1(0) ack 101\n"
            + ACCEPT
            + "   +0 read(4, ..., 1000) = 100\n"
        )
        return "RFC 9293 3.10.7.4, fifth and seventh: the ACK opens the connection, the data comes with it.", text
    number = 0 if event == "old-ack" else 1001
    why = "RFC 9293 3.10.7.4, fifth: an ACK of anything but our SYN draws a RST; the opening goes on."
    return why, f"+.01 < . 1:1(0) ack {number} win 32792\n   +0 > R {number}:{number}(0)\n" + opens


SPECIAL = {"closed": closed, "listen": listen, "syn-sent": syn_sent, "syn-rcvd": syn_rcvd}


def script(state: str, event: str) -> str:
    """The text of one script."""
    why, text = SPECIAL[state](event) if state in SPECIAL else synchronized(state, event)
    head = f"// {state.upper()} gets {event}.\n// {why}\n"
    return f"{head}`sysctl -q net.ipv4.tcp_timestamps=0`\n\n{STATES[state][0]}\n{text}"


def everything() -> dict[str, str]:
    """Path below this folder: text."""
    return {f"{state}/{event}.pkt": script(state, event) for state in STATES for event in EVENTS}


def main() -> None:
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, text in everything().items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
