#!/usr/bin/env python3
"""Writes the seed corpus of tests/fuzz/fuzz_script.c: lists of whole packets to a host of two sockets.

Usage: tools/make_script_corpus.py [DIRECTORY]
"""

import struct

from make_corpus import icmp4, icmp6, in_ip4, in_ip6, ip4, ip6, tcp_segment, write

FIX, OURS, TIME, ACT = 0x80, 0x40, 0x20, 0x10
HOST4, PEER4 = bytes([192, 168, 0, 1]), bytes([192, 168, 0, 2])
HOST6, PEER6 = (bytes.fromhex("fd3dfa7bd17d") + bytes(9) + bytes([last]) for last in (1, 2))
FIN, SYN, RST, PSH, ACK, ECE, CWR = (1 << i for i in (0, 1, 2, 3, 4, 6, 7))
V6, CONNECT = 8, 16
SYN_OPTIONS = bytes.fromhex("020405b40402080a00000001000000000103030a")
STAMPS = bytes.fromhex("0101080a0000000200000001")
SACK = bytes.fromhex("0101050a0000000a00000014")


def tcp(flags: int, data: bytes = b"", options: bytes = b"", seq: int = 0, ack: int = 0, sport: int = 4000) -> bytes:
    return tcp_segment(flags, options, data, ports=(sport, 80), seq=seq, ack=ack, window=60000)


def v4(segment: bytes) -> bytes:
    return in_ip4(segment, PEER4, HOST4)


def v6(segment: bytes) -> bytes:
    return in_ip6(segment, PEER6, HOST6)


def packet(data: bytes, flags: int = FIX | OURS) -> bytes:
    return struct.pack("!H", flags << 8 | len(data)) + data


def conversation(start: int) -> bytes:
    wrap = v6 if start & V6 else v4
    hello = packet(wrap(tcp(SYN | ECE | CWR, options=SYN_OPTIONS)), FIX)
    segments = [
        packet(wrap(tcp(ACK, options=STAMPS)), FIX | OURS | ACT),
        packet(wrap(tcp(PSH | ACK, b"hello", STAMPS))),
        packet(wrap(tcp(ACK, b"later", STAMPS + SACK, seq=100)), FIX | OURS | TIME),
        packet(wrap(tcp(ACK, bytes(3500), STAMPS)), FIX | OURS | ACT),
        packet(wrap(tcp(RST, seq=7))),
        packet(wrap(tcp(SYN, seq=7))),
        packet(wrap(tcp(FIN | ACK, b"bye", STAMPS)), FIX | OURS | TIME | ACT),
        packet(wrap(tcp(RST | ACK))),
    ]
    return bytes([start]) + hello + b"".join(segments)


def errors(start: int) -> bytes:
    """ICMP errors about the SYN of the client, whose port is the first of its range."""
    quote = tcp_segment(SYN, ports=(32768, 80), seq=0, ack=0, window=0)
    found = bytes([start])
    if start & V6:
        inner = ip6(6, quote, src=HOST6, dst=PEER6)
        messages = [icmp6(1, code, 0, inner) for code in (0, 4)] + [icmp6(2, 0, 1280, inner), icmp6(3, 0, 0, inner)]
    else:
        inner = ip4(6, quote, src=HOST4, dst=PEER4)
        messages = [icmp4(3, code, 0, inner) for code in (1, 3)] + [icmp4(3, 4, 1000, inner), icmp4(11, 0, 0, inner)]
    for message in messages:
        found += packet(message, FIX)
    return found


def lists() -> dict[str, bytes]:
    found = {}
    for layout in range(3):
        for family in (0, V6):
            found[f"passive{layout}_{6 if family else 4}"] = conversation(layout | family | 4)
    for family in (0, V6):
        wrap = v6 if family else v4
        answer = packet(wrap(tcp(SYN | ACK, options=SYN_OPTIONS, sport=80)))
        found[f"active_{6 if family else 4}"] = bytes([family | CONNECT]) + answer + conversation(family)[1:]
        found[f"icmp_{6 if family else 4}"] = errors(family | CONNECT)
    found["odd"] = bytes([1]) + b"".join(
        packet(p, 0) for p in (b"", b"\x45", v4(tcp(0)), v4(tcp(SYN | FIN)), v4(tcp(ACK))[:30], ip4(17, bytes(8)))
    )
    return found


if __name__ == "__main__":
    write("script", lists())
