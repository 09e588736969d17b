"""Reads the ledger's sends and verdicts, and OpenMeter's hours beside them, in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from cli.desk.traffic import (
    DAYS_SHOWN,
    Traffic,
    UsageOfDay,
    Verdicts,
    refused_sends,
    sends_by_hour,
    usage_by_day,
)
from cli.wiring import Operator
from usage_reporting.amounts import ZERO
from usage_reporting.ledger import Entry, Key
from usage_reporting.model import CustomerMeter, Target
from usage_reporting.openmeter import MOST_SUBJECTS
from usage_reporting.verdict import VERDICT, Judgement, pk_of
from usage_reporting.windows import DAY, days_between, settled_until

MOST_READ = 200
"""Customer meters whose sends are read, the most urgent first: each has an entry a day."""
MOST_INVOICES = 300
MOST_REFUSALS = 50
_VERDICTS_OF = 7 * DAY


@dataclass(frozen=True, slots=True)
class TrafficReader:
    """Reads with one command's parts; nothing is written."""

    parts: Operator

    async def traffic(self, customer_meters: Sequence[CustomerMeter]) -> Traffic:
        """Of the first customer meters. Raises LedgerUnavailableError or what OpenMeter's client raises."""
        by_pk: dict[str, list[CustomerMeter]] = defaultdict(list)
        for one in customer_meters:
            by_pk[one.pk].append(one)
        read = dict(list(by_pk.items())[:MOST_READ])
        now = self.parts.clock()
        first = now // DAY * DAY - (DAYS_SHOWN - 1) * DAY
        keys = [key for pk, several in read.items() for key in _keys(pk, several, first, now)]
        entries = await self.parts.ledger.entries(list(dict.fromkeys(keys)))
        return Traffic(
            customer_meters=len(read),
            of=len(by_pk),
            hours=sends_by_hour(entries.values(), now),
            days=await self._days(read, entries, first, now),
            refusals=refused_sends(
                [(read[pk][0].customer, entry) for (pk, _), entry in entries.items()], MOST_REFUSALS
            ),
        )

    async def verdicts(self) -> Verdicts:
        """Of the invoices that became final within a week. Raises StripeUnavailableError."""
        keys: dict[str, Key] = {}
        async for page in self.parts.billing.finalized(self.parts.clock() - _VERDICTS_OF):
            for invoice in page.invoices:
                keys[invoice] = (pk_of(page.account, page.mode, invoice), VERDICT)
            if len(keys) >= MOST_INVOICES:
                break
        items = await self.parts.ledger.items(list(keys.values()))
        known = {name: Judgement.from_item(items[key]) for name, key in keys.items() if key in items}
        return Verdicts(
            [(invoice, line) for invoice, judgement in known.items() for line in judgement.lines],
            [invoice for invoice in keys if invoice not in known],
        )

    async def _days(
        self,
        read: dict[str, list[CustomerMeter]],
        entries: dict[Key, Entry],
        first: int,
        now: int,
    ) -> dict[str, list[UsageOfDay]]:
        """Of the meters whose hours add up: on the others days mean nothing."""
        by_meter: dict[str, set[str]] = defaultdict(set)
        pks: dict[str, set[str]] = defaultdict(set)
        for pk, several in read.items():
            one = several[0]
            if one.target is Target.MIRROR and one.openmeter_meter and one.subject and not one.refusal:
                by_meter[one.openmeter_meter].add(one.subject)
                pks[one.openmeter_meter].add(pk)
        found = {}
        for meter, subjects in sorted(by_meter.items()):
            metered = await self._metered(meter, sorted(subjects), first, now)
            told = [entry for (pk, _), entry in entries.items() if pk in pks[meter]]
            found[meter] = usage_by_day(metered, told, now)
        return found

    async def _metered(self, meter: str, subjects: Sequence[str], first: int, now: int) -> dict[int, Decimal]:
        summed: dict[int, Decimal] = defaultdict(lambda: ZERO)
        for begin in range(0, len(subjects), MOST_SUBJECTS):
            page = subjects[begin : begin + MOST_SUBJECTS]
            found = await self.parts.openmeter.hours(meter, page, first, settled_until(now))
            for hours in found.values():
                for hour, value in hours.items():
                    summed[hour] += value if value.is_finite() else ZERO
        return summed


def _keys(pk: str, customer_meters: Sequence[CustomerMeter], first: int, now: int) -> list[Key]:
    """The ledger's entries: of each UTC day, or of each period where it is told totals."""
    if customer_meters[0].target is Target.MIRROR:
        return [(pk, day) for day in days_between(first, now)]
    return [(pk, str(span.start)) for one in customer_meters for span in one.spans]
