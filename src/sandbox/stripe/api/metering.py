"""Meter events, their adjustments and summaries."""

from __future__ import annotations

import hashlib

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import invalid, malformed, no_such
from sandbox.stripe.intake import UNIQUE_SECONDS, Offered, active_meter, take
from sandbox.stripe.meter_ledger import WINDOW_SECONDS, MeterEvent
from sandbox.stripe.objects import Meter
from sandbox.stripe.render_values import json_number
from sandbox.stripe.schema import EXPAND, PAGE, Fields, Moment, Pairs, Text, choice

METER_EVENTS = "/v1/billing/meter_events"
_MINUTE = 60


def _create_event(call: Call) -> Json:
    """Accept an event; what is only found wrong afterwards gets its 200, too."""
    params = call.params
    now = call.account.now()
    event = Offered(
        params["event_name"],
        params["payload"],
        params.get("timestamp", now),
        params.get("identifier") or call.account.new_id("evt_meter", 32),
    )
    late = call.account.settings.checked_late
    take(call.stripe, event, late=late, request=call.account.idempotency_key or event.identifier)
    return {
        "object": "billing.meter_event",
        "created": now,
        "event_name": event.event_name,
        "identifier": event.identifier,
        "livemode": call.account.settings.livemode,
        "payload": dict(event.payload),
        "timestamp": event.timestamp,
    }


def _create_adjustment(call: Call) -> Json:
    """Take back one event within 24 hours of its receipt; a final invoice does not change."""
    identifier = call.params["cancel"]["identifier"]
    event = call.stripe.meters.received(identifier)
    now = call.account.machine_time()
    meter = active_meter(call.account, call.params["event_name"])
    if event is None or event.meter != meter.id:
        raise no_such("meter event", identifier, "cancel[identifier]", status=400)
    if now - event.received >= UNIQUE_SECONDS:
        raise invalid("An event can be cancelled within 24 hours of receipt only.", "cancel[identifier]")
    call.stripe.meters.cancel(event)
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": call.params["event_name"],
        "livemode": call.account.settings.livemode,
        "status": "complete",
        "type": "cancel",
    }


def _list_summaries(call: Call) -> Json:
    """Aggregates over [start_time, end_time), newest first.

    Windows without any event are left out, and the single summary as well: the documentation does
    not say, and a reader that copes with absence copes with zero.
    """
    meter = call.account.meters.get(call.id)
    customer = call.account.customers.refer(call.params["customer"], "customer")
    start, end = call.params["start_time"], call.params["end_time"]
    window = call.params.get("value_grouping_window")
    size = WINDOW_SECONDS[window] if window else _MINUTE
    for name, instant in (("start_time", start), ("end_time", end)):
        if instant % size:
            raise malformed(f"`{name}` must be aligned with {window or 'minute'} boundaries.", name)
    if start >= end:
        raise malformed("`start_time` must be before `end_time`.", "start_time")
    events = call.stripe.meters.events(meter, customer.id, start, end, settled=True)
    groups: dict[int, list[MeterEvent]] = {}
    for event in events:
        first = event.timestamp // size * size if window else start
        groups.setdefault(first, []).append(event)
    length = size if window else end - start
    rows = [
        _summary(call, meter, customer.id, first, first + length, groups[first])
        for first in sorted(groups, reverse=True)
    ]
    return call.page_of(rows)


def _summary(call: Call, meter: Meter, customer: str, start: int, end: int, events: list[MeterEvent]) -> Json:
    name = f"{meter.id}{customer}{start}{end}".encode()
    return {
        "id": "mtrusg_" + hashlib.sha256(name).hexdigest()[:32],
        "object": "billing.meter_event_summary",
        "aggregated_value": json_number(call.stripe.meters.aggregate(meter, events)),
        "end_time": end,
        "livemode": call.account.settings.livemode,
        "meter": meter.id,
        "start_time": start,
    }


ROUTES = [
    Route(
        "POST",
        METER_EVENTS,
        "billing_meter_event",
        _create_event,
        fields(
            EXPAND,
            {
                "event_name*": Text(100),
                "payload*": Pairs(max_pairs=20, max_name=100, clearable=False),
            },
            identifier=Text(100),
            timestamp=Moment(),
        ),
    ),
    Route(
        "POST",
        "/v1/billing/meter_event_adjustments",
        "billing_meter_event_adjustment",
        _create_adjustment,
        fields(
            EXPAND,
            {
                "event_name*": Text(100),
                "type*": choice("cancel"),
                "cancel*": Fields({"identifier*": Text(100)}),
            },
        ),
    ),
    Route(
        "GET",
        "/v1/billing/meters/{id}/event_summaries",
        "billing_meter",
        _list_summaries,
        fields(
            PAGE,
            {"customer*": Text(), "start_time*": Moment(), "end_time*": Moment()},
            value_grouping_window=choice("hour", "day"),
        ),
    ),
]
