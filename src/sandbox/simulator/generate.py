"""A history from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sandbox.simulator.calendar import DAY
from sandbox.simulator.faults import Faults
from sandbox.simulator.history import Bounds, History, Interval, Usage
from sandbox.simulator.oracle import Segment, segments
from sandbox.simulator.stories import CHANGES, Stories
from sandbox.simulator.trouble import KINDS
from sandbox.simulator.usages import Usages

MINUTE = 60
HOUR = 3600
DELAY = 16
AFTERWARDS = 40 * HOUR
"""From the last period's end until everything is quiet."""

ENDINGS = (
    "trial",
    "end_trial",
    "pause",
    "other_interval",
    "second_subscription",
    "resubscribe",
    "legacy",
    "last",
    "mixed",
    "send_invoice",
    "grace",
    "corrections",
    "bounds",
    "hold_drafts",
    *CHANGES,
)
"""What a world may hold besides plain renewals of mirrored prices."""

_UNFORESEEN = {
    "pause",
    "delete_customer",
    "swap",
    "add",
    "remove",
    "reset_anchor",
    "end_trial",
    "cancel_now",
    "cancel_now_and_bill",
}
"""What had been stamped before such a bound was known stays where it is: no truth tells how much that was."""

_LENGTHS: dict[Interval, int] = {"day": 6 * DAY, "week": 22 * DAY, "month": 64 * DAY}


def history_of(
    seed: str,
    faults: Sequence[str] = KINDS,
    endings: Sequence[str] = ENDINGS,
    *,
    meter_stream: bool | None = None,
    brake: bool = False,
) -> History:
    """A random world; only the named kinds of fault and of ending are in it.

    `meter_stream`: whether usage goes through Stripe's stream; None: in half of the worlds. `brake`: usage
    that doubles is held until its deadline; what ends unforeseen, or has no deadline, is then not in it.
    """
    possible = frozenset(endings) - (_UNFORESEEN | {"pause_collection"} if brake else set())
    world = _Generator(random.Random(seed), faults, possible).history(seed)
    is_drawn = random.Random(f"meter stream of {seed}").random() < 0.5
    return replace(world, meter_stream=is_drawn if meter_stream is None else meter_stream, brake=brake)


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
        bounds: Bounds = dice.choice(("minute", "hour", "day")) if self._may("bounds", 0.12) else "exact"
        endings = self.endings if bounds == "exact" else self.endings - _UNFORESEEN
        stories = Stories(dice, endings, interval, in_time=bounds != "exact")
        contracts = [
            contract
            for number in range(dice.randint(3, 7))
            for contract in stories.customer(f"c{number}", base)
        ]
        bare = History(
            seed,
            start,
            end + AFTERWARDS,
            tuple(contracts),
            acts=tuple(stories.acts),
            grace=dice.choice((2, 3, 5)) * HOUR if self._may("grace", 0.1) else HOUR,
            bounds=bounds,
            allow_decrease=self._may("corrections", 0.15),
            hold_drafts=self._may("hold_drafts", 0.2),
        )
        until = replace(bare, end=end + HOUR + bare.grace)
        stretches = [s for s in segments(until, DELAY) if s.closes <= until.end]
        ends = sorted({stretch.end for stretch in stretches}) or [end]
        used = list(self._usage(bare, stretches))
        drawn = Faults(dice, self.kinds, ends)
        faults = tuple(drawn.between(start, end))
        return replace(
            bare,
            usage=tuple(drawn.seen_in_between(used, faults)),
            faults=faults,
            replaces_items=dice.random() < 0.5,
            page_size=dice.choices((100, 2), (7, 1))[0],
        )

    def _usage(self, bare: History, stretches: Sequence[Segment]) -> Iterator[Usage]:
        windows = () if bare.bounds == "exact" else (MINUTE, HOUR, DAY)
        corrects = bare.allow_decrease
        yield from Usages(self.dice, self.kinds, stretches, corrects=corrects, windows=windows).all()

    def _may(self, what: str, chance: float) -> bool:
        return what in self.endings and self.dice.random() < chance

    def _start(self) -> int:
        year, month = self.dice.choice(((2027, 1), (2027, 4), (2027, 12), (2028, 1), (2028, 2), (2027, 7)))
        first = int(datetime(year, month, 1, tzinfo=UTC).timestamp())
        return first + self.dice.randrange(0, 31) * DAY + self.dice.randrange(0, DAY, HOUR)

    def _odd_second(self) -> int:
        """Some time of the day; often on or beside a full hour or minute."""
        dice = self.dice
        odd = (0, 1, 59, 60, 61, 3599, 3540, *(dice.randrange(HOUR) for _ in range(5)))
        return dice.randrange(0, DAY, HOUR) + dice.choice(odd)
