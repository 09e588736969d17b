"""Legacy usage records, in API versions before 2025-03-31.basil only."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import invalid
from sandbox.stripe.objects import Price, SubscriptionItem
from sandbox.stripe.schema import EXPAND, PAGE, Integer, Moment, choice

_DRIFT_SECONDS = 5 * 60


def _create(call: Call) -> Json:
    """Record usage inside the item's present period.

    The bounds are read strictly: later than the start, earlier than the end, no later than five
    minutes from now; the unreliable tolerance after a renewal is not granted.
    """
    item, _ = _metered(call)
    subscription = call.account.subscriptions.get(item.subscription)
    now = call.account.now()
    if not subscription.is_live or subscription.status == "paused":
        raise invalid(f"The subscription {subscription.id} takes no usage records.", "id")
    timestamp = call.params.get("timestamp", "now")
    timestamp = now if timestamp == "now" else timestamp
    if timestamp <= item.period_start:
        raise invalid(
            "Cannot create the usage record with this timestamp because timestamps must be after "
            "the subscription's last invoice period (or current period start time).",
            "timestamp",
        )
    if timestamp >= item.period_end or timestamp > now + _DRIFT_SECONDS:
        raise invalid(
            "Cannot create the usage record with this timestamp because timestamps must be before "
            "the subscription's current period end time (or now with a five-minutes grace period "
            "for clock drift).",
            "timestamp",
        )
    action = call.params.get("action", "increment")
    replaces_all = call.account.settings.undocumented.set_replaces_all
    quantity = call.books.usage.put(
        item, timestamp, call.params["quantity"], action, item.usage_from if replaces_all else None
    )
    return {
        "id": call.account.new_id("mbur"),
        "object": "usage_record",
        "livemode": call.account.settings.livemode,
        "quantity": quantity,
        "subscription_item": item.id,
        "timestamp": timestamp,
    }


def _list_summaries(call: Call) -> Json:
    item, price = _metered(call)
    rows = [_summary(call, item, price, item.usage_from, item.period_end, None)]
    for invoice in call.account.invoices.newest(subscription=item.subscription):
        for line in invoice.lines:
            if line.subscription_item == item.id:
                start, end = line.period_start, line.period_end
                rows.append(_summary(call, item, price, start, end, invoice.id))
    return call.page_of(rows)


def _summary(
    call: Call, item: SubscriptionItem, price: Price, start: int, end: int, invoice: str | None
) -> Json:
    how = price.recurring.aggregate_usage if price.recurring else None
    return {
        "id": f"sis_{item.id[3:]}{start}",
        "object": "usage_record_summary",
        "invoice": invoice,
        "livemode": call.account.settings.livemode,
        "period": {"end": end if invoice else None, "start": start if invoice else None},
        "subscription_item": item.id,
        "total_usage": int(call.books.usage.usage(item, how, start, end)),
    }


def _metered(call: Call) -> tuple[SubscriptionItem, Price]:
    item = call.account.items.get(call.id, "subscription_item")
    price = call.account.prices.get(item.price)
    if not price.is_metered:
        raise invalid("Usage records can only be created for metered prices.", "id")
    if not price.is_legacy:
        raise invalid(
            f"Cannot create a usage record for `{item.id}` because it is not on the legacy metered "
            "billing system. Call /v1/billing/meter_events instead.",
            "id",
        )
    return item, price


ROUTES = [
    Route(
        "POST",
        "/v1/subscription_items/{subscription_item}/usage_records",
        "usage_record",
        _create,
        fields(
            EXPAND,
            {"quantity*": Integer(0)},
            action=choice("increment", "set"),
            timestamp=Moment(("now",)),
        ),
        legacy=True,
    ),
    Route(
        "GET",
        "/v1/subscription_items/{subscription_item}/usage_record_summaries",
        "usage_record",
        _list_summaries,
        fields(PAGE),
        legacy=True,
    ),
]
