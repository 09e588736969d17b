"""Reads the evidence for invoices afresh: OpenMeter, the ledger and Stripe; it writes and sends nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from cli.differences import Circumstances, of_line, of_slice
from cli.errors import WrongUseError
from cli.evidence import Difference, InvoiceEvidence, LineEvidence, Named, SliceEvidence, of_state
from cli.output import plain
from cli.pricing_words import pricing_words, reckoning
from cli.send_checks import CheckedSend, EntryCheck, check_entry
from cli.wiring import Operator
from usage_reporting.amounts import ZERO, round_units, round_whole
from usage_reporting.config import Mode
from usage_reporting.customer_meters import is_metered, meter_id_of
from usage_reporting.errors import AskAgainError, HeldError, RefusedError, UsageReportingError
from usage_reporting.final_invoices import billed_lines, customer_of, is_final, lines_so_far
from usage_reporting.heads import Options
from usage_reporting.hour_comparison import HourComparer, HourComparison
from usage_reporting.invoices import price_of_line
from usage_reporting.judging import Judge, late_by_now
from usage_reporting.ledger import Entry, Key
from usage_reporting.metered_lines import MeteredLine, customer_meter_of, metered_lines
from usage_reporting.model import SendState, Status, Target
from usage_reporting.period_bounds import measured
from usage_reporting.pricing import Pricing, money
from usage_reporting.renewals import mode_of
from usage_reporting.reporter import Reporter
from usage_reporting.targets import last, usage_record
from usage_reporting.verdict import JudgedLine, Known
from usage_reporting.windows import (
    HOUR,
    Slice,
    blocks,
    ceil_minute,
    floor_hour,
    floor_minute,
    rfc3339,
    settled_until,
)

Json = dict[str, Any]

PREVIEW = "preview"
"""Stands for the status of an invoice that Stripe has not made yet."""

_PENDING = (SendState.INTENT, SendState.DOUBTED)


@dataclass(slots=True)
class EvidenceReader:
    """Reads invoices with their evidence. Its judge and its reports are dry: nothing is sent or written."""

    parts: Operator
    has_ledger: bool
    """Whether there is a stack's ledger to be read."""
    judge: Judge = field(init=False)
    _comparer: HourComparer = field(init=False)

    def __post_init__(self) -> None:
        """Wire the functions' own judge so that it can only look."""
        one = self.parts
        dry = replace(one.settings, mode=Mode.SHADOW)
        reporter = Reporter(dry, one.billing, one.openmeter, one.ledger, one.reporter.sender, one.clock)
        self.judge = Judge(dry, one.billing, one.openmeter, one.ledger, reporter, one.clock)
        self._comparer = HourComparer(one.billing, one.openmeter, one.ledger)

    async def invoice(self, found: Json, *, is_preview: bool = False) -> InvoiceEvidence:
        """The evidence for an invoice as Stripe gave it, with all its lines.

        Raises WrongUseError where nothing on it is billed by usage, LedgerUnavailableError, and what
        `Billing` raises; what fails of a line alone stands beside it.
        """
        is_open = is_preview or found.get("status") == "draft"
        billed = lines_so_far(found) if is_open else billed_lines(found)
        mode = mode_of(found)
        lines = await metered_lines(self.parts.billing, self.parts.ledger, found, billed, mode)
        evidence = _of_invoice(found, PREVIEW if is_preview else str(found.get("status")), self.parts.clock())
        evidence.notes += self._notes(found, evidence)
        others = [one for one in billed if await self._is_metered(one.price)]
        if not others:
            raise WrongUseError(
                f"invoice {found['id']} has no line that is billed by usage, so there is nothing to explain"
            )
        if len(others) > len(lines):
            evidence.notes.append(
                f"{len(others) - len(lines)} of its metered lines name no meter in OpenMeter (om_meter_id): "
                "usage-reporter does not report them"
            )
        entries = await self.judge.read(lines, mode) if self.has_ledger else {}
        compared = await self._compared(lines, mode)
        held = await self._held(found, lines) if is_open and self.has_ledger else {}
        for line in lines:
            one = _Line(self, line, found, compared.get(line.pk), entries, held.get(line.pk, ""))
            evidence.lines.append(await one.read())
        return evidence

    async def _held(self, found: Json, lines: Sequence[MeteredLine]) -> dict[str, str]:
        """Why the next report sends nothing, by ledger key: the lines are read as the ledger names them, but
        Stripe may name another meter or subject by now."""
        heads = {line.pk: line.head for line in lines}
        held = {}
        for one in await self.parts.billing.billed_on(found):
            try:
                await self.parts.reporter.heads.checked(one, heads.get(one.pk), Options(dry_run=True))
            except (HeldError, RefusedError) as error:
                held[one.pk] = error.reason
        return held

    async def preview(self, subscription: Json) -> InvoiceEvidence | None:
        """The evidence for the running period; None where nothing of it is billed by usage.

        Raises NotPermittedError where the key may not preview, and what `invoice` raises.
        """
        if subscription.get("ended_at"):
            return None
        found = await self.parts.billing.preview(subscription["id"])
        if found is None or not await self._bills_usage(found):
            return None
        return await self.invoice(found, is_preview=True)

    async def invoices(self, subscription: Json, since: int) -> AsyncIterator[InvoiceEvidence]:
        """The evidence for the subscription's invoices made since then (UTC seconds), newest first."""
        filters = {"subscription": subscription["id"], "created": {"gte": since}}
        async for found in self.parts.billing.invoices(filters):
            if await self._bills_usage(found):
                yield await self.invoice(found)

    async def _bills_usage(self, invoice: Json) -> bool:
        """Whether one of its lines is billed by usage of some time; a first invoice has lines of no time."""
        for line in (invoice.get("lines") or {}).get("data", []):
            price = price_of_line(line)
            has_time = line["period"]["start"] < line["period"]["end"]
            if price and has_time and await self._is_metered(price):
                return True
        return False

    async def _is_metered(self, price: str) -> bool:
        return is_metered({"price": await self.parts.billing.price(price)})

    def _notes(self, found: Json, evidence: InvoiceEvidence) -> list[str]:
        """What holds for the invoice as a whole."""
        notes = []
        if evidence.status == PREVIEW:
            notes.append("it is a preview: the period goes on, and its usage is still to come")
        elif evidence.status == "draft":
            until = found.get("automatically_finalizes_at")
            when = f"until {rfc3339(until)}" if isinstance(until, int) else "until somebody finalizes it"
            notes.append(f"it is a draft: what it bills may still change {when}")
        elif not is_final(found):
            notes.append(f"it is {evidence.status}: nothing of it is to be paid")
        if not self.has_ledger:
            notes.append(
                "without --stack the ledger is not read: what was sent when, and why something was not, is "
                "missing here"
            )
        return notes

    async def _compared(self, lines: Sequence[MeteredLine], mode: str) -> dict[str, HourComparison]:
        """Both sides by hour, of the lines on meters that sum."""
        by_pk: dict[str, list[MeteredLine]] = defaultdict(list)
        for line in lines:
            if line.target is Target.MIRROR:
                by_pk[line.pk].append(line)
        if not by_pk:
            return {}
        now = self.parts.clock()
        start = min(line.first_slice for several in by_pk.values() for line in several)
        end = min(max(line.billed.end for several in by_pk.values() for line in several), now)
        billing = self.parts.billing
        wanted = [await customer_meter_of(billing, several, mode, now) for several in by_pk.values()]
        compared = await self._comparer.compare(wanted, start, max(end, start + 1))
        return {one.customer_meter.pk: one for one in compared}


