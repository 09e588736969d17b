"""How the v3 API writes and reads what the v1 API has in other words.

Source: OpenMeter, api/v3/openapi.yaml, api/v3/handlers and api/v3/apierrors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sandbox.openmeter.instants import Instant, local_text, parse
from sandbox.openmeter.problems import Problem
from sandbox.openmeter.query import Query, QueryResult, Row

if TYPE_CHECKING:
    from sandbox.openmeter.cloudevents import Event
    from sandbox.openmeter.meters import Meter

GRANULARITIES: Final = {"PT1M": "MINUTE", "PT1H": "HOUR", "P1D": "DAY", "P1M": "MONTH"}
AGGREGATIONS: Final = ("sum", "count", "unique_count", "avg", "min", "max", "latest")
MOST_VALUES: Final = 100
MOST_DIMENSIONS: Final = 10

_KINDS = {
    400: ("bad-request", "Bad Request"),
    401: ("unauthenticated", "Unauthenticated"),
    403: ("unauthorized", "Forbidden"),
    404: ("not-found", "Not Found"),
    405: ("method-not-allowed", "Method Not Allowed"),
    409: ("resource-conflict", "Conflict"),
    412: ("precondition-failed", "Precondition Failed"),
    429: ("rate-limited", "Too many requests"),
}
_OPERATORS = ("exists", "eq", "neq", "in", "nin", "contains", "ncontains", "and", "or")
_KEY = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_LABEL = re.compile(r"[a-z0-9A-Z]([a-z0-9A-Z._-]*[a-z0-9A-Z]+)?")
_CREATED = ("name", "description", "labels", "key", "aggregation", "event_type", "events_from")
_EVENT = ("id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject", "time", "data")


class InvalidParametersProblem(Problem):
    """The 400 that names the parameter which is not as the OpenAPI document wants it."""

    def __init__(self, field: str, reason: str, *, rule: str = "invalid", source: str = "body") -> None:
        super().__init__(400, f"Bad Request: {field} [{rule}]: {reason}")
        self.parameter = {"field": field, "rule": rule, "reason": reason, "source": source}


def wrong(field: str, reason: str, rule: str = "invalid") -> NoReturn:
    """Raise the 400 for a field of a body."""
    raise InvalidParametersProblem(field, reason, rule=rule)


def problem_document(problem: Problem, request_id: str) -> dict[str, object]:
    """The body of an error; what failed within the server stays with it."""
    kind, title = _KINDS.get(problem.status, ("internal", "Internal"))
    detail = problem.detail if problem.status in _KINDS else "An internal failure occurred"
    document: dict[str, object] = {
        "type": f"https://kongapi.info/konnect/{kind}",
        "status": problem.status,
        "title": title,
        "instance": f"urn:request:{request_id}",
        "detail": detail or title,
    }
    if isinstance(problem, InvalidParametersProblem):
        document["invalid_parameters"] = [problem.parameter]
    return document


def meter_document(meter: Meter) -> dict[str, object]:
    """The meter as v3 shows it."""
    optional: dict[str, object] = {
        "description": meter.description,
        "deleted_at": None if meter.deleted_at is None else local_text(meter.deleted_at),
        "events_from": str(meter.event_from) if meter.event_from else None,
        "value_property": meter.value_property,
        "dimensions": dict(meter.group_by) or None,
    }
    return {
        "id": meter.id,
        "name": meter.name,
        "labels": dict(meter.metadata),
        "created_at": local_text(meter.created_at),
        "updated_at": local_text(meter.deleted_at or meter.created_at),
        "key": meter.slug,
        "aggregation": meter.aggregation.lower(),
        "event_type": meter.event_type,
        **{name: value for name, value in optional.items() if value is not None},
    }


def event_document(event: Event) -> dict[str, object]:
    """An event of the list; like the server that was read it says nothing of validation errors."""
    data = {} if event.data is None else {"datacontenttype": "application/json", "data": event.data}
    return {
        "event": {
            "id": event.id,
            "source": event.source,
            "specversion": "1.0",
            "type": event.type,
            "subject": event.subject,
            "time": local_text(event.time),
            **data,
        },
        "ingested_at": local_text(event.ingested_at),
        "stored_at": local_text(event.stored_at),
    }


def result_json(result: QueryResult) -> str:
    """The body of a query's answer."""
    echo = [
        f'"{name}":"{value}",'
        for name, value in (("from", result.query.start), ("to", result.query.end))
        if value is not None
    ]
    rows = ",".join(
        f'{{"value":"{numeric(row.value)}","from":"{row.window_start}","to":"{row.window_end}",'
        f'"dimensions":{json.dumps(_dimensions(row))}}}'
        for row in result.rows
    )
    return f'{{{"".join(echo)}"data":[{rows}]}}'


