#!/usr/bin/env python3
"""Writes the seed corpus of tests/fuzz/fuzz_wire.c: small frames as a Linux 6.18 stack sent them, and some built here.

Usage: tools/make_corpus.py [DIRECTORY]
"""

import struct
import sys
from pathlib import Path

# Captured on a tap device: 10.0.0.1 and fd00::1 talking to 10.0.0.2 and fd00::2.
CAPTURED = {
    "syn4": "0266778899aa02112233445508004500003c311a40004006f59f0a0000010a000002d20000503c548dad00000000a002faf0"
    "0d090000020405b40402080a627e2d30000000000103030a",
    "syn6": "0266778899aa02112233445586dd6003ac0900280640fd000000000000000000000000000001fd000000000000000000000000"
    "000002edd000505095c4f000000000a002fd20ea480000020405a00402080a446c1e90000000000103030a",
    "udp4": "0266778899aa021122334455080045000020b6694000401170610a0000010a000002b6590009000c56a070696e67",
    "udp6": "0266778899aa02112233445586dd600492da000c1140fd000000000000000000000000000001fd00000000000000000000000000"
    "0002de840009000c487370696e67",
    "arp": "ffffffffffff021122334455080600010800060400010211223344550a0000010000000000000a000003",
    "mld_hop_by_hop": "33330000001602112233445586dd600000000038000100000000000000000000000000000000ff020000000000000000"
    "000000000000163a000502000001008f0028e70000000204000000ff0200000000000000000001ff00000104000000ff02000000000000"
    "00000001ff334455",
}

MACS = bytes.fromhex("0266778899aa021122334455")
A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = (bytes([0xFD] + [0] * 14 + [last]) for last in (1, 2))


def csum(data: bytes) -> int:
    """The Internet checksum of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_csum(data: bytes, at: int, pseudo: bytes = b"") -> bytes:
    return data[:at] + struct.pack("!H", csum(pseudo + data)) + data[at + 2 :]


def ip4(
    proto: int, payload: bytes, options: bytes = b"", frag: int = 0x4000, src: bytes = B4, dst: bytes = A4
) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 + words, 0, words * 4 + len(payload), 7, frag, 64, proto, 0)
    return with_csum(head + src + dst + options, 10) + payload


def ip6(proto: int, payload: bytes, src: bytes = B6, dst: bytes = A6) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), proto, 64) + src + dst + payload


def tcp_segment(
    flags: int, options: bytes = b"", data: bytes = b"", *, ports: tuple[int, int] = (80, 1000), seq: int = 5, ack: int = 9,
    window: int = 500,
) -> bytes:  # fmt: skip
    """Without a checksum, which needs the addresses."""
    words = 5 + len(options) // 4
    return struct.pack("!HHIIBBHHH", *ports, seq, ack, words << 4, flags, window, 0, 0) + options + data


def in_ip4(segment: bytes, src: bytes = B4, dst: bytes = A4) -> bytes:
    return ip4(6, with_csum(segment, 16, src + dst + struct.pack("!HH", 6, len(segment))), src=src, dst=dst)


def in_ip6(segment: bytes, src: bytes = B6, dst: bytes = A6) -> bytes:
    return ip6(6, with_csum(segment, 16, src + dst + struct.pack("!II", len(segment), 6)), src=src, dst=dst)


def tcp4(flags: int, options: bytes, data: bytes) -> bytes:
    return in_ip4(tcp_segment(flags, options, data))


def icmp4(kind: int, code: int, rest: int, body: bytes) -> bytes:
    return ip4(1, with_csum(struct.pack("!BBHI", kind, code, 0, rest) + body, 2))


def icmp6(kind: int, code: int, rest: int, body: bytes) -> bytes:
    message = struct.pack("!BBHI", kind, code, 0, rest) + body
    return ip6(58, with_csum(message, 2, B6 + A6 + struct.pack("!II", len(message), 58)))


def built() -> dict[str, bytes]:
    eth4, eth6 = MACS + b"\x08\x00", MACS + b"\x86\xdd"
    quoted4 = bytes.fromhex(CAPTURED["syn4"])[14:]
    quoted6 = bytes.fromhex(CAPTURED["syn6"])[14:]
    stamps = b"\x01\x01\x08\x0a" + struct.pack("!II", 1, 2)
    sack = b"\x01\x01\x05\x12" + struct.pack("!IIII", 10, 20, 30, 40)
    chain = bytes([60, 0, 5, 2, 0, 0, 1, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 9])
    udp = struct.pack("!HHHH", 53, 4000, 12, 0) + b"data"
    return {
        "data4": eth4 + tcp4(0x18, stamps, b"hello"),
        "sack4": eth4 + tcp4(0x10, stamps + sack, b""),
        "vlan": MACS + b"\x81\x00\x00\x64\x08\x00" + tcp4(0x11, b"", b""),
        "qinq": MACS + b"\x88\xa8\x00\x64\x81\x00\x00\x07\x08\x00" + tcp4(0x14, b"", b""),
        "options4": eth4 + ip4(17, udp, options=bytes([148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0])),
        "fragment4": eth4 + ip4(17, udp, frag=0x2000),
        "chain6": eth6 + ip6(0, chain + udp),
        "echo4": eth4 + icmp4(8, 0, 0x10001, b"abcdefgh"),
        "echo6": eth6 + icmp6(128, 0, 0x10001, b"abcdefgh"),
        "frag_needed": eth4 + icmp4(3, 4, 1400, quoted4),
        "unreachable4": eth4 + icmp4(3, 3, 0, quoted4[:28]),
        "too_big6": eth6 + icmp6(2, 0, 1280, quoted6),
    }


def write(name: str, seeds: dict[str, bytes]) -> None:
    """The files of tests/fuzz/corpus/NAME, or of the directory that the command line names."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests/fuzz/corpus" / name
    target.mkdir(parents=True, exist_ok=True)
    for file, data in seeds.items():
        (target / file).write_bytes(data)
    print(f"{len(seeds)} seeds in {target}")


if __name__ == "__main__":
    write("wire", {name: bytes.fromhex(text) for name, text in CAPTURED.items()} | built())
