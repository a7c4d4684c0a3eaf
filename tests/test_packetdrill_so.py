"""The shared object for google/packetdrill, through its table of functions; the tool itself is not here."""

import ctypes
import errno
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEMBERS = (
    "userdata", "free", "socket", "bind", "listen", "accept", "connect", "read", "readv", "recv", "recvfrom",
    "recvmsg", "write", "writev", "send", "sendto", "sendmsg", "fcntl", "ioctl", "close", "shutdown", "getsockopt",
    "setsockopt", "poll", "netdev_send", "netdev_receive", "usleep", "gettimeofday", "epoll_create", "epoll_ctl",
    "epoll_wait", "pipe", "splice",
)  # fmt: skip
# Runs in a process of its own: the object has one host, and ends the process for a wrong flag.
DRIVER = """
import ctypes, sys
so = ctypes.CDLL(sys.argv[1], use_errno=True)
table = (ctypes.c_void_p * 33)()
so.packetdrill_interface_init(sys.argv[2].encode(), table)
"""


@pytest.fixture(scope="module")
def shared_object(tmp_path_factory):
    out = tmp_path_factory.mktemp("so")
    subprocess.run(
        ["make", "-s", "-j2", "-C", str(ROOT / "tools" / "packetdrill"), f"OUT={out}/x.so", f"BUILD={out}/o", "CFLAGS=-O0"],
        check=True, timeout=300,
    )  # fmt: skip
    return out / "x.so"


@pytest.mark.parametrize("flags", ["opts=linux,psh=linux", "opts=freebsd,acks=bsd,cc=reno", "", "mtu=9000,opts=linux"])
def test_flags(shared_object, flags):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, shared_object, flags], capture_output=True, text=True, check=False
    )
    # An MTU beyond a frame is refused by the host.
    assert done.returncode == (2 if "9000" in flags else 0), done.stderr


@pytest.mark.parametrize("flags", ["nonsense", "opts=linux,acks=what", "cc="])
def test_unknown_flags_name_those_that_are(shared_object, flags):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, shared_object, flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "opts=linux|freebsd, psh=linux, acks=linux|bsd, cc=NAME" in done.stderr


def test_only_the_entry_point_is_exported(shared_object):
    names = subprocess.run(
        ["nm", "-D", "--defined-only", shared_object], capture_output=True, text=True, check=True
    ).stdout
    ours = {line.split()[-1] for line in names.splitlines()}
    assert {"packetdrill_interface_init", "getsockopt"} <= ours
    assert all(name.startswith("pb_") for name in ours - {"packetdrill_interface_init", "getsockopt"})


def sockaddr(port):
    return struct.pack("=HH", socket.AF_INET, socket.htons(port)) + socket.inet_aton("192.0.2.1") + bytes(8)


def client(path, sysctl_dir):
    """The life of a client through the table; run in a process of its own."""
    so = ctypes.CDLL(path, use_errno=True)
    table = (ctypes.c_void_p * len(MEMBERS))()
    so.packetdrill_interface_init(b"opts=freebsd", table)

    def call(name, *args):
        kinds = [ctypes.c_long if isinstance(a, int) else ctypes.c_void_p for a in args]
        function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, *kinds, use_errno=True)(table[MEMBERS.index(name)])
        ctypes.set_errno(0)
        rc = ctypes.c_int(function(None, *args) & 0xFFFFFFFF).value
        return rc if rc >= 0 else -ctypes.get_errno()

    def receive():
        buf, n, at = ctypes.create_string_buffer(4096), ctypes.c_size_t(4096), ctypes.c_longlong()
        assert call("netdev_receive", buf, ctypes.byref(n), ctypes.byref(at)) == 0
        return buf.raw[: n.value], at.value

    def now():
        tv = (ctypes.c_long * 2)()
        assert call("gettimeofday", tv, None) == 0
        return tv[0] * 1000000 + tv[1]

    fd = call("socket", socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
    assert fd > 2
    assert call("fcntl", fd, 3, 0) == 0x802
    assert call("connect", fd, ctypes.create_string_buffer(sockaddr(80)), 16) == -errno.EINPROGRESS
    first, start = receive()
    assert first[33] & 0x3F == 0x02
    assert [first[40], first[44], first[45]] == [2, 1, 3]  # FreeBSD: MSS, NOP, window scale
    # Nothing answers: the SYN comes again after a second of virtual time.
    again, later = receive()
    assert again[24:28] == first[24:28] and later - start == 1000000
    assert now() > start + 1000000
    answer = bytearray(first[12:20][4:] + first[12:16])  # addresses the other way round
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + bytes(answer)
    tcp = bytearray(
        first[22:24]
        + first[20:22]
        + struct.pack("!IIBBHHH", 5, int.from_bytes(first[24:28], "big") + 1, 0x50, 0x12, 900, 0, 0)
    )

    def checksum(data):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return struct.pack("!H", ~total & 0xFFFF)

    tcp[16:18] = checksum(bytes(answer) + struct.pack("!HH", 6, 20) + bytes(tcp))
    packet = head[:10] + checksum(head) + head[12:] + bytes(tcp)
    assert call("netdev_send", ctypes.create_string_buffer(packet), len(packet)) == 0
    ack, _ = receive()
    assert ack[33] & 0x3F == 0x10
    assert call("connect", fd, ctypes.create_string_buffer(sockaddr(80)), 16) == 0
    assert call("write", fd, ctypes.create_string_buffer(b"hello"), 5) == 5
    assert receive()[0].endswith(b"hello")
    assert call("read", fd, ctypes.create_string_buffer(10), 10) == -errno.EAGAIN
    assert call("read", fd, None, 10) == -errno.EAGAIN
    assert call("epoll_create", 1) == -errno.ENOSYS
    value, size = ctypes.c_int(-1), ctypes.c_uint(4)
    assert so.getsockopt(fd, socket.SOL_SOCKET, socket.SO_TYPE, ctypes.byref(value), ctypes.byref(size)) == 0
    assert value.value == socket.SOCK_STREAM
    before = now()
    assert call("usleep", 5000) == 0
    assert 5000 <= now() - before < 5100
    assert call("close", fd) == 0 and call("close", fd) == -errno.EBADF
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[1])
    function(None)


def test_a_client_through_the_table(shared_object, tmp_path):
    (tmp_path / "tcp_timestamps").write_text("0\n")
    here = str(Path(__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {here!r})\nimport test_packetdrill_so as t\nt.client(sys.argv[1], sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, shared_object, tmp_path], capture_output=True, text=True,
        env={"PB_SYSCTL_DIR": str(tmp_path), "PATH": ""}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
