"""Hours, bounds, slices and stamps; pure functions on UTC unix seconds.

Every interval is half-open, [start, end): OpenMeter's `to` is exclusive, and Stripe's next period
starts in the second in which the last one ends.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

MINUTE = 60
HOUR = 3600
DAY = 86_400

# Stripe takes no meter event older than 35 days (API reference, "Create a billing meter event").
OLDEST_SLICE = 34 * DAY
BOUNDS_KEPT = 35 * DAY
LONGEST_QUERY = 7 * DAY

OPEN_HOUR_AGE = 10 * MINUTE
SETTLING = 60


@dataclass(frozen=True, slots=True, order=True)
class Slice:
    """A piece of one UTC hour with no billing bound inside: [start, end), UTC seconds."""

    start: int
    end: int

    @property
    def hour(self) -> int:
        """The start of the hour that the slice lies in."""
        return floor_hour(self.start)


def floor_minute(instant: int) -> int:
    """The start of the minute that holds `instant`."""
    return instant - instant % MINUTE


def floor_hour(instant: int) -> int:
    """The start of the UTC hour that holds `instant`."""
    return instant - instant % HOUR


def day_of(instant: int) -> str:
    """The UTC day that holds `instant`, as YYYY-MM-DD."""
    return _name_of_day(instant // DAY)


@functools.lru_cache(maxsize=1000)
def _name_of_day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY, UTC).strftime("%Y-%m-%d")


def days_between(start: int, end: int) -> list[str]:
    """The UTC days that [start, end) touches, in order."""
    return [day_of(instant) for instant in range(start - start % DAY, end, DAY)]


def rfc3339(instant: int) -> str:
    """The instant as OpenMeter and the log lines write it, e.g. 2023-06-07T21:00:00Z."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def cut(start: int, end: int, bounds: Iterable[int]) -> Iterator[Slice]:
    """Cut [start, end) at every full hour and at every bound."""
    inside = {bound for bound in bounds if start < bound < end}
    inside.update(range(floor_hour(start) + HOUR, end, HOUR))
    edges = [start, *sorted(inside), end] if start < end else []
    for left, right in itertools.pairwise(edges):
        yield Slice(left, right)


def settled_until(now: int, *, eager: bool = False) -> int:
    """Up to when usage is read: a full minute of the open hour, at least 60 seconds ago.

    An hour younger than ten minutes is not read yet, except with `eager` (an operator asks for it). The
    hours before are read to their end: part of one would look like less than Stripe holds.
    """
    if eager or now - floor_hour(now) >= OPEN_HOUR_AGE:
        return max(floor_minute(now - SETTLING), floor_hour(now))
    return floor_hour(now)


def read_until(piece: Slice, now: int, *, eager: bool = False) -> int | None:
    """Up to when a slice is read: its end when that has passed; None when it is not read yet."""
    if piece.end <= now:
        return piece.end
    until = settled_until(now, eager=eager)
    return until if until > piece.start else None


def stamp_of(piece: Slice, until: int) -> int | None:
    """The second that usage of a slice, read up to `until`, is stamped with; None: not yet.

    A slice that begins inside a minute does not stamp in that minute, because Stripe's summaries are
    by whole minutes (API reference, "List billing meter event summaries"), unless it ends in it.
    """
    stamp = min(piece.end, until) - 1
    first_minute = floor_minute(piece.start)
    is_shared = piece.start != first_minute and floor_minute(piece.end - 1) != first_minute
    return None if is_shared and floor_minute(stamp) == first_minute else stamp


def query_windows(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Split [start, end) into the spans that one OpenMeter query may cover, newest last."""
    while start < end:
        stop = min(start + LONGEST_QUERY, end)
        yield start, stop
        start = stop
