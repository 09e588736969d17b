"""Compares, for each customer meter, what Stripe holds with what OpenMeter measured; reads alone.

By hour where hours add up; by span where the last value counts, or a legacy price takes one total.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from usage_reporting.amounts import ZERO, round_units
from usage_reporting.billing import Billing
from usage_reporting.config import Mode, Settings
from usage_reporting.errors import UsageReportingError
from usage_reporting.heads import Options
from usage_reporting.hour_comparison import SUMMARIES_AT_ONCE, HourComparer, HourComparison
from usage_reporting.hours import is_stamped_in, known_spans
from usage_reporting.ledger import Entry, cuts_told
from usage_reporting.model import CustomerMeter, Send, Span, SpanState, Status, Target
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.reconciled import Columns, Reconciled
from usage_reporting.reporter import Reporter
from usage_reporting.settlement import SUMMARIES_LAG
from usage_reporting.side_by_side import RACES
from usage_reporting.span_columns import SpanColumns
from usage_reporting.telemetry import logger
from usage_reporting.verdict import Known
from usage_reporting.windows import (
    DAY,
    HOUR,
    OLDEST_SLICE,
    OPEN_HOUR_AGE,
    Block,
    Slice,
    block_of,
    days_between,
    floor_hour,
)


def oldest_hour(now: int) -> int:
    """The first full hour that Stripe still takes usage of, UTC seconds."""
    return floor_hour(now - OLDEST_SLICE) + HOUR


def judged_until(now: int) -> int:
    """Up to when hours are judged: they were reported since, and Stripe's summaries had time to show it."""
    return floor_hour(now - SUMMARIES_LAG - OPEN_HOUR_AGE)


@dataclass(slots=True)
class Reconciler:
    """Reads both sides and the ledger, and says what differs; one bad customer never stops the others."""

    settings: Settings
    billing: Billing
    openmeter: OpenMeter
    reporter: Reporter
    clock: Callable[[], int]

    async def compare(
        self,
        page: Sequence[CustomerMeter],
        start: int,
        end: int,
        *,
        full: bool = False,
    ) -> list[Reconciled]:
        """Compare the hours of [start, end), UTC seconds, as far as they can be judged by now, and the spans
        that reach into it; in the page's order, each ledger key once.

        `full`: what a report of all that is still billable would do; else one of the last hours. Raises
        LedgerUnavailableError.
        """
        options = Options(full=full, dry_run=True)
        reports = await self.reporter.report(page, options)
        found = [Reconciled(report.customer_meter, report) for report in reports]
        wanted = [one for one in found if self._is_comparable(one)]
        now = self.clock()
        start, end = max(start, oldest_hour(now)), min(end, judged_until(now))
        hourly = [one for one in wanted if one.customer_meter.target is Target.MIRROR]
        await self._compare_hours(hourly, start, end)
        await self._compare_spans([one for one in wanted if one not in hourly], start, end)
        for one in found:
            one.name_late()
        return found

    def _is_comparable(self, one: Reconciled) -> bool:
        if one.report.status is Status.REFUSED:
            one.unjudged = one.report.reason
        return not one.unjudged

    async def _compare_hours(self, found: Sequence[Reconciled], start: int, end: int) -> None:
        if not found or start >= end:
            return
        comparer = HourComparer(self.billing, self.openmeter, self.reporter.ledger)
        # Where bounds are rounded, usage of up to a day is stamped in another hour of it.
        before = 0 if self.settings.period_bounds is PeriodBounds.EXACT else DAY
        before = max([before, *(_lead(span) for one in found for span in one.customer_meter.spans)])
        compared: dict[str, HourComparison] = {}
        stale = [one.customer_meter for one in found]
        for _ in range(RACES):
            again = await comparer.compare(stale, start - before, end)
            compared.update({both.customer_meter.pk: both for both in again})
            # A send between the reading of one column and of another would look like a difference.
            if not (stale := await self._stale(again)):
                break
        for one in found:
            await self._judge_hours(one, compared[one.customer_meter.pk], start, end)

    async def _stale(self, compared: Sequence[HourComparison]) -> list[CustomerMeter]:
        """Those whose ledger was written since the columns were read."""
        before = {(e.pk, e.sk): e.version for both in compared for e in both.entries.values()}
        now = await self.reporter.ledger.entries(list(before))
        changed = {pk for (pk, sk), entry in now.items() if entry.version != before[(pk, sk)]}
        return [both.customer_meter for both in compared if both.customer_meter.pk in changed]

    async def _judge_hours(self, one: Reconciled, both: HourComparison, start: int, end: int) -> None:
        one.head = both.head
        if both.error is not None:
            one.unjudged = both.error.reason
            return
        try:
            blocks = _Blocks.of(both, self.settings.period_bounds, self.clock())
            judged = 0
            for hour in both.hours:
                block = blocks.of_hour(hour)
                if block.start < judged or block.end <= start or block.end > end:
                    continue
                judged = block.end
                if (columns := await self._columns(blocks, both, block)) is not None:
                    _judge(one, columns)
        except Exception as error:  # noqa: BLE001 - one bad customer never stops the others
            one.unjudged = _why(error)

    async def _columns(self, blocks: _Blocks, both: HourComparison, block: Block) -> Columns | None:
        """The amounts of a block; None where nothing of it is billed."""
        ours = [piece for piece in block.slices if blocks.is_billed(piece)]
        if not ours:
            return None
        hours = range(block.start, block.end, HOUR)
        metered = sum((both.metered.get(hour, ZERO) for hour in hours), ZERO)
        if metered and len(ours) < len(block.slices):
            parts = [await self._exact(both, piece) for piece in ours]
            metered = sum(parts, ZERO)
        entries = [both.entries[day] for day in days_between(block.start, block.end) if day in both.entries]
        awaited = tuple(_awaited(entries, block.start, block.end, self.clock()))
        return Columns(
            start=block.start,
            end=block.end,
            metered=metered,
            held=sum((both.held.get(hour, ZERO) for hour in hours), ZERO),
            known=Known.of(entries, block.start, block.end),
            awaited=awaited,
            to_come=sum((send.value for send in awaited), ZERO),
            spans=tuple(blocks.spans_of(ours)),
            is_ledger_kept=self.settings.mode is not Mode.SHADOW,
        )

    async def _exact(self, both: HourComparison, piece: Slice) -> Decimal:
        if piece.start >= piece.end:
            return ZERO
        subject = both.subject
        found = await self.openmeter.totals(both.openmeter_meter, [subject], piece.start, piece.end)
        return round_units(found.get(subject, ZERO))

    async def _compare_spans(self, found: Sequence[Reconciled], start: int, end: int) -> None:
        columns = SpanColumns(self.settings, self.billing, self.openmeter, self.reporter.ledger, self.clock)
        slots = asyncio.Semaphore(SUMMARIES_AT_ONCE)

        async def compare(one: Reconciled) -> None:
            try:
                async with slots:
                    one.head, several = await columns.of(one.customer_meter, start, end)
                for each in several:
                    _judge(one, each)
            except Exception as error:  # noqa: BLE001 - one bad customer never stops the others
                one.unjudged = _why(error)

        await asyncio.gather(*(compare(one) for one in found))


