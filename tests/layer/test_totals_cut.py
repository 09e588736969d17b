"""The last value under PERIOD_BOUNDS, and the edges of what is read, stamped and told of a span."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, SETTINGS, D, send, span
from tests.layer.test_totalling import AT, World
from tests.layer.test_totals import case, starts
from usage_reporting.config import Settings
from usage_reporting.errors import RefusedError
from usage_reporting.heads import Options
from usage_reporting.hours import FULL_READ_EVERY
from usage_reporting.ledger import Entry
from usage_reporting.model import Send, SendState, Span, SpanState
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.totals import SpanRead
from usage_reporting.windows import DAY, HOUR, MINUTE

ODD = NOON + 17 * MINUTE + 42
BY_HOUR = replace(SETTINGS, period_bounds=PeriodBounds.HOUR)


def measured_from(world: World, settings: Settings, *spans: Span) -> int:
    world.settings, world.shown = settings, spans
    world.report("10")
    return world.openmeter.asked[-1][2]


@pytest.mark.parametrize(
    ("before", "now", "start"),
    [(SETTINGS, BY_HOUR, ODD), (BY_HOUR, SETTINGS, NOON), (BY_HOUR, BY_HOUR, NOON)],
)
def test_a_span_that_was_told_stays_as_it_was_cut(before: Settings, now: Settings, start: int) -> None:
    world, one = World(), span(ODD, MONTH_END)

    assert measured_from(world, before, one) == start
    world.clock.now += HOUR
    assert measured_from(world, now, one) == start


@pytest.mark.parametrize(("before", "now", "start"), [(SETTINGS, BY_HOUR, ODD), (BY_HOUR, SETTINGS, NOON)])
def test_a_span_begins_where_the_one_before_was_cut(before: Settings, now: Settings, start: int) -> None:
    world = World(now=ODD - 5 * MINUTE)
    measured_from(world, before, span(MONTH_START, ODD))
    world.clock.now = AT

    assert measured_from(world, now, span(ODD, MONTH_END)) == start


def test_what_was_told_of_an_earlier_window_does_not_move_the_end() -> None:
    """A span from 11:59:01 bills the hour from 11:00: it was told before that hour's end was a minute old."""
    start = NOON - 59
    world = World(now=NOON + 3 * MINUTE)
    one = span(start, start + HOUR)

    assert measured_from(world, BY_HOUR, one) == NOON - HOUR
    world.clock.now += 2 * HOUR
    world.shown = (replace(one, state=SpanState.ENDED),)
    world.report("10")

    assert [asked[2:] for asked in world.openmeter.asked] == [(NOON - HOUR, NOON)] * 2


def test_the_last_second_of_a_span_is_kept_for_its_end() -> None:
    """Of a span that leaves one second to stamp, nothing is told before it is over."""
    short = span(NOON - 37, NOON + 1)
    world = World(now=NOON)
    world.shown = (short,)
    world.report("1000", eager=True)
    assert world.told == []

    world.clock.now = NOON + 16
    world.shown = (replace(short, state=SpanState.DRAFT),)
    world.report("7")
    assert world.told == [(NOON, D(7))]


def test_a_renewal_nobody_foresaw_is_not_cut_into_what_was_told() -> None:
    world = World(now=ODD - 5 * MINUTE)
    measured_from(world, BY_HOUR, span())
    world.clock.now = AT
    world.shown = (span(MONTH_START, ODD, state=SpanState.ENDED), span(ODD, MONTH_END))
    world.report("10")

    told_until = NOON + 11 * MINUTE
    assert [one[2:] for one in world.openmeter.asked[-2:]] == [
        (MONTH_START, told_until),
        (told_until, AT - MINUTE),
    ]


def test_cuts_are_kept_with_what_is_told_or_counted() -> None:
    for deleted in (False, True):
        world = World(span(ODD, MONTH_END), settings=BY_HOUR)
        world.other = {"is_deleted": deleted}
        world.report("10")
        assert world.entry(ODD).cuts == {ODD: NOON, MONTH_END: MONTH_END}
    exact = World(span(ODD, MONTH_END))
    exact.report("10")
    assert exact.entry(ODD).cuts == {}


@pytest.mark.parametrize(
    ("start", "is_read"), [(AT - MINUTE - 1, True), (AT - MINUTE, False), (AT - 5, False)]
)
def test_what_is_empty_is_not_read(start: int, is_read: bool) -> None:
    world = World(span(start, MONTH_END))
    world.report("10")

    assert bool(world.openmeter.asked) is is_read


def test_an_operator_may_read_the_young_hour() -> None:
    world = World(now=NOON + 5 * MINUTE)
    world.report("10", eager=True)

    assert world.openmeter.asked[-1][3] == NOON + 4 * MINUTE


# Swaps are asked for where something is told, or has just ended


def test_swaps_are_asked_for_once_more_after_the_end() -> None:
    world = World(span(end=NOON), now=NOON - 30 * MINUTE)
    world.report("5")
    world.report("5")
    assert world.billing.asked_from == [MONTH_START + 1]
    world.clock.now = AT
    world.shown = (span(end=NOON, state=SpanState.DRAFT, deadline=AT + HOUR),)
    world.report("5")
    assert world.billing.asked_from[1:] == [NOON - 30 * MINUTE]
    world.report("6")
    world.report("7")
    assert world.billing.asked_from[2:] == [NOON - 30 * MINUTE], "told after its end, it is whole"


