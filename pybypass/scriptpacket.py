"""Packets of scripts as bytes: built, taken apart, and written the way a script would have them."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, replace

from ._wire import internet_checksum
from .scripttree import Icmp, IpFields, Option, TcpPacket

__all__ = ["Seen", "address", "build_icmp", "build_tcp", "options_bytes", "payload", "relative", "seen_of", "text_of"]

_BITS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, ".": 0x10, "U": 0x20, "E": 0x40, "W": 0x80}
_ORDER = "SFRPEWU."
_KINDS = {"eol": 0, "nop": 1, "mss": 2, "wscale": 3, "sackOK": 4, "sack": 5, "TS": 8, "md5": 19, "FO": 34, "FOEXP": 254}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_FOEXP_MAGIC = b"\xf9\x89"  # RFC 7413 4.1.1

_STREAM = bytes((i * 7 + (i >> 8) * 13 + 1) & 0xFF for i in range(1 << 16))

_UNREACHABLE4 = (
    "net_unreachable", "host_unreachable", "protocol_unreachable", "port_unreachable", "frag_needed",
    "source_route_failed", "net_unknown", "host_unknown", "source_host_isolated", "net_prohibited", "host_prohibited",
    "net_unreachable_for_tos", "host_unreachable_for_tos", "packet_filtered", "precedence_violation",
    "precedence_cutoff",
)  # fmt: skip
_UNREACHABLE6 = (
    "no_route", "admin_prohibited", "not_neighbour", "address_unreachable", "port_unreachable",
)  # fmt: skip
_ICMP4 = {
    "echo_reply": 0, "unreachable": 3, "source_quench": 4, "redirect": 5, "echo_request": 8, "time_exceeded": 11,
    "parameter_problem": 12,
}  # fmt: skip
_ICMP6 = {
    "unreachable": 1, "packet_too_big": 2, "time_exceeded": 3, "parameter_problem": 4, "echo_request": 128,
    "echo_reply": 129,
}  # fmt: skip
_CODES6 = {
    3: ("exceeded_hop_limit", "exceeded_frag_time"),
    4: ("header_field", "unknown_next_header", "unknown_option"),
}


def payload(start: int, length: int) -> bytes:
    """What a script's peer sends from place `start` of its stream on: every byte follows from its place."""
    at = start % len(_STREAM)
    return (_STREAM * (1 + (at + length) // len(_STREAM)))[at : at + length]


def options_bytes(options: tuple[Option, ...]) -> bytes:
    """TCP options as they stand; ValueError when they are no whole number of words, or too long."""
    out = b""
    for o in options:
        kind = _KINDS[o.name]
        if kind < 2:
            out += bytes([kind])
            continue
        body = o.data
        if o.name == "mss":
            body = struct.pack("!H", *o.values)
        elif o.name == "wscale":
            body = struct.pack("!B", *o.values)
        elif o.name in ("sack", "TS"):
            body = struct.pack(f"!{len(o.values)}I", *o.values)
        elif o.name == "FOEXP":
            body = _FOEXP_MAGIC + body
        out += bytes([kind, len(body) + 2]) + body
    if len(out) % 4:
        raise ValueError(f"the TCP options have {len(out)} bytes, no multiple of 4")
    if len(out) > 40:
        raise ValueError(f"the TCP options have {len(out)} bytes, more than 40")
    return out


def _options_of(raw: bytes) -> tuple[Option, ...]:
    found: list[Option] = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        if kind < 2:
            found.append(Option(_NAMES[kind]))
            at += 1
            continue
        size = raw[at + 1] if at + 1 < len(raw) else 0
        if size < 2 or at + size > len(raw):
            raise ValueError(f"TCP option {kind} with length {size}")
        body = raw[at + 2 : at + size]
        name = _NAMES.get(kind, f"option-{kind}")
        if name == "mss" and size == 4:
            found.append(Option(name, struct.unpack("!H", body)))
        elif name == "wscale" and size == 3:
            found.append(Option(name, struct.unpack("!B", body)))
        elif name in ("sack", "TS") and len(body) % 4 == 0:
            found.append(Option(name, struct.unpack(f"!{len(body) // 4}I", body)))
        elif name == "FOEXP" and body.startswith(_FOEXP_MAGIC):
            found.append(Option(name, (), body[2:]))
        else:
            found.append(Option(name, (), body))
        at += size
    return tuple(found)


# ---- out of the script, into the stack ----


def _ip(src: bytes, dst: bytes, proto: int, body: bytes, fields: IpFields) -> bytes:
    tos = fields.tos if fields.tos is not None else max(fields.ecn or 0, 0)
    ttl = fields.ttl or 255
    if len(src) == 16:
        label = tos << 20 | (fields.flow_label or 0)
        return struct.pack("!IHBB", 6 << 28 | label, len(body), proto, ttl) + src + dst + body
    head = struct.pack("!BBHHHBBH4s4s", 0x45, tos, 20 + len(body), 0, 0, ttl, proto, 0, src, dst)
    return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + body


def _pseudo(src: bytes, dst: bytes, proto: int, length: int) -> bytes:
    if len(src) == 16:
        return src + dst + struct.pack("!II", length, proto)
    return src + dst + struct.pack("!HH", proto, length)


def build_tcp(p: TcpPacket, src: bytes, dst: bytes, ports: tuple[int, int], data: bytes) -> bytes:
    """The IP packet of a segment whose numbers are those of the wire; src and dst: 4 or 16 bytes."""
    options = options_bytes(p.options or ())
    bits = sum(_BITS[f] for f in set(p.flags))
    head = struct.pack(
        "!HHIIBBHHH", *ports, p.seq & 0xFFFFFFFF, p.ack & 0xFFFFFFFF, (20 + len(options)) << 2, bits,
        p.window or 0, 0, p.urgent,
    )  # fmt: skip
    body = head + options + data
    check = internet_checksum(_pseudo(src, dst, 6, len(body)) + body)
    body = body[:16] + struct.pack("!H", check) + body[18:]
    return _ip(src, dst, 6, body, p.ip)


def build_icmp(m: Icmp, src: bytes, dst: bytes, ports: tuple[int, int], seq: int) -> bytes:
    """An ICMP error about a segment of ours from ports[0] to ports[1] with that sequence number; it goes to dst.

    KeyError: no such kind or code.
    """
    v6 = len(src) == 16
    kind = (_ICMP6 if v6 else _ICMP4)[m.kind]
    names = (_CODES6.get(kind) or _UNREACHABLE6) if v6 else _UNREACHABLE4
    code = 0
    if m.code and m.code in names:
        code = names.index(m.code)
    elif v6 and m.code == "frag_needed":  # what a script for IPv4 means
        kind, code = _ICMP6["packet_too_big"], 0
    elif v6 and m.code in _UNREACHABLE4:
        code = {"port_unreachable": 4, "host_unreachable": 3}.get(m.code, 0)
    elif m.code:
        raise KeyError(m.code)
    quoted = struct.pack("!HHIIBBHHH", *ports, seq & 0xFFFFFFFF, 0, 5 << 4, 0x10, 0, 0, 0)
    inner = _ip(dst, src, 6, quoted + bytes(m.length), IpFields())[: (40 if v6 else 20) + 20]
    rest = struct.pack("!I", m.mtu)
    body = struct.pack("!BBH", kind, code, 0) + rest + inner
    proto = 58 if v6 else 1
    check = internet_checksum((_pseudo(src, dst, proto, len(body)) if v6 else b"") + body)
    body = body[:2] + struct.pack("!H", check) + body[4:]
    return _ip(src, dst, proto, body, m.ip)


# ---- out of the stack ----


@dataclass(frozen=True, slots=True)
class Seen:
    """A TCP packet that went out. `packet` has the numbers of the wire until the runner maps them."""

    packet: TcpPacket
    data: bytes
    src: tuple[bytes, int]
    dst: tuple[bytes, int]
    time_ns: int
    header: int  # bytes of the TCP header


def seen_of(raw: bytes, time_ns: int, check: bool = True) -> Seen | None:
    """Takes an IP packet apart; None: no TCP, or a fragment without its header. ValueError when its checksum is wrong,
    unless that is not looked at: then the packet may be cut off by a capture. Its length is what its IP header says
    (what was captured, where offloads left 0 there), its options are None when they are not all there."""
    v6 = raw[0] >> 4 == 6
    hlen = 40 if v6 else (raw[0] & 15) * 4
    if raw[6 if v6 else 9] != 6 or (not v6 and struct.unpack("!H", raw[6:8])[0] & 0x1FFF):
        return None
    total = 40 + int.from_bytes(raw[4:6], "big") if v6 else int.from_bytes(raw[2:4], "big")
    src, dst = (raw[8:24], raw[24:40]) if v6 else (raw[12:16], raw[16:20])
    tos = struct.unpack("!I", raw[:4])[0] >> 20 & 0xFF if v6 else raw[1]
    body = raw[hlen:]
    if check and internet_checksum(_pseudo(src, dst, 6, len(body)) + body):
        raise ValueError("the TCP checksum of a packet that went out is wrong")
    sport, dport, seq, ack, doff, bits, window, _, urgent = struct.unpack("!HHIIBBHHH", body[:20])
    size = (doff >> 4) * 4
    flags = "".join(f for f in _ORDER if bits & _BITS[f])
    label = struct.unpack("!I", raw[:4])[0] & 0xFFFFF if v6 else 0
    ip = IpFields(ecn=tos & 3, tos=tos, ttl=raw[7 if v6 else 8], flow_label=label)
    if size < 20:
        raise ValueError("a TCP header of less than 20 bytes")
    options = _options_of(body[20:size]) if len(body) >= size else None
    length = max(total if total >= hlen + size else len(raw), hlen + size) - hlen - size
    packet = TcpPacket(True, flags, seq, length, ack, window, urgent, options, ip)
    return Seen(packet, body[size:], (src, sport), (dst, dport), time_ns, size)


# ---- as text ----


def _option_text(o: Option) -> str:
    if o.name == "TS" and len(o.values) == 2:
        return f"TS val {o.values[0]} ecr {o.values[1]}"
    if o.name == "sack":
        pairs = zip(o.values[::2], o.values[1::2], strict=False)
        return "sack " + " ".join(f"{a}:{b}" for a, b in pairs)
    return " ".join([o.name, *map(str, o.values), *([o.data.hex()] if o.data else [])])


def text_of(p: TcpPacket | Icmp) -> str:
    """As a script has it, without time and direction."""
    if isinstance(p, Icmp):
        span = f" [{p.seq}:{p.seq + p.length}({p.length})]" if p.length or p.seq else ""
        return f"icmp {p.kind} {p.code}".rstrip() + (f" mtu {p.mtu}" if p.mtu else "") + span
    parts = [p.flags or "-", f"{p.seq}:{(p.seq + p.length) & 0xFFFFFFFF}({p.length})"]
    if "." in p.flags or p.ack:
        parts.append(f"ack {p.ack}")
    if p.window is not None:
        parts.append(f"win {p.window}")
    if p.urgent:
        parts.append(f"urg {p.urgent}")
    if p.options is None:
        parts.append("<...>")
    elif p.options:
        parts.append("<" + ",".join(_option_text(o) for o in p.options) + ">")
    return " ".join(parts)


def relative(p: TcpPacket, seq_offset: int, ack_offset: int) -> TcpPacket:
    """With the sequence numbers moved: seq by the one, ack and SACK blocks by the other."""
    options = p.options
    if options:
        options = tuple(
            replace(o, values=tuple((v + ack_offset) & 0xFFFFFFFF for v in o.values)) if o.name == "sack" else o
            for o in options
        )
    ack = (p.ack + ack_offset) & 0xFFFFFFFF if "." in p.flags else p.ack
    return replace(p, seq=(p.seq + seq_offset) & 0xFFFFFFFF, ack=ack, options=options)


def address(text: str) -> bytes:
    """The 4 or 16 bytes of an address; OSError."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
