"""What Stripe's documentation says of periods, invoices and usage records: rules that no other test shows."""

from __future__ import annotations

import pytest

from sandbox.stripe import StripeSandbox
from tests.sandbox_stripe.direct import ACACIA, DAY, HOUR, Json, World, end_of


def newest(stripe: StripeSandbox, type_: str) -> Json:
    """The data of the newest event of a type."""
    event = next(row for row in stripe.events.table.newest() if row.type == type_)
    data: Json = event.body(livemode=False)["data"]
    return data


UPDATED = "customer.subscription.updated"


def test_a_change_of_one_item_shows_all_old_items(world: World, stripe: StripeSandbox) -> None:
    """Changelog 2017-05-25: a changed array is given entire in `previous_attributes`."""
    subscription = world.subscribe(world.price, world.licensed_price())
    old = subscription["items"]["data"]
    world.clock.advance(DAY)
    world.api.post(f"subscription_items/{old[1]['id']}", {"quantity": 4})
    previous = newest(stripe, UPDATED)["previous_attributes"]
    assert previous == {"items": {"data": old}}


def test_an_added_item_is_missing_among_the_old_ones(world: World, stripe: StripeSandbox) -> None:
    """API reference, "The Event object": `previous_attributes` holds what was."""
    subscription = world.subscribe(world.licensed_price())
    world.api.post("subscription_items", {"subscription": subscription["id"], "price": world.price["id"]})
    data = newest(stripe, UPDATED)
    assert [row["id"] for row in data["previous_attributes"]["items"]["data"]] == [
        subscription["items"]["data"][0]["id"]
    ]
    assert len(data["object"]["items"]["data"]) == 2


def test_a_trials_end_shows_the_old_status_and_the_old_periods(world: World, stripe: StripeSandbox) -> None:
    """Use trial periods: at its end the subscription becomes active, and its period begins."""
    trial_end = world.clock() + 10 * DAY
    subscription = world.subscribe(trial_end=trial_end)
    world.to(trial_end)
    previous = newest(stripe, UPDATED)["previous_attributes"]
    assert previous["status"] == "trialing"
    assert previous["items"] == {"data": subscription["items"]["data"]}


@pytest.mark.parametrize("version", [None, ACACIA])
def test_metadata_alone_moves_no_period(world: World, stripe: StripeSandbox, version: str | None) -> None:
    """Changelog 2015-01-26: only the changed keys of a nested object are given."""
    if version:
        hook = {"url": "https://example.com/", "enabled_events": ["*"], "api_version": version}
        world.api.post("webhook_endpoints", hook)
    subscription = world.subscribe(metadata={"k": "v", "other": "x"})
    world.api.post(f"subscriptions/{subscription['id']}", {"metadata": {"k": "w"}})
    assert newest(stripe, UPDATED)["previous_attributes"] == {"metadata": {"k": "v"}}


def test_scheduling_a_cancellation_is_an_update_and_its_end_is_none(
    world: World, stripe: StripeSandbox
) -> None:
    """Cancel subscriptions: "Events"."""
    subscription = world.subscribe()
    end = end_of(subscription)
    world.api.post(f"subscriptions/{subscription['id']}", {"cancel_at": end})
    data = newest(stripe, UPDATED)
    assert data["previous_attributes"]["cancel_at"] is None
    assert "items" not in data["previous_attributes"]
    assert data["object"]["cancel_at_period_end"] is False
    world.to(end)
    types = [event.type for event in stripe.events.table if event.created == end]
    assert "customer.subscription.deleted" in types
    assert UPDATED not in types


@pytest.mark.parametrize("reason", ["subscription_cycle", "cancellation"])
def test_drafts_of_ended_periods_wait_for_the_grace_period(world: World, reason: str) -> None:
    """Configure a grace period: one hour by default."""
    at = world.clock() + 5 * DAY
    ending: Json = {"cancel_at": at} if reason == "cancellation" else {}
    subscription = world.subscribe(**ending)
    end = at if ending else end_of(subscription)
    world.to(end + HOUR - 1)
    assert world.invoices()[0]["status"] == "draft"
    world.report("3", end - 1)
    world.to(end + HOUR)
    assert world.billed(subscription) == {world.price["id"]: "3"}


