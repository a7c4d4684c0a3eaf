"""What the AF_XDP tests share: the compiled test program, a driver for it, and frames made by hand."""

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"


def missing() -> str | None:
    """Why AF_XDP cannot be tested here, or None."""
    if os.geteuid() != 0:
        return "needs root (CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF, CAP_SYS_ADMIN)"
    for tool in ("gcc", "clang"):
        if not shutil.which(tool):
            return f"needs {tool}"
    try:
        import pybypass._sys  # noqa: F401
    except ImportError as e:
        return f"pybypass is not built: {e}"
    return None


def build_objects(out: Path) -> Path:
    """Compiles the XDP programs into `out`."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    for source in sorted((CSRC / "bpf").glob("*.bpf.c")):
        subprocess.run(
            ["clang", "-O2", "-g", "-target", "bpf", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}",
             f"-I/usr/include/{multiarch}", "-c", source, "-o", out / (source.stem + ".o")],
            check=True,
        )  # fmt: skip
    return out


def build_check(out: Path, *flags: str) -> Path:
    """Compiles the test program with the same sources that the extension has."""
    sources = [
        *(ROOT / "tests/veth").glob("xsk_*.c"), *(CSRC / "dev").glob("xsk_*.c"), CSRC / "dev/netns.c",
        CSRC / "base/drops.c", CSRC / "base/fail.c", CSRC / "base/handles.c", *(CSRC / "mem").glob("*.c"),
        CSRC / "wire/toeplitz.c",
    ]  # fmt: skip
    subprocess.run(
        ["gcc", "-std=c11", "-O2", "-g", "-Wall", "-Wextra", f"-I{CSRC}", *flags, "-o", out, *sources,
         "-lbpf", "-lpthread"],
        check=True,
    )  # fmt: skip
    return out


@functools.cache
def scratch(base: Path) -> tuple[Path, dict[str, Path]]:
    """Everything compiled, once for all modules that import the fixtures."""
    out = base / "xsk_check"
    out.mkdir()
    flags = {
        "plain": [],
        "debug": ["-DPB_DEBUG"],
        "tsan": ["-DPB_DEBUG", "-fsanitize=thread", "-fno-omit-frame-pointer"],
        "asan": ["-DPB_DEBUG", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = {name: pool.submit(build_check, out / name, *how) for name, how in flags.items()}
        return build_objects(out), {name: future.result() for name, future in built.items()}


@pytest.fixture(scope="session")
def objdir(tmp_path_factory):
    return scratch(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="session")
def checks(tmp_path_factory):
    return scratch(tmp_path_factory.getbasetemp())[1]


@pytest.fixture(scope="session")
def check(checks):
    """ASan and the ownership table at once."""
    return checks["asan"]


@pytest.fixture
def pair():
    from pybypass import lab

    with lab.veth() as v:
        yield v


class Server:
    """`xsk_check serve` in a namespace: one command a line, one line of JSON back."""

    def __init__(self, check: Path, side, objdir: Path, *args: str, wrapper=()):
        argv = [*wrapper, str(check), "serve", f"if={side.ifname}", f"dir={objdir}", *args]
        self.process = side.netns.popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.report = json.loads(self.process.stdout.readline())

    def __call__(self, line: str) -> dict:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the test program ended: {self.process.stderr.read()}"
        return json.loads(answer)

    def rx(self, n=64, ms=1):
        """The bytes of frames received, with their descriptors."""
        answer = self(f"rx {n} {ms}")
        for f in answer["frames"]:
            f["data"] = bytes.fromhex(f.pop("hex"))
        return answer["frames"]

    def tx(self, frame: bytes, count=1, off=0, flags=0):
        return self(f"tx {count} {off} {flags:x} {frame.hex()}")

    def steer(self, what, proto, ip="-", lo=0, hi=None):
        return self(f"steer {what} {proto} {ip} {lo} {lo if hi is None else hi}")["ret"]

    def stop(self) -> dict:
        """Closes the device; every frame must be back and no transition forbidden."""
        # Not communicate(): it would miss lines that readline() has read ahead.
        with contextlib.suppress(BrokenPipeError):  # it may end by itself meanwhile
            self.process.stdin.write("quit\n")
            self.process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        out, err = self.process.stdout.read(), self.process.stderr.read()
        self.process.wait(timeout=30)
        assert not re.search("Sanitizer|runtime error", err), err
        assert self.process.returncode == (0 if self.report["stage"] == "none" else 1), err
        end = json.loads(out.splitlines()[-1])
        assert end["own"]["free"] == end["frames"], end
        assert end["violations"] == 0
        return end

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, trace):
        if kind is None:
            self.stop()
        else:
            self.process.kill()
            self.process.communicate()


def packet_socket(side) -> socket.socket:
    """An AF_PACKET socket on the interface: sends frames, and sees what XDP passed to the kernel."""
    with side.netns:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((side.ifname, 3))
    s.settimeout(0)
    return s


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def eth(payload: bytes, type_=0x0800, dst="02:00:00:00:00:0b", src="02:00:00:00:00:0a", tags=()) -> bytes:
    """tags: (EtherType, TCI), outermost first."""
    head = bytes.fromhex(dst.replace(":", "")) + bytes.fromhex(src.replace(":", ""))
    for tag in tags:
        head += struct.pack("!HH", *tag)
    return head + struct.pack("!H", type_) + payload


def ip4(payload: bytes, proto: int, src="10.77.0.1", dst="10.77.0.2", frag=0, options=b"") -> bytes:
    ihl = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | ihl, 0, ihl * 4 + len(payload), 7, frag, 64, proto, 0)
    head += socket.inet_aton(src) + socket.inet_aton(dst) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ip6(payload: bytes, proto: int, src="fd77::1", dst="fd77::2") -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), proto, 64)
    return head + socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst) + payload


def udp(sport: int, dport: int, data=b"") -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def tcp(sport: int, dport: int, data=b"") -> bytes:
    return struct.pack("!HHIIHHHH", sport, dport, 1, 0, 0x5010, 1000, 0, 0) + data


def icmp(type_: int, quoted: bytes, code=0) -> bytes:
    body = struct.pack("!BBHI", type_, code, 0, 0) + quoted
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
NATIVE, GENERIC = "mode=1", "mode=2"
needs_xdp = pytest.mark.skipif(missing() is not None, reason=str(missing()))
