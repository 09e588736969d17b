"""The v3 API over the same meters and events as v1: as a server of one's own has it, and as Konnect."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from starlette.responses import Response
from starlette.routing import Route

from sandbox.openmeter.api import Api, json_answer, json_body
from sandbox.openmeter.cloudevents import read_events
from sandbox.openmeter.instants import parse
from sandbox.openmeter.meters import ULID, Meter
from sandbox.openmeter.problems import Problem
from sandbox.openmeter.v3_customers import customer_by_id, customer_document, read_customer
from sandbox.openmeter.v3_documents import (
    InvalidParametersProblem,
    check_event_fields,
    event_document,
    meter_document,
    problem_document,
    read_meter,
    read_query,
    result_json,
)

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandbox.openmeter.cloudevents import Event
    from sandbox.openmeter.customers import Customer
    from sandbox.openmeter.sandbox import OpenMeterSandbox

MOUNTS: Final = ("/api/v3/openmeter", "/v3/openmeter")
"""Where a server of one's own and where Konnect has it."""
MOST_A_PAGE: Final = 100
DEFAULT_PAGE: Final = 20
MOST_IN_FILTER: Final = 50
LONGEST_FILTER: Final = 1024
"""Of a filter's value. Source: OpenMeter, api/v3/filters/parse.go, as the most values of one."""

_FILTER = re.compile(r"filter\[(\w+)\](?:\[(\w*)\])?")
_PAGE = re.compile(r"page\[(\w+)\]")
_METER_SORTS: Final[dict[str, Callable[[Meter], Any]]] = {
    "key": lambda meter: meter.slug,
    "name": lambda meter: meter.name,
    "aggregation": lambda meter: meter.aggregation,
    "created_at": lambda meter: meter.created_at,
    "updated_at": lambda meter: meter.deleted_at or meter.created_at,
}
_EVENT_TEXTS = ("id", "source", "subject", "type")
_EVENT_TIMES = ("time", "ingested_at", "stored_at")

type Test = Callable[[Any], bool]


def check_id(meter: str) -> None:
    """Raise the 404 for what is no ULID: of a path, OpenMeter's request validation says no more."""
    if not ULID.fullmatch(meter):
        raise Problem(404, "The requested entity was not found")


def meter_by_id(sandbox: OpenMeterSandbox, meter: str) -> Meter:
    """A meter, deleted or not, by its ULID: v3's paths take no key. Raises Problem (404)."""
    check_id(meter)
    try:
        return sandbox.meter(meter)
    except Problem as problem:
        raise Problem(404, f"meter not found: {meter}") from problem


def meter_page(sandbox: OpenMeterSandbox, asked: Mapping[str, str]) -> dict[str, object]:
    """A page of the meters that are not deleted. Raises Problem (400)."""
    parameters = _Parameters(asked, ("key", "name"), (), ("size", "number"), sorts=True)
    size, number = parameters.size(), parameters.integer("number", 1, None)
    keys, names = parameters.tests("key"), parameters.tests("name")
    found = [
        meter
        for meter in sandbox.meters()
        if all(test(meter.slug) for test in keys) and all(test(meter.name) for test in names)
    ]
    field, is_falling = parameters.sort(tuple(_METER_SORTS), "created_at", falls=False)
    found.sort(key=_METER_SORTS[field], reverse=is_falling)
    shown = found[(number - 1) * size : number * size]
    return {
        "data": [meter_document(meter) for meter in shown],
        "meta": {"page": {"size": size, "number": number, "total": len(found)}},
    }


def event_page(sandbox: OpenMeterSandbox, asked: Mapping[str, str]) -> dict[str, object]:
    """A page of the events, newest first; its cursor counts what was shown. Raises Problem (400)."""
    parameters = _Parameters(asked, _EVENT_TEXTS, _EVENT_TIMES, ("size", "after"), sorts=True)
    size, skipped = parameters.size(), parameters.after()
    if parameters.sort(_EVENT_TIMES, "time", falls=True) != ("time", True):
        raise InvalidParametersProblem("sort", "the sandbox sorts by time desc alone", source="query")
    tests = {name: parameters.tests(name) for name in (*_EVENT_TEXTS, *_EVENT_TIMES)}

    def chosen(event: Event) -> bool:
        return all(test(getattr(event, name)) for name, some in tests.items() for test in some)

    found = sandbox.events(chosen, skipped + size + 1)[skipped:]
    more = base64.urlsafe_b64encode(str(skipped + size).encode()).decode() if len(found) > size else None
    return {
        "data": [event_document(event) for event in found[:size]],
        "meta": {"page": {"size": size, "next": more, "previous": None}},
    }


