"""The demo's own arithmetic: its months, its usage, and what the invoices must then say."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.story import (
    CALLS,
    DURATION,
    Bill,
    Subscriber,
    Usage,
    metered,
    months_before,
    subscribers,
    usage_of,
)
from sandbox.stripe.objects import Recurring
from sandbox.stripe.periods import next_boundary

DAY = 86_400
MONTHLY = Recurring("month", 1, "metered")

instants = st.integers(1_700_000_000, 2_000_000_000)


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def subscriber(start: int = 1000, end: int = 2000) -> Subscriber:
    return Subscriber("Ada", start, end, "flexible", anchor=start, signed_up=start - 1)


def usage(
    time: int, value: str, customer: str = "Ada", meter: str = DURATION, *, late: bool = False
) -> Usage:
    return Usage(f"{customer}-{meter}-{time}-{value}", customer, meter, time, Decimal(value), late)


def test_a_month_holds_its_first_second_and_not_its_last_bound() -> None:
    events = [usage(999, "1"), usage(1000, "2"), usage(1999, "4"), usage(2000, "8")]

    assert metered(events, subscriber(), DURATION) == 6


def test_metered_is_one_customers_usage_on_one_meter_late_or_not_to_the_last_decimal() -> None:
    events = [
        usage(1000, "0.1"),
        usage(1500, "0.2", late=True),
        usage(1500, "5", customer="Bell"),
        usage(1500, "7", meter=CALLS),
    ]

    assert metered(events, subscriber(), DURATION) == Decimal("0.3")
    assert metered(events, subscriber(), CALLS) == 7
    assert metered([], subscriber(), DURATION) == 0


@pytest.mark.parametrize(
    ("billed", "verdict"),
    [
        ("12.345", "EXACT"),
        ("12.3450", "EXACT"),
        ("12.344999999", "SHORT by 0.000000001"),
        ("0", "SHORT by 12.345"),
        ("112.345", "OVER by 100"),
    ],
)
def test_only_the_very_same_quantity_is_exact(billed: str, verdict: str) -> None:
    assert Bill("Ada", DURATION, Decimal("12.345"), Decimal(billed), "A-1", 123).verdict == verdict


@pytest.mark.parametrize(
    ("end", "months", "start"),
    [
        ("2026-11-22T15:04:23", 1, "2026-10-22T15:04:23"),
        ("2026-01-05T00:00:01", 1, "2025-12-05T00:00:01"),
        ("2026-03-31T23:59:59", 1, "2026-02-28T23:59:59"),
        ("2026-03-31T23:59:59", 2, "2026-01-31T23:59:59"),
        ("2028-03-30T12:00:07", 1, "2028-02-29T12:00:07"),
    ],
)
def test_a_month_earlier(end: str, months: int, start: str) -> None:
    assert months_before(instant(end), months) == instant(start)


@given(instants)
def test_the_months_are_those_that_stripe_bills_on_any_day_of_the_year(now: int) -> None:
    for person in subscribers(now):
        assert next_boundary(person.anchor, MONTHLY, person.start) == person.end
        assert 28 * DAY <= person.end - person.start <= 31 * DAY
        if person.signed_up is None:
            # Backdated: today's anchor is at most a month away, and only classic billing waits for it.
            assert (person.anchor, person.billing_mode) == (person.end, "classic")
        else:
            assert next_boundary(person.anchor, MONTHLY, person.start - 1) == person.start
            assert (
                person.signed_up < person.anchor <= next_boundary(person.signed_up, MONTHLY, person.signed_up)
            )


@given(instants)
def test_the_months_end_soon_one_after_the_other_at_odd_seconds(now: int) -> None:
    ends = [person.end for person in subscribers(now)]

    assert ends == sorted(set(ends))
    assert all(now < end <= now + 20 and end % 60 for end in ends)


def test_the_people_are_as_different_as_the_demo_says() -> None:
    people = subscribers(instant("2026-11-22T15:00:00"))

    assert {person.billing_mode for person in people} == {"classic", "flexible"}
    assert Counter(person.webhook for person in people) == {"once": 4, "twice": 1, "never": 1}
    assert [person.meters for person in people if person.is_licensed_too] == [(DURATION, CALLS)]
    assert any(person.has_late_usage for person in people if person.webhook == "never")
    assert any(not person.has_late_usage for person in people)


def test_usage_is_the_same_for_the_same_seed() -> None:
    people = subscribers(instant("2026-11-22T15:00:00"))

    assert usage_of(people, 1) == usage_of(people, 1)
    assert usage_of(people, 1) != usage_of(people, 2)


@pytest.mark.parametrize("now", ["2026-11-22T15:00:00", "2026-11-22T14:59:53", "2026-03-31T23:59:50"])
def test_thousands_of_events_lie_around_both_anchors_and_in_few_hours(now: str) -> None:
    people = subscribers(instant(now))
    events = usage_of(people, 1)

    assert len(events) > 2500
    assert len({event.id for event in events}) == len(events)
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert any(event.value % 1 for event in events)
    for person in people:
        theirs = [event for event in events if event.customer == person.name]
        times = {event.time for event in theirs}
        assert {person.start, person.end - 1, person.end} <= times
        was_billed_before = person.signed_up is not None
        assert (min(times) >= person.start) == was_billed_before
        assert (person.start - 1 in times) != was_billed_before
        late = [event for event in theirs if event.is_late]
        assert bool(late) == person.has_late_usage
        assert all(person.start <= event.time < person.end for event in late)
        for meter in person.meters:
            assert len({event.time // 3600 for event in theirs if event.meter == meter}) < 50
            outside = [e for e in theirs if e.meter == meter and not person.start <= e.time < person.end]
            all_of_it = sum(event.value for event in theirs if event.meter == meter)
            assert metered(events, person, meter) == all_of_it - sum(event.value for event in outside)
            assert outside
