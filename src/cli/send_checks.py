"""Whether the sends of a ledger entry are what was written: identifiers hold a hash of the facts; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import combinations

from cli.adoption import ADOPTED
from usage_reporting.amounts import ZERO
from usage_reporting.identifiers import Identifier
from usage_reporting.ledger import Entry
from usage_reporting.model import Send, Target
from usage_reporting.targets import last, mirror, usage_record
from usage_reporting.totalling import KEPT_SENDS
from usage_reporting.windows import floor_hour

_AT_MOST = 8
"""Sends of which it is open whether they counted when a later one was made: each doubles what is tried."""


class Mark(StrEnum):
    """What a send's identifier says of it."""

    FITS = "fits"
    """It was made for just this stamp and value."""
    ADOPTED = "adopted"
    """`adopt` wrote it from what Stripe held: such an identifier proves nothing."""
    CHANGED = "changed"
    """It was made for another stamp or value, or by nobody of ours."""
    UNTOLD = "untold"
    """It rests on what was sent before, and that is changed or gone."""


@dataclass(frozen=True, slots=True)
class CheckedSend:
    """A send and what its identifier says of it."""

    send: Send
    mark: Mark = Mark.FITS
    was: Decimal | None = None
    """The value that the identifier was made for, where that could be found out."""


@dataclass(frozen=True, slots=True)
class MissingSends:
    """Sends that later ones of their slice were numbered after, and that are gone."""

    slice_start: int
    """UTC seconds."""
    count: int


@dataclass(slots=True)
class EntryCheck:
    """What the identifiers of an entry say."""

    sends: dict[str, CheckedSend] = field(default_factory=dict)
    missing: list[MissingSends] = field(default_factory=list)


def check_entry(entry: Entry, target: Target, hints: Mapping[int, Decimal] | None = None) -> EntryCheck:
    """Check every send of an entry.

    `hints`: by how much Stripe's summary is above what the entry says, by UTC hour (where the last value
    counts, and of a usage record, by the entry's start); tried to find out what a changed value was.
    """
    found = EntryCheck()
    known = hints or {}
    for send in sorted(entry.sends.values(), key=_order):
        found.sends[send.identifier] = _checked(entry, target, send, found, known)
    if target is Target.MIRROR:
        found.missing = list(_missing(entry.sends.values()))
    return found


def _checked(
    entry: Entry, target: Target, send: Send, so_far: EntryCheck, hints: Mapping[int, Decimal]
) -> CheckedSend:
    if send.identifier.startswith(f"{ADOPTED}."):
        return CheckedSend(send, Mark.ADOPTED)
    identifier = Identifier.read(send.identifier)
    if identifier is None or identifier.start != send.slice_start:
        return CheckedSend(send, Mark.CHANGED)
    before = [one for one in so_far.sends.values() if one.send.identifier != send.identifier]
    hint = hints.get(floor_hour(send.slice_start) if target is Target.MIRROR else int(entry.sk), ZERO)
    for value in dict.fromkeys((send.value, send.value + hint)):
        if any(identifier.names(entry.pk, *facts) for facts in _facts(target, send, value, before)):
            is_own = value == send.value
            return CheckedSend(send, Mark.FITS if is_own else Mark.CHANGED, None if is_own else value)
    return CheckedSend(
        send, Mark.UNTOLD if _rests_on_nothing(entry, target, identifier, before) else Mark.CHANGED
    )


def _facts(
    target: Target, send: Send, value: Decimal, before: Sequence[CheckedSend]
) -> Iterator[tuple[str, ...]]:
    """The facts that a send may have been made of: what Stripe held before it is not kept."""
    if target is Target.USAGE_RECORD:
        yield usage_record.facts(send.stamp, value, send.intended_at)
    elif target is Target.LAST:
        for held in dict.fromkeys([ZERO, *(_true(one) for one in reversed(before))]):
            yield last.facts(send.stamp, held, value)
    else:
        for mirrored in _mirrored(send, before):
            yield mirror.facts(send.stamp, mirrored, value)


def _mirrored(send: Send, before: Sequence[CheckedSend]) -> Iterator[Decimal]:
    """What Stripe may have held of a send's slice: first all of it that counts now.

    What was discarded since counted then; and where a bound was known only later, the slice was another.
    """
    hour = floor_hour(send.slice_start)
    of_hour = [one for one in before if floor_hour(one.send.stamp) == hour]
    own = [one for one in of_hour if one.send.slice_start == send.slice_start]
    certain = [one for one in own if one.send.counts]
    yield sum((_true(one) for one in certain), ZERO)
    some = of_hour[-_AT_MOST:]
    rest = sum((_true(one) for one in of_hour[:-_AT_MOST] if one in certain), ZERO)
    for size in range(len(some) + 1):
        for chosen in combinations(some, size):
            yield rest + sum((_true(one) for one in chosen), ZERO)


def _true(one: CheckedSend) -> Decimal:
    """The value that a send was made with, as far as it is known."""
    return one.send.value if one.was is None else one.was


def _rests_on_nothing(
    entry: Entry, target: Target, identifier: Identifier, before: Sequence[CheckedSend]
) -> bool:
    """Whether what a send was computed from is changed or gone, so that its identifier cannot be checked."""
    if target is Target.USAGE_RECORD:
        return False
    if target is Target.LAST:
        is_first_kept = not before and len(entry.sends) >= KEPT_SENDS
        return is_first_kept or any(one.mark is Mark.CHANGED for one in before)
    own = [one for one in before if one.send.slice_start == identifier.start]
    used = sum(1 for one in own if one.send.uses_identifier)
    return used < identifier.sequence or any(
        one.mark in {Mark.CHANGED, Mark.UNTOLD} and one.was is None for one in own
    )


def _missing(sends: Iterable[Send]) -> Iterator[MissingSends]:
    by_slice: dict[int, list[Send]] = {}
    for send in sends:
        by_slice.setdefault(send.slice_start, []).append(send)
    for start, several in sorted(by_slice.items()):
        gaps = []
        for send in several:
            identifier = Identifier.read(send.identifier)
            if identifier is not None:
                earlier = [one for one in several if one is not send and _order(one) < _order(send)]
                gaps.append(identifier.sequence - sum(1 for one in earlier if one.uses_identifier))
        if max(gaps, default=0) > 0:
            yield MissingSends(start, max(gaps))


def _order(send: Send) -> tuple[int, int, int]:
    identifier = Identifier.read(send.identifier)
    return (send.intended_at, identifier.sequence if identifier else -1, send.stamp)
