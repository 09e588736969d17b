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
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.amounts import ZERO, round_units, round_whole
from usage_reporting.billing import LONGEST_DRAFT, Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.errors import (
    AskAgainError,
    LostRaceError,
    RefusedError,
    RejectedError,
    UsageReportingError,
)
from usage_reporting.final_invoices import billed_lines, is_final
from usage_reporting.heads import Options
from usage_reporting.ledger import Entry, Key, Ledger
from usage_reporting.metered_lines import MeteredLine, customer_meter_of, metered_lines
from usage_reporting.model import Report, Status
from usage_reporting.openmeter import OpenMeter
from usage_reporting.package_lines import in_packages
from usage_reporting.pricing import Pricing
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
from usage_reporting.windows import HOUR, OLDEST_SLICE

Json = dict[str, Any]

READ_BY_REPORTS = LONGEST_DRAFT - HOUR
"""A report reads no span that ended longer ago: its invoice is final for long."""

_ODD = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError)


@dataclass(slots=True)
class Judged:
    """What came of one invoice."""

    invoice: str
    account: str = OWN_ACCOUNT
    """As it stands in the ledger's keys."""
    judgement: Judgement | None = None
    """None where a call failed."""
    news: Sequence[JudgedLine] = ()
    """The lines that were not known to be so before."""
    reports: list[Report] = field(default_factory=list)
    error: UsageReportingError | None = None
    """Why it could not be judged now."""
    document: Json | None = None
    """The invoice as Stripe has it now, if it was read and is final."""


