"""The stand-in behind HTTP."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from sandbox.dated import Dated
from sandbox.stripe.control import control_routes
from sandbox.stripe.gateway import Gateway
from sandbox.stripe.messages import Request, Response
from sandbox.stripe.sandbox import StripeSandbox

_TICK_SECONDS = 0.1


def create_app(stripe: StripeSandbox, *, ticker: bool = True) -> Starlette:
    """Serves this stand-in and, with `ticker`, keeps its time and webhooks going."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=_tick, args=(stripe, stop), daemon=True)
        if ticker:
            thread.start()
        yield
        stop.set()
        if ticker:
            thread.join()
        stripe.close()

    return Starlette(
        routes=[*control_routes(stripe), Mount("/", app=_Endpoint(Gateway(stripe)))],
        lifespan=lifespan,
        middleware=[Middleware(Dated, now=lambda: stripe.account.clock() + stripe.settings.date_skew)],
    )


class _Endpoint:
    """Everything under Stripe's own paths."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = HttpRequest(scope, receive)
        request = Request(
            method=http.method,
            path=http.url.path,
            query=http.url.query,
            headers={name.lower(): value for name, value in http.headers.items()},
            body=await http.body(),
        )
        response = await self._gateway.answer(request)
        if response.dropped:
            await _cut(send, response)
            return
        answer = HttpResponse(response.body, response.status, dict(response.headers))
        await answer(scope, receive, send)


async def _cut(send: Send, response: Response) -> None:
    """Begin an answer and never end it: the server then closes the connection."""
    await send(
        {
            "type": "http.response.start",
            "status": response.status or 200,
            "headers": [(b"content-length", b"1048576")],
        }
    )


def _tick(stripe: StripeSandbox, stop: threading.Event) -> None:
    while not stop.wait(_TICK_SECONDS):
        stripe.run_due()
