"""Legacy usage records."""

from __future__ import annotations

import pytest

from tests.sandbox_stripe.direct import ACACIA, DAY, HOUR, Json, World, end_of


@pytest.fixture
def subscription(world: World) -> Json:
    return legacy(world)


def legacy(world: World, **recurring: str) -> Json:
    made = world.subscribe(world.legacy_price(**recurring), version=ACACIA)
    return world.subscription(made)


def record(world: World, subscription: Json, quantity: int, at: int, action: str = "set") -> Json:
    asked = {"quantity": quantity, "timestamp": at, "action": action}
    return world.api.post(path_of(subscription), asked, version=ACACIA)


def path_of(subscription: Json) -> str:
    return f"subscription_items/{subscription['items']['data'][0]['id']}/usage_records"


def billed(world: World, subscription: Json) -> str:
    """Quantity on the newest invoice."""
    found: str = world.lines(world.invoices(subscription=subscription["id"])[0])[0]["quantity_decimal"]
    return found


def test_set_overwrites_one_instant_and_increment_adds(world: World, subscription: Json) -> None:
    at = subscription["created"] + 1
    assert record(world, subscription, 5, at)["quantity"] == 5
    assert record(world, subscription, 7, at)["quantity"] == 7
    assert record(world, subscription, 2, at, "increment")["quantity"] == 9
    record(world, subscription, 1, at + 1)
    world.finish(end_of(subscription))
    assert billed(world, subscription) == "10"


@pytest.mark.parametrize(("how", "expected"), [("sum", "12"), ("max", "8"), ("last_during_period", "4")])
def test_aggregate_usage(world: World, how: str, expected: str) -> None:
    subscription = legacy(world, aggregate_usage=how)
    world.clock.advance(10)
    record(world, subscription, 4, subscription["created"] + 5)
    record(world, subscription, 8, subscription["created"] + 2)
    world.finish(end_of(subscription))
    assert billed(world, subscription) == expected


def test_only_the_present_period_takes_records(world: World, subscription: Json) -> None:
    start, end = subscription["created"], end_of(subscription)

    def refused(at: int) -> bool:
        asked = {"quantity": 1, "timestamp": at, "action": "set"}
        answer = world.api.request("POST", path_of(subscription), asked, version=ACACIA)
        return answer.status == 400 and "timestamps must be" in answer.json()["error"]["message"]

    assert refused(start)
    assert not refused(start + 1)
    assert not refused(start + 300)
    assert refused(start + 301)
    world.to(end - 1)
    assert refused(end)
    world.to(end)
    assert refused(end - 1)
    assert refused(end)


def test_the_draft_takes_nothing_more(world: World, subscription: Json) -> None:
    record(world, subscription, 5, subscription["created"] + 1)
    end = end_of(subscription)
    world.to(end)
    assert billed(world, subscription) == "5"
    world.finish(end)
    assert world.invoices()[0]["total"] == 50


@pytest.mark.parametrize(
    "params", [{}, {"quantity": -1}, {"quantity": "1.5"}, {"quantity": 1, "action": "add"}]
)
def test_records_that_are_refused(world: World, subscription: Json, params: Json) -> None:
    error = world.api.error("POST", path_of(subscription), params, version=ACACIA)
    assert error["status"] == 400


def test_a_canceled_subscription_takes_no_records(world: World, subscription: Json) -> None:
    world.api.delete(f"subscriptions/{subscription['id']}", version=ACACIA)
    asked = {"quantity": 1, "timestamp": subscription["created"] + 1, "action": "set"}
    error = world.api.error("POST", path_of(subscription), asked, version=ACACIA)
    assert "takes no usage records" in error["message"]


def test_usage_records_are_gone_since_basil(world: World, subscription: Json) -> None:
    asked = {"quantity": 1}
    assert world.api.error("POST", path_of(subscription), asked)["status"] == 404
    price = subscription["items"]["data"][0]["price"]["id"]
    create = {"customer": world.customer["id"], "items": [{"price": price}]}
    assert world.api.error("POST", "subscriptions", create)["param"] == "items[0][price]"


def test_prices_with_a_meter_take_meter_events_only(world: World) -> None:
    error = world.api.error("POST", path_of(world.subscribe()), {"quantity": 1}, version=ACACIA)
    assert "Call /v1/billing/meter_events instead" in error["message"]


def test_an_item_with_usage_is_removed_by_force_only(world: World) -> None:
    made = world.subscribe(world.legacy_price(), world.licensed_price(), version=ACACIA)
    subscription = world.subscription(made)
    world.clock.advance(HOUR)
    record(world, subscription, 5, world.clock())
    path = path_of(subscription).removesuffix("/usage_records")
    assert world.api.error("DELETE", path)["param"] == "clear_usage"
    assert world.api.delete(path, {"clear_usage": True})["deleted"] is True


def test_summaries_per_period(world: World, subscription: Json) -> None:
    record(world, subscription, 5, subscription["created"] + 1)
    end = end_of(subscription)
    world.to(end + DAY)
    record(world, subscription, 2, end + 1)
    path = path_of(subscription).replace("usage_records", "usage_record_summaries")
    rows = world.api.get(path, version=ACACIA)["data"]
    assert [(row["total_usage"], row["invoice"] is None) for row in rows][:2] == [
        (2, True),
        (5, False),
    ]
    assert rows[1]["period"]["end"] == end
