"""The Stripe client: one API version, plain JSON with exact numbers, and retries that are ours to control."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, cast

import stripe

from usage_reporting import telemetry
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.amounts import loads
from usage_reporting.backoff import pause
from usage_reporting.connection_pools import ConnectionPools, Unread
from usage_reporting.credentials import Credentials
from usage_reporting.errors import (
    NoAccessError,
    NotFoundError,
    NotPermittedError,
    RejectedError,
    SessionExpiredError,
    StripeUnavailableError,
)
from usage_reporting.pacer import LIVE_CONNECTED, Pacer, Turn

API_VERSION = "2026-05-27.dahlia"
LEGACY_API_VERSION = "2025-02-24.acacia"
"""The last version with usage records (changelog 2025-03-31.basil, "Removes legacy usage-based billing")."""

PAGE_SIZE = 100
TIMEOUT_S = 10
READ_TRIES = 4
PACED_TRIES = 8
PATIENCE_S = 8.0
"""How long a call waits for its turns: less than a function keeps to hand over what it has no time for."""
LONGEST_MESSAGE = 300

NO_ACCESS = "account_invalid"
"""Stripe's code where the key may not act for an account ("Error codes")."""

_REASON = "stripe-rate-limited-reason"
_KEY = re.compile(r"\b(?:sk|rk|pk|whsec)_[\w*]+")

Json = dict[str, Any]
Sleep = Callable[[float], Awaitable[None]]


class StripeApi:
    """Stripe's API as this package uses it: raw requests through the official client.

    The client's own retries are off: it does not retry a plain 429, and a send must decide for itself
    between the same and a new idempotency key.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        api_base: str = "",
        http_client: stripe.HTTPClient | None = None,
        pacer: Pacer | None = None,
        sleep: Sleep = asyncio.sleep,
        account: str = OWN_ACCOUNT,
    ) -> None:
        self.account = account
        """The account that is spoken for, as it stands in the ledger's keys."""
        self._credentials = credentials
        self._api_base = api_base
        self._http_client = http_client or ConnectionPools(TIMEOUT_S)
        self._pacer = pacer or Pacer()
        self._sleep = sleep
        self._client: stripe.StripeClient | None = None
        self._key = ""

    def for_account(self, account: str, pacer: Pacer | None = None) -> StripeApi:
        """The same key and connections, for a connected account at a pace of its own."""
        return StripeApi(
            self._credentials,
            api_base=self._api_base,
            http_client=self._http_client,
            pacer=pacer or Pacer(live=LIVE_CONNECTED),
            sleep=self._sleep,
            account=account,
        )

    @property
    def key(self) -> str:
        """The API key in force. Raises ConfigurationError or AskAgainError."""
        return self._credentials.current().stripe_api_key

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        """Read one object, again after a short while when Stripe is busy or silent.

        Raises NotFoundError, RejectedError or StripeUnavailableError.
        """
        for attempt in range(READ_TRIES):
            try:
                return await self.call("get", path, params or {})
            except StripeUnavailableError:
                if attempt == READ_TRIES - 1:
                    raise
                await self._sleep(pause(attempt))
        raise AssertionError("unreachable: the last try returns or raises")

    async def pages(self, path: str, params: Mapping[str, Any] | None = None) -> AsyncGenerator[list[Json]]:
        """Read a list page by page, 100 at a time, following `has_more`."""
        query: Json = dict(params or {})
        has_more = True
        while has_more:
            page, has_more = await self.page(path, query)
            yield page
            if has_more:
                query["starting_after"] = page[-1]["id"]

    async def page(self, path: str, params: Mapping[str, Any]) -> tuple[list[Json], bool]:
        """Up to 100 objects of a list, and whether there are more of them. Raises what `get` raises."""
        answer = await self.get(path, {"limit": PAGE_SIZE, **params})
        page = cast("list[Json]", answer.get("data", []))
        return page, bool(page and answer.get("has_more"))

    async def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any],
        *,
        idempotency_key: str = "",
        version: str = API_VERSION,
        session: str = "",
    ) -> Json:
        """One call in its turn; re-reads the key once when Stripe does not accept it.

        A call that was too many for Stripe was not begun there: it takes another turn at a slower pace.

        `session`: the token to stream meter events with, in place of the key. Raises NotFoundError,
        RejectedError (Stripe's 4xx), SessionExpiredError or StripeUnavailableError (anything that may end
        better later).
        """
        options = {"stripe_version": version, **self._on_behalf(path)}
        if idempotency_key:
            options["idempotency_key"] = idempotency_key
        if session:
            options |= {"api_key": session, "base": "meter_events"}
        try:
            answer = await self._paced(method, path, params, options)
        except (stripe.AuthenticationError, stripe.TemporarySessionExpiredError) as error:
            if session:
                raise SessionExpiredError("the meter event session is over", turned_away=True) from error
            if not await asyncio.to_thread(self._credentials.reread):
                raise self._translated(error) from error
            try:
                answer = await self._paced(method, path, params, options)
            except stripe.StripeError as again:
                raise self._translated(again) from again
        except stripe.StripeError as error:
            raise self._translated(error) from error
        try:
            return cast("Json", loads(answer))
        except ValueError as error:
            raise StripeUnavailableError(f"Stripe answered {path} with something that is not JSON") from error

    def _on_behalf(self, path: str) -> dict[str, str]:
        """The header that names a connected account ("Making API calls for connected accounts").

        The /v2 namespace takes `Stripe-Context` ("Stripe-Context header").
        """
        if self.account == OWN_ACCOUNT:
            return {}
        return {"stripe_context" if path.startswith("/v2/") else "stripe_account": self.account}

    def _translated(self, error: stripe.StripeError) -> Exception:
        if self.account != OWN_ACCOUNT and _code_of(error) == NO_ACCESS:
            return NoAccessError(
                f"the Stripe key may not act for the connected account {self.account}, or not any more: its "
                "owner may have disconnected it. Connect it again, or take it out of ConnectedAccounts",
                code=NO_ACCESS,
                status=error.http_status or 403,
            )
        return _translated(error)

    async def _paced(
        self, method: str, path: str, params: Mapping[str, Any], options: Mapping[str, str]
    ) -> str | bytes:
        patient_until = asyncio.get_running_loop().time() + PATIENCE_S
        tries_left = PACED_TRIES
        while True:
            turn = await self._turn(method, path, patient_until)
            try:
                return await self._request(method, path, params, options)
            except stripe.RateLimitError as error:
                tries_left -= 1
                reason = (error.headers or {}).get(_REASON, "")
                telemetry.turned_away(telemetry.STRIPE, reason)
                if not turn.turned_away(reason) or not tries_left:
                    raise
            finally:
                turn.end()

    async def _turn(self, method: str, path: str, patient_until: float) -> Turn:
        key = self.key
        try:
            async with asyncio.timeout_at(patient_until):
                return await self._pacer.turn(key, method, path)
        except TimeoutError:
            raise StripeUnavailableError(
                f"Stripe's rate limits left no room for a call within {PATIENCE_S:.0f} s", turned_away=True
            ) from None

    async def _request(
        self, method: str, path: str, params: Mapping[str, Any], options: Mapping[str, str]
    ) -> str | bytes:
        client = self._client_for(self.key)
        telemetry.called(telemetry.STRIPE)
        answer = await client.raw_request_async(method, path, **params, **options)
        body: str | bytes = answer.headers.body if isinstance(answer.headers, Unread) else answer.body
        return body

    def _client_for(self, key: str) -> stripe.StripeClient:
        if self._client is None or key != self._key:
            base = self._api_base
            self._key = key
            self._client = stripe.StripeClient(
                key,
                http_client=self._http_client,
                max_network_retries=0,
                base_addresses={"api": base, "meter_events": base} if base else None,
            )
        return self._client


