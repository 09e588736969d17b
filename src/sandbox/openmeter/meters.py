"""Meters: what an event counts for."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

from sandbox.openmeter.instants import Instant, local_text, parse
from sandbox.openmeter.problems import Problem, invalid, invalid_body, invalid_parameter, not_found
from sandbox.openmeter.values import MISSING, Path, compile_path, find, number_at, ulid

if TYPE_CHECKING:
    from sandbox.openmeter.cloudevents import Event

AGGREGATIONS: Final = ("SUM", "COUNT", "UNIQUE_COUNT", "AVG", "MIN", "MAX", "LATEST")
ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")

_SLUG = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_GROUP_BY = re.compile(r"[a-zA-Z_][0-9a-zA-Z_]*")
_TEXTS = ("slug", "eventType", "name", "description", "valueProperty", "aggregation", "eventFrom")
_MAPS = ("groupBy", "metadata")


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter; times are UTC unix seconds."""

    id: str
    slug: str
    name: str
    aggregation: str
    event_type: str
    created_at: int
    value_property: str | None = None
    group_by: tuple[tuple[str, str], ...] = ()
    description: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    event_from: Instant | None = None
    deleted_at: int | None = None

    @property
    def value_path(self) -> Path | None:
        """Where an event's value is; None for COUNT."""
        return None if self.value_property is None else compile_path(self.value_property)

    @property
    def group_paths(self) -> dict[str, Path]:
        """Where an event's dimensions are."""
        return {name: compile_path(path) for name, path in self.group_by}

    def document(self) -> dict[str, object]:
        """The meter as the API shows it; what is not set is left out."""
        optional: dict[str, object] = {
            "description": self.description,
            "eventFrom": str(self.event_from) if self.event_from else None,
            "valueProperty": self.value_property,
            "groupBy": dict(self.group_by) or None,
            "metadata": dict(self.metadata) or None,
            "deletedAt": None if self.deleted_at is None else local_text(self.deleted_at),
        }
        return {
            "id": self.id,
            "slug": self.slug,
            "name": self.name,
            "aggregation": self.aggregation,
            "eventType": self.event_type,
            "createdAt": local_text(self.created_at),
            "updatedAt": local_text(self.deleted_at or self.created_at),
            **{name: value for name, value in optional.items() if value is not None},
        }

    def validation_error(self, event: Event) -> str | None:
        """Why an event of this meter's type has no value, as the list of events says it."""
        path = self.value_path
        if path is None:
            return None
        if event.data is None:
            return "event data is null and missing value property"
        value = find(event.data, path)
        if value is MISSING:
            return f'event data is missing value property at "{self.value_property}"'
        if value is None:
            return "event data value cannot be null"
        if self.aggregation == "UNIQUE_COUNT" or number_at(event.data, path) is not None:
            return None
        why = f"as float64: {value}" if isinstance(value, str) else "as a number"
        return f"event data value cannot be parsed {why}"


class Meters:
    """The meters of one OpenMeter."""

    def __init__(self) -> None:
        self._by_id: dict[str, Meter] = {}
        self._random = random.Random(0)

    def create(self, document: object, now: int) -> Meter:
        """Add the meter that a request body describes. Raises Problem (400, 409)."""
        body = _check_document(document)
        meter = Meter(
            id=ulid(now, self._random),
            slug=body["slug"],
            name=body.get("name") or body["slug"],
            aggregation=body["aggregation"],
            event_type=body["eventType"],
            created_at=now,
            value_property=body.get("valueProperty"),
            group_by=tuple(sorted((body.get("groupBy") or {}).items())),
            description=body.get("description"),
            metadata=tuple(sorted((body.get("metadata") or {}).items())),
            event_from=_event_from(body.get("eventFrom")),
        )
        _check_paths(meter)
        if any(m.slug == meter.slug and m.deleted_at is None for m in self._by_id.values()):
            raise Problem(409, "conflict error: meter with the same slug already exists")
        self._by_id[meter.id] = meter
        return meter

    def listed(self, *, include_deleted: bool = False) -> list[Meter]:
        """All meters by slug."""
        chosen = (m for m in self._by_id.values() if include_deleted or m.deleted_at is None)
        return sorted(chosen, key=lambda m: m.slug)

    def get(self, id_or_slug: str) -> Meter:
        """A meter by its id, deleted or not, or by its slug. Raises Problem (400, 404)."""
        if len(id_or_slug) > 64 or not (_SLUG.fullmatch(id_or_slug) or ULID.fullmatch(id_or_slug.upper())):
            invalid_parameter(
                "meterIdOrSlug",
                "path",
                f'string doesn\'t match the regular expression "^{_SLUG.pattern}$|ULID"',
            )
        if meter := self._by_id.get(id_or_slug.upper()):
            return meter
        for meter in self.listed():
            if meter.slug == id_or_slug:
                return meter
        raise not_found(f"meter not found: {id_or_slug}")

    def delete(self, id_or_slug: str, now: int) -> None:
        """Hide a meter. Raises Problem (400, 404)."""
        meter = self.get(id_or_slug)
        if meter.deleted_at is None:
            self._by_id[meter.id] = replace(meter, deleted_at=now)

    def of_type(self, event_type: str) -> list[Meter]:
        """The meters that count events of a type."""
        return [m for m in self.listed() if m.event_type == event_type]


def _check_document(document: object) -> dict[str, Any]:
    """The body against the schema MeterCreate; unlike OpenMeter, unknown fields are refused."""
    if not isinstance(document, dict):
        invalid_body("/", "value must be an object")
    for name, value in document.items():
        _check_field(name, value)
    for name in ("slug", "aggregation", "eventType"):
        if name not in document:
            invalid_body(f"/{name}", f'property "{name}" is missing')
    if len(document["slug"]) > 64 or not _SLUG.fullmatch(document["slug"]):
        invalid_body("/slug", f'string doesn\'t match the regular expression "^{_SLUG.pattern}$"')
    if document["aggregation"] not in AGGREGATIONS:
        invalid_body("/aggregation", "value is not one of the allowed values")
    return cast("dict[str, Any]", document)


def _check_field(name: str, value: object) -> None:
    if name in _MAPS:
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            invalid_body(f"/{name}", "value must be an object of strings")
    elif name not in _TEXTS:
        invalid_body(f"/{name}", f'property "{name}" is unsupported')
    elif not isinstance(value, str):
        invalid_body(f"/{name}", "value must be a string")
    elif not value:
        invalid_body(f"/{name}", "minimum string length is 1")


def _event_from(text: str | None) -> Instant | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        invalid_body("/eventFrom", str(error))


def _check_paths(meter: Meter) -> None:
    """The rules of OpenMeter's `Meter.Validate`."""
    if meter.aggregation == "COUNT":
        if meter.value_property is not None:
            invalid("meter value property is not allowed when the aggregation is count")
    elif meter.value_property is None:
        invalid("meter value property is required when the aggregation is not count")
    else:
        _check_path(meter.value_property, "meter value property must start with $")
    for name, path in meter.group_by:
        if not _GROUP_BY.fullmatch(name):
            invalid(
                f"meter group by key {name} is invalid,"
                " only alphanumeric and underscore characters are allowed"
            )
        _check_path(path, f"meter group by value must start with $ for key {name}")
        if path == meter.value_property:
            invalid(f"meter group by value {name} cannot be the same as value property")


def _check_path(path: str, must_start: str) -> None:
    if not path.startswith("$"):
        invalid(must_start)
    try:
        compile_path(path)
    except ValueError as error:
        invalid(f"invalid JSONPath: {error}")
