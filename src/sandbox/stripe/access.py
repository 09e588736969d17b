"""Who may call: keys, their permissions, and rate limits."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping

from sandbox.stripe.api.route import Route
from sandbox.stripe.errors import StripeError
from sandbox.stripe.settings import StripeSettings

# Rate limits, "Basic limiter" and the limit of a single endpoint (calls per second).
_GLOBAL_LIVE, _GLOBAL_SANDBOX, _ENDPOINT = 100, 25, 25
_METER_EVENTS_LIVE = 1000


def api_key(headers: Mapping[str, str]) -> str:
    """The key of the Authorization header, bearer or basic; raises StripeError 401 without one."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            pass
    raise StripeError(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization "
        "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        stored=False,
    )


def authorize(settings: StripeSettings, key: str, route: Route) -> None:
    """Raise StripeError 401 for an unknown key, 403 for one without the route's permission."""
    if key in settings.api_keys:
        return
    masked = f"{key[:8]}{'*' * 8}{key[-4:]}"
    if key not in settings.restricted_keys:
        raise StripeError(401, f"Invalid API Key provided: {masked}", stored=False)
    scopes = settings.restricted_keys[key]
    granted = scopes.get(route.resource, scopes.get("*", "none"))
    if granted == "write" or (granted == "read" and route.method == "GET"):
        return
    raise StripeError(
        403,
        f"The provided key '{masked}' does not have the required permissions for this endpoint on "
        f"account '{settings.account_id}'. Having the '{route.permission}' permission would allow "
        "this request to continue.",
        code="more_permissions_required",
        stored=False,
    )


class RateLimiter:
    """Calls per second, for the account and for each endpoint."""

    def __init__(self) -> None:
        self._second = 0
        self._calls: Counter[str] = Counter()

    def check(self, settings: StripeSettings, route: Route, now: int, *, connected: bool = False) -> None:
        """Raise StripeError 429 beyond the limits, when they are enforced.

        `connected`: the call names a connected account, for which meter events have no limit of their own
        (Record usage for billing, "Rate limits").
        """
        if not settings.enforce_rate_limits:
            return
        if now != self._second:
            self._second, self._calls = now, Counter()
        if settings.livemode and route.template == "/v1/billing/meter_events" and not connected:
            self._count(route.template, _METER_EVENTS_LIVE, "endpoint-rate")
            return
        limit = _GLOBAL_LIVE if settings.livemode else _GLOBAL_SANDBOX
        self._count("", limit, "global-rate")
        self._count(f"{route.method} {route.template}", _ENDPOINT, "endpoint-rate")

    def _count(self, name: str, limit: int, reason: str) -> None:
        self._calls[name] += 1
        if self._calls[name] > limit:
            raise rate_limited(reason)


def rate_limited(reason: str | None) -> StripeError:
    """429; without a reason it is a lock that timed out (Rate limits)."""
    if reason is None:
        return StripeError(
            429,
            "This object cannot be accessed right now because another API request or Stripe "
            "process is currently accessing it.",
            code="lock_timeout",
            headers={"Stripe-Should-Retry": "true"},
            stored=False,
        )
    return StripeError(
        429,
        "Request rate limit exceeded. Learn more about rate limits in the documentation.",
        code="rate_limit",
        headers={"Stripe-Rate-Limited-Reason": reason},
        stored=False,
    )