@dataclass(slots=True)
class Judge:
    """Compares what final invoices bill with what was measured; one bad invoice never stops the others."""

    settings: Settings
    billing: Billing
    openmeter: OpenMeter
    ledger: Ledger
    reporter: Reporter
    clock: Callable[[], int]

    async def judge(
        self, invoices: Sequence[str], mode: str, budget: Budget | None = None, *, afresh: bool = False
    ) -> list[Judged]:
        """Judge the invoices that need it; `mode` is Stripe's, `live` or `test`.

        `afresh`: all of them, whatever was found before, and nothing of it is written. An error stands beside
        its invoice. Raises LedgerUnavailableError.
        """
        found = [Judged(invoice, self.billing.account) for invoice in dict.fromkeys(invoices)]
        before = await self._before(found, mode)
        cases: dict[str, list[MeteredLine]] = {}
        for judged in found:
            known = before[judged.invoice]
            if known.is_settled(self.clock()) and not afresh:
                judged.judgement = known
            else:
                cases[judged.invoice] = await self._cases(judged, mode)
        everything = [case for several in cases.values() for case in several]
        entries = await self.read(everything, mode, budget, Options(dry_run=afresh))
        said: set[int] = set()
        for judged in found:
            for case in cases.get(judged.invoice, ()):
                if case.report is not None and id(case.report) not in said:
                    said.add(id(case.report))
                    judged.reports.append(case.report)
        for judged in found:
            if judged.judgement is None and judged.error is None:
                conclude = self._look if afresh else self._conclude
                await conclude(judged, cases[judged.invoice], entries, before[judged.invoice])
        return found

    async def read(
        self,
        lines: Sequence[MeteredLine],
        mode: str,
        budget: Budget | None = None,
        options: Options | None = None,
    ) -> Mapping[Key, Entry]:
        """Read the lines' spans once more, what came after finalization is counted `late` by it; then what
        the ledger holds of them.

        Raises LedgerUnavailableError; whatever else fails stands in the lines' reports.
        """
        reported = [line for line in lines if line.is_reported]
        await self._report(reported, mode, options or Options(), budget or Budget())
        entries = await self.ledger.entries(sorted({key for line in lines for key in line.keys}))
        for line in lines:
            line.take(entries, self.settings.period_bounds, self.clock())
        return entries

    async def _before(self, found: Sequence[Judged], mode: str) -> dict[str, Judgement]:
        keys = {one.invoice: (pk_of(one.account, mode, one.invoice), VERDICT) for one in found}
        items = await self.ledger.items(list(keys.values()))
        return {
            invoice: Judgement.from_item(items[key]) if key in items else Judgement(key[0])
            for invoice, key in keys.items()
        }

    async def _cases(self, judged: Judged, mode: str) -> list[MeteredLine]:
        """The metered lines of an invoice; none with an error beside it if it cannot be read."""
        try:
            invoice = await self.billing.invoice(judged.invoice)
            if not is_final(invoice):
                return []
            judged.document = invoice
            billed = billed_lines(invoice)
            return await metered_lines(self.billing, self.ledger, invoice, billed, mode)
        except UsageReportingError as error:
            judged.error = error
        except _ODD as error:
            judged.error = RejectedError(f"Stripe's answer lacks or misshapes something: {error!r}")
        return []

    async def _report(
        self, lines: Sequence[MeteredLine], mode: str, options: Options, budget: Budget
    ) -> None:
        by_pk: dict[str, list[MeteredLine]] = defaultdict(list)
        for line in lines:
            by_pk[line.pk].append(line)
        now = self.clock()
        page = [await customer_meter_of(self.billing, several, mode, now) for several in by_pk.values()]
        reports = await self.reporter.report(page, options, budget)
        for several, report in zip(by_pk.values(), reports, strict=True):
            for line in several:
                line.report = report

    async def _conclude(
        self,
        judged: Judged,
        cases: Sequence[MeteredLine],
        entries: Mapping[Key, Entry],
        before: Judgement,
    ) -> None:
        try:
            _raise_if_unknown(cases)
            lines = [await self.line(case, entries) for case in cases]
            judgement = replace(before, lines=tuple(lines), judged_at=self.clock(), looks=before.looks + 1)
            if self.settings.mode is not Mode.SHADOW:
                await self.ledger.write_item(judgement.to_item(), before.version)
            judged.judgement, judged.news = judgement, judgement.news(before)
        except LostRaceError:
            judged.judgement = before  # somebody else judged it just now, and says so
        except UsageReportingError as error:
            judged.error = error
        except _ODD as error:
            judged.error = _of_odd(error)

    async def _look(
        self,
        judged: Judged,
        cases: Sequence[MeteredLine],
        entries: Mapping[Key, Entry],
        before: Judgement,
    ) -> None:
        """Judge and write nothing; what came since the report, or verdict, that was last is told as late."""
        try:
            _raise_if_unknown(cases)
            found = [(await self.line(case, entries), case) for case in cases]
            lines = tuple(late_by_now(line, case, before) for line, case in found)
            judged.judgement = replace(before, lines=lines, judged_at=self.clock())
            judged.news = judged.judgement.news(before)
        except UsageReportingError as error:
            judged.error = error
        except _ODD as error:
            judged.error = _of_odd(error)

    async def line(self, case: MeteredLine, entries: Mapping[Key, Entry]) -> JudgedLine:
        """What is to be said of a line that was read. Raises RejectedError or AskAgainError."""
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
        known = case.known(entries)
        try:
            found = (
                _of_ledger(line, known)
                if billed.is_at_once
                else await self._found(line, case, known, [entries[key] for key in case.keys])
            )
            if case.price.get("transform_quantity"):
                found = in_packages(found, billed.amount, Pricing.of(case.price))
        except RefusedError as error:
            found = replace(line, reason=error.reason)
        if found.finding is Finding.SHORT and billed.item:
            found = beside(found, await billed_before(self.billing, billed), known)
        is_free = billed.is_free(case.price) and found.finding is not Finding.EXACT
        return replace(found, finding=Finding.FREE, causes={}, reason="") if is_free else found

    async def _found(
        self, line: JudgedLine, case: MeteredLine, known: Known, entries: Sequence[Entry]
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

    async def _metered(self, case: MeteredLine, entries: Sequence[Entry]) -> Decimal | None:
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

    async def _older(self, case: MeteredLine, end: int) -> Decimal:
        """Usage that reports do not go back to."""
        found = await self.openmeter.hours(case.meter, [case.subject], case.first_slice, end)
        return sum((round_units(value) for value in found.get(case.subject, {}).values()), ZERO)


def record_judged(judged: Judged, mode: Mode, now: int) -> None:
    """Log and count what came of one final invoice; `now` in UTC seconds."""
    telemetry.record(judged.reports, now)
    is_counted = mode is not Mode.SHADOW
    telemetry.record_verdict(judged.invoice, judged.news, is_counted=is_counted, account=judged.account)
    if judged.error is not None:
        telemetry.problem(judged.invoice, "not_judged", judged.error.reason, judged.account)


def _of_odd(error: Exception) -> RejectedError:
    """For what is odd in the ledger; an invoice is read from Stripe before."""
    return RejectedError(f"the ledger, or Stripe's answer, lacks or misshapes something: {error!r}")


def _raise_if_unknown(cases: Sequence[MeteredLine]) -> None:
    for case in cases:
        if case.report is not None and case.report.status.ask_again:
            raise AskAgainError(case.report.reason)


def late_by_now(line: JudgedLine, case: MeteredLine, before: Judgement | None = None) -> JudgedLine:
    """A line with what came since the report, or the verdict `before`, that was last, as late."""
    missing = line.causes.get(Cause.NOT_REPORTED, ZERO)
    if not missing or line.metered is None:
        return line
    lines = before.lines if before else ()
    known = [one.metered for one in lines if one.key == line.key and one.metered is not None]
    since = max((line.metered - units for units in known), default=ZERO)
    late = min(max(since, case.report.late if case.report else ZERO), missing)
    causes = {**line.causes, Cause.LATE: line.causes.get(Cause.LATE, ZERO) + late}
    causes[Cause.NOT_REPORTED] = missing - late
    return replace(line, causes={cause: units for cause, units in causes.items() if units > 0})


def _of_ledger(line: JudgedLine, known: Known) -> JudgedLine:
    """A line that Stripe billed at once, against what it had been told; the rest is `unbillable`."""
    may_have = known.sent + known.unknown
    told = may_have if compared(may_have, line.quantity) is Finding.EXACT else known.sent
    causes = causes_of(told, line.quantity, replace(known, undelivered=ZERO, braked=ZERO))
    if known.undelivered > 0:
        causes = {**causes, Cause.UNBILLABLE: known.undelivered}
    return replace(line, finding=compared(told, line.quantity), metered=told, causes=causes)