# Edges


def read(*sends: Send, value: str | None = "5", spans: list[Span] | None = None) -> SpanRead:
    entry = Entry("pk", str(MONTH_START), sends={one.identifier: one for one in sends})
    return SpanRead(spans or [span()], AT, entry, None if value is None else D(value))


def test_items_that_go_together_take_usage_as_long_as_one_of_them_does() -> None:
    both = [span(state=SpanState.BILLED), span(item="si_2")]

    assert read(spans=both).span is both[1]
    assert read(spans=both[::-1]).span is both[1]


@pytest.mark.parametrize(
    ("state", "deleted", "expected"),
    [
        (SpanState.DRAFT, True, SpanState.BILLED),
        (SpanState.CURRENT, True, SpanState.BILLED),
        (SpanState.FINAL, True, SpanState.FINAL),
        (SpanState.DRAFT, False, SpanState.DRAFT),
    ],
)
def test_the_state_of_a_total(state: SpanState, deleted: bool, expected: SpanState) -> None:
    one = case(span(), is_deleted=deleted)

    assert one.total(read(spans=[span(state=state)]), AT).span.state is expected


def test_amounts_of_a_total() -> None:
    one = case(span())

    assert str(one.total(read(value="5.00000000001"), AT).value) == "5"
    assert one.total(read(value="0"), AT).value == 0
    assert one.total(read(value="0.5"), AT).value == D("0.5")
    assert one.total(read(value=None), AT).value is None
    one.reads = [read(value="5.00000000001"), read(value=None)]
    assert [str(line.total) for line in one.lines()] == ["5", "0"]
    with pytest.raises(RefusedError) as refused:
        one.total(read(value="-1.0"), AT)
    assert refused.value.reason == (
        "a total of -1 from 2026-07-01T12:00:00Z cannot be billed; correct the events in OpenMeter"
    )


def test_stamps_go_on_after_the_newest_and_only_what_stripe_has_settles_a_doubt() -> None:
    early = send("a", 1, NOON - 5, state=SendState.SENT)
    late = send("b", 1, NOON + 5, state=SendState.REJECTED)
    other = span(MONTH_START - DAY, NOON, item="si_2", state=SpanState.DROPPED)
    one = case(span(), known=(other,))

    for sends in ((early, late), (late, early)):
        total = one.total(read(*sends), AT)
        assert (total.previous, total.is_doubtful) == (NOON + 5, True)
    has_it = replace(late, state=SendState.SENT)
    assert one.total(read(early, has_it), AT).is_doubtful is False
    assert case(span()).total(read(), AT).is_doubtful is False


@pytest.mark.parametrize(("age", "full"), [(FULL_READ_EVERY, False), (FULL_READ_EVERY + 1, True)])
def test_a_full_reading_is_due_after_twenty_hours(age: int, full: bool) -> None:
    one = case(span())
    one.head = replace(one.head, full_read_at=AT - age)

    assert one.is_full_reading is full


def test_what_ended_is_read_for_six_hours_and_in_full_for_73() -> None:
    now_on = span(NOON, MONTH_END)

    def due(end: int, *, full: bool) -> bool:
        one = case(now_on, known=(span(MONTH_START, end, item="si_2"),))
        one.options = Options(full=full)
        return (MONTH_START, end) in starts(one)

    assert due(AT - 6 * HOUR + 1, full=False)
    assert not due(AT - 6 * HOUR, full=False)
    assert due(AT - 73 * HOUR + 1, full=True)
    assert not due(AT - 73 * HOUR, full=True)
    assert due(AT, full=False)
    assert not due(AT + 1, full=False), "another look shows it, or nothing does"


def test_the_last_instant_at_which_a_span_was_seen() -> None:
    one = case(span(), seen_at=AT - HOUR)
    one.head = replace(one.head, seen_at=AT - MINUTE)
    assert one.latest(span(), AT) == AT - MINUTE
    one.head = replace(one.head, seen_at=AT + MINUTE)
    assert one.latest(span(), AT) == AT
    assert case(span(), seen_at=AT - HOUR).latest(span(end=AT), AT) == AT


def test_spans_that_are_empty_or_closed() -> None:
    assert case(span(NOON, NOON)).spans == []
    came_in = (span(NOON - DAY, NOON), span(NOON - 2 * DAY, NOON))
    for state in (SpanState.BILLED, SpanState.DROPPED, SpanState.FREE):
        closed = span(MONTH_START, NOON, state=state)
        assert closed in case(closed, known=came_in).spans
    line = span(MONTH_START, NOON, state=SpanState.DRAFT)
    assert case(line, known=came_in).spans[0].start == NOON - DAY


def test_the_entry_of_what_ended_where_a_span_begins_is_read_too() -> None:
    before, gone = span(MONTH_START, NOON), span(MONTH_START, NOON - DAY, item="si_2")
    one = case(span(NOON, MONTH_END), known=(before, gone))
    one.reads = [SpanRead([span(NOON, MONTH_END)], AT, Entry("pk", str(NOON)))]

    pk = one.customer_meter.pk
    assert one.entry_keys() == [(pk, str(MONTH_START)), (pk, str(NOON))]
    one.look_at(replace(one.head, spans=()))
    assert (one.entry_keys(), one.head.spans) == ([(pk, str(NOON))], ())
