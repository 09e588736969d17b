"""A stateful OpenMeter in memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from sandbox.openmeter.cloudevents import Event, check_event
from sandbox.openmeter.customers import Customer, Customers
from sandbox.openmeter.faults import Calls, Faults
from sandbox.openmeter.instants import Instant, instant
from sandbox.openmeter.meters import Meter, Meters
from sandbox.openmeter.query import Query, QueryResult, read_query, run
from sandbox.openmeter.store import EventMatch, EventStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sandbox.openmeter.faults import ApiVersion

type Moment = datetime | int | str | Instant


@dataclass(frozen=True, slots=True)
class OpenMeterSettings:
    """How this OpenMeter behaves.

    `ingestion_lag` seconds pass until queries see an event: counted from when it was taken or,
    with `lag_from="event"`, from its own time if that is later, so that a month of usage can be
    loaded at once and appears as the clock advances. `dedupe` drops events whose source and id are
    known. With an `api_key`, requests need it as bearer token. `create_status` is what creating a
    meter answers: OpenMeter's API reference, and with it the official clients, want 201; servers
    have been seen to answer 200. With `rounded_bounds` it refuses, as servers before March 2025 did,
    bounds that are no full minutes and, as those of 2023 did too, bounds that are no full windows.
    `latency` are the seconds from a request's arrival to its answer, the work included. The Date of its
    answers is `date_skew` seconds ahead of its clock. `apis` are the versions it serves:
    Konnect has v3 alone.
    """

    ingestion_lag: int = 0
    lag_from: Literal["ingestion", "event"] = "ingestion"
    dedupe: bool = True
    api_key: str | None = None
    create_status: Literal[200, 201] = 201
    rounded_bounds: bool = False
    latency: float = 0.0
    date_skew: int = 0
    apis: tuple[ApiVersion, ...] = ("v1", "v3")


class OpenMeterSandbox:
    """What the HTTP endpoints do, to be called from the same process; safe between threads.

    The methods raise Problem where the API answers an error. Faults and the calls' log belong to
    HTTP: direct calls neither suffer the ones nor show in the other.
    """

    def __init__(self, clock: Callable[[], int], settings: OpenMeterSettings | None = None) -> None:
        self.clock = clock
        self.settings = settings or OpenMeterSettings()
        self.faults = Faults()
        self.calls = Calls()
        self.lock = threading.RLock()
        self._meters = Meters()
        self._customers = Customers()
        self._store = EventStore(clock, dedupe=self.settings.dedupe)
        self._ids = count(1)

    def create_meter(
        self,
        slug: str,
        event_type: str,
        *,
        aggregation: str = "SUM",
        value_property: str | None = "$.value",
        group_by: Mapping[str, str] | None = None,
    ) -> Meter:
        """Create a meter; a COUNT meter takes no value property."""
        document: dict[str, object] = {
            "slug": slug,
            "eventType": event_type,
            "aggregation": aggregation,
            "groupBy": dict(group_by or {}),
        }
        if value_property is not None and aggregation != "COUNT":
            document["valueProperty"] = value_property
        return self.create_meter_from(document)

    def create_meter_from(self, document: object) -> Meter:
        """Create a meter from the body of `POST /api/v1/meters`."""
        with self.lock:
            return self._meters.create(document, self.clock())

    def meter(self, id_or_slug: str) -> Meter:
        """A meter by id or slug."""
        with self.lock:
            return self._meters.get(id_or_slug)

    def meters(self, *, include_deleted: bool = False) -> list[Meter]:
        """All meters by slug."""
        with self.lock:
            return self._meters.listed(include_deleted=include_deleted)

    def delete_meter(self, id_or_slug: str) -> None:
        """Delete a meter; its events stay."""
        with self.lock:
            self._meters.delete(id_or_slug, self.clock())

    def create_customer(self, key: str | None, subject_keys: Iterable[str] = (), name: str = "") -> Customer:
        """Create a customer; its events are those with its key or one of its subject keys as subject."""
        document: dict[str, object] = {"name": name or key or "customer"}
        if key is not None:
            document["key"] = key
        if subjects := list(subject_keys):
            document["usageAttribution"] = {"subjectKeys": subjects}
        return self.create_customer_from(document)

    def create_customer_from(self, document: object) -> Customer:
        """Create a customer from the body of `POST /api/v1/customers`."""
        with self.lock:
            return self._customers.create(document, self.clock())

    def replace_customer(self, id_or_key: str, document: object) -> Customer:
        """Replace a customer by the body of `PUT /api/v1/customers/{customerIdOrKey}`."""
        with self.lock:
            return self._customers.replace(id_or_key, document, self.clock())

    def delete_customer(self, id_or_key: str) -> None:
        """Delete a customer; its events stay."""
        with self.lock:
            self._customers.delete(id_or_key, self.clock())

    def customer(self, id_or_key: str) -> Customer:
        """A customer by id or key."""
        with self.lock:
            return self._customers.get(id_or_key)

    def customers(
        self,
        contains: Mapping[str, str | None] | None = None,
        *,
        order_by: str = "name",
        is_descending: bool = False,
        include_deleted: bool = False,
    ) -> list[Customer]:
        """The customers that have some texts in their fields."""
        with self.lock:
            return self._customers.listed(
                contains or {},
                order_by=order_by,
                is_descending=is_descending,
                include_deleted=include_deleted,
            )

    def ingest(
        self,
        events: Iterable[Mapping[str, Any]],
        *,
        lag: int | None = None,
        hold: bool = False,
    ) -> int:
        """Take CloudEvents, all or none; the number of new ones.

        `lag` overrides the settings' seconds; `hold` keeps the events from queries until
        `release`.
        """
        with self.lock:
            now = self.clock()
            checked = [check_event(dict(event), now) for event in events]
            for event in checked:
                event.visible_at = None if hold else self._visible_at(event, lag)
            return sum(self._store.add(event) for event in checked)

    def record(
        self,
        event_type: str,
        subject: str,
        time: Moment,
        value: float | str | None = None,
        *,
        hold: bool = False,
    ) -> str:
        """Take one event with `{"value": value}` as data, and a new id, which is returned."""
        event_id = f"sandbox-{next(self._ids)}"
        document = {
            "specversion": "1.0",
            "id": event_id,
            "source": "sandbox",
            "type": event_type,
            "subject": subject,
            "time": str(instant(time)),
            "data": None if value is None else {"value": value},
        }
        self.ingest([document], hold=hold)
        return event_id

    def hold(
        self,
        subject: str | None = None,
        event_type: str | None = None,
        ids: Iterable[str] | None = None,
    ) -> None:
        """Keep coming events that match from queries until they are released."""
        with self.lock:
            self._store.hold(_match(subject, event_type, ids))

    def release(
        self,
        subject: str | None = None,
        event_type: str | None = None,
        ids: Iterable[str] | None = None,
    ) -> int:
        """Let queries see held events, without arguments all; how many they were."""
        with self.lock:
            return self._store.release(_match(subject, event_type, ids))

    def query(
        self,
        meter: str,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        subjects: Iterable[str] | None = None,
        window_size: str | None = None,
        window_time_zone: str | None = None,
        group_by: Iterable[str] = (),
        filters: Mapping[str, Iterable[str]] | None = None,
    ) -> QueryResult:
        """Query a meter over `[start, end)`."""
        document: dict[str, object] = {
            "groupBy": list(group_by),
            "filterGroupBy": {name: list(values) for name, values in (filters or {}).items()},
        }
        optional: dict[str, object] = {
            "from": None if start is None else str(instant(start)),
            "to": None if end is None else str(instant(end)),
            "subject": None if subjects is None else list(subjects),
            "windowSize": window_size,
            "windowTimeZone": window_time_zone,
        }
        document |= {name: value for name, value in optional.items() if value is not None}
        return self.run(meter, read_query(document, most_subjects=None))

    def run(self, id_or_slug: str, query: Query) -> QueryResult:
        """Answer a query that was read before."""
        with self.lock:
            meter = self._meters.get(id_or_slug)
            asked = query.check(meter, self._customers)
            if self.settings.rounded_bounds:
                query.check_rounded()
            return run(query, meter, self._store.visible(), asked)

    def usage(self, meter: str, subject: str, start: Moment, end: Moment) -> float:
        """The truth: a subject's value over `[start, end)`, events not yet visible included.

        What has no value is 0.
        """
        return self._truth(meter, Query(instant(start), instant(end), subjects=(subject,)))

    def customer_usage(self, meter: str, id_or_key: str, start: Moment, end: Moment) -> float:
        """The truth: a customer's value over `[start, end)`, events not yet visible included."""
        customer = self.customer(id_or_key)
        return self._truth(meter, Query(instant(start), instant(end), customers=(customer.id,)))

    def _truth(self, meter: str, query: Query) -> float:
        with self.lock:
            found = self._meters.get(meter)
            asked = query.check(found, self._customers)
            rows = run(query, found, self._store.accepted, asked).rows
        return rows[0].value if rows else 0.0

    def subjects(self, meter: str, start: Moment | None = None, end: Moment | None = None) -> list[str]:
        """The subjects with visible events of the meter's type in `[start, end)`, sorted."""
        lower = 0 if start is None else instant(start).seconds
        upper = 2**33 if end is None else instant(end).seconds
        with self.lock:
            index = self._store.visible().subjects(self._meters.get(meter).event_type)
            return sorted(
                subject
                for subject, hours in index.items()
                if any(lower <= e.time < upper for b in hours.values() for e in b.events)
            )

    def events(self, chosen: Callable[[Event], bool], limit: int) -> list[Event]:
        """The newest visible events, at most `limit`."""
        with self.lock:
            matching = [event for event in self._store.visible() if chosen(event)]
        return sorted(matching, key=lambda event: event.time, reverse=True)[:limit]

    def validation_error(self, event: Event) -> str | None:
        """Why a meter of the event's type cannot take a value from it."""
        with self.lock:
            errors = [m.validation_error(event) for m in self._meters.of_type(event.type)]
        return next(filter(None, reversed(errors)), None)

    def _visible_at(self, event: Event, lag: int | None) -> int:
        begins = event.ingested_at
        if self.settings.lag_from == "event":
            begins = max(begins, event.time)
        return begins + (self.settings.ingestion_lag if lag is None else lag)


def _match(subject: str | None, event_type: str | None, ids: Iterable[str] | None) -> EventMatch:
    return EventMatch(subject, event_type, None if ids is None else frozenset(ids))
