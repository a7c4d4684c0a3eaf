"""A progress bar on a terminal, when rich is installed; plain lines without it; nothing when output goes elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["step"]


@contextmanager
def step(what: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yields a function to be called with how much more was done."""
    if quiet or not sys.stdout.isatty():
        yield lambda n: None
        return
    try:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        print(f"{what} ...", flush=True)
        yield lambda n: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)
