"""Finds out whether Stripe counts a send that is doubted, by its hourly summaries.

Doubted is a send that lies in a window in which Stripe refused some events, and an intent of which no
answer came for so long that its identifier may not be recognised any more. Stripe's summary of its hour must
equal the sum of the other sends with it, or without it: twice the same, at least ten minutes apart, and not
before the summary had time to catch up. That it lacks a send is believed only where Stripe shows what it took
later, or after a day. Anything else is for a person.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from usage_reporting import advice
from usage_reporting.amounts import ZERO, is_same, to_wire
from usage_reporting.billing import Billing
from usage_reporting.doubts import Look
from usage_reporting.heads import LONG_AGO
from usage_reporting.hours import Case
from usage_reporting.ledger import Entry, Key, Ledger
from usage_reporting.model import Send, SendState, Status
from usage_reporting.sender import REPEATED_FOR
from usage_reporting.windows import DAY, HOUR, MINUTE, floor_hour, rfc3339

SUMMARIES_LAG = HOUR
"""For so long after a send Stripe's summaries may not show it: they come with no promise."""

SUMMARIES_SURE = DAY
"""After so long a summary is believed that lacks a send, even where nothing shows that it is fresh."""

LOOKS_APART = 10 * MINUTE

MOST_DOUBTED = 12
"""More doubted sends in one hour have too many explanations to try."""


def explanation(known: Decimal, doubted: Sequence[Send], held: Decimal) -> frozenset[str] | None:
    """The identifiers of those doubted sends that Stripe counts, given what its summary holds.

    None when there is no explanation, or two that differ in what a slice holds.
    """
    if len(doubted) > MOST_DOUBTED:
        return None
    found: dict[tuple[tuple[int, Decimal], ...], frozenset[str]] = {}
    for size in range(len(doubted), -1, -1):
        for counted in itertools.combinations(doubted, size):
            if is_same(known + sum((send.value for send in counted), ZERO), held):
                by_slice = {send.slice_start: ZERO for send in doubted}
                for send in counted:
                    by_slice[send.slice_start] += send.value
                found.setdefault(
                    tuple(sorted(by_slice.items())), frozenset(send.identifier for send in counted)
                )
    return next(iter(found.values())) if len(found) == 1 else None


@dataclass(slots=True)
class Settlement:
    """Doubts and settles the sends of mirrored customer meters."""

    billing: Billing
    ledger: Ledger
    clock: Callable[[], int]

    async def doubt_old_intents(self, entry: Entry) -> Entry:
        """The entry with intents that are too old to be repeated as doubted sends. Raises LostRaceError."""
        oldest = self.clock() - REPEATED_FOR
        old = [replace(one, state=SendState.DOUBTED) for one in entry.intents if one.intended_at < oldest]
        return await self.ledger.write_entry(entry.with_sends(old), self.clock()) if old else entry

    async def settle(self, case: Case) -> None:
        """Doubt what new windows concern, look at Stripe's summaries, and say what is not settled yet.

        Raises LostRaceError, RejectedError or StripeUnavailableError.
        """
        if not case.windows and not case.head.doubtful and not any(e.doubted for e in case.entries.values()):
            return
        if case.options.dry_run:
            for entry in case.entries.values():
                _note_all(case, entry)
            return
        is_done = await self._doubt(case)
        before = {key: entry for key, entry in case.entries.items() if entry.doubted}
        if is_done or _doubtful(case) - case.head.doubtful:
            # The head first: a settled send must not be doubted again for the same window.
            await self._remember(case, is_done=is_done)
        for key in before:
            case.entries[key] = await self._settled(case, key)
        has_discarded = any(_has_discarded(old, case.entries[key]) for key, old in before.items())
        if has_discarded or _doubtful(case) != case.head.doubtful:
            await self._remember(case, is_done=False, read_all=has_discarded)

    async def _doubt(self, case: Case) -> bool:
        """Mark the sends that new windows concern; whether these windows are done with."""
        is_done = bool(case.windows)
        for key, entry in case.entries.items():
            found = [
                send
                for send in entry.sends.values()
                if any(window.concerns(send, case.now) for window in case.windows)
            ]
            if any(send.state is SendState.INTENT for send in found):
                is_done = False
            marked = [
                replace(send, state=SendState.DOUBTED) for send in found if send.state is SendState.SENT
            ]
            if marked:
                case.entries[key] = await self.ledger.write_entry(entry.with_sends(marked), self.clock())
        return is_done

    async def _remember(self, case: Case, *, is_done: bool, read_all: bool = False) -> None:
        seen = max((window.number for window in case.windows), default=0) if is_done else 0
        head = replace(
            case.head,
            doubts_seen=max(seen, case.head.doubts_seen),
            doubtful=_doubtful(case),
            full_read_at=LONG_AGO if read_all else case.head.full_read_at,
        )
        case.head = await self.ledger.write_head(head, self.clock())

    async def _settled(self, case: Case, key: Key) -> Entry:
        """An entry after a look at each hour with doubted sends that can be looked at by now."""
        entry = before = case.entries[key]
        now = self.clock()
        hours = sorted({floor_hour(send.stamp) for send in entry.doubted})
        due = [hour for hour in hours if _is_due(entry, hour, now)]
        if due:
            later = _newest_known(case)
            held = await self._held(case, [*due, *([floor_hour(later.stamp)] if later else [])])
            shown_until = later.told_at if later and _shows(case, later, held) else 0
            for hour in due:
                entry = _looked(entry, hour, held.get(hour, ZERO), now, shown_until)
        if entry != before:
            entry = await self.ledger.write_entry(entry, now)
        _note_all(case, entry)
        return entry

    async def _held(self, case: Case, hours: Sequence[int]) -> dict[int, Decimal]:
        meter = case.customer_meter.meter
        assert meter is not None
        return await self.billing.hours_held(
            case.customer_meter.customer, meter.id, min(hours), max(hours) + HOUR
        )


