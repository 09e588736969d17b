"""Legacy metered prices: reads each period's total and sets its one usage record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from usage_reporting import advice
from usage_reporting.amounts import ZERO, is_same, round_units, to_wire
from usage_reporting.brake import NEAR_PERIOD_END, usual_total
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Entry, Head, Key, Ledger
from usage_reporting.model import Line, Prospect, Report, Send, SendState, Span, SpanState, Status
from usage_reporting.openmeter import FALLS_NATURALLY, OpenMeter
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.sender import Sender
from usage_reporting.targets import usage_record
from usage_reporting.windows import rfc3339


@dataclass(slots=True)
class Recording:
    """Reports customer meters of legacy prices, one after the other."""

    settings: Settings
    openmeter: OpenMeter
    ledger: Ledger
    heads: Heads
    sender: Sender
    clock: Callable[[], int]

    async def report(self, report: Report, stored: Head | None, options: Options, budget: Budget) -> None:
        """Bring the usage record of each period up to what OpenMeter holds.

        Raises the errors of its parts; LostRaceError when another writer was faster.
        """
        dry_run = options.dry_run or self.settings.mode is Mode.SHADOW
        head = await self.heads.checked(report.customer_meter, stored, replace(options, dry_run=dry_run))
        for span in report.customer_meter.spans:
            entry, measured = await self._entry(report, head, span, dry_run=dry_run)
            if not dry_run:
                entry = await self.sender.repeat_intents(report, entry, budget)
            if entry.intents:
                continue
            total = await self._total(report, head, span, measured, options, held=_held(entry))
            if total is not None:
                checked = replace(options, dry_run=dry_run)
                send = await self._send(report, head, span, entry, total, checked)
                if send is None:
                    await self._forget_braked(entry, span, checked)
                elif not await self._is_braked(report, entry, span, send, checked):
                    await self._carry_out(report, entry, send, checked, budget)
                if send is not None and send.identifier not in {one.identifier for one in report.sent}:
                    report.waits_since(entry.told_at(span.start))

    async def _entry(
        self, report: Report, head: Head, span: Span, *, dry_run: bool
    ) -> tuple[Entry, tuple[int, int]]:
        """A period's entry, and what is measured of it: [start, end), UTC seconds.

        Where PERIOD_BOUNDS rounds, the entry keeps where the period was cut, so that another setting does
        not bill the time beside a bound twice.
        """
        pk, setting = report.customer_meter.pk, self.settings.period_bounds
        known = [span, *(one for one in head.spans if one.item == span.item and one.end == span.start)]
        entries = await self.ledger.entries([(pk, str(one.start)) for one in known])
        kept: dict[int, int] = {}
        for one in known:
            stored = entries[(pk, str(one.start))]
            is_exact = stored.version and not stored.cuts
            exactly = usage_record.cuts_to_keep(one, usage_record.measured_span(one), self.clock())
            kept.update(exactly if is_exact else stored.cuts)
        measured = usage_record.measured_span(span, setting, others=head.spans, kept=kept)
        entry = _with_usual(entries[(pk, str(span.start))], span, known[1:], entries)
        if setting is PeriodBounds.EXACT and not entry.cuts:
            return entry, measured
        noted = replace(entry, cuts=usage_record.cuts_to_keep(span, measured, self.clock()))
        if noted == entry or dry_run:
            return noted, measured
        return await self.ledger.write_entry(noted, self.clock()), measured

    async def _total(
        self,
        report: Report,
        head: Head,
        span: Span,
        measured: tuple[int, int],
        options: Options,
        *,
        held: Decimal,
    ) -> Decimal | None:
        """The period's usage so far; None when nothing of it can be read yet, or all of it is gone.

        Some aggregations fall, but none of them falls to no value at all.
        """
        start, end = measured
        until = usage_record.readable_until(end, self.clock(), eager=options.eager)
        if until <= start:
            return None
        found = await self.openmeter.totals(head.openmeter_meter, [head.subject], start, until)
        if held and head.subject not in found and not options.accept_empty:
            # A cancellation moves the end of what is measured, and its usage is dropped.
            if span.state is not SpanState.CANCELED:
                report.note(
                    Status.HELD,
                    f"OpenMeter has nothing of the period from {rfc3339(span.start)}, but Stripe holds "
                    f"{to_wire(held)}; check OpenMeter, then release it with "
                    + advice.accept_empty(report.customer_meter.customer),
                )
            return None
        total = round_units(found.get(head.subject, ZERO))
        customer = report.customer_meter.customer
        account = report.customer_meter.account
        line = Line(customer, span.price, head.openmeter_meter, total, start, until, account)
        report.lines.append(line)
        return total

    async def _send(
        self, report: Report, head: Head, span: Span, entry: Entry, total: Decimal, options: Options
    ) -> Send | None:
        """What is to be sent of a period; otherwise the report says why nothing is."""
        now = self.clock()
        sequence, rounding = entry.version, self.settings.rounding
        # The latest intent is what Stripe holds: it must be told apart within one second, too.
        at = max([now, *(one.intended_at + 1 for one in entry.sends.values())])
        send = usage_record.send(report.customer_meter, span, total, sequence, rounding=rounding, now=at)
        held = _held(entry)
        if options.dry_run:
            report.prospects.append(Prospect(span, metered=send.value, held=held, since=span.start))
        is_known = _knows(head, span, entry) and not _is_billed_again(span, entry)
        if is_same(send.value, held) and (span.end <= now or is_known):
            return None
        if span.end <= head.known_from:
            return None  # the ledger cannot know what Stripe was told
        if span.end <= now:
            await self._count_late(report, entry, span, send.value - held, dry_run=options.dry_run)
            return None
        meter = await self.openmeter.meter(head.openmeter_meter)
        may_fall = options.accept or self.settings.allow_decrease or meter.aggregation in FALLS_NATURALLY
        if send.value < held and not may_fall:
            report.note(
                Status.HELD,
                f"the period from {rfc3339(span.start)} has {to_wire(send.value)} in OpenMeter, less than "
                f"the {to_wire(held)} that Stripe holds; check OpenMeter, then release it with "
                + advice.accept(report.customer_meter.customer),
            )
            report.waits_since(entry.told_at(span.start))
            return None
        return send

    async def _carry_out(
        self, report: Report, entry: Entry, send: Send, options: Options, budget: Budget
    ) -> None:
        if options.dry_run:
            item = report.customer_meter.spans[0].item
            report.note(Status.SHADOW, f"would set {item} to {to_wire(send.value)}")
            report.sent.append(send)
            return
        # What is accepted is usual from now on; where nothing is known to be usual, nothing is held.
        usual = max(entry.usual, send.value) if options.accept and entry.usual else entry.usual
        told = replace(_newest_only(entry), braked={}, usual=usual)
        await self.sender.carry_out(report, told, [send], budget)

    async def _is_braked(
        self, report: Report, entry: Entry, span: Span, send: Send, options: Options
    ) -> bool:
        """Whether the brake holds a period's total; the ledger then knows how much of it."""
        brake, now, more = self.settings.brake, self.clock(), send.value - _held(entry)
        jump = brake.total_jump(span.start, send.value, entry.usual) if more > 0 else None
        # Stripe takes no usage record after the period's end: that is the deadline.
        if jump is None or options.accept or brake.lets_go(span.end, now, NEAR_PERIOD_END):
            return False
        report.is_braked = True
        report.note(Status.HELD, brake.reason([jump], report.customer_meter.customer, is_legacy=True))
        noted = replace(entry, braked={span.start: more})
        if noted.braked != entry.braked and not options.dry_run:
            await self.ledger.write_entry(noted, now)
        return True

    async def _forget_braked(self, entry: Entry, span: Span, options: Options) -> None:
        """Nothing is held of a running period any more; of one that is over it stays known."""
        now = self.clock()
        if entry.braked and span.end > now and not options.dry_run:
            await self.ledger.write_entry(replace(entry, braked={}), now)

    async def _count_late(
        self, report: Report, entry: Entry, span: Span, difference: Decimal, *, dry_run: bool
    ) -> None:
        counted = entry.undelivered.get(span.start, ZERO)
        if is_same(difference, counted):
            return
        units = difference - counted
        report.late += max(units, ZERO)
        report.note(
            Status.LATE,
            f"{to_wire(units)} units of {span.item} came after its period ended; Stripe takes no usage "
            "record for it any more"
            if units > 0
            else f"Stripe bills {to_wire(-units)} units of {span.item} more than OpenMeter holds; noted",
        )
        if not dry_run:
            noted = replace(entry, undelivered={span.start: difference})
            await self.ledger.write_entry(noted, self.clock())


