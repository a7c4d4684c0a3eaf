"""`pybypass hugepages`: what pybypass.hugepages.look() finds, for people or as one line of JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["add_parser", "run"]

SCHEMA = "pybypass.hugepages/1"


def run(args: argparse.Namespace) -> int:
    from . import hugepages
    from .nicjob import plain

    found = hugepages.look()
    if args.json:
        print(json.dumps({"schema": SCHEMA, **plain(found), "free_bytes": found.free_bytes()}))
    else:
        print("\n".join(hugepages.explain(found)))
    if args.need is not None:
        hugepages.need(args.need << 20, node=args.node, found=found)
    return 0


def add_parser(subparsers: Any) -> None:
    """Adds `hugepages` to the command line."""
    parser = subparsers.add_parser("hugepages", help="huge pages by size and node, who holds them, what ports would get")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--need", type=int, metavar="MB", help="fail (1) unless so much can be had")
    parser.add_argument("--node", type=int, metavar="N", help="with --need: on this NUMA node")
    parser.set_defaults(run=run)
