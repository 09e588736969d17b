"""All that the console shows, read in batches and kept for some seconds; a part that fails stops no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from cli.desk.period_reader import PeriodReader, Periods
from cli.desk.periods import Condition, Key, Period, counts
from cli.desk.reading import FRESH_S, PATIENCE_S, Reading
from cli.desk.traffic import Traffic, Verdicts
from cli.desk.traffic_reader import TrafficReader
from cli.evidence import InvoiceEvidence
from cli.evidence_reader import EvidenceReader
from cli.explain import evidence_of
from cli.wiring import Operator
from usage_reporting.config import Mode
from usage_reporting.windows import rfc3339

PAGE = 100
"""Periods on a page."""
MOST_EVIDENCE = 20
"""Customers and invoices whose evidence is kept."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What `explain` finds of a customer or an invoice."""

    invoices: Sequence[InvoiceEvidence]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Query:
    """What of the periods is to be seen."""

    text: str = ""
    """A part of a customer's name or id, of a meter, a subscription or an invoice."""
    condition: str = ""
    """The word of a Condition; empty: any."""
    page: int = 1

    def takes(self, period: Period) -> bool:
        """Whether a period is to be seen."""
        if self.condition and period.condition != self.condition:
            return False
        wanted = self.text.casefold()
        told = (period.name, period.customer, period.meter, period.subscription, period.invoice)
        return not wanted or any(wanted in one.casefold() for one in told)


@dataclass(frozen=True, slots=True)
class Shown:
    """One page of the periods."""

    query: Query
    periods: Sequence[Period]
    found: int
    """How many periods the query takes."""
    counts: dict[Condition, int]
    """Of all periods."""
    pages: int


class Desk:
    """Reads with one command's parts, on one event loop; the seconds are those of `Reading`."""

    def __init__(
        self, parts: Operator, *, fresh_s: float = FRESH_S, patience_s: float | None = PATIENCE_S
    ) -> None:
        def reading[T](read: Callable[[], Awaitable[T]]) -> Reading[T]:
            return Reading(read, parts.clock, fresh_s=fresh_s, patience_s=patience_s)

        self.parts = parts
        self.periods = reading(self._read_periods)
        self.traffic = reading(self._read_traffic)
        self.verdicts = reading(TrafficReader(parts).verdicts)
        self._reader = PeriodReader(parts)
        self._shown: Sequence[Period] = ()
        self._held = reading(self._read_held)
        self._reading: Callable[[Callable[[], Awaitable[Evidence]]], Reading[Evidence]] = reading
        self._evidence: dict[str, Reading[Evidence]] = {}

    @property
    def readings(self) -> dict[str, Reading[Any]]:
        """The parts by the names that a page gives them."""
        return {
            "Periods": self.periods,
            "Stripe's summaries": self._held,
            "Sends": self.traffic,
            "Verdicts": self.verdicts,
        }

    @property
    def is_shadow(self) -> bool:
        """Whether the stack sends nothing."""
        return self.parts.settings.mode is Mode.SHADOW

    async def show(self, query: Query) -> Shown:
        """A page of the periods, with what Stripe's summaries show of each of them."""
        found = await self.periods.fresh()
        everything = found.periods if found else ()
        page = self._page(everything, query)
        if [one.key for one in page] != [one.key for one in self._shown]:
            self._held.forget()
        self._shown = page
        held = await self._held.fresh() if page else {}
        told = [_beside(one, (held or {}).get(one.key)) for one in page]
        taken = sum(map(query.takes, everything))
        return Shown(query, told, taken, counts(everything), max(1, ceil(taken / PAGE)))

    def evidence(self, what: str) -> Reading[Evidence]:
        """The chain of evidence of a customer or an invoice, by its id."""
        found = self._evidence.pop(what, None) or self._reading(lambda: self._read_evidence(what))
        self._evidence[what] = found
        while len(self._evidence) > MOST_EVIDENCE:
            oldest = next(iter(self._evidence))
            if self._evidence[oldest].is_under_way:
                break
            del self._evidence[oldest]
        return found

    def forget(self) -> None:
        """Have everything read anew: something was done to it."""
        for reading in (*self.readings.values(), *self._evidence.values()):
            reading.forget()

    async def close(self) -> None:
        """End what is being read."""
        for reading in (*self.readings.values(), *self._evidence.values()):
            await reading.close()

    async def document(self) -> dict[str, Any]:
        """Everything once, as one JSON document."""
        shown = await self.show(Query())
        found = self.periods.value or Periods()
        traffic, verdicts = await self.traffic.fresh(), await self.verdicts.fresh()
        first = {one.key: one for one in shown.periods}
        return {
            "read_at": rfc3339(self.parts.clock()),
            "nothing_is_sent": self.is_shadow,
            "problems": {name: one.error for name, one in self.readings.items() if one.error},
            "unreadable": found.unreadable,
            "items_without_om_meter_id": found.unmapped,
            "counts": {condition.value: number for condition, number in shown.counts.items()},
            "periods": [first.get(one.key, one).to_json() for one in found.periods],
            "traffic": (traffic or Traffic()).to_json(),
            "verdicts": (verdicts or Verdicts()).to_json(),
        }

    def _page(self, periods: Sequence[Period], query: Query) -> list[Period]:
        taken = [one for one in periods if query.takes(one)]
        first = (max(query.page, 1) - 1) * PAGE
        return taken[first : first + PAGE]

    async def _read_periods(self) -> Periods:
        return await self._reader.read(self.periods.value, self.periods.publish)

    async def _read_held(self) -> dict[Key, Period]:
        """What is asked of the periods on the page alone."""
        shown = {one.key: one for one in self._shown}
        if not self.periods.is_under_way:
            unread = [one for one in shown.values() if one.condition is Condition.READING]
            shown |= await self._reader.reported(unread)
        shown |= await self._reader.with_metered(list(shown.values()))
        return shown | await self._reader.with_held(list(shown.values()))

    async def _read_evidence(self, what: str) -> Evidence:
        found, notes = await evidence_of(EvidenceReader(self.parts, has_ledger=True), what)
        return Evidence(found, notes)

    async def _read_traffic(self) -> Traffic:
        found = await self.periods.newest()
        listed = [one.customer_meter for one in found.periods] if found else []
        return await TrafficReader(self.parts).traffic(listed)


def _beside(period: Period, asked: Period | None) -> Period:
    """A period with what was asked of it alone; its condition may be a newer one."""
    if asked is None:
        return period
    known = asked if period.metered is None or period.condition is Condition.READING else period
    return known if asked.held is None else known.with_held(asked.held)
