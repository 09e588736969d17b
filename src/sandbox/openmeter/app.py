"""The HTTP face: OpenMeter's v1 API, as its API reference describes it, and beside it the v3 API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from sandbox.dated import Dated
from sandbox.openmeter import controls, event_list
from sandbox.openmeter.api import Api, Dropped, Endpoint, json_answer, json_body
from sandbox.openmeter.cloudevents import read_events
from sandbox.openmeter.parameters import Parameters
from sandbox.openmeter.problems import Problem
from sandbox.openmeter.query import Query, QueryResult, read_query
from sandbox.openmeter.v3 import MOUNTS, V3

if TYPE_CHECKING:
    from sandbox.openmeter.sandbox import OpenMeterSandbox

_QUERY_PARAMETERS: Final = ("from", "to", "windowSize", "windowTimeZone", "clientId")
_QUERY_LISTS: Final = ("subject", "groupBy", "filterCustomerId")


class _V1(Api):
    """The endpoints of v1."""

    version = "v1"

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
        return json_answer([meter.document() for meter in meters])

    async def create_meter(self, request: Request) -> Response:
        """`POST /api/v1/meters`."""
        meter = self.sandbox.create_meter_from(await json_body(request))
        return json_answer(meter.document(), self.sandbox.settings.create_status)

    async def get_meter(self, request: Request) -> Response:
        """`GET /api/v1/meters/{idOrSlug}`."""
        return json_answer(self.sandbox.meter(request.path_params["meter"]).document())

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
        return json_answer({"page": number, "pageSize": size, "totalCount": len(found), "items": items})

    async def create_customer(self, request: Request) -> Response:
        """`POST /api/v1/customers`."""
        return json_answer(self.sandbox.create_customer_from(await json_body(request)).document(), 201)

    async def get_customer(self, request: Request) -> Response:
        """`GET /api/v1/customers/{customerIdOrKey}`."""
        return json_answer(self.sandbox.customer(request.path_params["customer"]).document())

    async def replace_customer(self, request: Request) -> Response:
        """`PUT /api/v1/customers/{customerIdOrKey}`."""
        customer = request.path_params["customer"]
        return json_answer(self.sandbox.replace_customer(customer, await json_body(request)).document())

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
        return json_answer(event_list.answer(self.sandbox, request))

    async def subjects(self, request: Request) -> Response:
        """`GET /api/v1/meters/{idOrSlug}/subjects`: a bare array."""
        parameters = Parameters(request, ("from", "to"))
        bounds = parameters.instant("from"), parameters.instant("to")
        return json_answer(self.sandbox.subjects(request.path_params["meter"], *bounds))

    async def query_get(self, request: Request) -> Response:
        """`GET /api/v1/meters/{idOrSlug}/query`."""
        return await self._query(request, _query_of(request))

    async def query_post(self, request: Request) -> Response:
        """`POST /api/v1/meters/{idOrSlug}/query`."""
        return await self._query(request, read_query(await json_body(request)))

    async def _query(self, request: Request, query: Query) -> Response:
        return await self.answer_query(request, request.path_params["meter"], query, QueryResult.json)


def create_app(sandbox: OpenMeterSandbox) -> Starlette:
    """Both APIs, `/healthz`, and the controls under `/_sandbox`."""
    api, newer = _V1(sandbox), V3(sandbox)

    def route(path: str, method: str, name: str, answer: Endpoint) -> Route:
        return Route(path, api.endpoint(name, answer), methods=[method])

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if request.url.path.startswith(MOUNTS):
            return newer.no_route()
        return api.problem(Problem(status, instance=False))

    async def healthz(_: Request) -> Response:
        return Dropped() if sandbox.faults.down else PlainTextResponse("OK")

    meter = "/api/v1/meters/{meter}"
    customer = "/api/v1/customers/{customer}"
    older = [
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
    ]
    return Starlette(
        routes=[
            *older,
            *newer.routes(),
            Route("/healthz", healthz),
            Mount("/_sandbox", routes=controls.routes(sandbox)),
        ],
        exception_handlers={HTTPException: unknown},
        middleware=[Middleware(Dated, now=lambda: sandbox.clock() + sandbox.settings.date_skew)],
    )


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
