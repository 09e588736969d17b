"""Heads where customers are told apart by subjects: when one is noted as whom its usage is billed to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import pytest

from tests.layer.builders import MONTH_END, MONTH_START, NOON, Clock, MemoryTable, customer_meter, span
from tests.layer.test_heads import FakeBilling
from usage_reporting.billing import Billing
from usage_reporting.errors import HeldError
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import CustomerMeter, SpanState
from usage_reporting.subjects import Subjects
from usage_reporting.windows import DAY

NEXT = span(MONTH_END, MONTH_END + 31 * DAY)


@dataclass
class World:
    billing: FakeBilling = field(default_factory=FakeBilling)
    table: MemoryTable = field(default_factory=MemoryTable)
    clock: Clock = field(default_factory=Clock)

    def check(self, one: CustomerMeter, **options: bool) -> Head:
        ledger = Ledger(self.table)
        heads = Heads(cast("Billing", self.billing), ledger, self.clock, Subjects(ledger))
        stored = asyncio.run(ledger.heads([one.pk])).get(one.pk)
        return asyncio.run(heads.checked(one, stored, Options(**options)))

    def noted(self, subject: str = "acme") -> dict[str, tuple[int, int]]:
        """When whose usage of a subject is billed."""
        found = self.table.get([(f"self#test#m1#{subject}", "subject")])
        return {
            one["customer"]: (one["begin"], one["until"])
            for item in found
            for one in item["holders"].values()
        }


def meter(*spans: Any, customer: str = "cus_1", **other: Any) -> CustomerMeter:
    return customer_meter(*spans, **{"customer": customer, "subject": "acme", **other})


@pytest.fixture
def world() -> World:
    """A ledger that knows one customer of the subject."""
    made = World()
    made.check(meter())
    return made


def test_it_is_noted_at_first_sight(world: World) -> None:
    assert world.noted() == {"cus_1": (MONTH_START, MONTH_END)}


def test_and_when_it_renews_but_not_when_nothing_is_new(world: World) -> None:
    world.check(meter(seen_at=NOON + 9))
    [before] = world.table.get([("self#test#m1#acme", "subject")])
    world.clock.now = MONTH_END + 9
    world.check(meter(NEXT, seen_at=MONTH_END + 9))
    [after] = world.table.get([("self#test#m1#acme", "subject")])

    assert world.noted() == {"cus_1": (MONTH_END, NEXT.end)}
    assert (before["version"], after["version"]) == (1, 2)


def test_word_of_an_earlier_period_is_not_noted(world: World) -> None:
    earlier = span(MONTH_START - DAY, MONTH_START, state=SpanState.ENDED)
    world.check(meter(earlier, closing=True, partial=True, seen_at=NOON + 9))

    assert world.noted() == {"cus_1": (MONTH_START, MONTH_END)}


def test_a_dry_run_notes_nothing() -> None:
    world = World()
    world.check(meter(), dry_run=True)
    assert world.noted() == {}


def test_a_second_customer_is_held_until_an_operator_accepts_it(world: World) -> None:
    with pytest.raises(HeldError, match="billed to customer cus_1 already"):
        world.check(meter(customer="cus_2"))
    assert world.noted().keys() == {"cus_1"}

    world.check(meter(customer="cus_2"), accept=True)
    assert world.noted().keys() == {"cus_1", "cus_2"}


def test_who_has_to_be_adopted_first_is_noted_only_if_it_is_accepted() -> None:
    world = World(FakeBilling(Decimal(5)))
    with pytest.raises(HeldError, match="Stripe already holds"):
        world.check(meter())
    assert world.noted() == {}

    with pytest.raises(HeldError, match="Stripe already holds"):
        world.check(meter(), accept=True)
    assert world.noted().keys() == {"cus_1"}


def test_another_subject_is_noted_when_it_is_accepted_and_whose_it_is_was_said(world: World) -> None:
    world.check(meter(customer="cus_2", subject="other"))
    changed = meter(customer="cus_2", seen_at=NOON + 9)
    with pytest.raises(
        HeldError,
        match=r"^the subject is now 'acme', but what was reported so far came from 'other'; the subject "
        r"'acme' of OpenMeter meter 'm1' is billed to customer cus_1 already, and both would pay for all of "
        r"it; if that is meant, release it with ",
    ):
        world.check(changed)

    world.check(changed, accept=True)
    assert world.noted()["cus_2"] == (MONTH_START, MONTH_END)


def test_another_subject_that_is_nobody_elses_is_held_as_such(world: World) -> None:
    with pytest.raises(HeldError, match=r"came from 'acme'; if that is meant, release"):
        world.check(meter(subject="new", seen_at=NOON + 9))
