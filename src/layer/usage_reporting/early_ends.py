"""Where a span ended early that only the ledger remembers."""

from __future__ import annotations

from dataclasses import replace

from usage_reporting.billing import Billing
from usage_reporting.errors import NotFoundError
from usage_reporting.model import Span, SpanState


async def cut_where_it_ended(billing: Billing, span: Span) -> Span:
    """A span of a subscription that was not shown, cut off where that ended.

    Raises RejectedError or StripeUnavailableError.
    """
    try:
        subscription = await billing.subscription(span.subscription)
    except NotFoundError:
        return replace(span, state=SpanState.DROPPED)
    ends = [subscription.get(name) for name in ("ended_at", "cancel_at")]
    end = min([span.end, *(instant for instant in ends if isinstance(instant, int))])
    if end == span.end:
        return span
    end = max(end, span.start)
    if span.state is SpanState.BESIDE:
        return replace(span, end=end, usage_until=min(span.usage_until or end, end))
    state = SpanState.CANCELED if subscription.get("ended_at") else span.state
    return replace(span, end=end, state=state)
