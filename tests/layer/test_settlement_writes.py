"""Settling doubts: what is written and asked, and only then; hour by hour; in whole words."""

from __future__ import annotations

from dataclasses import replace

from tests.layer.builders import NOON, D
from tests.layer.test_settlement import SENT_AT, SETTLED, World, doubted, made
from usage_reporting.doubts import Window
from usage_reporting.model import Send, SendState, Status
from usage_reporting.windows import HOUR, MINUTE

AGAIN = SETTLED + 10 * MINUTE
TINY = D("0.0000001")


def of_the_next_hour(one: Send) -> Send:
    return replace(one, stamp=one.stamp + HOUR, slice_start=one.slice_start + HOUR)


def versions(world: World) -> tuple[int, int]:
    return world.head.version, world.entry.version


def test_nothing_in_doubt_writes_nothing() -> None:
    world = World([made("known", 5, SendState.SENT)])

    assert world.settle(SETTLED).status is Status.UNCHANGED
    assert (versions(world), world.summaries.asked) == ((1, 1), [])


def test_each_step_is_written_once() -> None:
    world = World(doubted(3), held={NOON: D(3)})
    world.settle(SETTLED - 1)
    assert versions(world) == (2, 1), "the head knows of the doubt"
    world.settle(SETTLED)
    assert versions(world) == (2, 2), "a first look"
    world.settle(AGAIN - 1)
    assert versions(world) == (2, 2)
    world.settle(AGAIN)
    assert versions(world) == (3, 3), "settled"
    assert world.settle(AGAIN + HOUR).status is Status.UNCHANGED
    assert versions(world) == (3, 3)


def test_windows_that_concern_nothing_are_done_with() -> None:
    early = NOON - 3 * HOUR
    windows = (Window(early, early + 1, 9), Window(early, early + 2, 3))
    world = World([made("known", 5, SendState.SENT)], windows=windows)

    world.settle(SETTLED)
    assert (world.head.doubts_seen, versions(world)) == (9, (2, 1))
    world.settle(AGAIN)
    assert versions(world) == (2, 1)


def test_each_hour_has_a_summary_of_its_own() -> None:
    known = made("known", 5, SendState.SENT)
    later = of_the_next_hour(made("later", 3))
    world = World([known, later], held={NOON: D(99), NOON + HOUR: D(3)})

    for at in (SETTLED + HOUR, AGAIN + HOUR):
        world.settle(at)
    assert world.states == ["sent", "sent"]
    assert world.summaries.asked == [(NOON, NOON + 2 * HOUR)] * 2, "with the hour of what is known"


def test_hours_are_looked_at_and_told_in_order() -> None:
    world = World([of_the_next_hour(made("b", 3)), made("a", 2)], held={NOON: D(9), NOON + HOUR: D(9)})
    reports = [world.settle(at + HOUR) for at in (SETTLED, AGAIN)]

    assert world.summaries.asked == [(NOON, NOON + 2 * HOUR)] * 2
    assert world.entry.looks.keys() == {NOON, NOON + HOUR}
    assert all(look.is_repeated for look in world.entry.looks.values())
    assert ["T12:00" in reason for reason in reports[1].reasons] == [True, False]


def test_summaries_have_an_hour_from_the_intent_too() -> None:
    world = World([made("d", 3, sent_at=0)])

    world.settle(SETTLED - 1)
    assert world.summaries.asked == []
    world.settle(SETTLED)
    assert world.summaries.asked == [(NOON, NOON + HOUR)]


def test_the_summary_of_an_open_hour_says_nothing_yet() -> None:
    world = World([made("d", 3, intended_at=NOON - HOUR, sent_at=NOON - HOUR)])

    world.settle(NOON + HOUR - 1)
    assert world.summaries.asked == []
    world.settle(NOON + HOUR)
    assert world.summaries.asked == [(NOON, NOON + HOUR)]
    assert SENT_AT > NOON + HOUR


def test_what_is_said_of_doubts() -> None:
    world = World([made("known", 2 * TINY, SendState.SENT), made("d", TINY)], held={NOON: 9 * TINY})

    assert world.settle(SETTLED).reason == (
        "it is not certain whether Stripe counts 0.0000001 units of the hour 2026-07-15T12:00:00Z; its "
        "summaries will tell, within a day at most"
    )
    assert world.settle(AGAIN).reason == (
        "Stripe's summary of the hour 2026-07-15T12:00:00Z holds 0.0000009 units, which does not tell "
        "whether it counts 0.0000001 units that are doubted beside the 0.0000002 that are known: another "
        "reporter, or an event that was taken back? Find the cause, then run "
        "`usage-reporter adopt --stack NAME --customer cus_1`"
    )


def test_a_dozen_doubts_are_tried_and_no_more() -> None:
    for count, state in ((12, "sent"), (13, "doubted")):
        values = [2**number for number in range(count)]
        world = World(doubted(*values), held={NOON: D(sum(values))})
        for at in (SETTLED, AGAIN):
            world.settle(at)
        assert set(world.states) == {state}
