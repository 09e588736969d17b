"""What Stripe charges for a quantity at a price: per unit, by tiers, or by packages; and money as text. Pure.

Amounts are in the currency's minor unit, e.g. cents, as in Stripe's API ("Supported currencies", "Minor units
in API amounts"). Discounts, credits and taxes are not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal, InvalidOperation, localcontext
from typing import Any

from usage_reporting.amounts import ZERO
from usage_reporting.errors import RefusedError

Json = dict[str, Any]

TIERS = "tiers"
"""What a price has to be asked with (`expand[]`), so that it shows its tiers."""

_DIGITS = 60
"""A quantity of 15 digits times an amount with 12 decimals must not lose any."""

_NO_DECIMALS = frozenset(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf")
)
"""Stripe's list has UGX, too, but under "Special cases" says that 5 UGX is an amount of 500; so is ISK."""
_THREE_DECIMALS = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))
_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "krw": "₩"}


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Units up to and including `up_to` (None: no end), and a fee for reaching them."""

    up_to: Decimal | None
    unit_amount: Decimal
    flat_amount: Decimal


@dataclass(frozen=True, slots=True)
class Pricing:
    """The parts of a price that decide what it charges."""

    currency: str
    unit_amount: Decimal = ZERO
    """For a unit, or where the price divides quantities for a package; without tiers."""
    divide_by: int = 0
    """Units in a package; 0: the price charges single units."""
    rounds_up: bool = False
    """Whether a package that was begun is charged."""
    tiers: tuple[PriceTier, ...] = ()
    is_graduated: bool = False
    """Whether each tier charges its part; else the one that holds all of it charges all."""

    @classmethod
    def of(cls, price: Json) -> Pricing:
        """Read a price that was asked for with its tiers. Raises RefusedError for one that has no amounts."""
        try:
            return _read(price)
        except (KeyError, TypeError, ValueError, InvalidOperation) as error:
            raise RefusedError(
                f"price {price.get('id')} has no amounts that can be reckoned with ({error!r})"
            ) from error

    def amount(self, quantity: Decimal) -> Decimal:
        """What a period's quantity is charged, in whole minor units; one below zero as zero.

        Each line of the invoice is rounded by itself, half a minor unit up (Stripe's page "Decimal amounts
        for pricing", "Rounding"); each tier and each flat fee has a line.
        """
        with localcontext(prec=_DIGITS):
            owed = max(quantity, ZERO)
            if self.tiers:
                return self._of_tiers(owed)
            counted = self.packages(owed) if self.divide_by else owed
            return _rounded(counted * self.unit_amount)

    def packages(self, quantity: Decimal) -> Decimal:
        """How many packages a quantity is charged as (Stripe's page "Transform quantities")."""
        rounding = ROUND_CEILING if self.rounds_up else ROUND_FLOOR
        with localcontext(prec=_DIGITS):
            return (quantity / self.divide_by).to_integral_value(rounding)

    def _of_tiers(self, quantity: Decimal) -> Decimal:
        if not self.is_graduated:
            tier = next(one for one in self.tiers if one.up_to is None or quantity <= one.up_to)
            return _rounded(quantity * tier.unit_amount) + _rounded(tier.flat_amount)
        total, bottom = ZERO, ZERO
        for number, tier in enumerate(self.tiers):
            above = quantity - bottom
            # The first tier's flat fee is charged for nothing at all, too ("Adding flat fees").
            if number and above <= 0:
                break
            part = above if tier.up_to is None else min(above, tier.up_to - bottom)
            total += _rounded(part * tier.unit_amount) + _rounded(tier.flat_amount)
            bottom += part
        return total


def decimals_of(currency: str) -> int:
    """How many decimals a currency's amounts have (Stripe's page "Supported currencies")."""
    code = currency.lower()
    return 0 if code in _NO_DECIMALS else 3 if code in _THREE_DECIMALS else 2


def to_minor(amount: Decimal, currency: str) -> Decimal:
    """An amount in the currency's major unit, e.g. dollars, in its minor unit."""
    return amount.scaleb(decimals_of(currency))


def to_major(amount: Decimal, currency: str) -> Decimal:
    """An amount in the currency's minor unit in its major unit, with all of its decimals."""
    decimals = decimals_of(currency)
    return amount.scaleb(-decimals).quantize(Decimal(1).scaleb(-decimals))


def money(amount: Decimal, currency: str, *, signed: bool = False) -> str:
    """An amount in the minor unit as text: `$12.34`, `-¥1,200`, `1.250 KWD`; `signed`: with a plus, too."""
    sign = "-" if amount < 0 else "+" if signed and amount > 0 else ""
    number = f"{to_major(abs(amount), currency):,f}"
    symbol = _SYMBOLS.get(currency.lower())
    return f"{sign}{symbol}{number}" if symbol else f"{sign}{number} {currency.upper()}"


def _read(price: Json) -> Pricing:
    currency = str(price["currency"])
    if price.get("billing_scheme") == "tiered":
        tiers = tuple(_tier(tier) for tier in price[TIERS])
        if not tiers or tiers[-1].up_to is not None:
            raise ValueError("its last tier has an end")
        return Pricing(currency, tiers=tiers, is_graduated=price["tiers_mode"] == "graduated")
    unit_amount = Decimal(price["unit_amount_decimal"])
    transform = price.get("transform_quantity")
    if not transform:
        return Pricing(currency, unit_amount)
    return Pricing(currency, unit_amount, int(transform["divide_by"]), transform["round"] == "up")


def _tier(tier: Json) -> PriceTier:
    up_to = tier.get("up_to")
    return PriceTier(
        up_to=None if up_to is None else Decimal(up_to),
        unit_amount=Decimal(tier.get("unit_amount_decimal") or 0),
        flat_amount=Decimal(tier.get("flat_amount_decimal") or 0),
    )


def _rounded(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal(1), ROUND_HALF_UP)
