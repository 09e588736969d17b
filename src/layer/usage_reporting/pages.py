"""Finds what is to be reported and puts it on the queue, a page of customer meters a message.

A page holds up to 100 customer meters of one OpenMeter meter, because that is what one query takes.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from usage_reporting import aws
from usage_reporting.amounts import loads
from usage_reporting.billing import Billing, Finalized, Listing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode
from usage_reporting.endings import Endings
from usage_reporting.errors import AskAgainError, BadRequestError, RejectedError, StripeUnavailableError
from usage_reporting.model import CustomerMeter, Target
from usage_reporting.openmeter import MOST_SUBJECTS
from usage_reporting.telemetry import logger
from usage_reporting.windows import HOUR, MINUTE, floor_minute

LARGEST_MESSAGE = 200_000
"""Characters: below the 256 KiB that a queue of SQS takes unless it is set to take more."""

CLOSING_EVERY = 15 * MINUTE
CLOSING_BEFORE = 45 * MINUTE
CLOSING_AFTER = HOUR

LAST_LOOK = 10 * MINUTE
"""So long before its deadline a draft is read for the last time, when no tick comes before that."""
TIME_OF_A_TICK = 3 * MINUTE
"""What a tick needs from its start until its pages are read."""

FINAL_SINCE = 3 * HOUR
"""How far back a closing tick looks for final invoices: long enough for the second look at a verdict."""
FINAL_SINCE_IN_SHADOW = 20 * MINUTE
"""One tick's worth: shadow mode does not remember what it judged."""
INVOICES_A_PAGE = 20


class Scope(StrEnum):
    """Which subscriptions a tick looks at."""

    CLOSING = "closing"
    """Those whose period ends about now, and draft invoices."""
    ALL = "all"
    """Every live subscription."""


class Part(StrEnum):
    """The lists that a tick goes through, in this order."""

    SUBSCRIPTIONS = "subscriptions"
    DRAFTS = "drafts"
    ENDINGS = "endings"
    """What ended without a draft of its own, by Stripe's events; only when every subscription is listed."""
    FINALIZED = "finalized"
    """Invoices that became final a short while ago; closing ticks only."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a listing goes on."""

    scope: Scope
    part: Part = Part.SUBSCRIPTIONS
    after: str = ""


class Queue(Protocol):
    """The page queue."""

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        """Put one message on the queue, to be seen after `delay` seconds. Raises AskAgainError."""


class SqsQueue:
    """The page queue in SQS; its client is made on first use, for the webhook never needs it."""

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._given = client

    @cached_property
    def _client(self) -> Any:
        config = Config(retries={"mode": "standard", "total_max_attempts": 5})
        return self._given or aws.client("sqs", config)

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        """Put one message on the queue, to be seen after at most 900 seconds. Raises AskAgainError."""
        body = json.dumps(message, separators=(",", ":"))
        try:
            self._client.send_message(QueueUrl=self._url, MessageBody=body, DelaySeconds=delay)
        except (ClientError, BotoCoreError) as error:
            raise AskAgainError(f"the page queue takes no message: {error}") from error


def page_message(customer_meters: Sequence[CustomerMeter]) -> dict[str, Any]:
    """The message that carries a page."""
    return {"customer_meters": [one.to_json() for one in customer_meters]}


def cursor_message(cursor: Cursor) -> dict[str, Any]:
    """The message that carries a listing that is not finished."""
    return {"scope": cursor.scope.value, "part": cursor.part.value, "after": cursor.after}


def finalized_message(found: Finalized) -> dict[str, Any]:
    """The message that carries a page of final invoices."""
    return {"mode": found.mode, "finalized": list(found.invoices)}


def read_message(body: str) -> list[CustomerMeter] | Cursor | Finalized:
    """Read a message of the queue. Raises BadRequestError for one that we did not write."""
    try:
        data = loads(body)
        if "scope" in data:
            return Cursor(Scope(data["scope"]), Part(data["part"]), str(data["after"]))
        if "finalized" in data:
            return Finalized(str(data["mode"]), [str(invoice) for invoice in data["finalized"]])
        return [CustomerMeter.from_json(one) for one in data["customer_meters"]]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadRequestError(f"the message is not a page of customer meters: {error!r}") from error


def scope_of(event: object) -> Scope:
    """The scope that a scheduled event asks for. Raises BadRequestError."""
    scope = event.get("scope") if isinstance(event, dict) else None
    if not isinstance(scope, str) or scope not in set(Scope):
        raise BadRequestError(f"the event's scope is {scope!r}; it must be 'closing' or 'all'")
    return Scope(scope)


_Waiting = defaultdict[tuple[str, Target], dict[str, CustomerMeter]]
"""Customer meters by OpenMeter meter and target, then by ledger key."""


