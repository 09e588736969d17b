"""What invoices of a billing threshold billed of a period before its own invoice did.

Stripe's page "Set up thresholds" says that the period's own invoice bills what was not invoiced before. By
its examples the quantity there may be the rest, or all of the period beside a credit; so both are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.billing import Billing
from usage_reporting.errors import RejectedError
from usage_reporting.final_invoices import BilledLine, billed_lines, is_final
from usage_reporting.invoices import is_of_threshold
from usage_reporting.verdict import Cause, Finding, JudgedLine, Known, causes_of, compared

Json = dict[str, Any]

NOT_BY_ITSELF = (
    "a billing threshold made this invoice in the course of a period; it is judged with the period's own"
)


async def billed_before(billing: Billing, line: BilledLine) -> Decimal:
    """Units of a line's item and price on final invoices of a threshold that were made in its period.

    Raises RejectedError or StripeUnavailableError.
    """
    query = {"subscription": line.subscription, "created": {"gte": line.start, "lt": line.end}}
    total = ZERO
    async for page in billing.api.pages("/v1/invoices", query):
        for invoice in page:
            if is_of_threshold(invoice) and is_final(invoice):
                total += _units_of(line, await billing.invoice(invoice["id"]))
    return total


def _units_of(line: BilledLine, invoice: Json) -> Decimal:
    try:
        found = billed_lines(invoice)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise RejectedError(f"invoice {invoice['id']} lacks or misshapes something: {error!r}") from error
    own = [
        one.quantity
        for one in found
        if (one.item, one.price) == (line.item, line.price) and one.end > line.start
    ]
    return sum(own, ZERO)


def beside(line: JudgedLine, before: Decimal, known: Known) -> JudgedLine:
    """A short line as it is beside the units that a threshold had billed before."""
    if line.metered is None or not before:
        return line
    rest = line.metered - before
    finding = compared(rest, line.quantity)
    reason = f"{to_wire(before)} more are on invoices of a billing threshold"
    if finding is Finding.OVER:
        reason = (
            f"{reason}; with them it is more than the {to_wire(line.metered)} that were measured, without "
            "them less, and Stripe does not say whether they are in it: look at the lines"
        )
        return replace(line, finding=Finding.NOT_JUDGED, causes={}, reason=reason)
    own = replace(known, sent=known.sent - before)
    causes: Mapping[Cause, Decimal] = causes_of(rest, line.quantity, own)
    if Cause.UNBILLABLE in line.causes:
        causes = {**causes, Cause.UNBILLABLE: line.causes[Cause.UNBILLABLE]}
    return replace(line, finding=finding, metered=rest, causes=causes, reason=reason)
