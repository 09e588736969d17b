"""How much may be asked of the account in a second and at once (Rate limits)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.clock import Timer
from sandbox.stripe.api.meter_stream import STREAM
from sandbox.stripe.api.metering import METER_EVENTS
from sandbox.stripe.api.route import Route
from sandbox.stripe.errors import StripeError
from sandbox.stripe.settings import StripeSettings

_GLOBAL_LIVE, _GLOBAL_SANDBOX, _ENDPOINT = 100, 25, 25
"""Calls per second: the basic limiter, and that of a single endpoint."""
_WINDOW_SECONDS = 1.0
_ACCOUNT = ""

LOCK_TIMEOUT = "lock_timeout"
REASON = "Stripe-Rate-Limited-Reason"


class RateLimiter:
    """Calls per second, for the account and for each endpoint.

    Stripe documents rates, and not over which span it takes them. Here no span of a second, wherever it
    begins, has more calls than the limit: a bucket that fills again would let a burst through on top.
    """

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._calls: dict[str, deque[float]] = {}

    def check(self, settings: StripeSettings, route: Route, *, connected: bool = False) -> None:
        """Raise StripeError 429 beyond the limits, when they are enforced.

        `connected`: the call is for a connected account, for which meter events have no limit of their own
        (Record usage for billing, "Rate limits").
        """
        if not settings.enforce_rate_limits:
            return
        own = {STREAM: settings.stream_requests_per_second}
        if not connected:
            own[METER_EVENTS] = settings.meter_events_per_second
        if settings.livemode and route.template in own:
            self._count(route.name, own[route.template], "endpoint-rate")
            return
        self._count(_ACCOUNT, _GLOBAL_LIVE if settings.livemode else _GLOBAL_SANDBOX, "global-rate")
        self._count(route.name, _ENDPOINT, "endpoint-rate")

    def _count(self, name: str, limit: int, reason: str) -> None:
        now = self._timer()
        calls = self._calls.setdefault(name, deque())
        while calls and calls[0] <= now - _WINDOW_SECONDS:
            calls.popleft()
        if len(calls) >= limit:
            raise rate_limited(reason)
        calls.append(now)


class Concurrency:
    """Calls that are being answered, of the account, of each endpoint, and of each customer's meters."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._metering: set[tuple[str, str]] = set()

    @contextmanager
    def call(self, settings: StripeSettings, route: Route) -> Iterator[None]:
        """While one call is being answered; raises StripeError 429 beyond the limits that are set."""
        for name, limit, reason in (
            (_ACCOUNT, settings.global_concurrency, "global-concurrency"),
            (route.name, settings.endpoint_concurrency, "endpoint-concurrency"),
        ):
            if limit is not None and self._calls[name] >= limit:
                raise rate_limited(reason)
        names = (_ACCOUNT, route.name)
        self._calls.update(names)
        try:
            yield
        finally:
            self._calls.subtract(names)

    @contextmanager
    def metering(self, event_name: str, customer: str) -> Iterator[None]:
        """While one meter event is taken: one per customer and meter (Record usage, "Rate limits").

        Raises StripeError 429.
        """
        busy = (event_name, customer)
        if busy in self._metering:
            raise rate_limited("resource-specific")
        self._metering.add(busy)
        try:
            yield
        finally:
            self._metering.discard(busy)


def rate_limited(reason: str | None) -> StripeError:
    """429; without a reason it is a lock that timed out."""
    if reason is None:
        return StripeError(
            429,
            "This object cannot be accessed right now because another API request or Stripe "
            "process is currently accessing it.",
            code=LOCK_TIMEOUT,
            headers={"Stripe-Should-Retry": "true"},
            stored=False,
        )
    return StripeError(
        429,
        "Request rate limit exceeded. Learn more about rate limits in the documentation.",
        code="rate_limit",
        headers={REASON: reason},
        stored=False,
    )
