"""Meter events, their adjustments and summaries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import StripeError, invalid, malformed, no_such
from sandbox.stripe.meter_ledger import WINDOW_SECONDS, MeterEvent, aggregate
from sandbox.stripe.objects import Meter
from sandbox.stripe.render_values import json_number
from sandbox.stripe.schema import EXPAND, PAGE, Fields, Moment, Pairs, Text, choice
from sandbox.stripe.validation import Refusal

_VALUE = re.compile(r"-?\d+(\.\d+)?")
_MAX_DIGITS = 15
_MAX_DECIMALS = 12
_PAST_SECONDS = 35 * 24 * 3600
_FUTURE_SECONDS = 5 * 60
_UNIQUE_SECONDS = 24 * 3600
_MINUTE = 60


@dataclass
class _Checks:
    """The checks of one event: what is only checked `late` does not keep it from being accepted."""

    late: AbstractSet[str]
    refusal: Refusal | None = None

    def run[T](self, check: Callable[[], T]) -> T | None:
        """Raises StripeError for what is refused at once."""
        try:
            return check()
        except StripeError as error:
            if error.code not in self.late:
                raise
            self.refusal = self.refusal or Refusal(str(error.code), error.message)
            return None


def _create_event(call: Call) -> Json:
    """Accept an event; what is only found wrong afterwards gets its 200, too."""
    params = call.params
    now = call.account.now()
    checks = _Checks(call.account.settings.checked_late)
    checks.run(lambda: _active_meter(call, params["event_name"]))
    meter = next((row for row in call.account.meters if row.event_name == params["event_name"]), None)
    payload = checks.run(lambda: _read_payload(meter, params["payload"])) if meter else None
    customer, value = payload or ("", Decimal(0))
    timestamp = params.get("timestamp", now)
    checks.run(lambda: _check_timestamp(timestamp, now))
    identifier = params.get("identifier") or call.account.new_id("evt_meter", 32)
    known = call.stripe.meters.received(identifier)
    if known is not None and now - known.received < _UNIQUE_SECONDS:
        raise StripeError(
            400,
            f"An event already exists with identifier {identifier}.",
            param="identifier",
            headers={"Stripe-Should-Retry": "false"},
        )
    if payload:
        checks.run(lambda: _check_customer(call, customer))
    refusal = checks.refusal or call.stripe.validation.planned(customer)
    meter_id = meter.id if meter else None
    call.stripe.meters.record(identifier, meter_id or "", customer, value, timestamp, counted=refusal is None)
    if refusal is not None:
        call.stripe.validation.refuse(refusal, meter_id, identifier)
    return {
        "object": "billing.meter_event",
        "created": now,
        "event_name": params["event_name"],
        "identifier": identifier,
        "livemode": call.account.settings.livemode,
        "payload": dict(params["payload"]),
        "timestamp": timestamp,
    }


def _active_meter(call: Call, event_name: str) -> Meter:
    """The meter of this event name; others are refused at once, the stricter reading."""
    named = [row for row in call.account.meters if row.event_name == event_name]
    active = next((row for row in named if row.status == "active"), None)
    if active is not None:
        return active
    if named:
        raise invalid(f"The meter for event name '{event_name}' is archived.", "event_name", "archived_meter")
    raise invalid(f"No meter found for event name '{event_name}'.", "event_name", "no_meter")


def _read_payload(meter: Meter, payload: dict[str, str]) -> tuple[str, Decimal]:
    customer = payload.get(meter.customer_key, "")
    if not customer:
        raise malformed(
            f"The payload must contain the customer mapping key '{meter.customer_key}'.",
            f"payload[{meter.customer_key}]",
            "meter_event_no_customer_defined",
        )
    text = payload.get(meter.value_key)
    if text is None and meter.formula == "count":
        return customer, Decimal(1)
    if text is None:
        raise malformed(
            f"The payload must contain the value key '{meter.value_key}'.",
            f"payload[{meter.value_key}]",
            "meter_event_value_not_found",
        )
    return customer, _read_value(text, f"payload[{meter.value_key}]")


def _read_value(text: str, param: str) -> Decimal:
    """At most 15 digits (changelog 2026-04-22.dahlia) and 12 places, without exponent."""
    if not _VALUE.fullmatch(text) or len(text.partition(".")[2]) > _MAX_DECIMALS:
        raise malformed(
            f"Invalid value '{text}': must be a decimal number.", param, "meter_event_invalid_value"
        )
    if len(text.lstrip("-").replace(".", "").lstrip("0")) > _MAX_DIGITS:
        raise malformed(
            f"Invalid value '{text}': must have at most {_MAX_DIGITS} significant digits.",
            param,
            "meter_event_value_too_many_digits",
        )
    return Decimal(text)


def _check_customer(call: Call, customer: str) -> None:
    found = call.account.customers.find(customer)
    if found is None or found.deleted:
        raise invalid(
            f"No customer found with the id '{customer}'.", "payload", "meter_event_customer_not_found"
        )


def _check_timestamp(timestamp: int, now: int) -> None:
    earliest, latest = now - _PAST_SECONDS, now + _FUTURE_SECONDS
    if timestamp < earliest:
        raise malformed(
            "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater "
            f"than or equal to {earliest}.",
            "timestamp",
            "timestamp_too_far_in_past",
        )
    if timestamp > latest:
        raise malformed(
            "The event timestamp cannot be more than 5 minutes in the future. Expected a timestamp "
            f"less than or equal to {latest}.",
            "timestamp",
            "timestamp_in_future",
        )


def _create_adjustment(call: Call) -> Json:
    """Take back one event within 24 hours of its receipt; a final invoice does not change."""
    identifier = call.params["cancel"]["identifier"]
    event = call.stripe.meters.received(identifier)
    now = call.account.now()
    meter = _active_meter(call, call.params["event_name"])
    if event is None or event.meter != meter.id:
        raise no_such("meter event", identifier, "cancel[identifier]", status=400)
    if now - event.received >= _UNIQUE_SECONDS:
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
        "aggregated_value": json_number(aggregate(meter.formula, events)),
        "end_time": end,
        "livemode": call.account.settings.livemode,
        "meter": meter.id,
        "start_time": start,
    }


ROUTES = [
    Route(
        "POST",
        "/v1/billing/meter_events",
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
