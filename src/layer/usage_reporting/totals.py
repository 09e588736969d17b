"""One customer meter's spans on a meter that takes the last value: which to read, and their totals."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from usage_reporting.amounts import ZERO, round_units
from usage_reporting.billing import LONGEST_DRAFT
from usage_reporting.brake import usual_total
from usage_reporting.errors import RefusedError
from usage_reporting.heads import Options
from usage_reporting.hours import HOURS_REREAD, OPENNESS, is_full_read_due, known_spans
from usage_reporting.ledger import Entry, Head, Key
from usage_reporting.model import (
    CustomerMeter,
    Line,
    Prospect,
    Report,
    Send,
    SendState,
    Span,
    SpanState,
    first_deadline,
)
from usage_reporting.openmeter import MOST_SUBJECTS, OpenMeter
from usage_reporting.period_bounds import Cuts, PeriodBounds, cuts_of, measured
from usage_reporting.read_apart import read_apart
from usage_reporting.sender import REPEATED_FOR
from usage_reporting.side_by_side import is_stopped, note, together
from usage_reporting.targets import last
from usage_reporting.windows import HOUR, rfc3339


@dataclass(slots=True)
class SpanRead:
    """A span on its way through a report; items billed over just the same time go together."""

    spans: list[Span]
    until: int
    """Up to when it is read, UTC seconds."""
    entry: Entry
    value: Decimal | None = None
    """What OpenMeter holds; None: it has no row."""
    repeated: list[Send] = field(default_factory=list)
    """Sends of an earlier run that were confirmed in this one."""
    start: int = 0
    """From when on it is read, UTC seconds."""
    usual: Decimal = ZERO
    """What the brake compares its total with; 0: nothing is known of a period before it."""

    @property
    def key(self) -> Key:
        """The key of its ledger entry."""
        return (self.entry.pk, self.entry.sk)

    @property
    def span(self) -> Span:
        """The one of its spans that takes usage longest."""
        return min(self.spans, key=lambda span: OPENNESS[span.state])

    @property
    def deadline(self) -> int | None:
        """When the first draft that bills it becomes final, UTC seconds; None where there is none."""
        return first_deadline(span for span in self.spans if span.state is SpanState.DRAFT)

    @property
    def told_at(self) -> int:
        """When Stripe was last told of it, or else its start, UTC seconds."""
        return self.entry.told_at(self.span.start)

    def too_old(self, now: int) -> list[Send]:
        """Sends without an answer, too old to be repeated by their identifiers."""
        return [send for send in self.entry.intents if now - send.intended_at > REPEATED_FOR]

    def doubtful(self, now: int) -> list[Send]:
        """Those, and sends of a request of which Stripe refused a part that no later one has outdone."""
        sent = [send.stamp for send in self.entry.sends.values() if send.state is SendState.SENT]
        newest = max(sent, default=0)
        return [*self.too_old(now), *(send for send in self.entry.doubted if send.stamp > newest)]


@dataclass(slots=True)
class TotalsCase:
    """A customer meter on its way through a report; `now` in UTC seconds."""

    report: Report
    head: Head
    now: int
    options: Options
    aggregation: str
    """OpenMeter's."""
    setting: PeriodBounds = PeriodBounds.EXACT
    cuts: Cuts = field(default_factory=dict)
    """Where usage is cut for each bound; empty where that is the bound itself."""
    spans: list[Span] = field(default_factory=list)
    """All that are known: first those that Stripe showed just now."""
    reads: list[SpanRead] = field(default_factory=list)
    shown: set[tuple[str, str, int]] = field(default_factory=set)
    """The keys of those that Stripe showed just now."""
    refusals: list[str] = field(default_factory=list)
    """Why some of its spans are not reported."""

    def __post_init__(self) -> None:
        """Work out the spans."""
        self.look_at(self.head)

    @property
    def customer_meter(self) -> CustomerMeter:
        """The customer meter that the case is about."""
        return self.report.customer_meter

    @property
    def is_full_reading(self) -> bool:
        """Whether all that is still billable is read, and not only what just ended."""
        return self._is_full and not self.customer_meter.closing

    @property
    def _is_full(self) -> bool:
        is_due = is_full_read_due(self.head, self.now)
        return self.options.full or self.customer_meter.closing or is_due

    def look_at(self, head: Head) -> None:
        """Take the spans from a head that knows more."""
        self.head = head
        known = [_begun(span, head.spans) for span in known_spans(self.customer_meter, head, self.now)]
        self.shown = {span.key for span in known[: len(self.customer_meter.spans)]}
        by_key = {span.key: span for span in reversed(known)}
        self.spans = without_covered(span for span in reversed(by_key.values()) if span.start < span.end)

    def due(self) -> list[list[Span]]:
        """The spans to read now, those with the same bounds together; oldest first."""
        by_bounds: dict[tuple[int, int], list[Span]] = defaultdict(list)
        for span in self.spans:
            if span.start < self.now and span.state is not SpanState.FREE and self._is_due(span):
                by_bounds[(span.start, span.end)].append(span)
        return [by_bounds[bounds] for bounds in sorted(by_bounds)]

    def _is_due(self, span: Span) -> bool:
        if span.key in self.shown:
            return True
        if self.customer_meter.partial or span.end > self.now:
            return False  # another look shows it, or nothing does
        is_recent = span.end > self.now - HOURS_REREAD * HOUR
        return (is_recent or self._is_full) and span.end > self.now - LONGEST_DRAFT

    def entry_keys(self) -> list[Key]:
        """The ledger entries of what is read, and of what ended where that begins."""
        starts = {read.span.start for read in self.reads}
        starts.update(span.start for span in self.spans if span.end in starts)
        return [(self.customer_meter.pk, str(start)) for start in sorted(starts)]

    def hold(self, entries: Mapping[Key, Entry]) -> None:
        """Take the ledger entries, and settle what is to be measured: what is empty is not read."""
        own = {key: entries[key] for key in self.entry_keys()}
        is_said = any((span.usage_since, span.usage_until) != (None, None) for span in self.spans)
        if self.setting is not PeriodBounds.EXACT or is_said or any(entry.cuts for entry in own.values()):
            self.cuts = self._cuts(own)
        for read in self.reads:
            read.entry = own[read.key]
            read.start, end = measured(read.span, self.cuts)
            read.until = last.measured_until(end, self.now, eager=self.options.eager)
            read.usual = read.entry.usual or self._usual(read.span, own)
        self.reads = [read for read in self.reads if read.until > read.start]

    def _usual(self, span: Span, entries: Mapping[Key, Entry]) -> Decimal:
        """What is usual of a span, after the one that ended where it begins."""
        before = [one for one in self.spans if one.end == span.start]
        own = span.end - span.start
        told = [
            usual_total(
                last.held_by(entries[self.customer_meter.pk, str(one.start)], one), one.end - one.start, own
            )
            for one in before
        ]
        return max(told, default=ZERO)

    def _cuts(self, entries: Mapping[Key, Entry]) -> Cuts:
        kept: dict[int, int] = {}
        for (_, start), entry in sorted(entries.items()):
            kept.update(last.cuts_kept(entry, [span for span in self.spans if str(span.start) == start]))
        told = sorted(
            max(last.told_until(entry) - 1, int(start))
            for (_, start), entry in entries.items()
            if entry.sends
        )
        bounds = {edge for span in self.spans for edge in (span.start, span.end)}
        return cuts_of(bounds, self.spans, self.setting, stamps=told, kept=kept)

    def cuts_to_keep(self, read: SpanRead) -> dict[int, int]:
        """Where a span is cut as it is told: that outlives a change of the setting."""
        return {edge: self.cuts[edge] for edge in (read.span.start, read.span.end) if edge in self.cuts}

    def latest(self, span: Span, now: int) -> int:
        """The last instant at which a span is known to have gone on, UTC seconds."""
        if span.end <= now:
            return now
        return min(now, max(self.customer_meter.seen_at, self.head.seen_at))

    def total(self, read: SpanRead, now: int) -> last.Total:
        """What was read of a span beside what the ledger says. Raises RefusedError for no amount."""
        span, entry = read.span, read.entry
        if self.customer_meter.is_deleted and span.state.takes_usage:
            span = replace(span, state=SpanState.BILLED)  # Stripe refuses what is sent for a deleted customer
        value = None if read.value is None else round_units(read.value)
        if value is not None and value < 0:
            raise RefusedError(
                f"a total of {value:f} from {rfc3339(span.start)} cannot be billed; correct the events in "
                "OpenMeter"
            )
        stamps = [send.stamp for send in entry.sends.values()]
        counted = [send.stamp for send in entry.sends.values() if send.state is SendState.SENT]
        floor = last.floor_of(span, self.spans)
        return last.Total(
            span=span,
            value=value,
            measured=read.until,
            held=last.held_by(entry, span),
            undelivered=entry.undelivered.get(span.start, ZERO),
            sequence=entry.version,
            previous=max(stamps, default=None),
            floor=floor,
            is_doubtful=bool(read.doubtful(now)) or max(counted, default=0) < floor,
            discarded_as=last.discarded_as(entry, ZERO if value is None else value),
        )

    def lines(self) -> list[Line]:
        """A line for each span that was read: what OpenMeter holds of it so far."""
        return [
            Line(
                customer=self.customer_meter.customer,
                price=span.price,
                meter=self.head.openmeter_meter,
                total=ZERO if read.value is None else round_units(read.value),
                start=read.start,
                end=read.until,
                account=self.customer_meter.account,
            )
            for read in self.reads
            for span in read.spans
        ]

    def prospects(self) -> list[Prospect]:
        """The spans that Stripe showed just now, as far as they were read."""
        return [
            Prospect(
                span=span,
                metered=ZERO if read.value is None else round_units(read.value),
                held=last.held_by(read.entry, span),
                since=span.start,
            )
            for read in self.reads
            for span in read.spans
            if span.key in self.shown
        ]


