"""What Stripe's invoices and their lines say of spans; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from usage_reporting.customer_meters import (
    id_of,
    in_period,
    is_in_trial,
    is_last_end,
    other_currency,
    was_added,
)
from usage_reporting.model import Span, SpanState
from usage_reporting.usage_since import usage_since
from usage_reporting.windows import MINUTE

Json = dict[str, Any]

KEPT_OPEN = "usage_reporter_kept_open"
"""Key in the metadata of a draft that we keep open: when it would have been final, and who waits."""


THRESHOLD = "subscription_threshold"


def is_of_threshold(invoice: Json) -> bool:
    """Whether a billing threshold made it: it bills what Stripe has received so far ("Set up thresholds")."""
    return bool(invoice.get("billing_reason") == THRESHOLD)


def subscription_of(invoice: Json) -> str:
    """The invoice's subscription; since API 2025-03-31.basil it stands under `parent`."""
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return id_of(details.get("subscription") or invoice.get("subscription"))


def expanded_subscription(invoice: Json) -> Json | None:
    """The invoice's subscription, where it was asked for with it, and its customer as the invoice has it."""
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    found = details.get("subscription")
    return {**found, "customer": invoice["customer"]} if isinstance(found, dict) else None


def item_and_price(line: Json) -> tuple[str, str]:
    """The subscription item and price of a line; empty for other lines and for prorations."""
    details = (line.get("parent") or {}).get("subscription_item_details") or {}
    if details.get("proration"):
        return "", ""
    return id_of(details.get("subscription_item")), price_of_line(line)


def price_of_line(line: Json) -> str:
    """The id of a line's price; empty for what has none."""
    return id_of(((line.get("pricing") or {}).get("price_details") or {}).get("price"))


def in_period_of(line: Json, item: Json) -> Json:
    """An item as it was in a line's period; it may be in a later one by now."""
    return in_period(item, line["period"]["start"], line["period"]["end"])


def draft_span(invoice: Json, line: Json, subscription: Json, item: Json) -> Span:
    """What a draft's line bills."""
    start, end = line["period"]["start"], line["period"]["end"]
    is_first = item.get("created") == start or was_added(subscription, in_period_of(line, item))
    return Span(
        start=start,
        end=end,
        subscription=subscription["id"],
        item=item["id"],
        price=item["price"]["id"],
        state=SpanState.DRAFT,
        deadline=invoice.get("automatically_finalizes_at"),
        first=is_first or start == subscription.get("start_date"),
        invoice=invoice["id"],
        is_kept_open=KEPT_OPEN in (invoice.get("metadata") or {}),
        last=is_last_end(subscription, end),
        is_trial=is_in_trial(subscription, start, end),
        currency=other_currency(invoice, item["price"]),
        usage_since=usage_since(item, start),
    )


def has_line(lines: Iterable[Json], span: Span) -> bool:
    """Whether one of the lines bills an ended span."""
    return any(item_and_price(line)[0] == span.item and line["period"]["end"] == span.end for line in lines)


def with_invoice(span: Span, invoice: Json) -> Span:
    """An ended span as its invoice has it; one that was final at once billed what Stripe held.

    So did one that a threshold made, though it is a draft: no usage is added to it ("Set up thresholds").
    """
    if is_of_threshold(invoice):
        return replace(span, state=SpanState.BILLED)
    if invoice.get("status") != "draft":
        finalized_at = (invoice.get("status_transitions") or {}).get("finalized_at")
        never_waited = isinstance(finalized_at, int) and finalized_at - invoice["created"] < MINUTE
        return replace(span, state=SpanState.BILLED if never_waited else SpanState.FINAL)
    return replace(span, state=SpanState.DRAFT, deadline=invoice.get("automatically_finalizes_at"))
