"""Compares every final invoice line with what had to be billed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from sandbox.simulator.aggregations import aggregated
from sandbox.simulator.bills import Measures, is_same, quantity
from sandbox.simulator.findings import Findings
from sandbox.simulator.foretold import SHORTEST_LEGACY_PERIOD, Foretold, is_taken_back
from sandbox.simulator.history import History, Usage
from sandbox.simulator.looks import LISTED_BEFORE, RENEWAL_DELAY, Looks, holder_of
from sandbox.simulator.oracle import NEVER, Segment, running, segments
from sandbox.simulator.outcome import Line, Outcome, Received
from sandbox.simulator.totals import door_of, seen_from, seen_in_course

MINUTE = 60
HOUR = 3600
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is not as it has to be."""

    contract: str
    what: str

    def __str__(self) -> str:
        return f"{self.contract}: {self.what}"


@dataclass(slots=True)
class Verdict:
    """What became of one history."""

    periods: int = 0
    wrong: list[Wrong] = field(default_factory=list)
    over: int = 0
    under: int = 0
    held: int = 0
    """Lines whose usage was held when their quantity was fixed."""
    reports_held: int = 0
    """Reports that ended so, each time: most are released, or adopted, before that."""
    predicted: int = 0
    """Lines whose usage could not all be billed, as foretold from a fault."""
    converged_after_s: int = 0

    def add(self, other: Verdict, account: str) -> None:
        """Count what became of a connected account's history, too."""
        self.periods += other.periods
        self.wrong.extend(Wrong(f"{wrong.contract} of {account}", wrong.what) for wrong in other.wrong)
        self.over += other.over
        self.under += other.under
        self.held += other.held
        self.reports_held += other.reports_held
        self.predicted += other.predicted
        self.converged_after_s = max(self.converged_after_s, other.converged_after_s)


def judge(history: History, outcome: Outcome) -> Verdict:
    """The verdict on a history that was played."""
    played = replace(history, contracts=outcome.played.contracts, acts=outcome.played.acts)
    verdict = _Judge(played, outcome).verdict()
    verdict.wrong.extend(Wrong("?", f"MIXED UP: {what}") for what in outcome.mixed_up)
    for number, (other, came) in enumerate(zip(history.connected, outcome.connected, strict=True), 1):
        verdict.add(judge(other, came), f"account {number}")
    return verdict


@dataclass(frozen=True, slots=True)
class _Sums:
    """A segment in numbers."""

    used: list[Usage]
    truth: Decimal
    wanted: Decimal
    """What was used, and what a swap moved here."""
    in_time: Decimal
    too_late: Decimal
    counted: Decimal
    """What the product says is on no invoice."""
    is_shared: bool
    last_at: int
    """When Stripe received the last of it, UTC seconds."""


@dataclass(frozen=True, slots=True)
class _LeftOver:
    """Usage before a swap that had not been received by then."""

    moved: Decimal = ZERO
    """It goes to the new price, or is counted."""
    more: Decimal = ZERO
    """As much again may, where what was taken back came too late to make up for it."""
    counted: Decimal = ZERO
    """Of the swap's hour, where that hour is counted as a whole."""