def test_usage_stamped_while_the_draft_waits_is_the_next_periods(world: World) -> None:
    """Configure a grace period: usage after the draft's creation goes onto the next invoice."""
    subscription = world.subscribe()
    end = end_of(subscription)
    world.to(end + 30 * 60)
    world.report("2", end + 10 * 60)
    world.to(end + HOUR)
    assert world.billed(subscription) == {world.price["id"]: "0"}
    world.finish(end_of(world.subscription(subscription)))
    assert world.billed(subscription) == {world.price["id"]: "0+2"}


def test_an_invoice_names_its_period_by_its_lines(world: World) -> None:
    """API reference, "The Invoice object": `period_end` is when items were added, not the usage's end."""
    world.stripe.change_settings(renewal_delay=16)
    subscription = world.subscribe()
    start, end = subscription["created"], end_of(subscription)
    world.to(end + 16)
    invoice = world.invoices()[0]
    assert invoice["period_end"] == end + 16
    assert world.lines(invoice)[0]["period"] == {"start": start, "end": end}


def test_usage_in_the_grace_period_of_a_swapped_price_is_dropped(world: World) -> None:
    """Manage billing setup: a price that was taken off in mid-period takes no later usage."""
    subscription = world.subscribe()
    world.clock.advance(DAY)
    at = world.clock()
    world.report("3", at - 1)
    item = subscription["items"]["data"][0]["id"]
    world.api.post(f"subscription_items/{item}", {"price": world.new_price("20")["id"]})
    end = end_of(subscription)
    world.to(end)
    world.report("100", at - 2)
    world.finish(end)
    assert world.billed(subscription)[world.price["id"]] == "3"


# Usage records


def legacy(world: World, **params: object) -> tuple[Json, str]:
    made = world.subscribe(world.legacy_price(), version=ACACIA, **params)
    item = made["items"]["data"][0]["id"]
    return made, f"subscription_items/{item}/usage_records"


def test_a_usage_record_cannot_be_deleted_but_set_to_zero(world: World) -> None:
    """Record usage for billing (legacy)."""
    made, path = legacy(world)
    at = made["created"] + 1
    record = world.api.post(path, {"quantity": 5, "timestamp": at, "action": "set"}, version=ACACIA)
    assert world.api.error("DELETE", f"{path}/{record['id']}", version=ACACIA)["status"] == 404
    zero = {"quantity": 0, "timestamp": at, "action": "set"}
    assert world.api.post(path, zero, version=ACACIA)["quantity"] == 0


def test_a_usage_record_without_a_timestamp_is_of_now(world: World) -> None:
    """API reference, "Create a usage record": `timestamp` defaults to now."""
    made, path = legacy(world)
    world.clock.advance(100)
    assert world.api.post(path, {"quantity": 5}, version=ACACIA)["timestamp"] == made["created"] + 100


def test_a_paused_subscription_takes_no_usage_records(world: World) -> None:
    """Use trial periods: a paused subscription takes no usage records."""
    end = world.clock() + DAY
    _, path = legacy(
        world,
        trial_end=end,
        trial_settings={"end_behavior": {"missing_payment_method": "pause"}},
    )
    world.to(end + HOUR)
    error = world.api.error("POST", path, {"quantity": 1}, version=ACACIA)
    assert "takes no usage records" in error["message"]


@pytest.mark.parametrize("version", ["2025-03-31.basil", "2026-05-27.dahlia"])
def test_no_legacy_price_can_be_made_since_basil(world: World, version: str) -> None:
    """Changelog 2025-03-31.basil, "Deprecates legacy usage-based billing"."""
    asked = {
        "currency": "usd",
        "product": world.product["id"],
        "unit_amount": 10,
        "recurring": {"interval": "month", "usage_type": "metered"},
    }
    assert world.api.error("POST", "prices", asked, version=version)["status"] == 400


def test_a_list_of_prices_is_of_the_active_ones(world: World) -> None:
    """API reference, "List all prices": active ones; inactive ones by `active` false."""
    price = world.price["id"]
    world.api.post(f"prices/{price}", {"active": False})
    assert price not in {one["id"] for one in world.api.get("prices")["data"]}
    assert [one["id"] for one in world.api.get("prices", {"active": False})["data"]] == [price]
