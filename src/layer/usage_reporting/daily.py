"""The daily reconciliation: the last UTC day of everyone, and the invoices that became final on it.

It reads alone. What it has no time for goes on by a cursor; at the end one line tells of the day, of the
connected accounts, too: they come one after the other, after the key's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import batched
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from usage_reporting import aws, telemetry
from usage_reporting.accounts import OWN_ACCOUNT, of_account
from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.billing import Billing, Listing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.connected import Connected
from usage_reporting.daily_sums import DailyCursor, DailyPart, DailySums
from usage_reporting.errors import (
    AskAgainError,
    LostRaceError,
    NotPermittedError,
    RejectedError,
    StripeUnavailableError,
)
from usage_reporting.final_invoices import billed_lines
from usage_reporting.hours import known_spans
from usage_reporting.judging import Judge, Judged
from usage_reporting.ledger import KEPT_FOR, Head, Ledger
from usage_reporting.model import CustomerMeter, SpanState, Status
from usage_reporting.openmeter import MOST_SUBJECTS
from usage_reporting.pacer import LIVE, TEST
from usage_reporting.reconciled import Reconciled
from usage_reporting.reconciliation import Reconciler
from usage_reporting.telemetry import logger
from usage_reporting.thresholds import NOT_BY_ITSELF
from usage_reporting.verdict import Cause, Finding, JudgedLine
from usage_reporting.windows import DAY, day_of

RECONCILED = f"{OWN_ACCOUNT}#reconciled"
"""The partition key of the days that were reconciled; the sort key is the day."""

INVOICES_A_PAGE = 20

_UNTOLD = frozenset({Cause.OTHER_WRITER, Cause.NOT_BILLED})
"""What only a look at both sides finds; the others are told of by alarms of their own, or by no alarm."""


def last_day(now: int) -> int:
    """The start of the UTC day before `now`; UTC seconds."""
    return now - now % DAY - DAY


class SnsTopic:
    """The topic that the daily line goes to; its client is made on first use."""

    def __init__(self, arn: str, client: Any = None) -> None:
        self._arn = arn
        self._client = client

    def publish(self, subject: str, text: str) -> None:
        """Tell everybody who subscribed to it. Raises AskAgainError."""
        self._client = self._client or aws.client("sns")
        try:
            self._client.publish(TopicArn=self._arn, Subject=subject[:100], Message=text)
        except (ClientError, BotoCoreError) as error:
            raise AskAgainError(f"the topic of the daily line takes no message: {error}") from error


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be compared of a list page."""

    now: list[CustomerMeter]
    several: set[str]
    """Ledger keys of those that another list page may show as well."""


