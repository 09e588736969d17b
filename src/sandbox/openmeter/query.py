"""The meter query: what is asked, and what it answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from sandbox.openmeter.aggregates import Aggregate
from sandbox.openmeter.instants import Instant, instant
from sandbox.openmeter.meters import ULID, Meter
from sandbox.openmeter.problems import invalid, invalid_body
from sandbox.openmeter.store import HOUR, Bucket, EventIndex
from sandbox.openmeter.values import Path, number, text_at
from sandbox.openmeter.windows import WINDOW_SIZES, Windows

if TYPE_CHECKING:
    from sandbox.openmeter.cloudevents import Event
    from sandbox.openmeter.customers import Customer, Customers

MAX_ITEMS: Final = 100
"""The most subjects, customers or dimensions of one POST query."""

_LISTS = ("subject", "groupBy", "filterCustomerId")
_TEXTS = ("from", "to", "windowSize", "windowTimeZone", "clientId")
_CLIENT_ID = 36
_RESERVED = ("subject", "customer_id")
_ROUNDED = {
    "MINUTE": (60, "YYYY-MM-DDTHH:mm:00"),
    "HOUR": (3600, "YYYY-MM-DDTHH:00:00"),
    "DAY": (86_400, "YYYY-MM-DDT00:00:00"),
}
_NO_DIMENSIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Query:
    """A meter query; `subjects` None means not asked, empty means all but grouped."""

    start: Instant | None = None
    end: Instant | None = None
    window_size: str | None = None
    window_time_zone: str | None = None
    subjects: tuple[str, ...] | None = None
    group_by: tuple[str, ...] = ()
    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    customers: tuple[str, ...] = ()
    counts_deleted_customers: bool = False
    """Whether customers that were deleted have their usage still, as in v3, or are not there, as in v1."""

    @property
    def grouping(self) -> tuple[str, ...]:
        """What the rows are grouped by: asking for subjects groups by subject, for customers by customer."""
        asked = {"subject": self.subjects is not None, "customer_id": bool(self.customers)}
        return (
            *self.group_by,
            *(name for name, is_asked in asked.items() if is_asked and name not in self.group_by),
        )

    def check(self, meter: Meter, customers: Customers) -> list[Customer]:
        """The customers that are asked for. Raise Problem (400, 404) if this meter cannot answer it."""
        for name in self.group_by:
            if name not in _RESERVED and name not in dict(meter.group_by):
                invalid(f"invalid group by: {name}")
        asked = customers.asked(self.customers, include_deleted=self.counts_deleted_customers)
        self.zone()
        for name, _ in self.filters:
            if name not in dict(meter.group_by):
                invalid(f"invalid group by filter: {name}")
        if self.start and self.end:
            bounds = (self.start[:2], self.end[:2])
            if bounds[0] == bounds[1]:
                invalid("from and to cannot be equal")
            if bounds[0] > bounds[1]:
                invalid("from must be before to")
        if "customer_id" in self.group_by and not asked:
            invalid("customer filter is required with customer_id group by")
        return asked

    def check_rounded(self) -> None:
        """Raise Problem (400) for bounds that OpenMeter refused before its release of March 2025.

        Its meters aggregated by minutes, so a bound had to be a full minute, and a full window of the size
        that was asked for. Source: OpenMeter, meter query parameters ("from must be rounded to MINUTE").
        """
        for size in ("MINUTE", self.window_size):
            if size not in _ROUNDED:
                continue
            seconds, form = _ROUNDED[size]
            for name, bound in (("from", self.start), ("to", self.end)):
                if bound is not None and bound.seconds % seconds:
                    invalid(
                        f"cannot query meter aggregating on {size} window size: "
                        f"{name} must be rounded to {size} like {form}"
                    )

    def zone(self) -> ZoneInfo | None:
        """The time zone of the windows. Raises Problem."""
        if not self.window_time_zone:
            return None
        try:
            return ZoneInfo(self.window_time_zone)
        except (ValueError, OSError, KeyError):
            invalid(f"invalid time zone: unknown time zone {self.window_time_zone}")


class Row(NamedTuple):
    """A row of the answer; the window bounds are texts as shown."""

    value: float
    window_start: str
    window_end: str
    subject: str | None
    group_by: Mapping[str, str]
    customer_id: str | None = None
    """None: not grouped by customer."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer; the bounds and the window size only repeat what was asked."""

    query: Query
    rows: list[Row]

    def json(self) -> str:
        """The body of the answer."""
        text = cache(json.dumps)
        head = [
            f'"{name}":"{value}",'
            for name, value in (
                ("from", self.query.start),
                ("to", self.query.end),
                ("windowSize", self.query.window_size),
            )
            if value is not None
        ]
        rows = ",".join(
            f'{{"value":{number(value)},"windowStart":"{start}","windowEnd":"{end}",'
            f'"subject":{text(subject)},"groupBy":{json.dumps(dict(groups)) if groups else "{}"}'
            f"{'' if customer is None else f',"customerId":{text(customer)}'}}}"
            for value, start, end, subject, groups, customer in self.rows
        )
        return f'{{{"".join(head)}"data":[{rows}]}}'


