"""What a report would change, in units and in money: rows made of its dry run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.amounts import ZERO, is_same
from usage_reporting.billing import Billing
from usage_reporting.errors import RefusedError, UsageReportingError
from usage_reporting.ledger import Ledger
from usage_reporting.model import CustomerMeter, Prospect, Report, Send, Span, SpanState, Status, Target
from usage_reporting.pricing import Pricing
from usage_reporting.windows import days_between

_KINDS = {SpanState.CURRENT: "running", SpanState.ENDED: "draft", SpanState.DRAFT: "draft"}


@dataclass(frozen=True, slots=True)
class Money:
    """What Stripe charges for a period, in the currency's minor unit."""

    currency: str
    now: Decimal
    """For what Stripe holds."""
    planned: Decimal
    """For what it holds after a report."""
    measured: Decimal
    """For all that OpenMeter has."""

    @property
    def change(self) -> Decimal:
        """What a report changes."""
        return self.planned - self.now

    @property
    def left(self) -> Decimal:
        """What is measured, and not billed after a report either; negative where too much is billed."""
        return self.measured - self.planned


@dataclass(frozen=True, slots=True)
class PlannedPeriod:
    """One customer's period on one price; units as Stripe is told them."""

    customer: str
    meter: str
    """In OpenMeter."""
    span: Span
    status: Status
    """Of the customer meter; `shadow` where something would be sent."""
    reason: str = ""
    held: Decimal | None = None
    """What Stripe holds; None: it was not read, the reason says why."""
    measured: Decimal | None = None
    """What OpenMeter has."""
    sends: Decimal = ZERO
    """By how much a report changes what Stripe holds."""
    money: Money | None = None
    """None: not known; `unpriced` says why."""
    unpriced: str = ""
    account: str = OWN_ACCOUNT
    """As it stands in the ledger's keys."""

    @property
    def planned(self) -> Decimal | None:
        """What Stripe holds after a report."""
        return None if self.held is None else self.held + self.sends

    @property
    def left(self) -> Decimal:
        """Units that are measured and not billed after a report either; negative where too much is billed."""
        if self.measured is None or self.planned is None or is_same(self.measured, self.planned):
            return ZERO
        return self.measured - self.planned

    @property
    def is_free(self) -> bool:
        """Whether nothing of it is charged: a trial, or a pause."""
        return self.span.is_trial or self.span.state is SpanState.FREE

    @property
    def kind(self) -> str:
        """What is to be said of its invoice."""
        return "free" if self.is_free else _KINDS.get(self.span.state, "final")

    @property
    def outcome(self) -> str:
        """How a report of it would end."""
        return "would send" if self.status is Status.SHADOW else self.status.value

    @property
    def is_stuck(self) -> bool:
        """Whether something of it cannot be told to Stripe; of a customer's other periods all may be told."""
        is_elsewhere = self.status is Status.HELD and self.held is not None and not self.left
        return self.status.is_undelivered and not is_elsewhere

    @property
    def currency(self) -> str:
        """Empty where its money is not known."""
        return self.money.currency if self.money else ""

    @property
    def size(self) -> tuple[Decimal, Decimal]:
        """By how much money it moves, and by how many units."""
        return abs(self.money.change) if self.money else ZERO, abs(self.sends)


@dataclass(slots=True)
class Exposure:
    """The money of all periods in one currency, in its minor unit."""

    now: Decimal = ZERO
    planned: Decimal = ZERO
    up: Decimal = ZERO
    """What a report adds to bills."""
    down: Decimal = ZERO
    """What it takes off them, as a positive amount."""
    left: Decimal = ZERO
    """What is measured and stays off the bills, because it is held, refused or too late."""

    @property
    def moved(self) -> Decimal:
        """Both directions together: one customer's more does not make up for another's less."""
        return self.up + self.down

    def add(self, money: Money) -> None:
        """Count one period."""
        self.now += money.now
        self.planned += money.planned
        self.up += max(money.change, ZERO)
        self.down += max(-money.change, ZERO)
        self.left += money.left


