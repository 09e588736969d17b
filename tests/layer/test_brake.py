"""The brake: what is usual of a customer meter, what jumps, and what becomes of it at the deadline."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layer.builders import NOON, D, customer_meter, reading
from usage_reporting.brake import (
    APART,
    FAMILIAR_AFTER,
    NEAR,
    NEAR_PERIOD_END,
    REMEMBERED,
    AtDeadline,
    Brake,
    Usual,
    an_hour,
    hours_in,
    usual_total,
)
from usage_reporting.model import Reading, SpanState
from usage_reporting.outgoing import CLOSING_EVERY, LAST_LOOK
from usage_reporting.targets.mirror import plan
from usage_reporting.windows import DAY, HOUR, OLDEST_SLICE, Slice

TODAY = NOON // DAY
BRAKE = Brake(factor=D(100), floor=D(50))
TEN_AN_HOUR = Usual({TODAY - days: D(10) for days in range(30)})
NOW = NOON + HOUR + 1


def hour(
    value: Decimal | str | int, mirrored: Decimal | str | int = 0, *, days_ago: int = 0, hours: int = 0
) -> Reading:
    start = NOON - days_ago * DAY + hours * HOUR
    return reading(str(value), str(mirrored), piece=Slice(start, start + HOUR))


def jumped(*readings: Reading, brake: Brake = BRAKE, usual: Usual = TEN_AN_HOUR) -> list[Decimal]:
    return [one.value for one in brake.jumps(readings, usual)]


@pytest.mark.parametrize(("value", "is_jump"), [(1000, False), ("1000.1", True), (10**9, True)])
def test_more_than_the_factor_times_the_usual_is_a_jump(value: str | int, is_jump: bool) -> None:
    assert jumped(hour(value)) == ([D(value)] if is_jump else [])


def test_up_to_the_floor_nothing_is() -> None:
    tiny = Usual({TODAY - 9: D("0.1")})

    assert jumped(hour(50), usual=tiny) == []
    assert jumped(hour("50.1"), usual=tiny) == [D("50.1")]


def test_without_a_factor_nothing_is() -> None:
    assert jumped(hour(10**9), brake=Brake(floor=D(1))) == []
    assert Brake().total_jump(NOON, D(10**9), D(1)) is None


def test_what_is_not_to_be_sent_is_none() -> None:
    assert jumped(hour(5000, 5000)) == []  # accepted, or let go
    assert jumped(hour(5000, 6000)) == []  # a decrease is held for another reason
    assert jumped(replace(hour(5000), state=SpanState.FINAL)) == []  # late, with no invoice to protect
    assert jumped(hour(5000, 900)) == [D(5000)]  # it grew while it was read again


def test_a_new_customer_is_no_anomaly_for_a_week() -> None:
    for days in range(APART, FAMILIAR_AFTER):
        assert jumped(hour(10**6), usual=Usual({TODAY - days: D(10)})) == []
    assert jumped(hour(10**6), usual=Usual({TODAY - FAMILIAR_AFTER: D(10)})) == [D(10**6)]
    assert jumped(hour(10**6), usual=Usual()) == []


def test_what_grows_read_by_read_is_not_its_own_measure() -> None:
    # Each step is below the factor of the one before, and all are read within a day.
    known, values = TEN_AN_HOUR, [900, 80_000, 7_000_000]
    for number, value in enumerate(values):
        one = hour(value, hours=-number)
        assert jumped(one, usual=known) == ([D(value)] if number else [])
        known = known.remembering([one], NOW)

    # Nor is its own day one, when an old hour grows late.
    old = hour(900, days_ago=9)
    known = TEN_AN_HOUR.remembering([old], NOW)
    assert jumped(hour(80_000, 900, days_ago=9), usual=known) == [D(80_000)]
    assert jumped(hour(80_000, days_ago=4), usual=known) == []


def test_what_is_held_is_not_let_go_because_more_followed() -> None:
    known = TEN_AN_HOUR.remembering([hour(900, days_ago=days) for days in range(6)], NOW)

    assert jumped(hour(5000, days_ago=7), hour(5000), usual=known) == [D(5000)]
    assert jumped(hour(5000), usual=known) == []


def test_the_oldest_hour_that_is_read_has_a_week_before_it() -> None:
    known = Usual({TODAY - days: D(10) for days in range(90)}).remembering([], NOW)

    assert jumped(hour(5000, days_ago=OLDEST_SLICE // DAY), usual=known) == [D(5000)]


def test_a_peak_of_last_month_is_usual() -> None:
    known = Usual().remembering([hour(500, days_ago=31), hour(10, days_ago=20)], NOW)

    assert jumped(hour(50_000), usual=known) == []
    assert jumped(hour(50_001), usual=known) == [D(50_001)]


def test_what_is_accepted_is_usual_at_once_and_for_six_weeks() -> None:
    known = TEN_AN_HOUR.accepting([hour(5000), hour(4000)], NOW)

    assert jumped(hour(500_000, 5000), hour(6000, hours=1), usual=known) == []
    assert jumped(hour(500_001), usual=known) == [D(500_001)]
    assert known.accepting([hour(10)], NOW + DAY).accepted == 5000
    later = NOW + REMEMBERED * DAY
    assert known.remembering([], later).accepted == 5000
    assert known.remembering([], later + DAY) == Usual({})


def test_only_usage_of_six_weeks_is_remembered() -> None:
    known = Usual().remembering(
        [hour(7, days_ago=REMEMBERED), hour(8, days_ago=REMEMBERED + 1), hour(0, days_ago=2), hour(-3)], NOW
    )

    assert known == Usual({TODAY - REMEMBERED: D(7)})


def test_a_slice_of_hours_is_as_many_hours() -> None:
    whole_day = replace(hour(0), piece=Slice(NOON - 12 * HOUR, NOON + 12 * HOUR), value=D(24_000))
    assert (hours_in(whole_day), an_hour(whole_day)) == (D(24), D(1000))
    assert jumped(whole_day) == []
    assert jumped(replace(whole_day, value=D(24_001))) == [D(24_001)]
    # A part of an hour may have what an hour has.
    assert an_hour(replace(hour(5), piece=Slice(NOON, NOON + 60))) == 5


def test_a_longer_period_may_have_more() -> None:
    assert usual_total(D(280), 28 * DAY, 31 * DAY) == 310
    assert usual_total(D(310), 31 * DAY, DAY) == 310
    assert usual_total(D(310), 0, DAY) == 0
    assert len(str(usual_total(D(1), 3 * DAY, 10 * DAY))) <= 16


def test_a_total_is_compared_with_the_period_before() -> None:
    assert BRAKE.total_jump(NOON, D(1000), D(10)) is None
    jump = BRAKE.total_jump(NOON, D(2005), D(10))
    assert jump is not None
    assert BRAKE.total_jump(NOON, D(10**9), D(0)) is None  # nothing was used in it, or there was none
    assert BRAKE.reason([jump], "cus_1").startswith(
        "the period from 2026-07-15T12:00:00Z has 2005 in OpenMeter, 200.5 times the period before it (10); "
        "BRAKE_FACTOR is 100, so it is held and it stays held past its invoice; "
    )


def test_the_reason_names_the_worst_and_counts_the_others() -> None:
    jumps = BRAKE.jumps([hour(3000, hours=-1), hour(5000), hour(4000, hours=1)], TEN_AN_HOUR)

    said = replace(BRAKE, at_deadline=AtDeadline.SEND).reason(jumps.values(), "cus_1")

    assert "the hour 2026-07-15T12:00:00Z has 5000 in OpenMeter, 500 times its highest hour" in said
    assert "(10), and 2 more like it; " in said
    assert "sent 20 minutes before its invoice is final; " in said
    legacy = replace(BRAKE, at_deadline=AtDeadline.SEND).reason(jumps.values(), "cus_1", is_legacy=True)
    assert "sent 2 hours before its period ends; " in legacy
    assert said.endswith("report --stack NAME --customer cus_1 --accept`")


@pytest.mark.parametrize(
    ("rule", "deadline", "is_sent"),
    [
        (AtDeadline.HOLD, NOON, False),
        (AtDeadline.SEND, None, False),
        (AtDeadline.SEND, NOON + NEAR + 1, False),
        (AtDeadline.SEND, NOON + NEAR, True),
        (AtDeadline.SEND, NOON - 1, True),
    ],
)
def test_the_deadlines_rule(rule: AtDeadline, deadline: int | None, is_sent: bool) -> None:
    assert Brake(D(2), at_deadline=rule).lets_go(deadline, NOON) is is_sent


@given(st.integers(0, CLOSING_EVERY - 1))
def test_two_closing_reads_fall_into_the_time_before_a_deadline(until_next_tick: int) -> None:
    deadline = NOON + 7 * HOUR + until_next_tick
    ticks = [at for at in range(NOON, deadline, CLOSING_EVERY) if deadline - at <= NEAR]
    # As the lister queues it: where the next tick would come too late.
    last_look = [deadline - LAST_LOOK] if deadline < ticks[0] + CLOSING_EVERY + 180 else []

    assert len(ticks) + len(last_look) >= 2


@given(st.integers(0, HOUR - 1))
def test_two_hourly_ticks_fall_into_the_time_before_a_legacy_periods_end(until_next_tick: int) -> None:
    end, brake = NOON + 7 * HOUR + until_next_tick, Brake(D(2), at_deadline=AtDeadline.SEND)

    assert sum(brake.lets_go(end, at, NEAR_PERIOD_END) for at in range(NOON, end, HOUR)) >= 2


def test_other_slices_go_on() -> None:
    held, free = hour(5000), hour(20, hours=1)

    result = plan(customer_meter(), [held, free], may_fall=False, now=NOW, braked={held})

    assert [send.value for send in result.sends] == [20]


def test_what_one_slice_lost_to_a_held_one_is_held_with_it() -> None:
    bound = NOON + 20 * 60
    first = reading(0, 10, piece=Slice(NOON, bound))
    second = reading(5000, 0, piece=Slice(bound, NOON + HOUR))

    result = plan(customer_meter(), [first, second], may_fall=True, now=NOW, braked={second})

    assert (result.sends, result.held) == ([], [])


UNITS = st.integers(0, 10**6).map(D)
PEAKS = st.dictionaries(st.integers(TODAY - 50, TODAY), UNITS, max_size=20)


@given(PEAKS, UNITS, st.integers(0, 33))
def test_more_usage_is_never_less_of_a_jump(peaks: dict[int, Decimal], value: Decimal, days_ago: int) -> None:
    ordered = [value, value + 1, value * 2 + 1]
    found = [
        bool(jumped(replace(hour(0, days_ago=days_ago), value=one), usual=Usual(peaks))) for one in ordered
    ]

    assert all(not less or more for less, more in pairwise(found))


@given(PEAKS, st.lists(st.tuples(UNITS, st.integers(0, 33)), max_size=8), UNITS)
def test_to_remember_more_never_makes_a_familiar_customers_hour_a_jump(
    peaks: dict[int, Decimal], more: list[tuple[Decimal, int]], value: Decimal
) -> None:
    known = Usual(peaks).remembering([], NOW)
    readings = [hour(units, days_ago=days) for units, days in more]
    is_familiar = known.before(NOON) > 0

    if is_familiar and not jumped(hour(value), usual=known):
        assert not jumped(hour(value), usual=known.remembering(readings, NOW))


@given(PEAKS, st.lists(st.tuples(UNITS, st.integers(0, 33)), max_size=8))
def test_to_remember_twice_is_to_remember_once(
    peaks: dict[int, Decimal], more: list[tuple[Decimal, int]]
) -> None:
    readings = [hour(units, days_ago=days) for units, days in more]
    once = Usual(peaks).remembering(readings, NOW)

    assert once.remembering(readings, NOW) == once
    assert len(once.peaks) <= REMEMBERED + 1


@given(PEAKS, UNITS)
def test_an_accepted_hour_does_not_jump_again(peaks: dict[int, Decimal], value: Decimal) -> None:
    accepted = Usual(peaks).accepting([hour(value)], NOW)
    grown = value * BRAKE.factor

    assert jumped(hour(grown, value), hour(grown, days_ago=3), usual=accepted) == []
