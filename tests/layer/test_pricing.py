"""What Stripe charges: the worked examples of its published pages, and what must hold of any price."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layer.builders import D
from usage_reporting.errors import RefusedError
from usage_reporting.pricing import Pricing, decimals_of, money, to_major, to_minor

Json = dict[str, Any]


def per_unit(amount: str, currency: str = "usd", **rest: Any) -> Json:
    """A price as Stripe shows it; amounts in the minor unit."""
    return {
        "id": "price_1",
        "currency": currency,
        "billing_scheme": "per_unit",
        "unit_amount_decimal": amount,
        "transform_quantity": None,
        **rest,
    }


def tiered(mode: str, *tiers: tuple[int | None, str | None, str | None]) -> Json:
    """A price of tiers: the bound, the amount of a unit, the flat fee."""
    return {
        "id": "price_1",
        "currency": "usd",
        "billing_scheme": "tiered",
        "tiers_mode": mode,
        "unit_amount_decimal": None,
        "tiers": [
            {"up_to": up_to, "unit_amount_decimal": unit, "flat_amount_decimal": flat}
            for up_to, unit, flat in tiers
        ],
    }


FONTS = ((5, "700", None), (10, "650", None), (None, "600", None))
FALLING = ((5, "500", None), (10, "400", None), (15, "300", None), (20, "200", None), (None, "100", None))
WITH_FEES = (
    (5, "500", "1000"),
    (10, "400", "2000"),
    (15, "300", "3000"),
    (20, "200", "4000"),
    (None, "100", "5000"),
)
CREDITS = ((1000, "0", "900"), (None, "3.6", "0"))
CAR = per_unit("1000", transform_quantity={"divide_by": 60, "round": "up"})
SEATS = per_unit("1000", transform_quantity={"divide_by": 5, "round": "up"})


@pytest.mark.parametrize(
    ("page", "price", "quantity", "dollars"),
    [
        ("Set up tiered pricing: volume", tiered("volume", *FONTS), "1", "7"),
        ("Set up tiered pricing: volume", tiered("volume", *FONTS), "5", "35"),
        ("Set up tiered pricing: volume", tiered("volume", *FONTS), "6", "39"),
        ("Set up tiered pricing: volume", tiered("volume", *FONTS), "20", "120"),
        ("Set up tiered pricing: volume", tiered("volume", *FONTS), "25", "150"),
        ("Set up tiered pricing: graduated", tiered("graduated", *FONTS), "5", "35"),
        ("How products and prices work: graduated", tiered("graduated", *FONTS), "6", "41.50"),
        ("How products and prices work: graduated", tiered("graduated", *FALLING), "1", "5"),
        ("How products and prices work: graduated", tiered("graduated", *FALLING), "5", "25"),
        ("How products and prices work: graduated", tiered("graduated", *FALLING), "6", "29"),
        ("How products and prices work: graduated", tiered("graduated", *FALLING), "20", "70"),
        ("How products and prices work: graduated", tiered("graduated", *FALLING), "25", "75"),
        ("How products and prices work: flat fees", tiered("volume", *WITH_FEES), "12", "66"),
        ("How products and prices work: flat fees", tiered("graduated", *WITH_FEES), "12", "111"),
        ("How products and prices work: flat fees", tiered("volume", *WITH_FEES), "0", "10"),
        ("How products and prices work: flat fees", tiered("graduated", *WITH_FEES), "0", "10"),
        ("Transform quantities", CAR, "150", "30"),
        ("Quantity transformation", SEATS, "1", "10"),
        ("Quantity transformation", SEATS, "5", "10"),
        ("Quantity transformation", SEATS, "6", "20"),
        ("Quantity transformation", SEATS, "7", "20"),
        ("Decimal amounts for pricing: rounding", per_unit("0.05"), "30", "0.02"),
        ("Model usage-based pricing: licensed usage", per_unit("1500"), "3", "45"),
        (
            "a paid invoice of 2022, with a line for each tier and fee",
            tiered("graduated", *CREDITS),
            "1031",
            "10.12",
        ),
    ],
)
def test_stripes_published_examples(page: str, price: Json, quantity: str, dollars: str) -> None:
    assert Pricing.of(price).amount(D(quantity)) == to_minor(D(dollars), "usd"), page


@pytest.mark.parametrize(("round_", "packages"), [("up", 3), ("down", 2)])
def test_packages_are_rounded_as_the_price_says(round_: str, packages: int) -> None:
    pricing = Pricing.of(per_unit("1000", transform_quantity={"divide_by": 60, "round": round_}))
    assert pricing.packages(D("150")) == packages
    assert pricing.amount(D("150")) == packages * 1000


@pytest.mark.parametrize(
    "price", [per_unit("10"), CAR, tiered("volume", *FONTS), tiered("graduated", *FONTS)]
)
def test_a_total_below_zero_is_charged_as_zero(price: Json) -> None:
    assert Pricing.of(price).amount(D("-3")) == 0


def test_tiers_divide_decimals_where_they_end() -> None:
    assert Pricing.of(tiered("graduated", *FONTS)).amount(D("5.5")) == 3500 + 325
    assert Pricing.of(tiered("volume", *FONTS)).amount(D("5.5")) == 3575


def test_no_digit_is_lost() -> None:
    price = per_unit("0.000000000005")
    assert Pricing.of(price).amount(D("900000000000000")) == 4500
    assert Pricing.of(price).amount(D("99999999999.9999")) == 0


@pytest.mark.parametrize(
    "price",
    [
        per_unit("10", unit_amount_decimal=None),
        {key: value for key, value in tiered("volume", *FONTS).items() if key != "tiers"},
        tiered("volume"),
        tiered("volume", (5, "1", None)),
        {"id": "price_1"},
        per_unit("much"),
    ],
)
def test_a_price_without_amounts_is_refused(price: Json) -> None:
    with pytest.raises(RefusedError, match="price_1 has no amounts"):
        Pricing.of(price)


amounts = st.decimals(min_value=0, max_value=D("1000"), places=4)
quantities = st.decimals(min_value=0, max_value=D("1000"), places=3)
steps = st.lists(st.tuples(st.integers(1, 50), amounts, st.integers(0, 500)), max_size=5)


def pricing_of(mode: str, tiers: list[tuple[int, Decimal, int]], rest: Decimal) -> Pricing:
    bound = 0
    made: list[tuple[int | None, str | None, str | None]] = []
    for width, unit, flat in tiers:
        bound += width
        made.append((bound, str(unit), str(flat)))
    return Pricing.of(tiered(mode, *made, (None, str(rest), None)))


@given(steps, amounts, quantities, quantities)
def test_more_usage_never_costs_less_by_graduated_tiers(
    tiers: list[tuple[int, Decimal, int]], rest: Decimal, one: Decimal, other: Decimal
) -> None:
    pricing = pricing_of("graduated", tiers, rest)
    assert pricing.amount(min(one, other)) <= pricing.amount(max(one, other))


@given(st.sampled_from(["graduated", "volume"]), amounts, quantities)
def test_a_single_tier_is_a_price_per_unit(mode: str, unit: Decimal, quantity: Decimal) -> None:
    assert pricing_of(mode, [], unit).amount(quantity) == Pricing.of(per_unit(str(unit))).amount(quantity)


@given(st.lists(st.integers(1, 50), max_size=5), amounts, quantities)
def test_tiers_of_one_amount_charge_all_of_a_quantity_once(
    widths: list[int], unit: Decimal, quantity: Decimal
) -> None:
    tiers = [(width, unit, 0) for width in widths]
    exact = quantity * unit
    assert abs(pricing_of("graduated", tiers, unit).amount(quantity) - exact) <= D("0.5") * (len(tiers) + 1)
    assert abs(pricing_of("volume", tiers, unit).amount(quantity) - exact) <= D("0.5")


@given(st.integers(1, 1000), st.sampled_from(["up", "down"]), quantities)
def test_packages_hold_the_quantity(divide_by: int, round_: str, quantity: Decimal) -> None:
    transform = {"divide_by": divide_by, "round": round_}
    packages = Pricing.of(per_unit("1", transform_quantity=transform)).packages(quantity)
    assert packages == int(packages)
    assert -divide_by < packages * divide_by - quantity < divide_by
    assert (packages * divide_by >= quantity) is (round_ == "up" or packages * divide_by == quantity)


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("1234", "usd", "$12.34"),
        ("-5", "usd", "-$0.05"),
        ("0", "usd", "$0.00"),
        ("123456789", "eur", "€1,234,567.89"),
        ("1200", "jpy", "¥1,200"),
        ("1250", "kwd", "1.250 KWD"),
        ("500", "ugx", "5.00 UGX"),
        ("1234", "CHF", "12.34 CHF"),
    ],
)
def test_money_reads_as_people_write_it(amount: str, currency: str, text: str) -> None:
    assert money(D(amount), currency) == text


def test_a_difference_shows_its_sign() -> None:
    assert [money(D(amount), "usd", signed=True) for amount in ("5", "-5", "0")] == [
        "+$0.05",
        "-$0.05",
        "$0.00",
    ]


@pytest.mark.parametrize(("currency", "decimals"), [("usd", 2), ("JPY", 0), ("bhd", 3), ("isk", 2)])
def test_the_major_unit_and_back(currency: str, decimals: int) -> None:
    assert decimals_of(currency) == decimals
    assert to_minor(D("1.5"), currency) == D("1.5") * 10**decimals
    assert to_major(to_minor(D("7"), currency), currency) == 7
