"""What the endpoints of every version of OpenMeter's API have in common."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from sandbox.openmeter.faults import Fault, QueryCall
from sandbox.openmeter.problems import Problem
from sandbox.openmeter.query import Query, QueryResult
from sandbox.openmeter.values import dumps, loads

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from sandbox.openmeter.faults import ApiVersion
    from sandbox.openmeter.sandbox import OpenMeterSandbox

type Endpoint = Callable[[Request], Awaitable[Response]]


class Dropped(Response):
    """Promises a body and closes the connection: the client sees a transport error."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the head only."""
        head = [(b"content-type", b"application/json"), (b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": head})


class Api:
    """What the endpoints of one version have in common, over one sandbox."""

    version: ApiVersion

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
            if self.version not in self.sandbox.settings.apis:
                return self.no_route()
            loop = asyncio.get_running_loop()
            due = loop.time() + self.sandbox.settings.latency
            response = await answered(request)
            if (remaining := due - loop.time()) > 0:
                await asyncio.sleep(remaining)
            return response

        return wrapped

    def no_route(self) -> Response:
        """The answer where nothing is."""
        return self.problem(Problem(404, instance=False))

    def document(self, problem: Problem, request_id: str) -> dict[str, object]:
        """The body of an error."""
        return problem.document(request_id)

    def problem(self, problem: Problem, headers: dict[str, str] | None = None) -> Response:
        """The answer of an error."""
        return Response(
            dumps(self.document(problem, f"sandbox-{next(self.requests):06d}")),
            problem.status,
            headers,
            "application/problem+json",
        )

    async def answer_query(
        self, request: Request, meter: str, query: Query, written: Callable[[QueryResult], str]
    ) -> Response:
        """Log the query, suffer the fault that is due, and answer."""
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
        return Response(written(result), media_type="application/json")

    def _failure(self, fault: Fault) -> Response:
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        return self.problem(Problem(fault.status, "made to fail"), headers)

    def _log(self, meter: str, query: Query, status: int | None) -> None:
        self.sandbox.calls.queries.append(QueryCall(meter, query, status, self.version))

    def _authorize(self, request: Request) -> None:
        key = self.sandbox.settings.api_key
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            raise Problem(401, "unauthorized")


def json_answer(value: object, status: int = 200) -> Response:
    """A JSON body with Go's spelling of numbers."""
    return Response(dumps(value), status, media_type="application/json")


async def json_body(request: Request) -> Any:
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


async def _wait(request: Request, seconds: float) -> None:
    """Let the time pass, as long as the client waits."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
