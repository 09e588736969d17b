"""What must be billed: worked out from the history by Stripe's documented rules alone.

Shares no code with the layer, nor with the stand-in's billing. What Stripe bills "as received so far"
cannot be told from the usage list: there the log of what it had received at that instant decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from sandbox.simulator.calendar import DAY, moved
from sandbox.simulator.history import Act, Contract, History, Interval, Item

NEVER = 2**40
"""UTC seconds: a draft that nothing finalizes."""

_ENDS_AT_ONCE = {"cancel_now", "cancel_now_and_bill", "delete_customer"}

How = Literal["draft", "received", "dropped", "free", "paused"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time that one price of one item bills, [start, end) in UTC seconds.

    `how`: `draft`: on a draft that takes usage until it is final; `received`: billed at `end` as far as
    Stripe had received it; `dropped`: not billed at all; `free`: in a trial, on a draft for nothing;
    `paused`: in a trial and the pause after it, on no invoice.
    """

    contract: str
    customer: str
    item: Item
    start: int
    end: int
    how: How
    closes: int
    """When its quantity is fixed, UTC seconds."""
    first: bool
    """Whether billing of the item began with it."""
    place: int
    """Of the item on its contract."""
    is_whole: bool = True
    """Whether it ends with the item's period."""
    is_last: bool = False
    """Whether the subscription ends with it."""
    is_sent: bool = False
    """Whether its invoice is sent: no webhook then holds the draft (Subscription webhooks)."""

    @property
    def has_line(self) -> bool:
        """Whether an invoice shows it."""
        return self.how not in {"dropped", "paused"}


@dataclass(slots=True)
class _Running:
    """An item on a subscription; its usage counts from `since`."""

    place: int
    item: Item
    since: int
    period_end: int
    first: bool = True


