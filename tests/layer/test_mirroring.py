"""What a report of mirrored usage says beside what it sends: late, unbillable, held, handed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from tests.layer.builders import D, reading
from tests.layer.stage import EVENING, RENEWAL, Behaviour, World
from usage_reporting.budget import Budget
from usage_reporting.heads import Options
from usage_reporting.hours import Case
from usage_reporting.mirroring import _came_back_empty
from usage_reporting.model import Status
from usage_reporting.windows import HOUR

BEFORE = EVENING + HOUR + 10
"""In the hour of the renewal, before it."""


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.run()
    yield made
    made.close()


def renewed(world: World, units: int = 5) -> None:
    """Usage before the renewal has reached Stripe, and the period is over."""
    world.usage.add(BEFORE, units)
    world.clock.now = RENEWAL + 2 * HOUR
    assert world.run().status is Status.SENT


def test_usage_after_the_invoice_is_late_and_counted_once(world: World) -> None:
    renewed(world)
    world.is_final = True
    world.usage.add(BEFORE + 1, 3)

    report = world.run()
    assert (report.status, report.late) == (Status.LATE, D(3))
    assert not report.sent
    assert report.reason == "3 units of 2026-07-15T23:00:00Z came after their invoice was final"
    again = world.run()
    assert (again.status, again.late) == (Status.UNCHANGED, D(0))
    assert len(world.stripe.events) == 1


def test_what_was_billed_too_much_is_held_and_noted_when_accepted(world: World) -> None:
    renewed(world)
    world.is_final = True
    world.usage.add(BEFORE, -2)

    held = world.run()
    assert held.status is Status.HELD
    assert "its invoice takes no correction any more: credit the customer" in held.reason
    noted = world.run(Options(full=True, accept=True))
    assert (noted.status, noted.late) == (Status.LATE, D(0))
    assert noted.reason == (
        "Stripe has billed 2 units of 2026-07-15T23:00:00Z more than OpenMeter holds; noted"
    )
    assert world.run().status is Status.UNCHANGED
    assert len(world.stripe.events) == 1


def test_a_correction_before_the_invoice_is_final_is_sent_when_accepted(world: World) -> None:
    renewed(world)
    world.usage.add(BEFORE, -2)

    assert world.run().status is Status.HELD
    assert world.run(Options(full=True, accept=True)).status is Status.SENT
    assert world.differences() == {}


def test_nothing_at_all_is_released_by_a_word_of_its_own(world: World) -> None:
    renewed(world)
    world.usage.events.clear()

    for options in (None, Options(full=True, accept=True)):
        report = world.run(options)
        assert report.status is Status.HELD
        assert report.reason.startswith("OpenMeter has nothing of what it had before; check it")
    accepted = world.run(Options(full=True, accept=True, accept_empty=True))
    assert accepted.status is Status.SENT
    assert world.differences() == {}


def test_usage_that_was_all_taken_back_is_a_decrease_like_others(world: World) -> None:
    renewed(world)
    world.usage.add(BEFORE, -5)

    held = world.run()
    assert held.status is Status.HELD
    assert "has 0 in OpenMeter, less than the 5 that Stripe holds" in held.reason
    assert world.run(Options(full=True, accept=True)).status is Status.SENT
    assert world.differences() == {}


def test_a_send_that_comes_through_after_the_invoice_is_said(world: World) -> None:
    world.usage.add(BEFORE, 5)
    world.clock.now = RENEWAL + 2 * HOUR
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    assert world.run().status is Status.UNKNOWN
    world.stripe.otherwise = Behaviour.OK
    world.is_final = True

    report = world.run()
    assert (report.status, report.late) == (Status.LATE, D(5))
    assert report.reason == (
        "5 units of 2026-07-15T23:37:41Z were confirmed by Stripe only after their invoice was final; "
        "see whether it has them"
    )
    assert world.run().status is Status.UNCHANGED


def test_a_dry_run_says_all_and_writes_nothing(world: World) -> None:
    world.usage.add(BEFORE, 5)
    world.usage.add(RENEWAL + 10, 2)
    world.clock.now = RENEWAL + 2 * HOUR
    before = dict(world.table.items)

    report = world.run(Options(full=True, dry_run=True))

    assert report.status is Status.SHADOW
    assert sorted(one.value for one in report.sent) == [2, 5]
    assert world.table.items == before
    assert world.stripe.calls == []


def test_a_dry_run_leaves_open_intents_alone(world: World) -> None:
    world.usage.add(BEFORE, 5)
    world.clock.now = RENEWAL + 2 * HOUR
    world.stripe.behaviours = deque([Behaviour.NEVER_ARRIVED] * 5)
    world.run()
    calls, before = len(world.stripe.calls), dict(world.table.items)

    world.run(Options(full=True, dry_run=True))

    assert len(world.stripe.calls) == calls
    assert world.table.items == before


def test_without_time_nothing_is_read_or_sent(world: World) -> None:
    world.usage.add(BEFORE, 5)
    world.clock.now = RENEWAL + 2 * HOUR

    report = world.finish(world.start(budget=Budget(0.0, lambda: 1.0)))

    assert (report.status, report.reason) == (Status.HANDED_OVER, "the function's time is nearly over")
    assert world.stripe.calls == []


def test_an_unknown_of_one_day_keeps_the_next_day_waiting(world: World) -> None:
    world.usage.add(BEFORE, 5)
    world.usage.add(RENEWAL + HOUR, 2)
    world.clock.now = RENEWAL + 3 * HOUR
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED

    report = world.run()

    assert report.status is Status.UNKNOWN
    assert len(world.open_intents) == 1, "Stripe is out of reach: no second intent is opened"
    world.stripe.otherwise = Behaviour.OK
    world.run()
    assert world.differences() == {}


def test_hours_that_were_read_whole_are_remembered(world: World) -> None:
    renewed(world)
    for _ in range(17):
        world.clock.now += HOUR
        assert world.run(Options()).status is Status.UNCHANGED
    world.usage.add(EVENING + 1, 1)  # long before the last hours

    assert world.run(Options()).status is Status.UNCHANGED
    world.clock.now += 4 * HOUR  # the last full reading is over 20 hours old
    assert world.run(Options()).status is Status.SENT
    assert world.differences() == {}


@pytest.mark.parametrize(
    ("holders", "empty", "held"),
    [(5, 5, False), (6, 6, True), (60, 6, False), (59, 6, True), (100, 10, False), (100, 11, True)],
)
def test_a_page_is_held_when_more_than_a_tenth_and_more_than_five_come_back_empty(
    holders: int, empty: int, held: bool
) -> None:
    def case(value: int, mirrored: int) -> Case:
        return cast("Case", SimpleNamespace(readings=[reading(value, mirrored), reading(0)]))

    cases = [case(0, 5) for _ in range(empty)] + [case(5, 5) for _ in range(holders - empty)]
    newcomers = [case(0, 0) for _ in range(50)]

    assert _came_back_empty([*cases, *newcomers]) is held
