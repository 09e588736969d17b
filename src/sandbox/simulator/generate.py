"""A history from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sandbox.simulator.calendar import DAY, moved
from sandbox.simulator.history import Act, ActKind, Contract, Fault, History, Interval, Item, Mode, Usage
from sandbox.simulator.oracle import Segment, segments
from sandbox.simulator.trouble import CALL_FAULTS, EVENT_FAULTS, KINDS

MINUTE = 60
HOUR = 3600
DELAY = 16
AFTERWARDS = 40 * HOUR
"""From the last period's end until everything is quiet."""

ENDINGS = (
    "renewal",
    "trial",
    "second_subscription",
    "cancel_at_period_end",
    "cancel_now",
    "cancel_now_and_bill",
    "resubscribe",
    "swap",
    "add",
    "reset_anchor",
    "legacy",
)
"""What a world may hold besides plain renewals of mirrored prices."""

_CHANGES: tuple[ActKind, ...] = (
    "cancel_at_period_end",
    "cancel_now",
    "cancel_now_and_bill",
    "swap",
    "add",
    "remove",
    "reset_anchor",
)
_LENGTHS: dict[Interval, int] = {"day": 6 * DAY, "week": 22 * DAY, "month": 64 * DAY}
_VALUES = ("1", "2", "3", "0.1", "0.25", "7", "1000", "12.345")


def history_of(seed: str, faults: Sequence[str] = KINDS, endings: Sequence[str] = ENDINGS) -> History:
    """A random world; only the named kinds of fault and of ending are in it."""
    return _Generator(random.Random(seed), faults, frozenset(endings)).history(seed)


