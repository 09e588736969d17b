"""Worlds of several Stripe accounts whose customers, meters and prices have the same ids."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from sandbox.simulator.generate import history_of
from sandbox.simulator.history import Contract, Fault, History, Item, Usage
from sandbox.simulator.shrink import shrunk
from sandbox.simulator.trouble import ACCOUNT_FAULTS, KINDS
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World

HOUR = 3600
DAY = 24 * HOUR
NOON = 1_799_755_200
"""2027-01-11T12:00:00Z"""
ALL = (*KINDS, *ACCOUNT_FAULTS)


def account(value: str, at: int = NOON, *faults: Fault) -> History:
    """A customer whose days end at `at`, with so much used on the first."""
    contract = Contract("s0", "c0", at, "day", (Item(),))
    used = Usage("c0", "m1", at + DAY - 600, value, at + DAY)
    return History("made", NOON - HOUR, NOON + DAY + 6 * HOUR, (contract,), (used,), faults=faults)


def of_several(own: History, *connected: History) -> History:
    return replace(own, connected=connected)


def test_each_account_is_billed_its_own_usage_though_all_ids_are_the_same() -> None:
    made = of_several(account("2"), account("30"), account("400", NOON + 1406))
    world = World(made)

    outcome = world.play()

    verdict = judge(made, outcome)
    assert (verdict.wrong, verdict.periods) == ([], 3)
    billed = [[line.quantity for line in one.lines] for one in (outcome, *outcome.connected)]
    assert billed == [[Decimal(value)] for value in (2, 30, 400)]
    customers = {name: {row.id for row in one.account.customers} for name, one in world.stand_ins.items()}
    assert len(customers) == 3
    assert len(set.union(*customers.values())) == 1


def test_what_is_wrong_in_one_account_is_said_of_that_one() -> None:
    made = of_several(account("2"), account("30"))
    outcome = World(made).play()
    less = replace(made, connected=(account("29"),))

    wrong = judge(less, outcome).wrong

    assert wrong
    assert {one.contract for one in wrong} == {"s0 of account 1"}


def test_an_account_that_is_down_takes_nothing_from_the_bills_of_another() -> None:
    """From before the ends of the periods until after they are billed; the other one's webhooks are lost."""
    down = Fault("account_down", NOON + DAY - HOUR, seconds=45 * 60)
    limited = Fault("account_limited", NOON + DAY - 15 * 60, seconds=3 * HOUR)
    of_second = NOON + DAY - 60
    lost = Fault("webhook_lost", of_second - of_second % 3 + 1, times=5)
    made = of_several(account("2", NOON, lost), account("30"), account("400", NOON, down, limited))
    world = World(made)

    outcome = world.play()

    assert judge(made, outcome).wrong == []
    assert all(world.trouble.counts[kind] for kind in (*ACCOUNT_FAULTS, "webhook_lost"))
    assert [line.quantity for line in outcome.connected[0].lines] == [Decimal(30)]
    own, healthy, ill = (len(one.ticked["closing"]) for one in world.accounts)
    assert own == healthy > ill


def test_the_platforms_own_account_is_the_same_world_with_and_without_others() -> None:
    alone, beside = history_of("5", ALL), history_of("5", ALL, accounts=3)

    assert alone == history_of("5", KINDS)
    assert len(beside.connected) == 2
    assert (beside.contracts, beside.usage, beside.acts) == (alone.contracts, alone.usage, alone.acts)
    assert {one.seed for one in beside.connected} == {"5 account 1", "5 account 2"}
    assert {(one.start, one.end, one.bounds) for one in beside.connected} == {
        (alone.start, alone.end, alone.bounds)
    }


def test_with_the_brake_no_account_fails_in_the_minutes_before_a_deadline() -> None:
    """What was held until then is lost in truth: no bill could show whether the product is wrong."""
    braked = history_of("5", ACCOUNT_FAULTS, accounts=3, brake=True)
    assert [fault for one in (braked, *braked.connected) for fault in one.faults] == []
    assert any(one.faults for one in history_of("5", ACCOUNT_FAULTS, accounts=3).connected)


def test_accounts_are_left_out_when_a_history_is_made_shorter() -> None:
    made = history_of("5", (), accounts=3)
    wanted = made.connected[1].usage[0]

    short = shrunk(made, lambda one: any(wanted in other.usage for other in one.connected), most_tries=5000)

    assert [other.usage for other in short.connected] == [(wanted,)]
    assert short.usage == ()
