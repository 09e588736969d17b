"""One subject, one customer at a time: its usage is not billed twice by mistake."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.layer.builders import NOON, MemoryTable, span
from usage_reporting.errors import HeldError, LostRaceError
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import Span, SpanState
from usage_reporting.subjects import Subjects
from usage_reporting.windows import BOUNDS_KEPT, DAY, HOUR

FORMER = "acct#live#cus_1#mtr_1"
NEW = "acct#live#cus_2#mtr_1"
NOTE = ("self#live#m1#acme", "subject")
THEN = span(NOON - DAY, NOON)
NOW = span(NOON - HOUR, NOON + DAY)


def head(pk: str, *spans: Span, **other: Any) -> Head:
    return Head(
        **{"pk": pk, "subject": "acme", "openmeter_meter": "m1", "table": "1", "spans": spans, **other}
    )


class World:
    def __init__(self) -> None:
        self.table = MemoryTable()
        self.ledger = Ledger(self.table)
        self.subjects = Subjects(self.ledger)

    def claim(self, one: Head, *, accepted: bool = False) -> None:
        customer = one.pk.split("#")[2]
        asyncio.run(self.subjects.claim(customer, one, one.spans, accepted=accepted))

    def check(self, one: Head) -> None:
        asyncio.run(self.subjects.check(one.pk.split("#")[2], one, one.spans))

    def knows(self, one: Head) -> None:
        asyncio.run(self.ledger.write_head(one, NOON))

    @property
    def holders(self) -> dict[str, Any]:
        [item] = self.table.get([NOTE])
        holders: dict[str, Any] = item["holders"]
        return holders


@pytest.fixture
def world() -> World:
    """A ledger that knows whom the subject is billed to."""
    made = World()
    made.claim(head(FORMER, THEN))
    made.knows(head(FORMER, THEN))
    return made


def test_who_is_billed_is_noted(world: World) -> None:
    holder = {"customer": "cus_1", "begin": NOON - DAY, "until": NOON, "beside": []}
    assert world.table.get([NOTE]) == [
        {"pk": NOTE[0], "sk": NOTE[1], "holders": {FORMER: holder}, "version": 1}
    ]

    world.claim(head(FORMER, span(NOON, NOON + DAY)))

    assert world.holders == {FORMER: {**holder, "begin": NOON, "until": NOON + DAY}}


def test_word_of_an_earlier_period_changes_nothing(world: World) -> None:
    world.claim(head(FORMER, span(NOON - 2 * DAY, NOON - DAY)))

    assert (world.holders[FORMER]["begin"], world.holders[FORMER]["until"]) == (NOON - DAY, NOON)


def test_without_a_period_nothing_is_claimed() -> None:
    world = World()
    world.claim(head(FORMER))
    world.check(head(FORMER))
    assert world.table.items == {}


def test_a_second_customer_is_held_for_one_subject(world: World) -> None:
    said = (
        r"^the subject 'acme' of OpenMeter meter 'm1' is billed to customer cus_1 already, and both would "
        r"pay for all of it; correct the metadata of one in Stripe or, if that is meant, release it with "
        r"`usage-reporter report --stack NAME --customer cus_2 --accept`$"
    )
    with pytest.raises(HeldError, match=said):
        world.check(head(NEW, NOW))
    with pytest.raises(HeldError, match=said):
        world.claim(head(NEW, NOW))
    assert world.holders.keys() == {FORMER}


def test_an_operator_may_mean_it_for_good(world: World) -> None:
    world.claim(head(NEW, NOW), accepted=True)
    assert world.holders[NEW]["beside"] == [FORMER]

    world.claim(head(FORMER, span(NOON, NOON + DAY)))
    world.claim(head(NEW, span(NOON + DAY, NOON + 2 * DAY)))
    with pytest.raises(HeldError, match="customer cus_1, cus_2 already"):
        world.claim(head("acct#live#cus_3#mtr_1", span(NOON - 1, NOON + 2 * DAY)))


@pytest.mark.parametrize(
    "one",
    [
        head("acct#live#cus_1#mtr_2", NOW),
        head(NEW, NOW, subject="other"),
        head(NEW, NOW, openmeter_meter="m2"),
        head("acct#test#cus_2#mtr_1", NOW),
        head(NEW, span(NOON, NOON + DAY)),
        head(NEW, span(NOON - 2 * DAY, NOON - DAY)),
    ],
    ids=["same customer", "another subject", "another meter", "another mode", "later", "earlier"],
)
def test_who_is_no_concern_is_noted_beside(world: World, one: Head) -> None:
    world.check(one)
    world.claim(one)

    assert FORMER in world.holders


@pytest.mark.parametrize(
    ("former", "is_beside"),
    [
        (head(FORMER, span(NOON - DAY, NOON - HOUR)), False),
        (head(FORMER, span(NOON - DAY, NOON - HOUR + 1)), True),
        (head(FORMER, replace(THEN, state=SpanState.FREE)), False),
        (head(FORMER, THEN, subject="other"), False),
        (head(FORMER, THEN, openmeter_meter="m2"), False),
        (head(FORMER, span(NOON - 2 * DAY, NOON - DAY)), True),
        (head(FORMER), True),
    ],
    ids=[
        "ended",
        "ended later",
        "paused",
        "other subject",
        "other meter",
        "not seen renewed yet",
        "not known",
    ],
)
def test_the_head_of_the_former_one_may_know_better(world: World, former: Head, is_beside: bool) -> None:
    world.knows(replace(former, version=1))

    if is_beside:
        with pytest.raises(HeldError):
            world.claim(head(NEW, NOW))
    else:
        world.claim(head(NEW, NOW))
        assert world.holders.keys() == {FORMER, NEW}


def test_who_is_being_begun_with_counts() -> None:
    world = World()
    world.claim(head(FORMER, THEN))
    with pytest.raises(HeldError):
        world.claim(head(NEW, NOW))


@pytest.mark.parametrize(("since", "is_kept"), [(BOUNDS_KEPT - 1, True), (BOUNDS_KEPT, False)])
def test_who_was_billed_long_ago_is_forgotten(world: World, since: int, is_kept: bool) -> None:
    world.claim(head(NEW, span(NOON + since, NOON + since + DAY)))

    assert (FORMER in world.holders) is is_kept


def test_of_two_at_once_one_loses(world: World) -> None:
    read = world.table.get

    def get_and_be_late(keys: list[tuple[str, str]]) -> list[dict[str, Any]]:
        found = [dict(item) for item in read(keys)]
        if NOTE in keys:
            world.table.put({**found[0], "version": 2}, 1)
        return found

    world.table.get = get_and_be_late  # type: ignore[assignment, method-assign]
    with pytest.raises(LostRaceError):
        world.claim(head(NEW, span(NOON, NOON + DAY)))
