"""Where usage is cut beside a bound that PERIOD_BOUNDS rounds, and in which period it is stamped."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layer.builders import NOON, D, customer_meter, span
from usage_reporting.heads import Options
from usage_reporting.hours import Case, read_block
from usage_reporting.ledger import Entry, Head, Key
from usage_reporting.model import Report, Send, SendState, Span, SpanState
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import PeriodBounds, cuts_of, measured
from usage_reporting.targets import usage_record
from usage_reporting.windows import (
    DAY,
    HOUR,
    MINUTE,
    Slice,
    block_start,
    blocks,
    cut,
    day_of,
    read_until,
    stamp_of,
)

EXACT, WINDOW_MINUTE, WINDOW_HOUR, WINDOW_DAY = PeriodBounds
ROUNDED = [WINDOW_MINUTE, WINDOW_HOUR, WINDOW_DAY]

MIDNIGHT = NOON - 12 * HOUR
BOUND = NOON + 37 * MINUTE + 42
END = MIDNIGHT + 8 * DAY
LATER = END + DAY


def subscription(item: str, edges: list[int], *, first: bool, last: bool) -> list[Span]:
    """The periods of one subscription, one after the other."""
    pairs = list(itertools.pairwise(edges))
    return [
        span(start, end, item=item, first=first and not number, last=last and number == len(pairs) - 1)
        for number, (start, end) in enumerate(pairs)
    ]


def bounds_of(spans: list[Span]) -> set[int]:
    return {edge for one in spans for edge in (one.start, one.end)}


# Bounds that crowd the same minutes, hours and days, and some that do not.
instants = st.integers(MIDNIGHT + DAY, END - DAY) | st.integers(NOON + DAY, NOON + DAY + 3 * MINUTE)
modes = st.sampled_from(PeriodBounds)


@st.composite
def histories(draw: st.DrawFn) -> list[Span]:
    """One to three subscriptions of a customer on one meter."""
    spans: list[Span] = []
    for number in range(draw(st.integers(1, 3))):
        edges = sorted(draw(st.sets(instants, min_size=2, max_size=5)))
        spans += subscription(f"si_{number}", edges, first=draw(st.booleans()), last=draw(st.booleans()))
    return spans


# A single bound


@pytest.mark.parametrize(
    ("setting", "renewal", "first_start", "last_end"),
    [
        (EXACT, BOUND, BOUND, BOUND),
        (WINDOW_MINUTE, NOON + 37 * MINUTE, NOON + 38 * MINUTE, NOON + 37 * MINUTE),
        (WINDOW_HOUR, NOON, NOON + 38 * MINUTE, NOON + 37 * MINUTE),
        (WINDOW_DAY, MIDNIGHT, NOON + 38 * MINUTE, NOON + 37 * MINUTE),
    ],
)
def test_what_a_bound_is_decides_how_it_is_rounded(
    setting: PeriodBounds, renewal: int, first_start: int, last_end: int
) -> None:
    before, after = BOUND - 9 * DAY, BOUND + 9 * DAY

    assert cuts_of([BOUND], subscription("si", [before, BOUND, after], first=True, last=True), setting) == {
        BOUND: renewal
    }
    assert cuts_of([BOUND], [span(BOUND, after, first=True)], setting) == {BOUND: first_start}
    assert cuts_of([BOUND], [span(before, BOUND, last=True)], setting) == {BOUND: last_end}
    for left in (SpanState.BILLED, SpanState.DROPPED):
        assert cuts_of([BOUND], [span(before, BOUND, state=left)], setting) == {BOUND: last_end}
    assert cuts_of([BOUND], [span(before, BOUND, state=SpanState.FREE)], setting) == {BOUND: first_start}


@pytest.mark.parametrize("setting", PeriodBounds)
def test_a_full_window_needs_no_rounding(setting: PeriodBounds) -> None:
    assert cuts_of([MIDNIGHT], [], setting) == {MIDNIGHT: MIDNIGHT}


def test_the_hour_of_a_renewal_is_one_slice_stamped_after_it() -> None:
    [piece] = cut(NOON, NOON + HOUR, cuts_of([BOUND], [], WINDOW_HOUR))

    assert (piece.start, piece.end, piece.opens, piece.closes) == (NOON, NOON + HOUR, BOUND, NOON + HOUR)
    assert read_until(piece, NOON + 37 * MINUTE) is None
    assert read_until(piece, NOON + 40 * MINUTE) == NOON + 39 * MINUTE
    assert stamp_of(piece, NOON + 39 * MINUTE) == NOON + 39 * MINUTE - 1
    assert stamp_of(piece, NOON + 38 * MINUTE) is None


def test_the_day_of_a_renewal_is_one_slice_up_to_the_end_of_its_hour() -> None:
    pieces = list(cut(MIDNIGHT - HOUR, NOON + 2 * HOUR, cuts_of([BOUND], [], WINDOW_DAY)))

    assert [(piece.start, piece.end, piece.opens) for piece in pieces] == [
        (MIDNIGHT - HOUR, MIDNIGHT, MIDNIGHT - HOUR),
        (MIDNIGHT, NOON + HOUR, BOUND),
        (NOON + HOUR, NOON + 2 * HOUR, NOON + HOUR),
    ]


def test_the_minute_of_a_renewal_is_stamped_after_it() -> None:
    pieces = list(cut(NOON, NOON + HOUR, cuts_of([BOUND], [], WINDOW_MINUTE)))

    assert [(piece.start, piece.end, piece.opens) for piece in pieces] == [
        (NOON, NOON + 37 * MINUTE, NOON),
        (NOON + 37 * MINUTE, NOON + HOUR, BOUND),
    ]


def test_the_minute_of_a_first_start_is_stamped_before_it() -> None:
    cuts = cuts_of([BOUND], [span(BOUND, END, first=True)], WINDOW_HOUR)
    before, after = cut(NOON, NOON + HOUR, cuts)

    assert (before.end, before.closes) == (NOON + 38 * MINUTE, BOUND)
    assert stamp_of(before, before.end) == BOUND - 1
    assert (after.start, after.opens) == (NOON + 38 * MINUTE, BOUND)
    assert stamp_of(after, NOON + 39 * MINUTE) == NOON + 39 * MINUTE - 1


@pytest.mark.parametrize("setting", ROUNDED)
def test_no_renewal_is_rounded_to_before_the_first_start(setting: PeriodBounds) -> None:
    spans = subscription("si", [BOUND, BOUND + 9 * MINUTE, END], first=True, last=False)
    cuts = cuts_of(bounds_of(spans), spans, setting)
    starts = NOON + 38 * MINUTE

    assert measured(spans[0], cuts) == (starts, NOON + 46 * MINUTE if setting is WINDOW_MINUTE else starts)
    assert measured(spans[1], cuts)[0] == measured(spans[0], cuts)[1]


@pytest.mark.parametrize("setting", ROUNDED)
def test_a_span_within_one_minute_is_empty(setting: PeriodBounds) -> None:
    short = span(BOUND, BOUND + 10, first=True, last=True)
    start, end = measured(short, cuts_of(bounds_of([short]), [short], setting))

    assert start == end
    assert start >= BOUND


# Many bounds


@given(histories(), modes)
def test_exact_cuts_are_the_bounds_themselves(spans: list[Span], setting: PeriodBounds) -> None:
    bounds = bounds_of(spans)

    assert cuts_of(bounds, spans, EXACT) == {bound: bound for bound in bounds}
    if setting is not EXACT:
        assert all(at % MINUTE == 0 for at in cuts_of(bounds, spans, setting).values())


@given(histories(), modes)
def test_what_successive_periods_bill_has_no_gap_and_no_overlap(
    spans: list[Span], setting: PeriodBounds
) -> None:
    cuts = cuts_of(bounds_of(spans), spans, setting)

    for left, right in itertools.pairwise(spans):
        if left.item == right.item:
            assert measured(left, cuts)[1] == measured(right, cuts)[0]
    for one in spans:
        start, end = measured(one, cuts)
        assert start <= end
        assert start >= one.start or not one.first
        # Another subscription's first start in the very minute of an end takes that minute along.
        assert end < one.end + MINUTE


@given(histories(), modes)
def test_slices_and_their_stamps_tile_the_time(spans: list[Span], setting: PeriodBounds) -> None:
    cuts = cuts_of(bounds_of(spans), spans, setting)
    pieces = [piece for block in blocks(MIDNIGHT, LATER, cuts) for piece in block.slices]

    assert (pieces[0].start, pieces[-1].end) == (MIDNIGHT, LATER)
    for left, right in itertools.pairwise(pieces):
        assert left.end == right.start
        assert left.opens < left.closes <= right.opens
        assert not any(left.opens < bound < left.closes for bound in cuts)


@given(histories(), modes, st.lists(st.integers(MIDNIGHT, LATER - 1), min_size=1, max_size=20))
def test_usage_is_stamped_in_just_the_periods_that_are_to_bill_it(
    spans: list[Span], setting: PeriodBounds, used_at: list[int]
) -> None:
    cuts = cuts_of(bounds_of(spans), spans, setting)
    pieces = list(cut(MIDNIGHT, LATER, cuts))

    for instant in used_at:
        [piece] = [piece for piece in pieces if piece.start <= instant < piece.end]
        stamp = stamp_of(piece, piece.end)
        assert stamp is not None
        for one in spans:
            start, end = measured(one, cuts)
            assert one.holds(stamp) == (start <= instant < end)


@given(histories(), modes, st.integers(MIDNIGHT, LATER))
def test_no_stamp_lies_in_the_future_or_outside_its_slice(
    spans: list[Span], setting: PeriodBounds, now: int
) -> None:
    for piece in cut(MIDNIGHT, LATER, cuts_of(bounds_of(spans), spans, setting)):
        until = read_until(piece, now)
        if until is not None:
            stamp = stamp_of(piece, until)
            assert piece.start < until <= min(piece.end, now)
            assert stamp is None or piece.opens <= stamp < min(piece.closes, now)


@given(histories(), modes)
def test_blocks_are_full_hours_of_one_day(spans: list[Span], setting: PeriodBounds) -> None:
    cuts = cuts_of(bounds_of(spans), spans, setting)
    found = list(blocks(MIDNIGHT, LATER, cuts))

    assert all(left.end == right.start for left, right in itertools.pairwise(found))
    for block in found:
        assert (block.start % HOUR, block.end % HOUR) == (0, 0)
        assert day_of(block.start) == day_of(block.end - 1)
        assert (block.slices[0].start, block.slices[-1].end) == (block.start, block.end)
        for hour in range(block.start, block.end, HOUR):
            assert block_start(hour, cuts) == block.start


# What was sent before a bound was known, or before the setting was changed


@dataclass
class Bookkeeping:
    """A customer meter through its reports: what Stripe was told, and what it should hold."""

    usage: dict[int, int]
    entries: dict[Key, Entry] = field(default_factory=dict)
    decreases: int = 0

    async def totals(self, _: str, subjects: list[str], start: int, end: int) -> dict[str, Decimal]:
        return {subjects[0]: D(sum(units for at, units in self.usage.items() if start <= at < end))}

    def report(self, spans: list[Span], setting: PeriodBounds, now: int) -> None:
        one = customer_meter(*[found for found in spans if found.start <= now], seen_at=now)
        head = Head(one.pk, "cus_1", "m1", "1").sees(one, now)
        case = Case(Report(one), head, now, Options(full=True), setting)
        case.hold({key: self.entries.get(key, Entry(*key)) for key in case.keys})
        for at, units in self.usage.items():
            if case.start <= at < case.until:
                hour = at - at % HOUR
                case.hours[hour] = case.hours.get(hour, D(0)) + units
        for block in case.blocks():
            asyncio.run(read_block(case, cast("OpenMeter", self), block))
        self._send(case, now)

    def _send(self, case: Case, now: int) -> None:
        for number, read in enumerate(reading for reading in case.readings if reading.changed):
            if read.stamp is None:
                continue
            self.decreases += read.difference < 0
            name = f"{now}.{number}"
            send = Send(name, read.piece.start, read.stamp, read.difference, now, SendState.SENT)
            key = (case.customer_meter.pk, day_of(read.piece.start))
            entry = case.entry_of(read.piece).with_sends([send])
            self.entries[key] = case.entries[key] = entry
        for key, entry in list(self.entries.items()):
            cuts = {**entry.cuts, **case.cuts_to_keep(key[1])}
            self.entries[key] = Entry(*key, sends=entry.sends, cuts=cuts)

    def held(self, one: Span) -> Decimal:
        sends = [send for entry in self.entries.values() for send in entry.sends.values()]
        return sum((send.value for send in sends if one.holds(send.stamp)), D(0))


usages = st.dictionaries(
    st.integers(BOUND - 3 * HOUR, BOUND + 3 * HOUR) | st.integers(MIDNIGHT, MIDNIGHT + DAY),
    st.integers(1, 9),
    max_size=8,
)


@settings(max_examples=60)
@given(
    usages,
    st.lists(st.tuples(st.integers(NOON - 2 * HOUR, NOON + 3 * HOUR), modes), max_size=5),
    modes,
    st.booleans(),
)
def test_nothing_is_lost_or_billed_twice_whatever_the_setting_was_before(
    usage: dict[int, int], reports: list[tuple[int, PeriodBounds]], at_last: PeriodBounds, known: bool
) -> None:
    # `known`: the period's end was known in advance; else the anchor was reset.
    started, end = MIDNIGHT - 5 * HOUR, MIDNIGHT + 9 * DAY
    renewed = subscription("si_1", [started, BOUND, end], first=True, last=False)
    books = Bookkeeping(usage)
    for now, setting in [*sorted(reports), (MIDNIGHT + 2 * DAY, at_last), (MIDNIGHT + 3 * DAY, at_last)]:
        spans = renewed if known or now >= BOUND else [span(started, end, first=True)]
        books.report(spans, setting, now)

    assert sum((books.held(one) for one in renewed), D(0)) == sum(usage.values())
    if known or EXACT not in {at_last, *(setting for _, setting in reports)}:
        assert books.decreases == 0


@settings(max_examples=40)
@given(usages, modes, st.lists(st.integers(NOON - 2 * HOUR, NOON + 3 * HOUR), max_size=5))
def test_each_period_holds_what_its_cut_gives_it(
    usage: dict[int, int], setting: PeriodBounds, reports: list[int]
) -> None:
    spans = subscription("si_1", [MIDNIGHT - 5 * HOUR, BOUND, MIDNIGHT + 9 * DAY], first=True, last=False)
    books = Bookkeeping(usage)
    for now in [*sorted(reports), MIDNIGHT + 2 * DAY]:
        books.report(spans, setting, now)

    at = setting.renewal(BOUND)
    assert books.held(spans[0]) == sum(units for instant, units in usage.items() if instant < at)
    assert books.held(spans[1]) == sum(units for instant, units in usage.items() if instant >= at)


def test_what_was_stamped_before_an_unforeseen_bound_stays_where_it_is() -> None:
    stamps = [NOON + 24 * MINUTE - 1, NOON + HOUR + 5]

    assert cuts_of([BOUND], [], WINDOW_HOUR, stamps=stamps) == {BOUND: NOON + 24 * MINUTE}
    assert cuts_of([BOUND], [], WINDOW_DAY, stamps=stamps) == {BOUND: NOON + 24 * MINUTE}
    assert cuts_of([BOUND], [], WINDOW_MINUTE, stamps=stamps) == {BOUND: NOON + 37 * MINUTE}
    assert cuts_of([BOUND], [], WINDOW_MINUTE, stamps=[BOUND - 1]) == {BOUND: BOUND}


def test_what_was_stamped_after_an_unforeseen_first_start_stays_where_it_is() -> None:
    started = [span(BOUND, END, first=True)]

    assert cuts_of([BOUND], started, WINDOW_HOUR, stamps=[BOUND + 17]) == {BOUND: NOON + 37 * MINUTE}
    assert cuts_of([BOUND], started, WINDOW_HOUR, stamps=[BOUND + 18]) == {BOUND: NOON + 38 * MINUTE}


@pytest.mark.parametrize("setting", PeriodBounds)
def test_a_cut_by_which_usage_was_sent_is_kept(setting: PeriodBounds) -> None:
    assert cuts_of([BOUND], [], setting, kept={BOUND: MIDNIGHT + HOUR}) == {BOUND: MIDNIGHT + HOUR}


def test_a_slice_beside_its_bound_is_told_apart_from_a_plain_one() -> None:
    [beside] = cut(NOON, NOON + HOUR, {BOUND: NOON})

    assert beside != Slice(NOON, NOON + HOUR)
    assert beside.hour == NOON


@pytest.mark.parametrize("setting", ROUNDED)
def test_a_renewal_that_turned_out_to_be_the_end_leaves_nothing_to_a_next_period(
    setting: PeriodBounds,
) -> None:
    ended = span(BOUND - DAY, BOUND, last=True)
    kept = {BOUND: setting.renewal(BOUND)}

    assert cuts_of([BOUND], [ended], setting, kept=kept) == {BOUND: setting.last_end(BOUND)}
    early = BOUND - 30 * MINUTE
    _, end = usage_record.measured_span(ended, setting, kept=kept)
    assert end == max(early - early % MINUTE, kept[BOUND])
    assert usage_record.measured_span(replace(ended, last=False), setting, kept=kept)[1] == kept[BOUND]


@pytest.mark.parametrize(
    ("stamp", "cut"),
    [
        (NOON - 1, NOON),
        (NOON, NOON + MINUTE),
        (NOON + MINUTE - 1, NOON + MINUTE),
        (NOON + MINUTE, NOON + 2 * MINUTE),
    ],
)
def test_a_renewal_is_cut_at_the_next_full_minute_after_what_was_told(stamp: int, cut: int) -> None:
    bound = NOON + 37 * MINUTE + 42
    found = cuts_of([bound], [span(end=bound), span(bound)], PeriodBounds.HOUR, stamps=[stamp])

    assert found == {bound: cut}


@pytest.mark.parametrize(
    ("state", "cut"), [(SpanState.CURRENT, NOON + 38 * MINUTE), (SpanState.BILLED, NOON + 37 * MINUTE)]
)
def test_what_goes_on_at_another_price_did_not_start_there(state: SpanState, cut: int) -> None:
    bound = NOON + 37 * MINUTE + 42
    spans = [span(end=bound, state=state), span(bound, price="price_2", first=True)]

    assert cuts_of([bound], iter(spans), PeriodBounds.HOUR)[bound] == cut


def test_what_was_told_up_to_a_last_end_stays() -> None:
    bound = NOON + 37 * MINUTE + 42
    spans = [span(end=bound, last=True)]

    assert cuts_of([bound], spans, PeriodBounds.HOUR) == {bound: NOON + 37 * MINUTE}
    assert cuts_of([bound], spans, PeriodBounds.HOUR, kept={bound: bound}) == {bound: bound}
