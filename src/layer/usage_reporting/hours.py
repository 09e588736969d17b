"""One customer meter's hours: what to read, what OpenMeter holds, and what Stripe was told of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from usage_reporting.amounts import ZERO, finite, is_same, round_units
from usage_reporting.billing import LONGEST_DRAFT
from usage_reporting.doubts import Window
from usage_reporting.heads import LONG_AGO, Options
from usage_reporting.ledger import Entry, Head, HourRead, Key, cuts_told, holds
from usage_reporting.model import (
    CustomerMeter,
    Line,
    Prospect,
    Reading,
    Report,
    Send,
    Span,
    SpanState,
    first_deadline,
)
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import Cuts, PeriodBounds, measured
from usage_reporting.windows import (
    BOUNDS_KEPT,
    HOUR,
    OLDEST_SLICE,
    Block,
    Slice,
    block_of,
    block_start,
    day_of,
    days_between,
    floor_hour,
    read_until,
    settled_until,
    stamp_of,
)

HOURS_REREAD = 6
REMEMBERED_EVERY = 3 * HOUR
"""So seldom a head is written only to say up to when hours were read."""
FULL_READ_EVERY = 20 * HOUR

OPENNESS = {
    state: rank
    for rank, state in enumerate(
        (
            SpanState.CURRENT,
            SpanState.DRAFT,
            SpanState.ENDED,
            SpanState.CANCELED,
            SpanState.FINAL,
            SpanState.BILLED,
            SpanState.DROPPED,
            SpanState.FREE,
            SpanState.BESIDE,
        )
    )
}
_LEFT = frozenset({SpanState.BILLED, SpanState.DROPPED})


@dataclass(slots=True)
class Case:
    """A customer meter on its way through a report; `now` in UTC seconds."""

    report: Report
    head: Head
    now: int
    options: Options
    setting: PeriodBounds = PeriodBounds.EXACT
    events_fall: bool = False
    """Whether events take usage back, so that what one slice gains another of its hour may lose."""
    spans: tuple[Span, ...] = ()
    cuts: Cuts = field(default_factory=dict)
    """Where usage is cut for each bound."""
    start: int = 0
    """The first hour to read."""
    is_full: bool = False
    entries: dict[Key, Entry] = field(default_factory=dict)
    hours: dict[int, Decimal] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    exact_hours: dict[int, HourRead] = field(default_factory=dict)
    """Hours whose slices were read exactly."""
    windows: Sequence[Window] = ()
    """Windows of refusals that the sends were not compared with yet."""

    def __post_init__(self) -> None:
        """Work out spans, bounds and the range to read."""
        self.spans = known_spans(self.customer_meter, self.head, self.now)
        self.is_full = (
            self.options.full or self.customer_meter.closing or is_full_read_due(self.head, self.now)
        )
        self._cut()

    def hold(self, entries: Mapping[Key, Entry]) -> None:
        """Take the ledger entries of the range: what Stripe was told may decide where usage is cut."""
        self.entries = dict(entries)
        self._cut()

    def read_in_full(self) -> None:
        """Read all that is still billable, because the page does so for others."""
        self.is_full = True
        self._cut()

    def _cut(self) -> None:
        bounds = self.head.bounds | self.customer_meter.bounds
        self.cuts = cuts_told(self.entries.values(), bounds, self.spans, self.setting)
        self.start = block_start(self._first_hour(), self.cuts)

    @property
    def customer_meter(self) -> CustomerMeter:
        """The customer meter that the case is about."""
        return self.report.customer_meter

    @property
    def until(self) -> int:
        """Up to when whole hours are read."""
        settled = settled_until(self.now, eager=self.options.eager)
        last = self.customer_meter.read_until
        return settled if last is None else min(settled, floor_hour(last - 1) + HOUR)

    @property
    def is_full_reading(self) -> bool:
        """Whether all that is still billable is read, and not only what just ended."""
        return self.is_full and not self.customer_meter.closing

    @property
    def is_due_again(self) -> bool:
        """Whether the last full reading is due to be repeated."""
        is_first = self.head.full_read_at <= LONG_AGO
        return not is_first and is_full_read_due(self.head, self.now)

    @property
    def is_due_to_be_remembered(self) -> bool:
        """Whether the head's word on how far hours were read has become old."""
        return not self.customer_meter.closing and self.now - self.head.read_at >= REMEMBERED_EVERY

    @property
    def keys(self) -> list[Key]:
        """The ledger entries of the range, and those with sends that are, or may come, in doubt."""
        days = [*days_between(self.start, self.now), *sorted(self.head.doubtful)]
        if self.windows:
            made = min(window.start for window in self.windows)
            days += days_between(made - BOUNDS_KEPT, max(window.end for window in self.windows))
        return [(self.customer_meter.pk, day) for day in dict.fromkeys(days)]

    def _first_hour(self) -> int:
        # After an outage: from where the last reading left off.
        recent = floor_hour(min(self.now, self.head.read_at)) - HOURS_REREAD * HOUR
        oldest = floor_hour(self.now - OLDEST_SLICE) + HOUR
        relevant = self.customer_meter.spans if self.customer_meter.closing else self.spans
        starts = [
            span.start
            for span in relevant
            if span.end > self.now - LONGEST_DRAFT or span.state is SpanState.DRAFT
        ]
        first = floor_hour(
            min((min(start, self.cuts.get(start, start)) for start in starts), default=self.now)
        )
        return max(first if self.is_full else max(first, recent), oldest)

    def hours_to_read(self) -> list[int]:
        """Hours of the range with usage in OpenMeter or in the ledger, and those not read whole."""
        found = {*self.hours, *range(floor_hour(max(self.until, self.start)), self.now + 1, HOUR)}
        for entry in self.entries.values():
            found.update(floor_hour(send.stamp) for send in entry.sends.values())
            found.update(map(floor_hour, (*entry.undelivered, *entry.braked)))
        return sorted(hour for hour in found if self.start <= hour <= self.now)

    def entry_of(self, piece: Slice) -> Entry:
        """The ledger entry that holds a slice's sends."""
        return self.entries[(self.customer_meter.pk, day_of(piece.start))]

    def state_at(self, instant: int) -> SpanState | None:
        """The most open state of the spans that hold an instant, billed ones first; None: there is none."""
        states = [span.state for span in self.spans if span.holds(instant)]
        billed = [state for state in states if state is not SpanState.BESIDE]
        state = min(billed or states, key=OPENNESS.__getitem__, default=None)
        if self.customer_meter.is_deleted and state is not None and state.takes_usage:
            return SpanState.BILLED  # Stripe refuses what is sent for a deleted customer
        return state

    def deadline_at(self, instant: int) -> int | None:
        """When the first draft that bills an instant becomes final; None where there is none. UTC seconds."""
        drafts = (span for span in self.spans if span.state is SpanState.DRAFT)
        return first_deadline(span for span in drafts if span.holds(instant))

    def dropped(self, piece: Slice) -> Decimal:
        """The part of our sends in a slice that Stripe dropped."""
        if not any(span.state is SpanState.DROPPED for span in self.spans):
            return ZERO
        sends = [send for send in self.entry_of(piece).sends.values() if send.counts and holds(piece, send)]
        lost = [send.value for send in sends if self.state_at(send.stamp) is SpanState.DROPPED]
        return sum(lost, ZERO)

    def blocks(self) -> Iterator[Block]:
        """What is to be read, mostly an hour at a time."""
        read = 0
        for hour in self.hours_to_read():
            if hour >= read:
                block = block_of(hour, self.cuts)
                read = block.end
                yield block

    def pieces(self, block: Block) -> list[Slice]:
        """The slices of a block that can be read now.

        Where something was sent before a bound in the block was known, the slices behind `read_until` are
        among them: it may have to be moved from one to the other, and half a move bills it twice.
        """
        now, last = self.now, self.customer_meter.read_until
        found = [one for one in block.slices if read_until(one, now, eager=self.options.eager) is not None]
        if last is None or not found or not self.entry_of(found[0]).is_placed(block.slices):
            return found
        return [piece for piece in found if piece.opens < last]

    def is_ours(self, piece: Slice) -> bool:
        """Whether anything is, or was, billed of a slice."""
        return any(is_stamped_in(piece, span) for span in self.spans)

    def cuts_to_keep(self, day: str) -> dict[int, int]:
        """Rounded bounds of a UTC day that have passed: usage was sent as they are cut."""
        return {
            bound: at
            for bound, at in self.cuts.items()
            if bound != at and bound <= self.now and day in {day_of(bound), day_of(at)}
        }

    def reading(self, piece: Slice, value: Decimal | None) -> Reading | None:
        """What was read of a slice beside what the ledger says; None when it is too early to send.

        Without a `value` OpenMeter has no row of it.
        """
        entry = self.entry_of(piece)
        until = read_until(piece, self.now, eager=self.options.eager)
        newest = entry.newest_stamp(piece)
        if until is None or (newest is not None and newest >= until):
            return None
        stamp = stamp_of(piece, until)
        state = self.state_at(stamp if stamp is not None else piece.opens)
        if state in _LEFT and piece.end > self.now:
            return None  # a later stamp in this hour falls under the new price
        if state is None or state is SpanState.FREE:
            return None
        return Reading(
            piece=piece,
            value=ZERO if value is None else round_units(value),
            mirrored=entry.mirrored(piece),
            undelivered=entry.undelivered.get(piece.start, ZERO),
            sequence=entry.sequence(piece),
            stamp=stamp,
            state=state,
            dropped=self.dropped(piece),
            discarded_as=entry.discarded_as(piece),
            is_missing=value is None,
        )

    def note_unsent(self) -> None:
        """Say in the report since when usage waits that an invoice would take."""
        sent = {send.slice_start for send in self.report.sent}
        waiting = [
            reading.piece.start
            for reading in self.readings
            if reading.changed and reading.takes_usage and reading.stamp is not None
        ]
        self.report.unsent_since = min((start for start in waiting if start not in sent), default=None)

    def settled_hours(self) -> dict[int, HourRead]:
        """Exactly read hours in which Stripe holds what OpenMeter does: they need not be asked again."""
        settled = {reading.piece for reading in self.readings if not reading.changed}
        return {hour: read for hour, read in self.exact_hours.items() if read.slices <= settled}

    def with_state(self, asked: Span, answer: Span) -> None:
        """Put what Stripe says of an ended span in place of what was not known."""
        self.spans = tuple(answer if span == asked else span for span in self.spans)
        known = [
            replace(reading, state=self.state_at(reading.stamp) or reading.state)
            if reading.stamp is not None
            else reading
            for reading in self.readings
        ]
        self.readings = [reading for reading in known if reading.state is not SpanState.FREE]

    def canceled(self) -> list[Span]:
        """Spans in the range that a cancellation cut short: whether they are billed decides what is read."""
        return [span for span in self.spans if span.state is SpanState.CANCELED and span.end > self.start]

    def unasked(self) -> list[Span]:
        """Ended spans whose invoice decides what becomes of a difference."""
        asked = {SpanState.ENDED, SpanState.CANCELED}
        stamps = [r.stamp for r in self.readings if r.changed and r.stamp is not None and r.state in asked]
        return [
            span for span in self.spans if span.state in asked and any(span.holds(stamp) for stamp in stamps)
        ]

    def lines(self) -> list[Line]:
        """A line for each span that was read: what OpenMeter measured of it."""
        lines = []
        for span in self.spans[: len(self.customer_meter.spans)]:
            span_start, span_end = measured(span, self.cuts)
            inside = [r for r in self.readings if is_stamped_in(r.piece, span)]
            settled = settled_until(self.now, eager=self.options.eager)
            end = span_end if span.end <= self.now else min(settled, span_end)
            lines.append(
                Line(
                    customer=self.customer_meter.customer,
                    price=span.price,
                    meter=self.head.openmeter_meter,
                    total=sum((r.value for r in inside), ZERO),
                    start=max(span_start, min(self.start, end)),
                    end=max(end, span_start),
                    account=self.customer_meter.account,
                )
            )
        return lines

    def prospects(self) -> list[Prospect]:
        """The spans that Stripe showed just now, as far as they were read."""
        return [self._prospect(span) for span in self.spans[: len(self.customer_meter.spans)]]

    def _prospect(self, span: Span) -> Prospect:
        since = max(span.start, self.start)
        told = [
            send
            for entry in self.entries.values()
            for send in entry.sends.values()
            if send.counts and span.holds(send.stamp) and send.stamp >= since
        ]
        inside = [
            reading
            for reading in self.readings
            if reading.stamp is not None and is_stamped_in(reading.piece, span)
        ]
        metered = sum((_share(reading, span, told) for reading in inside), ZERO)
        # An open hour that was read further just now is not read again: what was told of it stands.
        unread = [send for send in told if not any(holds(reading.piece, send) for reading in inside)]
        metered += sum((send.value for send in unread), ZERO)
        return Prospect(span, metered, sum((send.value for send in told), ZERO), since)


