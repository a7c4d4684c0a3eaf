#!/usr/bin/env python3
"""Lets the guest talk to QEMU's monitor by files in the directory that it shares with the host. Usage: monitor.py DIR

The guest writes a QMP command to DIR/monitor.N.request (under another name first, then renamed) and finds QEMU's answer in
DIR/monitor.N.answer. What QEMU tells by itself is in DIR/monitor.events, an event on each line. Ends when QEMU does.
"""

import json
import os
import select
import socket
import sys
import time
from pathlib import Path

STARTS_S = 30.0
POLL_S = 0.05


def connect(path: str) -> socket.socket:
    until = time.monotonic() + STARTS_S
    while True:
        found = socket.socket(socket.AF_UNIX)
        try:
            found.connect(path)
            return found
        except OSError:
            found.close()
            if time.monotonic() > until:
                raise
            time.sleep(POLL_S)


class Monitor:
    """QEMU's end. `events`: where they go."""

    def __init__(self, path: str, events: Path) -> None:
        self.socket, self.events, self.text = connect(path), events, b""
        self.answer()  # the greeting
        self.do({"execute": "qmp_capabilities"})

    def messages(self, wait_s: float) -> list[dict]:
        """What has come in; EOFError when QEMU is gone."""
        if not select.select([self.socket], [], [], wait_s)[0]:
            return []
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        *lines, self.text = (self.text + data).split(b"\n")
        found = [json.loads(line) for line in lines if line.strip()]
        with self.events.open("a", encoding="utf-8") as file:
            for event in (m for m in found if "event" in m):
                file.write(json.dumps(event) + "\n")
        return [m for m in found if "event" not in m]

    def answer(self) -> dict:
        while True:
            for message in self.messages(1.0):
                return message

    def do(self, command: dict) -> dict:
        self.socket.sendall(json.dumps(command).encode() + b"\n")
        return self.answer()


def main(directory: str) -> None:
    os.chdir(directory)  # a socket's path is short
    monitor = Monitor("qmp.sock", Path("monitor.events"))
    while True:
        monitor.messages(POLL_S)
        for request in sorted(Path().glob("monitor.*.request")):
            answer = monitor.do(json.loads(request.read_text(encoding="utf-8")))
            request.unlink()
            fresh = request.with_suffix(".fresh")
            fresh.write_text(json.dumps(answer), encoding="utf-8")
            fresh.replace(request.with_suffix(".answer"))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (EOFError, ConnectionError):
        pass
