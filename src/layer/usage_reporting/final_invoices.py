"""What a final invoice bills by usage: its lines, put together by item, price and period; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from usage_reporting.amounts import ZERO
from usage_reporting.customer_meters import id_of
from usage_reporting.invoices import is_of_threshold, price_of_line
from usage_reporting.windows import MINUTE

Json = dict[str, Any]

AT_ONCE = MINUTE
"""An invoice that was final so soon took no more usage than Stripe held when it was made."""

RENEWAL = "subscription_cycle"


@dataclass(frozen=True, slots=True)
class BilledLine:
    """Usage on one price in one period [start, end), UTC seconds."""

    subscription: str
    item: str
    """Empty for an invoice item: Stripe makes one for a price that was swapped or removed."""
    price: str
    start: int
    end: int
    quantity: Decimal
    final_at: int
    """0: it is not final yet, so that what it bills may still change."""
    amount: Decimal = ZERO
    """In the currency's minor unit, before discounts."""
    is_at_once: bool = False
    """Whether Stripe billed what it held, and waited for nothing."""
    is_of_threshold: bool = False
    """Whether a billing threshold made its invoice, in the course of a period."""
    is_unpriced: bool = False
    """Whether the line itself charges nothing for a unit."""
    says_trial: bool = False
    """Whether it charges nothing and says that this is for a trial."""

    @property
    def is_final(self) -> bool:
        """Whether nothing can be added to it."""
        return self.final_at != 0

    def is_free(self, price: Json) -> bool:
        """Whether it is a trial's: it says so, or its price has an amount and it charges none of it.

        A price of tiers has no amount of its own, and a tier may well be free.
        """
        own = price.get("unit_amount_decimal")
        return self.says_trial or (self.is_unpriced and own is not None and Decimal(own) != 0)

    def beside(self, other: BilledLine) -> BilledLine:
        """Both as one line: tiers of one price, and their flat fees, are billed by lines of their own."""
        return replace(
            self,
            quantity=self.quantity + other.quantity,
            amount=self.amount + other.amount,
            is_unpriced=self.is_unpriced and other.is_unpriced,
            says_trial=self.says_trial and other.says_trial,
        )


def customer_of(invoice: Json) -> str:
    """The customer who pays."""
    return id_of(invoice.get("customer"))


def is_final(invoice: Json) -> bool:
    """Whether it is to be paid as it is; a voided one is not."""
    return invoice.get("status") in {"open", "paid", "uncollectible"}


def finalized_at(invoice: Json) -> int:
    """When a final invoice became so, UTC seconds."""
    return int((invoice.get("status_transitions") or {}).get("finalized_at") or invoice["created"])


def billed_lines(invoice: Json) -> list[BilledLine]:
    """The lines of a final invoice with a price whose period is over, those of one item and period as one.

    Tiers of one price are lines of their own, each with its part of the quantity, and so are flat fees, with
    the quantity 0: no page of Stripe's says so, but its invoices show it. What a billing threshold billed
    before may be taken off again by a line of a negative amount, which is no usage, and
    the period of its own lines may go on ("Set up thresholds"). Raises KeyError, TypeError, ValueError or
    ArithmeticError where Stripe's answer is not as documented.
    """
    final_at = finalized_at(invoice)
    by_threshold = is_of_threshold(invoice)
    return [line for line in _lines(invoice, final_at) if line.end <= final_at or by_threshold]


def lines_so_far(invoice: Json) -> list[BilledLine]:
    """The lines of a draft or a preview in the same way, also of periods that go on. Raises the same."""
    return _lines(invoice, 0)


def _lines(invoice: Json, final_at: int) -> list[BilledLine]:
    by_threshold = is_of_threshold(invoice)
    is_renewal = invoice.get("billing_reason") == RENEWAL
    was_at_once = bool(final_at) and not is_renewal and final_at - invoice["created"] <= AT_ONCE
    found: dict[tuple[str, str, str, int, int], BilledLine] = {}
    for line in (invoice.get("lines") or {}).get("data", []):
        one = _billed(line, final_at, was_at_once=was_at_once)
        if one is None or one.end <= one.start:
            continue
        one = replace(one, is_of_threshold=by_threshold)
        key = (one.subscription, one.item, one.price, one.start, one.end)
        before = found.get(key)
        found[key] = one.beside(before) if before else one
    return list(found.values())


def _billed(line: Json, final_at: int, *, was_at_once: bool) -> BilledLine | None:
    parent = line.get("parent") or {}
    of_item = parent.get("subscription_item_details") or {}
    details = of_item or parent.get("invoice_item_details") or {}
    price = price_of_line(line)
    subscription = id_of(details.get("subscription"))
    is_credit = (line.get("amount") or 0) < 0
    if not price or not subscription or details.get("proration") or is_credit:
        return None
    unit_amount = (line.get("pricing") or {}).get("unit_amount_decimal")
    is_unpaid = line.get("amount") == 0
    return BilledLine(
        subscription=subscription,
        item=id_of(of_item.get("subscription_item")),
        price=price,
        start=line["period"]["start"],
        end=line["period"]["end"],
        quantity=_quantity(line),
        final_at=final_at,
        amount=Decimal(line.get("amount") or 0),
        is_at_once=was_at_once or not of_item,
        is_unpriced=is_unpaid and unit_amount is not None and Decimal(unit_amount) == 0,
        says_trial=is_unpaid and str(line.get("description") or "").startswith("Free trial"),
    )


def _quantity(line: Json) -> Decimal:
    exact = line.get("quantity_decimal")
    return Decimal(exact if exact is not None else line.get("quantity") or 0)