def read_query(document: object, *, most_subjects: int | None = MAX_ITEMS) -> Query:
    """The query of a request body.

    A GET is read in the form of a body, with any number of subjects. Unlike OpenMeter, unknown
    fields are refused. Raises Problem (400). Source: OpenMeter API reference, "Query meter".
    """
    if not isinstance(document, Mapping):
        invalid_body("/", "value must be an object")
    for name, value in document.items():
        _check_field(name, value, most_subjects)
    size = document.get("windowSize")
    if size is not None and size not in WINDOW_SIZES:
        invalid_body("/windowSize", "value is not one of the allowed values")
    for customer in document.get("filterCustomerId") or ():
        if not ULID.fullmatch(customer.upper()):
            invalid_body("/filterCustomerId", f'"{customer}" is not a ULID')
    subjects = document.get("subject")
    return Query(
        start=_instant("from", document),
        end=_instant("to", document),
        window_size=size,
        window_time_zone=document.get("windowTimeZone"),
        subjects=None if subjects is None else tuple(subjects),
        group_by=tuple(document.get("groupBy") or ()),
        filters=tuple(
            (name, tuple(values)) for name, values in (document.get("filterGroupBy") or {}).items()
        ),
        customers=tuple(document.get("filterCustomerId") or ()),
    )


def _check_field(name: str, value: Any, most_subjects: int | None) -> None:
    if name in _TEXTS:
        if not isinstance(value, str):
            invalid_body(f"/{name}", "value must be a string")
        if name == "clientId" and not 1 <= len(value) <= _CLIENT_ID:
            invalid_body(f"/{name}", f"string length must be 1 to {_CLIENT_ID}")
    elif name in _LISTS:
        _check_list(name, value, most_subjects if name == "subject" else MAX_ITEMS)
    elif name == "filterGroupBy":
        if not isinstance(value, Mapping):
            invalid_body(f"/{name}", "value must be an object")
        for key, values in value.items():
            _check_list(f"{name}/{key}", values, None)
    else:
        invalid_body(f"/{name}", f'property "{name}" is unsupported')


def _check_list(name: str, value: Any, most: int | None) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        invalid_body(f"/{name}", "value must be an array of strings")
    if most is not None and len(value) > most:
        invalid_body(f"/{name}", f"maximum number of items is {most}")


def _instant(name: str, document: Mapping[str, Any]) -> Instant | None:
    try:
        return instant(document[name]) if name in document else None
    except ValueError as error:
        invalid_body(f"/{name}", str(error))


type _Cell = tuple[int, str | None, str | None, tuple[str, ...]]
"""What a row stands for: the window's start (0 without windows), subject, customer, dimensions."""


