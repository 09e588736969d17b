"""What a customer subscribes to, and what the merchant does with it in its course."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from sandbox.simulator.calendar import DAY, moved
from sandbox.simulator.history import METERS, Act, ActKind, Contract, Interval, Item, Kind, Mode

MINUTE = 60
HOUR = 3600
RENEWED_WITHIN = 90
"""No act falls between a period's end and its renewal, which is a little late."""

CHANGES: tuple[ActKind, ...] = (
    "cancel_at_period_end",
    "cancel_at",
    "cancel_now",
    "cancel_now_and_bill",
    "swap",
    "add",
    "remove",
    "reset_anchor",
    "swap_at_renewal",
    "pause_collection",
    "delete_customer",
)
_LAST_CHANGES = {
    "cancel_at_period_end",
    "cancel_at",
    "cancel_now",
    "cancel_now_and_bill",
    "swap_at_renewal",
    "delete_customer",
}
"""Nothing more is done to a subscription after one of them."""
_OF_LEGACY = {"cancel_at_period_end", "cancel_at", "cancel_now", "remove"}
_BILLS_AT_ONCE = {"cancel_now_and_bill", "swap", "remove", "reset_anchor", "end_trial"}
_OTHER_INTERVAL: dict[Interval, Interval] = {"day": "week", "week": "day", "month": "week"}
_WATCHED: dict[Interval, int] = {"day": 3, "week": 2, "month": 1}
"""In the first so many periods something may be changed."""


