"""The kernel's side of the laboratory: a process with ordinary sockets, told what to do by lines of JSON.

Started by labjob in a network namespace: `python -m pybypass.labpeer`. Each line on stdin is one command, each is answered by
one line on stdout; the end of stdin ends the process.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from . import _measure

__all__ = ["Transfer", "main", "pattern"]

_CHUNK = 1 << 18


def pattern(seed: int, size: int) -> list[bytes]:
    """`size` bytes that nothing repeats, in pieces of at most 1 MiB; the same for the same seed."""
    rng = random.Random(seed)
    return [rng.randbytes(min(1 << 20, size - at)) for at in range(0, size, 1 << 20)]


def digest(pieces: list[bytes]) -> str:
    h = hashlib.sha256()
    for piece in pieces:
        h.update(piece)
    return h.hexdigest()


class Transfer:
    """Sends a pattern and receives to the end of the stream, over anything with a socket's methods."""

    def __init__(self, connection: Any, seed: int, size: int) -> None:
        self.connection = connection
        self.pieces = pattern(seed, size)
        self.received = 0
        self._failure: BaseException | None = None

    def _send(self) -> None:
        try:
            for piece in self.pieces:
                self.connection.sendall(piece)
            self.connection.shutdown(socket.SHUT_WR)
        except BaseException as e:  # told by run()
            self._failure = e

    def run(self, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Both directions at once, half-close included: sent and received bytes and their SHA-256."""
        sender = threading.Thread(target=self._send, name="sender", daemon=True)
        sender.start()
        h, buffer = hashlib.sha256(), bytearray(_CHUNK)
        view = memoryview(buffer)
        while n := self.connection.recv_into(buffer):
            h.update(view[:n])
            self.received += n
            if progress is not None:
                progress(n)
        sender.join()
        if self._failure is not None:
            raise self._failure
        return {
            "sent": sum(map(len, self.pieces)), "received": self.received,
            "sha_sent": digest(self.pieces), "sha_received": h.hexdigest(),
        }  # fmt: skip


class Peer:
    def __init__(self) -> None:
        self.listeners: dict[int, socket.socket] = {}
        self.connections: dict[str, socket.socket] = {}

    def listen(self, ip: str, port: int) -> dict[str, Any]:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self.listeners[port] = socket.create_server((ip, port), family=family, backlog=64)
        return {}

    def accept(self, port: int, name: str) -> dict[str, Any]:
        connection, _ = self.listeners[port].accept()
        return self._keep(connection, name)

    def connect(self, ip: str, port: int, name: str) -> dict[str, Any]:
        return self._keep(socket.create_connection((ip, port), timeout=10), name)

    def _keep(self, connection: socket.socket, name: str) -> dict[str, Any]:
        connection.settimeout(30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[name] = connection
        return {"peer": list(connection.getpeername()[:2])}

    def transfer(self, name: str, seed: int, size: int) -> dict[str, Any]:
        result = Transfer(self.connections[name], seed, size).run()
        self.connections.pop(name).close()
        return result

    def _blocking(self, name: str) -> int:
        # The loops in C do their own waiting: O_NONBLOCK, which a timeout sets, would be in their way.
        connection = self.connections[name]
        connection.setblocking(True)
        return connection.fileno()

    def echo(self, name: str, n: int, nbytes: int, how: str, cpu: int | None) -> dict[str, Any]:
        pin(cpu)
        return {"n": _measure.kernel_echo(self._blocking(name), n, nbytes, how)}

    def pingpong(self, name: str, n: int, nbytes: int, how: str, cpu: int | None) -> dict[str, Any]:
        pin(cpu)
        samples = _measure.kernel_pingpong(self._blocking(name), n, nbytes, how)
        return {"samples": base64.b64encode(samples.tobytes()).decode()}

    def troubles(self) -> dict[str, Any]:
        """Segments that this namespace's kernel sent again or refused: what a drop looks like from outside."""
        with open("/proc/thread-self/net/snmp", encoding="ascii") as f:
            names, values = (line.split()[1:] for line in f if line.startswith("Tcp:"))
        counters = dict(zip(names, map(int, values), strict=True))
        return {"n": counters["RetransSegs"] + counters["InErrs"]}

    def close(self, name: str) -> dict[str, Any]:
        self.connections.pop(name).close()
        return {}


def pin(cpu: int | None) -> None:
    """Puts the calling thread on one CPU; None: wherever it was."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def main() -> int:
    peer = Peer()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(peer, command.pop("do"))(**command)
        except OSError as e:
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
