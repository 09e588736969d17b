"""Takes Stripe's reports of meter events that it refused after it had accepted them into the ledger.

A report is a hint like any other event: it is fetched. The events that it names are led back to their
entries and discarded, so that the next report finds the difference; if it does not name all, its window is
kept, and every other send of that Stripe meter in it is doubted (see `doubts`). Of an event that was streamed
only its request is named: then all that the request carried is doubted, unless it was all refused.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.customer_meters import OWN_ACCOUNT
from usage_reporting.doubts import Doubts
from usage_reporting.error_reports import (
    ErrorReport,
    Remedy,
    SentAs,
    advice_for,
    event_id,
    read_report,
    remedy_for,
    sent_as,
)
from usage_reporting.errors import LostRaceError
from usage_reporting.heads import LONG_AGO
from usage_reporting.ledger import Head, Key, Ledger
from usage_reporting.meter_event_stream import CARRIED, carried_pk, is_streamed
from usage_reporting.model import Send, Status
from usage_reporting.stripe_api import StripeApi
from usage_reporting.windows import rfc3339

RACES = 6

Json = dict[str, Any]


_Found = defaultdict[Key, dict[str, str]]
"""Codes of refusals by identifier, by ledger entry."""


@dataclass(frozen=True, slots=True)
class _Streamed:
    """A request of the stream: what it carried, and the codes of those of it that were refused."""

    identifiers: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def codes(self) -> dict[SentAs, str]:
        """The refusal that each of its sends may have met."""
        code = self.refusals[0] if len(set(self.refusals)) == 1 else ""
        return {sent: code for name in self.identifiers if (sent := sent_as(name)) is not None}

    def is_all_of(self, carried: _Found) -> bool:
        """Whether as many were refused as the request carried for the meters in question."""
        return len(self.refusals) >= sum(len(named) for named in carried.values())


@dataclass(frozen=True, slots=True)
class Discarded:
    """One of our sends that Stripe took and does not count."""

    pk: str
    send: Send

    def __str__(self) -> str:
        return (
            f"{self.pk.split('#')[2]}: Stripe discarded {to_wire(self.send.value)} units of "
            f"{rfc3339(self.send.stamp)} after it had taken them ({self.send.code}): "
            f"{advice_for(self.send.code)}"
        )


@dataclass(slots=True)
class Taken:
    """What came of a report."""

    discarded: list[Discarded] = field(default_factory=list)
    is_doubted: bool = False
    """Whether other sends of the window are in doubt now."""

    @property
    def alarming(self) -> int:
        """The customer meters that somebody has to look at."""
        return len({one.pk for one in self.discarded if remedy_for(one.send.code) is not Remedy.RESEND})

    @property
    def unbillable(self) -> Decimal:
        """Units that are too old for any meter event by now."""
        old = [one.send.value for one in self.discarded if one.send.code == "timestamp_too_far_in_past"]
        return sum(old, ZERO)

    @property
    def outcome(self) -> tuple[str, str]:
        """Status and reason of the answer to Stripe."""
        if self.discarded:
            return Status.REJECTED.value, "; ".join(str(one) for one in self.discarded)
        if self.is_doubted:
            return Status.DOUBTED.value, "Stripe did not name all that it refused; the summaries will tell"
        return "not_ours", "none of the refused events was sent from here"


@dataclass(slots=True)
class Rejections:
    """Leads refused meter events back to the ledger. Raises LostRaceError when others keep writing it."""

    api: StripeApi
    ledger: Ledger
    clock: Callable[[], int]

    async def take(self, event: Json) -> Taken:
        """Fetch the report that a thin event tells of, and put it into the ledger.

        Raises BadRequestError, NotFoundError, RejectedError or AskAgainError.
        """
        report = read_report(await self.api.get(f"/v2/core/events/{event_id(event)}"))
        codes = {sent: one.code for one in report.samples if (sent := sent_as(one.request)) is not None}
        streamed = await self._streamed(report)
        meters = [report.meter] if report.meter else await self._meters() if codes or streamed else []
        found = await self._found(report, codes, meters)
        suspected: _Found = defaultdict(dict)
        for request in streamed:
            carried = await self._found(report, request.codes, meters)
            for key, named in carried.items():
                (found if request.is_all_of(carried) else suspected)[key] |= named
        taken = Taken(is_doubted=bool(suspected))
        for key, named in found.items():
            taken.discarded += await self._discard(key, named)
        await asyncio.gather(*(self._suspect(key, named) for key, named in suspected.items()))
        if not report.is_complete:
            # What is in no meter was meant for the meters of the samples, so far as any of it is ours.
            ours = sorted({pk.split("#")[3] for pk, _ in (*found, *suspected)})
            doubted = [report.meter] if report.meter else ours
            for meter in doubted:
                await self._doubt(report, meter)
            taken.is_doubted = taken.is_doubted or bool(doubted)
        return taken

    async def _streamed(self, report: ErrorReport) -> list[_Streamed]:
        """The requests of the stream that the samples name, with what each carried."""
        refusals: dict[str, list[str]] = defaultdict(list)
        for one in report.samples:
            if is_streamed(one.request):
                refusals[one.request].append(one.code)
        keys = [(carried_pk(OWN_ACCOUNT, report.mode, request), CARRIED) for request in refusals]
        known = await self.ledger.items(keys)
        return [
            _Streamed(tuple(map(str, known[key]["identifiers"])), tuple(codes))
            for key, codes in zip(keys, refusals.values(), strict=True)
            if key in known
        ]

    async def _meters(self) -> list[str]:
        """All Stripe meters: an event that found none does not say which one it was meant for."""
        return [meter["id"] async for page in self.api.pages("/v1/billing/meters") for meter in page]

    async def _found(self, report: ErrorReport, codes: Mapping[SentAs, str], meters: Sequence[str]) -> _Found:
        """The entries that hold these sends: codes by identifier."""
        places = [
            (key, sent)
            for sent in codes
            for meter in meters
            for key in sent.keys(OWN_ACCOUNT, report.mode, meter)
        ]
        entries = await self.ledger.entries(list(dict.fromkeys(key for key, _ in places)))
        found: _Found = defaultdict(dict)
        for key, sent in places:
            if sent.identifier in entries[key].sends:
                found[key][sent.identifier] = codes[sent]
        return found

    async def _discard(self, key: Key, codes: Mapping[str, str]) -> list[Discarded]:
        """Mark sends of one entry as discarded, and have the whole customer meter read again."""
        for _ in range(RACES):
            entry = (await self.ledger.entries([key]))[key]
            after = entry.discarding(codes)
            if after == entry:
                return []
            try:
                await self.ledger.write_entry(after, self.clock())
            except LostRaceError:
                continue
            await self._read_again(key[0])
            gone = [send for name, send in after.sends.items() if entry.sends[name] != send]
            return [Discarded(key[0], send) for send in gone]
        raise LostRaceError("others keep writing the entry of a discarded meter event")

    async def _suspect(self, key: Key, codes: Mapping[str, str]) -> None:
        """Doubt sends of one entry, some of whose request Stripe refused: the summaries will tell which."""
        pk, sk = key
        for _ in range(RACES):
            entry = (await self.ledger.entries([key]))[key]
            after = entry.doubting(codes)
            if after == entry:
                return
            try:
                await self.ledger.write_entry(after, self.clock())
            except LostRaceError:
                continue
            if not sk.isdigit():  # the entry of a span is read by every report anyhow
                await self._change_head(pk, lambda head: replace(head, doubtful=head.doubtful | {sk}))
            return
        raise LostRaceError("others keep writing the entry of a doubted meter event")

    async def _read_again(self, pk: str) -> None:
        await self._change_head(pk, lambda head: replace(head, full_read_at=LONG_AGO))

    async def _change_head(self, pk: str, change: Callable[[Head], Head]) -> None:
        for _ in range(RACES):
            head = (await self.ledger.heads([pk])).get(pk)
            if head is None:
                return
            try:
                await self.ledger.write_head(change(head), self.clock())
            except LostRaceError:
                continue
            return
        raise LostRaceError("others keep writing the head of a refused meter event")

    async def _doubt(self, report: ErrorReport, meter: str) -> None:
        pk = f"{OWN_ACCOUNT}#{report.mode}#{meter}"
        for _ in range(RACES):
            _, known = await self.ledger.page([], [pk])
            before = known.get(pk, Doubts(pk))
            after = before.with_window(report.event, report.start, report.end, self.clock())
            if after == before:
                return
            try:
                await self.ledger.write_doubts(after, self.clock())
            except LostRaceError:
                continue
            return
        raise LostRaceError("others keep writing the doubts of a Stripe meter")
