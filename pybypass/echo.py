"""`pybypass echo`: an echo server on a port, for anybody's client."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
import time
from typing import Any

from . import ports
from .tcp import Connection, Engine

__all__ = ["add_parser", "run"]


def _serve(connection: Connection, stop: threading.Event) -> None:
    buffer = bytearray(1 << 17)
    view = memoryview(buffer)
    connection.settimeout(0.5)
    with connection:
        while not stop.is_set():
            try:
                n = connection.recv_into(buffer)
                if not n:
                    connection.settimeout(None)
                    connection.shutdown(socket.SHUT_WR)
                    connection.wait_sent(5.0)
                    return
                connection.settimeout(None)
                connection.sendall(view[:n])
                connection.settimeout(0.5)
            except TimeoutError:
                continue
            except OSError as e:
                print(f"{connection!r}: {e}", file=sys.stderr)
                return


def run(args: argparse.Namespace) -> int:
    """Sends back whatever comes, to as many clients as come, until --seconds are over or a signal."""
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    until = time.monotonic() + args.seconds if args.seconds else float("inf")
    try:
        with ports.open(args.dev) as port, Engine(port, ip=args.ip, cpu=args.cpu) as engine:
            with engine.listen(args.port) as listener:
                print(f"listening on {listener.getsockname()[0]} port {args.port}, {port.mode}", flush=True)
                threads: list[threading.Thread] = []
                while not stop.is_set() and time.monotonic() < until:
                    try:
                        connection = listener.accept(min(0.2, max(0.0, until - time.monotonic())))
                    except (TimeoutError, BlockingIOError):
                        continue
                    thread = threading.Thread(target=_serve, args=(connection, stop), daemon=True)
                    thread.start()
                    threads = [t for t in threads if t.is_alive()] + [thread]
            stop.set()
            for thread in threads:
                thread.join(timeout=6.0)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def add_parser(subparsers: Any) -> None:
    """Adds `echo` to the command line."""
    echo = subparsers.add_parser("echo", help="an echo server that any client can talk to")
    echo.add_argument("--dev", required=True, metavar="URI", help="xdp:IFNAME or mem:NAME")
    echo.add_argument("--ip", required=True, metavar="A/N", help="the address, with its prefix")
    echo.add_argument("--port", required=True, type=int)
    echo.add_argument("--seconds", type=float, default=0.0, metavar="N", help="default: until a signal")
    echo.add_argument("--cpu", type=int, help="pin the loop to this core")
    echo.set_defaults(run=run)
