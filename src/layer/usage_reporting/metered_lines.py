"""The metered lines of an invoice: whose usage each bills, of what time, and what the ledger keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from usage_reporting.billing import Billing
from usage_reporting.customer_meters import is_metered, meter_id_of
from usage_reporting.final_invoices import BilledLine, customer_of
from usage_reporting.ledger import Entry, Head, Key, Ledger, cuts_told
from usage_reporting.model import CustomerMeter, Line, Report, Span, SpanState, Target, ledger_pk
from usage_reporting.period_bounds import Cuts, PeriodBounds
from usage_reporting.verdict import Known
from usage_reporting.windows import BOUNDS_KEPT, block_of, days_between, floor_hour

Json = dict[str, Any]


@dataclass(slots=True)
class MeteredLine:
    """A line that is billed by usage; all that is known of it beside what it bills."""

    customer: str
    billed: BilledLine
    price: Json
    pk: str
    """The ledger's partition key of its customer meter."""
    target: Target
    head: Head | None = None
    mapped: CustomerMeter | None = None
    """As Stripe's subscription shows it, where the ledger does not know it."""
    report: Report | None = None
    """What came of reading its span once more."""
    cuts: Cuts = field(default_factory=dict)
    """Where usage is cut for each bound."""

    @property
    def span(self) -> Span:
        """The line as a span; nothing can be added to that of a final invoice."""
        line = self.billed
        state = SpanState.BILLED if line.is_at_once else SpanState.FINAL
        if not line.is_final:
            state = SpanState.CURRENT
        span = Span(line.start, line.end, line.subscription, line.item, line.price, state)
        if line.is_free(self.price):
            span = replace(span, state=SpanState.FREE, when_left=SpanState.FREE)
        known = self.head.spans if self.head else ()
        shown = self.mapped.spans if self.mapped else ()
        same = [other for other in (*known, *shown) if other.key == span.key]
        first, last = any(one.first for one in same), any(one.last and one.end == span.end for one in same)
        since = next((one.usage_since for one in same if one.usage_since is not None), None)
        return replace(span, first=first, last=last, usage_since=since)

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
        begins = self.span.begins if self.start == self.billed.start else self.start
        return [(self.pk, day) for day in days_between(floor_hour(begins), self.billed.end)]

    def take(self, entries: Mapping[Key, Entry], setting: PeriodBounds, now: int) -> None:
        """Settle where its usage is cut, by the ledger's entries of it; `now` in UTC seconds.

        Of a line so old that the head has forgotten its bounds, they are those that the invoice shows.
        """
        bounds, spans = (self.head.bounds, self.head.spans) if self.head else (frozenset(), ())
        if not self.billed.is_at_once:
            edges = (self.billed.start, self.billed.end)
            bounds |= {edge for edge in edges if edge <= now - BOUNDS_KEPT}
        self.cuts = cuts_told([entries[key] for key in self.keys], bounds, spans, setting)

    def known(self, entries: Mapping[Key, Entry]) -> Known:
        """What the ledger says of the line's time; where Stripe billed at once, of what was sent by then."""
        own = [entries[key] for key in self.keys]
        billed = self.billed
        if self.is_total:
            # An invoice item's quantity is that of the instant at which its price was taken off.
            return Known.of_total(own[0], until=billed.end - 1 if billed.is_at_once else None)
        if self.is_legacy:
            return Known.of_record(own[0])
        until = billed.final_at if billed.is_at_once and billed.is_final else None
        slices = (self.first_slice, self.end_of_usage)
        return Known.of(own, self.start, billed.end, slices=slices, until=until)

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


async def metered_lines(
    billing: Billing, ledger: Ledger, invoice: Json, billed: Sequence[BilledLine], mode: str
) -> list[MeteredLine]:
    """The lines of an invoice that are ours: the ledger's head says so, else Stripe's subscription.

    `mode` is Stripe's, `live` or `test`. Raises what `billing` raises, and LedgerUnavailableError.
    """
    found = []
    customer = customer_of(invoice)
    for one in billed:
        price = await billing.price(one.price)
        if is_metered({"price": price}):
            pk = ledger_pk(billing.account, mode, customer, meter_id_of(price) or one.item)
            target = await billing.target_of(meter_id_of(price))
            found.append(MeteredLine(customer, one, price, pk, target))
    heads = await ledger.heads([line.pk for line in found])
    for line in found:
        line.head = heads.get(line.pk)
    if any(line.head is None and line.billed.item for line in found):
        of_stripe = {one.pk: one for one in await billing.billed_on(invoice)}
        for line in found:
            line.mapped = None if line.head else of_stripe.get(line.pk)
    return [line for line in found if line.head or line.mapped]


async def customer_meter_of(
    billing: Billing, lines: Sequence[MeteredLine], mode: str, now: int
) -> CustomerMeter:
    """The customer meter of some lines of one ledger key, up to their ends; `now` in UTC seconds."""
    spans = tuple({line.span.key: line.span for line in lines}.values())
    bounds = frozenset(span.end for span in spans)
    until = max(span.end for span in spans)
    one = lines[0]
    if one.mapped is not None:
        return replace(one.mapped, spans=spans, bounds=bounds | one.mapped.bounds, read_until=until)
    meter = meter_id_of(one.price)
    return CustomerMeter(
        account=billing.account,
        mode=mode,
        customer=one.customer,
        subject=one.subject,
        openmeter_meter=one.meter,
        target=one.target,
        spans=spans,
        bounds=bounds,
        meter=await billing.stripe_meter(meter) if meter else None,
        seen_at=now,
        closing=True,
        partial=True,
        read_until=until,
    )
