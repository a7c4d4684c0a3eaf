"""QEMU's monitor, by way of the files that tools/vmlab/monitor.py answers: cards unplugged and plugged in again."""

import errno
import gc
import itertools
import json
import os
import time
from pathlib import Path

import pytest
from dpdk_support import Wire, command, interface_at, name_again, opened, taken, to_port

import pybypass as pb
from pybypass import bind

SHARE = Path("/host")
ANSWERS_S, GOES_S = 30.0, 40.0
NUMBER = itertools.count(time.monotonic_ns())
SINCE: dict[str, int] = {}
"""How many events there were when a card was unplugged."""


def ask(command: str, **arguments: object):
    """What a command of QMP returns."""
    fresh = SHARE / f"monitor.{next(NUMBER)}.fresh"
    fresh.write_text(json.dumps({"execute": command, "arguments": arguments}))
    answer = fresh.with_suffix(".answer")
    fresh.replace(fresh.with_suffix(".request"))
    deadline = time.monotonic() + ANSWERS_S
    while not answer.exists():
        assert time.monotonic() < deadline, f"QEMU's monitor does not answer {command}"
        time.sleep(0.05)
    said = json.loads(answer.read_text())
    answer.unlink()
    assert "return" in said, said
    return said["return"]


def events() -> list[dict]:
    file = SHARE / "monitor.events"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def device_deleted(device: str, wait_s: float = 0.0) -> bool:
    """Whether the guest has let the card go, since it was unplugged."""
    deadline = time.monotonic() + wait_s
    while True:
        seen = [e for e in events()[SINCE[device] :] if e["event"] == "DEVICE_DELETED"]
        if any(e["data"].get("device") == device for e in seen):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)


def unplug(device: str) -> None:
    """Asks the guest to let it go; returns at once."""
    SINCE[device] = len(events())
    ask("device_del", id=device)


def plug(device: str) -> None:
    """As run-guest.sh had it."""
    how = (SHARE / f"monitor.{device}.device").read_text().strip()
    said = ask("human-monitor-command", **{"command-line": f"device_add {how}"})
    assert not said.strip(), said


# ---- what a port whose card went away does, and leaves ----


def raises_gone(call) -> None:
    """At once, or when the news has come."""
    deadline = time.monotonic() + GOES_S
    with pytest.raises(pb.PybypassError) as caught:
        while True:
            call()
            assert time.monotonic() < deadline, "nobody says that the device is going"
    assert caught.value.code == "PB033" and caught.value.hint
    assert caught.value.errno == errno.ENODEV


def gone_in_words(port) -> None:
    """Every call of a DPDK port whose device is away or on its way."""
    raises_gone(lambda: taken(port))
    assert not port.link()["up"]
    for call in (port.hardware_stats, port.xstats, port.clock, port.stop, port.start):
        raises_gone(call)
    queue = port.queues[0]
    with queue.alloc_burst(1, length=60) as burst:
        raises_gone(lambda: queue.tx_burst(burst))


def works_again(card, driver, cards) -> None:
    """The kernel's driver has it, whose record is that of before; then DPDK does."""
    assert interface_at(card.address)
    assert command("unbind", card.address, "--yes").returncode == 0
    assert card.address not in bind.recorded()
    name_again(card)
    cards.forget(driver)
    again = cards(driver)
    with opened(again) as port, Wire(again) as wire:
        frames = [wire.frame(i, 200, to_dpdk=True) for i in range(32)]
        assert [data for data, _ in to_port(port, wire, frames)] == frames


def open_files() -> list[str]:
    """What this process has open, without what comes and goes with the listing itself."""
    gc.collect()
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    kinds = ("socket:", "/dev/vfio/", "/dev/uio", "anon_inode:[vfio", "anon_inode:bpf")
    return sorted(name for name in found if name.startswith(kinds))


def all_free(umem) -> bool:
    owners = umem.info()["owners"]
    return owners["free"] == umem.info()["frames"] == sum(owners.values())
