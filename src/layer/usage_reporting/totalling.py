"""The pipeline of meters that take the last value: ledger, then OpenMeter's totals, then Stripe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from usage_reporting import advice
from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Settings
from usage_reporting.early_ends import cut_where_it_ended
from usage_reporting.errors import HeldError, LostRaceError, RefusedError
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Entry, Head, Ledger
from usage_reporting.model import Report, Send, SendState, Span, SpanState, Status
from usage_reporting.openmeter import FALLS_NATURALLY, OpenMeter
from usage_reporting.sender import Sender
from usage_reporting.side_by_side import check, is_stopped, racing, side_by_side, together
from usage_reporting.swaps import parts, within
from usage_reporting.targets import last
from usage_reporting.telemetry import logger
from usage_reporting.totals import SpanRead, TotalsCase, read_totals
from usage_reporting.windows import rfc3339

READING_SHARE = 0.6
EMPTY_SHARE = 10
EMPTY_LEAST = 5

KEPT_SENDS = 50
"""Of a span, newest first: enough to know what Stripe holds when it takes some back."""


@dataclass(slots=True)
class Totalling:
    """Reports the customer meters of a page whose spans' totals Stripe is to hold as OpenMeter does."""

    settings: Settings
    billing: Billing
    openmeter: OpenMeter
    ledger: Ledger
    heads: Heads
    sender: Sender
    clock: Callable[[], int]

    async def report(self, reports: Sequence[Report], options: Options, budget: Budget) -> None:
        """Bring Stripe up to what OpenMeter holds; every report has an outcome in the end."""
        cases = await self._read(reports, options, budget.part(READING_SHARE))
        if not cases:
            return
        if _came_back_empty(cases) and not options.accept_empty:
            for case in cases:
                case.report.note(
                    Status.HELD,
                    "OpenMeter has nothing of most customers that had usage before, so nothing of "
                    "this page is sent; check OpenMeter, then release each customer with "
                    + advice.accept_empty(case.customer_meter.customer),
                )
            return
        by_report = {id(case.report): case for case in cases}

        async def settle(report: Report) -> None:
            read: TotalsCase | None = by_report[id(report)]

            async def once() -> None:
                nonlocal read
                # Who read earlier loses and reads again: an older total never replaces a newer one.
                case = read or next(iter(await self._read([report], options, budget)), None)
                read = None
                if case is not None:
                    await self._settle(case, budget)

            await racing(once, budget)

        await self.sender.settle([case.report for case in cases], settle)

    async def _read(self, reports: Sequence[Report], options: Options, budget: Budget) -> list[TotalsCase]:
        """Read the ledger, then OpenMeter; who cannot go on has an outcome and is left out."""
        if not reports:
            return []
        stored: Mapping[str, Head] = {}
        cases: dict[int, TotalsCase] = {}
        now = self.clock()

        async def read_heads() -> None:
            nonlocal stored
            stored = await self.ledger.heads([report.customer_meter.pk for report in reports])

        async def open_case(report: Report) -> None:
            check(budget)
            head = stored.get(report.customer_meter.pk)
            cases[id(report)] = await self._case(report, head, options, now)

        async def read_entries() -> None:
            entries = await self.ledger.entries([key for case in cases.values() for key in case.entry_keys()])
            for case in cases.values():
                case.hold(entries)

        async def repeat_intents(report: Report) -> None:
            await self._repeat_intents(cases[id(report)], budget)

        going_on = await together(reports, read_heads)
        going_on = await side_by_side(going_on, open_case)
        going_on = await together(going_on, read_entries)
        going_on = await side_by_side(going_on, repeat_intents)
        going_on = await read_totals(self.openmeter, going_on, cases)
        _note_unread(cases.values())
        return [cases[id(report)] for report in going_on]

    async def _case(self, report: Report, stored: Head | None, options: Options, now: int) -> TotalsCase:
        name = self.heads.openmeter_meter(report.customer_meter, stored)
        aggregation = (await self.openmeter.meter(name)).aggregation
        head = await self.heads.settled(report.customer_meter, stored, options)
        case = TotalsCase(report, head, now, options, aggregation, self.settings.period_bounds)
        await self._look_after_conflicts(case)
        for spans in case.due():
            against = [other for span in spans for other in last.conflicts(span, case.spans)]
            if against:
                case.refusals.append(last.refusal(spans[0], against))
            else:
                case.reads.append(SpanRead(spans, 0, Entry(case.customer_meter.pk, str(spans[0].start))))
        return case

    async def _look_after_conflicts(self, case: TotalsCase) -> None:
        """Before spans are refused because of one that the ledger remembers: it may have ended early."""
        shown = {span.subscription for span in case.spans if span.key in case.shown}
        suspects = {
            other.key: other
            for spans in case.due()
            for span in spans
            for other in last.conflicts(span, case.spans)
            if other.key not in case.shown
        }
        if not suspects:
            return
        known: dict[Span, Sequence[Span]] = {}
        for span in suspects.values():
            found = span if span.subscription in shown else await cut_where_it_ended(self.billing, span)
            swaps = await self.billing.price_changes.swaps(found.start + 1, case.now)
            known[span] = parts(found, within(found, swaps, found.start)) or [found]
        if any([span] != better for span, better in known.items()):
            case.look_at(await self.heads.remember(case.head, known, case.options))

    async def _repeat_intents(self, case: TotalsCase, budget: Budget) -> None:
        """First of all, repeat what an earlier run left open; what is too old for that is told anew."""
        if case.options.dry_run:
            return
        for read in case.reads:
            if read.entry.intents and not read.too_old(self.clock()):
                before = len(case.report.sent)
                read.entry = await self.sender.repeat_intents(case.report, read.entry, budget)
                read.repeated = case.report.sent[before:]

    async def _settle(self, case: TotalsCase, budget: Budget) -> None:
        """Ask what decides, compute what to send, and send it."""
        case.report.lines = case.lines()
        if case.options.dry_run:
            case.report.prospects = case.prospects()
        for read in case.reads:
            check(budget)
            try:
                await self._settle_span(case, read, budget)
            except RefusedError as error:
                case.report.note(Status.REFUSED, error.reason)
            if case.report.status.ask_again:
                return
        for reason in case.refusals:
            case.report.note(Status.REFUSED, reason)
        if case.is_full_reading and not case.options.dry_run and not case.report.status.is_undelivered:
            await self._remember_full_read(case)

    async def _settle_span(self, case: TotalsCase, read: SpanRead, budget: Budget) -> None:
        now = self.clock()
        total = case.total(read, now)
        if total.changed or read.repeated or total.span.state is SpanState.CANCELED:
            read.spans = [await self.billing.state_of(span, now) for span in read.spans]
            total = case.total(read, now)
        if total.span.state is SpanState.FREE or _is_from_before(case, read, total):
            return
        # A part that Stripe billed at once is neither told nor counted with the rest.
        may_be_parted = total.takes_usage or total.span.state is SpanState.FINAL
        is_due = total.changed or (total.takes_usage and total.span.end <= now)
        if may_be_parted and is_due and not await self._is_whole(case, read):
            return
        self._count_if_too_late(case, read, total)
        if read.too_old(now) and not total.takes_usage:
            raise HeldError(
                f"it is not known whether Stripe has the total from {rfc3339(total.span.start)}, sent over "
                "23 hours ago, and its invoice takes no more; compare it with the invoice"
            )
        if await self._is_braked(case, read, total):
            return
        step = last.plan(
            case.customer_meter,
            total,
            last.Allowed(
                falling=case.aggregation in FALLS_NATURALLY,
                decreases=self.settings.allow_decrease,
                accepted=case.options.accept,
                nothing=case.options.accept_empty,
            ),
            now=now,
            latest=case.latest(total.span, now),
        )
        await self._take(case, read, total, step, budget)

    async def _take(
        self, case: TotalsCase, read: SpanRead, total: last.Total, step: last.Step, budget: Budget
    ) -> None:
        """Do what follows from a total."""
        if step.held:
            case.report.waits_since(read.told_at)
            case.report.note(Status.HELD, step.held)
        elif step.stopped:
            case.report.waits_since(read.told_at)
            case.report.note(Status.REJECTED, step.stopped)
        elif step.undelivered:
            await self._count_undelivered(case, read, total, step)
        elif step.send is not None:
            await self._send(case, read, step.send, budget)
        elif total.takes_usage:
            await self._keep_braked(case, read, ZERO)

    async def _is_braked(self, case: TotalsCase, read: SpanRead, total: last.Total) -> bool:
        """Whether the brake holds a total of which more would be sent; what is accepted is usual then."""
        brake = self.settings.brake
        is_more = total.changed and total.takes_usage and total.units > total.held
        jump = brake.total_jump(total.span.start, total.units, read.usual) if is_more else None
        if jump is None or brake.lets_go(read.deadline, self.clock()):
            return False
        if case.options.accept:
            read.usual = max(read.usual, total.units)
            return False
        case.report.is_braked = True
        case.report.waits_since(read.told_at)
        case.report.note(Status.HELD, brake.reason([jump], case.customer_meter.customer))
        await self._keep_braked(case, read, total.units - total.held)
        return True

    async def _keep_braked(self, case: TotalsCase, read: SpanRead, units: Decimal) -> None:
        """Remember what the brake holds of a span: an invoice that ends short of it names the cause."""
        braked = {read.span.start: units} if units else {}
        if braked != read.entry.braked and not case.options.dry_run:
            noted = replace(read.entry, braked=braked, usual=read.usual, cuts=case.cuts_to_keep(read))
            read.entry = await self.ledger.write_entry(noted, self.clock())

    async def _send(self, case: TotalsCase, read: SpanRead, send: Send, budget: Budget) -> None:
        if case.options.dry_run:
            case.report.note(Status.SHADOW)
            case.report.sent.append(send)
            return
        kept = _without_doubts(read, self.clock())
        entry = replace(kept, cuts=case.cuts_to_keep(read), braked={}, usual=read.usual)
        await self.sender.carry_out(case.report, entry, [send], budget)
        if send.identifier not in {one.identifier for one in case.report.sent}:
            case.report.waits_since(read.told_at)

    async def _is_whole(self, case: TotalsCase, read: SpanRead) -> bool:
        """Whether no price was swapped in the span unseen: Stripe billed at once what it held of that part.

        Raises LostRaceError when one was, so that all is read again with the parts told apart.
        """
        told = max((send.intended_at for send in read.entry.sends.values() if send.counts), default=0)
        known: dict[Span, Sequence[Span]] = {}
        for span in read.spans:
            since = max(told, span.start + 1)
            if since < span.end and span.state is not SpanState.BILLED:
                swaps = await self.billing.price_changes.swaps(since, case.customer_meter.seen_at)
                if told_apart := parts(span, within(span, swaps, since)):
                    known[span] = told_apart
        if not known:
            return True
        case.look_at(await self.heads.remember(case.head, known, case.options))
        if case.options.dry_run:
            return False
        raise LostRaceError("a price was swapped in the span; its parts are read by themselves")

    def _count_if_too_late(self, case: TotalsCase, read: SpanRead, total: last.Total) -> None:
        """A repeated send may have come through only after its invoice was final."""
        if total.takes_usage:
            return
        for send in read.repeated:
            case.report.note(
                Status.LATE,
                f"the total of {to_wire(send.value)} from {rfc3339(total.span.start)} was confirmed by "
                "Stripe only after its invoice was final; see whether it has it",
            )

    async def _count_undelivered(
        self, case: TotalsCase, read: SpanRead, total: last.Total, step: last.Step
    ) -> None:
        report, units, since = case.report, step.undelivered, rfc3339(total.span.start)
        if not case.options.dry_run:
            noted = replace(
                read.entry,
                undelivered={total.span.start: total.undelivered + units},
                cuts=case.cuts_to_keep(read),
            )
            await self.ledger.write_entry(noted, self.clock())
        if units < 0:
            report.note(
                Status.LATE,
                f"Stripe has billed {to_wire(-units)} units from {since} more than OpenMeter holds; noted",
            )
        elif total.span.state is SpanState.FINAL:
            report.late += units
            report.note(
                Status.LATE, f"{to_wire(units)} units from {since} came after their invoice was final"
            )
        else:
            report.unbillable += units
            report.note(
                Status.UNBILLABLE,
                f"{to_wire(units)} units from {since} are on no invoice: they were not in Stripe when it "
                "billed that time, or Stripe dropped them, or takes no later value",
            )

    async def _remember_full_read(self, case: TotalsCase) -> None:
        try:
            await self.heads.was_read(case.head, case.now, is_full=True)
        except LostRaceError:
            logger.debug("another writer has the head of %s", case.customer_meter.pk)