def numeric(value: float) -> str:
    """A float64 as a decimal text: its shortest digits, never with an exponent."""
    text = format(Decimal(repr(value or 0.0)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _dimensions(row: Row) -> dict[str, str]:
    reserved = {"subject": row.subject, "customer_id": row.customer_id}
    return {**{name: value for name, value in reserved.items() if value is not None}, **row.group_by}


@dataclass(frozen=True, slots=True)
class _Filters:
    subjects: tuple[str, ...] | None = None
    customers: tuple[str, ...] = ()
    dimensions: tuple[tuple[str, tuple[str, ...]], ...] = ()


def read_query(document: object) -> Query:
    """The query of a body. Raises Problem (400): no field may be there that the spec does not name."""
    body = _object("", document, ("from", "to", "granularity", "time_zone", "group_by_dimensions", "filters"))
    granularity = body.get("granularity")
    if granularity is not None and granularity not in GRANULARITIES:
        wrong("granularity", f"must be one of: [{','.join(GRANULARITIES)}]", "enum")
    zone = _text(body, "time_zone")
    filters = _filters(body.get("filters", {}))
    return Query(
        start=_instant(body, "from"),
        end=_instant(body, "to"),
        window_size=None if granularity is None else GRANULARITIES[granularity],
        window_time_zone=zone,
        subjects=filters.subjects,
        group_by=tuple(dict.fromkeys(_texts("group_by_dimensions", body.get("group_by_dimensions", []), 0))),
        filters=filters.dimensions,
        customers=filters.customers,
        counts_deleted_customers=True,
    )


def _filters(document: object) -> _Filters:
    body = _object("filters", document, ("dimensions",))
    dimensions = body.get("dimensions", {})
    if not isinstance(dimensions, dict):
        wrong("filters.dimensions", "value must be an object", "type")
    if len(dimensions) > MOST_DIMENSIONS:
        wrong("filters.dimensions", f"there must be at most {MOST_DIMENSIONS} properties", "maxProperties")
    chosen = {name: _chosen(name, item) for name, item in dimensions.items()}
    return _Filters(
        subjects=chosen.pop("subject", ()) or None,
        customers=chosen.pop("customer_id", ()),
        dimensions=tuple(chosen.items()),
    )


def _chosen(name: str, document: object) -> tuple[str, ...]:
    """The values that a dimension may have. Unlike OpenMeter, other operators are for no dimension."""
    field = f"filters.dimensions.{name}"
    body = _object(field, document, _OPERATORS)
    values = _texts(f"{field}.in", body["in"], 1) if "in" in body else []
    if "eq" in body:
        values = [_text(body, "eq", f"{field}.eq") or ""]
    if len(body) > 1 or not body.keys() <= {"eq", "in"}:
        raise Problem(400, "only eq and in filter operators are supported for this field")
    return tuple(values)


def read_meter(document: object) -> dict[str, object]:
    """The body of a meter's creation in the words of v1. Raises Problem (400)."""
    body = _object("", document, (*_CREATED, "value_property", "dimensions"))
    for name in ("name", "key", "aggregation", "event_type"):
        if name not in body:
            wrong(name, f'property "{name}" is missing', "required")
    for name in ("name", "description", "key", "event_type", "events_from", "value_property"):
        text = _text(body, name)
        if text == "" and name != "description":
            wrong(name, "minimum string length is 1", "min_length")
        if text is not None and len(text) > {"name": 256, "description": 1024, "key": 64}.get(
            name, len(text)
        ):
            wrong(name, "the string is too long", "max_length")
    if not _KEY.fullmatch(body["key"]):
        wrong("key", f'string doesn\'t match the regular expression "^{_KEY.pattern}$"', "pattern")
    if body["aggregation"] not in AGGREGATIONS:
        wrong("aggregation", f"must be one of: [{','.join(AGGREGATIONS)}]", "enum")
    labels = _map(body, "labels")
    if len(labels) > 50 or not all(_LABEL.fullmatch(value) and len(value) < 64 for value in labels.values()):
        wrong("labels", "a label is up to 63 letters, digits, dots, dashes and underscores", "pattern")
    _instant(body, "events_from")
    optional = {
        "description": body.get("description") or None,
        "eventFrom": body.get("events_from"),
        "valueProperty": body.get("value_property"),
    }
    return {
        "slug": body["key"],
        "name": body["name"],
        "aggregation": body["aggregation"].upper(),
        "eventType": body["event_type"],
        "groupBy": _map(body, "dimensions"),
        "metadata": labels,
        **{name: value for name, value in optional.items() if value is not None},
    }


def check_event_fields(document: Mapping[str, Any]) -> None:
    """Raise the 400 for a field that v3's MeteringEvent does not have."""
    _object("", document, _EVENT)


def _object(field: str, document: object, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(document, dict):
        wrong(field, "value must be an object", "type")
    for name in document:
        if name not in names:
            path = f"{field}.{name}" if field else name
            wrong(path, f'property "{name}" is unsupported', "additionalProperties")
    return document


def _text(body: Mapping[str, Any], name: str, field: str = "") -> str | None:
    value = body.get(name)
    if name in body and not isinstance(value, str):
        wrong(field or name, "value must be a string", "type")
    return value


def _texts(field: str, value: object, least: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        wrong(field, "value must be an array of strings", "type")
    if len(value) < least:
        wrong(field, f"minimum number of items is {least}", "min_items")
    if len(value) > MOST_VALUES:
        wrong(field, f"maximum number of items is {MOST_VALUES}", "max_items")
    return value


def _map(body: Mapping[str, Any], name: str) -> dict[str, str]:
    value = body.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        wrong(name, "value must be an object of strings", "type")
    return value


def _instant(body: Mapping[str, Any], name: str) -> Instant | None:
    text = _text(body, name)
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        wrong(name, str(error), "format")
