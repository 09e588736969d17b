"""Prices of tiers and packages: what Stripe takes, shows and bills for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox, StripeSettings
from sandbox.stripe.undocumented import Undocumented
from tests.contract.stripe_openapi import object_errors, request_errors
from tests.sandbox_stripe.direct import ACACIA, Json, World, end_of

INF = "inf"
FONTS = [
    {"up_to": 5, "unit_amount": 700},
    {"up_to": 10, "unit_amount": 650},
    {"up_to": INF, "unit_amount": 600},
]
"""Set up tiered pricing."""
WITH_FEES = [
    {"up_to": 5, "unit_amount": 500, "flat_amount": 1000},
    {"up_to": 10, "unit_amount": 400, "flat_amount": 2000},
    {"up_to": 15, "unit_amount": 300, "flat_amount": 3000},
    {"up_to": 20, "unit_amount": 200, "flat_amount": 4000},
    {"up_to": INF, "unit_amount": 100, "flat_amount": 5000},
]
"""How products and prices work, "Adding flat fees"."""
HOURS = {"unit_amount": 1000, "transform_quantity": {"divide_by": 60, "round": "up"}}
"""Transform quantities: a car rental's minutes."""


def metered(world: World, **price: Any) -> Json:
    """The parameters of a metered price without amounts, and these."""
    recurring = {"interval": "month", "usage_type": "metered", "meter": world.meter["id"]}
    return {"currency": "usd", "product": world.product["id"], "recurring": recurring, **price}


def tiered(world: World, mode: str, tiers: object, **price: Any) -> Json:
    return metered(world, billing_scheme="tiered", tiers_mode=mode, tiers=tiers, **price)


def billed(world: World, params: Mapping[str, Any], quantity: str) -> list[Json]:
    """The lines of the final invoice of a period with this usage."""
    price = world.api.post("prices", params)
    subscription = world.subscribe(price)
    if quantity != "0":
        world.report(quantity)
    world.to(end_of(subscription) + 2 * 3600)
    (invoice,) = [one for one in world.invoices() if one["billing_reason"] == "subscription_cycle"]
    assert invoice["status"] == "paid"
    lines: list[Json] = world.api.get(f"invoices/{invoice['id']}/lines", {"limit": 100})["data"]
    assert invoice["total"] == sum(line["amount"] for line in lines)
    return lines


def shown(lines: list[Json]) -> list[tuple[str, str | None, int]]:
    """Quantity, unit amount and amount of each line."""
    return [
        (line["quantity_decimal"], line["pricing"]["unit_amount_decimal"], line["amount"]) for line in lines
    ]


def test_a_graduated_price_makes_a_line_for_each_tier_that_is_reached(world: World) -> None:
    lines = billed(world, tiered(world, "graduated", FONTS), "6")
    assert shown(lines) == [("5", "700", 3500), ("1", "650", 650)]
    assert len({line["id"] for line in lines}) == 2
    assert all(object_errors("line_item", line) == [] for line in lines)


def test_a_volume_price_makes_one_line_at_the_tier_of_all_of_it(world: World) -> None:
    assert shown(billed(world, tiered(world, "volume", FONTS), "6")) == [("6", "650", 3900)]


def test_the_bound_belongs_to_its_tier(world: World) -> None:
    assert shown(billed(world, tiered(world, "volume", FONTS), "5")) == [("5", "700", 3500)]


def test_flat_fees_are_lines_of_their_own_without_a_quantity(world: World) -> None:
    lines = billed(world, tiered(world, "graduated", WITH_FEES), "12")
    assert shown(lines) == [
        ("5", "500", 2500),
        ("0", None, 1000),
        ("5", "400", 2000),
        ("0", None, 2000),
        ("2", "300", 600),
        ("0", None, 3000),
    ]


def test_volume_bills_the_flat_fee_of_one_tier(world: World) -> None:
    lines = billed(world, tiered(world, "volume", WITH_FEES), "12")
    assert shown(lines) == [("12", "300", 3600), ("0", None, 3000)]


@pytest.mark.parametrize("mode", ["graduated", "volume"])
def test_nothing_used_is_billed_the_first_flat_fee(world: World, mode: str) -> None:
    assert shown(billed(world, tiered(world, mode, WITH_FEES), "0")) == [("0", "500", 0), ("0", None, 1000)]


def test_a_line_is_rounded_by_itself_half_a_unit_up(world: World) -> None:
    tiers = [
        {"up_to": 1000, "unit_amount": 0, "flat_amount": 900},
        {"up_to": INF, "unit_amount_decimal": "3.6"},
    ]
    lines = billed(world, tiered(world, "graduated", tiers), "1031.25")
    assert shown(lines) == [("1000", "0", 0), ("0", None, 900), ("31.25", "3.6", 113), ("0", None, 0)]


