"""What both sides and the ledger hold of spans whose total counts, not their hours.

Meters with formula `last`, of which Stripe's summary tells the newest value; and legacy prices, of which
Stripe tells nothing, so that the ledger stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from usage_reporting.amounts import ZERO, is_same, round_units, round_whole
from usage_reporting.billing import Billing
from usage_reporting.config import Mode, Settings
from usage_reporting.hours import known_spans
from usage_reporting.ledger import Entry, Head, Ledger
from usage_reporting.model import CustomerMeter, Send, Span, SpanState, Target
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import cuts_of, measured
from usage_reporting.reconciled import Columns
from usage_reporting.settlement import SUMMARIES_LAG
from usage_reporting.targets import last, usage_record
from usage_reporting.verdict import Known
from usage_reporting.windows import MINUTE, ceil_minute, floor_minute, settled_until


@dataclass(slots=True)
class SpanColumns:
    """Reads the spans of one customer meter."""

    settings: Settings
    billing: Billing
    openmeter: OpenMeter
    ledger: Ledger
    clock: Callable[[], int]

    async def of(
        self, customer_meter: CustomerMeter, start: int, end: int
    ) -> tuple[Head | None, list[Columns]]:
        """The head, and the amounts of each span that reaches into [start, end), UTC seconds.

        Of a span that goes on, as far as it was told when `end` had passed. Raises the errors of its parts.
        """
        head = (await self.ledger.heads([customer_meter.pk])).get(customer_meter.pk)
        now = self.clock()
        spans = known_spans(customer_meter, head, now) if head else customer_meter.spans
        billed = {
            (span.start, span.end): span
            for span in spans
            if span.state is not SpanState.FREE and span.start < min(end, span.end) and span.end > start
        }
        keys = {span: (customer_meter.pk, str(span.start)) for span in billed.values()}
        entries = await self.ledger.entries(sorted(set(keys.values())))
        is_legacy = customer_meter.target is Target.USAGE_RECORD
        found = []
        for span, key in keys.items():
            if is_legacy and head is not None and span.end <= head.known_from:
                continue  # the ledger cannot know what Stripe was told
            read = self._recorded if is_legacy else self._last
            columns = await read(customer_meter, head, span, entries[key], end)
            if columns is not None:
                found.append(columns)
        return head, found

    async def _last(
        self, one: CustomerMeter, head: Head | None, span: Span, entry: Entry, end: int
    ) -> Columns | None:
        """The newest value that Stripe shows, and the total up to where that was read."""
        assert one.meter is not None
        now, is_over = self.clock(), span.end <= self.clock()
        begins, ends = self._measured(one, head, span, entry)
        counted = [send for send in entry.sends.values() if send.counts]
        awaited = [send for send in counted if send.told_at > now - SUMMARIES_LAG]
        told = counted if is_over else [send for send in counted if send not in awaited]
        newest = max(told, key=lambda send: send.stamp, default=None)
        if is_over:
            until, held_until = ends, ceil_minute(span.end)
        else:
            until = min(max(end, floor_minute(newest.stamp + last.ROOM) if newest else 0), ends)
            held_until = floor_minute(newest.stamp) + MINUTE if newest else floor_minute(now)
        if until <= begins:
            return None
        first, held = floor_minute(last.first_stamp(span)), ZERO
        if first < held_until:
            held = round_units(await self.billing.usage_held(one.customer, one.meter.id, first, held_until))
        columns = Columns(
            start=span.start,
            end=span.end,
            metered=await self._total(one, head, begins, until),
            held=held,
            known=Known.of_total(_with_told(entry, told)),
            awaited=tuple(awaited) if is_over else (),
            to_come=newest.value - held if newest else ZERO,
            spans=(span,),
            is_ledger_kept=self.settings.mode is not Mode.SHADOW,
        )
        if is_over or not awaited or is_same(columns.metered, held):
            return columns
        return await self._with_newest(one, head, (begins, ends), columns, entry)

    async def _with_newest(
        self, one: CustomerMeter, head: Head | None, within: tuple[int, int], columns: Columns, entry: Entry
    ) -> Columns:
        """A running span up to where its newest value was read, if that was told rightly just now."""
        begins, ends = within
        counted = [send for send in entry.sends.values() if send.counts]
        newest = max(counted, key=lambda send: send.stamp)
        until = min(floor_minute(newest.stamp + last.ROOM), ends)
        metered = await self._total(one, head, begins, until) if begins < until else ZERO
        if not is_same(metered, newest.value):
            return columns
        to_come = newest.value - columns.held
        known = Known.of_total(entry)
        return replace(columns, metered=metered, awaited=(newest,), to_come=to_come, known=known)

    def _measured(self, one: CustomerMeter, head: Head | None, span: Span, entry: Entry) -> tuple[int, int]:
        others, setting = head.spans if head else one.spans, self.settings.period_bounds
        return measured(span, cuts_of({span.start, span.end}, others, setting, kept=entry.cuts))

    async def _recorded(
        self, one: CustomerMeter, head: Head | None, span: Span, entry: Entry, end: int
    ) -> Columns | None:
        """The quantity that Stripe was told last, and the rounded total up to where that was read."""
        now = self.clock()
        begins, ends = usage_record.measured_span(
            span, self.settings.period_bounds, others=head.spans if head else one.spans, kept=entry.cuts
        )
        told_at = max((send.intended_at for send in entry.sends.values() if send.counts), default=0)
        known = Known.of_record(entry)
        held = known.sent
        # An operator's report reads the open hour up to the last full minute, a tick does not.
        metered = ZERO
        for eager in (False, True):
            told = settled_until(told_at, eager=eager)
            until = min(ends, max(end, told)) if ends > now else ends
            if until <= begins:
                return None
            total = await self._total(one, head, begins, until)
            metered = Decimal(round_whole(total, self.settings.rounding))
            if is_same(metered, held) or ends <= now or told <= end:
                break
        if span.end <= now:
            # Stripe takes no record of it any more: what it lacks is late, counted or not.
            known = replace(known, undelivered=max(known.undelivered, metered - held))
        return Columns(start=span.start, end=span.end, metered=metered, held=held, known=known, spans=(span,))

    async def _total(self, one: CustomerMeter, head: Head | None, start: int, end: int) -> Decimal:
        name = head.openmeter_meter if head else one.openmeter_meter
        subject = head.subject if head else one.subject
        found = await self.openmeter.totals(name, [subject], start, end)
        return round_units(found.get(subject, ZERO))


def _with_told(entry: Entry, told: Iterable[Send]) -> Entry:
    """The entry with what was told by then, and with what Stripe refused: that is no value."""
    kept = [*told, *(send for send in entry.sends.values() if not send.counts)]
    return replace(entry, sends={send.identifier: send for send in kept})
