"""Legacy prices of a world that are followed by prices with a meter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from sandbox.simulator.calendar import moved
from sandbox.simulator.history import METERS, Act, Contract, History, Item

MINUTE = 60
HOUR = 3600
_ADDS_UP = {"SUM", "COUNT"}


def with_migrations(world: History) -> History:
    """The world with some of its legacy prices replaced at a renewal, mostly after they had a successor.

    The dice are its own: a world is the same but for that.
    """
    dice = random.Random(f"migration of {world.seed}")
    changed = {act.contract for act in world.acts}
    quiet = [one for one in world.contracts if one.name not in changed]
    made = [act for one in quiet for act in _migrated(dice, one)]
    return replace(world, acts=(*world.acts, *made))


def successor(item: Item) -> Item:
    """The item that takes a legacy one's place: on a meter that adds up, if its usage does."""
    return replace(item, kind="mirror" if METERS[item.meter] in _ADDS_UP else "last")


def _migrated(dice: random.Random, one: Contract) -> Iterator[Act]:
    places = [place for place, item in enumerate(one.items) if item.kind == "legacy"]
    if not places or dice.random() < 0.4:
        return
    place = dice.choice(places)
    new = successor(one.items[place])
    number = dice.choice((0, 1, 1))
    start, end = (moved(one.at, one.interval, count) for count in (number, number + 1))
    at = dice.choice(
        (start + 10 * MINUTE, dice.randrange(start + MINUTE, end - 5 * MINUTE), end - 10 * MINUTE)
    )
    if dice.random() < 0.75:
        yield Act(_beside_ticks(dice.randrange(one.at + MINUTE, at)), one.name, "name_successor", place, new)
    yield Act(_beside_ticks(at), one.name, "migrate", place, new)
    if dice.random() < 0.3:
        ends = dice.randrange(end + 2 * HOUR, end + 20 * HOUR)
        yield Act(_beside_ticks(ends), one.name, "cancel_at_period_end")


def _beside_ticks(at: int) -> int:
    """Nothing that a merchant does happens in the very second of a tick."""
    return at + 7 if at % MINUTE == 0 else at
