"""Subscriptions and subscription items."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.changes import update_subscription
from sandbox.stripe.errors import no_such
from sandbox.stripe.lifecycle import cancel_now, resume
from sandbox.stripe.objects import Subscription, SubscriptionItem
from sandbox.stripe.schema import (
    EXPAND,
    METADATA,
    PAGE,
    RANGE,
    Choice,
    EitherOf,
    Fields,
    Flag,
    Integer,
    Members,
    Moment,
    Rows,
    Text,
    choice,
    in_range,
)
from sandbox.stripe.subscriptions import create_subscription

_STATUSES = (
    "active",
    "all",
    "canceled",
    "ended",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
)


def _create(call: Call) -> Json:
    return call.show(create_subscription(call.books, dict(call.params), call.version))


def _update(call: Call) -> Json:
    subscription = call.account.subscriptions.get(call.id)
    update_subscription(call.books, subscription, dict(call.params), call.version)
    return call.show(subscription)


def _cancel(call: Call) -> Json:
    subscription = call.account.subscriptions.get(call.id)
    if not subscription.is_live:
        raise no_such("subscription", subscription.id)
    cancel_now(call.books, subscription, invoice_now=call.params.get("invoice_now", False))
    return call.show(subscription)


def _resume(call: Call) -> Json:
    subscription = call.account.subscriptions.get(call.id)
    resume(call.books, subscription, anchor=call.params.get("billing_cycle_anchor", "now"))
    return call.show(subscription)


def _list(call: Call) -> Json:
    return call.page(
        call.account.subscriptions, lambda row: _matches(call, row), customer=call.params.get("customer")
    )


def _matches(call: Call, row: Subscription) -> bool:
    params = call.params
    return (
        _has_status(row, params.get("status"))
        and _is_shown(call, row)
        and params.get("customer") in (None, row.customer)
        and params.get("price") in (None, *(item.price for item in row.items))
        and params.get("collection_method") in (None, row.collection_method)
        and in_range(row.created, params.get("created"))
        and in_range(min(item.period_end for item in row.items), params.get("current_period_end"))
        and in_range(max(item.period_start for item in row.items), params.get("current_period_start"))
    )


def _is_shown(call: Call, row: Subscription) -> bool:
    """On a test clock: only where its list, or its customer's, is asked for (List subscriptions)."""
    clock = call.account.test_clock_of(row.customer)
    if "test_clock" in call.params:
        return clock is not None and clock.id == call.params["test_clock"]
    return clock is None or "customer" in call.params


def _has_status(row: Subscription, status: str | None) -> bool:
    if status == "all":
        return True
    if status is None:
        return row.is_live
    return row.status == ("canceled" if status == "ended" else status)


def _list_items(call: Call) -> Json:
    subscription = call.account.subscriptions.refer(call.params["subscription"], "subscription")
    return call.page_of([call.show(item) for item in subscription.items])


def _owner(call: Call) -> tuple[SubscriptionItem, Subscription]:
    item = call.account.items.get(call.id, "item")
    return item, call.account.subscriptions.get(item.subscription)


def _create_item(call: Call) -> Json:
    row = dict(call.params)
    subscription = call.account.subscriptions.refer(row.pop("subscription"), "subscription")
    known = {item.id for item in subscription.items}
    _through_subscription(call, subscription, row)
    return call.show(next(item for item in subscription.items if item.id not in known))


def _update_item(call: Call) -> Json:
    item, subscription = _owner(call)
    _through_subscription(call, subscription, {**call.params, "id": item.id})
    return call.show(call.account.items.get(item.id))


def _delete_item(call: Call) -> Json:
    item, subscription = _owner(call)
    _through_subscription(call, subscription, {**call.params, "id": item.id, "deleted": True})
    return {"id": item.id, "object": "subscription_item", "deleted": True}


def _through_subscription(call: Call, subscription: Subscription, row: dict[str, object]) -> None:
    row.pop("expand", None)
    behavior = row.pop("proration_behavior", "create_prorations")
    changes = {"items": [row], "proration_behavior": behavior}
    update_subscription(call.books, subscription, changes, call.version)


