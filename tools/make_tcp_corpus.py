#!/usr/bin/env python3
"""Writes the seed corpus of tests/fuzz/fuzz_tcp.c: scripts of bytes that lead its engine through the parts of TCP.

Usage: tools/make_tcp_corpus.py [DIRECTORY]
"""

import itertools

from make_corpus import write

# The configuration's bytes, as configure() and start() of fuzz_tcp.c read them.
TS, SACK, WSCALE, NAGLE, ECN_ON, ECN_PASSIVE = 1, 2, 4, 8, 16, 32
RACK, TLP, FRTO, DSACK, RACK_STATIC, NO_DUPTHRESH, IDLE, PMTUD = 1, 2, 4, 8, 16, 32, 64, 128
LINUX = (TS | SACK | WSCALE | ECN_ON, RACK | TLP | FRTO | DSACK | IDLE | PMTUD)
# The indices of inject()'s flags, in the low bits of `kind`, and where its acknowledgement lies, in the high ones.
ACK, PSH, FIN, SYN, SYNACK, RST, RSTACK = 0, 3, 4, 5, 6, 7, 8
SND, UNA, BOUNDARY, NEAR = 0, 64, 128, 192
OPTIONS = 24


def config(
    opts: int = LINUX[0], recovery: int = LINUX[1], bufs: int = 0x0A, cc: int = 0, misc: int = 0x07, start: int = 1
) -> bytes:
    """bufs: receive and send buffer, MSS clamp, MTU, two bits each; cc: probing, IW, least RTO, ACK profile, newreno."""
    return bytes([opts, recovery, bufs, cc, misc, start])


def seg(
    flags: int = ACK, ack: int = SND, where: int = 0, off: int = 0, data: int = 0, wnd: int = 255, opts: int = 0,
    blocks: bytes = b"", near: int = 0, more: bool = False,
) -> bytes:  # fmt: skip
    """A segment of the peer. near: 16 for `off` in units of 300 bytes, 32 in bytes; data: 128 + n for 11 n bytes."""
    op = 16 if more else 0
    return bytes([op, flags | near | ack, where, off & 255, data, wnd, opts | len(blocks)]) + blocks


def sack(*blocks: tuple[int, int], dsack: int | None = None, **kwargs: int) -> bytes:
    """A duplicate ACK; a block is the first segment and how many behind it."""
    at = bytes(first | more << 4 for first, more in blocks)
    if dsack is None:
        return seg(ack=UNA, blocks=at, **kwargs)
    head = seg(ack=UNA, blocks=at, opts=4)
    return head[:6] + bytes([len(at) | 4]) + at + bytes([dsack])


def option(which: int, value: int) -> bytes:
    return bytes([14 | (which & 15) << 4, which >> 4, value])


def send(n64: int, more: bool = False, frames: bool = False, record: bool = False) -> bytes:
    return bytes([5 | 16 * more | 64 * record | 128 * frames, n64])


def acked(n: int) -> bytes:
    """Up to the end of the n-th segment in flight."""
    return seg(ack=BOUNDARY, where=n)


ACTIVE, PASSIVE, ACTIVE_ECE, PASSIVE_ECE = b"\x9b\x00", b"\x8b\x00", b"\x9b\x80", b"\x8b\x80"
OUT, OUT2, OUT1, DUE, EVENTS = b"\x0f", b"\x1f", b"\x3f", b"\x14", b"\x0d"
RECV, RECV_FRAME, RELEASE = b"\x06\xff", b"\x06\x00", b"\x07"
SHUT_WR, SHUT_RD, SHUT_BOTH, CLOSE, ABORT = b"\x18", b"\x28", b"\x08", b"\x19", b"\x29"
LISTEN_AGAIN, LISTEN_ANY = b"\x49", b"\xc9"
OLD_STAMP, ECE_BACK = 16, 32  # in `opts` of seg()
DONE = bytes(itertools.chain.from_iterable((10, i) for i in (3, 0, 1, 0)))


