"""Subscription schedules, made from a subscription."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import missing
from sandbox.stripe.metadata import merged
from sandbox.stripe.phases import release
from sandbox.stripe.schedules import from_subscription, set_phases
from sandbox.stripe.schema import EXPAND, METADATA, PAGE, Fields, Integer, Moment, Rows, Text, choice


def _create(call: Call) -> Json:
    """Only from a subscription; Stripe takes no other parameters beside it, and nor does this."""
    if "from_subscription" not in call.params:
        raise missing("from_subscription")
    name = call.params["from_subscription"]
    subscription = call.account.subscriptions.refer(name, "from_subscription")
    return call.show(from_subscription(call.books, subscription, call.version))


def _update(call: Call) -> Json:
    schedule = call.account.schedules.get(call.id)
    before = call.stripe.events.render(schedule)
    if "phases" in call.params:
        set_phases(call.books, schedule, call.params["phases"], call.version)
    schedule.metadata = merged(schedule.metadata, call.params.get("metadata", {}))
    call.stripe.events.emit("subscription_schedule.updated", schedule, before)
    return call.show(schedule)


def _release(call: Call) -> Json:
    schedule = call.account.schedules.get(call.id)
    release(call.books, schedule)
    return call.show(schedule)


_ITEM = Fields({"price*": Text(), "quantity": Integer(0), "metadata": METADATA})
_PHASE = Fields(
    {
        "items*": Rows(_ITEM),
        "start_date": Moment(),
        "end_date": Moment(),
        "iterations": Integer(1),
        "currency": Text(3),
        "proration_behavior": choice("always_invoice", "create_prorations", "none"),
    }
)
_SCHEDULES = "/v1/subscription_schedules"
_SCHEDULE = "/v1/subscription_schedules/{schedule}"
_RESOURCE = "subscription"

ROUTES = [
    Route("POST", _SCHEDULES, _RESOURCE, _create, fields(EXPAND, from_subscription=Text())),
    Route(
        "GET",
        _SCHEDULES,
        _RESOURCE,
        lambda call: call.page(
            call.account.schedules, lambda row: call.account.test_clock_of(row.customer) is None
        ),
        fields(PAGE),
    ),
    Route(
        "GET",
        _SCHEDULE,
        _RESOURCE,
        lambda call: call.show(call.account.schedules.get(call.id)),
        fields(EXPAND),
    ),
    Route(
        "POST",
        _SCHEDULE,
        _RESOURCE,
        _update,
        fields(
            EXPAND,
            metadata=METADATA,
            phases=Rows(_PHASE),
            end_behavior=choice("release"),
            proration_behavior=choice("always_invoice", "create_prorations", "none"),
        ),
    ),
    Route("POST", _SCHEDULE + "/release", _RESOURCE, _release, fields(EXPAND)),
]
