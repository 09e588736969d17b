"""The simulator's Stripe behaves as it is told to where its documentation is silent."""

from __future__ import annotations

from dataclasses import replace

from sandbox.simulator.history import Contract, History, Item, Usage
from sandbox.simulator.shrink import as_test
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World
from sandbox.stripe.undocumented import Undocumented
from tests.simulator.test_losses import DAY, MIDNIGHT, START

CLOSED = Undocumented(drafts_are_closed=True)


def history() -> History:
    """Usage in the last minute of a period: only the renewal's webhook, or the draft's look, reports it."""
    contract = Contract("s0", "c0", START, "day", (Item(),))
    usage = Usage("c0", "m1", START + DAY - 30, "3", START + DAY - 20)
    return History("made", MIDNIGHT, MIDNIGHT + 3 * DAY, (contract,), (usage,))


def test_a_stripe_whose_drafts_take_no_usage_is_found_to_bill_too_little() -> None:
    closed = replace(history(), undocumented=CLOSED)

    assert judge(history(), World(history()).play()).wrong == []
    assert judge(closed, World(closed).play()).wrong != []


def test_the_test_of_a_world_says_how_stripe_behaves_in_it() -> None:
    closed = as_test(replace(history(), undocumented=CLOSED))

    assert "from sandbox.stripe.undocumented import Undocumented\n" in closed
    assert "undocumented=Undocumented(drafts_are_closed=True)" in closed
    exec(closed, {})  # it is a module that can be saved as it is
    assert "Undocumented" not in as_test(history())