def ms(n: int) -> bytes:
    return bytes([4, n])


FLIGHT = send(200) + OUT + ms(10)
RTT = send(20) + OUT + ms(10) + seg() + DONE
EACH_STATE = {
    "syn_sent": b"\x0b" + OUT,
    "syn_rcvd": seg(SYN) + OUT,
    "established": ACTIVE,
    "fin_wait_1": ACTIVE + SHUT_WR + OUT,
    "fin_wait_2": ACTIVE + SHUT_WR + OUT + seg(),
    "close_wait": ACTIVE + seg(FIN) + OUT,
    "closing": ACTIVE + SHUT_WR + OUT + seg(FIN, UNA) + OUT,
    "last_ack": ACTIVE + seg(FIN) + SHUT_WR + OUT,
    "time_wait": ACTIVE + SHUT_WR + OUT + seg(FIN) + OUT,
}


def recovery() -> dict[str, bytes]:
    lost_first = ACTIVE + RTT + FLIGHT + DONE + sack((1, 0)) + sack((1, 1)) + ms(3) + sack((1, 3)) + OUT + ms(10)
    return {
        "rack": lost_first + acked(4) + OUT + ms(10) + seg() + EVENTS,
        "rack_timer": ACTIVE + RTT + FLIGHT + sack((1, 0)) + DUE + OUT + DUE + OUT + seg(),
        "rack_rexmit_lost": lost_first + sack((1, 5)) + OUT + ms(12) + sack((1, 7)) + DUE + OUT + seg(),
        "reordered": ACTIVE + RTT + FLIGHT + sack((2, 0)) + sack((4, 0)) + acked(2) + ms(1) + seg() + EVENTS,
        "dsack_undo": lost_first + seg() + sack(dsack=18) + seg(),
        "tlp": ACTIVE + RTT + send(3) + OUT + DUE + OUT + ms(5) + seg() + send(9) + OUT + DUE + OUT + seg(),
        "tlp_repairs": ACTIVE + RTT + FLIGHT + acked(3) + DUE + OUT + ms(10) + seg() + OUT,
        "tlp_dsack": ACTIVE + RTT + send(4) + OUT + DUE + OUT + seg() + sack(dsack=18) + OUT,
        "rto": ACTIVE + RTT + FLIGHT + DUE + OUT + DUE + OUT + DUE + OUT + ms(9) + acked(0) + OUT + seg(),
        "rto_frto": ACTIVE + RTT + FLIGHT + DUE + DUE + OUT + acked(1) + OUT + acked(1) + OUT + seg() + EVENTS,
        "reneging": ACTIVE + RTT + FLIGHT + sack((0, 2)) + acked(0) + DUE + OUT + DUE + OUT + seg(),
        "cwr": ACTIVE_ECE + RTT + FLIGHT + seg(ack=BOUNDARY, where=1, opts=32) + OUT + seg(opts=32) + send(9) + OUT,
        "ce_in": PASSIVE_ECE + seg(PSH, data=140, where=128) + OUT + seg(PSH, data=140, where=64) + OUT + RECV,
        "pmtu": ACTIVE + RTT + FLIGHT + b"\x0c\x04" + OUT + seg() + send(30) + OUT + b"\x0c\x02" + OUT + seg(),
        "probing": ACTIVE + b"".join(send(250) + OUT + ms(9) + seg() + DONE for _ in range(5)),
    }


