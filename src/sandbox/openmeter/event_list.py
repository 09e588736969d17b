"""The list of ingested events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.openmeter.instants import Instant, local_text
from sandbox.openmeter.parameters import Parameters
from sandbox.openmeter.problems import invalid

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandbox.openmeter.cloudevents import Event
    from sandbox.openmeter.sandbox import OpenMeterSandbox

MAX_LIMIT = 100
DEFAULT_SPAN = 72 * 3600
"""How far back events are listed without `from`, in seconds."""
LONGEST_SPAN = 32 * 24 * 3600
"""How far back `from` may lie, in seconds."""

_NAMES = (
    *("from", "to", "ingestedAtFrom", "ingestedAtTo"),
    *("id", "subject", "limit", "clientId"),
)


def answer(sandbox: OpenMeterSandbox, request: Request) -> list[dict[str, object]]:
    """The newest events that were asked for. Raises Problem (400).

    Source: OpenMeter API reference, "List ingested events".
    """
    parameters = Parameters(request, _NAMES)
    oldest = sandbox.clock() - LONGEST_SPAN
    start = parameters.instant("from") or Instant(sandbox.clock() - DEFAULT_SPAN)
    end = parameters.instant("to")
    ingested_from = parameters.instant("ingestedAtFrom")
    ingested_to = parameters.instant("ingestedAtTo")
    _check("", start, end, oldest)
    _check("ingestedAt", ingested_from, ingested_to, oldest)
    part_of_id = parameters.text("id") or ""
    subject = parameters.text("subject")
    limit = parameters.integer("limit", least=1, most=MAX_LIMIT) or MAX_LIMIT

    def chosen(event: Event) -> bool:
        return (
            _within(event.time, start, end)
            and _within(event.ingested_at, ingested_from, ingested_to)
            and part_of_id in event.id
            and subject in (None, event.subject)
        )

    return [_document(sandbox, event) for event in sandbox.events(chosen, limit)]


def _check(name: str, start: Instant | None, end: Instant | None, oldest: int) -> None:
    if start and start.seconds < oldest:
        invalid(f"{name or 'from'} date is too old: {start}, must be after {Instant(oldest)}")
    if start and end and end < start:
        invalid(f"{name or 'to'} date is before from date: {end} < {start}")


def _within(time: int, start: Instant | None, end: Instant | None) -> bool:
    return (start is None or start.seconds <= time) and (end is None or time < end.seconds)


def _document(sandbox: OpenMeterSandbox, event: Event) -> dict[str, object]:
    document: dict[str, object] = {
        "event": {
            "id": event.id,
            "source": event.source,
            "specversion": "1.0",
            "type": event.type,
            "subject": event.subject,
            "time": local_text(event.time),
            "data": event.data,
        },
        "ingestedAt": local_text(event.ingested_at),
        "storedAt": local_text(event.stored_at),
    }
    if error := sandbox.validation_error(event):
        document["validationError"] = error
    return document
