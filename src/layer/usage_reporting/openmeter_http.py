"""The way to OpenMeter that every version of its API goes: keys, connections, asking again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any

import httpx

from usage_reporting import telemetry
from usage_reporting.amounts import loads
from usage_reporting.backoff import LONGEST_PAUSE_S, pause
from usage_reporting.credentials import Credentials
from usage_reporting.errors import OpenMeterUnavailableError, RefusedError

TRIES = 4
TIMEOUT = httpx.Timeout(20.0, connect=4.0)
KEPT_FOR_S = 20
"""An idle connection is closed before the server, or an address translation on the way, has forgotten it."""

Refusal = Callable[[httpx.Response], RefusedError]
"""What to say of an answer that asking again would not change."""


class OpenMeterHttp:
    """Asks OpenMeter, at most `concurrency` questions at once.

    Raises OpenMeterUnavailableError when asking again may help, else what the question's `refusal` makes.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        concurrency: int,
        transport: httpx.AsyncBaseTransport | None,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._credentials = credentials
        self._limits = httpx.Limits(
            max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=KEPT_FOR_S
        )
        self._transport = transport
        self._slots = asyncio.Semaphore(concurrency)
        self.sleep = sleep

    @cached_property
    def client(self) -> httpx.AsyncClient:
        """Made on first use: it reads all root certificates, and few starts have a question at once."""
        return httpx.AsyncClient(timeout=TIMEOUT, limits=self._limits, transport=self._transport)

    async def json_object(
        self, method: str, url: str, refusal: Refusal, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The answer, which must be a JSON object; its numbers are exact."""
        answer = _read(await self._answer(method, url, refusal, body))
        if not isinstance(answer, dict):
            raise OpenMeterUnavailableError("OpenMeter answered with something that is not a JSON object")
        return answer

    async def json_array(self, url: str, refusal: Refusal) -> list[Any]:
        """The answer to a GET, which must be a JSON array."""
        answer = _read(await self._answer("GET", url, refusal, None))
        if not isinstance(answer, list):
            raise OpenMeterUnavailableError("OpenMeter answered with something that is not a JSON array")
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self.client.aclose()

    async def _answer(
        self, method: str, url: str, refusal: Refusal, body: Mapping[str, Any] | None
    ) -> httpx.Response:
        problem = ""
        wait = 0.0
        for attempt in range(TRIES):
            if attempt:
                await self.sleep(wait)
            wait = pause(attempt)
            try:
                response = await self._send(method, url, body)
            except httpx.HTTPError as error:
                problem = f"OpenMeter could not be reached: {type(error).__name__}"
                continue
            if response.is_success:
                return response
            status = response.status_code
            problem = f"OpenMeter answered {status}"
            if status == 429:
                telemetry.turned_away(telemetry.OPENMETER)
            if status in {401, 403}:
                if await asyncio.to_thread(self._credentials.reread):
                    continue
                raise OpenMeterUnavailableError(f"{problem}: it does not accept `openmeter_api_key`")
            if response.next_request is not None:
                raise _elsewhere(status, response.next_request.url)
            if status not in {408, 429} and status < 500:
                raise refusal(response)
            wait = max(wait, _retry_after(response))
        raise OpenMeterUnavailableError(f"{problem}, {TRIES} times")

    async def _send(self, method: str, url: str, body: Mapping[str, Any] | None) -> httpx.Response:
        key = self._credentials.current().openmeter_api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self._slots:
            telemetry.called(telemetry.OPENMETER)
            return await self.client.request(method, url, json=body, headers=headers)


def _read(response: httpx.Response) -> Any:
    try:
        return loads(response.content)
    except ValueError:
        return None


def _elsewhere(status: int, url: httpx.URL) -> RefusedError:
    """The key goes to nobody but whom OPENMETER_URL names, so that no redirect is followed."""
    shown = url.copy_with(userinfo=b"", query=None, fragment=None)
    return RefusedError(
        f"OpenMeter answers {status}, and refers to {shown}, where its key is not sent; correct "
        "OPENMETER_URL (https, not http?)"
    )


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isascii() and text.isdigit() else 0.0
