"""Off legacy prices: the same usage in two worlds, of which one goes over to a price with a meter.

It has a successor named in its first period, is mirrored beside the records in the second, and switched by a
schedule at the end of that. What both are billed in the end is the same, to the unit and to the cent.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest

from sandbox.simulator.aggregations import aggregated
from sandbox.simulator.bills import legacy_cut
from sandbox.simulator.calendar import DAY, moved
from sandbox.simulator.history import Act, Bounds, Contract, Fault, History, Interval, Item, Usage
from sandbox.simulator.migrations import successor
from sandbox.simulator.outcome import Outcome
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World

MIDNIGHT = 1_799_712_000
"""2027-01-11T00:00:00Z"""
START = MIDNIGHT + 12 * 3600 + 1406
"""12:23:26"""
MINUTE = 60
HALF_HOUR = 30 * MINUTE
PERIODS = 4
FAULTS = ("stripe_timeout", "stripe_lost_answer", "stripe_500_stored", "crash", "webhook_lost", "two_workers")


def edges(interval: Interval) -> list[int]:
    """Where the periods begin, and where the last one ends."""
    return [moved(START, interval, number) for number in range(PERIODS + 1)]


def used(dice: random.Random, meter: str, interval: Interval, bounds: Bounds = "exact") -> Iterator[Usage]:
    """Usage in the course of each period, around its renewal, and above all in the half hour before that."""
    ends = edges(interval)
    for begin, end in itertools.pairwise(ends):
        cut = legacy_cut(end, bounds)
        times = [
            begin + 5,
            cut - 1,
            cut,
            cut + 1,
            end - HALF_HOUR,
            end - 1,
            end - dice.randrange(2, HALF_HOUR),
        ]
        times.append(dice.randrange(begin, end - 3 * HALF_HOUR))
        for time in times:
            yield Usage("c0", meter, time, str(dice.randint(1, 60)), time + dice.randint(0, 3))


def staying(meter: str, usage: tuple[Usage, ...], interval: Interval, **more: object) -> History:
    """On a legacy price for four periods; the end is arranged in the last one."""
    ends = edges(interval)
    contract = Contract("s0", "c0", START, interval, (Item(meter, "legacy"),), mode="classic")
    made = History("made", MIDNIGHT, ends[-1] + 2 * DAY, (contract,), usage)
    return replace(made, acts=(Act(ends[3] + 5000, "s0", "cancel_at_period_end"),), **more)  # type: ignore[arg-type]


def going_over(stays: History, *, is_mirrored: bool = True) -> History:
    """The same, switched to a price with a meter at the end of the second period."""
    [contract] = stays.contracts
    first, second, *_ = edges(contract.interval)
    new = successor(contract.items[0])
    named = Act(first + 2 * 3600, "s0", "name_successor", to=new)
    switched = Act(second + 3 * 3600, "s0", "migrate", to=new)
    return replace(stays, acts=(*([named] if is_mirrored else []), switched, *stays.acts))


def played(history: History) -> tuple[World, Outcome]:
    world = World(history)
    outcome = world.play()
    assert [str(one) for one in judge(history, outcome).wrong] == []
    return world, outcome


def billed(outcome: Outcome) -> list[tuple[str, Decimal]]:
    lines = sorted(outcome.lines, key=lambda line: line.start)
    return [(line.item.kind, line.quantity) for line in lines if line.end > line.start]


def money(world: World) -> int:
    assert {invoice.status for invoice in world.stripe.account.invoices} == {"paid"}
    return sum(invoice.total for invoice in world.stripe.account.invoices)


def beside(outcome: Outcome, start: int, end: int) -> Decimal:
    """What the meter holds of a period."""
    return sum((one.value for one in outcome.received if start <= one.stamp < end), Decimal(0))


def same_bills(history: History, *, is_mirrored: bool = True) -> list[tuple[str, Decimal]]:
    """What the metered world bills, compared with the other one.

    Both bill all usage once; the records alone lose the half hour before the very end, as ever.
    """
    ends = edges(history.contracts[0].interval)
    stays, before = played(replace(history, faults=()))
    moves, after = played(going_over(history, is_mirrored=is_mirrored))
    left = [use for use in history.usage if legacy_cut(ends[-1], "exact") <= use.time]
    lost = aggregated(left)

    legacy, metered = billed(before), billed(after)
    assert [kind for kind, _ in legacy] == ["legacy"] * PERIODS
    assert [kind for kind, _ in metered] == ["legacy", "legacy", "mirror", "mirror"]
    assert metered[:2] == legacy[:2]
    assert sum(units for _, units in metered) == aggregated(history.usage)
    assert sum(units for _, units in legacy) + lost == aggregated(history.usage)
    assert lost > 0
    assert money(moves) == money(stays) + 10 * lost
    assert {one.finding for one in after.judged} == {"exact"}
    if not history.faults:  # with one, whatever was to judge an invoice may be lost
        assert sorted(one.end for one in after.judged) == ends[1:]
    if is_mirrored:
        # The meter's summary of the period beside the records is what they came to.
        assert beside(after, ends[1], ends[2]) == metered[1][1] > 0
        assert beside(after, ends[0], ends[1]) == metered[0][1]
    assert beside(after, ends[2], ends[4]) == metered[2][1] + metered[3][1]
    return metered


def test_a_quarter_is_billed_the_same_on_either_price() -> None:
    usage = tuple(used(random.Random("quarter"), "m1", "month"))

    billed_in_all = sum(units for _, units in same_bills(staying("m1", usage, "month", replaces_items=True)))

    assert billed_in_all == aggregated(usage)


@pytest.mark.parametrize("is_mirrored", [True, False])
def test_it_is_so_whatever_fails_at_the_switch(*, is_mirrored: bool) -> None:
    """Without a mirror before, the metadata alone says from when on the first period bills."""
    dice = random.Random(f"switch {is_mirrored}")
    at = edges("day")[2]
    faults = tuple(
        Fault(kind, at + dice.randrange(-HALF_HOUR, 2 * HALF_HOUR), dice.randrange(4), dice.choice((1, 2, 5)))
        for kind in FAULTS
    )
    meter = "m1" if is_mirrored else "m2"
    made = staying(meter, tuple(used(dice, meter, "day")), "day", faults=faults, meter_stream=is_mirrored)

    assert len(same_bills(made, is_mirrored=is_mirrored)) == PERIODS


def test_what_does_not_add_up_is_billed_of_the_same_time() -> None:
    """Periods are equal as long as they are the same. The first one after the switch begins where the last
    record ended and is exact at its end: half an hour longer, so that totals alone tell nothing of a sum."""
    usage = tuple(used(random.Random("distinct"), "m3", "day"))
    stays = staying("m3", usage, "day")
    ends = edges("day")
    cuts = [START, *(legacy_cut(end, "exact") for end in ends[1:3]), *ends[3:]]

    before, after = played(stays)[1], played(going_over(stays))[1]

    parts = [[use for use in usage if a <= use.time < b] for a, b in itertools.pairwise(cuts)]
    assert billed(after)[:2] == billed(before)[:2]
    assert billed(after) == [
        (kind, aggregated(part)) for kind, part in zip(["legacy"] * 2 + ["last"] * 2, parts, strict=True)
    ]
    held = [
        max((one for one in after.received if a <= one.stamp < b), key=lambda one: one.stamp).value
        for a, b in itertools.pairwise(ends[:3])
    ]
    assert held == [units for _, units in billed(before)[:2]]
    assert {one.finding for one in after.judged} == {"exact"}


def test_with_rounded_bounds_the_switch_is_cut_where_the_records_are() -> None:
    usage = tuple(used(random.Random("rounded"), "m1", "day", "day"))
    stays = staying("m1", usage, "day", bounds="day")

    before, after = played(stays)[1], played(going_over(stays))[1]

    assert billed(after)[:2] == billed(before)[:2]
    first, end = -(-START // MINUTE) * MINUTE, edges("day")[-1] // MINUTE * MINUTE
    whole = [use for use in usage if first <= use.time < end]
    assert sum(units for _, units in billed(after)) == aggregated(whole)