def plain() -> dict[str, bytes]:
    data = b"".join(seg(PSH, data=200) for _ in range(3))
    ooo = seg(off=4, near=16, data=150) + seg(off=8, near=16, data=160) + OUT + seg(off=4, near=16, data=170) + OUT
    return {
        "data_in": PASSIVE + data + OUT + RECV + RECV_FRAME + ms(50) + OUT + RELEASE,
        "data_ooo": PASSIVE + ooo + seg(data=255) + OUT + RECV + RECV_FRAME + RELEASE + OUT,
        "data_twice": PASSIVE + data + seg(data=200, off=-3, near=16) + OUT + seg(data=240, off=-2, near=16) + OUT,
        "burst": PASSIVE
        + b"".join(seg(PSH, data=150, more=True) for _ in range(5))
        + OUT
        + RECV_FRAME * 3
        + RELEASE * 3,
        "zero_window": ACTIVE + RTT + seg(wnd=0) + send(90) + OUT + DUE + OUT + seg(wnd=0) + DUE + OUT + seg() + OUT,
        "small_window": ACTIVE + RTT + seg(wnd=1) + send(90) + OUT + DUE + OUT + seg(wnd=2) + DUE + OUT + seg() + OUT,
        "cork": ACTIVE
        + option(1, 1)
        + send(2)
        + OUT
        + DUE
        + OUT
        + send(3, more=True)
        + OUT
        + seg()
        + option(1, 0)
        + OUT,
        "nagle": ACTIVE + option(0, 0) + send(1) + OUT + send(1) + OUT + seg() + OUT + option(0, 1) + send(1) + OUT,
        "frames": ACTIVE + b"".join(send(20, frames=True) for _ in range(6)) + OUT2 + OUT2 + DONE + OUT + seg() + DONE,
        "paced": ACTIVE + option(19, 9) + send(90) + OUT + DUE + OUT + DUE + OUT + seg() + DUE + OUT,
        "paced_closed": ACTIVE + option(19, 9) + send(90) + OUT + seg(wnd=0) + OUT + ms(2) + OUT + DUE + OUT,
        "keepalive": ACTIVE + option(5, 10) + b"".join([DUE + OUT] * 4) + EVENTS,
        "set_cc": ACTIVE + RTT + b"\x9e\x01\x01" + FLIGHT + seg() + b"\x9e\x01\x00" + FLIGHT + seg(),
        "half_close": PASSIVE
        + seg(FIN, data=140)
        + OUT
        + RECV
        + send(50)
        + OUT
        + seg()
        + SHUT_WR
        + OUT
        + seg()
        + CLOSE,
        "close_unread": PASSIVE + seg(data=140) + CLOSE + OUT + EVENTS,
        "shut_rd": PASSIVE + SHUT_RD + seg(data=140) + OUT + seg(off=3, near=16, data=140) + OUT + seg(data=255) + OUT,
        "simultaneous": b"\x0b" + OUT + seg(SYN) + OUT + seg(SYNACK) + OUT + send(9) + OUT + seg(),
        "reuse": PASSIVE + CLOSE + OUT + seg(FIN) + OUT + EVENTS + seg(SYN) + OUT + seg() + b"\x1b" + send(9) + OUT,
    }


def again(n: int, what: bytes) -> bytes:
    return what * n


