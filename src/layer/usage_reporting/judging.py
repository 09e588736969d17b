"""Judges final invoices: each metered line against OpenMeter and the ledger, once and for all.

Nothing on a final invoice can be mended here; what is found is written down, counted and said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from usage_reporting import telemetry
from usage_reporting.amounts import ZERO, round_units, round_whole
from usage_reporting.billing import LONGEST_DRAFT, Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.customer_meters import OWN_ACCOUNT, is_metered, meter_id_of
from usage_reporting.errors import (
    AskAgainError,
    LostRaceError,
    RefusedError,
    RejectedError,
    UsageReportingError,
)
from usage_reporting.final_invoices import BilledLine, billed_lines, customer_of, is_final
from usage_reporting.ledger import Entry, Head, Key, Ledger, cuts_told
from usage_reporting.model import CustomerMeter, Line, Report, Span, SpanState, Status, Target
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import Cuts
from usage_reporting.reporter import Reporter
from usage_reporting.thresholds import NOT_BY_ITSELF, beside, billed_before
from usage_reporting.verdict import (
    VERDICT,
    Cause,
    Finding,
    JudgedLine,
    Judgement,
    Known,
    causes_of,
    compared,
    pk_of,
)
from usage_reporting.windows import HOUR, OLDEST_SLICE, block_of, days_between, floor_hour

Json = dict[str, Any]

READ_BY_REPORTS = LONGEST_DRAFT - HOUR
"""A report reads no span that ended longer ago: its invoice is final for long."""

_ODD = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError)


@dataclass(slots=True)
class Judged:
    """What came of one invoice."""

    invoice: str
    judgement: Judgement | None = None
    """None where a call failed."""
    news: Sequence[JudgedLine] = ()
    """The lines that were not known to be so before."""
    reports: list[Report] = field(default_factory=list)
    error: UsageReportingError | None = None
    """Why it could not be judged now."""


@dataclass(slots=True)
class _Case:
    """A line on its way to its finding."""

    judged: Judged
    customer: str
    billed: BilledLine
    price: Json
    pk: str
    target: Target
    head: Head | None = None
    mapped: CustomerMeter | None = None
    report: Report | None = None
    cuts: Cuts = field(default_factory=dict)
    """Where usage is cut for each bound."""

    @property
    def span(self) -> Span:
        """The line as a span to which nothing can be added."""
        line = self.billed
        state = SpanState.BILLED if line.is_at_once else SpanState.FINAL
        span = Span(line.start, line.end, line.subscription, line.item, line.price, state)
        if line.is_free(self.price):
            span = replace(span, state=SpanState.FREE, when_left=SpanState.FREE)
        known = self.head.spans if self.head else ()
        shown = self.mapped.spans if self.mapped else ()
        same = [other for other in (*known, *shown) if other.key == span.key]
        first, last = any(one.first for one in same), any(one.last and one.end == span.end for one in same)
        return replace(span, first=first, last=last)

    @property
    def is_legacy(self) -> bool:
        """Whether it is billed by usage records."""
        return self.target is Target.USAGE_RECORD

    @property
    def is_total(self) -> bool:
        """Whether its meter takes the last value, so that it was told totals."""
        return self.target is Target.LAST

    @property
    def is_reported(self) -> bool:
        """Whether its span is read once more; an invoice item's was looked at when Stripe made it."""
        return bool(self.billed.item) and not self.billed.is_of_threshold

    @property
    def meter(self) -> str:
        """The meter in OpenMeter."""
        holder = self.head or self.mapped
        return holder.openmeter_meter if holder else ""

    @property
    def subject(self) -> str:
        """The subject in OpenMeter."""
        holder = self.head or self.mapped
        return holder.subject if holder else ""

    @property
    def start(self) -> int:
        """Where usage counts for the line: not before the price was put on, as the ledger knows it."""
        return self.head.clip(self.span).start if self.head else self.billed.start

    @property
    def first_slice(self) -> int:
        """Where the slice begins that holds the line's start: a swapped price does not cut its hour."""
        if self.start in self.cuts:
            return self.cuts[self.start]
        slices = block_of(self.start, self.cuts).slices
        return max(piece.start for piece in slices if piece.start <= self.start)

    @property
    def end_of_usage(self) -> int:
        """Up to where usage counts for the line."""
        return self.cuts.get(self.billed.end, self.billed.end)

    @property
    def keys(self) -> list[Key]:
        """The ledger entries of the line."""
        if self.is_legacy:
            return [(self.pk, str(self.billed.start))]
        if self.is_total:
            return [(self.pk, str(self.start))]
        return [(self.pk, day) for day in days_between(floor_hour(self.start), self.billed.end)]

    def line(self) -> Line | None:
        """What the report says of the line's span; None if it could not be read."""
        if self.report is None:
            return None
        spans = [span.key for span in self.report.customer_meter.spans]
        if len(self.report.lines) == len(spans) and not self.is_total:
            return self.report.lines[spans.index(self.span.key)]
        if not (self.is_legacy or self.is_total):
            return None
        # What is measured begins near what is billed: half an hour early, or rounded.
        of_price = [line for line in self.report.lines if line.price == self.billed.price]
        return min(of_price, key=lambda line: abs(line.start - self.start), default=None)


