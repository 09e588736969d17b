"""Objects as JSON, in the shape of an API version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.stripe.account import Account, Json
from sandbox.stripe.objects import (
    Application,
    ConnectedAccount,
    Customer,
    Invoice,
    Meter,
    Price,
    Product,
    Subscription,
    SubscriptionItem,
    SubscriptionSchedule,
    TestClock,
    WebhookEndpoint,
)
from sandbox.stripe.render_invoice import invoice_json
from sandbox.stripe.render_subscription import item_json, schedule_json, subscription_json
from sandbox.stripe.render_values import price_json
from sandbox.stripe.versions import ApiVersion

APPLICATION = "ca_sandboxPlatform"
"""The platform as a Connect application."""

Renderer = Callable[[Account, Any, ApiVersion], Json]


def render(account: Account, row: Any, version: ApiVersion) -> Json:
    """The JSON of any object, as this API version shows it."""
    return _RENDERERS[type(row)](account, row, version)


def _product(account: Account, row: Product, _version: ApiVersion) -> Json:
    return {
        "id": row.id,
        "object": "product",
        "active": row.active,
        "created": row.created,
        "default_price": row.default_price,
        "description": row.description,
        "images": list(row.images),
        "livemode": account.settings.livemode,
        "marketing_features": [],
        "metadata": dict(row.metadata),
        "name": row.name,
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": row.statement_descriptor,
        "tax_code": row.tax_code,
        "unit_label": row.unit_label,
        "updated": row.updated,
        "url": row.url,
    }


def _meter(account: Account, row: Meter, _version: ApiVersion) -> Json:
    return {
        "id": row.id,
        "object": "billing.meter",
        "created": row.created,
        "customer_mapping": {"event_payload_key": row.customer_key, "type": "by_id"},
        "default_aggregation": {"formula": row.formula},
        "display_name": row.display_name,
        "event_name": row.event_name,
        "event_time_window": row.event_time_window,
        "livemode": account.settings.livemode,
        "status": row.status,
        "status_transitions": {"deactivated_at": row.deactivated_at},
        "updated": row.updated,
        "value_settings": {"event_payload_key": row.value_key},
    }


def _customer(account: Account, row: Customer, _version: ApiVersion) -> Json:
    if row.deleted:
        return {"id": row.id, "object": "customer", "deleted": True}
    return {
        "id": row.id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": row.created,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": row.description,
        "discount": None,
        "email": row.email,
        "invoice_prefix": row.id[-8:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": row.default_payment_method,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": account.settings.livemode,
        "metadata": dict(row.metadata),
        "name": row.name,
        "next_invoice_sequence": 1,
        "phone": row.phone,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": row.test_clock,
    }


def _test_clock(account: Account, row: TestClock, _version: ApiVersion) -> Json:
    advancing = {"advancing": {"target_frozen_time": row.target}}
    return {
        "id": row.id,
        "object": "test_helpers.test_clock",
        "created": row.created,
        "deletes_after": row.deletes_after,
        "frozen_time": row.frozen_time,
        "livemode": account.settings.livemode,
        "name": row.name,
        "status": "advancing" if row.is_advancing else "ready",
        "status_details": advancing if row.is_advancing else {},
    }


def _endpoint(account: Account, row: WebhookEndpoint, _version: ApiVersion) -> Json:
    return {
        "id": row.id,
        "object": "webhook_endpoint",
        "api_version": row.api_version,
        "application": APPLICATION if row.connect else None,
        "created": row.created,
        "description": row.description,
        "enabled_events": list(row.enabled_events),
        "livemode": account.settings.livemode,
        "metadata": dict(row.metadata),
        "status": row.status,
        "url": row.url,
    }


def _connected(_account: Account, row: ConnectedAccount, _version: ApiVersion) -> Json:
    return {
        "id": row.id,
        "object": "account",
        "business_profile": {"name": row.name},
        "business_type": None,
        "charges_enabled": row.charges_enabled,
        "country": "US",
        "created": row.created,
        "default_currency": "usd",
        "details_submitted": row.details_submitted,
        "email": "sandbox@example.com",
        "payouts_enabled": row.charges_enabled,
        "settings": None,
        "type": "standard",
    }


def _application(_account: Account, row: Application, _version: ApiVersion) -> Json:
    return {"id": row.id, "object": "application", "name": row.name}


_RENDERERS: dict[type, Renderer] = {
    Application: _application,
    ConnectedAccount: _connected,
    Product: _product,
    Price: price_json,
    Meter: _meter,
    Customer: _customer,
    TestClock: _test_clock,
    WebhookEndpoint: _endpoint,
    Subscription: subscription_json,
    SubscriptionItem: item_json,
    SubscriptionSchedule: schedule_json,
    Invoice: invoice_json,
}
