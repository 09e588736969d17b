"""One customer meter's hours: what is asked again exactly, and what of it is sent when."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, customer_meter, send, span
from usage_reporting.errors import RefusedError
from usage_reporting.heads import Options
from usage_reporting.hours import Case, read_block
from usage_reporting.ledger import Entry, Head
from usage_reporting.model import CustomerMeter, Report, SendState, Span, SpanState
from usage_reporting.openmeter import OpenMeter
from usage_reporting.windows import DAY, HOUR, MINUTE, Slice, blocks

BOUND = NOON + 37 * MINUTE + 42
NOW = NOON + HOUR + 30 * MINUTE


@dataclass
class FakeOpenMeter:
    """Events at seconds; a query sums them, gives one odd value, or has nothing from `empty` on."""

    events: dict[int, Decimal] = field(default_factory=dict)
    odd: Decimal | None = None
    empty: int | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def totals(self, slug: str, subjects: list[str], start: int, end: int) -> dict[str, Decimal]:
        self.asked.append((start, end))
        if self.odd is not None:
            return {subjects[0]: self.odd}
        found = [value for at, value in self.events.items() if start <= at < end and start != self.empty]
        return {subjects[0]: sum(found, D(0))} if found else {}


def case_of(
    *spans: Span,
    now: int = NOW,
    full_read_at: int = NOW,
    read_at: int = NOW,
    sends: Any = (),
    **other: Any,
) -> Case:
    one: CustomerMeter = customer_meter(*spans, **other)
    head = Head(one.pk, "cus_1", "m1", "1", full_read_at=full_read_at, read_at=read_at).sees(one, now)
    case = Case(Report(one), head, now, Options())
    case.entries = {key: Entry(*key) for key in case.keys}
    for made in sends:
        key = (one.pk, "2026-07-15")
        case.entries[key] = case.entries[key].with_sends([made])
    return case


def swapped(**other: Any) -> Case:
    """The period ended at 12:37:42, and the next one runs."""
    spans = (span(MONTH_START, BOUND, state=SpanState.DRAFT), span(BOUND, MONTH_END))
    return case_of(*spans, **other)


def read(case: Case, openmeter: FakeOpenMeter, hour: int = NOON) -> dict[Slice, Decimal]:
    used = [value for at, value in openmeter.events.items() if hour <= at < min(hour + HOUR, case.until)]
    if used:
        case.hours[hour] = sum(used, D(0))
    if hour in case.hours_to_read():
        read_hour(case, openmeter, hour)
    return {one.piece: one.value for one in case.readings}


def read_hour(case: Case, openmeter: FakeOpenMeter, hour: int = NOON) -> None:
    [block] = [block for block in blocks(hour, hour + HOUR, case.cuts) if block.start <= hour < block.end]
    asyncio.run(read_block(case, cast("OpenMeter", openmeter), block))


def test_a_whole_hour_needs_no_second_question() -> None:
    openmeter = FakeOpenMeter({NOON: D(1), NOON + HOUR - 1: D(2)})

    assert read(case_of(), openmeter) == {Slice(NOON, NOON + HOUR): 3}
    assert openmeter.asked == []


def test_an_hour_without_usage_and_sends_is_not_looked_at() -> None:
    assert read(swapped(), FakeOpenMeter()) == {}


def test_an_hour_that_came_back_empty_is_looked_at_when_something_was_sent_that_day() -> None:
    case = case_of(sends=[send("a", 5, state=SendState.SENT)])

    assert read(case, FakeOpenMeter()) == {Slice(NOON, NOON + HOUR): 0}


def test_each_slice_of_an_hour_with_a_bound_is_asked_exactly() -> None:
    openmeter = FakeOpenMeter({NOON: D(1), BOUND - 1: D(2), BOUND: D(4), NOON + HOUR - 1: D(8)})

    assert read(swapped(), openmeter) == {Slice(NOON, BOUND): 3, Slice(BOUND, NOON + HOUR): 12}
    assert openmeter.asked == [(NOON, BOUND), (BOUND, NOON + HOUR)]


def test_an_hour_that_is_as_the_ledger_says_takes_none() -> None:
    openmeter = FakeOpenMeter({NOON: D(3), BOUND: D(12)})
    sends = [
        send("a", 3, BOUND - 1, state=SendState.SENT),
        send("b", 12, NOON + HOUR - 1, slice_start=BOUND, state=SendState.SENT),
    ]

    assert read(swapped(sends=sends), openmeter) == {Slice(NOON, BOUND): 3, Slice(BOUND, NOON + HOUR): 12}
    assert openmeter.asked == []


@pytest.mark.parametrize("odd", ["NaN", "Infinity"])
@pytest.mark.parametrize("in_whole_hour", [True, False])
def test_a_value_that_is_no_number_is_refused_also_beside_a_bound(odd: str, in_whole_hour: bool) -> None:
    case = swapped()
    case.hours[NOON] = D(odd) if in_whole_hour else D(5)

    with pytest.raises(RefusedError, match="not an amount of usage"):
        read_hour(case, FakeOpenMeter(odd=D(odd)), NOON)


def test_a_rest_below_what_stripe_holds_is_read_itself() -> None:
    # An event of the first part came in between the two answers: the rest must not seem to fall.
    openmeter = FakeOpenMeter({NOON: D(5), BOUND: D(12)})
    case = swapped(sends=[send("b", 12, NOON + HOUR - 1, slice_start=BOUND, state=SendState.SENT)])
    case.hours[NOON] = D(14)

    read_hour(case, openmeter, NOON)

    assert {one.piece: one.value for one in case.readings} == {
        Slice(NOON, BOUND): 5,
        Slice(BOUND, NOON + HOUR): 12,
    }
    assert openmeter.asked == [(NOON, BOUND), (BOUND, NOON + HOUR)]


def test_the_open_hour_is_read_up_to_what_is_settled() -> None:
    openmeter = FakeOpenMeter({NOON + HOUR: D(1), NOON + HOUR + 29 * MINUTE: D(2)})
    case = case_of()
    read(case, openmeter, NOON + HOUR)

    [one] = case.readings
    assert (one.piece, one.stamp) == (Slice(NOON + HOUR, NOON + 2 * HOUR), NOON + HOUR + 29 * MINUTE - 1)
    assert one.value == 1


def test_nothing_is_sent_before_the_newest_stamp() -> None:
    newest = NOON + HOUR + 29 * MINUTE
    sends = [send("a", 1, newest, slice_start=NOON + HOUR, state=SendState.SENT)]

    assert read(case_of(sends=sends), FakeOpenMeter({NOON + HOUR: D(5)}), NOON + HOUR) == {}
    later = case_of(now=NOW + 120, sends=sends)
    assert read(later, FakeOpenMeter({NOON + HOUR: D(5)}), NOON + HOUR) != {}


def test_only_what_is_billed_is_read() -> None:
    case = case_of(span(BOUND, MONTH_END, first=True))
    openmeter = FakeOpenMeter({NOON: D(3), BOUND: D(12)})

    assert read(case, openmeter) == {Slice(BOUND, NOON + HOUR): 12}


@pytest.mark.parametrize("lags", [False, True])
def test_an_empty_answer_for_the_hour_that_billing_began_in_is_asked_again(lags: bool) -> None:
    """What was used before it was is asked for, too: only both together show that an answer lags."""
    case = case_of(span(BOUND, MONTH_END, first=True))
    openmeter = FakeOpenMeter({NOON: D(3), BOUND: D(12)}, empty=BOUND if lags else None)
    case.hours[NOON] = D(15)
    read_hour(case, openmeter, NOON)

    assert [one.value for one in case.readings] == [0 if lags else 12]
    assert list(case.exact_hours) == ([] if lags else [NOON])


def test_a_closing_read_stops_where_it_should() -> None:
    case = swapped(closing=True, read_until=BOUND)
    openmeter = FakeOpenMeter({NOON: D(3), BOUND: D(12)})

    assert read(case, openmeter) == {Slice(NOON, BOUND): 3}


def test_what_was_sent_before_a_bound_was_known_is_moved_as_a_whole() -> None:
    adopted = send("adopted", 15, NOON + HOUR - 1, slice_start=NOON, state=SendState.SENT)
    case = swapped(closing=True, read_until=BOUND, sends=[adopted])

    found = read(case, FakeOpenMeter({NOON: D(11), BOUND: D(4)}))

    # 11 are missing in the first slice, and are too much in the second.
    assert found == {Slice(NOON, BOUND): 11, Slice(BOUND, NOON + HOUR): 4}
    assert [one.difference for one in case.readings] == [11, -11]


def test_a_closing_read_at_midnight_has_no_entry_of_the_day_that_begins() -> None:
    midnight = NOON + 12 * HOUR
    case = case_of(span(MONTH_START, midnight), now=midnight, closing=True, read_until=midnight)

    assert read(case, FakeOpenMeter({midnight - 1: D(2)}), midnight - HOUR) == {
        Slice(midnight - HOUR, midnight): 2
    }
    assert read(case, FakeOpenMeter(), midnight) == {Slice(midnight - HOUR, midnight): 2}


# How far back


@pytest.mark.parametrize(
    ("how", "start"),
    [
        ({"full_read_at": NOW}, NOON + HOUR - 6 * HOUR),
        ({"full_read_at": NOW - 20 * HOUR}, NOON + HOUR - 6 * HOUR),
        ({"full_read_at": NOW - 20 * HOUR - 1}, MONTH_START),
        ({"full_read_at": NOW, "read_at": NOW - 9 * HOUR}, NOON + HOUR - 15 * HOUR),
        ({"full_read_at": NOW, "read_at": NOW + HOUR}, NOON + HOUR - 6 * HOUR),
        ({"full_read_at": NOW, "closing": True}, MONTH_START),
        ({"now": MONTH_START + 20 * MINUTE, "full_read_at": MONTH_START}, MONTH_START),
    ],
)
def test_how_far_a_read_goes_back(how: dict[str, Any], start: int) -> None:
    assert case_of(**how).start == start


def test_nothing_older_than_34_days_is_read() -> None:
    case = case_of(span(NOON - 90 * DAY, MONTH_END), full_read_at=0)

    assert case.start == NOON + HOUR - 34 * DAY + HOUR


@pytest.mark.parametrize("now", [MONTH_START, MONTH_START + 1, NOON, NOON + 12 * HOUR, NOON + 12 * HOUR - 1])
@pytest.mark.parametrize("full_read_at", [0, NOON])
def test_every_hour_that_is_read_has_its_entry(now: int, full_read_at: int) -> None:
    case = case_of(now=now, full_read_at=full_read_at)
    for hour in range(case.start, now + 1, HOUR):
        read_hour(case, FakeOpenMeter(), hour)


# States


def test_the_most_open_span_decides() -> None:
    case = case_of(span(state=SpanState.FINAL), span(item="si_2"))

    assert case.state_at(NOON) is SpanState.CURRENT
    assert case.state_at(MONTH_END) is None


def test_a_remembered_span_that_is_over_is_asked_for() -> None:
    one = customer_meter(span(NOON, MONTH_END))
    head = Head(one.pk, "cus_1", "m1", "1", spans=(span(MONTH_START, NOON),)).sees(one, NOW)
    case = Case(Report(one), head, NOW, Options())

    assert [(found.start, found.state) for found in case.spans] == [
        (NOON, SpanState.CURRENT),
        (MONTH_START, SpanState.ENDED),
    ]


def test_a_later_period_of_an_item_cuts_the_earlier_one_off() -> None:
    one = customer_meter(span(NOON, MONTH_END))
    head = Head(one.pk, "cus_1", "m1", "1", spans=(span(MONTH_START, MONTH_END),)).sees(one, NOW)
    case = Case(Report(one), head, NOW, Options())

    assert (case.spans[1].start, case.spans[1].end, case.spans[1].state) == (
        MONTH_START,
        NOON,
        SpanState.ENDED,
    )


def test_what_stripe_says_of_an_invoice_decides_the_readings() -> None:
    ended = span(MONTH_START, BOUND, state=SpanState.ENDED)
    case = case_of(ended, span(BOUND, MONTH_END))
    read(case, FakeOpenMeter({NOON: D(3), BOUND: D(12)}))

    assert list(case.unasked()) == [ended]
    case.with_state(ended, span(MONTH_START, BOUND, state=SpanState.FINAL))

    assert list(case.unasked()) == []
    assert [one.state for one in case.readings] == [SpanState.FINAL, SpanState.CURRENT]


def test_hours_that_are_settled_are_remembered_and_changed_ones_are_not() -> None:
    openmeter = FakeOpenMeter({NOON: D(3), BOUND: D(12)})
    case = swapped()
    read(case, openmeter)
    assert case.settled_hours() == {}

    sends = [
        send("a", 3, BOUND - 1, state=SendState.SENT),
        send("b", 11, NOON + HOUR - 1, slice_start=BOUND, state=SendState.SENT),
        send("c", 1, NOON + HOUR - 1, slice_start=BOUND, state=SendState.SENT),
        send("x", 1, NOON - 1, slice_start=NOON - HOUR, state=SendState.SENT),
    ]
    case = swapped(sends=sends)
    case.hours[NOON] = D("15.1")
    read_hour(case, FakeOpenMeter({NOON: D(3), BOUND: D(12)}), NOON)
    assert case.settled_hours() == {}
