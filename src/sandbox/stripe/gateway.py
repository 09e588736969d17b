"""From a request to its answer: keys, versions, parameters, idempotency, faults."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

from sandbox.stripe.access import api_key, authorize, named_account, no_access
from sandbox.stripe.account import Json
from sandbox.stripe.api import ROUTES
from sandbox.stripe.api.meter_stream import STREAM
from sandbox.stripe.api.metering import METER_EVENTS
from sandbox.stripe.api.route import Call, Route
from sandbox.stripe.errors import StripeError
from sandbox.stripe.expand import check_depth, expand
from sandbox.stripe.faults import Fault
from sandbox.stripe.form import Form, decode, decode_json
from sandbox.stripe.idempotency import KEPT_SECONDS, KEPT_SECONDS_V2
from sandbox.stripe.limits import LOCK_TIMEOUT, REASON, Concurrency, RateLimiter, rate_limited
from sandbox.stripe.messages import Request, Response, json_response
from sandbox.stripe.render import render
from sandbox.stripe.render_values import currency_options_json, tiers_json
from sandbox.stripe.request_log import LoggedRequest, without_secrets
from sandbox.stripe.sandbox import StripeSandbox
from sandbox.stripe.versions import ApiVersion, api_version

_FORM_TYPE, _JSON_TYPE = "application/x-www-form-urlencoded", "application/json"
_V2 = "/v2/"
_BY_SHAPE: dict[tuple[str, int], list[Route]] = {}
for _each in ROUTES:
    _BY_SHAPE.setdefault((_each.method, _each.template.count("/")), []).append(_each)


@dataclass(frozen=True)
class _Prepared:
    """A request that may be executed."""

    route: Route
    ids: tuple[str, ...]
    version: ApiVersion
    form: Form
    key: str | None

    @property
    def is_v2(self) -> bool:
        return self.route.template.startswith(_V2)


@dataclass(frozen=True)
class _Arrival:
    """A request that is being answered.

    `account`: the one that it names; `due`: not answered before, on the event loop's clock; `held`: what it
    occupies until then.
    """

    request: Request
    account: str | None
    encoded: str
    id: str
    faults: Mapping[str, Fault]
    due: float
    held: ExitStack

    async def wait(self) -> None:
        """Let the rest of the time pass that an answer takes."""
        remaining = self.due - asyncio.get_running_loop().time()
        if remaining > 0:
            await asyncio.sleep(remaining)


class Gateway:
    """Answers requests to one stand-in, and to the accounts connected to it: each has limits of its own.

    `platform`: the account whose keys act for this one.
    """

    def __init__(self, stripe: StripeSandbox, platform: StripeSandbox | None = None) -> None:
        self._stripe = stripe
        self._keys = platform or stripe
        self._connected: dict[str, Gateway] = {}
        self._limiter = RateLimiter(stripe.timer)
        self._concurrency = Concurrency()

    async def answer(self, request: Request) -> Response:
        """Answer one request in the account that it is for, with the faults due there; never raises."""
        try:
            named = named_account(request.path, request.headers)
        except StripeError as error:
            id_ = self._stripe.account.new_id("req", 14)
            return replace(_error_response(error), headers={"Request-Id": id_})
        response = await self._gateway_of(named, request)._answer(request, named)
        return response if named is None else _naming(response, named)

    def _gateway_of(self, named: str | None, request: Request) -> Gateway:
        """The account's own gateway: named, or the one that a session's token is of."""
        connected = self._stripe.connected
        if not connected:
            return self
        if named is None and request.path == STREAM:
            token = request.headers.get("authorization", "")
            named = next((id_ for id_, one in connected.items() if one.sessions.knows(token)), None)
        if named not in connected or not connected[named].account.platform:
            return self
        if named not in self._connected:
            self._connected[named] = Gateway(connected[named], self._stripe)
        return self._connected[named]

    async def _answer(self, request: Request, named: str | None) -> Response:
        due = asyncio.get_running_loop().time() + self._stripe.settings.latency
        encoded = _encoded(request)
        faults = self._stripe.faults.take(request.method, request.path, encoded)
        if "delay" in faults:
            await asyncio.sleep(faults["delay"].seconds)
        self._stripe.advance()
        request_id = self._stripe.account.new_id("req", 14)
        with ExitStack() as held:
            arrival = _Arrival(request, named, encoded, request_id, faults, due, held)
            try:
                response = await self._respond(arrival)
            except StripeError as error:
                response = _error_response(error)
            await arrival.wait()
        response = replace(response, headers={"Request-Id": request_id, **response.headers})
        self._log(request, encoded, response)
        return response

    async def _respond(self, arrival: _Arrival) -> Response:
        request, faults = arrival.request, arrival.faults
        if "drop_before" in faults:
            return Response(0, {}, b"", dropped=True)
        if "status" in faults:
            raise _server_error(faults["status"].status)
        if "rate_limited" in faults:
            raise rate_limited(faults["rate_limited"].reason)
        prepared = self._prepare(arrival)
        idempotency = self._stripe.idempotency
        if prepared.key is not None:
            kept = KEPT_SECONDS_V2 if prepared.is_v2 else KEPT_SECONDS
            replay = idempotency.begin(prepared.key, _fingerprint(request, arrival.encoded), kept)
            if replay is not None:
                return replay
        try:
            response = await self._execute(prepared, arrival)
        except BaseException:
            idempotency.forget(prepared.key)
            raise
        if "error_after" in faults:
            response = _error_response(_server_error(faults["error_after"].status))
        response = _stamped(response, prepared, arrival.id)
        if prepared.is_v2 and response.status >= 400:
            # The v2 API executes a request that failed anew (API v2 overview, "Idempotency").
            idempotency.forget(prepared.key)
        else:
            idempotency.store(prepared.key, response)
        if "delay_after" in faults:
            await asyncio.sleep(faults["delay_after"].seconds)
        return replace(response, dropped="drop" in faults)

    def _prepare(self, arrival: _Arrival) -> _Prepared:
        account, request = self._stripe.account, arrival.request
        key = api_key(request.headers)
        route, ids = _route(request)
        if route.by_session:
            self._stripe.sessions.check(request.headers["authorization"])
        else:
            authorize(self._keys.settings, key, route, account.settings.account_id)
        if arrival.account not in (None, account.settings.account_id):
            raise no_access(key, arrival.account)
        is_v2 = request.path.startswith(_V2)
        if is_v2 and "stripe-version" not in request.headers:
            raise StripeError(400, "The v2 API needs the header Stripe-Version.", stored=False)
        name = request.headers.get("stripe-version", account.settings.default_api_version)
        version = api_version(name)
        if route.legacy and version.is_basil:
            raise _unrecognized(request)
        self._limiter.check(account.settings, route, connected=self._keys is not self._stripe)
        arrival.held.enter_context(self._concurrency.call(account.settings, route))
        return _Prepared(
            route,
            ids,
            version,
            _decoded(request, arrival.encoded),
            request.headers.get("idempotency-key") if _takes_key(request) else None,
        )

    async def _execute(self, prepared: _Prepared, arrival: _Arrival) -> Response:
        """Run the endpoint; its own errors are answers, earlier ones are raised."""
        params = prepared.route.params.parse(prepared.form)
        check_depth(params.get("expand", []))
        call = Call(self._stripe, prepared.version, arrival.request.path, prepared.ids, params)
        if prepared.route.template == METER_EVENTS:
            arrival.held.enter_context(self._metering(params))
            await asyncio.sleep(self._stripe.settings.meter_event_latency)
        response = self._answered(prepared, call, arrival.id)
        await arrival.wait()
        return response

    def _answered(self, prepared: _Prepared, call: Call, request_id: str) -> Response:
        with self._stripe.account.lock:
            try:
                return json_response(200, self._run(prepared, call, request_id))
            except StripeError as error:
                if not error.stored:
                    raise
                return _error_response(error)

    def _run(self, prepared: _Prepared, call: Call, request_id: str) -> Json:
        account = self._stripe.account
        account.request_id, account.idempotency_key = request_id, prepared.key
        try:
            with self._stripe.test_clocks.time_of(_named(call), changes=prepared.route.method != "GET"):
                answer = prepared.route.run(call)
            expand(answer, call.params.get("expand", []), self._finder(prepared.version))
            return answer
        finally:
            account.request_id = account.idempotency_key = None

    def _finder(self, version: ApiVersion) -> Callable[[str, str], Json]:
        account = self._stripe.account

        def find(table: str, id_: str) -> Json:
            if table == "tiers":
                price = account.prices.get(id_)
                return {"tiers": tiers_json(price)} if price.tiers else {}
            if table == "currency_options":
                return {table: currency_options_json(account.prices.get(id_))}
            return render(account, getattr(account, table).get(id_), version)

        return find

    def _metering(self, params: Json) -> AbstractContextManager[None]:
        meters = self._stripe.account.meters
        meter = next((row for row in meters if row.event_name == params["event_name"]), None)
        name = meter.customer_key if meter else "stripe_customer_id"
        return self._concurrency.metering(params["event_name"], params["payload"].get(name, ""))

    def _log(self, request: Request, encoded: str, response: Response) -> None:
        try:
            template = _route(request)[0].template
        except StripeError:
            template = request.path
        limited = response.headers.get(REASON, LOCK_TIMEOUT) if response.status == 429 else None
        self._stripe.log.count(request.method, template, limited)
        if self._stripe.settings.log_requests:
            self._keep(request, encoded, response, template)

    def _keep(self, request: Request, encoded: str, response: Response, template: str) -> None:
        try:
            params = _decoded(request, encoded)
        except StripeError:
            params = {}
        self._stripe.log.keep(
            LoggedRequest(
                method=request.method,
                path=request.path,
                template=template,
                params=params,
                headers=without_secrets(request.headers),
                status=0 if response.dropped else response.status,
                at=self._stripe.account.clock(),
            )
        )


def _named(call: Call) -> list[str]:
    """The ids of objects that a call is about: the time there may be that of a test clock."""
    params = (
        call.params.get(name) for name in ("customer", "subscription", "from_subscription", "test_clock")
    )
    payload = call.params.get("payload", {})
    return [*call.ids, *filter(None, params), *payload.values()]


def _encoded(request: Request) -> str:
    """All parameters in one encoded string: of the query, and of the body of a POST."""
    parts = [request.query, request.body.decode("utf-8", "replace")]
    return "&".join(part for part in parts if part)


def _decoded(request: Request, encoded: str) -> Form:
    """The parameters; raises StripeError (400) for what is not form-encoded (v2 bodies: JSON)."""
    if request.path.startswith(_V2):
        return {**decode(request.query), **decode_json(request.body)}
    return decode(encoded)


def _fingerprint(request: Request, encoded: str) -> bytes:
    """What must be the same where a key is used again, in few bytes: an answer is kept for up to 30 days."""
    return hashlib.sha256(f"{request.method} {request.path} {encoded}".encode()).digest()


def _takes_key(request: Request) -> bool:
    """Deleting is idempotent by key in the v2 API alone (API v2 overview, "Idempotency")."""
    return request.method == "POST" or (request.method == "DELETE" and request.path.startswith(_V2))


def _route(request: Request) -> tuple[Route, tuple[str, ...]]:
    expected = _JSON_TYPE if request.path.startswith(_V2) else _FORM_TYPE
    content_type = request.headers.get("content-type", expected).partition(";")[0].strip()
    if request.body and content_type != expected:
        raise StripeError(
            400,
            f"Invalid request (check that your POST content type is {expected}).",
            stored=False,
        )
    for route in _BY_SHAPE.get((request.method, request.path.count("/")), ()):
        match = route.pattern.fullmatch(request.path)
        if match is not None:
            return route, match.groups()
    raise _unrecognized(request)


def _stamped(response: Response, prepared: _Prepared, request_id: str) -> Response:
    headers = {"Request-Id": request_id, "Stripe-Version": prepared.version.name}
    if prepared.key is not None:
        headers["Idempotency-Key"] = prepared.key
    return replace(response, headers={**response.headers, **headers})


def _naming(response: Response, account: str) -> Response:
    """Who was asked, for a request that said so."""
    return replace(response, headers={**response.headers, "Stripe-Account": account})


def _unrecognized(request: Request) -> StripeError:
    return StripeError(404, f"Unrecognized request URL ({request.method}: {request.path}).", stored=False)


def _server_error(status: int) -> StripeError:
    return StripeError(status, "An unknown error occurred.", type_="api_error", stored=False)


def _error_response(error: StripeError) -> Response:
    return json_response(error.status, error.body(), error.headers)
