"""CloudEvents as `POST /api/v1/events` takes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.openmeter.instants import instant
from sandbox.openmeter.problems import Problem, invalid_body
from sandbox.openmeter.values import loads

SINGLE: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
EITHER: Final = "application/json"

_REQUIRED = ("specversion", "id", "source", "type", "subject")


@dataclass(slots=True, eq=False)
class Event:
    """A stored event; times are UTC unix seconds. `visible_at` is None while it is held back."""

    source: str
    id: str
    type: str
    subject: str
    time: int
    data: dict[str, Any] | None
    ingested_at: int
    visible_at: int | None
    stored_at: int = field(default=0)


def read_events(content_type: str, body: bytes) -> list[dict[str, Any]]:
    """The events of a request body, unchecked.

    The content type must be one of three, to the letter: a `charset` is refused. Raises Problem.
    Source: OpenMeter API reference, "Ingest events".
    """
    if content_type not in (SINGLE, BATCH, EITHER):
        raise Problem(400, f"invalid content type: {content_type}")
    try:
        document = loads(body)
    except ValueError as error:
        raise Problem(400, f"invalid event: {error}") from error
    if isinstance(document, list) and content_type != SINGLE:
        if not document:
            raise Problem(400, "invalid event: no events found")
        return document
    if isinstance(document, dict) and content_type != BATCH:
        return [document]
    raise Problem(400, f"invalid event: cannot unmarshal the body as {content_type}")


def check_event(document: object, now: int) -> Event:
    """The event that a JSON object describes, ingested at `now`. Raises Problem."""
    if not isinstance(document, dict):
        invalid_body("/", "value must be an object")
    for name in _REQUIRED:
        value = document.get(name)
        if not isinstance(value, str):
            invalid_body(f"/{name}", f'property "{name}" is missing or not a string')
        if not value:
            invalid_body(f"/{name}", "minimum string length is 1")
    if document["specversion"] != "1.0":
        invalid_body("/specversion", "the version is not 1.0")
    if document.get("datacontenttype") not in (None, "application/json"):
        invalid_body("/datacontenttype", "value is not one of the allowed values")
    data = document.get("data")
    if data is not None and not isinstance(data, dict):
        invalid_body("/data", "value must be an object")
    return Event(
        source=document["source"],
        id=document["id"],
        type=document["type"],
        subject=document["subject"],
        time=_time(document.get("time"), now),
        data=data,
        ingested_at=now,
        visible_at=now,
    )


def _time(value: object, now: int) -> int:
    """Whole seconds; the sub-seconds are dropped, as OpenMeter's storage does."""
    if value is None:
        return now
    if not isinstance(value, str):
        invalid_body("/time", "value must be a string")
    try:
        return instant(value).seconds
    except ValueError as error:
        invalid_body("/time", str(error))
