"""Prices of tiers and packages: reported as any other, and judged though their invoices look different."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from sandbox.stripe.undocumented import Undocumented
from tests.integration.test_verdict import END, FINAL, START, closed, verdicts
from tests.integration.world import HOUR, MINUTE, World
from usage_reporting.renewals import INVOICE_FINALIZED

TIERS = [
    {"up_to": 5, "unit_amount": 500, "flat_amount": 1000},
    {"up_to": "inf", "unit_amount_decimal": "0.5"},
]
GRADUATED: dict[str, Any] = {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": TIERS}
VOLUME: dict[str, Any] = {**GRADUATED, "tiers_mode": "volume"}
PACKAGES: dict[str, Any] = {"unit_amount": 1000, "transform_quantity": {"divide_by": 60, "round": "up"}}


def used(world: World, price: dict[str, Any], units: str) -> str:
    """A period with usage of a price, up to its draft; the subscription."""
    world.clock.set(START)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    subscription = world.subscription(world.metered_price(**price)[0])
    world.use(str(subscription.customer), START + MINUTE, units)
    return str(subscription.id)


@pytest.mark.parametrize(
    ("price", "units", "lines"),
    [(GRADUATED, "150.5", 4), (GRADUATED, "3", 2), (VOLUME, "150.5", 2), (PACKAGES, "150.5", 1)],
)
def test_all_lines_of_a_price_are_judged_as_one(
    world: World, counted: dict[str, float], price: dict[str, Any], units: str, lines: int
) -> None:
    subscription = used(world, price, units)
    closed(world)

    assert [told.status for told in world.deliver()] == ["exact"]

    assert len(world.billed(subscription)) == lines
    [line] = verdicts(world)
    assert (line["verdict"], line["quantity"], line["metered"]) == ("exact", Decimal(units), Decimal(units))
    assert counted["VerdictExact"] == 1


@pytest.mark.parametrize("price", [GRADUATED, VOLUME, PACKAGES])
def test_what_came_late_is_short_by_its_units(
    world: World, counted: dict[str, float], price: dict[str, Any]
) -> None:
    used(world, price, "150")
    closed(world)
    customer = world.client.v1.customers.list().data[0].id
    world.use(customer, START + HOUR, 3)

    assert [told.status for told in world.deliver()] == ["short"]

    [line] = verdicts(world)
    assert (line["quantity"], line["metered"], line["causes"]) == (150, 153, {"late": 3})


def test_a_line_that_shows_packages_is_judged_in_packages(world: World, counted: dict[str, float]) -> None:
    world.stripe.change_settings(undocumented=Undocumented(lines_show_packages=True))
    used(world, PACKAGES, "150")
    closed(world)
    assert [told.status for told in world.deliver()] == ["exact"]
    [line] = verdicts(world)
    assert (line["quantity"], line["metered"]) == (3, 3)


def test_a_trial_of_tiers_is_free(world: World, counted: dict[str, float]) -> None:
    world.clock.set(START)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    subscription = world.subscription(world.metered_price(**GRADUATED)[0], trial_end=END)
    world.use(str(subscription.customer), START + MINUTE, 7)
    world.travel(END + 16)
    world.tick("closing")
    world.use(str(subscription.customer), START + HOUR, 1)
    world.travel(FINAL)
    assert [told.status for told in world.deliver()][-1] == "free"
