"""A history from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sandbox.simulator.calendar import DAY
from sandbox.simulator.history import Fault, History, Interval
from sandbox.simulator.oracle import Segment, segments
from sandbox.simulator.stories import CHANGES, Stories
from sandbox.simulator.trouble import CALL_FAULTS, EVENT_FAULTS, KINDS
from sandbox.simulator.usages import Usages

MINUTE = 60
HOUR = 3600
DELAY = 16
AFTERWARDS = 40 * HOUR
"""From the last period's end until everything is quiet."""

ENDINGS = (
    "trial",
    "end_trial",
    "second_subscription",
    "resubscribe",
    "legacy",
    "mixed",
    *(kind for kind in CHANGES if kind != "remove"),
)
"""What a world may hold besides plain renewals of mirrored prices."""

_LENGTHS: dict[Interval, int] = {"day": 6 * DAY, "week": 22 * DAY, "month": 64 * DAY}


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
        stories = Stories(dice, self.endings, interval)
        contracts = [
            contract
            for number in range(dice.randint(3, 7))
            for contract in stories.customer(f"c{number}", base)
        ]
        bare = History(seed, start, end + AFTERWARDS, tuple(contracts), acts=tuple(stories.acts))
        until = replace(bare, end=end + 2 * HOUR)
        stretches = [s for s in segments(until, DELAY) if s.closes <= until.end]
        return replace(
            bare,
            usage=tuple(Usages(dice, self.kinds).of(stretches)),
            faults=tuple(self._faults(stretches, start, end)),
            page_size=dice.choices((100, 2), (7, 1))[0],
        )

    def _start(self) -> int:
        year, month = self.dice.choice(((2027, 1), (2027, 4), (2027, 12), (2028, 1), (2028, 2), (2027, 7)))
        first = int(datetime(year, month, 1, tzinfo=UTC).timestamp())
        return first + self.dice.randrange(0, 31) * DAY + self.dice.randrange(0, DAY, HOUR)

    def _odd_second(self) -> int:
        """Some time of the day; often on or beside a full hour or minute."""
        dice = self.dice
        odd = (0, 1, 59, 60, 61, 3599, 3540, *(dice.randrange(HOUR) for _ in range(5)))
        return dice.randrange(0, DAY, HOUR) + dice.choice(odd)

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