def timers() -> dict[str, bytes]:
    """What comes due: of ACKs, of the closed and the orphaned, of those that nobody answers."""
    data = seg(PSH, data=200)
    dialogue = again(4, seg(PSH, data=9) + RECV + send(1) + OUT + ms(3) + seg())
    return {
        "delayed": PASSIVE + again(24, data + OUT + RECV + ms(2)) + ms(60) + OUT + data + DUE + OUT + data + ms(9) + data + OUT,
        "delayed_small": PASSIVE + again(20, seg(PSH, data=13) + OUT + ms(1)) + ms(250) + OUT + seg(PSH, data=7) + DUE + OUT,
        "dialogue": PASSIVE + again(20, data + OUT + RECV) + dialogue + seg(PSH, data=9) + DUE + OUT + ms(200) + data + DUE + OUT,
        "silence": PASSIVE + again(18, data + OUT) + RECV + again(9, ms(250)) + data + OUT + data + DUE + OUT,
        "orphan": ACTIVE + RTT + send(9) + OUT + CLOSE + OUT + again(12, DUE + OUT) + EVENTS,
        "orphan_window": ACTIVE + RTT + seg(wnd=0) + send(9) + OUT + CLOSE + OUT + again(14, DUE + OUT) + EVENTS,
        "orphan_fin": ACTIVE + CLOSE + OUT + seg() + DUE + EVENTS + ACTIVE + CLOSE + OUT + again(14, DUE + OUT),
        "gives_up": ACTIVE + RTT + FLIGHT + again(22, DUE + OUT) + EVENTS,
        "shrunk_to_0": ACTIVE + RTT + FLIGHT + seg(ack=UNA, wnd=0) + again(18, DUE + OUT + seg(ack=UNA, wnd=0)) + seg(),
        "syn_retries": b"\x0b" + OUT + again(10, DUE + OUT) + EVENTS,
        "synack_retries": seg(SYN) + OUT + again(8, DUE + OUT) + EVENTS,
        "time_wait_ends": EACH_STATE["time_wait"] + CLOSE + again(3, DUE + OUT) + EVENTS + seg(SYN) + OUT,
        "fin_wait_2_ends": EACH_STATE["fin_wait_2"] + CLOSE + again(3, DUE + OUT) + EVENTS,
        "keepalive_dies": ACTIVE + option(5, 10) + again(12, DUE + OUT) + EVENTS,
        "keepalive_lives": ACTIVE + option(5, 9) + again(4, DUE + OUT + seg()) + FLIGHT + again(3, DUE + OUT) + seg(),
    }


def listeners() -> dict[str, bytes]:
    other = seg(SYN, opts=0)
    return {
        "listener_closed": seg(SYN) + OUT + LISTEN_AGAIN + OUT + seg() + OUT + PASSIVE + EVENTS,
        "listener_any": LISTEN_ANY + PASSIVE + seg(PSH, data=140) + OUT + LISTEN_AGAIN + seg(PSH, data=140) + OUT + RECV,
        "queue_dropped": seg(SYN) + OUT + seg() + LISTEN_AGAIN + OUT + EVENTS + other + OUT + b"\x1b",
        "nobody": LISTEN_AGAIN + seg(ACK, ack=NEAR, where=9) + OUT + seg(RSTACK) + seg(SYNACK) + OUT,
    }


def odd() -> dict[str, bytes]:
    old = seg(PSH, data=140, opts=OLD_STAMP)
    lost = send(250) + OUT + ms(9)
    grown = again(4, send(250) + OUT + ms(9) + seg() + DONE)
    return {
        "paws": PASSIVE + seg(PSH, data=140) + OUT + old + OUT + ms(250) + old + OUT + seg(RST, opts=OLD_STAMP) + OUT,
        "records": ACTIVE + RTT + again(9, send(9, record=True)) + send(5) + OUT + seg() + send(30, record=True, frames=True) + OUT,
        "records_corked": ACTIVE + option(1, 1) + send(2, record=True) + send(3) + OUT + send(1, record=True) + OUT + seg() + OUT,
        "records_smaller_mss": ACTIVE + RTT + again(5, send(80, record=True)) + OUT + b"\x0c\x04" + OUT + seg() + OUT,
        "probe_lost": ACTIVE + grown + lost + sack((1, 3)) + OUT + ms(5) + sack((1, 5)) + OUT + DUE + OUT + seg() + lost + seg(),
        "probe_timeout": ACTIVE + grown + lost + again(6, DUE + OUT) + seg() + lost + seg() + OUT,
        "probe_records": ACTIVE + grown + again(9, send(40, record=True)) + OUT + ms(9) + seg() + OUT,
        "reordered_dsack": ACTIVE + RTT + again(3, FLIGHT + sack((2, 2)) + ms(4) + OUT + sack(dsack=18) + seg() + DONE) + FLIGHT,
        "dupacks": ACTIVE + RTT + FLIGHT + again(5, seg(ack=UNA)) + OUT + acked(3) + OUT + acked(2) + OUT + seg() + OUT,
        "dupacks_reordered": ACTIVE + RTT + FLIGHT + again(2, seg(ack=UNA)) + acked(6) + again(3, seg(ack=UNA)) + OUT + seg(),
        "half_acked": ACTIVE + RTT + FLIGHT + seg(ack=NEAR, where=3) + OUT + seg(ack=NEAR, where=2) + DUE + OUT + seg(),
        "fin_with_data": ACTIVE + RTT + send(5) + SHUT_WR + OUT + DUE + OUT + DUE + OUT + seg() + EVENTS,
        "window_update": ACTIVE + RTT + seg(wnd=1) + send(90) + OUT + ms(1) + seg(wnd=4) + OUT + seg(wnd=255) + OUT + seg(),
        "ece_twice": ACTIVE_ECE + RTT + again(3, FLIGHT + seg(ack=BOUNDARY, opts=ECE_BACK) + OUT + seg(opts=ECE_BACK) + DONE),
        "ece_lost": ACTIVE_ECE + RTT + FLIGHT + sack((1, 4), opts=ECE_BACK) + OUT + DUE + OUT + seg(opts=ECE_BACK) + OUT,
        "far_future": ACTIVE + again(3, seg(PSH, ack=NEAR, where=15, data=9) + OUT) + seg(off=127, near=16, data=9) + OUT,
    }


