"""Hours, bounds, slices and stamps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layer.builders import NOON
from usage_reporting.windows import (
    DAY,
    HOUR,
    LONGEST_QUERY,
    MINUTE,
    Slice,
    block_of,
    block_start,
    blocks,
    ceil_minute,
    cut,
    day_of,
    days_between,
    floor_hour,
    floor_minute,
    query_windows,
    read_until,
    rfc3339,
    settled_until,
    stamp_of,
)

instants = st.integers(NOON - DAY, NOON + DAY)
lengths = st.integers(1, 2 * DAY)
bound_sets = st.sets(st.integers(NOON - 2 * DAY, NOON + 4 * DAY), max_size=20)


@st.composite
def slices(draw: st.DrawFn) -> Slice:
    """A slice as `cut` makes it, mostly one with bounds close to each other."""
    edges = draw(st.sets(st.integers(0, HOUR) | st.integers(600, 800), min_size=2, max_size=2))
    start, end = sorted(edges)
    return Slice(NOON + start, NOON + end)


@given(instants, lengths, bound_sets)
def test_cut_is_an_exact_partition(start: int, length: int, bounds: set[int]) -> None:
    pieces = list(cut(start, start + length, bounds))

    assert pieces[0].start == start
    assert pieces[-1].end == start + length
    assert all(left.end == right.start for left, right in itertools.pairwise(pieces))
    assert all(piece.start < piece.end for piece in pieces)


@given(instants, lengths, bound_sets)
def test_no_slice_holds_a_full_hour_or_a_bound_inside(start: int, length: int, bounds: set[int]) -> None:
    for piece in cut(start, start + length, bounds):
        assert piece.end <= piece.hour + HOUR
        assert not any(piece.start < bound < piece.end for bound in bounds)


@given(instants, lengths, bound_sets)
def test_cut_cuts_nowhere_else(start: int, length: int, bounds: set[int]) -> None:
    edges = {piece.start for piece in cut(start, start + length, bounds)} - {start}

    assert all(edge in bounds or edge % HOUR == 0 for edge in edges)


@pytest.mark.parametrize(("start", "end"), [(NOON, NOON), (NOON, NOON - 1)])
def test_nothing_is_cut_into_nothing(start: int, end: int) -> None:
    assert list(cut(start, end, [start, end])) == []


@given(slices(), st.integers(1, HOUR))
def test_a_stamp_lies_in_what_was_read_of_its_slice(piece: Slice, read: int) -> None:
    until = piece.start + read
    stamp = stamp_of(piece, until)

    assert stamp is None or piece.start <= stamp < min(piece.end, until)


@given(slices())
def test_a_slice_that_was_read_whole_always_has_a_stamp(piece: Slice) -> None:
    assert stamp_of(piece, piece.end) == piece.end - 1


@given(slices(), st.integers(1, HOUR))
def test_the_minute_that_two_slices_share_belongs_to_the_earlier_one(piece: Slice, read: int) -> None:
    stamp = stamp_of(piece, piece.start + read)

    begins_inside = piece.start % MINUTE != 0
    ends_in_it = piece.end <= floor_minute(piece.start) + MINUTE
    if stamp is not None and begins_inside and not ends_in_it:
        assert stamp >= floor_minute(piece.start) + MINUTE


def test_no_stamp_before_the_shared_minute_is_over() -> None:
    piece = Slice(NOON + 42, NOON + HOUR)

    assert stamp_of(piece, NOON + 60) is None
    assert stamp_of(piece, NOON + 61) == NOON + 60


@pytest.mark.parametrize("end", [NOON + 50, NOON + 60])
def test_a_slice_within_one_minute_stamps_in_it(end: int) -> None:
    assert stamp_of(Slice(NOON + 42, end), end) == end - 1


def test_a_slice_that_begins_with_a_minute_shares_none() -> None:
    assert stamp_of(Slice(NOON + 60, NOON + HOUR), NOON + 61) == NOON + 60


@given(instants)
def test_the_open_hour_is_read_to_a_full_minute_at_least_a_minute_ago(now: int) -> None:
    until = settled_until(now)

    assert until % MINUTE == 0
    assert until <= now
    if now - floor_hour(now) >= 10 * MINUTE:
        assert floor_hour(now) < until <= now - 60
        assert now - until < 120
    else:
        assert until == floor_hour(now)


@given(instants)
def test_eager_reads_a_young_hour_too_but_not_its_last_minute(now: int) -> None:
    until = settled_until(now, eager=True)

    assert until % MINUTE == 0
    assert until == floor_hour(now) or 60 <= now - until < 120


def test_eager_reads_the_hours_before_to_their_end() -> None:
    assert settled_until(NOON + 21, eager=True) == NOON
    assert settled_until(NOON + 2 * MINUTE, eager=True) == NOON + MINUTE


def test_an_hour_is_read_when_it_is_ten_minutes_old() -> None:
    assert settled_until(NOON + 10 * MINUTE - 1) == NOON
    assert settled_until(NOON + 10 * MINUTE) == NOON + 9 * MINUTE


@given(slices(), st.integers(-HOUR, 2 * HOUR), st.booleans())
def test_a_slice_is_never_read_into_the_future(piece: Slice, later: int, eager: bool) -> None:
    now = piece.start + later
    until = read_until(piece, now, eager=eager)

    assert until is None or piece.start < until <= min(piece.end, now)


@given(slices(), st.integers(0, HOUR))
def test_a_slice_that_is_over_is_read_to_its_end(piece: Slice, later: int) -> None:
    assert read_until(piece, piece.end + later) == piece.end


def test_a_slice_in_the_open_hour_waits_until_its_hour_is_read() -> None:
    piece = Slice(NOON + 5 * MINUTE, NOON + HOUR)

    assert read_until(piece, NOON + 9 * MINUTE) is None
    assert read_until(piece, NOON + 9 * MINUTE, eager=True) == NOON + 8 * MINUTE
    assert read_until(piece, NOON + 10 * MINUTE) == NOON + 9 * MINUTE


@given(instants, lengths)
def test_the_days_of_a_time_are_those_of_its_seconds(start: int, length: int) -> None:
    days = days_between(start, start + length)

    assert days[0] == day_of(start)
    assert days[-1] == day_of(start + length - 1)
    assert days == sorted(set(days))
    assert {day_of(instant) for instant in range(start, start + length, HOUR)} <= set(days)
    assert len(days) == (start + length - 1) // DAY - start // DAY + 1


@given(instants, st.integers(0, 60 * DAY))
def test_queries_cover_a_time_exactly_in_at_most_seven_days_each(start: int, length: int) -> None:
    windows = list(query_windows(start, start + length))

    assert sum(right - left for left, right in windows) == length
    assert all(0 < right - left <= LONGEST_QUERY == 7 * DAY for left, right in windows)
    assert [left for left, _ in windows] == [start, *(right for _, right in windows)][: len(windows)]


@pytest.mark.parametrize("bound", [NOON, NOON + HOUR])
def test_a_bound_on_an_edge_cuts_nothing(bound: int) -> None:
    assert list(cut(NOON, NOON + HOUR, [bound])) == [Slice(NOON, NOON + HOUR)]


def test_a_slice_that_ends_in_the_second_after_a_shared_minute_waits_for_it() -> None:
    piece = Slice(NOON + 42, NOON + MINUTE + 1)

    assert stamp_of(piece, NOON + MINUTE) is None
    assert stamp_of(piece, NOON + MINUTE + 1) == NOON + MINUTE


@pytest.fixture
def far_west(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_west")
def test_days_are_utc_wherever_it_runs() -> None:
    assert day_of(1_000_000_000) == "2001-09-09"
    assert rfc3339(1_686_171_600) == "2023-06-07T21:00:00Z"


def test_instants_are_written_as_in_the_log_lines() -> None:
    assert rfc3339(1_686_171_600) == "2023-06-07T21:00:00Z"
    assert day_of(NOON + 12 * HOUR - 1) == "2026-07-15"
    assert day_of(NOON + 12 * HOUR) == "2026-07-16"


# Where bounds are rounded: an hour of noon, whose bound at 12:37:42 is cut at 12:00, or at 10:00

BOUND = NOON + 37 * MINUTE + 42


def test_slices_beside_a_rounded_bound() -> None:
    assert list(cut(NOON - HOUR, NOON + HOUR, {BOUND: NOON})) == [
        Slice(NOON - HOUR, NOON),
        Slice(NOON, NOON + HOUR, shift=BOUND - NOON),
    ]
    later = BOUND + MINUTE
    assert list(cut(NOON, NOON + HOUR, {BOUND: later})) == [
        Slice(NOON, later, early=MINUTE),
        Slice(later, NOON + HOUR, shift=BOUND - later),
    ]
    assert list(cut(NOON, NOON + HOUR, {BOUND: NOON + HOUR})) == [
        Slice(NOON, NOON + HOUR, early=NOON + HOUR - BOUND)
    ]
    assert list(cut(NOON, NOON + HOUR, {NOON + 2 * HOUR: NOON + HOUR})) == [Slice(NOON, NOON + HOUR)]
    assert list(cut(NOON, NOON + HOUR, {BOUND: NOON + 2 * HOUR, BOUND + 9: NOON + 2 * HOUR})) == [
        Slice(NOON, NOON + HOUR, early=NOON + HOUR - BOUND)
    ]
    unordered = {BOUND + MINUTE: BOUND + MINUTE, BOUND: BOUND}
    assert [one.start for one in cut(NOON, NOON + HOUR, unordered)] == [NOON, BOUND, BOUND + MINUTE]


@pytest.mark.parametrize("instant", [NOON - 2 * HOUR, NOON - 1, NOON, BOUND, NOON + HOUR - 1])
def test_a_block_reaches_to_the_end_of_the_hour_of_its_bound(instant: int) -> None:
    block = block_of(instant, {BOUND: NOON - 2 * HOUR + 5})

    assert (block.start, block.end) == (NOON - 2 * HOUR, NOON + HOUR)
    assert block.slices[-1] == Slice(NOON - 2 * HOUR + 5, NOON + HOUR, shift=BOUND - NOON + 2 * HOUR - 5)


@pytest.mark.parametrize(
    ("instant", "start"), [(NOON - 2 * HOUR - 1, NOON - 3 * HOUR), (NOON + HOUR, NOON + HOUR)]
)
def test_the_hours_beside_a_block_stand_alone(instant: int, start: int) -> None:
    block = block_of(instant, {BOUND: NOON - 2 * HOUR + 5})

    assert (block.start, block.end) == (start, start + HOUR)


def test_a_bound_in_its_own_hour_makes_no_longer_block() -> None:
    for cuts in ({BOUND: BOUND}, {BOUND: NOON}, {NOON + HOUR: NOON + HOUR}, {}):
        block = block_of(BOUND, cuts)
        assert (block.start, block.end) == (NOON, NOON + HOUR)
    chained = {NOON + HOUR + 5: NOON - 5, NOON - 5: NOON - HOUR - 5}
    assert block_start(NOON + HOUR, chained) == NOON - 2 * HOUR
    assert block_of(NOON - 2 * HOUR, {NOON: NOON - HOUR - 5}).end == NOON + HOUR
    assert [one.start for one in blocks(NOON - HOUR, NOON + HOUR, {})] == [NOON - HOUR, NOON]


def test_a_slice_beside_a_bound_is_read_when_both_have_passed() -> None:
    early = Slice(NOON, NOON + HOUR, early=10 * MINUTE)
    assert read_until(early, NOON + HOUR - 1) == NOON + HOUR - 2 * MINUTE
    assert read_until(early, NOON + HOUR) == NOON + HOUR
    waiting = Slice(NOON, BOUND, early=-20 * MINUTE)
    assert read_until(waiting, BOUND + 19 * MINUTE) == BOUND
    shifted = Slice(NOON, NOON + HOUR, shift=BOUND - NOON)
    assert read_until(shifted, BOUND + MINUTE) is None
    assert read_until(shifted, BOUND + 2 * MINUTE) == NOON + 38 * MINUTE
    before = Slice(BOUND, NOON + HOUR, shift=NOON - BOUND)
    assert read_until(before, BOUND + MINUTE) is None


def test_stamps_beside_a_bound() -> None:
    early = Slice(NOON, NOON + HOUR, early=10 * MINUTE)
    assert stamp_of(early, NOON + HOUR) == NOON + 50 * MINUTE - 1
    assert stamp_of(early, NOON + 55 * MINUTE) == NOON + 50 * MINUTE - 1
    assert stamp_of(early, NOON + 40 * MINUTE) == NOON + 40 * MINUTE - 1
    late = Slice(NOON, NOON + 40 * MINUTE, early=-10 * MINUTE)
    assert stamp_of(late, NOON + 40 * MINUTE) == NOON + 50 * MINUTE - 1
    assert stamp_of(late, NOON + 30 * MINUTE) == NOON + 30 * MINUTE - 1


def test_full_minutes() -> None:
    assert [ceil_minute(NOON + seconds) for seconds in (-59, 0, 1)] == [NOON, NOON, NOON + MINUTE]