def test_what_divides_quantities_bills_packages(world: World) -> None:
    assert shown(billed(world, metered(world, **HOURS), "150")) == [("150", "1000", 3000)]


def test_the_other_reading_shows_the_packages(clock: ManualClock) -> None:
    settings = StripeSettings(seed=1, undocumented=Undocumented(lines_show_packages=True))
    stripe = StripeSandbox(clock, settings, timer=clock)
    world = World(stripe, clock)
    assert shown(billed(world, metered(world, **HOURS), "150")) == [("3", "1000", 3000)]


def test_rounded_down(world: World) -> None:
    down = {"unit_amount": 1000, "transform_quantity": {"divide_by": 60, "round": "down"}}
    assert shown(billed(world, metered(world, **down), "150")) == [("150", "1000", 2000)]


@pytest.mark.parametrize("currency", ["jpy", "kwd"])
def test_amounts_are_in_the_minor_unit_of_whatever_currency(world: World, currency: str) -> None:
    params = metered(world, currency=currency, unit_amount_decimal="0.000000000005")
    assert shown(billed(world, params, "100000000000")) == [("100000000000", "0.000000000005", 1)]


def test_a_trial_is_one_free_line(world: World) -> None:
    price = world.api.post("prices", tiered(world, "graduated", WITH_FEES))
    trial_end = world.clock() + 3600 * 24
    world.subscribe(price, trial_end=trial_end)
    world.report("12")
    world.to(trial_end + 1)
    (line,) = world.lines(world.invoices()[0])
    assert (line["amount"], line["quantity_decimal"]) == (0, "12")
    assert line["description"].startswith("Free trial")


def test_a_licensed_price_has_tiers_as_well(world: World) -> None:
    params = tiered(world, "graduated", FONTS, recurring={"interval": "month"})
    price = world.api.post("prices", params)
    world.subscribe(items=[{"price": price["id"], "quantity": 6}])
    assert shown(world.lines(world.invoices()[0])) == [("5", "700", 3500), ("1", "650", 650)]


def test_lines_beyond_the_embedded_ones_are_on_further_pages(world: World) -> None:
    tiers = [{"up_to": number, "unit_amount": 1} for number in range(1, 12)]
    lines = billed(world, tiered(world, "graduated", [*tiers, {"up_to": INF, "unit_amount": 1}]), "20")
    assert len(lines) == 12
    (invoice, *_) = world.invoices()
    assert (len(invoice["lines"]["data"]), invoice["lines"]["has_more"]) == (10, True)


def test_a_drafts_lines_keep_their_ids(world: World, stripe: StripeSandbox) -> None:
    price = world.api.post("prices", tiered(world, "graduated", FONTS))
    subscription = world.subscribe(price)
    world.to(end_of(subscription) + 1)
    (draft,) = [one for one in world.invoices() if one["status"] == "draft"]
    (first,) = world.lines(draft)
    world.report("7", end_of(subscription) - 1)
    world.to(end_of(subscription) + 2 * 3600)
    assert [line["id"] for line in world.lines(draft)] == [first["id"], f"{first['id']}2"]


def test_tiers_are_shown_to_who_asks_for_them(world: World) -> None:
    params = tiered(world, "graduated", [{"up_to": 5, "flat_amount_decimal": "999"}, FONTS[-1]])
    made = world.api.post("prices", {**params, "expand": ["tiers"]})
    assert made["tiers"] == [
        {
            "flat_amount": 999,
            "flat_amount_decimal": "999",
            "unit_amount": None,
            "unit_amount_decimal": None,
            "up_to": 5,
        },
        {
            "flat_amount": None,
            "flat_amount_decimal": None,
            "unit_amount": 600,
            "unit_amount_decimal": "600",
            "up_to": None,
        },
    ]
    plain = world.api.get(f"prices/{made['id']}")
    assert "tiers" not in plain
    assert (plain["billing_scheme"], plain["tiers_mode"]) == ("tiered", "graduated")
    assert (plain["unit_amount"], plain["unit_amount_decimal"]) == (None, None)
    assert object_errors("price", made) == []
    (listed, *_) = world.api.get("prices", {"expand": ["data.tiers"]})["data"]
    assert listed["tiers"] == made["tiers"]
    subscription = world.subscribe(made)
    asked = {"expand": ["items.data.price.tiers"]}
    (item,) = world.api.get(f"subscriptions/{subscription['id']}", asked)["items"]["data"]
    assert item["price"]["tiers"] == made["tiers"]


def test_a_price_per_unit_has_none_to_show(world: World) -> None:
    shown = world.api.get(f"prices/{world.price['id']}", {"expand": ["tiers"]})
    assert "tiers" not in shown
    assert shown["billing_scheme"] == "per_unit"


