"""The HTTP face: OpenMeter's v1 API, as its API reference describes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from sandbox.dated import Dated
from sandbox.openmeter import controls, event_list
from sandbox.openmeter.cloudevents import read_events
from sandbox.openmeter.faults import Fault, QueryCall
from sandbox.openmeter.parameters import Parameters
from sandbox.openmeter.problems import Problem
from sandbox.openmeter.query import Query, QueryResult, read_query
from sandbox.openmeter.values import dumps, loads

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from sandbox.openmeter.sandbox import OpenMeterSandbox

_QUERY_PARAMETERS: Final = ("from", "to", "windowSize", "windowTimeZone", "clientId")
_QUERY_LISTS: Final = ("subject", "groupBy", "filterCustomerId")

type Endpoint = Callable[[Request], Awaitable[Response]]


class Dropped(Response):
    """Promises a body and closes the connection: the client sees a transport error."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the head only."""
        head = [(b"content-type", b"application/json"), (b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": head})


class _Api:
    """The endpoints over one sandbox."""

    def __init__(self, sandbox: OpenMeterSandbox) -> None:
        self.sandbox = sandbox
        self.requests = count(1)

    def endpoint(self, name: str, answer: Endpoint) -> Endpoint:
        """Count the call, ask for the key, turn problems into their documents, and take the time set."""

        async def answered(request: Request) -> Response:
            self.sandbox.calls.counts[name] += 1
            try:
                self._authorize(request)
                return await answer(request)
            except Problem as problem:
                return self.problem(problem)

        async def wrapped(request: Request) -> Response:
            if self.sandbox.faults.down:
                return Dropped()
            loop = asyncio.get_running_loop()
            due = loop.time() + self.sandbox.settings.latency
            response = await answered(request)
            if (remaining := due - loop.time()) > 0:
                await asyncio.sleep(remaining)
            return response

        return wrapped

    def problem(self, problem: Problem, headers: dict[str, str] | None = None) -> Response:
        """The answer of an error."""
        return Response(
            dumps(problem.document(f"sandbox-{next(self.requests):06d}")),
            problem.status,
            headers,
            "application/problem+json",
        )

    async def list_meters(self, request: Request) -> Response:
        """`GET /api/v1/meters`: a bare array; pages are ignored."""
        names = ("page", "pageSize", "order", "orderBy", "includeDeleted")
        parameters = Parameters(request, names)
        for name in ("page", "pageSize"):
            parameters.integer(name, least=1)
        deleted = parameters.boolean("includeDeleted")
        meters = self.sandbox.meters(include_deleted=deleted)
        if parameters.choice("order", ("ASC", "DESC")) == "DESC":
            meters.reverse()
        return _json([meter.document() for meter in meters])

    async def create_meter(self, request: Request) -> Response:
        """`POST /api/v1/meters`."""
        meter = self.sandbox.create_meter_from(await _body(request))
        return _json(meter.document(), self.sandbox.settings.create_status)

    async def get_meter(self, request: Request) -> Response:
        """`GET /api/v1/meters/{idOrSlug}`."""
        return _json(self.sandbox.meter(request.path_params["meter"]).document())

    async def delete_meter(self, request: Request) -> Response:
        """`DELETE /api/v1/meters/{idOrSlug}`."""
        self.sandbox.delete_meter(request.path_params["meter"])
        return Response(status_code=204)

    async def list_customers(self, request: Request) -> Response:
        """`GET /api/v1/customers`: a page; unlike OpenMeter it knows no `planKey` and no `createdAt`."""
        texts = ("key", "name", "primaryEmail", "subject")
        names = (*texts, "page", "pageSize", "order", "orderBy", "includeDeleted")
        parameters = Parameters(request, names)
        number = parameters.integer("page", least=1) or 1
        size = parameters.integer("pageSize", least=1, most=1000) or 100
        found = self.sandbox.customers(
            {name: parameters.text(name) for name in texts},
            order_by=parameters.choice("orderBy", ("id", "name")) or "name",
            is_descending=parameters.choice("order", ("ASC", "DESC")) == "DESC",
            include_deleted=parameters.boolean("includeDeleted"),
        )
        items = [one.document() for one in found[(number - 1) * size : number * size]]
        return _json({"page": number, "pageSize": size, "totalCount": len(found), "items": items})

    async def create_customer(self, request: Request) -> Response:
        """`POST /api/v1/customers`."""
        return _json(self.sandbox.create_customer_from(await _body(request)).document(), 201)

    async def get_customer(self, request: Request) -> Response:
        """`GET /api/v1/customers/{customerIdOrKey}`."""
        return _json(self.sandbox.customer(request.path_params["customer"]).document())

    async def replace_customer(self, request: Request) -> Response:
        """`PUT /api/v1/customers/{customerIdOrKey}`."""
        customer = request.path_params["customer"]
        return _json(self.sandbox.replace_customer(customer, await _body(request)).document())

    async def delete_customer(self, request: Request) -> Response:
        """`DELETE /api/v1/customers/{customerIdOrKey}`."""
        self.sandbox.delete_customer(request.path_params["customer"])
        return Response(status_code=204)

    async def ingest(self, request: Request) -> Response:
        """`POST /api/v1/events`: 204 means taken, not yet seen by queries."""
        content_type = request.headers.get("content-type", "")
        self.sandbox.ingest(read_events(content_type, await request.body()))
        return Response(status_code=204)

    async def list_events(self, request: Request) -> Response:
        """`GET /api/v1/events`."""
        return _json(event_list.answer(self.sandbox, request))

    async def subjects(self, request: Request) -> Response:
        """`GET /api/v1/meters/{idOrSlug}/subjects`: a bare array."""
        parameters = Parameters(request, ("from", "to"))
        bounds = parameters.instant("from"), parameters.instant("to")
        return _json(self.sandbox.subjects(request.path_params["meter"], *bounds))

    async def query_get(self, request: Request) -> Response:
        """`GET /api/v1/meters/{idOrSlug}/query`."""
        return await self._answer(request, _query_of(request))

    async def query_post(self, request: Request) -> Response:
        """`POST /api/v1/meters/{idOrSlug}/query`."""
        return await self._answer(request, read_query(await _body(request)))

    async def _answer(self, request: Request, query: Query) -> Response:
        """Log the query, suffer the fault that is due, and answer."""
        meter = request.path_params["meter"]
        fault = self.sandbox.faults.next()
        if fault is not None and fault.kind == "drop":
            self._log(meter, query, None)
            return Dropped()
        if fault is not None and fault.kind == "status":
            self._log(meter, query, fault.status)
            return self._failure(fault)
        if fault is not None and fault.kind == "delay":
            await _wait(request, fault.delay)
        try:
            result = self.sandbox.run(meter, query)
        except Problem as problem:
            self._log(meter, query, problem.status)
            raise
        self._log(meter, query, 200)
        if fault is not None and fault.kind == "empty":
            result = QueryResult(query, [])
        return Response(result.json(), media_type="application/json")

    def _failure(self, fault: Fault) -> Response:
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        return self.problem(Problem(fault.status, "made to fail"), headers)

    def _log(self, meter: str, query: Query, status: int | None) -> None:
        self.sandbox.calls.queries.append(QueryCall(meter, query, status))

    def _authorize(self, request: Request) -> None:
        key = self.sandbox.settings.api_key
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            raise Problem(401, "unauthorized")


def create_app(sandbox: OpenMeterSandbox) -> Starlette:
    """The API, `/healthz`, and the controls under `/_sandbox`."""
    api = _Api(sandbox)

    def route(path: str, method: str, name: str, answer: Endpoint) -> Route:
        return Route(path, api.endpoint(name, answer), methods=[method])

    async def unknown(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return api.problem(Problem(status, instance=False))

    async def healthz(_: Request) -> Response:
        return Dropped() if sandbox.faults.down else PlainTextResponse("OK")

    meter = "/api/v1/meters/{meter}"
    customer = "/api/v1/customers/{customer}"
    return Starlette(
        routes=[
            route("/api/v1/meters", "GET", "list_meters", api.list_meters),
            route("/api/v1/meters", "POST", "create_meter", api.create_meter),
            route(meter, "GET", "get_meter", api.get_meter),
            route(meter, "DELETE", "delete_meter", api.delete_meter),
            route(f"{meter}/query", "GET", "query", api.query_get),
            route(f"{meter}/query", "POST", "query", api.query_post),
            route(f"{meter}/subjects", "GET", "subjects", api.subjects),
            route("/api/v1/customers", "GET", "list_customers", api.list_customers),
            route("/api/v1/customers", "POST", "create_customer", api.create_customer),
            route(customer, "GET", "get_customer", api.get_customer),
            route(customer, "PUT", "replace_customer", api.replace_customer),
            route(customer, "DELETE", "delete_customer", api.delete_customer),
            route("/api/v1/events", "POST", "ingest", api.ingest),
            route("/api/v1/events", "GET", "list_events", api.list_events),
            Route("/healthz", healthz),
            Mount("/_sandbox", routes=controls.routes(sandbox)),
        ],
        exception_handlers={HTTPException: unknown},
        middleware=[Middleware(Dated, now=lambda: sandbox.clock() + sandbox.settings.date_skew)],
    )


def _json(value: object, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type="application/json")


async def _body(request: Request) -> Any:
    """A JSON body; here a charset is allowed. Raises Problem."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip()
    if content_type != "application/json":
        text = f'header Content-Type has unexpected value "{content_type}"'
        raise Problem(400, f"request body has an error: {text}", instance=False)
    try:
        return loads(await request.body())
    except ValueError as error:
        text = f"request body has an error: failed to decode request body: {error}"
        raise Problem(400, text, instance=False) from error


def _query_of(request: Request) -> Query:
    """The query of a GET, in the form of a body."""
    parameters = Parameters(request, (*_QUERY_PARAMETERS, *_QUERY_LISTS), maps=("filterGroupBy",))
    document: dict[str, object] = {}
    for name in _QUERY_PARAMETERS:
        if (text := parameters.text(name)) is not None:
            document[name] = text
    for name in _QUERY_LISTS:
        if items := parameters.items(name):
            document[name] = items
    filters = parameters.map("filterGroupBy")
    if filters:
        document["filterGroupBy"] = {name: [value] for name, value in filters.items()}
    return read_query(document, most_subjects=None)


async def _wait(request: Request, seconds: float) -> None:
    """Let the time pass, as long as the client waits."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