def _note_unread(cases: Iterable[TotalsCase]) -> None:
    """Where nothing could be read: all that goes on, since Stripe was told of it."""
    for case in cases:
        if is_stopped(case.report):
            for read in case.reads:
                if read.span.state.takes_usage:
                    case.report.waits_since(read.told_at)


def _is_from_before(case: TotalsCase, read: SpanRead, total: last.Total) -> bool:
    """Whether a span was billed before the ledger knew anything of it: what Stripe was told is not known."""
    return not total.takes_usage and not read.entry.version and total.span.end <= case.head.known_from


def _without_doubts(read: SpanRead, now: int) -> Entry:
    """The entry as it counts from now on: what stays in doubt is outdone by a later stamp."""
    doubtful = [replace(send, state=SendState.REJECTED) for send in read.doubtful(now)]
    entry = read.entry.with_sends(doubtful)
    newest = sorted(entry.sends.values(), key=lambda send: send.stamp)[-KEPT_SENDS:]
    counted = {start: units for start, units in entry.undelivered.items() if start != read.span.start}
    return replace(entry, sends={send.identifier: send for send in newest}, undelivered=counted)


def _came_back_empty(cases: Sequence[TotalsCase]) -> bool:
    """Whether more than a tenth, and more than five, of those that held usage come back empty."""
    held = [[last.held_by(read.entry, read.span) for read in case.reads] for case in cases]
    holders = [case for case, of_case in zip(cases, held, strict=True) if any(of_case)]
    empty = [
        case
        for case, of_case in zip(cases, held, strict=True)
        if any(value != ZERO and read.value is None for value, read in zip(of_case, case.reads, strict=True))
    ]
    return len(empty) > EMPTY_LEAST and len(empty) * EMPTY_SHARE > len(holders)
