"""What a price charges for a quantity: the line items that Stripe makes of it.

Amounts are in the currency's minor unit; each line item is rounded by itself, half a unit up (Decimal amounts
for pricing, "Rounding"). A tier that is reached makes a line item of its own, and where the price has flat
fees a second one of quantity 0: no page says so, but real invoices of graduated prices look like that. How
tiers divide a quantity with decimals is not documented either; here a tier goes up to its bound exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal, localcontext

from sandbox.stripe.objects import Charge, Price, Tier, TransformQuantity

_ZERO = Decimal(0)


def charges_of(
    quantity: Decimal, price: Price, name: str, *, shows_packages: bool = False
) -> tuple[Charge, ...]:
    """The line items for a quantity of at least 0; `name`: of the product.

    `shows_packages`: whether the line of a price of packages has their number as its quantity.
    """
    with localcontext(prec=60):
        if price.tiers:
            return tuple(_of_tiers(quantity, price, name))
        unit_amount = price.unit_amount or _ZERO
        counted = (
            quantity if price.transform_quantity is None else packages(quantity, price.transform_quantity)
        )
        shown = counted if shows_packages else quantity
        return (Charge(shown, unit_amount, _rounded(counted * unit_amount), f"{_text(shown)} x {name}"),)


def packages(quantity: Decimal, transform: TransformQuantity) -> Decimal:
    """How many packages a quantity is charged as."""
    rounding = ROUND_CEILING if transform.round == "up" else ROUND_FLOOR
    return (quantity / transform.divide_by).to_integral_value(rounding)


def _of_tiers(quantity: Decimal, price: Price, name: str) -> Iterator[Charge]:
    """Of the tiers reached; the first one is, even by nothing (How products and prices work, "flat fees")."""
    has_fees = any(tier.flat_amount is not None for tier in price.tiers)
    for number, tier, part in _reached(quantity, price):
        unit_amount = tier.unit_amount or _ZERO
        text = f"{_text(part)} x {name} (Tier {number} at {_text(unit_amount)})"
        yield Charge(part, unit_amount, _rounded(part * unit_amount), text)
        if has_fees:
            fee = tier.flat_amount or _ZERO
            yield Charge(_ZERO, None, _rounded(fee), f"{name} (Tier {number} at {_text(fee)})")


def _reached(quantity: Decimal, price: Price) -> Iterator[tuple[int, Tier, Decimal]]:
    """The tiers that charge, numbered from 1, each with how much of the quantity."""
    below = _ZERO
    for number, tier in enumerate(price.tiers, 1):
        holds_all = tier.up_to is None or quantity <= tier.up_to
        if price.tiers_mode == "graduated":
            top = quantity if tier.up_to is None else min(quantity, Decimal(tier.up_to))
            yield number, tier, top - below
            below = top
        elif holds_all:
            yield number, tier, quantity
        if holds_all:
            return


def _rounded(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def _text(value: Decimal) -> str:
    return f"{value.normalize():f}"