def _doubtful(case: Case) -> frozenset[str]:
    """The entries with doubted sends: those that were read now, and others that the head knows of."""
    read = {sk for _, sk in case.entries}
    return frozenset(sk for (_, sk), entry in case.entries.items() if entry.doubted) | (
        case.head.doubtful - read
    )


def _of_hour(entry: Entry, hour: int) -> list[Send]:
    return [send for send in entry.sends.values() if send.counts and floor_hour(send.stamp) == hour]


def _is_due(entry: Entry, hour: int, now: int) -> bool:
    """Whether the summary of an hour is complete by now, and the last look long enough ago."""
    sends = _of_hour(entry, hour)
    newest = max(send.told_at for send in sends)
    look = entry.looks.get(hour)
    return (
        now >= hour + HOUR
        and now >= newest + SUMMARIES_LAG
        and not any(send.state is SendState.INTENT for send in sends)
        and (look is None or now >= look.at + LOOKS_APART)
    )


def _newest_known(case: Case) -> Send | None:
    """The send that Stripe took last for certain, in an hour without doubted ones."""
    everything = [send for entry in case.entries.values() for send in entry.sends.values()]
    odd = {floor_hour(send.stamp) for send in everything if send.counts and send.state is not SendState.SENT}
    known = [
        send for send in everything if send.state is SendState.SENT and floor_hour(send.stamp) not in odd
    ]
    return max(known, key=lambda send: send.told_at, default=None)


def _shows(case: Case, later: Send, held: Mapping[int, Decimal]) -> bool:
    """Whether the summary of its hour holds a send with all others of that hour."""
    hour = floor_hour(later.stamp)
    units = sum((send.value for entry in case.entries.values() for send in _of_hour(entry, hour)), ZERO)
    return is_same(held.get(hour, ZERO), units)


def _looked(entry: Entry, hour: int, held: Decimal, now: int, shown_until: int) -> Entry:
    """The entry after a look at the summary of an hour: a second like the first settles it.

    `shown_until`: when a send was made that Stripe's summaries are known to show. That one is missing counts
    only where the doubted ones were made before that, or the missing a day ago: summaries come with no
    promise, and what is only late must not be sent again.
    """
    doubted = [send for send in _of_hour(entry, hour) if send.state is SendState.DOUBTED]
    known = sum((send.value for send in _of_hour(entry, hour) if send.state is SendState.SENT), ZERO)
    look = Look(now, held, known, frozenset(send.identifier for send in doubted))
    first = entry.looks.get(hour)
    counted = explanation(known, doubted, held)
    if first is None or not first.shows_the_same(look):
        return replace(entry, looks={**entry.looks, hour: replace(look, is_repeated=False)})
    if counted is None:
        return replace(entry, looks={**entry.looks, hour: replace(look, is_repeated=True)})
    absent = [send for send in doubted if send.identifier not in counted]
    is_fresh = all(send.told_at < shown_until for send in doubted)
    if not is_fresh and any(now < send.told_at + SUMMARIES_SURE for send in absent):
        return entry
    sent = [replace(one, state=SendState.SENT, code="") for one in doubted if one.identifier in counted]
    discarded = {send.identifier: send.code for send in absent}
    looks = {other: kept for other, kept in entry.looks.items() if other != hour}
    return replace(entry.with_sends(sent).discarding(discarded), looks=looks)


def _note_all(case: Case, entry: Entry) -> None:
    for hour in sorted({floor_hour(send.stamp) for send in entry.doubted}):
        _note(case, entry, hour)


def _note(case: Case, entry: Entry, hour: int) -> None:
    """Say what of an hour is not settled, or cannot be."""
    doubted = [send for send in _of_hour(entry, hour) if send.state is SendState.DOUBTED]
    look = entry.looks.get(hour)
    units = to_wire(sum((send.value for send in doubted), ZERO))
    if look is not None and look.is_repeated:
        case.report.note(
            Status.HELD,
            f"Stripe's summary of the hour {rfc3339(hour)} holds {to_wire(look.held)} units, which does not "
            f"tell whether it counts {units} units that are doubted beside the {to_wire(look.known)} that "
            "are known: another reporter, or an event that was taken back? Find the cause, then run "
            + advice.adopt(case.customer_meter.customer),
        )
    elif any(_concerns(case, send) for send in doubted):
        case.report.note(
            Status.DOUBTED,
            f"it is not certain whether Stripe counts {units} units of the hour {rfc3339(hour)}; its "
            "summaries will tell, within a day at most",
        )


def _concerns(case: Case, send: Send) -> bool:
    """Whether a send matters to what is reported: of a closing period, that period's only."""
    is_closing = case.customer_meter.closing
    return not is_closing or any(span.holds(send.stamp) for span in case.customer_meter.spans)


def _has_discarded(before: Entry, after: Entry) -> bool:
    discarded = {one.identifier for one in after.sends.values() if one.state is SendState.DISCARDED}
    return any(before.sends[name].counts for name in discarded & before.sends.keys())
