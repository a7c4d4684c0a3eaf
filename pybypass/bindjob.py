"""`pybypass bind` and `pybypass unbind`: a network card to user space and back. Without --yes they only say what they would do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bind import Plan

__all__ = ["add_parser", "run_bind", "run_unbind"]

SCHEMA = "pybypass.bind/1"


def _do(plan: Plan, args: argparse.Namespace) -> dict[str, Any]:
    from . import bind

    now = bind.apply(plan) if args.yes else plan.before
    return {
        "address": plan.address, "before": plan.before, "wanted": plan.after, "driver": now, "done": args.yes,
        "steps": [{"path": str(s.path), "text": s.text.strip(), "why": s.why} for s in plan.steps],
        "notes": list(plan.notes),
    }  # fmt: skip


def _say(plan: Plan, did: dict[str, Any], args: argparse.Namespace) -> None:
    if args.yes and plan.steps:
        print(f"{plan.address}: {plan.before or 'nobody'} -> {did['driver'] or 'nobody'}")
        for note in plan.notes:
            print(f"note: {note}")
    else:
        print("\n".join(plan.lines()))


def _report(plans: Sequence[Plan], args: argparse.Namespace) -> int:
    # Each is told before the next one is done, so that an error leaves no doubt about what was.
    done = []
    for plan in plans:
        done.append(_do(plan, args))
        if not args.json:
            _say(plan, done[-1], args)
    if args.json:
        print(json.dumps({"schema": SCHEMA, "devices": done}))
    elif not args.yes and any(plan.steps for plan in plans):
        print("nothing was done: --yes does it (as root)")
    return 0


def run_bind(args: argparse.Namespace) -> int:
    from . import bind

    return _report([bind.plan_bind(args.address, args.driver, force=args.force)], args)


def run_unbind(args: argparse.Namespace) -> int:
    from . import bind

    if args.all == bool(args.address):
        args.parser.error("one PCI address, or --all")
    addresses = sorted(bind.recorded()) if args.all else [args.address]
    if not addresses and not args.json:
        print("nothing is recorded as bound: nothing to do")
    return _report([bind.plan_unbind(address, force=args.force) for address in addresses], args)


def add_parser(subparsers: Any) -> None:
    """Adds `bind` and `unbind` to the command line."""
    taking = subparsers.add_parser("bind", help="hand a network card to user space (vfio-pci, ...); says what it would do")
    taking.add_argument("address", metavar="PCI", help="0000:03:00.0, as `pybypass devices` shows it")
    taking.add_argument("driver", metavar="DRIVER", help="vfio-pci, uio_pci_generic, igb_uio, or any kernel driver")
    taking.set_defaults(run=run_bind)
    giving = subparsers.add_parser("unbind", help="give a network card back to the driver that had it")
    giving.add_argument("address", metavar="PCI", nargs="?")
    giving.add_argument("--all", action="store_true", help="all that were bound and not given back since boot")
    giving.set_defaults(run=run_unbind, parser=giving)
    for parser in (taking, giving):
        parser.add_argument("--yes", "--do", action="store_true", dest="yes", help="do it; without, it is only said")
        parser.add_argument("--force", action="store_true", help="although the interface is up or has the default route")
        parser.add_argument("--json", action="store_true", help="one line of JSON")
