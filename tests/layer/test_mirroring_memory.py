"""What a report of mirrored usage remembers for the next one, and what it says of tiny amounts."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, SETTINGS, D, span
from tests.layer.protocol import Behaviour
from tests.layer.test_mirroring_page import AT, LONG, ODD, World
from usage_reporting.model import SpanState, Status
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.windows import DAY, HOUR, MINUTE


def test_readings_are_remembered_seldom() -> None:
    world = World()
    world.use(NOON, 5)
    world.report()
    assert (world.head.full_read_at, world.head.read_at) == (AT, AT)

    world.clock.now = AT + 3 * HOUR - 1
    world.report()
    assert world.head.read_at == AT
    world.clock.now += 1
    world.report()
    assert (world.head.full_read_at, world.head.read_at) == (AT, AT + 3 * HOUR)
    world.clock.now += MINUTE
    world.report(full=True)
    assert world.head.full_read_at == world.clock()


@pytest.mark.parametrize(("held", "read_at"), [(True, AT + 3 * HOUR), (False, AT)])
def test_an_unknown_forgets_the_reading_and_what_is_held_does_not(held: bool, read_at: int) -> None:
    world = World()
    world.use(NOON, 5)
    world.report()
    world.clock.now += 3 * HOUR
    world.use(NOON, -1 if held else 1)
    if not held:
        world.stripe.otherwise = Behaviour.NEVER_ARRIVED

    assert world.report(full=True).status is (Status.HELD if held else Status.UNKNOWN)
    assert (world.head.full_read_at, world.head.read_at) == (AT, read_at)


def test_a_reading_that_another_writer_outran_does_no_harm() -> None:
    world = World()
    world.report()
    world.other = {"seen_at": AT}
    world.table.lost = {"head": 100}

    assert world.report(full=True).status is Status.UNCHANGED


def test_an_hour_that_was_read_exactly_is_not_asked_again() -> None:
    world = World(span(ODD, MONTH_END))
    world.use(ODD - 1, 9)
    world.use(ODD, 5)
    for asked in (2, 2, 0):
        world.openmeter.exactly.clear()
        world.report()
        assert len(world.openmeter.exactly) == asked
    assert world.entry().version == 3, "two writes of a send, and one that remembers the hour"
    assert world.told == [(NOON + HOUR - 1, D(5))]


# Rounded bounds


@pytest.mark.parametrize(
    ("before", "now", "stamped"),
    [
        (PeriodBounds.HOUR, PeriodBounds.HOUR, {NOON - 1: 3, NOON + HOUR - 1: 9}),
        (PeriodBounds.HOUR, PeriodBounds.EXACT, {NOON - 1: 3, NOON + HOUR - 1: 9}),
        (PeriodBounds.EXACT, PeriodBounds.HOUR, {NOON - 1: 3, ODD - 1: 4, NOON + HOUR - 1: 5}),
    ],
)
def test_usage_stays_in_the_period_in_which_it_was_told(
    before: PeriodBounds, now: PeriodBounds, stamped: dict[int, int]
) -> None:
    world = World(span(MONTH_START, ODD, state=SpanState.DRAFT), span(ODD, MONTH_END))
    for at, units in ((NOON - 1, 3), (ODD - 1, 4), (ODD, 5)):
        world.use(at, units)
    for setting in (before, now):
        world.settings = replace(SETTINGS, period_bounds=setting)
        assert world.report(full=True).status in {Status.SENT, Status.UNCHANGED}

    assert dict(world.told) == stamped


# Amounts in reasons


TINY = D("0.0000001")


def test_tiny_amounts_are_counted_and_written_out() -> None:
    def reasons(world: World, units: Decimal, *, accept: bool = False) -> str:
        world.openmeter.events["cus_1"][NOON] = units
        return world.report(accept=accept).reason

    lost = World()
    lost.other = {"is_deleted": True}
    assert reasons(lost, 2 * TINY).startswith("0.0000002 units of 2026-07-15T12:00:00Z are on no invoice")
    assert reasons(lost, TINY).startswith("0.0000001 units of 2026-07-15T12:00:00Z are no longer among")

    late = World(span(end=NOON + HOUR, state=SpanState.ENDED))
    assert reasons(late, 3 * TINY) == ""
    late.billing.state = SpanState.FINAL
    assert reasons(late, 4 * TINY).startswith("0.0000001 units of 2026-07-15T12:00:00Z came after")
    over = World(span(end=NOON + HOUR, state=SpanState.ENDED))
    reasons(over, 3 * TINY)
    over.billing.state = SpanState.FINAL
    assert reasons(over, 2 * TINY, accept=True).startswith(
        "Stripe has billed 0.0000001 units of 2026-07-15T12"
    )

    old = World(LONG)
    old.openmeter.events["cus_1"][NOON - 50 * DAY] = TINY
    assert old.report().reason.startswith("0.0000001 units before")

    unknown = World()
    unknown.stripe.otherwise = Behaviour.NEVER_ARRIVED
    reasons(unknown, TINY)
    unknown.stripe.otherwise = Behaviour.OK
    unknown.other = {"is_deleted": True}
    assert unknown.report().reason.startswith("0.0000001 units of 2026-07-15T12:59:59Z were confirmed")
