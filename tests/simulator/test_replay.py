"""Everything that a history told the functions is told to them again, an hour, a day and 36 days later."""

from __future__ import annotations

import pytest

from sandbox.simulator.generate import history_of
from sandbox.simulator.history import History
from sandbox.simulator.trouble import KINDS, USAGE_FAULTS
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World

ALL_IN_TIME = tuple(kind for kind in KINDS if kind not in USAGE_FAULTS)
"""Late usage of an ended subscription is in nobody's sight until an old event points at it: that is counted
then, and rightly so."""


WORLDS = [history_of(f"replay.{number}", ALL_IN_TIME) for number in (5, 12)]


def test_the_worlds_hold_each_kind_of_meter() -> None:
    kinds = {item.kind for world in WORLDS for contract in world.contracts for item in contract.items}

    assert kinds == {"mirror", "last", "legacy", "licensed"}


@pytest.mark.parametrize("history", WORLDS, ids=lambda world: world.seed)
def test_no_bill_and_nothing_counted_changes(history: History) -> None:
    outcome = World(history).play(replay=True)

    assert outcome.replayed == []
    assert judge(history, outcome).wrong == []
