"""The pipeline of mirrored customer meters: ledger, then OpenMeter, then what to send, then Stripe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from usage_reporting import advice
from usage_reporting.amounts import ZERO, round_units, to_wire
from usage_reporting.billing import Billing
from usage_reporting.brake import Brake, Jump
from usage_reporting.budget import Budget
from usage_reporting.config import Settings
from usage_reporting.doubts import Doubts
from usage_reporting.errors import LostRaceError
from usage_reporting.heads import LONG_AGO, Heads, Options
from usage_reporting.hour_queries import read_hours
from usage_reporting.hours import Case, read_block, read_in_full_together
from usage_reporting.ledger import Entry, Head, HourRead, Ledger
from usage_reporting.model import Reading, Report, Send, SpanState, Status
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import measured
from usage_reporting.sender import Sender
from usage_reporting.settlement import Settlement
from usage_reporting.side_by_side import check, is_stopped, racing, side_by_side, together
from usage_reporting.targets import mirror
from usage_reporting.telemetry import logger
from usage_reporting.windows import day_of, rfc3339

READING_SHARE = 0.6
EMPTY_SHARE = 10
EMPTY_LEAST = 5


@dataclass(slots=True)
class Mirroring:
    """Reports the customer meters of a page whose hours Stripe is to hold as OpenMeter does."""

    settings: Settings
    billing: Billing
    openmeter: OpenMeter
    ledger: Ledger
    heads: Heads
    sender: Sender
    clock: Callable[[], int]
    settlement: Settlement = field(init=False)
    brake: Brake = field(init=False)

    def __post_init__(self) -> None:
        """Wire what settles doubted sends, and the brake."""
        self.brake = self.settings.brake
        self.settlement = Settlement(self.billing, self.ledger, self.clock)

    async def report(self, reports: Sequence[Report], options: Options, budget: Budget) -> None:
        """Bring Stripe up to what OpenMeter holds; every report has an outcome in the end."""
        # Some time is kept to send what was read: the rest of the page then comes to its turn.
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
            read: Case | None = by_report[id(report)]

            async def once() -> None:
                nonlocal read
                # Who read earlier loses and reads again: an older value never replaces a newer one.
                case = read or next(iter(await self._read([report], options, budget)), None)
                read = None
                if case is not None:
                    await self._settle(case, budget)

            await racing(once, budget)

        await self.sender.settle([case.report for case in cases], settle)

    async def _read(self, reports: Sequence[Report], options: Options, budget: Budget) -> list[Case]:
        """Read the ledger, then OpenMeter; who cannot go on has an outcome and is left out."""
        if not reports:
            return []
        stored: Mapping[str, Head] = {}
        doubts: Mapping[str, Doubts] = {}
        cases: dict[int, Case] = {}

        async def read_heads() -> None:
            nonlocal stored, doubts
            shown = [report.customer_meter for report in reports]
            stored, doubts = await self.ledger.page(
                [one.pk for one in shown], [one.meter_pk for one in shown]
            )

        async def open_case(report: Report) -> None:
            check(budget)
            head = stored.get(report.customer_meter.pk)
            case = await self._case(report, head, options)
            if (known := doubts.get(report.customer_meter.meter_pk)) is not None:
                case.windows = known.after(case.head.doubts_seen)
            cases[id(report)] = case

        async def read_entries() -> None:
            entries = await self.ledger.entries([key for case in cases.values() for key in case.keys])
            for case in cases.values():
                case.hold({key: entries[key] for key in case.keys})

        async def clear_up(report: Report) -> None:
            await self._repeat_intents(cases[id(report)], budget)
            if not is_stopped(report):
                await self.settlement.settle(cases[id(report)])

        async def read_slices(report: Report) -> None:
            await self._read_slices(cases[id(report)], budget)

        going_on = await together(reports, read_heads)
        going_on = await side_by_side(going_on, open_case)
        read_in_full_together([cases[id(report)] for report in going_on])
        going_on = await together(going_on, read_entries)
        going_on = await side_by_side(going_on, clear_up)
        going_on = await read_hours(self.openmeter, going_on, cases)
        going_on = await side_by_side(going_on, read_slices)
        _note_unread(reports, stored, cases)
        return [cases[id(report)] for report in going_on]

    async def _case(self, report: Report, stored: Head | None, options: Options) -> Case:
        customer_meter = report.customer_meter
        name = self.heads.openmeter_meter(customer_meter, stored)
        (await self.openmeter.meter(name)).check_adds_up()
        head = await self.heads.settled(customer_meter, stored, options)
        setting = self.settings.period_bounds
        case = Case(report, head, self.clock(), options, setting, events_fall=self.settings.allow_decrease)
        for span in case.canceled():
            case.with_state(span, await self.billing.state_of(span, case.now))
        return case

    async def _repeat_intents(self, case: Case, budget: Budget) -> None:
        """First of all, repeat what an earlier run left open."""
        if case.options.dry_run:
            return
        before = len(case.report.sent)
        for key in case.entries:
            entry = await self.settlement.doubt_old_intents(case.entries[key])
            case.entries[key] = entry
            if entry.intents:
                case.entries[key] = await self.sender.repeat_intents(case.report, entry, budget)
        for send in case.report.sent[before:]:
            await self._count_if_too_late(case, send)

    async def _count_if_too_late(self, case: Case, send: Send) -> None:
        """A repeated send may have come through only after its invoice was final."""
        for span in [span for span in case.spans if span.holds(send.stamp)]:
            case.with_state(span, await self.billing.state_of(span, case.now))
        if case.state_at(send.stamp) in {SpanState.FINAL, SpanState.BILLED}:
            case.report.late += send.value
            case.report.note(
                Status.LATE,
                f"{to_wire(send.value)} units of {rfc3339(send.stamp)} were confirmed by Stripe only after "
                "their invoice was final; see whether it has them",
            )

    async def _read_slices(self, case: Case, budget: Budget) -> None:
        for block in case.blocks():
            check(budget)
            await read_block(case, self.openmeter, block)
        case.report.lines = case.lines()
        if case.options.dry_run:
            case.report.prospects = case.prospects()

    async def _settle(self, case: Case, budget: Budget) -> None:
        """Ask what decides, compute what to send, and send it."""
        for span in case.unasked():
            case.with_state(span, await self.billing.state_of(span, case.now))
        jumps = self.brake.jumps(case.readings, case.head.usual)
        braked = {} if case.options.accept else self._braked(case, jumps)
        plan = mirror.plan(
            case.customer_meter,
            case.readings,
            may_fall=self.settings.allow_decrease,
            accepted=case.options.accept,
            now=self.clock(),
            braked=braked,
        )
        case.note_unsent()
        if not case.options.accept_empty and _is_empty(case):
            # Nobody can look at the nothing of this very moment: that takes a word of its own.
            case.report.note(
                Status.HELD,
                "OpenMeter has nothing of what it had before; check it, then release it with "
                + advice.accept_empty(case.customer_meter.customer),
            )
            return
        for reason in plan.held:
            case.report.note(Status.HELD, reason)
        for reason in plan.stopped:
            case.report.note(Status.REJECTED, reason)
        if braked:
            case.report.is_braked = True
            case.report.note(Status.HELD, self.brake.reason(braked.values(), case.customer_meter.customer))
        too_old = await self._too_old(case)
        if case.options.dry_run:
            _would(case.report, plan)
            _count_too_old(case, too_old)
            return
        if jumps and case.options.accept:
            case.head = await self.heads.accept(case.head, jumps)
        await self._carry_out(case, plan, braked, budget)
        case.note_unsent()
        if await self._remember_reading(case, braked):
            _count_too_old(case, too_old)

    def _braked(self, case: Case, jumps: Mapping[Reading, Jump]) -> dict[Reading, Jump]:
        """The jumps that are held now: those of a draft may be let go when it is about to be final."""
        deadlines = {one: case.deadline_at(one.stamp or one.piece.opens) for one in jumps}
        return {one: jump for one, jump in jumps.items() if not self.brake.lets_go(deadlines[one], case.now)}

    async def _carry_out(
        self, case: Case, plan: mirror.Plan, braked: Collection[Reading], budget: Budget
    ) -> None:
        sends = _by_day([(send.slice_start, send) for send in plan.sends])
        undelivered = _by_day([(r.piece.start, (r, units)) for r, units in plan.undelivered.items()])
        hours = _by_day([(hour, (hour, read)) for hour, read in case.settled_hours().items()])
        held = {
            entry.sk: kept
            for entry in case.entries.values()
            if (kept := _held_of(entry, case.readings, braked)) != entry.braked
        }
        for day in sorted({*sends, *undelivered, *hours, *held}):
            entry = case.entries[(case.customer_meter.pk, day)]
            dropped = {reading.piece.start: reading.dropped for reading in case.readings}
            taken = {send.slice_start: dropped.get(send.slice_start, ZERO) for send in sends.get(day, [])}
            noted = _noted(entry, taken, undelivered.get(day, []), dict(hours.get(day, [])))
            noted = replace(noted, braked=held.get(day, entry.braked))
            if cuts := case.cuts_to_keep(day):
                noted = replace(noted, cuts={**noted.cuts, **cuts})
            if sends.get(day):
                check(budget)
                await self.sender.carry_out(case.report, noted, sends[day], budget)
            elif noted != entry:
                await self.ledger.write_entry(noted, self.clock())
            for reading, units in undelivered.get(day, []):
                _count_undelivered(case.report, reading, units)
            if is_stopped(case.report) and case.report.status.ask_again:
                return

    async def _too_old(self, case: Case) -> Decimal:
        """At first sight: usage that is older than Stripe takes, in a period that still runs."""
        starts = [measured(span, case.cuts)[0] for span in case.customer_meter.spans]
        oldest = min(starts, default=case.start)
        if case.head.full_read_at or case.customer_meter.closing or oldest >= case.start:
            return ZERO
        name, subject = case.head.openmeter_meter, case.head.subject
        found = await self.openmeter.hours(name, [subject], oldest, case.start)
        return sum((round_units(value) for value in found.get(subject, {}).values()), ZERO)

    async def _remember_reading(self, case: Case, braked: Collection[Reading]) -> bool:
        """Remember in the head that hours were read, seldom; whether a full reading is remembered now."""
        stopped, head = is_stopped(case.report), case.head
        is_full = case.is_full_reading and not stopped
        # What is held now is looked at on every tick, however old it becomes.
        is_news = bool(braked) and not case.customer_meter.closing and head.full_read_at > LONG_AGO
        is_due = is_news or case.is_due_to_be_remembered
        if not is_full and (not is_due or (stopped and case.report.status.ask_again)):
            return False
        if self.brake.is_on:
            free = [reading for reading in case.readings if reading not in braked]
            head = replace(head, usual=head.usual.remembering(free, case.now))
        if is_news:
            head = replace(head, full_read_at=LONG_AGO)
        try:
            await self.heads.was_read(head, case.now, is_full=is_full)
        except LostRaceError:
            logger.debug("another writer has the head of %s", case.customer_meter.pk)
            return False
        return is_full


def _note_unread(reports: Iterable[Report], stored: Mapping[str, Head], cases: Mapping[int, Case]) -> None:
    """Where nothing could be read: all since it was read last, or since Stripe was told of usage."""
    for report in filter(is_stopped, reports):
        head, case = stored.get(report.customer_meter.pk), cases.get(id(report))
        entries = case.entries.values() if case else ()
        told = (send.told_at for entry in entries for send in entry.sends.values())
        known = max([head.read_at if head else 0, *told])
        if known > LONG_AGO:
            report.waits_since(known)


def _count_too_old(case: Case, units: Decimal) -> None:
    if units:
        case.report.unbillable += units
        older = f"{to_wire(units)} units before {rfc3339(case.start)} are older than Stripe takes"
        case.report.note(Status.UNBILLABLE, older)


def _came_back_empty(cases: Sequence[Case]) -> bool:
    """Whether more than a tenth, and more than five, of those that held usage come back empty."""
    holders = [case for case in cases if any(reading.mirrored for reading in case.readings)]
    empty = [case for case in holders if _holds_nothing(case)]
    return len(empty) > EMPTY_LEAST and len(empty) * EMPTY_SHARE > len(holders)


def _holds_nothing(case: Case) -> bool:
    """Whether Stripe holds usage of the time that was read, and OpenMeter none at all."""
    return any(reading.mirrored for reading in case.readings) and not any(
        reading.value for reading in case.readings
    )


def _is_empty(case: Case) -> bool:
    """Whether OpenMeter has not even a row: usage that was all taken back leaves rows of zero."""
    return _holds_nothing(case) and not case.hours


def _by_day[T](dated: Sequence[tuple[int, T]]) -> dict[str, list[T]]:
    days: dict[str, list[T]] = defaultdict(list)
    for instant, what in dated:
        days[day_of(instant)].append(what)
    return days


def _noted(
    entry: Entry,
    taken: Mapping[int, Decimal],
    undelivered: Sequence[tuple[Reading, Decimal]],
    hours: Mapping[int, HourRead],
) -> Entry:
    """The entry with what no invoice takes, and with the hours that need no exact query any more.

    `taken`: the slices of which something is sent, with what Stripe dropped of each: what was counted
    beyond that no longer counts as undelivered.
    """
    counted = {
        start: min(units, taken.get(start, units))
        for start, units in entry.undelivered.items()
        if taken.get(start, units)
    }
    for reading, units in undelivered:
        counted[reading.piece.start] = reading.undelivered + units
    return replace(entry, undelivered=counted, hours={**entry.hours, **hours})


def _held_of(entry: Entry, readings: Sequence[Reading], braked: Collection[Reading]) -> Mapping[int, Decimal]:
    """What the brake holds of an entry by now; where an invoice takes no more, what it held to the end."""
    if not braked and not entry.braked:
        return entry.braked
    own = [reading for reading in readings if day_of(reading.piece.start) == entry.sk]
    told = {reading.piece.start for reading in own if reading.takes_usage}
    kept = {start: units for start, units in entry.braked.items() if start not in told}
    return kept | {reading.piece.start: reading.difference for reading in own if reading in braked}


def _count_undelivered(report: Report, reading: Reading, units: Decimal) -> None:
    hour = rfc3339(reading.piece.start)
    if units < 0 and reading.is_over:
        more = f"Stripe has billed {to_wire(-units)} units of {hour} more than OpenMeter holds; noted"
        report.note(Status.LATE, more)
    elif reading.state is SpanState.FINAL:
        report.late += units
        report.note(Status.LATE, f"{to_wire(units)} units of {hour} came after their invoice was final")
    elif units < 0:
        report.unbillable += units
        fewer = f"{to_wire(-units)} units of {hour} are no longer among those on no invoice"
        report.note(Status.UNBILLABLE, fewer)
    else:
        report.unbillable += units
        report.note(
            Status.UNBILLABLE,
            f"{to_wire(units)} units of {hour} are on no invoice: they were not in "
            "Stripe when it billed that time, or Stripe dropped them (a price swapped, an item removed, an "
            "anchor reset or an immediate cancellation)",
        )


def _would(report: Report, plan: mirror.Plan) -> None:
    """Say what would be sent."""
    for send in plan.sends:
        report.note(Status.SHADOW)
        report.sent.append(send)
    for reading, units in plan.undelivered.items():
        _count_undelivered(report, reading, units)
