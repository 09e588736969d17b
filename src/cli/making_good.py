"""Words the credit note, or the invoice item, that makes a final invoice right; a person makes it.

The amounts are before discounts and taxes, as on the invoice's lines.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.billing import Billing
from usage_reporting.errors import RefusedError, UsageReportingError
from usage_reporting.invoices import price_of_line
from usage_reporting.package_lines import COUNTED_IN_PACKAGES
from usage_reporting.pricing import Pricing, money
from usage_reporting.verdict import Cause, Finding, JudgedLine
from usage_reporting.windows import rfc3339

Json = dict[str, Any]

DASHBOARD = "https://dashboard.stripe.com"


@dataclass(frozen=True, slots=True)
class MakingGood:
    """A call of Stripe's API that nobody has made yet; `amount` in the currency's minor unit."""

    what: str
    """`credit note` or `invoice item`."""
    invoice: str
    customer: str
    units: Decimal
    amount: Decimal
    currency: str
    description: str
    path: str
    params: Json
    is_live: bool
    remarks: Sequence[str] = ()
    """What a person has to know before it is made."""

    @property
    def money(self) -> str:
        """The amount as text."""
        return money(self.amount, self.currency)

    @property
    def command(self) -> str:
        """The call for the Stripe CLI."""
        options = [f"-d {shlex.quote(f'{name}={value}')}" for name, value in form(self.params)]
        return " ".join([f"stripe post {self.path}", *options, *(["--live"] if self.is_live else [])])

    @property
    def page(self) -> str:
        """Where it is made in the Dashboard."""
        base = DASHBOARD if self.is_live else f"{DASHBOARD}/test"
        of_invoice = self.path == "/v1/credit_notes"
        return f"{base}/invoices/{self.invoice}" if of_invoice else f"{base}/customers/{self.customer}"

    def to_json(self) -> Json:
        """All of it; amounts are texts."""
        return {
            "what": self.what,
            "invoice": self.invoice,
            "stripe_customer": self.customer,
            "units": to_wire(self.units),
            "amount": to_wire(self.amount),
            "currency": self.currency,
            "description": self.description,
            "api": {"method": "POST", "path": self.path, "params": self.params},
            "command": self.command,
            "dashboard": self.page,
            "remarks": list(self.remarks),
        }


def form(params: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Parameters as Stripe's API takes them in a form: `lines[0][amount]`."""
    for name, value in params.items():
        inner = f"{within}[{name}]" if within else name
        if isinstance(value, Mapping):
            yield from form(value, inner)
        elif isinstance(value, list):
            for number, each in enumerate(value):
                yield from form(each, f"{inner}[{number}]")
        else:
            yield inner, str(value)


async def made_good(billing: Billing, invoice: Json, line: JudgedLine) -> tuple[MakingGood, ...]:
    """What makes a judged line of a final invoice right; nothing for one that is."""
    units = units_of(line)
    if not units or line.metered is None:
        return ()
    owed = line.quantity + units
    try:
        pricing = await billing.pricing(line.price)
        if pricing.currency != invoice["currency"]:
            billed_in = str(invoice["currency"]).upper()
            raise RefusedError(
                f"it is billed in {billed_in}, another currency than that of price {line.price}"
            )
        amount = _charge(pricing, line, owed) - _charge(pricing, line, line.quantity)
    except UsageReportingError as error:
        return (_without_amount(invoice, line, units, error.reason),)
    return (worded(invoice, line, units, amount),)


def _charge(pricing: Pricing, line: JudgedLine, quantity: Decimal) -> Decimal:
    """What a quantity of the line's own kind is charged: some lines count packages."""
    if pricing.divide_by and line.reason.startswith(COUNTED_IN_PACKAGES):
        return (quantity * pricing.unit_amount).quantize(Decimal(1), ROUND_HALF_UP)
    return pricing.amount(quantity)


def units_of(line: JudgedLine) -> Decimal:
    """What the line lacks, in units; negative where it bills too much."""
    if line.metered is not None and line.finding in {Finding.SHORT, Finding.OVER}:
        return max(line.metered, ZERO) - line.quantity
    if line.finding is Finding.EXACT:
        # Stripe billed at once what it had been told; this much was used and told too late.
        return line.causes.get(Cause.UNBILLABLE, ZERO)
    return ZERO