@dataclass(slots=True)
class Judge:
    """Compares what final invoices bill with what was measured; one bad invoice never stops the others."""

    settings: Settings
    billing: Billing
    openmeter: OpenMeter
    ledger: Ledger
    reporter: Reporter
    clock: Callable[[], int]

    async def judge(self, invoices: Sequence[str], mode: str, budget: Budget | None = None) -> list[Judged]:
        """Judge the invoices that need it; `mode` is Stripe's, `live` or `test`.

        An error stands beside its invoice. Raises LedgerUnavailableError.
        """
        found = [Judged(invoice) for invoice in dict.fromkeys(invoices)]
        before = await self._before(found, mode)
        cases: dict[str, list[_Case]] = {}
        for judged in found:
            known = before[judged.invoice]
            if known.is_settled(self.clock()):
                judged.judgement = known
            else:
                cases[judged.invoice] = await self._cases(judged, mode)
        everything = [case for several in cases.values() for case in several]
        await self._report([case for case in everything if case.is_reported], mode, budget or Budget())
        entries = await self.ledger.entries(sorted({key for case in everything for key in case.keys}))
        for case in everything:
            bounds, spans = (case.head.bounds, case.head.spans) if case.head else (frozenset(), ())
            told = [entries[key] for key in case.keys]
            case.cuts = cuts_told(told, bounds, spans, self.settings.period_bounds)
        for judged in found:
            if judged.judgement is None and judged.error is None:
                await self._conclude(judged, cases[judged.invoice], entries, before[judged.invoice])
        return found

    async def _before(self, found: Sequence[Judged], mode: str) -> dict[str, Judgement]:
        keys = {judged.invoice: (pk_of(OWN_ACCOUNT, mode, judged.invoice), VERDICT) for judged in found}
        items = await self.ledger.items(list(keys.values()))
        return {
            invoice: Judgement.from_item(items[key]) if key in items else Judgement(key[0])
            for invoice, key in keys.items()
        }

    async def _cases(self, judged: Judged, mode: str) -> list[_Case]:
        """The metered lines of an invoice; none with an error beside it if it cannot be read."""
        try:
            invoice = await self.billing.invoice(judged.invoice)
            if not is_final(invoice):
                return []
            cases = []
            for line in billed_lines(invoice):
                price = await self.billing.price(line.price)
                if is_metered({"price": price}):
                    customer = customer_of(invoice)
                    pk = f"{OWN_ACCOUNT}#{mode}#{customer}#{meter_id_of(price) or line.item}"
                    target = await self.billing.target_of(meter_id_of(price))
                    cases.append(_Case(judged, customer, line, price, pk, target))
            return await self._mapped(invoice, cases)
        except UsageReportingError as error:
            judged.error = error
        except _ODD as error:
            judged.error = RejectedError(f"Stripe's answer lacks or misshapes something: {error!r}")
        return []

    async def _mapped(self, invoice: Json, cases: list[_Case]) -> list[_Case]:
        """The cases that are ours: the ledger's head says so, else Stripe's subscription."""
        heads = await self.ledger.heads([case.pk for case in cases])
        for case in cases:
            case.head = heads.get(case.pk)
        if any(case.head is None and case.billed.item for case in cases):
            of_stripe = {one.pk: one for one in await self.billing.billed_on(invoice)}
            for case in cases:
                case.mapped = None if case.head else of_stripe.get(case.pk)
        return [case for case in cases if case.head or case.mapped]

    async def _report(self, cases: Sequence[_Case], mode: str, budget: Budget) -> None:
        """Read the lines' spans once more; what came after finalization is counted `late` by it."""
        by_pk: dict[str, list[_Case]] = defaultdict(list)
        for case in cases:
            by_pk[case.pk].append(case)
        page = [await self._customer_meter(several, mode) for several in by_pk.values()]
        reports = await self.reporter.report(page, budget=budget)
        for several, report in zip(by_pk.values(), reports, strict=True):
            several[0].judged.reports.append(report)
            for case in several:
                case.report = report

    async def _customer_meter(self, cases: Sequence[_Case], mode: str) -> CustomerMeter:
        spans = tuple({case.span.key: case.span for case in cases}.values())
        bounds = frozenset(span.end for span in spans)
        until = max(span.end for span in spans)
        one = cases[0]
        if one.mapped is not None:
            return replace(one.mapped, spans=spans, bounds=bounds | one.mapped.bounds, read_until=until)
        meter = meter_id_of(one.price)
        return CustomerMeter(
            account=OWN_ACCOUNT,
            mode=mode,
            customer=one.customer,
            subject=one.subject,
            openmeter_meter=one.meter,
            target=one.target,
            spans=spans,
            bounds=bounds,
            meter=await self.billing.stripe_meter(meter) if meter else None,
            seen_at=self.clock(),
            closing=True,
            partial=True,
            read_until=until,
        )

    async def _conclude(
        self,
        judged: Judged,
        cases: Sequence[_Case],
        entries: Mapping[Key, Entry],
        before: Judgement,
    ) -> None:
        try:
            _raise_if_unknown(cases)
            lines = [await self._line(case, [entries[key] for key in case.keys]) for case in cases]
            judgement = replace(before, lines=tuple(lines), judged_at=self.clock(), looks=before.looks + 1)
            if self.settings.mode is not Mode.SHADOW:
                await self.ledger.write_item(judgement.to_item(), before.version)
            judged.judgement, judged.news = judgement, judgement.news(before)
        except LostRaceError:
            judged.judgement = before  # somebody else judged it just now, and says so
        except UsageReportingError as error:
            judged.error = error

    async def _line(self, case: _Case, entries: Sequence[Entry]) -> JudgedLine:
        billed = case.billed
        line = JudgedLine(
            customer=case.customer,
            price=billed.price,
            item=billed.item,
            meter=case.meter,
            start=billed.start,
            end=billed.end,
            quantity=billed.quantity,
            finding=Finding.NOT_JUDGED,
        )
        if billed.is_of_threshold:
            return replace(line, reason=NOT_BY_ITSELF)
        if case.price.get("transform_quantity"):
            return replace(line, reason="the price divides quantities (transform_quantity)")
        until = billed.final_at if billed.is_at_once else None
        if case.is_total:
            # An invoice item's quantity is that of the instant at which its price was taken off.
            known = Known.of_total(entries[0], until=billed.end - 1 if billed.is_at_once else None)
        else:
            slices = (case.first_slice, case.end_of_usage)
            known = Known.of(entries, case.start, billed.end, slices=slices, until=until)
        try:
            found = (
                _of_ledger(line, known)
                if billed.is_at_once
                else await self._found(line, case, known, entries)
            )
        except RefusedError as error:
            found = replace(line, reason=error.reason)
        if found.finding is Finding.SHORT and billed.item:
            found = beside(found, await billed_before(self.billing, billed), known)
        is_free = billed.is_free(case.price) and found.finding is not Finding.EXACT
        return replace(found, finding=Finding.FREE, causes={}, reason="") if is_free else found

    async def _found(
        self, line: JudgedLine, case: _Case, known: Known, entries: Sequence[Entry]
    ) -> JudgedLine:
        """The line against OpenMeter."""
        metered = await self._metered(case, entries)
        report = case.report
        is_held = report is not None and report.status is Status.HELD
        if metered is None or (is_held and not metered and line.quantity):
            # An OpenMeter that has nothing at all of what it had is not believed here, either.
            return replace(line, reason=report.reason if report else "")
        return replace(
            line,
            finding=compared(metered, line.quantity),
            metered=metered,
            causes=causes_of(metered, line.quantity, known),
        )

    async def _metered(self, case: _Case, entries: Sequence[Entry]) -> Decimal | None:
        """What OpenMeter says now of the line's time; None if it could not be read."""
        line = case.line()
        if case.is_legacy:
            return None if line is None else Decimal(round_whole(line.total, self.settings.rounding))
        if case.is_total:
            return None if line is None else line.total
        now, end = self.clock(), case.end_of_usage
        start = case.cuts.get(case.start, case.start)
        if end <= now - READ_BY_REPORTS:
            total = await self._older(case, end)
        elif line is None:
            return None
        elif case.start <= now - OLDEST_SLICE and line.start > start:
            total = line.total + await self._older(case, line.start)
        else:
            total = line.total
        before = Known.of(entries, case.first_slice, case.start)
        return total - before.sent - before.unknown

    async def _older(self, case: _Case, end: int) -> Decimal:
        """Usage that reports do not go back to."""
        found = await self.openmeter.hours(case.meter, [case.subject], case.first_slice, end)
        return sum((round_units(value) for value in found.get(case.subject, {}).values()), ZERO)


def record_judged(judged: Judged, mode: Mode, now: int) -> None:
    """Log and count what came of one final invoice; `now` in UTC seconds."""
    telemetry.record(judged.reports, now)
    telemetry.record_verdict(judged.invoice, judged.news, is_counted=mode is not Mode.SHADOW)
    if judged.error is not None:
        telemetry.logger.warning("stripe_invoice: %s, not judged: %s", judged.invoice, judged.error.reason)


def _raise_if_unknown(cases: Sequence[_Case]) -> None:
    for case in cases:
        if case.report is not None and case.report.status.ask_again:
            raise AskAgainError(case.report.reason)


def _of_ledger(line: JudgedLine, known: Known) -> JudgedLine:
    """A line that Stripe billed at once, against what it had been told; the rest is `unbillable`."""
    may_have = known.sent + known.unknown
    told = may_have if compared(may_have, line.quantity) is Finding.EXACT else known.sent
    causes = causes_of(told, line.quantity, replace(known, undelivered=ZERO))
    if known.undelivered > 0:
        causes = {**causes, Cause.UNBILLABLE: known.undelivered}
    return replace(line, finding=compared(told, line.quantity), metered=told, causes=causes)
