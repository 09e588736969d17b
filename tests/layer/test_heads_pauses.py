"""A pause between a trial and the first period that is billed: Stripe's events alone say when it was over."""

from __future__ import annotations

from dataclasses import replace

from tests.layer.builders import NOON, span
from tests.layer.test_heads import LATER, World, seen
from usage_reporting.model import Span, SpanState
from usage_reporting.swaps import Swap
from usage_reporting.windows import DAY, HOUR, MINUTE

TRIAL = replace(span(NOON - DAY, NOON), when_left=SpanState.FREE, first=True)
PERIOD = span(NOON, NOON + 30 * DAY)
RESUMED = NOON + 20 * MINUTE


def after_a_trial(*changes: Swap) -> World:
    world = World()
    world.check(seen(TRIAL, at=NOON - MINUTE))
    world.clock.now = LATER
    world.billing.changes = list(changes)
    world.billing.asked.clear()
    return world


def resumption(at: int = RESUMED) -> Swap:
    price = PERIOD.price
    return Swap(at, PERIOD.subscription, PERIOD.item, price, price, is_resumption=True)


def parts(found: tuple[Span, ...]) -> list[tuple[int, int, SpanState]]:
    return [(one.start, one.end, one.state) for one in found if one.start >= NOON]


def test_the_pause_is_cut_off_and_is_free() -> None:
    head = after_a_trial(resumption()).check(seen(PERIOD))

    assert parts(head.spans) == [
        (NOON, RESUMED, SpanState.FREE),
        (RESUMED, PERIOD.end, SpanState.CURRENT),
    ]
    assert RESUMED in head.bounds


def test_a_pause_may_outlast_periods_that_nobody_saw() -> None:
    later = span(NOON + 3 * DAY, NOON + 4 * DAY)
    world = after_a_trial(resumption(later.start + HOUR))
    world.clock.now = later.start + 2 * HOUR

    head = world.check(seen(later, at=world.clock.now))

    assert parts(head.spans) == [
        (later.start, later.start + HOUR, SpanState.FREE),
        (later.start + HOUR, later.end, SpanState.CURRENT),
    ]


def test_events_are_asked_for_once() -> None:
    world = after_a_trial(resumption())
    world.check(seen(PERIOD))
    world.billing.asked.clear()

    assert parts(world.check(seen(PERIOD, at=LATER + MINUTE)).spans)[0] == (NOON, RESUMED, SpanState.FREE)
    assert world.billing.asked == []


def test_a_trial_without_a_pause_goes_over_into_the_period() -> None:
    head = after_a_trial().check(seen(PERIOD))

    assert parts(head.spans) == [(NOON, PERIOD.end, SpanState.CURRENT)]


def test_a_price_that_was_swapped_before_its_period_was_seen_keeps_its_part() -> None:
    """Within the hour after a renewal no tick may have seen the period at its old price."""
    world = World()
    world.check(seen(span(NOON - DAY, NOON, price="price_old"), at=NOON - MINUTE))
    world.clock.now = LATER
    world.billing.changes = [replace(resumption(), old="price_old", is_resumption=False)]

    head = world.check(seen(PERIOD))

    assert [(one.start, one.end, one.price, one.state) for one in head.spans if one.start >= NOON] == [
        (NOON, RESUMED, "price_old", SpanState.BILLED),
        (RESUMED, PERIOD.end, PERIOD.price, SpanState.CURRENT),
    ]


def test_a_period_that_was_seen_paused_is_told_apart_when_it_goes_on() -> None:
    world = after_a_trial()
    world.check(seen(replace(PERIOD, state=SpanState.FREE)))
    world.billing.changes = [resumption(LATER)]
    world.clock.now = LATER + MINUTE

    head = world.check(seen(PERIOD, at=LATER + MINUTE))

    assert parts(head.spans) == [(NOON, LATER, SpanState.FREE), (LATER, PERIOD.end, SpanState.CURRENT)]


def test_a_key_that_may_not_read_events_takes_the_whole_period() -> None:
    world = after_a_trial()
    world.billing.changes = None

    assert parts(world.check(seen(PERIOD)).spans) == [(NOON, PERIOD.end, SpanState.CURRENT)]


def test_other_periods_ask_for_no_events() -> None:
    world = World()
    world.check(seen(span(NOON - DAY, NOON), at=NOON - MINUTE))
    world.billing.asked.clear()

    world.check(seen(PERIOD))

    assert world.billing.asked == []
