"""A price that is swapped in the last minute of its period, before anything looks."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from sandbox.simulator.history import Act, Contract, History, Item, Usage
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World

MIDNIGHT = 1_799_712_000
START = MIDNIGHT + 12 * 3600 + 1406
DAY = 86_400


@pytest.mark.parametrize("correction", ["-0.1", "0.1"])
def test_what_was_billed_at_the_swap_takes_nothing_more(correction: str) -> None:
    end = START + 2 * DAY
    contract = Contract("s0", "c0", START, "day", (Item(),))
    usage = (
        Usage("c0", "m1", START + DAY + 60, "1000", START + DAY + 63),
        # Seen after the last look before the swap.
        Usage("c0", "m1", START + DAY + 60, correction, end - 50),
    )
    swap = Act(end - 40, "s0", "swap", to=Item(variant="b"))
    made = History("made", MIDNIGHT, MIDNIGHT + 5 * DAY, (contract,), usage, (swap,), allow_decrease=True)

    for history in (made, replace(made, replaces_items=True)):
        outcome = World(history).play()

        assert judge(history, outcome).wrong == []
        assert [str(event.value) for event in outcome.received] == ["1000"]
        assert [line.quantity for line in outcome.lines if line.end == end - 40] == [Decimal(1000)]
