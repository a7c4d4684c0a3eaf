"""`pybypass nic IF`: what pybypass.nic.look() finds, for people or as one line of JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["add_parser", "plain", "run"]

SCHEMA = "pybypass.nic/1"


def plain(value: Any) -> Any:
    """Dataclasses as dicts, sets sorted, bytes in hexadecimal: what JSON can hold."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.hex(":") if isinstance(value, bytes) else value


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k}={_short(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return ",".join(map(_short, value)) or "none"
    return str(value) if value != "" else "-"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    found = dict(found)
    link = found.pop("interface")
    counters = {name: count for name, count in link.pop("statistics").items() if count}
    features = found.pop("features")
    rows = {"interface": link, "statistics": counters, **found}
    rows["features on"] = [name for name, feature in features.items() if feature["active"]]
    for kind in ("queues", "irqs"):
        for i, item in enumerate(rows.pop(kind)):
            rows[f"{kind.removesuffix('s')} {i}"] = item
    for name, value in rows.items():
        yield f"{name:<14} {'not there' if value is None else _short(value) or 'none'}"


def run(args: argparse.Namespace) -> int:
    from . import nic

    found = plain(nic.look(args.ifname))
    if args.json:
        print(json.dumps({"schema": SCHEMA, **found}))
    else:
        print("\n".join(_lines(found)))
    return 0


def add_parser(subparsers: Any) -> None:
    """Adds `nic` to the command line."""
    parser = subparsers.add_parser("nic", help="an interface: queues, rings, RSS, features, clocks, XDP capabilities")
    parser.add_argument("ifname", metavar="IF")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(run=run)
