"""Reads packet scripts: the language of google/packetdrill, as far as a stack without a kernel can act on it."""

from __future__ import annotations

from collections.abc import Mapping

from .scriptlex import Token, tokens, trouble
from .scripttree import (
    Call,
    Code,
    Command,
    Either,
    Ellipsis_,
    Event,
    Expr,
    Field,
    Icmp,
    IpFields,
    Items,
    Name,
    Number,
    Option,
    Record,
    Script,
    TcpPacket,
    Text,
    When,
)

__all__ = ["parse"]

_DEPTH = 20
_FLAGS = frozenset(".FSRPEWU")
_ECN = {"noecn": 0, "ect1": 1, "ect0": 2, "ce": 3, "ect01": -1}
_TUNNELS = frozenset({"ipv4", "ipv6", "gre", "GREv0", "mpls", "encap", "psp"})


class _Parser:
    def __init__(self, text: str, path: str, defines: Mapping[str, str]) -> None:
        self.path = path
        self.words = list(tokens(text, path))
        self.at = 0
        self.defines = dict(defines)
        self.depth = 0

    # ---- words ----

    @property
    def now(self) -> Token:
        return self.words[self.at]

    def is_(self, kind: str, text: str | None = None) -> bool:
        return self.now.kind == kind and (text is None or self.now.text == text)

    def next(self) -> Token:
        token = self.now
        self.at += token.kind != "end"
        return token

    def wrong(self, wanted: str, token: Token | None = None, code: str = "PB100") -> Exception:
        token = token or self.now
        seen = repr(token.text) if token.text else "the end of the script"
        text = wanted if code != "PB100" else f"{wanted} was expected, not {seen}"
        return trouble(code, self.path, token.line, token.column, text)

    def take(self, kind: str, what: str = "") -> Token:
        if self.now.kind != kind:
            raise self.wrong(what or repr(kind))
        return self.next()

    def accept(self, kind: str, text: str | None = None) -> bool:
        if self.is_(kind, text):
            self.at += 1
            return True
        return False

    def integer(self, what: str, low: int = 0, high: int = 0xFFFFFFFF) -> int:
        token = self.now
        text = self.defines.get(token.text, token.text) if token.kind == "word" else token.text
        try:
            value = int(text, 0) if token.kind in ("int", "hex", "word") else None
        except ValueError:
            value = None
        if value is None:
            raise self.wrong(what)
        if not low <= value <= high:
            raise self.wrong(f"{what} from {low} to {high}")
        self.next()
        return value

    def time_us(self) -> int:
        token = self.now
        if token.kind not in ("int", "float"):
            raise self.wrong("a time in seconds")
        self.next()
        whole, _, part = token.text.partition(".")
        sign = -1 if whole.startswith("-") else 1
        return sign * (abs(int(whole or "0") if whole not in ("", "-") else 0) * 1000000 + int((part + "000000")[:6]))

    # ---- the whole ----

    def script(self, lines: tuple[str, ...]) -> Script:
        options: list[tuple[str, str, int]] = []
        while self.is_("option"):
            token = self.next()
            name, _, value = token.text[2:].partition("=")
            name, value = name.strip(), value.strip()
            if name == "define":
                symbol, equals, text = value.partition("=")
                if not symbol or not equals:
                    raise self.wrong("--define=NAME=VALUE", token)
                self.defines[symbol] = text
            options.append((name, value.strip('"'), token.line))
        init: list[Event] = []
        while self.is_("command"):
            init.append(self.command(When("any")))
        events: list[Event] = []
        while not self.is_("end"):
            if self.is_("command"):  # after the last event: puts things back
                self.next()
                if not self.is_("end"):
                    raise self.wrong("the end of the script")
                break
            events.append(self.event())
        if not events:
            raise self.wrong("an event")
        return Script(self.path, lines, tuple(options), tuple(init), tuple(events))

    def command(self, when: When) -> Event:
        token = self.take("command")
        return Event(when, Command(token.text[1:-1]), token.line)

    def event(self) -> Event:
        first = self.now
        when = self.when()
        token = self.now
        if token.kind == "command":
            return self.command(when)
        if token.kind == "code":
            self.next()
            return Event(when, Code(token.text[2:-2]), token.line)
        if token.kind in ("<", ">"):
            return Event(when, self.packet(), token.line)
        if token.kind in ("word", "..."):
            call = self.call()
            if call.end_us is not None and when.kind == "any":
                raise self.wrong("a time, since the call has one when it ends", first)
            return Event(when, call, token.line)
        raise self.wrong("a packet, a call, a command or code")

    def when(self) -> When:
        if self.accept("*"):
            return When("any")
        after = self.accept("+")
        start, end = self.time_us(), None
        if self.accept("~"):
            if after:
                self.take("+")
            end = self.time_us()
        return When("after" if after else "at", start, end)

    # ---- packets ----

    def packet(self) -> TcpPacket | Icmp:
        outbound = self.next().kind == ">"
        ip = self.ip_fields(outbound)
        if self.now.text in _TUNNELS:
            raise self.wrong(f"{self.now.text} encapsulation is not spoken here", code="PB101")
        if self.is_("word", "icmp"):
            return self.icmp(outbound, ip)
        if self.is_("word", "udp"):
            raise self.wrong("UDP is not spoken here", code="PB101")
        return self.tcp(outbound, ip)

    def ip_fields(self, outbound: bool) -> IpFields:
        found: dict[str, int] = {}
        if not (self.is_("[") or self.is_("(")):
            return IpFields()
        close = "]" if self.next().kind == "[" else ")"
        while not self.accept(close):
            token = self.take("word", "ect0, ect1, ect01, ce, noecn, tos, ttl or flowlabel")
            if token.text in _ECN:
                found["ecn"] = _ECN[token.text]
                if found["ecn"] < 0 and not outbound:
                    raise self.wrong("ect0 or ect1, because the packet comes in,", token)
            elif token.text == "tos":
                found["tos"] = self.integer("the TOS byte", 0, 255)
            elif token.text == "ttl":
                found["ttl"] = self.integer("the TTL", 0, 255)
            elif token.text == "flowlabel":
                found["flow_label"] = self.integer("the flow label", 0, 0xFFFFF)
            else:
                raise self.wrong("ect0, ect1, ect01, ce, noecn, tos, ttl or flowlabel", token)
            self.accept(",")
        return IpFields(**found)

    def flags(self) -> str:
        first, text = self.now, ""
        while self.now.kind in ("word", ".", "-") and (self.now is first or self.follows()):
            text += self.next().text
        if text == "-":
            return ""
        if not text or not set(text) <= _FLAGS:
            code = "PB101" if text and set(text) <= _FLAGS | set("A01234567") else "PB100"
            wanted = "TCP flags (of . F S R P E W U, or -)"
            raise self.wrong("accurate ECN is not spoken here" if code == "PB101" else wanted, first, code)
        return text

    def follows(self) -> bool:
        """The word touches the one before."""
        before = self.words[self.at - 1]
        return before.line == self.now.line and before.column + len(before.text) == self.now.column

    def span(self) -> tuple[int, int]:
        first = self.now
        start = self.integer("a sequence number")
        self.take(":")
        end = self.integer("a sequence number")
        self.take("(")
        length = self.integer("a length", 0, 65535)
        self.take(")")
        if (start + length) & 0xFFFFFFFF != end:
            raise trouble("PB100", self.path, first.line, first.column, f"{start} and {length} bytes do not make {end}")
        return start, length

    def tcp(self, outbound: bool, ip: IpFields) -> TcpPacket:
        ports = None
        if self.is_("int") and self.words[self.at + 1].kind == ">":
            source = self.integer("a port", 0, 65535)
            self.next()
            ports = (source, self.integer("a port", 0, 65535))
            self.accept(":")
        first = self.now
        flags = self.flags()
        seq, length = self.span()
        ack = self.integer("an acknowledgment number") if self.accept("word", "ack") else 0
        window = self.integer("a window", 0, 65535) if self.accept("word", "win") else None
        urgent = self.integer("an urgent pointer", 0, 65535) if self.accept("word", "urg") else 0
        options: tuple[Option, ...] | None = ()
        if self.is_("<"):
            options = self.options(outbound)
        if window is None and not outbound:
            raise self.wrong("a window (win N), because the packet comes in,", first)
        return TcpPacket(outbound, flags, seq, length, ack, window, urgent, options, ip, ports)

    def options(self, outbound: bool) -> tuple[Option, ...] | None:
        first = self.take("<")
        if self.accept("..."):
            self.take(">")
            if not outbound:
                raise self.wrong("the options, because the packet comes in,", first)
            return None
        found = [self.option()]
        while self.accept(","):
            found.append(self.option())
        self.take(">")
        return tuple(found)

    def option(self) -> Option:
        token = self.take("word", "a TCP option")
        name = token.text
        if name in ("nop", "eol", "sackOK"):
            return Option(name)
        if name == "mss":
            return Option(name, (self.integer("an MSS", 0, 65535),))
        if name == "wscale":
            return Option(name, (self.integer("a window scale", 0, 255),))
        if name == "sack":
            blocks: list[int] = []
            while self.is_("int"):
                blocks.append(self.integer("a sequence number"))
                self.take(":")
                blocks.append(self.integer("a sequence number"))
            return Option(name, tuple(blocks))
        if name == "TS":
            if not self.accept("word", "val"):
                raise self.wrong("'val'")
            val = self.integer("a timestamp")
            if not self.accept("word", "ecr"):
                raise self.wrong("'ecr'")
            return Option(name, (val, self.integer("a timestamp")))
        if name in ("FO", "FOEXP", "md5"):
            data = self.next().text if self.now.kind in ("word", "int") else ""
            data = self.defines.get(data, data)
            try:
                return Option(name, (), bytes.fromhex(data))
            except ValueError:
                raise self.wrong("bytes in hexadecimal", self.words[self.at - 1]) from None
        raise self.wrong("nop, eol, mss, wscale, sackOK, sack, TS, FO, FOEXP or md5", token)

    def icmp(self, outbound: bool, ip: IpFields) -> Icmp:
        self.next()
        kind = self.take("word", "a kind of ICMP message").text
        code = ""
        if self.now.kind == "word" and self.now.text not in ("mtu", "id"):
            code = self.next().text
        mtu = self.integer("an MTU") if self.accept("word", "mtu") else 0
        if self.accept("word", "id"):
            self.integer("an identifier", 0, 65535)
        seq = length = 0
        if self.accept("["):
            if self.now.kind == "word":
                raise self.wrong(f"ICMP about {self.now.text} is not spoken here", code="PB101")
            seq, length = self.span()
            self.take("]")
        return Icmp(outbound, kind, code, mtu, seq, length, ip)

    # ---- calls ----

    def call(self) -> Call:
        end = self.time_us() if self.accept("...") else None
        name = self.take("word", "the name of a call").text
        self.take("(")
        arguments = self.list_until(")")
        self.take("=")
        result = self.expression()
        error = self.next().text if self.now.kind == "word" else ""
        if self.is_("("):
            self.note()
        return Call(name, arguments, result, error, end)

    def note(self) -> None:
        """`(Operation now in progress)`: for the reader."""
        first, depth = self.now, 0
        while True:
            token = self.next()
            depth += (token.kind == "(") - (token.kind == ")")
            if not depth:
                return
            if token.kind == "end":
                raise self.wrong("')'", first)

    def list_until(self, close: str) -> tuple[Expr, ...]:
        found: list[Expr] = []
        while not self.accept(close):
            found.append(self.expression())
            if not self.is_(close):
                self.take(",", f"',' or '{close}'")
        return tuple(found)

    def expression(self) -> Expr:
        parts = [self.single()]
        while self.accept("|"):
            parts.append(self.single())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def single(self) -> Expr:
        token = self.now
        self.depth += 1
        if self.depth > _DEPTH:
            raise self.wrong(f"nothing nested more than {_DEPTH} deep")
        try:
            return self.value(token)
        finally:
            self.depth -= 1

    def value(self, token: Token) -> Expr:
        if token.kind == "...":
            self.next()
            return Ellipsis_()
        if token.kind in ("int", "hex"):
            return Number(self.integer("a number", -(1 << 63), (1 << 64) - 1))
        if token.kind == "float":
            raise self.wrong("a whole number")
        if token.kind == "string":
            return self.strings()
        if token.kind == "[":
            self.next()
            return Items(self.list_until("]"))
        if token.kind == "{":
            self.next()
            return self.record()
        if token.kind == "word":
            return self.named()
        raise self.wrong("a value")

    def strings(self) -> Expr:
        first, text = self.now, ""
        while self.is_("string"):
            text += self.next().text[1:-1]
        self.accept("...")
        try:
            return Text(text.encode("latin-1", "backslashreplace").decode("unicode_escape"))
        except UnicodeDecodeError:
            raise self.wrong("a string whose escapes end", first) from None

    def named(self) -> Expr:
        word = self.next().text
        define = self.defines.get(word)
        if define is not None:
            if define.startswith('"'):
                return Text(define.strip('"'))
            try:
                return Number(int(define, 0))
            except ValueError:
                word = define
        if self.accept("("):
            return Name(word, self.list_until(")"))
        return Name(word)

    def record(self) -> Record:
        fields: list[Field] = []
        items: list[Expr] = []
        while not self.accept("}"):
            value = self.expression()
            if self.accept("="):
                if not isinstance(value, Name):
                    raise self.wrong("the name of a field", self.words[self.at - 1])
                fields.append(Field(value.word, self.expression(), value.arguments or ()))
            else:
                items.append(value)
            if not self.is_("}"):
                self.take(",", "',' or '}'")
        return Record(tuple(fields), tuple(items))


def parse(text: str, path: str = "<script>", defines: Mapping[str, str] | None = None) -> Script:
    """The script in `text`; `path` is for messages, `defines` what --define=NAME=VALUE would.

    PybypassError PB100: not the language, with line and column; PB101: a part of it that is not there (UDP, tunnels,
    accurate ECN).
    """
    return _Parser(text, path, defines or {}).script(tuple(text.splitlines()))