def _held(entry: Entry) -> Decimal:
    """What Stripe was told last."""
    sent = [send for send in entry.sends.values() if send.counts]
    return max(sent, key=lambda send: send.intended_at).value if sent else ZERO


def _with_usual(entry: Entry, span: Span, before: Sequence[Span], entries: Mapping[Key, Entry]) -> Entry:
    """The entry with what is usual of its period, after the one before it."""
    told = [
        usual_total(_held(entries[(entry.pk, str(one.start))]), one.end - one.start, span.end - span.start)
        for one in before
    ]
    return replace(entry, usual=entry.usual or max(told, default=ZERO))


def _knows(head: Head, span: Span, entry: Entry) -> bool:
    """Whether the ledger can know what Stripe holds of a period: one that was lost or restored may not."""
    told = max((send.intended_at for send in entry.sends.values()), default=0)
    return max(span.start, told) >= head.known_from


def _is_billed_again(span: Span, entry: Entry) -> bool:
    """Whether an earlier period's record may be billed again: by `last_ever`, where a period has none.

    Which `aggregate_usage` a price has is not shown since API version 2025-03-31.basil; to set 0 is right
    for each.
    """
    return span.state is SpanState.CURRENT and not entry.sends and entry.usual > ZERO


def _newest_only(entry: Entry) -> Entry:
    """The entry without the sends that a later one replaced."""
    sent = [send for send in entry.sends.values() if send.state is SendState.SENT]
    kept = sorted(sent, key=lambda send: send.intended_at)[-1:]
    return replace(entry, sends={send.identifier: send for send in kept})
