"""A tap interface behind a port that has no kernel behind it: what an engine does not want goes to the kernel, and what the kernel
sends there goes out of the port.

The interface has the port's MAC address and MTU. It may have addresses of its own, beside the engine's: then SSH, DNS and
routing daemons go on over a NIC that DPDK drives. Linux: Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from .errors import PybypassError

__all__ = ["KernelTap"]

# <linux/if_tun.h>, <linux/sockios.h>, <linux/if_arp.h>
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_TUN_EXCL = 0x400454CA, 0x0002, 0x1000, 0x8000
_SIOCSIFMTU, _SIOCSIFHWADDR, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8922, 0x8924, 0x8913, 0x8914
_IFF_UP, _ARPHRD_ETHER = 0x1, 1
_FRAMES_AT_ONCE = 64


class KernelTap:
    """Interface `name` (made here, gone with close()); `send` is called with each frame of the kernel's, in a thread.

    `counters`: to_kernel, from_kernel, tap_full (the interface is down or its queue is full), refused (frames that could not
    be sent). Raises PybypassError: PB025 (no CAP_NET_ADMIN), PB040 (name), PB023 (the interface exists and is in use).
    """

    def __init__(self, name: str, mac: bytes, mtu: int, send: Callable[[bytes], None], netns: Any = None) -> None:
        if not 0 < len(name.encode()) < 16 or "/" in name or "%" in name or name in (".", "..", "lo"):
            raise PybypassError.make("PB040", errno.EINVAL, f"kernel_tap={name!r}", hint="an interface name: 1 to 15 bytes")
        self.name, self._send, self._room = name, send, mtu + 18
        self.counters: Counter[str] = Counter()
        self._netns = netns
        self._lock = threading.Lock()
        self._fd = -1
        self._stop_r, self._stop_w = os.pipe()
        try:
            with netns if netns is not None else nullcontext():
                self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL))
                self._set_up(mac, mtu)
        except OSError as e:
            self._shut()
            code = {errno.EBUSY: "PB023", errno.EPERM: "PB025", errno.EACCES: "PB025"}.get(e.errno or 0, "PB070")
            hint = "take another name, or remove that one: ip link del " + name if code == "PB023" else ""
            raise PybypassError.make(code, e.errno or 0, f"tap interface {name}: {e.strerror}", hint=hint) from None
        self._thread = threading.Thread(target=self._read, name=f"pybypass-{name}", daemon=True)
        self._thread.start()

    def _set_up(self, mac: bytes, mtu: int) -> None:
        name = self.name.encode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, _SIOCSIFHWADDR, struct.pack("16sH6s16x", name, _ARPHRD_ETHER, mac))
            fcntl.ioctl(s, _SIOCSIFMTU, struct.pack("16si20x", name, mtu))
            flags = struct.unpack("16xH22x", fcntl.ioctl(s, _SIOCGIFFLAGS, struct.pack("16s24x", name)))[0]
            fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sH22x", name, flags | _IFF_UP))

    def give(self, frame: bytes) -> None:
        """A frame for the kernel, untagged; dropped and counted when it takes none now."""
        with self._lock:
            fd = self._fd
            self._give(fd, frame)

    def _give(self, fd: int, frame: bytes) -> None:
        if fd < 0:
            return
        try:
            os.write(fd, frame)
            self.counters["to_kernel"] += 1
        except OSError:  # EIO while the interface is down, EAGAIN, EINVAL for what is no frame
            self.counters["tap_full"] += 1

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._stop_r, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop_r in ready:
                return
            for _ in range(_FRAMES_AT_ONCE):
                try:
                    frame = os.read(self._fd, self._room)
                except BlockingIOError:
                    break
                except OSError:  # the interface was removed
                    return
                self.counters["from_kernel"] += 1
                try:
                    self._send(frame)
                except OSError:  # no frame, no room, closed: as on any link that is full
                    self.counters["refused"] += 1

    def _shut(self) -> None:
        with self._lock:
            for fd in (self._fd, self._stop_r, self._stop_w):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._stop_r = self._stop_w = -1

    def close(self) -> None:
        """Removes the interface; again does nothing."""
        if self._stop_w < 0:
            return
        os.write(self._stop_w, b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._shut()