def customer_page(sandbox: OpenMeterSandbox, asked: Mapping[str, str]) -> dict[str, object]:
    """A page of the customers that are not deleted. Raises Problem (400)."""
    parameters = _Parameters(asked, ("key", "name"), (), ("size", "number"), sorts=True)
    size, number = parameters.size(), parameters.integer("number", 1, None)
    keys, names = parameters.tests("key"), parameters.tests("name")
    field, is_falling = parameters.sort(("id", "name"), "name", falls=False)
    found = [
        one
        for one in sandbox.customers(order_by=field, is_descending=is_falling)
        if all(test(one.key or "") for test in keys) and all(test(one.name) for test in names)
    ]
    return {
        "data": [customer_document(one) for one in found[(number - 1) * size : number * size]],
        "meta": {"page": {"size": size, "number": number, "total": len(found)}},
    }


class _Parameters:
    """The query parameters of one list. Raises Problem (400) where they are not as the spec has them."""

    def __init__(
        self,
        asked: Mapping[str, str],
        texts: tuple[str, ...],
        times: tuple[str, ...],
        pages: tuple[str, ...],
        *,
        sorts: bool,
    ) -> None:
        self._times = times
        self._filters: list[tuple[str, str, str]] = []
        self._page: dict[str, str] = {}
        self._sort = ""
        for name, value in asked.items():
            if match := _FILTER.fullmatch(name):
                if match[1] not in (*texts, *times):
                    _wrong("filter", f"unknown filter field(s): {match[1]}")
                self._filters.append((match[1], "eq" if match[2] is None else match[2], value))
            elif (match := _PAGE.fullmatch(name)) and match[1] in pages:
                self._page[match[1]] = value
            elif name == "sort" and sorts:
                self._sort = value
            else:
                _wrong(name, "is unsupported")

    def integer(self, name: str, default: int, most: int | None) -> int:
        text = self._page.get(name, str(default))
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1 or (most is not None and int(text) > most):
            _wrong(f"page[{name}]", f"must be between 1 and {most}" if most else "must be at least 1")
        return int(text)

    def size(self) -> int:
        return self.integer("size", DEFAULT_PAGE, MOST_A_PAGE)

    def after(self) -> int:
        """What a cursor of this stand-in says; nobody else is to look into it."""
        if "after" not in self._page:
            return 0
        try:
            return int(base64.urlsafe_b64decode(self._page["after"]))
        except ValueError:
            _wrong("page[after]", "invalid cursor")

    def sort(self, fields: tuple[str, ...], default: str, *, falls: bool) -> tuple[str, bool]:
        field, _, order = (self._sort or default).partition(" ")
        if field not in fields or order not in ("", "asc", "desc"):
            _wrong("sort", f"unsupported sort field: {self._sort!r}")
        return field, order == "desc" if order else falls

    def tests(self, field: str) -> list[Test]:
        return [self._test(field, how, value) for name, how, value in self._filters if name == field]

    def _test(self, field: str, how: str, text: str) -> Test:
        if field in self._times:
            try:
                at = parse(text).seconds
            except ValueError:
                _wrong(f"filter[{field}]", "invalid datetime")
            of_times: dict[str, Test] = {
                "eq": lambda value: value == at,
                "gt": lambda value: value > at,
                "gte": lambda value: value >= at,
                "lt": lambda value: value < at,
                "lte": lambda value: value <= at,
            }
            return of_times.get(how) or _unsupported(field, how)
        several = [part.strip() for part in text.split(",") if part.strip()]
        if len(text) > LONGEST_FILTER:
            _wrong("filter", f"filter[{field}][{how}]: value exceeds maximum length of {LONGEST_FILTER}")
        if how in ("oeq", "ocontains") and len(several) > MOST_IN_FILTER:
            _wrong("filter", f"filter[{field}][{how}]: too many comma-separated items (max {MOST_IN_FILTER})")
        of_texts: dict[str, Test] = {
            "eq": lambda value: value == text,
            "neq": lambda value: value != text,
            "oeq": lambda value: value in several,
            "contains": lambda value: text.lower() in value.lower(),
            "ocontains": lambda value: any(part.lower() in value.lower() for part in several),
        }
        return of_texts.get(how) or _unsupported(field, how)


def _wrong(field: str, reason: str) -> NoReturn:
    raise InvalidParametersProblem(field, reason, source="query")


def _unsupported(field: str, how: str) -> Test:
    raise InvalidParametersProblem("filter", f"filter[{field}][{how}]: unsupported operator", source="query")