@dataclass(slots=True)
class Daily:
    """Reconciles a day, chunk by chunk; the parts are those of the cursor's account."""

    settings: Settings
    billing: Billing
    ledger: Ledger
    reconciler: Reconciler
    judge: Judge
    topic: SnsTopic | None
    clock: Callable[[], int]
    connected: Connected

    async def go_on(self, cursor: DailyCursor, budget: Budget) -> DailyCursor | None:
        """Reconcile from a cursor on; where to go on, be it with another account, else None: the line is out.

        Raises AskAgainError or RejectedError; what was compared before is then compared again.
        """
        if await self._is_told(cursor.day):
            return None
        try:
            if (rest := await self._one_account(cursor, budget)) is not None:
                return rest
        except (RejectedError, StripeUnavailableError) as error:
            if cursor.account == OWN_ACCOUNT:
                raise
            self._leave_out(cursor, f"{cursor.account} could not be compared: {error.reason}")
        if (following := await self._next_account(cursor)) is not None:
            return following
        await self._tell(cursor.day, cursor.sums)
        return None

    async def _one_account(self, cursor: DailyCursor, budget: Budget) -> DailyCursor | None:
        parts = list(DailyPart)
        for part in parts[parts.index(cursor.part) :]:
            here = cursor if part is cursor.part else replace(cursor, part=part, after="", done="")
            work = self._judge if part is DailyPart.FINALIZED else self._compare
            if (rest := await work(here, budget)) is not None:
                return rest
        return None

    async def _next_account(self, cursor: DailyCursor) -> DailyCursor | None:
        """Where the next connected account begins; None after the last one."""
        coming, last = cursor.accounts, cursor.accounts_after
        if not coming and self.settings.connected_accounts:
            try:
                async with aclosing(self.connected.pages(last)) as pages:
                    coming = tuple(await anext(pages, []))
            except (RejectedError, NotPermittedError) as error:
                where = f" after {last}" if last else ""
                self._leave_out(cursor, f"connected accounts{where} could not be listed: {error.reason}")
            last = coming[-1] if coming else last
        if not coming:
            return None
        return DailyCursor(
            cursor.day, sums=cursor.sums, account=coming[0], accounts=coming[1:], accounts_after=last
        )

    def _leave_out(self, cursor: DailyCursor, text: str) -> None:
        logger.warning("reconciled: %s", text)
        cursor.sums.name(text)

    async def _compare(self, start: DailyCursor, budget: Budget) -> DailyCursor | None:
        """Compare the customer meters of a list; where to go on if time ran out."""
        here = start
        async with aclosing(self._listings(start)) as listings:
            async for listing in listings:
                wanted = await self._wanted(here, listing.customer_meters)
                for page in batched(wanted.now, self._at_once(budget), strict=False):
                    for one in await self.reconciler.compare(page, here.day, here.day + DAY):
                        _take(here.sums, one)
                    here.sums.see(one.pk for one in page if one.pk in wanted.several)
                    here = replace(here, done=page[-1].pk)
                    if budget.is_over:
                        return here
                here = replace(here, after=listing.cursor, done="")
                # A list may go on for long with nobody on it to compare; an empty page is its last.
                if budget.is_over and listing.cursor:
                    return here
        return None

    def _listings(self, start: DailyCursor) -> AsyncGenerator[Listing]:
        if start.part is DailyPart.DRAFTS:
            return self.billing.drafts(start.after)
        return self.billing.subscriptions({}, start.after)

    async def _wanted(self, here: DailyCursor, found: Sequence[CustomerMeter]) -> _Wanted:
        """Those of a list page that are still to be compared, in the order of their ledger keys."""
        heads = await self.ledger.heads([one.pk for one in found])
        wanted = _Wanted([], set())
        for one in sorted(found, key=lambda one: one.pk):
            live = self._live(one, heads.get(one.pk))
            if one.pk <= here.done or (here.part is DailyPart.DRAFTS and live):
                continue
            if len(live) > 1:
                if one.pk in here.sums.seen:
                    continue
                wanted.several.add(one.pk)
            wanted.now.append(one)
        return wanted

    def _live(self, one: CustomerMeter, head: Head | None) -> set[str]:
        """The subscriptions that bill a customer meter now; each is on a list page, which may be another."""
        now = self.clock()
        spans = known_spans(one, head, now) if head else one.spans
        goes_on = {SpanState.CURRENT, SpanState.FREE, SpanState.BESIDE}
        return {span.subscription for span in spans if span.state in goes_on and span.end > now}

    async def _judge(self, start: DailyCursor, budget: Budget) -> DailyCursor | None:
        """Judge afresh what became final on the day; where to go on if time ran out."""
        try:
            return await self._judge_pages(start, budget)
        except NotPermittedError as error:
            start.sums.name(f"final invoices could not be listed: {error.reason}")
            return None

    async def _judge_pages(self, start: DailyCursor, budget: Budget) -> DailyCursor | None:
        here = start
        async for found in self.billing.finalized(here.day, here.after, until=here.day + DAY):
            ids = sorted(one for one in set(found.invoices) if one > here.done)
            size = min(self._at_once(budget), INVOICES_A_PAGE)
            for page in batched(ids, size, strict=False):
                for judged in await self.judge.judge(page, found.mode, afresh=True):
                    _take_judged(here.sums, judged)
                here = replace(here, done=page[-1])
                if budget.is_over:
                    return here
            here = replace(here, after=found.cursor, done="")
        return None

    def _at_once(self, budget: Budget) -> int:
        """As many as Stripe can be asked for in half of the time, at this process's share of its limits."""
        endpoint = LIVE.endpoint * self.settings.stripe_endpoint_share
        rate = min(endpoint, TEST.account * self.settings.stripe_rate_share)
        return max(1, min(MOST_SUBJECTS, int(rate * min(budget.seconds_left, DAY) / 2)))

    async def _is_told(self, day: int) -> bool:
        key = (RECONCILED, day_of(day))
        return bool(await self.ledger.items([key]))

    async def _tell(self, day: int, sums: DailySums) -> None:
        """The line in the log and to the topic, and the metrics; once a day, whoever comes first."""
        line = sums.line(day, telemetry.SERVICE)
        differing = len(sums.named) + sums.unnamed
        logger.info("%s", line)
        # First, so that a topic that takes nothing never keeps an alarm from going off.
        telemetry.count("ReconciledExact", sums.customer_meters.get(Finding.EXACT.value, 0))
        telemetry.count("ReconciledDiffering", differing)
        telemetry.count("ReconciledDrift", sums.drift)
        if self.topic is not None:
            verdict = f"{differing} differ" if differing else "all EXACT"
            subject = f"usage-reporter {telemetry.SERVICE} {day_of(day)}: {verdict}"
            await asyncio.to_thread(self.topic.publish, subject, line)
        if self.settings.mode is not Mode.SHADOW:
            now = self.clock()
            item = {"pk": RECONCILED, "sk": day_of(day), "line": line, "version": 1}
            try:
                await self.ledger.write_item({**item, "expires_at": now + KEPT_FOR}, 0)
            except LostRaceError:
                logger.debug("another run has told of %s", day_of(day))


