"""How a price bills: per unit, by tiers, or by packages (Prices API, "Create a price").

The messages on a missing amount, on the catch-all tier and on what may not stand beside tiers are Stripe's;
the others are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sandbox.stripe.errors import invalid, malformed, missing
from sandbox.stripe.objects import Tier, TransformQuantity
from sandbox.stripe.schema import Amount, Fields, Integer, Members, Rows, choice

_INF = "inf"
_NO_CATCH_ALL = "The tiers array must include a catch all tier with up_to set to `inf` as last item"


@dataclass(frozen=True)
class _UpTo:
    """A tier's bound: a whole number from 1 on, or `inf`."""

    def parse(self, value: Any, name: str) -> int | None:
        return None if value == _INF else Integer(1).parse(value, name)


@dataclass(frozen=True)
class PriceBilling:
    """The parts of a price that decide what it charges."""

    unit_amount: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    tiers_mode: str | None = None
    transform_quantity: TransformQuantity | None = None


_TIER = Fields(
    {
        "up_to*": _UpTo(),
        "unit_amount": Integer(0),
        "unit_amount_decimal": Amount(),
        "flat_amount": Integer(0),
        "flat_amount_decimal": Amount(),
    }
)
BILLING: Members = {
    "billing_scheme": choice("per_unit", "tiered"),
    "unit_amount": Integer(0),
    "unit_amount_decimal": Amount(),
    "tiers": Rows(_TIER, min_rows=1),
    "tiers_mode": choice("graduated", "volume"),
    "transform_quantity": Fields({"divide_by*": Integer(1), "round*": choice("down", "up")}),
}


def billing_of(params: Mapping[str, Any]) -> PriceBilling:
    """How the price of these parameters bills; raises StripeError (400) for what does not go together."""
    if params.get("billing_scheme") == "tiered":
        return _tiered(params)
    for name in ("tiers", "tiers_mode"):
        if name in params:
            raise malformed(f"`{name}` requires `billing_scheme` to be `tiered`.", name)
    unit_amount = _amount(params, "unit_amount")
    if unit_amount is None:
        raise malformed("One of `unit_amount` and `unit_amount_decimal` is required.", "unit_amount")
    transform = params.get("transform_quantity")
    return PriceBilling(unit_amount, transform_quantity=TransformQuantity(**transform) if transform else None)


def _tiered(params: Mapping[str, Any]) -> PriceBilling:
    for name in ("unit_amount", "unit_amount_decimal", "transform_quantity"):
        if name in params:
            raise malformed(f"You may only specify one of these parameters: tiers, {name}.", "tiers")
    for name in ("tiers", "tiers_mode"):
        if name not in params:
            raise missing(name)
    if "recurring" not in params:
        raise invalid("A price that is paid once cannot have tiers.", "billing_scheme")
    tiers = tuple(_tier(row, f"tiers[{number}]") for number, row in enumerate(params["tiers"]))
    _check_bounds([tier.up_to for tier in tiers])
    return PriceBilling(tiers=tiers, tiers_mode=params["tiers_mode"])


def _tier(row: Mapping[str, Any], name: str) -> Tier:
    unit_amount, flat_amount = (_amount(row, kind, name) for kind in ("unit_amount", "flat_amount"))
    if unit_amount is None and flat_amount is None:
        raise invalid("An entry in the tiers array is missing an amount.", "tiers")
    if flat_amount is not None and flat_amount != flat_amount.to_integral_value():
        raise invalid("A flat amount is a whole number of minor units.", f"{name}[flat_amount_decimal]")
    return Tier(row["up_to"], unit_amount, flat_amount)


def _check_bounds(bounds: Sequence[int | None]) -> None:
    *inner, last = bounds
    if last is not None:
        raise invalid(_NO_CATCH_ALL, "tiers")
    finite = [bound for bound in inner if bound is not None]
    if len(finite) < len(inner):
        raise invalid("Only the last tier can go up to `inf`.", "tiers")
    if finite != sorted(set(finite)):
        raise invalid("The tiers must be in ascending order of `up_to`.", "tiers")


def _amount(params: Mapping[str, Any], name: str, within: str = "") -> Decimal | None:
    """An amount in the minor unit, given as an integer or as a decimal, not as both."""
    given = [params[key] for key in (name, f"{name}_decimal") if key in params]
    if len(given) > 1:
        path = f"{within}[{name}]" if within else name
        raise malformed(f"You may only specify one of these parameters: {name}, {name}_decimal.", path)
    return Decimal(given[0]) if given else None
