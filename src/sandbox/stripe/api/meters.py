"""Billing meters."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import invalid
from sandbox.stripe.objects import Meter
from sandbox.stripe.schema import EXPAND, PAGE, Fields, Members, Text, choice


def _create_meter(call: Call) -> Json:
    params = call.params
    name = params["event_name"]
    if any(row.event_name == name for row in call.account.meters):
        raise invalid(f"A meter with the event name '{name}' already exists.", "event_name")
    now = call.account.now()
    meter = Meter(
        id=call.account.new_id("mtr", 28),
        created=now,
        updated=now,
        display_name=params["display_name"],
        event_name=name,
        formula=params["default_aggregation"]["formula"],
        event_time_window=params.get("event_time_window"),
        customer_key=params.get("customer_mapping", {}).get("event_payload_key", "stripe_customer_id"),
        value_key=params.get("value_settings", {}).get("event_payload_key", "value"),
    )
    call.account.meters.add(meter)
    call.stripe.events.emit("billing.meter.created", meter)
    return call.show(meter)


def _update_meter(call: Call) -> Json:
    meter = call.account.meters.get(call.id)
    before = call.stripe.events.render(meter)
    meter.display_name = call.params.get("display_name", meter.display_name)
    meter.updated = call.account.now()
    call.stripe.events.emit("billing.meter.updated", meter, before)
    return call.show(meter)


def _switch_meter(call: Call, status: str, event: str) -> Json:
    meter = call.account.meters.get(call.id)
    if meter.status == status:
        raise invalid(f"The meter is already {status}.", "id")
    before = call.stripe.events.render(meter)
    meter.status = status
    meter.updated = call.account.now()
    meter.deactivated_at = meter.updated if status == "inactive" else None
    call.stripe.events.emit(event, meter, before)
    return call.show(meter)


def _list_meters(call: Call) -> Json:
    status = call.params.get("status")
    return call.page(call.account.meters, lambda row: status in (None, row.status))


_KEY = Text(100)
_NEW_METER: Members = {
    "display_name*": Text(250),
    "event_name*": Text(100),
    "default_aggregation*": Fields({"formula*": choice("sum", "count", "last")}),
    "customer_mapping": Fields({"event_payload_key*": _KEY, "type*": choice("by_id")}),
    "value_settings": Fields({"event_payload_key*": _KEY}),
    "event_time_window": choice("hour", "day"),
    **EXPAND,
}

ROUTES = [
    Route("POST", "/v1/billing/meters", "billing_meter", _create_meter, fields(_NEW_METER)),
    Route(
        "GET",
        "/v1/billing/meters",
        "billing_meter",
        _list_meters,
        fields(PAGE, status=choice("active", "inactive")),
    ),
    Route(
        "GET",
        "/v1/billing/meters/{id}",
        "billing_meter",
        lambda call: call.show(call.account.meters.get(call.id)),
        fields(EXPAND),
    ),
    Route(
        "POST",
        "/v1/billing/meters/{id}",
        "billing_meter",
        _update_meter,
        fields(EXPAND, display_name=Text(250)),
    ),
    Route(
        "POST",
        "/v1/billing/meters/{id}/deactivate",
        "billing_meter",
        lambda call: _switch_meter(call, "inactive", "billing.meter.deactivated"),
        fields(EXPAND),
    ),
    Route(
        "POST",
        "/v1/billing/meters/{id}/reactivate",
        "billing_meter",
        lambda call: _switch_meter(call, "active", "billing.meter.reactivated"),
        fields(EXPAND),
    ),
]
