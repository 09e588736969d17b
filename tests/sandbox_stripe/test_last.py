"""Meters with formula `last`: the newest stamp counts in each billed time, in all the ways that it ends."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox
from tests.sandbox_stripe.direct import DAY, Json, World, end_of

CLASSIC: Json = {"billing_mode": {"type": "classic"}}


@pytest.fixture
def world(stripe: StripeSandbox, clock: ManualClock) -> World:
    return World(stripe, clock, "last")


def item_of(subscription: Json) -> str:
    found: str = subscription["items"]["data"][0]["id"]
    return found


def test_a_period_without_an_event_is_zero_whatever_the_one_before_held(world: World) -> None:
    subscription = world.subscribe()
    end = end_of(subscription)
    world.to(end - 1)
    world.report("7", end - 1)
    world.to(end + 10 * DAY)
    world.finish(end_of(world.subscription(subscription)))

    assert world.billed(subscription) == {world.price["id"]: "7+0"}


@pytest.mark.parametrize(("mode", "of_old"), [({}, "4"), (CLASSIC, "0")])
def test_a_swap_bills_the_last_value_of_each_price(world: World, mode: Json, of_old: str) -> None:
    """In classic mode the zero is the first invoice's own."""
    subscription = world.subscribe(**mode)
    new = world.new_price("20")
    world.clock.advance(DAY)
    at = world.clock()
    world.report("9", at - 20)
    world.report("4", at - 10)
    row = {"id": item_of(subscription), "price": new["id"]}
    world.api.post(f"subscriptions/{subscription['id']}", {"items": [row]})
    world.report("100", at - 1)
    world.finish(end_of(subscription))

    # What comes after the swap with an older stamp counts for neither price.
    assert world.billed(subscription) == {world.price["id"]: of_old, new["id"]: "0"}


@pytest.mark.parametrize(("mode", "billed"), [({}, "4"), (CLASSIC, None)])
def test_a_removed_item_bills_its_last_value(world: World, mode: Json, billed: str | None) -> None:
    subscription = world.subscribe(world.price, world.licensed_price(), **mode)
    world.clock.advance(DAY)
    world.report("4", world.clock() - 10)
    world.api.delete(f"subscription_items/{item_of(subscription)}")
    world.finish(end_of(subscription))
    last = world.invoices()[0]
    quantities = {
        line["pricing"]["price_details"]["price"]: line["quantity_decimal"] for line in world.lines(last)
    }

    assert quantities.get(world.price["id"]) == billed


@pytest.mark.parametrize(("params", "billed"), [({}, {}), ({"invoice_now": True}, "4")])
def test_an_immediate_cancellation(world: World, params: Json, billed: Any) -> None:
    subscription = world.subscribe()
    world.clock.advance(DAY)
    world.report("4", world.clock() - 1)
    world.api.delete(f"subscriptions/{subscription['id']}", params)
    world.report("100", world.clock() - 1)
    world.finish(end_of(subscription))

    assert world.billed(subscription) == ({world.price["id"]: billed} if billed else {})


def test_an_anchor_reset_begins_anew(world: World) -> None:
    subscription = world.subscribe()
    world.clock.advance(DAY)
    at = world.clock()
    world.report("4", at - 1)
    reset = world.api.post(f"subscriptions/{subscription['id']}", {"billing_cycle_anchor": "now"})
    world.report("2", at)
    world.report("100", at - 1)
    world.finish(end_of(reset))

    assert world.billed(subscription) == {world.price["id"]: "4+2"}


def test_after_a_trial_only_its_own_values_count(world: World) -> None:
    trial_end = world.clock() + 10 * DAY
    subscription = world.subscribe(trial_end=trial_end)
    world.clock.advance(DAY)
    world.report("4")
    world.finish(trial_end)
    world.finish(end_of(world.subscription(subscription)))

    assert [invoice["total"] for invoice in world.invoices()] == [0, 0]
    assert world.billed(subscription) == {world.price["id"]: "4+0"}
