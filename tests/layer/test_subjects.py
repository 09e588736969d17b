"""One subject, one customer: the usage of a subject is not billed twice by mistake."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.layer.builders import NOON, MemoryTable, span
from usage_reporting.errors import HeldError, LostRaceError
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import SpanState
from usage_reporting.subjects import Subjects
from usage_reporting.windows import DAY, HOUR

FORMER = Head("acct#live#cus_1#mtr_1", "acme", "m1", "1", spans=(span(NOON - DAY, NOON),))
NEW = Head("acct#live#cus_2#mtr_1", "acme", "m1", "1", spans=(span(NOON - HOUR, NOON + DAY),))
CLAIMED = ("acct#live#m1#acme", "subject")


class World:
    def __init__(self) -> None:
        self.table = MemoryTable()
        self.ledger = Ledger(self.table)

    def claim(self, head: Head, *, accepted: bool = False, dry_run: bool = False) -> None:
        asyncio.run(Subjects(self.ledger).claim(head, accepted=accepted, dry_run=dry_run))

    def knows(self, head: Head) -> None:
        asyncio.run(self.ledger.write_head(head, NOON))

    @property
    def holder(self) -> str:
        [item] = self.table.get([CLAIMED])
        return str(item["holder"])


@pytest.fixture
def world() -> World:
    """A ledger that knows whom the subject is billed to."""
    made = World()
    made.claim(FORMER)
    made.knows(FORMER)
    return made


def test_who_came_first_is_noted(world: World) -> None:
    assert world.table.get([CLAIMED]) == [
        {"pk": CLAIMED[0], "sk": "subject", "holder": FORMER.pk, "version": 1}
    ]


def test_a_customer_that_is_its_own_subject_needs_no_note() -> None:
    world = World()
    world.claim(replace(FORMER, subject="cus_1"))
    assert world.table.items == {}


def test_a_second_customer_is_held_for_one_subject(world: World) -> None:
    with pytest.raises(
        HeldError,
        match=r"^the subject 'acme' of OpenMeter meter 'm1' is billed to customer cus_1 already, and both "
        r"would pay for all of it; correct the metadata of one in Stripe or, if that is meant, release it "
        r"with `usage-reporter report --stack NAME --customer cus_2 --accept`$",
    ):
        world.claim(NEW)
    assert world.holder == FORMER.pk


def test_an_operator_may_mean_it(world: World) -> None:
    world.claim(NEW, accepted=True)
    assert world.holder == NEW.pk


def test_a_dry_run_looks_and_notes_nothing(world: World) -> None:
    with pytest.raises(HeldError):
        world.claim(NEW, dry_run=True)
    world.claim(NEW, accepted=True, dry_run=True)
    assert world.holder == FORMER.pk

    fresh = World()
    fresh.claim(NEW, dry_run=True)
    assert fresh.table.items == {}


def test_the_same_customer_may_be_billed_on_two_meters(world: World) -> None:
    world.claim(replace(NEW, pk="acct#live#cus_1#mtr_2"))
    assert world.holder == FORMER.pk


@pytest.mark.parametrize(
    "other",
    [replace(NEW, subject="other"), replace(NEW, openmeter_meter="m2"), replace(NEW, pk="acct#test#cus_2#m")],
)
def test_other_usage_is_no_concern(world: World, other: Head) -> None:
    world.claim(other)
    assert world.holder == FORMER.pk


@pytest.mark.parametrize(
    "former",
    [
        replace(FORMER, version=1, spans=(span(NOON - DAY, NOON - HOUR),)),
        replace(FORMER, version=1, spans=(span(NOON - DAY, NOON, state=SpanState.FREE),)),
        replace(FORMER, version=1, spans=()),
        replace(FORMER, version=1, subject="other"),
        replace(FORMER, version=1, openmeter_meter="m2"),
    ],
    ids=["is over", "is free", "is forgotten", "has another subject", "has another meter"],
)
def test_who_is_not_billed_for_it_beside_gives_way(world: World, former: Head) -> None:
    world.knows(former)
    world.claim(NEW)
    assert world.holder == NEW.pk


def test_who_is_being_begun_with_counts() -> None:
    world = World()
    world.claim(FORMER)
    with pytest.raises(HeldError):
        world.claim(NEW)


def test_a_head_without_spans_is_billed_for_all_time(world: World) -> None:
    with pytest.raises(HeldError):
        world.claim(replace(NEW, spans=()))


def test_of_two_at_once_one_loses() -> None:
    world = World()
    world.claim(FORMER)
    world.knows(replace(FORMER, spans=()))
    read = world.table.get

    def get_and_be_late(keys: list[tuple[str, str]]) -> list[dict[str, object]]:
        found = [dict(item) for item in read(keys)]
        if CLAIMED in keys:
            world.table.put({**found[0], "version": 2}, 1)
        return found

    world.table.get = get_and_be_late  # type: ignore[assignment, method-assign]
    with pytest.raises(LostRaceError):
        world.claim(NEW)