_PRORATION = choice("always_invoice", "create_prorations", "none")
_ITEM: Members = {"price": Text(), "quantity": Integer(0), "metadata": METADATA}
_CANCEL_WORDS = ("max_period_end", "min_period_end")
_COMMON: Members = {
    "cancel_at_period_end": Flag(),
    "collection_method": choice("charge_automatically", "send_invoice"),
    "days_until_due": Integer(0),
    "description": Text(500, clearable=True),
    "metadata": METADATA,
    "off_session": Flag(),
    "payment_behavior": choice(
        "allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"
    ),
    "proration_behavior": _PRORATION,
    "trial_end": Moment(("now",)),
    "trial_settings": Fields(
        {"end_behavior*": Fields({"missing_payment_method*": choice("cancel", "create_invoice", "pause")})}
    ),
    **EXPAND,
}
_PAUSE = EitherOf(
    Choice(("",)),
    Fields(
        {
            "behavior*": choice("keep_as_draft", "mark_uncollectible", "void"),
            "resumes_at": Moment(),
        }
    ),
)
_CREATE = fields(
    _COMMON,
    {"customer*": Text(), "items*": Rows(Fields({**_ITEM, "price*": Text()}))},
    backdate_start_date=Moment(),
    billing_cycle_anchor=Moment(),
    billing_mode=Fields(
        {
            "type*": choice("classic", "flexible"),
            "flexible": Fields({"proration_discounts": choice("included", "itemized")}),
        }
    ),
    cancel_at=Moment(_CANCEL_WORDS),
    currency=Text(),
    trial_period_days=Integer(1, 730),
)
_UPDATE = fields(
    _COMMON,
    items=Rows(Fields({**_ITEM, "id": Text(), "deleted": Flag(), "clear_usage": Flag()})),
    billing_cycle_anchor=choice("now", "unchanged"),
    cancel_at=Moment(("", *_CANCEL_WORDS)),
    pause_collection=_PAUSE,
    cancellation_details=Fields({"comment": Text(clearable=True)}),
)
_LIST = fields(
    PAGE,
    status=Choice(_STATUSES),
    customer=Text(),
    price=Text(),
    collection_method=choice("charge_automatically", "send_invoice"),
    created=RANGE,
    current_period_start=RANGE,
    current_period_end=RANGE,
    test_clock=Text(),
)
_SUBSCRIPTION = "/v1/subscriptions/{subscription_exposed_id}"

ROUTES = [
    Route("POST", "/v1/subscriptions", "subscription", _create, _CREATE),
    Route("GET", "/v1/subscriptions", "subscription", _list, _LIST),
    Route(
        "GET",
        _SUBSCRIPTION,
        "subscription",
        lambda call: call.show(call.account.subscriptions.get(call.id)),
        fields(EXPAND),
    ),
    Route("POST", _SUBSCRIPTION, "subscription", _update, _UPDATE),
    Route(
        "DELETE",
        _SUBSCRIPTION,
        "subscription",
        _cancel,
        fields(EXPAND, invoice_now=Flag(), prorate=Flag()),
    ),
    Route(
        "POST",
        "/v1/subscriptions/{subscription}/resume",
        "subscription",
        _resume,
        fields(
            EXPAND,
            billing_cycle_anchor=choice("now", "unchanged"),
            proration_behavior=_PRORATION,
            proration_date=Moment(),
        ),
    ),
    Route(
        "GET",
        "/v1/subscription_items",
        "subscription",
        _list_items,
        fields(PAGE, {"subscription*": Text()}),
    ),
    Route(
        "POST",
        "/v1/subscription_items",
        "subscription",
        _create_item,
        fields(
            _ITEM,
            EXPAND,
            {"subscription*": Text(), "price*": Text()},
            proration_behavior=_PRORATION,
        ),
    ),
    Route(
        "GET",
        "/v1/subscription_items/{item}",
        "subscription",
        lambda call: call.show(call.account.items.get(call.id, "item")),
        fields(EXPAND),
    ),
    Route(
        "POST",
        "/v1/subscription_items/{item}",
        "subscription",
        _update_item,
        fields(_ITEM, EXPAND, proration_behavior=_PRORATION),
    ),
    Route(
        "DELETE",
        "/v1/subscription_items/{item}",
        "subscription",
        _delete_item,
        fields(clear_usage=Flag(), proration_behavior=_PRORATION),
    ),
]