def _lead(span: Span) -> int:
    """How many seconds before a span its usage begins, or before its end the next one's does."""
    return max(span.start - span.begins, span.end - (span.usage_until or span.end))


def _why(error: Exception) -> str:
    """Why a customer meter could not be judged; what nobody expected is in the log."""
    if isinstance(error, UsageReportingError):
        return error.reason
    logger.error("unexpected error", exc_info=error)
    return f"unexpected {type(error).__name__}, as of a ledger entry that was changed by hand"


def _judge(one: Reconciled, columns: Columns) -> None:
    """Take in the amounts of an hour or span."""
    shown = columns.with_awaited()
    if shown is None:
        one.awaited.extend(columns.awaited)
        return  # so much was sent so lately that the summary may show any part of it
    if shown.held != columns.held:
        one.awaited.extend(columns.awaited)
    one.compared += 1
    one.metered += shown.metered
    one.held += shown.held
    if (difference := shown.difference()) is not None:
        one.differences.append(difference)


def _awaited(entries: Sequence[Entry], start: int, end: int, now: int) -> list[Send]:
    """The sends stamped in [start, end) that Stripe's summaries may not show yet; UTC seconds."""
    return [
        send
        for entry in entries
        for send in entry.sends.values()
        if send.counts and start <= send.stamp < end and send.told_at > now - SUMMARIES_LAG
    ]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Which hours of a customer meter go together, and what of them is billed."""

    spans: Sequence[Span]
    """Without those of which nothing is ever billed."""
    cuts: dict[int, int]

    @classmethod
    def of(cls, both: HourComparison, setting: PeriodBounds, now: int) -> _Blocks:
        """Those of one customer meter at `now`, UTC seconds."""
        one, head = both.customer_meter, both.head
        spans = known_spans(one, head, now) if head else one.spans
        bounds = one.bounds | (head.bounds if head else frozenset())
        cuts = cuts_told(both.entries.values(), bounds, spans, setting)
        return cls([span for span in spans if span.state is not SpanState.FREE], cuts)

    def of_hour(self, hour: int) -> Block:
        """The block that holds an hour."""
        return block_of(hour, self.cuts)

    def is_billed(self, piece: Slice) -> bool:
        """Whether any price bills usage of a slice."""
        return any(is_stamped_in(piece, span) for span in self.spans)

    def spans_of(self, pieces: Sequence[Slice]) -> list[Span]:
        """The spans that bill slices."""
        return [span for span in self.spans if any(is_stamped_in(piece, span) for piece in pieces)]
