"""What Stripe's events say is over: told by the webhook, or listed by a tick because that may be lost.

No listing of live subscriptions shows what left one, nor a subscription that is over.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from usage_reporting.billing import Billing, Listing
from usage_reporting.customer_meters import as_of, in_period, merged, period_of, span_of
from usage_reporting.errors import BadRequestError, NotFoundError, RejectedError, StripeUnavailableError
from usage_reporting.model import CustomerMeter, Span, SpanState
from usage_reporting.read_ahead import read_ahead
from usage_reporting.renewals import (
    DELETED,
    UPDATED,
    EndedPeriod,
    ended_periods,
    paused_at,
    resumed_at,
    subscription_id,
    taken_off,
)
from usage_reporting.telemetry import logger
from usage_reporting.windows import HOUR

Json = dict[str, Any]

LOOKED_BACK = 26 * HOUR
"""So far back a tick looks for events: longer than a day that somebody needs to mend a deployment."""

AHEAD = 300
"""Seconds that Stripe's clock may be ahead of ours."""


@dataclass(slots=True)
class Endings:
    """Finds the customer meters of which something ended."""

    billing: Billing
    clock: Callable[[], int]

    async def of(self, event: Json) -> list[CustomerMeter] | None:
        """The customer meters that an event about a subscription concerns; None when nothing ended.

        The event is a hint: the subscription is asked for. Raises BadRequestError, NotFoundError,
        RejectedError or StripeUnavailableError.
        """
        id_, asked_at = subscription_id(event), self.clock()
        if event["type"] == DELETED:
            over = await self.billing.last_periods(await self.billing.subscription(id_))
            return as_of(asked_at, over)
        latest = self.clock() + AHEAD
        ended = [period for period in ended_periods(event) if period.end <= latest]
        gone = [period for period in taken_off(event) if period.end <= latest]
        paused, resumed = paused_at(event), resumed_at(event)
        if not ended and not gone and paused is None and resumed is None:
            return None
        subscription = await self.billing.subscription(id_)
        found = await self.billing.ended(subscription, ended)
        if resumed is not None:
            found = [_free(one) for one in found]
        found += await self._taken_off(subscription, gone)
        then = event["data"]["object"]
        found += await self._before_a_pause(subscription, then, paused) if paused is not None else []
        found += await self._in_a_pause(subscription, then, resumed) if resumed is not None else []
        return as_of(asked_at, merged(found))

    async def listings(self, after: str = "") -> AsyncGenerator[Listing]:
        """Customer meters of what ended of late without a draft that would show it, newest first.

        One list call where little happened. What cannot be asked is logged and left out.
        """
        query: Json = {"types": [UPDATED, DELETED], "created": {"gte": self.clock() - LOOKED_BACK}}
        if after:
            query["starting_after"] = after
        try:
            async with aclosing(read_ahead(self.billing.api.pages("/v1/events", query))) as pages:
                async for page in pages:
                    found = [one for event in page for one in await self._listed(event)]
                    yield Listing(merged(found), page[-1]["id"] if page else "")
        except (RejectedError, StripeUnavailableError) as error:
            logger.warning("Stripe's events cannot be listed, lost webhooks stay lost: %s", error.reason)

    async def _listed(self, event: Json) -> list[CustomerMeter]:
        """Renewals are left to the drafts that they make."""
        try:
            is_pause = paused_at(event) is not None or resumed_at(event) is not None
            is_seen = event["type"] == DELETED or is_pause or taken_off(event)
            return await self.of(event) or [] if is_seen else []
        except NotFoundError:
            return []
        except (BadRequestError, RejectedError) as error:
            self.billing.unreadable[event["id"]] = error.reason
            return []

    async def _taken_off(self, subscription: Json, periods: list[EndedPeriod]) -> list[CustomerMeter]:
        pairs: list[tuple[Json, Span | None]] = []
        for period in periods:
            item = in_period(period.item or {}, period.start, period.end)
            span = span_of(subscription, item)
            pairs.append((item, span and replace(span, state=span.when_left)))
        return await self.billing.closing(subscription, pairs)

    async def _before_a_pause(self, subscription: Json, then: Json, at: int) -> list[CustomerMeter]:
        """The part of the periods before a pause: Stripe bills it at once ("Pause subscriptions")."""
        pairs: list[tuple[Json, Span | None]] = []
        for before in await self._cut_off(subscription, then, at):
            span = span_of(subscription, before, SpanState.ENDED)
            pairs.append((before, span and await self._as_billed(span)))
        return await self.billing.closing(subscription, pairs)

    async def _as_billed(self, span: Span) -> Span:
        """What Stripe billed when a pause began: a draft takes more, anything else does not."""
        if span.when_left is SpanState.FREE:
            return replace(span, state=SpanState.FREE)
        found = await self.billing.state_of(replace(span, state=SpanState.CANCELED), self.clock())
        return found if found.state is SpanState.DRAFT else replace(span, state=SpanState.BILLED)

    async def _in_a_pause(self, subscription: Json, then: Json, until: int) -> list[CustomerMeter]:
        """The part of the periods in which the subscription was paused."""
        pairs: list[tuple[Json, Span | None]] = []
        for paused in await self._cut_off(subscription, then, until):
            span = span_of(subscription, paused)
            pairs.append((paused, span and replace(span, state=SpanState.FREE)))
        return await self.billing.closing(subscription, pairs)

    async def _cut_off(self, subscription: Json, then: Json, at: int) -> list[Json]:
        """The items whose period as of `then` goes on at an instant, cut off there; it may be over by now."""
        at_that_time = {one["id"]: one for one in (then.get("items") or {}).get("data", [])}
        found = []
        for item in await self.billing.items(subscription):
            period = period_of(then, at_that_time.get(item["id"], item))
            if period is not None and period[0] < at < period[1]:
                found.append(in_period(item, period[0], at))
        return found


def _free(paused: CustomerMeter) -> CustomerMeter:
    """A pause's periods: nothing that was used in it is billed."""
    spans = tuple(replace(span, state=SpanState.FREE) for span in paused.spans)
    return replace(paused, spans=spans)