class Stories:
    """Draws the contracts of one customer; what happens to them goes to `acts`.

    `in_time`: nothing is arranged in the last hours of a period, where a rounded end would not be foreseen.
    """

    def __init__(
        self, dice: random.Random, endings: frozenset[str], interval: Interval, *, in_time: bool = False
    ) -> None:
        self.dice = dice
        self.endings = endings
        self.interval = interval
        self.in_time = in_time
        self.acts: list[Act] = []

    def customer(self, name: str, base: int) -> Iterator[Contract]:
        """The subscriptions of one customer, the first made soon after `base` (UTC seconds)."""
        dice = self.dice
        kind = self._kind()
        one = Contract(
            name=f"{name}s0",
            customer=name,
            at=base + dice.choice((0, 1, 60, dice.randrange(2 * HOUR), dice.randrange(2 * HOUR))),
            interval=self.interval,
            items=tuple(self._items(kind)),
            mode="classic" if kind == "legacy" else self._mode(),
        )
        if kind != "legacy" and self._may("mixed", 0.12):
            one = replace(one, mode="flexible", items=tuple(self._mixed(kind)))
        elif kind != "legacy" and self._may("trial", 0.15):
            one = replace(one, trial_days=dice.choice((1, 2)), pauses=self._may("pause", 0.3))
        if self._may("send_invoice", 0.1):
            one = replace(one, is_invoiced=True)
        yield one
        if kind == "mirror" and self._may("second_subscription", 0.15):
            yield replace(one, name=f"{name}s1", at=one.at + dice.choice((1, 60, 5000, 20000)))
        elif one.pauses:
            self.acts.extend(self._resumed(one))
        elif dice.random() < 0.55:
            yield from self._changed(one)

    def _may(self, ending: str, chance: float) -> bool:
        return ending in self.endings and self.dice.random() < chance

    def _mode(self) -> Mode:
        return "flexible" if self.dice.random() < 0.5 else "classic"

    def _kind(self) -> Kind:
        if self._may("legacy", 0.2):
            return "legacy"
        return "last" if self._may("last", 0.25) else "mirror"

    def _items(self, kind: Kind) -> Iterator[Item]:
        dice = self.dice
        if dice.random() < 0.3:
            yield Item(kind="licensed")
        if kind == "mirror":
            slugs = dice.choice((["m1"], ["m1"], ["m2"], ["m1", "m2"]))
        else:
            slugs = dice.sample(list(METERS), dice.choice((1, 1, 2)))
        for slug in slugs:
            yield Item(meter=slug, kind=kind)
        if kind == "last" and dice.random() < 0.2:
            yield Item(meter=dice.choice(("m1", "m2")))

    def _mixed(self, kind: Kind) -> Iterator[Item]:
        """Two intervals on one subscription (Mixed interval subscriptions), also on the same meter."""
        dice = self.dice
        slugs = dice.choice((["m1", "m2"], ["m2", "m1"], ["m1", "m1"]))
        second = "mirror" if slugs[0] == slugs[1] else kind
        yield Item(meter=slugs[0], kind=second)
        yield Item(meter=slugs[1], kind=second, interval=_OTHER_INTERVAL[self.interval])

    # Changes

    def _resumed(self, one: Contract) -> Iterator[Act]:
        """A pause after a trial ends, mostly."""
        dice = self.dice
        if dice.random() < 0.9:
            at = one.at + one.trial_days * DAY + dice.choice((HOUR, dice.randrange(HOUR, 2 * DAY)))
            yield Act(at + 7, one.name, "resume", anchor=dice.choice(("now", "unchanged")))

    def _changed(self, one: Contract) -> Iterator[Contract]:
        """One or two things happen to a subscription in its course."""
        dice = self.dice
        allowed = [kind for kind in CHANGES if kind in self.endings]
        if one.items[-1].kind == "legacy":
            allowed = [kind for kind in allowed if kind in _OF_LEGACY]
        if not allowed:
            return
        made: list[Act] = []
        for _ in range(dice.choice((1, 1, 1, 2))):
            kind = dice.choice(allowed)
            if kind == "cancel_now" and made:  # what a change had billed would wait for ever to be invoiced
                continue
            act = self._act(one, kind, made)
            if act is not None and not any(before.kind in _LAST_CHANGES for before in made):
                made.append(act)
        if one.trial_days and "end_trial" in self.endings and dice.random() < 0.3:
            made = [Act(one.at + dice.randrange(HOUR, DAY - HOUR), one.name, "end_trial")]
        self.acts.extend(made)
        self.acts.extend(self._let_go(one, made))
        if made and made[-1].kind.startswith("cancel") and self._may("resubscribe", 0.4):
            over = self._end(one, made[-1])
            again = f"{one.name}again"
            yield replace(one, name=again, at=over + dice.choice((20, 45, 59, 600)), trial_days=0)

    def _let_go(self, one: Contract, made: list[Act]) -> Iterator[Act]:
        """A paused collection is let go, sometimes."""
        paused = [act for act in made if act.kind == "pause_collection"]
        if paused and self.dice.random() < 0.6:
            at = made[-1].at + self.dice.randrange(HOUR, 30 * HOUR)
            if made[-1].kind in {"pause_collection", "swap", "add", "reset_anchor", "swap_at_renewal"}:
                yield Act(at, one.name, "resume_collection")

    def _act(self, one: Contract, kind: ActKind, before: list[Act]) -> Act | None:
        dice = self.dice
        at = self._instant(one, max((act.at for act in before), default=one.at))
        on = _metered_after(one, before)
        moved_anchor = any(act.kind == "reset_anchor" or _moves(act) for act in before)
        if at is None or not on or (moved_anchor and kind != "swap"):
            return None
        act = Act(at, one.name, kind, dice.choice(list(on)))
        if kind in _BILLS_AT_ONCE:
            act = replace(act, reported=dice.random() < 0.3)
        if kind in {"swap", "add", "remove", "swap_at_renewal"}:
            return self._of_items(one, act, on, before)
        if kind == "cancel_at":
            return replace(act, until=self._until(one, at))
        if kind == "delete_customer":
            return replace(act, at=self._between_drafts(one, at))
        return replace(act, behavior=dice.choice(("keep_as_draft", "mark_uncollectible", "void")))

    def _of_items(self, one: Contract, act: Act, on: dict[int, Item], before: list[Act]) -> Act | None:
        gone = sum(other.kind == "remove" for other in before)
        if act.kind == "remove":
            return act if len(one.items) > 1 + gone else None
        if act.kind == "swap_at_renewal":
            return self._scheduled(one, act, before)
        if act.kind == "swap":
            return replace(act, to=self._other_price(one, on[act.item]))
        return replace(act, to=self._added(one, before))

    def _other_price(self, one: Contract, item: Item) -> Item:
        """Another price of the same meter; alone on its subscription it may have another interval."""
        to = replace(item, variant="b" if item.variant == "a" else "a")
        if len(one.items) == 1 and item.interval is None and self._may("other_interval", 0.2):
            return replace(to, interval=_OTHER_INTERVAL[one.interval])
        return to

    def _scheduled(self, one: Contract, act: Act, before: list[Act]) -> Act | None:
        """What a schedule swaps at the next renewal; of several intervals it would cut one short."""
        if before or len({item.interval for item in one.items}) > 1:
            return None
        item = one.items[act.item]
        return replace(act, to=replace(item, variant="b"))

    def _between_drafts(self, one: Contract, at: int) -> int:
        """An instant at which no draft of a renewal waits any more: later usage would be refused."""
        first = one.at + one.trial_days * DAY
        rhythms = {item.interval or one.interval for item in one.items}
        while any(at - 7 * HOUR < end <= at + MINUTE for rhythm in rhythms for end in _ends(first, rhythm)):
            at += HOUR
        return at

    def _added(self, one: Contract, before: list[Act]) -> Item:
        slug = "m2" if all(item.meter != "m2" for item in one.items) else "m1"
        return Item(meter=slug, variant="d" if any(act.kind == "add" for act in before) else "c")

    def _instant(self, one: Contract, after: int) -> int | None:
        """When something is done: right after a period's start, in its course, or right before its end."""
        dice = self.dice
        first = one.at + one.trial_days * DAY
        number = dice.randrange(_WATCHED[one.interval])
        start, stop = moved(first, one.interval, number), moved(first, one.interval, number + 1)
        course = dice.randrange(start + 60, stop - 30)
        at = dice.choice((start + 120, course, stop - 40, stop - 40 * MINUTE))
        if self.in_time:
            at = min(at, stop - 2 * HOUR)
        # Nothing that a merchant does happens in the very second of a tick.
        at = at + 7 if at % MINUTE == 0 else at
        return at if at > after and not self._is_at_an_end(one, at) else None

    def _until(self, one: Contract, at: int) -> int:
        """An end that the merchant sets: a period's, or in its course, on a full minute or not."""
        dice = self.dice
        first = one.at + one.trial_days * DAY
        for number in range(1, 100):
            if moved(first, one.interval, number) > at + HOUR:
                break
        end = moved(first, one.interval, number)
        course = dice.randrange(at + HOUR, end + 1)
        until = dice.choice((end, course, course - course % HOUR + HOUR))
        return until + RENEWED_WITHIN if self._is_at_an_end(one, until) and until != end else until

    def _is_at_an_end(self, one: Contract, at: int) -> bool:
        first = one.at + one.trial_days * DAY
        rhythms = {item.interval or one.interval for item in one.items}
        for rhythm in rhythms:
            number = 0
            while (end := moved(first, rhythm, number)) < at + RENEWED_WITHIN:
                if end <= at <= end + RENEWED_WITHIN:
                    return True
                number += 1
        return False

    def _end(self, one: Contract, act: Act) -> int:
        """When a subscription is over that an act ends."""
        if act.kind == "cancel_at":
            return act.until
        if act.kind != "cancel_at_period_end":
            return act.at
        first, ends = one.at + one.trial_days * DAY, []
        for rhythm in {item.interval or one.interval for item in one.items}:
            number = 0
            while moved(first, rhythm, number) <= act.at:
                number += 1
            ends.append(moved(first, rhythm, number))
        return min(ends)


def _metered_after(one: Contract, before: list[Act]) -> dict[int, Item]:
    """The metered items of a contract by place, after what was done to it."""
    on = {place: item for place, item in enumerate(one.items) if item.kind != "licensed"}
    for act in before:
        if act.kind == "remove":
            on.pop(act.item, None)
        elif act.kind == "swap" and act.to is not None:
            on[act.item] = act.to
    return on


def _moves(act: Act) -> bool:
    """Whether a swap puts on another interval."""
    return act.kind == "swap" and act.to is not None and act.to.interval is not None


def _ends(first: int, rhythm: Interval) -> list[int]:
    return [moved(first, rhythm, number) for number in range(40)]
