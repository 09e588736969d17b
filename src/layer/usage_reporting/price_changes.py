"""Reads Stripe's events about prices that were put on items, or taken off them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from usage_reporting.errors import RejectedError, StripeUnavailableError
from usage_reporting.model import Span
from usage_reporting.renewals import UPDATED
from usage_reporting.stripe_api import StripeApi
from usage_reporting.swaps import Swap, swaps_of
from usage_reporting.telemetry import logger
from usage_reporting.windows import DAY, HOUR

Json = dict[str, Any]

LEFT_PAGES = 100
"""Of events, newest first: where it is known that a price left, and when it did is looked for."""
SWAPS_PAGES = 10
"""Of events: where nothing may have happened, and a webhook waits for the answer."""


@dataclass(slots=True)
class PriceChanges:
    """What events say of prices that changed in mid-period."""

    api: StripeApi
    clock: Callable[[], int]
    _swaps: tuple[int, int, list[Swap]] = field(default=(2**33, 0, []))
    """Since when and at what time events were read last, and what they said."""

    async def left_at(self, span: Span, since: int, now: int) -> int:
        """When an item left a span's price or its subscription, UTC seconds.

        Stripe's objects do not say it; its events do for 30 days (API reference, "List all events").
        Where they do not show it, the answer is `now`: nothing before it is then sent, and what that
        leaves out is counted.
        """
        try:
            async with aclosing(self._updates(since, LEFT_PAGES)) as updates:
                async for event in updates:
                    if _took_price_away(event, span):
                        return min(int(event["created"]), now)
        except (RejectedError, StripeUnavailableError):
            return now
        return now

    async def swaps(self, since: int, seen_at: int) -> list[Swap]:
        """The changes of price of all subscriptions from `since` on (UTC seconds), for at most 30 days.

        One reading serves all subscriptions that were seen before it, at `seen_at`. Raises
        StripeUnavailableError, also when the key may not read events.
        """
        asked_since, asked_at, found = self._swaps
        if since < asked_since or seen_at > asked_at:
            now = self.clock()
            asked_since = since - since % (DAY if now - since > DAY else HOUR)
            self._swaps = asked_since, now, await self._read_swaps(asked_since)
            found = self._swaps[2]
        return found

    async def _read_swaps(self, since: int) -> list[Swap]:
        return [swap async for event in self._updates(since, SWAPS_PAGES) for swap in swaps_of(event)]

    async def _updates(self, since: int, most: int) -> AsyncGenerator[Json]:
        """The updates of subscriptions since then, newest first; `most` pages of a hundred."""
        query = {"type": UPDATED, "created": {"gte": since}}
        left = most
        async with aclosing(self.api.pages("/v1/events", query)) as pages:
            async for page in pages:
                if not left:
                    what = "changes of price are looked for in the newest %s00 subscription updates alone"
                    logger.warning(what, most)
                    return
                left -= 1
                for event in page:
                    yield event


def _took_price_away(event: Json, span: Span) -> bool:
    data = event.get("data") or {}
    if (data.get("object") or {}).get("id") != span.subscription:
        return False
    old = ((data.get("previous_attributes") or {}).get("items") or {}).get("data", [])
    new = ((data.get("object") or {}).get("items") or {}).get("data", [])
    return _has(old, span) and not _has(new, span)


def _has(items: list[Json], span: Span) -> bool:
    return any(
        item.get("id") == span.item and item.get("price", {}).get("id") == span.price for item in items
    )