def _share(reading: Reading, span: Span, told: Iterable[Send]) -> Decimal:
    """What a span bills of a slice; `told`: the span's sends. A swapped price does not cut its hour: what was
    told stays with the price that it was stamped for, and the rest goes where it would be stamped."""
    piece = reading.piece
    if span.start <= piece.opens and piece.closes <= span.end:
        return reading.value
    own = sum((send.value for send in told if holds(piece, send)), ZERO)
    is_next = reading.stamp is not None and span.holds(reading.stamp)
    return own + reading.difference if is_next else own


def is_full_read_due(head: Head, now: int) -> bool:
    """Whether the last full reading is so old at `now`, UTC seconds, that another one is due."""
    return now - head.full_read_at > FULL_READ_EVERY


def read_in_full_together(cases: Collection[Case]) -> None:
    """Where some of a page are due for a full reading, take those with them that would soon be.

    A query serves 100 subjects: a page whose full readings fall together asks as seldom as one customer. A
    customer meter that is new reads in full by itself, or a growing page would do nothing else.
    """
    if any(case.is_due_again for case in cases):
        for case in cases:
            if case.now - case.head.full_read_at > FULL_READ_EVERY // 2:
                case.read_in_full()


def known_spans(customer_meter: CustomerMeter, head: Head, now: int) -> tuple[Span, ...]:
    """All spans known of a customer meter: first those that Stripe showed just now, then the ledger's."""
    is_stale = customer_meter.seen_at < head.seen_at
    shown = [
        _as_of((head.known(span) if is_stale else None) or head.clip(span), now)
        for span in customer_meter.spans
    ]
    keys = {span.key for span in shown}
    remembered = [span for span in head.spans if span.key not in keys]
    return (*shown, *(_remembered(span, shown, remembered, now) for span in remembered))


