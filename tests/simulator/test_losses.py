"""A ledger that is lost or restored from an old copy, and the operator who adopts it an hour later."""

from __future__ import annotations

from decimal import Decimal

import pytest

from sandbox.simulator.history import Act, Contract, Fault, History, Item, Usage
from sandbox.simulator.ledger_strikes import LOST, RESTORED
from sandbox.simulator.outcome import Outcome
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World

VERY_LATE = "webhook_very_late"
MIDNIGHT = 1_799_712_000
HOUR = 3600
DAY = 24 * HOUR
START = MIDNIGHT + 12 * HOUR + 1406
"""Periods end inside an hour, inside a minute."""


def used(time: int, value: str = "1") -> Usage:
    return Usage("c0", "m1", time, value, time + 1)


def history(*faults: Fault, items: tuple[Item, ...] = (Item(),)) -> History:
    ends = [START + number * DAY for number in range(1, 4)]
    usage = [used(end + beside, value) for end in ends for beside, value in ((-700, "11"), (600, "4"))]
    contract = Contract("s0", "c0", START, "day", items)
    return History("made", MIDNIGHT, MIDNIGHT + 9 * DAY, (contract,), tuple(usage), faults=faults)


def statuses(outcome: Outcome) -> set[str]:
    return {one.report.status.value for one in outcome.reports}


@pytest.mark.parametrize(("kind", "age"), [(LOST, 0), (RESTORED, 5 * HOUR), (RESTORED, 40 * HOUR)])
def test_nothing_is_sent_until_it_is_adopted_and_the_bills_are_right(kind: str, age: int) -> None:
    loss = Fault(kind, START + 2 * DAY + 5 * HOUR, seconds=age, later=3 * HOUR)
    made = history(loss)

    outcome = World(made).play()

    assert judge(made, outcome).wrong == []
    assert "held" in statuses(outcome)
    [strike] = outcome.losses
    assert strike.adopted.keys() == {("c0", "m1")}
    assert not [event for event in outcome.received if strike.at <= event.at < strike.adopted["c0", "m1"]]


def test_what_is_billed_while_it_is_held_is_foretold_to_the_unit() -> None:
    end = START + 2 * DAY
    made = history(Fault(LOST, end - HOUR, later=3 * HOUR))

    outcome = World(made).play()
    verdict = judge(made, outcome)

    assert verdict.wrong == []
    assert verdict.predicted == 1
    [short] = [line for line in outcome.lines if line.end == end]
    assert short.quantity == 4  # the 11 of the last minutes came while it was held


def test_late_word_of_a_period_that_the_lost_ledger_knew_bills_nothing_twice() -> None:
    # `invoice.created` never comes, and `customer.subscription.updated` 60 hours late.
    disturbed = [Fault(kind, START + DAY - HOUR, seconds=60 * HOUR) for kind in ("webhook_lost", VERY_LATE)]
    loss = Fault(LOST, START + 2 * DAY + 5 * HOUR, later=3 * HOUR)
    made = history(*disturbed, loss, items=(Item(), Item(interval="week")))

    outcome = World(made).play()

    assert judge(made, outcome).wrong == []
    assert sum(event.value for event in outcome.received) == 45


def test_what_was_used_in_a_pause_is_not_taken_for_what_was_sent() -> None:
    # It is resumed 52 seconds before an hour ends: Stripe's summary of that minute tells nothing apart.
    resumed = MIDNIGHT + 3 * DAY - 52
    contract = Contract("s0", "c0", resumed - 25 * HOUR, "week", (Item(),), trial_days=1, pauses=True)
    paused = Act(resumed, "s0", "resume", anchor="unchanged")
    usage = (used(resumed - 400), used(resumed + 30, "0.25"))
    loss = Fault(LOST, resumed + 4 * DAY, later=2 * HOUR)
    made = History("made", MIDNIGHT, MIDNIGHT + 12 * DAY, (contract,), usage, (paused,), faults=(loss,))

    outcome = World(made).play()

    assert judge(made, outcome).wrong == []
    assert sum(event.value for event in outcome.received) == Decimal("0.25")


def test_what_was_taken_back_before_the_adoption_is_taken_off_the_period_that_is_open() -> None:
    # The period begins 22 seconds before an hour ends: Stripe's summary of that minute tells nothing apart.
    start = MIDNIGHT + 3 * DAY - 22
    contract = Contract("s0", "c0", start - DAY, "day", (Item(),))
    usage = (used(start), Usage("c0", "m1", start + 1, "-1", start + 11 * HOUR))
    loss = Fault(LOST, start + 10 * HOUR, later=3 * HOUR)
    made = History("made", MIDNIGHT, start + 3 * DAY, (contract,), usage, faults=(loss,), allow_decrease=True)

    outcome = World(made).play()

    assert judge(made, outcome).wrong == []
    assert [line.quantity for line in outcome.lines if line.start == start] == [0]


def test_an_adoption_does_not_cut_an_hour_where_only_a_price_was_swapped() -> None:
    # Usage of just before the swap is seen after it, and billed at the new price.
    begun = 1_807_303_606
    contract = Contract("s0", "c0", begun, "day", (Item(),), mode="classic")
    usage = (Usage("c0", "m1", 1_807_389_967, "1", 1_807_391_228), used(1_807_560_921))
    swap = Act(1_807_389_966, "s0", "swap", to=Item(variant="b"), reported=True)
    loss = Fault(RESTORED, 1_807_616_279, seconds=138_407, later=13_615)
    made = History("made", begun - 13_606, begun + 4 * DAY, (contract,), usage, (swap,), faults=(loss,))

    outcome = World(made).play()

    assert judge(made, outcome).wrong == []
    assert [one.units for one in outcome.undelivered if one.units] == []
