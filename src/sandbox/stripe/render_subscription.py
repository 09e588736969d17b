"""Subscriptions and their items as JSON."""

from __future__ import annotations

from sandbox.stripe.account import Account, Json
from sandbox.stripe.objects import Phase, Subscription, SubscriptionItem, SubscriptionSchedule
from sandbox.stripe.render_values import embedded_list, price_json
from sandbox.stripe.versions import ApiVersion


def item_json(account: Account, row: SubscriptionItem, version: ApiVersion) -> Json:
    """An item; since 2025-03-31.basil it carries the billing period."""
    price = account.prices.get(row.price)
    item: Json = {
        "id": row.id,
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": row.created,
        "discounts": [],
        "metadata": dict(row.metadata),
        "price": price_json(account, price, version),
        "subscription": row.subscription,
        "tax_rates": [],
    }
    if row.quantity is not None:
        item["quantity"] = row.quantity
    if version.is_basil:
        item["current_period_start"] = row.period_start
        item["current_period_end"] = row.period_end
    return item


def subscription_json(account: Account, row: Subscription, version: ApiVersion) -> Json:
    """A subscription; before basil the period stands at its top."""
    subscription: Json = {
        "id": row.id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": row.billing_cycle_anchor,
        "billing_cycle_anchor_config": None,
        "billing_thresholds": None,
        "cancel_at": row.cancel_at,
        "cancel_at_period_end": row.cancel_at_period_end,
        "canceled_at": row.canceled_at,
        "cancellation_details": {"comment": None, "feedback": None, "reason": _reason(row)},
        "collection_method": row.collection_method,
        "created": row.created,
        "currency": row.currency,
        "customer": row.customer,
        "days_until_due": row.days_until_due,
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": row.description,
        "discounts": [],
        "ended_at": row.ended_at,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": embedded_list(
            [item_json(account, item, version) for item in row.items],
            f"/v1/subscription_items?subscription={row.id}",
        ),
        "latest_invoice": row.latest_invoice,
        "livemode": account.settings.livemode,
        "metadata": dict(row.metadata),
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": _pause(row),
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": row.schedule,
        "start_date": row.start_date,
        "status": row.status,
        "test_clock": _test_clock(account, row),
        "transfer_data": None,
        "trial_end": row.trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": row.missing_payment_method}},
        "trial_start": row.trial_start,
    }
    if version.has_billing_mode:
        subscription["billing_mode"] = _billing_mode(row)
        subscription["billing_schedules"] = []
    if not version.is_basil:
        subscription["current_period_start"] = max(item.period_start for item in row.items)
        subscription["current_period_end"] = min(item.period_end for item in row.items)
        subscription["discount"] = None
        subscription["quantity"] = row.items[0].quantity if len(row.items) == 1 else None
    return subscription


def schedule_json(account: Account, row: SubscriptionSchedule, version: ApiVersion) -> Json:
    """A subscription schedule with its phases."""
    subscription = account.subscriptions.get(row.subscription)
    is_over = row.status != "active"
    phase = row.phases[row.current]
    schedule: Json = {
        "id": row.id,
        "object": "subscription_schedule",
        "application": None,
        "canceled_at": None,
        "completed_at": row.completed_at,
        "created": row.created,
        "current_phase": None if is_over else {"start_date": phase.start, "end_date": phase.end},
        "customer": row.customer,
        "default_settings": {
            "application_fee_percent": None,
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": subscription.collection_method,
            "default_payment_method": None,
            "description": None,
            "invoice_settings": {"account_tax_ids": None, "days_until_due": None, "issuer": {"type": "self"}},
            "on_behalf_of": None,
            "transfer_data": None,
        },
        "end_behavior": row.end_behavior,
        "livemode": account.settings.livemode,
        "metadata": dict(row.metadata),
        "phases": [_phase_json(phase, subscription.currency) for phase in row.phases],
        "released_at": row.released_at,
        "released_subscription": row.subscription if row.status == "released" else None,
        "status": row.status,
        "subscription": None if row.status == "released" else row.subscription,
        "test_clock": _test_clock(account, row),
    }
    if version.has_billing_mode:
        schedule["billing_mode"] = _billing_mode(subscription)
    return schedule


def _phase_json(phase: Phase, currency: str) -> Json:
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "billing_cycle_anchor": None,
        "billing_thresholds": None,
        "collection_method": None,
        "currency": currency,
        "default_payment_method": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "end_date": phase.end,
        "invoice_settings": None,
        "items": [
            {
                "billing_thresholds": None,
                "discounts": [],
                "metadata": dict(row.get("metadata", {})),
                "price": row["price"],
                **({"quantity": row["quantity"]} if "quantity" in row else {}),
                "tax_rates": [],
            }
            for row in phase.items
        ],
        "metadata": {},
        "on_behalf_of": None,
        "proration_behavior": phase.proration_behavior,
        "start_date": phase.start,
        "transfer_data": None,
        "trial_end": None,
    }


def _test_clock(account: Account, row: Subscription | SubscriptionSchedule) -> str | None:
    clock = account.test_clock_of(row.customer)
    return clock.id if clock else None


def _billing_mode(row: Subscription) -> Json:
    if row.is_flexible:
        return {"flexible": {"proration_discounts": "included"}, "type": "flexible"}
    return {"flexible": None, "type": "classic"}


def _pause(row: Subscription) -> Json | None:
    if row.pause_behavior is None:
        return None
    return {"behavior": row.pause_behavior, "resumes_at": row.pause_resumes_at}


def _reason(row: Subscription) -> str | None:
    return "cancellation_requested" if row.canceled_at is not None else None