class _Judge:
    def __init__(self, history: History, outcome: Outcome) -> None:
        self.history = history
        self.outcome = outcome
        self.looks = Looks(outcome)
        self.found = Verdict()
        self.usage: dict[tuple[str, str], list[Usage]] = defaultdict(list)
        for use in history.usage:
            self.usage[use.customer, use.meter].append(use)
        self.taken: dict[tuple[str, str], list[Received]] = defaultdict(list)
        for event in outcome.received:
            self.taken[event.customer, event.meter].append(event)
        self.lines = {(one.contract, one.item, one.start, one.end): one for one in outcome.lines}
        self.segments = [
            self.looks.closing(one, self.lines.get((one.contract, one.item, one.start, one.end)))
            for one in segments(history, RENEWAL_DELAY)
        ]
        self.with_running = [*self.segments, *running(history, RENEWAL_DELAY)]
        self.measures = Measures(history.bounds, self.with_running)
        self.followed = {(one.contract, one.place, one.start): one.item for one in self.with_running}
        self.swapped_at = {
            (one.contract, one.place, one.end)
            for one in self.segments
            if one.how in {"dropped", "received"} and not one.is_whole
        }
        self.findings = Findings.of(outcome.judged, self._used, outcome.struck)
        self.left_over: dict[tuple[str, int, int], _LeftOver] = defaultdict(_LeftOver)
        """By the place and instant of a swap."""
        still_running = {one.contract for one in self.with_running[len(self.segments) :]}
        canceled = {act.contract for act in history.acts if act.kind.startswith("cancel")} - still_running
        self.gone_at = {(act.contract, act.item): act.at for act in history.acts if act.kind == "remove"}
        customers = {contract.name: contract.customer for contract in history.contracts}
        self.deleted_at = {
            customers[act.contract]: act.at for act in history.acts if act.kind == "delete_customer"
        }
        self.over_at = {
            one.contract: one.end
            for one in sorted(self.segments, key=lambda one: one.end)
            if one.contract in canceled
        }

    def verdict(self) -> Verdict:
        lines = dict(self.lines)
        for segment in sorted(self.segments, key=lambda one: (one.contract, one.start)):
            line = lines.pop((segment.contract, segment.item, segment.start, segment.end), None)
            if segment.closes > self.history.end or (line is None and self._is_pending(segment)):
                continue  # a draft that a webhook still holds, or an invoice item without an invoice yet
            if segment.has_line:
                self.found.periods += 1
                self.found.held += self.looks.was_held(segment)
            if line is None and segment.has_line:
                self._wrong(segment, "no invoice has a line for it")
            else:
                self._segment(segment, line)
                self._finding(segment, line)
        self._rest(lines.values())
        self._reports()
        return self.found

    def _finding(self, segment: Segment, line: Line | None) -> None:
        """The product's own verdict; where a price was swapped, usage may be on either side."""
        place = segment.contract, segment.place
        near_a_swap = {(*place, segment.start), (*place, segment.end)} & self.swapped_at
        if line is None or line.finalized_at is None or segment.how not in {"draft", "free"} or near_a_swap:
            return
        if wrong := self.findings.wrong(segment, line):
            self._wrong(segment, wrong)

    def _is_pending(self, segment: Segment) -> bool:
        """Whether what a price had billed when it left waits for the subscription's next invoice."""
        return (
            segment.how == "received"
            and segment.contract not in self.over_at
            and not any(
                other.contract == segment.contract and other.end > segment.end and other.has_line
                for other in self.segments
            )
        )

    def _segment(self, segment: Segment, line: Line | None) -> None:
        if segment.how == "paused":
            counted = self._counted(segment.customer, holder_of(segment), segment.start, segment.end)
            if counted:
                self._wrong(segment, f"{counted} counted as on no invoice, though usage in a pause is free")
        elif segment.item.kind == "mirror":
            self._mirror(segment, line)
        else:
            self._total(segment, line)

    def _mirror(self, segment: Segment, line: Line | None) -> None:
        sums = self._sums(segment, line)
        if line is not None:
            self._finality(segment, line)
            if not is_same(line.quantity, max(sums.in_time, ZERO)):
                self._wrong(segment, f"billed {line.quantity}, but Stripe had received {sums.in_time}")
        known = _known(segment, sums)
        unseen = [u for u in sums.used if is_taken_back(u) and not self.looks.was_due(segment, u)]
        most = sums.wanted - aggregated(unseen) + self._left_over_to(segment).more
        if segment.how != "dropped" and sums.in_time > most and not is_same(sums.in_time, most):
            self._over(segment, f"billed {sums.in_time} of {sums.wanted} used")
        elif self._swapped_to_another(segment):
            moved, at_most = max(sums.wanted - known, ZERO), max(most - known, ZERO)
            counted_earlier = sums.counted - self._counted_in_hour(segment, segment.end)
            # Of a dropped segment what Stripe had received is counted, too.
            is_dropped = segment.how == "dropped"
            settled = max(sums.in_time, counted_earlier) if is_dropped else sums.in_time + counted_earlier
            unbilled = sums.wanted - settled
            left_over = _LeftOver(moved, at_most - moved, max(unbilled, moved) - moved)
            self.left_over[segment.contract, segment.place, segment.end] = left_over
        elif segment.how not in {"dropped", "free"} and not self._accounted(segment, sums, known, most):
            self._short(
                segment,
                f"billed {sums.in_time} of {sums.wanted} used, {sums.counted} counted as on no invoice",
            )
        if sums.too_late and not sums.is_shared and segment.how != "dropped":
            self._wrong(segment, f"{sums.too_late} sent after the quantity was fixed")
        # What is taken back may be seen in time or not.
        due = aggregated(use for use in sums.used if is_taken_back(use) or self.looks.was_due(segment, use))
        if sums.in_time < due and not is_same(sums.in_time, due):
            self._short(segment, f"billed {sums.in_time}, though {due} of {sums.truth} could be seen in time")
        if segment.how == "draft" and is_same(sums.in_time, sums.truth):
            took = sums.last_at - max([segment.end, *(use.seen_at for use in sums.used)])
            self.found.converged_after_s = max(self.found.converged_after_s, took)
        elif segment.how in {"draft", "received"} and not is_same(sums.in_time, sums.truth):
            self.found.predicted += 1

    def _sums(self, segment: Segment, line: Line | None) -> _Sums:
        used = self._used(segment)
        taken = [
            event
            for event in self.taken[segment.customer, segment.item.holder]
            if segment.start <= event.stamp < segment.end
        ]
        truth = aggregated(used)
        # In the second in which the quantity is fixed, the line alone tells what came before that.
        until = segment.closes
        if line is not None and is_same(line.quantity, max(_sum(taken, until - 1), ZERO)):
            until -= 1
        return _Sums(
            used=used,
            truth=truth,
            wanted=truth + self._left_over_to(segment).moved,
            in_time=_sum(taken, until),
            too_late=_sum(taken, NEVER) - _sum(taken, until),
            counted=self._counted(segment.customer, segment.item.holder, *self.measures.of(segment)),
            is_shared=self._shared(segment),
            last_at=max((event.at for event in taken), default=0),
        )

    def _swapped_to_another(self, segment: Segment) -> bool:
        """Whether a price was swapped: what had not been received goes to the new one, or is counted."""
        follower = self.followed.get((segment.contract, segment.place, segment.end))
        return segment.how in {"dropped", "received"} and follower not in {None, segment.item}

    def _accounted(self, segment: Segment, sums: _Sums, known: Decimal, most: Decimal) -> bool:
        """Whether all usage is billed, or counted as on no invoice.

        What is seen when nothing looks at a segment any more is not: after its end a subscription is in no
        list, and a ledger that was lost does not know of what had closed.
        """
        if is_same(known, sums.wanted) or sums.wanted < known <= most:
            return True
        if (segment.contract, segment.place, segment.start) in self.swapped_at:
            # Late usage of a swap's hour is counted with all of that hour.
            with_hour = known + self._counted_in_hour(segment, segment.start)
            before = self._left_over_to(segment).counted
            if is_same(with_hour, sums.wanted) or is_same(with_hour, sums.wanted + before):
                return True
        if sums.is_shared and segment.how == "received" and known < sums.wanted:
            return True  # the rest of its last hour was stamped behind it, and is the other price's to bill
        is_billed = is_same(sums.in_time, sums.wanted)
        if is_billed and sums.is_shared and self.looks.forgotten_at(segment) < math.inf:
            return True  # the ledger knows of the other price alone, on which it may be on no invoice
        looked_at = aggregated(use for use in sums.used if self._was_looked_at(segment, use))
        return looked_at <= known <= sums.wanted or is_same(looked_at, known)

    def _was_looked_at(self, segment: Segment, use: Usage) -> bool:
        """Whether something certainly looked at a segment after the usage could be seen."""
        forgotten = self.looks.forgotten_at(segment)
        over = min(
            self.over_at.get(segment.contract, self.history.end),
            self.gone_at.get((segment.contract, segment.place), self.history.end),
            self.deleted_at.get(segment.customer, self.history.end),
        )
        until = min(over, forgotten)
        if self.looks.was_due(segment, use) or self.looks.saw_after(use, until):
            return True
        if segment.end != over:
            return False  # its last periods are all that the end of a subscription makes anybody look at
        told = self.outcome.told_of_end.get(segment.contract, 0)
        return self.looks.saw_ended(segment, use) or use.seen_at < told < forgotten

    def _total(self, segment: Segment, line: Line | None) -> None:
        """A price that is billed by a total: on a meter of the last value, or a legacy one."""
        if line is None or segment.how == "dropped":
            return
        used = self._used(segment)
        truth = quantity(segment, used)
        self._finality(segment, line)
        is_legacy = segment.item.kind == "legacy"
        if is_legacy and segment.end - segment.start < SHORTEST_LEGACY_PERIOD and not line.quantity:
            self.found.predicted += truth > 0
            return  # it is refused
        if not is_legacy and not is_same(line.quantity, received := self._last_received(segment)):
            self._wrong(segment, f"billed {line.quantity}, but Stripe had received {received}")
        counted = self._counted(segment.customer, holder_of(segment), segment.start, segment.end)
        _, over_at = self.measures.of(segment)
        seen = self._seen(segment, used, over_at, door_of(segment))
        if not any(is_same(line.quantity, one) for one in seen):
            tell = self._over if line.quantity > truth else self._short
            tell(segment, f"billed {line.quantity} of {truth} used, which nobody could see then")
        if segment.how == "free":
            return  # nothing of it is ever charged, so that nothing has to be counted
        until = int(min(segment.closes, self.looks.forgotten_at(segment)))
        if not any(
            is_same(line.quantity + counted, one) for one in self._seen(segment, used, over_at, until)
        ):
            what = f"billed {line.quantity} of {truth} used, {counted} counted as on no invoice"
            self._short(segment, what)
        self.found.predicted += not is_same(line.quantity, truth)

    def _last_received(self, segment: Segment) -> Decimal:
        """The value with the newest stamp in the segment that Stripe had in time (Configure meters)."""
        taken = [
            event
            for event in self.taken[segment.customer, segment.item.holder]
            if segment.start <= event.stamp < segment.end and event.at <= segment.closes
        ]
        newest = max(enumerate(taken), key=lambda one: (one[1].stamp, one[0]), default=None)
        return max(newest[1].value, ZERO) if newest else ZERO

    def _seen(self, segment: Segment, used: list[Usage], over_at: int, door: int) -> Iterator[Decimal]:
        """The totals that the last look before `door` may have come to, if nothing disturbed it."""
        # No list shows a subscription that ends in its course to the ticks that close periods.
        is_listed = segment.is_whole or segment.item.kind != "legacy"
        listed_from = max(over_at, segment.end - LISTED_BEFORE)
        if is_listed and (look := self.looks.last_closing(segment, listed_from, door)):
            return seen_from(segment, used, look)
        looked = self.looks.last_full(segment, door)
        begun, _ = self.measures.of(segment)
        return seen_in_course(segment, used, begun if looked == segment.start else looked)

    def _finality(self, segment: Segment, line: Line) -> None:
        if line.finalized_at is None and not self._is_still_draft(line):
            self._wrong(segment, "its invoice is not final")
        elif segment.how in {"draft", "free"} and line.finalized_at not in {None, segment.closes}:
            self._wrong(segment, f"its invoice was final at {line.finalized_at}, not {segment.closes}")

    def _is_still_draft(self, line: Line) -> bool:
        """Whether an invoice was made too late to be final, or is kept a draft by a paused collection."""
        if line.created + self.history.grace > self.history.end:
            return True
        before = [
            act
            for act in self.history.acts
            if act.kind in {"pause_collection", "resume_collection"}
            and (act.contract, act.at <= line.created) == (line.contract, True)
        ]
        newest = max(before, key=lambda act: act.at, default=None)
        return newest is not None and (newest.kind, newest.behavior) == ("pause_collection", "keep_as_draft")

    def _counted(self, customer: str, holder: str, start: int, end: int) -> Decimal:
        return sum(
            (
                one.units
                for one in self.outcome.undelivered
                if (one.customer, one.holder) == (customer, holder) and start <= one.start < end
            ),
            ZERO,
        )

    def _counted_in_hour(self, segment: Segment, instant: int) -> Decimal:
        """What is counted of an instant's hour up to the instant."""
        return self._counted(segment.customer, segment.item.holder, instant - instant % HOUR, instant)

    def _left_over_to(self, segment: Segment) -> _LeftOver:
        return self.left_over[segment.contract, segment.place, segment.start]

    def _shared(self, segment: Segment) -> bool:
        """Whether another price bills the same usage in part."""
        return any(
            other.customer == segment.customer
            and other.item.meter == segment.item.meter
            and (other.contract, other.place) != (segment.contract, segment.place)
            and other.item.kind == "mirror"
            and other.start < segment.end
            and segment.start < other.end
            for other in self.with_running
        )

    def _rest(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if line.finalized_at is not None and line.quantity:
                what = f"billed {line.quantity} from {line.start} to {line.end}, which nobody expects"
                self.found.wrong.append(Wrong(line.contract, what))

    def _reports(self) -> None:
        foretold = Foretold(self.outcome, self.looks, self.segments, self._used)
        for one in self.outcome.reports:
            status = one.report.status.value
            self.found.reports_held += status == "held"
            if not foretold.explains(one, status):
                name = self.outcome.names.customers.get(one.report.customer_meter.customer, "?")
                self.found.wrong.append(Wrong(name, f"{status} at {one.at}: {one.report.reason}"))
        for reason in self.outcome.errors:
            self.found.wrong.append(Wrong("?", reason))

    def _used(self, segment: Segment) -> list[Usage]:
        return self.measures.usage(segment, self.usage[segment.customer, segment.item.meter])

    def _over(self, segment: Segment, what: str) -> None:
        self.found.over += 1
        self._wrong(segment, "OVER: " + what)

    def _short(self, segment: Segment, what: str) -> None:
        self.found.under += 1
        self._wrong(segment, "SHORT: " + what)

    def _wrong(self, segment: Segment, what: str) -> None:
        place = f"{segment.item.kind} {segment.item.meter} [{segment.start}, {segment.end}) {segment.how}"
        self.found.wrong.append(Wrong(segment.contract, f"{place}: {what}"))


def _known(segment: Segment, sums: _Sums) -> Decimal:
    """What was billed or counted; of a dropped segment what Stripe had received is counted, too."""
    if segment.how == "dropped":
        return max(sums.in_time + sums.too_late, sums.counted)
    known = sums.in_time + sums.counted
    if sums.is_shared:
        # What another price of the meter took after this one was billed is on an invoice, too; what was only
        # moved across a bound for its sake is not more.
        known += max(min(sums.too_late, sums.wanted - known), ZERO)
    return known


def _sum(taken: Iterable[Received], until: int) -> Decimal:
    return sum((event.value for event in taken if event.at <= until), ZERO)