@dataclass(slots=True)
class Lister:
    """Lists customer meters and queues them."""

    billing: Billing
    endings: Endings
    queue: Queue
    clock: Callable[[], int]
    _said: str = ""
    """Why final invoices could not be listed: said once."""

    async def queue_pages(self, cursor: Cursor, budget: Budget) -> tuple[int, Cursor | None]:
        """Queue the pages of a listing; the number queued, and where to go on if time ran out.

        Raises StripeUnavailableError or AskAgainError; what was queued before stays queued.
        """
        waiting: _Waiting = defaultdict(dict)
        queued = 0
        customers = [Part.SUBSCRIPTIONS, Part.DRAFTS]
        if cursor.scope is Scope.ALL:
            customers.append(Part.ENDINGS)
        for part in customers[customers.index(cursor.part) :] if cursor.part in customers else ():
            after = cursor.after if part is cursor.part else ""
            async with aclosing(self._listings(cursor.scope, part, after)) as listings:
                async for listing in listings:
                    for one in listing.customer_meters:
                        page = waiting[(one.openmeter_meter, one.target)]
                        # Bounds of all its subscriptions belong together where they are known together.
                        page[one.pk] = page[one.pk].merged_with(one) if one.pk in page else one
                    queued += await self._flush(waiting, least=MOST_SUBJECTS)
                    if budget.is_over and listing.cursor:
                        queued += await self._flush(waiting, least=1)
                        return queued, Cursor(cursor.scope, part, listing.cursor)
        queued += await self._flush(waiting, least=1)
        return queued, await self._queue_finalized(cursor, budget)

    async def _queue_finalized(self, cursor: Cursor, budget: Budget) -> Cursor | None:
        """Queue the invoices that just became final, for their verdict; where to go on, if time ran out."""
        if cursor.scope is not Scope.CLOSING:
            return None
        is_shadow = self.billing.settings.mode is Mode.SHADOW
        since = self.clock() - (FINAL_SINCE_IN_SHADOW if is_shadow else FINAL_SINCE)
        after = cursor.after if cursor.part is Part.FINALIZED else ""
        try:
            async for found in self.billing.finalized(since, after):
                for first in range(0, len(found.invoices), INVOICES_A_PAGE):
                    page = replace(found, invoices=found.invoices[first : first + INVOICES_A_PAGE])
                    await asyncio.to_thread(self.queue.send, finalized_message(page))
                if budget.is_over:
                    return Cursor(cursor.scope, Part.FINALIZED, found.cursor)
        except (RejectedError, StripeUnavailableError) as error:
            if error.reason != self._said:
                self._said = error.reason
                logger.warning("final invoices are judged when their webhook comes only: %s", error.reason)
        return None

    def _listings(self, scope: Scope, part: Part, after: str) -> AsyncGenerator[Listing]:
        if part is Part.DRAFTS:
            return self.billing.drafts(after)
        if part is Part.ENDINGS:
            return self.endings.listings(after)
        if scope is Scope.ALL:
            return self.billing.subscriptions({}, after)
        now = self.clock()
        ends = {"gte": now - CLOSING_AFTER, "lte": now + CLOSING_BEFORE}
        return self.billing.subscriptions({"current_period_end": ends}, after)

    async def _flush(self, waiting: _Waiting, *, least: int) -> int:
        queued = 0
        for name in list(waiting):
            if least > 1 and name[1] is Target.LAST:
                continue  # whether a customer's spans overlap is known when all are listed
            while len(waiting[name]) >= least:
                found = list(waiting[name].values())
                page, rest = found[:MOST_SUBJECTS], found[MOST_SUBJECTS:]
                await self._send(page)
                await self._send_for_the_last_look(page)
                queued += len(page)
                waiting[name] = {one.pk: one for one in rest}
        return queued

    async def _send_for_the_last_look(self, page: Sequence[CustomerMeter]) -> None:
        """Queue what becomes final before the next closing tick once more, for ten minutes before that."""
        now = self.clock()
        next_tick = now - now % CLOSING_EVERY + CLOSING_EVERY
        later: dict[int, list[CustomerMeter]] = defaultdict(list)
        for one in page:
            if one.deadline is not None and one.deadline < next_tick + TIME_OF_A_TICK:
                delay = floor_minute(one.deadline - LAST_LOOK - now)
                if delay > 0:
                    later[delay].append(one)
        for delay, some in later.items():
            await self._send(some, delay)

    async def _send(self, page: Sequence[CustomerMeter], delay: int = 0) -> None:
        message = page_message(page)
        if len(page) > 1 and len(json.dumps(message)) > LARGEST_MESSAGE:
            half = len(page) // 2
            await self._send(page[:half], delay)
            await self._send(page[half:], delay)
            return
        await asyncio.to_thread(self.queue.send, message, delay)
