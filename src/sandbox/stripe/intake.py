"""Taking meter events: what is checked of them, and when what is wrong is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal

from sandbox.stripe.account import Account
from sandbox.stripe.errors import StripeError, invalid, malformed
from sandbox.stripe.objects import Meter
from sandbox.stripe.sandbox import StripeSandbox
from sandbox.stripe.validation import Refusal

UNIQUE_SECONDS = 24 * 3600
CODES = frozenset(
    {
        "archived_meter",
        "meter_event_customer_not_found",
        "meter_event_invalid_value",
        "meter_event_no_customer_defined",
        "meter_event_value_not_found",
        "meter_event_value_too_many_digits",
        "no_meter",
        "timestamp_in_future",
        "timestamp_too_far_in_past",
    }
)
"""Everything that can be wrong with what an event says."""

_VALUE = re.compile(r"-?\d+(\.\d+)?")
_MAX_DIGITS = 15
_MAX_DECIMALS = 12
_PAST_SECONDS = 35 * 24 * 3600
_FUTURE_SECONDS = 5 * 60


@dataclass(frozen=True)
class Offered:
    """A meter event as it came in: well-formed, and not checked yet."""

    event_name: str
    payload: Mapping[str, str]
    timestamp: int
    identifier: str
    is_streamed: bool = False


class DuplicateEventError(StripeError):
    """400 for an identifier that was received within the last 24 hours, whichever way it came."""

    def __init__(self, identifier: str) -> None:
        super().__init__(
            400,
            f"An event already exists with identifier {identifier}.",
            param="identifier",
            headers={"Stripe-Should-Retry": "false"},
        )


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


def take(stripe: StripeSandbox, event: Offered, *, late: AbstractSet[str], request: str) -> None:
    """Accept an event, though it may be found wrong afterwards, for a code in `late`.

    `request` names its request in the report about it. Raises StripeError for what is refused at once.
    """
    account = stripe.account
    checks = _Checks(late)
    checks.run(lambda: active_meter(account, event.event_name))
    meter = next((row for row in account.meters if row.event_name == event.event_name), None)
    payload = checks.run(lambda: _read_payload(meter, event.payload)) if meter else None
    customer, value = payload or ("", Decimal(0))
    checks.run(lambda: _check_timestamp(event.timestamp, _time_of(account, customer)))
    known = stripe.meters.received(event.identifier, is_streamed=event.is_streamed)
    if known is not None and account.machine_time() - known.received < UNIQUE_SECONDS:
        raise DuplicateEventError(event.identifier)
    if payload:
        checks.run(lambda: _check_customer(account, customer))
    refusal = checks.refusal or stripe.validation.planned(customer)
    meter_id, counts = meter.id if meter else None, refusal is None
    stripe.meters.record(
        event.identifier,
        meter_id or "",
        customer,
        value,
        event.timestamp,
        counted=counts,
        is_streamed=event.is_streamed,
    )
    if refusal is not None:
        stripe.validation.refuse(refusal, meter_id, request)


def active_meter(account: Account, event_name: str) -> Meter:
    """The meter of this event name; raises StripeError for none, and for one that is not active."""
    named = [row for row in account.meters if row.event_name == event_name]
    active = next((row for row in named if row.status == "active"), None)
    if active is not None:
        return active
    if named:
        raise invalid(f"The meter for event name '{event_name}' is archived.", "event_name", "archived_meter")
    raise invalid(f"No meter found for event name '{event_name}'.", "event_name", "no_meter")


def _read_payload(meter: Meter, payload: Mapping[str, str]) -> tuple[str, Decimal]:
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


def _check_customer(account: Account, customer: str) -> None:
    found = account.customers.find(customer)
    if found is None or found.deleted:
        raise invalid(
            f"No customer found with the id '{customer}'.", "payload", "meter_event_customer_not_found"
        )


def _time_of(account: Account, customer: str) -> int:
    """What a stamp's age is counted from: of a customer on a test clock, the clock's frozen time.

    Stripe does not say whether it goes by that, or by the real time.
    """
    if account.settings.undocumented.stamps_checked_by_real_time:
        return account.machine_time()
    clock = account.test_clock_of(customer)
    return clock.frozen_time if clock else account.now()


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