def test_currency_options_are_shown_when_asked_for(world: World) -> None:
    path = f"prices/{world.price['id']}"
    shown = world.api.get(path, {"expand": ["currency_options"]})
    assert "currency_options" not in world.api.get(path)
    assert shown["currency_options"].keys() == {shown["currency"]}
    assert shown["currency_options"][shown["currency"]]["unit_amount"] == shown["unit_amount"]
    assert object_errors("price", shown) == []


def test_the_default_price_of_a_product_is_not_archived(world: World) -> None:
    path = f"prices/{world.price['id']}"
    world.api.post(f"products/{world.product['id']}", {"default_price": world.price["id"]})
    assert world.api.error("POST", path, {"active": False})["status"] == 400
    other = world.new_price("20")
    world.api.post(f"products/{world.product['id']}", {"default_price": other["id"]})
    assert world.api.post(path, {"active": False})["active"] is False


def test_packages_are_shown(world: World) -> None:
    shown = world.api.post("prices", metered(world, **HOURS))
    assert shown["transform_quantity"] == {"divide_by": 60, "round": "up"}
    assert object_errors("price", shown) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tiers": [{"up_to": 5, "unit_amount": 1}]}, "must include a catch all tier"),
        ({"tiers": [FONTS[-1], {"up_to": INF, "unit_amount": 1}]}, "Only the last tier"),
        ({"tiers": [FONTS[1], FONTS[0], FONTS[2]]}, "ascending"),
        ({"tiers": [FONTS[0], FONTS[0], FONTS[2]]}, "ascending"),
        ({"tiers": [{"up_to": INF}]}, "An entry in the tiers array is missing an amount."),
        ({"tiers": [{"unit_amount": 1}]}, "Missing required param: tiers[0][up_to]"),
        ({"tiers": [{"up_to": 0, "unit_amount": 1}, FONTS[2]]}, "greater than or equal to 1"),
        ({"tiers": [{"up_to": 1.5, "unit_amount": 1}, FONTS[2]]}, "Invalid integer"),
        ({"tiers": [{"up_to": INF, "unit_amount": 1, "unit_amount_decimal": "1"}]}, "only specify one"),
        ({"tiers": [{"up_to": INF, "flat_amount": 1, "flat_amount_decimal": "1"}]}, "only specify one"),
        ({"tiers": [{"up_to": INF, "flat_amount_decimal": "0.5"}]}, "whole number"),
        ({"tiers": [{"up_to": INF, "unit_amount": -1}]}, "greater than or equal to 0"),
        ({"tiers": [{"up_to": INF, "unit_amount_decimal": "0.0000000000001"}]}, "12 decimal places"),
        ({"unit_amount": 1}, "only specify one of these parameters: tiers, unit_amount."),
        ({"transform_quantity": HOURS["transform_quantity"]}, "tiers, transform_quantity."),
        ({"tiers_mode": None}, "Missing required param: tiers_mode"),
        ({"tiers": None}, "Missing required param: tiers"),
        ({"recurring": None}, "paid once"),
        ({"billing_scheme": "per_unit"}, "requires `billing_scheme`"),
        ({"billing_scheme": None, "tiers": None, "unit_amount": 1}, "requires `billing_scheme`"),
    ],
)
def test_what_tiers_do_not_go_with(world: World, params: Mapping[str, Any], message: str) -> None:
    asked = {**tiered(world, "graduated", FONTS), **params}
    given = {name: value for name, value in asked.items() if value is not None}
    error = world.api.error("POST", "prices", given)
    assert error["status"] == 400
    assert message in error["message"]


@pytest.mark.parametrize(
    "transform",
    [
        {"divide_by": 0, "round": "up"},
        {"divide_by": 2.5, "round": "up"},
        {"divide_by": 2, "round": "nearest"},
        {"divide_by": 2},
        {"round": "up"},
    ],
)
def test_packages_are_checked(world: World, transform: Mapping[str, Any]) -> None:
    params = metered(world, unit_amount=1, transform_quantity=transform)
    assert world.api.error("POST", "prices", params)["status"] == 400


def test_before_basil_the_lines_are_the_same(world: World) -> None:
    billed(world, tiered(world, "graduated", WITH_FEES), "12")
    lines = world.api.get("invoices", version=ACACIA)["data"][0]["lines"]["data"]
    assert [(line["quantity"], line["amount"]) for line in lines][:2] == [(5, 2500), (0, 1000)]
    assert lines[0]["price"]["billing_scheme"] == "tiered"


def test_what_is_asked_here_is_in_stripes_spec(world: World, stripe: StripeSandbox) -> None:
    world.api.post("prices", tiered(world, "volume", WITH_FEES, expand=["tiers"]))
    world.api.post("prices", metered(world, **HOURS))
    for request in stripe.log.requests:
        assert request_errors(request.method, request.path, request.params) == []
