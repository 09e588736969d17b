"""The sandbox's own endpoints, for tests and demos in another process.

`GET`/`DELETE /_sandbox/calls`; `POST /_sandbox/faults` with `kind` (status, delay, empty, drop),
`times`, `status`, `retry_after`, `seconds`, and `DELETE`; `POST /_sandbox/down` with `down`;
`POST /_sandbox/hold` and `/_sandbox/release` with `subject`, `type`, `ids`;
`GET /_sandbox/usage` with `meter`, `subject`, `from`, `to`.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.openmeter.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from sandbox.openmeter.sandbox import OpenMeterSandbox

    type Control = Callable[[OpenMeterSandbox, dict[str, Any]], object]


def routes(sandbox: OpenMeterSandbox) -> list[Route]:
    """The routes under `/_sandbox`."""

    def route(path: str, method: str, control: Control) -> Route:
        return Route(path, _endpoint(sandbox, control), methods=[method])

    return [
        route("/calls", "GET", _calls),
        route("/calls", "DELETE", lambda target, _: target.calls.reset()),
        route("/faults", "POST", _fault),
        route("/faults", "DELETE", lambda target, _: target.faults.clear()),
        route("/down", "POST", _down),
        route("/hold", "POST", lambda target, body: target.hold(**_match(body))),
        route("/release", "POST", lambda t, body: {"released": t.release(**_match(body))}),
        route("/usage", "GET", _usage),
    ]


def _endpoint(sandbox: OpenMeterSandbox, control: Control) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}") | dict(request.query_params)
            answer = control(sandbox, body)
        except (KeyError, TypeError, ValueError, Problem) as error:
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 400)
        return Response(status_code=204) if answer is None else JSONResponse(answer)

    return endpoint


def _calls(sandbox: OpenMeterSandbox, _: dict[str, Any]) -> object:
    return {
        "counts": dict(sandbox.calls.counts),
        "queries": [call.document() for call in sandbox.calls.queries],
    }


def _fault(sandbox: OpenMeterSandbox, body: dict[str, Any]) -> None:
    faults, times = sandbox.faults, int(body.get("times", 1))
    kinds: dict[str, Callable[[], None]] = {
        "status": lambda: faults.fail(body["status"], times=times, retry_after=body.get("retry_after")),
        "delay": lambda: faults.delay(float(body["seconds"]), times=times),
        "empty": functools.partial(faults.empty, times=times),
        "drop": functools.partial(faults.drop, times=times),
    }
    kinds[body["kind"]]()


def _down(sandbox: OpenMeterSandbox, body: dict[str, Any]) -> None:
    sandbox.faults.down = bool(body["down"])


def _match(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "subject": body.get("subject"),
        "event_type": body.get("type"),
        "ids": body.get("ids"),
    }


def _usage(sandbox: OpenMeterSandbox, body: dict[str, Any]) -> object:
    return {"value": sandbox.usage(body["meter"], body["subject"], body["from"], body["to"])}
