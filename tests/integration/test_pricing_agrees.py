"""The product and Stripe's stand-in each reckon what a price charges in their own way, and agree."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from sandbox.clock import ManualClock
from sandbox.stripe import DEFAULT_API_VERSION, StripeSandbox
from sandbox.stripe.charges import charges_of
from sandbox.stripe.objects import Price, Tier, TransformQuantity
from sandbox.stripe.render_values import price_json, tiers_json
from sandbox.stripe.versions import ApiVersion
from usage_reporting.pricing import Pricing

ACCOUNT = StripeSandbox(ManualClock(0)).account
VERSION = ApiVersion(DEFAULT_API_VERSION)

amounts = st.decimals(min_value=0, max_value=Decimal(10_000), places=12)
fees = st.none() | st.integers(0, 100_000).map(Decimal)
bounds = st.lists(st.integers(1, 500), unique=True, max_size=5).map(sorted)
tiers = bounds.flatmap(
    lambda ends: st.tuples(*(st.builds(Tier, st.just(end), amounts, fees) for end in [*ends, None]))
)
transforms = st.builds(TransformQuantity, st.integers(1, 1000), st.sampled_from(["up", "down"]))
quantities = st.integers(0, 600).map(Decimal) | st.decimals(min_value=0, max_value=Decimal(10**6), places=9)


def price_of(*, unit_amount: Decimal | None = None, **how: object) -> Price:
    made = Price("price_1", 0, "prod_1", "usd", unit_amount)
    for name, value in how.items():
        setattr(made, name, value)
    return made


def agree(price: Price, quantity: Decimal) -> None:
    shown = {**price_json(ACCOUNT, price, VERSION), "tiers": tiers_json(price)}
    billed = sum(charge.amount for charge in charges_of(quantity, price, "Usage"))
    assert Pricing.of(shown).amount(quantity) == billed


@given(tiers, st.sampled_from(["graduated", "volume"]), quantities)
def test_on_tiers(of_price: tuple[Tier, ...], mode: str, quantity: Decimal) -> None:
    agree(price_of(tiers=of_price, tiers_mode=mode), quantity)


@given(amounts, st.none() | transforms, quantities)
def test_on_units_and_packages(
    unit_amount: Decimal, transform: TransformQuantity | None, quantity: Decimal
) -> None:
    agree(price_of(unit_amount=unit_amount, transform_quantity=transform), quantity)
