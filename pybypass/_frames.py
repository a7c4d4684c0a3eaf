"""ARP, neighbour discovery and ICMP messages as bytes. Addresses are packed, frames untagged and whole."""

from __future__ import annotations

import struct

from ._wire import internet_checksum

ARP, IP4, IP6 = 0x0806, 0x0800, 0x86DD
BROADCAST = b"\xff" * 6
ECHO_REPLY, UNREACHABLE, ECHO_REQUEST = 0, 3, 8
UNREACHABLE6, PARAMETER6, ECHO6_REQUEST, ECHO6_REPLY, SOLICIT, ADVERT = 1, 4, 128, 129, 135, 136
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_SOLICITED = bytes.fromhex("ff0200000000000000000001ff")
_QUOTE4, _QUOTE6 = 548, 1232
"""RFC 1812 4.3.2.3: at most 576 bytes in all. RFC 4443 3.1: at most 1280."""


def with_checksum(message: bytes, pseudo: bytes = b"") -> bytes:
    """An ICMP message with its checksum (at offset 2) filled in."""
    clear = message[:2] + b"\0\0" + message[4:]
    return clear[:2] + internet_checksum(pseudo + clear).to_bytes(2, "big") + clear[4:]


def pseudo6(src: bytes, dst: bytes, length: int) -> bytes:
    return src + dst + struct.pack(">IHBB", length, 0, 0, 58)


def arp(op: int, sha: bytes, spa: bytes, tha: bytes, tpa: bytes, to: bytes = BROADCAST) -> bytes:
    """RFC 826: 1 asks, 2 answers."""
    return to + sha + struct.pack(">HHHBBH", ARP, 1, IP4, 6, 4, op) + sha + spa + tha + tpa


def icmp4(to: bytes, mac: bytes, src: bytes, dst: bytes, message: bytes) -> bytes:
    """A message of ours, its checksum filled in here."""
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 0, 0x4000, 64, 1, 0, src, dst)
    header = header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:]
    return to + mac + struct.pack(">H", IP4) + header + with_checksum(message)


def icmp6(to: bytes, mac: bytes, src: bytes, dst: bytes, message: bytes) -> bytes:
    """The same for IPv6, with the hop limit that neighbour discovery wants (RFC 4861 4)."""
    message = with_checksum(message, pseudo6(src, dst, len(message)))
    header = struct.pack(">IHBB", 6 << 28, len(message), 58, 255) + src + dst
    return to + mac + struct.pack(">H", IP6) + header + message


def question(mac: bytes, src: bytes, target: bytes, to: bytes | None = None) -> bytes:
    """Asks for a neighbour: everybody, or the one who had the address last (`to`). RFC 826; RFC 4861 4.3, 7.2.2, 7.3.3."""
    if len(target) == 4:
        return arp(1, mac, src, bytes(6), target, to or BROADCAST)
    group = _SOLICITED + target[13:]
    message = struct.pack(">BBHI", SOLICIT, 0, 0, 0) + target + b"\x01\x01" + mac
    if to is not None:
        return icmp6(to, mac, src, target, message)
    return icmp6(b"\x33\x33" + group[12:], mac, src, group, message)


def advert6(mac: bytes, target: bytes, to: bytes | None = None, dst: bytes = b"") -> bytes:
    """An answer to `dst` (solicited, override), or to all nodes without it (unsolicited, override). RFC 4861 4.4, 7.2.6."""
    flags = 0x60000000 if dst else 0x20000000
    message = struct.pack(">BBHI", ADVERT, 0, 0, flags) + target + b"\x02\x01" + mac
    return icmp6(to or b"\x33\x33" + _ALL_NODES[12:], mac, target, dst or _ALL_NODES, message)


def announcement(mac: bytes, address: bytes) -> bytes:
    """RFC 5227 2.3 (an ARP request from the address for itself); RFC 4861 7.2.6."""
    if len(address) == 4:
        return arp(1, mac, address, bytes(6), address)
    return advert6(mac, address)


def refusal(frame: bytes, mac: bytes, proto_unknown: bool) -> bytes | None:
    """The ICMP error of a host that has nobody for this packet: port unreachable, or the protocol is unknown (RFC 1122
    3.2.2.1, RFC 4443 3.1 and 3.4). None when such a packet gets no error: RFC 1122 3.2.2, RFC 4443 2.4."""
    if frame[0] & 1 or len(frame) < 34:
        return None
    if frame[12:14] == IP4.to_bytes(2, "big"):
        src, dst = frame[26:30], frame[30:34]
        if src[0] >= 224 or not any(src) or src[0] == 127 or dst[0] >= 224 or src == dst:
            return None
        packet = frame[14 : 14 + min(int.from_bytes(frame[16:18], "big"), _QUOTE4)]
        message = struct.pack(">BBHI", UNREACHABLE, 2 if proto_unknown else 3, 0, 0) + packet
        return icmp4(frame[6:12], mac, dst, src, message)
    src, dst = frame[22:38], frame[38:54]
    if len(frame) < 54 or src[0] == 0xFF or not any(src) or dst[0] == 0xFF or src == dst:
        return None
    packet = frame[14 : 14 + min(40 + int.from_bytes(frame[18:20], "big"), _QUOTE6)]
    if proto_unknown:  # code 1, and where the number is: the next header field
        message = struct.pack(">BBHI", PARAMETER6, 1, 0, 6)
    else:
        message = struct.pack(">BBHI", UNREACHABLE6, 4, 0, 0)
    return icmp6(frame[6:12], mac, dst, src, message + packet)
