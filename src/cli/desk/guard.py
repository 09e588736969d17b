"""Keeps a page of this machine to the browser in front of it."""

from __future__ import annotations

import hmac
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESS = "127.0.0.1"

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Refuses what was meant for another host (DNS rebinding) or comes from another site's page.

    Other programs of this machine may still ask: what is shown is theirs to read who may use its network.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = _refusal(scope)
        if refusal is None:
            await self._app(scope, receive, guarded)
        else:
            await refusal(scope, receive, guarded)


def _refusal(scope: Scope) -> PlainTextResponse | None:
    headers = Headers(scope=scope)
    port = (scope.get("server") or ("", 0))[1]
    hosts = {f"{ADDRESS}:{port}", f"localhost:{port}"}
    if headers.get("host", "") not in hosts:
        return PlainTextResponse(f"this page is only at http://{ADDRESS}:{port}\n", 421)
    if scope["method"] not in {"GET", "HEAD"}:
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "same-origin")
        is_ours = origin is None or origin in {f"http://{host}" for host in hosts}
        if not is_ours or site not in {"same-origin", "none"}:
            return PlainTextResponse("this was asked by another site's page\n", 403)
    return None


class FormToken:
    """What a form carries to show that it is of this page; made anew with each start."""

    def __init__(self) -> None:
        self.value = secrets.token_urlsafe(32)

    def fits(self, given: str) -> bool:
        """Whether a form carried it."""
        return hmac.compare_digest(self.value.encode(), given.encode())
