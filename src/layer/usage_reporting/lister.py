"""Finds what is to be reported and puts it on the queue, a page of customer meters a message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from itertools import zip_longest

from usage_reporting.billing import Billing, Listing, SubscriptionPage
from usage_reporting.budget import Budget
from usage_reporting.config import Mode
from usage_reporting.creation_ranges import CreationRange, side_by_side
from usage_reporting.endings import Endings
from usage_reporting.errors import RejectedError, StripeUnavailableError
from usage_reporting.ledger import Ledger
from usage_reporting.left_out import LeftOut
from usage_reporting.outgoing import Outgoing
from usage_reporting.pages import Cursor, Part, Queue, Scope, finalized_message
from usage_reporting.telemetry import logger
from usage_reporting.windows import HOUR, MINUTE

WHOLE_PAGES = 20
"""So many pages of all subscriptions are listed as one chain: of 2,000 none is asked for in vain."""

CLOSING_BEFORE = 45 * MINUTE
CLOSING_AFTER = HOUR

FINAL_SINCE = 3 * HOUR
"""How far back a closing tick looks for final invoices: long enough for the second look at a verdict."""
FINAL_SINCE_IN_SHADOW = 20 * MINUTE
"""One tick's worth: shadow mode does not remember what it judged."""
INVOICES_A_PAGE = 20

_LISTED: dict[Scope, tuple[Part, ...]] = {
    Scope.CLOSING: (Part.SUBSCRIPTIONS, Part.DRAFTS, Part.FINALIZED),
    Scope.ALL: (Part.SUBSCRIPTIONS, Part.DRAFTS, Part.ENDINGS),
}


@dataclass(slots=True)
class Lister:
    """Lists customer meters and queues them."""

    billing: Billing
    endings: Endings
    ledger: Ledger
    queue: Queue
    clock: Callable[[], int]
    whole_pages: int = WHOLE_PAGES
    """Pages of all subscriptions before what is left is listed in several ranges of creation time."""
    _said: str = ""
    """Why final invoices could not be listed: said once."""

    async def queue_pages(self, cursor: Cursor, budget: Budget) -> tuple[int, list[Cursor]]:
        """Queue the pages of a listing; the number queued, and where to go on if time ran out.

        Raises StripeUnavailableError or AskAgainError; what was queued before stays queued.
        """
        with closing(LeftOut(self.billing, self.ledger, self.clock)) as left_out:
            async with Outgoing(self.queue, self.clock) as outgoing:
                rest = await self._list(cursor, budget, outgoing, left_out)
                await outgoing.flush()
            await left_out.tell_all()
        if cursor.scope is Scope.CLOSING and not rest:
            rest = await self._queue_finalized(cursor, budget)
        return outgoing.queued, rest

    async def _list(
        self, cursor: Cursor, budget: Budget, outgoing: Outgoing, left_out: LeftOut
    ) -> list[Cursor]:
        """List all parts from a cursor on; where to go on if time ran out."""
        parts = _LISTED[cursor.scope]
        parts = parts[parts.index(cursor.part) :] if cursor.range.is_whole else (cursor.part,)
        for part, following in zip_longest(parts, parts[1:]):
            if part is Part.FINALIZED:
                break
            start = cursor if part is cursor.part else Cursor(cursor.scope, part, account=cursor.account)
            async with aclosing(self._listings(start)) as listings:
                async for listing, left in listings:
                    await outgoing.add(listing.customer_meters)
                    await left_out.tell_some()
                    is_over = outgoing.is_full or budget.ends_within(outgoing.seconds_to_flush)
                    if is_over and (left or listing.cursor):
                        is_parted = not any(one.range.is_whole for one in left)
                        further = [replace(start, part=following, after="")] if following else []
                        return [*left, *further] if is_parted else left
        return []

    async def _listings(self, start: Cursor) -> AsyncGenerator[tuple[Listing, list[Cursor]]]:
        """The pages of a part, each with where to go on after it."""
        if start.part is Part.SUBSCRIPTIONS and start.scope is Scope.ALL:
            async with aclosing(self._all_subscriptions(start)) as pages:
                async for page, ranges in pages:
                    listing = await self.billing.read_page(page)
                    left = [
                        replace(start, after=one.after, since=one.since, until=one.until) for one in ranges
                    ]
                    yield listing, left
            return
        async with aclosing(self._chain(start.part, start.after)) as chain:
            async for listing in chain:
                yield listing, [replace(start, after=listing.cursor)] if listing.cursor else []

    def _all_subscriptions(
        self, start: Cursor
    ) -> AsyncGenerator[tuple[SubscriptionPage, list[CreationRange]]]:
        """Side by side in a tick; what it had no time for goes on as the chains that it is in by then."""
        is_new = start == Cursor(Scope.ALL, account=start.account)
        at_once = self.billing.settings.listing_concurrency if is_new else 1

        async def ask(wanted: CreationRange) -> SubscriptionPage:
            return await self.billing.subscription_page(wanted.filters, wanted.after)

        return side_by_side(ask, start.range, at_once=at_once, whole_pages=self.whole_pages)

    def _chain(self, part: Part, after: str) -> AsyncGenerator[Listing]:
        if part is Part.DRAFTS:
            return self.billing.drafts(after)
        if part is Part.ENDINGS:
            return self.endings.listings(after)
        now = self.clock()
        ends = {"gte": now - CLOSING_AFTER, "lte": now + CLOSING_BEFORE}
        return self.billing.subscriptions({"current_period_end": ends}, after)

    async def _queue_finalized(self, cursor: Cursor, budget: Budget) -> list[Cursor]:
        """Queue the invoices that just became final, for their verdict; where to go on, if time ran out."""
        is_shadow = self.billing.settings.mode is Mode.SHADOW
        since = self.clock() - (FINAL_SINCE_IN_SHADOW if is_shadow else FINAL_SINCE)
        after = cursor.after if cursor.part is Part.FINALIZED else ""
        try:
            async for found in self.billing.finalized(since, after):
                for first in range(0, len(found.invoices), INVOICES_A_PAGE):
                    page = replace(found, invoices=found.invoices[first : first + INVOICES_A_PAGE])
                    await asyncio.to_thread(self.queue.send, finalized_message(page))
                if budget.is_over:
                    return [Cursor(cursor.scope, Part.FINALIZED, found.cursor, account=cursor.account)]
        except (RejectedError, StripeUnavailableError) as error:
            if error.reason != self._said:
                self._said = error.reason
                logger.warning("final invoices are judged when their webhook comes only: %s", error.reason)
        return []
