"""Puts a listing of each connected account on the queue, so that none waits for, or fails with, another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import batched

from usage_reporting.accounts import ConnectedAccounts
from usage_reporting.budget import Budget
from usage_reporting.idle_accounts import IdleAccounts
from usage_reporting.outgoing import SENDS_AT_ONCE
from usage_reporting.pages import Cursor, Queue, Scope, cursor_message
from usage_reporting.read_ahead import read_ahead
from usage_reporting.stripe_api import PAGE_SIZE, StripeApi

ACCOUNTS = "/v1/accounts"


@dataclass(frozen=True, slots=True)
class Connected:
    """The connected accounts that are served; `api` speaks for the key's own."""

    accounts: ConnectedAccounts
    api: StripeApi
    idle: IdleAccounts | None = None
    """None: nobody is left out."""

    async def pages(self, after: str = "") -> AsyncGenerator[list[str]]:
        """Their ids, a page at a time; `after`: the last one of the page before.

        Where Stripe lists them, newest first ("List all connected accounts"). Raises what `get` raises.
        """
        if not self.accounts.is_all:
            given = list(self.accounts.given)
            rest = given[given.index(after) + 1 :] if after in given else given
            for page in batched(rest, PAGE_SIZE, strict=False):
                yield list(page)
            return
        query = {"starting_after": after} if after else {}
        async with aclosing(read_ahead(self.api.pages(ACCOUNTS, query))) as pages:
            async for found in pages:
                yield [str(account["id"]) for account in found]

    async def queue_listings(self, queue: Queue, cursor: Cursor, budget: Budget) -> Cursor | None:
        """Queue a listing of the cursor's scope for each account; where to go on if time ran out.

        In a closing tick those are left out that have nothing to bill. Raises AskAgainError or RejectedError;
        what was queued before stays queued.
        """
        async with aclosing(self.pages(cursor.after)) as pages:
            async for page in pages:
                may_leave_out = self.idle if cursor.scope is Scope.CLOSING else None
                left_out = await may_leave_out.left_out(page) if may_leave_out else set()
                wanted = [one for one in page if one not in left_out]
                for some in batched(wanted, SENDS_AT_ONCE, strict=False):
                    sends = [asyncio.to_thread(queue.send, _listing(cursor, one)) for one in some]
                    await asyncio.gather(*sends)
                if page and budget.is_over:
                    return replace(cursor, after=page[-1])
        return None


def _listing(cursor: Cursor, account: str) -> dict[str, object]:
    return cursor_message(Cursor(cursor.scope, account=account))
