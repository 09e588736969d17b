"""What Stripe says of meter events that it accepted first and refused afterwards; pure.

Such a report comes as a thin event, covers a short window of one meter, counts the refused events by code,
and names samples of them only, each by its request's idempotency key ("Record usage for billing", "Handle
meter event errors").
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from usage_reporting.errors import BadRequestError, RejectedError
from usage_reporting.windows import day_of

Json = dict[str, Any]

THIN_OBJECT = "v2.core.event"
ERROR_REPORT = "v1.billing.meter.error_report_triggered"
NO_METER_FOUND = "v1.billing.meter.no_meter_found"
THIN_EVENTS = frozenset({ERROR_REPORT, NO_METER_FOUND})

_EVENT = re.compile(r"evt_[A-Za-z0-9_]{1,250}")
_SENT_AS = re.compile(r"(?P<customer>.{1,64})\.(?P<start>\d{1,12})\.\d+\.[0-9a-f]{16}")
_ATTEMPT = re.compile(r"\.\d+")


class Remedy(StrEnum):
    """What becomes of usage that Stripe refused afterwards."""

    RESEND = "resend"
    """It is sent again with the next report; nobody need look."""
    WAIT = "wait"
    """It is sent again once the cause is mended."""
    STOP = "stop"
    """It is not sent again before a person has looked: it would be refused again."""


_BY_CODE: dict[str, tuple[Remedy, str]] = {
    "timestamp_in_future": (Remedy.RESEND, "the clocks differ; it is sent again by itself"),
    "archived_meter": (Remedy.WAIT, "reactivate the Stripe meter; it is then sent again by itself"),
    "no_meter": (
        Remedy.WAIT,
        "Stripe knew no meter of that event name; see that it is active, and it is sent again by itself",
    ),
    "meter_event_customer_not_found": (
        Remedy.STOP,
        "the customer was deleted in Stripe, and no invoice will have it; collect it in another way",
    ),
    "timestamp_too_far_in_past": (
        Remedy.STOP,
        "it is older than Stripe takes: unbillable by a meter; bill it by an invoice item",
    ),
    "missing_dimension_payload_keys": (
        Remedy.STOP,
        "the Stripe meter asks for dimensions, which are not sent; put the price on a meter without them",
    ),
    "meter_event_dimension_count_too_high": (
        Remedy.STOP,
        "the Stripe meter has more dimensions than Stripe keeps; put the price on a meter without them",
    ),
    "meter_event_no_customer_defined": (Remedy.STOP, "a defect in this software; report it"),
    "meter_event_invalid_value": (Remedy.STOP, "a defect in this software; report it"),
    "meter_event_value_not_found": (Remedy.STOP, "a defect in this software; report it"),
    "meter_event_value_too_many_digits": (
        Remedy.STOP,
        "a defect in this software; report it, or meter in a larger unit",
    ),
}
"""Stripe's codes (the official library's event classes); the list is open."""

_UNKNOWN_CODE = (Remedy.STOP, "see Stripe's documentation of this code")


def remedy_for(code: str) -> Remedy:
    """What becomes of usage that was refused with a code."""
    return _BY_CODE.get(code, _UNKNOWN_CODE)[0]


def is_known(code: str) -> bool:
    """Whether a code says for certain that the event is not counted; the list of Stripe's codes is open."""
    return code in _BY_CODE


def advice_for(code: str) -> str:
    """What to do about a code, in words."""
    return _BY_CODE.get(code, _UNKNOWN_CODE)[1]


@dataclass(frozen=True, slots=True)
class Sample:
    """One refused event that a report names."""

    request: str
    """Its idempotency key, or its own identifier."""
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """A report of refused events; the window in UTC seconds, rounded outwards."""

    event: str
    mode: str
    """`live` or `test`."""
    meter: str
    """The Stripe meter's id; empty when the events named none that exists."""
    start: int
    end: int
    samples: tuple[Sample, ...]
    is_complete: bool
    """Whether every refused event of the window is among the samples."""


def event_id(event: Json) -> str:
    """The id of a thin event. Raises BadRequestError."""
    found = event.get("id")
    if not isinstance(found, str) or not _EVENT.fullmatch(found):
        raise BadRequestError("`id` is not the id of an event")
    return found


def read_report(event: Json) -> ErrorReport:
    """Read a thin event that was fetched with its data. Raises RejectedError when it is misshapen."""
    try:
        data = event["data"]
        types = data["reason"]["error_types"]
        samples = [
            Sample(str(sample["request"]["identifier"]), str(kind["code"]), str(sample["error_message"]))
            for kind in types
            for sample in kind["sample_errors"]
        ]
        counted = max(int(data["reason"]["error_count"]), sum(int(kind["error_count"]) for kind in types))
        return ErrorReport(
            event=event_id(event),
            mode="live" if event.get("livemode") else "test",
            meter=str((event.get("related_object") or {}).get("id") or ""),
            start=math.floor(_instant(data["validation_start"])),
            end=math.ceil(_instant(data["validation_end"])),
            samples=tuple(samples),
            is_complete=len(samples) >= counted,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RejectedError(
            f"Stripe's report of refused meter events lacks or misshapes something: {error!r}; look at the "
            "event in Stripe's Dashboard"
        ) from error


@dataclass(frozen=True, slots=True)
class SentAs:
    """A send as its identifier names it."""

    identifier: str
    customer: str
    slice_start: int

    def keys(self, account: str, mode: str, meter: str) -> list[tuple[str, str]]:
        """The ledger entries in which it may be: that of its day, or of the span that begins there."""
        pk = f"{account}#{mode}#{self.customer}#{meter}"
        return [(pk, day_of(self.slice_start)), (pk, str(self.slice_start))]


def sent_as(request: str) -> SentAs | None:
    """The send that a sample names, with or without the number of the attempt; None if it is not ours."""
    for identifier in (request, _without_attempt(request)):
        match = _SENT_AS.fullmatch(identifier)
        if match is not None:
            return SentAs(identifier, match["customer"], int(match["start"]))
    return None


def _without_attempt(request: str) -> str:
    identifier, dot, attempt = request.rpartition(".")
    return identifier if _ATTEMPT.fullmatch(dot + attempt) else request


def _instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
