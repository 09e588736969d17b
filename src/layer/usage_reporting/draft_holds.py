"""Keeps drafts open whose usage is not delivered yet, and lets go of them (HOLD_DRAFTS).

Stripe waits for an unanswered `invoice.created` by itself, up to 72 hours, but neither for an invoice that it
sends by e-mail nor for one with a finalization time of its own ("Subscription webhooks").
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from usage_reporting.errors import RejectedError, StripeUnavailableError
from usage_reporting.invoices import KEPT_OPEN
from usage_reporting.model import CustomerMeter, Report, Target
from usage_reporting.stripe_api import StripeApi
from usage_reporting.telemetry import logger
from usage_reporting.windows import HOUR, MINUTE

Json = dict[str, Any]

NEAR = 35 * MINUTE
"""Two closing ticks and what they need: earlier than this there is time for another look."""
VERY_NEAR = 20 * MINUTE
"""Whether a draft has a finalization time of its own cannot be told; from here on it counts as having one."""
LONGEST = 72 * HOUR
"""From its creation, as long as Stripe itself would hold it."""
AFTERWARDS = 20 * MINUTE
"""A draft that is complete is final no sooner than this: a closing tick still has a last look."""

_LONGEST_VALUE = 500
"""Characters that Stripe takes for a metadata value."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is remembered on the draft itself: when it would have been final, and whose usage it waits for."""

    finalizes_at: int
    waiting: frozenset[str]

    @classmethod
    def of(cls, invoice: Json) -> _Mark | None:
        """The mark on a draft; None without one, or with one that is not ours."""
        first, *waiting = str((invoice.get("metadata") or {}).get(KEPT_OPEN) or "").split(" ")
        return cls(int(first), frozenset(waiting)) if first.isascii() and first.isdigit() else None

    def __str__(self) -> str:
        return " ".join([str(self.finalizes_at), *sorted(self.waiting)])


@dataclass(slots=True)
class DraftHolds:
    """Moves `automatically_finalizes_at` of drafts; all that it remembers stands in their metadata."""

    api: StripeApi
    clock: Callable[[], int]

    async def after(self, reports: Sequence[Report], seconds: float) -> None:
        """Keep open, or let go, the drafts of a page that was reported; never raises."""
        try:
            async with asyncio.timeout(seconds):
                for report in reports:
                    await self._after(report)
        except TimeoutError:
            logger.warning("there was no time to keep all drafts of the page open")

    async def _after(self, report: Report) -> None:
        customer_meter = report.customer_meter
        if customer_meter.target is Target.USAGE_RECORD:
            return  # a draft takes no usage records
        kept = {span.invoice: span.is_kept_open for span in customer_meter.spans if span.invoice}
        for invoice, is_kept_open in kept.items():
            try:
                if report.status.is_undelivered:
                    await self._keep_open(invoice, customer_meter)
                elif is_kept_open:
                    await self._let_go(invoice, customer_meter)
            except (RejectedError, StripeUnavailableError) as error:
                logger.warning("the draft %s cannot be kept open or let go: %s", invoice, error.reason)

    async def _keep_open(self, id_: str, customer_meter: CustomerMeter) -> None:
        invoice, now, who = await self.api.get(f"/v1/invoices/{id_}"), self.clock(), _name(customer_meter)
        deadline = invoice.get("automatically_finalizes_at")
        if invoice.get("status") != "draft" or deadline is None:
            return
        mark = _Mark.of(invoice)
        if mark is not None:
            added = _Mark(mark.finalizes_at, mark.waiting | {who})
            if who not in mark.waiting and len(str(added)) <= _LONGEST_VALUE:
                await self._update(id_, {"metadata": {KEPT_OPEN: str(added)}})
            return
        until = invoice["created"] + LONGEST
        if until <= max(deadline, now) or not _is_ours_to_keep(invoice, deadline - now):
            return
        mark = _Mark(deadline, frozenset({who}))
        await self._move(id_, until, str(mark))
        logger.warning("the draft %s lacks usage and is kept open, at most for 72 hours", id_)

    async def _let_go(self, id_: str, customer_meter: CustomerMeter) -> None:
        invoice, now = await self.api.get(f"/v1/invoices/{id_}"), self.clock()
        mark = _Mark.of(invoice)
        if mark is None or invoice.get("status") != "draft":
            return
        waiting = mark.waiting - {_name(customer_meter)}
        if waiting:
            if waiting != mark.waiting:
                await self._update(id_, {"metadata": {KEPT_OPEN: str(_Mark(mark.finalizes_at, waiting))}})
            return
        finalizes_at = invoice.get("automatically_finalizes_at")
        if finalizes_at != invoice["created"] + LONGEST:
            await self._update(id_, {"metadata": {KEPT_OPEN: ""}})  # somebody else has moved it since
            return
        await self._move(id_, min(finalizes_at, max(mark.finalizes_at, now + AFTERWARDS)), "")
        logger.info("the draft %s is complete and let go", id_)

    async def _move(self, id_: str, finalizes_at: int, mark: str) -> None:
        """Stripe takes the time only together with `auto_advance` ("Update an invoice")."""
        moved = {"auto_advance": True, "automatically_finalizes_at": finalizes_at}
        await self._update(id_, {**moved, "metadata": {KEPT_OPEN: mark}})

    async def _update(self, id_: str, changes: Json) -> None:
        await self.api.call("post", f"/v1/invoices/{id_}", changes)


def _is_ours_to_keep(invoice: Json, left: int) -> bool:
    """Whether the draft would be final soon, and Stripe does not wait for its webhooks by itself."""
    waits = invoice.get("collection_method") == "charge_automatically"
    waits = waits and invoice.get("webhooks_delivered_at") is None
    return left <= (VERY_NEAR if waits else NEAR)


def _name(customer_meter: CustomerMeter) -> str:
    """A short name of who waits: a metadata value has little room."""
    return hashlib.sha256(customer_meter.pk.encode()).hexdigest()[:8]
