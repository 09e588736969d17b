"""What must be billed: worked out from the usage list by Stripe's documented rules alone.

Shares no code with the layer, nor with the stand-in's billing. What Stripe bills "as received so far"
cannot be told from the usage list: there the log of what it had received at that instant decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from sandbox.simulator.calendar import DAY, moved
from sandbox.simulator.history import Act, Contract, History, Item

GRACE = 3600
"""Configure a grace period: the default."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time that one price of one item bills, [start, end) in UTC seconds.

    `how`: `draft`: on a draft that takes usage until it is final; `received`: billed at `end` as far as
    Stripe had received it; `dropped`: not billed at all; `free`: in a trial, on a draft for nothing.
    """

    contract: str
    customer: str
    item: Item
    start: int
    end: int
    how: Literal["draft", "received", "dropped", "free"]
    closes: int
    """When its quantity is fixed, UTC seconds."""
    first: bool
    """Whether billing of the item began with it."""
    period: tuple[int, int]
    """The period of the item in which it lies."""

    @property
    def has_line(self) -> bool:
        """Whether an invoice shows it."""
        return self.how != "dropped"


@dataclass(slots=True)
class _Running:
    item: Item
    since: int
    first: bool = True


@dataclass(slots=True)
class _Course:
    """A subscription on its way through its acts."""

    contract: Contract
    delay: int
    items: list[_Running | None]
    anchor: int
    period_start: int
    number: int = 0
    in_trial: bool = False
    ends_at_period_end: bool = False
    done: list[Segment] = field(default_factory=list)

    @property
    def period_end(self) -> int:
        if self.in_trial:
            return self.anchor
        return moved(self.anchor, self.contract.interval, self.number + 1)

    def close(self, running: _Running, end: int, how: str, closes: int) -> None:
        if end <= running.since or running.item.kind == "licensed":
            return
        self.done.append(
            Segment(
                contract=self.contract.name,
                customer=self.contract.customer,
                item=running.item,
                start=running.since,
                end=end,
                how="free" if self.in_trial and how != "dropped" else how,  # type: ignore[arg-type]
                closes=closes,
                first=running.first,
                period=(self.period_start, self.period_end),
            )
        )
        running.since, running.first = end, False

    def renew(self) -> None:
        end = self.period_end
        for running in filter(None, self.items):
            self.close(running, end, "draft", end + self.delay + GRACE)
        if self.in_trial:
            self.in_trial = False
        else:
            self.number += 1
        self.period_start = end

    def act(self, act: Act) -> bool:
        """Apply an act; False when the subscription is over."""
        running = self.items[act.item] if act.item < len(self.items) else None
        if act.kind == "cancel_at_period_end":
            self.ends_at_period_end = True
        elif act.kind in {"cancel_now", "cancel_now_and_bill"}:
            how = "received" if act.kind == "cancel_now_and_bill" and not self.in_trial else "dropped"
            for one in filter(None, self.items):
                self.close(one, act.at, how, act.at)
            return False
        elif act.kind == "reset_anchor":
            for one in filter(None, self.items):
                self.close(one, act.at, "received", act.at)
            self.anchor, self.period_start, self.number, self.in_trial = act.at, act.at, 0, False
        elif act.kind == "add" and act.to is not None:
            self.items.append(_Running(act.to, act.at))
        elif running is not None:
            pays = self.contract.mode == "flexible" and not self.in_trial and running.item.kind == "mirror"
            self.close(running, act.at, "received" if pays else "dropped", act.at)
            swapped = act.kind == "swap" and act.to is not None
            self.items[act.item] = _Running(act.to, act.at, first=False) if swapped and act.to else None
        return True


def segments(history: History, delay: int) -> Iterator[Segment]:
    """Every segment of a history that is over by its end; a renewal is made `delay` seconds late."""
    for contract in history.contracts:
        yield from _segments_of(contract, history, delay)


def _segments_of(contract: Contract, history: History, delay: int) -> list[Segment]:
    course = _Course(
        contract=contract,
        delay=delay,
        items=[_Running(item, contract.at) for item in contract.items],
        anchor=contract.at + contract.trial_days * DAY,
        period_start=contract.at,
        in_trial=contract.trial_days > 0,
    )
    acts = sorted((act for act in history.acts if act.contract == contract.name), key=lambda act: act.at)
    while True:
        end = course.period_end
        if acts and acts[0].at < end:
            if not course.act(acts.pop(0)):
                return course.done
            continue
        if end + delay + GRACE > history.end:
            return course.done
        course.renew()
        if course.ends_at_period_end:
            return course.done