def redacted(text: str) -> str:
    """A text without keys and signing secrets: Stripe's messages repeat the ends of a key."""
    return _KEY.sub("[key]", text)


def _code_of(error: stripe.StripeError) -> str:
    """Stripe's code; the client's own errors of permission leave it to the answer's body."""
    return str(error.code or getattr(error.error, "code", None) or "")


def _translated(error: stripe.StripeError) -> Exception:
    """Sort Stripe's errors into those that asking again may mend and those that it will not."""
    status = error.http_status
    if isinstance(error, stripe.AuthenticationError):
        return StripeUnavailableError(
            "Stripe does not accept the API key; run `usage-reporter connect`", turned_away=True
        )
    message = redacted(error.user_message or f"{type(error).__name__} without a message")[:LONGEST_MESSAGE]
    if isinstance(error, stripe.PermissionError):
        return NotPermittedError(f"the Stripe key may not do this: {message}", turned_away=True)
    if status is None:
        cause = type(error.__cause__ or error).__name__
        return StripeUnavailableError(f"Stripe gave no answer ({cause})")
    if 400 <= status < 500 and status not in {409, 429}:
        kind = NotFoundError if status == 404 else RejectedError
        return kind(f"Stripe says: {message}", code=error.code or "", status=status)
    # Not JSON with a status below 400 is no "no" either: Stripe may have done it.
    answered = status >= 500
    headers = error.headers or {}
    replayed = answered and headers.get("idempotent-replayed") == "true"
    reason = headers.get(_REASON)
    return StripeUnavailableError(
        f"Stripe answered {status}{f' ({reason})' if reason else ''}: {message}",
        answered=answered,
        replayed=replayed,
        turned_away=status == 429,
    )
