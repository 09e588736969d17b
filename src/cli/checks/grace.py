"""Whether drafts stay open long enough for the schedule, and for usage that comes late."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from cli.checks.finding import Finding, duration, ok, problem, warning
from cli.checks.patient import Patient
from usage_reporting.invoices import KEPT_OPEN, price_of_line
from usage_reporting.windows import BOUNDS_KEPT, HOUR, MINUTE

SHORTEST = 45 * MINUTE
"""Two closing ticks, 15 minutes apart, and time for the queue and the worker."""

DEFAULT = HOUR
"""Stripe's own ("Configure a grace period"); up to 72 hours can be set."""

SLACK = 5 * MINUTE
"""Stripe finalizes some minutes late."""

ENOUGH_PAGES = 5

NEWEST = 5
"""Final invoices that are looked at where there is no draft: older ones may have had another setting."""

FIX = (
    "raise it in Stripe's Dashboard: Billing settings, Invoices, grace period, for invoices with a metered "
    "price; up to 72 hours are possible"
)


async def grace(patient: Patient) -> list[Finding]:
    """How long the drafts of renewals were open of late; Stripe's setting itself cannot be read."""
    live = await patient.live()
    prices = {span.price for one in live.customer_meters for span in one.spans}
    open_for: list[int] = []
    planned: list[int] = []
    query = {"created": {"gte": patient.now - BOUNDS_KEPT}}
    pages = 0
    async for page in patient.stripe.pages("/v1/invoices", query):
        for invoice in page:
            if _is_renewal(invoice, prices):
                planned += _planned(invoice)
                open_for += _was_open(invoice)
        pages += 1
        if pages == ENOUGH_PAGES:
            break
    if not planned and not open_for:
        return [
            warning(
                "no renewal's invoice of the last 35 days shows how long drafts stay open",
                "look at it in Stripe: Billing settings, Invoices, grace period; then " + FIX,
            )
        ]
    # Drafts have today's setting. Of final invoices somebody may have made one final by hand.
    looked_at = planned or open_for[:NEWEST]
    found = min(planned) if planned else int(statistics.median(looked_at))
    seen = f"drafts of renewals stay open for {duration(found)} ({len(looked_at)} looked at)"
    if found < SHORTEST:
        return [
            problem(
                f"{seen}; reporting what is closed takes up to {duration(SHORTEST)}: usage comes too late",
                FIX,
            )
        ]
    if found <= DEFAULT + SLACK:
        return [warning(f"{seen}; usage that OpenMeter shows later than that is on no invoice", FIX)]
    return [ok(seen)]


def _is_renewal(invoice: Mapping[str, Any], prices: set[str]) -> bool:
    if invoice.get("billing_reason") != "subscription_cycle" or KEPT_OPEN in (invoice.get("metadata") or {}):
        return False
    lines = (invoice.get("lines") or {}).get("data", [])
    return any(price_of_line(line) in prices for line in lines)


def _planned(invoice: Mapping[str, Any]) -> list[int]:
    due, created = invoice.get("automatically_finalizes_at"), invoice.get("created")
    if invoice.get("status") != "draft" or not isinstance(due, int) or not isinstance(created, int):
        return []
    return [due - created]


def _was_open(invoice: Mapping[str, Any]) -> list[int]:
    final = (invoice.get("status_transitions") or {}).get("finalized_at")
    created = invoice.get("created")
    return [final - created] if isinstance(final, int) and isinstance(created, int) else []
