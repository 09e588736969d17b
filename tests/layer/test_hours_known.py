"""What is known of one customer meter's hours and spans before and after they are read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, customer_meter, send, span
from tests.layer.test_hours import BOUND, NOW, FakeOpenMeter, read, read_hour, swapped
from usage_reporting.doubts import Window
from usage_reporting.errors import RefusedError
from usage_reporting.heads import Options
from usage_reporting.hours import Case
from usage_reporting.ledger import Entry, Head, HourRead
from usage_reporting.model import Report, SendState, Span, SpanState
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.windows import DAY, HOUR, MINUTE, Slice, days_between

WHOLE = Slice(NOON, NOON + HOUR)
FIRST, SECOND = Slice(NOON, BOUND), Slice(BOUND, NOON + HOUR)
FULL = Options(full=True)


def case(
    *shown: Span,
    known: tuple[Span, ...] = (),
    now: int = NOW,
    options: Options = FULL,
    head_at: int = 0,
    setting: PeriodBounds = PeriodBounds.EXACT,
    **other: Any,
) -> Case:
    """As the ledger and Stripe show it, whatever the head would make of what is shown."""
    one = customer_meter(*shown, seen_at=now, **other)
    head = Head(one.pk, "cus_1", "m1", "1", spans=known, seen_at=head_at, full_read_at=now, read_at=now)
    made = Case(Report(one), head, now, options, setting)
    made.hold({key: Entry(*key) for key in made.keys})
    return made


def told(made: Case, *sends: Any, **other: Any) -> Case:
    key = (made.customer_meter.pk, "2026-07-15")
    made.entries[key] = replace(made.entries[key].with_sends(sends), **other)
    return made


# Which hours


@pytest.mark.parametrize(
    ("read_until", "until"),
    [
        (None, NOON + HOUR + 29 * MINUTE),
        (NOON, NOON),
        (NOON + 1, NOON + HOUR),
        (BOUND, NOON + HOUR),
        (NOW + DAY, NOON + HOUR + 29 * MINUTE),
    ],
)
def test_whole_hours_are_read_up_to_what_is_settled_or_asked_for(read_until: int | None, until: int) -> None:
    assert case(span(), read_until=read_until).until == until


def test_an_operator_may_read_the_young_hour() -> None:
    made = case(span(NOON + 90, MONTH_END), now=NOON + 5 * MINUTE, options=Options(eager=True))
    openmeter = FakeOpenMeter({NOON + 100: D(5), NOON + 4 * MINUTE: D(7)})

    assert made.until == NOON + 4 * MINUTE
    assert read(made, openmeter) == {Slice(NOON + 90, NOON + HOUR): 5}
    assert openmeter.asked == [(NOON + 90, NOON + 4 * MINUTE)]
    assert made.readings[0].stamp == NOON + 4 * MINUTE - 1
    [line] = made.lines()
    assert (line.start, line.end) == (NOON + 90, NOON + 4 * MINUTE)


def test_windows_of_refusals_bring_in_the_days_of_sends_that_may_be_among_them() -> None:
    made = case(span(), options=Options())
    made.head = replace(made.head, doubtful=frozenset({"2026-07-02", "2026-07-01"}))
    days = [day for _, day in made.keys]
    assert days == ["2026-07-15", "2026-07-01", "2026-07-02"]

    made.windows = [Window(NOON - 5 * DAY, NOON - 4 * DAY, 2), Window(NOON - 10 * DAY, NOON - 9 * DAY, 1)]
    more = days_between(NOON - 45 * DAY, NOON - 4 * DAY)
    assert [day for _, day in made.keys] == list(dict.fromkeys([*days, *more]))


def test_a_full_read_goes_back_to_what_may_still_be_billed() -> None:
    now_on = span(NOON - 2 * HOUR, MONTH_END)
    before = span(MONTH_START, NOON - 2 * HOUR, state=SpanState.ENDED)
    long_ago = span(MONTH_START, NOW - 73 * HOUR, item="si_2", state=SpanState.ENDED)

    assert case(now_on, known=(before,)).start == MONTH_START
    assert case(now_on, known=(before,), closing=True).start == NOON - 2 * HOUR
    assert case(now_on, known=(long_ago,)).start == NOON - 2 * HOUR
    assert case(now_on, known=(replace(long_ago, end=long_ago.end + 1),)).start == MONTH_START
    assert case(now_on, known=(replace(long_ago, state=SpanState.DRAFT),)).start == MONTH_START
    assert case(long_ago).start == NOON + HOUR


def test_a_read_begins_where_the_first_span_is_cut() -> None:
    one = span(NOON + 59 * MINUTE + 30, MONTH_END)

    assert case(one).start == NOON
    assert case(replace(one, first=True), setting=PeriodBounds.MINUTE).start == NOON
    assert case(one, setting=PeriodBounds.DAY).start == NOON - 12 * HOUR


def test_hours_without_usage_are_read_only_where_something_may_be_missing() -> None:
    made = case(span(), options=Options())
    assert made.hours_to_read() == [NOON + HOUR]
    assert case(span(), now=NOON + HOUR, options=Options()).hours_to_read() == [NOON + HOUR]
    before, long_before = send("a", 1, NOON - 1), send("b", 1, NOON - 8 * HOUR)
    told(made, before, long_before, undelivered={NOON - 2 * HOUR: D(1)})
    made.hours[NOON - 3 * HOUR] = made.hours[NOON + 5 * HOUR] = D(1)
    assert made.hours_to_read() == [NOON - 3 * HOUR, NOON - 2 * HOUR, NOON - HOUR, NOON + HOUR]
    assert [block.start for block in made.blocks()] == made.hours_to_read()


def test_hours_that_belong_together_are_one_block() -> None:
    made = case(
        span(MONTH_START, BOUND, state=SpanState.DRAFT), span(BOUND, MONTH_END), setting=PeriodBounds.DAY
    )
    made.hours = {NOON - hour * HOUR: D(1) for hour in range(5)}

    assert [(one.start, one.end) for one in made.blocks()] == [
        (NOON - 12 * HOUR, NOON + HOUR),
        (NOON + HOUR, NOON + 2 * HOUR),
    ]
    openmeter = FakeOpenMeter({NOON: D(3)})
    read_hour(made, openmeter, NOON)
    assert [one.value for one in made.readings] == [5], "the whole hours of the block, asked at once"
    assert made.cuts_to_keep("2026-07-15") == {BOUND: NOON - 12 * HOUR}
    assert made.cuts_to_keep("2026-07-14") == {}


@pytest.mark.parametrize(("now", "kept"), [(BOUND, {BOUND: NOON}), (BOUND - 1, {})])
def test_cuts_are_kept_once_their_bounds_have_passed(now: int, kept: dict[int, int]) -> None:
    made = case(span(MONTH_START, BOUND), span(BOUND, MONTH_END), now=now, setting=PeriodBounds.HOUR)

    assert made.cuts_to_keep("2026-07-15") == kept


# States


def test_how_open_a_state_is_does_not_follow_its_name() -> None:
    assert case(span(state=SpanState.BILLED), span(item="si_2")).state_at(NOON) is SpanState.CURRENT


@pytest.mark.parametrize("state", [SpanState.CURRENT, SpanState.DRAFT])
def test_nothing_is_told_of_a_deleted_customer(state: SpanState) -> None:
    assert case(span(state=state), is_deleted=True).state_at(NOON) is SpanState.BILLED
    assert case(span(state=SpanState.FINAL), is_deleted=True).state_at(NOON) is SpanState.FINAL


def test_what_stripe_dropped_of_a_slice() -> None:
    dropped = span(MONTH_START, BOUND, state=SpanState.DROPPED)
    sends = [
        send("a", 3, BOUND - 1, state=SendState.SENT),
        send("b", 4, BOUND - 1, state=SendState.REJECTED),
        send("c", 12, NOON + HOUR - 1, slice_start=BOUND, state=SendState.SENT),
    ]
    made = told(case(dropped, span(BOUND, MONTH_END)), *sends)

    assert [made.dropped(piece) for piece in (FIRST, SECOND, WHOLE)] == [3, 0, 3]
    reading = made.reading(FIRST, D("7.00000000001"))
    assert reading is not None
    assert (reading.value, reading.mirrored, reading.dropped) == (D(7), D(3), D(3))


def test_the_price_of_the_hours_end_takes_the_hour() -> None:
    swapped_at = NOON + 20 * MINUTE
    spans = (span(MONTH_START, swapped_at, state=SpanState.BILLED), span(swapped_at, price="price_2"))
    bounds = frozenset({MONTH_START, MONTH_END})

    reading = case(*spans, bounds=bounds).reading(WHOLE, D(5))
    assert reading is not None
    assert (reading.state, reading.stamp) == (SpanState.CURRENT, NOON + HOUR - 1)
    early = case(*spans, bounds=bounds, now=NOON + 20 * MINUTE + 30)
    assert early.reading(WHOLE, D(5)) is None, "a later stamp falls under the new price"
    gone = case(span(end=NOON + HOUR, state=SpanState.BILLED), bounds=bounds, now=NOON + HOUR)
    assert gone.reading(WHOLE, D(5)) is not None


@pytest.mark.parametrize("spans", [(span(state=SpanState.FREE),), (span(end=NOON),)])
def test_what_nobody_bills_is_no_reading(spans: tuple[Span, ...]) -> None:
    assert case(*spans).reading(WHOLE, D(5)) is None


def test_what_is_too_early_is_no_reading() -> None:
    assert case(span()).reading(Slice(NOON + 2 * HOUR, NOON + 3 * HOUR), D(5)) is None


def test_a_reading_without_a_stamp_has_the_state_of_its_beginning() -> None:
    made = case(span(MONTH_START, BOUND, state=SpanState.FINAL), span(BOUND, MONTH_END), now=BOUND + 90)
    reading = made.reading(SECOND, D(5))

    assert reading is not None
    assert (reading.stamp, reading.state) == (None, SpanState.CURRENT)
    made.readings = [reading]
    assert made.unasked() == []
    made.with_state(made.spans[1], replace(made.spans[1], state=SpanState.FINAL))
    assert made.readings == [reading]


def test_a_reading_knows_what_stripe_discarded() -> None:
    discarded = replace(send("a", 3, state=SendState.DISCARDED), code="meter_event_invalid_value")
    reading = told(case(span()), discarded).reading(WHOLE, D(5))

    assert reading is not None
    assert reading.discarded_as == "meter_event_invalid_value"


# Spans


def states(made: Case) -> list[SpanState]:
    return [one.state for one in made.spans]


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (span(end=NOW), SpanState.ENDED),
        (span(end=NOW + 1), SpanState.CURRENT),
        (span(end=NOON, state=SpanState.FINAL), SpanState.FINAL),
        (span(end=NOON, state=SpanState.DRAFT, deadline=NOW), SpanState.ENDED),
        (span(end=NOON, state=SpanState.DRAFT, deadline=NOW + 1), SpanState.DRAFT),
        (span(end=NOON, state=SpanState.DRAFT), SpanState.DRAFT),
        (span(end=NOON, state=SpanState.FINAL, deadline=NOW), SpanState.FINAL),
    ],
)
def test_what_was_listed_a_while_ago_may_have_ended(one: Span, state: SpanState) -> None:
    assert states(case(one)) == [state]


@pytest.mark.parametrize(("head_at", "state"), [(NOW, SpanState.CURRENT), (NOW + 1, SpanState.BILLED)])
def test_a_later_look_knows_better_how_a_span_ended(head_at: int, state: SpanState) -> None:
    made = case(span(), known=(span(state=SpanState.BILLED),), head_at=head_at)

    assert states(made) == [state]


def test_a_remembered_span_ends_where_its_item_began_anew() -> None:
    known = span(last=True)

    [_, cut_off] = case(span(NOON, price="price_2"), known=(known,)).spans
    assert (cut_off.end, cut_off.last) == (NOON, False)
    for other in (span(NOON, item="si_2"), span(price="price_2")):
        [_, whole] = case(other, known=(known,)).spans
        assert (whole.end, whole.last) == (MONTH_END, True)
    [_, not_last] = case(span(item="si_2"), known=(span(),)).spans
    assert not not_last.last


@pytest.mark.parametrize(
    ("follower", "state"),
    [
        (span(NOON, price="price_2"), SpanState.DROPPED),
        (span(NOON), SpanState.ENDED),
    ],
    ids=["another price", "another anchor"],
)
@pytest.mark.parametrize("is_shown", [True, False], ids=["shown", "remembered"])
def test_where_another_price_began_a_span_was_billed_at_once(
    follower: Span, state: SpanState, *, is_shown: bool
) -> None:
    """Stripe adds nothing to what it had received; a new anchor makes an invoice, which is asked for."""
    known = replace(span(end=NOON + DAY), when_left=SpanState.DROPPED)
    later = span(NOON + DAY, NOON + 2 * DAY, price=follower.price)
    made = case(follower, known=(known,)) if is_shown else case(later, known=(known, follower))

    [found] = [one for one in made.spans if one.start == MONTH_START]
    if is_shown or follower.price != known.price:
        assert (found.end, found.state) == (NOON, state)
    else:
        assert (found.end, found.state) == (NOON + DAY, SpanState.CURRENT)
    closed = replace(known, state=SpanState.BILLED)
    assert SpanState.BILLED in states(case(follower, known=(closed,)))


def test_canceled_spans_of_the_range_are_asked_for() -> None:
    canceled = span(MONTH_START, NOON, state=SpanState.CANCELED)
    made = case(canceled, span(NOON, MONTH_END), options=Options())

    assert made.canceled() == [canceled]
    old = replace(canceled, end=made.start)
    assert case(old, span(NOON, MONTH_END), options=Options()).canceled() == []


def test_spans_are_asked_for_where_something_differs() -> None:
    ended = span(MONTH_START, BOUND, state=SpanState.CANCELED)
    other = span(BOUND, NOON + HOUR, item="si_2", state=SpanState.ENDED)
    made = case(ended, other)
    read(made, FakeOpenMeter({NOON: D(3)}))
    assert made.unasked() == [ended]

    made = case(ended, other)
    read(made, FakeOpenMeter({NOON: D(3), BOUND: D(1)}))
    assert made.unasked() == [ended, other]
    made.with_state(ended, replace(ended, state=SpanState.FINAL))
    assert states(made) == [SpanState.FINAL, SpanState.ENDED]
    assert made.unasked() == [other]


def test_each_span_has_a_line_of_its_own() -> None:
    made = swapped()
    read(made, FakeOpenMeter({NOON: D(3), BOUND: D(12)}))

    assert [(line.total, line.start, line.end) for line in made.lines()] == [
        (D(3), NOON - 5 * HOUR, BOUND),
        (D(12), BOUND, NOON + HOUR + 29 * MINUTE),
    ]
    at_its_end = case(span(end=NOW), options=Options())
    assert [line.end for line in at_its_end.lines()] == [NOW]
    soon_over = case(span(end=NOW + 9), options=Options())
    assert [line.end for line in soon_over.lines()] == [NOON + HOUR + 29 * MINUTE]
    long_over = case(span(MONTH_START, NOON - DAY, state=SpanState.FINAL), options=Options())
    assert [(line.start, line.end) for line in long_over.lines()] == [(NOON - DAY, NOON - DAY)]
    young = case(span(NOW - 9, MONTH_END), options=Options())
    assert [(line.start, line.end) for line in young.lines()] == [(NOW - 9, NOW - 9)]


# What need not be asked exactly


def asked(made: Case, total: str, **events: str) -> int:
    openmeter = FakeOpenMeter({NOON: D(events.get("first", "3")), BOUND: D(events.get("second", "12"))})
    made.hours[NOON] = D(total)
    read_hour(made, openmeter, NOON)
    return len(openmeter.asked)


SENDS = [
    send("a", 3, BOUND - 1, state=SendState.SENT),
    send("b", 12, NOON + HOUR - 1, slice_start=BOUND, state=SendState.SENT),
]
SEEN = HourRead(D(20), frozenset({FIRST, SECOND}))


def test_an_hour_is_asked_exactly_when_it_differs_from_what_was_read_or_sent() -> None:
    assert asked(told(swapped(), *SENDS), "15") == 0
    assert asked(told(swapped(), *SENDS), "16") == 2
    assert asked(told(swapped(), *SENDS, hours={NOON: SEEN}), "20") == 0
    assert asked(told(swapped(), *SENDS, hours={NOON: SEEN}), "21") == 2
    other = HourRead(D(20), frozenset({FIRST}))
    assert asked(told(swapped(), *SENDS, hours={NOON: other}), "20") == 2


def test_what_was_counted_may_have_been_cut_since() -> None:
    assert asked(told(swapped(), *SENDS, undelivered={BOUND: D(1)}), "16") == 2
    known = told(swapped(), *SENDS, undelivered={BOUND: D(1)}, hours={NOON: SEEN})
    assert asked(known, "20") == 0
    assert [one.value for one in known.readings] == [3, 13]


def test_what_was_sent_for_another_slice_is_asked_exactly() -> None:
    misplaced = [SENDS[0], replace(SENDS[1], slice_start=NOON)]

    assert asked(told(swapped(), *misplaced), "15") == 2


def test_a_reading_by_parts_that_does_not_add_up_is_not_remembered() -> None:
    made = swapped()
    asked(made, "15")
    assert made.exact_hours == {NOON: HourRead(D(15), frozenset({FIRST, SECOND}))}
    made.readings = [replace(one, mirrored=one.value) for one in made.readings]
    assert made.settled_hours() == made.exact_hours

    for lagging in (swapped(partial=True), swapped(read_until=NOON)):
        asked(lagging, "15")
        assert lagging.exact_hours == {}
    lagging = swapped()
    asked(lagging, "16")
    assert lagging.exact_hours == {}


@pytest.mark.parametrize(("bound", "now"), [(5 * MINUTE, 8 * MINUTE), (20 * MINUTE, 20 * MINUTE + 30)])
def test_what_ended_after_the_query_by_hours_is_asked_exactly(bound: int, now: int) -> None:
    made = case(span(end=NOON + bound, state=SpanState.DRAFT), span(NOON + bound), now=NOON + now)
    openmeter = FakeOpenMeter()
    read_hour(made, openmeter, NOON)

    assert openmeter.asked == [(NOON, NOON + bound)]


@pytest.mark.parametrize("lags", [False, True])
def test_a_slice_without_a_row_is_missing_unless_the_others_are_the_hour(lags: bool) -> None:
    """An answer that lags must not be taken for usage that moved to the other side of a bound."""
    made = told(swapped(), *SENDS)
    made.hours[NOON] = D(18)
    openmeter = FakeOpenMeter({NOON: D(18), BOUND: D(12)} if lags else {NOON: D(18)})
    openmeter.empty = SECOND.start
    read_hour(made, openmeter, NOON)

    assert [(one.value, one.is_missing) for one in made.readings] == [(D(18), False), (D(0), lags)]
    assert openmeter.asked[2:] == [(NOON, NOON + HOUR)]


def test_no_row_is_nothing_and_what_is_no_number_is_refused() -> None:
    made = swapped()
    made.hours[NOON] = D(5)
    read_hour(made, FakeOpenMeter(), NOON)
    assert [one.value for one in made.readings] == [0, 0]

    with pytest.raises(RefusedError):
        asked(swapped(), "15", second="NaN")
    assert asyncio.run(cast("OpenMeter", FakeOpenMeter()).totals("m1", ["cus_1"], 0, 1)) == {}