class _Run:
    """One execution of a query over an index."""

    def __init__(self, query: Query, meter: Meter, index: EventIndex, customers: Sequence[Customer]) -> None:
        self.query = query
        self.meter = meter
        self.index = index
        self.kind = (meter.aggregation, meter.value_path)
        self.windows = Windows(query.window_size, query.zone()) if query.window_size else None
        paths = meter.group_paths
        self.by_subject = "subject" in query.grouping
        self.groups = {name: paths[name] for name in query.grouping if name not in _RESERVED}
        self.customers = customers
        # ClickHouse takes the first value of a key that a map has twice.
        self.customer_of = {s: one.id for one in reversed(customers) for s in reversed(one.subjects)}
        self.filters: list[tuple[Path, tuple[str, ...]]] = [
            (paths[name], values) for name, values in query.filters if values
        ]
        self.by_event = bool(self.groups or self.filters)
        froms = [at.seconds for at in (query.start, meter.event_from) if at]
        self.lower = max(froms, default=0)
        self.upper = query.end.seconds if query.end else 2**33
        self.cells: dict[_Cell, Aggregate] = {}
        self.owned: set[_Cell] = set()

    def rows(self) -> list[Row]:
        for subject, hour, bucket in self._buckets():
            self._take(subject, hour * HOUR, bucket)
        if not self.cells and not self.query.grouping and self.windows is None:
            self.cells[0, None, None, ()] = Aggregate(*self.kind)
        rows = [
            (cell, aggregate, value)
            for cell, aggregate in self.cells.items()
            if (value := aggregate.value()) is not None
        ]
        rows.sort(key=lambda row: row[0][0])
        return [self._row(*row) for row in rows]

    def _buckets(self) -> Iterator[tuple[str, int, Bucket]]:
        """The hours that overlap the bounds; subject by subject, in no order to rely on."""
        subjects = self.index.subjects(self.meter.event_type)
        wanted = set(self.query.subjects or subjects)
        chosen = sorted(wanted & set(self.customer_of) if self.customers else wanted)
        random.Random(len(chosen)).shuffle(chosen)
        first, last = self.lower // HOUR, -(-self.upper // HOUR)
        for subject in chosen:
            stored = subjects.get(subject, {})
            hours = range(first, last) if last - first < len(stored) else sorted(stored)
            for hour in hours:
                if first <= hour < last and hour in stored:
                    yield subject, hour, stored[hour]

    def _take(self, subject: str, start: int, bucket: Bucket) -> None:
        name = subject if self.by_subject else None
        customer = self.customer_of[subject] if self.customers else None
        if not self.by_event and self.lower <= start and start + HOUR <= self.upper:
            window = self.windows.of_hour(start) if self.windows else 0
            if window is not None:
                self._merge((window, name, customer, ()), bucket.aggregate(*self.kind))
                return
        for event in bucket.events:
            if self.lower <= event.time < self.upper and self._passes(event):
                window = self.windows.start(event.time) if self.windows else 0
                groups = tuple(text_at(event.data, path) for path in self.groups.values())
                self._own((window, name, customer, groups)).add(event)

    def _passes(self, event: Event) -> bool:
        return all(text_at(event.data, path) in values for path, values in self.filters)

    def _merge(self, cell: _Cell, part: Aggregate) -> None:
        """Most cells get one part only: those lend the bucket's own aggregate."""
        if cell in self.cells:
            self._own(cell).merge(part)
        else:
            self.cells[cell] = part

    def _own(self, cell: _Cell) -> Aggregate:
        if cell not in self.owned:
            lent = self.cells.get(cell)
            self.owned.add(cell)
            self.cells[cell] = Aggregate(*self.kind)
            if lent is not None:
                self.cells[cell].merge(lent)
        return self.cells[cell]

    def _row(self, cell: _Cell, aggregate: Aggregate, value: float) -> Row:
        window, subject, customer, dimensions = cell
        if self.windows:
            bounds = self.windows.texts(window)
        else:
            bounds = (
                str(self.query.start or Instant(aggregate.first - aggregate.first % 60)),
                str(self.query.end or Instant(aggregate.last - aggregate.last % 60 + 60)),
            )
        if not dimensions:
            return Row(value, *bounds, subject, _NO_DIMENSIONS, customer)
        return Row(value, *bounds, subject, dict(zip(self.groups, dimensions, strict=True)), customer)


def run(query: Query, meter: Meter, index: EventIndex, customers: Sequence[Customer] = ()) -> QueryResult:
    """Answer a checked query, for the customers that it asks for."""
    return QueryResult(query, _Run(query, meter, index, customers).rows())
