"""A platform's own account and two connected ones, with the same customers by id, under faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from sandbox.simulator.history import Contract, Fault, History, Item, Usage
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World

HOUR = 3600
DAY = 24 * HOUR
NOON = 1_799_755_200
"""2027-01-11T12:00:00Z"""
END = NOON + DAY
"""Of the first period in the platform's own account."""

FAULTS = {
    "crashes and lost answers": (
        Fault("crash", END - 600, skip=7, times=3),
        Fault("stripe_lost_answer", END - 600, times=3),
    ),
    "lost and doubled webhooks, two workers at once": (
        Fault("webhook_lost", END - 60, times=2),
        Fault("webhook_duplicated", END - 60, times=2),
        Fault("message_duplicated", END - 60, times=3),
        Fault("two_workers", END + 15 * 60, seconds=40),
    ),
    "errors that Stripe stores": (
        Fault("stripe_500_stored", END - 1200, times=4),
        Fault("stripe_429", END - 1200, skip=2, times=4),
    ),
}


def account(units: Sequence[str], ends: int, *faults: Fault) -> History:
    """Customers c0 and c1, whose days end at `ends`; the second is billed by a total as well."""
    contracts = (
        Contract("s0", "c0", ends - DAY, "day", (Item(),)),
        Contract("s1", "c1", ends - DAY + 60, "day", (Item(), Item("m5", "last"))),
    )
    used = tuple(
        Usage(customer, meter, ends - before, value, ends - before)
        for customer, value in zip(("c0", "c1"), units, strict=True)
        for meter in ("m1", "m5")
        for before in (4 * HOUR, 600, -600)
    )
    return History("apart", NOON - HOUR, END + 6 * HOUR, contracts, used, faults=faults)


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_two_connected_accounts_with_the_same_customer_ids_never_touch_each_others_bills(
    faults: tuple[Fault, ...],
) -> None:
    limited = Fault("account_limited", END - HOUR, seconds=80 * 60)
    connected = (
        account(("30", "40"), END + 1406, Fault("account_down", END, seconds=40 * 60)),
        account(("500", "600"), END, limited),
    )
    made = replace(account(("2", "3"), END, *faults), connected=connected)
    world = World(made)

    outcome = world.play()

    assert [str(wrong) for wrong in judge(made, outcome).wrong] == []
    billed = [
        sorted(line.quantity for line in one.lines if line.end <= END + 1500 and line.item.kind == "mirror")
        for one in (outcome, *outcome.connected)
    ]
    assert billed == [[Decimal(2 * int(units)) for units in pair] for pair in ((2, 3), (30, 40), (500, 600))]
    struck = {kind for _, kind in outcome.struck}
    assert {*(fault.kind for fault in faults), "account_down", "account_limited"} <= struck
    ids = [{row.id for row in one.account.customers} for one in world.stand_ins.values()]
    assert len(ids[0]) == 2
    assert ids[0] == ids[1] == ids[2]
