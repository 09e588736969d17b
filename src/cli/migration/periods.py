"""The ended periods of a legacy item: what Stripe billed of each, and which usage that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cli.migration.found import LegacyItem
from cli.migration.legacy_api import LegacyApi
from cli.wiring import Operator
from usage_reporting.customer_meters import in_period, span_of
from usage_reporting.ledger import Entry, Key
from usage_reporting.model import Span, SpanState
from usage_reporting.targets import usage_record

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LegacyPeriod:
    """A period of a legacy item; all times in UTC seconds."""

    start: int
    end: int
    quantity: Decimal
    """What its usage record came to."""
    measured_from: int
    """What was used from here on is in it: half an hour before its start, but for the first."""
    measured_until: int


def cut_of(parts: Operator, span: Span, kept: Mapping[int, int] | None = None) -> tuple[int, int]:
    """The usage that a period of a legacy item bills, as the functions cut it: [start, end), UTC seconds."""
    return usage_record.measured_span(span, parts.settings.period_bounds, kept=kept)


async def ended_periods(parts: Operator, item: LegacyItem, since: int) -> Sequence[LegacyPeriod]:
    """The periods that ended after `since` (UTC seconds) and have an invoice, newest first.

    Raises what `StripeApi` raises, and LedgerUnavailableError.
    """
    path = f"/v1/subscription_items/{item.id}/usage_record_summaries"
    found: list[tuple[Span, Decimal]] = []
    async for summary in LegacyApi(parts.billing.api).all(path, {}):
        start, end = summary["period"]["start"], summary["period"]["end"]
        if not summary.get("invoice") or start is None or end is None or start >= end:
            continue
        if end <= since:
            break
        span = span_of(item.subscription, in_period(item.item, start, end), SpanState.ENDED)
        if span is not None:
            found.append((span, Decimal(summary["total_usage"])))
    kept = await _entries(parts, item, [span for span, _ in found])
    return [_period(parts, span, quantity, kept) for span, quantity in found]


async def newest_period(parts: Operator, item: LegacyItem) -> LegacyPeriod | None:
    """The one that ended where the running period begins; None for an item in its first."""
    found = await ended_periods(parts, item, item.period[0] - 1)
    return found[0] if found else None


def _period(parts: Operator, span: Span, quantity: Decimal, entries: Mapping[Key, Entry]) -> LegacyPeriod:
    stored = next((one for key, one in entries.items() if key[1] == str(span.start)), None)
    start, end = cut_of(parts, span, stored.cuts if stored else None)
    return LegacyPeriod(span.start, span.end, quantity, start, end)


async def _entries(parts: Operator, item: LegacyItem, spans: Sequence[Span]) -> Mapping[Key, Entry]:
    """What the ledger keeps of the periods: where they were cut, if that was under another setting."""
    if item.customer_meter is None or not spans:
        return {}
    return await parts.ledger.entries([(item.customer_meter.pk, str(span.start)) for span in spans])
