"""What a check found: how bad it is, what was seen, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MOST_NAMED = 5
"""Of many things of one kind so many are named; the others are counted."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Money may be lost one day, or it could not be checked."""
    PROBLEM = "problem"
    """Usage is not billed, or not rightly, until it is mended."""
    SKIPPED = "skipped"
    """Nothing to be seen where the stack is: in a local cloud."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination; `fix` is empty only where nothing is to be done."""

    level: Level
    seen: str
    fix: str = ""


def ok(seen: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, seen)


def warning(seen: str, fix: str) -> Finding:
    """Something to look at."""
    return Finding(Level.WARNING, seen, fix)


def problem(seen: str, fix: str) -> Finding:
    """Something to mend."""
    return Finding(Level.PROBLEM, seen, fix)


def skipped(why: str) -> Finding:
    """Not looked at, for a reason that nobody has to mend."""
    return Finding(Level.SKIPPED, f"not looked at: {why}")


def some_of(names: Sequence[str]) -> str:
    """The first names of many, and how many more there are."""
    more = len(names) - MOST_NAMED
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {more:,} more" if more > 0 else shown


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: int) -> str:
    """A length of time in the unit that fits it."""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds} seconds"
