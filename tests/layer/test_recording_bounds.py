"""Legacy prices under PERIOD_BOUNDS: what was told stays as it was cut, whatever the setting becomes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, SETTINGS, Clock, legacy, span
from tests.layer.test_recording import World
from usage_reporting.config import Settings
from usage_reporting.heads import Options
from usage_reporting.model import Span
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.windows import DAY, HOUR, MINUTE

ODD = MONTH_START + 10 * MINUTE + 17
BY_HOUR = replace(SETTINGS, period_bounds=PeriodBounds.HOUR)
EXACT_CUT, HOUR_CUT = MONTH_START - 20 * MINUTE, MONTH_START - HOUR


def measured_from(world: World, settings: Settings, *spans: Span) -> int:
    world.recording.settings = settings
    world.customer_meter = legacy(*spans)
    world.report("10")
    return world.openmeter.asked[-1][2]


@pytest.mark.parametrize(
    ("before", "now", "start"),
    [(SETTINGS, BY_HOUR, EXACT_CUT), (BY_HOUR, SETTINGS, HOUR_CUT), (BY_HOUR, BY_HOUR, HOUR_CUT)],
)
def test_a_period_that_was_told_stays_as_it_was_cut(before: Settings, now: Settings, start: int) -> None:
    world, one = World(), span(ODD, MONTH_END)

    assert measured_from(world, before, one) == start
    assert measured_from(world, now, one) == start


@pytest.mark.parametrize(
    ("before", "now", "start"), [(SETTINGS, BY_HOUR, EXACT_CUT), (BY_HOUR, SETTINGS, HOUR_CUT)]
)
def test_a_period_begins_where_the_one_before_was_cut(before: Settings, now: Settings, start: int) -> None:
    world = World(clock=Clock(ODD - 5 * MINUTE))
    measured_from(world, before, span(ODD - 30 * DAY, ODD))
    world.clock.now = ODD + HOUR

    assert measured_from(world, now, span(ODD, MONTH_END)) == start


def test_cuts_are_written_once_and_by_no_dry_run() -> None:
    world = World(BY_HOUR, legacy(span(ODD, MONTH_END)))
    world.report("10", Options(dry_run=True))
    assert world.ledger.memory.items == {}

    world.report(None)
    entry = world.ledger.stored((world.customer_meter.pk, str(ODD)))
    assert entry.cuts == {ODD: HOUR_CUT}
    world.report(None)
    assert world.ledger.stored((world.customer_meter.pk, str(ODD))).version == entry.version


def test_no_period_reaches_back_before_the_first_start_of_its_item() -> None:
    begun = ODD - 20 * MINUTE
    world = World(BY_HOUR, legacy(span(begun, ODD, first=True), span(ODD, MONTH_END)))

    world.report("10", Options(dry_run=True))

    assert world.openmeter.asked[-1][2] == begun - 17 + MINUTE
