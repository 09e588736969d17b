"""Heads where the last value counts, and where several look at a customer meter first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, MemoryTable, customer_meter, span
from tests.layer.test_heads import LATER, FakeBilling, World, seen, world
from usage_reporting.errors import HeldError, LostRaceError, RefusedError
from usage_reporting.heads import Options
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import SpanState, Target
from usage_reporting.swaps import Swap

__all__ = ["world"]


def test_a_price_of_the_last_value_that_was_left_is_parted_by_its_swaps() -> None:
    made = World()
    made.check(customer_meter(target=Target.LAST))
    made.clock.now = LATER
    swap = Swap(NOON + 60, "sub_1", "si_1", "price_1", "price_2")
    made.billing.changes = [swap]

    head = made.check(seen(span(price="price_2"), target=Target.LAST))

    assert {(one.start, one.end, one.price, one.state) for one in head.spans} >= {
        (MONTH_START, NOON + 60, "price_1", SpanState.BILLED),
        (NOON + 60, MONTH_END, "price_2", SpanState.CURRENT),
    }
    assert ("swaps", MONTH_START + 1, LATER) in made.billing.asked
    made.billing.changes = []
    other = World()
    other.check(customer_meter(target=Target.LAST))
    other.clock.now = LATER
    other.billing.changed_at = NOON + 30
    closed = other.check(seen(span(price="price_2"), target=Target.LAST))
    assert (span(end=NOON + 30, state=SpanState.BILLED)) in closed.spans


def test_better_knowledge_takes_the_place_of_a_span_alone(world: World) -> None:
    head = world.check(seen(span(), span(item="si_2")))
    parts = [span(end=NOON, state=SpanState.BILLED), span(NOON)]

    better = asyncio.run(world.heads.remember(head, {span(): parts}, Options()))

    assert better.spans == (span(item="si_2"), *parts)
    assert world.stored == better
    dry = asyncio.run(world.heads.remember(better, {span(NOON): []}, Options(dry_run=True)))
    assert (dry.spans, world.stored) == ((span(item="si_2"), parts[0]), better)


# First sight, again


def test_who_saw_the_customer_meter_second_reads_again() -> None:
    world = World(FakeBilling(D(5)))
    first = Head(customer_meter().pk, "cus_1", "m1", "1")

    with pytest.raises(HeldError):
        asyncio.run(world.heads.settled(customer_meter(), None, Options()))
    world.table.items[(first.pk, "head")] = first.to_item(NOON)
    with pytest.raises(LostRaceError, match="another worker saw the customer meter first"):
        asyncio.run(world.heads.checked(customer_meter(), None, Options()))
    settled = asyncio.run(world.heads.settled(customer_meter(), None, Options()))
    assert settled.version == 2


def test_races_end() -> None:
    world = World()
    world.table.made_at = "1"

    class Raced(MemoryTable):
        def put(self, item: Any, read_version: int) -> None:
            raise LostRaceError("somebody else wrote it")

    world.ledger = Ledger(Raced())
    world.heads.ledger = world.ledger
    with pytest.raises(LostRaceError, match="others keep writing this customer meter's head"):
        asyncio.run(world.heads.settled(customer_meter(), None, Options()))


def test_what_only_the_ledger_knows_and_it_does_not_is_refused() -> None:
    heads, nameless = World().heads, customer_meter(openmeter_meter="")

    assert heads.openmeter_meter(customer_meter(), None) == "m1"
    assert heads.openmeter_meter(nameless, Head("pk", "cus_1", "m7", "1")) == "m7"
    with pytest.raises(RefusedError, match="the ledger never knew it, so its usage cannot be told"):
        heads.openmeter_meter(nameless, None)
    with pytest.raises(RefusedError, match="customer cus_1 is deleted, its metadata with it, and the ledger"):
        World().check(customer_meter(subject=""))