def worded(invoice: Json, line: JudgedLine, units: Decimal, amount: Decimal) -> MakingGood:
    """The credit note for a negative amount, in the minor unit; else the invoice item."""
    period = f"{rfc3339(line.start)} to {rfc3339(line.end)}"
    is_credit = units < 0
    said = "too much" if is_credit else "not billed before"
    description = (
        f"Usage of {line.meter}, {period}: {to_wire(abs(units))} units {said} (invoice {_name(invoice)})"
    )
    params = _credit_note(invoice, line, -amount, description) if is_credit else {}
    if not is_credit:
        params = {
            "customer": line.customer,
            "amount": int(amount),
            "currency": invoice["currency"],
            "description": description,
            "period": {"start": line.start, "end": line.end},
            "metadata": {"invoice": invoice["id"]},
        }
    return MakingGood(
        what="credit note" if is_credit else "invoice item",
        invoice=invoice["id"],
        customer=line.customer,
        units=abs(units),
        amount=abs(amount),
        currency=invoice["currency"],
        description=description,
        path="/v1/credit_notes" if is_credit else "/v1/invoiceitems",
        params=params,
        is_live=bool(invoice.get("livemode")),
        remarks=tuple(_remarks(invoice, line, amount)),
    )


def _credit_note(invoice: Json, line: JudgedLine, amount: Decimal, description: str) -> Json:
    """Lines of the invoice are credited, so that Stripe takes their taxes off, too."""
    lines = [
        {"type": "invoice_line_item", "invoice_line_item": name, "amount": int(part)}
        for name, part in _parts(invoice, line, amount)
    ]
    params: Json = {"invoice": invoice["id"], "lines": lines, "memo": description}
    if invoice.get("status") == "paid" and not _has_taxes(invoice):
        # What was paid is credited, refunded, or given back elsewhere: Stripe wants to be told which.
        params["credit_amount"] = int(amount)
    return params


def _parts(invoice: Json, line: JudgedLine, amount: Decimal) -> Iterator[tuple[str, Decimal]]:
    """The invoice's lines to be credited, the highest tier first, each with no more than it charges."""
    own = [one for one in invoice["lines"]["data"] if _is_line(one, line) and one["amount"] > 0]
    for one in reversed(own):
        part = min(Decimal(one["amount"]), amount)
        if part > 0:
            yield one["id"], part
        amount -= part


def _is_line(one: Json, line: JudgedLine) -> bool:
    period = one.get("period") or {}
    return (price_of_line(one), period.get("start"), period.get("end")) == (
        line.price,
        line.start,
        line.end,
    )


def _remarks(invoice: Json, line: JudgedLine, amount: Decimal) -> Iterator[str]:
    own = [one for one in invoice["lines"]["data"] if _is_line(one, line)]
    if not amount:
        yield "the price charges nothing for these units, so that there is no money to make good"
    if any(one.get("discount_amounts") for one in own) or invoice.get("total_discount_amounts"):
        yield "the invoice has a discount: take it off in the same proportion"
    if amount < 0 and invoice.get("status") == "paid":
        yield (
            "the invoice is paid: credit_amount puts it on the customer's balance, refund_amount pays it back"
        )
        if _has_taxes(invoice):
            yield (
                "the invoice has taxes: GET /v1/credit_notes/preview with the same lines tells the total "
                "that credit_amount or refund_amount must be"
            )
    if invoice.get("status") == "uncollectible" and amount < 0:
        yield "the invoice is uncollectible: see first whether a credit note is still of use"


def _without_amount(invoice: Json, line: JudgedLine, units: Decimal, reason: str) -> MakingGood:
    found = worded(invoice, line, units, ZERO)
    remark = f"its amount has to be worked out by hand: {reason}"
    return MakingGood(
        what=found.what,
        invoice=found.invoice,
        customer=found.customer,
        units=found.units,
        amount=ZERO,
        currency=found.currency,
        description=found.description,
        path=found.path,
        params={},
        is_live=found.is_live,
        remarks=(remark,),
    )


def _has_taxes(invoice: Json) -> bool:
    return bool(invoice.get("total_taxes"))


def _name(invoice: Json) -> str:
    return str(invoice.get("number") or invoice["id"])