def _as_of(span: Span, now: int) -> Span:
    """A span as it stands at `now`: what was listed a while ago may have ended since."""
    is_past = span.deadline is not None and span.deadline <= now
    if (span.state is SpanState.CURRENT and span.end <= now) or (span.state is SpanState.DRAFT and is_past):
        return replace(span, state=SpanState.ENDED)
    return span


def _remembered(span: Span, shown: list[Span], remembered: list[Span], now: int) -> Span:
    """A span of the ledger's, cut off where its item went on at another price, or in a later period."""
    later = [
        other
        for other in (*shown, *(one for one in remembered if one.price != span.price))
        if other.item == span.item and span.start < other.start < span.end
    ]
    follower = min(later, key=lambda other: other.start, default=None)
    if follower is None:
        return _as_of(span, now)
    is_left = follower.price != span.price and span.state is SpanState.CURRENT
    state = span.when_left if is_left else span.state
    return _as_of(replace(span, end=follower.start, last=False, state=state), now)


def is_stamped_in(piece: Slice, span: Span) -> bool:
    """Whether usage of a slice may be stamped in a span."""
    return span.start < piece.closes and piece.opens < span.end


async def read_block(case: Case, openmeter: OpenMeter, block: Block) -> None:
    """Add the readings of a block: asked by hours, and exactly only where a bound makes it necessary."""
    hours = range(block.start, block.end, HOUR)
    pieces = [piece for piece in case.pieces(block) if case.is_ours(piece)]
    if not pieces:
        return
    total = finite(sum((case.hours.get(hour, ZERO) for hour in hours), ZERO))
    values: Mapping[Slice, Decimal | None]
    if len(block.slices) == 1:
        values = {pieces[0]: total if any(hour in case.hours for hour in hours) else None}
    elif _covers(case, block, pieces) and _as_known(case, block, pieces, total):
        values = {piece: _accounted(case, piece) for piece in pieces}
    else:
        values = await _exactly(case, openmeter, block, pieces, total)
    readings = [case.reading(piece, value) for piece, value in values.items()]
    case.readings.extend(reading for reading in readings if reading is not None)


