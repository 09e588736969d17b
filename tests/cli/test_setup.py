"""`setup` makes what there is to bill with, once."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run
from tests.integration.world import HOUR, World


def test_everything_is_made_and_the_links_are_shown(run: Run, world: World) -> None:
    result = run("setup", "--json")

    assert result.code == 0
    made = result.json
    assert list(made) == ["product", "meter", "price", "customer", "subscription"]
    assert all(one["created"] for one in made.values())
    assert {name: one["link"] for name, one in made.items()} == {
        "product": f"https://dashboard.stripe.com/test/products/{made['product']['id']}",
        "meter": f"https://dashboard.stripe.com/test/meters/{made['meter']['id']}",
        "price": f"https://dashboard.stripe.com/test/prices/{made['price']['id']}",
        "customer": f"https://dashboard.stripe.com/test/customers/{made['customer']['id']}",
        "subscription": f"https://dashboard.stripe.com/test/subscriptions/{made['subscription']['id']}",
    }
    price = world.client.v1.prices.retrieve(made["price"]["id"])
    assert (price.currency, price.unit_amount) == ("usd", 10)
    assert price.recurring is not None
    assert (price.recurring.interval, price.recurring.usage_type) == ("month", "metered")
    assert price.recurring.meter == made["meter"]["id"]
    meter = world.client.v1.billing.meters.retrieve(made["meter"]["id"])
    assert (meter.event_name, meter.default_aggregation.formula) == ("execution_duration", "sum")
    assert world.client.v1.products.retrieve(made["product"]["id"]).name == "Execution Duration"
    [item] = world.client.v1.subscriptions.retrieve(made["subscription"]["id"]).items.data
    assert item.to_dict()["metadata"] == {"om_meter_id": "m1"}


@pytest.mark.parametrize("options", [[], ["--legacy"]])
def test_run_twice_it_finds_what_it_made(run: Run, world: World, options: list[str]) -> None:
    first = run("setup", "--json", *options).json
    second = run("setup", "--json", *options).json

    assert not any(one["created"] for one in second.values())
    assert {name: one["id"] for name, one in second.items()} == {n: one["id"] for n, one in first.items()}
    account = world.stripe.account
    for table in (account.products, account.prices, account.customers, account.subscriptions):
        assert len(table) == 1


def test_text_names_each_object_with_its_link(run: Run) -> None:
    run("setup")
    result = run("setup")

    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "product",
        "meter",
        "price",
        "customer",
        "subscription",
    ]
    assert all("found" in line and "https://dashboard.stripe.com/test/" in line for line in lines[1:])
    assert "\x1b" not in result.out


def test_others_products_and_archived_things_are_left_alone(run: Run, world: World) -> None:
    other = world.client.v1.products.create({"name": "Execution Duration"})
    first = run("setup", "--json").json
    world.client.v1.products.update(first["product"]["id"], {"active": False})

    second = run("setup", "--json").json

    assert other.id not in {first["product"]["id"], second["product"]["id"]}
    assert second["product"]["created"]
    assert not second["meter"]["created"]


def test_an_archived_meter_of_the_name_is_taken_up_again(run: Run, world: World) -> None:
    made = run("setup", "--json").json
    world.client.v1.billing.meters.deactivate(made["meter"]["id"])

    assert run("setup", "--json").json["meter"]["id"] == made["meter"]["id"]
    assert world.client.v1.billing.meters.retrieve(made["meter"]["id"]).status == "active"


def test_a_meter_of_the_name_that_counts_stands_in_the_way(run: Run, world: World) -> None:
    world.client.v1.billing.meters.create(
        {
            "display_name": "x",
            "event_name": "execution_duration",
            "default_aggregation": {"formula": "count"},
        }
    )

    result = run("setup")

    assert result.code == 2
    assert "does not sum" in result.err
    assert result.out == ""


def test_another_openmeter_meter_is_not_put_in_silently(run: Run, world: World) -> None:
    made = run("setup", "--json", "--meter", "m2").json
    [item] = world.client.v1.subscriptions.retrieve(made["subscription"]["id"]).items.data

    result = run("setup")

    assert result.code == 2
    assert "'m2', not 'm1'" in result.err
    assert item.id in result.err
    assert run("setup", "--meter", "m2").code == 0


def test_legacy_makes_a_price_without_a_meter_on_the_old_version(run: Run, world: World) -> None:
    made = run("setup", "--legacy", "--json").json

    assert list(made) == ["product", "price", "customer", "subscription"]
    price = world.client.v1.prices.retrieve(made["price"]["id"])
    assert price.recurring is not None
    assert price.recurring.meter is None
    versions = {
        request.headers.get("stripe-version")
        for request in world.stripe.log.requests
        if request.method == "POST" and request.path in {"/v1/prices", "/v1/subscriptions"}
    }
    assert versions == {"2025-02-24.acacia"}


def test_both_ways_live_side_by_side(run: Run) -> None:
    metered = run("setup", "--json").json
    legacy = run("setup", "--legacy", "--json").json

    assert metered["price"]["id"] != legacy["price"]["id"]
    assert metered["subscription"]["id"] != legacy["subscription"]["id"]
    assert not run("setup", "--json").json["subscription"]["created"]


def test_legacy_reported_many_times_is_one_record_at_one_instant(run: Run, world: World) -> None:
    made = run("setup", "--legacy", "--json").json
    customer = made["customer"]["id"]
    start = world.clock()
    for hour, total in enumerate(["5", "12", "12"]):
        world.use(customer, start + hour * HOUR + 60, [5, 7, 0][hour])
        world.travel(start + (hour + 1) * HOUR)
        result = run("report")
        assert result.code == 0, result.err
        assert f"total_usage: {total}," in result.out
        run("report")

    [(_, records)] = world.stripe.books.usage._records.items()
    assert records == {start + 1: 12}