class _Generator:
    def __init__(self, dice: random.Random, faults: Sequence[str], endings: frozenset[str]) -> None:
        self.dice = dice
        self.kinds = dice.sample(list(faults), min(len(faults), dice.choice((1, 2, 3, 5))))
        self.endings = endings

    def history(self, seed: str) -> History:
        dice = self.dice
        interval: Interval = dice.choices(("day", "week", "month"), (8, 2, 1))[0]
        start = self._start()
        end = start + _LENGTHS[interval]
        base = start + HOUR + self._odd_second()
        acts: list[Act] = []
        contracts: list[Contract] = []
        for number in range(dice.randint(3, 7)):
            contracts.extend(self._customer(f"c{number}", interval, base, acts))
        bare = History(seed, start, end + AFTERWARDS, tuple(contracts), acts=tuple(acts))
        until = replace(bare, end=end + 2 * HOUR)
        stretches = [s for s in segments(until, DELAY) if s.closes <= until.end]
        return replace(
            bare,
            usage=tuple(use for stretch in stretches for use in self._usage(stretch)),
            faults=tuple(self._faults(stretches, start, end)),
            page_size=dice.choices((100, 2), (7, 1))[0],
        )

    def _may(self, ending: str, chance: float) -> bool:
        return ending in self.endings and self.dice.random() < chance

    def _start(self) -> int:
        year, month = self.dice.choice(((2027, 1), (2027, 4), (2027, 12), (2028, 1), (2028, 2), (2027, 7)))
        first = int(datetime(year, month, 1, tzinfo=UTC).timestamp())
        return first + self.dice.randrange(0, 31) * DAY + self.dice.randrange(0, DAY, HOUR)

    # Customers

    def _customer(self, name: str, interval: Interval, base: int, acts: list[Act]) -> Iterator[Contract]:
        dice = self.dice
        mode: Mode = "flexible" if dice.random() < 0.5 else "classic"
        legacy = self._may("legacy", 0.2)
        one = Contract(
            name=f"{name}s0",
            customer=name,
            at=base + dice.choice((0, 1, 60, dice.randrange(2 * HOUR), dice.randrange(2 * HOUR))),
            interval=interval,
            items=tuple(self._items(legacy=legacy)),
            mode="classic" if legacy else mode,
            trial_days=dice.choice((1, 2)) if not legacy and self._may("trial", 0.15) else 0,
        )
        yield one
        if legacy:
            return
        if self._may("second_subscription", 0.2):
            yield replace(one, name=f"{name}s1", at=one.at + dice.choice((1, 60, 5000, 20000)))
        elif dice.random() < 0.5:
            yield from self._changed(one, acts)

    def _items(self, *, legacy: bool) -> Iterator[Item]:
        dice = self.dice
        if dice.random() < 0.3:
            yield Item(kind="licensed")
        for meter in dice.choice((["m1"], ["m1"], ["m2"], ["m1", "m2"])):
            yield Item(meter=meter, kind="legacy" if legacy else "mirror")

    def _changed(self, one: Contract, acts: list[Act]) -> Iterator[Contract]:
        """Something happens to a subscription in its course."""
        dice = self.dice
        allowed = [kind for kind in _CHANGES if kind in self.endings]
        if not allowed:
            return
        kind = dice.choice(allowed)
        metered = [place for place, item in enumerate(one.items) if item.kind != "licensed"]
        place = dice.choice(metered)
        first = one.at + one.trial_days * DAY
        number = dice.randint(0, 2 if one.interval == "day" else 0)
        start, stop = moved(first, one.interval, number), moved(first, one.interval, number + 1)
        places = [start + 120, dice.randrange(start + 60, stop - 30)]
        if kind in {"swap", "add", "remove"}:
            places = [min(place, stop - 2 * HOUR) for place in places]
        else:
            places.append(stop - 40)
        at = dice.choice(places)
        at = self._away_from_ticks(at)
        item = one.items[place]
        if kind == "remove" and len(one.items) < 2:
            kind = "cancel_at_period_end" if "cancel_at_period_end" in self.endings else "remove"
            if kind == "remove":
                return
        to: Item | None = None
        if kind == "swap":
            to = replace(item, variant="b")
        if kind == "add":
            to = Item(meter="m2" if all(i.meter != "m2" for i in one.items) else "m1", variant="b")
        acts.append(Act(at, one.name, kind, place, to))
        over = at if kind in {"cancel_now", "cancel_now_and_bill"} else stop
        if kind.startswith("cancel") and self._may("resubscribe", 0.4):
            yield replace(
                one, name=f"{one.name}again", at=over + dice.choice((20, 45, 59, 600)), trial_days=0
            )

    def _away_from_ticks(self, at: int) -> int:
        """Nothing that a merchant does happens in the very second of a tick."""
        return at + 7 if at % MINUTE == 0 else at

    def _odd_second(self) -> int:
        """Some time of the day; often on or beside a full hour or minute."""
        dice = self.dice
        odd = (0, 1, 59, 60, 61, 3599, 3540, *(dice.randrange(HOUR) for _ in range(5)))
        return dice.randrange(0, DAY, HOUR) + dice.choice(odd)

    # Usage

    def _usage(self, stretch: Segment) -> Iterator[Usage]:
        lag = self.dice.randint(5, 50) * MINUTE if self._strikes("openmeter_lag", 0.15) else 0
        for time in self._times(stretch):
            yield self._use(stretch, time, lag)

    def _strikes(self, kind: str, chance: float) -> bool:
        return kind in self.kinds and self.dice.random() < chance

    def _times(self, stretch: Segment) -> Iterator[int]:
        """Few hours of a stretch, and both its ends to the second."""
        dice, start, end = self.dice, stretch.start, stretch.end
        edges = [start, start + 1, start + 30, end - 1, end - 2, end - 40, end - 400]
        if stretch.item.kind == "legacy":
            edges += [end - 30 * MINUTE, end - 30 * MINUTE - 1, (end - 30 * MINUTE) // MINUTE * MINUTE]
        edges += [end - dice.randrange(2 * HOUR) for _ in range(4)]
        inside = [at for at in edges if start <= at < end]
        if dice.random() < 0.8:
            yield from dice.sample(inside, min(5, len(inside)))
        for _ in range(dice.randint(0, 2)):
            hour = dice.randrange(start, end)
            for _ in range(dice.randint(1, 3)):
                yield min(hour + dice.randrange(HOUR), end - 1)

    def _use(self, stretch: Segment, time: int, lag: int) -> Usage:
        dice = self.dice
        seen_at = time + dice.choice((0, 1, 2, 3)) + lag
        if self._strikes("late_usage", 0.1):
            seen_at = max(seen_at, time + dice.randint(2, 55) * MINUTE)
        elif self._strikes("usage_after_final", 0.05):
            seen_at = max(seen_at, stretch.closes + dice.randint(1, 600) * MINUTE)
        return Usage(stretch.customer, stretch.item.meter, time, dice.choice(_VALUES), seen_at)

    # Faults

    def _faults(self, stretches: Sequence[Segment], start: int, end: int) -> Iterator[Fault]:
        dice = self.dice
        ends = sorted({stretch.end for stretch in stretches}) or [end]
        for kind in self.kinds:
            if kind not in CALL_FAULTS and kind not in EVENT_FAULTS:
                continue
            for _ in range(dice.randint(2, 12 // len(self.kinds))):
                near = dice.choice(ends) + dice.randrange(-HOUR, 50 * MINUTE)
                at = near if dice.random() < 0.8 else dice.randrange(start, end)
                yield Fault(
                    kind=kind,
                    at=at,
                    skip=dice.choice((0, 0, 1, 2, 3, 5, 8, 13, 21)) if kind in CALL_FAULTS else 0,
                    times=dice.choice((1, 1, 2, 5)),
                    seconds=self._seconds(kind),
                )

    def _seconds(self, kind: str) -> int:
        dice = self.dice
        ranges = {
            "slow_call": (1, 50),
            "two_workers": (0, 90),
            "stripe_timeout": (0, 1),
            "openmeter_down": (60, 3000),
            "webhook_late": (30, 50000),
            "clock_skew": (-4, 4),
        }
        if kind == "openmeter_error":
            return dice.choice((429, 500, 503, 408))
        low, high = ranges.get(kind, (0, 0))
        return dice.randint(low, high)