def _take(sums: DailySums, one: Reconciled) -> None:
    """Count a customer meter, and name it where it is not as it should be."""
    found = one.finding.value
    sums.customer_meters[found] = sums.customer_meters.get(found, 0) + 1
    is_beside = one.customer_meter.is_beside
    is_held = one.report.status is Status.HELD and not is_beside
    sums.held += is_held
    sums.ledger_differs += one.beyond_ledger
    if one.is_fine:
        return
    sums.drift += not is_beside and not is_held and (one.beyond_ledger or bool(_UNTOLD & one.causes.keys()))
    causes = ", ".join(f"{to_wire(units)} {cause.value}" for cause, units in one.causes.items())
    meter = one.head.openmeter_meter if one.head else one.customer_meter.openmeter_meter
    who = of_account(one.customer_meter.customer, one.customer_meter.account)
    text = f"{who} {meter} {one.verdict}" + (f" ({causes})" if causes else "")
    text += ", beside its legacy price" if is_beside else ""
    logger.warning("reconciled: %s", text)
    sums.name(text)


def _take_judged(sums: DailySums, judged: Judged) -> None:
    """Count the lines of a final invoice, and what they bill."""
    invoice = of_account(judged.invoice, judged.account)
    if judged.error is not None:
        text = f"{invoice} NOT JUDGED: {judged.error.reason}"
        logger.warning("reconciled: %s", text)
        sums.name(text)
    lines = judged.judgement.lines if judged.judgement else ()
    sums.invoices += bool(lines)
    for line in lines:
        sums.lines[line.finding.value] = sums.lines.get(line.finding.value, 0) + 1
        if not line.finding.is_fine and line.reason != NOT_BY_ITSELF:
            logger.warning("reconciled: stripe_invoice: %s, %s", invoice, line)
            customer = of_account(line.customer, judged.account)
            sums.name(f"{judged.invoice} of {customer} {line.meter} {line.verdict}")
    if judged.document is not None and lines:
        billed = _billed(judged.document, lines)
        currency = str(judged.document["currency"])
        sums.money[currency] = sums.money.get(currency, 0) + int(billed)


def _billed(invoice: dict[str, Any], lines: Sequence[JudgedLine]) -> Decimal:
    """What the judged lines of an invoice charge, in the currency's minor unit."""
    ours = {(line.price, line.item, line.start, line.end) for line in lines}
    charged = (one for one in billed_lines(invoice) if (one.price, one.item, one.start, one.end) in ours)
    return sum((one.amount for one in charged), ZERO)