def _covers(case: Case, block: Block, pieces: list[Slice]) -> bool:
    """Whether the query by hours covers all that can be read of these slices."""
    is_read = all(piece.end <= case.until or piece.end > case.now for piece in pieces)
    return is_read and case.until > block.start


def _accounted(case: Case, piece: Slice) -> Decimal:
    entry = case.entry_of(piece)
    return entry.mirrored(piece) - case.dropped(piece) + entry.undelivered.get(piece.start, ZERO)


def _as_known(case: Case, block: Block, pieces: list[Slice], total: Decimal) -> bool:
    """Whether nothing changed in a block since just these slices of it were looked at."""
    if case.events_fall and case.is_full:
        return False
    entry = case.entry_of(pieces[0])
    read = entry.hours.get(block.start)
    if read is not None and read.slices.issuperset(pieces) and is_same(total, read.total):
        return True
    if any(piece.start in entry.undelivered for piece in block.slices):
        return False  # the slice may have been cut since
    accounted = sum((_accounted(case, piece) for piece in block.slices), ZERO)
    return is_same(total, accounted) and entry.is_placed(block.slices)


async def _exactly(
    case: Case, openmeter: OpenMeter, block: Block, pieces: list[Slice], total: Decimal
) -> dict[Slice, Decimal | None]:
    """Each slice's own usage. The rest of the hour would do for the last one, but not when one of the
    answers lags: usage of the ended period would then be billed in the next.

    Of an hour that is over, slices that nothing is billed of are asked, too: only together with them it shows
    that an answer lags.
    """
    readable = case.pieces(block) if block.end <= case.until else pieces
    asked = {piece: await _exact(case, openmeter, piece) for piece in readable}
    parts = sum((value for value in asked.values() if value is not None), ZERO)
    adds_up = tuple(readable) == block.slices and is_same(total, parts)
    if block.end <= case.until and not case.customer_meter.partial and adds_up:
        case.exact_hours[block.start] = HourRead(total, frozenset(pieces))
    values = {piece: asked[piece] for piece in pieces}
    entry = case.entry_of(pieces[0])
    if any(value is None and entry.mirrored(piece) for piece, value in values.items()):
        whole = await _exact(case, openmeter, Slice(readable[0].start, readable[-1].end))
        if is_same(whole or ZERO, parts):
            # A slice without a row is one without usage: what was stamped in it is another's.
            return {piece: value or ZERO for piece, value in values.items()}
    return values


async def _exact(case: Case, openmeter: OpenMeter, piece: Slice) -> Decimal | None:
    until = read_until(piece, case.now, eager=case.options.eager) or piece.start
    if until <= piece.start:
        return ZERO
    subject = case.head.subject
    found = await openmeter.totals(case.head.openmeter_meter, [subject], piece.start, until)
    return finite(found[subject]) if subject in found else None