class V3(Api):
    """The endpoints of v3, at both mounts."""

    version = "v3"

    def document(self, problem: Problem, request_id: str) -> dict[str, object]:
        """The body of an error."""
        return problem_document(problem, request_id)

    def no_route(self) -> Response:
        """Its request validation knows no such route, also where another method would do."""
        return self.problem(Problem(404, "The requested route was not found"))

    def routes(self) -> list[Route]:
        """All routes."""
        endpoints = (
            ("/meters", "GET", "list_meters", self.list_meters),
            ("/meters", "POST", "create_meter", self.create_meter),
            ("/meters/{meter}", "GET", "get_meter", self.get_meter),
            ("/meters/{meter}", "DELETE", "delete_meter", self.delete_meter),
            ("/meters/{meter}/query", "POST", "query", self.query),
            ("/customers", "GET", "list_customers", self.list_customers),
            ("/customers", "POST", "create_customer", self.create_customer),
            ("/customers/{customer}", "GET", "get_customer", self.get_customer),
            ("/customers/{customer}", "PUT", "replace_customer", self.replace_customer),
            ("/customers/{customer}", "DELETE", "delete_customer", self.delete_customer),
            ("/events", "GET", "list_events", self.list_events),
            ("/events", "POST", "ingest", self.ingest),
        )
        return [
            Route(f"{mount}{path}", self.endpoint(f"v3_{name}", answer), methods=[method])
            for mount in MOUNTS
            for path, method, name, answer in endpoints
        ]

    async def list_meters(self, request: Request) -> Response:
        """`GET /openmeter/meters`."""
        return json_answer(meter_page(self.sandbox, _single(request)))

    async def create_meter(self, request: Request) -> Response:
        """`POST /openmeter/meters`."""
        meter = self.sandbox.create_meter_from(read_meter(await _body(request)))
        return json_answer(meter_document(meter), 201)

    async def get_meter(self, request: Request) -> Response:
        """`GET /openmeter/meters/{meterId}`."""
        return json_answer(meter_document(self._meter(request)))

    async def delete_meter(self, request: Request) -> Response:
        """`DELETE /openmeter/meters/{meterId}`."""
        self.sandbox.delete_meter(self._meter(request).id)
        return Response(status_code=204)

    async def query(self, request: Request) -> Response:
        """`POST /openmeter/meters/{meterId}/query`; there is no GET."""
        body = await _body(request)
        check_id(request.path_params["meter"])
        asked = read_query(body)
        return await self.answer_query(request, self._meter(request).id, asked, result_json)

    async def list_customers(self, request: Request) -> Response:
        """`GET /openmeter/customers`."""
        return json_answer(customer_page(self.sandbox, _single(request)))

    async def create_customer(self, request: Request) -> Response:
        """`POST /openmeter/customers`."""
        customer = self.sandbox.create_customer_from(read_customer(await _body(request)))
        return json_answer(customer_document(customer), 201)

    async def get_customer(self, request: Request) -> Response:
        """`GET /openmeter/customers/{customerId}`."""
        return json_answer(customer_document(self._customer(request)))

    async def replace_customer(self, request: Request) -> Response:
        """`PUT /openmeter/customers/{customerId}`; the key stays as it is."""
        customer = self._customer(request)
        body = read_customer(await _body(request), key=customer.key or "")
        return json_answer(customer_document(self.sandbox.replace_customer(customer.id, body)))

    async def delete_customer(self, request: Request) -> Response:
        """`DELETE /openmeter/customers/{customerId}`; once more is no error."""
        customer = self._customer(request)
        if customer.deleted_at is None:
            self.sandbox.delete_customer(customer.id)
        return Response(status_code=204)

    async def list_events(self, request: Request) -> Response:
        """`GET /openmeter/events`."""
        return json_answer(event_page(self.sandbox, _single(request)))

    async def ingest(self, request: Request) -> Response:
        """`POST /openmeter/events`: 202 means taken, not yet seen by queries; a charset is no matter."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip()
        events = read_events(content_type, await request.body())
        for event in events:
            check_event_fields(event)
        self.sandbox.ingest(events)
        return Response(status_code=202)

    def _customer(self, request: Request) -> Customer:
        return customer_by_id(self.sandbox, request.path_params["customer"])

    def _meter(self, request: Request) -> Meter:
        return meter_by_id(self.sandbox, request.path_params["meter"])


def _single(request: Request) -> dict[str, str]:
    for name in request.query_params:
        if len(request.query_params.getlist(name)) > 1:
            _wrong(name, "repeated query parameter not allowed")
    return dict(request.query_params)


async def _body(request: Request) -> Any:
    try:
        return await json_body(request)
    except Problem as problem:
        raise InvalidParametersProblem("", "unable to parse body") from problem