@dataclass(slots=True)
class _Line:
    """One line on its way to its evidence."""

    reader: EvidenceReader
    line: MeteredLine
    invoice: Json
    compared: HourComparison | None
    entries: Mapping[Key, Entry]
    held_back: str = ""
    """Why the next report sends nothing of it, if it is not the usage."""
    checks: dict[Key, EntryCheck] = field(default_factory=dict)
    pricing: Pricing | None = None

    async def read(self) -> LineEvidence:
        self.pricing = await self._pricing()
        found = self._found()
        try:
            if self.compared is not None and self.compared.error is not None:
                raise self.compared.error
            found.subject_keys = await self._subject_keys()
            judged = await self._judged()
            found.slices = await (self._slices() if self.line.target is Target.MIRROR else self._period())
        except UsageReportingError as error:
            found.differences.append(Difference(Named.UNREADABLE, error.reason))
            return found
        self._sum_up(found, judged)
        circumstances = self._circumstances(judged)
        found.differences += [one for piece in found.slices for one in of_slice(piece, circumstances)]
        found.ends_in_billed, at_the_end = of_line(found, circumstances)
        found.differences += at_the_end
        self._reckon(found)
        found.verdict = judged.verdict if judged is not None and self.line.billed.is_final else ""
        return found

    async def _subject_keys(self) -> tuple[str, ...] | None:
        """The subject keys of the OpenMeter customer whose usage it is; None: there are just subjects."""
        if (customers := self.reader.parts.openmeter.customers) is None:
            return None
        customer = (await customers.every([self.line.subject]))[self.line.subject]
        return tuple(plain(subject) for subject in customer.subject_keys)

    async def _pricing(self) -> Pricing | None:
        """What the price charges; None where it has no amounts that can be reckoned with."""
        try:
            return await self.reader.parts.billing.pricing(self.line.billed.price)
        except RefusedError:
            return None

    def _reckon(self, found: LineEvidence) -> None:
        """Say how the quantity becomes the amount; a trial's charges nothing."""
        if self.pricing is None or self.line.billed.is_free(self.line.price):
            return
        if self.pricing.currency != found.currency:
            text = f"the line is billed in {found.currency.upper()}, another currency than that of its price"
            found.differences.append(Difference(Named.CHARGED, text))
            return
        units = found.billed
        is_packages = Named.DIVIDED in {one.name for one in found.differences}
        if is_packages:
            units = (found.held if found.sent is None else found.sent) or ZERO
        found.reckoning = reckoning(self.pricing, units)
        owed = self.pricing.amount(units)
        if owed != self.line.billed.amount:
            charged = money(self.line.billed.amount, found.currency)
            text = f"the line charges {charged}, and by its price it would be {money(owed, found.currency)}"
            found.differences.append(Difference(Named.CHARGED, text))

    async def _judged(self) -> JudgedLine | None:
        """What the functions would say of it now; None without the ledger."""
        if not self.reader.has_ledger:
            return None
        report = self.line.report
        if report is not None and report.status.ask_again and report.status is not Status.DOUBTED:
            raise AskAgainError(report.reason)
        return late_by_now(await self.reader.judge.line(self.line, self.entries), self.line)

    def _found(self) -> LineEvidence:
        line, billed = self.line, self.line.billed
        meter = meter_id_of(line.price)
        mapped = self.compared.customer_meter.meter if self.compared else None
        return LineEvidence(
            subscription=billed.subscription,
            item=billed.item,
            price=billed.price,
            pricing="" if self.pricing is None else pricing_words(self.pricing),
            target=line.target,
            stripe_meter=meter,
            event_name=mapped.event_name if mapped else "",
            openmeter_meter=line.meter,
            subject=plain(line.subject),
            start=billed.start,
            end=billed.end,
            billed=billed.quantity,
            amount=billed.amount,
            currency=str(self.invoice.get("currency") or ""),
            is_final=billed.is_final,
        )

    def _sum_up(self, found: LineEvidence, judged: JudgedLine | None) -> None:
        own = [piece for piece in found.slices if piece.is_in_line]
        found.held = _sum(piece.held for piece in own)
        found.metered = _sum(piece.metered for piece in own)
        is_shared = any(piece.is_shared for piece in own)
        if judged is not None and judged.metered is not None and (is_shared or found.metered is None):
            found.metered = judged.metered
        if self.reader.has_ledger:
            known = self.line.known(self.entries)
            found.sent, found.pending = known.sent, known.unknown

    def _circumstances(self, judged: JudgedLine | None) -> Circumstances:
        billed, report, now = self.line.billed, self.line.report, self.reader.parts.clock()
        is_kept_back = report is not None and report.status in {
            Status.HELD,
            Status.REFUSED,
            Status.REJECTED,
            Status.DOUBTED,
        }
        return Circumstances(
            now=now,
            has_ledger=self.reader.has_ledger,
            is_final=billed.is_final,
            is_at_once=billed.is_at_once,
            read_until=settled_until(now),
            would_send=frozenset(send.slice_start for send in report.sent) if report else frozenset(),
            held_back=self.held_back or (report.reason if report is not None and is_kept_back else ""),
            missing={
                gone.slice_start: gone.count for check in self.checks.values() for gone in check.missing
            },
            is_free=billed.is_free(self.line.price),
            beside=judged.reason if judged is not None and judged.finding.value == "exact" else "",
            divides=self.pricing if self.pricing is not None and self.pricing.divide_by else None,
        )

    # A meter that sums: by slices

    async def _slices(self) -> list[SliceEvidence]:
        assert self.compared is not None
        cuts = self.line.cuts or {edge: edge for edge in self._edges()}
        now = self.reader.parts.clock()
        end = min(max(self.line.billed.end, self.line.end_of_usage), now)
        pieces = [
            piece
            for block in blocks(floor_hour(self.line.first_slice), end, cuts)
            for piece in block.slices
            if piece.start < now
        ]
        self._check({entry.sk: self._hints(entry) for entry in self._own})
        found = [await self._slice(piece) for piece in pieces]
        return [piece for piece in found if piece.is_part or not piece.is_empty]

    def _edges(self) -> set[int]:
        """Where a line without a ledger is cut; a price that was swapped does not cut its hour."""
        billed = self.line.billed
        return set() if billed.is_at_once else {billed.start, billed.end}

    def _hints(self, entry: Entry) -> dict[int, Decimal]:
        """By how much Stripe's summary is above what the ledger's entry says, by hour."""
        assert self.compared is not None
        hours = {floor_hour(send.stamp) for send in entry.sends.values()}
        told = {hour: Known.of([entry], hour, hour + HOUR) for hour in hours}
        return {hour: self.compared.held.get(hour, ZERO) - known.sent for hour, known in told.items()}

    def _check(self, hints: Mapping[str, Mapping[int, Decimal]]) -> None:
        for entry in self._own:
            self.checks[(entry.pk, entry.sk)] = check_entry(entry, self.line.target, hints[entry.sk])

    @property
    def _own(self) -> list[Entry]:
        """The ledger's entries of the line; none without the ledger."""
        return [self.entries[key] for key in self.line.keys] if self.entries else []

    @property
    def _sends(self) -> list[CheckedSend]:
        return [one for check in self.checks.values() for one in check.sends.values()]

    async def _slice(self, piece: Slice) -> SliceEvidence:
        assert self.compared is not None
        first, end = self.line.start, self.line.billed.end
        opens, closes = max(piece.opens, first), min(piece.closes, end)
        is_in_line = opens < closes
        is_shared = is_in_line and (opens, closes) != (piece.opens, piece.closes)
        if not is_in_line:
            opens, closes = piece.opens, piece.closes
        is_whole = (piece.opens, piece.closes) == (piece.hour, piece.hour + HOUR) == (piece.start, piece.end)
        sends = [one for one in self._sends if opens <= one.send.stamp < closes]
        metered: Decimal | None
        held: Decimal | None
        if is_whole and not is_shared:
            metered = self.compared.metered.get(piece.hour, ZERO)
            held = self.compared.held.get(piece.hour, ZERO)
        else:
            metered, held = await self._metered(piece.start, piece.end), await self._held(opens, closes)
        undelivered = sum((entry.undelivered.get(piece.start, ZERO) for entry in self._own), ZERO)
        braked = sum((entry.braked.get(piece.start, ZERO) for entry in self._own), ZERO)
        return SliceEvidence(
            start=piece.start,
            end=piece.end,
            metered=metered,
            sends=tuple(sorted(sends, key=lambda one: one.send.stamp)),
            sent=of_state(sends, SendState.SENT) if self.reader.has_ledger else None,
            pending=of_state(sends, *_PENDING),
            held=held,
            undelivered=undelivered,
            braked=braked,
            is_in_line=is_in_line,
            is_shared=is_shared,
            is_part=not is_whole,
        )

    async def _metered(self, start: int, end: int) -> Decimal | None:
        """What OpenMeter has of exactly [start, end), as far as it is over."""
        now = self.reader.parts.clock()
        end = end if end <= now else floor_minute(now)
        if start >= end:
            return ZERO
        line = self.line
        found = await self.reader.parts.openmeter.totals(line.meter, [line.subject], start, end)
        return round_units(found.get(line.subject, ZERO))

    async def _held(self, opens: int, closes: int) -> Decimal | None:
        """What Stripe's summary has of stamps in [opens, closes); a bound's minute is the slice before's."""
        meter = meter_id_of(self.line.price)
        start, end = ceil_minute(opens), ceil_minute(min(closes, self.reader.parts.clock()))
        if start >= end:
            return ZERO
        return await self.reader.parts.billing.usage_held(self.line.customer, meter, start, end)

    # Meters that take the last value, and usage records: the whole period

    async def _period(self) -> list[SliceEvidence]:
        line, billed = self.line, self.line.billed
        held = await self._last_held() if line.is_total else None
        metered = await self._metered_in_all()
        known = line.known(self.entries) if self.entries else Known()
        more = (billed.quantity if held is None else held) - known.sent
        self._check({line.keys[0][1]: {int(line.keys[0][1]): more}})
        sends = sorted(self._sends, key=lambda one: one.send.stamp)
        piece = SliceEvidence(
            start=line.start,
            end=billed.end,
            metered=metered,
            sends=tuple(sends),
            sent=known.sent if self.reader.has_ledger else None,
            pending=known.unknown,
            held=held,
            undelivered=known.undelivered,
            braked=known.braked,
            is_part=True,
        )
        return [piece]

    async def _last_held(self) -> Decimal:
        """The newest value that Stripe's summary has of the span."""
        span, now = replace(self.line.span, start=self.line.start), self.reader.parts.clock()
        start, end = floor_minute(last.first_stamp(span)), ceil_minute(min(span.end, now))
        if start >= end:
            return ZERO
        meter = meter_id_of(self.line.price)
        return await self.reader.parts.billing.usage_held(self.line.customer, meter, start, end)

    async def _metered_in_all(self) -> Decimal | None:
        """OpenMeter's total of the period, as a report reads it; without the ledger as far as it is known."""
        line, settings, now = self.line, self.reader.parts.settings, self.reader.parts.clock()
        if (reported := line.line()) is not None:
            return (
                Decimal(round_whole(reported.total, settings.rounding)) if line.is_legacy else reported.total
            )
        if not line.billed.item:
            return None
        if line.is_legacy:
            start, end = usage_record.measured_span(line.span, settings.period_bounds)
        else:
            start, end = measured(replace(line.span, start=line.start), line.cuts)
        units = await self._metered(start, min(end, now if end <= now else settled_until(now)))
        if units is None or not line.is_legacy:
            return units
        return Decimal(round_whole(units, settings.rounding))


def _of_invoice(found: Json, status: str, now: int) -> InvoiceEvidence:
    return InvoiceEvidence(
        id=found["id"],
        number=str(found.get("number") or ""),
        status=status,
        customer=customer_of(found),
        customer_name=plain(str(found.get("customer_name") or "")),
        currency=str(found.get("currency") or ""),
        total=Decimal(found.get("total") or 0),
        created=int(found.get("created") or 0),
        asked_at=now,
    )


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """The sum; None if one of them is not known."""
    total = ZERO
    for one in amounts:
        if one is None:
            return None
        total += one
    return total