@dataclass(slots=True)
class _Course:
    """A subscription on its way through its acts."""

    contract: Contract
    delay: int
    grace: int
    anchor: int
    in_trial: bool
    items: list[_Running | None] = field(default_factory=list)
    is_paused: bool = False
    is_over: bool = False
    keeps_drafts: bool = False
    """Whether its invoices stay drafts, because collection is paused."""
    at_renewal: list[Act] = field(default_factory=list)
    """What a schedule does at the next renewal."""
    cancel_at: int | None = None
    done: list[Segment] = field(default_factory=list)

    @property
    def running(self) -> list[_Running]:
        """What is on the subscription now."""
        return [one for one in self.items if one is not None]

    @property
    def next_end(self) -> float:
        """When time next ends something: the nearest period, or the subscription; paused: never."""
        if self.is_paused:
            return math.inf
        ends = [one.period_end for one in self.running]
        return min(ends if self.cancel_at is None else [*ends, self.cancel_at])

    def put_on(self, item: Item, at: int) -> None:
        """An item whose usage counts from `at`; its periods are those of the subscription's anchor."""
        running = _Running(len(self.items), item, at, self.anchor)
        if not self.in_trial:
            running.period_end = self._end_after(running, at)
        self.items.append(running)

    def close(self, running: _Running, end: int, how: How, closes: int, *, is_last: bool = False) -> None:
        """End what a price bills; nothing was billed yet in no time."""
        if end > running.since and running.item.kind != "licensed":
            self.done.append(
                Segment(
                    contract=self.contract.name,
                    customer=self.contract.customer,
                    item=running.item,
                    start=running.since,
                    end=end,
                    how="free" if self.in_trial and how != "dropped" else how,
                    closes=closes,
                    first=running.first,
                    place=running.place,
                    is_whole=end == running.period_end,
                    is_last=is_last,
                    is_sent=self.contract.is_invoiced,
                )
            )
            running.first = False
        running.since = end

    def pass_end(self) -> None:
        """What happens at the next end of its own accord.

        Usage of the last period goes on a draft, too (Cancel subscriptions). Usage in a trial is never
        billed (Free trials).
        """
        end = int(self.next_end)
        is_over = end == self.cancel_at
        if self.in_trial and self.contract.pauses and not is_over:
            self.is_paused, self.in_trial = True, False
            return
        for one in self.running:
            if one.period_end == end or is_over:
                self._draft(one, end, end + self.delay + self.grace, is_last=is_over)
        if is_over:
            self.is_over = True
            return
        self.in_trial = self.in_trial and end != self.anchor
        for act in self.at_renewal:
            self._put_in_place(act)
        self.at_renewal.clear()
        for one in self.running:
            if one.period_end == end:
                one.period_end = self._end_after(one, end)

    def act(self, act: Act) -> None:
        """Apply an act."""
        if act.kind in _ENDS_AT_ONCE:
            self._end(act)
        elif act.kind in {"reset_anchor", "end_trial"}:
            self._begin_anew(act.at)
        elif act.kind == "resume":
            self._resume(act)
        elif act.kind == "add" and act.to is not None:
            self.put_on(act.to, act.at)
        elif act.kind in {"swap", "remove"}:
            self._take_off(act)
        else:
            self._arrange(act)

    def _end(self, act: Act) -> None:
        """An immediate end: usage is dropped, unless it is asked to be invoiced (Cancel subscriptions)."""
        self.is_over = True
        bills = act.kind == "cancel_now_and_bill" and not self.in_trial
        for one in self.running:
            if bills:
                self._bill_at_once(one, act.at, is_last=True)
            else:
                self.close(one, act.at, "dropped", act.at, is_last=True)

    def _arrange(self, act: Act) -> None:
        """What an act has happen later."""
        if act.kind == "cancel_at_period_end":
            self.cancel_at = min(one.period_end for one in self.running)
        elif act.kind == "cancel_at":
            self.cancel_at = act.until
        elif act.kind == "name_successor":
            pass  # nobody bills what a meter holds beside a legacy price
        elif act.kind in {"swap_at_renewal", "migrate"}:
            self.at_renewal.append(act)
        else:
            self.keeps_drafts = act.kind == "pause_collection" and act.behavior == "keep_as_draft"

    def _draft(self, running: _Running, end: int, closes: int, *, is_last: bool = False) -> None:
        """A draft; while collection is paused so that it stays one, nothing finalizes it (Pause payment)."""
        self.close(running, end, "draft", NEVER if self.keeps_drafts else closes, is_last=is_last)

    def _put_in_place(self, act: Act) -> None:
        running = self.items[act.item]
        if running is not None and act.to is not None:
            running.item = act.to

    def _resume(self, act: Act) -> None:
        """Usage in a pause is never billed; a period begins here, or goes on (Free trials)."""
        self.is_paused = False
        if act.anchor == "now":
            self.anchor = act.at
        for one in self.running:
            self.close(one, act.at, "paused", act.at)
            one.first, one.period_end = True, self._end_after(one, act.at)

    def _bill_at_once(self, running: _Running, at: int, *, is_last: bool = False) -> None:
        """An invoice that is not of a renewal: final at once, unless it is sent (Invoice workflow)."""
        if self.contract.is_invoiced or self.keeps_drafts:
            self._draft(running, at, at + self.grace, is_last=is_last)
        else:
            self.close(running, at, "received", at, is_last=is_last)

    def _begin_anew(self, at: int) -> None:
        """A new anchor ends every period at once, and bills it (Billing cycle)."""
        for one in self.running:
            self._bill_at_once(one, at)
        self.anchor, self.in_trial = at, False
        for one in self.running:
            one.period_end = self._end_after(one, at)

    def _take_off(self, act: Act) -> None:
        """A price that leaves: flexible mode bills what it has received, classic mode never bills it.

        Manage billing setup; usage records are dropped with their item. In classic mode another interval
        moves the anchor here (Change subscriptions).
        """
        running = self.items[act.item]
        if running is None:
            return
        is_flexible = self.contract.mode == "flexible"
        pays = is_flexible and not self.in_trial and running.item.kind in {"mirror", "last"}
        how: How = "received" if pays and act.proration != "none" else "dropped"
        self.close(running, act.at, how, act.at)
        if act.kind == "remove" or act.to is None:
            self.items[act.item] = None
            return
        was = self._interval(running)
        running.item, running.first = act.to, False
        if self._interval(running) == was:
            return
        if is_flexible:
            running.period_end = self._end_after(running, act.at)
        else:
            self._begin_anew(act.at)

    def _interval(self, running: _Running) -> Interval:
        return running.item.interval or self.contract.interval

    def _end_after(self, running: _Running, at: int) -> int:
        """The first end after an instant: periods are whole intervals from the anchor on."""
        number = 1
        while (end := moved(self.anchor, self._interval(running), number)) <= at:
            number += 1
        return end


def segments(history: History, delay: int) -> Iterator[Segment]:
    """Every segment of a history that is over by its end; a renewal is made `delay` seconds late."""
    for contract in history.contracts:
        yield from _course_of(contract, history, delay).done


def running(history: History, delay: int) -> Iterator[Segment]:
    """What still runs when a history ends; nothing fixes its quantity."""
    for contract in history.contracts:
        course = _course_of(contract, history, delay)
        if not course.is_over:
            before = len(course.done)
            for one in course.running:
                course.close(one, one.period_end, "draft", NEVER)
            yield from course.done[before:]


def _course_of(contract: Contract, history: History, delay: int) -> _Course:
    anchor = contract.at + contract.trial_days * DAY
    course = _Course(contract, delay, history.grace, anchor, in_trial=contract.trial_days > 0)
    for item in contract.items:
        course.put_on(item, contract.at)
    customers = {one.name: one.customer for one in history.contracts}
    acts = [
        act
        for act in sorted(history.acts, key=lambda act: act.at)
        if act.contract == contract.name
        or (act.kind == "delete_customer" and customers[act.contract] == contract.customer)
    ]
    while not course.is_over:
        if acts and acts[0].at < course.next_end:
            course.act(acts.pop(0))
        elif course.next_end + delay + history.grace > history.end:
            break
        else:
            course.pass_end()
    return course