def without_covered(spans: Iterable[Span]) -> list[Span]:
    """Spans without those beside a legacy price over which others are billed: a value counts for both."""
    found = list(spans)
    billed = [one for one in found if one.state is not SpanState.BESIDE]
    return [
        span
        for span in found
        if span.state is not SpanState.BESIDE
        or not any(one.start < span.end and span.start < one.end for one in billed)
    ]


def _begun(span: Span, known: Iterable[Span]) -> Span:
    """A span from where its item came in or its price began, where a draft's line shows the whole period."""
    if span.state in {SpanState.BILLED, SpanState.DROPPED, SpanState.FREE}:
        return span
    starts = [
        one.start for one in known if (one.item, one.price, one.end) == (span.item, span.price, span.end)
    ]
    start = max(starts, default=span.start)
    return replace(span, start=start) if start > span.start else span


async def read_totals(
    openmeter: OpenMeter, reports: Sequence[Report], cases: Mapping[int, TotalsCase]
) -> list[Report]:
    """Read the spans' totals, up to 100 subjects a query; spans with the same bounds go together."""
    groups: dict[tuple[str, int, int], list[tuple[TotalsCase, SpanRead]]] = defaultdict(list)
    for report in reports:
        case = cases[id(report)]
        for read in case.reads:
            groups[(case.head.openmeter_meter, read.start, read.until)].append((case, read))
    await asyncio.gather(
        *(
            _read(openmeter, *asked, members[first : first + MOST_SUBJECTS])
            for asked, members in groups.items()
            for first in range(0, len(members), MOST_SUBJECTS)
        )
    )
    return [report for report in reports if not is_stopped(report)]


async def _read(
    openmeter: OpenMeter, name: str, start: int, until: int, members: Sequence[tuple[TotalsCase, SpanRead]]
) -> None:
    async def read(page: Sequence[tuple[TotalsCase, SpanRead]]) -> None:
        subjects = list(dict.fromkeys(case.head.subject for case, _ in page))
        found = await openmeter.totals(name, subjects, start, until)
        for case, one in page:
            one.value = found.get(case.head.subject)

    async def read_all() -> None:
        await read_apart(members, read, lambda member, error: note(member[0].report, error))

    await together([case.report for case, _ in members], read_all)
