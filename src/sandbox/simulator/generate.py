"""A history from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime

from sandbox.simulator.calendar import DAY
from sandbox.simulator.faults import ONCE, Faults
from sandbox.simulator.history import Bounds, Fault, History, Interval, Usage
from sandbox.simulator.migrations import with_migrations
from sandbox.simulator.oracle import Segment, segments
from sandbox.simulator.stories import CHANGES, Stories
from sandbox.simulator.trouble import ACCOUNT_FAULTS, KINDS
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
    "migrate",
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
    accounts: int = 1,
) -> History:
    """A random world; only the named kinds of fault and of ending are in it.

    `meter_stream`: whether usage goes through Stripe's stream; None: in half of the worlds. `brake`: usage
    that doubles is held until its deadline; what ends unforeseen, or has no deadline, is then not in it, nor
    does an account fail for the twenty minutes in which that usage is sent, after which it is lost.
    `accounts`: how many of them there are, the platform's own and connected ones.
    """
    possible = frozenset(endings) - (_UNFORESEEN | {"pause_collection"} if brake else set())
    first = _Generator(random.Random(seed), [one for one in faults if one not in ACCOUNT_FAULTS], possible)
    world = first.history(seed)
    if accounts > 1:
        names = [f"{seed} account {number}" for number in range(1, accounts)]
        alone = [] if brake else [kind for kind in faults if kind in ACCOUNT_FAULTS]
        connected = (first.beside(world, name).history(name) for name in names)
        others = tuple(_with_account_faults(one, alone) for one in connected)
        world = replace(_with_account_faults(world, alone), connected=others)
    if "migrate" in possible:
        migrated = tuple(with_migrations(one) for one in world.connected)
        world = replace(with_migrations(world), connected=migrated)
    is_drawn = random.Random(f"meter stream of {seed}").random() < 0.5
    return replace(world, meter_stream=is_drawn if meter_stream is None else meter_stream, brake=brake)


def _with_account_faults(history: History, kinds: Sequence[str]) -> History:
    """The account out of reach, or at its limit, for a while around the ends of its periods."""
    dice = random.Random(f"faults of the account of {history.seed}")
    ends = [stretch.end for stretch in segments(history, DELAY)] or [history.start]
    found = [
        Fault(kind, dice.choice(ends) - dice.randrange(HOUR), seconds=dice.randint(MINUTE, HOUR))
        for kind in kinds
        if dice.random() < 0.5
        for _ in range(dice.randint(1, 2))
    ]
    return replace(history, faults=(*history.faults, *found))


class _Generator:
    """Draws a history; all but the first of a world are drawn `beside` that one, and share its settings."""

    def __init__(self, dice: random.Random, faults: Sequence[str], endings: frozenset[str]) -> None:
        self.dice = dice
        self.kinds = dice.sample(list(faults), min(len(faults), dice.choice((1, 2, 3, 5))))
        self.endings = endings
        self.interval: Interval = dice.choices(("day", "week", "month"), (8, 2, 1))[0]
        self.first: History | None = None

    def beside(self, first: History, seed: str) -> _Generator:
        """Draws what happens in another account of the same world; what strikes once a world is in that."""
        other = copy(self)
        other.dice, other.first = random.Random(seed), first
        other.kinds = [kind for kind in self.kinds if kind not in ONCE]
        return other

    def history(self, seed: str) -> History:
        """The history of one account."""
        dice, interval = self.dice, self.interval
        start = self._shared("start", self._start())
        end = start + _LENGTHS[interval]
        base = start + HOUR + self._odd_second()
        drawn_bounds: Bounds = (
            dice.choice(("minute", "hour", "day")) if self._may("bounds", 0.12) else "exact"
        )
        bounds = self._shared("bounds", drawn_bounds)
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
            allow_decrease=self._shared("allow_decrease", self._may("corrections", 0.15)),
            hold_drafts=self._shared("hold_drafts", self._may("hold_drafts", 0.2)),
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
            replaces_items=self._shared("replaces_items", dice.random() < 0.5),
            page_size=self._shared("page_size", dice.choices((100, 2), (7, 1))[0]),
        )

    def _shared[T](self, name: str, drawn: T) -> T:
        """A setting that all accounts of a world have in common: as it was drawn for the first."""
        return drawn if self.first is None else getattr(self.first, name)

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
