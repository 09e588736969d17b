"""Takes Stripe's reports of meter events that it refused after it had accepted them into the ledger.

A report is a hint like any other event: it is fetched. The events that it names are led back to their
entries and discarded, so that the next report finds the difference; if it does not name all, its window is
kept, and every other send of that Stripe meter in it is doubted (see `doubts`). Of an event that was streamed
only its request is named: then all that this carried is doubted, unless all was refused, for a known reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.doubts import Doubts
from usage_reporting.error_reports import (
    ErrorReport,
    Remedy,
    SentAs,
    advice_for,
    event_id,
    is_known,
    read_report,
    remedy_for,
    sent_as,
)
from usage_reporting.errors import LostRaceError
from usage_reporting.heads import LONG_AGO
from usage_reporting.ledger import Item, Key, Ledger
from usage_reporting.meter_event_stream import CARRIED, carried_pk, is_streamed
from usage_reporting.model import Send, SendState, Status
from usage_reporting.side_by_side import all_ended
from usage_reporting.stripe_api import StripeApi
from usage_reporting.windows import rfc3339

RACES = 6

Json = dict[str, Any]


_Found = defaultdict[Key, dict[str, str]]
"""Codes of refusals by identifier, by ledger entry."""


@dataclass(frozen=True, slots=True)
class _Streamed:
    """A request of the stream that a report names."""

    item: Item
    """As the ledger keeps it; empty when it knows nothing of it."""
    refusals: tuple[str, ...]
    """The codes of those of it that were refused."""

    def was_told_of(self, event: str) -> bool:
        """Whether the report was taken before: what was settled since must not be doubted anew."""
        return event in self.item.get("reports", ())

    @property
    def codes(self) -> dict[SentAs, str]:
        """The refusal that each of its sends may have met."""
        code = self.refusals[0] if len(set(self.refusals)) == 1 else ""
        names = map(str, self.item.get("identifiers", ()))
        return {sent: code for name in names if (sent := sent_as(name)) is not None}

    def is_all_of(self, carried: _Found) -> bool:
        """Whether as many were refused as the request carried for the meters in question, and for certain."""
        is_certain = all(is_known(code) for code in self.refusals)
        return is_certain and len(self.refusals) >= sum(len(named) for named in carried.values())

    def with_report(self, event: str) -> Item:
        """What the ledger keeps once a report of refusals was taken."""
        reports = [*self.item.get("reports", ()), event]
        return {**self.item, "reports": reports, "version": self.item["version"] + 1}


@dataclass(frozen=True, slots=True)
class Discarded:
    """One of our sends that Stripe took and does not count."""

    pk: str
    send: Send

    @property
    def customer(self) -> str:
        """The Stripe customer whose usage it is."""
        return self.pk.split("#")[2]

    @property
    def reason(self) -> str:
        """What was discarded and why, and what to do."""
        return (
            f"Stripe discarded {to_wire(self.send.value)} units of {rfc3339(self.send.stamp)} after it had "
            f"taken them ({self.send.code}): {advice_for(self.send.code)}"
        )

    def __str__(self) -> str:
        return f"{self.customer}: {self.reason}"


@dataclass(slots=True)
class Taken:
    """What came of a report."""

    discarded: list[Discarded] = field(default_factory=list)
    is_doubted: bool = False
    """Whether other sends of the window are in doubt now."""
    unnamed: list[str] = field(default_factory=list)
    """The codes of refusals of which it is not known yet whom they met."""

    @property
    def alarming(self) -> int:
        """The customer meters that somebody has to look at, or will have to."""
        named = {one.pk for one in self.discarded if remedy_for(one.send.code) is not Remedy.RESEND}
        return len(named) + sum(remedy_for(code) is not Remedy.RESEND for code in self.unnamed)

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
            codes = f" ({', '.join(sorted(set(self.unnamed)))})" if self.unnamed else ""
            what = f"Stripe did not name all that it refused{codes}; the summaries will tell"
            return Status.DOUBTED.value, what
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
        streamed = await self._streamed(report)
        new = [request for request in streamed if not request.was_told_of(report.event)]
        taken = Taken(is_doubted=len(new) < len(streamed))
        refused, suspected = await self._told_apart(report, new, taken)
        keys = list(dict.fromkeys((*refused, *suspected)))
        await all_ended(self._put(key, refused.get(key, {}), suspected.get(key, {}), taken) for key in keys)
        if not report.is_complete or not all(request.item for request in streamed):
            # What is in no meter was meant for the meters of the samples, so far as any of it is ours.
            ours = sorted({pk.split("#")[3] for pk, _ in keys})
            doubted = [report.meter] if report.meter else ours
            for meter in doubted:
                await self._doubt(report, meter)
            taken.is_doubted = taken.is_doubted or bool(doubted)
        known = [request for request in new if request.item]
        await all_ended(
            self.ledger.write_item(one.with_report(report.event), one.item["version"]) for one in known
        )
        return taken

    async def _told_apart(
        self, report: ErrorReport, streamed: Sequence[_Streamed], taken: Taken
    ) -> tuple[_Found, _Found]:
        """Of what was sent from here: what Stripe refused, and what it may have."""
        codes = {sent: one.code for one in report.samples if (sent := sent_as(one.request)) is not None}
        meters = [report.meter] if report.meter else await self._meters() if codes or streamed else []
        refused = await self._found(report, codes, meters)
        suspected: _Found = defaultdict(dict)
        for request in streamed:
            carried = await self._found(report, request.codes, meters)
            is_certain = request.is_all_of(carried)
            if carried and not is_certain:
                taken.unnamed += request.refusals
            for key, named in carried.items():
                (refused if is_certain else suspected)[key] |= named
        return refused, suspected

    async def _streamed(self, report: ErrorReport) -> list[_Streamed]:
        """The requests of the stream that the samples name, with what each carried."""
        refusals: dict[str, list[str]] = defaultdict(list)
        for one in report.samples:
            if is_streamed(one.request):
                refusals[one.request].append(one.code)
        keys = [(carried_pk(self.api.account, report.mode, request), CARRIED) for request in refusals]
        known = await self.ledger.items(keys)
        return [
            _Streamed(known.get(key, {}), tuple(codes))
            for key, codes in zip(keys, refusals.values(), strict=True)
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
            for key in sent.keys(self.api.account, report.mode, meter)
        ]
        entries = await self.ledger.entries(list(dict.fromkeys(key for key, _ in places)))
        found: _Found = defaultdict(dict)
        for key, sent in places:
            if sent.identifier in entries[key].sends:
                found[key][sent.identifier] = codes[sent]
        return found

    async def _put(
        self, key: Key, refused: Mapping[str, str], suspected: Mapping[str, str], taken: Taken
    ) -> None:
        """Mark sends of one entry as discarded or doubted, and have the next report look after them."""
        pk, sk = key
        for _ in range(RACES):
            entry = (await self.ledger.entries([key]))[key]
            after = entry.refusing(refused, suspected)
            if after != entry:
                try:
                    await self.ledger.write_entry(after, self.clock())
                except LostRaceError:
                    continue
            told = [send for name, send in after.sends.items() if name in refused or name in suspected]
            gone = [send for send in told if send != entry.sends[send.identifier] and not send.counts]
            is_doubted = any(send.state is SendState.DOUBTED for send in told)
            # The entry of a span is read by every report anyhow.
            await self._change_head(
                pk, read_all=bool(gone), doubted={sk} if is_doubted and not sk.isdigit() else set()
            )
            taken.discarded += [Discarded(pk, send) for send in gone]
            taken.is_doubted = taken.is_doubted or is_doubted
            return
        raise LostRaceError("others keep writing the entry of a refused meter event")

    async def _change_head(self, pk: str, *, read_all: bool, doubted: AbstractSet[str]) -> None:
        """Have the whole customer meter read again, or the entries with doubted sends."""
        for _ in range(RACES):
            head = (await self.ledger.heads([pk])).get(pk)
            if head is None:
                return
            full_read_at = LONG_AGO if read_all else head.full_read_at
            after = replace(head, full_read_at=full_read_at, doubtful=head.doubtful | doubted)
            if after == head:
                return
            try:
                await self.ledger.write_head(after, self.clock())
            except LostRaceError:
                continue
            return
        raise LostRaceError("others keep writing the head of a refused meter event")

    async def _doubt(self, report: ErrorReport, meter: str) -> None:
        pk = f"{self.api.account}#{report.mode}#{meter}"
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
