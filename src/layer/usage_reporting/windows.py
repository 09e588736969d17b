"""Hours, bounds, slices and stamps; pure functions on UTC unix seconds.

Every interval is half-open, [start, end): OpenMeter's `to` is exclusive, and Stripe's next period
starts in the second in which the last one ends.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
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
    """Usage of [start, end), and where it is stamped; mostly a whole UTC hour. UTC seconds.

    It is stamped in [opens, closes), in which no billing bound lies. That is [start, end) itself, unless a
    bound is rounded: then usage is stamped beside the bound, in the period that is to bill it.
    """

    start: int
    end: int
    shift: int = 0
    """Seconds from its start to where its stamps begin."""
    early: int = 0
    """Seconds from where its stamps end to its end."""

    @property
    def opens(self) -> int:
        """From when on it may be stamped."""
        return self.start + self.shift

    @property
    def closes(self) -> int:
        """Up to when it may be stamped."""
        return self.end - self.early

    @property
    def hour(self) -> int:
        """The start of the hour that the slice lies in."""
        return floor_hour(self.start)


def floor_minute(instant: int) -> int:
    """The start of the minute that holds `instant`."""
    return instant - instant % MINUTE


def ceil_minute(instant: int) -> int:
    """The first full minute at or after `instant`."""
    return floor_minute(instant + MINUTE - 1)


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


@functools.lru_cache(maxsize=10_000)
def rfc3339(instant: int) -> str:
    """The instant as OpenMeter and the log lines write it, e.g. 2023-06-07T21:00:00Z."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Block:
    """Full hours [start, end), UTC seconds, and the slices that they consist of; mostly one hour."""

    start: int
    end: int
    slices: tuple[Slice, ...]


def cut(start: int, end: int, cuts: Mapping[int, int] | Iterable[int]) -> Iterator[Slice]:
    """Cut [start, end) at every full hour and for every bound, at the bound itself or where `cuts` says.

    A slice is longer than its hour where nothing of that hour can be stamped: before a bound that is
    rounded down to an earlier hour.
    """
    at = dict(cuts) if isinstance(cuts, Mapping) else {bound: bound for bound in cuts}
    left = opens = start
    closes = end
    for bound in sorted(at):
        if at[bound] >= end:
            closes = min(bound, end)
            break
        if at[bound] > left:
            yield from _by_hours(left, opens, at[bound], bound)
        if at[bound] >= left:
            left, opens = at[bound], bound
    yield from _by_hours(left, opens, end, closes)


def _by_hours(start: int, opens: int, end: int, closes: int) -> Iterator[Slice]:
    """Cut [start, end) at the full hours after `opens`; its stamps lie in [opens, closes)."""
    marks = range(floor_hour(max(start, opens)) + HOUR, end, HOUR)
    edges = [start, *marks, end] if start < end else []
    for left, right in itertools.pairwise(edges):
        shift = opens - left if left == start else 0
        is_beside = right == end and (closes < end or end <= opens)
        yield Slice(left, right, shift, right - closes if is_beside else 0)


def blocks(start: int, end: int, cuts: Mapping[int, int]) -> Iterator[Block]:
    """The blocks that hold [start, end), in order."""
    while start < end:
        block = block_of(start, cuts)
        yield block
        start = block.end


def block_of(instant: int, cuts: Mapping[int, int]) -> Block:
    """The block that holds an instant."""
    hour = floor_hour(instant)
    if all(_lies_beside(hour, bound, at) for bound, at in cuts.items()):
        return _whole_hour(hour)
    start = block_start(floor_hour(instant), cuts)
    end = start + HOUR
    for bound in sorted(cuts):
        if start <= cuts[bound] < end <= bound:
            end = floor_hour(bound) + HOUR
    return Block(start, end, tuple(cut(start, end, cuts)))


def _lies_beside(hour: int, bound: int, at: int) -> bool:
    """Whether a bound, and where usage is cut for it, leave an hour whole."""
    return max(bound, at) < hour or bound == at == hour or min(bound, at) >= hour + HOUR


@functools.lru_cache(maxsize=1000)
def _whole_hour(hour: int) -> Block:
    """Most blocks: everybody's hours are the same hours."""
    return Block(hour, hour + HOUR, (Slice(hour, hour + HOUR),))


def block_start(hour: int, cuts: Mapping[int, int]) -> int:
    """The start of the block that holds a full hour."""
    for bound in sorted(cuts, reverse=True):
        if floor_hour(cuts[bound]) < hour <= floor_hour(bound):
            hour = floor_hour(cuts[bound])
    return hour


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
    if max(piece.end, piece.closes) <= now:
        return piece.end
    until = min(settled_until(now, eager=eager), piece.end)
    return until if until > max(piece.start, piece.opens) else None


def stamp_of(piece: Slice, until: int) -> int | None:
    """The second that usage of a slice, read up to `until`, is stamped with; None: not yet.

    A slice whose stamps begin inside a minute does not stamp in that minute, because Stripe's summaries
    are by whole minutes (API reference, "List billing meter event summaries"), unless they end in it.
    """
    stamp = (piece.closes if until >= piece.end else min(piece.closes, until)) - 1
    first_minute = floor_minute(piece.opens)
    is_shared = piece.opens != first_minute and floor_minute(piece.closes - 1) != first_minute
    return None if is_shared and floor_minute(stamp) == first_minute else stamp


def query_windows(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Split [start, end) into the spans that one OpenMeter query may cover, newest last."""
    while start < end:
        stop = min(start + LONGEST_QUERY, end)
        yield start, stop
        start = stop