def hostile() -> dict[str, bytes]:
    found = {}
    attacks = b"".join(
        seg(kind, ack, near=near, off=off)
        for kind in (ACK, FIN, SYN, SYNACK, RST, RSTACK)
        for ack, near, off in ((SND, 0, 0), (UNA, 32, 1), (NEAR, 16, 100), (SND, 16, -100))
    )
    for state, way in EACH_STATE.items():
        found[f"attack_{state}"] = way + attacks + OUT + EVENTS
        found[f"end_{state}"] = way + send(9) + OUT + DUE + OUT + b"\x0c\x08" + ABORT + OUT + EVENTS
    return found


def every_option() -> bytes:
    return ACTIVE + b"".join(option(o, v) + send(3) + OUT + seg() for o in range(OPTIONS) for v in (0, 1, 8, 10))


def scripts() -> dict[str, bytes]:
    found = {"options": config() + every_option()}
    for name, script in (recovery() | plain() | timers() | listeners() | odd() | hostile()).items():
        found[name] = config(cc=2 if name.startswith("prob") else 0) + script
    for name, script in timers().items():
        found[f"{name}_limited"] = config(misc=0x17, cc=0x40) + script  # a user timeout; ACKs as bsd
    for name, script in (recovery() | plain() | odd()).items():
        found[f"{name}_bare"] = config(opts=0, recovery=0, bufs=0x15, cc=0xC0, misc=0x60, start=0) + script
    chained = {
        "rto_many": ACTIVE + RTT + FLIGHT + again(19, DUE + OUT) + DONE + DUE + OUT + acked(1) + OUT2 + DONE + seg() + DONE,
        "rto_small_room": ACTIVE + RTT + FLIGHT + again(4, DUE + OUT2 + OUT1 + OUT2) + acked(2) + OUT2 + OUT2 + seg(),
        "close_held": ACTIVE + RTT + FLIGHT + again(3, DUE + OUT) + DONE + CLOSE + OUT + DUE + OUT + ABORT + EVENTS,
    }
    for name, script in (recovery() | chained).items():
        found[f"{name}_chained"] = config(start=9) + script
    for name, script in recovery().items():
        found[f"{name}_counted"] = config(opts=SACK, recovery=DSACK | PMTUD, cc=0x91, misc=0x47, start=2) + script
    unread = again(60, seg(PSH, data=255) + OUT)
    unscaled = {"unread_passive": PASSIVE + unread + RECV * 9 + OUT, "unread_active": ACTIVE + unread + RECV * 9 + OUT}
    for name, script in (plain() | unscaled).items():
        found[f"{name}_unscaled"] = config(start=17) + script
    return found


if __name__ == "__main__":
    write("tcp", scripts())
