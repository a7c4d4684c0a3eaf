"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Check"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding: `verdict` is ok, info, warn or fail; `why` and `fix` are empty where there is nothing to say."""

    id: str
    verdict: str
    value: str
    why: str = ""
    fix: str = ""