@dataclass(frozen=True, slots=True)
class Plan:
    """What a report would change, the biggest movers of each currency first."""

    rows: Sequence[PlannedPeriod]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Subscriptions and drafts that could not be read, and why."""
    unmapped: int = 0
    """How many metered items have no OpenMeter meter: not ours."""

    @classmethod
    def of_all(cls, plans: Sequence[Plan], failed: Mapping[str, str]) -> Plan:
        """The plans of several accounts as one; `failed`: accounts that could not be planned, and why."""
        unreadable = {id_: reason for plan in plans for id_, reason in plan.unreadable.items()}
        rows = _biggest_first([row for plan in plans for row in plan.rows])
        return cls(rows, {**unreadable, **failed}, sum(plan.unmapped for plan in plans))

    @property
    def exposures(self) -> dict[str, Exposure]:
        """By currency."""
        found: dict[str, Exposure] = defaultdict(Exposure)
        for row in self.rows:
            if row.money is not None:
                found[row.money.currency].add(row.money)
        return dict(sorted(found.items()))

    @property
    def unpriced(self) -> list[PlannedPeriod]:
        """Periods that a report changes by units whose money is not known."""
        return [row for row in self.rows if row.sends and row.money is None]

    @property
    def is_deliverable(self) -> bool:
        """Whether nothing is held, refused or rejected, and nothing is unknown."""
        return not self.unreadable and not any(row.status.is_undelivered for row in self.rows)


@dataclass(slots=True)
class Planner:
    """Makes a plan of the reports of a dry run; a price is asked for once, with its tiers."""

    billing: Billing
    ledger: Ledger
    _pricings: dict[str, Pricing | UsageReportingError] = field(default_factory=dict)

    async def plan(self, reports: Iterable[Report], priced: Callable[[], None] = lambda: None) -> Plan:
        """The plan; `priced` is called after each customer meter. Raises LedgerUnavailableError."""
        by_pk: dict[str, list[Report]] = defaultdict(list)
        for report in reports:
            if not report.customer_meter.is_beside:
                by_pk[_pk(report.customer_meter)].append(report)
        rows: list[PlannedPeriod] = []
        for several in by_pk.values():
            rows += await self._rows(several)
            priced()
        return Plan(_biggest_first(rows), dict(self.billing.unreadable), len(self.billing.unmapped))

    async def _rows(self, reports: Sequence[Report]) -> list[PlannedPeriod]:
        """The periods of a customer meter, which may be there by its subscription and by a draft."""
        # Both may plan what is sent for the ended period; in earnest, the second one finds it done.
        sends = list({send.slice_start: send for report in reports for send in report.sent}.values())
        rows: dict[tuple[str, str, int], PlannedPeriod] = {}
        for report in reports:
            for prospect in filter(_is_billed, report.prospects):
                rows[prospect.span.key] = await self._row(report, prospect, sends)
            for span in report.customer_meter.spans:
                is_billed = span.state is not SpanState.BESIDE
                if is_billed and report.status.is_undelivered and not _is_among(span, rows):
                    rows[span.key] = _unread(report, span)
        return list(rows.values())

    async def _row(self, report: Report, prospect: Prospect, sends: Sequence[Send]) -> PlannedPeriod:
        one, span = report.customer_meter, prospect.span
        before = await self._told_before(one, span, prospect.since)
        held, measured = prospect.held + before, prospect.metered + before
        row = PlannedPeriod(
            customer=one.customer,
            account=one.account,
            meter=one.openmeter_meter,
            span=span,
            status=report.status,
            reason=report.reason,
            held=held,
            measured=measured,
            sends=_sent_in(one.target, span, sends, held),
        )
        return await self._priced(row)

    async def _told_before(self, one: CustomerMeter, span: Span, since: int) -> Decimal:
        """What Stripe was told of a long period before the time that reports read: that stays as it is."""
        if one.target is not Target.MIRROR or span.start >= since:
            return ZERO
        keys = [(one.pk, day) for day in days_between(span.start, since)]
        entries = await self.ledger.entries(keys)
        told = [
            send.value
            for entry in entries.values()
            for send in entry.sends.values()
            if send.counts and span.start <= send.stamp < since
        ]
        return sum(told, ZERO)

    async def _priced(self, row: PlannedPeriod) -> PlannedPeriod:
        try:
            pricing = await self._pricing(row.span)
        except UsageReportingError as error:
            return replace(row, unpriced=error.reason)
        amounts = [pricing.amount(units or ZERO) for units in (row.held, row.planned, row.measured)]
        now, planned, measured = [ZERO] * 3 if row.is_free else amounts
        return replace(row, money=Money(pricing.currency, now, planned, measured))

    async def _pricing(self, span: Span) -> Pricing:
        if span.currency:
            raise RefusedError(
                f"it is billed in {span.currency.upper()}, another currency than that of price {span.price}"
            )
        if span.price not in self._pricings:
            try:
                self._pricings[span.price] = await self.billing.pricing(span.price)
            except UsageReportingError as error:
                self._pricings[span.price] = error
        found = self._pricings[span.price]
        if isinstance(found, UsageReportingError):
            raise found
        return found


def _pk(one: CustomerMeter) -> str:
    # What was refused because nothing could be told of it may have no span.
    return one.pk if one.meter or one.spans else f"{one.customer}#{one.openmeter_meter}"


def _is_billed(prospect: Prospect) -> bool:
    """Whether an invoice is to bill it: what is held beside a legacy price is on none."""
    return prospect.span.state is not SpanState.BESIDE


def _biggest_first(rows: Iterable[PlannedPeriod]) -> list[PlannedPeriod]:
    """The biggest mover of each currency, then the second of each: yen and dollars do not compare."""
    by_currency: dict[str, list[PlannedPeriod]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.customer, row.span.start)):
        by_currency[row.currency].append(row)
    ranked: list[tuple[int, str, PlannedPeriod]] = []
    for currency, several in sorted(by_currency.items()):
        several.sort(key=lambda row: row.size, reverse=True)
        ranked += [(rank, currency, row) for rank, row in enumerate(several)]
    return [row for _, _, row in sorted(ranked, key=lambda one: one[:2])]


def _unread(report: Report, span: Span) -> PlannedPeriod:
    one = report.customer_meter
    return PlannedPeriod(one.customer, one.openmeter_meter, span, report.status, report.reason)


def _is_among(span: Span, rows: Mapping[tuple[str, str, int], PlannedPeriod]) -> bool:
    """Whether a span was read: where a price was put on in its course, it begins later than Stripe shows."""
    return any(
        (row.span.item, row.span.price, row.span.end) == (span.item, span.price, span.end)
        for row in rows.values()
    )


def _sent_in(target: Target, span: Span, sends: Sequence[Send], held: Decimal) -> Decimal:
    """By how much the sends change what Stripe bills of a span; a total takes the place of the one before."""
    own = sorted((send for send in sends if span.holds(send.stamp)), key=lambda send: send.stamp)
    if target is Target.MIRROR:
        return sum((send.value for send in own), ZERO)
    return own[-1].value - held if own else ZERO
